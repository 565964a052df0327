"""netbuild convert: files of other programs in netbuild's own grammar."""

from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import WRITE, Modules, Trust, command, may_run
from netbuild.cli.terminal import spinner, write, write_json


@command(WRITE)
def convert(
    file: Annotated[str, typer.Argument(help="A Darknet .cfg file, a YAML file of another program, or a checkpoint.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write: NAME.yaml, or NAME.safetensors with --weights.")
    ],
    weights: Annotated[Path | None, typer.Option(help="A Darknet .weights file, to write a checkpoint.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written and compared as JSON.")] = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Write a file of another program in netbuild's own grammar, rows with names, and compare both row by row."""
    from netbuild.author.converting import convert as write_file

    with spinner(f"converting {file}"):
        done = write_file(file, out, weights=weights, modules=modules or (), trusted=may_run(trust))
    if json:
        write_json(done.to_dict())
    else:
        write(done.text())
