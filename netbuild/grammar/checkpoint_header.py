"""Read the metadata of a checkpoint from its header: the network as YAML, its task, its training; without torch.

A checkpoint is a safetensors file: eight bytes with the length of a JSON header, the header, the tensors. netbuild's
metadata is one JSON text in the header, described in docs/checkpoint.md.
"""

import json
import re
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar import metadata
from netbuild.grammar.metadata import WrongValueError, integer, json_value, list_of, mapping_of, optional, text
from netbuild.grammar.nodes import MAX_BYTES

SUFFIX = ".safetensors"
KEY = "netbuild"  # of netbuild's text in the header's metadata
SCHEMA = 1  # version of that text
# Names and first bytes of the files of torch.save: a zip archive, or pickles one after another.
FOREIGN_SUFFIXES = (".pt", ".pth")
FOREIGN_STARTS = (b"PK\x03\x04", b"\x80")
FOREIGN_READER = "netbuild.weights.foreign:read_foreign_info"
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format itself
MAX_NAME = 255  # bytes of a part of a path, the limit of most file systems
MAX_INTEGER = 2**31 - 1  # of sizes and numbers of channels and classes


@dataclass(frozen=True)
class CodeFile:
    """A Python file inside a checkpoint: its path relative to its folder, its text and the text's SHA-256."""

    path: str
    text: str
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """The metadata of a checkpoint: what its network is, and how it was trained.

    Attributes:
        yaml: the text of a YAML file that builds the network.
        file: the name of the YAML file that it was built from.
        name: the network's name, such as ``yolo11n``.
        scale, task, nc, ch, imgsz, params, names, requires: as in `netbuild.graph.card.NetworkCard`.
        heads: description of each of several heads by name: row, task, weight, data, nc, names; empty for one head.
        modules: source files of custom modules; each entry is a single file, or the files of a package.
        aliases: names of tensors that share another's memory, with the name under which that one is stored.
        versions: versions of netbuild and torch that wrote the file.
        training: settings and measures of the run that wrote it; empty without one.
        skeleton: pairs of keypoints that drawings join with a line; empty where there are none.
        sampling: how pictures are made with the network, see `netbuild.graph.card.NetworkCard`.
    """

    yaml: str
    file: str
    name: str
    scale: str = ""
    task: str | None = None
    nc: int | None = None
    ch: int = 3
    imgsz: tuple[int, int] = (640, 640)
    params: dict[str, Any] = field(default_factory=dict)
    names: list[str] | None = None
    heads: dict[str, dict[str, Any]] = field(default_factory=dict)
    modules: tuple[tuple[CodeFile, ...], ...] = ()
    requires: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    skeleton: tuple[tuple[int, int], ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)


def is_checkpoint(path: Path) -> bool:
    """Whether a path has the suffix of checkpoints."""
    return path.suffix.lower() == SUFFIX


def is_foreign(path: Path) -> bool:
    """Whether a path is a checkpoint of another program: by its suffix, else by the first bytes of ``torch.save``."""
    suffix = path.suffix.lower()
    if suffix in FOREIGN_SUFFIXES:
        return True
    if suffix in (SUFFIX, ".yaml", ".yml", ".onnx"):
        return False
    try:
        if not path.is_file():  # opening a FIFO would wait
            return False
        with path.open("rb") as file:
            return file.read(4).startswith(FOREIGN_STARTS)
    except (OSError, ValueError):
        return False


def read_network(path: Path) -> CheckpointInfo | None:
    """Read the metadata of a checkpoint of netbuild, or make it of one of another program; None for other files.

    Raises:
        NetbuildError: if it is a checkpoint that cannot be read or has no network.
    """
    if is_checkpoint(path):
        return read_info(path)
    if not is_foreign(path):
        return None
    # Imported by its name, as a plug-in is: a package above this one, which needs torch.
    module, _, function = FOREIGN_READER.partition(":")
    info: CheckpointInfo = getattr(import_module(module), function)(path)
    return info


