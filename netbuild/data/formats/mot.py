"""MOTChallenge's sequences (arXiv 1603.00831): the frames of a video in ``img1/``, their tracks in ``gt/gt.txt``.

A line is ``frame, track, x, y, width, height, flag, class, visibility`` in pixels; frames and tracks count from 1.
Lines with the flag 0 are not to be considered. ``seqinfo.ini`` may name the folder of the frames. A data set is a
sequence, a folder of sequences, or a folder with those of each split in ``train``, ``val`` and ``test``.
"""

import configparser
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import DETECT, LABEL, NOTE, PICTURE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLIT_NAMES, find_pictures, list_subfolders, read_text
from netbuild.data.formats.labels import Objects, WrongObjectError, problem_if_none_left
from netbuild.data.images import image_size
from netbuild.errors import NetbuildError, shorten

TRUTH = Path("gt", "gt.txt")
NO_CLASS = -1  # MOT15 has no classes: its columns after the flag are -1


@dataclass(frozen=True)
class Row:
    """A line of ``gt.txt``: an object in a frame.

    Attributes:
        line: of the file, from 1.
        values: frame, track, x, y, width, height, flag and class.
    """

    line: int
    values: tuple[float, ...]

    @property
    def frame(self) -> int:
        """The number of the frame, from 1."""
        return int(self.values[0])

    @property
    def number(self) -> int:
        """The number of the class."""
        return int(self.values[7])


@dataclass(frozen=True)
class TruthFile:
    """The lines of a sequence's ``gt.txt`` that count, by frame, and what is wrong with others."""

    path: Path
    rows: Mapping[int, Sequence[Row]]
    problems: Sequence[Problem]


class MotFormat(Format):
    """A sequence with ``gt/gt.txt``, or a folder of such sequences."""

    name = "mot"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and bool(find_sequences(path))

    def open(self, path: Path) -> Dataset:
        return open_mot(path)


def find_sequences(root: Path) -> dict[str, list[Path]]:
    """Return the folders of the sequences of each split; those of a data set without splits are ``train``."""
    if (root / TRUTH).is_file():
        return {"train": [root]}
    folders = list_subfolders(root)
    plain = [folder for folder in folders if (folder / TRUTH).is_file()]
    splits = {SPLIT_NAMES[folder.name.lower()]: folder for folder in folders if folder.name.lower() in SPLIT_NAMES}
    found = {split: [f for f in list_subfolders(folder) if (f / TRUTH).is_file()] for split, folder in splits.items()}
    found = {split: sequences for split, sequences in found.items() if sequences}
    return found or ({"train": plain} if plain else {})


def open_mot(root: Path) -> Dataset:
    """Return the data set in a folder.

    Its classes are the lines of ``classes.txt``, for the numbers from 1, or else all numbers that occur. Without any
    number, as in MOT15, the one class is named ``object``.

    Raises:
        NetbuildError: if no sequence has an object.
    """
    sequences = find_sequences(root)
    files = {folder: read_truth(folder / TRUTH) for folders in sequences.values() for folder in folders}
    numbers = {row.number for file in files.values() for rows in file.rows.values() for row in rows}
    if not numbers:
        raise NetbuildError(f"{root.resolve()}: no {TRUTH.as_posix()} has an object with the flag 1")
    names = name_classes(root, numbers)
    splits = {split: partial(_read_split, folders, files, list(names)) for split, folders in sequences.items()}
    return Dataset(str(root), root.resolve(), "mot", DETECT, tuple(names.values()), splits)


def name_classes(root: Path, numbers: set[int]) -> dict[int, str]:
    """Return the name of each class by its number in the files.

    Raises:
        NetbuildError: if ``classes.txt`` has fewer lines than there are classes.
    """
    listing = root / "classes.txt"
    if not listing.is_file():
        return {number: "object" if number == NO_CLASS else str(number) for number in sorted(numbers)}
    names = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    if max(numbers) > len(names) or min(numbers) < 1:
        wrong = next(number for number in sorted(numbers) if not 1 <= number <= len(names))
        raise NetbuildError(f"{listing}: names {len(names)} classes, there is an object of class {wrong}")
    return dict(enumerate(names, 1))


