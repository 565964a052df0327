"""YOLO's format: a YAML file names the splits and the classes, and each picture has a text file of labels.

``path`` is relative to the YAML file's own folder (never to the working directory), the splits to ``path``. A split
is a folder of pictures, a text file that lists pictures, or a list of these. The label file of ``.../images/a/1.jpg``
is ``.../labels/a/1.txt``; without a folder ``images`` it is beside the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from netbuild.data.dataset import (
    AUGMENTATIONS,
    DETECT,
    EXTRA_KINDS,
    LABEL,
    NOTE,
    PICTURE,
    Dataset,
    Extra,
    Problem,
    Sample,
    Split,
)
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLITS, find_pictures, note_unread_formats, read_text
from netbuild.data.formats.labels import LabelFile, Rules, problem_if_none_left
from netbuild.data.images import SUFFIXES
from netbuild.errors import NetbuildError
from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.nodes import read_text as read_yaml

MAX_LABELS = 16 * 2**20  # bytes of a label file


class YoloFormat(Format):
    """A YAML file, or a folder with ``data.yaml``."""

    name = "yolo"

    def recognizes(self, path: Path) -> bool:
        return path.suffix.lower() in (".yaml", ".yml") if path.is_file() else _data_file(path) is not None

    def open(self, path: Path) -> Dataset:
        return open_yolo(_data_file(path) or path)


def _data_file(path: Path) -> Path | None:
    """Return the file ``data.yaml`` of a folder, None if there is none."""
    return next((file for file in (path / "data.yaml", path / "data.yml") if file.is_file()), None)


def open_yolo(file: Path) -> Dataset:
    """Return the data set that a YAML file describes.

    Raises:
        NetbuildError: at the line of an error in the file.
    """
    node = parse(read_yaml(file), str(file))
    if not isinstance(node.value, dict):
        raise node.error(f"a data file must be a mapping with train, val and names, not {node.describe()}")
    names = _read_names(node)
    root = _read_root(node, file)
    shape = _read_keypoint_shape(node)
    rules, extras = Rules(names, shape, _read_flip_idx(node, shape)), _read_extras(node)
    splits = {}
    for split in SPLITS:
        entry = node.value.get(split) or (node.value.get("validation") if split == "val" else None)
        if entry is not None and entry.value not in (None, ""):
            splits[split] = partial(_read_split, _read_sources(entry, root), root, rules, extras)
    if not splits:
        raise node.error("the file names no split", "write train: images/train and val: images/val")
    stated = {name: found.extra for name, found in extras.items()}
    return Dataset(
        str(file), root, "yolo", DETECT, names, splits, shape, extras=stated, augmentation=_read_augmentation(node)
    )


def label_path(picture: Path) -> Path:
    """Return where the label file of a picture is looked for."""
    return _beside(picture, "labels").with_suffix(".txt")


def _beside(picture: Path, folder: str) -> Path:
    """Return a picture's path with its last folder ``images`` replaced by another one."""
    parts = list(picture.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = folder
            break
    return Path(*parts)


def _read_root(node: Node, file: Path) -> Path:
    base = file.resolve().parent
    entry = node.value.get("path")
    if entry is None or entry.value is None:
        return base
    if not isinstance(entry.value, str):
        raise entry.error(f"path must be a folder, not {entry.describe()}")
    root = (base / Path(entry.value).expanduser()).resolve()
    if not root.is_dir():
        raise entry.error(f"path: there is no folder {root}", "a relative path starts at the data file's own folder")
    return root


def _read_augmentation(node: Node) -> str:
    entry = node.value.get("augmentation")
    if entry is None or entry.value is None:
        return AUGMENTATIONS[0]
    if entry.value not in AUGMENTATIONS:
        raise entry.error(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, not {entry.value!r}")
    return str(entry.value)


@dataclass(frozen=True)
class _ExtraFolder:
    """An extra that the data file names, and the folder that stands in place of ``images``."""

    extra: Extra
    folder: str


def _read_extras(node: Node) -> dict[str, _ExtraFolder]:
    """Read the entry ``extras``: for each name its kind, or a mapping with kind, folder and scale."""
    entry = node.value.get("extras")
    if entry is None or entry.value is None:
        return {}
    if not isinstance(entry.value, dict):
        raise entry.error(f"extras must be a mapping such as mask: classes, not {entry.describe()}")
    return {name: _read_extra(name, item) for name, item in entry.value.items()}


def _read_extra(name: str, item: Node) -> _ExtraFolder:
    fields = item.value if isinstance(item.value, dict) else {"kind": item}
    for key, field in fields.items():
        if key not in ("kind", "folder", "scale"):
            raise field.error(f"unknown key '{key}'; an extra has kind, folder and scale")
    plain = {key: field.plain() for key, field in fields.items()}
    kind, folder, scale = plain.get("kind"), plain.get("folder", name), plain.get("scale", 1)
    if kind not in EXTRA_KINDS:
        raise fields.get("kind", item).error(f"the kind of an extra is one of {', '.join(EXTRA_KINDS)}, not {kind!r}")
    if type(scale) is not int or scale < 1:
        raise fields["scale"].error(f"scale must be a whole number above 0, not {scale!r}")
    if not isinstance(folder, str) or folder == "images":
        raise fields.get("folder", item).error(f"folder must be a name other than images, not {folder!r}")
    return _ExtraFolder(Extra(kind, scale), folder)


def _find_extras(sample: Sample, folders: Mapping[str, _ExtraFolder], problems: list[Problem]) -> Sample | None:
    """Return the sample with its extras, None if one is missing. Names are compared without suffix."""
    found: dict[str, Path] = {}
    for name, place in folders.items():
        wanted = _beside(sample.path, place.folder)
        if wanted == sample.path:
            message = f"its '{name}' is looked for in a folder {place.folder} beside images: the path has no images"
            problems.append(Problem("extra", LABEL, message, sample.path, drops="picture"))
            return None
        tried = (wanted, *(wanted.with_suffix(suffix) for suffix in sorted(SUFFIXES)))
        file = next((path for path in tried if path.is_file()), None)
        if file is None:
            message = f"there is no '{name}': looked for {wanted.with_suffix('.*')}"
            problems.append(Problem("extra", LABEL, message, sample.path, drops="picture"))
            return None
        found[name] = file
    return replace(sample, extras=found)


def _read_names(node: Node) -> tuple[str, ...]:
    entry, count = node.value.get("names"), node.value.get("nc")
    if count is not None and (type(count.value) is not int or count.value < 1):
        raise count.error(f"nc must be a whole number above 0, not {count.describe()}")
    if entry is None or entry.value is None:
        if count is None:
            raise node.error("neither names nor nc", "write names: [first, second]")
        return tuple(f"class{index}" for index in range(count.value))
    names = _listed_names(entry) if isinstance(entry.value, list) else _mapped_names(entry)
    if count is not None and count.value != len(names):
        raise count.error(
            f"nc is {count.value}, but there are {len(names)} names", "leave nc out: the names are counted"
        )
    return names


def _listed_names(entry: Node) -> tuple[str, ...]:
    """Read names from a list."""
    for item in entry.value:
        if isinstance(item.value, (list, dict)) or item.value is None:
            raise item.error(f"a name must be a text, not {item.describe()}")
    return _check_distinct(entry, entry.value)


def _mapped_names(entry: Node) -> tuple[str, ...]:
    """Read names from a mapping of numbers, which may be in any order."""
    if not isinstance(entry.value, dict):
        raise entry.error(f"names must be a list or a mapping from number to name, not {entry.describe()}")
    keys = list(entry.value)
    numbers = sorted(int(key) for key in keys if key.isdecimal())
    if numbers != list(range(len(keys))):
        raise entry.error(
            f"the numbers of names must run from 0 to {len(keys) - 1}, each once; found {', '.join(keys[:20])}"
        )
    ordered = sorted(entry.value.items(), key=lambda item: int(item[0]))
    return _check_distinct(entry, [item for _, item in ordered])


def _check_distinct(entry: Node, items: Sequence[Node]) -> tuple[str, ...]:
    names = tuple(str(item.value).strip() for item in items)
    if not names:
        raise entry.error("there is no name: a data set has at least one class")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise items[index].error(f"the name '{name}' occurs twice, for {names.index(name)} and {index}")
    return names


def _read_keypoint_shape(node: Node) -> tuple[int, int] | None:
    entry = node.value.get("kpt_shape")
    if entry is None or entry.value is None:
        return None
    value = entry.plain()
    if not (isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)):
        raise entry.error(f"kpt_shape is [number of keypoints, 2 or 3], not {entry.describe()}")
    if value[0] < 1 or value[1] not in (2, 3):
        raise entry.error(f"kpt_shape is [number of keypoints, 2 or 3], not {value}")
    return value[0], value[1]


def _read_flip_idx(node: Node, shape: tuple[int, int] | None) -> tuple[int, ...]:
    """Read which keypoint each becomes in a mirrored picture; empty if the file does not state it."""
    entry = node.value.get("flip_idx")
    if entry is None or entry.value is None:
        return ()
    value = entry.plain()
    if shape is None:
        raise entry.error("flip_idx has no effect without kpt_shape")
    if not isinstance(value, list) or sorted(map(str, value)) != sorted(map(str, range(shape[0]))):
        raise entry.error(
            f"flip_idx must have each number from 0 to {shape[0] - 1} once, in the order of the keypoints"
        )
    return tuple(value)


def _read_sources(entry: Node, root: Path) -> list[tuple[Node, Path]]:
    """Return the folders and lists of a split, each with its place in the YAML file."""
    items = entry.value if isinstance(entry.value, list) else [entry]
    for item in items:
        if not isinstance(item.value, str):
            raise item.error(f"a split is a folder or a text file that lists pictures, not {item.describe()}")
    return [(item, _source_path(root, item.value)) for item in items]


def _source_path(root: Path, text: str) -> Path:
    """Return the path of a split's folder or list.

    Data files of exports often have ``../train`` where they mean the folder ``train`` beside them.
    """
    path = root / Path(text).expanduser()
    beside = root / text.removeprefix("../")
    return beside.resolve() if not path.exists() and beside.exists() else path.resolve()


def _read_split(
    sources: Sequence[tuple[Node, Path]], root: Path, rules: Rules, extras: Mapping[str, _ExtraFolder]
) -> Split:
    read = Split([])
    pictures: dict[Path, None] = {}  # a set that keeps its order
    for node, source in sources:
        found = _find_pictures(node, source, root, read.problems)
        if not found:
            raise node.error(f"no pictures in {source}")
        pictures.update(dict.fromkeys(found))
    for picture in pictures:
        sample = _read_sample(picture, rules, read.problems)
        complete = sample and _find_extras(sample, extras, read.problems)
        if complete:
            read.samples.append(replace(complete, keypoint_swap=rules.keypoint_swap))
    if all(source.is_dir() for _, source in sources):  # a list may omit pictures on purpose
        read.problems.extend(_find_unused_labels(pictures))
    first = next(iter(pictures))
    return Split(read.samples, read.problems, f"{first}: labels looked for in {label_path(first)}", len(pictures))


def _find_pictures(node: Node, source: Path, root: Path, problems: list[Problem]) -> list[Path]:
    """Return the pictures in a folder, or those that a text file lists."""
    if source.is_dir():
        problems += note_unread_formats(source)
        return find_pictures(source)
    if not source.exists():
        raise node.error(f"there is no {source}", "it is relative to path:, or else to the data file's own folder")
    if source.suffix != ".txt":
        raise node.error(f"{source} is neither a folder nor a .txt file that lists pictures")
    found = []
    for number, line in enumerate(read_text(source).splitlines(), 1):
        if text := line.strip():
            tried = [(base / text).resolve() for base in (root, source.parent)]
            picture = next((path for path in tried if path.is_file()), None)
            if picture:
                found.append(picture)
            else:
                problems.append(Problem("no picture", PICTURE, f"there is no {tried[0]}", source, number, "picture"))
    return found


def _read_sample(picture: Path, rules: Rules, problems: list[Problem]) -> Sample | None:
    """Return a picture with the objects of its label file; None if it is dropped, with a problem that says why."""
    path = label_path(picture)
    if not path.is_file():
        return LabelFile(path, rules).objects.sample(picture, None)
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


def _find_unused_labels(pictures: dict[Path, None]) -> list[Problem]:
    """Return a note for each label file without a picture, in the folders where labels were found."""
    wanted = {label_path(picture) for picture in pictures}
    folders = sorted({path.parent for path in wanted if "labels" in path.parts})
    found = (path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.txt")))
    return [
        Problem("no picture", NOTE, "a label file without a picture", path)
        for path in found
        if path not in wanted and path.name != "classes.txt"
    ]
