"""Classification: one label for an image."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild import runtime
from netbuild.data.dataset import Sample
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.errors import NetbuildError
from netbuild.settings import Settings
from netbuild.tasks.base import Batch, Losses, Record, Task, View, class_counts, class_weights, picture
from netbuild.tasks.classification_metric import ClassificationMetric

SHOWN = 5  # guesses of a picture


class ClassifyTask(Task):
    """Cross-entropy. A batch has "classes" (B,), or (B, nc) probabilities where images are mixed.

    Args:
        head: the network's last module; only its outputs are used.
        names: names of the classes.
        smoothing: share of the target that is spread over all classes (arXiv 1512.00567).
        class_weights: (nc,) factors of the classes.
    """

    name = "classify"
    embedded = "digits"
    learns_from = ("classify",)
    measures = ("top1", "top5")
    unused_settings = ("multi_scale", "copy_paste")
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
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Label smoothing, and the weights of the classes where they are asked for."""
        power = settings.class_weights
        weights = {"class_weights": class_weights(class_counts(samples, nc), power)} if power else {}
        return {"smoothing": settings.label_smoothing, **weights}

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Mean over the batch; of several outputs the last are the logits (B, nc), those of eval too."""
        logits, target = self.read(outputs, batch)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(logits, target, weights, label_smoothing=self.smoothing)
        return total, {"cls": total.detach()}

    def read(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, nc), and classes (B,) or their probabilities (B, nc)."""
        logits = _logits(outputs).float()
        target = batch["classes"].to(logits.device)
        return logits, target.view(-1).long() if target.ndim == 1 or target.shape != logits.shape else target

    def least(self, outputs: Any, batch: Batch) -> float:
        """The loss of logits that are the logarithms of the targets, mixed and smoothed."""
        logits, target = self.read(outputs, batch)
        sure = target if target.ndim > 1 else F.one_hot(target, logits.shape[1]).float()
        likely = sure * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        return float(self.loss(likely.clamp(min=1e-30).log(), batch)[0])

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Probabilities (B, nc)."""
        return _logits(outputs).detach().float().softmax(1)

    def read_exported(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return logits (B, nc): the logarithm of the file's probabilities, whose softmax gives them back."""
        y = outputs[0].float().numpy()
        if y.ndim != 2:
            raise NetbuildError(f"the file's output has the shape {list(y.shape)}, not (B, classes)")
        if self.names and y.shape[1] != len(self.names):
            raise NetbuildError(f"the file's output has {y.shape[1]} classes, its metadata {len(self.names)} names")
        return torch.from_numpy(y if runtime.likely(y) else runtime.softmax(y)).log()

    def metric(self) -> ClassificationMetric:
        """Accuracy of the first guess and of the first five.

        Raises:
            ValueError: if the classes have no names.
        """
        if self.names is None:
            raise ValueError("the metric needs the names of the classes")
        return ClassificationMetric(self.names)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """The class under the picture, the likeliest where images are mixed."""
        truth = batch["classes"][i]
        name = self.class_name(int(truth.argmax() if truth.ndim else truth))
        return Drawing(picture(batch["images"][i]), caption=name)

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """The five best guesses, best first: class, name, probability as confidence.

        Raises:
            NetbuildError: if the network gives no numbers.
        """
        if prediction.isnan().any():
            raise NetbuildError("the network gives no probabilities but NaN")
        best = prediction.topk(min(SHOWN, len(prediction)))
        guesses = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"class": i, "name": self.class_name(i), "confidence": round(p, 5)} for i, p in guesses]

    def line(self, records: Sequence[Record]) -> str:
        """The guesses with their probabilities."""
        return ", ".join(f"{record['name']} {record['confidence']:.2f}" for record in records)

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """``class confidence``, best first."""
        return [f"{record['class']} {record['confidence']:.6f}" for record in records]

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """The guesses as bars, the first one as caption."""
        bars = [(r["name"], r["confidence"], class_colour(r["class"])) for r in records]
        caption = "".join(f"{r['name']}: {r['confidence']:.2f}" for r in records[:1])
        return Drawing(image, bars=bars, caption=caption)


def _logits(outputs: Any) -> Tensor:
    return outputs[-1] if isinstance(outputs, tuple | list) else outputs
