"""What may stand in a row: signatures with roles, one line each, papers; and one module explained with an example."""

import fnmatch
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from netbuild import registry
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph import Graph, Options, resolve
from netbuild.registry import Factory
from netbuild.roles import SUPPLIED, Role
from netbuild.shapes import parameter_count
from netbuild.spec import read

_PAPER = re.compile(r"arXiv \d{4}\.\d{4,5}")
_EXAMPLES: dict[str, Any] = {
    "k": 3, "s": 2, "c1": 64, "c2": 64, "c3": 32, "c4": 32, "cm": 32, "c2s": [32, 32], "idx": [0, 0], "num_heads": 4,
    "kernel_size": 3, "begin": 0, "end": 32,
    "dims": [0, 2, 3, 1], "factor": 0.1, "shape": [64, 1, 1], "p": 0.1, "features": 32,
}  # fmt: skip
_CHANNELS = 64  # of the example's source


@dataclass(frozen=True)
class Entry:
    """A module as the catalogue shows it."""

    name: str
    signature: str
    roles: dict[str, str]
    doc: str
    paper: str

    def to_dict(self) -> dict[str, Any]:
        """As data."""
        return asdict(self)


def entries(pattern: str | None = None, own: Mapping[str, Factory] | None = None) -> list[Entry]:
    """The modules whose name matches a pattern with * and ?, or holds it; without one the packaged and own ones.

    A pattern that begins with ``nn.`` looks among torch's layers.
    """
    names = [*(own or {}), *sorted(registry.names(), key=str.lower)]
    if pattern and pattern.startswith("nn."):
        names = registry.torch_names()
    wanted = [
        n for n in names if not pattern or fnmatch.fnmatch(n.lower(), pattern.lower()) or pattern.lower() in n.lower()
    ]
    return [entry(registry.find(name, own or {}), name) for name in wanted]


def entry(factory: Factory, name: str) -> Entry:
    """The catalogue's line on a module."""
    doc = inspect.cleandoc(factory.make.__doc__ or "") or str(getattr(factory.make, "__netbuild__", {}).get("doc", ""))
    first = doc.split("\n\n")[0].replace("\n", " ")
    roles = {p.name: p.role.value for p in factory.parameters if p.role is not Role.PLAIN}
    marks = {p.name: f"<{p.name}>" for p in factory.parameters if p.role in SUPPLIED and not factory.foreign}
    found = _PAPER.search(doc)
    return Entry(name, factory.call_text(marks), roles, first, found.group() if found else "")


def example(name: str, factory: Factory) -> str:
    """A row of the module with plausible arguments."""
    values = []
    for p in factory.parameters:
        if p.role in SUPPLIED and not factory.foreign:
            continue
        if not p.required:
            break
        values.append(
            _CHANNELS if p.role in (Role.WIDTH, Role.IN) else _EXAMPLES.get(p.name, "nc" if p.name == "nc" else 1)
        )
    sources = "[-1]" if any(p.role is Role.IN and p.wants_list for p in factory.parameters) else "-1"
    return f"[{sources}, 1, {name}, [{', '.join(map(str, values))}]]"


def sample(name: str, factory: Factory, own: Mapping[str, Factory]) -> Graph | None:
    """The example row resolved on a map of 64 channels; None where a module wants other inputs."""
    text = f"nc: 80\nch: {_CHANNELS}\nlayers:\n  - [-1, 1, nn.Identity, []]\n  - {example(name, factory)}\n"
    for attempt in (text, text.replace("[-1, 1, " + name, "[[0, input], 1, " + name)):
        try:
            return resolve(read(attempt, Path("example.yaml")), Options(imgsz=(32, 32), modules=own))
        except NetbuildError:
            continue
    return None


def explain(name: str, own: Mapping[str, Factory] | None = None) -> dict[str, Any]:
    """All there is to say about a module: its catalogue entry, an example row, what that row costs, its inner modules.

    Raises:
        NetbuildError: for an unknown name, with the nearest known ones.
    """
    try:
        factory = registry.find(name, own or {})
    except NetbuildError as error:
        near = did_you_mean(name, [*(own or {}), *registry.names()])
        raise NetbuildError(error.message, hint=near or error.hint) from None
    graph = sample(name, factory, own or {})
    data = {
        **entry(factory, name).to_dict(),
        "path": factory.path,
        "task": factory.task,
        "example": example(name, factory),
    }
    if graph is None:
        return {**data, "sample": None, "inner": []}
    layer = graph.layers[-1]
    cost = {
        "in_shapes": layer.in_shapes,
        "out_shape": layer.out_shape,
        "params": layer.params,
        "macs": layer.tally.macs,
    }
    return {**data, "sample": cost, "inner": list(_inner(layer.module))}


def _inner(module: nn.Module, prefix: str = "", level: int = 0) -> Iterator[dict[str, Any]]:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        yield {"path": path, "module": type(child).__name__, "params": parameter_count(child), "level": level}
        if level < 1:
            yield from _inner(child, path, level + 1)
