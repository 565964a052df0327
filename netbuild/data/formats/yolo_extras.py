"""The keys of a YOLO data file that name maps and second pictures beside the pictures: extras, masks, depth.

Each extra is in a folder that stands in place of ``images``: ``masks/train/1.png`` belongs to ``images/train/1.jpg``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from netbuild.data.dataset import EXTRA_KINDS, LABEL, NOTE, Extra, Problem, Sample
from netbuild.data.formats.label_places import replace_images
from netbuild.data.formats.yolo_names import read_names
from netbuild.data.images import SUFFIXES
from netbuild.data.map_faults import DEPTH, MASK, MISSING_EXTRA
from netbuild.data.maps import IGNORED, ClassMapFile, DepthFile, MapFile
from netbuild.grammar.nodes import Node

KEYS = ("extras", "masks", "label_mapping", "depth", "depth_scale")
MIN_SCALE, MAX_SCALE = 1e-6, 1e9  # the numbers in a metre; beyond, float32 would not hold the distances
_COLOUR = re.compile(r"#([0-9a-fA-F]{6})|\(?(\d{1,3})[ ,]+(\d{1,3})[ ,]+(\d{1,3})\)?")


@dataclass(frozen=True)
class ExtraFolder:
    """An extra that the data file names, and how its files are found and read.

    Attributes:
        extra: what the data set states about it.
        folder: the folder that stands in place of ``images``.
        mapping: of a class map, see `ClassMapFile`.
        has_colours: of a class map, see `ClassMapFile`.
        scale: of depth, see `DepthFile`.
    """

    extra: Extra
    folder: str
    mapping: Mapping[int, int] = field(default_factory=dict)
    has_colours: bool = False
    scale: float | None = None

    def open(self, name: str, path: Path) -> Path | MapFile:
        """Return a file of the extra as `Sample.extras` holds it."""
        if self.extra.kind == "classes" and self.mapping:
            return ClassMapFile(path, self.mapping, self.has_colours)
        return DepthFile(path, self.scale) if self.extra.kind == "values" and name == DEPTH else path

    def find(self, picture: Path) -> list[Path]:
        """Return the files that may belong to a picture, by its name without suffix; the first is used."""
        wanted = replace_images(picture, self.folder)
        suffixes = sorted(SUFFIXES) if self.extra.kind == "picture" else [*sorted(SUFFIXES), ".npy"]
        return [path for path in dict.fromkeys((wanted, *map(wanted.with_suffix, suffixes))) if path.is_file()]


def find_extras(sample: Sample, folders: Mapping[str, ExtraFolder], problems: list[Problem]) -> Sample:
    """Return the sample with its extras; for each that is missing a problem says that the picture is dropped."""
    found: dict[str, Path | MapFile] = {}
    for name, place in folders.items():
        wanted = replace_images(sample.path, place.folder)
        if wanted == sample.path:
            message = f"its '{name}' is looked for in a folder {place.folder} beside images: the path has no images"
            problems.append(Problem(MISSING_EXTRA, LABEL, message, sample.path, drops="picture"))
            continue
        files = place.find(sample.path)
        if not files:
            message = f"there is no '{name}': looked for {wanted.with_suffix('.*')}"
            problems.append(Problem(MISSING_EXTRA, LABEL, message, sample.path, drops="picture"))
            continue
        if files[1:]:
            message = f"its '{name}' is {files[0].name}; {', '.join(path.name for path in files[1:])} is not read"
            problems.append(Problem("extra twice", NOTE, message, sample.path))
        found[name] = place.open(name, files[0])
    return replace(sample, extras=found)


def read_extras(node: Node, names: Sequence[str], unnamed: frozenset[int]) -> dict[str, ExtraFolder]:
    """Read the keys `KEYS`.

    ``masks: FOLDER`` is short for an extra ``mask`` of the kind ``classes`` in that folder, and ``depth: FOLDER`` for
    an extra ``depth`` of the kind ``values``.

    Args:
        node: the mapping of the data file.
        names: of the classes.
        unnamed: classes that are among these names only because their numbers were left out.

    Raises:
        NetbuildError: at the line of a wrong value, or of a key without effect.
    """
    found = _read_folder(node, "masks", MASK, "classes") | _read_folder(node, "depth", DEPTH, "values")
    entry = _find_entry(node, "extras")
    if entry is not None:
        if not isinstance(entry.value, dict):
            raise entry.error(f"extras must be a mapping such as mask: classes, not {entry.describe()}")
        for name, key in ((MASK, "masks"), (DEPTH, "depth")):
            if name in entry.value and name in found:
                raise entry.error(f"extras has a {name}, and {key} names it again", "keep one of them")
        found |= {name: _read_extra(name, item) for name, item in entry.value.items()}
    if MASK in found and unnamed:
        found[MASK] = replace(found[MASK], extra=replace(found[MASK].extra, unnamed=unnamed))
    return _read_depth_scale(node, _read_mapping(node, found, len(names)))


def find_depth_folder(node: Node, extras: Mapping[str, ExtraFolder], pictures: Sequence[Path]) -> ExtraFolder | None:
    """Return the extra of a folder ``depth`` in place of ``images`` that the file does not name; None without one.

    Args:
        node: the mapping of the data file; ``depth: false`` leaves such a folder out.
        extras: that the file names.
        pictures: the folders and lists of the splits.
    """
    if DEPTH in extras or "depth" in node.value:
        return None
    folders = [path for path in pictures if path.is_dir()]
    if not any(replace_images(path / "1", DEPTH) != path / "1" for path in folders):
        return None
    if not all(replace_images(path / "1", DEPTH).parent.is_dir() for path in folders):
        return None
    return ExtraFolder(Extra("values"), DEPTH)


def note_depth_folder(file: Path) -> Problem:
    """Return the note that a folder ``depth`` is read although the data file does not name it."""
    message = "maps of depth are read from the folder depth beside images, which the file does not name"
    return Problem("depth", NOTE, message, file, hint="write depth: depth, or depth: false to leave it out")


def _find_entry(node: Node, key: str) -> Node | None:
    """Return the value of a key; None if it is missing, empty or false."""
    entry = node.value.get(key)
    return None if entry is None or entry.value is None or entry.value is False else entry


def _read_folder(node: Node, key: str, name: str, kind: str) -> dict[str, ExtraFolder]:
    """Read a key that is short for an extra of a kind in a folder."""
    entry = _find_entry(node, key)
    if entry is None:
        return {}
    if not isinstance(entry.value, str):
        raise entry.error(f"{key} must be the name of a folder beside images, not {entry.describe()}")
    return {name: _read_extra(name, entry.with_value({"kind": entry.with_value(kind), "folder": entry}))}


def _read_extra(name: str, item: Node) -> ExtraFolder:
    fields = item.value if isinstance(item.value, dict) else {"kind": item}
    for key, entry in fields.items():
        if key not in ("kind", "folder", "scale", "names"):
            raise entry.error(f"unknown key '{key}'; an extra has kind, folder, scale and names")
    plain = {key: entry.plain() for key, entry in fields.items()}
    kind, folder, scale = plain.get("kind"), plain.get("folder", name), plain.get("scale", 1)
    if kind not in EXTRA_KINDS:
        raise fields.get("kind", item).error(f"the kind of an extra is one of {', '.join(EXTRA_KINDS)}, not {kind!r}")
    if type(scale) is not int or scale < 1:
        raise fields["scale"].error(f"scale must be a whole number above 0, not {scale!r}")
    if not isinstance(folder, str) or folder == "images":
        raise fields.get("folder", item).error(f"folder must be a name other than images, not {folder!r}")
    names = read_names(item)[0] if "names" in fields else ()
    if names and kind != "classes":
        raise fields["names"].error(f"names are those of classes; the kind of this extra is {kind}")
    return ExtraFolder(Extra(kind, scale, names=names), folder.strip("/"))


def _read_mapping(node: Node, extras: dict[str, ExtraFolder], count: int) -> dict[str, ExtraFolder]:
    """Read ``label_mapping``, from the numbers or colours in masks to classes, into the extra of the masks."""
    entry = _find_entry(node, "label_mapping")
    if entry is None:
        return extras
    if MASK not in extras or extras[MASK].extra.kind != "classes":
        raise entry.error("label_mapping has no effect without masks", "name their folder: masks: FOLDER")
    if not isinstance(entry.value, dict) or not entry.value:
        raise entry.error(f"label_mapping must be a mapping from numbers to classes, not {entry.describe()}")
    keys = {key: _read_key(key) for key in entry.value}
    for key, item in entry.value.items():
        if keys[key] is None:
            raise item.error(f"'{key}' is no number in a mask, and no colour such as '#804080' or '128 64 128'")
        if type(item.value) is not int or not (0 <= item.value < count or item.value == IGNORED):
            hint = f"{IGNORED} leaves the pixels out"
            raise item.error(f"a class is a number from 0 to {count - 1}, or {IGNORED}, not {item.describe()}", hint)
    colours = {key for key in keys if _COLOUR.fullmatch(key.strip())}
    if colours and len(colours) < len(keys):
        raise entry.error("label_mapping has numbers and colours", "a mask has either")
    mapping = {keys[key] or 0: int(item.value) for key, item in entry.value.items()}
    return {**extras, MASK: replace(extras[MASK], mapping=mapping, has_colours=bool(colours))}


def _read_key(key: str) -> int | None:
    """Return the number, or the colour as a number, that a key of ``label_mapping`` means; None for anything else."""
    if found := _COLOUR.fullmatch(key.strip()):
        red, green, blue = (int(found[i] or 0) for i in (2, 3, 4))
        return int(found[1], 16) if found[1] else red << 16 | green << 8 | blue if max(red, green, blue) < 256 else None
    return int(key) if re.fullmatch(r"-?\d{1,9}", key.strip(), re.ASCII) else None


def _read_depth_scale(node: Node, extras: dict[str, ExtraFolder]) -> dict[str, ExtraFolder]:
    """Read ``depth_scale``, the whole numbers in a metre, into the extra of depth."""
    entry = _find_entry(node, "depth_scale")
    if entry is None:
        return extras
    if type(entry.value) not in (int, float) or not MIN_SCALE <= entry.value <= MAX_SCALE:
        message = f"depth_scale must be a number above 0, from {MIN_SCALE:g} to {MAX_SCALE:g}, not {entry.describe()}"
        raise entry.error(message)
    place = extras.get(DEPTH, ExtraFolder(Extra("values"), DEPTH))
    return {**extras, DEPTH: replace(place, scale=float(entry.value))}
