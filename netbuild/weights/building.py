"""Build a network from a file and load weights into it: `build`, `transfer` and what they share."""

import warnings
from pathlib import Path
from typing import Unpack

from netbuild.errors import NetbuildError
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.modules import builders
from netbuild.weights.foreign import load_weights
from netbuild.weights.reading import read_weights
from netbuild.weights.transfer import RowTensors, Transfer, group_by_row, transfer_rows


def build(
    file: str | Path,
    *,
    weights: str | Path | None = None,
    download: bool = False,
    **options: Unpack[NetworkOptions],
) -> Network:
    """Build a network with weights: a plain ``nn.Module`` that maps (B, ch, H, W) to the last row's output.

    Args:
        file: a network file or a checkpoint, as for `netbuild.graph.opening.open_graph`. A checkpoint's weights are
            loaded; otherwise the network is initialised randomly.
        weights: a file whose tensors are loaded into the rows of equal structure, as by `transfer`.
        download: download the weights of rows with ``pretrained: true``; such rows are an error otherwise.
        options: see `NetworkOptions`.

    Raises:
        NetbuildError: with the place of every mistake in the file, or if the weights cannot be read.
    """
    graph = open_graph(file, **options)
    for layer in graph.layers:
        if layer.bound.note:
            warnings.warn(layer.bound.note, stacklevel=2)
    network = build_graph(graph, download)
    if weights is not None:
        for text in transfer(network, weights).warnings():
            warnings.warn(f"{weights}: {text}", stacklevel=2)
    return network


def build_graph(graph: Graph, download: bool = False) -> Network:
    """Build a resolved network; if it was read from a checkpoint, load that checkpoint's weights."""
    source = graph.spec.checkpoint
    # Downloaded weights would be overwritten by the checkpoint's, so its rows skip the download.
    with builders.pretrained_mode("skip" if source else "download" if download else "refuse"):
        network = graph.build()
    return load_weights(network, source) if source else network


def build_for_classes(graph: Graph, checkpoint: Path) -> tuple[Network, Transfer]:
    """Build a network with another number of classes than its checkpoint; the tensors of other shapes are initialised.

    Raises:
        NetbuildError: as for `transfer`.
    """
    with builders.pretrained_mode("skip"):
        network = graph.build()
    return network, transfer(network, checkpoint)


def transfer(network: Network, weights: str | Path) -> Transfer:
    """Load a file's tensors into the network's rows of equal structure, also where the row numbers differ.

    Args:
        network: built by `build`; changed in place.
        weights: a netbuild checkpoint, a safetensors file, a file of ``torch.save`` (its code is never run), or the
            folder of a run, which stands for its best checkpoint.

    Returns:
        A report: for each row, where its tensors came from and which were skipped.

    Raises:
        NetbuildError: if the file cannot be read, no key in it has the form ``model.<row>.<...>``, or no tensor fits.
    """
    path = Path(weights)
    found = read_weights(path)
    source = group_by_row(found.tensors, found.labels)
    if not source:
        raise NetbuildError(f"{path}: no tensor belongs to a row: keys of the form model.<row>.<...> are expected")
    report = transfer_rows(source, rows_of_network(network))
    if not report.has_weights:
        message = f"{path}: nothing was loaded: none of its {len(source)} rows has the structure of one of the network"
        raise NetbuildError(message, hint=f"is it of the network {network.card.name}, at the same scale?")
    return report


def rows_of_network(network: Network) -> list[RowTensors]:
    """The network's tensors grouped by row; they share memory with the network."""
    return group_by_row(network.state_dict(), dict(enumerate(network.card.rows)))
