"""YOLO's label files, one object per line: ``class cx cy w h``, a polygon or keypoints; and the checks of objects.

Numbers are fractions of the picture's width and height. Five columns are a box. More are a polygon ``class x1 y1 x2 y2
…``, from which the box is computed, or in a data set with a keypoint shape a box and its keypoints. An object of
several parts is one polygon whose parts are joined by bridges without width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from netbuild.data.contours import is_crossing
from netbuild.data.dataset import LABEL, NOTE, Floats, Problem, Sample
from netbuild.data.shapes.raster import measure_area
from netbuild.errors import shorten

MARGIN = 0.01  # a keypoint this far outside, or a box this much too large, is a rounding error: it is clipped
TINY = 1e-6  # least size of a box: the last digit that label files are written with
ROUNDING = 1e-3  # an edge this far outside is clipped without a note
LEAST_AREA = 1e-9  # of a polygon, as a fraction of the picture: less is the rounding of points on one line
MAX_CHECKED = 1000  # points of a polygon that is checked for crossings, which takes the square of their number
COUNTED_FROM_1 = "no object has class 0: if the classes were counted from 1, subtract 1 everywhere"
CROSSING = "edges of the polygon cross each other: what is inside is not clear"
MIXED = "the corners of a box are taken as its polygon"
HINT_LINE = "is it a line or a point? Remove it, or draw its outline"
HINT_MIXED = "give every object a polygon, or none"
Row = tuple[float, float, float, float, float]  # class, cx, cy, w, h


class WrongObjectError(Exception):
    """Raised for an object that cannot be used.

    Args:
        kind: as `Problem.kind`.
        message: what was found, and what was expected.
        hint: how to repair it.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind, self.message, self.hint = kind, message, hint


@dataclass
class Objects:
    """The objects of one picture, collected while they are read; see `Sample` for the fields."""

    rows: list[Row] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    outlines: list[tuple[Floats, ...]] = field(default_factory=list)
    keypoints: list[Floats] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)

    def boxes(self) -> Floats:
        """Return the boxes as an array (N, 5)."""
        return np.array(self.rows, dtype=np.float64).reshape(-1, 5)

    def add(
        self,
        row: Row,
        line: int,
        outline: tuple[Floats, ...] = (),
        keypoints: Floats | None = None,
        is_crowd: bool = False,
    ) -> None:
        """Add an object."""
        self.rows.append(row)
        self.lines.append(line)
        self.outlines.append(outline)
        self.crowd.append(is_crowd)
        if keypoints is not None:
            self.keypoints.append(keypoints)

    def sample(self, path: Path, source: Path | None, size: tuple[int, int] | None = None) -> Sample:
        """Return the sample of a picture with these objects.

        Where some objects have polygons, the others are given the corners of their boxes.
        """
        outlines: tuple[tuple[Floats, ...], ...] = ()
        if any(outline and not crowd for outline, crowd in zip(self.outlines, self.crowd)):
            outlines = tuple(outline or (corners_of(row),) for outline, row in zip(self.outlines, self.rows))
        keypoints = np.stack(self.keypoints) if self.keypoints else None
        crowd = np.array(self.crowd) if any(self.crowd) else None
        lines = tuple(self.lines)
        return Sample(path, size, self.boxes(), None, source, lines, outlines, keypoints, crowd=crowd)

    def find_bare(self) -> list[int]:
        """Return the objects, by number, that have only a box where others have polygons; crowds do not count."""
        objects = [i for i, is_crowd in enumerate(self.crowd) if not is_crowd]
        bare = [i for i in objects if not self.outlines[i]]
        return bare if len(bare) < len(objects) else []


class Rules:
    """What all label files of a data set have in common.

    Args:
        names: of the classes.
        keypoint_shape: number of keypoints of an object, and of values of each; None without keypoints.
        keypoint_swap: as `Sample.keypoint_swap`.
    """

    def __init__(
        self,
        names: Sequence[str],
        keypoint_shape: tuple[int, int] | None = None,
        keypoint_swap: tuple[int, ...] = (),
    ) -> None:
        self.names, self.keypoint_shape, self.keypoint_swap = tuple(names), keypoint_shape, keypoint_swap

    def describe_columns(self) -> str:
        """Return which columns a line must have, in words."""
        if self.keypoint_shape:
            count, values = self.keypoint_shape
            return f"needs {5 + count * values} (class cx cy w h and {count} keypoints of {values})"
        return "needs 5 (class cx cy w h), or 7 or more for a polygon (class x1 y1 x2 y2 x3 y3 ...)"


