"""Top-level keys that rows use by name: modules and arguments (``node_mode: C2f``), and other names of known keys.

Rows of large forks of Ultralytics read such keys where they need a module (``[-1, 3, node_mode, [256]]``), an option
(``[fusion_mode]``) or a width (``[-1, 1, Conv, [head_channel]]``), which is then scaled as one that is written there.
"""

from collections.abc import Iterator, Mapping

from netbuild.grammar.dialects.base import (
    Dialect,
    list_rows,
    map_rows,
    read_arguments,
    read_module,
    rename_key,
    replace_arguments,
    replace_module,
)
from netbuild.grammar.keys import KNOWN_KEYS
from netbuild.grammar.nodes import Node

RENAMED = {"n_classes": "nc", "input_channel": "ch", "act": "activation"}


def _find_values(root: Node) -> dict[str, Node]:
    """Find the keys that netbuild does not know, that hold a single value and that a row uses."""
    unknown = {
        key: node
        for key, node in root.value.items()
        if key not in KNOWN_KEYS and isinstance(node.value, str | int | float)
    }
    used = {name for row in list_rows(root) for name in _list_names(row)} if unknown else set()
    return {key: node for key, node in unknown.items() if key in used}


def _list_names(row: Node) -> Iterator[str]:
    """Yield the module of a row and the texts among its arguments."""
    yield read_module(row)
    stack = [*read_arguments(row)]
    while stack:
        node = stack.pop()
        if isinstance(node.value, str) and not node.quoted:
            yield node.value
        elif isinstance(node.value, list):
            stack += node.value
        elif isinstance(node.value, dict):
            stack += node.value.values()


def _recognise(root: Node) -> bool:
    return "backbone" in root.value and bool(_find_values(root) or set(RENAMED) & set(root.value))


def translate(root: Node) -> Node:
    """Put the values of such keys into the rows, and give known keys netbuild's names."""
    values = {key: node.value for key, node in _find_values(root).items()}
    for key, name in RENAMED.items():
        if key in root.value:
            root = rename_key(root, key, name)
            values[key] = name
    used = {key: root.keys[key] for key in values if key in root.keys}

    def change(row: Node) -> Node:
        module = values.get(read_module(row))
        row = replace_module(row, module) if isinstance(module, str) else row
        arguments = read_arguments(row)
        return replace_arguments(row, [_substitute(node, values) for node in arguments]) if arguments else row

    root = map_rows(root, change)
    return root.with_value(
        {key: node for key, node in root.value.items() if key not in used},
        {key: node for key, node in root.keys.items() if key not in used},
    )


def _substitute(node: Node, values: Mapping[str, object]) -> Node:
    """Put the values in place of their names in an argument."""
    if isinstance(node.value, list):
        return node.with_value([_substitute(item, values) for item in node.value])
    if isinstance(node.value, dict):
        return node.with_value({key: _substitute(item, values) for key, item in node.value.items()})
    return node.with_value(values[node.value]) if isinstance(node.value, str) and node.value in values else node


DIALECT = Dialect("named values", _recognise, lambda root, notes: translate(root))
