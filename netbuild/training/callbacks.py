"""Callbacks: objects whose methods a training run calls as it goes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netbuild.data.scanning import Report
from netbuild.errors import NetbuildError, shorten
from netbuild.feed.loader import Batch
from netbuild.modules.custom import import_file
from netbuild.system.plugins import entry_points
from netbuild.training.loop import Trainer

GROUP = "netbuild.callbacks"  # the entry-point group


class Callback:
    """Base class of callbacks: each hook does nothing by default, so a subclass defines only those that it needs.

    In a distributed run only rank 0 calls callbacks, so a hook must not call a collective operation such as
    ``torch.distributed.all_reduce``: rank 0 would wait forever for the others. An exception in a hook ends the run on
    all ranks, that of a batch hook after at most 50 further batches.

    A callback that draws random numbers must use a generator of its own: drawing from torch's global one would change
    the run.
    """

    def on_scan_picture(self, split: str, done: int, total: int) -> None:
        """Called after each picture of a split was scanned, before a run or a validation."""

    def on_scan_end(self, report: Report) -> None:
        """Called with the report of the scan, if the data has no faults that end the run."""

    def on_run_begin(self, run: Trainer) -> None:
        """Called before the first batch, of a resumed run too."""

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Called after the last epoch, or with the exception that ended the run."""

    def on_epoch_begin(self, run: Trainer, epoch: int) -> None:
        """Called before an epoch's first batch; here and in the batch hooks epochs count from 0."""

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Called after validation, when the epoch is in ``run.progress`` and nothing is saved yet.

        Args:
            run: the trainer; ``run.stop = True`` ends the run after this epoch.
            measures: mean losses as train/NAME, and the task's measures.
            best: whether this is the best epoch so far.
        """

    def on_batch_begin(self, run: Trainer, epoch: int, number: int, batch: Batch) -> None:
        """Called before a batch is trained on; batches count from 1."""

    def on_batch_end(self, run: Trainer, epoch: int, number: int, losses: Mapping[str, float], rate: float) -> None:
        """Called after a batch, with the parts of its loss and the learning rate."""

    def on_validation_begin(self, run: Trainer) -> None:
        """Called before the validation of an epoch."""

    def on_validation_batch(self, done: int, total: int) -> None:
        """Called after each batch of validation data: of an epoch, of ``netbuild val``, of a run's last plots."""

    def on_validation_end(self, run: Trainer, measures: Mapping[str, float]) -> None:
        """Called after the validation of an epoch, with the task's measures."""

    def on_save(self, run: Trainer, checkpoints: list[Path]) -> None:
        """Called when an epoch's checkpoints and the run's state are written."""

    def state_dict(self) -> dict[str, Any]:
        """Return the callback's state as JSON data; a resumed run passes it to `load_state_dict`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned when the run was saved."""


def callbacks_of_file(path: str | Path) -> list[Callback]:
    """Run the code of a Python file and construct each `Callback` subclass that it defines.

    Raises:
        NetbuildError: if the file fails, defines no callback, or one cannot be constructed without arguments.
    """
    file = Path(path)
    if not file.is_file():
        raise NetbuildError(f"{path}: there is no such file")
    module = import_file(file)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Callback) and value.__module__ == module.__name__
    ]
    if not classes:
        raise NetbuildError(f"{path} defines no subclass of netbuild.training.callbacks.Callback")
    return [_construct(cls, f"{path}: {cls.__name__}") for cls in classes]


def installed_callbacks() -> list[Callback]:
    """Construct each callback that installed packages offer in the entry-point group netbuild.callbacks.

    Raises:
        NetbuildError: if one cannot be loaded or constructed, or is no callback.
    """
    found = []
    for point in entry_points(GROUP):
        label = f"the callback '{point.name}' = {point.value}"
        try:
            cls = point.load()
        except Exception as error:  # the package's code may raise anything
            raise NetbuildError(f"{label} does not load: {shorten(str(error) or type(error).__name__)}") from None
        if not isinstance(cls, type) or not issubclass(cls, Callback):
            raise NetbuildError(f"{label} is no subclass of netbuild.training.callbacks.Callback")
        found.append(_construct(cls, label))
    return found


def _construct(cls: type[Callback], label: str) -> Callback:
    """Construct a callback without arguments; ``label`` names it in errors."""
    try:
        return cls()
    except NetbuildError:
        raise
    except Exception as error:  # the constructor's code may raise anything
        raise NetbuildError(f"{label} cannot be constructed: {shorten(str(error) or type(error).__name__)}") from error
