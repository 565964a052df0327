"""netbuild watch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netbuild.cli.flags import (
    WRITE,
    Channels,
    Classes,
    Columns,
    Depth,
    Flops,
    Fused,
    Modules,
    Scale,
    Set,
    Size,
    TrainingBatch,
    Trust,
    command,
    image_size,
    may_run,
)
from netbuild.cli.terminal import redraw, say

if TYPE_CHECKING:
    from netbuild.author.watch import Look


@command(WRITE)
def watch(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network such as yolo11n.yaml.")],
    scale: Scale = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    flops: Flops = "torch",
    fused: Fused = False,
    batch: TrainingBatch = 1,
    columns: Columns = None,
    depth: Depth = 1,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Show a network's summary or errors again after each save. Ctrl-C ends it with exit code 0."""
    size = image_size(imgsz)
    from netbuild.author import watch as watching
    from netbuild.grammar.locate import locate
    from netbuild.graph.options import Options
    from netbuild.report import text
    from netbuild.report.summary import conventions_of

    picked = text.pick_columns(columns)
    conventions_of(flops)
    path, letter = locate(file)
    wanted = watching.Wanted(
        Options(scale, letter, nc, ch, size), set or (), modules or (), may_run(trust), flops, fused, batch, depth
    )
    watching.begin()
    try:
        for count, look in enumerate(watching.Watch(Path(path), wanted).looks()):
            _show(look, picked)
            if not count:
                watching.settle()
    except KeyboardInterrupt:
        say("")


def _show(look: "Look", columns: tuple[str, ...]) -> None:
    """Show the table or the errors, then the time, what changed, and the delay since the save."""
    import time

    from rich.text import Text

    from netbuild.report import text

    clock = time.strftime("%H:%M:%S")
    shown: list[Any] = []
    if look.summary:
        shown += [Text(w.render("warning")) for w in look.summary.graph.spec.warnings]
        shown.append(text.as_table(look.summary, columns))
    else:
        shown += [Text(finding.render()) for finding in look.findings]
    told = [clock, *([look.change] if look.change else [] if look.summary else [f"{len(look.findings)} error(s)"])]
    redraw(shown, clock, lambda: "  ".join([*told, f"{(time.perf_counter() - look.began) * 1e3:.0f} ms"]))
