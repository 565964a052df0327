"""netbuild schema."""

from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import Modules, app, start_printing
from netbuild.cli.terminal import write


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write; stdout without.")] = None,
    modules: Modules = None,
) -> None:
    """Print a JSON Schema of network files: editors then complete keys and modules, and mark mistakes."""
    from netbuild.author import schema as schemas

    own = {}
    if modules:  # torch is needed for these alone
        start_printing()
        from netbuild.author.index import entry
        from netbuild.modules.own import load

        own = {name: entry(name, factory) for name, factory in load(modules).items()}
    if output is None:
        write(schemas.text(own))
    else:
        schemas.save(output, own)
        write(f'{output}: in the first line of a network write "# yaml-language-server: $schema={output}"')
