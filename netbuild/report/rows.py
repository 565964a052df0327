"""The data of a summary: rows, the costs of several heads, totals, and their JSON form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netbuild.graph.layers import Graph


@dataclass(frozen=True)
class RowSummary:
    """A row of the table; of ``depth`` above 1 a submodule of a row, with a path such as ``2.m.0`` as ``i``."""

    i: int | str
    name: str | None
    from_: Any
    n: int
    module: str
    path: str
    args: list[Any]
    params: int
    in_shapes: list[Any]
    out_shape: Any
    flops: Mapping[str, int]
    macs: int
    out_bytes: int
    receptive_field: Any
    stride: Any
    depth: int = 1

    def to_dict(self, convention: str) -> dict[str, Any]:
        """Return the row in its JSON form."""
        row = {
            "i": self.i, "name": self.name, "from": self.from_, "n": self.n, "module": self.module, "args": self.args,
            "params": self.params, "in_shapes": self.in_shapes, "out_shape": self.out_shape,
            "flops": self.flops[convention], "out_bytes": self.out_bytes, "receptive_field": self.receptive_field,
            "stride": self.stride,
        }  # fmt: skip
        return {**row, "flops_all": dict(self.flops)} if len(self.flops) > 1 else row


@dataclass(frozen=True)
class HeadCost:
    """The rows that a head alone needs, and their costs; of the name "" the rows that several heads share.

    Attributes:
        name: the head's name.
        title: it with its row, task and weight as text.
        rows: numbers of the rows.
        params: their parameters.
        flops: their FLOPs by convention.
        facts: row, task, weight, data, nc and names of the head.
    """

    name: str
    title: str
    rows: tuple[int, ...]
    params: int
    flops: Mapping[str, int]
    facts: Mapping[str, Any]

    def to_dict(self, convention: str) -> dict[str, Any]:
        """Return the costs as JSON data."""
        costs = {"rows": list(self.rows), "params": self.params, "flops": self.flops[convention]}
        return {**self.facts, "name": self.name or "shared", **costs}


def list_head_costs(graph: Graph, rows: Sequence[RowSummary]) -> list[HeadCost]:
    """Return the costs of each head, then those of the rows that heads share; empty for a network with one head.

    Args:
        graph: the network.
        rows: the rows of its summary, without submodules.
    """
    if not graph.heads:
        return []
    readers: list[set[str]] = [set() for _ in graph.layers]
    for head in graph.heads:
        readers[head.row].add(head.name)
    for layer in reversed(graph.layers):  # rows read rows before them
        for source in layer.step.sources:
            if source >= 0:
                readers[source] |= readers[layer.row.index]
    found = []
    for head in graph.heads:
        weight = f", weight {head.weight:g}" + (f", data {head.data}" if head.data else "")
        text = f"head {head.name} (row {head.row} {rows[head.row].module}, task {head.task}{weight})"
        chosen = [i for i, names in enumerate(readers) if names == {head.name}]
        found.append(_sum_costs(head.name, text, chosen, rows, head.to_dict()))
    shared = [i for i, names in enumerate(readers) if len(names) > 1]
    return [*found, _sum_costs("", "shared by several heads", shared, rows, {})]


def _sum_costs(
    name: str, title: str, chosen: Sequence[int], rows: Sequence[RowSummary], facts: Mapping[str, Any]
) -> HeadCost:
    conventions = rows[0].flops
    flops = {convention: sum(rows[i].flops[convention] for i in chosen) for convention in conventions}
    return HeadCost(name, title, tuple(chosen), sum(rows[i].params for i in chosen), flops, facts)


@dataclass(frozen=True)
class Report:
    """A network's table and totals as data; `to_dict` gives the JSON."""

    graph: Graph
    convention: str
    rows: tuple[RowSummary, ...]
    totals: Mapping[str, Any]
    fused: bool = False
    batch: int = 1
    notes: tuple[str, ...] = ()
    unknown: Mapping[str, list[int]] = field(default_factory=dict)  # operators without a FLOPs rule: numbers of rows

    @property
    def head_costs(self) -> list[HeadCost]:
        """The costs of each of several heads; empty for a network with one."""
        return list_head_costs(self.graph, self.top_rows)

    @property
    def title(self) -> str:
        """The name with a leading ``yolo`` written ``YOLO``."""
        name = self.graph.name
        return f"YOLO{name[4:]}" if name.startswith("yolo") else name

    @property
    def top_rows(self) -> list[RowSummary]:
        """The file's rows, without submodules."""
        return [row for row in self.rows if row.depth == 1]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain data, identical from run to run."""
        g = self.graph
        heads = [cost.to_dict(self.convention) for cost in self.head_costs]
        return {
            "name": g.spec.stem, "title": self.title, "file": str(g.spec.path), "scale": g.scale.name or None,
            "scale_from": g.scale_from, "task": g.task, "nc": g.nc, "ch": g.ch, "imgsz": list(g.imgsz),
            "inputs": {name: list(shape) for name, shape in g.inputs},
            "activation": g.activation, "fused": self.fused, "batch": self.batch, "flops_convention": self.convention,
            **({"heads": heads} if heads else {}),
            "rows": [row.to_dict(self.convention) for row in self.rows], "totals": dict(self.totals),
            "flops_unknown": dict(self.unknown), "notes": list(self.notes),
        }  # fmt: skip
