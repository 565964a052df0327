"""Benchmark a network in torch and in exported formats: time, size, difference to torch, accuracy."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from netbuild.data import open_data
from netbuild.errors import MissingExtraError, NetbuildError, shorten
from netbuild.export import base, export
from netbuild.export.base import Job, Run, Target
from netbuild.export.jobs import make_job
from netbuild.export.making import torch_reference
from netbuild.export.options import BenchmarkKeywords, BenchmarkOptions, ExportOptions, read_keywords
from netbuild.export.proof import ProofError, cases, prove, sample_input
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.onnx_network import OnnxNetwork, RunNetwork, is_exported, open_exported
from netbuild.report.html import html_table
from netbuild.system.tables import Table
from netbuild.tasks.base import refuse_options
from netbuild.tasks.metric import main_measures
from netbuild.training.parts import task_class
from netbuild.training.validation import check_classes, check_task, validate
from netbuild.weights.building import build_graph

EAGER = "torch"  # name of the row for the network in eager torch
WARM_UP = 3  # warm-up runs before timing
_TEXTS = ("target", "remark")  # columns that are aligned to the left


@dataclass(frozen=True)
class Row:
    """The measurements of one target; None where one is missing.

    Args:
        target: name of the target or file.
        median_ms, p95_ms: time of a batch in milliseconds.
        images_per_s: computed from the median.
        size: size of the file or folder in bytes.
        difference: largest |difference| / max(1, |torch|) on packaged pictures.
        accuracy: the task's main measure by name, of several heads that of each; empty without data.
        remark: why measurements are missing.
        failed: whether the target's file differs from torch.
    """

    target: str
    median_ms: float | None = None
    p95_ms: float | None = None
    images_per_s: float | None = None
    size: int | None = None
    difference: float | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    remark: str = ""
    failed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {**vars(self), "accuracy": dict(self.accuracy) or None}

    def cells(self) -> dict[str, str]:
        """The row as text cells, by column."""
        measure = {name: f"{value:.4f}" for name, value in self.accuracy.items()}
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


class BenchmarkResult(list[Row]):
    """The rows of a benchmark, which print themselves as a table in a terminal and in a notebook."""

    def __str__(self) -> str:
        return str(self.__rich__())

    def __rich__(self) -> Table:
        """Return the table; on a narrow terminal remarks are cut first."""
        columns = self._columns()
        steps = {"remark": 12, "p95 ms": 0, "MB": 0, "images/s": 0, "target": 8}
        found = [(columns.index(name), least) for name, least in steps.items() if name in columns]
        return Table(self._table(), [i for i, name in enumerate(columns) if name in _TEXTS], found)

    def _repr_html_(self) -> str:
        columns, *rows = self._table()
        return html_table([dict(zip(columns, row, strict=True)) for row in rows])

    def _columns(self) -> list[str]:
        cells = [row.cells() for row in self]
        return sorted({name for row in cells for name in row}, key=lambda name: _column_order(name, cells))

    def _table(self) -> list[list[str]]:
        columns = self._columns()
        return [columns, *([row.cells().get(name, "") for name in columns] for row in self)]


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
    step: Callable[[], None] = lambda: None,
    **keywords: Unpack[BenchmarkKeywords],
) -> BenchmarkResult:
    """Measure a network on the CPU in eager torch and in exported formats, which take turns round by round.

    Args:
        file: a checkpoint, or a network's file, whose weights are random; or an ONNX file with metadata of netbuild or
            Ultralytics, which is measured alone, as there is no network to compare it with.
        files: exported files to measure too; after an ONNX file further ONNX files.
        step: called after every round, and after every prepared target.
        keywords: the flags of ``netbuild benchmark``, see `netbuild.export.options.BenchmarkOptions`, and how the
            network's file is read, see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        KeywordError: for a keyword that does not exist.
        NetbuildError: if file, targets or data are wrong. With target="all" a target that fails is a row with a
            remark instead.
    """
    renamed: Any = keywords
    if "targets" in renamed:  # its name before it became the flag of export, too
        renamed["target"] = renamed.pop("targets")
    options, opening = read_keywords(BenchmarkOptions, renamed)
    if is_exported(file):
        refuse_options({"target": options.target} if options.target != "all" else {}, "on an exported file")
        refuse_options(
            {name: x for name, x in opening.items() if x and name not in ("imgsz", "trusted")}, "on an exported file"
        )
        return benchmark_files([file, *files], options, step)
    named = _requested_targets(options, bool(files))
    network = build_graph(open_graph(file, **opening)).float().eval().fuse()
    job = make_job(network, ExportOptions(imgsz=options.imgsz, batch=options.batch))
    if options.data is not None:
        _check_data(network, options.data)
    folder, before = Path(tempfile.mkdtemp(prefix="netbuild-")), torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        bench = _Benchmark(network, job, options, folder)
        runners, failed = [_Runner(_torch_row(network), torch_run(job))], list[Row]()
        for prepared in bench.prepare(named, files):
            if isinstance(prepared, Row):
                failed.append(prepared)
            else:
                runners.append(prepared)
            step()
        _time(runners, [x.numpy() for x in next(cases(job)).inputs], options.rounds, step)
        return BenchmarkResult([*map(bench.finish, runners), *failed])
    finally:
        torch.set_num_threads(before)
        shutil.rmtree(folder, ignore_errors=True)


def benchmark_files(
    files: Sequence[str | Path], options: BenchmarkOptions, step: Callable[[], None] = lambda: None
) -> BenchmarkResult:
    """Measure ONNX files of which there is no network in torch: times, sizes, and accuracy if there is data.

    Raises:
        NetbuildError: if a file cannot be opened or run, its metadata does not fit its outputs, or the data differ.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        opened = []
        for path in map(Path, files):
            if not is_exported(path):
                raise NetbuildError(f"{path}: only ONNX files are measured beside an ONNX file")
            network = open_exported(path, "cpu")
            if options.data is not None:
                _check_data(network, options.data)
            size, _ = network.choose_size(options.imgsz, None)
            shape = (network.file.fixed_shape[0] or options.batch, network.card.ch, *size)
            runner = _Runner(Row(path.name, size=_bytes(path)), _file_run(network))
            opened.append((runner, [sample_input(shape).numpy()]))
            step()
        for _ in range(WARM_UP):
            for runner, inputs in opened:
                _run_timed(runner, inputs)
        for runner, _ in opened:
            runner.seconds.clear()
        for _ in range(options.rounds):
            for runner, inputs in opened:
                _run_timed(runner, inputs)
            step()
        return BenchmarkResult(
            _finish_file(runner, len(inputs[0]), path, options.data)
            for (runner, inputs), path in zip(opened, files, strict=True)
        )
    finally:
        torch.set_num_threads(before)


