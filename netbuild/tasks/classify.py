"""Classification: one class for each image."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import LABELS, NUMBERS, Dataset, Sample
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.errors import NetbuildError
from netbuild.settings import BOX_SETTINGS, NUMBER_SETTINGS, SCENE_SETTINGS, Settings
from netbuild.tasks.base import Batch, Losses, Record, Task, View
from netbuild.tasks.class_weights import class_weight_option
from netbuild.tasks.classification_metric import ClassificationMetric
from netbuild.tasks.pictures import to_picture


class ClassifyTask(Task):
    """Cross-entropy of class logits.

    A batch has "classes" (B,), or probabilities (B, nc) if images are mixed (MixUp, CutMix).

    Args:
        head: the network's last module; only its outputs are used.
        names: names of the classes.
        smoothing: share of the target that label smoothing spreads over all classes (arXiv 1512.00567).
        class_weights: (nc,) factors of the classes.
    """

    name = "classify"
    embedded = "digits"
    learns_from = ("classify",)
    measures = ("top1", "top5")
    unused_settings = ("multi_scale", "rect", "allow_background", *SCENE_SETTINGS, *BOX_SETTINGS, *NUMBER_SETTINGS)
    gives_probabilities = True
    saves = ("pictures", "txt", "json")

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(head, names)
        self.smoothing, self.class_weights = smoothing, class_weights

    @classmethod
    def task_for(cls, dataset: Dataset) -> str:
        """Return ``multilabel`` or ``regress`` for data of such a kind: the same networks learn from them."""
        return dataset.task if dataset.task in (LABELS, NUMBERS) else cls.name

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return label smoothing, and the weights of the classes if the settings ask for them."""
        return {"smoothing": settings.label_smoothing, **class_weight_option(settings, samples, nc)}

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the mean cross-entropy; if the head has several outputs, the last is the logits (B, nc)."""
        logits, target = self.read_targets(outputs, batch)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(logits, target, weights, label_smoothing=self.smoothing)
        return total, {"cls": total.detach()}

    def read_targets(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits (B, nc), and the targets: classes (B,) or probabilities (B, nc)."""
        logits = _logits(outputs).float()
        target = batch["classes"].to(logits.device)
        return logits, target.view(-1).long() if target.ndim == 1 or target.shape != logits.shape else target

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the loss of logits that equal the logarithm of the mixed and smoothed targets."""
        logits, target = self.read_targets(outputs, batch)
        probabilities = target if target.ndim > 1 else F.one_hot(target, logits.shape[1]).float()
        smoothed = probabilities * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        return float(self.loss(smoothed.clamp(min=1e-30).log(), batch)[0])

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return class probabilities (B, nc)."""
        return _logits(outputs).detach().float().softmax(1)

    def read_exported(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return logits (B, nc): the logarithm of the file's probabilities, so that `decode` returns these."""
        y = outputs[0].float().numpy()
        if y.ndim != 2:
            raise NetbuildError(f"the file's output has the shape {list(y.shape)}, not (B, classes)")
        if self.names and y.shape[1] != len(self.names):
            raise NetbuildError(f"the file's output has {y.shape[1]} classes, its metadata {len(self.names)} names")
        return torch.from_numpy(y if runtime.is_probability(y) else runtime.softmax(y)).log()

    def metric(self) -> ClassificationMetric:
        """Return a metric of top-1 and top-5 accuracy.

        Raises:
            ValueError: if the classes have no names.
        """
        if self.names is None:
            raise ValueError("the metric needs the names of the classes")
        return ClassificationMetric(self.names)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with its class, or the likeliest class of a mixed image, as caption."""
        truth = batch["classes"][i]
        name = self.class_name(int(truth.argmax() if truth.ndim else truth))
        return Drawing(to_picture(batch["images"][i]), caption=name)

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return the five likeliest classes, best first, with name and probability (as "confidence").

        Raises:
            NetbuildError: if a probability is NaN.
        """
        if prediction.isnan().any():
            raise NetbuildError("the network's probabilities are NaN")
        best = prediction.topk(min(runtime.MAX_GUESSES, len(prediction)))
        guesses = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"class": i, "name": self.class_name(i), "confidence": round(p, 5)} for i, p in guesses]

    def line(self, records: Sequence[Record]) -> str:
        """List the classes with their probabilities."""
        return ", ".join(f"{record['name']} {record['confidence']:.2f}" for record in records)

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class confidence``, best first."""
        return [f"{record['class']} {record['confidence']:.6f}" for record in records]

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw the probabilities as bars, and the likeliest class as caption."""
        bars = [(r["name"], r["confidence"], class_colour(r["class"])) for r in records]
        caption = "".join(f"{r['name']}: {r['confidence']:.2f}" for r in records[:1])
        return Drawing(image, bars=bars, caption=caption)


def _logits(outputs: Any) -> Tensor:
    return outputs[-1] if isinstance(outputs, tuple | list) else outputs
