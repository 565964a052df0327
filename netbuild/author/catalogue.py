"""The catalogue of modules for rows: signature, roles, summary and paper of each; explains one with an example."""

import fnmatch
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from netbuild.author.formula import fit_formula
from netbuild.costs.outputs import parameter_count
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.spec import Spec, read_spec
from netbuild.graph.block_factory import make_block_factory
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.layers import pack
from netbuild.modules import registry
from netbuild.modules.factory import Factory
from netbuild.roles import SUPPLIED, Role

_PAPER = re.compile(r"arXiv \d{4}\.\d{4,5}|doi 10\.\d{4,9}/[\w.()/-]*\w")
_EXAMPLES: dict[str, Any] = {
    "k": 3, "s": 2, "c1": 64, "c2": 64, "c3": 32, "c4": 32, "cm": 32, "c2s": [32, 32], "idx": [0, 0], "num_heads": 4,
    "kernel_size": 3, "begin": 0, "end": 32, "model": "resnet18", "model_name": "resnet18",
    "dims": [0, 2, 3, 1], "factor": 0.1, "shape": [64, 1, 1], "p": 0.1, "features": 32,
}  # fmt: skip
_CHANNELS = 64  # input and output channels of an example


@dataclass(frozen=True)
class Entry:
    """A module's entry in the catalogue."""

    name: str
    signature: str
    roles: dict[str, str]
    doc: str
    paper: str

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as data."""
        return asdict(self)


def find_entries(pattern: str | None = None, custom: Mapping[str, Factory] | None = None) -> list[Entry]:
    """Return the entries of packaged and custom modules whose name matches a pattern with * and ?, or contains it.

    A pattern that begins with ``nn.`` searches torch's layers. Without a pattern all packaged and custom modules are
    returned.
    """
    names = [*(custom or {}), *sorted(registry.packaged_names(), key=str.lower)]
    if pattern and pattern.startswith("nn."):
        names = registry.torch_names()
    wanted = [
        n for n in names if not pattern or fnmatch.fnmatch(n.lower(), pattern.lower()) or pattern.lower() in n.lower()
    ]
    return [make_entry(registry.find_factory(name, custom or {}), name) for name in wanted]


def make_entry(factory: Factory, name: str) -> Entry:
    """Return the catalogue's entry of a module."""
    doc = inspect.cleandoc(factory.make.__doc__ or "") or str(getattr(factory.make, "__netbuild__", {}).get("doc", ""))
    first = doc.split("\n\n")[0].replace("\n", " ")
    roles = {p.name: p.role.value for p in factory.parameters if p.role is not Role.PLAIN}
    marks = {p.name: f"<{p.name}>" for p in factory.parameters if p.role in SUPPLIED and not factory.foreign}
    found = _PAPER.search(doc)
    return Entry(name, factory.format_call(marks), roles, first, found.group() if found else "")


def make_example_row(
    name: str, factory: Factory, c1: int = _CHANNELS, c2: int = _CHANNELS, n: int = 1, sources: int = 0
) -> str:
    """Return a YAML row of the module with plausible values for its required arguments.

    Args:
        name, factory: the module.
        c1, c2, n: input channels, output channels and repeats.
        sources: number of maps that the row reads; 0 for what the module is known to need.
    """
    if name in pack.EXAMPLES:
        arguments, shapes = pack.EXAMPLES[name]
        origins = ", ".join(["-1", "p4", "p3"][: len(shapes)])
        return f"[{f'[{origins}]' if len(shapes) > 1 else origins}, {n}, {name}, [{arguments}]]"
    values = []
    for p in factory.parameters:
        if p.role in SUPPLIED and not factory.foreign:
            continue
        if not p.required:
            break
        channels = {Role.WIDTH: c2, Role.IN: c1}
        values.append(channels.get(p.role, _EXAMPLES.get(p.name, "nc" if p.name == "nc" else 1)))
    # A head with auxiliary branches needs a map for each branch.
    several = ", ".join(["-1"] * (sources or getattr(factory.make, "branches", 1)))
    is_list = sources > 1 or any(p.role is Role.IN and p.takes_list for p in factory.parameters)
    origin = "[-1, text]" if factory.takes_text else f"[{several}]" if is_list else "-1"
    return f"[{origin}, {n}, {name}, [{', '.join(map(str, values))}]]"


