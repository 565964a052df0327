"""Export networks to files for other runtimes; each file is proven equal to the network before it gets its name."""

import copy
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Unpack

import torch

from netbuild.errors import NetbuildError, Where
from netbuild.export import base
from netbuild.export.jobs import make_job
from netbuild.export.making import Exported, make
from netbuild.export.options import ExportKeywords, ExportOptions, read_keywords
from netbuild.grammar.locate import find_checkpoint
from netbuild.graph.network import Network
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.system.files import check_parent
from netbuild.tasks.base import refuse_options
from netbuild.weights.building import build_graph

__all__ = ["Exported", "export"]


def export(
    file: str | Path | Network,
    out: str | Path | None = None,
    *,
    target: str = "onnx",
    **keywords: Unpack[ExportKeywords],
) -> Exported:
    """Export a network to another runtime's format, and prove that the file's outputs equal torch's.

    Args:
        file: a checkpoint, a network as `netbuild.build` gives it, or a network's file, whose weights are random.
        out: the file to write; by default under the network's name, beside a checkpoint or in the working folder.
        target: "onnx", or another of `netbuild.export.base.names`.
        keywords: the flags of ``netbuild export``, see `netbuild.export.options.ExportOptions`, and how the network's
            file is read, see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        KeywordError: for a keyword that does not exist.
        MissingExtraError: if a package is missing; nothing has been done then.
        ProofError: if the file's outputs differ from the network's; the file is kept as NAME.failed.
        NetbuildError: for other errors, with the row and the operator if known.
    """
    options, opening = read_keywords(ExportOptions, {"target": target, **keywords})
    chosen = base.find(options.target)
    base.check_flags(chosen, options.flags())
    base.check_packages(chosen)
    check_barrier(chosen, options.unproven)
    if options.unproven and options.tolerance is not None:
        refuse_options({"tolerance": options.tolerance}, "on a file that is not proven")
    if out is not None:
        check_out(Path(out), chosen)
    network, rows = _open(file, options, opening)
    path = Path(out) if out is not None else _default_path(file, network, chosen.suffix)
    check_out(path, chosen)
    job = replace(make_job(network, options), rows=tuple(rows))
    return make(network, job, chosen, path)


def check_barrier(chosen: base.Target, unproven: bool) -> None:
    """Refuse a target whose files cannot run here, unless the user accepts a file without a proof.

    Raises:
        NetbuildError: if so; or if ``unproven`` is set although the file would be proven.
    """
    barrier = chosen.barrier()
    if barrier and not unproven:
        message = f"the target '{chosen.name}' cannot be proven here: {barrier}"
        raise NetbuildError(message, hint="--unproven writes the file without a proof")
    if unproven and not barrier:
        raise NetbuildError(f"--unproven has no effect: files of '{chosen.name}' are proven here", hint="leave it out")


def check_out(path: Path, chosen: base.Target) -> None:
    """Refuse a path that cannot be written to, before work is done for it.

    Raises:
        NetbuildError: if its suffix is not the target's, its folder is missing or read-only, or it exists and must not
            be replaced.
    """
    if not path.name.endswith(chosen.suffix) or path.name == chosen.suffix:
        raise NetbuildError(f"{path}: its name must end in {chosen.suffix}")
    check_parent(path)
    if path.is_dir() and not chosen.holds:
        raise NetbuildError(f"{path}: is a folder")
    if chosen.holds and path.exists() and not _is_replaceable(path, chosen):
        reason = "is a file" if path.is_file() else "is a folder with other things in it, which would be lost"
        raise NetbuildError(f"{path}: {reason}", hint="choose another path with --out")


def _is_replaceable(path: Path, chosen: base.Target) -> bool:
    """Whether a folder contains nothing that the target does not write."""
    return path.is_dir() and all(_is_written_by(chosen, entry) for entry in path.rglob("*"))


def _is_written_by(chosen: base.Target, entry: Path) -> bool:
    return (entry.name if entry.is_dir() else entry.suffix) in chosen.holds


def _open(
    file: str | Path | Network, options: ExportOptions, opening: NetworkOptions
) -> tuple[Network, list[tuple[str, Where | None]]]:
    """The network in eval mode, fused if wanted, and the label of each row with its place in the file."""
    rows: list[tuple[str, Where | None]]
    if isinstance(file, Network):
        unused = {**opening, "imgsz": None, "seed": options.seed}  # imgsz is the size to export at
        refuse_options(
            {name: x for name, x in unused.items() if x not in (None, False, ())}, "on a network that is built"
        )
        network = copy.deepcopy(file).cpu().float()
        rows = [(f"row {i} ({module})", None) for i, (module, _) in enumerate(network.card.rows)]
    else:
        if options.seed is not None and find_checkpoint(file):
            refuse_options({"seed": options.seed}, "on a checkpoint")
        graph = open_graph(file, **opening)
        with seeded(options.seed):
            network = build_graph(graph).float()
        rows = [(layer.row.label, layer.row.where) for layer in graph.layers]
    network = network.eval()
    return (network.fuse() if options.fuse else network), rows


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch's generator for a ``with`` block and restore the caller's afterwards; None leaves it alone."""
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _default_path(file: str | Path | Network, network: Network, suffix: str) -> Path:
    found = find_checkpoint(file) if isinstance(file, (str, Path)) else None
    if found:
        return found.with_name(found.stem + suffix)
    return Path(f"{network.card.name}{suffix}")


class _CallableModule(ModuleType):
    """The type of this module, which makes the package callable.

    ``netbuild.export`` is both a public function and the package where plug-ins find `Target`. Importing
    ``netbuild.export.base`` sets the attribute ``netbuild.export`` to the package, so the package must act as the
    function.
    """

    __call__ = staticmethod(export)


sys.modules[__name__].__class__ = _CallableModule
__signature__ = inspect.signature(export)
