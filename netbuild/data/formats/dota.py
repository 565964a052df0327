"""DOTA's format (arXiv 1711.10398): oriented boxes ``x1 y1 x2 y2 x3 y3 x4 y4 class difficult``, in pixels.

Label files begin with the lines ``imagesource:`` and ``gsd:``, which are passed over. Pictures are in ``images``, the
files in ``labelTxt`` (or ``labelTxt-v1.5``, ``annfiles``), beside each other or each with the splits as folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import DETECT, LABEL, NOTE, PICTURE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLIT_NAMES, find_pictures, find_visible, list_subfolders, read_text
from netbuild.data.formats.labels import (
    ROUNDING,
    Objects,
    WrongObjectError,
    bounding_box,
    clip_box,
    problem_if_none_left,
    read_polygon,
)
from netbuild.data.images import image_size
from netbuild.errors import NetbuildError, shorten

MAX_LABELS = 16 * 2**20  # bytes of a label file
_HEADERS = ("imagesource:", "gsd:", "acquisition")
_LABELS = ("labeltxt", "annfiles")  # beginnings of the names of folders of label files


@dataclass(frozen=True)
class Row:
    """An object in a label file.

    Attributes:
        line: of the file, from 1.
        words: of the line.
    """

    line: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the class; empty if the row is too short."""
        return self.words[8] if len(self.words) > 8 else ""

    @property
    def is_difficult(self) -> bool:
        """Whether the object is marked as difficult to recognise."""
        return len(self.words) > 9 and self.words[9] == "1"


@dataclass(frozen=True)
class Folders:
    """The folders of a split's pictures and label files."""

    pictures: Path
    labels: Path


class DotaFormat(Format):
    """A folder with ``images`` and ``labelTxt``, or with folders of splits that have these."""

    name = "dota"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and bool(find_folders(path))

    def open(self, path: Path) -> Dataset:
        return open_dota(path)


def find_folders(root: Path) -> dict[str, Folders]:
    """Return the folders of each split; a data set without splits is ``train``."""
    found: dict[str, Folders] = {}
    places = {
        SPLIT_NAMES[path.name.lower()]: path for path in list_subfolders(root) if path.name.lower() in SPLIT_NAMES
    }
    for split, path in places.items():
        if folders := _find_pair(path):
            found[split] = folders
    whole = _find_pair(root)
    if found or whole is None:
        return found
    inner = {SPLIT_NAMES[p.name.lower()]: p for p in list_subfolders(whole.labels) if p.name.lower() in SPLIT_NAMES}
    pairs = {split: Folders(whole.pictures / path.name, path) for split, path in inner.items()}
    return {split: pair for split, pair in pairs.items() if pair.pictures.is_dir()} or {"train": whole}


def _find_pair(folder: Path) -> Folders | None:
    """Return ``images`` and the last of the folders of label files by name, such as that of the latest version."""
    labels = [path for path in list_subfolders(folder) if path.name.lower().startswith(_LABELS)]
    pictures = folder / "images"
    return Folders(pictures, labels[-1]) if labels and pictures.is_dir() else None


def open_dota(root: Path) -> Dataset:
    """Return the data set in a folder. Its classes are the lines of ``classes.txt``, or else all names found, sorted.

    Raises:
        NetbuildError: if no file has an object with a class.
    """
    folders = find_folders(root)
    rows = {split: _read_files(pair.labels) for split, pair in folders.items()}
    listing = root / "classes.txt"
    if listing.is_file():
        names = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    else:
        found = (row.name for files in rows.values() for several in files.values() for row in several)
        names = sorted(set(found) - {""})
    if not names:
        raise NetbuildError(f"{root.resolve()}: no label file has an object with a class")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    splits = {split: partial(_read_split, pair, rows[split], numbers) for split, pair in folders.items()}
    return Dataset(str(root), root.resolve(), "dota", DETECT, tuple(numbers), splits)


def _read_files(folder: Path) -> dict[str, list[Row]]:
    """Return the rows of each label file below a folder, by its path in it without suffix."""
    files = find_visible(folder, "*.txt", "**/*.txt")
    return {path.relative_to(folder).with_suffix("").as_posix(): _read_rows(path) for path in files}