def resolve_example(
    name: str,
    factory: Factory,
    custom: Mapping[str, Factory],
    c1: int = _CHANNELS,
    c2: int = _CHANNELS,
    n: int = 1,
    *,
    file: Spec | None = None,
) -> Graph | None:
    """Resolve the example row on a map of c1 channels, else on an image; None if the module needs other inputs.

    Args:
        name, factory: the module.
        custom: custom modules by name.
        c1, c2, n: input channels, output channels and repeats of the row.
        file: a network file whose blocks and parameters the row may use.
    """
    if name in pack.EXAMPLES and (c1, c2) == (_CHANNELS, _CHANNELS):
        return _resolve_pack_example(name)
    row = make_example_row(name, factory, c1, c2, n)
    several = [(c1, make_example_row(name, factory, c1, c2, n, sources)) for sources in (2, 3, 4)]
    # Most modules read a map; some read several, others need an image of 3 channels.
    tries = [(c1, row), (c1, row.replace("[-1, ", "[[0, input], ", 1)), (3, row)]
    for ch, line in [*several, *tries] if name in pack.list_names("fusion") else [*tries, *several]:
        inputs = "inputs: {image: [ch], text: [nc, 512]}\n" if factory.takes_text else ""
        text = f"nc: 80\nch: {ch}\n{inputs}layers:\n  - [-1, 1, nn.Identity, []]\n  - {line}\n"
        try:
            spec = read_spec(text, Path("example.yaml"))
            if file:
                spec = replace(
                    spec, blocks=file.blocks, params=file.params, settings={**file.settings, **spec.settings}
                )
            return resolve(spec, Options(imgsz=(32, 32), modules=custom))
        except NetbuildError:
            continue
    return None


def _resolve_pack_example(name: str) -> Graph:
    """Resolve the example of a module of the pack that needs particular sources, on an input for each."""
    arguments, shapes = pack.EXAMPLES[name]
    inputs = ", ".join(f"x{i}: {list(shape)}" for i, shape in enumerate(shapes))
    sources = ", ".join(f"x{i}" for i in range(len(shapes)))
    text = f"inputs: {{{inputs}}}\nlayers:\n  - [[{sources}], 1, {name}, [{arguments}]]\n"
    return resolve(read_spec(text, Path("example.yaml")), Options())


def fit_parameter_formula(name: str, factory: Factory, custom: Mapping[str, Factory]) -> str | None:
    """Return the parameter count as a formula in c1, c2 and n; None if it is no polynomial of these."""
    roles = {Role.IN: "c1", Role.WIDTH: "c2", Role.DEPTH: "n"}
    names = [roles[p.role] for p in factory.parameters if p.role in roles]

    def count(c1: int, c2: int, n: int) -> int:
        graph = resolve_example(name, factory, custom, c1, c2, n)
        if graph is None or graph.ch != c1:
            raise LookupError
        return graph.layers[-1].params

    # Some modules need as many output channels as input channels: their formula has c1 alone.
    without_c2 = [name for name in names if name != "c2"]
    for variables, counter in ((names, count), (without_c2, lambda c1, _, n: count(c1, c1, n))):
        try:
            return fit_formula(counter, variables) if "c1" in variables else None
        except LookupError:
            continue
    return None


def explain(name: str, custom: Mapping[str, Factory] | None = None, file: Spec | None = None) -> dict[str, Any]:
    """Explain a module: its catalogue entry, an example row, the costs of that row, and its submodules.

    Args:
        name: as rows have it.
        custom: custom modules by name.
        file: a network file, whose blocks are explained too.

    Raises:
        NetbuildError: for an unknown name, with the nearest known ones.
    """
    block = file.blocks.get(name) if file else None
    try:
        factory = make_block_factory(block, file) if block and file else registry.find_factory(name, custom or {})
    except NetbuildError as error:
        near = did_you_mean(name, [*(file.blocks if file else ()), *(custom or {}), *registry.packaged_names()])
        raise NetbuildError(error.message, hint=near or error.hint) from None
    graph = resolve_example(name, factory, custom or {}, file=file)
    several = len(graph.layers[-1].row.sources) if graph and factory.path.startswith("netbuild.layers.pack") else 0
    data = {
        **make_entry(factory, name).to_dict(),
        **({"doc": f"A block of {len(block.rows)} rows."} if block else {}),
        "path": str(block.node.where) if block else factory.path,
        "task": factory.task,
        "example": make_example_row(name, factory, sources=several),
    }
    if graph is None:
        return {**data, "sample": None, "inner": []}
    layer = graph.layers[-1]
    cost = {
        "in_shapes": layer.in_shapes,
        "out_shape": layer.out_shape,
        "params": layer.params,
        "macs": layer.tally.macs,
        "params_formula": None if block else fit_parameter_formula(name, factory, custom or {}),
    }
    return {**data, "sample": cost, "inner": list(_list_submodules(layer.module))}


def _list_submodules(module: nn.Module, prefix: str = "", level: int = 0) -> Iterator[dict[str, Any]]:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        yield {"path": path, "module": type(child).__name__, "params": parameter_count(child), "level": level}
        if level < 1:
            yield from _list_submodules(child, path, level + 1)
