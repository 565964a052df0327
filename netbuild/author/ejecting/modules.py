"""The source text of a module, parsed: its statements, their places in bytes, and what its names are bound to."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITION = (*FUNCTION, ast.ClassDef)


@dataclass(frozen=True)
class Import:
    """An import of one name: the dotted name that it refers to, and the statement that binds it."""

    target: str
    statement: str  # with {} as the place of an optional `as` and name
    plain: str  # the name bound without `as`
    binds: str  # the name bound where it was found
    also: str = ""  # a statement that loads a submodule

    @property
    def top(self) -> str:
        """The top-level package."""
        return self.target.split(".")[0]

    def line(self, name: str) -> str:
        """Return the statement that binds the import to `name`."""
        return self.statement.format("" if name == self.plain else f" as {name}")


class Module:
    """A module's source, parsed, and what its global names are bound to.

    Args:
        name: the module's dotted name.
        text: its source.
        more: further source, whose definitions replace those of the same names.
    """

    def __init__(self, name: str, text: str, more: str = "") -> None:
        self.name = name
        self.data = (text.rstrip() + "\n\n\n" + more if more else text).encode()
        self.tree = ast.parse(self.data)
        self.names: dict[str, ast.stmt | Import] = {}
        for statement in self.tree.body:
            self.names.update(bound_names(statement, name))

    @cached_property
    def starts(self) -> list[int]:
        """The byte offset of each line."""
        return [0, *(m.end() for m in re.finditer(rb"\n", self.data)), len(self.data)]

    def span(self, statement: ast.stmt) -> tuple[int, int]:
        """Return a statement's byte range in whole lines, with its decorators and the comment right above it."""
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]) - 1
        while first and self.line(first - 1).lstrip().startswith(b"#"):
            first -= 1
        return self.starts[first], self.starts[statement.end_lineno or statement.lineno]

    def line(self, number: int) -> bytes:
        """Return the bytes of a line; the first is number 0."""
        return self.data[self.starts[number] : self.starts[number + 1]]

    def place(self, node: ast.expr) -> tuple[int, int]:
        """Return an expression's byte range."""
        begin = self.starts[node.lineno - 1] + node.col_offset
        return begin, self.starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)


def bound_names(statement: ast.stmt, home: str) -> Iterator[tuple[str, ast.stmt | Import]]:
    """Yield the names that a statement of the module `home` binds, each with what it is bound to."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield from _imported_names(statement, home)
    elif isinstance(statement, DEFINITION):
        yield statement.name, statement
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, statement
            elif isinstance(node, DEFINITION):
                yield node.name, statement
            elif isinstance(node, ast.alias):
                yield (node.asname or node.name).split(".")[0], statement


def _imported_names(statement: ast.Import | ast.ImportFrom, home: str) -> Iterator[tuple[str, Import]]:
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            module = _absolute_name(statement, home)
            form = f"from {module} import {alias.name}"
            name = alias.asname or alias.name
            yield name, Import(f"{module}.{alias.name}", form + "{}", alias.name, name)
        elif alias.asname:
            yield alias.asname, Import(alias.name, f"import {alias.name}" + "{}", alias.name, alias.asname)
        else:
            top = alias.name.split(".")[0]
            also = f"import {alias.name}" if alias.name != top else ""
            yield top, Import(top, f"import {top}" + "{}", top, top, also)


def _absolute_name(statement: ast.ImportFrom, home: str) -> str:
    if not statement.level:
        return statement.module or ""
    is_package = hasattr(sys.modules.get(home), "__path__")
    parts = home.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def first_name(statement: ast.stmt, home: str) -> str:
    """Return the first name that a statement binds."""
    return next(name for name, _ in bound_names(statement, home))


def apply_edits(data: bytes, begin: int, end: int, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Return data[begin:end] with byte ranges replaced; an edit inside an earlier one is skipped."""
    parts, at = [], begin
    for start, stop, new in sorted(edits):
        if start >= at:
            parts += [data[at:start], new]
            at = stop
    return b"".join([*parts, data[at:end]])
