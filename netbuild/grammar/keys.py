"""The top-level keys of a file that hold one value, each with the reader that checks it."""

from collections.abc import Callable
from typing import Any

from netbuild.errors import did_you_mean
from netbuild.grammar import expressions
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_CHANNELS, text_of

MAX_SIDE = 32_768  # pixels
INITIAL = ("he",)  # ways in which weights begin, see netbuild.layers.initial


def _whole(low: int, high: int) -> Callable[[Node], int]:
    def read(node: Node) -> int:
        if type(node.value) is not int or not low <= node.value <= high:
            raise node.error(f"must be a whole number from {low} to {high}, not {node.describe()}")
        return node.value

    return read


def _multiple(node: Node) -> float:
    if type(node.value) not in (int, float) or not 0 < node.value <= 100:
        raise node.error(f"must be a number above 0 and at most 100, not {node.describe()}")
    return float(node.value)


def _flag(node: Node) -> bool:
    # "None" and "True" in quotes are written so in files that other tools take.
    value = expressions.WORDS.get(node.value, node.value) if isinstance(node.value, str) else node.value
    if value is not None and not isinstance(value, bool):
        raise node.error(f"must be true or false, not {node.describe()}")
    return bool(value)


def _image_size(node: Node) -> tuple[int, int]:
    side = _whole(1, MAX_SIDE)
    if isinstance(node.value, list):
        if len(node.value) != 2:
            raise node.error(f"must be one number or [height, width], not {len(node.value)} numbers")
        return side(node.value[0]), side(node.value[1])
    return side(node), side(node)


def _keypoint_shape(node: Node) -> list[int]:
    if not isinstance(node.value, list) or len(node.value) != 2:
        raise node.error("must be [number of keypoints, 2 or 3]")
    return [_whole(1, 10_000)(node.value[0]), _whole(2, 3)(node.value[1])]


def _anchors(node: Node) -> int | list[list[float]]:
    """How many anchor boxes a level has, or their widths and heights level by level, as older files write them."""
    value = node.plain()
    levels = value if isinstance(value, list) else []
    if levels and all(isinstance(level, list) and level and len(level) % 2 == 0 for level in levels):
        numbers = [number for level in levels for number in level]
        if all(type(number) in (int, float) and 0 < number <= MAX_SIDE for number in numbers):
            return levels
    if type(value) is int and 1 <= value <= 100:
        return value
    raise node.error("must be a number of boxes a level, or [width, height, width, height, ...] for each level")


def _initial(node: Node) -> str:
    """How weights begin: torch's own way of each module unless said."""
    if node.value not in INITIAL:
        raise node.error(f"'init' is {' or '.join(INITIAL)}, not {node.value}", did_you_mean(str(node.value), INITIAL))
    return str(node.value)


SETTINGS: dict[str, Callable[[Node], Any]] = {
    "nc": _whole(1, 1_000_000),
    "ch": _whole(1, MAX_CHANNELS),
    "depth_multiple": _multiple,
    "width_multiple": _multiple,
    "activation": text_of,
    "kpt_shape": _keypoint_shape,
    "end2end": _flag,
    "reg_max": _whole(1, 1024),
    "imgsz": _image_size,
    "task": text_of,
    "width_divisor": _whole(1, 1024),
    "init": _initial,
    "anchors": _anchors,
}
