"""Read checkpoints of other programs without running their code and without the package that wrote them.

`read` takes files of ``torch.save`` (zip archives, and the legacy stream format) and safetensors files. Tensors are
read with their values; an object of any class becomes a `Stub` that holds its data. A pickle can name any function to
be called: those that rebuild tensors and containers are replaced by our own builders, and a file that calls others of
the standard library or of torch is refused. Sizes are checked before memory is allocated: reading takes the
file's size and a constant.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from netbuild.errors import NetbuildError
from netbuild.weights.pickles.archive import Archive
from netbuild.weights.pickles.builtin_types import BUILDERS
from netbuild.weights.pickles.machine import Machine
from netbuild.weights.pickles.opcodes import HANDLERS
from netbuild.weights.pickles.stubs import Budget, MalformedError
from netbuild.weights.pickles.tensors import CONSTANTS, NUMPY, StorageId, Storages, Tensors

MAX_PICKLE = 64 << 20  # bytes of the pickle itself, without the tensors' values
MAX_DIRECTORY = 1 << 20  # bytes at the end of a zip archive in which the names of its entries are looked for
ALLOWANCE = 256 << 20  # estimated bytes of Python objects that decoding a file may create
# The first two pickles of the legacy format, written by torch until 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint decoded as data.

    Args:
        path: the file.
        format: ``zip`` or ``legacy`` for files of ``torch.save``, or ``safetensors``.
        root: the saved object, made of dicts, lists, numbers, texts, tensors on the CPU, and stubs of other objects.
        metadata: the metadata of a safetensors file.
    """

    path: Path
    format: str
    root: Any = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(path: str | Path) -> ForeignCheckpoint:
    """Read a file of ``torch.save`` or a safetensors file.

    Raises:
        NetbuildError: if the file cannot be read, is damaged, or tries to run code.
    """
    path = Path(path)
    try:
        with _open(path) as file:
            return _read(file, file.seek(0, 2), path)
    except MalformedError as error:
        raise NetbuildError(f"{path}: damaged or hostile: {error}") from error
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be read: {error.strerror or error}") from None


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except ValueError as error:  # a null character in the path
        raise NetbuildError(f"{path}: cannot be read: {error}") from None


def _read(file: BinaryIO, size: int, path: Path) -> ForeignCheckpoint:
    # The first bytes decide, since checkpoints of all formats are called .pt.
    file.seek(0)
    head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return ForeignCheckpoint(path, "zip", _read_zip(file, size, path))
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"\x80"):
        return ForeignCheckpoint(path, "legacy", _read_legacy(file, size, path))
    problem = "is empty" if not size else "is neither a file of torch.save nor a safetensors file"
    if head[257:262] == b"ustar":
        problem = "is a tar archive, the format of torch before 0.1.10: not supported"
    raise NetbuildError(f"{path}: {problem}")


def _make_machine(path: Path, stream: BytesIO, part: str, storages: Storages, size: int) -> Machine:
    builders = {**Tensors(size).builders(), **NUMPY}
    return Machine(str(path), stream, part, {**BUILDERS, **builders}, CONSTANTS, storages, storages.budget, HANDLERS)


def _read_zip(file: BinaryIO, size: int, path: Path) -> Any:
    try:
        archive = Archive(file, size)
    except MalformedError:  # torch.jit.save compresses the code
        file.seek(max(0, size - MAX_DIRECTORY))
        if b"/code/__torch__" in file.read(MAX_DIRECTORY):
            raise _program_error(path) from None
        raise
    pickles = [name for name in archive.entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise NetbuildError(
            f"{path}: is a zip archive, but not one of torch.save: it has {len(pickles)} entries data.pkl"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.entries:  # torch.jit.save writes the same format with code in it
        raise _program_error(path)
    _check_byte_order(archive, f"{folder}byteorder")

    def fill(storage: StorageId, target: memoryview) -> None:
        entry = archive.entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.size < storage.nbytes:
            raise MalformedError(
                f"the storage {storage.key} should have {storage.nbytes:,} bytes, the archive holds"
                f" {entry.size if entry else 0:,}"
            )
        archive.read_into(entry, target)

    storages = Storages(fill, size, Budget(ALLOWANCE))
    stream = BytesIO(archive.read(pickles[0], MAX_PICKLE))
    root = _make_machine(path, stream, "data.pkl", storages, size).run()
    storages.finish()
    return root


def _program_error(path: Path) -> NetbuildError:
    hint = "open the checkpoint that it was made from, or save the model's state dict"
    return NetbuildError(f"{path}: is a TorchScript program, which is code: not supported", hint=hint)


def _check_byte_order(archive: Archive, name: str) -> None:
    # Older versions of torch write no such entry; their files are taken to be little-endian.
    order = archive.read(name, 64) if name in archive.entries else b"little"
    if order.decode("latin-1") != sys.byteorder:
        raise MalformedError(f"the archive's byte order, {order!r}, is not this machine's")


def _read_legacy(file: BinaryIO, size: int, path: Path) -> Any:
    """Read the legacy stream: magic number, version, system info, the object, the storages' keys, their values."""
    # The values come after the pickles, so the storages' memory is noted here and filled at the end.
    targets: dict[str, memoryview] = {}
    storages = Storages(lambda storage, target: targets.update({storage.key: target}), size, Budget(ALLOWANCE))
    file.seek(0)
    stream = BytesIO(file.read(MAX_PICKLE))
    machine = _make_machine(path, stream, "the pickle", storages, size)
    magic = machine.run()
    if type(magic) is not int or magic != LEGACY_MAGIC:
        raise NetbuildError(f"{path}: is a pickle, but not one of torch.save: not supported")
    version, system = machine.run(), machine.run()
    if type(version) is not int or version != LEGACY_VERSION or not isinstance(system, dict):
        raise MalformedError("the version of its format is unknown")
    if system.get("little_endian") is not (sys.byteorder == "little"):
        raise MalformedError("its byte order is not this machine's")
    root, keys = machine.run(), machine.run()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise MalformedError("its list of storages is no list of texts")
    if len(keys) != len(targets) or set(keys) != targets.keys():
        raise MalformedError("its list of storages does not fit the storages it uses")
    file.seek(stream.tell())  # the values follow the last pickle
    for key in keys:
        _fill_legacy(file, storages.known[key][0], targets[key])
    storages.finish()
    return root


def _fill_legacy(file: BinaryIO, storage: StorageId, target: memoryview) -> None:
    """Read the next storage of the stream: its number of values (8 bytes), then the values."""
    count = int.from_bytes(file.read(8), "little")
    if count * (storage.dtype.itemsize if storage.dtype else 1) != storage.nbytes:
        raise MalformedError(f"the storage {storage.key} has another size than its values")
    if file.readinto(target) != len(target):  # type: ignore[attr-defined]
        raise MalformedError(f"the storage {storage.key} is cut short")


def _read_safetensors(path: Path) -> ForeignCheckpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (file is no mapping)
            return ForeignCheckpoint(path, "safetensors", tensors, file.metadata() or {})
    except SafetensorError as error:
        raise NetbuildError(f"{path}: damaged safetensors file: {error}") from None
