"""A row's own lines in its file."""

from textwrap import dedent
from typing import Any

import yaml

from netbuild.grammar.nodes import Node

MAX_LINES = 40  # of a row; more are left out


def written(node: Node) -> str:
    """The lines of the file on which a node stands, from its first to its last, with their comments."""
    lines = node.source.lines[node.line : node.line + MAX_LINES]
    count = _last_line(lines, node.column) + 1
    return dedent("\n".join(lines[:count])).rstrip()


def _last_line(lines: list[str], column: int) -> int:
    """The last line of the value that begins at a column of the first one; what follows it may be anything."""
    depth, last = 0, 0
    try:
        # Blanks in place of what stands before it keep the indentation that later lines have.
        for event in yaml.parse("\n".join([" " * column + lines[0][column:], *lines[1:]]), Loader=yaml.SafeLoader):
            if isinstance(event, (yaml.events.NodeEvent, yaml.events.CollectionEndEvent)):
                start: Any = event.start_mark
                end: Any = event.end_mark
                # The end of a block collection is where the next thing begins, and has no length.
                if end.index > start.index or isinstance(event, yaml.events.ScalarEvent):
                    last = end.line
                depth += isinstance(event, yaml.events.CollectionStartEvent)
                depth -= isinstance(event, yaml.events.CollectionEndEvent)
                if depth == 0:
                    break
    except yaml.YAMLError:  # cut off by the limit, or what follows makes no sense without what precedes
        return last
    return last
