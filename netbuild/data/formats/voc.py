"""Pascal VOC's layout: ``Annotations/*.xml``, ``JPEGImages/``, and ``ImageSets/Main/*.txt`` that list the splits.

XML files with document types or entities are refused: these could expand without bound or fetch other files. Corners
are read as edges in pixels; files of the VOC challenge itself, known by the text of ``source/database``, count pixels
from 1, and their corners are the first and last pixel inside the box.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.parsers import expat

from netbuild.data.dataset import DETECT, LABEL, NOTE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import find_visible, note_repeats, read_text, read_whole
from netbuild.data.formats.labels import ROUNDING, Objects, WrongObjectError, clip_box, problem_if_none_left
from netbuild.data.images import is_picture
from netbuild.errors import NetbuildError, shorten

MAX_XML = 16 * 2**20  # bytes
MAX_DEPTH = 50
_FOLDERS = ("JPEGImages", "images", "Images")
_UNREAD = ("polygon", "part", "segm", "mask", "robndbox", "keypoints")  # of objects, as annotation tools write them


@dataclass
class Element:
    """An XML element: its tag, line, text and inner elements."""

    tag: str
    line: int
    text: str = ""
    inner: list["Element"] = field(default_factory=list)

    def children(self, tag: str) -> list["Element"]:
        """Return the elements with a tag that are directly in this one."""
        return [element for element in self.inner if element.tag == tag]

    def find(self, path: str) -> "Element | None":
        """Return the first element at a path such as ``size/width``, None if there is none."""
        found: Element | None = self
        for tag in path.split("/"):
            found = next(iter(found.children(tag)), None) if found else None
        return found

    def text_at(self, path: str) -> str:
        """Return the text at a path, without blanks around it; empty if there is none."""
        found = self.find(path)
        return found.text.strip() if found else ""


class VocFormat(Format):
    """A folder with ``Annotations/`` that holds XML files."""

    name = "voc"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and is_voc(path)

    def open(self, path: Path) -> Dataset:
        return open_voc(path)


def parse_xml(text: str, name: str) -> Element:
    """Parse an XML text and return its root element.

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
        raise NetbuildError(f"{name}:{error.lineno}: not XML: {expat.ErrorString(error.code)}") from None
    return stack[0].inner[0]


@dataclass(frozen=True)
class _AnnotationFile:
    """An annotation file: its root element, or why it cannot be read."""

    path: Path
    root: Element | None
    fault: str = ""


def is_voc(folder: Path) -> bool:
    """Whether a folder has VOC's layout."""
    return bool(find_visible(_annotation_folder(folder), "*.xml"))


def _annotation_folder(folder: Path) -> Path:
    """Return the folder of the XML files; exports of annotation tools write its name in lower case."""
    return next(
        (folder / name for name in ("Annotations", "annotations") if (folder / name).is_dir()), folder / "Annotations"
    )


def open_voc(folder: Path) -> Dataset:
    """Return the data set in a folder.

    Its classes are the lines of ``classes.txt``, or else all names that occur, sorted.

    Raises:
        NetbuildError: if there are no annotations, or none with an object.
    """
    files = {path.stem: _read_file(path) for path in find_visible(_annotation_folder(folder), "*.xml")}
    names = _class_names(folder, list(files.values()))
    lists = sorted((folder / "ImageSets" / "Main").glob("*.txt"))
    plain = [path for path in lists if path.stem in ("train", "val", "trainval", "test")]
    splits = {path.stem: partial(_read_listed, folder, path, files, names) for path in plain}
    notes: list[Problem] = []
    if not splits:
        splits = {"train": partial(_read_split, folder, list(files), files, names)}
        if bare := [path for path in _find_pictures(folder) if path.stem not in files]:
            message = f"{len(bare)} pictures have no annotation file, and are left out: {shorten(bare[0].name, 40)}"
            notes.append(Problem("no labels", NOTE, message, bare[0].parent))
    return Dataset(str(folder), folder.resolve(), "voc", DETECT, names, splits, notes=tuple(notes))


