"""The base class of loggers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from netbuild.training.loop import Trainer
from netbuild.training.tolerant import TolerantCallback


class Logger(TolerantCallback, ABC):
    """Base class of loggers: a subclass opens its log, writes the numbers of an epoch, and closes the log.

    An error in one of the three is printed once and does not end the run.
    """

    is_open = False

    @abstractmethod
    def open(self, run: Trainer) -> bool:
        """Open the log, or that of the run that is resumed; True if it holds no epoch of this run yet."""

    @abstractmethod
    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Write the numbers of an epoch; epochs count from 1."""

    @abstractmethod
    def close(self, run: Trainer, error: BaseException | None) -> None:
        """Close the log of a run that has ended, by an exception or without one."""

    def on_run_begin(self, run: Trainer) -> None:
        """Open the log. A new log of a resumed run gets the earlier epochs first."""
        with self.tolerate_errors():
            is_new = self.open(run)
            self.is_open = True
            for row in run.progress.history if is_new else ():
                self.log(int(row["epoch"]), name_scalars(row))

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Log the epoch's losses, measures and learning rate."""
        if self.is_open:
            with self.tolerate_errors():
                scalars = name_scalars(run.progress.history[-1])
                self.log(run.progress.epoch, {**scalars, "lr": run.learning_rate})

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Close the log."""
        if self.is_open:
            with self.tolerate_errors():
                self.close(run, error)


def name_scalars(row: Mapping[str, float]) -> dict[str, float]:
    """An epoch's row of the history under the names that logs use: losses as train/..., measures as val/...."""
    return {
        name if name.startswith("train/") else f"val/{name}": float(value)
        for name, value in row.items()
        if name != "epoch"
    }


def final_checkpoints(run: Trainer) -> dict[str, Path]:
    """The absolute paths of the run's best and last checkpoints, as far as they were written."""
    paths = {name: (run.folder / f"{name}.safetensors").absolute() for name in ("best", "last")}
    return {name: path for name, path in paths.items() if path.is_file()}