def _file_run(network: OnnxNetwork) -> Run:
    return lambda arrays: network.run(arrays[0])


def _finish_file(runner: _Runner, batch: int, path: str | Path, data: str | None) -> Row:
    """The row of a file with its times, and with accuracy if there is data."""
    row = _timed_row(runner, batch)
    if data is None:
        return row
    measures, _ = validate(path, data)
    return replace(row, accuracy=main_measures(task_class(open_exported(path, "cpu").card).measures, measures))


def _timed_row(runner: _Runner, batch: int) -> Row:
    median, p95 = (float(np.quantile(runner.seconds, q)) for q in (0.5, 0.95))
    return replace(runner.row, median_ms=1e3 * median, p95_ms=1e3 * p95, images_per_s=batch / median)


def _run_timed(runner: _Runner, inputs: Sequence[np.ndarray]) -> None:
    began = time.perf_counter()
    runner.run(inputs)
    runner.seconds.append(time.perf_counter() - began)


def torch_run(job: Job) -> Run:
    """A function that runs the network in torch, from arrays to arrays."""
    run = torch_reference(job)
    return lambda arrays: run([torch.from_numpy(x) for x in arrays])


def _column_order(key: str, cells: Sequence[dict[str, str]]) -> tuple[bool, int]:
    """Sort key of a column: in order of appearance, remarks last."""
    return key == "remark", max(list(row).index(key) for row in cells if key in row)


def _requested_targets(options: BenchmarkOptions, has_files: bool) -> list[str]:
    """The names of the requested targets; "all" means none if there are files to measure."""
    if options.target == "all":
        return [] if has_files else base.names()
    found = [name.strip() for name in options.target.split(",") if name.strip() != EAGER]
    for name in found:
        base.check_packages(base.find(name))
        if "calibrate" in base.find(name).needs and options.data is None:
            raise NetbuildError(f"the target '{name}' needs calibration pictures", hint="give them by --data")
    return found


def _check_data(network: Network, data: str) -> None:
    """Refuse data of another task or with other classes before anything is timed.

    Raises:
        NetbuildError: if task or classes differ.
    """
    dataset = open_data(data)
    check_task(task_class(network.card), dataset)
    check_classes(network, dataset)


