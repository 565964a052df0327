"""Transfer weights between two networks row by row, although an edit changed the rows' numbers.

Rows are aligned in three passes: rows of equal name and structure; then in order, so that as many parameters as
possible find a row of the same structure; last, rows of a unique structure that moved out of order.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from netbuild.weights.align import align_in_order, pair_unique
from netbuild.weights.matching import is_counter, is_same_kind

_ROW = re.compile(r"(?:.*?\bmodel\.)?(\d+)\.(.+)")
_LIST_ITEM = re.compile(r"((?:.*?\.)?)(\d+)\.(.+)")  # a key inside a numbered child, as of a ModuleList
# Gains below one parameter: they only break ties between rows with equally many parameters.
_SAME_STRUCTURE = 0.5
_SAME_MODULE = 0.2


@dataclass(frozen=True)
class RowTensors:
    """The tensors of a network's row.

    Args:
        index: the row's number.
        tensors: the rest of the key, after ``model.<row>.``, to the tensor.
        module: the row's module, empty if unknown.
        name: the row's own name, None if it has none.
    """

    index: int
    tensors: Mapping[str, torch.Tensor]
    module: str = ""
    name: str | None = None

    @property
    def structure(self) -> tuple[Any, ...]:
        """Keys and shapes, equal for rows of the same structure."""
        return tuple((key, tuple(tensor.shape)) for key, tensor in self.tensors.items())

    @property
    def params(self) -> int:
        """Number of values in all tensors, buffers included."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass
class RowTransfer:
    """What was transferred into a row.

    Args:
        row: the target row.
        source: the row that its tensors came from; None if no row fits.
        loaded: keys that were loaded.
        skipped: keys that were not, to the reason.
    """

    row: RowTensors
    source: RowTensors | None = None
    loaded: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether all of the row's tensors were loaded."""
        return self.source is not None and not self.skipped


@dataclass(frozen=True)
class Transfer:
    """The report of a transfer: every target row that has tensors, and the source rows that were not used."""

    rows: tuple[RowTransfer, ...]
    unused: tuple[RowTensors, ...]

    def counts(self) -> dict[str, int]:
        """Numbers of tensors and of values, loaded and in total."""
        loaded = [row.row.tensors[key] for row in self.rows for key in row.loaded]
        return {
            "tensors_loaded": len(loaded),
            "tensors": sum(len(r.row.tensors) for r in self.rows),
            "values_loaded": sum(t.numel() for t in loaded),
            "values": sum(r.row.params for r in self.rows),
        }

    @property
    def has_weights(self) -> bool:
        """Whether anything was loaded but the step counters of batch norms, which say nothing about a network."""
        return any(not is_counter(key) for row in self.rows for key in row.loaded)

    def brief(self) -> str:
        """Return one line: what was loaded, and the rows that were not loaded or only in part."""
        new = [_label(r.row) for r in self.rows if not r.loaded]
        partial = [_label(r.row) for r in self.rows if r.loaded and r.skipped]
        rest = [f"{text}: {_list_some(rows)}" for text, rows in (("as initialised", new), ("in part", partial)) if rows]
        return "; ".join([_format_total(self.counts()), *rest])

    def warnings(self) -> list[str]:
        """Return sentences about a transfer that probably is a mistake: little was loaded, or values are not finite."""
        counts = self.counts()
        loaded = {f"model.{r.row.index}.{key}": r.row.tensors[key] for r in self.rows for key in r.loaded}
        few = [kind for kind in ("values", "tensors") if 2 * counts[f"{kind}_loaded"] < counts[kind]]
        found = ["less than half of the network's weights were loaded, the rest is as initialised"] if few else []
        return [*found, *describe_bad_values(loaded)]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
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
        return "\n".join([*_format_rows(self.rows), *map(_format_unused, self.unused), _format_total(self.counts())])


