"""What dialects share: the description of a dialect, and functions that read and change the rows of a file's tree."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import SECTIONS


@dataclass(frozen=True)
class Dialect:
    """A dialect.

    Attributes:
        name: the name that summaries show.
        recognise: tells whether a file, whose tree it gets, is written in the dialect.
        translate: returns the file's tree in netbuild's own grammar; notes for the user are added to the list.
    """

    name: str
    recognise: Callable[[Node], bool]
    translate: Callable[[Node, list[str]], Node]


def list_rows(root: Node) -> Iterator[Node]:
    """Yield the rows of the sections backbone, neck and head that name a module and are lists or mappings."""
    for section in SECTIONS:
        if section != "layers" and section in root.value and isinstance(root.value[section].value, list):
            yield from (row for row in root.value[section].value if read_module(row))


def map_rows(root: Node, change: Callable[[Node], Node]) -> Node:
    """Return a file's tree with each row of `list_rows` changed by a function."""
    value = dict(root.value)
    for section in SECTIONS:
        if section != "layers" and section in value and isinstance(value[section].value, list):
            rows = [change(row) if read_module(row) else row for row in value[section].value]
            value[section] = value[section].with_value(rows)
    return root.with_value(value)


def read_module(row: Node) -> str:
    """Return the name of a row's module; an empty text for what is no row."""
    node = read_field(row, 2, "module")
    return node.value if node is not None and isinstance(node.value, str) else ""


def read_arguments(row: Node) -> list[Node]:
    """Return the positional arguments of a row, a mapping at their end included; none for what is no list."""
    node = read_field(row, 3, "args")
    return node.value if node is not None and isinstance(node.value, list) else []


def read_field(row: Node, position: int, key: str) -> Node | None:
    """Return a field of a row, by its position in a list and by its key in a mapping; None if the row lacks it."""
    if isinstance(row.value, list):
        return row.value[position] if len(row.value) > position else None
    return row.value.get(key) if isinstance(row.value, dict) else None


def replace_module(row: Node, name: str) -> Node:
    """Return a row with another module."""
    node = read_field(row, 2, "module")
    assert node is not None
    return _replace_field(row, 2, "module", node.with_value(name))


def replace_arguments(row: Node, arguments: list[Node]) -> Node:
    """Return a row with other arguments."""
    node = read_field(row, 3, "args")
    return _replace_field(row, 3, "args", (row if node is None else node).with_value(arguments))


def _replace_field(row: Node, position: int, key: str, node: Node) -> Node:
    if isinstance(row.value, dict):
        return row.with_value({**row.value, key: node}, {**row.keys, key: row.keys.get(key, node)})
    return row.with_value([*row.value[:position], node, *row.value[position + 1 :]])


def rename_key(root: Node, key: str, name: str) -> Node:
    """Return a file's tree with another name for a top-level key; a key of that name, if there is one, stays."""
    value, keys = dict(root.value), dict(root.keys)
    node, place = value.pop(key), keys.pop(key)
    if name not in value:
        value[name], keys[name] = node, place.with_value(name)
    return root.with_value(value, keys)


def drop_keys(root: Node, *names: str) -> Node:
    """Return a file's tree without some top-level keys."""
    value = {key: node for key, node in root.value.items() if key not in names}
    return root.with_value(value, {key: root.keys[key] for key in value})


def make_node(value: Any, place: Node) -> Node:
    """Make a node, with those of its items, at the place of another."""
    if isinstance(value, Node):
        return value
    if isinstance(value, list | tuple):
        return place.with_value([make_node(item, place) for item in value], {})
    if isinstance(value, dict):
        keys = {key: place.with_value(key, {}) for key in value}
        return place.with_value({key: make_node(item, place) for key, item in value.items()}, keys)
    return place.with_value(value, {})
