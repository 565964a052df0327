"""Shared parts of the commands: the app, flags that several commands have, and checks of flags."""

import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ArgumentInfo, OptionInfo

from netbuild import __version__
from netbuild.cli.completion import find_completion
from netbuild.cli.terminal import say, state
from netbuild.errors import NetbuildError
from netbuild.grammar.keys import MAX_SIDE
from netbuild.grammar.locate import find_checkpoint

if TYPE_CHECKING:
    from netbuild.report.rows import Report

app = typer.Typer(
    name="netbuild",
    help="Write a vision network in YAML, see what it is and what it costs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Groups of commands in `netbuild --help`.
WRITE, TRAIN, SHIP, LOOK_UP = "Write a network", "Train", "Ship", "Look up"

# Groups of flags in a command's help, by the names of their parameters; the others stand first, under "Options".
PANELS = {
    "The network": "scale nc ch set modules trust weights download fuse",
    "Data": "data split lenient strict allow_background calibrate pictures",
    "The run": "epochs batch imgsz seed device lr optimizer freeze workers amp no_amp rect option config callbacks",
    "Boxes": "conf iou max_det agnostic multi_label classes nms",
    "Several processes": "nproc nnodes node_rank rdzv",
    "Output": "out json format columns depth save nodes markdown all exit_code view reverse print_config",
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
_METAVARS = {bool: "", int: "N", float: "X", Path: "PATH", str: "TEXT"}  # short, so that the help texts get the width

# Older names of flags. A command that has the new name also accepts the old one, which its help leaves out.
OLD_NAMES = {"--fused": "--fuse", "--targets": "--target", "--output": "--out"}

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command that also accepts the older names of its flags, with a note on stderr."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace older names in the arguments, up to a ``--``, then parse them."""
        names = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        for i, arg in enumerate(args[: args.index("--") if "--" in args else None]):
            old, equals, value = arg.partition("=")
            new = OLD_NAMES.get(old)
            if new in names and old not in names:
                say(f"note: {old} is now called {new}")
                args[i] = f"{new}{equals}{value}"
        return super().parse_args(ctx, args)


def command(group: str, name: str | None = None, on: typer.Typer = app) -> Callable[[Function], Function]:
    """Register a command under a group of ``netbuild --help``, its flags in their panels and with short metavars.

    Args:
        group: one of `WRITE`, `TRAIN`, `SHIP`, `LOOK_UP`.
        name: name of the command; that of the function by default.
        on: the app, or the app of a group of subcommands.
    """

    def register(function: Function) -> Function:
        for parameter, hint in get_type_hints(function, include_extras=True).items():
            for extra in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
                if isinstance(extra, (OptionInfo, ArgumentInfo)) and extra.autocompletion is None:
                    extra.autocompletion = find_completion(name or function.__name__, parameter)
                if isinstance(extra, OptionInfo):
                    extra.rich_help_panel = _PANEL_OF.get(parameter, extra.rich_help_panel)
                    extra.metavar = _metavar(get_args(hint)[0]) if extra.metavar is None else extra.metavar
        return on.command(name, cls=Command, rich_help_panel=group)(function)

    return register


def _metavar(kind: Any) -> str:
    """The metavar of a flag whose annotation is a type, a list of it, or either of these and None."""
    while get_args(kind):
        kind = next(item for item in get_args(kind) if item is not type(None))
    return _METAVARS.get(kind, "TEXT")


Modules = Annotated[
    list[str] | None,
    typer.Option("--modules", help="A Python file or folder with custom modules; its code is run. May be repeated."),
]

Set = Annotated[
    list[str] | None, typer.Option("--set", help="A value of the file's params: NAME=VALUE. May be repeated.")
]

Trust = Annotated[bool, typer.Option("--trust", help="Run the code that the network's file or checkpoint brings.")]

Scale = Annotated[str | None, typer.Option(help="An entry of the file's scales.")]

Classes = Annotated[int | None, typer.Option(min=1, help="Number of classes, instead of the file's.")]

Channels = Annotated[int | None, typer.Option(min=1, help="Image channels, instead of the file's.")]

Size = Annotated[str | None, typer.Option(help="Image size: 640, or 640x384 for height x width.")]

SquareSize = Annotated[str | None, typer.Option(metavar="N", help="Side of the square images.")]

Flops = Annotated[str, typer.Option(help="How to count FLOPs: torch, thop, thop-stride, or all side by side.")]

Fuse = Annotated[bool, typer.Option("--fuse/--no-fuse", help="Merge batch norms into convolutions first.")]

TrainingBatch = Annotated[int, typer.Option(min=1, max=65_536, help="Batch size for the memory of training.")]

Columns = Annotated[str | None, typer.Option(help="Columns, comma-separated; +rf,stride adds, all shows all.")]

Depth = Annotated[int, typer.Option(min=1, max=64, help="Open rows into their submodules.")]

Data = Annotated[str | None, typer.Option(help="data.yaml, a folder, .json, .csv, or digits, digits-detect, shapes.")]

Option = Annotated[
    list[str] | None, typer.Option("--option", "-O", help="Any setting of --print-config: NAME=VALUE. May be repeated.")
]

Lenient = Annotated[bool, typer.Option("--lenient", help="Drop wrong labels instead of stopping.")]

Strict = Annotated[bool, typer.Option("--strict", help="Stop at unreadable pictures instead of dropping them.")]

Background = Annotated[bool, typer.Option("--allow-background", help="Go on when no training picture has an object.")]


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
    """Write a vision network in YAML, see what it is and what it costs."""
    state.debug = state.debug or debug


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """Parse an image size, ``640`` or ``640x384`` for height x width, as (height, width).

    Raises:
        NetbuildError: for anything else, or a side beyond the limits.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})(?:\s*[x*, ]\s*(\d{1,6}))?\s*", text.lower())
    sides = tuple(int(side) for side in match.groups() if side) if match else ()
    if not sides or not all(1 <= side <= MAX_SIDE for side in sides):
        hint = "write --imgsz 640, or --imgsz 640x384 for height x width"
        raise NetbuildError(f"'{text}' is no image size: a side has 1 to {MAX_SIDE} pixels", hint=hint)
    return sides[0], sides[-1]


def parse_square_size(text: str | None) -> int | None:
    """Parse a square image size, written as for `parse_image_size`, as its side in pixels.

    Raises:
        NetbuildError: for another size.
    """
    size = parse_image_size(text)
    if size is not None and size[0] != size[1]:
        raise NetbuildError(f"--imgsz {text}: this command takes square images", hint=f"write --imgsz {max(size)}")
    return size[0] if size else None


def refuse_unused(where: str, **given: Any) -> None:
    """Raise an error for the first flag that was given but has no effect here."""
    for name, value in given.items():
        if value is not None:
            raise NetbuildError(f"--{name.replace('_', '-')} has no effect {where}", hint="leave it out")


def may_run(always: bool) -> Callable[[Path], bool]:
    """Return a function that decides whether imported code may run: by --trust, an earlier answer, or asking now."""

    def ask(path: Path) -> bool:
        from netbuild.modules import trust

        if always or trust.is_trusted(path):
            state.only_printed = False  # custom code may have something to do at exit
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()) or is_distributed():
            return False
        state.only_printed = False
        agreed = typer.confirm(f"The network's file imports the code in {path}. Run this version of it?", err=True)
        if agreed:
            try:
                trust.add_trusted(path)
            except NetbuildError as error:
                say(f"note: the answer is not remembered: {error.message}")
        return agreed

    return ask


def is_distributed() -> bool:
    """Whether other processes run the same command beside this one."""
    from netbuild.system.processes import is_distributed

    return is_distributed()


def start_printing() -> None:
    """Prepare a command that only prints: switch off garbage collection and let it exit without freeing memory."""
    # Importing torch creates a million objects that are never freed; scanning them takes 5 % of the start-up.
    gc.disable()
    state.only_printed = True


def refuse_code(file: object, modules: list[str] | None, trust: bool, **given: Any) -> None:
    """Refuse --modules, --trust and other given flags on an ONNX file, which contains no Python code."""
    if str(file).lower().endswith(".onnx"):
        refuse_unused("on an ONNX file", modules=modules or None, trust=trust or None, **given)


def print_random_weights_note(file: str) -> None:
    """Print a note on stderr that the weights are random, if the file holds none."""
    if not (find_checkpoint(file) or file.lower().endswith(".onnx")):
        say(f"note: {file} is not a checkpoint: its weights are random")


def print_remarks(summary: "Report") -> None:
    """Print a summary's warnings and notes to stderr."""
    for warning in summary.graph.spec.warnings:
        say(warning.render("warning"))
    for note in summary.notes:
        say(f"note: {note}")
