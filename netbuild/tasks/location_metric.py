"""The metric of finding an exemplar in a search image: how far the place of the highest score is from the truth."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from netbuild.drawing.numbers import plot_shares
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.score_maps import find_offsets, interpolate_scores

THRESHOLDS = np.arange(51)  # pixels, as OTB has them (arXiv 1304.5850)
NEAR = 20  # pixels, of the measure "precision-20px"


class LocationMetric(Metric):
    """Distances in pixels of the search image between the object's centre and the place of the highest score.

    "precision-20px" is the share of the pairs with less than 20 pixels, "center-error" the mean.
    """

    lists = ("distances",)
    lower_is_better = ("center-error",)

    def __init__(self) -> None:
        self.distances: list[float] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch: score maps (B, h, w), and the true "box" (B, 4)."""
        found = locate(predictions, batch["images"].shape[-1])
        self.distances += (found - batch["box"][:, :2].cpu()).norm(dim=1).tolist()

    def result(self) -> dict[str, float]:
        """Return share and mean; "fitness" is the share, and below that the smaller mean."""
        found = np.array(self.distances or [np.inf])
        share, mean = float((found < NEAR).mean()), float(found.mean())
        return {"precision-20px": share, "center-error": mean, "fitness": share - mean * 1e-6}

    def curve(self) -> list[float]:
        """Return the share of the pairs within each of `THRESHOLDS`."""
        found = np.array(self.distances or [np.inf])
        return [float((found <= limit).mean()) for limit in THRESHOLDS]

    def tables(self) -> dict[str, Any]:
        """Return the precision plot as numbers."""
        return {"precision": {"pixels": THRESHOLDS.tolist(), "share": self.curve()}}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the precision plot."""
        labels = ("error of the centre in pixels", "share of the pairs")
        return {"precision": partial(plot_shares, THRESHOLDS, {"": np.array(self.curve())}, *labels)}


def locate(scores: Tensor, side: int) -> Tensor:
    """Return x and y (B, 2) in pixels of the search image where each map (B, h, w) is highest, between its cells."""
    best = interpolate_scores(scores).flatten(1).argmax(1)
    return find_offsets(best, (scores.shape[1], scores.shape[2]), side).float() + side / 2
