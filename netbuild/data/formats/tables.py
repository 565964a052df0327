"""Lists as CSV: columns ``path,label`` and optionally ``split``, or a box per line as TensorFlow and Kaggle write them.

Instead of one label there may be a column for each of several labels, or for each number of a picture
(`netbuild.data.formats.table_values`).

The first line may name the columns (`netbuild.data.formats.table_columns`). Paths are relative to the file's own
folder, or to the usual folders of pictures there; names without an ending are completed. If all labels are whole
numbers, they are the numbers of the classes; otherwise they are names, sorted. In a folder, ``train.csv``, ``val.csv``
and ``test.csv`` are splits, and so are ``train/_annotations.csv`` and so on.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import CLASSIFY, DETECT, LABEL, LABELS, NOTE, NUMBERS, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLIT_NAMES, SPLITS, find_visible, read_text
from netbuild.data.formats.table_boxes import BoxCells, BoxReader, find_form
from netbuild.data.formats.table_columns import Columns, read_columns, unclear_columns
from netbuild.data.formats.table_values import ValueColumns, are_numbers, choose_columns, find_separator, split_names
from netbuild.data.images import SUFFIXES
from netbuild.errors import NetbuildError, shorten

_ANNOTATIONS = "_annotations.csv"  # the name of Roboflow's lists
_UNNAMED = "object"  # the class of boxes without classes


@dataclass(frozen=True)
class _Line:
    """A line with the path and label of one picture, and the cells of a box where the file has boxes."""

    file: Path
    number: int
    path: str
    label: str
    box: BoxCells
    values: tuple[str, ...] = ()  # the cells of columns that may hold labels or numbers


class CsvFormat(Format):
    """A CSV file, or a folder with ``train.csv`` or ``train/_annotations.csv``."""

    name = "csv"

    def recognizes(self, path: Path) -> bool:
        return path.suffix.lower() == ".csv" if path.is_file() else bool(_files_in(path))

    def open(self, path: Path) -> Dataset:
        return open_tables([path] if path.is_file() else _files_in(path), str(path))


def _files_in(folder: Path) -> list[Path]:
    """Return the lists in a folder; none unless one is of the split ``train``."""
    tables = [folder / f"{split}.csv" for split in SPLITS]
    if tables[0].is_file():
        return [file for file in tables if file.is_file()]
    found = [file for file in find_visible(folder, f"*/{_ANNOTATIONS}") if file.parent.name.lower() in SPLIT_NAMES]
    return found if any(_split_of(file) == "train" for file in found) else []


def _split_of(file: Path) -> str:
    """Return the split that a file's name states, or that of its folder; else ``train``."""
    word = file.parent.name if file.name == _ANNOTATIONS else file.stem
    return SPLIT_NAMES.get(word.lower(), "train")


class _Table:
    """The lines of one or several files by split, and the problems found while they are read."""

    def __init__(self) -> None:
        self.lines: dict[str, list[_Line]] = {}
        self.problems: dict[str, list[Problem]] = {}
        self.notes: list[Problem] = []
        self.columns = Columns(2)

    def read(self, file: Path) -> None:
        """Read a file.

        Raises:
            NetbuildError: if its columns are unclear, or a quoted text in it has no end.
        """
        rows = list(_read_rows(file))
        if not rows:
            return
        columns, has_header = read_columns(file, [cells for _, cells in rows[:2]])
        if self.lines and bool(columns.box) != bool(self.columns.box):
            raise NetbuildError(f"{file}: only some of the files have boxes")
        if self.lines and _value_names(columns) != _value_names(self.columns):
            raise NetbuildError(f"{file}: its columns differ from those of the other files, or have another order")
        self.columns = columns
        if columns.unused:
            message = f"columns that are not used: {shorten(', '.join(columns.unused))}"
            self.notes.append(Problem("columns", NOTE, message, file, 1))
        for number, cells in rows[has_header:]:
            self._add(file, number, cells)

    def _add(self, file: Path, number: int, cells: Sequence[str]) -> None:
        """Add a line to those of its split, or a problem."""
        columns, surplus = self.columns, len(cells) - self.columns.count

        def cell(place: int | None) -> str:
            return cells[place] if place is not None and place < len(cells) else ""

        named = cell(columns.split)
        split = SPLIT_NAMES.get(named.lower(), "") if named else _split_of(file)
        path = cell(columns.path)
        label = _UNNAMED if columns.label is None else cell(columns.label)
        values = tuple(map(cell, columns.values))
        box = BoxCells(tuple(map(cell, columns.box)), tuple(map(cell, columns.size)))
        is_bare = bool(columns.box) and not any(box.numbers)  # a picture without objects
        message = ""
        if surplus and not (surplus == -1 and columns.split == columns.count - 1):
            message = f"{abs(surplus)} column{'s' * (abs(surplus) > 1)} too {'many' if surplus > 0 else 'few'}"
        elif surplus:
            message = "1 column too few"
        elif not path or not (label or is_bare or columns.is_several):
            message = "an empty path or label"
        elif any(mark < " " for mark in path + label):
            message = "a line break or a control character in a cell: is a quotation mark missing?"
        elif not split:
            message = f"split '{shorten(named, 30)}' is none of train, val, test"
        if message:
            problem = Problem("columns", LABEL, message, file, number, "picture")
            self.problems.setdefault(split or "train", []).append(problem)
        else:
            self.lines.setdefault(split, []).append(_Line(file, number, path, "" if is_bare else label, box, values))


