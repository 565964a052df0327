"""Foreign checkpoints, read without running any code of theirs and without the package that wrote them.

`read` takes what ``torch.save`` writes, as a zip archive or as the stream of its early versions, and safetensors
files. Tensors come with their values; an object of any class comes as a `Stub`, with what the file says of it as data.
A pickle can ask for any function to be called: those that rebuild tensors and containers are carried out by our own
code, and a file that asks for another of the standard library or of torch is refused. Sizes are checked before memory
is taken: reading takes the file's size, and a constant.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.weights.pickles.archive import Archive
from netbuild.weights.pickles.builtin_types import BUILDERS
from netbuild.weights.pickles.machine import Machine
from netbuild.weights.pickles.opcodes import HANDLERS
from netbuild.weights.pickles.stubs import Budget, MalformedError, Named, Stub
from netbuild.weights.pickles.tensors import CONSTANTS, NUMPY, NumpyArray, StorageId, Storages, Tensors

MAX_PICKLE = 64 << 20  # bytes of what is not values of tensors
ALLOWANCE = 256 << 20  # bytes of Python objects that a file may cause to be made
MAX_DEPTH = 64  # of modules and of plain data
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

# Keys under which checkpoints keep their averaged and their last weights.
EMA = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
MODEL = ("model", "state_dict", "model_state_dict", "model_state", "network", "net", "params", "weights", "module")


@dataclass(frozen=True)
class Foreign:
    """A checkpoint as data.

    Args:
        path: the file.
        format: ``zip`` or ``legacy`` of torch.save, or ``safetensors``.
        root: what was saved: dicts, lists, numbers, texts, tensors on the CPU, stubs of unknown objects.
        metadata: the texts that a safetensors file has beside its tensors.
    """

    path: Path
    format: str
    root: Any = field(repr=False)
    metadata: Mapping[str, str] = field(default_factory=dict)


def read(path: str | Path) -> Foreign:
    """Read a checkpoint of torch.save or a safetensors file.

    Raises:
        NetbuildError: if the file cannot be read, is damaged, or asks for code to be run.
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
    except ValueError as error:  # a null character in it
        raise NetbuildError(f"{path}: cannot be read: {error}") from None


def _read(file: BinaryIO, size: int, path: Path) -> Foreign:
    file.seek(0)
    head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return Foreign(path, "zip", _read_zip(file, size, path))
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    if head.startswith(b"\x80"):
        return Foreign(path, "legacy", _read_legacy(file, size, path))
    what = "is empty" if not size else "is no checkpoint of torch.save and no safetensors file"
    if head[257:262] == b"ustar":
        what = "is a tar archive, as torch wrote them before 0.1.10: not supported"
    raise NetbuildError(f"{path}: {what}")


def _machine(path: Path, stream: BytesIO, part: str, storages: Storages, size: int) -> Machine:
    builders = {**Tensors(size).builders(), **NUMPY}
    return Machine(str(path), stream, part, {**BUILDERS, **builders}, CONSTANTS, storages, storages.budget, HANDLERS)


