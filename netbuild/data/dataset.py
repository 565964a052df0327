"""What every format is read into: samples, the problems met on the way, and the data set that names its splits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.images import Bytes
from netbuild.errors import NetbuildError, did_you_mean

Floats = NDArray[np.float64]

DETECT, CLASSIFY = "detect", "classify"
AUGMENTATIONS = ("pictures", "digits")  # digits and letters must not be mirrored or cropped
# How a problem weighs: a wrong label stops by default, an unreadable picture is dropped and listed, a note only tells.
LABEL, PICTURE, NOTE = "label", "picture", "note"


@dataclass(frozen=True)
class Problem:
    """Something wrong, or worth knowing, about one place of a data set.

    ``kind`` is a short fixed word for counting, ``weight`` one of ``label``, ``picture`` and ``note``, ``drops`` what
    is left out because of it (``box``, ``picture``, ``outline`` or nothing), ``line`` 1-based where there are lines.
    """

    kind: str
    weight: str
    message: str
    file: Path
    line: int | None = None
    drops: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.message}"

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "kind": self.kind,
            "weight": self.weight,
            "file": str(self.file),
            "line": self.line,
            "message": self.message,
            "drops": self.drops,
            "hint": self.hint,
        }


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture and what is said of it.

    Attributes:
        path: the picture's file, or the file of many pictures that ``pixels`` is one of.
        size: width and height in pixels as the picture is seen (after its EXIF orientation); None while unknown.
        boxes: (N, 5) of class, cx, cy, w, h, the last four as parts of the picture's size; None in classification.
        label: the class in classification.
        source: the file that the boxes or the label come from; None if the picture has none.
        lines: 1-based line of each box in ``source``, empty where the format has no lines.
        outlines: for each box its polygons, arrays (K, 2) of x, y normalised; empty if the data has none.
        keypoints: (N, K, 2 or 3) of x, y normalised and visibility; None if the data has none.
        pixels: uint8 (H, W) or (H, W, C), for formats that hold pictures in arrays.
    """

    path: Path
    size: tuple[int, int] | None = None
    boxes: Floats | None = None
    label: int | None = None
    source: Path | None = None
    lines: tuple[int, ...] = ()
    outlines: tuple[tuple[Floats, ...], ...] = ()
    keypoints: Floats | None = None
    pixels: Bytes | None = None

    def only(self, chosen: NDArray[np.bool_]) -> "Sample":
        """The sample with the chosen ones of its boxes, (N,)."""
        if self.boxes is None or chosen.all():
            return self
        places = chosen.nonzero()[0].tolist()
        return replace(
            self,
            boxes=self.boxes[chosen],
            lines=tuple(self.lines[i] for i in places) if self.lines else (),
            outlines=tuple(self.outlines[i] for i in places) if self.outlines else (),
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
        )

    def image(self, channels: int = 3) -> Bytes:
        """The picture as uint8 (H, W, channels), RGB.

        Raises:
            NetbuildError: if it cannot be read.
        """
        from netbuild.data.images import from_pixels, read_image

        return read_image(self.path, channels) if self.pixels is None else from_pixels(self.pixels, channels)


@dataclass(frozen=True)
class Part:
    """One split as read: its samples, what was wrong with their labels, and where labels were looked for."""

    samples: list[Sample]
    problems: list[Problem] = field(default_factory=list)
    looked: str = ""  # of one picture, where its label was looked for: shown when there are no labels at all
    found: int = 0  # pictures, with those that are left out because of their labels


@dataclass(frozen=True)
class Dataset:
    """The facts of a data set; its splits are read when they are asked for.

    ``splits`` maps each split to the function that reads it. ``augmentation`` is one of `AUGMENTATIONS`: which changes
    leave the pictures' labels true, and so the augmentation that training uses unless settings say otherwise.
    """

    name: str
    root: Path
    form: str  # yolo, coco, voc, folders, idx, csv
    task: str  # detect or classify
    names: tuple[str, ...]
    splits: Mapping[str, Callable[[], Part]]
    keypoint_shape: tuple[int, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    augmentation: str = "pictures"

    @property
    def nc(self) -> int:
        """The number of classes."""
        return len(self.names)

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return {}

    def part(self, split: str) -> Part:
        """A split, read once.

        Raises:
            NetbuildError: if there is none of this name, or it cannot be read at all.
        """
        if split not in self.splits:
            found = ", ".join(self.splits) or "none"
            raise NetbuildError(
                f"{self.name}: no split '{split}', there is: {found}", hint=did_you_mean(split, self.splits)
            )
        if split not in self._parts:
            self._parts[split] = self.splits[split]()
        return self._parts[split]

    def held_out(self) -> str:
        """The split to measure on: ``val``, else ``test``.

        Raises:
            NetbuildError: if there is neither.
        """
        for split in ("val", "test"):
            if split in self.splits:
                return split
        raise NetbuildError(f"{self.name}: neither a split 'val' nor 'test'; there is: {', '.join(self.splits)}")
