"""netbuild data check, stats."""

from pathlib import Path
from typing import Annotated, Any

import typer

from netbuild.cli.flags import (
    TRAIN,
    Background,
    Lenient,
    Strict,
    app,
    command,
)
from netbuild.cli.terminal import busy, say, write, write_json

data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)


app.add_typer(data_app, name="data", rich_help_panel=TRAIN)


@command(TRAIN, "check", on=data_app)
def check_data(
    data: Annotated[str, typer.Argument(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")],
    nc: Annotated[int | None, typer.Option(min=1, help="Classes of the network, if not the data's own.")] = None,
    lenient: Lenient = False,
    strict: Strict = False,
    allow_background: Background = False,
    json: Annotated[bool, typer.Option("--json", help="Every problem, as data.")] = False,
) -> None:
    """Look at every label and every picture: what is wrong, where, and what would be dropped."""
    from netbuild.cli.progress import counting
    from netbuild.data.statistics import check as look

    with counting(None) as step:
        told: dict[str, Any] = {"progress": lambda *_: step()}
        report, faults = look(data, nc, lenient=lenient, strict=strict, allow_empty=allow_background, **told)
    if json:
        write_json({**report.to_dict(), "faults": [fault.message for fault in faults]})
    else:
        write(report.text())
        for fault in faults:
            say(str(fault))
    raise typer.Exit(2 if faults else 0)


@command(TRAIN, on=data_app)
def stats(
    data: Annotated[str, typer.Argument(help="data.yaml, a folder, .json, .csv, or digits, digits-detect.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder for pictures of it, as PNG.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="With --out: of the choice of pictures that are shown.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="The same as data.")] = False,
) -> None:
    """Count a data set: objects a class, sizes of boxes and of pictures; with --out draw that, and some pictures."""
    from netbuild.data import open_data, scan
    from netbuild.data.statistics import stats_of, stats_text

    with busy(f"counting {data}"):
        report = scan(open_data(data))
        found = stats_of(report)
    if out is not None:
        from netbuild.data.overview import write as write_pictures

        with busy(f"drawing {data}"):
            write_pictures(report, out, seed)
    if json:
        write_json(found)
    else:
        write(stats_text(found))