class LabelFile:
    """A label file and the reader of its text.

    Attributes:
        objects: the objects that can be used.
        problems: what is wrong with the others.
    """

    def __init__(self, path: Path, rules: Rules) -> None:
        self.path, self.rules = path, rules
        self.objects = Objects()
        self.problems: list[Problem] = []
        self._seen: dict[tuple[float, ...], int] = {}

    def read(self, text: str) -> "LabelFile":
        """Read the file's text; return this file."""
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    self._read_line(number, line)
                except WrongObjectError as error:
                    self._add(number, error.kind, LABEL, error.message, "box", error.hint)
        self._check_mixed()
        return self

    def _add(self, line: int, kind: str, weight: str, message: str, drops: str = "", hint: str = "") -> None:
        self.problems.append(Problem(kind, weight, message, self.path, line, drops, hint))

    def _read_line(self, number: int, line: str) -> None:
        values = self._parse_values(line)
        if first := self._seen.get(values):
            return self._add(number, "duplicate", NOTE, f"repeats line {first}, which is kept", "box")
        self._seen[values] = number
        outline: tuple[Floats, ...] = ()
        keypoints, box, beyond = None, values[:5], 0.0
        if len(values) > 5 and self.rules.keypoint_shape:
            keypoints = read_keypoints(values[5:], self.rules.keypoint_shape)
        elif len(values) > 5:
            points, clipped, beyond = read_polygon(values[1:])
            outline, box = (points,), (values[0], *bounding_box(clipped))
            if len(points) <= MAX_CHECKED and is_crossing(points):
                self._add(number, "self-crossing", NOTE, CROSSING)
        row, over = clip_box(box)
        over = max(over, beyond)
        if over > ROUNDING:
            message = f"an edge lies {over:.3g} outside: the box is clipped to the picture"
            self._add(number, "clipped", NOTE, message)
        return self.objects.add(row, number, outline, keypoints)

    def _parse_values(self, line: str) -> tuple[float, ...]:
        """Return the numbers of a line, after checking its class and its number of columns."""
        if "," in line or ";" in line:
            raise WrongObjectError("separator", "commas between the numbers", "write blanks between them")
        words = line.split()
        values = tuple(self._parse_number(word) for word in words)
        check_class(words[0], values[0], len(self.rules.names))
        shape, count = self.rules.keypoint_shape, len(values)
        if not (count == 5 + shape[0] * shape[1] if shape else count == 5 or (count >= 7 and count % 2 == 1)):
            message = f"{count} columns, {self.rules.describe_columns()}"
            hint = self._hint_confidence(values[-1], count) or self._hint_keypoints(count)
            raise WrongObjectError("columns", message, hint)
        return values

    def _hint_keypoints(self, count: int) -> str:
        """Return a hint if the columns can be a box and keypoints of another number than the data set has."""
        per_point = self.rules.keypoint_shape[1] if self.rules.keypoint_shape else 3
        number, rest = divmod(count - 5, per_point)
        if rest or number < 1:
            return ""
        return f"are these {number} keypoints? The data file would have kpt_shape: [{number}, {per_point}]"

    def _hint_confidence(self, last: float, count: int) -> str:
        """Return a hint if a line is one column too long, and the last can be a detector's confidence."""
        shape = self.rules.keypoint_shape
        usual = 5 + shape[0] * shape[1] if shape else 5
        if (count == usual + 1 or (not shape and count > 7)) and 0 <= last <= 1:
            return "is the last column a confidence? Remove it; predict --save labels writes rows without it"
        return ""

    def _parse_number(self, word: str) -> float:
        try:
            # float() would take Python's 1_000, and the digits of other scripts.
            value = float(word if "_" not in word and word.isascii() else "")
        except ValueError:
            names = self.rules.names
            hint = f"names: {word} is {names.index(word)}" if word in names else ""
            if word.startswith(("imagesource:", "gsd:")):
                hint = "a file of DOTA's? Move such files from labels to labelTxt, and name the folder, not data.yaml"
            raise WrongObjectError("no number", f"'{shorten(word, 30)}' is not a number", hint) from None
        if not math.isfinite(value):
            raise WrongObjectError("nan", f"'{word}' is not a finite number")
        return value

    def _check_mixed(self) -> None:
        """Note a file in which some objects have polygons and others only boxes."""
        if bare := self.objects.find_bare():
            count = len(self.objects.rows) - len(bare)
            message = f"a box among polygons ({len(bare)} boxes, {count} polygons in this file): {MIXED}"
            self._add(self.objects.lines[bare[0]], "mixed", NOTE, message, hint=HINT_MIXED)