def _read_file(path: Path) -> _AnnotationFile:
    try:
        return _AnnotationFile(path, parse_xml(_read_xml(path), str(path)))
    except NetbuildError as error:
        return _AnnotationFile(path, None, error.message.removeprefix(str(path)).lstrip(": "))


def _read_xml(path: Path) -> str:
    """Return the text of an XML file in the encoding that its byte order mark or its first line states, or in UTF-8.

    Raises:
        NetbuildError: if it cannot be read, or is not in that encoding.
    """
    data = read_whole(path, MAX_XML)
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    stated = re.match(rb"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)", data)
    encoding = "utf-16" if is_wide else stated[1].decode() if stated else "utf-8-sig"
    if encoding.lower() in ("utf-8", "utf8") or data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise NetbuildError(f"{path}: byte {error.start} is not {name} text", hint="save the file as UTF-8") from None
    except LookupError:  # no such encoding, or none of texts
        raise NetbuildError(f"{path}: the encoding '{encoding}' is unknown", hint="save the file as UTF-8") from None
    return re.sub(r"^\s*<\?xml.*?\?>", "", text, count=1, flags=re.DOTALL)  # the text is decoded already


def _class_names(folder: Path, files: Sequence[_AnnotationFile]) -> tuple[str, ...]:
    """Return the names in ``classes.txt``, or else all that occur, sorted."""
    listing = folder / "classes.txt"
    if listing.is_file():
        names = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    else:
        objects = [item for file in files if file.root for item in file.root.children("object")]
        names = sorted({item.text_at("name") for item in objects} - {""})
    if not names:
        raise NetbuildError(f"{_annotation_folder(folder)}: no annotation has an object with a name")
    return tuple(dict.fromkeys(names))


def _read_listed(folder: Path, listing: Path, files: dict[str, _AnnotationFile], names: Sequence[str]) -> Split:
    # A line is the stem of a picture; the challenge's lists for a single class have a second column.
    stems = [line.split()[0] for line in read_text(listing).splitlines() if line.strip()]
    return _read_split(folder, stems, files, names)


def _read_split(folder: Path, stems: Sequence[str], files: dict[str, _AnnotationFile], names: Sequence[str]) -> Split:
    pictures = {path.stem: path for path in _find_pictures(folder)}
    listed, stems = len(stems), list(dict.fromkeys(stems))
    read = Split([], [], f"{folder}: annotations looked for in {_annotation_folder(folder)}", len(stems))
    for stem in stems:
        file = files.get(stem, _AnnotationFile(_annotation_folder(folder) / f"{stem}.xml", None))
        # As a rule the picture has the stem of the annotation; otherwise the annotation names its file.
        named = PureWindowsPath(file.root.text_at("filename")).name if file.root else ""
        picture = pictures.get(stem) or pictures.get(Path(named).stem, folder / _FOLDERS[0] / f"{stem}.jpg")
        if sample := _read_sample(picture, file, names, read.problems):
            read.samples.append(sample)
    if not stems:
        raise NetbuildError(f"{folder}: the split is empty")
    read.problems.extend(note_repeats(listed - len(stems), listed, folder))
    read.problems.extend(_describe_unread([files[stem] for stem in stems if stem in files]))
    return read


def _describe_unread(files: Sequence[_AnnotationFile]) -> Iterator[Problem]:
    """Yield a note for each thing in annotations that is not used, or used although it may not be meant."""
    roots = [(file, file.root) for file in files if file.root]
    items = [item for _, root in roots for item in root.children("object")]
    unread = Counter(element.tag for item in items for element in item.inner if element.tag in _UNREAD)
    unread["bndbox"] = sum(max(0, len(item.children("bndbox")) - 1) for item in items)
    folder = files[0].path.parent if files else Path()
    for tag, count in unread.items():
        if count:
            further = "further " if tag == "bndbox" else ""
            yield Problem("not read", NOTE, f"{count} {further}elements <{tag}> in objects are not read", folder)
    difficult = sum(item.text_at("difficult") == "1" for item in items)
    if difficult:
        message = f"{difficult} objects are marked difficult: they are learnt and measured like the others"
        yield Problem("difficult", NOTE, message, folder)
    for file, root in roots:
        named = PureWindowsPath(root.text_at("filename")).stem
        if named and named != file.path.stem:
            message = (
                f"it is taken for the annotation of {file.path.stem}, and names {shorten(named, 40)} as its picture"
            )
            yield Problem("filename", NOTE, message, file.path, root.line)


