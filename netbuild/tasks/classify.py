"""Classification: one label for an image."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.drawing import Drawing
from netbuild.tasks.base import Batch, Losses, Task, picture
from netbuild.tasks.metrics import ClassificationMetric


class ClassifyTask(Task):
    """Cross-entropy. A batch has "classes" (B,), or (B, nc) probabilities where images are mixed.

    Args:
        head: the network's last module; only its outputs are used.
        names: names of the classes.
        smoothing: share of the target that is spread over all classes (arXiv 1512.00567).
        class_weights: (nc,) factors of the classes.
    """

    name = "classify"

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(head, names)
        self.smoothing, self.class_weights = smoothing, class_weights

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Mean over the batch; of several outputs the last are the logits (B, nc), those of eval too."""
        logits = _logits(outputs).float()
        target = batch["classes"].to(logits.device)
        if target.ndim == 1 or target.shape != logits.shape:
            target = target.view(-1).long()
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(logits, target, weights, label_smoothing=self.smoothing)
        return total, {"cls": total.detach()}

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Probabilities (B, nc)."""
        return _logits(outputs).detach().float().softmax(1)

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
        return Drawing(picture(batch["images"][i]), caption=self._named(int(truth.argmax() if truth.ndim else truth)))

    def draw(self, predictions: Tensor, batch: Batch, i: int) -> Drawing:
        """The first guess and its probability under the picture."""
        best = int(predictions[i].argmax())
        return Drawing(picture(batch["images"][i]), caption=f"{self._named(best)}: {float(predictions[i, best]):.2f}")

    def _named(self, number: int) -> str:
        return self.names[number] if self.names else str(number)


def _logits(outputs: Any) -> Tensor:
    return outputs[-1] if isinstance(outputs, tuple | list) else outputs
