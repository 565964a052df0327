"""Export a job: write a draft, compare it with torch, then move it to its final name, or to NAME.failed if it differs.

A file stays unproven only if its target cannot run on this machine and the user has agreed to that.
"""

import copy
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netbuild.errors import NetbuildError
from netbuild.export.base import ANY, FLOAT, Job, Run, Target
from netbuild.export.parts import Half
from netbuild.export.proof import Arrays, Comparison, ProofError, Reference, cases, check_outputs, prove
from netbuild.graph.network import Network
from netbuild.layers.heads.base import traits
from netbuild.system.files import cannot_write, temporary_folder, writing
from netbuild.system.tables import Table
from netbuild.tasks.nms import Filter
from netbuild.tasks.nms import suppress as suppress_overlaps

# A float32 file may be off from float64 by this many times what torch's own float32 is, but by no more than the limit.
NOISE_RATIO, MAX_NOISE = 4, 5 * FLOAT
SMALL = 1e-2  # a larger difference is no matter of rounding
MAX_SCORES = 2000  # best scores among which `safe_threshold` looks for the widest gap
Shapes = list[tuple[str, tuple[int, ...]]]  # type and shape of an output in each case
Port = dict[str, Any]  # name, type and shape of an input or output; a free side is its name


@dataclass(frozen=True)
class Exported:
    """The result of an export: the file, and its comparison with torch unless it cannot be run here.

    Args:
        path: the exported file or folder.
        target: name of the target.
        network: name of the network.
        size: in bytes, with a separate file of weights if there is one.
        notes: exporter, opset, and the effect of flags.
        inputs, outputs: names, types and shapes.
        proof: the comparison of every output in every case; empty if the file cannot be run here.
        seconds: duration of ``write`` and ``proof``.
        metadata: the metadata stored in the file.
        barrier: why there is no proof.
    """

    path: Path
    target: str
    network: str
    size: int
    notes: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    proof: tuple[Comparison, ...]
    seconds: dict[str, float]
    metadata: dict[str, str] = field(repr=False)
    barrier: str = ""

    @property
    def proven(self) -> bool:
        """Whether the file was run and compared with torch."""
        return bool(self.proof)

    @property
    def difference(self) -> float | None:
        """The largest |difference| / max(1, |reference|) of the proof; None without one."""
        return max((c.part for c in self.proof), default=None)

    @property
    def equal(self) -> bool:
        """Whether the file met a tolerance; False for quantised and unproven files."""
        return self.proven and all(c.tolerance < ANY for c in self.proof)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        known = {**vars(self), "path": str(self.path), "proof": [c.to_dict() for c in self.proof]}
        return {**known, "proven": self.proven, "difference": self.difference, "equal": self.equal}

    def text(self, width: int | None = None) -> str:
        """A report for people, for a terminal of ``width`` columns: notes, inputs, outputs, differences, the size."""
        ports = [f"{way:6}  {p['name']}  {p['type']}  {p['shape']}" for way, ps in self._ways() for p in ps]
        lines = [*self.notes, *ports, f"layout  {self.metadata['layout']}"]
        lines += format_table(self.proof, width) if self.proven else []
        return "\n".join([*lines, f"{self.path}: {self.network}, {self.size:,} bytes, {self._verdict()}"])

    def _verdict(self) -> str:
        if not self.proven:
            return f"NOT PROVEN here: {self.barrier}; run `netbuild benchmark` there to compare it with torch"
        if limit := self.metadata.get("tolerance"):
            return f"equal to torch within {limit} (--tolerance)"
        return "proven equal to torch" if self.equal else "quantised, so not equal to torch: see the differences"

    def _ways(self) -> list[tuple[str, tuple[Port, ...]]]:
        return [("input", self.inputs), ("output", self.outputs)]


