"""What stands for the content of a foreign file: objects that hold what the file says and do nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class MalformedError(Exception):
    """What is wrong with a pickle or an archive, without the place."""


class UnsupportedError(MalformedError):
    """What a sound file has that is not read here."""


@dataclass(eq=False, slots=True, repr=False)
class Named:
    """A class or function that a file names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    __repr__ = __str__


@dataclass(eq=False, slots=True, repr=False)
class Stub:
    """An object as its file describes it: the name of its class, the arguments it was made with, its state and content.

    ``state`` is what the file gives: mostly a dict of attributes, or a pair of dicts where the class has slots.
    ``items`` and ``elements`` are the content of a class that is a kind of dict or list.
    """

    kind: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or the default where the file has none of that name."""
        for part in self.state if isinstance(self.state, tuple) else (self.state,):
            if isinstance(part, dict) and name in part:
                return part[name]
        return default

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Pending:
    """An object whose state comes later, by the file's BUILD."""

    def build(self, state: Any) -> None:
        """Take the state; raises `MalformedError` where it is none."""
        raise NotImplementedError


class Budget:
    """Bytes that a file may still cause to be allocated."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def spend(self, size: int) -> None:
        """Count an allocation before it is made; raises `MalformedError` when there have been too many."""
        self.left -= size
        if self.left < 0:
            raise MalformedError("it makes more objects than a checkpoint has")
