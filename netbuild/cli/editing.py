"""netbuild swap, insert, stub: write edited network files, and the modules that a file lacks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netbuild.cli.flags import (
    WRITE,
    Modules,
    Scale,
    Size,
    Trust,
    command,
    may_run,
    parse_image_size,
    start_printing,
)
from netbuild.cli.terminal import say, show, write, write_json

if TYPE_CHECKING:
    from netbuild.author.editing import EditedFile

Network = Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network such as yolo11n.yaml.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The file to write; stdout without.")]
Args = Annotated[
    str | None, typer.Option("--args", help='Arguments of the new rows: all as "[8]", or some as "{k: 5}".')
]
Json = Annotated[bool, typer.Option("--json", help="Print the text, the edits and the differences as JSON.")]


@command(WRITE)
def swap(
    file: Network,
    rows: Annotated[
        list[str], typer.Option("--rows", help="Module, name, number or range (4-8) of rows, comma-separated.")
    ],
    new: Annotated[str, typer.Option("--with", metavar="MODULE", help="The module that the rows get.")],
    out: Out = None,
    args: Args = None,
    scale: Scale = None,
    imgsz: Size = None,
    json: Json = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Swap the module of rows: write a file that extends the network, and show what changes."""
    options = _make_options(out, args, scale, imgsz, modules, trust)
    from netbuild.author.editing import swap as swap_modules

    _print_edited(swap_modules(file, rows, new, options), out, json)


@command(WRITE)
def insert(
    file: Network,
    module: Annotated[str, typer.Option("--module", metavar="MODULE", help="The module to insert.")],
    after: Annotated[
        list[str] | None, typer.Option("--after", help="Rows to insert it after, for all that read them.")
    ] = None,
    before: Annotated[list[str] | None, typer.Option("--before", help="Rows to insert it before.")] = None,
    out: Out = None,
    args: Args = None,
    scale: Scale = None,
    imgsz: Size = None,
    json: Json = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Insert a module after or before rows: write a file that extends the network, and show what changes."""
    options = _make_options(out, args, scale, imgsz, modules, trust)
    from netbuild.author.editing import insert as insert_rows

    _print_edited(insert_rows(file, after or (), before or (), module, options), out, json)


@command(WRITE)
def stub(
    file: Network,
    out: Out = None,
    json: Annotated[bool, typer.Option("--json", help="Print the classes and their rows as JSON.")] = False,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Write a Python file with a class for each module that a network's rows call and that is unknown."""
    start_printing()
    from netbuild.author import stub as stubs

    found = stubs.find_missing(file, modules or (), may_run(trust))
    if out is not None:
        stubs.save(out, file, found)
    if json:
        write_json([one.to_dict() for one in found])
    elif out is None:
        write(stubs.format_file(file, found))
    if out is not None and not json:
        for one in found:
            write(one.describe())
        others = "".join(f" --modules {path}" for path in modules or ())
        write(f"{out}: next, fill in the classes, and netbuild summary {file} --modules {out}{others}")
        for problem in stubs.try_file(file, [*(modules or ()), out], may_run(trust)):
            say(f"note: with these classes there is still: {problem}")


def _make_options(
    out: Path | None, args: str | None, scale: str | None, imgsz: str | None, modules: list[str] | None, trust: bool
) -> Any:
    size = parse_image_size(imgsz)
    start_printing()
    from netbuild.author.editing import EditingOptions

    return EditingOptions(out, args, scale, size, modules or (), may_run(trust))


def _print_edited(edited: "EditedFile", out: Path | None, as_json: bool) -> None:
    """Print the text and the differences; without a file to write the differences go to stderr."""
    from netbuild.author.differences import as_table
    from netbuild.system.tables import to_text

    for note in edited.notes:
        say(f"note: {note}")
    if as_json:
        write_json({"file": str(out) if out else None, **edited.to_dict()})
    elif out is None:
        write(edited.text)
        if edited.diff is not None:
            say(to_text(as_table(edited.diff)))
    else:
        if edited.diff is not None:
            show(as_table(edited.diff))
        write(f"{out}: {len(edited.edits)} edit{'s' * (len(edited.edits) != 1)}; next, netbuild summary {out}")