def make(network: Network, job: Job, chosen: Target, path: Path) -> Exported:
    """Write the file in a temporary folder, prove it if it can run here, and move it to its path in one step.

    Raises:
        ProofError: if the file differs from the network, and is moved to NAME.failed; or, before anything is written,
            if the network's outputs are not finite or do not depend on the picture.
        NetbuildError: if it cannot be written.
    """
    check_outputs(job, torch_reference(job))
    with temporary_folder(path) as folder:
        draft = folder / path.name
        start = time.perf_counter()
        notes = _write(chosen, job, draft, path)
        middle = time.perf_counter()
        try:
            proof = [] if chosen.barrier() else prove_file(network, job, chosen, draft)
        except ProofError as error:
            error.message = (
                f"{path}: {error.message}\nit was moved to {_keep_failed(folder, draft, path, chosen.suffix)}"
            )
            raise
        seconds = {"write": middle - start, "proof": time.perf_counter() - middle}
        size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
        _move(folder, draft, path)
    inputs, outputs = ports(job, _shapes(proof) or _own_shapes(network, job))
    name, parts = str(network.card.name), (tuple(notes), inputs, outputs, tuple(proof))
    return Exported(path, chosen.name, name, size, *parts, seconds, job.metadata, chosen.barrier())


def prove_file(network: Network, job: Job, chosen: Target, draft: Path) -> list[Comparison]:
    """Compare the file with torch, output by output.

    Raises:
        ProofError: with the table of differences, if one exceeds the tolerance.
    """
    tolerance = job.options.get("tolerance") or chosen.tolerance(job.options)
    if job.options.get("nms"):
        found = suppression_proof(network, job, chosen, draft, tolerance)
    else:
        found = prove_twice(job, chosen.open(draft), tolerance, "rows" if job.lists else "")
    if not all(c.ok for c in found):
        worst = f"the file differs from torch by {max(c.part for c in found):.1e}"
        raise ProofError("\n".join([worst, *format_table(found)]), hint=_hint(job, found))
    return found


def _hint(job: Job, found: Sequence[Comparison]) -> str:
    """A harmless cause of a mismatch, and the tolerance that would accept a small one."""
    part = max(c.part for c in found)
    advice = f"--tolerance {2 * part:.0e} accepts it" if not any(c.failed for c in found) and part < SMALL else ""
    return "; ".join(filter(None, (harmless_cause(job), advice)))


def torch_reference(job: Job) -> Reference:
    """A function that runs the network in torch."""

    def run(inputs: Sequence[torch.Tensor]) -> Arrays:
        with torch.no_grad():
            return [x.detach().numpy() for x in job.module(*inputs)]

    return run


