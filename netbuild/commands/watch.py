"""netbuild watch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netbuild.commands.base import Modules, Set, Trust, app, image_size, may_run
from netbuild.terminal import redraw, say

if TYPE_CHECKING:
    from netbuild.author.watch import Look


@app.command()
def watch(
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
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Show a network's summary, or its errors, anew at each save. Ctrl-C ends it, with exit code 0."""
    size = image_size(imgsz)
    from netbuild import render
    from netbuild.author import watch as watching
    from netbuild.locate import locate
    from netbuild.prepare import Options
    from netbuild.summary import conventions_of

    picked = render.pick_columns(columns)
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
    """The table, or what is wrong; under it the time, what has changed, and how long it took from the save on."""
    import time

    from rich.text import Text

    from netbuild import render

    clock = time.strftime("%H:%M:%S")
    shown: list[Any] = []
    if look.summary:
        shown += [Text(w.render("warning")) for w in look.summary.graph.spec.warnings]
        shown.append(render.as_table(look.summary, columns))
    else:
        shown += [Text(finding.render()) for finding in look.findings]
    told = [clock, *([look.change] if look.change else [] if look.summary else [f"{len(look.findings)} error(s)"])]
    redraw(shown, clock, lambda: "  ".join([*told, f"{(time.perf_counter() - look.began) * 1e3:.0f} ms"]))
