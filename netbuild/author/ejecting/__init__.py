"""Writes a network as one Python file that needs only PyTorch, and proves that its outputs are equal."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch

from netbuild.author.ejecting.proving import Case, DifferError, Proof, prove, record
from netbuild.author.ejecting.writing import write_source
from netbuild.errors import NetbuildError
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.modules import builders
from netbuild.system.files import atomic_path, check_parent
from netbuild.weights.foreign import load_weights

__all__ = ["Ejected", "eject"]

SUFFIX = ".py"


@dataclass(frozen=True)
class Ejected:
    """The result of `eject`: a file that was written and proven.

    Args:
        path: the file.
        network: the network's name.
        name: the name of its class in the file.
        lines: the number of lines.
        packages: the packages beside torch that the file imports.
        own: the files of custom modules whose code it contains.
        proof: the comparison with the network.
    """

    path: Path
    network: str
    name: str
    lines: int
    packages: tuple[str, ...]
    own: tuple[str, ...]
    proof: Proof

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {**vars(self), "path": str(self.path), "proof": self.proof.to_dict()}

    def text(self) -> str:
        """Return the result as a sentence."""
        return f"{self.path}: {self.network} as class {self.name}, {self.lines:,} lines, {self.proof.text()}"


def eject(file: str | Path, out: str | Path | None = None, **options: Unpack[NetworkOptions]) -> Ejected:
    """Write a network as one readable file of PyTorch code, and prove that its outputs are equal.

    The file's class has the state-dict keys of the network, so that a checkpoint's tensors can be loaded.

    Args:
        file: a YAML file, a packaged name, or a checkpoint, whose tensors are not written.
        out: the file to write; unless given, NAME.py beside a checkpoint, else in the working folder.
        options: see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        DifferError: if the file's outputs differ from the network's; the file is then renamed to NAME.failed.py.
        NetbuildError: for a mistake in the file, a path that exists, or custom modules that need netbuild itself.
    """
    if out is not None:
        check_out(Path(out))
    graph = open_graph(file, **options)
    path = Path(out) if out is not None else _default_path(graph)
    check_out(path)
    return write_and_prove(graph, path)


def write_and_prove(graph: Graph, path: Path) -> Ejected:
    """Write a network's file under a temporary name, prove it, and rename it.

    Raises:
        DifferError: if its outputs differ from the network's; the file is then renamed to NAME.failed.py.
        NetbuildError: if it cannot be written.
    """
    network = build_network(graph)
    source = write_source(graph, has_shared_tensors(network))
    with atomic_path(path) as temporary:
        temporary.write_text(source.text, encoding="utf-8")
        try:
            proof = prove_draft(graph, network, temporary, source.name)
        except DifferError as error:
            failed = path.with_name(f"{path.stem}.failed{SUFFIX}")
            temporary.replace(failed)
            error.message = f"{path}: {error.message}\nthe file is kept as {failed}"
            raise
    lines = source.text.count("\n")
    return Ejected(path, str(network.card.name), source.name, lines, source.packages, source.own, proof)


def build_network(graph: Graph) -> Network:
    """Build the network with the weights of its checkpoint, else with random ones; nothing is downloaded.

    The caller's random number generators are not changed.
    """
    with torch.random.fork_rng(devices=[]), builders.pretrained_mode("skip"):
        torch.manual_seed(0)
        network = graph.build()
    return load_weights(network, graph.spec.checkpoint) if graph.spec.checkpoint else network


def has_shared_tensors(network: Network) -> bool:
    """Return whether a tensor of the network has several names in its state dict."""
    places = [(t.data_ptr(), t.shape) for t in network.state_dict().values() if t.numel()]
    return len({*places}) < len(places)


def prove_draft(graph: Graph, network: Network, draft: Path, name: str) -> Proof:
    """Compare a draft with the network.

    Raises:
        DifferError: if their outputs differ.
    """
    with tempfile.TemporaryDirectory(prefix="netbuild-") as folder:
        data = Path(folder) / "known.pt"
        record(network, graph, data)
        return prove([Case(draft, name, data)])[0]


def check_out(path: Path) -> None:
    """Check the path of the output before the work is done.

    Raises:
        NetbuildError: for another ending, a missing or read-only folder, or a path that exists.
    """
    if path.suffix != SUFFIX:
        raise NetbuildError(f"{path}: its name must end in {SUFFIX}")
    check_parent(path)
    if path.exists():
        raise NetbuildError(
            f"{path} exists already", hint="it may have been edited: remove it, or choose another by -o"
        )


def _default_path(graph: Graph) -> Path:
    if graph.spec.checkpoint:
        return graph.spec.checkpoint.with_suffix(SUFFIX)
    return Path(f"{graph.name}{SUFFIX}")
