"""Read the repeats of a row."""

from typing import Any

from netbuild.grammar import expressions
from netbuild.grammar.nodes import Node

MAX_REPEATS = 1_000


def read_repeats(node: Node, index: int, names: set[str]) -> int | Node:
    """Return the repeats of a row, or the field itself if it is an expression over names.

    Args:
        node: the field.
        index: number of the row.
        names: the names that expressions may use.

    Raises:
        NetbuildError: for any other value than a whole number from 1 to `MAX_REPEATS`.
    """
    # An expression is evaluated when the scale and the parameters of a block are known.
    if isinstance(node.value, str) and (
        node.value in names or expressions.looks_arithmetic(node.value, dict.fromkeys(names))
    ):
        return node
    return check_repeats(node.value, node, index)


def check_repeats(value: Any, node: Node, index: int) -> int:
    """Check that the repeats of a row are a whole number from 1 to `MAX_REPEATS`, and return them.

    Args:
        value: the repeats.
        node: the field, for the place of errors.
        index: number of the row.

    Raises:
        NetbuildError: at ``node`` for any other value.
    """
    if type(value) is not int or value < 1:
        hint = "the order is [from, repeats, module, args]" if isinstance(value, str) else ""
        raise node.error(f"row {index}: repeats must be a whole number of at least 1, not {node.describe()}", hint)
    if value > MAX_REPEATS:
        raise node.error(f"row {index}: {value} repeats; the limit is {MAX_REPEATS}")
    return value
