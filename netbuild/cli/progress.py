"""Progress of a training run on stderr: a bar with rate and losses on a terminal, one line per epoch elsewhere."""

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
from netbuild.system.processes import is_first
from netbuild.system.tables import align
from netbuild.training.loop import Reporter, Trainer
from netbuild.training.parts import Onlooker


@contextmanager
def reporter(trainer: Trainer) -> Iterator[Reporter]:
    """Yield the reporter that prints a run's progress to stderr."""
    if not is_first():
        yield Reporter()
    elif sys.stderr.isatty():
        with _bar(trainer) as told:
            yield told
    else:
        yield Reporter(epoch=lambda **facts: print(epoch_line(trainer, **facts), file=sys.stderr, flush=True))


def epoch_line(trainer: Trainer, epoch: int, epochs: int, measures: Mapping[str, float], best: bool) -> str:
    """Return an epoch's losses and main metrics in one line."""
    losses = [f"{name[6:]} {value:.4f}" for name, value in measures.items() if name.startswith("train/")]
    scores = [
        f"{name} {measures[name]:.4f}" for name in ("fitness", *trainer.task.measures) if measures.get(name, -1) >= 0
    ]
    took = f"{trainer.progress.seconds / max(epoch, 1):.1f} s an epoch"
    return f"epoch {epoch}/{epochs}: " + ", ".join([*losses, *scores, took, *(["best so far"] if best else [])])


@contextmanager
def _bar(trainer: Trainer) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=1, rate="")
        began, started, seen = [time.monotonic()], time.monotonic(), [0]

        def step(epoch: int, batch: int, batches: int, losses: Mapping[str, float], rate: float) -> None:
            if batch == 1:
                began[0] = time.monotonic()
            seen[0] += 1
            images = batch * trainer.settings.batch / max(time.monotonic() - began[0], 1e-9)
            ahead = (
                trainer.settings.epochs - epoch
            ) * batches - batch  # validation takes its share, as it has till now
            left = timedelta(seconds=round((time.monotonic() - started) / seen[0] * ahead))
            facts = f"{images:.0f} images/s, {memory(trainer.device) / 1e9:.2f} GB, {left} left"
            said = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            title = f"epoch {epoch + 1}/{trainer.settings.epochs} {said}"
            progress.update(bar, description=title, completed=batch, total=batches, rate=facts)

        def epoch(**facts: Any) -> None:
            progress.console.print(epoch_line(trainer, **facts), highlight=False)

        yield Reporter(step, epoch)


def memory(device: torch.device) -> int:
    """Return the bytes in use: those of tensors on a CUDA device, otherwise the process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # no Linux: the most that it held so far, where that is known
        return peak_bytes()


@contextmanager
def counting(total: int | None, patience: float = 2.0) -> Iterator[Callable[[], None]]:
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
def onlooker(brief: bool = False) -> Iterator[Onlooker]:
    """Yield the onlooker that prints the data set's report and the progress of validation to stderr.

    Args:
        brief: print the report only if something was dropped.
    """
    with counting(None) as step:

        class Told(Onlooker):
            def picture(self, split: str, done: int, total: int) -> None:
                step()

            def batch(self, done: int, total: int) -> None:
                step()

            def report(self, report: Report) -> None:
                counts = [split.counts for split in report.splits.values()]
                if not brief or any(c["dropped_pictures"] or c["dropped_boxes"] for c in counts):
                    print(report.text(), file=sys.stderr, flush=True)

        yield Told()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of metrics as an aligned table."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return "\n".join(align([columns, *([_cell(row.get(key, "")) for key in columns] for row in rows)]))


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
