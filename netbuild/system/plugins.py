"""Classes by name: built in, registered by a decorator, or offered by installed packages through entry points."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Generic, TypeVar

from netbuild.errors import NetbuildError, did_you_mean, shorten

T = TypeVar("T")
_REGISTERED: dict[tuple[str, str], type] = {}  # by kind and name: what decorators registered in this process


@cache
def entry_points(group: str) -> Sequence[Any]:
    """The entry points of a group. Cached, because finding them reads a file of every installed package."""
    from importlib import metadata

    return tuple(metadata.entry_points(group=group))


def registered_class(kind: str, name: str) -> type | None:
    """The class that a decorator registered under this name, None if there is none."""
    return _REGISTERED.get((kind, name))


def has_registered(module: str) -> bool:
    """Whether a Python module, or one inside this package, has registered a plug-in."""
    return any(f"{cls.__module__}.".startswith(f"{module}.") for cls in _REGISTERED.values())


class Registry(Generic[T]):
    """The classes of one kind of plug-in, by name.

    A name is looked up among the registered classes, then the built-in ones, then the entry points of the group
    ``netbuild.<kind>s``, where a package offers ``name = "module:Class"``.

    Args:
        kind: what messages call one of them: module, task or target.
        base: "module:Class" of the class that all derive from.
        built_in: "module:Class" by name; a module is imported when its class is asked for.
    """

    def __init__(self, kind: str, base: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.base, self.built_in = kind, base, built_in
        self.registered: dict[str, type[T]] = {}

    @property
    def group(self) -> str:
        """The entry-point group: ``netbuild.`` and the plural of the kind."""
        return f"netbuild.{self.kind}{'es' if self.kind.endswith('s') else 's'}"

    def register(self, name: str, cls: type[T]) -> None:
        """Offer a class under a name; it goes before a built-in one of that name."""
        self.registered[name] = cls
        _REGISTERED[self.kind, name] = cls

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self.registered, *self.built_in, *(point.name for point in entry_points(self.group))})

    def find(self, name: str) -> type[T] | None:
        """The class of a name, None if there is none.

        Raises:
            NetbuildError: if an installed package offers it and it cannot be imported, or has another base class.
        """
        if name in self.registered:
            return self.registered[name]
        if name in self.built_in:
            return _imported(self.built_in[name])
        for point in entry_points(self.group):
            if point.name == name:
                return self._loaded(point)
        return None

    def get(self, name: str) -> type[T]:
        """The class of a name.

        Raises:
            NetbuildError: if there is none, with the nearest name as a hint; see also `find`.
        """
        found = self.find(name)
        if found is None:
            known = self.names()
            raise NetbuildError(
                f"no {self.kind} '{name}'; there are {', '.join(known)}", hint=did_you_mean(name, known)
            )
        return found

    def _loaded(self, point: Any) -> type[T]:
        called = f"the {self.kind} '{point.name}' = {point.value}"
        try:
            cls = point.load()
        except Exception as error:  # the package's code may raise anything
            text = shorten(str(error) or type(error).__name__)
            raise NetbuildError(f"{called} does not load: {text}") from None
        if not isinstance(cls, type) or not issubclass(cls, _imported(self.base)):
            raise NetbuildError(f"{called} is no subclass of {self.base.replace(':', '.')}")
        return cls


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def lazy_attributes(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for a package's ``__init__``, whose public names are imported when first used.

    Args:
        package: ``__name__`` of the package.
        homes: for each public name the module that defines it, without ``netbuild.``; a subpackage of that very name
            is given itself.
    """

    def get_attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        home = import_module(f"netbuild.{homes[name]}")
        # Importing a subpackage makes it an attribute of this package: the first use must give the same as later ones.
        return vars(sys.modules[package]).get(name) or getattr(home, name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get_attribute, list_names
