"""Classification with several labels: each picture has any number of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import CLASSIFY, DETECT, LABELS, Dataset, Sample, Split
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.labels import feed_labels
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.settings import BOX_SETTINGS, NUMBER_SETTINGS, SCENE_SETTINGS, Settings
from netbuild.tasks.base import Batch, Losses, Record, Task, View
from netbuild.tasks.multilabel_metric import MultiLabelMetric
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.pictures import to_picture

# Augmentation that hides no part of a picture that a label may be about, unless the settings say otherwise.
WHOLE_PICTURES = {"crop": False, "erasing": 0.0, "scale": 0.2, "translate": 0.1}


class MultiLabelTask(Task):
    """Binary cross-entropy of each label; see `netbuild.layers.heads.labels.MultiLabel`.

    A batch has "labels" (B, nc), 1 where a label holds, 0 where it does not, NaN where it is not known, and fractions
    if images are mixed. Whole pictures are stretched to the network's image, because a crop might cut off what a label
    is about.

    Args:
        head: the network's last module; only its outputs are used.
        names: names of the labels.
        smoothing: share of each target that is replaced by 1/2 (arXiv 1512.00567).
        positive_weights: (nc,) factors of the loss where a label holds.
    """

    name = "multilabel"
    embedded = "shapes-labels"
    learns_from = (LABELS, CLASSIFY, DETECT)
    measures = ("mAP", "F1", "precision", "recall")
    unused_settings = ("multi_scale", "rect", "allow_background", *SCENE_SETTINGS, *BOX_SETTINGS, *NUMBER_SETTINGS)
    gives_probabilities = True
    saves = ("pictures", "txt", "json")
    fitting = "stretch"
    draw_confidence = runtime.LABEL_CONFIDENCE

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        smoothing: float = 0.0,
        positive_weights: Tensor | None = None,
    ) -> None:
        super().__init__(head, names)
        self.smoothing, self.positive_weights = smoothing, positive_weights

    # -- training -----------------------------------------------------------------------------------------------------

    @classmethod
    def prepare_dataset(cls, dataset: Dataset) -> tuple[Dataset, str]:
        """Return the data set with labels made of the classes of its pictures or of their objects; and a note on it."""
        if dataset.task not in (CLASSIFY, DETECT):
            return dataset, ""
        source = "class" if dataset.task == CLASSIFY else "classes of objects"
        splits = {name: partial(label_split, read, dataset.nc) for name, read in dataset.splits.items()}
        note = f"note: {dataset.name}: the labels of a picture are its {source}"
        return replace(dataset, task=LABELS, splits=splits), note

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings with milder augmentation where they leave it open."""
        return adapt_augmentation(settings, dataset, WHOLE_PICTURES)

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return label smoothing and, if the settings ask for them, weights (pictures without / with it)^power."""
        if not settings.class_weights:
            return {"smoothing": settings.label_smoothing}
        labels = np.array([sample.labels for sample in samples]).reshape(-1, nc)
        holds, lacks = (labels == 1).sum(0), (labels == 0).sum(0)
        ratio = np.where(holds > 0, lacks / np.maximum(holds, 1), 1.0) ** settings.class_weights
        return {"smoothing": settings.label_smoothing, "positive_weights": torch.from_numpy(ratio).float()}

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of augmented pictures with their labels, and the function that batches them."""
        return feed_labels(samples, options, "labels")

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the mean binary cross-entropy over the labels that are known."""
        logits, target, known = self.read_targets(outputs, batch)
        weights = None if self.positive_weights is None else self.positive_weights.to(logits)
        terms = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights, reduction="none")
        total = (terms * known).sum() / self.normaliser(known.sum().to(terms), 1.0)
        return total, {"cls": total.detach()}

    def read_targets(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, smoothed targets, and whether each target is known, (B, nc) each."""
        logits = require_tensor(outputs).float()
        target = batch["labels"].to(logits)
        known = target.isfinite()
        smoothed = target.nan_to_num(0.5) * (1 - self.smoothing) + self.smoothing / 2
        return logits, smoothed, known

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any logits could reach for targets that are mixed or smoothed."""
        _, target, known = self.read_targets(outputs, batch)
        weights = 1.0 if self.positive_weights is None else self.positive_weights.to(target)
        # With weight w the loss is least at the probability w t / (1 - t + w t).
        best = weights * target / (1 - target + weights * target)
        terms = -(weights * torch.xlogy(target, best) + torch.xlogy(1 - target, 1 - best))
        return float((terms * known).sum() / known.sum().clamp(min=1))

    def metric(self) -> MultiLabelMetric:
        """Return a metric of average precision and F1 of each label.

        Raises:
            ValueError: if the labels have no names.
        """
        if self.names is None:
            raise ValueError("the metric needs the names of the labels")
        return MultiLabelMetric(self.names)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with the labels that hold, or weigh most in a mixed image, as caption."""
        holds = (batch["labels"][i] >= 0.5).nonzero().view(-1).tolist()
        return Drawing(to_picture(batch["images"][i]), caption=", ".join(map(self.class_name, holds)) or "no label")

    # -- prediction ---------------------------------------------------------------------------------------------------

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the least probability ``conf`` of a label that is given, 0.5 by default.

        Raises:
            NetbuildError: for another option, or a value outside 0 to 1.
        """
        super().options({name: value for name, value in given.items() if name != "conf"})
        conf = given.get("conf", runtime.LABEL_CONFIDENCE)
        if not 0 <= conf <= 1:
            raise NetbuildError(f"--conf {conf}: must be from 0 to 1")
        return {"conf": conf}

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return probabilities (B, nc); those below the option ``conf`` are 0."""
        found = require_tensor(outputs).detach().float()
        return found * (found >= options.get("conf", 0.0))

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return the labels with a probability, likeliest first, with name and probability (as "confidence").

        Raises:
            NetbuildError: if a probability is NaN.
        """
        if prediction.isnan().any():
            raise NetbuildError("the network's probabilities are NaN")
        order = prediction.argsort(descending=True, stable=True).tolist()
        return [
            {"class": i, "name": self.class_name(i), "confidence": round(float(prediction[i]), 5)}
            for i in order
            if prediction[i] > 0
        ]

    def line(self, records: Sequence[Record]) -> str:
        """List the labels with their probabilities."""
        return ", ".join(f"{record['name']} {record['confidence']:.2f}" for record in records) or "no label"

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``label confidence``, likeliest first."""
        return [f"{record['class']} {record['confidence']:.6f}" for record in records]

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw the probabilities as bars, and the labels as caption."""
        bars = [(r["name"], r["confidence"], class_colour(r["class"])) for r in records]
        return Drawing(image, bars=bars, caption=self.line(records))


def adapt_augmentation(settings: Settings, dataset: Dataset, defaults: Mapping[str, Any]) -> Settings:
    """Return settings with these defaults of augmentation where they are null; unchanged for digits."""
    if dataset.augmentation != "pictures":
        return settings
    return replace(settings, **{name: value for name, value in defaults.items() if getattr(settings, name) is None})


def label_split(read: Callable[[], Split], nc: int) -> Split:
    """Return a split whose samples have the labels (nc,) of their classes.

    Args:
        read: reads the split of a data set of classes or of boxes.
        nc: number of classes.
    """
    split = read()

    def convert(sample: Sample) -> Sample:
        labels = np.zeros(nc)
        labels[sample.classes] = 1
        return replace(sample, labels=labels, label=None, boxes=None, lines=(), outlines=(), keypoints=None, crowd=None)

    return replace(split, samples=[convert(sample) for sample in split.samples])
