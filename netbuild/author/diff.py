"""Compares two networks row by row: added, removed, changed and moved rows, and the change of costs.

Rows are aligned by what they are, never by number, so that a row inserted above others changes none of them.
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
from netbuild.report.summary import Summary, summarize
from netbuild.weights.align import align_in_order, pair_unique

_EQUAL = 1.0  # what pairs of rows win: written or bound alike, of one name
_KIND = 0.2  # of one module; less than half of the above, so that a row which moves leaves the others in place
_DETAIL = 0.1


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
        a, b: files or names, as for `netbuild.summarize`; or summaries, where the two want options of their own.
        options: those of `netbuild.summarize`, for both that are named.

    Raises:
        NetbuildError: with the place of every mistake in a file, or if FLOPs were counted in two ways.
    """
    first, second = (x if isinstance(x, Summary) else summarize(x, **options) for x in (a, b))
    if first.convention != second.convention:
        raise NetbuildError(f"FLOPs are counted as {first.convention} and as {second.convention}: take one for both")
    before, after = _rows(first), _rows(second)
    return Diff(first, second, _facts(first, second), tuple(_compared(before, after)))


def _rows(summary: Summary) -> list[Row]:
    layers = summary.graph.layers
    return [Row(row, layer, summary.convention) for row, layer in zip(summary.top_rows, layers, strict=True)]


def _facts(a: Summary, b: Summary) -> dict[str, tuple[Any, Any]]:
    """Return the properties that differ apart from rows: task, classes, size, inputs and others."""
    pairs = zip(_facts_of(a).items(), _facts_of(b).values(), strict=True)
    return {name: (before, after) for (name, before), after in pairs if before != after}


def _facts_of(summary: Summary) -> dict[str, Any]:
    g = summary.graph
    inputs = {name: list(shape) for name, shape in g.inputs}
    return {
        "task": g.task, "nc": g.nc, "ch": g.ch, "imgsz": list(g.imgsz), "inputs": inputs if g.spec.inputs else None,
        "activation": g.activation, "init": g.spec.settings.get("init"), "fused": summary.fused,
    }  # fmt: skip


# -- alignment --------------------------------------------------------------------------------------------------------


def _compared(before: Sequence[Row], after: Sequence[Row]) -> Iterator[RowDiff]:
    pairs, out_of_order = _aligned(before, after)
    wires = _Wires(before, after, pairs, out_of_order)
    return _merged(before, after, pairs, out_of_order, wires)


