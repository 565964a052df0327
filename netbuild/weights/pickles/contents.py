"""Find the weights and the metadata in a checkpoint that `unpickle.read` decoded."""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.weights.pickles.stubs import Budget, MalformedError, Named, Stub
from netbuild.weights.pickles.tensors import NumpyArray
from netbuild.weights.pickles.unpickle import ALLOWANCE, ForeignCheckpoint

MAX_DEPTH = 64  # levels of nested modules and of nested metadata
MAX_VALUES = 200_000  # values in the metadata
MAX_TENSOR = 1000  # values of a tensor that counts as metadata, such as `stride`

# Keys under which checkpoints store the averaged weights and the last weights.
EMA = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema")
MODEL = ("model", "state_dict", "model_state_dict", "model_state", "network", "net", "params", "weights", "module")

_WRAPPERS = {"DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod"}

_METADATA = (
    "yaml", "names", "task", "nc", "imgsz", "stride", "args", "train_args", "epoch", "date", "version", "license",
)  # fmt: skip
_SETTINGS = ("train_args", "args")  # settings in which task and imgsz are looked up if they are not at the top


def find_model(foreign: ForeignCheckpoint, prefer: str = "ema") -> Stub | None:
    """Return the pickled model whose weights `extract_state_dict` takes, None for a plain dict of tensors.

    Raises:
        NetbuildError: if the checkpoint has no weights.
    """
    _, weights = _find_weights(foreign, prefer)
    return weights if isinstance(weights, Stub) else None


def extract_state_dict(foreign: ForeignCheckpoint, prefer: str = "ema") -> dict[str, torch.Tensor]:
    """Extract the weights under the keys of torch's own ``state_dict``, in its order and with its types.

    Args:
        foreign: the decoded checkpoint.
        prefer: ``ema`` to take the averaged weights where there are some, ``model`` to take the last weights;
            `locate_weights` tells which were taken.

    Raises:
        NetbuildError: if the checkpoint has no weights.
    """
    _, weights = _find_weights(foreign, prefer)
    budget = Budget(ALLOWANCE)
    try:
        if isinstance(weights, Stub):
            return dict(_walk_module(weights, "", 0, budget))
        return {key: tensor for key, value in weights.items() if (tensor := _as_tensor(value)) is not None}
    except MalformedError as error:
        raise NetbuildError(f"{foreign.path}: {error}") from None


def locate_weights(foreign: ForeignCheckpoint, prefer: str = "ema") -> str:
    """Return the dotted path of the weights that `extract_state_dict` takes, such as ``ema``; empty for the root.

    Raises:
        NetbuildError: if the checkpoint has no weights.
    """
    return ".".join(_find_weights(foreign, prefer)[0])


def _find_weights(foreign: ForeignCheckpoint, prefer: str) -> tuple[tuple[str, ...], Any]:
    """The keys that lead to the weights, and the object that holds them: a module's stub or a dict of tensors."""
    if prefer not in ("ema", "model"):
        raise ValueError(f"prefer is 'ema' or 'model', not {prefer!r}")
    order = EMA + MODEL if prefer == "ema" else MODEL + EMA
    found = _search(foreign.root, order, set())
    if found is None:
        content = "nothing in it has a state dict"
        if isinstance(foreign.root, dict) and foreign.root:
            keys = [shorten(str(key), 40) for key in foreign.root if isinstance(key, (str, int))]
            content += f"; its keys are {', '.join(keys[:12])}"
        raise NetbuildError(f"{foreign.path}: holds no weights: {content}")
    return found


def _search(value: Any, order: tuple[str, ...], seen: set[int]) -> tuple[tuple[str, ...], Any] | None:
    """Search a value, depth first by the keys in `order`, for a module or a dict with tensors."""
    if isinstance(value, Stub) and isinstance(modules := value.get("_modules"), dict):
        # Wrappers for several processes and for compilation hold the network as their only child.
        inner = modules.get(_WRAPPERS.get(value.kind.rpartition(".")[2], ""))
        return (), inner if isinstance(inner, Stub) else value
    if not isinstance(value, (dict, Stub)) or id(value) in seen or len(seen) > MAX_DEPTH:
        return None
    seen.add(id(value))  # a pickle may contain itself
    for key in order:
        found = _search(value.get(key), order, seen)
        if found:
            return (key, *found[0]), found[1]
    items = {key: item for key, item in value.items() if isinstance(key, str)} if isinstance(value, dict) else {}
    return ((), items) if any(_as_tensor(item) is not None for item in items.values()) else None


def _as_tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, NumpyArray) and value.value is not None and value.value.dtype.kind in "biufc":
        return torch.from_numpy(value.value.astype(value.value.dtype.newbyteorder("=")))
    return value if isinstance(value, torch.Tensor) else None