def _find_pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures in all folders that VOC's layout and its exports use."""
    for place in (*(folder / name for name in _FOLDERS), _annotation_folder(folder), folder):
        if place.is_dir():
            yield from (path for path in sorted(place.iterdir()) if is_picture(path))


def _read_sample(picture: Path, file: _AnnotationFile, names: Sequence[str], problems: list[Problem]) -> Sample | None:
    if file.fault:
        problems.append(Problem("label file", LABEL, file.fault, file.path, drops="picture"))
        return None
    if file.root is None:
        return Objects().sample(picture, None)
    if file.root.find("size") is None:
        hint = "write <size><width>…</width><height>…</height></size>, in pixels of the picture"
        message = "there is no <size>: corners in pixels need the picture's width and height"
        problems.append(Problem("size", LABEL, message, file.path, file.root.line, "picture", hint))
        return None
    try:
        size = int(_read_number(file.root, "size/width")), int(_read_number(file.root, "size/height"))
        if min(size) < 1:
            raise WrongObjectError("size", f"the picture's size is stated as {size[0]} x {size[1]}")
    except WrongObjectError as error:
        problems.append(Problem(error.kind, LABEL, error.message, file.path, file.root.line, "picture"))
        return None
    found: list[Problem] = []
    objects = _read_objects(file.root, size, file.path, names, found)
    nothing_left = problem_if_none_left(objects, found, file.path)
    problems += [*found, nothing_left] if nothing_left else found
    return None if nothing_left else objects.sample(picture, file.path, size)


def _read_objects(
    root: Element, size: tuple[int, int], path: Path, names: Sequence[str], problems: list[Problem]
) -> Objects:
    objects = Objects()
    first = 1 if "VOC" in root.text_at("source/database") else 0  # the number of the first pixel
    for item in root.children("object"):
        try:
            row, over = clip_box(_read_row(item, size, names, first))
        except WrongObjectError as error:
            problems.append(Problem(error.kind, LABEL, error.message, path, item.line, "box", error.hint))
            continue
        if row in objects.rows:
            problems.append(Problem("duplicate", NOTE, "repeats another object, which is kept", path, item.line, "box"))
            continue
        if over > max(ROUNDING, 1 / min(size)):  # more than a pixel
            message = "an edge lies outside: the box is clipped to the picture"
            problems.append(Problem("clipped", NOTE, message, path, item.line))
        objects.add(row, item.line)
    return objects


def _read_row(item: Element, size: tuple[int, int], names: Sequence[str], first: int) -> tuple[float, ...]:
    """Return class and normalised cx, cy, w, h of an object."""
    name = item.text_at("name")
    if name not in names:
        raise WrongObjectError("class", f"the name '{shorten(name, 40)}' is not among the classes")
    if item.find("bndbox") is None:
        raise WrongObjectError("no box", "the object has no <bndbox>")
    left, top, right, bottom = (_read_number(item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
    left, top = (left - first) / size[0], (top - first) / size[1]
    right, bottom = right / size[0], bottom / size[1]
    return float(names.index(name)), (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _read_number(element: Element, path: str) -> float:
    word = element.text_at(path)
    try:
        value = float(word if word.isascii() else "")
    except ValueError:
        raise WrongObjectError("no number", f"{path} is not a number: '{shorten(word, 30)}'") from None
    if value != value or abs(value) > 1e9:
        raise WrongObjectError("nan", f"{path} is not a finite number: {word}")
    return value
