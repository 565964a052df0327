"""Export: networks to files that run elsewhere, each proven equal to the network before it gets its name."""

import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from netbuild.errors import NetbuildError, Where
from netbuild.export import base
from netbuild.export.jobs import ExportRequest, make_job
from netbuild.export.making import Exported, make
from netbuild.graph.network import Network
from netbuild.graph.opening import Size, expand_size, open_graph
from netbuild.system.files import check_parent
from netbuild.weights.building import build_graph

__all__ = ["Exported", "export"]

Row = tuple[str, Where | None]  # how messages call it, and its place in its file


def export(
    file: str | Path | Network,
    out: str | Path | None = None,
    *,
    target: str = "onnx",
    imgsz: Size = None,
    batch: int | None = None,
    dynamic: str | None = None,
    half: bool = False,
    opset: int | None = None,
    simplify: bool = False,
    nms: bool | Mapping[str, Any] = False,
    fuse: bool = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    more: Mapping[str, Any] | None = None,
    unproven: bool = False,
    **opening: Any,
) -> Exported:
    """Write a network for another runtime, and prove the file equal to it.

    Args:
        file: a checkpoint, a network as `netbuild.build` gives it, or a network's file, whose weights are random.
        out: the file to write; beside a checkpoint, or here, under the network's name unless given.
        target: "onnx", or another of `netbuild.export.base.names`.
        imgsz: side, or (height, width), in pixels; the network's own unless given.
        batch: pictures at once, 1 unless given.
        dynamic: "batch", "size" or "both" stay free.
        half: float16 weights; inputs and outputs stay float32.
        opset: of ONNX.
        simplify: rewrite the graph where that removes nodes.
        nms: suppression inside the file; a mapping of conf, iou and max_det says how.
        fuse: merge batch norms first; the network itself stays as it is.
        input_names, output_names: instead of images, output0, output1, ...
        more: flags that only this target knows; of onnx-int8 "calibrate", a data set or a folder of pictures, and
            "pictures", how many of them at most.
        unproven: take a file that cannot be run on this machine, and so is not proven.
        opening: scale, nc, ch, modules, trusted, set, as for `netbuild.build`.

    Raises:
        MissingExtraError: if a package is missing, before any work.
        ProofError: if the file differs from the network; it is kept as NAME.failed.
        NetbuildError: for whatever else is wrong, with the row and the operator where they are known.
    """
    chosen = base.find(target)
    flags = {"half": half, "opset": opset, "simplify": simplify, "nms": nms, "dynamic": dynamic, **(more or {})}
    base.check_flags(chosen, flags)
    base.check_packages(chosen)
    check_barrier(chosen, unproven)
    options = {name: value for name, value in flags.items() if name != "dynamic" and value not in (None, False)}
    size = expand_size(imgsz)
    if out is not None:
        check_out(Path(out), chosen)
    network, rows = _opened(file, size, fuse, opening)
    path = Path(out) if out is not None else _usual(file, network, chosen.suffix)
    check_out(path, chosen)
    wish = ExportRequest(size, batch, dynamic, input_names, output_names, options)
    job = replace(make_job(network, wish), rows=tuple(rows))
    return make(network, job, chosen, path)


def check_barrier(chosen: base.Target, unproven: bool) -> None:
    """Refuse a target whose files cannot be run here, unless the user takes one without a proof.

    Raises:
        NetbuildError: if so; or if the file would be proven all the same.
    """
    barrier = chosen.barrier()
    if barrier and not unproven:
        said = f"the target '{chosen.name}' cannot be proven here: {barrier}"
        raise NetbuildError(said, hint="--unproven writes the file without a proof")
    if unproven and not barrier:
        raise NetbuildError(f"--unproven has no effect: files of '{chosen.name}' are proven here", hint="leave it out")


def check_out(path: Path, chosen: base.Target) -> None:
    """Refuse a path that cannot be written to, before work is done for it.

    Raises:
        NetbuildError: if its ending is another, its folder is missing or read-only, or what is there is not replaced.
    """
    if not path.name.endswith(chosen.suffix) or path.name == chosen.suffix:
        raise NetbuildError(f"{path}: its name must end in {chosen.suffix}")
    check_parent(path)
    if path.is_dir() and not chosen.holds:
        raise NetbuildError(f"{path}: is a folder")
    if chosen.holds and path.exists() and not _is_replaced(path, chosen):
        said = "is a file" if path.is_file() else "is a folder with other things in it, which would be lost"
        raise NetbuildError(f"{path}: {said}", hint="name another by --out")


def _is_replaced(path: Path, chosen: base.Target) -> bool:
    """Whether a folder has nothing but what such a folder holds."""
    return path.is_dir() and all(_is_ours(entry, chosen) for entry in path.rglob("*"))


def _is_ours(entry: Path, chosen: base.Target) -> bool:
    return (entry.name if entry.is_dir() else entry.suffix) in chosen.holds


def _opened(file: str | Path | Network, size: Any, fuse: bool, opening: Mapping[str, Any]) -> tuple[Network, list[Row]]:
    """The network, in eval and fused, and how its rows are called."""
    if isinstance(file, Network):
        network = copy.deepcopy(file).cpu().float()
        rows: list[Row] = [(f"row {i} ({module})", None) for i, (module, _) in enumerate(network.card.rows)]
    else:
        graph = open_graph(file, imgsz=size, **opening)
        network = build_graph(graph).float()
        rows = [(layer.row.label, layer.row.where) for layer in graph.layers]
    network = network.eval()
    return (network.fuse() if fuse else network), rows


def _usual(file: str | Path | Network, network: Network, suffix: str) -> Path:
    if isinstance(file, (str, Path)) and Path(file).suffix == ".safetensors":
        return Path(file).with_name(Path(file).stem + suffix)
    return Path(f"{network.card.name}{suffix}")


class _CallableModule(ModuleType):
    """The type of this module: ``netbuild.export`` is a public verb, and the package in which plug-ins find `Target`.

    Importing ``netbuild.export.base`` sets the attribute ``netbuild.export`` to the package, in the verb's place; so
    the package can be called like the verb.
    """

    __call__ = staticmethod(export)


sys.modules[__name__].__class__ = _CallableModule
__signature__ = inspect.signature(export)
