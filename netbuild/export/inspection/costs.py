"""Multiply-adds of the nodes of an ONNX file."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from netbuild.errors import shorten
from netbuild.export.inspection.model import operator_name, subgraphs
from netbuild.export.inspection.shapes import Shapes, small_constants

ENDLESS = 2**31  # iteration limit of a loop that only its condition ends


@dataclass
class Costs:
    """Count the FLOPs of nodes, and record the operators that cannot be counted.

    Args:
        onnx: the imported package.
    """

    onnx: Any
    uncounted: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def of(self, node: Any, seen: Shapes) -> int | None:
        """FLOPs of a node; None if a shape is unknown, or if there is no rule, which `uncounted` then records."""
        op = operator_name(node)
        if op in CONTROL_FLOW:
            return CONTROL_FLOW[op](self, seen.nodes.get(node.output[0], node), seen)
        rule = _RULES.get(op)
        if rule is None:
            if not lacks_rule(op):
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
        except (TypeError, ValueError, IndexError, KeyError):  # an unknown side in a shape
            return None

    def inside(self, graph: Any, seen: Shapes) -> int | None:
        """FLOPs of one run of a subgraph; None if a shape in it is unknown."""
        inner, before = seen.inside(graph, self.onnx), self.uncounted.total()
        found = []
        for node in graph.node:
            flops = self.of(node, inner)
            found.append(0 if flops is None and self.uncounted.total() > before else flops)
            before = self.uncounted.total()
        return None if None in found else sum(n for n in found if n is not None)

    def branches(self, node: Any, seen: Shapes) -> int | None:
        """FLOPs of If: the branch taken if the condition is constant, else the more expensive one."""
        bodies, condition = subgraphs(node), seen.values.get(node.input[0])
        if condition is not None and condition.size == 1:
            chosen = "then_branch" if condition.item() else "else_branch"
            self.remarks.append(f"{_describe(node)}: its {chosen}, which is always taken")
            return self.inside(bodies[chosen], seen)
        found = {name: self.inside(body, seen) for name, body in bodies.items()}
        if None in found.values():
            return None
        largest = max(found, key=lambda name: found[name] or 0)
        if found[largest]:
            self.remarks.append(f"{_describe(node)}: its {largest}, the larger of two")
        return found[largest]

    def rounds(self, node: Any, seen: Shapes) -> int | None:
        """FLOPs of Loop: the body times its iteration limit; None without a constant limit."""
        limit = seen.values.get(node.input[0]) if node.input and node.input[0] else None
        if limit is None or limit.size != 1 or limit.item() >= ENDLESS:
            self.uncounted["Loop"] += 1
            return None
        count = max(int(limit.item()), 0)
        ends = "" if self._never_ends(node, seen) else " at most"
        self.remarks.append(f"{_describe(node)}: {count} iterations{ends}")
        once = self.inside(subgraphs(node)["body"], seen)
        return None if once is None else count * once

    def _never_ends(self, node: Any, seen: Shapes) -> bool:
        """Whether the loop's condition is always true, so that every iteration runs."""
        body, given = subgraphs(node)["body"], node.input[1] if len(node.input) > 1 else ""
        begun = not given or bool(np.all(seen.values.get(given, False)))
        passed, constants = {body.input[1].name}, small_constants(body, self.onnx)
        for inner in body.node:
            passed |= {inner.output[0]} if inner.op_type == "Identity" and inner.input[0] in passed else set()
        last = body.output[0].name
        return begun and (last in passed or bool(np.all(constants.get(last, False))))

    def slices(self, node: Any, seen: Shapes) -> int | None:
        """FLOPs of Scan: the body once for every slice of the scanned input."""
        known: dict[str, Any] = {a.name: [*a.ints] or a.i for a in node.attribute if a.name != "body"}
        count = known["num_scan_inputs"]
        port = seen.ports.get(node.input[len(node.input) - count])
        if port is None or port.count is None:
            return None
        length = (port.shape or ())[(known.get("scan_input_axes") or [0])[0]]
        self.remarks.append(f"{_describe(node)}: {length} iterations")
        once = self.inside(subgraphs(node)["body"], seen)
        return None if once is None else int(length or 0) * once


def _describe(node: Any) -> str:
    return f"{node.op_type} {shorten(node.name or node.output[0], 60)}"


# Operators that hold subgraphs.
CONTROL_FLOW: dict[str, Callable[[Costs, Any, Shapes], int | None]] = {
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
    """Contract the operands from left to right: each product runs over all letters of its two operands."""
    left, arrow, right = attributes["equation"].replace(" ", "").partition("->")
    terms = [_letters(term, len(shape)) for term, shape in zip(left.split(","), shapes, strict=True)]
    lengths: dict[Any, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, length in zip(term, shape, strict=True):
            lengths[letter] = max(lengths.get(letter, 1), length)  # sides of 1 broadcast
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
    """One label an axis of an operand: its letter, or a negative number for an axis under the dots."""
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
# Standard operators that multiply matrices and have no rule here.
_WITHOUT = {"LSTM", "GRU", "RNN", "Attention", "DeformConv", "DFT", "SequenceMap"}


def lacks_rule(op: str) -> bool:
    """Whether an operator may have FLOPs that no rule counts."""
    return op in _WITHOUT or ("." in op and op not in _RULES)