def read_header(path: Path) -> dict[str, Any]:
    """Read the JSON header of a safetensors file.

    Raises:
        NetbuildError: if the file cannot be read or is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            # Checked before reading: the length in a damaged file may be anything.
            if size > min(MAX_HEADER, path.stat().st_size - 8):
                raise NetbuildError(f"{path}: not a safetensors file, or truncated: its header would be {size:,} bytes")
            data = json.loads(file.read(size))
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise NetbuildError(f"{path}: not a safetensors file: its header is not JSON: {shorten(error)}") from None
    if not isinstance(data, dict):
        raise NetbuildError(f"{path}: not a safetensors file: its header is not a JSON object")
    return data


def read_info(path: Path) -> CheckpointInfo:
    """Read the metadata of a checkpoint.

    Raises:
        NetbuildError: if the file has none, or a newer netbuild wrote it.
    """
    info = find_info(path)
    if info is None:
        hint = "pass it as --weights of a network file"
        raise NetbuildError(f"{path}: not a checkpoint of netbuild: it has tensors but no network", hint=hint)
    return info


def find_info(path: Path) -> CheckpointInfo | None:
    """Read the metadata of a checkpoint; None for a safetensors file that netbuild did not write.

    Raises:
        NetbuildError: if the file is not a safetensors file, its metadata is damaged, or a newer netbuild wrote it.
    """
    metadata = read_header(path).get("__metadata__")
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if text is None:
        return None
    try:
        data = json.loads(text)
        _check_schema_version(data, path)
        CHECKPOINT(data, "")
        _check_names(data)
    except (ValueError, TypeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else shorten(error, 200)
        raise NetbuildError(f"{path}: its metadata cannot be read: {reason}") from None
    return _make_info(data)


def _check_schema_version(data: Any, path: Path) -> None:
    """Refuse metadata of a later schema, whose keys may have other types.

    Raises:
        NetbuildError: for such metadata.
    """
    version = data.get("schema") if isinstance(data, dict) else None
    if type(version) is int and version > SCHEMA:
        message = f"{path}: written by a newer netbuild (schema {shorten(version, 20)}, this one reads up to {SCHEMA})"
        raise NetbuildError(message, hint="update netbuild")


# Checkpoints of these tasks that earlier versions wrote have the names of their data set, which mean nothing.
_WITHOUT_CLASSES = ("depth", "autoencode")


def _check_names(data: dict[str, Any]) -> None:
    """Refuse names of classes that are not as many as the classes, of the network or of one of its heads."""
    for place, facts in (("", data), *((f"heads.{name}.", facts) for name, facts in data.get("heads", {}).items())):
        if facts.get("task") in _WITHOUT_CLASSES:
            continue
        names, count = facts.get("names"), facts.get("nc")
        if names and count is not None and len(names) != count:
            raise ValueError(f"'{place}names' has {len(names)} names, and '{place}nc' is {count}")


def _make_info(data: dict[str, Any]) -> CheckpointInfo:
    """Make the typed metadata of data that passed `CHECKPOINT`."""
    modules = tuple(
        tuple(CodeFile(file["path"], file["text"], file["sha256"]) for file in files)
        for files in data.get("modules", ())
    )
    height, width = data.get("imgsz", (640, 640))
    # Keys of later versions with the same schema are ignored.
    known = {key: value for key, value in data.items() if key in CheckpointInfo.__dataclass_fields__}
    skeleton = tuple((first, second) for first, second in data.get("skeleton", ()))
    requires = tuple(data.get("requires", ()))
    return CheckpointInfo(
        **{**known, "modules": modules, "imgsz": (height, width), "requires": requires, "skeleton": skeleton}
    )


def to_json(info: CheckpointInfo) -> str:
    """Return the JSON text that goes into a checkpoint's header.

    Raises:
        NetbuildError: if a value is not of the type that the schema states, so that no reader would take it.
    """
    data = {**vars(info), "modules": [[vars(file) for file in files] for files in info.modules]}
    try:
        written = json.dumps({"schema": SCHEMA, **data})
        CHECKPOINT(json.loads(written), "")
        _check_names(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise NetbuildError(f"the checkpoint's metadata cannot be written: {shorten(error, 200)}") from None
    return written


# -- the schema -------------------------------------------------------------------------------------------------------


def _check_module_path(value: Any, key: str) -> None:
    """Check the path of a module file, which must not lead out of the folder that it is written to."""
    text(1000, empty=False)(value, key)
    parts = PurePosixPath(value).parts
    is_valid = re.fullmatch(r"[\w./ -]+\.py", value) and not value.startswith("/") and "//" not in value
    if not is_valid or {".", ".."} & {*value.split("/"), *parts} or any(part != part.strip() for part in parts):
        raise ValueError(f"'{key}': '{shorten(value)}' is not a valid path for a module file")
    if any(len(part.encode()) > MAX_NAME for part in parts):
        raise WrongValueError(key, f"a path whose parts have at most {MAX_NAME} bytes", shorten(value, 40))


_CODE_FILE = metadata.record({"path": _check_module_path, "text": text(), "sha256": text(200, line=True)})


def _check_module(value: Any, key: str) -> None:
    """Check the files of one custom module: one file, or the files of one package, none of which hides another."""
    list_of(_CODE_FILE, empty=False)(value, key)
    paths = [PurePosixPath(file["path"]) for file in value]
    # Compared without case, since some file systems do not tell them apart.
    lowered = [str(path).lower() for path in paths]
    for i, path in enumerate(paths):
        if lowered[i] in lowered[:i]:
            raise ValueError(f"'{key}[{i}].path': there are two files '{shorten(path)}'")
        folders = [j for j, other in enumerate(lowered) if other in {str(p).lower() for p in path.parents}]
        if folders:
            raise ValueError(f"'{key}[{i}].path': '{shorten(path)}' lies in '{shorten(paths[folders[0]])}', a file")
        if path.parts[0] != paths[0].parts[0]:
            raise ValueError(f"'{key}[{i}].path': '{shorten(path)}' belongs to another package than the first file")


_NAME = text(255, line=True)
_HEAD = metadata.record(
    {"row": integer(0, MAX_INTEGER), "task": _NAME},
    {
        "name": _NAME,
        "weight": metadata.number,
        "data": optional(_NAME),
        "nc": optional(integer(1, MAX_INTEGER)),
        "names": optional(list_of(text(10_000))),
    },
)
CHECKPOINT = metadata.record(
    {
        "schema": integer(1, SCHEMA),
        "yaml": text(4 * MAX_BYTES, empty=False),
        "file": metadata.file_name(),
        "name": metadata.file_name(),  # outputs are named after it
    },
    {
        "scale": _NAME,
        "task": optional(_NAME),
        "nc": optional(integer(1, MAX_INTEGER)),
        "ch": integer(1, MAX_INTEGER),
        "imgsz": list_of(integer(1, MAX_INTEGER), length=2),
        "params": mapping_of(json_value),
        "names": optional(list_of(text(10_000))),
        "heads": mapping_of(_HEAD),
        "modules": list_of(_check_module),
        "requires": list_of(text(1000)),
        "aliases": mapping_of(text(10_000)),
        "versions": mapping_of(_NAME),
        "training": mapping_of(json_value),
        "skeleton": list_of(list_of(integer(0, MAX_INTEGER), length=2)),
        "sampling": mapping_of(json_value),
    },
)
