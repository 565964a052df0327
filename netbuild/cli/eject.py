"""netbuild eject: a network as PyTorch that needs no netbuild."""

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
    image_size,
    may_run,
)
from netbuild.cli.terminal import busy, say, write, write_json


@command(WRITE)
def eject(
    file: Annotated[str, typer.Argument(help="A YAML file, the name of a packaged network, or a checkpoint.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; beside the checkpoint or here unless given.")
    ] = None,
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    json: Annotated[bool, typer.Option("--json", help="What was written and compared, as data.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Write a network as one readable file of PyTorch, proven equal. Exit code 1: it is not."""
    size = image_size(imgsz)
    from netbuild.author.ejecting import eject as write_file

    with busy(f"ejecting {file}"):
        done = write_file(
            file, out, scale=scale, nc=nc, ch=ch, imgsz=size, modules=modules or (), trusted=may_run(trust),
            set=set or (),
        )  # fmt: skip
    for package in done.packages:
        say(f"note: the file imports {package} too")
    for own in done.own:
        say(f"note: the text of {own} is in it, and stays under its author's terms")
    if json:
        write_json(done.to_dict())
    else:
        write(done.text())
