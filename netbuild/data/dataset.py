"""The common form that every format is read into: samples, problems found while reading, and data sets of splits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.images import Bytes, from_pixels, read_image
from netbuild.data.maps import MapFile, read_map
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.system.files import accessing

Floats = NDArray[np.float64]

DETECT, CLASSIFY, PAIRS, PICTURES = "detect", "classify", "pairs", "pictures"
LABELS, NUMBERS = "multilabel", "regress"  # several labels, or numbers, for each picture
AUGMENTATIONS = ("pictures", "digits")  # digits and letters must not be mirrored or cropped
EXTRA_KINDS = ("picture", "classes", "values")
# How severe a problem is: a wrong label stops training unless --lenient is given, an unreadable picture is dropped and
# listed unless --strict is given, a note changes nothing.
LABEL, PICTURE, NOTE = "label", "picture", "note"


@dataclass(frozen=True)
class Problem:
    """Something wrong, or worth knowing, about one place of a data set.

    Attributes:
        kind: a short fixed word by which problems are counted.
        weight: how severe it is: ``label``, ``picture`` or ``note``.
        message: what was found, and what was expected.
        file: the file that it was found in.
        line: the line in the file, from 1, where the format has lines.
        drops: what is left out because of it: ``box``, ``picture``, ``outline``, or empty for nothing.
        hint: how to repair it.
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
        """Return the problem as JSON data."""
        return {
            "kind": self.kind,
            "weight": self.weight,
            "file": str(self.file),
            "line": self.line,
            "message": self.message,
            "drops": self.drops,
            "hint": self.hint,
        }


