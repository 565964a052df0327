"""Read the metadata of a checkpoint from its header: the network as YAML, its task, its training; without torch.

A checkpoint is a safetensors file: eight bytes with the length of a JSON header, the header, the tensors. netbuild's
metadata is one JSON text in the header, described in docs/checkpoint.md.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, shorten

SUFFIX = ".safetensors"
KEY = "netbuild"  # of netbuild's text in the header's metadata
SCHEMA = 1  # version of that text
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format itself


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
        modules: source files of custom modules; each entry is a single file, or the files of a package.
        aliases: names of tensors that share another's memory, with the name under which that one is stored.
        versions: versions of netbuild and torch that wrote the file.
        training: settings and measures of the run that wrote it; empty without one.
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
    modules: tuple[tuple[CodeFile, ...], ...] = ()
    requires: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def is_checkpoint(path: Path) -> bool:
    """Whether a path has the suffix of checkpoints."""
    return path.suffix.lower() == SUFFIX


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
        schema = data["schema"]
        if schema > SCHEMA:
            message = f"{path}: written by a newer netbuild (schema {schema}, this one reads up to {SCHEMA})"
            raise NetbuildError(message, hint="update netbuild")
        return _make_info(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NetbuildError(f"{path}: its metadata cannot be read: {type(error).__name__}: {shorten(error)}") from None


def _make_info(data: dict[str, Any]) -> CheckpointInfo:
    modules = tuple(tuple(CodeFile(**file) for file in files) for files in data.get("modules", ()))
    height, width = data.get("imgsz", (640, 640))
    # Keys of later versions with the same schema are ignored.
    known = {key: value for key, value in data.items() if key in CheckpointInfo.__dataclass_fields__}
    return CheckpointInfo(
        **{**known, "modules": modules, "imgsz": (height, width), "requires": tuple(data.get("requires", ()))}
    )


def to_json(info: CheckpointInfo) -> str:
    """Return the JSON text that goes into a checkpoint's header."""
    data = {**vars(info), "modules": [[vars(file) for file in files] for files in info.modules]}
    return json.dumps({"schema": SCHEMA, **data})
