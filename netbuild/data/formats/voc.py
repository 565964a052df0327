"""Pascal VOC's layout: ``Annotations/*.xml``, ``JPEGImages/``, and ``ImageSets/Main/*.txt`` that list the splits.

An XML file is read with places and without document types or entities, so that none can grow or fetch anything.
Corners are edges in pixels as written; files of the VOC challenge itself count pixels from 1 (their corners are the
first and last pixel inside), which the text of ``source/database`` tells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

from netbuild.data.dataset import DETECT, LABEL, NOTE, Dataset, Part, Problem, Sample
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import read_text
from netbuild.data.formats.labels import ROUNDING, Objects, WrongObjectError, fit_box, spoilt
from netbuild.data.images import is_picture
from netbuild.errors import NetbuildError, shorten

MAX_XML = 16 * 2**20  # bytes
MAX_DEPTH = 50
_FOLDERS = ("JPEGImages", "images", "Images")


@dataclass
class Element:
    """A tag with its line, its text and what is in it."""

    tag: str
    line: int
    text: str = ""
    inner: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        """The elements right in this one with a tag."""
        return [element for element in self.inner if element.tag == tag]

    def find(self, path: str) -> "Element | None":
        """The first element at a path such as ``size/width``."""
        found: Element | None = self
        for tag in path.split("/"):
            found = next(iter(found.all(tag)), None) if found else None
        return found

    def word(self, path: str) -> str:
        """The text at a path, or an empty one."""
        found = self.find(path)
        return found.text.strip() if found else ""


class VocFormat(Format):
    """A folder with ``Annotations/``."""

    name = "voc"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and is_voc(path)

    def open(self, path: Path) -> Dataset:
        return open_voc(path)


def parse_xml(text: str, name: str) -> Element:
    """The root element of an XML text.

    Raises:
        NetbuildError: for a syntax error, a document type or an entity, with its line.
    """
    parser = expat.ParserCreate()
    stack = [Element("", 0)]

    def start(tag: str, _: Any) -> None:
        if len(stack) > MAX_DEPTH:
            raise NetbuildError(f"{name}:{parser.CurrentLineNumber}: nested deeper than {MAX_DEPTH}")
        element = Element(tag, parser.CurrentLineNumber)
        stack[-1].inner.append(element)
        stack.append(element)

    def characters(data: str) -> None:
        stack[-1].text += data

    def refuse(*_: Any) -> None:
        raise NetbuildError(f"{name}:{parser.CurrentLineNumber}: document types and entities are not read")

    parser.StartElementHandler, parser.CharacterDataHandler = start, characters
    parser.EndElementHandler = lambda _: stack.pop()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise NetbuildError(f"{name}:{error.lineno}: no XML: {expat.ErrorString(error.code)}") from None
    return stack[0].inner[0]


@dataclass(frozen=True)
class _File:
    path: Path
    root: Element | None
    fault: str = ""


def is_voc(folder: Path) -> bool:
    """Whether a folder has VOC's layout."""
    return any((folder / "Annotations").glob("*.xml"))


def open_voc(folder: Path) -> Dataset:
    """The data set in a folder. Classes are those of a file ``classes.txt`` (a name a line), else all found, sorted.

    Raises:
        NetbuildError: if there are no annotations, or none with an object.
    """
    files = {path.stem: _read(path) for path in sorted((folder / "Annotations").glob("*.xml"))}
    names = _names(folder, list(files.values()))
    lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
    plain = [path for path in lists if path.stem in ("train", "val", "trainval", "test")]
    splits = {path.stem: partial(_listed, folder, path, files, names) for path in plain}
    if not splits:
        splits = {"train": partial(_part, folder, list(files), files, names)}
    return Dataset(str(folder), folder.resolve(), "voc", DETECT, names, splits)


def _read(path: Path) -> _File:
    try:
        return _File(path, parse_xml(read_text(path, MAX_XML), str(path)))
    except NetbuildError as error:
        return _File(path, None, error.message.removeprefix(str(path)).lstrip(": "))


