"""Label files of YOLO's kind, one object a line: ``class cx cy w h``, a polygon or keypoints; and what can be wrong.

Numbers are parts of the picture's width and height. Five columns are a box, more are a polygon ``class x1 y1 x2 y2 …``
of which the box is the hull, unless the data set has a keypoint shape: then they are a box and its keypoints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from netbuild.data.dataset import LABEL, NOTE, Floats, Problem, Sample
from netbuild.errors import shorten

MARGIN = 0.01  # a keypoint this far outside, or a box this much too wide, is still taken for rounding, and clipped
TINY = 1e-6  # the last digit that label files are written with; less is no size
ROUNDING = 1e-3  # an edge this far outside is not worth a word
COUNTED_FROM_1 = "no object has class 0: if the classes were counted from 1, subtract 1 everywhere"
Row = tuple[float, float, float, float, float]  # class, cx, cy, w, h


class WrongObjectError(Exception):
    """An object that cannot be used: a word for the kind, what was found, how to repair it."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint


@dataclass
class Objects:
    """The objects of one picture while they are read: see `Sample` for the forms."""

    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    outlines: list[tuple[Floats, ...]] = field(default_factory=list)
    keypoints: list[Floats] = field(default_factory=list)

    def boxes(self) -> Floats:
        """(N, 5)."""
        return np.array(self.rows, dtype=np.float64).reshape(-1, 5)

    def add(self, row: Row, line: int, outline: tuple[Floats, ...] = (), keypoints: Floats | None = None) -> None:
        """Take one more object."""
        self.rows.append(row)
        self.lines.append(line)
        self.outlines.append(outline)
        if keypoints is not None:
            self.keypoints.append(keypoints)

    def sample(self, path: Path, source: Path | None, size: tuple[int, int] | None = None) -> Sample:
        """The picture with these objects."""
        outlines = tuple(self.outlines) if all(self.outlines) else ()
        keypoints = np.stack(self.keypoints) if self.keypoints else None
        return Sample(path, size, self.boxes(), None, source, tuple(self.lines), outlines, keypoints)


class Rules:
    """What holds for every label file of a data set."""

    def __init__(self, names: Sequence[str], keypoint_shape: tuple[int, int] | None = None) -> None:
        self.names, self.keypoint_shape = tuple(names), keypoint_shape

    def wanted(self) -> str:
        """The columns that a line may have, in words."""
        if self.keypoint_shape:
            count, values = self.keypoint_shape
            return f"needs {5 + count * values} (class cx cy w h and {count} keypoints of {values})"
        return "needs 5 (class cx cy w h), or 7 and more for a polygon (class x1 y1 x2 y2 x3 y3 ...)"


class LabelFile:
    """One label file: ``objects`` and ``problems`` fill as its text is read."""

    def __init__(self, path: Path, rules: Rules) -> None:
        self.path, self.rules = path, rules
        self.objects = Objects()
        self.problems: list[Problem] = []
        self._seen: dict[tuple[float, ...], int] = {}

    def read(self, text: str) -> "LabelFile":
        """Take all lines of the file's text."""
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    self._line(number, line)
                except WrongObjectError as error:
                    self._add(number, error.kind, LABEL, error.message, "box", error.hint)
        self._mixed()
        return self

    def _add(self, line: int, kind: str, weight: str, message: str, drops: str = "", hint: str = "") -> None:
        self.problems.append(Problem(kind, weight, message, self.path, line, drops, hint))

    def _line(self, number: int, line: str) -> None:
        values = self._values(line)
        if first := self._seen.get(values):
            return self._add(number, "duplicate", NOTE, f"repeats line {first}: one is kept", "box")
        self._seen[values] = number
        outline: tuple[Floats, ...] = ()
        keypoints, box, beyond = None, values[:5], 0.0
        if len(values) > 5 and self.rules.keypoint_shape:
            keypoints = pose_points(values[5:], self.rules.keypoint_shape)
        elif len(values) > 5:
            points, clipped, beyond = polygon(values[1:])
            outline, box = (points,), (values[0], *hull(clipped))
        row, over = fit_box(box)
        over = max(over, beyond)
        if over > ROUNDING:
            message = f"an edge lies {over:.3g} outside: the box is kept, clipped to the picture"
            self._add(number, "clipped", NOTE, message)
        return self.objects.add(row, number, outline, keypoints)

    def _values(self, line: str) -> tuple[float, ...]:
        """The numbers of a line, its class and its count of columns checked."""
        if "," in line or ";" in line:
            raise WrongObjectError("separator", "commas between the numbers", "write blanks between them")
        words = line.split()
        values = tuple(self._number(word) for word in words)
        check_class(words[0], values[0], len(self.rules.names))
        shape, count = self.rules.keypoint_shape, len(values)
        if not (count == 5 + shape[0] * shape[1] if shape else count == 5 or (count >= 7 and count % 2 == 1)):
            raise WrongObjectError("columns", f"{count} columns, {self.rules.wanted()}")
        return values

    def _number(self, word: str) -> float:
        try:
            value = float(word if "_" not in word else "")  # Python's own form 1_000 is none of a label file's
        except ValueError:
            names = self.rules.names
            hint = f"names: {word} is {names.index(word)}" if word in names else ""
            raise WrongObjectError("no number", f"'{shorten(word, 30)}' is no number", hint) from None
        if not math.isfinite(value):
            raise WrongObjectError("nan", f"'{word}' is no finite number")
        return value

    def _mixed(self) -> None:
        objects = self.objects
        bare = [line for line, outline in zip(objects.lines, objects.outlines) if not outline]
        if 0 < len(bare) < len(objects.rows):
            message = f"a box among polygons ({len(bare)} boxes, {len(objects.rows) - len(bare)} polygons in this file)"
            self._add(bare[0], "mixed", LABEL, message, "outline", "give every object a polygon, or none")


