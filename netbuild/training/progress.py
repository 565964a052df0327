"""The progress of scans, training and validation on stderr: bars on a terminal, one line per epoch elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from netbuild.data.scanning import Report
from netbuild.system.devices import peak_bytes
from netbuild.system.tables import Line, terminal_width
from netbuild.tasks.metric import UNDEFINED
from netbuild.training.callbacks import Callback
from netbuild.training.loop import Trainer


def epoch_line(trainer: Trainer, epoch: int, epochs: int, measures: Mapping[str, float], best: bool) -> str:
    """Return an epoch's losses and main metrics in one line."""
    losses = [f"{name[6:]} {value:.4f}" for name, value in measures.items() if name.startswith("train/")]
    scores = [
        f"{name} {measures[name]:.4f}"
        for name in ("fitness", *trainer.task.measures)
        if measures.get(name, UNDEFINED) != UNDEFINED
    ]
    took = f"{trainer.progress.seconds / max(epoch, 1):.1f} s an epoch"
    return f"epoch {epoch}/{epochs}: " + ", ".join([*losses, *scores, took, *(["best so far"] if best else [])])


MIN_BAR, MAX_BAR = 10, 40  # width of a bar in columns of the terminal


def fit_bar(room: int, title: str, losses: Sequence[str], facts: tuple[str, str, str]) -> tuple[str, str, int]:
    """Return the texts before and after a training bar, and the bar's width, so that all fit one line of a terminal.

    What does not fit is left out in this order: memory, the losses from the last, images per second, time left.

    Args:
        room: columns of the terminal for texts and bar.
        title: the epoch, which is always shown.
        losses: the parts of the loss.
        facts: images per second, memory and the time left.
    """
    rate, memory, left = facts
    shown = [([*losses], [rate, memory, left])]
    shown += [([*losses[:count]], [rate, left]) for count in range(len(losses), -1, -1)]
    shown += [([], [left]), ([], [])]
    for parts, numbers in shown:
        before, after = " ".join([title, *parts]), ", ".join(numbers)
        free = room - len(before) - len(after) - 3  # three blanks, between four columns
        if free >= MIN_BAR:
            break
    return before, after, max(min(free, MAX_BAR), 1)


class ProgressBar(Callback):
    """Shows a run on stderr: a bar with rate and losses on a terminal, a line after each epoch everywhere."""

    def __init__(self) -> None:
        self.bar: Any = None  # rich's progress bar during the run, if stderr is a terminal
        self.seen = 0  # batches since the run began
        self.phase = ""  # of the validation data that is being predicted: the epoch's measures, or the plots at the end

    def on_run_begin(self, run: Trainer) -> None:
        """Start the bar on a terminal."""
        self.started = time.monotonic()
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        rate, self.meter = TextColumn("{task.fields[rate]}"), BarColumn()
        columns = [TextColumn("{task.description}"), self.meter, MofNCompleteColumn(), rate]
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.line = self.bar.add_task("", total=1, rate="")
        self.bar.start()

    def on_epoch_begin(self, run: Trainer, epoch: int) -> None:
        """Measure the epoch's images per second from here."""
        self.epoch_started = time.monotonic()

    def on_batch_end(self, run: Trainer, epoch: int, number: int, losses: Mapping[str, float], rate: float) -> None:
        """Update the bar: losses, images per second, memory and the time that is left."""
        self.seen += 1
        if self.bar is None:
            return
        epochs, batches, now = run.settings.epochs, len(run.train), time.monotonic()
        images = number * run.settings.batch / max(now - self.epoch_started, 1e-9)
        ahead = (epochs - epoch) * batches - number  # the time so far includes validation, so the estimate does too
        left = timedelta(seconds=round((now - self.started) / self.seen * ahead))
        facts = f"{images:.0f} images/s", f"{memory_in_use(run.device) / 1e9:.2f} GB", f"{left} left"
        parts = [f"{name} {value:.3f}" for name, value in losses.items()]
        room = self.bar.console.width - 2 * len(str(batches)) - 1  # beside the number of batches, such as 12/100
        title, rate_text, self.meter.bar_width = fit_bar(room, f"epoch {epoch + 1}/{epochs}", parts, facts)
        self.bar.update(self.line, description=title, completed=number, total=batches, rate=rate_text)

    def on_validation_begin(self, run: Trainer) -> None:
        """Name the epoch whose weights are measured."""
        self.phase = f"epoch {run.progress.epoch}/{run.settings.epochs} validation"

    def on_validation_batch(self, done: int, total: int) -> None:
        """Move the bar by a batch of validation data."""
        if self.bar is not None:
            self.bar.update(self.line, description=self.phase, completed=done, total=total, rate="")

    def on_validation_end(self, run: Trainer, measures: Mapping[str, float]) -> None:
        """Name what is predicted for after the last epoch's validation."""
        self.phase = "plots"

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Print the epoch's line."""
        line = epoch_line(run, run.progress.epoch, run.settings.epochs, measures, best)
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self.bar.console.print(Line(line), highlight=False)

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()


def memory_in_use(device: torch.device) -> int:
    """Return the bytes in use: those of tensors on a CUDA device, otherwise the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # no Linux: the most that it held so far, where that is known
        return peak_bytes()


@contextmanager
def progress_bar(total: int | None, patience: float = 2.0) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step; on a terminal a progress bar appears after `patience` seconds.

    Args:
        total: number of steps; None if unknown.
        patience: seconds before there is a bar.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    shared = sys.stdout.isatty()  # else lines for a file would be drawn into, and lost to, the terminal
    progress = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=shared)
    bar, began = progress.add_task("", total=total), time.monotonic()

    def step() -> None:
        progress.advance(bar)
        if not progress.live.is_started and time.monotonic() - began > patience:
            progress.start()

    try:
        yield step
    finally:
        progress.stop()


@contextmanager
def scan_progress(brief: bool = False) -> Iterator[Callback]:
    """Context that yields a callback which shows the progress of a scan or a validation on stderr.

    Args:
        brief: whether the scan's report is printed only if something was dropped.
    """
    with progress_bar(None) as step:

        class ScanProgress(Callback):
            in_run = False  # a run shows its validation by its own bar

            def on_run_begin(self, run: Trainer) -> None:
                self.in_run = True

            def on_scan_picture(self, split: str, done: int, total: int) -> None:
                step()

            def on_validation_batch(self, done: int, total: int) -> None:
                if not self.in_run:
                    step()

            def on_scan_end(self, report: Report) -> None:
                counts = [split.counts for split in report.splits.values()]
                if not brief or any(c["dropped_pictures"] or c["dropped_boxes"] for c in counts):
                    print(report.text(terminal_width(sys.stderr)), file=sys.stderr, flush=True)

        yield ScanProgress()


@contextmanager
def terminal_progress(enabled: bool, brief: bool = True) -> Iterator[list[Callback]]:
    """Context that yields the callbacks by which a call from Python shows its progress, if stderr is a terminal.

    Args:
        enabled: False yields no callbacks.
        brief: as for `scan_progress`.
    """
    if not (enabled and sys.stderr.isatty()):
        yield []
        return
    with scan_progress(brief) as scanning:
        yield [scanning, ProgressBar()]
