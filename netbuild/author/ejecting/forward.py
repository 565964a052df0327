"""Writes a ``forward`` method: a statement per row, whose output is a variable until its last reader."""

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netbuild.author.ejecting.layout import Doc, Group, add_prefix, to_lines, to_literal
from netbuild.grammar.rows import INPUT
from netbuild.graph.network import Plan, Step


@dataclass(frozen=True)
class ForwardBody:
    """The names of the inputs and the lines of the method's body."""

    inputs: tuple[str, ...]
    lines: list[str]


def write_forward(plan: Plan, inputs: Sequence[str], module: Callable[[int], str]) -> ForwardBody:
    """Write the body of ``forward`` for a plan.

    Args:
        plan: the wiring of the rows.
        inputs: the names of the inputs in the network's file; empty for one input without a name.
        module: returns the expression of a row's module.
    """
    readers = _find_readers(plan)
    # If a later row reads the input again, it keeps its name and the rows' outputs get another.
    alone = len(inputs) <= 1 and readers.get(INPUT, {0}) <= {0}
    names = ["x"] if len(inputs) <= 1 else [_to_identifier(name) for name in inputs]
    flowing = "x" if alone or "x" not in names else "y"
    variables = {INPUT - i: name for i, name in enumerate(names)}
    lines: list[str] = []
    for index, step in enumerate(plan.steps):
        call = _format_call(module(index), step, variables)
        read = readers.get(index, set())
        if index == len(plan.steps) - 1 and plan.result == (index,):
            result: Doc = Group("[", (call,), "]") if plan.listed else call
            lines += to_lines(add_prefix("return ", result), 8)
            break
        variables[index] = flowing if read == {index + 1} else f"{flowing}{index}"
        lines += to_lines(add_prefix(f"{variables[index]} = ", call) if read else call, 8)
    else:
        results = tuple(variables[i] for i in plan.result)
        lines += to_lines(add_prefix("return ", Group("[", results, "]") if plan.listed else results[0]), 8)
    return ForwardBody(tuple(names), lines)


def _find_readers(plan: Plan) -> dict[int, set[int]]:
    """Return the rows that read each value; the return statement counts as a reader after the last row."""
    found: dict[int, set[int]] = {}
    for index, step in enumerate(plan.steps):
        for source in step.sources:
            found.setdefault(source, set()).add(index)
    for value in plan.result:
        found.setdefault(value, set()).add(len(plan.steps) + 1)
    return found


def _to_identifier(name: str) -> str:
    """Return an input's name as a Python identifier that no variable has."""
    name = re.sub(r"\W+", "_", name)
    return f"{name}_" if keyword.iskeyword(name) or name == "self" or re.fullmatch(r"[xy]\d+", name) else name


def _format_call(module: str, step: Step, variables: dict[int, str]) -> Doc:
    """Format the call of a row's module, as `netbuild.graph.network.call_module` makes it."""
    values: list[Doc] = [
        variables[source] + ("" if selection is None else f"[{to_literal(selection)}]")
        for source, selection in zip(step.sources, step.selections, strict=True)
    ]
    style, _, text = step.call_style.partition("+")
    values, last = (values[:-1], values[-1:]) if text else (values, [])
    passed = [Group("[", tuple(values), "]")] if style == "list" else values
    return Group(f"{module}(", (*passed, *last), ")")
