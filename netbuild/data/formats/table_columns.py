"""The columns of a CSV file: which of them name the pictures, the classes, the split and the corners of boxes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from netbuild.data.formats.files import SPLIT_NAMES, list_readings
from netbuild.data.formats.table_values import is_any_number
from netbuild.data.images import SUFFIXES
from netbuild.errors import NetbuildError, shorten

# Names of columns, lower-case letters and digits only; the first one that is there is meant.
_PATHS = (
    *("path", "filepath", "imagepath", "filename", "file", "imagefile", "image", "img", "picture", "imagename"),
    *("imgname", "imageid", "imgid", "idcode", "id"),
)
_LABELS = (
    *("label", "class", "classname", "labelname", "category", "categoryname", "target", "species", "breed", "name"),
    *("classid", "labelid", "categoryid"),
)
_SEVERAL = ("labels", "tags", "classes", "categories", "attributes")  # columns of several names
_SPLITS = ("split", "subset", "set", "usage")
_WIDTHS, _HEIGHTS = ("imagewidth", "imgwidth", "width"), ("imageheight", "imgheight", "height")
# For each form the names of its four columns, in the order in which the form's numbers stand.
_FORMS = {
    "corners": (
        ("xmin", "ymin", "xmax", "ymax"),
        ("x1", "y1", "x2", "y2"),
        ("left", "top", "right", "bottom"),
        ("bboxxmin", "bboxymin", "bboxxmax", "bboxymax"),
        ("bboxx1", "bboxy1", "bboxx2", "bboxy2"),
        ("xtl", "ytl", "xbr", "ybr"),
    ),
    "centre": (
        ("xcenter", "ycenter", "w", "h"),
        ("xcenter", "ycenter", "width", "height"),
        ("cx", "cy", "w", "h"),
        ("cx", "cy", "width", "height"),
    ),
    "sides": (
        ("x", "y", "w", "h"),
        ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
        ("bboxx", "bboxy", "bboxw", "bboxh"),
        ("xmin", "ymin", "w", "h"),
        ("left", "top", "w", "h"),
        ("x", "y", "width", "height"),
        ("xmin", "ymin", "width", "height"),
        ("left", "top", "width", "height"),
    ),
}
_TEXTS = ("bbox", "box", "boundingbox")  # a single column with four numbers
# One of these without the others shows that boxes were meant.
_PARTS = {name for forms in _FORMS.values() for names in forms for name in names} - {
    "width",
    "height",
    "x",
    "y",
    "w",
    "h",
}


@dataclass(frozen=True)
class Columns:
    """What the columns of a CSV file hold, by their number.

    Attributes:
        count: how many there are.
        path: of the pictures.
        label: of the classes; None for boxes without classes, and where ``values`` are the labels.
        split: of the splits' names, or None.
        box: of the four numbers of a box, or of one text with all four; empty in classification.
        form: ``corners`` (left, top, right, bottom), ``sides`` (left, top, width, height), ``centre`` (its x and y,
            width, height), or ``text`` for one column whose form the numbers decide.
        size: of the picture's width and height, or empty.
        unused: names of the columns that mean nothing here.
        is_several: whether a cell of ``label`` may have several names.
        values: columns that may hold a label or a number each, where no single column has the labels.
        names: of all columns, as the header has them; empty without a header.
    """

    count: int
    path: int = 0
    label: int | None = 1
    split: int | None = None
    box: tuple[int, ...] = ()
    form: str = ""
    size: tuple[int, ...] = ()
    unused: tuple[str, ...] = field(default=())
    is_several: bool = False
    values: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


def read_columns(file: Path, rows: Sequence[Sequence[str]]) -> tuple[Columns, bool]:
    """Return the columns of a file, and whether its first row names them.

    Args:
        file: the CSV file, whose folder relative paths start at.
        rows: its first two rows that are not blank, or the one that there is.

    Raises:
        NetbuildError: if the names do not tell which column is meant.
    """
    first = rows[0]
    names = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in first]
    has_header = any(name in (*_PATHS, *_LABELS[:3]) for name in names) and not any(
        _is_picture(file, cell) for cell in first
    )
    if not has_header and len(rows) > 1:  # a header with other words
        has_header = not any(_is_picture(file, cell) for cell in first) and any(_is_picture(file, c) for c in rows[1])
    if has_header:
        return _read_named(file, first, names, rows[1] if len(rows) > 1 else ()), True
    return _read_unnamed(file, first), False


def _is_picture(file: Path, cell: str) -> bool:
    """Whether a cell is the name of a picture by its ending, or of a file that there is."""
    if Path(cell).suffix.lower() in SUFFIXES:
        return True
    try:
        return bool(cell) and (file.parent / cell).is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _read_unnamed(file: Path, first: Sequence[str]) -> Columns:
    """Return the columns of a file without a header: path,label[,split] or path,x1,y1,x2,y2[,class]."""
    if len(first) in (5, 6) and all(is_any_number(cell) or not cell for cell in first[1:5]):
        return Columns(len(first), label=5 if len(first) == 6 else None, box=(1, 2, 3, 4), form="corners")
    if len(first) < 2 or len(first) > 3 or (len(first) == 3 and first[2] and first[2].lower() not in SPLIT_NAMES):
        expected = "path,label[,split] or path,x1,y1,x2,y2,class"
        message = f"{file}: {len(first)} columns without names: {shorten(','.join(first))}; expected {expected}"
        raise NetbuildError(message, hint="name the columns in the first line")
    return Columns(len(first), split=2 if len(first) == 3 else None)


def _read_named(file: Path, shown: Sequence[str], names: Sequence[str], second: Sequence[str]) -> Columns:
    """Return the columns by their names in the header; ``second`` is the row below it."""
    box, form = _find_box(file, shown, names)
    size = () if set(box) & _found(names, *_WIDTHS) else _pair(names, _WIDTHS, _HEIGHTS)
    sides = _found(names, *_WIDTHS, *_HEIGHTS)
    free = set(range(len(names))) - {*box}
    split = _first(names, _SPLITS, free)
    path = _first(names, _PATHS, free)
    if path is None:
        path = next((i for i in sorted(free) if i < len(second) and _is_picture(file, second[i])), None)
    if path is None:
        message = f"{file}: no column names the pictures; there is {', '.join(shown)}"
        raise NetbuildError(message, hint="name it path, image or filename")
    free -= {path, split} if split is not None else {path}
    # Width and height of the picture are stated together; alone, or without labels beside them, they are numbers of
    # what it shows.
    free -= sides if box or (size and free - sides) else set()
    label = _first(names, _LABELS, free)
    several = None if box or label is not None else _first(names, _SEVERAL, free)
    values: tuple[int, ...] = ()
    if label is None and several is None and not box:
        if not free:
            raise NetbuildError(f"{file}: no column has the labels; there is {', '.join(shown)}", hint="name it label")
        label, values = (next(iter(free)), ()) if len(free) == 1 else (None, tuple(sorted(free)))
    label = several if label is None else label
    unused = tuple(shown[i] for i in sorted(free - {label, *values}))
    is_several = several is not None
    return Columns(len(names), path, label, split, box, form, size, unused, is_several, values, tuple(shown))


def unclear_columns(file: Path, names: Sequence[str]) -> NetbuildError:
    """Make an error for a file of which no column is known as the labels, and none holds numbers."""
    readings = {f"'{name}' is the class": "rename it to label" for name in names[:8]}
    several = "each column is a label of its own"
    return list_readings(file, {**readings, several: "write 1 where it holds and 0 where it does not"})


def _find_box(file: Path, shown: Sequence[str], names: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """Return the columns of the boxes and their form; empty where there are no boxes."""
    for form, several in _FORMS.items():
        for wanted in several:
            if all(name in names for name in wanted):
                return tuple(names.index(name) for name in wanted), form
    for name in _TEXTS:
        if name in names:
            return (names.index(name),), "text"
    if parts := [shown[i] for i, name in enumerate(names) if name in _PARTS or name.startswith("region")]:
        message = f"{file}: the columns {', '.join(parts)} look like boxes or regions, but do not make up a box"
        raise NetbuildError(message, hint="boxes are read from columns xmin, ymin, xmax, ymax")
    return (), ""


def _found(names: Sequence[str], *wanted: str) -> set[int]:
    return {i for i, name in enumerate(names) if name in wanted}


def _pair(names: Sequence[str], *choices: Sequence[str]) -> tuple[int, ...]:
    """Return a column for each of the choices, or none at all."""
    found = [_first(names, choice, set(range(len(names)))) for choice in choices]
    return tuple(i for i in found if i is not None) if None not in found else ()


def _first(names: Sequence[str], wanted: Sequence[str], free: set[int]) -> int | None:
    """Return the column of the first wanted name that is there and not taken."""
    places: Iterator[int] = (names.index(name) for name in wanted if name in names)
    return next((place for place in places if place in free), None)