def _read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not blank."""
    text = read_text(file)
    # Spreadsheets of some languages write semicolons, and others tabs.
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise NetbuildError(f"{file}:{reader.line_num}: {error}") from None


def _value_names(columns: Columns) -> tuple[str, ...]:
    return tuple(columns.names[i] for i in columns.values)


def open_tables(files: Sequence[Path], name: str) -> Dataset:
    """Return the data set of one file with all splits, or of one file per split.

    Raises:
        NetbuildError: if no line can be used, or the columns are unclear.
    """
    table = _Table()
    for file in files:
        table.read(file)
    lines, problems = table.lines, table.problems
    every = [line for several in lines.values() for line in several]
    if line := next((line for line in every if "\\" in line.path), None):
        message = f"backslashes in the names of pictures, such as {shorten(line.path, 40)}, are no separators here"
        table.notes.append(Problem("backslash", NOTE, message, line.file, line.number, hint="write /"))
    if not any(line.label for line in every):
        raise NetbuildError(f"{name}: no line with a path and a label", hint="write lines such as: images/1.jpg,cat")
    task, names, read = _choose_reader(files[0], table, every)
    order: list[str] = [split for split in SPLITS if split in lines]
    # Problems of splits that have no line to use are reported with the first split.
    elsewhere = [problem for split, found in problems.items() if split not in lines for problem in found]
    problems[order[0]] = [*problems.get(order[0], []), *elsewhere]
    splits: Mapping[str, Callable[[], Split]] = {
        split: partial(read, split, lines[split], problems.get(split, [])) for split in order
    }
    return Dataset(name, files[0].resolve().parent, "csv", task, names, splits, notes=tuple(table.notes))


_Reader = Callable[[str, Sequence[_Line], Sequence[Problem]], Split]  # of a split's name, its lines and their problems


def _choose_reader(file: Path, table: _Table, lines: Sequence[_Line]) -> tuple[str, tuple[str, ...], _Reader]:
    """Return what the labels are for, the names of the classes, and the function that reads a split.

    Raises:
        NetbuildError: if no column is known to have the labels.
    """
    columns, labels = table.columns, {line.label for line in lines} - {""}
    if columns.values:
        found = choose_columns(_value_names(columns), [line.values for line in lines])
        if not found.names:
            raise unclear_columns(file, found.unused)
        if found.unused:
            message = f"columns that are not used, as they are no numbers: {shorten(', '.join(found.unused))}"
            table.notes.append(Problem("columns", NOTE, message, file, 1))
        return LABELS if found.are_labels else NUMBERS, found.names, partial(_read_values, found)
    separator = find_separator([*labels])
    if columns.is_several and any(len(split_names(label, separator)) != 1 for label in (line.label for line in lines)):
        parts = {part for label in labels for part in split_names(label, separator)}
        names = _class_names(parts)
        if separator == " ":
            message = f"several labels of a picture are separated by blanks: {shorten(', '.join(names))}"
            table.notes.append(Problem("separator", NOTE, message, file, 1, hint="names with blanks need | or ;"))
        return LABELS, names, partial(_read_several, _number_classes(parts, names), separator)
    if not columns.box and all(re.fullmatch(r"-?\d+,\d+", label) for label in labels):
        message = f"{file}: numbers with a decimal comma, such as {min(labels)}"
        raise NetbuildError(message, hint="write a point, or name the classes without a comma")
    if not columns.box and any("." in label for label in labels) and are_numbers([line.label for line in lines]):
        shown = columns.names[columns.label] if columns.names and columns.label is not None else "value"
        numbers = ValueColumns((shown,), (0,), are_labels=False)
        return NUMBERS, numbers.names, partial(_read_values, numbers)
    names = _class_names(labels)
    by_name = _number_classes(labels, names)
    table.notes += _describe_numbers(file, labels, names)
    if not columns.box:
        return CLASSIFY, names, partial(_read_classes, by_name)
    form = find_form(file, columns.form, [line.box for line in lines])
    return DETECT, names, partial(_read_boxes, BoxReader(by_name, *form))


def _describe_numbers(file: Path, labels: set[str], names: Sequence[str]) -> Iterator[Problem]:
    """Yield notes on labels that are numbers, and may not be meant as the numbers of classes."""
    if len(names) > len(labels):
        missing = shorten(", ".join(name for name in names if name not in labels))
        yield Problem("class numbers", NOTE, f"classes that occur in no line: {missing}", file)
    elif any(re.fullmatch(r"-\d+", label) for label in labels):
        message = f"labels below 0, such as {min(labels)}, are read as names of classes like the others"
        yield Problem("class numbers", NOTE, message, file)


def _class_names(labels: set[str]) -> tuple[str, ...]:
    """Return the names of the classes: all numbers up to the largest, or the labels sorted if one is not a number."""
    if all(label.isascii() and label.isdecimal() and len(label) < 7 for label in labels):
        return tuple(map(str, range(1 + max(map(int, labels)))))
    return tuple(sorted(labels))


def _number_classes(labels: Collection[str], names: Sequence[str]) -> dict[str, int]:
    """Return the number of the class that each label stands for."""
    return {
        label: int(label) if names[0] == "0" and label.isascii() and label.isdecimal() else names.index(label)
        for label in labels
    }


class _Finder:
    """Finds the pictures of a split: paths are relative to the file's folder, or to a usual folder of pictures in it.

    Names without an ending are completed: lists of competitions name pictures by their ids.
    """

    def __init__(self, split: str) -> None:
        self.folders = ["", "images", split, f"{split}_images", f"images/{split}", f"{split}/images"]
        self.suffixes = ["", *sorted(SUFFIXES)]

    def find(self, line: _Line) -> Path:
        """Return the picture of a line; the path beside the file if there is none."""
        base = line.file.resolve().parent
        bare = Path(line.path).suffix.lower() not in SUFFIXES
        for folder in self.folders:
            for suffix in self.suffixes if bare else ("",):
                path = base / folder / f"{line.path}{suffix}"
                if path.is_file():
                    self._try_first(folder, suffix)
                    return path
        return base / line.path

    def _try_first(self, folder: str, suffix: str) -> None:
        """Move what was successful to the front: the next pictures are there, too."""
        self.folders.remove(folder)
        self.folders.insert(0, folder)
        self.suffixes.remove(suffix)
        self.suffixes.insert(0, suffix)


def _read_pictures(
    read_line: Callable[[Path, _Line], tuple[Sample | None, list[Problem]]],
    split: str,
    lines: Sequence[_Line],
    problems: Sequence[Problem],
) -> Split:
    """Return a split with a line for each picture; ``read_line`` makes a sample of it, or problems."""
    read, finder = Split([], list(problems), found=len(lines) + len(problems)), _Finder(split)
    seen: dict[Path, _Line] = {}
    for line in lines:
        path = finder.find(line)
        if first := seen.get(path):
            same = (first.label, first.values) == (line.label, line.values)
            other = f", as '{first.label}'" if first.label and not first.values else ", with other values"
            message = f"{line.path} is also in line {first.number}" + ("" if same else other)
            weight = NOTE if same else LABEL
            read.problems.append(Problem("duplicate", weight, message, line.file, line.number, "picture"))
            continue
        seen[path] = line
        sample, found = read_line(path, line)
        read.problems.extend(found)
        if sample is not None:
            read.samples.append(sample)
    return read


def _read_classes(numbers: Mapping[str, int], split: str, lines: Sequence[_Line], problems: Sequence[Problem]) -> Split:
    """Return a split for classification."""

    def read(path: Path, line: _Line) -> tuple[Sample, list[Problem]]:
        return Sample(path, label=numbers[line.label], source=line.file, lines=(line.number,)), []

    return _read_pictures(read, split, lines, problems)


def _read_several(
    numbers: Mapping[str, int], separator: str, split: str, lines: Sequence[_Line], problems: Sequence[Problem]
) -> Split:
    """Return a split for several labels, whose names are in one cell."""

    def read(path: Path, line: _Line) -> tuple[Sample, list[Problem]]:
        holds = np.zeros(1 + max(numbers.values()))
        holds[[numbers[part] for part in split_names(line.label, separator)]] = 1
        return Sample(path, labels=holds, source=line.file, lines=(line.number,)), []

    return _read_pictures(read, split, lines, problems)


def _read_values(columns: ValueColumns, split: str, lines: Sequence[_Line], problems: Sequence[Problem]) -> Split:
    """Return a split for several labels or for numbers, with a column for each."""

    def read(path: Path, line: _Line) -> tuple[Sample | None, list[Problem]]:
        values, found = columns.parse(line.values or (line.label,), line.file, line.number)
        if found:
            return None, found
        sample = Sample(path, source=line.file, lines=(line.number,))
        return replace(sample, labels=values) if columns.are_labels else replace(sample, numbers=values), []

    return _read_pictures(read, split, lines, problems)


def _read_boxes(reader: BoxReader, split: str, lines: Sequence[_Line], problems: Sequence[Problem]) -> Split:
    """Return a split for detection."""
    finder, pictures = _Finder(split), dict[Path, list[_Line]]()
    for line in lines:
        pictures.setdefault(finder.find(line), []).append(line)
    read = Split([], list(problems), f"{lines[0].path}: boxes looked for in {lines[0].file}", len(pictures))
    for path, several in pictures.items():
        rows = [(line.number, line.label, line.box) for line in several]
        if sample := reader.read(path, rows, several[0].file, read.problems):
            read.samples.append(sample)
    return read
