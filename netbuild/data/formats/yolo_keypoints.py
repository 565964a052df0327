"""The keys of a YOLO data file that describe keypoints: kpt_shape, flip_idx, kpt_names, kpt_oks_sigmas and skeleton."""

from collections.abc import Sequence
from pathlib import Path

from netbuild.data.dataset import Problem
from netbuild.data.formats.keypoints import KeypointFacts, derive_swap, is_involution
from netbuild.grammar.nodes import Node

KEYS = ("kpt_shape", "flip_idx", "kpt_names", "kpt_oks_sigmas", "skeleton")


def read_keypoint_facts(node: Node, file: Path) -> tuple[KeypointFacts, tuple[Problem, ...]]:
    """Return what a data file states about keypoints, and a note if mirror images are unknown or derived.

    Raises:
        NetbuildError: at the line of a wrong value, or of a key without effect because there is no kpt_shape.
    """
    shape = _read_shape(node)
    if shape is None:
        for key in KEYS[1:]:
            if (entry := _find_entry(node, key)) and key != "kpt_names":  # exports write the names of no keypoints
                raise entry.error(f"{key} has no effect without kpt_shape")
        return KeypointFacts(), ()
    names, stated = _read_names(node, shape[0]), _read_flip_idx(node, shape[0])
    swap = stated or derive_swap(names)
    facts = KeypointFacts(shape, swap, names, _read_sigmas(node, shape[0]), _read_skeleton(node, shape[0]))
    place = node.keys["kpt_shape"].line + 1
    return facts, facts.note_swap(file, bool(swap and not stated), place)


def _find_entry(node: Node, key: str) -> Node | None:
    """Return the value of a key; None if it is missing or empty."""
    entry = node.value.get(key)
    return None if entry is None or entry.value is None else entry


def _read_shape(node: Node) -> tuple[int, int] | None:
    entry = _find_entry(node, "kpt_shape")
    if entry is None:
        return None
    value = entry.plain()
    if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)):
        raise entry.error(f"kpt_shape is [number of keypoints, 2 or 3], not {entry.describe()}")
    if value[0] < 1 or value[1] not in (2, 3):
        raise entry.error(f"kpt_shape is [number of keypoints, 2 or 3], not {value}")
    return value[0], value[1]


def _read_flip_idx(node: Node, count: int) -> tuple[int, ...]:
    """Read which keypoint each becomes in a mirrored picture; empty if the file does not state it."""
    entry = _find_entry(node, "flip_idx")
    if entry is None:
        return ()
    value = entry.plain()
    if not isinstance(value, list) or sorted(map(str, value)) != sorted(map(str, range(count))):
        raise entry.error(f"flip_idx must have each number from 0 to {count - 1} once, in the order of the keypoints")
    if not is_involution(value):
        wrong = next(i for i, other in enumerate(value) if value[other] != i)
        message = f"flip_idx takes keypoint {wrong} to {value[wrong]}, and {value[wrong]} to {value[value[wrong]]}"
        raise entry.error(message, "mirroring twice must give back each keypoint: write pairs that exchange places")
    return tuple(value)


def _read_names(node: Node, count: int) -> tuple[str, ...]:
    """Read the names of the keypoints: a list, or a mapping from classes to lists, of which the first is taken."""
    entry = _find_entry(node, "kpt_names")
    if entry is None:
        return ()
    if isinstance(entry.value, dict) and entry.value:
        entry = next(iter(entry.value.values()))
    names = [item.text for item in entry.value] if isinstance(entry.value, list) else []
    if len(names) != count or not all(names):
        raise entry.error(f"kpt_names must be a list of {count} names, one for each keypoint, not {entry.describe()}")
    return tuple(str(name) for name in names)


def _read_sigmas(node: Node, count: int) -> tuple[float, ...]:
    entry = _find_entry(node, "kpt_oks_sigmas")
    if entry is None:
        return ()
    values = entry.plain()
    if not _are_numbers(values, count) or not all(value > 0 for value in values):
        raise entry.error(f"kpt_oks_sigmas must be {count} numbers above 0, one for each keypoint")
    return tuple(float(value) for value in values)


def _read_skeleton(node: Node, count: int) -> tuple[tuple[int, int], ...]:
    entry = _find_entry(node, "skeleton")
    if entry is None:
        return ()
    pairs = entry.plain()
    if not isinstance(pairs, list) or not all(_is_pair(pair, count) for pair in pairs):
        raise entry.error(f"skeleton must be a list of pairs of keypoints, numbers from 0 to {count - 1}")
    return tuple((first, second) for first, second in pairs)


def _is_pair(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) is int and 0 <= v < count for v in value)


def _are_numbers(values: object, count: int) -> bool:
    return isinstance(values, Sequence) and len(values) == count and all(type(v) in (int, float) for v in values)
