"""Checks a network file without torch: syntax, names, sources and arity, fast enough for every keystroke."""

from collections.abc import Iterator, Sequence

from netbuild.author import index
from netbuild.author.findings import Finding, convert_errors, find_hiding_blocks, find_text_warnings, sort_findings
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.chosen import CHOSEN
from netbuild.grammar.locate import locate
from netbuild.grammar.rows import Block, Row
from netbuild.grammar.spec import Spec, load
from netbuild.roles import ROLE_BY_NAME, Plain

_SUPPLIED = {"in", "depth", "size", "stride", "setting"}


def check(file: str, overrides: Sequence[str] = ()) -> list[Finding]:
    """Return the findings of one file that need no shapes; custom modules are not loaded or checked.

    Args:
        file: a path or the name of a packaged network.
        overrides: values of the file's ``params``, such as ``reduction=8``.
    """
    try:
        path, _ = locate(file)
        spec = load(path, overrides)
    except NetbuildError as error:
        return convert_errors([error])
    rows = (finding for row in spec.all_rows() for finding in _check_row(row, spec))
    return sort_findings([*find_text_warnings(spec), *find_hiding_blocks(spec, set(index.load_parameters())), *rows])


def _check_row(row: Row, spec: Spec) -> Iterator[Finding]:
    known = index.load_parameters()
    if row.module.startswith(CHOSEN):  # known where a row uses the block
        return
    if row.module in spec.blocks:
        yield from _check_arity(row, _block_parameters(spec.blocks[row.module]))
    elif row.module.removeprefix("torch.") in known:
        name = row.module.removeprefix("torch.")
        yield from _check_arity(row, known[name], foreign=name.startswith("nn."), own_style=not spec.is_plain)
    # With imports any name may be a custom module; a path with two dots may be a class of an installed package.
    elif not spec.imports and row.module != "timm.create_model" and row.module.count(".") < 2:
        hint = did_you_mean(row.module, [*spec.blocks, *known])
        message = f"row {row.index}: unknown module '{row.module}' (custom modules are not loaded without shapes)"
        yield Finding("error", message, row.module_node.where, hint)


def _block_parameters(block: Block) -> list[list[object]]:
    return [[p.name, p.role or ROLE_BY_NAME.get(p.name, Plain).value, p.default is None] for p in block.params]


def _check_arity(
    row: Row, parameters: Sequence[Sequence[object]], foreign: bool = False, own_style: bool = False
) -> Iterator[Finding]:
    if any(p[0] == "*" for p in parameters):
        return
    names = [str(p[0]) for p in parameters]
    for name, node in row.kwargs:
        if name not in names:
            yield Finding("error", f"{row.label} has no argument '{name}'", node.where, did_you_mean(name, names))
    # Positional arguments of a foreign module are its full signature, input channels included.
    full = foreign and bool(row.args) and not (own_style and row.module.endswith("nn.ConvTranspose2d"))
    free = [p for p in parameters if full or p[1] not in _SUPPLIED]
    if len(row.args) > len(free):
        takes = f"at most {len(free)}: {', '.join(str(p[0]) for p in free)}" if free else "none"
        message = f"{row.label}: {len(row.args)} values given, but a row may give {takes}"
        yield Finding("error", message, row.args[len(free)].where)
    filled = {str(p[0]) for p in free[: len(row.args)]} | {name for name, _ in row.kwargs}
    missing = [str(p[0]) for p in free if p[2] and str(p[0]) not in filled]
    if missing:
        yield Finding("error", f"{row.label}: {', '.join(missing)} missing", row.where, f"it takes {', '.join(names)}")
