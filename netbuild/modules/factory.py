"""What builds a module: a callable, and the roles of its parameters read from its signature."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from netbuild.layers.heads.base import check_head_class
from netbuild.roles import NAMES, Plain, Role


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
    open: bool = False  # takes further keywords
    task: str | None = None
    file: str = ""  # of an own module: where its code stands

    @cached_property
    def takes_text(self) -> bool:
        """Whether its forward has a parameter ``text``: features (B, K, width) that come from the row's last source."""
        forward = getattr(self.make, "forward", None)
        return forward is not None and "text" in inspect.signature(forward).parameters

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
    if task and not foreign:
        check_head_class(cls, task)
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return Factory(name, cls, parameters, foreign, path, variadic, task=task, file="" if foreign else file)


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
