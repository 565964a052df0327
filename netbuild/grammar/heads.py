"""Read ``heads``: the rows of a file that are heads of one network, each with its task, weight and source of truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean, raise_all
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import Row, attempt, check_name, check_text

HEAD_KEYS = ("row", "task", "weight", "data", "nc")
MAX_WEIGHT = 1000
MAX_CLASSES = 1_000_000
EXAMPLE = "boxes: {row: detect, weight: 1.0}"


@dataclass(frozen=True)
class HeadEntry:
    """An entry of ``heads``.

    Attributes:
        name: the head's name.
        row: number of its row.
        task: its task, if the entry states one; None for that of the row's module.
        weight: weight of its loss, and of its fitness.
        data: name of the data set, or of the extra of each picture, that it learns from; None for the data set itself.
        nc: number of its classes, if that is not the file's.
        node: the entry.
    """

    name: str
    row: int
    task: str | None
    weight: float
    data: str | None
    nc: int | None
    node: Node


def read_heads(node: Node | None, rows: Sequence[Row]) -> tuple[HeadEntry, ...]:
    """Read the entries of ``heads`` in their order; none without the key.

    Raises:
        NetbuildError: with the place of every mistake.
    """
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        hint = "the rows after the backbone are a list named head" if isinstance(node.value, list) else ""
        raise node.error(f"'heads' is a mapping such as {EXAMPLE}, this is {node.describe()}", hint)
    errors: list[NetbuildError] = []
    found = [attempt(errors, _read_head, name, node.keys[name], item, rows) for name, item in node.value.items()]
    heads = [head for head in found if head is not None]
    for i, head in enumerate(heads):
        other = next((other for other in heads[:i] if other.row == head.row), None)
        if other is not None:
            message = f"the heads '{other.name}' and '{head.name}' name the same row, {rows[head.row].label}"
            errors.append(head.node.value["row"].error(message, "a row is one head; leave one of them out"))
    raise_all(errors)
    return tuple(heads)


def _read_head(name: str, key: Node, node: Node, rows: Sequence[Row]) -> HeadEntry:
    check_name(key, taken={"input"})
    if not isinstance(node.value, dict):
        raise node.error(f"the head '{name}' is a mapping such as {{row: detect, weight: 1.0}}, not {node.describe()}")
    for entry in node.value:
        if entry not in HEAD_KEYS:
            hint = did_you_mean(entry, HEAD_KEYS) or f"a head has {', '.join(HEAD_KEYS)}"
            raise node.keys[entry].error(f"the head '{name}': unknown key '{entry}'", hint)
    if "row" not in node.value:
        raise node.error(f"the head '{name}' names no row", "write row: with the name or number of its row")
    row = _find_row(name, node.value["row"], rows)
    if any(other.name == name and other.index != row for other in rows):
        raise key.error(f"the head '{name}' has the name of another row than its own", "choose another name")
    texts = {entry: check_text(node.value[entry]) for entry in ("task", "data") if _is_given(node, entry)}
    nc = _read_classes(name, node.value["nc"]) if _is_given(node, "nc") else None
    weight = _read_weight(name, node.value["weight"]) if _is_given(node, "weight") else 1.0
    return HeadEntry(name, row, texts.get("task"), weight, texts.get("data"), nc, node)


def _is_given(node: Node, key: str) -> bool:
    return key in node.value and node.value[key].value is not None


def _find_row(name: str, node: Node, rows: Sequence[Row]) -> int:
    """Find the number of the row that a head names."""
    value: Any = node.value
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        if not 0 <= int(value) < len(rows):
            raise node.error(f"the head '{name}': rows are 0 to {len(rows) - 1}, this is {value}")
        return int(value)
    found = next((row.index for row in rows if row.name and row.name == value), None)
    if found is None:
        named = [row.name for row in rows if row.name]
        listed = f"named rows: {', '.join(named)}" if named else "a row's fifth field is its name; or give its number"
        raise node.error(
            f"the head '{name}': no row is named {node.describe()}", did_you_mean(str(value), named) or listed
        )
    return found


def _read_weight(name: str, node: Node) -> float:
    if type(node.value) not in (int, float) or not 0 < node.value <= MAX_WEIGHT:
        message = f"the weight of the head '{name}' must be a number above 0 and at most {MAX_WEIGHT}"
        raise node.error(
            f"{message}, not {node.describe()}", "a head that is not to be learnt is left out, or --freeze"
        )
    return float(node.value)


def _read_classes(name: str, node: Node) -> int:
    if type(node.value) is not int or not 1 <= node.value <= MAX_CLASSES:
        message = f"nc of the head '{name}' must be a whole number from 1 to {MAX_CLASSES}"
        raise node.error(f"{message}, not {node.describe()}")
    return node.value
