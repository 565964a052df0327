"""yoloair: the top-level key ``loss`` names the loss of training, which here is that of the head."""

from netbuild.errors import shorten
from netbuild.grammar.dialects.base import Dialect, drop_keys
from netbuild.grammar.nodes import Node


def _recognise(root: Node) -> bool:
    return "loss" in root.value and "backbone" in root.value and isinstance(root.value["loss"].value, str)


def _translate(root: Node, notes: list[str]) -> Node:
    node = root.value["loss"]
    name = shorten(node.value, 40) if node.value.isprintable() else "..."
    notes.append(f"line {node.where.line}: loss: {name} has no effect: the loss of training is that of the head")
    return drop_keys(root, "loss")


DIALECT = Dialect("yoloair", _recognise, _translate)
