"""The plots of a run or a validation: labels, batches, curves, and sheets of truth and prediction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netbuild.data.dataset import Sample
from netbuild.data.fitting import Letterbox
from netbuild.drawing import charts, encoding, sheets
from netbuild.drawing.annotated import Drawing, Image
from netbuild.settings import Settings
from netbuild.system.files import make_folder, writing
from netbuild.tasks.base import Batch, Task, View
from netbuild.tasks.pictures import to_picture
from netbuild.training.adversarial import CollapseCallback
from netbuild.training.callbacks import Callback
from netbuild.training.loggers import make_loggers
from netbuild.training.loop import Trainer
from netbuild.training.sampling import SampleCallback
from netbuild.training.tolerant import TolerantCallback
from netbuild.weights import checkpoint

MAX_BATCHES = 3  # training batches that are drawn, and validation batches
MAX_PAIRS = 12  # pictures of a validation batch that are drawn, each with truth and prediction


class PlotCallback(TolerantCallback):
    """Draws the run's plots into its folder. An error in a plot is printed once and does not end the run.

    Args:
        samples: the training samples, whose labels are drawn.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        self.metric: Any = None  # of the best epoch, None if a resumed run had it before

    def on_run_begin(self, run: Trainer) -> None:
        """Draw statistics of the training labels."""
        with self.tolerate_errors():
            list(charts.save_all(run.task.label_charts(self.samples), run.folder))

    def on_batch_begin(self, run: Trainer, epoch: int, number: int, batch: Batch) -> None:
        """Draw the first training batches as the network sees them."""
        if epoch > 0 or number > MAX_BATCHES:
            return
        with self.tolerate_errors():
            count = min(len(batch["images"]), sheets.MAX_PICTURES)
            drawings = [run.task.draw_truth(batch, i) for i in range(count)]
            encoding.save(sheets.make_sheet(drawings), run.folder / f"train_batch{number - 1}.png")

    def on_epoch_end(self, run: Trainer, measures: Mapping[str, float], best: bool) -> None:
        """Keep the metric of the best epoch, for its charts."""
        if best:
            self.metric = run.metric

    def on_run_end(self, run: Trainer, error: BaseException | None) -> None:
        """Draw the curves of losses and measures, and the predictions of the best weights on the validation data.

        An interrupted run gets the curves alone: its user waits.
        """
        history, is_interrupted = run.progress.history, isinstance(error, KeyboardInterrupt)
        if not history or (error is not None and not is_interrupted):
            return
        for draw in ({"losses": lambda: charts.plot_losses(history)}, {"metrics": lambda: self.plot_metrics(run)}):
            with self.tolerate_errors():
                list(charts.save_all(draw, run.folder))
        if not is_interrupted:
            with self.tolerate_errors():
                self.plot_validation(run)

    def plot_metrics(self, run: Trainer) -> charts.Figure | None:
        """Draw the chart of the measures by epoch."""
        return charts.plot_metrics(run.progress.history, run.task.metric().lower_is_better)

    def plot_validation(self, run: Trainer) -> None:
        """Draw the first validation batches with the best weights' predictions, and the metric's charts."""
        network = checkpoint.load_weights(run.unsharded_network(), run.folder / "best.safetensors")
        network = network.to(run.device).eval()
        loader = run.val.unsharded()  # the other ranks have finished: this one loads all samples
        # Without the best epoch's metric the whole validation data is predicted and measured again.
        metric = self.metric or run.task.metric()
        count = len(loader) if self.metric is None else min(MAX_BATCHES, len(loader))
        for number, (batch, predictions) in enumerate(run.iterate_predictions(network, loader)):
            run.callbacks.call("on_validation_batch", min(number + 1, count), count)
            if self.metric is None:
                metric.update(predictions, batch)
            elif number >= MAX_BATCHES:
                break
            if number < MAX_BATCHES and run.task.takes_pictures:
                with self.tolerate_errors():
                    save_comparison(run.task, batch, predictions, run.folder / f"val_batch{number}.png")
        loader.close()
        list(charts.save_all(metric.plots(), run.folder))


def make_configured_callbacks(settings: Settings, samples: Sequence[Sample]) -> list[Callback]:
    """Construct the callbacks that a run's settings turn on: plots, and loggers such as TensorBoard's.

    Raises:
        MissingExtraError: if a logger's package is not installed.
    """
    plots = [PlotCallback(samples), SampleCallback()] if settings.plots else []
    return [CollapseCallback(), *plots, *make_loggers(settings)]


def save_comparison(task: Task, batch: Batch, predictions: Any, path: Path) -> None:
    """Write a sheet of a validation batch's pictures, each beside itself: with the truth, and with the prediction.

    Args:
        task: the task that draws both.
        batch: the batch.
        predictions: of the task, one for each picture.
        path: the PNG file.

    Raises:
        MissingExtraError: if Pillow is not installed.
        NetbuildError: if the file cannot be written.
    """
    drawings = []
    for i in range(min(len(batch["images"]), MAX_PAIRS)):
        drawings += [task.draw_truth(batch, i), draw_prediction(task, to_picture(batch["images"][i]), predictions[i])]
    if drawings:
        encoding.save(sheets.make_sheet(drawings, 4, ("truth", "predicted") * 2), path)


def draw_prediction(task: Task, image: Image, prediction: Any) -> Drawing:
    """Draw a prediction on a picture (H, W, 3) as the network saw it, with the records above the task's threshold."""
    size = image.shape[0], image.shape[1]
    records = task.records(prediction, View(image, Letterbox.fit(size, size)))
    return task.draw(image, prediction, task.select_confident(records, task.draw_confidence))


def prepare_plot_folder(folder: Path) -> None:
    """Create a folder for plots and check that they can be drawn and written, before any time is spent.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        NetbuildError: if the folder cannot be created or written to.
    """
    charts.new_figure(1, 1)
    make_folder(folder)
    with writing(folder):
        (folder / ".probe").write_bytes(b"")
        (folder / ".probe").unlink()
