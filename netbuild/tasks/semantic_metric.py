"""The metric of semantic segmentation: mean IoU, accuracy of pixels, and the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.data.maps import IGNORED
from netbuild.tasks.average_precision import Floats
from netbuild.tasks.base import Batch
from netbuild.tasks.confusion_metric import ConfusionMetric
from netbuild.tasks.map_task import original_truth


class SemanticMetric(ConfusionMetric):
    """Intersection over union of the pixels of each class, and their accuracy.

    Pixels are counted in the original pictures, for which the logits are interpolated as in prediction; if a batch has
    no "originals", in the network's image. The pixels of all pictures are counted together. Those of class 255 do not
    count. With a single class the mean IoU is that of this class alone.

    Args:
        names: names of the classes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.is_binary = len(names) == 1
        super().__init__(["background", *names] if self.is_binary else names)

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add a batch: logits (nc, h, w) of each image, and the class maps of the batch."""
        n = len(self.names)
        for i, logits in enumerate(predictions):
            truth, place = original_truth(batch, i, "mask")
            found = runtime.classify_pixels(logits.cpu().numpy(), place)
            if self.is_binary:
                found = found == 0
            valid = truth != IGNORED
            pairs = found[valid].astype(np.int64) * n + truth[valid]
            self.matrix += np.bincount(pairs, minlength=n * n).reshape(n, n)

    def shares(self) -> dict[str, Floats]:
        """Return IoU, precision and recall of each class, (nc,); 0 for a class without pixels."""
        hits, found, true = np.diag(self.matrix), self.matrix.sum(1), self.matrix.sum(0)
        return {
            "IoU": hits / np.maximum(found + true - hits, 1),
            "precision": hits / np.maximum(found, 1),
            "recall": hits / np.maximum(true, 1),
        }

    def result(self) -> dict[str, float]:
        """Return the mean IoU over the classes that occur in the truth, and the share of pixels with the right class.

        "class-accuracy" is the mean recall of these classes.
        """
        shares, counted = self.shares(), self.counted()
        mean = float(shares["IoU"][counted].mean()) if counted.any() else 0.0
        return {
            "mIoU": mean,
            "pixel-accuracy": float(np.trace(self.matrix) / max(self.matrix.sum(), 1)),
            "class-accuracy": float(shares["recall"][counted].mean()) if counted.any() else 0.0,
            "fitness": mean,
        }

    def counted(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which classes (nc,) occur in the truth; the background of a single class is left out."""
        present = self.matrix.sum(0) > 0
        if self.is_binary:
            present[0] = False
        return present

    def classes(self) -> list[dict[str, Any]]:
        """Return for each class in the truth: its number of pixels, IoU, precision and recall."""
        shares = self.shares()
        return [
            {
                "class": self.names[i],
                "pixels": int(self.matrix[:, i].sum()),
                **{name: float(values[i]) for name, values in shares.items()},
            }
            for i in self.counted().nonzero()[0].tolist()
        ]
