"""The metric of classifiers: top-1 and top-5 accuracy, and the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from netbuild.tasks.base import Batch
from netbuild.tasks.confusion_metric import ConfusionMetric


class ClassificationMetric(ConfusionMetric):
    """Top-1 and top-5 accuracy, and the confusion matrix.

    Args:
        names: names of the classes.
    """

    counts = ("top1", "top5", "count", *ConfusionMetric.counts)

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.top1 = self.top5 = self.count = 0

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch: probabilities or logits (B, nc), and "classes" (B,)."""
        true = batch["classes"].detach().cpu().view(-1).long()
        best = predictions.detach().cpu().topk(min(5, predictions.shape[1])).indices
        hits = best == true[:, None]
        self.top1 += int(hits[:, 0].sum())
        self.top5 += int(hits.any(1).sum())
        self.count += len(true)
        np.add.at(self.matrix, (best[:, 0].numpy(), true.numpy()), 1)

    def result(self) -> dict[str, float]:
        """Return both accuracies, and their mean as fitness."""
        top1, top5 = (n / max(self.count, 1) for n in (self.top1, self.top5))
        return {"top1": top1, "top5": top5, "fitness": (top1 + top5) / 2}

    def classes(self) -> list[dict[str, Any]]:
        """Return for each class with images: their number, and precision and recall of the likeliest class."""
        table = []
        for i, name in enumerate(self.names):
            hits, images, predicted = int(self.matrix[i, i]), int(self.matrix[:, i].sum()), int(self.matrix[i].sum())
            if images:
                precision, recall = hits / max(predicted, 1), hits / images
                table.append({"class": name, "images": images, "precision": precision, "recall": recall})
        return table
