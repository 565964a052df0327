"""The logger for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netbuild.system.packages import package
from netbuild.training.loggers.base import Logger
from netbuild.training.loop import Trainer


class TensorBoardLogger(Logger):
    """Writes losses, measures and the learning rate into ``tensorboard/`` in the run's folder.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self) -> None:
        package("tensorboard")
        self.writer: Any = None

    def open(self, run: Trainer) -> bool:
        """Open the folder of event files."""
        folder = run.folder / "tensorboard"
        is_new = not any(folder.glob("events*"))
        self.writer = open_writer(folder, len(run.progress.history))
        return is_new

    def log(self, epoch: int, scalars: Mapping[str, float]) -> None:
        """Write the numbers of an epoch."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self, run: Trainer, error: BaseException | None) -> None:
        """Close the event file."""
        self.writer.close()


def open_writer(folder: Path, epochs: int) -> Any:
    """A ``SummaryWriter`` that goes on after a number of epochs.

    What a killed run logged of later epochs is hidden (``purge_step``), since these epochs are trained again.
    """
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=epochs + 1)