def read_truth(path: Path) -> TruthFile:
    """Read a file of tracks; lines that cannot be read become problems."""
    rows, problems, ignored = dict[int, list[Row]](), list[Problem](), 0
    for line, text in enumerate(read_text(path).splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = Row(line, _parse(text))
        except WrongObjectError as error:
            problems.append(Problem(error.kind, LABEL, error.message, path, line, "box", error.hint))
            continue
        if row.values[6] == 0:
            ignored += 1
        else:
            rows.setdefault(row.frame, []).append(row)
    if ignored:
        message = f"{ignored} objects have the flag 0, not to be considered: they are left out"
        problems.append(Problem("flag", NOTE, message, path))
    return TruthFile(path, rows, problems)


def _parse(text: str) -> tuple[float, ...]:
    """Return the eight values of a line; a missing class is `NO_CLASS`.

    Raises:
        WrongObjectError: for too few columns, or values that are no numbers.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) < 7:
        message = f"{len(words)} columns, needs 7 or more (frame, track, x, y, width, height, flag, class, visibility)"
        raise WrongObjectError("columns", message, "columns are separated by commas")
    try:
        values = [float(word) for word in words[:8]]
    except ValueError:
        raise WrongObjectError("number", f"'{shorten(text, 40)}' is not a row of numbers") from None
    if not all(map(math.isfinite, values)) or any(value != int(value) for value in (*values[:2], *values[7:])):
        raise WrongObjectError("number", f"frame, track and class are whole numbers: '{shorten(text, 40)}'")
    return (*values, *[float(NO_CLASS)] * (8 - len(values)))


def _read_split(folders: Sequence[Path], files: Mapping[Path, TruthFile], numbers: Sequence[int]) -> Split:
    read = Split([], [], f"{folders[0]}: labels looked for in {TRUTH.as_posix()}")
    for folder in folders:
        read.problems.extend(files[folder].problems)
        _read_sequence(folder, files[folder], numbers, read)
    return replace(read, found=len(read.samples) + sum(problem.drops == "picture" for problem in read.problems))


def _read_sequence(folder: Path, file: TruthFile, numbers: Sequence[int], read: Split) -> None:
    """Add the frames of a sequence to a split."""
    place = frames_folder(folder)
    pictures = {int(path.stem): path for path in find_pictures(place) if path.stem.isdecimal()}
    if not pictures:
        raise NetbuildError(f"no pictures in {place.resolve()}", hint="frames are named by their number: 000001.jpg")
    for number in sorted(set(file.rows) - set(pictures)):
        message = f"there is no picture of frame {number}, which has {len(file.rows[number])} objects"
        read.problems.append(Problem("no picture", NOTE, message, file.path, file.rows[number][0].line))
    for number, picture in sorted(pictures.items()):
        if sample := _read_frame(picture, file, file.rows.get(number, ()), numbers, read.problems):
            read.samples.append(replace(sample, video=folder.name))


def frames_folder(folder: Path) -> Path:
    """Return the folder of a sequence's frames: the one that ``seqinfo.ini`` names, else ``img1``."""
    info, parser = folder / "seqinfo.ini", configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(info) if info.is_file() else "")
    except configparser.Error as error:
        raise NetbuildError(f"{info}: cannot be read: {shorten(error)}") from None
    return folder / parser.get("Sequence", "imDir", fallback="img1")


def _read_frame(
    picture: Path, file: TruthFile, rows: Sequence[Row], numbers: Sequence[int], problems: list[Problem]
) -> Sample | None:
    """Return a frame with its objects; None if it is dropped, with a problem that says why."""
    size = image_size(picture)
    if size is None:
        message = "its size in pixels, which its labels need, cannot be read"
        problems.append(Problem("unreadable", PICTURE, message, picture, drops="picture"))
        return None
    objects, tracks, found = Objects(), list[int](), list[Problem]()
    for row in rows:
        try:
            _add_object(row, size, numbers, objects, file.path, found)
        except WrongObjectError as error:
            found.append(Problem(error.kind, LABEL, error.message, file.path, row.line, "box", error.hint))
            continue
        tracks.append(int(row.values[1]))
    nothing_left = problem_if_none_left(objects, found, file.path)
    problems += [*found, nothing_left] if nothing_left else found
    if nothing_left:
        return None
    return replace(objects.sample(picture, file.path, size), tracks=np.array(tracks, np.int64))


def _add_object(
    row: Row, size: tuple[int, int], numbers: Sequence[int], objects: Objects, path: Path, found: list[Problem]
) -> None:
    """Add the object of a row.

    Raises:
        WrongObjectError: if it is wrong.
    """
    x, y, w, h = row.values[2:6]
    if w <= 0 or h <= 0:
        raise WrongObjectError("size", f"a box of {w:g} x {h:g} pixels")
    # People leave the picture, and boxes are drawn around all of them.
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, size[0]), min(y + h, size[1])
    if right <= left or bottom <= top:
        raise WrongObjectError("outside", f"the box lies outside the picture of {size[0]} x {size[1]}")
    if (left, top, right, bottom) != (x, y, x + w, y + h):
        found.append(Problem("clipped", NOTE, "an edge lies outside: the box is clipped", path, row.line))
    centre, side = ((left + right) / 2 / size[0], (top + bottom) / 2 / size[1]), (right - left, bottom - top)
    objects.add((float(numbers.index(row.number)), *centre, side[0] / size[0], side[1] / size[1]), row.line)
