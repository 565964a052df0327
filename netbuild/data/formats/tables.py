"""Lists for classification as CSV: columns ``path,label`` and optionally ``split``; the first line may name them.

Paths are relative to the file's own folder. If all labels are whole numbers, they are the numbers of the classes;
otherwise they are names, sorted. In a folder, ``train.csv``, ``val.csv`` and ``test.csv`` are splits.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netbuild.data.dataset import CLASSIFY, LABEL, NOTE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLIT_NAMES, SPLITS, read_text
from netbuild.errors import NetbuildError, shorten

_COLUMNS = ("path", "label", "split")
_ALIASES = {"image": "path", "file": "path", "filename": "path", "class": "label"}


@dataclass(frozen=True)
class _Line:
    """A line with the path and label of one picture."""

    file: Path
    number: int
    path: str
    label: str


class CsvFormat(Format):
    """A CSV file, or a folder with ``train.csv``."""

    name = "csv"

    def recognizes(self, path: Path) -> bool:
        return path.suffix.lower() == ".csv" if path.is_file() else (path / "train.csv").is_file()

    def open(self, path: Path) -> Dataset:
        tables = [path / f"{split}.csv" for split in SPLITS]
        return open_tables([path] if path.is_file() else [file for file in tables if file.is_file()], str(path))


def open_tables(files: Sequence[Path], name: str) -> Dataset:
    """Return the data set of one file with all splits, or of one file per split.

    Raises:
        NetbuildError: if no line can be used.
    """
    lines: dict[str, list[_Line]] = {}
    problems: dict[str, list[Problem]] = {}
    for file in files:
        _read(file, SPLIT_NAMES.get(file.stem.lower(), "train"), lines, problems)
    if not lines:
        raise NetbuildError(f"{name}: no line with a path and a label", hint="write lines such as: images/1.jpg,cat")
    labels = {line.label for several in lines.values() for line in several}
    names = _class_names(labels)
    numbers = {label: int(label) if names[0] == "0" and label.isdecimal() else names.index(label) for label in labels}
    order: list[str] = [split for split in SPLITS if split in lines]
    # Problems of splits that have no line to use are reported with the first split.
    elsewhere = [problem for split, found in problems.items() if split not in lines for problem in found]
    problems[order[0]] = [*problems.get(order[0], []), *elsewhere]
    splits = {split: partial(_read_split, lines[split], problems.get(split, []), numbers) for split in order}
    return Dataset(name, files[0].resolve().parent, "csv", CLASSIFY, names, splits)


def _class_names(labels: set[str]) -> tuple[str, ...]:
    """Return the names of the classes: all numbers up to the largest, or the labels sorted if one is not a number."""
    if all(label.isdecimal() and len(label) < 7 for label in labels):
        return tuple(map(str, range(1 + max(map(int, labels)))))
    return tuple(sorted(labels))


def _read(file: Path, split: str, lines: dict[str, list[_Line]], problems: dict[str, list[Problem]]) -> None:
    text = read_text(file)
    # Spreadsheets of some languages write semicolons.
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns: tuple[str, ...] = ()
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns, is_header = _read_header(cells)
                if is_header:
                    continue
            surplus = len(cells) - len(columns)
            _read_line(file, reader.line_num, dict(zip(columns, cells)), surplus, split, lines, problems)
    except csv.Error as error:
        raise NetbuildError(f"{file}:{reader.line_num}: {error}") from None


def _read_header(cells: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """Return the names of the columns, and whether the first line has them."""
    named = tuple(_ALIASES.get(cell.lower(), cell.lower()) for cell in cells)
    if "path" in named and "label" in named:
        return named, True
    return _COLUMNS[: max(2, min(len(cells), 3))], False


def _read_line(
    file: Path,
    number: int,
    cells: Mapping[str, str],
    surplus: int,
    split: str,
    lines: dict[str, list[_Line]],
    problems: dict[str, list[Problem]],
) -> None:
    """Add a line to those of its split, or a problem.

    Args:
        file: the CSV file.
        number: of the line, from 1.
        cells: by the names of their columns.
        surplus: how many cells there are more than columns.
        split: of lines that do not name one.
        lines: of each split.
        problems: of each split.
    """
    split = SPLIT_NAMES.get(cells.get("split", "").lower(), "") if cells.get("split") else split
    message = ""
    if surplus:
        message = f"{abs(surplus)} column{'s' * (abs(surplus) > 1)} too {'many' if surplus > 0 else 'few'}"
    elif not cells["path"] or not cells["label"]:
        message = "an empty path or label"
    elif not split:
        message = f"split '{shorten(cells['split'], 30)}' is none of train, val, test"
    if message:
        problem = Problem("columns", LABEL, message, file, number, "picture")
        problems.setdefault(split or "train", []).append(problem)
    else:
        lines.setdefault(split, []).append(_Line(file, number, cells["path"], cells["label"]))


def _read_split(lines: Sequence[_Line], problems: Sequence[Problem], numbers: Mapping[str, int]) -> Split:
    read = Split([], list(problems), found=len(lines) + len(problems))
    seen: dict[Path, _Line] = {}
    for line in lines:
        path = line.file.resolve().parent / line.path
        if first := seen.get(path):
            same = first.label == line.label
            message = f"{line.path} is also in line {first.number}" + ("" if same else f", as '{first.label}'")
            weight = NOTE if same else LABEL
            read.problems.append(Problem("duplicate", weight, message, line.file, line.number, "picture"))
            continue
        seen[path] = line
        read.samples.append(Sample(path, label=numbers[line.label], source=line.file, lines=(line.number,)))
    return read
