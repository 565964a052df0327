"""netbuild eject: writes a network as PyTorch code that does not need netbuild."""

from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import (
    WRITE,
    Channels,
    Classes,
    Modules,
    Scale,
    Set,
    Size,
    Trust,
    command,
    may_run,
    parse_image_size,
)
from netbuild.cli.terminal import say, spinner, write, write_json


@command(WRITE)
def eject(
    file: Annotated[str, typer.Argument(help="A YAML file, the name of a packaged network, or a checkpoint.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file to write; unless given, beside the checkpoint or in this folder."),
    ] = None,
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written and compared as JSON.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Write a network as one readable PyTorch file and compare the outputs. Exit code 1: they differ."""
    size = parse_image_size(imgsz)
    from netbuild.author.ejecting import eject as write_file

    with spinner(f"ejecting {file}"):
        done = write_file(
            file, out, scale=scale, nc=nc, ch=ch, imgsz=size, modules=modules or (), trusted=may_run(trust),
            set=set or (),
        )  # fmt: skip
    for package in done.packages:
        say(f"note: the file imports {package} too")
    for own in done.own:
        say(f"note: the file contains the code of {own}, which is under its author's terms")
    if json:
        write_json(done.to_dict())
    else:
        write(done.text())
