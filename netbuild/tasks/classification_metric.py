"""The score of a classifier: top-1 and top-5 accuracy, and the confusion matrix."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from netbuild.drawing import charts
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.detection_metric import Ints


class ClassificationMetric(Metric):
    """Top-1 and top-5 accuracy, and which classes are taken for which.

    Args:
        names: names of the classes.
    """

    counts = ("top1", "top5", "count", "matrix")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.top1 = self.top5 = self.count = 0
        self.matrix = np.zeros((len(self.names),) * 2, dtype=np.int64)

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch: probabilities or logits (B, nc), and "classes" (B,)."""
        true = batch["classes"].detach().cpu().view(-1).long()
        order = predictions.detach().cpu().topk(min(5, predictions.shape[1])).indices
        right = order == true[:, None]
        self.top1 += int(right[:, 0].sum())
        self.top5 += int(right.any(1).sum())
        self.count += len(true)
        np.add.at(self.matrix, (order[:, 0].numpy(), true.numpy()), 1)

    def result(self) -> dict[str, float]:
        """Accuracies, and their mean as fitness."""
        top1, top5 = (n / max(self.count, 1) for n in (self.top1, self.top5))
        return {"top1": top1, "top5": top5, "fitness": (top1 + top5) / 2}

    def classes(self) -> list[dict[str, Any]]:
        """Of each class that has images: their number, and the precision and recall of the first guess."""
        table = []
        for i, name in enumerate(self.names):
            right, images, guesses = (
                int(x) for x in (self.matrix[i, i], self.matrix[:, i].sum(), self.matrix[i].sum())
            )
            if images:
                table.append(
                    {
                        "class": name,
                        "images": images,
                        "precision": right / max(guesses, 1),
                        "recall": right / images,
                    }
                )
        return table

    def confusion(self) -> Ints:
        """(nc, nc) counts, row: predicted class, column: true class."""
        return self.matrix.copy()

    def plots(self) -> dict[str, Callable[[], Any]]:
        """The confusion matrix."""
        return {"confusion": partial(charts.plot_confusion, self.confusion(), self.names)}
