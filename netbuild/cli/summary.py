"""netbuild summary."""

from typing import Annotated

import typer

from netbuild.cli.flags import (
    WRITE,
    Channels,
    Classes,
    Columns,
    Depth,
    Flops,
    Fuse,
    Modules,
    Scale,
    Set,
    Size,
    TrainingBatch,
    Trust,
    command,
    may_run,
    parse_image_size,
    print_remarks,
    start_printing,
)
from netbuild.cli.terminal import resolving_spinner, show, write
from netbuild.errors import NetbuildError


def _check_view(view: str | None, reverse: bool, form: str, columns: str | None, depth: int) -> None:
    """Refuse flags that have no effect with the chosen view or format."""
    if view not in (None, "textbook"):
        raise NetbuildError(f"unknown view '{view}'", hint="there is: textbook")
    if reverse and not view:
        raise NetbuildError("--reverse belongs to --view textbook")
    if view and (form != "table" or columns or depth > 1):
        raise NetbuildError(
            "--view textbook has its own columns and form", hint="leave out --format, --columns, --depth"
        )
    if columns and form in ("json", "plain"):
        raise NetbuildError(f"--columns has no effect on --format {form}", hint="it picks for table, csv and markdown")
    if depth > 1 and form == "plain":
        raise NetbuildError("--depth has no effect on --format plain", hint="use the table, or --format json")


@command(WRITE)
def summary(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network such as yolo11n.yaml.")],
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    flops: Flops = "torch",
    fuse: Fuse = False,
    batch: TrainingBatch = 1,
    columns: Columns = None,
    depth: Depth = 1,
    format: Annotated[
        str, typer.Option(help="table, json, csv, markdown, html, or plain (the published logs' layout).")
    ] = "table",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    view: Annotated[str | None, typer.Option(help="textbook: Layer, Type, Maps, Size, Kernel, Stride, ...")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="With --view textbook: output first.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Print a network's rows with parameters, shapes and FLOPs, and its totals."""
    size = parse_image_size(imgsz)
    start_printing()
    from netbuild.report import text, textbook
    from netbuild.report.diagram import ALL_LEVELS
    from netbuild.report.summary import summarize

    form = "json" if json else text.check_format(format)
    picked = text.parse_columns(columns)
    _check_view(view, reverse, form, columns, depth)
    deep = ALL_LEVELS if form == "html" else depth
    with resolving_spinner(file):
        result = summarize(
            file, scale=scale, nc=nc, ch=ch, imgsz=size, flops=flops, fused=fuse, batch=batch, depth=deep,
            modules=modules or (), trusted=may_run(trust), set=set or (),
        )  # fmt: skip
    print_remarks(result)
    if form == "table":
        show(textbook.as_textbook(result, reverse) if view else text.as_table(result, picked))
    elif form == "json":
        write(text.as_json(result))
    elif form == "html":
        from netbuild.report.diagram.page import page

        write(page(result, columns=picked, depth=depth))
    else:
        write(text.FORMATS[form](result, picked) if columns or form != "csv" else text.as_csv(result))
