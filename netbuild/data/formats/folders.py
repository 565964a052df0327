"""A folder per class, with pictures in it: ``train/cat/1.jpg``, ``val/cat/2.jpg``; or the classes without splits."""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from netbuild.data.dataset import CLASSIFY, LABEL, NOTE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import (
    SPLIT_NAMES,
    SPLITS,
    find_pictures,
    find_visible,
    list_readings,
    list_subfolders,
    note_unread_formats,
)
from netbuild.data.formats.yolo_layout import has_label_files
from netbuild.data.images import is_picture
from netbuild.errors import NetbuildError, shorten


class FoldersFormat(Format):
    """Any folder: it is tried last."""

    name = "folders"

    def recognizes(self, path: Path) -> bool:
        return path.is_dir()

    def open(self, path: Path) -> Dataset:
        described = find_visible(path, "*.yaml", "*.yml")
        if (path / "labels").is_dir() or described:  # a data set of YOLO's format whose file was not named
            hint = f"name its file: {described[0]}" if described else "write data.yaml with train, val and names"
            raise NetbuildError(f"{path.absolute()}: there is no data.yaml", hint=hint)
        return open_folders(path)


def open_folders(root: Path) -> Dataset:
    """Return the data set in a folder. Its classes are the folders in ``train``, sorted by name.

    Names are sorted as text, so that the number of a class depends on the names alone: 10 comes before 9.

    Raises:
        NetbuildError: if there is no folder of a class, or if the folders look like those of another format.
    """
    found = _find_splits(root)
    places = found or {"train": root}
    classes = list_subfolders(places.get("train", next(iter(places.values()))))
    if not classes:
        hint = "make one folder per class, with its pictures, in folders train and val"
        raise NetbuildError(f"{root.resolve()}: no folders of classes", hint=hint)
    for place in places.values():
        _check_classes(root, list_subfolders(place))
    names = tuple(path.name for path in classes)
    order: list[str] = [split for split in SPLITS if split in places]
    splits = {split: partial(_read_split, places[split], names) for split in order}
    return Dataset(
        str(root), root.resolve(), "folders", CLASSIFY, names, splits, notes=_note_oddities(root, found, names)
    )


def _find_splits(root: Path) -> dict[str, Path]:
    """Return the folders of splits by the split's name.

    Raises:
        NetbuildError: if there are two for one split, such as ``val`` and ``valid``.
    """
    found: dict[str, Path] = {}
    for path in list_subfolders(root):
        split = SPLIT_NAMES.get(path.name.lower())
        if split in found:
            raise list_readings(
                root,
                {f"'{one.name}' is the split '{split}'": "move the other away" for one in (found[split], path)},
            )
        if split:
            found[split] = path
    return found


def _note_oddities(root: Path, splits: Mapping[str, Path], names: Sequence[str]) -> tuple[Problem, ...]:
    """Return a note if there is only one class, and for each folder with pictures that is not used."""
    notes = []
    if len(names) == 1:
        message = f"the only class is '{names[0]}': there is nothing to tell apart"
        notes.append(Problem("classes", NOTE, message, root, hint="was another format or another folder meant?"))
    message = f"not used: its name is no split's, as {', '.join(path.name for path in splits.values())} are"
    others = sorted(set(list_subfolders(root)) - set(splits.values())) if splits else []
    notes += [Problem("unused folder", NOTE, message, path) for path in others if find_pictures(path)]
    return tuple(notes)


def _check_classes(root: Path, classes: Sequence[Path]) -> None:
    """Refuse folders that were hardly meant as classes.

    Raises:
        NetbuildError: if they have the names that other formats give to their folders, hold such folders, or have
            label files beside their pictures.
    """
    reading = f"classification with {len(classes)} class{'es' * (len(classes) != 1)} ({_list_names(classes)})"
    rename = "rename these folders"
    other = "detection or segmentation, whose labels were not recognised"
    describe = "write a data.yaml with train, val and names, and name that file"
    for path in classes:
        inner = [found for found in list_subfolders(path) if _is_layout(found)]
        if _is_layout(path) or has_label_files(path):
            raise list_readings(root, {reading: rename, other: describe})
        if inner:
            name = f"a data set of its own in '{path.name}', which has {_list_names(inner)}"
            raise list_readings(root, {reading: rename, name: f"name {path}"})


def _is_layout(path: Path) -> bool:
    """Whether a folder has a name that data sets for detection and segmentation give to their parts."""
    name = path.name.lower()
    return name in _LAYOUT_NAMES or name in SPLIT_NAMES


# Folders in the layouts of YOLO, Darknet, CVAT, Pascal VOC, COCO, KITTI and data sets of masks.
_LAYOUT_NAMES = frozenset(
    (
        *("images", "image", "imgs", "img", "pictures", "labels", "label", "annotations", "annotation", "jpegimages"),
        *("imagesets", "masks", "mask", "segmentations", "segmentationclass", "segmentationobject", "obj_train_data"),
        *("obj_valid_data", "obj_val_data", "obj_test_data", "image_2", "label_2", "bboxes", "boxes", "xmls", "inputs"),
        *("targets", "ground_truth", "groundtruth"),
    )
)


def _list_names(folders: Sequence[Path]) -> str:
    return shorten(", ".join(path.name for path in folders))


def _find_same(name: str, names: Sequence[str]) -> str:
    """Return a hint if a name is that of a class in other letters, with blanks, or with accents written otherwise."""

    def simplify(text: str) -> str:
        return unicodedata.normalize("NFC", text).casefold().strip()

    same = next((other for other in names if simplify(other) == simplify(name)), None)
    return f"rename it to '{same}', as the folder in the training split is written" if same else ""


def _read_split(folder: Path, names: Sequence[str]) -> Split:
    samples: list[Sample] = []
    problems = note_unread_formats(folder)
    if loose := [path for path in find_visible(folder, "*") if is_picture(path) and path.is_file()]:
        message = f"{len(loose)} pictures beside the folders of the classes are left out: {shorten(loose[0].name, 40)}"
        problems.append(Problem("no class", NOTE, message, folder))
    for place in list_subfolders(folder):
        pictures = find_pictures(place)
        if place.name not in names:
            message = f"the class '{place.name}' is not in the training split ({len(pictures)} pictures)"
            problems.append(
                Problem("class", LABEL, message, place, drops="picture", hint=_find_same(place.name, names))
            )
            continue
        if not pictures:
            problems.append(Problem("empty class", NOTE, "no pictures in this class", place))
        samples += [Sample(path, label=names.index(place.name), source=place) for path in pictures]
    missing = sorted(set(names) - {place.name for place in list_subfolders(folder)})
    problems += [Problem("empty class", NOTE, "no folder for this class", folder / name) for name in missing]
    if not samples:
        hint = next((problem.hint for problem in problems if problem.hint), "")
        raise NetbuildError(f"{folder.resolve()}: no pictures in the folders of its classes", hint=hint)
    strays = sum(len(find_pictures(place)) for place in list_subfolders(folder) if place.name not in names)
    return Split(samples, problems, found=len(samples) + strays)