def _read_zip(file: BinaryIO, size: int, path: Path) -> Any:
    archive = Archive(file, size)
    pickles = [name for name in archive.entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise NetbuildError(f"{path}: is a zip archive, but none of torch.save: it has {len(pickles)} entries data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.entries:
        raise NetbuildError(
            f"{path}: is a TorchScript program, which is code: not supported", hint="save the model's state dict"
        )
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
    root = _machine(path, stream, "data.pkl", storages, size).run()
    storages.finish()
    return root


def _check_byte_order(archive: Archive, name: str) -> None:
    order = archive.read(name, 64) if name in archive.entries else b"little"
    if order.decode("latin-1") != sys.byteorder:
        raise MalformedError(f"the archive's byte order, {order!r}, is not this machine's")


def _read_legacy(file: BinaryIO, size: int, path: Path) -> Any:
    """The stream: magic number, version, facts of the system, the object, the keys of the storages, their values."""
    targets: dict[str, memoryview] = {}
    storages = Storages(lambda storage, target: targets.update({storage.key: target}), size, Budget(ALLOWANCE))
    file.seek(0)
    stream = BytesIO(file.read(MAX_PICKLE))
    machine = _machine(path, stream, "the pickle", storages, size)
    magic = machine.run()
    if type(magic) is not int or magic != LEGACY_MAGIC:
        raise NetbuildError(f"{path}: is a pickle, but none of torch.save: not supported")
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
    file.seek(stream.tell())
    for key in keys:
        _fill_legacy(file, storages.known[key][0], targets[key])
    storages.finish()
    return root


def _fill_legacy(file: BinaryIO, storage: StorageId, target: memoryview) -> None:
    """Read the next storage of the stream: its number of values, then these."""
    count = int.from_bytes(file.read(8), "little")
    if count * (storage.dtype.itemsize if storage.dtype else 1) != storage.nbytes:
        raise MalformedError(f"the storage {storage.key} has another size than its values")
    if file.readinto(target) != len(target):  # type: ignore[attr-defined]
        raise MalformedError(f"the storage {storage.key} is cut short")


def _read_safetensors(path: Path) -> Foreign:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return Foreign(path, "safetensors", tensors, file.metadata() or {})
    except SafetensorError as error:
        raise NetbuildError(f"{path}: no sound safetensors file: {error}") from None


# -- weights


def state_dict(foreign: Foreign, prefer: str = "ema") -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by the keys that torch's own ``state_dict`` would give, in its order and types.

    Args:
        foreign: a checkpoint that was read.
        prefer: ``ema`` for averaged weights where there are some, ``model`` for the last ones; `source` says which
            were taken.

    Raises:
        NetbuildError: if there are none.
    """
    _, holder = _find(foreign, prefer)
    budget = Budget(ALLOWANCE)
    try:
        if isinstance(holder, Stub):
            return dict(_walk(holder, "", 0, budget))
        return {key: tensor for key, value in holder.items() if (tensor := _tensor(value)) is not None}
    except MalformedError as error:
        raise NetbuildError(f"{foreign.path}: {error}") from None


def source(foreign: Foreign, prefer: str = "ema") -> str:
    """Where in the checkpoint the weights stand that `state_dict` takes, such as ``ema``; empty if it is they.

    Raises:
        NetbuildError: if there are none.
    """
    return ".".join(_find(foreign, prefer)[0])


def _find(foreign: Foreign, prefer: str) -> tuple[tuple[str, ...], Any]:
    """The keys that lead to the weights, and what holds them: a module's stub or a dict of tensors."""
    if prefer not in ("ema", "model"):
        raise ValueError(f"prefer is 'ema' or 'model', not {prefer!r}")
    order = EMA + MODEL if prefer == "ema" else MODEL + EMA
    found = _holder(foreign.root, order, set())
    if found is None:
        what = "nothing that has a state dict"
        if isinstance(foreign.root, dict) and foreign.root:
            keys = [shorten(key, 40) for key in foreign.root if isinstance(key, str)]
            what += f"; its keys are {', '.join(keys[:12])}"
        raise NetbuildError(f"{foreign.path}: holds no weights: {what}")
    return found


def _holder(value: Any, order: tuple[str, ...], seen: set[int]) -> tuple[tuple[str, ...], Any] | None:
    if isinstance(value, Stub) and isinstance(value.get("_modules"), dict):
        return (), value
    if not isinstance(value, (dict, Stub)) or id(value) in seen or len(seen) > MAX_DEPTH:
        return None
    seen.add(id(value))
    for key in order:
        found = _holder(value.get(key), order, seen)
        if found:
            return (key, *found[0]), found[1]
    named = {key: item for key, item in value.items() if isinstance(key, str)} if isinstance(value, dict) else {}
    return ((), named) if any(_tensor(item) is not None for item in named.values()) else None


def _tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, NumpyArray) and value.value is not None and value.value.dtype.kind in "biufc":
        return torch.from_numpy(value.value.astype(value.value.dtype.newbyteorder("=")))
    return value if isinstance(value, torch.Tensor) else None


def _walk(module: Stub, prefix: str, depth: int, budget: Budget) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an inert module and its children: parameters, persistent buffers, then each child."""
    if depth > MAX_DEPTH:
        raise MalformedError(f"its modules are nested deeper than {MAX_DEPTH} levels")
    budget.spend(500 + len(prefix))
    passing = module.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        for name, value in _named(module, kind, budget):
            if value is None or (kind == "_buffers" and isinstance(passing, set) and name in passing):
                continue
            if not isinstance(value, torch.Tensor):
                raise MalformedError(f"{prefix}{name} is no tensor")
            budget.spend(200 + len(prefix) + len(name))
            yield prefix + name, value
    for name, child in _named(module, "_modules", budget):
        if isinstance(child, Stub):
            yield from _walk(child, f"{prefix}{name}.", depth + 1, budget)


def _named(module: Stub, kind: str, budget: Budget) -> list[tuple[str, Any]]:
    values = module.get(kind)
    budget.spend(20 * len(values) if isinstance(values, dict) else 0)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise MalformedError(f"a module of class {module.kind} has no {kind}")
    return list(values.items())


# -- facts

_FACTS = ("yaml", "names", "task", "nc", "imgsz", "stride", "args", "train_args", "epoch", "date", "version", "license")
_SETTINGS = ("train_args", "args")  # that may say the task and the size of images
MAX_VALUES = 200_000  # that facts may have
MAX_TENSOR = 1000  # values of a tensor that is a fact


def facts(foreign: Foreign, prefer: str = "ema") -> dict[str, Any]:
    """What a checkpoint says of itself, as plain dicts, lists, numbers and texts; what it does not say is absent.

    ``model_class`` is the class that was saved; ``yaml`` the network's rows with ``nc`` and ``scale``; ``names`` the
    classes; ``task``, ``imgsz``, ``stride``; ``args`` and ``train_args`` the settings; ``epoch``, ``date``,
    ``version``, ``license``. A safetensors file has texts, in ``metadata``.

    Raises:
        NetbuildError: if it holds no weights, or its facts are nested without end.
    """
    _, holder = _find(foreign, prefer)
    model = holder if isinstance(holder, Stub) else None
    places = [place.get for place in (foreign.root, model) if isinstance(place, (dict, Stub))]
    plain = _Plain()
    try:
        said = {name: value for name in _FACTS if (value := plain(_first(places, name))) is not None}
        settings = [said[name].get for name in _SETTINGS if isinstance(said.get(name), dict)]
        said |= {name: value for name in ("task", "imgsz") if (value := _first(settings, name)) and name not in said}
    except MalformedError as error:
        raise NetbuildError(f"{foreign.path}: {error}") from None
    if model:
        said["model_class"] = model.kind
    return said | ({"metadata": dict(foreign.metadata)} if foreign.metadata else {})


def _first(places: list[Any], name: str) -> Any:
    return next((value for get in places if (value := get(name)) is not None), None)


class _Plain:
    """Values as plain data, None for what has no plain form; what is shared or cyclic is written out, within limits."""

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, NumpyArray):
            value = _tensor(value) if value.value is not None and value.value.size <= MAX_TENSOR else None
        self.count(value, depth)
        if isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return self.mapping(value, depth)
        if isinstance(value, Stub):
            return self.stub(value, depth)
        if isinstance(value, torch.Tensor) and value.numel() <= MAX_TENSOR and not value.is_complex():
            return value.tolist()
        return str(value) if isinstance(value, (Named, torch.dtype)) else None

    def count(self, value: Any, depth: int) -> None:
        """Count a value and what lies directly in it, before anything is made of it."""
        if isinstance(value, torch.Tensor):
            self.left -= min(value.numel(), MAX_TENSOR)
        self.left -= 1 + (len(value) if isinstance(value, (list, tuple, dict)) else 0)
        if self.left < 0 or depth > MAX_DEPTH:
            raise MalformedError(f"its facts have more than {MAX_VALUES:,} values or {MAX_DEPTH} levels")

    def mapping(self, values: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        """A dict of those values that have a plain form, or are None in the file."""
        plain = {}
        for key, value in values.items():
            if isinstance(key, (str, int, float, bool)):
                item = self(value, depth + 1)
                if item is not None or value is None:
                    plain[key] = item
        return plain

    def stub(self, value: Stub, depth: int) -> Any:
        """A path as text, an object with attributes as a dict of them."""
        if value.kind.startswith("pathlib.") and len(value.args) < MAX_DEPTH:
            parts = [part for part in value.args if isinstance(part, str) and len(part) < 4096]
            return str(PureWindowsPath(*parts) if "Windows" in value.kind else PurePosixPath(*parts))
        return self(value.state, depth + 1) if isinstance(value.state, dict) else None