def _aligned(before: Sequence[Row], after: Sequence[Row]) -> tuple[dict[Row, Row], set[Row]]:
    """For rows of the second network those of the first, and which of them moved."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    ends = [*zip(before[:start], after[:start]), *zip(before[len(before) - end :], after[len(after) - end :])]
    pairs = {b: a for a, b in ends}
    middle = before[start : len(before) - end], after[start : len(after) - end]
    pairs |= {b: a for a, b in align_in_order(*middle, _gain, lambda row: row.written)}
    left = _left(before, after, pairs)
    moves = {b: a for a, b in pair_unique(*left, lambda row: row.summary.name or row)}
    left = _left(before, after, pairs | moves)
    moves |= {b: a for a, b in pair_unique(*left, lambda row: row.written)}
    pairs |= {b: a for a, b in _replaced(before, after, pairs, set(moves) | set(moves.values()))}
    return pairs | moves, set(moves)


def _common(before: Sequence[Row], after: Sequence[Row]) -> int:
    """Count the leading rows that are equal; pairing these is always optimal."""
    same = (a.written == b.written and a.bound == b.bound for a, b in zip(before, after))
    return next((i for i, alike in enumerate(same) if not alike), min(len(before), len(after)))


def _left(before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row]) -> tuple[list[Row], list[Row]]:
    taken = set(pairs.values())
    return [a for a in before if a not in taken], [b for b in after if b not in pairs]


def _gain(a: Row, b: Row) -> float:
    """Return the similarity of two rows, the gain of pairing them."""
    named = a.summary.name is not None and a.summary.name == b.summary.name
    shaped = _DETAIL * (a.summary.out_shape == b.summary.out_shape)
    if a.layer.row.module != b.layer.row.module:
        # A name alone is less than equality: p5 may be what another row was.
        return 2 * _KIND * named + shaped * named
    equal = a.written == b.written or a.bound == b.bound
    return (_EQUAL if equal else _KIND) + _EQUAL * named + _DETAIL * (a.bound == b.bound) + shaped


def _replaced(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row], moves: set[Row]
) -> Iterator[tuple[Row, Row]]:
    """Rows of other modules that stand where rows went: alone between two that stayed, or giving the same shape."""
    for old, new in _gaps(before, after, pairs):
        old, new = [a for a in old if a not in moves], [b for b in new if b not in moves]
        if len(old) == len(new) == 1:
            yield old[0], new[0]
        elif old and new:
            yield from align_in_order(old, new, _same_shape, lambda row: repr(row.summary.out_shape))


def _same_shape(a: Row, b: Row) -> float:
    return float(a.summary.out_shape == b.summary.out_shape)


def _gaps(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row]
) -> Iterator[tuple[Sequence[Row], Sequence[Row]]]:
    i = j = 0
    for k, b in enumerate(after):
        if b in pairs:
            yield before[i : pairs[b].index], after[j:k]
            i, j = pairs[b].index + 1, k + 1
    yield before[i:], after[j:]


# -- what differs -----------------------------------------------------------------------------------------------------


class _Wires:
    """The sources of rows in terms of rows that both networks have.

    A row that was inserted, removed or moved is looked through: who reads it reads what stands before it.
    """

    def __init__(self, before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row], moves: set[Row]) -> None:
        self.rows = {"a": before, "b": after}
        stayed = {b: a for b, a in pairs.items() if b not in moves}
        self.known = {**{b: a.index for b, a in stayed.items()}, **{a: a.index for a in stayed.values()}}

    def of(self, row: Row, side: str) -> list[Any]:
        """The sources of a row as numbers of the first network, inputs below 0, each with the output that is meant."""
        step = row.layer.row
        return [(self._through(s, side), pick) for s, pick in zip(step.sources, step.selections, strict=True)]

    def _through(self, source: int, side: str) -> int:
        while source >= 0 and self.rows[side][source] not in self.known:
            source = self.rows[side][source].layer.row.sources[0]
        return self.known[self.rows[side][source]] if source >= 0 else source


def _merged(
    before: Sequence[Row], after: Sequence[Row], pairs: Mapping[Row, Row], moves: set[Row], wires: _Wires
) -> Iterator[RowDiff]:
    """Yield all rows in the order of the second network, with removed ones at their former places."""
    taken, i = set(pairs.values()), 0
    for b in after:
        a = pairs.get(b)
        if a and b not in moves:
            yield from (RowDiff("removed", row, None) for row in before[i : a.index] if row not in taken)
            i = a.index + 1
        yield _paired(a, b, b in moves, wires) if a else RowDiff("added", None, b)
    yield from (RowDiff("removed", row, None) for row in before[i:] if row not in taken)


def _paired(a: Row, b: Row, has_moved: bool, wires: _Wires) -> RowDiff:
    pairs = {
        "module": (a.summary.module, b.summary.module),
        "args": (a.summary.args, b.summary.args),
        "n": (a.summary.n, b.summary.n),
        "output": (a.summary.out_shape, b.summary.out_shape),
        **{cost: (a.cost(cost), b.cost(cost)) for cost in COSTS},
    }
    changes = {name: pair for name, pair in pairs.items() if _differ(*pair)}
    if not changes and (inside := _inside(a.layer, b.layer)):
        changes = {"inside": inside}
    # A row that moved reads another, that is what moving is.
    if not has_moved and wires.of(a, "a") != wires.of(b, "b"):
        changes = {"from": (a.summary.from_, b.summary.from_), **changes}
    return RowDiff("moved" if has_moved else "changed" if changes else "same", a, b, changes)


def _differ(a: Any, b: Any) -> bool:
    return a != b and repr(a) != repr(b)  # NaN is itself here


def _inside(a: Layer, b: Layer) -> tuple[str, str] | None:
    """The first that differs in modules of one name, shape and cost: a part, an operator that is run, or own code."""
    makers = a.factory.make, b.factory.make
    texts = [repr(layer.module).splitlines() for layer in (a, b)]
    operators = [[op.name for op in layer.tally.operators] for layer in (a, b)]
    code = [[]] * 2 if makers[0] is makers[1] else [_code(make) for make in makers]
    for first, second in (texts, operators, code):
        for one, other in zip_longest(first, second, fillvalue="nothing"):
            if one != other:
                return one.strip(), other.strip()
    return None


def _code(make: Any) -> list[str]:
    try:
        return inspect.getsource(make).splitlines() if inspect.isclass(make) else []
    except (OSError, TypeError):  # made without a file
        return []
