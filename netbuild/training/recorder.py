"""The pictures and logs of a run's folder. Nothing of a run changes by them, and none of their faults ends it."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netbuild.data import overview
from netbuild.data.dataset import Sample
from netbuild.data.fitting import Letterbox
from netbuild.drawing import charts, encoding, sheets
from netbuild.drawing.annotated import Drawing, Image
from netbuild.settings import Settings
from netbuild.system.files import make_folder, writing
from netbuild.tasks.base import Batch, Task, View, to_picture
from netbuild.training.callbacks import Callback
from netbuild.training.loggers import make_loggers
from netbuild.training.loop import Trainer
from netbuild.training.tolerant import TolerantCallback
from netbuild.weights import checkpoint

SHOWN = 3  # batches of training and of validation that are drawn
PAIRS = 12  # pictures of a validation batch, each of them twice


class Recorder(TolerantCallback):
    """Draws the run's plots into its folder.

    Args:
        samples: the training data's, whose labels are drawn.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.metric: Any = None  # of the best epoch, if it was in this process

    def on_run_begin(self, run: Trainer) -> None:
        """Draw the labels."""
        with self.tolerate_errors():
            if run.names:
                figures = {"labels": lambda: overview.draw_labels(self.samples, run.names or [])}
                list(charts.save_all(figures, run.folder))

    def on_batch_begin(self, run: Trainer, epoch: int, number: int, batch: Batch) -> None:
        """Draw the first batches as the network sees them."""
        if epoch > 0 or number > SHOWN:
            return
        with self.tolerate_errors():
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
            with self.tolerate_errors():
                list(charts.save_all({name: lambda draw=draw: draw(history)}, run.folder))  # type: ignore[misc]
        with self.tolerate_errors():
            self.validation(run)

    def validation(self, run: Trainer) -> None:
        """Draw the first validation batches as the best weights see them, and the metric's charts."""
        network = checkpoint.load_weights(run.unsharded_network(), run.folder / "best.safetensors").to(run.device).eval()
        feed = copy.copy(run.val)
        feed.rank, feed.world = 0, 1  # the other processes have ended their work
        # The best epoch may lie before the run was resumed: then all is measured again.
        metric = self.metric or run.task.metric()
        for number, (batch, predictions) in enumerate(run.iterate_predictions(network, feed)):
            if self.metric is None:
                metric.update(predictions, batch)
            elif number >= SHOWN:
                break
            if number < SHOWN:
                with self.tolerate_errors():
                    show(run.task, batch, predictions, run.folder / f"val_batch{number}.png")
        list(charts.save_all(metric.plots(), run.folder))


def own_callbacks(settings: Settings, samples: Sequence[Sample]) -> list[Callback]:
    """The callbacks that a run's settings turn on: plots, and loggers such as TensorBoard's.

    Raises:
        MissingExtraError: if a logger's package is not installed.
    """
    plots = [Recorder(samples)] if settings.plots else []
    return [*plots, *make_loggers(settings)]


def show(task: Task, batch: Batch, predictions: Any, path: Path) -> None:
    """Write a validation batch as pairs of pictures: the truth, and what is predicted.

    Raises:
        MissingExtraError: if Pillow is not installed.
        NetbuildError: if it cannot be written.
    """
    drawings = []
    for i in range(min(len(batch["images"]), PAIRS)):
        drawings += [task.draw_truth(batch, i), seen(task, to_picture(batch["images"][i]), predictions[i])]
    if drawings:
        encoding.save(sheets.make_sheet(drawings, 4, ("truth", "predicted") * 2), path)


def seen(task: Task, image: Image, prediction: Any) -> Drawing:
    """A picture (H, W, 3) as the network saw it, with what it is sure of."""
    size = image.shape[0], image.shape[1]
    records = task.records(prediction, View(image, Letterbox.fit(size, size)))
    return task.draw(image, prediction, [r for r in records if r.get("confidence", 1.0) > task.draw_confidence])


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
