"""Multiply-adds of the nodes of an ONNX file."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from netbuild.errors import shorten
from netbuild.export.inspection.model import _bodies, _op
from netbuild.export.inspection.shapes import _constants, _Seen

ENDLESS = 2**31  # rounds of a loop that is ended by its condition alone


@dataclass
class Costs:
    """Counts the FLOPs of nodes, and notes what cannot be counted.

    Args:
        onnx: the package.
    """

    onnx: Any
    uncounted: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def of(self, node: Any, seen: _Seen) -> int | None:
        """FLOPs of a node; None where shapes are unknown, or it cannot be counted, which is noted."""
        op = _op(node)
        if op in _HOLDERS:
            return _HOLDERS[op](self, seen.nodes.get(node.output[0], node), seen)
        rule = _RULES.get(op)
        if rule is None:
            if not _has_no_rule(op):
                return 0
            self.uncounted[op] += 1
            return None
        shapes = [p.shape if (p := seen.ports.get(name)) and p.count is not None else None for name in node.input]
        out = seen.ports.get(node.output[0])
        if out is None or out.count is None:
            return None
        attributes = {a.name: a.s.decode(errors="replace") if a.s else a.i for a in node.attribute}
        try:
            return 2 * rule(shapes, out.count, attributes)
        except (TypeError, ValueError, IndexError, KeyError):  # a shape that is not known
            return None

    def inside(self, graph: Any, seen: _Seen) -> int | None:
        """FLOPs of a graph inside a node, run once; None where a shape in it is unknown."""
        inner, before = seen.inside(graph, self.onnx), self.uncounted.total()
        found = []
        for node in graph.node:
            flops = self.of(node, inner)
            found.append(0 if flops is None and self.uncounted.total() > before else flops)
            before = self.uncounted.total()
        return None if None in found else sum(n for n in found if n is not None)

    def branches(self, node: Any, seen: _Seen) -> int | None:
        """Of If: the branch that is taken, where the condition is known, else the larger."""
        bodies, condition = _bodies(node), seen.values.get(node.input[0])
        if condition is not None and condition.size == 1:
            chosen = "then_branch" if condition.item() else "else_branch"
            self.remarks.append(f"{_called(node)}: its {chosen}, which is always taken")
            return self.inside(bodies[chosen], seen)
        found = {name: self.inside(body, seen) for name, body in bodies.items()}
        if None in found.values():
            return None
        largest = max(found, key=lambda name: found[name] or 0)
        if found[largest]:
            self.remarks.append(f"{_called(node)}: its {largest}, the larger of two")
        return found[largest]

    def rounds(self, node: Any, seen: _Seen) -> int | None:
        """Of Loop: as many rounds as are written down, if any are."""
        limit = seen.values.get(node.input[0]) if node.input and node.input[0] else None
        if limit is None or limit.size != 1 or limit.item() >= ENDLESS:
            self.uncounted["Loop"] += 1
            return None
        count = max(int(limit.item()), 0)
        ends = "" if self._never_ends(node, seen) else " at most"
        self.remarks.append(f"{_called(node)}: {count} rounds{ends}")
        once = self.inside(_bodies(node)["body"], seen)
        return None if once is None else count * once

    def _never_ends(self, node: Any, seen: _Seen) -> bool:
        """Whether a loop's condition is always true: the rounds are all run."""
        body, given = _bodies(node)["body"], node.input[1] if len(node.input) > 1 else ""
        begun = not given or bool(np.all(seen.values.get(given, False)))
        passed, told = {body.input[1].name}, _constants(body, self.onnx)
        for inner in body.node:
            passed |= {inner.output[0]} if inner.op_type == "Identity" and inner.input[0] in passed else set()
        last = body.output[0].name
        return begun and (last in passed or bool(np.all(told.get(last, False))))

    def slices(self, node: Any, seen: _Seen) -> int | None:
        """Of Scan: a round for every slice of what is scanned."""
        known: dict[str, Any] = {a.name: [*a.ints] or a.i for a in node.attribute if a.name != "body"}
        count = known["num_scan_inputs"]
        port = seen.ports.get(node.input[len(node.input) - count])
        if port is None or port.count is None:
            return None
        length = (port.shape or ())[(known.get("scan_input_axes") or [0])[0]]
        self.remarks.append(f"{_called(node)}: {length} rounds")
        once = self.inside(_bodies(node)["body"], seen)
        return None if once is None else int(length or 0) * once


def _called(node: Any) -> str:
    return f"{node.op_type} {shorten(node.name or node.output[0], 60)}"


# Operators that hold graphs.
_HOLDERS: dict[str, Callable[[Costs, Any, _Seen], int | None]] = {
    "If": Costs.branches,
    "Loop": Costs.rounds,
    "Scan": Costs.slices,
}
Rule = Callable[[Sequence[Any], int, Mapping[str, Any]], int]


def _convolution(weight: int) -> Rule:
    return lambda shapes, count, _: count * prod(shapes[weight][1:])


def _product(other: int = 0) -> Rule:
    def count_of(shapes: Sequence[Any], count: int, attributes: Mapping[str, Any]) -> int:
        return count * shapes[other][0 if attributes.get("transA") and len(shapes[other]) == 2 else -1]

    return count_of


def _transposed(shapes: Sequence[Any], count: int, attributes: Mapping[str, Any]) -> int:
    return prod(shapes[0][2:]) * shapes[0][0] * prod(shapes[1])


def _einsum(shapes: Sequence[Any], count: int, attributes: Mapping[str, Any]) -> int:
    """Of operands taken in one after another: each pair's product has all letters of the two."""
    left, arrow, right = attributes["equation"].replace(" ", "").partition("->")
    terms = [_letters(term, len(shape)) for term, shape in zip(left.split(","), shapes, strict=True)]
    lengths: dict[Any, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, length in zip(term, shape, strict=True):
            lengths[letter] = max(lengths.get(letter, 1), length)  # what is 1 is stretched
    every = [letter for term in terms for letter in term]
    once = [letter for letter in every if isinstance(letter, int) or every.count(letter) == 1]
    wanted = (
        {letter for letter in every if ("..." if isinstance(letter, int) else letter) in right} if arrow else {*once}
    )
    total, held = 0, {*terms[0]}
    for i, term in enumerate(terms[1:], 1):
        both = held | {*term}
        total += prod(lengths[letter] for letter in both)
        held = both & {*wanted, *(letter for later in terms[i + 1 :] for letter in later)}
    return total


def _letters(term: str, axes: int) -> list[Any]:
    """The letters of an operand's axes, numbers from -1 backwards for those that dots stand for."""
    before, dots, after = term.partition("...")
    return [*before, *(range(len(before) + len(after) - axes, 0) if dots else ()), *after]


_RULES: dict[str, Rule] = {  # multiply-adds
    **dict.fromkeys(("Conv", "ConvInteger", "com.microsoft.FusedConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Einsum": _einsum,
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _product()),
    **dict.fromkeys(("com.microsoft.FusedMatMul", "com.microsoft.FusedGemm", "com.microsoft.QGemm"), _product()),
}
# Of the standard ones that multiply matrices.
_WITHOUT = {"LSTM", "GRU", "RNN", "Attention", "DeformConv", "DFT", "SequenceMap"}


def _has_no_rule(op: str) -> bool:
    return op in _WITHOUT or ("." in op and op not in _RULES)