def describe_bad_values(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return sentences about tensors with values that give NaN: not finite ones, and negative variances of norms."""
    wrong = [key for key, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    negative = [key for key, value in tensors.items() if key.endswith("running_var") and bool((value < 0).any())]
    kinds = (("that are not finite", wrong), ("that are negative, as no variance is", negative))
    return [f"{len(keys)} tensors have values {kind}: {_list_some(keys)}" for kind, keys in kinds if keys]


def group_by_row(state: Mapping[str, torch.Tensor], labels: Mapping[int, tuple[str, str | None]]) -> list[RowTensors]:
    """Group the tensors of a state dict by row.

    Args:
        state: tensors by key; keys have the form ``model.<row>.<rest>`` after any prefix, others are left out.
        labels: row number to (module, row name), for the rows that are known.
    """
    grouped: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        match = _ROW.fullmatch(key)
        if match:
            grouped.setdefault(int(match[1]), {})[match[2]] = tensor
    return [RowTensors(i, tensors, *labels.get(i, ("", None))) for i, tensors in sorted(grouped.items())]


def align_rows(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> dict[int, RowTensors]:
    """Map the number of each target row to the source row whose tensors it takes; rows without one are left out."""
    pairs: dict[int, RowTensors] = {}
    named = {row.name: row for row in source if row.name}
    for row in target:
        candidate = named.get(row.name) if row.name else None
        if candidate and candidate.structure == row.structure:
            pairs[row.index] = candidate
    for method in (_align_in_order, _pair_moved):
        _pair_remaining(pairs, method, source, target)
    return pairs


def _pair_remaining(
    pairs: dict[int, RowTensors],
    method: Callable[[Sequence[RowTensors], Sequence[RowTensors]], dict[int, RowTensors]],
    source: Sequence[RowTensors],
    target: Sequence[RowTensors],
) -> None:
    """Add pairs among the rows that are in none yet."""
    used = {row.index for row in pairs.values()}
    remaining = [row for row in source if row.index not in used]
    pairs.update(method(remaining, [row for row in target if row.index not in pairs]))


def _align_in_order(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> dict[int, RowTensors]:
    return {b.index: a for a, b in align_in_order(source, target, _gain, _structure)}


def _gain(a: RowTensors, b: RowTensors) -> float:
    """The gain of loading source row a into target row b, about the number of values loaded; 0 forbids it."""
    same_module = a.module == b.module and bool(a.module)
    if a.structure == b.structure:
        return b.params + _SAME_STRUCTURE + _SAME_MODULE * same_module
    if a.module and b.module and not same_module:
        return 0.0
    keys = _map_keys(a, b)
    fitting = [b.tensors[key] for key, source in keys.items() if a.tensors[source].shape == b.tensors[key].shape]
    # Half the gain, so that a row of equal structure is preferred. Norms and counters alone (no tensor with two or
    # more dimensions) are no reason to load a row.
    return sum(t.numel() for t in fitting) / 2 if any(t.ndim >= 2 for t in fitting) else 0.0


def _map_keys(a: RowTensors, b: RowTensors) -> dict[str, str]:
    """Map keys of target row b to the corresponding keys of source row a; empty if the rows have other modules.

    A detection head with one level more or less has a longer or shorter list of branches: the items of such lists are
    aligned in order, as rows are.
    """
    if a.tensors.keys() == b.tensors.keys():
        return {key: key for key in b.tensors}
    if not a.module or a.module != b.module:
        return {}
    target_lists, source_lists = _group_list_items(b), _group_list_items(a)
    keys = {key: key for key in b.tensors if key in a.tensors and not _LIST_ITEM.fullmatch(key)}
    for parent in target_lists.keys() & source_lists.keys():
        items, source_items = target_lists[parent], source_lists[parent]
        if len(items) == len(source_items):
            pairs = {item.index: source for item, source in zip(items, source_items)}
        else:
            pairs = _align_in_order(source_items, items)
        for index, item in pairs.items():
            keys |= {f"{parent}{index}.{rest}": f"{parent}{item.index}.{rest}" for rest in item.tensors}
    return {key: source for key, source in keys.items() if key in b.tensors}


def _group_list_items(row: RowTensors) -> dict[str, list[RowTensors]]:
    """The numbered children in a row's module (ModuleList items), by the key prefix before their number."""
    lists: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for key, tensor in row.tensors.items():
        if match := _LIST_ITEM.fullmatch(key):
            lists.setdefault(match[1], {}).setdefault(int(match[2]), {})[match[3]] = tensor
    return {parent: [RowTensors(i, tensors) for i, tensors in items.items()] for parent, items in lists.items()}


def _pair_moved(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> dict[int, RowTensors]:
    """Pair rows whose structure occurs exactly once on each side."""
    return {b.index: a for a, b in pair_unique(source, target, _structure)}


def _structure(row: RowTensors) -> tuple[Any, ...]:
    return row.structure


def transfer_rows(source: Sequence[RowTensors], target: Sequence[RowTensors]) -> Transfer:
    """Copy the source's tensors into the target's, in place, and report what was copied."""
    pairs = align_rows(source, target)
    rows = tuple(_copy_row(RowTransfer(row, pairs.get(row.index))) for row in target)
    used = {row.index for row in pairs.values()}
    return Transfer(rows, tuple(row for row in source if row.index not in used))


@torch.no_grad()
def _copy_row(result: RowTransfer) -> RowTransfer:
    """Copy the tensors of ``result.source`` into ``result.row`` and fill in the result."""
    if result.source is None:
        return result
    keys = _map_keys(result.source, result.row)
    for key, tensor in result.row.tensors.items():
        source = result.source.tensors.get(keys.get(key, ""))
        if source is None:
            result.skipped[key] = "not in the source row"
        elif source.shape != tensor.shape:
            result.skipped[key] = f"{list(source.shape)} in the source, {list(tensor.shape)} in the network"
        elif not is_same_kind(source, tensor):
            result.skipped[key] = f"{source.dtype} in the source, {tensor.dtype} in the network"
        else:
            tensor.copy_(source)
            result.loaded.append(key)
    return result


# -- the report as text -----------------------------------------------------------------------------------------------


def _format_rows(rows: Sequence[RowTransfer]) -> Iterator[str]:
    """One line a row; neighbours that were loaded whole from rows at the same distance share a line."""
    run: list[RowTransfer] = []
    for row in rows:
        if run and not (row.is_complete and run[-1].is_complete and _offset(row) == _offset(run[-1])):
            yield _format_run(run)
            run = []
        if row.is_complete:
            run.append(row)
        else:
            yield _format_incomplete(row)
    if run:
        yield _format_run(run)


def _offset(row: RowTransfer) -> int:
    return row.row.index - row.source.index if row.source else 0


def _label(row: RowTensors) -> str:
    return f"row {row.index} {row.module}".rstrip()


def _list_some(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _format_run(run: Sequence[RowTransfer]) -> str:
    target, source = _format_span([r.row for r in run]), _format_span([r.source for r in run if r.source])
    count = sum(len(r.loaded) for r in run)
    return f"{target}: loaded from {source}, {count} tensors, {sum(r.row.params for r in run):,} values"


def _format_span(rows: Sequence[RowTensors]) -> str:
    first, last = rows[0].index, rows[-1].index
    return _label(rows[0]) if first == last else f"rows {first} to {last}"


def _format_incomplete(row: RowTransfer) -> str:
    label = _label(row.row)
    if row.source is None:
        return f"{label}: new, {row.row.params:,} values as initialised"
    (key, why), *others = row.skipped.items()
    more = f" and {len(others)} more" if others else ""
    count = f"{len(row.loaded)} of {len(row.row.tensors)} tensors"
    return f"{label}: {count} from row {row.source.index}; skipped {key} ({why}){more}"


def _format_unused(row: RowTensors) -> str:
    return f"{_label(row)} of the source: not used, {row.params:,} values"


def _format_total(counts: Mapping[str, int]) -> str:
    values, tensors = "{values_loaded:,} of {values:,} values", "{tensors_loaded} of {tensors} tensors"
    return "loaded " + f"{values} ({tensors})".format(**counts)
