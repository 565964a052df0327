"""Finds rows, and modules inside rows, by name or number; a view is a picture of one."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph.network import Network


@dataclass(frozen=True)
class View:
    """A picture of a part of a network.

    Args:
        row: the row's number; None for curves, which show the whole network.
        path: the path of the module inside the row, "" for the row itself.
        module: the module's name.
        kind: one of `netbuild.author.seeing.view.KINDS`; further outputs of a module have kinds such as maps-1.
        title: a line of text that describes the picture.
        png: the picture as the bytes of a PNG file.
    """

    row: int | None
    path: str
    module: str
    kind: str
    title: str
    png: bytes

    @property
    def name(self) -> str:
        """The name of the picture's file without its ending."""
        if self.row is None:
            return "activations"
        place = ".".join(filter(None, (f"{self.row:03d}", self.path)))
        return f"{place}-{self.module.rpartition('.')[2]}-{self.kind}"

    def facts(self) -> dict[str, Any]:
        """Return everything but the picture as JSON data."""
        return {"row": self.row, "path": self.path, "module": self.module, "kind": self.kind, "title": self.title}


@dataclass(frozen=True)
class Place:
    """A row, or a module inside a row; users write ``p3``, ``4``, ``-1`` or ``2.m.0.cv1``."""

    row: int
    path: str
    module: nn.Module
    label: str


def list_rows(network: Network) -> list[Place]:
    """Return all rows as places."""
    return [find_place(network, str(i)) for i in range(len(network.model))]


def find_place(network: Network, text: str) -> Place:
    """Find a row by number or name, or a module inside it by its path.

    Raises:
        NetbuildError: if it does not exist.
    """
    names = {name: i for i, (_, name) in enumerate(network.card.rows) if name}
    first, _, path = text.strip().removeprefix("model.").partition(".")
    count = len(network.model)
    if first in names:
        row = names[first]
    elif first.lstrip("-").isdecimal() and -count <= int(first) < count:
        row = int(first) % count
    else:
        message = f"--row {text}: there is no such row; the network has rows 0 to {count - 1}"
        raise NetbuildError(message, hint=did_you_mean(first, names))
    module = network.model[row]
    try:
        module = module.get_submodule(path)
    except AttributeError:
        inside = [name for name, _ in network.model[row].named_modules() if name]
        hint = did_you_mean(path, inside) or (f"it has {', '.join(inside[:8])}, ..." if inside else "it has none")
        raise NetbuildError(f"--row {text}: row {row} has no module '{path}'", hint=hint) from None
    label = network.card.rows[row][0] if not path else type(module).__name__
    return Place(row, path, module, str(label))
