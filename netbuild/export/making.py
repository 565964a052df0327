"""From a job to a proven file: write a draft, run it beside torch, give it its name; what failed gets another.

Only where a target's files cannot be run on this machine, and the user says so, is a file without proof.
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
from netbuild.export.parts import Halved
from netbuild.export.proof import Arrays, Comparison, ProofError, Reference, cases, prove
from netbuild.graph.network import Network
from netbuild.prediction.contract import ranks, task_of
from netbuild.system.files import cannot_write, temporary_folder, writing
from netbuild.system.tables import align
from netbuild.tasks.nms import Filter

ENOUGH = 2000  # cells of highest score among which a proof of suppression chooses, where no box is found by itself
Shapes = list[tuple[str, tuple[int, ...]]]  # type and shape of an output, case by case
Port = dict[str, Any]  # name, type and shape of an input or output; a free side is a text


@dataclass(frozen=True)
class Exported:
    """A file that was written, and proven unless it cannot be run here.

    Args:
        path: of the file or folder.
        target: its kind.
        network: name of the network.
        size: bytes, with a second file of weights if there is one.
        notes: exporter, opset, and what came of flags.
        inputs, outputs: names, types and shapes.
        proof: every output of every case beside torch's; empty of a file that cannot be run here.
        seconds: of ``write`` and ``proof``.
        metadata: what the file says of itself.
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
        """Whether the file was run beside torch."""
        return bool(self.proof)

    @property
    def difference(self) -> float | None:
        """The largest |difference| / max(1, |reference|) of the proof; None without one."""
        return max((c.part for c in self.proof), default=None)

    @property
    def equal(self) -> bool:
        """Whether the file was held to a tolerance; a quantised one is not, nor one without proof."""
        return self.proven and all(c.tolerance < ANY for c in self.proof)

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        known = {**vars(self), "path": str(self.path), "proof": [c.to_dict() for c in self.proof]}
        return {**known, "proven": self.proven, "difference": self.difference, "equal": self.equal}

    def text(self) -> str:
        """For people: how it was written, what goes in and out, the table of differences, the file."""
        ports = [f"{way:6}  {p['name']}  {p['type']}  {p['shape']}" for way, ps in self._ways() for p in ps]
        lines = [*self.notes, *ports, f"layout  {self.metadata['layout']}", *(table(self.proof) if self.proven else ())]
        return "\n".join([*lines, f"{self.path}: {self.network}, {self.size:,} bytes, {self._verdict()}"])

    def _verdict(self) -> str:
        if not self.proven:
            return f"NOT PROVEN here: {self.barrier}; there `netbuild benchmark` compares it with torch"
        return "proven equal to torch" if self.equal else "not equal to torch, nor meant to be: see the differences"

    def _ways(self) -> list[tuple[str, tuple[Port, ...]]]:
        return [("input", self.inputs), ("output", self.outputs)]


def make(network: Network, job: Job, chosen: Target, path: Path) -> Exported:
    """Write into a folder of its own beside the target, prove where it runs, move; nothing half-written is ever seen.

    Raises:
        ProofError: if the file differs from the network; it is kept as NAME.failed.
        NetbuildError: if it cannot be written.
    """
    with temporary_folder(path) as folder:
        draft = folder / path.name
        start = time.perf_counter()
        notes = _written(chosen, job, draft, path)
        middle = time.perf_counter()
        try:
            proof = [] if chosen.barrier() else proven(network, job, chosen, draft)
        except ProofError as error:
            error.message = f"{path}: {error.message}\nit is kept as {_keep(folder, draft, path, chosen.suffix)}"
            raise
        seconds = {"write": middle - start, "proof": time.perf_counter() - middle}
        size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
        _move(folder, draft, path)
    inputs, outputs = ports(job, _shapes(proof) or _own_shapes(network, job))
    name, parts = str(network.card.name), (tuple(notes), inputs, outputs, tuple(proof))
    return Exported(path, chosen.name, name, size, *parts, seconds, job.metadata, chosen.barrier())


