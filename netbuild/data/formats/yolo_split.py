"""One split of a data set in YOLO's format: its pictures, their label files and extras."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netbuild.data.dataset import LABEL, NOTE, PICTURE, Problem, Sample, Split
from netbuild.data.formats.files import find_pictures, find_visible, note_repeats, note_unread_formats, read_text
from netbuild.data.formats.label_places import LabelPlaces
from netbuild.data.formats.labels import LabelFile, Rules, problem_if_none_left
from netbuild.data.formats.yolo_extras import ExtraFolder, find_extras
from netbuild.errors import NetbuildError
from netbuild.grammar.nodes import Node

MAX_LABELS = 16 * 2**20  # bytes of a label file
# Marks of other programs in the lines of a list, which has one path a line.
_SIGNS = {"\\": "write / for the backslash", '"': "write the path without quotes", "\t": "write the path alone"}


@dataclass(frozen=True)
class Source:
    """A folder of pictures or a text file that lists them, and its place in the data file if there is one."""

    path: Path
    node: Node | None = None

    def error(self, message: str, hint: str = "") -> NetbuildError:
        """Make an error at the place in the data file."""
        return self.node.error(message, hint) if self.node else NetbuildError(message, hint=hint)


def read_split(sources: Sequence[Source], root: Path, rules: Rules, extras: Mapping[str, ExtraFolder]) -> Split:
    """Return a split of a data set.

    Args:
        sources: where its pictures are.
        root: the folder that lists of pictures are relative to.
        rules: of the label files.
        extras: for each extra the folder that it is in.

    Raises:
        NetbuildError: if there are no pictures.
    """
    read = Split([])
    pictures: dict[Path, None] = {}  # a set that keeps its order
    for source in sources:
        found = _find_pictures(source, root, read.problems)
        if not found:
            lines = [problem for problem in read.problems if problem.file == source.path]
            raise source.error(f"no pictures in {source.path}", _describe_line(lines[0]) if lines else "")
        new = dict.fromkeys(path for path in found if path not in pictures)
        read.problems.extend(note_repeats(len(found) - len(new), len(found), source.path))
        pictures.update(new)
    labels = LabelPlaces(pictures, root)
    # Where there are maps and no label file at all, the pictures have no objects, rather than only background.
    has_objects = not _has_maps(extras) or any(os.path.lexists(labels.path(picture)) for picture in pictures)
    if has_objects:
        read.problems.extend(labels.problems)
    for picture in pictures:
        path = labels.path(picture)
        sample = _read_sample(picture, path, rules, read.problems) if has_objects else Sample(picture)
        if sample is None:
            continue
        complete = replace(find_extras(sample, extras, read.problems), keypoint_swap=rules.keypoint_swap)
        if complete.extras.keys() == extras.keys():
            read.samples.append(complete)
        else:
            read.partial.append((len(read.samples), complete))
    if all(source.path.is_dir() for source in sources):  # a list may omit pictures on purpose
        read.problems.extend(_find_unused_labels(list(pictures), labels))
    first = next(iter(pictures))
    place = f"{first}: labels looked for in {labels.path(first)}"
    return replace(read, label_place=place, found=len(pictures))


def _has_maps(extras: Mapping[str, ExtraFolder]) -> bool:
    return any(place.extra.kind != "picture" for place in extras.values())


def _find_pictures(source: Source, root: Path, problems: list[Problem]) -> list[Path]:
    """Return the pictures in a folder, or those that a text file lists."""
    path = source.path
    if path.is_dir():
        problems += note_unread_formats(path)
        return find_pictures(path)
    if not path.exists():
        raise source.error(f"there is no {path}", "it is relative to path:, or else to the data file's own folder")
    if path.suffix != ".txt":
        raise source.error(f"{path} is neither a folder nor a .txt file that lists pictures")
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if text := line.strip():
            # CVAT's lists begin with data/, a folder of Darknet's that the export does not have.
            words = dict.fromkeys((text, text.removeprefix("data/")))
            tried = [(base / word).resolve() for word in words for base in (root, path.parent)]
            picture = next((path for path in tried if path.is_file()), None)
            if picture:
                found.append(picture)
            else:
                hint = next((hint for sign, hint in _SIGNS.items() if sign in text), "")
                message = f"{tried[0]} is a folder" if tried[0].is_dir() else f"there is no {tried[0]}"
                problems.append(Problem("no picture", PICTURE, message, path, number, "picture", hint))
    return found


def _describe_line(problem: Problem) -> str:
    """Say which line of a list was tried first, where none names a picture."""
    return f"line {problem.line}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")


def _read_sample(picture: Path, path: Path, rules: Rules, problems: list[Problem]) -> Sample | None:
    """Return a picture with the objects of its label file; None if it is dropped, with a problem that says why."""
    if not os.path.lexists(path):
        return LabelFile(path, rules).objects.sample(picture, None)
    if fault := _find_fault(path):
        problems.append(Problem("label file", LABEL, fault, path, drops="picture"))
        return None
    try:
        text = read_text(path, MAX_LABELS)
    except NetbuildError as error:
        message = error.message.removeprefix(f"{path}: ")
        problems.append(Problem("label file", LABEL, message, path, drops="picture", hint=error.hint))
        return None
    file = LabelFile(path, rules).read(text)
    problems.extend(file.problems)
    if nothing_left := problem_if_none_left(file.objects, file.problems, path):
        problems.append(nothing_left)
        return None
    return file.objects.sample(picture, path)


def _find_fault(path: Path) -> str:
    """Return why a label file that is there cannot be one, or nothing."""
    if path.is_dir():
        return "a folder in place of a label file"
    if not path.exists():
        return f"a link to {os.readlink(path)}, which does not exist" if path.is_symlink() else "cannot be accessed"
    return "" if path.is_file() else "not a file of text, but a pipe or a device"


def _find_unused_labels(pictures: Sequence[Path], labels: LabelPlaces) -> list[Problem]:
    """Return a note for each label file without a picture, in the folders where labels were found."""
    wanted = {labels.path(picture) for picture in pictures}
    folders = sorted({path.parent for path in wanted if "labels" in path.parts})
    found = (path for folder in folders if folder.is_dir() for path in find_visible(folder, "*.txt"))
    return [
        Problem("no picture", NOTE, "a label file without a picture", path)
        for path in found
        if path not in wanted and path.name != "classes.txt"
    ]
