"""Data sets with YOLO's label files but without data.yaml, as YOLO, CVAT, Darknet and labelling tools lay them out.

Known are ``train/images`` with ``train/labels``, ``images/train`` with ``labels/train``, ``images`` with ``labels``,
label files beside the pictures, and Darknet's ``obj.data``, ``train.txt``, ``obj_train_data`` (CVAT's "YOLO 1.1").
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from netbuild.data.dataset import DETECT, NOTE, Dataset, Problem
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import (
    SPLIT_NAMES,
    SPLITS,
    find_pictures,
    find_visible,
    list_readings,
    list_subfolders,
    read_text,
    walk_files,
)
from netbuild.data.formats.label_places import label_path
from netbuild.data.formats.labels import Rules
from netbuild.data.formats.yolo_split import Source, read_split
from netbuild.data.images import is_picture
from netbuild.errors import NetbuildError

_TRIED = 20  # label files of a folder that are looked at before it is decided that they are none
_ROW = re.compile(r"\s*\d+(\s+[-+.\deE]+){4,}\s*")
_NAME_FILES = ("*.names", "classes.txt", "*/classes.txt", "_darknet.labels", "*/_darknet.labels", "*/*/classes.txt")
_NO_LABELS = ("classes.txt", "obj.names")


class YoloFoldersFormat(Format):
    """A folder with YOLO's label files and without a YAML file that describes it."""

    name = "yolo-folders"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and not find_visible(path, "*.yaml", "*.yml") and bool(_find_sources(path))

    def open(self, path: Path) -> Dataset:
        return open_layout(path)


def open_layout(root: Path) -> Dataset:
    """Return the data set in a folder.

    Its classes are named by a file such as ``obj.names`` or ``classes.txt``; without one they are numbered up to the
    largest number in the label files, and a note says so.

    Raises:
        NetbuildError: if there is no picture.
    """
    root = root.resolve()
    sources = _find_sources(root)
    names, notes = _read_names(root, sources)
    splits = {
        split: partial(read_split, sources[split], root, Rules(names), {}) for split in SPLITS if split in sources
    }
    return Dataset(str(root), root, "yolo", DETECT, names, splits, notes=notes)


def has_label_files(folder: Path, pictures: Path | None = None) -> bool:
    """Whether a folder has label files of YOLO's format for pictures of the same names.

    Args:
        folder: the folder of the label files.
        pictures: the folder of the pictures; the same one if it is not given.
    """
    places = pictures or folder
    found = [path for path in walk_files(folder) if path.suffix.lower() == ".txt" and path.name not in _NO_LABELS]
    if not found:  # before all pictures are listed, which may be a million
        return False
    stems = {path.relative_to(places).with_suffix("") for path in walk_files(places) if is_picture(path)}
    matching = (path for path in found if path.relative_to(folder).with_suffix("") in stems)
    return any(_has_rows(path) for path in islice(matching, _TRIED))


def _has_rows(path: Path) -> bool:
    """Whether the first line of a text file that is not blank is a row of numbers with a class first."""
    try:
        with path.open("rb") as file:
            lines = file.read(4096).decode(errors="replace").splitlines()
    except OSError:
        return False
    first = next((line for line in lines if line.strip()), "")
    return bool(_ROW.fullmatch(first))


def _find_sources(root: Path) -> dict[str, list[Source]]:
    """Return the folders or lists of pictures of each split, of the first layout that the folder has; else nothing.

    Raises:
        NetbuildError: if two folders are the same split, such as ``val`` and ``valid``.
    """
    for layout in (_find_darknet, _find_split_folders, _find_split_images, _find_flat):
        found: dict[str, list[Path]] = {}
        for split, path in layout(root):
            found.setdefault(split, []).append(path)
        for split, paths in found.items():
            if len(paths) > 1:
                raise list_readings(
                    root, {f"'{path.name}' is the split '{split}'": "move the other away" for path in paths}
                )
        if found:
            return {split: [Source(path) for path in paths] for split, paths in found.items()}
    return {}


