"""A `Factory` builds a module; the roles of its parameters are read from the constructor's signature."""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from torch import nn

from netbuild.layers.heads.base import check_head_class
from netbuild.roles import ROLE_BY_NAME, In, Plain, Role

# Names of parameters that may be the input channels, but could be something else as well.
_CHANNEL_NAME = re.compile(
    r"c|n?in|c_?in|ch.*|.*_ch|.*chan.*|.*dim.*|in_.*|input.*|.*planes.*|.*features|d_model|filters"
)


@dataclass(frozen=True)
class Parameter:
    """A constructor parameter."""

    name: str
    role: Role
    types: tuple[type, ...]  # accepted types; empty where the annotation does not say
    default: Any  # ``inspect.Parameter.empty`` where there is none
    takes_list: bool  # whether it takes a list, with one value for each source

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    @property
    def text(self) -> str:
        """The parameter as a signature shows it: its name, with its default if there is one."""
        default = self.default.__name__ if inspect.isroutine(self.default) else repr(self.default)
        return self.name if self.required else f"{self.name}={default}"


@dataclass(frozen=True)
class Factory:
    """A callable that builds a module, with the roles of its parameters."""

    name: str  # as rows write it
    make: Callable[..., nn.Module]
    parameters: tuple[Parameter, ...]
    foreign: bool = False  # of torch or another package: positional arguments are the full signature, unscaled
    path: str = ""  # dotted path of the class or function
    has_varargs: bool = False  # takes ``*args``
    takes_any_keyword: bool = False  # passes keyword arguments on that are not among its parameters
    task: str | None = None  # of a head, such as ``detect``
    file: str = ""  # source file; empty for modules of other packages

    @cached_property
    def takes_text(self) -> bool:
        """Whether its forward has a parameter ``text``: features (B, K, width), which the row's last source gives."""
        forward = getattr(self.make, "forward", None)
        return forward is not None and "text" in inspect.signature(forward).parameters

    @property
    def is_custom(self) -> bool:
        """Whether it is a module class of the user's, not one of netbuild, torch or a known package."""
        return bool(self.file) and not self.path.startswith("netbuild.")

    @property
    def is_pack(self) -> bool:
        """Whether it is a module class of `netbuild.layers.pack`, whose rows come from many forks."""
        return self.path.startswith("netbuild.layers.pack.")

    @property
    def input_hint(self) -> str:
        """How to have the input channels supplied, where a custom module has no parameter that is known for them."""
        plain = [p for p in self.parameters if p.role is Plain and (not p.types or int in p.types)]
        likely = [p for p in plain if _CHANNEL_NAME.fullmatch(p.name.lower())]
        candidates = likely or [p for p in plain if p.required]
        if not self.is_custom or self.takes(In) or not candidates:
            return ""
        name = candidates[0].name
        return f"if '{name}' is the input channels, call it c1, or annotate it Annotated[int, In]: netbuild supplies it"

    def takes(self, role: Role) -> bool:
        """Whether any parameter has the role."""
        return any(p.role is role for p in self.parameters)

    def signature(self, supplied: Mapping[str, Any] | None = None) -> str:
        """Return the call with its parameters and defaults; those in ``supplied`` show their value and are marked."""
        marks = {name: f"{name}={value} (supplied)" for name, value in (supplied or {}).items()}
        return self.format_call(marks)

    def format_call(self, marks: Mapping[str, str]) -> str:
        """Return the call as text; a parameter in ``marks`` shows that text instead of its name and default."""
        hidden = (Role.SIZE, Role.STRIDE, Role.SETTING)
        shown = [p for p in self.parameters if p.role not in hidden and p.name not in ("device", "dtype")]
        parts = [marks.get(p.name, p.text) for p in shown]
        return f"{self.name}({', '.join([*parts, *(['...'] if self.has_varargs else [])])})"


def from_class(name: str, cls: type[nn.Module], foreign: bool) -> Factory:
    """Make the factory of a module class.

    Args:
        name: the name that rows use.
        cls: the class; roles come from `netbuild.module`, from ``Annotated`` types, or from parameter names.
        foreign: whether it belongs to torch or another package.

    Raises:
        NetbuildError: if the class is a head that lacks what its task needs.
    """
    signature = list(inspect.signature(cls).parameters.values())
    # torch's Identity takes any arguments and ignores them: a value there is a mistake.
    has_varargs = any(p.kind is p.VAR_POSITIONAL for p in signature) and cls is not nn.Identity
    hints = _resolve_annotations(cls) if any(isinstance(p.annotation, str) for p in signature) else {}
    parameters = tuple(_parameter(p, hints) for p in signature if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    path = f"{cls.__module__}.{cls.__qualname__}"
    declared = getattr(cls, "__netbuild__", {})  # by the decorator `netbuild.module`
    parameters = tuple(replace(p, role=declared.get("roles", {}).get(p.name, p.role)) for p in parameters)
    task = declared.get("task") or getattr(cls, "task", None)
    if task and not foreign:
        check_head_class(cls, task)
    file = getattr(sys.modules.get(cls.__module__), "__file__", None) or ""
    return Factory(name, cls, parameters, foreign, path, has_varargs, task=task, file="" if foreign else file)


def _resolve_annotations(cls: type[nn.Module]) -> dict[str, Any]:
    """Evaluate annotations that are strings, as `from __future__ import annotations` makes them all."""
    try:
        return get_type_hints(cls.__init__, include_extras=True)
    except Exception:  # a name that is imported only for type checkers
        return {}


def _parameter(p: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter:
    annotation, role = p.annotation, ROLE_BY_NAME.get(p.name, Plain)
    if isinstance(annotation, str):
        annotation = hints.get(p.name, inspect.Parameter.empty)
    if get_origin(annotation) is Annotated:
        annotation, *extras = get_args(annotation)
        role = next((extra for extra in extras if isinstance(extra, Role)), role)
    types = _types(annotation)
    # A parameter that also takes an int gets a list only where there are several sources.
    return Parameter(p.name, role, types, p.default, list in types and int not in types)


def _types(annotation: Any) -> tuple[type, ...]:
    """List the classes that an annotation allows; empty if there is none that `isinstance` could check."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(t for option in get_args(annotation) for t in _types(option))
    base = get_origin(annotation) or annotation
    return (base,) if inspect.isclass(base) and base is not inspect.Parameter.empty else ()
