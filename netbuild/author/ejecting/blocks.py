"""Blocks of a file as classes: one for all uses that differ in values only, which become its parameters."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netbuild.author.ejecting.calls import Argument, Expansion, Hole, Made
from netbuild.author.ejecting.sources import Key
from netbuild.graph.network import Plan

Row = tuple[Made, ...]


@dataclass
class BlockClass:
    """A class for uses of a block: its parameters, and the calls of its rows with these as holes."""

    name: str
    key: Key
    uses: list[Expansion]
    parameters: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    given: dict[int, tuple[Any, ...]] = field(default_factory=dict)  # by the id of a use

    @property
    def first(self) -> Expansion:
        """Its first use."""
        return self.uses[0]

    def call(self, use: Expansion) -> Made:
        """The call that makes the block for a use."""
        values = self.given[id(use)]
        leading = next((i for i, value in enumerate(values) if type(value) is not int), len(values))
        pairs = zip(self.parameters, values, strict=True)
        return Made(self.key, "", tuple(Argument(name, value, i >= leading) for i, (name, value) in enumerate(pairs)))


class Blocks:
    """The classes that the blocks among rows become."""

    def __init__(self, rows: Sequence[Sequence[Made | Expansion]]) -> None:
        self._by_structure: dict[Any, BlockClass] = {}
        self._of: dict[int, BlockClass] = {}
        for call in (call for row in rows for call in row):
            if isinstance(call, Expansion):
                self._structure(call)
        for block in self.classes:
            self._fill(block)

    @property
    def classes(self) -> list[BlockClass]:
        """All of them, each after those that it uses."""
        return list(self._by_structure.values())

    def calls(self, row: Sequence[Made | Expansion]) -> Row:
        """A row's calls, blocks as calls of their classes."""
        return tuple(self._of[id(c)].call(c) if isinstance(c, Expansion) else c for c in row)

    def _structure(self, use: Expansion) -> Any:
        """What uses of one class have in common: all but values."""
        rows = tuple(tuple(map(self._call_structure, row)) for row in use.rows)
        structure = (use.name, use.inside.keys, _wiring(use.inside.plan), use.inside.inputs, rows)
        if structure not in self._by_structure:
            key = ("block", str(len(self._by_structure)))
            self._by_structure[structure] = BlockClass(use.name, key, [])
        self._of[id(use)] = self._by_structure[structure]
        self._of[id(use)].uses.append(use)
        return structure

    def _call_structure(self, call: Made | Expansion) -> Any:
        if isinstance(call, Expansion):
            return self._structure(call)
        return call.key, call.suffix, tuple((a.name, a.named) for a in call.args)

    def _fill(self, block: BlockClass) -> None:
        """Decide on the parameters: values that are not the same at all uses, those alike at each use as one."""
        resolved = [tuple(map(self.calls, use.rows)) for use in block.uses]
        columns = list(zip(*(list(_values(rows)) for rows in resolved), strict=True))
        holes: dict[str, tuple[str, tuple[Any, ...]]] = {}
        for column in columns:
            texts = [repr(a.value) for a in column]
            if len(set(texts)) > 1 and repr(texts) not in holes:
                name = self._name(block, column, {taken for taken, _ in holes.values()})
                holes[repr(texts)] = name, tuple(a.value for a in column)
        order = list(block.first.inside.names)
        chosen = sorted(holes.values(), key=lambda h: order.index(h[0]) if h[0] in order else len(order))
        block.parameters = tuple(name for name, _ in chosen)
        for i, use in enumerate(block.uses):
            block.given[id(use)] = tuple(values[i] for _, values in chosen)
        fills = iter([holes.get(repr([repr(a.value) for a in column])) for column in columns])
        block.rows = tuple(tuple(_with_holes(call, fills) for call in row) for row in resolved[0])

    def _name(self, block: BlockClass, column: Sequence[Argument], taken: set[str]) -> str:
        """What a parameter is called: as in the file if it is one there, else as the inner module calls it."""
        for name in block.first.inside.names:
            known = [repr(use.inside.names.get(name)) for use in block.uses]
            if name not in taken and known == [repr(a.value) for a in column]:
                return name
        return unique(column[0].name, taken | set(block.first.inside.names))


def _wiring(plan: Plan) -> Any:
    return tuple((s.sources, s.call_style, s.selections) for s in plan.steps), plan.result, plan.listed


def _values(rows: Sequence[Row]) -> Iterator[Argument]:
    for row in rows:
        for call in row:
            yield from call.args


def _with_holes(call: Made, fills: Iterator[tuple[str, Any] | None]) -> Made:
    holes = [(argument, next(fills)) for argument in call.args]
    return replace(call, args=tuple(a._replace(value=Hole(hole[0])) if hole else a for a, hole in holes))


def unique(name: str, taken: set[str]) -> str:
    """A name that is not taken, as an identifier."""
    name = re.sub(r"\W+", "_", name)
    if name not in taken:
        return name
    stem = f"{name}_" if name[-1].isdigit() else name
    return next(f"{stem}{i}" for i in range(2, 10_000) if f"{stem}{i}" not in taken)