def _find_darknet(root: Path) -> Iterator[tuple[str, Path]]:
    """Darknet's lists ``train.txt``, ``valid.txt``, or CVAT's folders of pictures with their label files beside."""
    folders = {split: path for path in list_subfolders(root) if (split := _split_of(path, "obj_", "_data"))}
    described = any(find_visible(root, "*.data", "*.names"))
    if not folders and not described:
        return
    lists = {split: path for path in find_visible(root, "*.txt") if (split := SPLIT_NAMES.get(path.stem.lower()))}
    yield from {**folders, **lists}.items()


def _split_of(path: Path, prefix: str, suffix: str) -> str | None:
    """Return the split of a folder whose name is one in a prefix and a suffix, None if it is none."""
    name = path.name.lower()
    inner = name.removeprefix(prefix).removesuffix(suffix)
    return SPLIT_NAMES.get(inner) if name == f"{prefix}{inner}{suffix}" else None


def _find_split_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders ``train``, ``val`` with ``images`` and ``labels`` each, or with pictures and label files side by side."""
    places = {
        path: SPLIT_NAMES[path.name.lower()] for path in list_subfolders(root) if path.name.lower() in SPLIT_NAMES
    }
    if not any(_pictures_of(path) for path in places):
        return
    for path, split in places.items():
        # A split without any label is still one: a test split often has none.
        yield split, _pictures_of(path) or (path / "images" if (path / "images").is_dir() else path)


def _pictures_of(folder: Path) -> Path | None:
    """Return the folder of pictures that have label files: ``images`` beside ``labels``, or the folder itself."""
    labels, pictures = folder / "labels", folder / "images"
    if labels.is_dir():
        return pictures if pictures.is_dir() and has_label_files(labels, pictures) else None
    direct = [path for path in folder.iterdir() if is_picture(path)]
    return folder if direct and has_label_files(folder) else None


def _find_split_images(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders ``images/train``, ``labels/train``; the name may go on after the split, as in ``train2017``."""
    images, labels = root / "images", root / "labels"
    if not images.is_dir() or not labels.is_dir() or not has_label_files(labels, images):
        return
    for path in list_subfolders(images):
        if split := SPLIT_NAMES.get(re.sub(r"[-_]?\d+$", "", path.name.lower())):
            yield split, path


def _find_flat(root: Path) -> Iterator[tuple[str, Path]]:
    """Folders ``images`` and ``labels`` without splits, or pictures with their label files beside them."""
    if pictures := _pictures_of(root):
        yield "train", pictures


def _read_names(root: Path, sources: Mapping[str, Sequence[Source]]) -> tuple[tuple[str, ...], tuple[Problem, ...]]:
    """Return the names of the classes, and a note if no file names them."""
    for pattern in _NAME_FILES:
        for path in find_visible(root, pattern):
            if names := tuple(line.strip() for line in read_text(path).splitlines() if line.strip()):
                return _check_distinct(names, path), ()
    count = 1 + _largest_class(path for several in sources.values() for source in several for path in _pictures(source))
    message = f"no file names the classes (such as classes.txt): {count} were counted in the label files"
    names = tuple(f"class{number}" for number in range(count))
    return names, (Problem("names", NOTE, message, root, hint="write data.yaml with train, val and names"),)


def _check_distinct(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    for line, name in enumerate(names, 1):
        if name in names[: line - 1]:
            raise NetbuildError(f"{path}: the name '{name}' occurs twice")
    return names


def _pictures(source: Source) -> list[Path]:
    """Return the pictures of a source; those of a list as its lines have them."""
    if source.path.is_dir():
        return find_pictures(source.path)
    lines = [line.strip() for line in read_text(source.path).splitlines() if line.strip()]
    return [source.path.parent / line.removeprefix("data/") for line in lines]


def _largest_class(pictures: Iterator[Path]) -> int:
    """Return the largest class number in the label files of pictures, 0 without any."""
    largest = 0
    for picture in pictures:
        path = label_path(picture)
        if path.is_file():
            words = (line.split()[0] for line in read_text(path).splitlines() if line.strip())
            # A number of many digits is an error that the scan reports, not the number of classes.
            largest = max(
                [largest, *(int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 5)]
            )
    return largest
