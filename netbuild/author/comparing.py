"""Compares modules: by family, by what each costs on a map, and by how similar their operators are."""

import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from netbuild.author.catalogue import find_entries, make_example_row
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar.spec import read_spec
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.layers import pack
from netbuild.modules import registry
from netbuild.modules.factory import Factory
from netbuild.system.tables import Table

# Families of the modules that are not in the pack, by the file of `netbuild.layers` that they are in.
_CORE = {
    "attention": "transformer", "transformer": "transformer", "window": "transformer", "text": "text",
    "conv": "convolution", "csp": "block", "cib": "block", "hgnet": "block", "resnet": "block", "merge": "fusion",
    "pool": "pooling and pyramids", "legacy": "pooling and pyramids", "classic": "classic", "vision": "vision",
    "heads": "head",
}  # fmt: skip
_CORE_NAMES = {
    "CBAM": "mixed attention", "ChannelAttention": "channel attention", "SpatialAttention": "spatial attention",
}  # fmt: skip
OTHER = "other"  # the family of custom modules, and of builders of other packages
RUNS = 5  # whose fastest is the latency: other programs on the machine can only make a run slower
LEAST = 3  # letters of a family's name that are enough to choose it


def find_family(name: str, factory: Factory) -> str:
    """Return the family of a module, such as ``channel attention``."""
    if name in _CORE_NAMES:
        return _CORE_NAMES[name]
    for family in pack.FAMILIES:
        if name in pack.list_names(family):
            return family
    match = re.match(r"netbuild\.layers\.(\w+)", factory.path)
    return _CORE.get(match.group(1), OTHER) if match else OTHER


def list_families() -> list[str]:
    """List the names of all families."""
    return list(dict.fromkeys([*pack.FAMILIES, *_CORE.values(), OTHER]))


def choose_families(text: str) -> list[str]:
    """Return the families whose names contain a text: ``attention`` stands for three.

    Raises:
        NetbuildError: if there is none.
    """
    found = [family for family in list_families() if text.lower() in family and len(text) >= LEAST]
    if not found:
        hint = did_you_mean(text, list_families()) or f"families: {', '.join(list_families())}"
        raise NetbuildError(f"no family of modules is named '{text}'", hint=hint)
    return found


def find_names(pattern: str | None, family: str | None, custom: Mapping[str, Factory]) -> list[str]:
    """Return the names of the modules that match a pattern, and belong to a family.

    Raises:
        NetbuildError: for an unknown family.
    """
    names = [entry.name for entry in find_entries(pattern, custom)]
    if family is None:
        return names
    families = choose_families(family)
    return [name for name in names if find_family(name, registry.find_factory(name, custom)) in families]


