"""Weights carried from one network to another that was edited: row by row, whatever a row's number has become.

Rows are aligned as texts are when they are compared: in order, so that as many parameters as possible find a row of the
same structure. Rows that bear the same name and fit are paired first; rows that moved out of order last.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from netbuild.weights.align import in_order, moved

_ROW = re.compile(r"(?:.*?\bmodel\.)?(\d+)\.(.+)")
_ITEM = re.compile(r"((?:.*?\.)?)(\d+)\.(.+)")  # of a numbered list in a module
_SAME = 0.5  # what structure, name and module weigh, where the number of parameters does not decide
_SAME_MODULE = 0.2


@dataclass(frozen=True)
class RowTensors:
    """A row with tensors: its number, the rest of their keys to the tensors, and what is known of it."""

    index: int
    tensors: Mapping[str, torch.Tensor]
    module: str = ""
    name: str | None = None

    @property
    def structure(self) -> tuple[Any, ...]:
        """Keys and shapes: what an equal row shares."""
        return tuple((key, tuple(tensor.shape)) for key, tensor in self.tensors.items())

    @property
    def params(self) -> int:
        """Number of values in the tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass
class RowTransfer:
    """What became of a row: the row its tensors came from, those loaded, and those left with the reason."""

    row: RowTensors
    source: RowTensors | None = None
    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all of its tensors were loaded."""
        return self.source is not None and not self.skipped


@dataclass(frozen=True)
class Transfer:
    """The report of a transfer: every row with tensors, and the source's rows that nothing took."""

    rows: tuple[RowTransfer, ...]
    unused: tuple[RowTensors, ...]

    def counts(self) -> dict[str, int]:
        """Tensors and values, loaded and in all."""
        loaded = [(r.row.tensors[key]) for r in self.rows for key in r.loaded]
        return {
            "tensors_loaded": len(loaded),
            "tensors": sum(len(r.row.tensors) for r in self.rows),
            "values_loaded": sum(t.numel() for t in loaded),
            "values": sum(r.row.params for r in self.rows),
        }

    def to_dict(self) -> dict[str, Any]:
        """As data."""
        rows = [
            {
                "row": r.row.index,
                "module": r.row.module,
                "from": r.source.index if r.source else None,
                "loaded": r.loaded,
                "skipped": r.skipped,
            }
            for r in self.rows
        ]
        return {**self.counts(), "rows": rows, "unused": [{"row": r.index, "module": r.module} for r in self.unused]}

    def __str__(self) -> str:
        return "\n".join([*_lines(self.rows), *map(_unused_line, self.unused), _total_line(self.counts())])


def rows_of(state: Mapping[str, torch.Tensor], labels: Mapping[int, tuple[str, str | None]]) -> list[RowTensors]:
    """The tensors of a state dict by row: keys are ``model.<row>.<rest>``, whatever stands before.

    Args:
        state: the tensors by key.
        labels: of rows that are known, the module and the name.
    """
    grouped: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        match = _ROW.fullmatch(key)
        if match:
            grouped.setdefault(int(match[1]), {})[match[2]] = tensor
    return [RowTensors(i, found, *labels.get(i, ("", None))) for i, found in sorted(grouped.items())]