def _read_rows(path: Path) -> list[Row]:
    lines = enumerate(read_text(path, MAX_LABELS).splitlines(), 1)
    return [Row(n, tuple(line.split())) for n, line in lines if line.strip() and not line.startswith(_HEADERS)]


def _read_split(folders: Folders, files: Mapping[str, Sequence[Row]], numbers: Mapping[str, int]) -> Split:
    pictures = {p.relative_to(folders.pictures).with_suffix("").as_posix(): p for p in find_pictures(folders.pictures)}
    if not pictures:
        raise NetbuildError(f"no pictures in {folders.pictures.resolve()}")
    first = next(iter(pictures.values()))
    read = Split([], [], f"{first}: labels looked for in {folders.labels}", len(pictures))
    for stem, picture in pictures.items():
        if sample := _read_sample(picture, folders.labels / f"{stem}.txt", files.get(stem), numbers, read.problems):
            read.samples.append(sample)
    for stem in sorted(set(files) - set(pictures)):
        path = folders.labels / f"{stem}.txt"
        read.problems.append(Problem("no picture", NOTE, "a label file without a picture", path))
    difficult = sum(row.is_difficult for rows in files.values() for row in rows)
    if difficult:
        message = f"{difficult} objects are marked difficult: they are learnt and measured like the others"
        read.problems.append(Problem("difficult", NOTE, message, folders.labels))
    return read


def _read_sample(
    picture: Path, path: Path, rows: Sequence[Row] | None, numbers: Mapping[str, int], problems: list[Problem]
) -> Sample | None:
    """Return a picture with its objects; None if it is dropped, with a problem that says why."""
    if rows is None:
        problems.append(Problem("no labels", NOTE, f"there is no {path.name}: it is background", picture))
        return Objects().sample(picture, None)
    size = image_size(picture)
    if size is None:
        message = "its size in pixels, which its labels need, cannot be read"
        problems.append(Problem("unreadable", PICTURE, message, picture, drops="picture"))
        return None
    objects, found = Objects(), list[Problem]()
    for row in rows:
        try:
            _read_row(row, size, numbers, objects, path, found)
        except WrongObjectError as error:
            found.append(Problem(error.kind, LABEL, error.message, path, row.line, "box", error.hint))
    nothing_left = problem_if_none_left(objects, found, path)
    problems += [*found, nothing_left] if nothing_left else found
    return None if nothing_left else objects.sample(picture, path, size)


def _read_row(
    row: Row, size: tuple[int, int], numbers: Mapping[str, int], objects: Objects, path: Path, found: list[Problem]
) -> None:
    """Add the object of a row.

    Raises:
        WrongObjectError: if it is wrong.
    """
    if len(row.words) not in (9, 10):
        message = f"{len(row.words)} columns, needs 10 (x1 y1 x2 y2 x3 y3 x4 y4 class difficult)"
        raise WrongObjectError("columns", message, "a class of two words is written with a hyphen")
    if row.name not in numbers:
        raise WrongObjectError("class", f"the name '{shorten(row.name, 40)}' is not among the classes")
    corners = [_read_number(word) / size[i % 2] for i, word in enumerate(row.words[:8])]
    x, y = np.reshape(corners, (4, 2)).mean(0).tolist()
    if not (0 <= x <= 1 and 0 <= y <= 1):
        message = f"its centre {x * size[0]:.4g}, {y * size[1]:.4g} is outside the picture of {size[0]} x {size[1]}"
        raise WrongObjectError("outside", message)
    points, clipped, _ = read_polygon(corners)
    box, over = clip_box((float(numbers[row.name]), *bounding_box(clipped)))
    if box in objects.rows and any((points == other[0]).all() for other in objects.outlines):
        found.append(Problem("duplicate", NOTE, "repeats another object, which is kept", path, row.line, "box"))
        return
    if over > ROUNDING:
        found.append(Problem("clipped", NOTE, "an edge lies outside: the box is clipped", path, row.line))
    objects.add(box, row.line, (points,))


def _read_number(word: str) -> float:
    try:
        value = float(word if word.isascii() and "_" not in word else "")
    except ValueError:
        raise WrongObjectError("no number", f"'{shorten(word, 30)}' is not a number") from None
    if value != value or abs(value) > 1e9:
        raise WrongObjectError("nan", f"'{word}' is not a finite number")
    return value
