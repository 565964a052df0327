"""Turns rows into constructor calls with all arguments filled in."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

from netbuild.author.ejecting.layout import Doc, Group, add_prefix, to_line, to_literal
from netbuild.author.ejecting.modules import Import
from netbuild.author.ejecting.sources import Key, is_ours
from netbuild.grammar.expressions import Call
from netbuild.graph.bind import BoundCall
from netbuild.graph.layers import BlockCopy, Layer
from netbuild.layers.activation import ACTIVATIONS
from netbuild.modules import builders, registry
from netbuild.modules.factory import Factory
from netbuild.roles import Role

NN = Import("torch.nn", "from torch import nn{}", "nn", "nn")
Names = Mapping[Key, str]  # the names of classes, functions and imports in the file


class Argument(NamedTuple):
    """An argument of a call; ``named`` arguments are written as keywords, others by position."""

    name: str
    value: Any
    named: bool = True


@dataclass(frozen=True)
class ModuleCall:
    """A call that creates a module: the key of the class, the attribute after its name (as in nn.Conv2d), arguments."""

    key: Key
    suffix: str
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class ParameterName:
    """A parameter of a block's class, used as a value."""

    name: str


@dataclass(frozen=True, eq=False)
class BlockUse:
    """A use of a block by a row; ``rows`` are the calls of the block's own rows."""

    name: str
    inside: BlockCopy
    rows: tuple[tuple["ModuleCall | BlockUse", ...], ...]


class CallBuilder:
    """Turns layers into calls, and collects the classes (``roots``) and imports that the calls need."""

    def __init__(self) -> None:
        self.roots: dict[Key, None] = {}
        self.imports: dict[Key, Import] = {}

    def build_row(self, layer: Layer) -> tuple[ModuleCall | BlockUse, ...]:
        """Return the calls of a row, one for each module in sequence.

        A row that shares a module has an identity in its place: ``forward`` calls the module of the other row.
        """
        if layer.row.shares is not None:
            return (self.module(Call("nn.Identity")),)
        if layer.block_copies:
            return tuple(
                BlockUse(layer.factory.name, inside, tuple(map(self.build_row, inside.layers)))
                for inside in layer.block_copies
            )
        return tuple(self._build_call(bound) for bound in layer.bounds)

    def _build_call(self, bound: BoundCall) -> ModuleCall:
        factory = bound.factory
        arguments = {**_name_positional(bound), **bound.call}
        if factory.name == builders.TIMM:
            key = self._import("timm.create_model")
            return ModuleCall(key, "", tuple(self._args(factory, {**arguments, "pretrained": False})))
        if factory.name.startswith(builders.TORCHVISION):
            return self._torchvision(factory.name.split(".")[-1], dict(arguments))
        return self._made(factory, arguments)

    def _torchvision(self, model: str, arguments: dict[Any, Any]) -> ModuleCall:
        features, pretrained = arguments.pop("features", None), arguments.pop("pretrained", False)
        options = {"weights": None, **builders.torchvision_options(model, pretrained, arguments)}
        args = (Argument("name", model, False), *(Argument(k, v) for k, v in options.items()))
        call = ModuleCall(self._import("torchvision.models.get_model"), "", args)
        if not features:
            return call
        key = self._import("torchvision.models.feature_extraction.create_feature_extractor")
        return ModuleCall(key, "", (Argument("model", call, False), Argument("return_nodes", list(features), False)))

    def _made(self, factory: Factory, arguments: Mapping[Any, Any]) -> ModuleCall:
        key, suffix = self._class(factory)
        return ModuleCall(key, suffix, tuple(self._args(factory, arguments)))

    def _class(self, factory: Factory) -> tuple[Key, str]:
        home, name = factory.make.__module__, factory.make.__qualname__
        if factory.foreign and factory.name.startswith("nn."):
            return self.take(NN), factory.name.removeprefix("nn")
        if is_ours(home):
            self.roots[home, name] = None
            return (home, name), ""
        return self._import(factory.name if "." in factory.name else f"{home}.{name}"), ""

    def take(self, item: Import) -> Key:
        """Add an import and return its key."""
        key = ("", item.target)
        self.imports[key] = item
        return key

    def _import(self, dotted: str) -> Key:
        home, _, name = dotted.rpartition(".")
        return self.take(Import(dotted, f"from {home} import {name}{{}}", name, name))

    def _args(self, factory: Factory, arguments: Mapping[Any, Any]) -> Iterator[Argument]:
        """Yield the arguments in the order of the signature: leading integers by position, the others by name."""
        named = {p.name: p for p in factory.parameters if p.name in arguments}
        by_position = _positional_parameters(factory.make)
        # Leading integers, such as channels and kernel sizes, read well without names; other values do not.
        leading = True
        for index, (name, parameter) in enumerate(named.items()):
            value = arguments[name]
            is_next = index < len(by_position) and by_position[index][0] == name
            leading = leading and is_next and type(value) is int and parameter.role is not Role.DEPTH
            must = is_next and by_position[index][1]
            yield Argument(name, self._value(value), not (leading or must))
        for name, value in arguments.items():
            if name not in named:
                yield Argument(str(name), self._value(value), isinstance(name, str))

    def _value(self, value: Any) -> Any:
        if not isinstance(value, Call):
            return [self._value(item) for item in value] if isinstance(value, list) else value
        return self.module(value)

    def module(self, call: Call) -> ModuleCall:
        """Return the call for an argument such as ``nn.LeakyReLU(0.1)``."""
        key, suffix = self._class(registry.get_factory(call.name))
        by_position = (Argument(f"value{i}", v, False) for i, v in enumerate(call.args))
        return ModuleCall(key, suffix, (*by_position, *(Argument(k, v) for k, v in call.kwargs)))

    def activation(self, value: Any) -> ModuleCall:
        """Return the call for the value of a file's ``activation``."""
        if isinstance(value, Call):
            return self.module(value)
        found = ACTIVATIONS.get("".join(c for c in str(value).lower() if c not in " _-"))
        if found is None:
            return self.module(Call(str(value)))
        kind: Any
        kind, options = (found.func, found.keywords) if isinstance(found, partial) else (found, {})
        return ModuleCall(self.take(NN), f".{kind.__name__}", tuple(starmap(Argument, options.items())))


