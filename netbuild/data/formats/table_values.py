"""Columns of a CSV file that hold several labels of a picture, or numbers.

Labels are a column each with 0 and 1, or one column with their names. A table of columns is one of labels if nearly all
its cells are 0 and 1; so a single wrong cell is an error at its line and does not make labels numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netbuild.data.dataset import LABEL, Floats, Problem

SEPARATORS = ("|", ";", ",")  # of names in one cell; if none of them occurs, blanks separate names
USUAL_SHARE = 0.9  # of a column's cells that are not empty, from which on the others are mistakes
_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "false": 0.0, "true": 1.0}
_UNKNOWN = frozenset(("", "nan", "na", "n/a", "none", "null"))  # cells without a value


@dataclass(frozen=True)
class ValueColumns:
    """The columns of a file that hold labels or numbers.

    Attributes:
        names: of the columns.
        places: their numbers among the columns that may be such.
        are_labels: whether they hold 0 and 1, rather than numbers of any size.
        unused: names of the other columns, whose cells are no numbers.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    are_labels: bool
    unused: tuple[str, ...] = ()

    def parse(self, cells: Sequence[str], file: Path, line: int) -> tuple[Floats, list[Problem]]:
        """Return the values (K,) of a line, NaN for those that are not known, and a problem for each wrong cell."""
        values, problems = np.full(len(self.places), np.nan), list[Problem]()
        for i, (name, place) in enumerate(zip(self.names, self.places, strict=True)):
            cell = cells[place]
            if is_unknown(cell):
                continue
            number = _FLAGS.get(cell.lower()) if self.are_labels else parse_number(cell)
            if number is None:
                expected = "0 or 1" if self.are_labels else "a number"
                message = f"'{name}' is '{cell[:30]}', expected {expected}"
                hint = "leave the cell empty if it is not known"
                problems.append(Problem("value", LABEL, message, file, line, "picture", hint))
            else:
                values[i] = number
        return values, problems


def choose_columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> ValueColumns:
    """Choose the columns that hold labels or numbers.

    Args:
        names: of the columns that may be such.
        rows: the cells of these columns, line by line.
    """
    columns = list(zip(*rows, strict=True))
    places = tuple(i for i, cells in enumerate(columns) if _share(cells, is_number) >= USUAL_SHARE)
    are_labels = bool(places) and all(_share(columns[i], is_flag) >= USUAL_SHARE for i in places)
    unused = tuple(name for i, name in enumerate(names) if i not in places)
    return ValueColumns(tuple(names[i] for i in places), places, are_labels, unused)


def _share(cells: Sequence[str], is_right: Callable[[str], bool]) -> float:
    """Return the share of the cells with a value that pass a test; 0 if none has a value."""
    known = [cell for cell in cells if not is_unknown(cell)]
    return sum(map(is_right, known)) / len(known) if known else 0.0


def is_unknown(cell: str) -> bool:
    """Whether a cell has no value."""
    return cell.lower() in _UNKNOWN


def is_flag(cell: str) -> bool:
    """Whether a cell is 0 or 1, or true or false."""
    return cell.lower() in _FLAGS


def is_number(cell: str) -> bool:
    """Whether a cell is a finite number, or true or false."""
    return is_flag(cell) or parse_number(cell) is not None


def are_numbers(cells: Sequence[str]) -> bool:
    """Whether cells are meant as numbers: nearly all are such, also infinite ones, which are errors later."""
    return _share(cells, is_any_number) >= USUAL_SHARE


def is_any_number(cell: str) -> bool:
    """Whether a cell is a number, be it infinite or NaN."""
    try:
        float(cell)
    except ValueError:
        return False
    return cell.isascii()


def parse_number(cell: str) -> float | None:
    """Return a cell's number; None if it is none, or not finite."""
    try:
        value = float(cell) if cell.isascii() else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def find_separator(cells: Sequence[str]) -> str:
    """Return what separates the names in cells of several: the first of `SEPARATORS` that occurs, else a blank."""
    return next((mark for mark in SEPARATORS if any(mark in cell for cell in cells)), " ")


def split_names(cell: str, separator: str) -> tuple[str, ...]:
    """Return the names in a cell, each once; none for an empty cell."""
    if is_unknown(cell):
        return ()
    parts = (part.strip() for part in (cell.split() if separator == " " else cell.split(separator)))
    return tuple(dict.fromkeys(part for part in parts if part))
