"""Pictures without labels, as networks that restore pictures learn from them.

A folder has ``train`` and ``val`` with pictures in them, or pictures only, which are then the split ``test``. Folders
elsewhere are named by a YAML file::

    format: pictures
    path: ../restoration # relative to this file, as the splits are to it
    train: T91 # a folder, a list of folders, or {inputs: low, targets: high} for pairs
    val: Set5
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from netbuild.data.dataset import PICTURES, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import (
    SPLIT_NAMES,
    SPLITS,
    find_pictures,
    find_visible,
    list_subfolders,
    note_unread_formats,
)
from netbuild.data.formats.pairs import open_pairs
from netbuild.data.images import is_picture
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.nodes import read_text as read_yaml
from netbuild.grammar.rows import check_text

START = 65_536  # bytes of a file in which the key ``format`` is looked for
KEYS = ("format", "path", *SPLITS)


class PicturesFormat(Format):
    """A YAML file with ``format: pictures``."""

    name = "pictures"

    def recognizes(self, path: Path) -> bool:
        if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
            return False
        with path.open("rb") as file:
            return re.search(rb"^format\s*:", file.read(START), re.MULTILINE) is not None

    def open(self, path: Path) -> Dataset:
        return _open_file(path)


class PictureFoldersFormat(Format):
    """A folder of pictures, or of splits with pictures; tried after formats with labels."""

    name = "picture-folders"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir() and bool(_find_folders(path))

    def open(self, path: Path) -> Dataset:
        folders = {split: [folder] for split, folder in _find_folders(path).items()}
        return _open_folders(path, path.resolve(), folders)


def _find_folders(path: Path) -> dict[str, Path]:
    """Return for each split the folder of its pictures; nothing if the folder is laid out in another way."""
    if _has_only_pictures(path):
        return {"test": path}
    found: dict[str, Path] = {}
    for folder in list_subfolders(path):
        if split := SPLIT_NAMES.get(folder.name.lower()):
            if split in found:  # val and valid, for instance
                return {}
            found[split] = folder
    return found if all(map(_has_only_pictures, found.values())) else {}


def _has_only_pictures(folder: Path) -> bool:
    """Whether a folder has pictures, and neither folders nor files that may be their labels."""
    files = [path for path in find_visible(folder, "*") if path.is_file()]
    has_pictures = any(map(is_picture, files))
    return has_pictures and not list_subfolders(folder) and not any(p.suffix.lower() in _LABELS for p in files)


_LABELS = frozenset((".txt", ".xml", ".json", ".csv", ".yaml", ".yml"))


def _open_file(file: Path) -> Dataset:
    node = parse(read_yaml(file), str(file))
    if node.value["format"].value != PicturesFormat.name:
        hint = "leave the key out for other formats, which are recognised by what is there"
        raise node.value["format"].error(f"format must be pictures, not {node.value['format'].describe()}", hint)
    for key in node.value:
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or f"it has {', '.join(KEYS)}"
            raise node.keys[key].error(f"'{key}' has no effect in a file of pictures", hint)
    root = file.resolve().parent
    if "path" in node.value:
        root = _find_folder(node.value["path"], root)
    entries = {split: node.value[split] for split in SPLITS if split in node.value}
    if not entries:
        raise node.error("the file names no split", "write train: FOLDER and val: FOLDER")
    pairs = [split for split, entry in entries.items() if isinstance(entry.value, dict)]
    if not pairs:
        return _open_folders(file, root, {split: _read_folders(entry, root) for split, entry in entries.items()})
    for split, entry in entries.items():
        if split not in pairs or set(entry.value) != {"inputs", "targets"}:
            raise entry.error(f"{split} must be pairs as {pairs[0]} is", "write {inputs: FOLDER, targets: FOLDER}")
    folders = {
        split: (_find_folder(entry.value["inputs"], root), _find_folder(entry.value["targets"], root))
        for split, entry in entries.items()
    }
    return open_pairs(file, root, folders)


def _read_folders(node: Node, root: Path) -> list[Path]:
    return [_find_folder(item, root) for item in (node.value if isinstance(node.value, list) else [node])]


def _find_folder(node: Node, root: Path) -> Path:
    folder = (root / Path(check_text(node)).expanduser()).resolve()
    if not folder.is_dir():
        raise node.error(f"there is no folder {folder}", "paths are relative to path, and path to this file")
    return folder


def _open_folders(path: Path, root: Path, folders: dict[str, list[Path]]) -> Dataset:
    splits = {split: partial(_read_split, folders[split]) for split in SPLITS if split in folders}
    return Dataset(str(path), root, PicturesFormat.name, PICTURES, (), splits)


def _read_split(folders: Sequence[Path]) -> Split:
    problems: list[Problem] = []
    samples: list[Sample] = []
    for folder in folders:
        problems += note_unread_formats(folder)
        samples += [Sample(path, source=path) for path in find_pictures(folder)]
    if not samples:
        raise NetbuildError(f"{folders[0]}: there are no pictures in this folder")
    return Split(samples, problems, found=len(samples))
