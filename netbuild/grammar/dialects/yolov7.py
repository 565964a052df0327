"""YOLOv7: an activation as sixth argument of Conv, which has no dilation there, and sums that name an axis."""

from netbuild.grammar.dialects.base import (
    Dialect,
    list_rows,
    make_node,
    map_rows,
    read_arguments,
    read_module,
    replace_arguments,
    replace_module,
)
from netbuild.grammar.nodes import Node

HEADS = ("IDetect", "IAuxDetect", "ISegment")


def _names_activation(row: Node) -> bool:
    arguments = read_arguments(row)
    return read_module(row) == "Conv" and len(arguments) == 6 and not isinstance(arguments[5].value, int | float | dict)


def _recognise(root: Node) -> bool:
    return any(read_module(row) in (*HEADS, "Shortcut") or _names_activation(row) for row in list_rows(root))


def _translate_row(row: Node) -> Node:
    if read_module(row) == "Shortcut":
        return replace_arguments(replace_module(row, "Add"), [])
    if _names_activation(row):
        *others, activation = read_arguments(row)
        return replace_arguments(row, [*others, make_node(1, activation), activation])
    return row


DIALECT = Dialect("YOLOv7", _recognise, lambda root, notes: map_rows(root, _translate_row))
