"""The top-level keys of a file; for those that hold a single value the function that reads and checks it.

The messages begin with a verb: the caller puts the key before them.
"""

from collections.abc import Callable
from typing import Any

from netbuild.errors import did_you_mean
from netbuild.grammar import expressions
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_CHANNELS, SECTIONS, check_text

MAX_SIDE = 32_768  # pixels
INITIAL = ("he",)  # initialisations of weights, see netbuild.layers.initial


def _integer_reader(low: int, high: int) -> Callable[[Node], int]:
    """Make a function that reads a whole number from ``low`` to ``high``."""

    def read(node: Node) -> int:
        if type(node.value) is not int or not low <= node.value <= high:
            raise node.error(f"must be a whole number from {low} to {high}, not {node.describe()}")
        return node.value

    return read


def read_multiple(node: Node) -> float:
    """Read a depth or width multiple."""
    if type(node.value) not in (int, float) or not 0 < node.value <= 100:
        raise node.error(f"must be a number above 0 and at most 100, not {node.describe()}")
    return float(node.value)


def _read_norm_eps(node: Node) -> float:
    """Read the constant that batch norms add to the variance."""
    if type(node.value) not in (int, float) or not 0 < node.value < 1:
        raise node.error(f"must be a number between 0 and 1, such as 1.0e-5, not {node.describe()}")
    return float(node.value)


def _read_flag(node: Node) -> bool:
    # Files for other tools have "None" and "True" in quotes.
    value = expressions.WORDS.get(node.value, node.value) if isinstance(node.value, str) else node.value
    if value is not None and not isinstance(value, bool):
        raise node.error(f"must be true or false, not {node.describe()}")
    return bool(value)


def _read_image_size(node: Node) -> tuple[int, int]:
    side = _integer_reader(1, MAX_SIDE)
    if isinstance(node.value, list):
        if len(node.value) != 2:
            raise node.error(f"must be one number or [height, width], not {len(node.value)} numbers")
        return side(node.value[0]), side(node.value[1])
    return side(node), side(node)


def _read_keypoint_shape(node: Node) -> list[int]:
    if not isinstance(node.value, list) or len(node.value) != 2:
        raise node.error("must be [number of keypoints, 2 or 3]")
    return [_integer_reader(1, 10_000)(node.value[0]), _integer_reader(2, 3)(node.value[1])]


def _read_anchors(node: Node) -> int | list[list[float]]:
    """Read the number of anchor boxes per level, or the widths and heights of these boxes level by level."""
    value = node.plain()
    levels = value if isinstance(value, list) else []
    if levels and all(isinstance(level, list) and level and len(level) % 2 == 0 for level in levels):
        numbers = [number for level in levels for number in level]
        if all(type(number) in (int, float) and 0 < number <= MAX_SIDE for number in numbers):
            return levels
    if type(value) is int and 1 <= value <= 100:
        return value
    raise node.error("must be the number of boxes per level, or [width, height, width, height, ...] for each level")


def _read_init(node: Node) -> str:
    """Read the initialisation of weights; without it each module keeps torch's own."""
    if node.value not in INITIAL:
        raise node.error(f"must be {' or '.join(INITIAL)}, not {node.value}", did_you_mean(str(node.value), INITIAL))
    return str(node.value)


SETTINGS: dict[str, Callable[[Node], Any]] = {
    "nc": _integer_reader(1, 1_000_000),
    "ch": _integer_reader(1, MAX_CHANNELS),
    "depth_multiple": read_multiple,
    "width_multiple": read_multiple,
    "activation": check_text,
    "norm_eps": _read_norm_eps,
    "kpt_shape": _read_keypoint_shape,
    "end2end": _read_flag,
    "reg_max": _integer_reader(1, 1024),
    "imgsz": _read_image_size,
    "task": check_text,
    "width_divisor": _integer_reader(1, 1024),
    "init": _read_init,
    "anchors": _read_anchors,
}

KNOWN_KEYS = (
    *SETTINGS, *SECTIONS, "scales", "params", "blocks", "imports", "extends", "edits", "inputs", "heads", "lr_factors",
    "degrade", "space",
)  # fmt: skip
