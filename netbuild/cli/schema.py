"""netbuild schema."""

from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import WRITE, Modules, command, start_printing
from netbuild.cli.terminal import write


@command(WRITE)
def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; stdout without.")] = None,
    modules: Modules = None,
) -> None:
    """Print a JSON Schema of network files: editors then complete keys and modules, and mark mistakes."""
    from netbuild.author import schema as schemas

    own = {}
    if modules:  # torch is needed for these alone
        start_printing()
        from netbuild.author.index import make_entry
        from netbuild.modules.custom import load_modules

        own = {name: make_entry(name, factory) for name, factory in load_modules(modules).items()}
    if out is None:
        write(schemas.to_json(own))
    else:
        schemas.save(out, own)
        write(f'{out}: in the first line of a network write "# yaml-language-server: $schema={out}"')
