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
from netbuild.system.files import make_folder, writing
from netbuild.system.packages import package
from netbuild.tasks.base import Batch, Task, View, picture
from netbuild.training.loop import Trainer, Watch
from netbuild.weights import checkpoint

SHOWN = 3  # batches of training and of validation that are drawn
PAIRS = 12  # pictures of a validation batch, each of them twice


class Recorder(Watch):
    """Draws plots, and writes logs for TensorBoard, as the run's settings ask.

    Args:
        trainer: the run; it is looked at and not changed.
        samples: the training data's, whose labels are drawn.

    Raises:
        MissingExtraError: if logs are asked for and tensorboard is not installed.
    """

    def __init__(self, trainer: Trainer, samples: Sequence[Sample]) -> None:
        self.trainer, self.samples = trainer, samples
        self.plots, self.excused = trainer.settings.plots, False
        self.metric: Any = None  # of the best epoch, if it was in this process
        self.log: Any = None
        if trainer.settings.tensorboard:
            package("tensorboard")

    def begin(self) -> None:
        """Draw the labels, open the logs."""
        names, folder = self.trainer.names or [], self.trainer.folder
        if self.plots:
            with self.excusing():
                list(charts.draw({"labels": lambda: overview.labels(self.samples, names)}, folder))
        if self.trainer.settings.tensorboard:
            with self.excusing():
                self.log = open_log(folder / "tensorboard", self.trainer.progress.history)

    def batch(self, epoch: int, number: int, batch: Batch) -> None:
        """Draw the first batches as the network sees them."""
        if not self.plots or epoch > 0 or number > SHOWN:
            return
        with self.excusing():
            count = min(len(batch["images"]), sheets.MOST)
            drawings = [self.trainer.task.draw_truth(batch, i) for i in range(count)]
            encoding.save(sheets.sheet(drawings), self.trainer.folder / f"train_batch{number - 1}.png")

    def epoch(self, best: bool) -> None:
        """Log the epoch's numbers; remember what the best one was measured by."""
        if best and self.plots:
            self.metric = self.trainer.metric
        if self.log:
            with self.excusing():
                log_row(self.log, self.trainer.progress.history[-1], self.trainer.plan.optimizer.param_groups[0]["lr"])

    def end(self) -> None:
        """Draw the run, and what its best weights see in the validation data."""
        if self.log:
            self.log.close()
        if not self.plots or not self.trainer.progress.history:
            return
        folder, history = self.trainer.folder, self.trainer.progress.history
        for name, draw in {"losses": charts.losses, "metrics": charts.metrics}.items():
            with self.excusing():
                list(charts.draw({name: lambda draw=draw: draw(history)}, folder))  # type: ignore[misc]
        with self.excusing():
            self.validation()

    def validation(self) -> None:
        """Draw the first validation batches as the best weights see them, and the metric's charts."""
        trainer = self.trainer
        network = checkpoint.fill(trainer.blank(), trainer.folder / "best.safetensors").to(trainer.device).eval()
        feed = copy.copy(trainer.val)
        feed.rank, feed.world = 0, 1  # the other processes have ended their work
        # The best epoch may lie before the run was resumed: then all is measured again.
        metric = self.metric or trainer.task.metric()
        for number, (batch, predictions) in enumerate(trainer.predictions(network, feed)):
            if self.metric is None:
                metric.update(predictions, batch)
            elif number >= SHOWN:
                break
            if number < SHOWN:
                with self.excusing():
                    show(trainer.task, batch, predictions, trainer.folder / f"val_batch{number}.png")
        list(charts.draw(metric.plots(), trainer.folder))

    @contextmanager
    def excusing(self) -> Iterator[None]:
        """Say once what went wrong, and go on."""
        try:
            yield
        except Exception as error:  # whatever a drawing library, a task of one's own or a full disk comes up with
            if not self.excused:
                print(excuse(error), file=sys.stderr, flush=True)
            self.excused = True


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
        encoding.save(sheets.sheet(drawings, 4, ("truth", "predicted") * 2), path)


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
    charts.figure(1, 1)
    make_folder(folder)
    with writing(folder):
        (folder / ".probe").write_bytes(b"")
        (folder / ".probe").unlink()
