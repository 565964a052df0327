"""Ejecting: a network as one file of PyTorch that needs no netbuild, proven to be the same network."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch

from netbuild.author.ejecting.proving import Case, DifferError, Proof, prove, record
from netbuild.author.ejecting.writing import write
from netbuild.errors import NetbuildError
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.modules import builders
from netbuild.system.files import atomic_path, check_parent
from netbuild.weights import checkpoint

__all__ = ["Ejected", "eject"]

SUFFIX = ".py"


@dataclass(frozen=True)
class Ejected:
    """A file that was written and proven.

    Args:
        path: of the file.
        network: name of the network.
        name: of its class in the file.
        lines: how many.
        packages: what the file imports beside torch.
        own: files of own modules whose text is in it.
        proof: how it compares with the network.
    """

    path: Path
    network: str
    name: str
    lines: int
    packages: tuple[str, ...]
    own: tuple[str, ...]
    proof: Proof

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {**vars(self), "path": str(self.path), "proof": self.proof.to_dict()}

    def text(self) -> str:
        """In a sentence."""
        return f"{self.path}: {self.network} as class {self.name}, {self.lines:,} lines, {self.proof.text()}"


def eject(file: str | Path, out: str | Path | None = None, **options: Unpack[NetworkOptions]) -> Ejected:
    """Write a network as one readable file of PyTorch, and prove it equal to the network.

    The file's class has the state-dict keys of the network, so that a checkpoint's tensors fit.

    Args:
        file: a YAML file, a packaged name, or a checkpoint; no tensors are written.
        out: the file; beside a checkpoint, or here, under the network's name unless given.
        options: see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        DifferError: if the file does not do what the network does; it is kept as NAME.failed.py.
        NetbuildError: for a mistake in the file, a path that is taken, or own modules that need netbuild itself.
    """
    if out is not None:
        check_out(Path(out))
    graph = open_graph(file, **options)
    path = Path(out) if out is not None else _usual(file, graph)
    check_out(path)
    return make(graph, path)


def make(graph: Graph, path: Path) -> Ejected:
    """Write a draft, prove it, give it its name.

    Raises:
        DifferError: if it does not do what the network does; it is kept as NAME.failed.py.
        NetbuildError: if it cannot be written.
    """
    network = built(graph)
    done = write(graph, is_shared(network))
    with atomic_path(path) as temporary:
        temporary.write_text(done.text, encoding="utf-8")
        try:
            proof = proven(graph, network, temporary, done.name)
        except DifferError as error:
            kept = path.with_name(f"{path.stem}.failed{SUFFIX}")
            temporary.replace(kept)
            error.message = f"{path}: {error.message}\nit is kept as {kept}"
            raise
    return Ejected(path, str(network.card.name), done.name, done.text.count("\n"), done.packages, done.own, proof)


def built(graph: Graph) -> Network:
    """The network with weights: those of its checkpoint, or random ones; nothing is downloaded.

    The caller's random generators stay as they are.
    """
    with torch.random.fork_rng(devices=[]), builders.pretrained_mode("skip"):
        torch.manual_seed(0)
        network = graph.build()
    return checkpoint.load_weights(network, graph.spec.checkpoint) if graph.spec.checkpoint else network


def is_shared(network: Network) -> bool:
    """Whether a tensor of the network has several names."""
    places = [(t.data_ptr(), t.shape) for t in network.state_dict().values() if t.numel()]
    return len({*places}) < len(places)


def proven(graph: Graph, network: Network, draft: Path, name: str) -> Proof:
    """The proof that a draft is the network.

    Raises:
        DifferError: if it is not.
    """
    with tempfile.TemporaryDirectory(prefix="netbuild-") as folder:
        data = Path(folder) / "known.pt"
        record(network, graph, data)
        return prove([Case(draft, name, data)])[0]


def check_out(path: Path) -> None:
    """Refuse a path that cannot be written to, or where something is, before work is done for it.

    Raises:
        NetbuildError: for another ending, a missing or read-only folder, or a path that is taken.
    """
    if path.suffix != SUFFIX:
        raise NetbuildError(f"{path}: its name must end in {SUFFIX}")
    check_parent(path)
    if path.exists():
        raise NetbuildError(f"{path} exists already", hint="it may have been edited: remove it, or name another by -o")


def _usual(file: str | Path, graph: Graph) -> Path:
    if graph.spec.checkpoint:
        return Path(file).with_suffix(SUFFIX)
    return Path(f"{graph.name}{SUFFIX}")
