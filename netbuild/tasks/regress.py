"""Regression: numbers that describe the whole picture, such as an age, a weight or a count."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import CLASSIFY, NUMBERS, Dataset, Sample, Split, collect_numbers
from netbuild.drawing.annotated import Drawing, Image
from netbuild.drawing.charts import Figure
from netbuild.drawing.numbers import plot_numbers
from netbuild.errors import NetbuildError
from netbuild.feed.labels import feed_labels
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.settings import BOX_SETTINGS, SCENE_SETTINGS, Settings
from netbuild.tasks.base import Batch, Losses, Record, Task, View
from netbuild.tasks.multilabel import adapt_augmentation
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.pictures import to_picture
from netbuild.tasks.regression_metric import RegressionMetric

LOSSES = {"huber": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}
# Unless the settings say otherwise, pictures are only mirrored and recoloured: the number of a part of a picture, or of
# an enlarged one, may be another.
WHOLE_PICTURES = {"crop": False, "erasing": 0.0, "policy": "off", "scale": 0.0, "translate": 0.0}


class RegressTask(Task):
    """Numbers for each picture, learnt in standard deviations; see `netbuild.layers.heads.labels.Regress`.

    A batch has "numbers" (B, n) in the data's units, NaN where they are not known. Whole pictures are stretched to the
    network's image.

    Args:
        head: the network's last module, with the buffers ``mean`` and ``deviation`` (n,).
        names: names of the numbers.
        loss: a key of `LOSSES`.
        statistics: mean and standard deviation (n,) of the numbers in the training data, which the head takes over;
            None leaves the head as it is.

    Raises:
        NetbuildError: if the head has no such buffers.
    """

    name = "regress"
    embedded = "shapes-numbers"
    learns_from = (NUMBERS, CLASSIFY)
    measures = ("R2", "MAE", "RMSE")
    unused_settings = (
        *("label_smoothing", "class_weights", "multi_scale", "cutmix", "rect", "allow_background"),
        *(*SCENE_SETTINGS, *BOX_SETTINGS),
    )
    saves = ("pictures", "txt", "json")
    fitting = "stretch"

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        loss: str = "huber",
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(head, names)
        self.error = LOSSES[loss]
        if statistics is not None:
            self.check_loss()
            with torch.no_grad():
                for buffer, values in zip((head.mean, head.deviation), statistics, strict=True):
                    buffer.copy_(values)  # type: ignore[operator]

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def prepare_dataset(cls, dataset: Dataset) -> tuple[Dataset, str]:
        """Return a data set whose classes are numbers as one of numbers; and a note on it."""
        if dataset.task != CLASSIFY or not all(name.isdecimal() for name in dataset.names):
            return dataset, ""
        splits = {name: partial(number_split, read, dataset.names) for name, read in dataset.splits.items()}
        note = f"note: {dataset.name}: the labels are read as numbers, from 0 to {dataset.names[-1]}"
        return replace(dataset, task=NUMBERS, names=("value",), splits=splits), note

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings with augmentation that leaves numbers true where they leave it open."""
        return adapt_augmentation(settings, dataset, WHOLE_PICTURES)

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the kind of loss, and mean and standard deviation of the numbers.

        Raises:
            NetbuildError: if a number is known for no sample.
        """
        return {"loss": settings.regression_loss, "statistics": measure_numbers(collect_numbers(samples, nc))}

    def check_loss(self) -> None:
        """Check that the head has the buffers for mean and deviation.

        Raises:
            NetbuildError: if it has not.
        """
        if not all(isinstance(getattr(self.head, name, None), Tensor) for name in ("mean", "deviation")):
            hint = "end the network with the row [-1, 1, Regress, [nc]]"
            raise NetbuildError(f"the task '{self.name}' cannot train the head {type(self.head).__name__}", hint=hint)

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> None:
        """Check that the samples have numbers.

        Raises:
            NetbuildError: if they have not.
        """
        if any(sample.numbers is None for sample in samples):
            hint = "a CSV file has them, with a column for each: image,age,height"
            raise NetbuildError(f"{dataset.name} has classes, no numbers", hint=hint)

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of augmented pictures with their numbers, and the function that batches them."""
        return feed_labels(samples, options, "numbers")

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the mean error over the numbers that are known, in standard deviations of each."""
        predicted = require_tensor(outputs).float()
        # Small differences of large numbers, such as times, are lost in single precision; MPS has no other.
        is_mps = predicted.device.type == "mps"
        truth = batch["numbers"].to(predicted.device, torch.float32 if is_mps else torch.float64)
        mean, deviation = self.head.mean.to(truth), self.head.deviation.to(truth)  # type: ignore[operator,union-attr]
        target = ((truth - mean) / deviation).float()
        known = target.isfinite()
        terms = self.error(predicted, target.where(known, predicted.detach()), reduction="none")
        total = (terms * known).sum() / self.normaliser(known.sum().to(terms), 1.0)
        return total, {self.name: total.detach()}

    def metric(self) -> RegressionMetric:
        """Return a metric of R2, mean absolute and root mean squared error of each number.

        Raises:
            ValueError: if the numbers have no names.
        """
        if self.names is None:
            raise ValueError("the metric needs the names of the numbers")
        return RegressionMetric(self.names)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with its numbers as caption."""
        known = [(n, value) for n, value in enumerate(batch["numbers"][i].tolist()) if value == value]
        caption = ", ".join(f"{self.class_name(n)} {value:.4g}" for n, value in known)
        return Drawing(to_picture(batch["images"][i]), caption=caption)

    def draw_labels(self, samples: Sequence[Sample]) -> Figure:
        """Draw a histogram of each number."""
        names = self.names or []
        return plot_numbers(collect_numbers(samples, len(names)), names)

    # -- prediction ---------------------------------------------------------------------------------------------------

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return the numbers (B, n), in the data's units."""
        return require_tensor(outputs).detach().float()

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return name and value of each number.

        Raises:
            NetbuildError: if one is not finite.
        """
        if not prediction.isfinite().all():
            raise NetbuildError("the network's numbers are not finite")
        return [
            {"class": i, "name": self.class_name(i), "value": runtime.round_digits(value)}
            for i, value in enumerate(prediction.tolist())
        ]

    def line(self, records: Sequence[Record]) -> str:
        """List the numbers."""
        return ", ".join(f"{record['name']} {record['value']:.4g}" for record in records)

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``number value``."""
        return [f"{record['class']} {record['value']}" for record in records]

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw the picture with its numbers below it."""
        texts = [f"{record['name']} {record['value']:.4g}" for record in records]
        return Drawing(image, texts=texts, caption=self.line(records))


def measure_numbers(values: Any) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (n,) of the columns of values (N, n), of which NaN are left out.

    The deviation of a column that is always the same is 1.

    Raises:
        NetbuildError: if a column has no number at all.
    """
    if not np.isfinite(values).any(0).all():
        raise NetbuildError("one of the numbers is known for no training picture", hint="leave its column out")
    deviation = np.nanstd(values, 0)
    mean = torch.from_numpy(np.nanmean(values, 0))
    return mean, torch.from_numpy(np.where(deviation > 0, deviation, 1.0))


def number_split(read: Any, names: Sequence[str]) -> Split:
    """Return a split whose samples have as number the name of their class."""
    split = read()
    samples = [replace(s, numbers=np.array([float(names[s.label or 0])]), label=None) for s in split.samples]
    return replace(split, samples=samples)