def spoilt(objects: Objects, problems: Sequence[Problem], file: Path) -> Problem | None:
    """What to say of a picture whose objects were all wrong: without them it would pass for one that shows none."""
    if objects.rows or not any(problem.weight == LABEL for problem in problems):
        return None
    message = "none of its objects is right: the picture is left out, not taken for background"
    return Problem("nothing left", NOTE, message, file, drops="picture")


def check_class(word: str, value: float, count: int) -> None:
    """Whether a class is a whole number below the count of names.

    Raises:
        WrongObjectError: if not.
    """
    if value != int(value):
        raise WrongObjectError("class", f"the class must be a whole number, not {word}")
    if not 0 <= value < count:
        named = f"{count} name" + "s" * (count != 1)
        hint = COUNTED_FROM_1 if value == count else ""
        raise WrongObjectError("class range", f"class {value:g} is outside 0..{count - 1} ({named})", hint)


def fit_box(values: Sequence[float]) -> tuple[Row, float]:
    """A box (class, cx, cy, w, h) clipped to the picture, and how far an edge reached outside.

    Raises:
        WrongObjectError: if the centre lies outside, or the size is none.
    """
    number, x, y, w, h = values
    if max(x, y, w, h) > 2 and min(values) >= 0:
        shown = " ".join(f"{value:g}" for value in (x, y, w, h))
        raise WrongObjectError("pixels", f"{shown} look like pixels", "divide by the picture's width and height")
    for axis, value in (("x", x), ("y", y)):
        if not 0 <= value <= 1:
            raise WrongObjectError("outside", f"centre {axis} {value:g} {'< 0' if value < 0 else '> 1'}")
    if not (TINY <= w <= 1 + MARGIN and TINY <= h <= 1 + MARGIN):
        raise WrongObjectError("size", f"width {w:g} and height {h:g} must be above 0 and at most 1")
    left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    over = max(-left, -top, right - 1, bottom - 1, 0.0)
    if over > 0:  # only then: clipping must not touch the digits of a box that lies inside
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
        x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    return (number, x, y, w, h), over


def polygon(values: Sequence[float]) -> tuple[Floats, Floats, float]:
    """Points (K, 2) of x1, y1, x2, y2 and so on; the same clipped to the picture; how far one reached outside.

    Four points are an oriented box, of which a corner may lie outside: clipping would bend it, so it is kept.

    Raises:
        WrongObjectError: if the middle of the polygon's extent lies outside.
    """
    points = np.array(values, dtype=np.float64).reshape(-1, 2)
    x, y, w, h = hull(points)
    fit_box((0.0, x, y, min(w, 1.0) if w <= 2 else w, min(h, 1.0) if h <= 2 else h))
    clipped = points.clip(0, 1)
    over = max(-float(points.min()), float(points.max()) - 1, 0.0)
    return (points if len(points) == 4 else clipped), clipped, over


def pose_points(values: Sequence[float], shape: tuple[int, int]) -> Floats:
    """Keypoints of the shape given, clipped to the picture.

    Raises:
        WrongObjectError: if a visible one lies outside.
    """
    points = np.array(values, dtype=np.float64).reshape(shape)
    visible = points[:, 2] > 0 if shape[1] == 3 else np.ones(len(points), bool)
    if not _within(points[visible, :2]):
        raise WrongObjectError("keypoint", "a visible keypoint lies outside the picture")
    points[:, :2] = points[:, :2].clip(0, 1)
    return points


def hull(points: Floats) -> tuple[float, float, float, float]:
    """cx, cy, w, h of the box around points (K, 2)."""
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _within(points: Floats) -> bool:
    return bool(points.size == 0 or (points.min() >= -MARGIN and points.max() <= 1 + MARGIN))