def proven(network: Network, job: Job, chosen: Target, draft: Path) -> list[Comparison]:
    """The file beside torch, output by output.

    Raises:
        ProofError: with the table, if one is beyond tolerance.
    """
    tolerance = chosen.tolerance(job.options)
    if job.options.get("nms"):
        found = suppression_proof(network, job, chosen, draft, tolerance)
    else:
        found = looked(job, chosen.open(draft), tolerance, "rows" if ranks(network.model[-1]) else "")
    if not all(c.ok for c in found):
        worst = f"the file differs from torch by {max(c.part for c in found):.1e}"
        raise ProofError("\n".join([worst, *table(found)]), hint=blamed(job))
    return found


def plain(job: Job) -> Reference:
    """What the network gives."""

    def run(inputs: Sequence[torch.Tensor]) -> Arrays:
        with torch.no_grad():
            return [x.detach().numpy() for x in job.module(*inputs)]

    return run


def suppression_proof(network: Network, job: Job, chosen: Target, draft: Path, tolerance: float) -> list[Comparison]:
    """What the file keeps beside what netbuild keeps; where that tells nothing, in two steps.

    Without a box there is nothing to compare, and which of two close scores passes a threshold is up to noise. Then the
    raw outputs are compared with torch's, and what becomes of them with what netbuild makes of the same.
    """
    nms = job.options["nms"]
    found = prove(job, chosen.open(draft), Suppressed(network, job, nms), tolerance, "index")
    some = any(np.prod(c.shape) for c in found)
    if some and all(c.ok for c in found):
        return found
    conf = nms.conf if some else telling(job)
    run = chosen.loosened(draft, conf)

    def raw(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(run([x.numpy() for x in inputs])[-1])

    steps = looked(replace(job, outputs=("raw",)), lambda x: run(x)[-1:], tolerance, "")
    looser = replace(job, options={**job.options, "nms": replace(nms, conf=conf)})
    reference = Suppressed(network, looser, looser.options["nms"], raw)
    said = prove(looser, lambda x: run(x)[:-1], reference, tolerance, "index")
    return [*([] if some else found), *steps, *(replace(c, case=f"{c.case}, conf {conf:.1e}") for c in said)]


def looked(job: Job, run: Run, tolerance: float, match: str) -> list[Comparison]:
    """As `prove`, with a second look at what is beyond tolerance."""
    found = prove(job, run, plain(job), tolerance, match)
    return found if all(c.ok for c in found) else second_look(job, run, found, match)


def second_look(job: Job, run: Run, found: Sequence[Comparison], match: str) -> list[Comparison]:
    """What is beyond tolerance, judged once more where torch itself loses as much.

    In float32 the file is held to the same tolerance beside torch in float64, so that the noise of torch's own float32
    does not count against it. With half weights it may lose what torch's own float16 loses on the same pictures.
    """
    with suppress(Exception):  # a module that knows float32 only: then the first look stands
        if job.half:
            own = prove(job, _numpy(Halved(job.module)), plain(job), ANY, match)
            return [_allowed(c, torchs) for c, torchs in zip(found, own, strict=True)]
        exact = prove(job, run, _exactly(job), FLOAT, match)
        return [
            replace(wide, remark="beside torch in float64") if wide.ok and not c.ok else c
            for c, wide in zip(found, exact, strict=True)
        ]
    return list(found)


def _allowed(file: Comparison, torchs: Comparison) -> Comparison:
    if file.ok or file.failed or not np.isfinite(torchs.part) or torchs.part < file.tolerance:
        return file
    return replace(file, tolerance=torchs.part, remark="torch's own float16 is that far from its float32")


def _numpy(module: nn.Module) -> Run:
    def run(arrays: Sequence[np.ndarray]) -> Arrays:
        with torch.no_grad():
            return [x.numpy() for x in module(*map(torch.from_numpy, arrays))]

    return run


def _exactly(job: Job) -> Reference:
    """What the network gives in float64."""
    return plain(replace(job, module=_Double(job.module)))


class _Double(nn.Module):
    """A float64 copy of a module, for inputs in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).double()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.module(*(x.double() if x.is_floating_point() else x for x in inputs)))


def blamed(job: Job) -> str:
    """Why a file may differ that was written rightly; "" where nothing of the kind is seen."""
    with suppress(Exception):  # a module that knows float32 only says nothing
        again = prove(job, _numpy(job.module), plain(job), FLOAT)
        if not all(c.ok for c in again):
            return "torch itself gives another output each time: a module draws random numbers in eval"
        noise = max(c.part for c in prove(job, _numpy(job.module), _exactly(job), ANY))
        if noise > FLOAT / 10:
            return f"torch's float32 is {noise:.0e} from its float64 here: these weights lose that much"
    return ""


class Suppressed:
    """What netbuild makes of the network's detections, or those given: boxes, scores, classes, index."""

    def __init__(
        self,
        network: Network,
        job: Job,
        chosen: Filter,
        raw: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None,
    ) -> None:
        task = task_of(network)
        assert task is not None
        self.task, self.chosen, self.raw = task, chosen, raw or (lambda inputs: job.module(*inputs)[0])

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Arrays:
        with torch.no_grad():
            found = self.task.decode(self.raw(inputs), **vars(self.chosen))
        rows = torch.cat(found).numpy()
        index = np.repeat(np.arange(len(found)), [len(x) for x in found])
        return [rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), index.astype(np.int64)]