def suppression_proof(network: Network, job: Job, chosen: Target, draft: Path, tolerance: float) -> list[Comparison]:
    """Compare the detections of a file that contains suppression with netbuild's own.

    If no box is found there is nothing to compare, and float noise decides which of two close scores passes one.
    In these cases compare in two steps: the raw outputs with torch's, then the file's suppression with netbuild's on
    the same raw outputs, at a threshold that noise cannot cross.
    """
    nms = job.options["nms"]
    found = prove(job, chosen.open(draft), SuppressionReference(network, job, nms), tolerance, "index")
    has_boxes = any(np.prod(c.shape) for c in found)
    if has_boxes and all(c.ok for c in found):
        return found
    conf = nms.conf if has_boxes else safe_threshold(job)
    run = chosen.open_with_conf(draft, conf)

    def raw(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(run([x.numpy() for x in inputs])[-1])

    steps = prove_twice(replace(job, outputs=("raw",)), lambda x: run(x)[-1:], tolerance, "")
    changed = replace(job, options={**job.options, "nms": replace(nms, conf=conf)})
    reference = SuppressionReference(network, changed, changed.options["nms"], raw)
    suppressed = prove(changed, lambda x: run(x)[:-1], reference, tolerance, "index")
    return [*([] if has_boxes else found), *steps, *(replace(c, case=f"{c.case}, conf {conf:.1e}") for c in suppressed)]


def prove_twice(job: Job, run: Run, tolerance: float, match: str) -> list[Comparison]:
    """Run `prove`, then `second_look` if an output exceeds the tolerance."""
    found = prove(job, run, torch_reference(job), tolerance, match)
    return found if all(c.ok for c in found) else second_look(job, run, found, match)


def second_look(job: Job, run: Run, found: Sequence[Comparison], match: str) -> list[Comparison]:
    """Judge outputs beyond tolerance again, since torch itself may lose as much precision.

    A float32 file is compared with torch in float64, where it may be off by a few times what torch's own float32 is:
    runtimes add in other orders. A float16 file may differ as far as torch's own float16 differs on the same pictures.
    A tolerance that the user gave is never exceeded.
    """
    strict = "tolerance" in job.options
    with suppress(Exception):  # a module may support float32 only: then the first comparison stands
        if job.half and strict:
            return list(found)
        if job.half:
            rounded = prove(job, _numpy(Half(job.module)), torch_reference(job), ANY, match)
            return [_allowed(c, torch_half) for c, torch_half in zip(found, rounded, strict=True)]
        exact = prove(job, run, float64_reference(job), _limit(found), match)
        own = [] if strict else prove(job, _numpy(job.module), float64_reference(job), ANY, match)
        noise = [c.part for c in own] or [0.0] * len(found)
        return [
            c if c.ok or c.failed else _judge_exact(c, wide, one)
            for c, wide, one in zip(found, exact, noise, strict=True)
        ]
    return list(found)


def _limit(found: Sequence[Comparison]) -> float:
    """The tolerance of comparisons; that of outputs in integers is 0."""
    return max(c.tolerance for c in found)


def _judge_exact(c: Comparison, wide: Comparison, noise: float) -> Comparison:
    """Judge an output beyond tolerance by the file's and torch's own differences to torch in float64.

    Args:
        c: the comparison with torch in float32.
        wide: that with torch in float64.
        noise: the difference of torch's float32 to its float64.
    """
    if wide.failed:
        return c
    allowed = max(wide.tolerance, min(NOISE_RATIO * noise, MAX_NOISE))
    if wide.part > allowed:
        return c
    remark = "compared with torch in float64"
    if wide.part > wide.tolerance:
        remark += f", from which torch's own float32 differs by {noise:.1e}"
    return replace(wide, tolerance=allowed, remark=remark)


def _allowed(file: Comparison, torch_half: Comparison) -> Comparison:
    """Raise the tolerance of a float16 file to the difference that torch's own float16 has."""
    if file.ok or file.failed or not np.isfinite(torch_half.part) or torch_half.part < file.tolerance:
        return file
    return replace(file, tolerance=torch_half.part, remark="torch's own float16 differs as much from its float32")


def _numpy(module: nn.Module) -> Run:
    def run(arrays: Sequence[np.ndarray]) -> Arrays:
        with torch.no_grad():
            return [x.numpy() for x in module(*map(torch.from_numpy, arrays))]

    return run


def float64_reference(job: Job) -> Reference:
    """A function that runs the network in torch in float64."""
    return torch_reference(replace(job, module=_Double(job.module)))


class _Double(nn.Module):
    """A float64 copy of a module, for inputs in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).double()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.module(*(x.double() if x.is_floating_point() else x for x in inputs)))


def harmless_cause(job: Job) -> str:
    """A harmless cause of a mismatch (random numbers, rounding of these weights); "" if none is found."""
    with suppress(Exception):  # a module may support float32 only
        again = prove(job, _numpy(job.module), torch_reference(job), FLOAT)
        if not all(c.ok for c in again):
            return "torch's own output changes from run to run: a module draws random numbers in eval mode"
        noise = max(c.part for c in prove(job, _numpy(job.module), float64_reference(job), ANY))
        if noise > FLOAT / 10:
            return f"torch's float32 differs from its float64 by {noise:.0e}: these weights lose that much precision"
    return ""


class SuppressionReference:
    """The reference for suppression: netbuild's own, on the network's raw outputs or those of ``raw``."""

    def __init__(
        self,
        network: Network,
        job: Job,
        chosen: Filter,
        raw: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None,
    ) -> None:
        self.nc = traits(network.head).nc
        self.chosen, self.raw = chosen, raw or (lambda inputs: job.module(*inputs)[0])

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Arrays:
        with torch.no_grad():
            found = suppress_overlaps(self.raw(inputs), self.chosen, self.nc)
        rows = torch.cat(found).numpy()
        index = np.repeat(np.arange(len(found)), [len(x) for x in found])
        return [rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), index.astype(np.int64)]


def safe_threshold(job: Job) -> float:
    """A confidence in the widest gap between the best scores, so that float noise moves no box across it."""
    best = [torch_reference(job)(case.inputs)[0][:, 4:].max(1).ravel() for case in cases(job)]
    ordered = -np.sort(-np.concatenate(best).astype(np.float64))[:MAX_SCORES]
    at = int((ordered[:-1] / ordered[1:].clip(1e-30)).argmax())
    return float(np.sqrt(ordered[at] * ordered[at + 1]))


def _write(chosen: Target, job: Job, draft: Path, path: Path) -> Sequence[str]:
    try:
        return chosen.write(job, draft)
    except OSError as error:
        raise cannot_write(path, error) from error
    except NetbuildError as error:
        if isinstance(error.__cause__, OSError):  # its message names the temporary file
            raise cannot_write(path, error.__cause__) from error
        raise


def _move(folder: Path, draft: Path, path: Path) -> None:
    """Move the finished file to its path, after the files that belong to it."""
    with writing(path):
        for entry in sorted(folder.iterdir(), key=lambda entry: entry == draft):
            final = path.parent / entry.name if entry != draft else path
            if final.is_dir():
                shutil.rmtree(final)
            entry.replace(final)


def _keep_failed(folder: Path, draft: Path, path: Path, suffix: str) -> Path:
    """Move a file that failed to NAME.failed; if it has other files beside it, as a folder of that name."""
    alone = len(list(folder.iterdir())) == 1
    failed = path.with_name(f"{path.name.removesuffix(suffix)}.failed{suffix if alone else ''}")
    with suppress(OSError, NetbuildError):
        if alone:
            _move(folder, draft, failed)
        else:
            shutil.rmtree(failed, ignore_errors=True)
            folder.chmod(0o755)
            folder.replace(failed)
    return failed


def _shapes(proof: Sequence[Comparison]) -> dict[str, Shapes]:
    """Type and shape of each output in every case."""
    return {name: [(c.type, c.shape) for c in proof if c.output == name] for name in {c.output: 0 for c in proof}}


def _own_shapes(network: Network, job: Job) -> dict[str, Shapes]:
    """Type and shape of each output by running the network, for a file that cannot be run here."""
    nms = job.options.get("nms")
    reference = SuppressionReference(network, job, nms) if nms else torch_reference(job)
    found = [reference(case.inputs) for case in cases(job)]
    return {name: [(str(x[i].dtype), x[i].shape) for x in found] for i, name in enumerate(job.outputs)}


def ports(job: Job, shapes: Mapping[str, Shapes]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs; a side that follows a free axis has its name, one that varies otherwise is "free"."""
    given = [[tuple(x.shape) for x in case.inputs] for case in cases(job)]
    free = {name: [case[0][axis] for case in given] for axis, name in job.axes[0].items()} if job.axes else {}
    inputs = [_port(name, "float32", [case[i] for case in given], free) for i, name in enumerate(job.inputs)]
    seen = {name: shapes[name][: len(given)] for name in job.outputs}
    outputs = [_port(name, found[0][0], [shape for _, shape in found], free) for name, found in seen.items()]
    if job.options.get("nms"):
        for port in outputs:
            port["shape"][0] = "detections"
    return tuple(inputs), tuple(outputs)


def _port(name: str, kind: str, shapes: Sequence[tuple[int, ...]], free: Mapping[str, list[int]]) -> Port:
    sides: list[int | str] = []
    for values in zip(*shapes, strict=True):
        follows = next((n for n, seen in free.items() if list(values) == seen), None)
        sides.append(follows or (values[0] if len(set(values)) == 1 else "free"))
    return {"name": name, "type": kind, "shape": sides}


def format_table(proof: Sequence[Comparison], width: int | None = None) -> list[str]:
    """The differences as lines of text, for a terminal of ``width`` columns or, by None, whole."""
    heads = ("output", "pictures", "shape", "max difference", "of max(1, |torch|)", "allowed", "")
    rows = [
        (c.output, c.case, "x".join(map(str, c.shape)), f"{c.difference:.1e}", f"{c.part:.1e}",
         "any" if c.tolerance == ANY else f"{c.tolerance:.0e}",
         "; ".join(filter(None, ("" if c.ok else "BEYOND", c.remark))))
        for c in proof
    ]  # fmt: skip
    return Table([heads, *rows], left=range(len(heads)), steps=[(6, 12), (2, 0), (4, 0), (1, 8), (0, 8)]).lines(width)