def _torch_row(network: Network) -> Row:
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return Row(EAGER, size=size, difference=0.0)


@dataclass
class _Benchmark:
    """A network in torch, and what its exported formats are measured with.

    Args:
        network: fused and in eval mode.
        job: the network's job, whose example inputs every format gets.
        options: those of `benchmark`.
        folder: a temporary folder for exported files.
    """

    network: Network
    job: Job
    options: BenchmarkOptions
    folder: Path

    def prepare(self, names: Sequence[str], files: Sequence[str | Path]) -> Iterator[_Runner | Row]:
        """Yield every target and file ready to run, or a row that says why it cannot."""
        for name in names:
            try:
                yield self._export(base.find(name))
            except ProofError as error:
                yield Row(name, remark=_reason(error), failed=True)
            except NetbuildError as error:
                if self.options.target != "all":
                    raise
                yield Row(name, remark=_reason(error))
        for file in files:
            yield self._open(Path(file))

    def _export(self, chosen: Target) -> _Runner:
        """Export to a target and prove the file."""
        calibrate = self.options.data if "calibrate" in chosen.needs else None
        if "calibrate" in chosen.needs and calibrate is None:
            raise NetbuildError("needs calibration pictures: give them by --data")
        example = self.job.examples[0]
        size = (example.shape[2], example.shape[3]) if example.ndim == 4 else None
        path = self.folder / f"net{chosen.suffix}"
        done = export(
            self.network, path, target=chosen.name, imgsz=size, batch=len(example), fuse=False, calibrate=calibrate,
            tolerance=None if chosen.barrier() else self.options.tolerance,
        )  # fmt: skip
        row = Row(chosen.name, size=done.size, difference=done.difference)
        return _Runner(row, chosen.open_fast(path, self.options.threads))

    def _open(self, path: Path) -> _Runner:
        """Open an exported file and compare it with the network.

        Raises:
            NetbuildError: if no target has its suffix, a package is missing, or its inputs differ from the network's.
        """
        chosen = _target_of(path)
        base.check_packages(chosen)
        try:
            run = chosen.open_fast(path, self.options.threads)
            match = "rows" if self.job.lists else ""
            found = prove(self.job, run, torch_reference(self.job), base.ANY, match)
        except NetbuildError as error:
            error.message = f"{path}: {error.message}"
            raise
        except Exception as error:  # runtimes raise classes of their own
            raise NetbuildError(f"{path}: cannot be run: {shorten(error, 200)}") from error
        if other := next((c for c in found if c.failed), None):
            raise NetbuildError(f"{path}: does not match the network: its {other.output} is {other.remark}")
        return _Runner(Row(path.name, size=_bytes(path), difference=max(c.part for c in found)), run)

    def finish(self, runner: _Runner) -> Row:
        """The row with its times, and with accuracy if there is data."""
        row = _timed_row(runner, len(self.job.examples[0]))
        if self.options.data is None:
            return row
        shape = tuple(self.job.examples[0].shape)
        network = RunNetwork(self.network, lambda arrays: list(runner.run(arrays)), shape)
        measures, _ = validate(network, self.options.data)
        return replace(row, accuracy=main_measures(task_class(self.network.card).measures, measures))


def _target_of(path: Path) -> Target:
    """The target that writes files of this suffix.

    Raises:
        NetbuildError: if there is none, or no such file.
    """
    if not path.exists():
        raise NetbuildError(f"{path}: does not exist")
    targets = [base.find(name) for name in base.names()]
    matching = [chosen for chosen in targets if path.name.endswith(chosen.suffix)]
    if not matching:
        raise NetbuildError(f"{path}: its name ends in none of {', '.join(chosen.suffix for chosen in targets)}")
    return max(matching, key=lambda chosen: len(chosen.suffix))  # .int8.onnx before .onnx


def _reason(error: NetbuildError) -> str:
    """The error in one line, without the name of the temporary file."""
    message = error.message.splitlines()[0]
    if isinstance(error, ProofError):
        message = message.partition(": ")[2] or message
    has_hint = isinstance(error, (MissingExtraError, ProofError)) and error.hint
    return f"{message}: {error.hint}" if has_hint else message


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _time(runners: Sequence[_Runner], inputs: Sequence[np.ndarray], rounds: int, step: Callable[[], None]) -> None:
    """Time all runners in turn, round by round, so that other load on the machine affects all alike."""
    for runner in runners:
        for _ in range(WARM_UP):
            runner.run(inputs)
    for _ in range(rounds):
        for runner in runners:
            _run_timed(runner, inputs)
        step()


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
