"""Foreign checkpoints as networks of ours: the architecture from the file's own rows, every tensor checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.extends import to_yaml
from netbuild.grammar.keys import MAX_SIDE
from netbuild.grammar.locate import scaled_name
from netbuild.grammar.nodes import parse
from netbuild.grammar.spec import KNOWN_KEYS, read
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import builders
from netbuild.weights.building import Source, tensors_of
from netbuild.weights.matching import Match, match

_OWN = ("scale", "yaml_file", "channels", "text_model")  # what their builder notes beside a file's keys
_KEPT = ("epoch", "date", "version", "license", "task")


@dataclass(frozen=True)
class Imported:
    """A network with a foreign file's weights, what fitted, the classes' names, and what the file said of itself."""

    network: Network
    fit: Match
    names: list[str] | None
    said: dict[str, Any]


def import_weights(
    path: str | Path,
    *,
    model: str | Path | None = None,
    mapping: str | None = None,
    strict: bool = False,
    prefer: str = "ema",
    **options: Any,
) -> Imported:
    """Read a foreign checkpoint into a network of ours; no code of the file is run.

    Args:
        path: a file of torch.save (a whole model, or a state dict), or safetensors.
        model: the network's file; without it the file must tell its own rows, as Ultralytics' do.
        mapping: how tensors find their places, see `netbuild.weights.matching.match`.
        strict: refuse a file that does not fit whole.
        prefer: ``ema`` for averaged weights where there are some, ``model`` for the last.
        options: for the network's file, as for `netbuild.graph.opening.open_graph`.

    Raises:
        NetbuildError: if the file cannot be read, tells no network, or does not fit.
    """
    source = tensors_of(Path(path), prefer)
    graph = open_graph(model, **options) if model else graph_of(source)
    with builders.pretrained("skip"):
        network = graph.build()
    found = match(source.tensors, network.state_dict(), mapping)
    if strict or not found.tensors:
        found.require(path)
    network.load_state_dict(dict(found.tensors), strict=False)
    said = {key: source.facts[key] for key in _KEPT if key in source.facts}
    return Imported(
        network, found, class_names(source.facts.get("names")), {"imported": {"file": Path(path).name, **said}}
    )


def graph_of(source: Source) -> Graph:
    """The network that a foreign file tells of.

    Raises:
        NetbuildError: if it tells of none, or its rows do not resolve.
    """
    rows = source.facts.get("yaml")
    if not isinstance(rows, dict) or "backbone" not in rows:
        raise NetbuildError(
            f"{source.path}: it does not tell its network's rows", hint="name the network's file: --model"
        )
    scale = rows.get("scale") if isinstance(rows.get("scale"), str) else None
    file = PurePosixPath(str(rows.get("yaml_file") or source.path.name)).stem
    text = yaml_of(rows, source.facts)
    spec = read(text, Path(f"{_unscaled(file, scale)}.yaml"))
    return resolve(spec, Options(scale if spec.scales and scale in {s.name for s in spec.scales} else None))


def _unscaled(stem: str, scale: str | None) -> str:
    """The stem of the file with all scales: ``yolo11n-seg`` is ``yolo11-seg`` at scale n."""
    for i in range(1, len(stem) + 1):
        if scale and stem[i - 1 : i] == scale and scaled_name(stem[: i - 1] + stem[i:], scale) == stem:
            return stem[: i - 1] + stem[i:]
    return stem


def yaml_of(rows: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The rows of a foreign file as a network file of ours.

    Raises:
        NetbuildError: if they are no rows.
    """
    kept = {key: value for key, value in rows.items() if key not in _OWN and key in KNOWN_KEYS and value is not None}
    channels = rows.get("ch", rows.get("channels"))
    size = facts.get("imgsz")
    if type(channels) is int:
        kept["ch"] = channels
    if type(size) is int and 1 <= size <= MAX_SIDE:
        kept["imgsz"] = size
    try:
        return to_yaml(parse(json.dumps(kept), "the file's rows"))
    except (TypeError, ValueError) as error:
        raise NetbuildError(f"the file's rows are no plain data: {shorten(error)}") from None


def class_names(names: Any) -> list[str] | None:
    """Class names in order, from a list or a mapping from numbers."""
    if isinstance(names, dict):
        numbers = sorted(key for key in names if type(key) is int)
        return [str(names[i]) for i in numbers] if numbers == list(range(len(names))) else None
    return [str(name) for name in names] if isinstance(names, list) else None


def halved(network: Network) -> Network:
    """The network in half precision, for a file of half the size; opened again it computes in single precision."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float16)
    return network
