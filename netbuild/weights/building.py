"""Build a network from a file and load weights into it: `build`, `transfer` and what they share."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch

from netbuild.errors import NetbuildError
from netbuild.grammar.checkpoint_header import find_info, is_checkpoint
from netbuild.grammar.spec import load
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.modules import builders
from netbuild.weights import checkpoint
from netbuild.weights.pickles.stubs import Stub
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
    return checkpoint.load_weights(network, source) if source else network


def transfer(network: Network, weights: str | Path) -> Transfer:
    """Load a file's tensors into the network's rows of equal structure, also where the row numbers differ.

    Args:
        network: built by `build`; changed in place.
        weights: a netbuild checkpoint, a safetensors file, or a file of ``torch.save`` (its code is never run).

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
    if not report.counts()["tensors_loaded"]:
        message = f"{path}: nothing was loaded: none of its {len(source)} rows has the structure of one of the network"
        raise NetbuildError(message, hint=f"is it of the network {network.card.name}, at the same scale?")
    return report


def rows_of_network(network: Network) -> list[RowTensors]:
    """The network's tensors grouped by row; they share memory with the network."""
    return group_by_row(network.state_dict(), dict(enumerate(network.card.rows)))


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a weights file by key.

    Args:
        path: the file.
        tensors: key to tensor.
        labels: row number to (module, row name), for the rows that the file describes.
        metadata: for files of other programs, see `netbuild.weights.pickles.contents.extract_metadata`.
        model: the pickled model, if the file has one rather than a dict of tensors.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    labels: Mapping[int, tuple[str, str | None]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    model: Stub | None = None


def read_weights(path: Path, prefer: str = "ema") -> WeightsFile:
    """Read the tensors of a checkpoint of any origin without running code from it.

    Args:
        path: a netbuild checkpoint, a safetensors file, or a file of ``torch.save``.
        prefer: ``ema`` to take the averaged weights where the file has some, ``model`` to take the last weights.

    Raises:
        NetbuildError: if the file cannot be read, or unpickling it would call a function that is not allowed.
    """
    if is_checkpoint(path):
        spec = load(path) if find_info(path) else None
        labels = {row.index: (row.module, row.name) for row in spec.rows} if spec else {}
        return WeightsFile(path, checkpoint.load_tensors(path), labels)
    from netbuild.weights.pickles import contents, unpickle

    foreign = unpickle.read(path)
    metadata = contents.extract_metadata(foreign, prefer)
    tensors, model = contents.extract_state_dict(foreign, prefer), contents.find_model(foreign, prefer)
    return WeightsFile(path, tensors, _label_rows(metadata), metadata, model)


def _label_rows(metadata: Mapping[str, Any]) -> dict[int, tuple[str, str | None]]:
    """Row number to (module, None), from the YAML rows that an Ultralytics checkpoint carries."""
    spec = metadata.get("yaml")
    sections = [spec.get(section) for section in ("backbone", "head")] if isinstance(spec, dict) else []
    rows = [row for section in sections if isinstance(section, list) for row in section]
    return {i: (str(row[2]), None) for i, row in enumerate(rows) if isinstance(row, list) and len(row) > 2}
