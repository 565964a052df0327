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
)
from netbuild.cli.terminal import redraw, say

if TYPE_CHECKING:
    from netbuild.author.watch import Snapshot


@command(WRITE)
def watch(
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
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Show a network's summary or errors again after each save. Ctrl-C ends it with exit code 0."""
    size = parse_image_size(imgsz)
    from netbuild.author import watch as watching
    from netbuild.grammar.locate import locate
    from netbuild.graph.options import Options
    from netbuild.report import text
    from netbuild.report.summary import parse_conventions

    picked = text.parse_columns(columns)
    parse_conventions(flops)
    path, letter = locate(file)
    options = watching.WatchOptions(
        Options(scale, letter, nc, ch, size), set or (), modules or (), may_run(trust), flops, fuse, batch, depth
    )
    watching.configure_process()
    try:
        for count, snapshot in enumerate(watching.Watcher(Path(path), options).snapshots()):
            _show(snapshot, picked)
            if not count:
                watching.freeze_objects()
    except KeyboardInterrupt:
        say("")


def _show(snapshot: "Snapshot", columns: tuple[str, ...]) -> None:
    """Show the table or the errors, then the time, what changed, and the delay since the save."""
    import time

    from rich.text import Text

    from netbuild.report import text

    clock = time.strftime("%H:%M:%S")
    shown: list[Any] = []
    if snapshot.summary:
        shown += [Text(w.render("warning")) for w in snapshot.summary.graph.spec.warnings]
        shown.append(text.as_table(snapshot.summary, columns))
    else:
        shown += [Text(finding.render()) for finding in snapshot.findings]
    errors = "" if snapshot.summary else f"{len(snapshot.findings)} error(s)"
    foot = list(filter(None, (clock, snapshot.change or errors)))
    redraw(shown, clock, lambda: "  ".join([*foot, f"{(time.perf_counter() - snapshot.began) * 1e3:.0f} ms"]))
