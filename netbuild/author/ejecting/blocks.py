"""Turns the blocks of a network file into classes: one class for all uses that differ only in values of arguments."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netbuild.author.ejecting.calls import Argument, BlockUse, ModuleCall, ParameterName
from netbuild.author.ejecting.sources import Key
from netbuild.graph.network import Plan

Row = tuple[ModuleCall, ...]


@dataclass
class BlockClass:
    """The class of a block.

    Args:
        name: the block's name.
        key: identifies the class.
        uses: the uses of the block that share the class.
        parameters: the names of the class's parameters.
        rows: the calls of the block's rows, in which parameters stand for the values that differ.
        arguments: the values of the parameters by the id of a use.
    """

    name: str
    key: Key
    uses: list[BlockUse]
    parameters: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    arguments: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def first(self) -> BlockUse:
        """The first use."""
        return self.uses[0]

    def make_call(self, use: BlockUse) -> ModuleCall:
        """Return the call that creates the block for a use."""
        values = self.arguments[id(use)]
        leading = next((i for i, value in enumerate(values) if type(value) is not int), len(values))
        pairs = enumerate(zip(self.parameters, values, strict=True))
        return ModuleCall(self.key, "", tuple(Argument(name, value, i >= leading) for i, (name, value) in pairs))


class BlockClasses:
    """The classes of the blocks that rows use."""

    def __init__(self, rows: Sequence[Sequence[ModuleCall | BlockUse]]) -> None:
        self._by_structure: dict[Any, BlockClass] = {}
        self._by_use: dict[int, BlockClass] = {}
        for call in (call for row in rows for call in row):
            if isinstance(call, BlockUse):
                self._register(call)
        for block in self.classes:
            self._choose_parameters(block)

    @property
    def classes(self) -> list[BlockClass]:
        """All classes, each after those that it uses."""
        return list(self._by_structure.values())

    def resolve_row(self, row: Sequence[ModuleCall | BlockUse]) -> Row:
        """Return a row's calls, with block uses replaced by calls of their classes."""
        return tuple(self._by_use[id(c)].make_call(c) if isinstance(c, BlockUse) else c for c in row)

    def _register(self, use: BlockUse) -> Any:
        """Add a use to the class of its structure, which is all but the arguments' values; return the structure."""
        rows = tuple(tuple(map(self._call_structure, row)) for row in use.rows)
        structure = (use.name, use.inside.keys, _wiring_of(use.inside.plan), use.inside.inputs, rows)
        if structure not in self._by_structure:
            key = ("block", str(len(self._by_structure)))
            self._by_structure[structure] = BlockClass(use.name, key, [])
        self._by_use[id(use)] = self._by_structure[structure]
        self._by_use[id(use)].uses.append(use)
        return structure

    def _call_structure(self, call: ModuleCall | BlockUse) -> Any:
        if isinstance(call, BlockUse):
            return self._register(call)
        return call.key, call.suffix, tuple((a.name, a.named) for a in call.args)

    def _choose_parameters(self, block: BlockClass) -> None:
        """Make parameters of the arguments whose values differ between uses.

        Arguments that have the same values as each other at every use share a parameter.
        """
        resolved = [tuple(map(self.resolve_row, use.rows)) for use in block.uses]
        columns = list(zip(*(list(_arguments(rows)) for rows in resolved), strict=True))  # an argument at all uses
        found: dict[str, tuple[str, tuple[Any, ...]]] = {}
        for column in columns:
            texts = [repr(a.value) for a in column]
            if len(set(texts)) > 1 and repr(texts) not in found:
                name = self._name_parameter(block, column, {taken for taken, _ in found.values()})
                found[repr(texts)] = name, tuple(a.value for a in column)
        # Parameters of the block's file come first, in their order there.
        order = list(block.first.inside.names)
        chosen = sorted(found.values(), key=lambda p: order.index(p[0]) if p[0] in order else len(order))
        block.parameters = tuple(name for name, _ in chosen)
        for i, use in enumerate(block.uses):
            block.arguments[id(use)] = tuple(values[i] for _, values in chosen)
        replacements = iter([found.get(repr([repr(a.value) for a in column])) for column in columns])
        block.rows = tuple(tuple(_insert_parameters(call, replacements) for call in row) for row in resolved[0])

    def _name_parameter(self, block: BlockClass, column: Sequence[Argument], taken: set[str]) -> str:
        """Name a parameter as in the block's file if it is a parameter there, else as in the inner module."""
        for name in block.first.inside.names:
            known = [repr(use.inside.names.get(name)) for use in block.uses]
            if name not in taken and known == [repr(a.value) for a in column]:
                return name
        return unique_name(column[0].name, taken | set(block.first.inside.names))


def _wiring_of(plan: Plan) -> Any:
    return tuple((s.sources, s.call_style, s.selections) for s in plan.steps), plan.result, plan.listed


def _arguments(rows: Sequence[Row]) -> Iterator[Argument]:
    for row in rows:
        for call in row:
            yield from call.args


def _insert_parameters(call: ModuleCall, replacements: Iterator[tuple[str, Any] | None]) -> ModuleCall:
    """Replace each argument of a call by the name of a parameter, if the next replacement is one."""
    pairs = [(argument, next(replacements)) for argument in call.args]
    return replace(call, args=tuple(a._replace(value=ParameterName(new[0])) if new else a for a, new in pairs))


def unique_name(name: str, taken: set[str]) -> str:
    """Return the name as an identifier, with a number if it is taken."""
    name = re.sub(r"\W+", "_", name)
    if name not in taken:
        return name
    stem = f"{name}_" if name[-1].isdigit() else name
    return next(f"{stem}{i}" for i in range(2, 10_000) if f"{stem}{i}" not in taken)
