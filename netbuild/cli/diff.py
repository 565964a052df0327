"""netbuild diff."""

from typing import Annotated, Any

import typer

from netbuild.cli.flags import (
    WRITE,
    Fuse,
    Modules,
    Set,
    TrainingBatch,
    Trust,
    command,
    may_run,
    parse_image_size,
    start_printing,
)
from netbuild.cli.terminal import resolving_spinner, say, show, write
from netbuild.errors import NetbuildError


def _values_per_network(name: str, given: list[Any] | None) -> tuple[Any, Any]:
    """Return a flag's value for each network: one value applies to both, two to A and B."""
    values = given or [None]
    if len(values) > 2:
        raise NetbuildError(
            f"--{name} is given {len(values)} times: give it once for both networks, or twice for A and B"
        )
    return values[0], values[-1]


@command(WRITE)
def diff(
    a: Annotated[str, typer.Argument(help="A YAML file, a checkpoint, or the name of a packaged network.")],
    b: Annotated[str, typer.Argument(help="The one to compare it with.")],
    scale: Annotated[list[str] | None, typer.Option(help="An entry of the file's scales; twice: for A, for B.")] = None,
    nc: Annotated[list[int] | None, typer.Option(min=1, help="Number of classes; twice: for A, for B.")] = None,
    ch: Annotated[list[int] | None, typer.Option(min=1, help="Image channels; twice: for A, for B.")] = None,
    imgsz: Annotated[list[str] | None, typer.Option(help="Image size, 640 or 640x384; twice: for A, for B.")] = None,
    flops: Annotated[str, typer.Option(help="How to count FLOPs: torch, thop, thop-stride.")] = "torch",
    fuse: Fuse = False,
    batch: TrainingBatch = 1,
    all: Annotated[bool, typer.Option("--all", help="Show equal rows too.")] = False,
    format: Annotated[str, typer.Option(help="table, markdown or json.")] = "table",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if the networks differ.")] = False,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Compare two networks row by row: rows added (+), removed (-), changed (~), moved (>), and their costs."""
    sides = {
        "scale": _values_per_network("scale", scale),
        "nc": _values_per_network("nc", nc),
        "ch": _values_per_network("ch", ch),
    }
    sides["imgsz"] = _values_per_network("imgsz", [parse_image_size(text) for text in imgsz or ()])
    start_printing()
    from netbuild.author import differences
    from netbuild.author.diff import diff as compare
    from netbuild.report.summary import summarize

    form = "json" if json else differences.check_format(format)
    both: dict[str, Any] = {"flops": flops, "fused": fuse, "batch": batch, "modules": modules or (), "set": set or ()}
    summaries = []
    for side, file in enumerate((a, b)):
        own: dict[str, Any] = {name: pair[side] for name, pair in sides.items()}
        with resolving_spinner(file):
            summaries.append(summarize(file, **own, **both, trusted=may_run(trust)))
        for warning in summaries[side].graph.spec.warnings:
            say(warning.render("warning"))
    found = compare(*summaries)
    if form == "table":
        show(differences.as_table(found, all))
    else:
        write(differences.as_json(found, all) if form == "json" else differences.as_markdown(found, all))
    raise typer.Exit(int(exit_code and not found.equal))