def telling(job: Job) -> float:
    """A least score that some cells pass, where scores are farthest apart: noise is not to decide which pass."""
    best = [plain(job)(case.inputs)[0][:, 4:].max(1).ravel() for case in cases(job)]
    ordered = -np.sort(-np.concatenate(best).astype(np.float64))[:ENOUGH]
    at = int((ordered[:-1] / ordered[1:].clip(1e-30)).argmax())
    return float(np.sqrt(ordered[at] * ordered[at + 1]))


def _written(chosen: Target, job: Job, draft: Path, path: Path) -> Sequence[str]:
    try:
        return chosen.write(job, draft)
    except OSError as error:
        raise cannot_write(path, error) from error
    except NetbuildError as error:
        if isinstance(error.__cause__, OSError):  # it names the temporary file
            raise cannot_write(path, error.__cause__) from error
        raise


def _move(folder: Path, draft: Path, path: Path) -> None:
    """The finished file to its name, what lies beside it first."""
    with writing(path):
        for entry in sorted(folder.iterdir(), key=lambda entry: entry == draft):
            final = path.parent / entry.name if entry != draft else path
            if final.is_dir():
                shutil.rmtree(final)
            entry.replace(final)


def _keep(folder: Path, draft: Path, path: Path, suffix: str) -> Path:
    """The file that failed, under a name that says so; with what lies beside it, in a folder of that name."""
    alone = len(list(folder.iterdir())) == 1
    kept = path.with_name(f"{path.name.removesuffix(suffix)}.failed{suffix if alone else ''}")
    with suppress(OSError, NetbuildError):
        if alone:
            _move(folder, draft, kept)
        else:
            shutil.rmtree(kept, ignore_errors=True)
            folder.chmod(0o755)
            folder.replace(kept)
    return kept


def _shapes(proof: Sequence[Comparison]) -> dict[str, Shapes]:
    """Of each output its type and shape in every case."""
    return {name: [(c.type, c.shape) for c in proof if c.output == name] for name in {c.output: 0 for c in proof}}


def _own_shapes(network: Network, job: Job) -> dict[str, Shapes]:
    """The same as the network itself has it, of a file that cannot be run here."""
    nms = job.options.get("nms")
    reference = Suppressed(network, job, nms) if nms else plain(job)
    found = [reference(case.inputs) for case in cases(job)]
    return {name: [(str(x[i].dtype), x[i].shape) for x in found] for i, name in enumerate(job.outputs)}


def ports(job: Job, shapes: Mapping[str, Shapes]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs: a side that followed a free one has its name, one that changed otherwise is free."""
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


def table(proof: Sequence[Comparison]) -> list[str]:
    """The differences as lines of text."""
    heads = ("output", "pictures", "shape", "max difference", "of max(1, |torch|)", "allowed", "")
    rows = [
        (c.output, c.case, "x".join(map(str, c.shape)), f"{c.difference:.1e}", f"{c.part:.1e}",
         "any" if c.tolerance == ANY else f"{c.tolerance:.0e}",
         "; ".join(filter(None, ("" if c.ok else "BEYOND", c.remark))))
        for c in proof
    ]  # fmt: skip
    return align([heads, *rows], left=range(len(heads)))
