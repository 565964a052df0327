"""The verbs on a file's name: open a graph, build a network, carry weights into it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch

from netbuild.errors import NetbuildError
from netbuild.grammar.header import find, is_checkpoint
from netbuild.grammar.spec import load
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.modules import builders
from netbuild.weights import checkpoint
from netbuild.weights.transfer import RowTensors, Transfer, rows_of
from netbuild.weights.transfer import transfer as transfer_rows


def build(
    file: str | Path,
    *,
    weights: str | Path | None = None,
    download: bool = False,
    **options: Unpack[NetworkOptions],
) -> Network:
    """Build a network with weights: a plain ``nn.Module`` from (B, ch, H, W) to the last row's output.

    Args:
        file: as for `netbuild.graph.opening.open_graph`; a checkpoint brings its weights.
        weights: a file whose tensors go to the rows of the same structure, as `transfer` tells.
        download: whether rows that say ``pretrained: true`` may download their weights.
        options: see `NetworkOptions`.

    Raises:
        NetbuildError: with the place of every mistake in the file, or if the weights cannot be read.
    """
    graph = open_graph(file, **options)
    network = build_graph(graph, download)
    if weights is not None:
        transfer(network, weights)
    return network


def build_graph(graph: Graph, download: bool = False) -> Network:
    """Build a resolved network; one read from a checkpoint gets its weights."""
    source = graph.spec.checkpoint
    with builders.pretrained("skip" if source else "download" if download else "refuse"):
        network = graph.build()
    return checkpoint.fill(network, source) if source else network


def transfer(network: Network, weights: str | Path) -> Transfer:
    """Load a file's tensors into the rows of a network that have their structure, whatever their numbers.

    Args:
        network: as `build` gives it; changed in place.
        weights: a checkpoint of netbuild, a safetensors file, or a file of torch.save, of which no code is run.

    Raises:
        NetbuildError: if the file cannot be read or has no tensor of a row.
    """
    path = Path(weights)
    found = tensors_of(path)
    source = rows_of(found.tensors, found.labels)
    if not source:
        raise NetbuildError(f"{path}: no tensor of a row in it: keys are model.<row>.<...>")
    return transfer_rows(source, network_rows(network))


def network_rows(network: Network) -> list[RowTensors]:
    """The rows of a network with their tensors: those that live in it, not copies."""
    return rows_of(network.state_dict(), dict(enumerate(network.card.rows)))


@dataclass(frozen=True)
class Source:
    """The tensors of a file by key; of rows that are known, module and name; and what a foreign file says of itself."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    labels: Mapping[int, tuple[str, str | None]]
    facts: Mapping[str, Any] = field(default_factory=dict)


def tensors_of(path: Path, prefer: str = "ema") -> Source:
    """The tensors of any checkpoint; no code of it is run.

    Args:
        path: a checkpoint of netbuild, a safetensors file, or a file of torch.save.
        prefer: ``ema`` for averaged weights where there are some, ``model`` for the last.

    Raises:
        NetbuildError: if it cannot be read, or asks for code to be run.
    """
    if is_checkpoint(path):
        spec = load(path) if find(path) else None
        return Source(path, checkpoint.tensors(path), {r.index: (r.module, r.name) for r in spec.rows} if spec else {})
    from netbuild.weights.pickles import unpickle

    foreign = unpickle.read(path)
    facts = unpickle.facts(foreign, prefer)
    return Source(path, unpickle.state_dict(foreign, prefer), _foreign_labels(facts), facts)


def _foreign_labels(facts: Mapping[str, Any]) -> dict[int, tuple[str, str | None]]:
    rows = facts.get("yaml")
    listed = [rows.get(section) for section in ("backbone", "head")] if isinstance(rows, dict) else []
    flat = [row for section in listed if isinstance(section, list) for row in section]
    return {i: (str(row[2]), None) for i, row in enumerate(flat) if isinstance(row, list) and len(row) > 2}
