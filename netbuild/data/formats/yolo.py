"""YOLO's format: a YAML file names the splits and the classes, and each picture has a text file of labels.

``path`` is relative to the YAML file's own folder (never to the working directory), the splits to ``path``. A split
is a folder of pictures, a text file that lists pictures, or a list of these.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from netbuild.data.dataset import AUGMENTATIONS, DETECT, EXTRA_KINDS, NOTE, Dataset, Extra, Problem
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLITS
from netbuild.data.formats.labels import Rules
from netbuild.data.formats.yolo_keypoints import KEYS as KEYPOINT_KEYS
from netbuild.data.formats.yolo_keypoints import read_keypoint_facts
from netbuild.data.formats.yolo_split import ExtraFolder, Source, read_split
from netbuild.errors import did_you_mean
from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.nodes import read_text as read_yaml


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
    node, notes = _read_keys(node, file)
    names = _read_names(node)
    root = _read_root(node, file)
    keypoints, keypoint_notes = read_keypoint_facts(node, file)
    rules, extras = Rules(names, keypoints.shape, keypoints.swap), _read_extras(node)
    splits = {}
    for split in SPLITS:
        entry = node.value.get(split)
        if entry is not None and entry.value not in (None, ""):
            splits[split] = partial(read_split, _read_sources(entry, root), root, rules, extras)
    if not splits:
        raise node.error("the file names no split", "write train: images/train and val: images/val")
    stated = {name: found.extra for name, found in extras.items()}
    return Dataset(
        str(file),
        root,
        "yolo",
        DETECT,
        names,
        splits,
        extras=stated,
        augmentation=_read_augmentation(node),
        notes=(*notes, *keypoint_notes),
        channels=_read_channels(node),
        **keypoints.fields(),
    )


def _read_keys(node: Node, file: Path) -> tuple[Node, tuple[Problem, ...]]:
    """Return the mapping with the usual names of its keys, and a note for each key without effect.

    Raises:
        NetbuildError: if two keys mean the same, such as ``val`` and ``valid``.
    """
    values: dict[str, Node] = {}
    notes = []
    for key, value in node.value.items():
        usual, place = _ALIASES.get(key, key), node.keys[key]
        if usual in values:
            raise place.error(f"'{key}' means the same as '{usual}', which is given, too", "keep one of them")
        values[usual] = value
        if usual not in _KEYS and key not in _DESCRIPTIONS:
            message = f"the key '{key}' has no effect"
            hint = _HINTS.get(key) or did_you_mean(key, sorted({*_KEYS, *_ALIASES} - {"kpt_names"}))
            notes.append(Problem("key", NOTE, message, file, place.line + 1, hint=hint))
    return node.with_value(values), tuple(notes)


# Keys that are read, other words for them, keys that only describe the data, and hints for some without effect.
_KEYS = ("path", *SPLITS, "names", "nc", *KEYPOINT_KEYS, "extras", "augmentation", "channels", "masks")
_ALIASES = {
    **dict.fromkeys(("valid", "validation", "validate"), "val"),
    **{"training": "train", "testing": "test", "ch": "channels", "masks_dir": "masks", "root": "path"},
}
_DESCRIPTIONS = frozenset("author contributor date description info license roboflow task url version year".split())
_HINTS = {
    "download": "nothing is downloaded: get the data yourself",
    "classes": "did you mean 'names'?",
    "minival": "name it val or test to use it",
}


def _read_channels(node: Node) -> int | None:
    """Read how many channels the pictures have; None if the file does not state it."""
    entry = node.value.get("channels")
    if entry is None or entry.value is None:
        return None
    if type(entry.value) is not int or entry.value < 1:
        raise entry.error(f"channels must be a whole number above 0, not {entry.describe()}")
    return int(entry.value)


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


def _read_extras(node: Node) -> dict[str, ExtraFolder]:
    """Read the entry ``extras``: for each name its kind, or a mapping with kind, folder and scale.

    ``masks: FOLDER`` is short for an extra ``mask`` of the kind ``classes`` in that folder.
    """
    entry, masks = node.value.get("extras"), node.value.get("masks")
    short = {}
    if masks is not None and masks.value is not None:
        if not isinstance(masks.value, str):
            raise masks.error(f"masks must be the name of a folder beside images, not {masks.describe()}")
        fields = {"kind": masks.with_value("classes"), "folder": masks}
        short["mask"] = _read_extra("mask", masks.with_value(fields))
    if entry is None or entry.value is None:
        return short
    if not isinstance(entry.value, dict):
        raise entry.error(f"extras must be a mapping such as mask: classes, not {entry.describe()}")
    if short and "mask" in entry.value:
        raise entry.error("extras has a mask, and masks names it again", "keep one of them")
    return short | {name: _read_extra(name, item) for name, item in entry.value.items()}


def _read_extra(name: str, item: Node) -> ExtraFolder:
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
    return ExtraFolder(Extra(kind, scale), folder)


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
        _check_text(item)
    return _check_distinct(entry, entry.value)


def _mapped_names(entry: Node) -> tuple[str, ...]:
    """Read names from a mapping of numbers, which may be in any order."""
    if not isinstance(entry.value, dict):
        raise entry.error(f"names must be a list or a mapping from number to name, not {entry.describe()}")
    keys = list(entry.value)
    numbers = sorted(int(key) for key in keys if key.isascii() and key.isdecimal())
    if numbers != list(range(len(keys))):
        raise entry.error(
            f"the numbers of names must run from 0 to {len(keys) - 1}, each once; found {', '.join(keys[:20])}"
        )
    for item in entry.value.values():
        _check_text(item)
    ordered = sorted(entry.value.items(), key=lambda item: int(item[0]))
    return _check_distinct(entry, [item for _, item in ordered])


def _check_text(item: Node) -> None:
    if isinstance(item.value, (list, dict)) or not (item.text or "").strip():
        raise item.error(f"a name must be a text, not {item.describe()}")


def _check_distinct(entry: Node, items: Sequence[Node]) -> tuple[str, ...]:
    # Names are texts as they are written: 007, 1e3 and null are no numbers and no missing values here.
    names = tuple((str(item.value) if item.text is None else item.text).strip() for item in items)
    if not names:
        raise entry.error("there is no name: a data set has at least one class")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise items[index].error(f"the name '{name}' occurs twice, for {names.index(name)} and {index}")
    return names


def _read_sources(entry: Node, root: Path) -> list[Source]:
    """Return the folders and lists of a split, each with its place in the YAML file."""
    items = entry.value if isinstance(entry.value, list) else [entry]
    for item in items:
        if not isinstance(item.value, str):
            raise item.error(f"a split is a folder or a text file that lists pictures, not {item.describe()}")
    return [Source(_source_path(root, item.value), item) for item in items]


def _source_path(root: Path, text: str) -> Path:
    """Return the path of a split's folder or list.

    Data files of exports often have ``../train`` where they mean the folder ``train`` beside them.
    """
    path = root / Path(text).expanduser()
    beside = root / text.removeprefix("../")
    return beside.resolve() if not path.exists() and beside.exists() else path.resolve()
