"""The command line. torch is imported inside commands only, so that --help and completion stay quick."""

import gc
import os
import re
import sys
from typing import Annotated, Any

import typer

from netbuild import __version__
from netbuild.errors import NetbuildError

app = typer.Typer(
    name="netbuild",
    help="Write a vision network in YAML, see what it is and what it costs, train it, export it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = {"on": bool(os.environ.get("NETBUILD_DEBUG"))}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"netbuild {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set NETBUILD_DEBUG=1).")
    ] = False,
) -> None:
    """Write a vision network in YAML, see what it is and what it costs, train it, export it."""
    _debug["on"] = _debug["on"] or debug


def image_size(text: str | None) -> tuple[int, int] | None:
    """``640`` or ``640x384`` (height x width) as (height, width).

    Raises:
        NetbuildError: for anything else, or a side beyond the limits.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})(?:\s*[x*, ]\s*(\d{1,6}))?\s*", text.lower())
    sides = tuple(int(side) for side in match.groups() if side) if match else ()
    if not sides or not all(1 <= side <= 32_768 for side in sides):
        hint = "write --imgsz 640, or --imgsz 640x384 for height x width"
        raise NetbuildError(f"'{text}' is no image size of 1 to 32768 pixels a side", hint=hint)
    return sides[0], sides[-1]


@app.command()
def summary(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network such as yolo11n.yaml.")],
    scale: Annotated[str | None, typer.Option(help="An entry of the file's scales.")] = None,
    nc: Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")] = None,
    ch: Annotated[int | None, typer.Option(min=1, help="Image channels, instead of the file's.")] = None,
    imgsz: Annotated[str | None, typer.Option(help="Image size: 640, or 640x384 for height x width.")] = None,
    flops: Annotated[str, typer.Option(help="How to count: torch, thop, thop-stride, or all side by side.")] = "torch",
    fused: Annotated[bool, typer.Option("--fused", help="Count after merging batch norms into convolutions.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Batch size for the memory of training.")] = 1,
    columns: Annotated[
        str | None, typer.Option(help="Columns, comma-separated; +rf,stride adds, all shows all.")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, max=64, help="Open rows into their submodules.")] = 1,
    format: Annotated[
        str, typer.Option(help="table, json, csv, markdown, or plain (the published logs' layout).")
    ] = "table",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    view: Annotated[str | None, typer.Option(help="textbook: Layer, Type, Maps, Size, Kernel, Stride, ...")] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="With --view textbook: output first.")] = False,
) -> None:
    """Print a network's rows with parameters, shapes and FLOPs, and its totals."""
    size = image_size(imgsz)
    _without_gc()
    from netbuild import render
    from netbuild.summary import summarize

    form = "json" if json else render.check_format(format)
    picked = render.pick_columns(columns)
    if view not in (None, "textbook"):
        raise NetbuildError(f"unknown view '{view}'", hint="there is: textbook")
    if reverse and not view:
        raise NetbuildError("--reverse belongs to --view textbook")
    result = summarize(file, scale=scale, nc=nc, ch=ch, imgsz=size, flops=flops, fused=fused, batch=batch, depth=depth)
    for warning in result.graph.spec.warnings:
        say(warning.render().replace("error:", "warning:", 1))
    for note in result.notes:
        say(f"note: {note}")
    if form == "table":
        show(render.as_textbook(result, reverse) if view else render.as_table(result, picked))
    elif form == "json":
        write(render.as_json(result))
    else:
        write(render.FORMATS[form](result, picked) if columns or form != "csv" else render.as_csv(result))


def _without_gc() -> None:
    # Importing torch makes a million objects that all stay: collecting among them costs 5 % of the start.
    gc.disable()


def say(text: str) -> None:
    """A line for the person at the terminal: to stderr."""
    print(_encodable(text, sys.stderr), file=sys.stderr)


def write(text: str) -> None:
    """Data, to stdout alone."""
    print(_encodable(text.rstrip("\n"), sys.stdout))


def show(renderable: Any) -> None:
    """A rich renderable to stdout: in colour on a terminal, plain and unwrapped elsewhere."""
    from netbuild.render import to_text

    if not sys.stdout.isatty():
        write(to_text(renderable))
        return
    from rich.console import Console

    Console(soft_wrap=False).print(renderable)


def _encodable(text: str, stream: Any) -> str:
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def main() -> None:
    """Entry point: errors of the user's become one message on stderr and an exit code."""
    try:
        app()
    except NetbuildError as error:
        if _debug["on"]:
            raise
        say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the pipe has seen enough; keep Python from complaining again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
