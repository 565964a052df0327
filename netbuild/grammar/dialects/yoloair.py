"""yoloair: the key ``loss``, and modules that are others than those of the same name where rows give a width."""

from netbuild.errors import shorten
from netbuild.grammar.dialects.base import (
    Dialect,
    drop_keys,
    list_rows,
    map_rows,
    read_arguments,
    read_module,
    replace_module,
)
from netbuild.grammar.nodes import Node

LEAST_WIDTH = 64  # the first argument of CARAFE and CBAM is else a kernel size
_OF_WIDTH = {"CARAFE": "CARAFE_yoloair", "CBAM": "CBAM_mlp"}


def _gives_width(row: Node) -> bool:
    arguments = read_arguments(row) if read_module(row) in _OF_WIDTH else []
    return bool(arguments) and type(arguments[0].value) is int and arguments[0].value >= LEAST_WIDTH


def _names_loss(root: Node) -> bool:
    return "loss" in root.value and "backbone" in root.value and isinstance(root.value["loss"].value, str)


def _translate(root: Node, notes: list[str]) -> Node:
    if _names_loss(root):
        node = root.value["loss"]
        name = shorten(node.value, 40) if node.value.isprintable() else "..."
        notes.append(f"line {node.where.line}: loss: {name} has no effect: the loss of training is that of the head")
        root = drop_keys(root, "loss")
    return map_rows(root, lambda row: replace_module(row, _OF_WIDTH[read_module(row)]) if _gives_width(row) else row)


DIALECT = Dialect("yoloair", lambda root: _names_loss(root) or any(map(_gives_width, list_rows(root))), _translate)
