"""Benchmark a network in torch and in exported formats: time, size, difference to torch, accuracy."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.data import open_data
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.export import base, export
from netbuild.export.base import Job, Run, Target
from netbuild.export.jobs import ExportRequest, make_job
from netbuild.export.making import torch_reference
from netbuild.export.proof import ProofError, cases, prove
from netbuild.graph.network import Network
from netbuild.graph.opening import Size, expand_size, open_graph
from netbuild.prediction.contract import ranks
from netbuild.prediction.onnx_network import RunNetwork
from netbuild.system.tables import align
from netbuild.training.parts import task_class
from netbuild.training.validation import check_classes, check_task, validate
from netbuild.weights.building import build_graph

EAGER = "torch"  # name of the row for the network in eager torch
WARM = 3  # warm-up runs before timing


@dataclass(frozen=True)
class Row:
    """The measurements of one target; None where one is missing.

    Args:
        target: name of the target or file.
        median_ms, p95_ms: time of a batch in milliseconds.
        images_per_s: computed from the median.
        size: size of the file or folder in bytes.
        difference: largest |difference| / max(1, |torch|) on packaged pictures.
        accuracy: name and value of the task's main measure.
        remark: why measurements are missing.
    """

    target: str
    median_ms: float | None = None
    p95_ms: float | None = None
    images_per_s: float | None = None
    size: int | None = None
    difference: float | None = None
    accuracy: tuple[str, float] | None = None
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {**vars(self), "accuracy": dict([self.accuracy]) if self.accuracy else None}

    def cells(self) -> dict[str, str]:
        """The row as text cells, by column."""
        measure = {self.accuracy[0]: f"{self.accuracy[1]:.4f}"} if self.accuracy else {}
        return {
            "target": self.target,
            "median ms": _text(self.median_ms, ".2f"),
            "p95 ms": _text(self.p95_ms, ".2f"),
            "images/s": _text(self.images_per_s, ".1f"),
            "MB": _text(None if self.size is None else self.size / 1e6, ".2f"),
            "difference": _text(self.difference, ".1e"),
            **measure,
            **({"remark": self.remark} if self.remark else {}),
        }


@dataclass
class _Runner:
    """A function to time, with its row so far and its measured seconds."""

    row: Row
    run: Run
    seconds: list[float] = field(default_factory=list)


def benchmark(
    file: str | Path,
    files: Sequence[str | Path] = (),
    *,
    targets: str = "all",
    imgsz: Size = None,
    batch: int = 1,
    data: str | None = None,
    threads: int = 1,
    rounds: int = 50,
    step: Callable[[], None] = lambda: None,
    **opening: Any,
) -> list[Row]:
    """Measure a network in eager torch and in other forms, round by round in turn, on the CPU.

    Args:
        file: a checkpoint, or a network's file, whose weights are random.
        files: exported files to measure too.
        targets: "all", or comma-separated names.
        imgsz: side, or (height, width), in pixels; the network's own unless given.
        batch: batch size.
        data: a data set for accuracy and for int8 calibration.
        threads: number of threads of every runtime.
        rounds: number of timed runs of each target.
        step: called after every round, and after every prepared target.
        opening: scale, nc, ch, modules, trusted, set, as for `netbuild.build`.

    Raises:
        NetbuildError: if file, targets or data are wrong. With targets="all" a target that fails is a row with
            a remark instead.
    """
    if batch < 1 or threads < 1 or rounds < 1:
        raise NetbuildError("batch, threads and rounds are at least 1")
    named = _named(targets, bool(files), data)
    size = expand_size(imgsz)
    network = build_graph(open_graph(file, imgsz=size, **opening)).float().eval().fuse()
    job = make_job(network, ExportRequest(size, batch, None, None, None, {}))
    if data is not None:
        _check_data(network, data)
    folder, before = Path(tempfile.mkdtemp(prefix="netbuild-")), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runners, lost = [_Runner(_torch_row(network), plain_run(job))], list[Row]()
        for ready in _all(named, files, network, job, folder, threads, data, targets == "all"):
            if isinstance(ready, Row):
                lost.append(ready)
            else:
                runners.append(ready)
            step()
        _time(runners, [x.numpy() for x in next(cases(job)).inputs], rounds, step)
        return [_finished(r, network, job, data) for r in runners] + lost
    finally:
        torch.set_num_threads(before)
        shutil.rmtree(folder, ignore_errors=True)


def text(rows: Sequence[Row]) -> str:
    """The rows as a text table."""
    cells = [row.cells() for row in rows]
    columns = sorted({key for row in cells for key in row}, key=lambda key: _place(key, cells))
    lines = [columns, *([row.get(column, "") for column in columns] for row in cells)]
    return "\n".join(align(lines, [i for i, column in enumerate(columns) if column in ("target", "remark")]))


def plain_run(job: Job) -> Run:
    """A function that runs the network in torch, from arrays to arrays."""
    run = torch_reference(job)
    return lambda arrays: run([torch.from_numpy(x) for x in arrays])


def _place(key: str, cells: Sequence[dict[str, str]]) -> tuple[bool, int]:
    """Sort key of a column: in order of appearance, remarks last."""
    return key == "remark", max(list(row).index(key) for row in cells if key in row)


def _named(targets: str, given: bool, data: str | None) -> list[str]:
    """Names of the requested targets; "all" means none if files are given."""
    if targets == "all":
        return [] if given else base.names()
    found = [name.strip() for name in targets.split(",") if name.strip() != EAGER]
    for name in found:
        base.check_packages(base.find(name))
        if "calibrate" in base.find(name).needs and data is None:
            raise NetbuildError(f"the target '{name}' needs calibration pictures", hint="give them by --data")
    return found


def _check_data(network: Network, data: str) -> None:
    """Refuse data of another task or with other classes before anything is timed.

    Raises:
        NetbuildError: if task or classes differ.
    """
    dataset = open_data(data)
    check_task(task_class(network.card.task), dataset)
    check_classes(network, dataset)


def _torch_row(network: Network) -> Row:
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return Row(EAGER, size=size, difference=0.0)


def _all(
    named: Sequence[str], files: Sequence[str | Path], network: Network, job: Job, folder: Path, threads: int,
    data: str | None, lenient: bool,
) -> Iterator[_Runner | Row]:  # fmt: skip
    """Yield every target and file ready to run, or a row that says why it cannot."""
    for name in named:
        try:
            yield _exported(base.find(name), network, job, folder, threads, data)
        except NetbuildError as error:
            if not lenient:
                raise
            yield Row(name, remark=_reason(error))
    for file in files:
        yield _given(Path(file), network, job, threads)


def _reason(error: NetbuildError) -> str:
    """The error in one line, without the name of the temporary file."""
    said = error.message.splitlines()[0]
    if isinstance(error, ProofError):
        said = said.partition(": ")[2] or said
    return f"{said}: {error.hint}" if isinstance(error, (MissingExtraError, ProofError)) and error.hint else said


def _exported(
    chosen: Target, network: Network, job: Job, folder: Path, threads: int, data: str | None
) -> _Runner:  # fmt: skip
    """Export to a target and prove the file."""
    more = {}
    if "calibrate" in chosen.needs:
        if data is None:
            raise NetbuildError("needs calibration pictures: give them by --data")
        more = {"calibrate": data}
    batch, _, *size = job.examples[0].shape if job.examples[0].ndim == 4 else (len(job.examples[0]), 0)
    place, sides = folder / f"net{chosen.suffix}", (size[0], size[1]) if size else None
    done = export(network, place, target=chosen.name, imgsz=sides, batch=batch, fuse=False, more=more)
    return _Runner(Row(chosen.name, size=done.size, difference=done.difference), chosen.quick(place, threads))


def _given(path: Path, network: Network, job: Job, threads: int) -> _Runner:
    """Open an exported file and compare it with the network.

    Raises:
        NetbuildError: if no target has its suffix, a package is missing, or its inputs differ from the network's.
    """
    fits = [t for t in map(base.find, base.names()) if path.name.endswith(t.suffix)]
    if not fits or not path.exists():
        known = ", ".join(base.find(name).suffix for name in base.names())
        said = "does not exist" if not path.exists() else f"its name ends in none of {known}"
        raise NetbuildError(f"{path}: {said}")
    chosen = max(fits, key=lambda t: len(t.suffix))
    base.check_packages(chosen)
    try:
        run = chosen.quick(path, threads)
        match = "rows" if ranks(network.model[-1]) else ""
        found = prove(job, run, torch_reference(job), base.ANY, match)
    except NetbuildError as error:
        error.message = f"{path}: {error.message}"
        raise
    except Exception as error:  # runtimes raise classes of their own
        raise NetbuildError(f"{path}: cannot be run: {' '.join(str(error).split())[:200]}") from error
    if other := next((c for c in found if c.failed), None):
        raise NetbuildError(f"{path}: does not match the network: its {other.output} is {other.remark}")
    return _Runner(Row(path.name, size=_bytes(path), difference=max(c.part for c in found)), run)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _time(runners: Sequence[_Runner], inputs: Sequence[np.ndarray], rounds: int, step: Callable[[], None]) -> None:
    """Time all runners in turn, round by round, so that other load on the machine affects all alike."""
    for runner in runners:
        for _ in range(WARM):
            runner.run(inputs)
    for _ in range(rounds):
        for runner in runners:
            began = time.perf_counter()
            runner.run(inputs)
            runner.seconds.append(time.perf_counter() - began)
        step()


def _finished(runner: _Runner, network: Network, job: Job, data: str | None) -> Row:
    """The row with its times, and with accuracy if there is data."""
    median, p95 = (float(np.quantile(runner.seconds, q)) for q in (0.5, 0.95))
    rate = len(job.examples[0]) / median
    row = replace(runner.row, median_ms=1e3 * median, p95_ms=1e3 * p95, images_per_s=rate)
    if data is None:
        return row
    shape = tuple(job.examples[0].shape)
    ran = RunNetwork(network, lambda arrays: list(runner.run(arrays)), shape)
    measures, _ = validate(ran, data)
    shown = task_class(network.card.task).measures
    return replace(row, accuracy=next(((m, measures[m]) for m in shown if measures.get(m, -1) >= 0), None))


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
