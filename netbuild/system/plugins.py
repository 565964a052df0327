"""Registries of plug-in classes: built in, registered by a decorator, or from entry points of installed packages."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Generic, TypeVar

from netbuild.errors import NetbuildError, did_you_mean, shorten

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])
_REGISTERED: dict[tuple[str, str], type] = {}  # (kind, name) to the class registered in this process
# Every registration, without repetitions: (registry, name, class).
_HISTORY: "list[tuple[Registry[Any], str, type[Any]]]" = []


@cache
def entry_points(group: str) -> Sequence[Any]:
    """Return the entry points of a group; cached, because a search reads a file of every installed package."""
    from importlib import metadata

    return tuple(metadata.entry_points(group=group))


def registered_class(kind: str, name: str) -> type | None:
    """Return the class that was registered under a name in this process, None if there is none."""
    return _REGISTERED.get((kind, name))


def register_again(module: str) -> bool:
    """Register again the classes that a Python module, or a module inside it, registered; return whether there are any.

    A module is imported once, but other code may have registered its names since, such as the code in a checkpoint.
    """
    entries = [entry for entry in _HISTORY if f"{entry[2].__module__}.".startswith(f"{module}.")]
    for registry, name, cls in entries:
        registry.register(name, cls)
    return bool(entries)


class Registry(Generic[T]):
    """The classes of one kind of plug-in, by name.

    A name is looked up among the registered classes, then the built-in ones, then the entry points of the group
    ``netbuild.<kind>s``, where a package offers ``name = "module:Class"``.

    Args:
        kind: the noun for one of them in messages, such as module, task or target.
        base: "module:Class" of their common base class.
        built_in: "module:Class" by name; a class's module is imported when it is first looked up.
    """

    def __init__(self, kind: str, base: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.base, self.built_in = kind, base, built_in
        self.registered: dict[str, type[T]] = {}

    @property
    def group(self) -> str:
        """The entry-point group: ``netbuild.`` and the plural of the kind."""
        return f"netbuild.{self.kind}{'es' if self.kind.endswith('s') else 's'}"

    def register(self, name: str, cls: type[T]) -> None:
        """Register a class under a name; it replaces a built-in class of that name."""
        self.registered[name] = cls
        _REGISTERED[self.kind, name] = cls
        if (self, name, cls) not in _HISTORY:
            _HISTORY.append((self, name, cls))

    def decorate(self, cls: C) -> C:
        """Class decorator: register a class under its attribute ``name``.

        Raises:
            NetbuildError: if it has no name, or another base class.
        """
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name:
            raise NetbuildError(f"the {self.kind} {cls.__name__} has no name", hint='give the class a name = "..."')
        if not issubclass(cls, _import_object(self.base)):
            raise NetbuildError(f"the {self.kind} {cls.__name__} is no subclass of {self.base.replace(':', '.')}")
        self.register(name, cls)
        return cls

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted({*self.registered, *self.built_in, *(point.name for point in entry_points(self.group))})

    def find(self, name: str) -> type[T] | None:
        """Return the class of a name, None if there is none.

        Raises:
            NetbuildError: if it is an installed package's, and cannot be imported or has another base class.
        """
        if name in self.registered:
            return self.registered[name]
        if name in self.built_in:
            return _import_object(self.built_in[name])
        for point in entry_points(self.group):
            if point.name == name:
                return self._load(point)
        return None

    def get(self, name: str) -> type[T]:
        """Return the class of a name.

        Raises:
            NetbuildError: if there is none, with a similar name as a hint; also for the reasons of `find`.
        """
        found = self.find(name)
        if found is None:
            known = self.names()
            raise NetbuildError(
                f"no {self.kind} '{name}'; there are {', '.join(known)}", hint=did_you_mean(name, known)
            )
        return found

    def _load(self, point: Any) -> type[T]:
        label = f"the {self.kind} '{point.name}' = {point.value}"
        try:
            cls = point.load()
        except Exception as error:  # the package's code may raise anything
            text = shorten(str(error) or type(error).__name__)
            raise NetbuildError(f"{label} does not load: {text}") from None
        if not isinstance(cls, type) or not issubclass(cls, _import_object(self.base)):
            raise NetbuildError(f"{label} is no subclass of {self.base.replace(':', '.')}")
        return cls


def _import_object(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def lazy_attributes(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for a package whose public names are imported when they are first used.

    Args:
        package: ``__name__`` of the package.
        homes: public name to the module that defines it, without ``netbuild.``. Where a subpackage has that name, the
            name stands for the subpackage.
    """

    def get_attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home = import_module(f"netbuild.{homes[name]}")
        # Importing a subpackage sets it as an attribute of this package. Later uses give that, and so must the first.
        return vars(sys.modules[package]).get(name) or getattr(home, name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get_attribute, list_names