@dataclass(frozen=True)
class ModuleCost:
    """What a module costs on a map.

    Attributes:
        name: of the module.
        family: of the module.
        row: the row that was measured.
        out_shape: of its output, [1, C, H, W]; None if the module cannot read such a map.
        params: number of parameters.
        flops: two for each multiply-add of convolutions and matrix products.
        peak_bytes: largest size of the maps that are alive at once at inference, in float32.
        field: height and width of the receptive field in cells of the map; None: all of it, or not known.
        milliseconds: time of the fastest of a few runs on the CPU, batch 1; None if it was not measured.
        problem: why the module cannot read the map.
    """

    name: str
    family: str
    row: str
    out_shape: Any = None
    params: int = 0
    flops: int = 0
    peak_bytes: int = 0
    field: tuple[int, int] | None = None
    milliseconds: float | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as data."""
        return asdict(self)


def parse_map_shape(text: str) -> tuple[int, int, int]:
    """Return channels, height and width of a text such as ``256x40x40``.

    Raises:
        NetbuildError: for another text.
    """
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})[xX×](\d{1,5})", text.strip())
    if not match or not all(int(side) for side in match.groups()):
        raise NetbuildError(f"--cost {text}: not a map", hint="write channels x height x width, such as 256x40x40")
    channels, height, width = map(int, match.groups())
    return channels, height, width


def measure_costs(
    names: Iterable[str], shape: tuple[int, int, int], custom: Mapping[str, Factory], latency: bool = True
) -> Iterator[ModuleCost]:
    """Measure modules on a map, in order; widths are those of the map.

    Args:
        names: names of modules.
        shape: channels, height and width of the map, of every source.
        custom: custom modules by name.
        latency: whether to measure the time of a run, too.
    """
    for name in names:
        factory = registry.find_factory(name, custom)
        family = find_family(name, factory)
        try:
            row, graph = _resolve_on(name, factory, shape, custom)
        except NetbuildError as error:
            problem = shorten(error.message.split(": ", 1)[-1].splitlines()[0], 100)
            yield ModuleCost(name, family, make_example_row(name, factory, shape[0], shape[0]), problem=problem)
            continue
        layer = graph.layers[-1]
        yield ModuleCost(
            name, family, row, layer.out_shape, layer.params, layer.tally.flops("torch"), graph.peak_bytes,
            layer.field.size if layer.field and layer.field.known else None,
            _measure_latency(graph, shape) if latency else None,
        )  # fmt: skip


def _resolve_on(
    name: str, factory: Factory, shape: tuple[int, int, int], custom: Mapping[str, Factory]
) -> tuple[str, Graph]:
    """Resolve a module on as many maps as it needs, at most four; return its row too.

    Raises:
        NetbuildError: the first error, if it cannot read any number of such maps.
    """
    if len(pack.EXAMPLES.get(name, ("", ()))[1]) > 1:
        raise NetbuildError("it reads maps of several sizes")
    channels = shape[0]
    first: NetbuildError | None = None
    for sources in (2, 3, 4) if name in pack.list_names("fusion") else (1, 2, 3, 4):
        row = make_example_row(name, factory, channels, channels, sources=sources)
        text = f"nc: 80\ninputs: {{x: {list(shape)}}}\nlayers:\n  - {row.replace('-1', 'x')}\n"
        try:
            return row, resolve(read_spec(text, Path("row.yaml")), Options(modules=custom))
        except NetbuildError as error:
            first = first or error
    raise first or NetbuildError("no row")


def _measure_latency(graph: Graph, shape: tuple[int, int, int]) -> float:
    """Return the time of the fastest of `RUNS` runs in milliseconds, after one that is not counted."""
    network, image, times = graph.build().eval(), torch.rand(1, *shape), []
    with torch.no_grad():
        for _ in range(RUNS + 1):
            start = time.perf_counter()
            network(image)
            times.append(1000 * (time.perf_counter() - start))
    return round(min(times[1:]), 3)


HEADINGS = ["module", "family", "output", "params", "MFLOPs", "peak MB", "field", "ms"]


def as_table(costs: Iterable[ModuleCost]) -> Table:
    """Return the costs as a table for a terminal, the cheapest first; modules that cannot read the map come last."""
    ordered = sorted(costs, key=lambda cost: (bool(cost.problem), cost.flops, cost.params))
    left = [HEADINGS.index(name) for name in ("module", "family", "output")]
    return Table([HEADINGS, *map(_cells, ordered)], left, [(HEADINGS.index("family"), 0)])


def _cells(cost: ModuleCost) -> list[str]:
    if cost.problem:
        return [cost.name, cost.family, cost.problem, "", "", "", "", ""]
    field = "all" if cost.field is None else "x".join(map(str, cost.field))
    time_text = "" if cost.milliseconds is None else f"{cost.milliseconds:.2f}"
    numbers = [f"{cost.params:,}", f"{cost.flops / 1e6:.4g}", f"{cost.peak_bytes / 1e6:.3g}", field, time_text]
    return [cost.name, cost.family, str(cost.out_shape), *numbers]


@dataclass(frozen=True)
class Similar:
    """A module that is similar to another: its name, its family, and the likeness of their operators from 0 to 1."""

    name: str
    family: str
    likeness: float
    doc: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as data."""
        return asdict(self)


def find_similar(name: str, custom: Mapping[str, Factory], count: int = 10) -> Iterator[Similar | None]:
    """Yield the modules that are most similar to one, the most similar first, after None for each that was compared.

    Half of the likeness is the family, the other half the cosine of how often operators run on a map of 64 channels.

    Raises:
        NetbuildError: for an unknown module, or one that cannot read such a map.
    """
    wanted = registry.find_factory(name, custom)
    profile, family = _count_operators(name, wanted, custom), find_family(name, wanted)
    if profile is None:
        raise NetbuildError(f"{name} reads no map of 64 channels, by which modules are compared")
    found = []
    for entry in find_entries(None, custom):
        yield None
        factory = registry.find_factory(entry.name, custom)
        other = None if entry.name == name else _count_operators(entry.name, factory, custom)
        if other is not None:
            home = find_family(entry.name, factory)
            likeness = (_cosine(profile, other) + _compare_families(family, home)) / 2
            found.append(Similar(entry.name, home, round(likeness, 3), entry.doc))
    yield from sorted(found, key=lambda one: -one.likeness)[:count]


def _compare_families(a: str, b: str) -> float:
    """Return 1 for the same family, a half for kinds of one thing such as channel and spatial attention, else 0."""
    return 1.0 if a == b else 0.5 if a.split()[-1] == b.split()[-1] else 0.0


def _count_operators(name: str, factory: Factory, custom: Mapping[str, Factory]) -> Counter[str] | None:
    try:
        layer = _resolve_on(name, factory, (64, 16, 16), custom)[1].layers[-1]
    except NetbuildError:
        return None
    return Counter(operator.name for operator in layer.tally.operators)


def _cosine(a: Counter[str], b: Counter[str]) -> float:
    """Return the cosine of two counts, whose logarithms are compared: a block of ten layers is like one of three."""
    left, right = ({key: math.log1p(n) for key, n in counts.items()} for counts in (a, b))
    norm = math.hypot(*left.values()) * math.hypot(*right.values())
    return sum(value * right.get(key, 0.0) for key, value in left.items()) / norm if norm else float(a == b)
