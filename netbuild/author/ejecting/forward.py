"""A ``forward`` in plain lines: each row a call, its output in a variable that lives as long as it is read."""

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netbuild.author.ejecting.layout import Doc, Group, lay, literal, prefixed
from netbuild.grammar.rows import INPUT
from netbuild.graph.network import Plan, Step


@dataclass(frozen=True)
class Forward:
    """The inputs' names and the lines of a body."""

    inputs: tuple[str, ...]
    lines: list[str]


def forward(plan: Plan, inputs: Sequence[str], module: Callable[[int], str]) -> Forward:
    """Write a plan down.

    Args:
        plan: the wiring.
        inputs: names as the file has them; empty for one input without a name.
        module: the text of a row's module.
    """
    readers = _readers(plan)
    # Where the input is read again later it keeps its name, and what flows gets another.
    alone = len(inputs) <= 1 and readers.get(INPUT, {0}) <= {0}
    names = ["x"] if len(inputs) <= 1 else [_identifier(name) for name in inputs]
    flowing = "x" if alone or "x" not in names else "y"
    variables = {INPUT - i: name for i, name in enumerate(names)}
    lines: list[str] = []
    for index, step in enumerate(plan.steps):
        call = _call(module(index), step, variables)
        read = readers.get(index, set())
        if index == len(plan.steps) - 1 and plan.result == (index,):
            result: Doc = Group("[", (call,), "]") if plan.listed else call
            lines += lay(prefixed("return ", result), 8)
            break
        variables[index] = flowing if read == {index + 1} else f"{flowing}{index}"
        lines += lay(prefixed(f"{variables[index]} = ", call) if read else call, 8)
    else:
        results = tuple(variables[i] for i in plan.result)
        lines += lay(prefixed("return ", Group("[", results, "]") if plan.listed else results[0]), 8)
    return Forward(tuple(names), lines)


def _readers(plan: Plan) -> dict[int, set[int]]:
    """For each value the rows that read it; the end is a reader, too."""
    found: dict[int, set[int]] = {}
    for index, step in enumerate(plan.steps):
        for source in step.sources:
            found.setdefault(source, set()).add(index)
    for value in plan.result:
        found.setdefault(value, set()).add(len(plan.steps) + 1)
    return found


def _identifier(name: str) -> str:
    """An input's name as Python takes it, that no variable has."""
    name = re.sub(r"\W+", "_", name)
    return f"{name}_" if keyword.iskeyword(name) or name == "self" or re.fullmatch(r"[xy]\d+", name) else name


def _call(module: str, step: Step, variables: dict[int, str]) -> Doc:
    """As `netbuild.graph.network.call_module` has it."""
    values: list[Doc] = [
        variables[source] + ("" if pick is None else f"[{literal(pick)}]")
        for source, pick in zip(step.sources, step.selections, strict=True)
    ]
    how, _, text = step.call_style.partition("+")
    values, last = (values[:-1], values[-1:]) if text else (values, [])
    passed = [Group("[", tuple(values), "]")] if how == "list" else values
    return Group(f"{module}(", (*passed, *last), ")")
