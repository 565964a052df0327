"""A folder per class, with pictures in it: ``train/cat/1.jpg``, ``val/cat/2.jpg``; or the classes without splits."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from netbuild.data.dataset import CLASSIFY, LABEL, NOTE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLIT_NAMES, SPLITS, find_pictures, list_subfolders, note_unread_formats
from netbuild.errors import NetbuildError


class FoldersFormat(Format):
    """Any folder: it is tried last."""

    name = "folders"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir()

    def open(self, path: Path) -> Dataset:
        described = sorted(path.glob("*.y*ml"))
        if (path / "labels").is_dir() or described:  # a data set of YOLO's format whose file was not named
            hint = f"name its file: {described[0]}" if described else "write data.yaml with train, val and names"
            raise NetbuildError(f"{path.absolute()}: there is no data.yaml", hint=hint)
        return open_folders(path)


def open_folders(root: Path) -> Dataset:
    """Return the data set in a folder. Its classes are the folders in ``train``, sorted by name.

    Names are sorted as text, so that the number of a class depends on the names alone: 10 comes before 9.

    Raises:
        NetbuildError: if there is no folder of a class.
    """
    found = {path: SPLIT_NAMES[path.name.lower()] for path in list_subfolders(root) if path.name.lower() in SPLIT_NAMES}
    places = {split: path for path, split in found.items()} or {"train": root}
    names = tuple(path.name for path in list_subfolders(places.get("train", next(iter(places.values())))))
    if not names:
        hint = "make one folder per class, with its pictures, in folders train and val"
        raise NetbuildError(f"{root.resolve()}: no folders of classes", hint=hint)
    order: list[str] = [split for split in SPLITS if split in places]
    splits = {split: partial(_read_split, places[split], names) for split in order}
    return Dataset(str(root), root.resolve(), "folders", CLASSIFY, names, splits)


def _read_split(folder: Path, names: Sequence[str]) -> Split:
    samples: list[Sample] = []
    problems = note_unread_formats(folder)
    for place in list_subfolders(folder):
        pictures = find_pictures(place)
        if place.name not in names:
            message = f"the class '{place.name}' is not in the training split ({len(pictures)} pictures)"
            problems.append(Problem("class", LABEL, message, place, drops="picture"))
            continue
        if not pictures:
            problems.append(Problem("empty class", NOTE, "no pictures in this class", place))
        samples += [Sample(path, label=names.index(place.name), source=place) for path in pictures]
    missing = sorted(set(names) - {place.name for place in list_subfolders(folder)})
    problems += [Problem("empty class", NOTE, "no folder for this class", folder / name) for name in missing]
    if not samples:
        raise NetbuildError(f"{folder.resolve()}: no pictures in the folders of its classes")
    strays = sum(len(find_pictures(place)) for place in list_subfolders(folder) if place.name not in names)
    return Split(samples, problems, found=len(samples) + strays)