def _names(folder: Path, files: Sequence[_File]) -> tuple[str, ...]:
    written = folder / "classes.txt"
    if written.is_file():
        names = [line.strip() for line in read_text(written).splitlines() if line.strip()]
    else:
        names = sorted({item.word("name") for file in files if file.root for item in file.root.all("object")} - {""})
    if not names:
        raise NetbuildError(f"{folder / 'Annotations'}: no annotation has an object with a name")
    return tuple(dict.fromkeys(names))


def _listed(folder: Path, listing: Path, files: dict[str, _File], names: Sequence[str]) -> Part:
    # The challenge's lists of one class have a second column, the plain ones only the stem.
    stems = [line.split()[0] for line in read_text(listing).splitlines() if line.strip()]
    return _part(folder, stems, files, names)


def _part(folder: Path, stems: Sequence[str], files: dict[str, _File], names: Sequence[str]) -> Part:
    pictures = {path.stem: path for path in _pictures(folder)}
    stems = list(dict.fromkeys(stems))
    part = Part([], [], f"{folder}: annotations looked for in {folder / 'Annotations'}", len(stems))
    for stem in stems:
        file = files.get(stem, _File(folder / "Annotations" / f"{stem}.xml", None))
        named = Path(file.root.word("filename")).name if file.root else ""
        picture = pictures.get(stem) or pictures.get(Path(named).stem, folder / _FOLDERS[0] / f"{stem}.jpg")
        if sample := _sample(picture, file, names, part.problems):
            part.samples.append(sample)
    if not stems:
        raise NetbuildError(f"{folder}: the split is empty")
    return part


def _pictures(folder: Path) -> Iterator[Path]:
    for place in (*(folder / name for name in _FOLDERS), folder / "Annotations", folder):
        if place.is_dir():
            yield from (path for path in sorted(place.iterdir()) if is_picture(path))


def _sample(picture: Path, file: _File, names: Sequence[str], problems: list[Problem]) -> Sample | None:
    if file.fault:
        problems.append(Problem("label file", LABEL, file.fault, file.path, drops="picture"))
        return None
    if file.root is None:
        return Objects().sample(picture, None)
    try:
        size = int(_number(file.root, "size/width")), int(_number(file.root, "size/height"))
        if min(size) < 1:
            raise WrongObjectError("size", f"the picture's size is given as {size[0]} x {size[1]}")
    except WrongObjectError as error:
        problems.append(Problem(error.kind, LABEL, error.message, file.path, file.root.line, "picture"))
        return None
    found: list[Problem] = []
    objects = _objects(file.root, size, file.path, names, found)
    left = spoilt(objects, found, file.path)
    problems += [*found, left] if left else found
    return None if left else objects.sample(picture, file.path, size)


def _objects(
    root: Element, size: tuple[int, int], path: Path, names: Sequence[str], problems: list[Problem]
) -> Objects:
    objects, first = Objects(), 1 if "VOC" in root.word("source/database") else 0
    for item in root.all("object"):
        try:
            row, over = fit_box(_row(item, size, names, first))
        except WrongObjectError as error:
            problems.append(Problem(error.kind, LABEL, error.message, path, item.line, "box", error.hint))
            continue
        if row in objects.rows:
            problems.append(Problem("duplicate", NOTE, "repeats another object: one is kept", path, item.line, "box"))
            continue
        if over > max(ROUNDING, 1 / min(size)):
            problems.append(Problem("clipped", NOTE, "an edge lies outside: kept, clipped", path, item.line))
        objects.add(row, item.line)
    return objects


def _row(item: Element, size: tuple[int, int], names: Sequence[str], first: int) -> tuple[float, ...]:
    """Class, cx, cy, w, h normalised."""
    name = item.word("name")
    if name not in names:
        raise WrongObjectError("class", f"the name '{shorten(name, 40)}' is not among the classes")
    left, top, right, bottom = (_number(item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    left, top = (left - first) / size[0], (top - first) / size[1]
    right, bottom = right / size[0], bottom / size[1]
    return float(names.index(name)), (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _number(element: Element, path: str) -> float:
    word = element.word(path)
    try:
        value = float(word)
    except ValueError:
        raise WrongObjectError("no number", f"{path} is no number: '{shorten(word, 30)}'") from None
    if value != value or abs(value) > 1e9:
        raise WrongObjectError("nan", f"{path} is no finite number: {word}")
    return value
