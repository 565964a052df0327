"""Rows as constructor calls with every number filled in."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any, NamedTuple

from netbuild.author.ejecting.layout import Doc, Group, flat, literal, prefixed
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
Names = Mapping[Key, str]  # what the file calls a class, function or import


class Argument(NamedTuple):
    """An argument of a call: the parameter's name, the value, and whether the name is written."""

    name: str
    value: Any
    named: bool = True


@dataclass(frozen=True)
class Made:
    """A call that makes a module: the class by its key, and what follows its name."""

    key: Key
    suffix: str
    args: tuple[Argument, ...]


@dataclass(frozen=True)
class Hole:
    """A value that a block's class gets as a parameter."""

    name: str


@dataclass(frozen=True, eq=False)
class Expansion:
    """A block of the file where a row uses it: the calls of its inner rows, each once a copy."""

    name: str
    inside: BlockCopy
    rows: tuple[tuple["Made | Expansion", ...], ...]


class Calls:
    """Turns layers into calls, and notes what these need: classes whose text goes along, and imports."""

    def __init__(self) -> None:
        self.roots: dict[Key, None] = {}
        self.imports: dict[Key, Import] = {}

    def of(self, layer: Layer) -> tuple[Made | Expansion, ...]:
        """The calls of a row, one for each module in sequence."""
        if layer.block_copies:
            return tuple(
                Expansion(layer.factory.name, inside, tuple(map(self.of, inside.layers)))
                for inside in layer.block_copies
            )
        return (self._bound(layer.bound),) * layer.copies

    def _bound(self, bound: BoundCall) -> Made:
        factory = bound.factory
        given = {**_by_position(bound), **bound.call}
        if factory.name == builders.TIMM:
            key = self._import("timm.create_model")
            return Made(key, "", tuple(self._args(factory, {**given, "pretrained": False})))
        if factory.name.startswith(builders.TORCHVISION):
            return self._torchvision(factory.name.split(".")[-1], dict(given))
        return self._made(factory, given)

    def _torchvision(self, model: str, given: dict[Any, Any]) -> Made:
        features, pretrained = given.pop("features", None), given.pop("pretrained", False)
        options = {"weights": None, **builders.torchvision_options(model, pretrained, given)}
        args = (Argument("name", model, False), *(Argument(k, v) for k, v in options.items()))
        call = Made(self._import("torchvision.models.get_model"), "", args)
        if not features:
            return call
        key = self._import("torchvision.models.feature_extraction.create_feature_extractor")
        return Made(key, "", (Argument("model", call, False), Argument("return_nodes", list(features), False)))

    def _made(self, factory: Factory, given: Mapping[Any, Any]) -> Made:
        key, suffix = self._class(factory)
        return Made(key, suffix, tuple(self._args(factory, given)))

    def _class(self, factory: Factory) -> tuple[Key, str]:
        home, name = factory.make.__module__, factory.make.__qualname__
        if factory.foreign and factory.name.startswith("nn."):
            return self.take(NN), factory.name.removeprefix("nn")
        if is_ours(home):
            self.roots[home, name] = None
            return (home, name), ""
        return self._import(factory.name if "." in factory.name else f"{home}.{name}"), ""

    def take(self, item: Import) -> Key:
        """Import something."""
        key = ("", item.target)
        self.imports[key] = item
        return key

    def _import(self, dotted: str) -> Key:
        home, _, name = dotted.rpartition(".")
        return self.take(Import(dotted, f"from {home} import {name}{{}}", name, name))

    def _args(self, factory: Factory, given: Mapping[Any, Any]) -> Iterator[Argument]:
        """Leading whole numbers by position, the rest by name, in the order of the signature."""
        named = {p.name: p for p in factory.parameters if p.name in given}
        by_position = _positional(factory.make)
        leading = True
        for index, (name, parameter) in enumerate(named.items()):
            value = given[name]
            is_next = index < len(by_position) and by_position[index][0] == name
            leading = leading and is_next and type(value) is int and parameter.role is not Role.DEPTH
            must = is_next and by_position[index][1]
            yield Argument(name, self._value(value), not (leading or must))
        for name, value in given.items():
            if name not in named:
                yield Argument(str(name), self._value(value), isinstance(name, str))

    def _value(self, value: Any) -> Any:
        if not isinstance(value, Call):
            return [self._value(item) for item in value] if isinstance(value, list) else value
        return self.module(value)

    def module(self, call: Call) -> Made:
        """What an argument such as ``nn.LeakyReLU(0.1)`` makes."""
        key, suffix = self._class(registry.get_factory(call.name))
        by_position = (Argument(f"value{i}", v, False) for i, v in enumerate(call.args))
        return Made(key, suffix, (*by_position, *(Argument(k, v) for k, v in call.kwargs)))

    def activation(self, value: Any) -> Made:
        """The module that a file's ``activation`` names."""
        if isinstance(value, Call):
            return self.module(value)
        found = ACTIVATIONS.get("".join(c for c in str(value).lower() if c not in " _-"))
        if found is None:
            return self.module(Call(str(value)))
        kind: Any
        kind, options = (found.func, found.keywords) if isinstance(found, partial) else (found, {})
        return Made(self.take(NN), f".{kind.__name__}", tuple(starmap(Argument, options.items())))


def _by_position(bound: BoundCall) -> dict[Any, Any]:
    """Values given by position, by their parameters' names; those beyond the parameters by number."""
    names = [p.name for p in bound.factory.parameters]
    if bound.factory.has_varargs:
        return dict(enumerate(bound.positional))
    return dict(zip(names, bound.positional, strict=False))


def _positional(make: Callable[..., Any]) -> list[tuple[str, bool]]:
    """The parameters that may be given by position, and whether they must."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for p in inspect.signature(make).parameters.values() if p.kind in kinds]
    return [(p.name, p.kind is inspect.Parameter.POSITIONAL_ONLY) for p in found]


def written(value: Any, names: Names) -> Doc:
    """A call or a value as Python."""
    if isinstance(value, Hole):
        return value.name
    if isinstance(value, list):
        return Group("[", tuple(written(item, names) for item in value), "]")
    if not isinstance(value, Made):
        return literal(value)
    args = tuple(prefixed(f"{a.name}=" if a.named else "", written(a.value, names)) for a in value.args)
    return Group(f"{names[value.key]}{value.suffix}(", args, ")") if args else f"{names[value.key]}{value.suffix}()"


def in_sequence(calls: tuple[Made, ...], names: Names) -> Doc:
    """A row's module: the call, or several in an ``nn.Sequential``."""
    docs = [written(call, names) for call in calls]
    if len(docs) == 1:
        return docs[0]
    sequential = f"{names['', NN.target]}.Sequential("
    if len({flat(doc) for doc in docs}) > 1:
        return Group(sequential, tuple(docs), ")")
    return Group(sequential, (Group("*(", (f"{flat(docs[0])} for _ in range({len(docs)})",), ")"),), ")")
