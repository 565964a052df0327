"""netbuild data check, stats, video."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from netbuild.cli.flags import (
    TRAIN,
    Background,
    Lenient,
    Strict,
    app,
    command,
)
from netbuild.cli.terminal import say, spinner, write, write_json

data_app = typer.Typer(help="Check and count data sets.", no_args_is_help=True)


app.add_typer(data_app, name="data", rich_help_panel=TRAIN)


@command(TRAIN, "check", on=data_app)
def check_data(
    data: Annotated[str, typer.Argument(help="data.yaml, a folder, .json, .csv, or digits, digits-detect, shapes.")],
    nc: Annotated[
        int | None, typer.Option(min=1, help="Number of the network's classes, if it differs from the data set's.")
    ] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    allow_background: Background = False,
    json: Annotated[bool, typer.Option("--json", help="Print every problem as JSON.")] = False,
) -> None:
    """Check every label and picture: list each problem with its place, and what training would drop."""
    from netbuild.data.statistics import check as check_dataset
    from netbuild.system.tables import terminal_width
    from netbuild.training.progress import progress_bar

    with progress_bar(None) as step:
        report, faults = check_dataset(
            data, nc, lenient=lenient, strict=strict, allow_empty=allow_background, progress=lambda *_: step()
        )
    if json:
        write_json({**report.to_dict(), "faults": [fault.message for fault in faults]})
    else:
        write(report.text(terminal_width(sys.stdout)))
        for fault in faults:
            say(str(fault))
    raise typer.Exit(2 if faults else 0)


@command(TRAIN, on=data_app)
def stats(
    data: Annotated[str, typer.Argument(help="data.yaml, a folder, .json, .csv, or digits, digits-detect, shapes.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write charts and sample pictures into this folder, as PNG.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of sample pictures, with --out.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print a data set's statistics: objects per class, sizes of boxes and pictures; with --out draw them."""
    from netbuild.data import open_data, scan
    from netbuild.data.statistics import stats_of, stats_text
    from netbuild.system.tables import terminal_width

    with spinner(f"counting {data}"):
        report = scan(open_data(data))
        found = stats_of(report)
    if out is not None:
        from netbuild.data.overview import write_overview

        with spinner(f"drawing {data}"):
            write_overview(report, out, seed)
    if json:
        write_json(found)
    else:
        write(stats_text(found, terminal_width(sys.stdout)))


@command(TRAIN, on=data_app)
def video(
    out: Annotated[Path, typer.Argument(help="NAME.mp4; any other path becomes a folder as MOTChallenge has it.")],
    frames: Annotated[int, typer.Option(min=1, help="Number of frames, at 25 a second.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene.")] = 0,
) -> None:
    """Make a video of moving shapes, as in the embedded data, with the true tracks of its objects beside it."""
    from netbuild.data.shapes import write_video

    with spinner(f"making {out}"):
        truth = write_video(out, frames, seed)
    write(f"{out}: {frames} frames; true tracks: {truth}")
