"""The name in a row to the factory that builds it: packaged layers and ``nn.*``, and nothing but layers."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from netbuild import layers
from netbuild.errors import MissingExtraError, NetbuildError, did_you_mean, shorten
from netbuild.expr import Call
from netbuild.layers.activation import ACTIVATIONS, activation_by_name
from netbuild.roles import NAMES, Plain, Role

OWN_MODULE_HINT = "an own module is made known by --modules FILE.py, or by imports: in the network's file"
PACKAGES = ("torchvision.ops", "timm.layers")  # whose layers rows may name by dotted path

# nn.Module classes that hold or compare others: no layer of a network.
_CONTAINERS = {
    "Module", "ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict", "Container", "DataParallel",
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """A constructor parameter: its role, the types it takes (empty: unknown), its default, whether it takes a list."""

    name: str
    role: Role
    types: tuple[type, ...]
    default: Any
    wants_list: bool

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def text(self) -> str:
        """Its name with its default, as a signature has it."""
        default = self.default.__name__ if inspect.isroutine(self.default) else repr(self.default)
        return self.name if self.required else f"{self.name}={default}"


@dataclass(frozen=True)
class Factory:
    """What builds a module: the callable, its parameters, and whether it comes from another package."""

    name: str
    make: Callable[..., nn.Module]
    parameters: tuple[Parameter, ...]
    foreign: bool = False
    path: str = ""
    variadic: bool = False  # takes any number of positional values
    task: str | None = None
    file: str = ""  # of an own module: where its code stands

    def takes(self, role: Role) -> bool:
        """Whether a parameter has the role."""
        return any(p.role is role for p in self.parameters)

    def signature(self, supplied: Mapping[str, Any] | None = None) -> str:
        """The parameters in order with their defaults; those that netbuild supplies are marked, with values."""
        marks = {name: f"{name}={value} (supplied)" for name, value in (supplied or {}).items()}
        return self.call_text(marks)

    def call_text(self, marks: Mapping[str, str]) -> str:
        """The call as a text: a parameter's mark, if it has one, else its name with its default."""
        hidden = (Role.SIZE, Role.STRIDE, Role.SETTING)
        shown = [p for p in self.parameters if p.role not in hidden and p.name not in ("device", "dtype")]
        parts = [marks.get(p.name, p.text) for p in shown]
        return f"{self.name}({', '.join([*parts, *(['...'] if self.variadic else [])])})"


def names() -> list[str]:
    """The packaged layers' names."""
    return list(layers.__all__)


def torch_names() -> list[str]:
    """The layers of ``torch.nn`` that may stand in a row."""
    return [f"nn.{name}" for name in sorted(vars(nn), key=str.lower) if _is_layer(name)]


@cache
def factory(name: str) -> Factory:
    """The factory for a module's name.

    Raises:
        NetbuildError: (without a place) if the name is unknown or is no layer.
    """
    if name in layers.__all__:
        return from_class(name, getattr(layers, name), foreign=False)
    prefix, _, rest = name.removeprefix("torch.").partition(".")
    if prefix == "nn" and rest:
        return _torch_layer(name, rest)
    found = _of_package(name) if "." in name else _entry_point(name)
    if found:
        return found
    raise NetbuildError(f"unknown module '{name}'")


def find(name: str, own: Mapping[str, Factory]) -> Factory:
    """The factory for a module's name, own modules first.

    Raises:
        NetbuildError: (without a place) if the name is unknown or is no layer.
    """
    if name in own:
        return own[name]
    try:
        return factory(name)
    except NetbuildError as error:
        if not error.hint:
            hint = did_you_mean(name, [*own, *names(), *torch_names()])
            error.hint = f"{hint}; otherwise {OWN_MODULE_HINT}" if hint else OWN_MODULE_HINT
        raise


def _of_package(name: str) -> Factory | None:
    """A layer of the few packages that rows may name by their dotted path."""
    home, _, cls_name = name.rpartition(".")
    if home not in PACKAGES:
        return None
    package = home.split(".")[0]
    try:
        cls = getattr(import_module(home), cls_name, None)
    except ImportError:
        raise MissingExtraError(f"'{name}' needs the package '{package}'", hint=f"pip install {package}") from None
    except RuntimeError as error:  # a torchvision built for another torch
        raise MissingExtraError(
            f"'{name}': {package} does not load: {error}", hint="match its version to torch"
        ) from None
    if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
        raise NetbuildError(f"'{name}' is not a layer", hint=f"a row holds an nn.Module class of {home}")
    return from_class(name, cls, foreign=True)


@cache
def _entry_points() -> Any:
    """Those of all installed packages: finding them reads a file of each."""
    from importlib.metadata import entry_points

    return entry_points(group="netbuild.modules")


