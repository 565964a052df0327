"""Compare the modules of a pickled model with those that its rows build, and write the differences into the rows.

A checkpoint of a whole model carries two descriptions of its network: the rows that it was built from, and the objects
themselves. Who changed a module after it was built changed the second alone, so the rows may build another network that
has the same tensors.
"""

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netbuild.errors import NetbuildError, shorten
from netbuild.graph.layers import Graph, Layer
from netbuild.weights.pickles.stubs import Stub

MAX_DEPTH = 64  # levels of nested modules
MAX_ATTEMPTS = 100  # networks that are resolved to find the edits
MAX_LISTED = 5  # rows that an error names
MAX_NUMBERS = 16  # values of a tensor that is compared with a list of numbers

# Attributes that no output of eval depends on, or that follow from the tensors' shapes, which are compared anyway.
_IRRELEVANT = {
    "training", "i", "f", "type", "np", "inplace", "momentum", "name", "p", "recompute_scale_factor", "return_indices",
    "max_det", "nc", "no", "nl", "nm", "npr", "end2end", "export", "dynamic", "format", "shape", "legacy",
    "num_features", "in_features", "out_features", "in_channels", "out_channels", "c", "c1", "c2", "title", "agnostic",
    "xyxy", "separate_outputs", "num_batches_tracked", "device", "dtype",
}  # fmt: skip
# Classes that do the same in eval, by the name that stands for them.
_SAME_CLASS = {
    "SyncBatchNorm": "BatchNorm2d", "Dropout": "Identity", "Dropout2d": "Identity", "AlphaDropout": "Identity",
    "DropPath": "Identity",
}  # fmt: skip
# Attributes that replace what the class of a module computes: hooks, as old weight norms have them, and methods.
_CODE = ("_forward_hooks", "_forward_pre_hooks", "forward")
_WRAPPERS = ("ModuleList", "Sequential", "ModuleDict", "Module")


