"""netbuild new, show, check, modules, zoo, explain: commands for those who write network files."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from netbuild.cli.flags import (
    LOOK_UP,
    WRITE,
    Channels,
    Classes,
    Modules,
    Set,
    Size,
    Trust,
    command,
    may_run,
    parse_image_size,
    refuse_unused,
    start_printing,
)
from netbuild.cli.terminal import say, show, write, write_json
from netbuild.errors import NetbuildError

if TYPE_CHECKING:
    from netbuild.author.catalogue import Entry
    from netbuild.modules.factory import Factory


@command(WRITE)
def new(
    name: Annotated[str, typer.Argument(help="The file to write, with or without .yaml.")],
    origin: Annotated[str, typer.Option("--from", help="classifier, segmenter, autoencoder, or a packaged network.")],
) -> None:
    """Write a commented starter file."""
    from netbuild.author.new import write_starter

    path = write_starter(name, origin)
    write(f"{path}: next, netbuild summary {path}")


@command(LOOK_UP, "show")
def show_file(
    file: Annotated[str, typer.Argument(help="A YAML file, or the name of a packaged network.")],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the file with `extends` and its edits applied.")
    ] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Print the code of custom modules stored in a checkpoint.")
    ] = False,
) -> None:
    """Print a network file, or the one stored in a checkpoint, as written or resolved."""
    from netbuild.author.show import show as show_text

    write(show_text(file, resolved, code))


@command(WRITE)
def check(
    files: Annotated[list[str], typer.Argument(help="YAML files, or names of packaged networks.")],
    scale: Annotated[str | None, typer.Option(help="Check this scale only, not all of the file's scales.")] = None,
    nc: Classes = None,
    ch: Channels = None,
    imgsz: Size = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON, for editors.")] = False,
    shapes: Annotated[
        bool, typer.Option(help="Compute shapes; without, check only syntax, names, sources and arity (fast).")
    ] = True,
    set: Set = None,
    modules: Modules = None,
    trust: Trust = False,
) -> None:
    """Report every error and warning of network files. Exit code 0: none, 1: warnings only, 2: errors."""
    size = parse_image_size(imgsz)
    start_printing()
    if shapes:
        from netbuild.author.check import check as check_file
        from netbuild.graph.options import Options

        options = Options(scale, None, nc, ch, size)
        given = (options, modules or (), may_run(trust), set or ())
        found = [(file, f) for file in files for f in check_file(file, *given)]
    else:
        refuse_unused("with --no-shapes", scale=scale, nc=nc, ch=ch, imgsz=imgsz, modules=modules, trust=trust or None)
        from netbuild.author.quick import check as check_text

        found = [(file, f) for file in files for f in check_text(file, set or ())]
    if json:
        write_json([finding.to_dict(file) for file, finding in found])
    else:
        for _, finding in found:
            say(finding.render())
        counts = [sum(f.level == level for _, f in found) for level in ("error", "warning")]
        write(f"{len(files)} file(s): {counts[0]} error(s), {counts[1]} warning(s)")
    raise typer.Exit(2 if any(f.level == "error" for _, f in found) else int(bool(found)))


@command(LOOK_UP)
def modules(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a pattern with * and ?; nn.* for torch's.")
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Only this family, such as attention, convolution, fusion, head.")
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(metavar="CxHxW", help="Compare what they cost on a map, such as 256x40x40; latency is measured."),
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="MODULE", help="List the modules that are similar to one.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print signatures and roles, or costs, as JSON.")] = False,
    own: Modules = None,
) -> None:
    """List the modules that rows can use: signature (<supplied> by netbuild), summary, paper; or compare them."""
    start_printing()
    from netbuild.author.catalogue import find_entries
    from netbuild.modules.custom import load_modules

    custom = load_modules(own or ())
    if like is not None:
        refuse_unused("with --like", pattern=pattern, family=family, cost=cost)
        _print_similar(like, custom, json)
        return
    if family is not None or cost is not None:
        _print_family(pattern, family, cost, custom, json)
        return
    found = find_entries(pattern, custom)
    if not found:
        raise NetbuildError(
            f"no module matches '{pattern}'", hint="netbuild modules lists all, netbuild modules 'nn.*' torch's"
        )
    _print_entries(found, json)


def _print_family(
    pattern: str | None, family: str | None, cost: str | None, custom: Mapping[str, "Factory"], as_json: bool
) -> None:
    """Print the modules of a family, or with ``cost`` what each costs on a map."""
    from netbuild.author import comparing
    from netbuild.author.catalogue import make_entry
    from netbuild.modules import registry
    from netbuild.training.progress import progress_bar

    names = comparing.find_names(pattern, family, custom)
    if not names:
        raise NetbuildError("no module matches", hint="netbuild modules lists all")
    if cost is None:
        entries = [make_entry(registry.find_factory(name, custom), name) for name in names]
        _print_entries(entries, as_json)
        return
    costs, shape = [], comparing.parse_map_shape(cost)
    with progress_bar(len(names)) as advance:
        for one in comparing.measure_costs(names, shape, custom):
            costs.append(one)
            advance()
    if as_json:
        write_json([one.to_dict() for one in costs])
    else:
        show(comparing.as_table(costs))


def _print_similar(name: str, custom: Mapping[str, "Factory"], as_json: bool) -> None:
    from netbuild.author.comparing import find_similar
    from netbuild.modules import registry
    from netbuild.training.progress import progress_bar

    found = []
    with progress_bar(len(registry.packaged_names()) + len(custom)) as advance:
        for one in find_similar(name, custom):
            advance() if one is None else found.append(one)
    if as_json:
        write_json([one.to_dict() for one in found])
        return
    for one in found:
        write(f"{one.likeness:.2f}  {one.name} ({one.family})\n      {one.doc}")


def _print_entries(entries: Sequence["Entry"], as_json: bool) -> None:
    if as_json:
        write_json([entry.to_dict() for entry in entries])
        return
    for entry in entries:
        write(f"{entry.signature}\n    {entry.doc}".rstrip())


@command(LOOK_UP)
def zoo(
    pattern: Annotated[str | None, typer.Argument(help="Part of a name, or a pattern with * and ?.")] = None,
    family: Annotated[str | None, typer.Option(help="Only this folder of packaged files, such as classic.")] = None,
    task: Annotated[str | None, typer.Option(help="Only this task, such as detect, segment, classify.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print sizes, costs and papers as JSON.")] = False,
) -> None:
    """List the packaged architectures: parameters, GFLOPs at their size, task, paper."""
    from netbuild.author.zoo import as_table, find

    found = find(pattern, family, task)
    if json:
        write_json([entry.to_dict() for entry in found])
    else:
        show(as_table(found))


@command(LOOK_UP)
def explain(
    name: Annotated[str, typer.Argument(help="A module's name as written in rows.")],
    file: Annotated[
        str | None, typer.Option("--file", help="A network file: the name may be one of its blocks or modules.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    own: Modules = None,
    trust: Trust = False,
) -> None:
    """Explain one module: signature, roles, an example row, what it costs, its inner modules."""
    start_printing()
    from netbuild.author.catalogue import explain as explain_module
    from netbuild.modules.custom import load_modules

    if file is None:
        refuse_unused("without --file", trust=trust or None)
        data = explain_module(name, load_modules(own or ()))
    else:
        from netbuild.grammar.locate import locate
        from netbuild.grammar.spec import load
        from netbuild.modules.loading import load_custom_modules

        spec = load(locate(file)[0])
        data = explain_module(name, load_custom_modules(spec, own or (), may_run(trust)), spec)
    if json:
        write_json(data)
    else:
        from netbuild.report.text import format_explanation

        write(format_explanation(data))
