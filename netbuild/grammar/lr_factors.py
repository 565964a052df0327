"""Read the learning-rate factors of a network file: by row, section or head."""

from collections.abc import Sequence

from netbuild.errors import did_you_mean
from netbuild.grammar.heads import HeadEntry
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import Row


def read_lr_factors(node: Node | None, rows: Sequence[Row], heads: Sequence[HeadEntry]) -> dict[int, float]:
    """Read learning-rate factors by row; the last wins.

    Keys are row names, numbers, ranges (0-9), sections or names of heads.
    """
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise node.error(f"'lr_factors' is a mapping such as backbone: 0.1, this is {node.describe()}")
    found: dict[int, float] = {}
    for key, value in node.value.items():
        if type(value.value) not in (int, float) or not 0 <= value.value <= 100:
            raise value.error(f"'lr_factors' of {key} must be a number from 0 to 100, not {value.describe()}")
        found |= dict.fromkeys(_find_rows(str(key), rows, heads, node.keys[key]), float(value.value))
    return found


def _find_rows(key: str, rows: Sequence[Row], heads: Sequence[HeadEntry], node: Node) -> list[int]:
    """Find the numbers of the rows that a name, a number, a range, a section or a head stands for."""
    first, dash, last = key.partition("-")
    if first.isdecimal() and (last.isdecimal() or not dash):
        found = [row.index for row in rows if int(first) <= row.index <= int(last or first)]
        if int(last or first) >= len(rows):
            raise node.error(f"'lr_factors': rows are 0 to {len(rows) - 1}, this is {key}")
    else:
        found = [row.index for row in rows if key in (row.name, row.section)]
        found += [head.row for head in heads if head.name == key and head.row not in found]
    if not found:
        known = {name for row in rows for name in (row.name, row.section) if name} | {head.name for head in heads}
        raise node.error(f"'lr_factors': no row or section '{key}'", did_you_mean(key, known))
    return found
