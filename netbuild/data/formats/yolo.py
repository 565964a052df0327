"""YOLO's format: a YAML file names the splits and the classes, and each picture has a text file of labels.

``path`` is relative to the YAML file's own folder (never to the working directory), the splits to ``path``. A split
is a folder of pictures, a text file that lists pictures, or a list of these.
"""

from functools import partial
from pathlib import Path

from netbuild.data.dataset import AUGMENTATIONS, DETECT, NOTE, Dataset, Problem
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLITS
from netbuild.data.formats.labels import Rules
from netbuild.data.formats.yolo_extras import KEYS as EXTRA_KEYS
from netbuild.data.formats.yolo_extras import find_depth_folder, note_depth_folder, read_extras
from netbuild.data.formats.yolo_keypoints import KEYS as KEYPOINT_KEYS
from netbuild.data.formats.yolo_keypoints import read_keypoint_facts
from netbuild.data.formats.yolo_names import read_names
from netbuild.data.formats.yolo_split import Source, read_split
from netbuild.data.map_faults import DEPTH
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
    names, unnamed = read_names(node, allow_gaps="masks" in node.value)
    root = _read_root(node, file)
    keypoints, keypoint_notes = read_keypoint_facts(node, file)
    rules, extras = Rules(names, keypoints.shape, keypoints.swap), read_extras(node, names, unnamed)
    sources = {}
    for split in SPLITS:
        entry = node.value.get(split)
        if entry is not None and entry.value not in (None, ""):
            sources[split] = _read_sources(entry, root)
    if not sources:
        raise node.error("the file names no split", "write train: images/train and val: images/val")
    if found := find_depth_folder(node, extras, [source.path for several in sources.values() for source in several]):
        extras, notes = {**extras, DEPTH: found}, (*notes, note_depth_folder(file))
    splits = {split: partial(read_split, found, root, rules, extras) for split, found in sources.items()}
    stated = {name: place.extra for name, place in extras.items()}
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
            hint = _HINTS.get(key) or did_you_mean(key, sorted({*_KEYS, *_ALIASES} - {"kpt_names"}), 0.65)
            notes.append(Problem("key", NOTE, message, file, place.line + 1, hint=hint))
    return node.with_value(values), tuple(notes)


# Keys that are read, other words for them, keys that only describe the data, and hints for some without effect.
_KEYS = ("path", *SPLITS, "names", "nc", *KEYPOINT_KEYS, *EXTRA_KEYS, "augmentation", "channels")
_ALIASES = {
    **dict.fromkeys(("valid", "validation", "validate"), "val"),
    **{"training": "train", "testing": "test", "ch": "channels", "root": "path"},
    **{"masks_dir": "masks", "depth_dir": "depth"},
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