def _walk_module(module: Stub, prefix: str, depth: int, budget: Budget) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a stubbed module: parameters, persistent buffers, then those of each child.

    The budget bounds modules that are shared by many parents: each use counts.
    """
    if depth > MAX_DEPTH:
        raise MalformedError(f"its modules are nested deeper than {MAX_DEPTH} levels")
    budget.spend(500 + len(prefix))
    non_persistent = module.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        for name, value in _list_members(module, kind, budget):
            if value is None or (kind == "_buffers" and isinstance(non_persistent, set) and name in non_persistent):
                continue
            if not isinstance(value, torch.Tensor):
                raise MalformedError(f"{prefix}{name} is no tensor")
            budget.spend(200 + len(prefix) + len(name))
            yield prefix + name, value
    for name, child in _list_members(module, "_modules", budget):
        if isinstance(child, Stub):
            yield from _walk_module(child, f"{prefix}{name}.", depth + 1, budget)


def _list_members(module: Stub, kind: str, budget: Budget) -> list[tuple[str, Any]]:
    """The items of a module's ``_parameters``, ``_buffers`` or ``_modules``."""
    values = module.get(kind)
    budget.spend(20 * len(values) if isinstance(values, dict) else 0)
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise MalformedError(f"a module of class {module.kind} has no {kind}")
    return list(values.items())


# -- metadata


def extract_metadata(foreign: ForeignCheckpoint, prefer: str = "ema") -> dict[str, Any]:
    """Extract a checkpoint's metadata as plain dicts, lists, numbers and texts; keys that it lacks are absent.

    ``model_class`` is the class that was saved, ``yaml`` the network's rows with ``nc`` and ``scale``, ``names`` the
    classes, ``args`` and ``train_args`` the settings. The other keys, as they are in the file: ``task``, ``nc``,
    ``imgsz``, ``stride``, ``epoch``, ``date``, ``version``, ``license``. A safetensors file has ``metadata``, texts.

    Raises:
        NetbuildError: if the checkpoint has no weights, or its metadata is too large or nested too deeply.
    """
    _, weights = _find_weights(foreign, prefer)
    model = weights if isinstance(weights, Stub) else None
    lookups = [place.get for place in (foreign.root, model) if isinstance(place, (dict, Stub))]
    to_plain = _PlainData()
    try:
        metadata = {name: value for name in _METADATA if (value := to_plain(_look_up(lookups, name))) is not None}
        settings = [metadata[name].get for name in _SETTINGS if isinstance(metadata.get(name), dict)]
        for name in ("task", "imgsz"):
            if name not in metadata and (value := _look_up(settings, name)):
                metadata[name] = value
    except MalformedError as error:
        raise NetbuildError(f"{foreign.path}: {error}") from None
    if model:
        metadata["model_class"] = model.kind
    return metadata | ({"metadata": dict(foreign.metadata)} if foreign.metadata else {})


def _look_up(lookups: list[Any], name: str) -> Any:
    """The first value that is not None."""
    return next((value for get in lookups if (value := get(name)) is not None), None)


class _PlainData:
    """Converts decoded values to plain data, None for what has no plain form.

    Shared and cyclic values are written out each time, so the number of values and the depth are limited.
    """

    def __init__(self) -> None:
        self.left = MAX_VALUES

    def __call__(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, NumpyArray):
            value = _as_tensor(value) if value.value is not None and value.value.size <= MAX_TENSOR else None
        self.count(value, depth)
        if isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return self.convert_dict(value, depth)
        if isinstance(value, Stub):
            return self.convert_stub(value, depth)
        if isinstance(value, torch.Tensor) and value.numel() <= MAX_TENSOR and not value.is_complex():
            return value.tolist()
        return str(value) if isinstance(value, (Named, torch.dtype)) else None

    def count(self, value: Any, depth: int) -> None:
        """Count a value and its direct items before they are converted; raise `MalformedError` beyond the limits."""
        if isinstance(value, torch.Tensor):
            self.left -= min(value.numel(), MAX_TENSOR)
        self.left -= 1 + (len(value) if isinstance(value, (list, tuple, dict)) else 0)
        if self.left < 0 or depth > MAX_DEPTH:
            raise MalformedError(f"its metadata has more than {MAX_VALUES:,} values or {MAX_DEPTH} levels")

    def convert_dict(self, values: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        """Convert a dict; items without a plain form are dropped, items that are None in the file are not."""
        plain = {}
        for key, value in values.items():
            if isinstance(key, (str, int, float, bool)):
                item = self(value, depth + 1)
                if item is not None or value is None:
                    plain[key] = item
        return plain

    def convert_stub(self, value: Stub, depth: int) -> Any:
        """Convert a pathlib path to text, and any other object to a dict of its attributes."""
        if value.kind.startswith("pathlib.") and len(value.args) < MAX_DEPTH:
            parts = [part for part in value.args if isinstance(part, str) and len(part) < 4096]
            return str(PureWindowsPath(*parts) if "Windows" in value.kind else PurePosixPath(*parts))
        return self(value.state, depth + 1) if isinstance(value.state, dict) else None
