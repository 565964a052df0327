"""Rows that are written anew with other numbers than in the file that they come from."""

from typing import Any

from netbuild.grammar.dialects.base import make_node
from netbuild.grammar.nodes import Node


class RowWriter:
    """Collects the rows of a translated file; one row of the file may become several.

    Attributes:
        rows: the rows so far.
        names: numbers of the rows that the file names.
    """

    def __init__(self) -> None:
        self.rows: list[Node] = []
        self.names: dict[str, int] = {}
        self._last: list[int] = []  # the new number of each row of the file

    def find_sources(self, node: Node, first: int = 0) -> Node:
        """Return the sources of a file's next row, by the numbers of the new rows.

        Args:
            node: a number, counted from the end if negative, a name, or a list of them.
            first: the number of the file's first row; those before it are the image.
        """
        if isinstance(node.value, list):
            return node.with_value([self.find_sources(item, first) for item in node.value])
        value: Any = node.value
        if isinstance(value, str) and value in self.names:
            return node.with_value(self.names[value])
        if type(value) is not int:
            return node
        index = len(self._last) + value if value < 0 else value - first
        if index == -1:
            return node.with_value("input")
        return node.with_value(self._last[index]) if 0 <= index < len(self._last) else node

    def add(self, row: Node, sources: Node, n: Any, module: Node, arguments: list[Node]) -> None:
        """Add a new row at the place of a row of the file."""
        fields = [sources, make_node(n, row), module, make_node(arguments, row)]
        self.rows.append(row.with_value(fields, {}))

    def end_row(self, name: str | None = None) -> None:
        """Take the last new row as the output of a row of the file."""
        self._last.append(len(self.rows) - 1)
        if name:
            self.names[name] = self._last[-1]

    def skip_row(self) -> None:
        """Count a row of the file that no new row stands for."""
        self._last.append(self._last[-1] if self._last else -1)