def problem_if_none_left(objects: Objects, problems: Sequence[Problem], file: Path) -> Problem | None:
    """Return a problem if all objects of a picture were wrong: without them it would be taken for background."""
    if objects.rows or not any(problem.weight == LABEL for problem in problems):
        return None
    message = "none of its objects can be used: the picture is dropped, not taken for background"
    return Problem("nothing left", NOTE, message, file, drops="picture")


def check_class(word: str, value: float, count: int) -> None:
    """Check that a class is a whole number below the number of names.

    Raises:
        WrongObjectError: if it is not.
    """
    if value != int(value):
        raise WrongObjectError("class", f"the class must be a whole number, not {word}")
    if not 0 <= value < count:
        named = f"{count} name" + "s" * (count != 1)
        hint = COUNTED_FROM_1 if value == count else ""
        raise WrongObjectError("class range", f"class {value:g} is outside 0..{count - 1} ({named})", hint)


def clip_box(values: Sequence[float]) -> tuple[Row, float]:
    """Return a box (class, cx, cy, w, h) clipped to the picture, and how far an edge reached outside.

    Raises:
        WrongObjectError: if the centre lies outside, or the size is not from `TINY` to 1.
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
    if over > 0:  # otherwise rounding would change the digits of a box that lies inside
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
        x, y, w, h = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    return (number, x, y, w, h), over


def read_polygon(values: Sequence[float]) -> tuple[Floats, Floats, float]:
    """Read a polygon from x1, y1, x2, y2 and so on.

    Four points are an oriented box, whose corners may lie outside: clipping would distort it, so it is not clipped.

    Returns:
        The points (K, 2), the same clipped to the picture, and how far one reached outside where it must not.

    Raises:
        WrongObjectError: if the centre of the polygon's bounding box lies outside, or if it covers nothing.
    """
    points = np.array(values, dtype=np.float64).reshape(-1, 2)
    x, y, w, h = bounding_box(points)
    clip_box((0.0, x, y, min(w, 1.0) if w <= 2 else w, min(h, 1.0) if h <= 2 else h))
    check_polygon(points)
    clipped = points.clip(0, 1)
    if len(points) == 4:
        return points, clipped, 0.0
    return clipped, clipped, max(-float(points.min()), float(points.max()) - 1, 0.0)


def check_polygon(points: Floats) -> None:
    """Check that a polygon (K, 2), in fractions of the picture, covers something.

    Raises:
        WrongObjectError: if fewer than three of its points differ, or its area is 0.
    """
    if abs(measure_area(points - points[0])) >= LEAST_AREA:
        return
    distinct = len(np.unique(points, axis=0))
    if distinct < 3:
        message = f"a polygon of {distinct} point{'s' * (distinct != 1)} covers nothing: it needs three that differ"
        raise WrongObjectError("polygon points", message, HINT_LINE)
    if len(points) > MAX_CHECKED or not is_crossing(points):  # the parts of a polygon like an 8 cancel each other
        raise WrongObjectError("polygon area", "the polygon's area is 0: its points lie on one line", HINT_LINE)


def read_keypoints(values: Sequence[float], shape: tuple[int, int]) -> Floats:
    """Return keypoints as an array of this shape, clipped to the picture.

    Raises:
        WrongObjectError: if a visible keypoint lies outside.
    """
    points = np.array(values, dtype=np.float64).reshape(shape)
    visible = points[:, 2] > 0 if shape[1] == 3 else (points >= 0).all(1)  # a negative place marks a missing point
    inside = ((points[:, :2] >= -MARGIN) & (points[:, :2] <= 1 + MARGIN)).all(1)
    wrong = np.flatnonzero(visible & ~inside)
    if len(wrong):
        number = int(wrong[0])
        x, y = points[number, :2].tolist()
        message = f"a visible keypoint lies outside the picture: number {number} at {x:.4g}, {y:.4g}"
        raise WrongObjectError("keypoint", message, _hint_visibility(shape))
    seen = slice(None) if shape[1] == 3 else visible  # without a visibility the negative place is what marks a point
    points[seen, :2] = points[seen, :2].clip(0, 1)
    return points


def _hint_visibility(shape: tuple[int, int]) -> str:
    return "write visibility 0 for a point that cannot be seen" if shape[1] == 3 else ""


def corners_of(row: Row) -> Floats:
    """Return the corners (4, 2) of a box (class, cx, cy, w, h), clockwise from the top left one."""
    _, x, y, w, h = row
    left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)))


def bounding_box(points: Floats) -> tuple[float, float, float, float]:
    """Return cx, cy, w, h of the smallest box around points (K, 2)."""
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
