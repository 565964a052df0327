"""netbuild graph."""

from typing import Annotated

import typer

from netbuild.cli.flags import (
    WRITE,
    Channels,
    Classes,
    Fuse,
    Modules,
    Scale,
    Set,
    Size,
    Trust,
    command,
    may_run,
    parse_image_size,
    print_remarks,
    start_printing,
)
from netbuild.cli.terminal import resolving_spinner, write


@command(WRITE)
def graph(
    file: Annotated[str, typer.Argument(help="A YAML file, the name of a packaged network, or a checkpoint.")],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="A file in .svg, .html, .mmd or .dot; without: Mermaid to stdout.")
    ] = None,
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    flops: Annotated[str, typer.Option(help="How to count FLOPs: torch, thop or thop-stride.")] = "torch",
    fuse: Fuse = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Draw a network: a picture (.svg), an interactive page (.html), Mermaid (.mmd) or DOT (.dot)."""
    size = parse_image_size(imgsz)
    start_printing()
    from netbuild.report import diagram

    ending = diagram.check_ending(out) if out else ".mmd"
    with resolving_spinner(file):
        summary = diagram.summarize_for(
            ending, file, scale=scale, nc=nc, ch=ch, imgsz=size, flops=flops, fused=fuse, modules=modules or (),
            trusted=may_run(trust), set=set or (),
        )  # fmt: skip
        text = diagram.FORMS[ending](summary)
    print_remarks(summary)
    if not out:
        write(text)
        return
    diagram.save(text, out)
    write(f"{out}: {len(summary.top_rows)} rows, {summary.totals['params']:,} parameters")
