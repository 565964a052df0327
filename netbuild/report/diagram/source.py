"""Finds the text of a row in its file."""

from textwrap import dedent
from typing import Any

import yaml

from netbuild.grammar.nodes import Node

MAX_LINES = 40  # lines of a row's text; further ones are left out


def row_text(node: Node) -> str:
    """Return the lines of the file that a YAML node spans, with their comments."""
    lines = node.source.lines[node.line : node.line + MAX_LINES]
    count = _find_last_line(lines, node.column) + 1
    return dedent("\n".join(lines[:count])).rstrip()


def _find_last_line(lines: list[str], column: int) -> int:
    """Return the index of the last line of the YAML value that begins at a column of the first line.

    The lines after the value need not be valid YAML.
    """
    depth, last = 0, 0
    try:
        # The text before the value is replaced by blanks, so that later lines keep their relative indentation.
        for event in yaml.parse("\n".join([" " * column + lines[0][column:], *lines[1:]]), Loader=yaml.SafeLoader):
            if isinstance(event, (yaml.events.NodeEvent, yaml.events.CollectionEndEvent)):
                start: Any = event.start_mark
                end: Any = event.end_mark
                # The end of a block collection has no length and lies where the next node begins: it is no last line.
                if end.index > start.index or isinstance(event, yaml.events.ScalarEvent):
                    last = end.line
                depth += isinstance(event, yaml.events.CollectionStartEvent)
                depth -= isinstance(event, yaml.events.CollectionEndEvent)
                if depth == 0:
                    break
    except yaml.YAMLError:  # cut off by the limit, or lines that are invalid without those before the value
        return last
    return last