def _entry_point(name: str) -> Factory | None:
    """A module that an installed package offers under the entry-point group ``netbuild.modules``."""
    for point in _entry_points().select(name=name):
        try:
            cls = point.load()
        except Exception as error:  # whatever the package's code says
            text = shorten(str(error) or type(error).__name__)
            raise NetbuildError(f"the entry point '{name}' = {point.value} does not load: {text}") from None
        if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
            raise NetbuildError(f"the entry point '{name}' = {point.value} is no nn.Module class")
        return from_class(name, cls, foreign=False)
    return None


def _is_layer(name: str) -> bool:
    cls = getattr(nn, name, None)
    return (
        inspect.isclass(cls)
        and issubclass(cls, nn.Module)
        and name not in _CONTAINERS
        and not name.startswith("Lazy")
        and not issubclass(cls, nn.modules.loss._Loss)
    )


def _torch_layer(name: str, rest: str) -> Factory:
    if _is_layer(rest):
        return from_class(f"nn.{rest}", getattr(nn, rest), foreign=True)
    hint = did_you_mean(f"nn.{rest}", torch_names(), 0.85)
    if rest.startswith("Lazy") and _is_layer(rest[4:]):
        hint = f"write nn.{rest[4:]} with keyword arguments: the input channels are then filled in"
    raise NetbuildError(f"'{name}' is not a layer", hint=hint or "a row holds an nn.Module class of torch.nn")


def from_class(name: str, cls: type[nn.Module], foreign: bool) -> Factory:
    """The factory of a module class, its parameters' roles read from its signature."""
    signature = list(inspect.signature(cls).parameters.values())
    variadic = any(p.kind is p.VAR_POSITIONAL for p in signature)
    hints = _annotations(cls) if any(isinstance(p.annotation, str) for p in signature) else {}
    parameters = tuple(_parameter(p, hints) for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    path = f"{cls.__module__}.{cls.__qualname__}"
    stated = getattr(cls, "__netbuild__", {})
    parameters = tuple(replace(p, role=stated.get("roles", {}).get(p.name, p.role)) for p in parameters)
    task = stated.get("task") or getattr(cls, "task", None)
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return Factory(name, cls, parameters, foreign, path, variadic, task, "" if foreign else file)


def _annotations(cls: type[nn.Module]) -> dict[str, Any]:
    # With `from __future__ import annotations` they are texts: read them where they resolve.
    try:
        return get_type_hints(cls.__init__, include_extras=True)
    except Exception:  # a name that only a type checker sees
        return {}


def _parameter(p: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
    annotation, role = p.annotation, NAMES.get(p.name, Plain)
    if isinstance(annotation, str):
        annotation = hints.get(p.name, inspect.Parameter.empty)
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        role = next((extra for extra in extras if isinstance(extra, Role)), role)
    types = _types(annotation)
    return Parameter(p.name, role, types, p.default, list in types and int not in types)


def _types(annotation: Any) -> tuple[type, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return tuple(t for option in get_args(annotation) for t in _types(option))
    base = get_origin(annotation) or annotation
    return (base,) if inspect.isclass(base) and base is not inspect.Parameter.empty else ()


def instantiate(call: Call) -> nn.Module:
    """The module that an argument such as ``nn.LeakyReLU(0.1)`` stands for.

    Raises:
        NetbuildError: (without a place) if the name is no layer or does not take these arguments.
    """
    made = factory(call.name)
    try:
        return made.make(*call.args, **dict(call.kwargs))
    except Exception as error:  # whatever a constructor raises
        text = shorten(str(error) or type(error).__name__, 300)
        raise NetbuildError(f"{call}: {text}", hint=f"it takes {made.signature()}") from None


def activation(value: Any) -> nn.Module:
    """An activation from its name (relu, Leaky ReLU, ...) or a call such as ``nn.ReLU()``.

    Raises:
        NetbuildError: (without a place) if it is neither.
    """
    if isinstance(value, Call):
        return instantiate(value)
    module = activation_by_name(value) if isinstance(value, str) else None
    if module is None and isinstance(value, str) and value.removeprefix("torch.").startswith("nn."):
        if value.count("(") != value.count(")"):
            raise NetbuildError(
                f"'{value}' is cut off", hint="put a call with a comma in quotes: in a row a comma ends a value"
            )
        return instantiate(Call(value))
    if module is None:
        hint = "" if "(" in str(value) else did_you_mean(str(value), ACTIVATIONS)
        hint = hint or f"known: {', '.join(ACTIVATIONS)}, or a call such as nn.ReLU()"
        raise NetbuildError(f"unknown activation {value!r}", hint=hint)
    return module
