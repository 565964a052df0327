"""A row, or a module inside a row, found by its name or number."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph.network import Network


@dataclass(frozen=True)
class Sight:
    """A picture of a part of a network.

    Args:
        row: its number; None of the curves, which are of the whole network.
        path: of the module inside the row, "" for the row itself.
        module: its name.
        kind: one of `KINDS`.
        title: what is shown, in a line.
        png: the picture.
    """

    row: int | None
    path: str
    module: str
    kind: str
    title: str
    png: bytes

    @property
    def name(self) -> str:
        """A file's name without its ending."""
        if self.row is None:
            return "activations"
        place = ".".join(filter(None, (f"{self.row:03d}", self.path)))
        return f"{place}-{self.module.rpartition('.')[2]}-{self.kind}"

    def facts(self) -> dict[str, Any]:
        """Without the picture, as JSON data."""
        return {"row": self.row, "path": self.path, "module": self.module, "kind": self.kind, "title": self.title}


@dataclass(frozen=True)
class Place:
    """A row, or a module inside one, as the user names it: ``p3``, ``4``, ``-1``, ``2.m.0.cv1``."""

    row: int
    path: str
    module: nn.Module
    label: str


def all_rows(network: Network) -> list[Place]:
    """Every row as a place."""
    return [place_of(network, str(i)) for i in range(len(network.model))]


def place_of(network: Network, text: str) -> Place:
    """A row by number or name, or a module inside it by its path.

    Raises:
        NetbuildError: if there is none.
    """
    names = {name: i for i, (_, name) in enumerate(network.card.rows) if name}
    first, _, path = text.strip().removeprefix("model.").partition(".")
    count = len(network.model)
    if first in names:
        row = names[first]
    elif first.lstrip("-").isdecimal() and -count <= int(first) < count:
        row = int(first) % count
    else:
        said = f"--row {text}: there is no such row; the network has rows 0 to {count - 1}"
        raise NetbuildError(said, hint=did_you_mean(first, names))
    module = network.model[row]
    try:
        module = module.get_submodule(path)
    except AttributeError:
        inside = [name for name, _ in network.model[row].named_modules() if name]
        hint = did_you_mean(path, inside) or (f"it has {', '.join(inside[:8])}, ..." if inside else "it has none")
        raise NetbuildError(f"--row {text}: row {row} has no module '{path}'", hint=hint) from None
    called = network.card.rows[row][0] if not path else type(module).__name__
    return Place(row, path, module, str(called))
