"""Compares two networks row by row: added, removed, changed and moved rows, and the change of costs.

Rows are aligned by module, arguments and name, never by number, so that inserting a row does not change those below it.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from netbuild.author import differences
from netbuild.author.changes import COSTS, Changes, Row, RowDiff
from netbuild.errors import NetbuildError
from netbuild.graph.layers import Layer
from netbuild.report.activations import activation_in_use
from netbuild.report.summary import Summary, summarize
from netbuild.weights.align import align_in_order, pair_unique

# Gains of pairing two rows. A module in common counts less than half of equality, so that the alignment prefers one
# moved row to many pairs of similar ones.
_EQUAL = 1.0  # the rows are written equally, are equal after scaling, or have the same name
_KIND = 0.2  # the rows have the same module
_DETAIL = 0.1  # the rows have the same output shape, or the same arguments after scaling


class Diff(Changes):
    """The differences between two networks. Prints itself; `to_dict` gives the JSON."""

    def __str__(self) -> str:
        return differences.as_text(self)

    def __rich__(self) -> Any:
        return differences.as_table(self)

    def _repr_html_(self) -> str:
        return differences.as_html(self)


def diff(a: str | Path | Summary, b: str | Path | Summary, **options: Any) -> Diff:
    """Compare two networks.

    Args:
        a, b: files or names, as for `netbuild.summarize`; or summaries, if each network needs its own options.
        options: those of `netbuild.summarize`, for networks given as files or names.

    Raises:
        NetbuildError: with the place of every mistake in a file, or if the two summaries count FLOPs by different
            conventions.
    """
    first, second = (x if isinstance(x, Summary) else summarize(x, **options) for x in (a, b))
    if first.convention != second.convention:
        raise NetbuildError(
            f"the networks' FLOPs are counted by different conventions: {first.convention} and {second.convention}",
            hint="summarise both with the same flops=",
        )
    before, after = _make_rows(first), _make_rows(second)
    return Diff(first, second, _compare_properties(first, second), tuple(_compare_rows(before, after)))


def _make_rows(summary: Summary) -> list[Row]:
    layers = summary.graph.layers
    return [Row(row, layer, summary.convention) for row, layer in zip(summary.top_rows, layers, strict=True)]


def _compare_properties(a: Summary, b: Summary) -> dict[str, tuple[Any, Any]]:
    """Return the properties that differ apart from rows: task, classes, size, inputs and others."""
    pairs = zip(_collect_properties(a).items(), _collect_properties(b).values(), strict=True)
    return {name: (before, after) for (name, before), after in pairs if before != after}


def _collect_properties(summary: Summary) -> dict[str, Any]:
    g = summary.graph
    inputs = {name: list(shape) for name, shape in g.inputs}
    return {
        "task": g.task, "nc": g.nc, "ch": g.ch, "imgsz": list(g.imgsz), "inputs": inputs if g.spec.inputs else None,
        "activation": activation_in_use(g), "init": g.spec.settings.get("init"), "fused": summary.fused,
        "heads": {head.name: head.to_entry() for head in g.heads} or None,
    }  # fmt: skip


# -- alignment --------------------------------------------------------------------------------------------------------


def _compare_rows(before: Sequence[Row], after: Sequence[Row]) -> Iterator[RowDiff]:
    pairs, out_of_order = _align(before, after)
    wiring = _Wiring(before, after, pairs, out_of_order)
    return _merge(before, after, pairs, out_of_order, wiring)


def _align(before: Sequence[Row], after: Sequence[Row]) -> tuple[dict[Row, Row], set[Row]]:
    """Return the pairs, from rows of the second network to rows of the first, and the rows of the second that moved."""
    start = _count_equal_start(before, after)
    end = _count_equal_start(before[start:][::-1], after[start:][::-1])
    ends = [*zip(before[:start], after[:start]), *zip(before[len(before) - end :], after[len(after) - end :])]
    # Equal rows at both ends are paired first: that is cheap, and most edits change a few rows in the middle.
    pairs = {b: a for a, b in ends}
    middle = before[start : len(before) - end], after[start : len(after) - end]
    pairs |= {b: a for a, b in align_in_order(*middle, _similarity, lambda row: row.written)}
    left = _find_unmatched(before, after, pairs)
    # Rows left over have moved if the other network has exactly one such row: of the same name, else written equally.
    moves = {b: a for a, b in pair_unique(*left, lambda row: row.summary.name or row)}
    left = _find_unmatched(before, after, pairs | moves)
    moves |= {b: a for a, b in pair_unique(*left, lambda row: row.written)}
    pairs |= {b: a for a, b in _match_replaced(before, after, pairs, set(moves) | set(moves.values()))}
    return pairs | moves, set(moves)


def _count_equal_start(before: Sequence[Row], after: Sequence[Row]) -> int:
    """Count the leading rows that are equal; pairing these is always optimal."""
    same = (a.written == b.written and a.bound == b.bound for a, b in zip(before, after))
    return next((i for i, alike in enumerate(same) if not alike), min(len(before), len(after)))


def _find_unmatched(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row]
) -> tuple[list[Row], list[Row]]:
    taken = set(pairs.values())
    return [a for a in before if a not in taken], [b for b in after if b not in pairs]


def _similarity(a: Row, b: Row) -> float:
    """Return the similarity of two rows, the gain of pairing them."""
    named = a.summary.name is not None and a.summary.name == b.summary.name
    shaped = _DETAIL * (a.summary.out_shape == b.summary.out_shape)
    if a.layer.row.module != b.layer.row.module:
        # A name alone counts less than equality: another row may have got the name.
        return 2 * _KIND * named + shaped * named
    equal = a.written == b.written or a.bound == b.bound
    return (_EQUAL if equal else _KIND) + _EQUAL * named + _DETAIL * (a.bound == b.bound) + shaped


def _match_replaced(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row], moves: set[Row]
) -> Iterator[tuple[Row, Row]]:
    """Pair removed rows with rows of other modules in the same gap: the only ones there, or of equal output shape."""
    for old, new in _find_gaps(before, after, pairs):
        old, new = [a for a in old if a not in moves], [b for b in new if b not in moves]
        if len(old) == len(new) == 1:
            yield old[0], new[0]
        elif old and new:
            yield from align_in_order(old, new, _shape_similarity, lambda row: repr(row.summary.out_shape))


def _shape_similarity(a: Row, b: Row) -> float:
    return float(a.summary.out_shape == b.summary.out_shape)


def _find_gaps(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row]
) -> Iterator[tuple[Sequence[Row], Sequence[Row]]]:
    """Yield the unpaired rows of both networks between each two consecutive pairs."""
    i = j = 0
    for k, b in enumerate(after):
        if b in pairs:
            yield before[i : pairs[b].index], after[j:k]
            i, j = pairs[b].index + 1, k + 1
    yield before[i:], after[j:]


# -- differences ------------------------------------------------------------------------------------------------------


class _Wiring:
    """The sources of rows in terms of rows that both networks have.

    A row that was inserted, removed or moved is skipped: its readers count as readers of its first source. Otherwise
    every insertion would change the row after it.
    """

    def __init__(self, before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row], moves: set[Row]) -> None:
        self.rows = {"a": before, "b": after}
        stayed = {b: a for b, a in pairs.items() if b not in moves}
        self.known = {**{b: a.index for b, a in stayed.items()}, **{a: a.index for a in stayed.values()}}

    def sources(self, row: Row, side: str) -> list[Any]:
        """Return a row's sources as (row number in the first network, picked output); inputs have negative numbers."""
        step = row.layer.row
        return [
            (self._skip_unpaired(s, side), selection)
            for s, selection in zip(step.sources, step.selections, strict=True)
        ]

    def _skip_unpaired(self, source: int, side: str) -> int:
        while source >= 0 and self.rows[side][source] not in self.known:
            source = self.rows[side][source].layer.row.sources[0]
        return self.known[self.rows[side][source]] if source >= 0 else source