def _name_positional(bound: BoundCall) -> dict[Any, Any]:
    """Return positional arguments by the names of their parameters, or by number for a variadic constructor."""
    names = [p.name for p in bound.factory.parameters]
    if bound.factory.has_varargs:
        return dict(enumerate(bound.positional))
    return dict(zip(names, bound.positional, strict=False))


def _positional_parameters(make: Callable[..., Any]) -> list[tuple[str, bool]]:
    """Return the names of parameters that can be given by position, and whether they are positional-only."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in inspect.signature(make).parameters.values() if p.kind in kinds]
    return [(p.name, p.kind is inspect.Parameter.POSITIONAL_ONLY) for p in found]


def format_value(value: Any, names: Names) -> Doc:
    """Format a call or a value as Python code."""
    if isinstance(value, ParameterName):
        return value.name
    if isinstance(value, list):
        return Group("[", tuple(format_value(item, names) for item in value), "]")
    if not isinstance(value, ModuleCall):
        return to_literal(value)
    args = tuple(add_prefix(f"{a.name}=" if a.named else "", format_value(a.value, names)) for a in value.args)
    return Group(f"{names[value.key]}{value.suffix}(", args, ")") if args else f"{names[value.key]}{value.suffix}()"


def format_row(calls: tuple[ModuleCall, ...], names: Names) -> Doc:
    """Format a row's module: a single call, or several in an ``nn.Sequential``."""
    docs = [format_value(call, names) for call in calls]
    if len(docs) == 1:
        return docs[0]
    sequential = f"{names['', NN.target]}.Sequential("
    if len({to_line(doc) for doc in docs}) > 1:
        return Group(sequential, tuple(docs), ")")
    return Group(sequential, (Group("*(", (f"{to_line(docs[0])} for _ in range({len(docs)})",), ")"),), ")")
