"""What may stand in a row: signatures with roles, one line each, papers; and one module explained with an example."""

import fnmatch
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from netbuild.author.formula import formula
from netbuild.costs.outputs import parameter_count
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.spec import read
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import registry
from netbuild.modules.factory import Factory
from netbuild.roles import SUPPLIED, Role

_PAPER = re.compile(r"arXiv \d{4}\.\d{4,5}")
_EXAMPLES: dict[str, Any] = {
    "k": 3, "s": 2, "c1": 64, "c2": 64, "c3": 32, "c4": 32, "cm": 32, "c2s": [32, 32], "idx": [0, 0], "num_heads": 4,
    "kernel_size": 3, "begin": 0, "end": 32, "model": "resnet18", "model_name": "resnet18",
    "dims": [0, 2, 3, 1], "factor": 0.1, "shape": [64, 1, 1], "p": 0.1, "features": 32,
}  # fmt: skip
_CHANNELS = 64  # of the example's source, and of what it gives


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


def example(name: str, factory: Factory, c1: int = _CHANNELS, c2: int = _CHANNELS, n: int = 1) -> str:
    """A row of the module with plausible arguments."""
    values = []
    for p in factory.parameters:
        if p.role in SUPPLIED and not factory.foreign:
            continue
        if not p.required:
            break
        channels = {Role.WIDTH: c2, Role.IN: c1}
        values.append(channels.get(p.role, _EXAMPLES.get(p.name, "nc" if p.name == "nc" else 1)))
    sources = "[-1]" if any(p.role is Role.IN and p.wants_list for p in factory.parameters) else "-1"
    sources = "[-1, text]" if factory.takes_text else sources
    return f"[{sources}, {n}, {name}, [{', '.join(map(str, values))}]]"


def sample(
    name: str, factory: Factory, own: Mapping[str, Factory], c1: int = _CHANNELS, c2: int = _CHANNELS, n: int = 1
) -> Graph | None:
    """The example row resolved on a map of c1 channels, else on an image; None where a module wants other inputs."""
    row = example(name, factory, c1, c2, n)
    for ch, line in ((c1, row), (c1, row.replace("[-1, ", "[[0, input], ", 1)), (3, row)):
        inputs = "inputs: {image: [ch], text: [nc, 512]}\n" if factory.takes_text else ""
        text = f"nc: 80\nch: {ch}\n{inputs}layers:\n  - [-1, 1, nn.Identity, []]\n  - {line}\n"
        try:
            return resolve(read(text, Path("example.yaml")), Options(imgsz=(32, 32), modules=own))
        except NetbuildError:
            continue
    return None


def parameter_formula(name: str, factory: Factory, own: Mapping[str, Factory]) -> str | None:
    """The parameter count in c1, c2 and n, where it is one polynomial of them."""
    roles = {Role.IN: "c1", Role.WIDTH: "c2", Role.DEPTH: "n"}
    names = [roles[p.role] for p in factory.parameters if p.role in roles]

    def count(c1: int, c2: int, n: int) -> int:
        graph = sample(name, factory, own, c1, c2, n)
        if graph is None or graph.ch != c1:
            raise LookupError
        return graph.layers[-1].params

    # Some modules give as many channels as they take, and only so many.
    same = [part for part in names if part != "c2"]
    for wanted, counted in ((names, count), (same, lambda c1, _, n: count(c1, c1, n))):
        try:
            return formula(counted, wanted) if "c1" in wanted else None
        except LookupError:
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
        "params_formula": parameter_formula(name, factory, own or {}),
    }
    return {**data, "sample": cost, "inner": list(_inner(layer.module))}


def _inner(module: nn.Module, prefix: str = "", level: int = 0) -> Iterator[dict[str, Any]]:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        yield {"path": path, "module": type(child).__name__, "params": parameter_count(child), "level": level}
        if level < 1:
            yield from _inner(child, path, level + 1)
