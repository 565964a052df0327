"""Inert objects that represent the classes and instances in a pickle, the errors, and the memory budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class MalformedError(Exception):
    """A pickle or archive is damaged; the message is a sentence about "it", without file and position."""


class UnsupportedError(MalformedError):
    """A valid file contains something that this reader does not support; the message names it."""


@dataclass(eq=False, slots=True, repr=False)
class Named:
    """A class or function that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    __repr__ = __str__


@dataclass(eq=False, slots=True, repr=False)
class Stub:
    """An object of a class that is not imported, as the pickle describes it.

    Args:
        kind: the class, ``module.name``; with ``()`` after it, the result of calling such an object.
        args, kwargs: the arguments that it was constructed with.
        state: the argument of BUILD: usually a dict of attributes, or a pair of dicts if the class has slots.
        items: the items, if the class is a subclass of dict.
        elements: the elements, if the class is a subclass of list or set.
    """

    kind: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute from the state, or the default if there is none of that name."""
        for part in self.state if isinstance(self.state, tuple) else (self.state,):
            if isinstance(part, dict) and name in part:
                return part[name]
        return default

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Pending:
    """Base class of objects that are built in two steps: created empty, then filled by the opcode BUILD."""

    def build(self, state: Any) -> None:
        """Take the state; raise `MalformedError` if it is not understood."""
        raise NotImplementedError


class Budget:
    """The number of bytes that decoding a file may still allocate."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def spend(self, size: int) -> None:
        """Count an allocation before it is made; raise `MalformedError` if the budget is exceeded."""
        self.left -= size
        if self.left < 0:
            raise MalformedError("it creates more objects than a checkpoint has")
