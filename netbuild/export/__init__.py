"""Export: networks to files that run elsewhere, each proven equal to the network before it gets its name."""

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netbuild.errors import NetbuildError

if TYPE_CHECKING:
    import torch

    from netbuild.export.base import Job, Target
    from netbuild.export.proof import Comparison, Reference
    from netbuild.network import Network

Port = dict[str, Any]  # name, type and shape of an input or output; a free side is a text


@dataclass(frozen=True)
class Exported:
    """A file that was written and proven.

    Args:
        path: of the file or folder.
        target: its kind.
        network: name of the network.
        size: bytes, with a second file of weights if there is one.
        notes: exporter, opset, and what came of flags.
        inputs, outputs: names, types and shapes.
        layout: what the outputs are.
        proof: every output of every case beside torch's.
        seconds: of ``write`` and ``proof``.
        metadata: what the file says of itself.
    """

    path: Path
    target: str
    network: str
    size: int
    notes: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layout: str
    proof: tuple["Comparison", ...]
    seconds: dict[str, float]
    metadata: dict[str, str] = field(repr=False)

    @property
    def difference(self) -> float:
        """The largest |difference| / max(1, |reference|) of the proof."""
        return max(c.part for c in self.proof)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        known = {**vars(self), "path": str(self.path), "proof": [c.to_dict() for c in self.proof]}
        return {**known, "difference": self.difference}

    def text(self) -> str:
        """For people: how it was written, what goes in and out, the table of differences, the file."""
        ports = [f"{way:6}  {p['name']}  {p['type']}  {p['shape']}" for way, ps in self._ways() for p in ps]
        lines = [*self.notes, *ports, f"layout  {self.layout}", *table(self.proof)]
        return "\n".join([*lines, f"{self.path}: {self.network}, {self.size:,} bytes, proven equal to torch"])

    def _ways(self) -> list[tuple[str, tuple[Port, ...]]]:
        return [("input", self.inputs), ("output", self.outputs)]