def align(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> dict[int, RowTensors]:
    """For rows of the target, by number, the row of the source whose tensors serve it."""
    pairs: dict[int, RowTensors] = {}
    named = {row.name: row for row in source if row.name}
    for row in target:
        twin = named.get(row.name) if row.name else None
        if twin and twin.structure == row.structure:
            pairs[row.index] = twin
    _extend(pairs, _in_order, source, target)
    _extend(pairs, _moved, source, target)
    return pairs


def _extend(
    pairs: dict[int, RowTensors], method: Any, source: Sequence[RowTensors], target: Sequence[RowTensors]
) -> None:
    taken = {row.index for row in pairs.values()}
    left = [row for row in source if row.index not in taken]
    pairs.update(method(left, [row for row in target if row.index not in pairs]))


def _in_order(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> dict[int, RowTensors]:
    return {b.index: a for a, b in in_order(source, target, _gain, _structure)}


def _gain(a: RowTensors, b: RowTensors) -> float:
    """How much is won by serving row b from row a; 0 if it makes no sense."""
    same_module = a.module == b.module and bool(a.module)
    if a.structure == b.structure:
        return b.params + _SAME + _SAME_MODULE * same_module
    if a.module and b.module and not same_module:
        return 0.0
    served = _served(a, b)
    fitting = [b.tensors[key] for key, there in served.items() if a.tensors[there].shape == b.tensors[key].shape]
    # Norms and counters alone are nothing to begin from.
    return sum(t.numel() for t in fitting) / 2 if any(t.ndim >= 2 for t in fitting) else 0.0


def _served(a: RowTensors, b: RowTensors) -> dict[str, str]:
    """For keys of row b the keys of row a that mean the same, where the rows are of one kind.

    A head with a level more or less has a list of branches longer or shorter: these are aligned as rows are.
    """
    if a.tensors.keys() == b.tensors.keys():
        return {key: key for key in b.tensors}
    if not a.module or a.module != b.module:
        return {}
    here, there = _lists(b), _lists(a)
    keys = {key: key for key in b.tensors if key in a.tensors and not _ITEM.fullmatch(key)}
    for parent in here.keys() & there.keys():
        items, others = here[parent], there[parent]
        equal = len(items) == len(others)
        pairs = {r.index: other for r, other in zip(items, others)} if equal else _in_order(others, items)
        for index, item in pairs.items():
            keys |= {f"{parent}{index}.{rest}": f"{parent}{item.index}.{rest}" for rest in item.tensors}
    return {key: source for key, source in keys.items() if key in b.tensors}


def _lists(row: RowTensors) -> dict[str, list[RowTensors]]:
    """The numbered children of a row's module, by what stands before their number."""
    lists: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for key, tensor in row.tensors.items():
        if match := _ITEM.fullmatch(key):
            lists.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = tensor
    return {parent: [RowTensors(i, found) for i, found in items.items()] for parent, items in lists.items()}


def _moved(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> dict[int, RowTensors]:
    """Rows left over on both sides whose structure occurs once on each."""
    return {b.index: a for a, b in moved(source, target, _structure)}


def _structure(row: RowTensors) -> tuple[Any, ...]:
    return row.structure


def transfer(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> Transfer:
    """Copy the source's tensors into the target's, in place, and tell what was done."""
    pairs = align(source, target)
    rows = tuple(_copied(RowTransfer(row, pairs.get(row.index))) for row in target)
    taken = {row.index for row in pairs.values()}
    return Transfer(rows, tuple(row for row in source if row.index not in taken))


@torch.no_grad()
def _copied(done: RowTransfer) -> RowTransfer:
    if done.source is None:
        return done
    served = _served(done.source, done.row)
    for key, tensor in done.row.tensors.items():
        given = done.source.tensors.get(served.get(key, ""))
        if given is None:
            done.skipped[key] = "nothing like it there"
        elif given.shape != tensor.shape:
            done.skipped[key] = f"{list(given.shape)} there, {list(tensor.shape)} here"
        else:
            tensor.copy_(given)
            done.loaded.append(key)
    return done


# -- the report as text -----------------------------------------------------------------------------------------------


def _lines(rows: Sequence[RowTransfer]) -> Iterator[str]:
    """A line for each row, one for neighbours that were moved by the same number."""
    run: list[RowTransfer] = []
    for done in rows:
        if run and not (done.whole and run[-1].whole and _shift(done) == _shift(run[-1])):
            yield _run_line(run)
            run = []
        if done.whole:
            run.append(done)
        else:
            yield _row_line(done)
    if run:
        yield _run_line(run)


def _shift(done: RowTransfer) -> int:
    return done.row.index - done.source.index if done.source else 0


def _run_line(run: Sequence[RowTransfer]) -> str:
    here, there = _span([r.row for r in run]), _span([r.source for r in run if r.source])
    count = sum(len(r.loaded) for r in run)
    return f"{here}: loaded from {there}, {count} tensors, {sum(r.row.params for r in run):,} values"


def _span(rows: Sequence[RowTensors]) -> str:
    first, last = rows[0].index, rows[-1].index
    return f"row {first} {rows[0].module}".rstrip() if first == last else f"rows {first} to {last}"


def _row_line(done: RowTransfer) -> str:
    label = f"row {done.row.index} {done.row.module}".rstrip()
    if done.source is None:
        return f"{label}: new, {done.row.params:,} values as initialised"
    (key, why), *others = done.skipped.items()
    more = f" and {len(others)} more" if others else ""
    count = f"{len(done.loaded)} of {len(done.row.tensors)} tensors"
    return f"{label}: {count} from row {done.source.index}; skipped {key} ({why}){more}"


def _unused_line(row: RowTensors) -> str:
    return f"the source's row {row.index} {row.module}".rstrip() + f": not used, {row.params:,} values"


def _total_line(counts: Mapping[str, int]) -> str:
    values, tensors = "{values_loaded:,} of {values:,} values", "{tensors_loaded} of {tensors} tensors"
    return "loaded " + f"{values} ({tensors})".format(**counts)
