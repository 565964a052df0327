"""What a checkpoint says of itself, read from its header alone: its network as YAML, no tensors, no torch.

A checkpoint is a safetensors file: eight bytes with the length of a JSON header, the header, the tensors. netbuild's
facts are one text of the header's metadata, described in docs/checkpoint.md.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, shorten

SUFFIX = ".safetensors"
KEY = "netbuild"  # of the metadata
SCHEMA = 1
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format itself


@dataclass(frozen=True)
class CodeFile:
    """A Python file that a checkpoint carries: its path below the folder it was in, its text and its SHA-256."""

    path: str
    text: str
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """The facts of a checkpoint. ``modules`` are the own modules: each a file, or a package of several."""

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
    """Whether a path's ending says that it is a checkpoint."""
    return path.suffix.lower() == SUFFIX


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file.

    Raises:
        NetbuildError: if it cannot be read or is none.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(MAX_HEADER, path.stat().st_size - 8):
                raise NetbuildError(f"{path}: no safetensors file, or cut off: its header would be {size:,} bytes")
            data = json.loads(file.read(size))
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise NetbuildError(f"{path}: no safetensors file: its header is no JSON: {shorten(error)}") from None
    if not isinstance(data, dict):
        raise NetbuildError(f"{path}: no safetensors file: its header is no mapping")
    return data


def read_info(path: Path) -> CheckpointInfo:
    """The facts of a checkpoint of netbuild.

    Raises:
        NetbuildError: if there are none, or a newer netbuild wrote them.
    """
    facts = find_info(path)
    if facts is None:
        hint = "it may serve as --weights of a network file"
        raise NetbuildError(f"{path}: these tensors come without a network: no checkpoint of netbuild", hint=hint)
    return facts


def find_info(path: Path) -> CheckpointInfo | None:
    """As `read`, but None for a safetensors file without facts of netbuild."""
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
        return _facts(data)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NetbuildError(f"{path}: its facts cannot be read: {type(error).__name__}: {shorten(error)}") from None


def _facts(data: dict[str, Any]) -> CheckpointInfo:
    modules = tuple(tuple(CodeFile(**file) for file in files) for files in data.get("modules", ()))
    height, width = data.get("imgsz", (640, 640))
    known = {key: value for key, value in data.items() if key in CheckpointInfo.__dataclass_fields__}
    return CheckpointInfo(
        **{**known, "modules": modules, "imgsz": (height, width), "requires": tuple(data.get("requires", ()))}
    )


def to_json(facts: CheckpointInfo) -> str:
    """The text that a checkpoint's metadata holds."""
    data = {**vars(facts), "modules": [[vars(file) for file in files] for files in facts.modules]}
    return json.dumps({"schema": SCHEMA, **data})
