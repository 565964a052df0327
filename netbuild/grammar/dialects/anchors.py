"""Heads with anchor boxes as YOLOv5 writes them: ``Detect, [nc, anchors]``, ``Segment, [nc, anchors, nm, npr]``."""

from netbuild.grammar.dialects.base import (
    Dialect,
    list_rows,
    map_rows,
    read_arguments,
    read_module,
    replace_module,
)
from netbuild.grammar.nodes import Node

MOST_ANCHORS = 9  # of a level, where a row writes their number in place of their sizes
_HEADS = {"Detect": "AnchorDetect", "Segment": "AnchorSegment"}


def has_anchors(row: Node) -> bool:
    """Whether a row is a head whose second argument is anchors: their name, their sizes, or their number."""
    module, arguments = read_module(row), read_arguments(row)
    if module not in _HEADS or len(arguments) < 2:
        return False
    value = arguments[1].value
    if isinstance(value, list) or value == "anchors":
        return True
    # Of Segment the second argument is the number of masks, unless there are four.
    is_number = type(value) is int and 1 <= value <= MOST_ANCHORS
    return is_number and len(arguments) == (2 if module == "Detect" else 4)


def _translate_row(row: Node) -> Node:
    return replace_module(row, _HEADS[read_module(row)]) if has_anchors(row) else row


DIALECT = Dialect(
    "YOLOv5 with anchors",
    lambda root: any(map(has_anchors, list_rows(root))),
    lambda root, notes: map_rows(root, _translate_row),
)
