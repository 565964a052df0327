"""What a data set states about the keypoints of its objects: number, names, mirror images, sigmas and skeleton."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netbuild.data.dataset import NOTE, Problem

# The sides in names such as left_eye, eye.right, RightAnkle; L-Knee, wing_r; eyeL, forelegR1.
_SIDES = (
    re.compile(r"left|right", re.IGNORECASE),
    re.compile(r"(?<![a-z])[lr](?![a-z])", re.IGNORECASE),
    re.compile(r"(?<=[a-z])[LR](?![a-z])"),
)
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True)
class KeypointFacts:
    """What a data set states about keypoints; the fields are those of `netbuild.data.dataset.Dataset`."""

    shape: tuple[int, int] | None = None
    swap: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    sigmas: tuple[float, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()

    def fields(self) -> dict[str, Any]:
        """Return the facts as keyword arguments of a `Dataset`."""
        return {
            "keypoint_shape": self.shape,
            "keypoint_swap": self.swap,
            "keypoint_names": self.names,
            "keypoint_sigmas": self.sigmas,
            "skeleton": self.skeleton,
        }

    def note_swap(self, file: Path, is_derived: bool, line: int | None = None) -> tuple[Problem, ...]:
        """Return a note if the mirror images of the keypoints are not known, or were derived from their names."""
        if self.shape is None or (self.swap and not is_derived):
            return ()
        if is_derived:
            message = f"which keypoints a mirror exchanges is derived from their names: flip_idx is {list(self.swap)}"
            return (Problem("flip_idx", NOTE, message, file, line),)
        message = "there is no flip_idx: pictures with keypoints are not mirrored in training"
        hint = f"write flip_idx: the keypoint that each of the {self.shape[0]} becomes in a mirrored picture"
        return (Problem("flip_idx", NOTE, message, file, line, hint=hint),)


def derive_swap(names: Sequence[str]) -> tuple[int, ...]:
    """Return for each keypoint the one that it becomes in a mirrored picture, by the names of left and right.

    Empty if no name has a side, or if one has a side and its counterpart is missing.
    """
    swap = tuple(_find_mirrored(index, names) for index in range(len(names)))
    is_known = -1 not in swap and swap != tuple(range(len(names)))
    return swap if is_known and is_involution(swap) else ()


def is_involution(swap: Sequence[int]) -> bool:
    """Whether exchanging keypoints twice, as mirroring a picture twice does, leaves each where it was."""
    return all(swap[other] == index for index, other in enumerate(swap))


def _find_mirrored(index: int, names: Sequence[str]) -> int:
    """Return the number of a keypoint's mirror image: itself if its name has no side, -1 if there is none."""
    name = names[index]
    pattern = next((pattern for pattern in _SIDES if pattern.search(name)), _SIDES[0])
    other = pattern.sub(lambda found: _OTHER_SIDE[found.group().lower()], name).lower()
    if other == name.lower():
        return index
    return next((i for i, candidate in enumerate(names) if candidate.lower() == other), -1)