@dataclass(frozen=True)
class Extra:
    """What a data set states about one of its samples' extras, such as a mask or a second picture.

    Attributes:
        kind: one of `EXTRA_KINDS`: ``picture`` (colours in 8 bits), ``classes`` (a class number for each pixel) or
            ``values`` (a number for each pixel, such as a distance).
        scale: how many times as wide and as high as the sample's picture it is.
        unnamed: of a class map, classes below the number of names that the data set does not name.
        names: of a class map, the names of its classes; empty where they are those of the data set.
    """

    kind: str = "picture"
    scale: int = 1
    unnamed: frozenset[int] = frozenset()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with its labels.

    Attributes:
        path: the picture's file, or the file of many pictures that ``pixels`` is one of.
        size: width and height in pixels after EXIF orientation; None while unknown.
        boxes: (N, 5) of class, cx, cy, w, h, the last four as fractions of the picture's size; None unless the data
            set is for detection.
        label: the class, in classification.
        labels: (K,) of the data set's K labels that do not exclude each other, 1 for those that hold and 0 for those
            that do not, NaN where it is not known; None for other data sets.
        numbers: (K,) numbers to predict of the picture, NaN where they are not known; None for other data sets.
        source: the file that the boxes or the labels come from; None if the picture has none. Where pictures need no
            labels it is the picture itself.
        lines: line of each box in ``source``, from 1; empty where the format has no lines.
        outlines: for each box its polygons, arrays (K, 2) of normalised x, y; empty if the data has none.
        keypoints: (N, K, 2 or 3) of normalised x, y and visibility; None if the data has none.
        keypoint_swap: for each of the K keypoints the one that it becomes in a mirrored picture, as a left hand becomes
            a right one; empty where each stays itself, or where the data do not state it (`Dataset.keypoint_swap`).
        pixels: uint8 (H, W) or (H, W, C), for formats that hold pictures in arrays.
        extras: further pictures and maps of the sample by name, such as a mask, depth or a second picture: a file, a
            file whose numbers stand for classes or metres, or an array (H, W) or (H, W, C). The data set states the
            kind of each in `Dataset.extras`.
        bands: channels of the picture's file, and pages that may be channels; None before the scan.
        crowd: (N,) whether a box marks a crowd of objects, which is no object itself: training leaves it out, and
            metrics count nothing that is found in it; None if the data mark no crowds.
        part: the name of the data set that it is from, where a data set consists of several; else empty.
        tracks: (N,) the number of each object in its video, the same in all frames; None for single pictures.
        video: the name of the video that it is a frame of; empty for single pictures.
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
    extras: Mapping[str, Path | MapFile | NDArray[Any]] = field(default_factory=dict)
    keypoint_swap: tuple[int, ...] = ()
    bands: tuple[int, int] | None = None
    crowd: NDArray[np.bool_] | None = None
    labels: Floats | None = None
    numbers: Floats | None = None
    part: str = ""
    tracks: NDArray[np.int64] | None = None
    video: str = ""

    @property
    def classes(self) -> NDArray[np.int64]:
        """(N,) the class of each object, in classification those of the picture; empty where there are no labels.

        A crowd is no object.
        """
        if self.boxes is not None:
            rows = self.boxes if self.crowd is None else self.boxes[~self.crowd]
            return rows[:, 0].astype(np.int64)
        if self.labels is not None:
            return np.flatnonzero(self.labels == 1)
        return np.array([] if self.label is None else [self.label], np.int64)

    @property
    def is_bare(self) -> bool:
        """Whether a sample without classes has no label of another kind either."""
        if self.labels is not None or self.numbers is not None:
            return False
        return self.boxes is not None or not (self.extras or self.source)

    def only(self, chosen: NDArray[np.bool_]) -> "Sample":
        """Return the sample with those of its boxes that are ``chosen``, (N,)."""
        if self.boxes is None or chosen.all():
            return self
        places = chosen.nonzero()[0].tolist()
        return replace(
            self,
            boxes=self.boxes[chosen],
            lines=tuple(self.lines[i] for i in places) if self.lines else (),
            outlines=tuple(self.outlines[i] for i in places) if self.outlines else (),
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
            crowd=None if self.crowd is None else self.crowd[chosen],
            tracks=None if self.tracks is None else self.tracks[chosen],
        )

    def without_crowds(self) -> "Sample":
        """Return the sample without the boxes that mark crowds, as training sees it."""
        return self if self.crowd is None else self.only(~self.crowd)

    def image(self, channels: int = 3) -> Bytes:
        """Return the picture as uint8 (H, W, channels), RGB.

        Raises:
            NetbuildError: if it cannot be read.
        """
        return (
            read_image(self.path, channels, check=False) if self.pixels is None else from_pixels(self.pixels, channels)
        )

    def has_channels(self, count: int) -> bool:
        """Whether the picture can be read with so many channels: grey, RGB and alpha are converted."""
        if self.bands is None or self.bands[0] == 0:  # not scanned, or an array
            channels = None if self.pixels is None else (1 if self.pixels.ndim == 2 else self.pixels.shape[2])
        else:
            channels = self.bands[0]
        if channels is None:
            return True
        pages = self.bands[1] if self.bands else 1
        return count in (channels, pages) or (count in (1, 3) and channels in (1, 3, 4))

    def extra(self, name: str, kind: str = "picture", channels: int = 3) -> NDArray[Any]:
        """Return one of the extras as an array (H, W, C).

        Args:
            name: the extra's name.
            kind: one of `EXTRA_KINDS`; pictures have 8 bits, the others keep their values and have one channel.
            channels: number of channels of a picture.

        Raises:
            NetbuildError: if the sample has no extra of this name, or it cannot be read.
        """
        if name not in self.extras:
            there = ", ".join(self.extras) or "none"
            raise NetbuildError(f"{self.path}: the sample has no extra '{name}', there is: {there}")
        extra = self.extras[name]
        if kind == "picture" and isinstance(extra, Path | np.ndarray):
            return read_image(extra, channels, check=False) if isinstance(extra, Path) else from_pixels(extra, channels)
        if isinstance(extra, np.ndarray):
            values = extra
        else:
            values = read_map(extra) if isinstance(extra, Path) else extra.read()
        return values.reshape(*values.shape[:2], -1)


def collect_numbers(samples: Iterable[Sample], count: int) -> Floats:
    """Return the numbers of samples as one array (S, count), NaN where they are not known."""
    found = [sample.numbers for sample in samples if sample.numbers is not None]
    return np.array(found, float).reshape(-1, count)