def _merge(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row], moves: set[Row], wiring: _Wiring
) -> Iterator[RowDiff]:
    """Yield all rows in the order of the second network, with removed ones at their former places."""
    taken, i = set(pairs.values()), 0
    for b in after:
        a = pairs.get(b)
        if a and b not in moves:
            yield from (RowDiff("removed", row, None) for row in before[i : a.index] if row not in taken)
            i = a.index + 1
        yield _diff_pair(a, b, b in moves, wiring) if a else RowDiff("added", None, b)
    yield from (RowDiff("removed", row, None) for row in before[i:] if row not in taken)


def _diff_pair(a: Row, b: Row, has_moved: bool, wiring: _Wiring) -> RowDiff:
    pairs = {
        "module": (a.summary.module, b.summary.module),
        "args": (a.summary.args, b.summary.args),
        "n": (a.summary.n, b.summary.n),
        "output": (a.summary.out_shape, b.summary.out_shape),
        **{cost: (a.cost(cost), b.cost(cost)) for cost in COSTS},
    }
    changes = {name: pair for name, pair in pairs.items() if _differ(*pair)}
    if not changes and (inside := _find_inner_difference(a.layer, b.layer)):
        changes = {"inside": inside}
    # A moved row always has another source: that is no further change.
    if not has_moved and wiring.sources(a, "a") != wiring.sources(b, "b"):
        changes = {"from": (a.summary.from_, b.summary.from_), **changes}
    return RowDiff("moved" if has_moved else "changed" if changes else "same", a, b, changes)


def _differ(a: Any, b: Any) -> bool:
    return a != b and repr(a) != repr(b)  # by repr, because NaN differs from itself


def _find_inner_difference(a: Layer, b: Layer) -> tuple[str, str] | None:
    """Return the first difference inside two modules of equal name, shape and cost; None if there is none.

    Compared are the submodules, the operators that they run, and the source of custom modules.
    """
    classes = a.factory.make, b.factory.make
    submodules = [repr(layer.module).splitlines() for layer in (a, b)]
    operators = [[op.name for op in layer.tally.operators] for layer in (a, b)]
    code = [[]] * 2 if classes[0] is classes[1] else [_source_lines(make) for make in classes]
    for first, second in (submodules, operators, code):
        for one, other in zip_longest(first, second, fillvalue="nothing"):
            if one != other:
                return one.strip(), other.strip()
    return None


def _source_lines(make: Any) -> list[str]:
    try:
        return inspect.getsource(make).splitlines() if inspect.isclass(make) else []
    except (OSError, TypeError):  # the class was defined without a source file
        return []
