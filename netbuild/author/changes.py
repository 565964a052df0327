"""The differences between two networks, row by row, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from netbuild.graph.layers import Layer
from netbuild.report.rows import RowSummary
from netbuild.report.summary import Summary

MARKS = {"same": " ", "added": "+", "removed": "-", "changed": "~", "moved": ">"}
COSTS = ("params", "flops", "out_bytes")  # compared for each row
TOTALS = (
    "rows", "modules_all", "params", "gradients", "flops", "param_bytes", "peak_activation_bytes", "saved_bytes",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Row:
    """A row of one of the networks: its numbers and its layer."""

    summary: RowSummary
    layer: Layer
    convention: str

    @cached_property
    def written(self) -> str:
        """Module, repeats and arguments as written in the file, for comparison."""
        row = self.layer.row
        n = row.n if isinstance(row.n, int) else row.n.plain()
        return repr(
            (row.module, row.shares, n, [a.plain() for a in row.args], sorted((k, v.plain()) for k, v in row.kwargs))
        )

    @cached_property
    def bound(self) -> str:
        """Module, repeats and arguments after scaling, and the output's shape, for comparison."""
        return repr((self.summary.module, self.summary.n, self.summary.args, self.summary.out_shape))

    @property
    def index(self) -> int:
        """The row's number in its network."""
        return self.layer.row.index

    def cost(self, name: str) -> int:
        """Return one of the row's `COSTS`."""
        return self.summary.flops[self.convention] if name == "flops" else getattr(self.summary, name)


@dataclass(frozen=True)
class RowDiff:
    """Two matching rows, or a row of only one network; ``changes`` maps properties that differ to both values."""

    status: str  # a key of MARKS
    a: Row | None
    b: Row | None
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        """The row of network B, or of A if it was removed."""
        found = self.b or self.a
        assert found
        return found

    def change(self, cost: str) -> int:
        """Return how much the row changes one of `COSTS`."""
        return (self.b.cost(cost) if self.b else 0) - (self.a.cost(cost) if self.a else 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as data."""
        sides = {side: row and row.summary.to_dict(row.convention) for side, row in (("a", self.a), ("b", self.b))}
        changes = {name: list(pair) for name, pair in self.changes.items()}
        return {"status": self.status, "changes": changes, **{f"{c}_change": self.change(c) for c in COSTS}, **sides}


@dataclass(frozen=True)
class Changes:
    """The differences between two networks; `to_dict` gives the JSON."""

    a: Summary
    b: Summary
    facts: Mapping[str, tuple[Any, Any]]
    rows: tuple[RowDiff, ...]

    @property
    def equal(self) -> bool:
        """Whether the networks are equal in rows, in the properties set by their files, and in totals."""
        has_other_totals = any(a != b for a, b in self.totals().values())
        return not (self.facts or any(row.status != "same" for row in self.rows) or has_other_totals)

    def counts(self) -> dict[str, int]:
        """Count the rows of each status."""
        return {status: sum(row.status == status for row in self.rows) for status in MARKS}

    def totals(self) -> dict[str, tuple[Any, Any]]:
        """Return both networks' totals; None if unknown, as is training memory where a network cannot train."""
        return {name: (self.a.totals[name], self.b.totals[name]) for name in TOTALS}

    def to_dict(self, all: bool = False) -> dict[str, Any]:
        """Return the comparison as plain data; without ``all`` only rows that differ."""
        return {
            "a": _describe_network(self.a),
            "b": _describe_network(self.b),
            "equal": self.equal,
            "flops_convention": self.a.convention,
            "facts": {name: list(pair) for name, pair in self.facts.items()},
            "counts": self.counts(),
            "totals": {name: _diff_total(*pair) for name, pair in self.totals().items()},
            "rows": [row.to_dict() for row in self.rows if all or row.status != "same"],
        }


def _describe_network(summary: Summary) -> dict[str, Any]:
    g = summary.graph
    return {"title": summary.title, "file": str(g.spec.checkpoint or g.spec.path), "scale": g.scale.name or None}


def _diff_total(a: int | None, b: int | None) -> dict[str, Any]:
    known = a is not None and b is not None
    return {"a": a, "b": b, "change": b - a if known else None, "ratio": b / a if known and a else None}  # type: ignore[operator]