@dataclass(frozen=True)
class Split:
    """One split as a format has read it.

    Attributes:
        samples: the samples, without those that are dropped because of their labels.
        problems: what was wrong with the labels.
        label_place: where the label of one picture was looked for; shown when there are no labels at all.
        found: the number of pictures, with those that are dropped.
        partial: samples that lack an extra of the data set, each with the number of ``samples`` before it. They are
            used where several heads learn from what each picture has; otherwise a problem says that they are dropped.
    """

    samples: list[Sample]
    problems: list[Problem] = field(default_factory=list)
    label_place: str = ""
    found: int = 0
    partial: list[tuple[int, Sample]] = field(default_factory=list)

    def all_samples(self) -> list[Sample]:
        """Return the samples with those that lack an extra, in their order."""
        places = [i for i, _ in self.partial]
        found = [*self.samples]
        for i, (_, sample) in zip(reversed(places), reversed(self.partial)):
            found.insert(i, sample)
        return found


@dataclass(frozen=True)
class Dataset:
    """A data set; each split is read when it is first used.

    Attributes:
        name: as the user named it.
        root: the folder that it is in.
        format: the name of its format, such as ``yolo``.
        task: what its labels are for: ``detect``, ``classify``, ``multilabel``, ``regress`` or ``pairs``; ``pictures``
            without labels; or another word that a task names in ``learns_from``.
        names: names of the classes, or of the labels or the numbers; empty where there are none.
        splits: for each split the function that reads it.
        keypoint_shape: number of keypoints of an object, and of values of each; None without keypoints.
        extras: the extras that every sample has, by name.
        augmentation: one of `AUGMENTATIONS`: which changes leave the labels true, and so what training uses unless
            settings say otherwise.
        notes: what is worth knowing about the data set as a whole; reported with the first split that is scanned.
        channels: how many channels its pictures have, if it states that.
        keypoint_swap: as `Sample.keypoint_swap`; empty if the data set does not state what becomes of the keypoints in
            a mirrored picture, which pictures with keypoints then cannot be.
        keypoint_names: the name of each keypoint; empty if they have none.
        keypoint_sigmas: for each keypoint the standard deviation of its annotation, relative to the size of the object,
            by which OKS weighs errors (arXiv 1405.0312); empty if the data set does not state them.
        skeleton: pairs of keypoints, by number, that drawings join with a line.
        parts: the data sets that this one consists of, by name; empty for a single one.
    """

    name: str
    root: Path
    format: str
    task: str
    names: tuple[str, ...]
    splits: Mapping[str, Callable[[], Split]]
    keypoint_shape: tuple[int, int] | None = None
    extras: Mapping[str, Extra] = field(default_factory=dict)
    augmentation: str = "pictures"
    notes: tuple[Problem, ...] = ()
    channels: int | None = None
    keypoint_swap: tuple[int, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    keypoint_sigmas: tuple[float, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    parts: Mapping[str, "Dataset"] = field(default_factory=dict)

    @property
    def nc(self) -> int:
        """The number of classes."""
        return len(self.names)

    @cached_property
    def _read_splits(self) -> dict[str, Split]:
        return {}

    def split(self, name: str) -> Split:
        """Return a split; it is read once.

        Raises:
            NetbuildError: if there is no split of this name, or it cannot be read at all.
        """
        if name not in self.splits:
            found = ", ".join(self.splits) or "none"
            raise NetbuildError(
                f"{self.name}: no split '{name}', there is: {found}", hint=did_you_mean(name, self.splits)
            )
        if name not in self._read_splits:
            with accessing(self.name):
                self._read_splits[name] = self.splits[name]()
        return self._read_splits[name]

    def held_out(self) -> str:
        """Return the name of the split to measure on: ``val``, else ``test``.

        Raises:
            NetbuildError: if there is neither.
        """
        for split in ("val", "test"):
            if split in self.splits:
                return split
        message = f"{self.name}: neither a split 'val' nor 'test'; there is: {', '.join(self.splits)}"
        hint = "keep pictures for validation: val: in data.yaml, a folder val, or the column split of a CSV file"
        raise NetbuildError(message, hint=hint)
