"""Boxes in CSV files, one per line, as TensorFlow's and Kaggle's lists have them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netbuild.data.dataset import LABEL, NOTE, Problem, Sample
from netbuild.data.formats.files import list_readings
from netbuild.data.formats.labels import Objects, WrongObjectError, clip_box, problem_if_none_left
from netbuild.data.images import image_size
from netbuild.errors import shorten

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class BoxCells:
    """The cells of a line with a box.

    Attributes:
        numbers: the four numbers as written, or one text that has all four; all are blank where there is no object.
        size: the picture's width and height as written, or empty.
    """

    numbers: tuple[str, ...]
    size: tuple[str, ...] = ()

    def parse(self) -> Corners | None:
        """Return the four numbers; None where all cells are blank.

        Raises:
            WrongObjectError: if one is no finite number.
        """
        words = self.numbers if len(self.numbers) == 4 else re.findall(r"[^\s,;\[\]()]+", self.numbers[0])
        if not any(words):
            return None
        if len(words) != 4:
            raise WrongObjectError("columns", f"a box has four numbers, not '{shorten(self.numbers[0], 40)}'")
        first, second, third, fourth = (_parse_number(word) for word in words)
        return first, second, third, fourth


def _parse_number(word: str) -> float:
    try:
        value = float(word if word.isascii() else "")
    except ValueError:
        raise WrongObjectError("no number", f"'{shorten(word, 30)}' is not a number") from None
    if not math.isfinite(value):
        raise WrongObjectError("nan", f"'{word}' is not a finite number")
    return value


def find_form(file: Path, form: str, cells: Sequence[BoxCells]) -> tuple[str, bool]:
    """Return the form of all boxes of a file, and whether they are fractions of the picture's size.

    Args:
        file: the CSV file.
        form: as `Columns.form`; ``text`` is decided by the numbers.
        cells: of all lines.

    Raises:
        NetbuildError: if the numbers can be corners as well as a corner and sides.
    """
    boxes = []
    for cell in cells:
        try:
            boxes.append((cell.parse(), cell.size))
        except WrongObjectError:  # reported with its line, later
            continue
    numbers = [(box, size) for box, size in boxes if box]
    fractions = bool(numbers) and all(max(box) <= 1.01 for box, _ in numbers)
    if form != "text":
        return form, fractions
    ordered = all(box[0] < box[2] and box[1] < box[3] for box, _ in numbers)
    fitting = all(_fits(box, size) for box, size in numbers)
    if ordered and fitting and numbers:
        sides, corners = "a box is x, y, width, height", "a box is xmin, ymin, xmax, ymax"
        repair = "write four columns of these names"
        raise list_readings(file, {sides: repair, corners: repair})
    return ("corners" if ordered else "sides"), fractions


def _fits(box: Corners, size: Sequence[str]) -> bool:
    """Whether a box read as x, y, width, height lies in its picture, as far as the picture's size is known."""
    try:
        width, height = map(float, size)
    except ValueError:
        return True
    return box[0] + box[2] <= width and box[1] + box[3] <= height


@dataclass
class BoxReader:
    """Makes samples of pictures from their lines.

    Args:
        numbers: the number of each class.
        form: ``corners``, ``sides`` or ``centre``.
        fractions: whether the numbers are fractions of the picture's size.
    """

    numbers: Mapping[str, int]
    form: str
    fractions: bool

    def read(
        self, path: Path, lines: Sequence[tuple[int, str, BoxCells]], file: Path, problems: list[Problem]
    ) -> Sample | None:
        """Return the sample of a picture; None if it is dropped, with a problem that says why.

        Args:
            path: the picture's file.
            lines: for each of its lines the number, the label and the cells of the box.
            file: the CSV file.
            problems: filled here.
        """
        stated = self._stated_size(lines)
        size = stated or image_size(path)
        if size is None:  # the scan reports that it cannot be read
            return Objects().sample(path, file)
        objects, found = Objects(), list[Problem]()

        def add(line: int, kind: str, weight: str, message: str, drops: str = "", hint: str = "") -> None:
            found.append(Problem(kind, weight, message, file, line, drops, hint))

        for line, label, cells in lines:
            self._read_box(objects, line, label, cells, size, add)
        nothing_left = problem_if_none_left(objects, found, path)
        problems += [*found, nothing_left] if nothing_left else found
        return None if nothing_left else objects.sample(path, file, stated)

    def _read_box(
        self,
        objects: Objects,
        line: int,
        label: str,
        cells: BoxCells,
        size: tuple[int, int],
        add: Callable[..., None],
    ) -> None:
        try:
            box = cells.parse()
            if box is None:
                return
            row, over = clip_box((float(self.numbers[label]), *self._normalise(box, size)))
        except WrongObjectError as error:
            add(line, error.kind, LABEL, error.message, "box", error.hint)
            return
        if row in objects.rows:
            add(line, "duplicate", NOTE, "repeats another line, which is kept", "box")
            return
        if over * max(size) > 1:  # a pixel
            add(line, "clipped", NOTE, "an edge lies outside: the box is clipped to the picture")
        objects.add(row, line)

    @staticmethod
    def _stated_size(lines: Sequence[tuple[int, str, BoxCells]]) -> tuple[int, int] | None:
        """Return the size that the first line states, None if it states none."""
        try:
            width, height = (int(_parse_number(word)) for word in lines[0][2].size)
        except (WrongObjectError, ValueError):
            return None
        return (width, height) if min(width, height) > 0 else None

    def _normalise(self, box: Corners, size: tuple[int, int]) -> Corners:
        """Return cx, cy, w, h as fractions of the picture's size.

        Raises:
            WrongObjectError: if they are fractions already, unlike those of other lines.
        """
        if not self.fractions and max(box) <= 1 and any(number % 1 for number in box):
            raise WrongObjectError("fractions", "fractions of the picture's size, where other lines have pixels")
        width, height = (1, 1) if self.fractions else size
        x, y, w, h = box[0] / width, box[1] / height, box[2] / width, box[3] / height
        if self.form == "centre":
            return x, y, w, h
        if self.form == "sides":
            return x + w / 2, y + h / 2, w, h
        return (x + w) / 2, (y + h) / 2, w - x, h - y
