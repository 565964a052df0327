"""The pictures and logs of a run's folder. Nothing of a run changes by them, and none of their faults ends it."""

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from netbuild.data import overview
from netbuild.data.dataset import Sample
from netbuild.data.fitting import Letterbox
from netbuild.drawing import charts, encoding, sheets
from netbuild.drawing.annotated import Drawing, Image
from netbuild.errors import MissingExtraError, NetbuildError, shorten
from netbuild.settings import Settings
from netbuild.system.files import make_folder, writing
from netbuild.system.packages import package
from netbuild.tasks.base import Batch, Task, View, picture
from netbuild.training.callbacks import Callback
from netbuild.training.loop import Trainer
from netbuild.weights import checkpoint

SHOWN = 3  # batches of training and of validation that are drawn
PAIRS = 12  # pictures of a validation batch, each of them twice


class Excusing(Callback):
    """A callback whose faults do not end the run: the first one is printed."""

    excused = False

    @contextmanager
    def excusing(self) -> Iterator[None]:
        """Print the first exception raised in the block, and go on."""
        try:
            yield
        except Exception as error:  # whatever a drawing library, a task of one's own or a full disk comes up with
            if not self.excused:
                print(excuse(error), file=sys.stderr, flush=True)
            self.excused = True


class Recorder(Excusing):
    """Draws the run's plots into its folder.

    Args:
        samples: the training data's, whose labels are drawn.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.metric: Any = None  # of the best epoch, if it was in this process

    def on_run_begin(self, run: Trainer) -> None:
        """Draw the labels."""
        with self.excusing():
            list(charts.save_all({"labels": lambda: overview.labels(self.samples, run.names or [])}, run.folder))

    def on_batch_begin(self, run: Trainer, epoch: int, number: int, batch: Batch) -> None:
        """Draw the first batches as the network sees them."""
        if epoch > 0 or number > SHOWN:
            return
        with self.excusing():
            count = min(len(batch["images"]), sheets.MAX_PICTURES)
            drawings = [run.task.draw_truth(batch, i) for i in range(count)]
            encoding.save(sheets.make_sheet(drawings), run.folder / f"train_batch{number - 1}.png")

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Remember the metric of the best epoch, for its charts."""
        if best:
            self.metric = run.metric

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Draw losses and measures, and what the best weights predict on the validation data."""
        history = run.progress.history
        if error is not None or not history:
            return
        for name, draw in {"losses": charts.plot_losses, "metrics": charts.plot_metrics}.items():
            with self.excusing():
                list(charts.save_all({name: lambda draw=draw: draw(history)}, run.folder))  # type: ignore[misc]
        with self.excusing():
            self.validation(run)

    def validation(self, run: Trainer) -> None:
        """Draw the first validation batches as the best weights see them, and the metric's charts."""
        network = checkpoint.fill(run.blank(), run.folder / "best.safetensors").to(run.device).eval()
        feed = copy.copy(run.val)
        feed.rank, feed.world = 0, 1  # the other processes have ended their work
        # The best epoch may lie before the run was resumed: then all is measured again.
        metric = self.metric or run.task.metric()
        for number, (batch, predictions) in enumerate(run.predictions(network, feed)):
            if self.metric is None:
                metric.update(predictions, batch)
            elif number >= SHOWN:
                break
            if number < SHOWN:
                with self.excusing():
                    show(run.task, batch, predictions, run.folder / f"val_batch{number}.png")
        list(charts.save_all(metric.plots(), run.folder))


class TensorBoardLogger(Excusing):
    """Writes losses, measures and the learning rate for TensorBoard into the run's folder.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self) -> None:
        package("tensorboard")
        self.log: Any = None

    def on_run_begin(self, run: Trainer) -> None:
        """Open the log."""
        with self.excusing():
            self.log = open_log(run.folder / "tensorboard", run.progress.history)

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Log the epoch's numbers."""
        if self.log:
            with self.excusing():
                log_row(self.log, run.progress.history[-1], run.plan.optimizer.param_groups[0]["lr"])

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Close the log."""
        if self.log:
            self.log.close()


def own_callbacks(settings: Settings, samples: Sequence[Sample]) -> list[Callback]:
    """The callbacks that a run's settings ask for: plots, TensorBoard.

    Raises:
        MissingExtraError: if logs are asked for and tensorboard is not installed.
    """
    plots = [Recorder(samples)] if settings.plots else []
    return [*plots, *([TensorBoardLogger()] if settings.tensorboard else [])]


def excuse(error: Exception) -> str:
    """A line on plots that are missing."""
    if isinstance(error, MissingExtraError):
        return f"note: plots are left out: {error.message}; {error.hint}"
    said = error.message if isinstance(error, NetbuildError) else f"{type(error).__name__}: {error}"
    return f"note: a plot or log is left out: {shorten(said, 200)}"


def show(task: Task, batch: Batch, predictions: Any, path: Path) -> None:
    """Write a validation batch as pairs of pictures: the truth, and what is predicted.

    Raises:
        MissingExtraError: if Pillow is not installed.
        NetbuildError: if it cannot be written.
    """
    drawings = []
    for i in range(min(len(batch["images"]), PAIRS)):
        drawings += [task.draw_truth(batch, i), seen(task, picture(batch["images"][i]), predictions[i])]
    if drawings:
        encoding.save(sheets.make_sheet(drawings, 4, ("truth", "predicted") * 2), path)


def seen(task: Task, image: Image, prediction: Any) -> Drawing:
    """A picture (H, W, 3) as the network saw it, with what it is sure of."""
    size = image.shape[0], image.shape[1]
    records = task.records(prediction, View(image, Letterbox.fit(size, size)))
    return task.draw(image, prediction, [r for r in records if r.get("confidence", 1.0) > task.shown])


# -- TensorBoard ------------------------------------------------------------------------------------------------------


def open_log(folder: Path, history: Sequence[Mapping[str, float]]) -> Any:
    """A writer of logs that goes on after the epochs of the history; where there are no logs yet it writes those first.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """
    package("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    new = not any(folder.glob("events*"))
    # What a killed run logged of an epoch that is done again is not to be shown twice.
    log = SummaryWriter(str(folder), purge_step=len(history) + 1)
    for row in history if new else ():
        log_row(log, row)
    return log


def log_row(log: Any, row: Mapping[str, float], rate: float | None = None) -> None:
    """Write an epoch's numbers: losses as train/..., measures as val/..., the learning rate as lr."""
    for name, value in row.items():
        if name != "epoch":
            log.add_scalar(name if name.startswith("train/") else f"val/{name}", value, int(row["epoch"]))
    if rate is not None:
        log.add_scalar("lr", rate, int(row["epoch"]))
    log.flush()


# -- validation by itself ---------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Make a folder for plots, before there is work that would be lost.

    Raises:
        NetbuildError: if it cannot be made, or matplotlib is missing.
    """
    charts.new_figure(1, 1)
    make_folder(folder)
    with writing(folder):
        (folder / ".probe").write_bytes(b"")
        (folder / ".probe").unlink()