def export(
    file: "str | Path | Network",
    out: str | Path | None = None,
    *,
    target: str = "onnx",
    imgsz: "int | tuple[int, int] | None" = None,
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
        more: flags that only this target knows.
        opening: scale, nc, ch, modules, trusted, set, as for `netbuild.build`.

    Raises:
        MissingExtraError: if a package is missing, before any work.
        ProofError: if the file differs from the network; it is kept as NAME.failed.
        NetbuildError: for whatever else is wrong, with the row and the operator where they are known.
    """
    from netbuild.export import base
    from netbuild.export.jobs import Wish, make_job

    chosen = base.find(target)
    flags = {"half": half, "opset": opset, "simplify": simplify, "nms": nms, "dynamic": dynamic, **(more or {})}
    base.check_flags(chosen, flags)
    base.check_packages(chosen)
    options = {name: value for name, value in flags.items() if name != "dynamic" and value not in (None, False)}
    size = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if out is not None:
        check_out(Path(out), chosen.suffix)
    network, rows = _opened(file, size, fuse, opening)
    path = Path(out) if out is not None else _usual(file, network, chosen.suffix)
    check_out(path, chosen.suffix)
    wish = Wish(size, batch, dynamic, input_names, output_names, options)
    job = replace(make_job(network, wish), rows=tuple(rows))
    return _made(network, job, chosen, path)


def check_out(path: Path, suffix: str) -> None:
    """Refuse a path that cannot be written to, before work is done for it.

    Raises:
        NetbuildError: if its ending is another, or its folder is missing or read-only.
    """
    if path.suffix != suffix:
        raise NetbuildError(f"{path}: its name must end in {suffix}")
    if not path.parent.is_dir():
        raise NetbuildError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise NetbuildError(f"{path}: its folder cannot be written to")
    if path.is_dir() and suffix == ".onnx":
        raise NetbuildError(f"{path}: is a folder")


def _opened(file: "str | Path | Network", size: Any, fuse: bool, opening: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """The network, in eval and fused, and how its rows are called."""
    import copy

    from netbuild.api import build_graph, open_graph
    from netbuild.network import Network

    if isinstance(file, Network):
        network = copy.deepcopy(file).cpu().float()
        rows = [(f"row {i} ({module})", None) for i, (module, _) in enumerate(network.facts["rows"])]
    else:
        graph = open_graph(file, imgsz=size, **opening)
        network = build_graph(graph).float()
        rows = [(layer.row.label, layer.row.where) for layer in graph.layers]
    network = network.eval()
    return (network.fuse() if fuse else network), rows


def _usual(file: "str | Path | Network", network: "Network", suffix: str) -> Path:
    if isinstance(file, (str, Path)) and Path(file).suffix == ".safetensors":
        return Path(file).with_suffix(suffix)
    return Path(f"{network.facts['name']}{suffix}")


def _made(network: "Network", job: "Job", chosen: "Target", path: Path) -> Exported:
    """Write into a folder of its own beside the target, prove, move; nothing half-written is ever seen."""
    from netbuild.export.proof import ProofError, cases, prove

    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.stem}-"))
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be written: {error.strerror or error}") from error
    reference, match = _reference(network, job)
    draft = folder / path.name
    try:
        start = time.perf_counter()
        notes = _written(chosen, job, draft, path)
        middle = time.perf_counter()
        try:
            proof = prove(job, chosen.open(draft), reference, chosen.tolerance(job.options), match)
        except ProofError as error:
            kept = _keep(folder, draft, path)
            raise ProofError(f"{error.message}; the file is kept as {kept}", hint=error.hint) from error
        if not all(c.ok for c in proof):
            kept = _keep(folder, draft, path)
            raise ProofError("\n".join([f"{path}: differs from torch, kept as {kept}", *table(proof)]))
        seconds = {"write": middle - start, "proof": time.perf_counter() - middle}
        size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
        _move(folder, draft, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shapes = [[tuple(x.shape) for x in case.inputs] for case in cases(job)]
    inputs = _ports(job.inputs, job.examples, shapes, shapes, job)
    outs = [[c.shape for c in proof[i : i + len(job.outputs)]] for i in range(0, len(proof), len(job.outputs))]
    kinds = reference([x[:1] for x in job.examples]) if match else None
    outputs = _ports(job.outputs, kinds, outs, shapes, job)
    name = str(network.facts["name"])
    return Exported(
        path, chosen.name, name, size, tuple(notes), inputs, outputs, job.metadata["layout"], tuple(proof), seconds,
        job.metadata,
    )  # fmt: skip


def _written(chosen: "Target", job: "Job", draft: Path, path: Path) -> Sequence[str]:
    try:
        return chosen.write(job, draft)
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be written: {error.strerror or error}") from error
    except NetbuildError as error:
        if error.__cause__ is not None and isinstance(error.__cause__, OSError):
            raise NetbuildError(f"{path}: cannot be written: {error.__cause__.strerror}") from error
        raise


def _move(folder: Path, draft: Path, path: Path) -> None:
    """The finished file to its name, what lies beside it first."""
    try:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry == draft):
            final = path.parent / entry.name if entry != draft else path
            if final.is_dir():
                shutil.rmtree(final)
            entry.replace(final)
    except OSError as error:
        raise NetbuildError(f"{path}: cannot be written: {error.strerror or error}") from error


def _keep(folder: Path, draft: Path, path: Path) -> Path:
    """The file that failed, under a name that says so."""
    kept = path.with_name(f"{path.stem}.failed{path.suffix}")
    with suppress(OSError):
        _move(folder, draft, kept)
    return kept


def _reference(network: "Network", job: "Job") -> tuple["Reference", str]:
    """What the network gives, in the form of the file's outputs; and how they are compared."""
    import numpy as np
    import torch

    from netbuild.export.jobs import ranks, task_of

    task, chosen = task_of(network), job.options.get("nms")

    def plain(inputs: "Sequence[torch.Tensor]") -> list[Any]:
        with torch.no_grad():
            return [x.detach().numpy() for x in job.module(*inputs)]

    def suppressed(inputs: "Sequence[torch.Tensor]") -> list[Any]:
        assert task is not None
        with torch.no_grad():
            found = task.decode(job.module(*inputs)[0], **vars(chosen))
        rows = torch.cat(found).numpy()
        index = np.repeat(np.arange(len(found)), [len(x) for x in found])
        return [rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), index.astype(np.int64)]

    if chosen:
        return suppressed, "index"
    return plain, "rows" if ranks(network.model[-1]) else ""


def _ports(
    names: Sequence[str], kinds: "Sequence[Any] | None", shapes: Sequence[Sequence[Any]], given: Any, job: "Job"
) -> tuple[Port, ...]:
    """Names, types and shapes: a side that followed a free one has its name, one that changed otherwise is free."""
    free = {name: [] for name in sorted(job.dynamic)}
    for case in given:
        for axis, name in job.axes[0].items():
            free[name].append(case[0][axis])
    ports = []
    for i, name in enumerate(names):
        kind = str(kinds[i].dtype).removeprefix("torch.") if kinds is not None else "float32"
        sides = []
        for values in zip(*(case[i] for case in shapes), strict=True):
            follows = next((n for n, seen in free.items() if list(values) == seen), None)
            sides.append(follows or (values[0] if len(set(values)) == 1 else "free"))
        ports.append({"name": name, "type": kind, "shape": sides})
    return tuple(ports)


def table(proof: "Sequence[Comparison]") -> list[str]:
    """The differences as lines of text."""
    heads = ("output", "pictures", "shape", "max difference", "of max(1, |torch|)", "allowed", "")
    rows = [
        (c.output, c.case, "x".join(map(str, c.shape)), f"{c.difference:.1e}", f"{c.part:.1e}", f"{c.tolerance:.0e}",
         c.remark or ("" if c.ok else "BEYOND"))
        for c in proof
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in [heads, *rows]]
