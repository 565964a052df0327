"""The data of a summary: rows, totals, and their JSON form."""

from collections.abc import Mapping
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
        return {
            "name": g.spec.stem, "title": self.title, "file": str(g.spec.path), "scale": g.scale.name or None,
            "scale_from": g.scale_from, "task": g.task, "nc": g.nc, "ch": g.ch, "imgsz": list(g.imgsz),
            "inputs": {name: list(shape) for name, shape in g.inputs},
            "activation": g.activation, "fused": self.fused, "batch": self.batch, "flops_convention": self.convention,
            "rows": [row.to_dict(self.convention) for row in self.rows], "totals": dict(self.totals),
            "flops_unknown": dict(self.unknown), "notes": list(self.notes),
        }  # fmt: skip
