"""Where the label files of pictures are, folder by folder, and notes where some were not found.

The label file of ``.../images/a/1.jpg`` is ``.../labels/a/1.txt``; without a folder ``images`` it is beside the
picture. If a folder of pictures has none there, label files beside the pictures or in a folder of another spelling
(``Labels``, ``label``) are read instead.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from netbuild.data.dataset import NOTE, Problem
from netbuild.data.formats.files import walk_files

MAX_INDEXED = 1_000_000  # text files below the root that are looked at to find missing labels
_PLURAL, _SINGULAR = "labels", "label"


def label_path(picture: Path) -> Path:
    """Return where the label file of a picture is looked for first."""
    return replace_images(picture, _PLURAL).with_suffix(".txt")


def replace_images(picture: Path, folder: str) -> Path:
    """Return a picture's path with its last folder ``images`` replaced by another one."""
    parts = list(picture.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part.lower() == "images"]
    exact = [index for index in places if parts[index] == "images"] or places
    if exact:
        parts[exact[-1]] = folder
    return Path(*parts)


class LabelPlaces:
    """The label files of the pictures of a split.

    Args:
        pictures: of the split.
        root: the data set's folder, in which labels that are missing are looked for.

    Attributes:
        problems: notes for each folder where labels are missing, or were found in another place than the usual one.
    """

    def __init__(self, pictures: Iterable[Path], root: Path) -> None:
        self.root = root
        self.problems: list[Problem] = []
        self._paths: dict[Path, Path] = {}
        folders: dict[Path, list[Path]] = defaultdict(list)
        for picture in pictures:
            folders[picture.parent].append(picture)
        for folder, several in folders.items():
            self._find(folder, several)
        self._note_shared()

    def path(self, picture: Path) -> Path:
        """Return the label file of a picture, which may be missing."""
        return self._paths[picture]

    def _find(self, folder: Path, pictures: Sequence[Path]) -> None:
        """Find the label files of the pictures directly in a folder."""
        usual = {picture: label_path(picture) for picture in pictures}
        self._paths.update(usual)
        missing = [picture for picture, path in usual.items() if not os.path.lexists(path)]
        if not missing:
            return
        place = label_path(pictures[0]).parent
        if len(missing) == len(pictures):
            for other in _other_places(pictures[0]):
                found = {picture: other / f"{picture.stem}.txt" for picture in pictures}
                if any(path.is_file() for path in found.values()):
                    self._paths.update(found)
                    missing = [picture for picture, path in found.items() if not path.exists()]
                    message = f"labels of these pictures are read from {other}: there are none in {place}"
                    self.problems.append(Problem("label place", NOTE, message, folder))
                    place = other
                    break
        if missing:
            self._note_missing(folder, place, missing, len(pictures))

    def _note_missing(self, folder: Path, place: Path, missing: Sequence[Path], count: int) -> None:
        """Note how many labels are missing in a folder, and where there are files of these names."""
        message = f"{len(missing)} of {count} pictures have no label file in {place}: they are background"
        names = {name for picture in missing for name in (picture.stem, picture.name)}
        others = Counter(path.parent for name in names for path in self._texts.get(name.lower(), ()))
        if others:
            listed = ", ".join(f"{where} ({number})" for where, number in others.most_common(3))
            message += f"; text files of these names are in {listed}"
        hint = "are these their labels? They belong into the folder named first" if others else ""
        self.problems.append(Problem("no labels", NOTE, message, folder, hint=hint))

    @cached_property
    def _texts(self) -> dict[str, list[Path]]:
        """The text files below the root by their name in lower case without ``.txt``."""
        found: dict[str, list[Path]] = defaultdict(list)
        used = set(self._paths.values())
        for number, path in enumerate(walk_files(self.root)):
            if number > MAX_INDEXED:
                break
            if path.suffix.lower() == ".txt" and path not in used:
                found[path.stem.lower()].append(path)
        return found

    def _note_shared(self) -> None:
        """Note each picture whose label file is also that of another one, such as a.jpg beside a.png."""
        first: dict[Path, Path] = {}
        for picture, path in self._paths.items():
            owner = first.setdefault(path, picture)
            if owner != picture and path.is_file():
                message = f"has the same label file as {owner.name}: {path}"
                self.problems.append(Problem("shared labels", NOTE, message, picture))


def _other_places(picture: Path) -> list[Path]:
    """Return the folders in which the labels of a picture may be, other than the usual one; those that exist."""
    folder, usual = picture.parent, label_path(picture).parent
    found = [folder, *_spellings(folder)]
    images = next((above for above in (folder, *folder.parents) if above.name.lower() == "images"), None)
    if images:
        # images/train/a.jpg belongs to Labels/train/a.txt.
        found += [place / folder.relative_to(images) for place in _spellings(images.parent)]
    else:
        found += _spellings(folder.parent)
        found += [place / folder.name for place in _spellings(folder.parent)]
    return [place for place in dict.fromkeys(found) if place != usual and place.is_dir()]


def _spellings(folder: Path) -> list[Path]:
    """Return the folders directly in a folder whose name is a spelling of ``labels``."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.lower() in (_PLURAL, _SINGULAR))
    except OSError:
        return []