@dataclass(frozen=True)
class ModuleDifference:
    """An attribute of a module that differs between the pickled model and the network of its rows.

    Attributes:
        path: the module, such as ``model.5.conv``.
        attribute: its name; ``class`` for another class, ``sources`` for the rows that a row reads.
        file_value, network_value: the two values; for a class its name, None if the network has no such module.
    """

    path: str
    attribute: str
    file_value: Any
    network_value: Any

    @property
    def row(self) -> int:
        """The number of the row that the module belongs to."""
        return int(self.path.split(".")[1])

    def __str__(self) -> str:
        if self.attribute == "class" and self.network_value is None:
            return f"{self.path} is a {self.file_value} in the file, and missing in the network"
        if self.attribute == "class":
            return f"{self.path} is a {self.file_value} in the file, a {self.network_value} in the network"
        return f"{self.path}: {self.attribute} is {self.file_value} in the file, {self.network_value} in the network"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare_modules`.

    Attributes:
        differences: the attributes that differ.
        extra: the modules of the file that compute something and have no counterpart in the network.
        compared: number of modules that both sides have.
        notes: what was not compared, in sentences.
    """

    differences: tuple[ModuleDifference, ...]
    extra: tuple[ModuleDifference, ...]
    compared: int
    notes: tuple[str, ...] = ()


def compare_modules(model: Stub, graph: Graph) -> Comparison:
    """Compare each module of a pickled model with the module of the same path that the rows build.

    Compared are the classes of modules without children (convolutions, norms, activations, poolings, upsampling), and
    the numbers, texts and flags that both modules have under the same name, such as ``kernel_size`` or ``add``; and the
    rows that each row reads. Hooks and a ``forward`` of an object's own are differences, since they are code.

    Args:
        model: the pickled model, whose child ``model`` has the rows.
        graph: the network of its rows.
    """
    stubs = dict(_walk(model))
    # One activation may serve many layers: each of its places counts.
    named = graph.skeleton().named_modules(prefix="model", remove_duplicate=False)
    modules = {path: module for path, module in named if path != "model"}
    shared = [path for path in modules if path in stubs]
    differences = [d for path in shared for d in _compare(path, stubs[path], modules[path])]
    differences += [d for layer in graph.layers for d in _compare_sources(layer, stubs.get(f"model.{layer.row.index}"))]
    extra = [
        ModuleDifference(path, "class", _call_text(stub), None)
        for path, stub in stubs.items()
        if path.startswith("model.") and path.split(".")[1].isdecimal() and path not in modules and _acts(stub)
    ]
    notes = []
    pairs = [(stubs[path], modules[path]) for path in shared]
    others = {(_class_name(stub), type(module).__name__) for stub, module in pairs if _is_other(stub, module)}
    if others:
        names = _list_some(sorted(f"{file} for {network}" for file, network in others))
        notes.append(f"classes of other names in the file, of which the parts were compared: {names}")
    return Comparison(tuple(differences), tuple(extra), len(shared), tuple(notes))


def _walk(module: Stub, path: str = "", depth: int = 0) -> Iterator[tuple[str, Stub]]:
    """Yield the path and the stub of each module below one."""
    children = module.get("_modules")
    for name, child in children.items() if isinstance(children, dict) and depth < MAX_DEPTH else ():
        if isinstance(child, Stub):
            full = f"{path}.{name}" if path else str(name)
            yield full, child
            yield from _walk(child, full, depth + 1)


def _class_name(stub: Stub) -> str:
    return stub.kind.rpartition(".")[2]


def _has_children(stub: Stub) -> bool:
    return any(isinstance(child, Stub) for child in (stub.get("_modules") or {}).values())


def _acts(stub: Stub) -> bool:
    """Whether a module without children does something in eval."""
    name = _class_name(stub)
    return not _has_children(stub) and _SAME_CLASS.get(name, name) != "Identity" and name not in _WRAPPERS


def _is_other(stub: Stub, module: nn.Module) -> bool:
    """Whether a module with children has another class name than its counterpart."""
    name = _class_name(stub)
    return _has_children(stub) and name != type(module).__name__ and name not in _WRAPPERS


def _compare(path: str, stub: Stub, module: nn.Module) -> Iterator[ModuleDifference]:
    file_class, network_class = _class_name(stub), type(module).__name__
    if not _has_children(stub) and not any(True for _ in module.children()) and file_class not in _WRAPPERS:
        same = (_SAME_CLASS.get(name, name) for name in (file_class, network_class))
        if len(set(same)) > 1:
            yield ModuleDifference(path, "class", _call_text(stub), network_class)
            return
    for name in _CODE:
        if stub.get(name):
            yield ModuleDifference(path, name.strip("_").replace("_", " "), "changed", "that of its class")
    for name, value in vars(module).items():
        if name.startswith("_") or name in _IRRELEVANT or not _is_plain(value):
            continue
        found = _to_numbers(stub.get(name, _MISSING))
        if found is not _MISSING and _is_plain(found) and not _is_equal(found, value):
            yield ModuleDifference(path, name, found, value)


def _compare_sources(layer: Layer, stub: Stub | None) -> Iterator[ModuleDifference]:
    """Compare the rows that a row reads with those that are recorded in the pickled module, as its attribute ``f``."""
    recorded: Any = stub.get("f") if stub else None
    numbers: Any = recorded if isinstance(recorded, (list, tuple)) else [recorded]
    if not numbers or not all(type(number) is int for number in numbers):
        return
    row = layer.row
    sources = tuple(number if number >= 0 else row.index + number for number in numbers)
    # A row of the dialect may read the text features as well, without stating them.
    if sources != row.sources[: len(sources)]:
        yield ModuleDifference(f"model.{row.index}", "sources", list(sources), list(row.sources))


_MISSING = object()


def _to_numbers(value: Any) -> Any:
    """A list of numbers for a small tensor, such as the strides of a head; other values as they are."""
    if isinstance(value, torch.Tensor) and value.numel() <= MAX_NUMBERS and not value.is_complex():
        return value.tolist()
    return value


def _is_plain(value: Any) -> bool:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return all(item is None or isinstance(item, (bool, int, float, str)) for item in items)


def _is_equal(a: Any, b: Any) -> bool:
    a, b = _collapse(a), _collapse(b)
    if isinstance(a, float) or isinstance(b, float):
        numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
        return numbers and math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _collapse(value: Any) -> Any:
    """A number for a tuple of equal numbers: (3, 3) is the kernel 3."""
    if isinstance(value, (tuple, list)):
        return value[0] if value and len(set(value)) == 1 else tuple(value)
    return value


def _call_text(stub: Stub) -> str:
    """The call that makes a module of torch.nn without tensors, such as ``nn.LeakyReLU(negative_slope=0.1)``."""
    name = _class_name(stub)
    cls = getattr(nn, name, None)
    if not stub.kind.startswith("torch.nn.") or not inspect.isclass(cls):
        return name
    given = []
    for parameter in inspect.signature(cls).parameters.values():
        value = stub.get(parameter.name, _MISSING)
        if parameter.name != "inplace" and value is not _MISSING and _is_plain(value) and value != parameter.default:
            given.append(f"{parameter.name}={value!r}")
    return f"nn.{name}({', '.join(given)})"


def _list_some(items: list[str]) -> str:
    return ", ".join(shorten(item, 60) for item in items[:3]) + (", ..." if len(items) > 3 else "")


# -- edits


@dataclass
class _Editor:
    """Looks for edits of the rows that make the network equal to the pickled model.

    Args:
        model: the pickled model.
        keys: the network file as plain data.
        resolve: resolves such data.
    """

    model: Stub
    keys: dict[str, Any]
    resolve: Callable[[Mapping[str, Any]], Graph]

    def __post_init__(self) -> None:
        self.attempts = 0
        self.edits: list[str] = []
        self.graph = self.resolve(self.keys)
        self.found = compare_modules(self.model, self.graph)

    def try_edit(self, text: str, keys: dict[str, Any]) -> bool:
        """Take edited data if its network has fewer differences."""
        if self.attempts >= MAX_ATTEMPTS:
            return False
        self.attempts += 1
        try:
            graph = self.resolve(keys)
        except NetbuildError:
            return False
        found = compare_modules(self.model, graph)
        if len(found.differences) >= len(self.found.differences):
            return False
        self.keys, self.graph, self.found = keys, graph, found
        self.edits.append(text)
        return True

    def edit(self) -> None:
        """Edit keys of the whole file first, then rows."""
        calls = {d.file_value for d in self.found.differences if d.attribute == "class"}
        for call in sorted(call for call in calls if call.startswith("nn.")):
            self.try_edit(f"activation: {call}", {**self.keys, "activation": call})
        for eps in sorted({d.file_value for d in self.found.differences if d.attribute == "eps"}):
            self.try_edit(f"norm_eps: {eps}", {**self.keys, "norm_eps": eps})
        before = None
        while self.found.differences and self.found.differences != before:
            before = self.found.differences
            self.edit_row(self.found.differences[0])

    def edit_row(self, difference: ModuleDifference) -> None:
        """Try the arguments of a difference's row that have the network's value, or whose default it is."""
        section, index = self.locate(difference.row)
        if section is None:
            return
        for text, arguments in self.candidates(difference, self.keys[section][index][3]):
            keys = copy.deepcopy(self.keys)
            keys[section][index][3] = arguments
            if self.try_edit(f"row {difference.row} {keys[section][index][2]}: {text}", keys):
                return

    def locate(self, row: int) -> tuple[str | None, int]:
        """The section of a row and its number there."""
        for section in ("backbone", "head"):
            rows = self.keys.get(section, [])
            if row < len(rows):
                return section, row
            row -= len(rows)
        return None, 0

    def candidates(self, difference: ModuleDifference, arguments: list[Any]) -> Iterator[tuple[str, list[Any]]]:
        """Yield edited arguments of a row, with a text that says the edit."""
        value, old = _collapse(difference.file_value), _collapse(difference.network_value)
        value = list(value) if isinstance(value, tuple) else value
        if difference.attribute == "class":
            yield f"act={value}", _with_keyword(arguments, "act", value)
            return
        for i, argument in enumerate(arguments):
            if _is_plain(argument) and type(argument) is type(old) and _is_equal(argument, old):
                yield f"argument {i + 1} is {value}", [*arguments[:i], value, *arguments[i + 1 :]]
        layer = self.graph.layers[difference.row]
        for parameter in layer.factory.parameters:
            if parameter.name == difference.attribute or _is_equal(parameter.default, old):
                yield f"{parameter.name}={value}", _with_keyword(arguments, parameter.name, value)


def _with_keyword(arguments: list[Any], name: str, value: Any) -> list[Any]:
    if arguments and isinstance(arguments[-1], dict):
        return [*arguments[:-1], {**arguments[-1], name: value}]
    return [*arguments, {name: value}]


@dataclass(frozen=True)
class CheckedRows:
    """Rows of a pickled model whose network has the modules of the model.

    Attributes:
        graph: the network.
        edits: how the rows were changed, in words; empty if they were right.
        compared: number of modules compared.
        notes: what was not compared.
    """

    graph: Graph
    edits: tuple[str, ...]
    compared: int
    notes: tuple[str, ...]


def fit_rows(
    model: Stub, keys: dict[str, Any], resolve: Callable[[Mapping[str, Any]], Graph], path: object
) -> CheckedRows:
    """Edit the rows of a pickled model until they build the model's modules.

    Args:
        model: the pickled model.
        keys: its rows and settings as a network file has them, plain data.
        resolve: resolves such data.
        path: the file, for the error.

    Raises:
        NetbuildError: with the rows whose differences the grammar cannot express.
    """
    editor = _Editor(model, keys, resolve)
    if editor.found.differences:
        editor.edit()
    if remaining := editor.found.differences + editor.found.extra:
        raise differences_error(remaining, path)
    return CheckedRows(editor.graph, tuple(editor.edits), editor.found.compared, editor.found.notes)


def differences_error(differences: tuple[ModuleDifference, ...], path: object) -> NetbuildError:
    """The error about modules of a file that are not those of its rows."""
    rows: dict[int, str] = {}
    for difference in differences:
        rows.setdefault(difference.row, str(difference))
    listed = [f"  row {row}: {text}" for row, text in list(rows.items())[:MAX_LISTED]]
    more = [f"  and {len(rows) - MAX_LISTED} more rows"] if len(rows) > MAX_LISTED else []
    text = "\n".join(
        [f"{path}: {len(rows)} rows have other modules than the network that would be built", *listed, *more]
    )
    return NetbuildError(text, hint="write a network file with these modules, and give it by --model")
