"""The metric of depth: how close the ratios of predicted and true distances are to 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netbuild import runtime
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.losses.depth import MIN_PIXELS, NEAREST
from netbuild.tasks.map_task import original_truth

FARTHEST = 100.0  # metres; pixels whose true distance is larger do not count


class DepthMetric(Metric):
    """Errors of distances, mean over pictures (arXiv 1406.2283).

    Distances are compared in the original pictures, to which the map is interpolated as in prediction; if a batch has
    no "originals", in the network's image. Pixels with a true distance from 1 mm to 100 m count; pictures with fewer
    than 10 of them do not. Before the comparison the prediction is multiplied by the ratio of the medians of truth and
    prediction, picture by picture, since one picture does not show the scale. The measures that end in "-metric" are
    without this; those that end in "-affine" multiply and shift the prediction by the least squares fit to the truth
    (arXiv 1907.01341), for networks that know neither the scale nor the distance of what is nearest.
    """

    lists = ("errors",)
    lower_is_better = ("abs-rel", "rmse", "silog", "abs-rel-metric", "rmse-metric", "abs-rel-affine", "rmse-affine")

    def __init__(self) -> None:
        self.errors: list[dict[str, float]] = []  # of each picture; empty if it does not count

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add a batch: distances (1, h, w) of each image, and the true ones of the batch."""
        for i, values in enumerate(predictions):
            truth, place = original_truth(batch, i, "depth")
            found = runtime.resample_depth(values.cpu().numpy(), place)
            known = (truth > NEAREST) & (truth < FARTHEST)
            self.errors.append(compare(found[known], truth[known]) if known.sum() >= MIN_PIXELS else {})

    def result(self) -> dict[str, float]:
        """Return the means over the pictures; "fitness" is delta1."""
        rows = [row for row in self.errors if row]
        names = compare(np.ones(1), np.ones(1))
        means = {name: float(np.mean([row[name] for row in rows])) if rows else 0.0 for name in names}
        return {**means, "fitness": means["delta1"]}


def compare(found: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Return the measures of a picture's predicted and true distances, (N,) each.

    delta1, delta2 and delta3 are the shares of pixels whose ratio to the truth (or its inverse) is below 1.25, 1.25^2
    and 1.25^3; abs-rel is the mean of |prediction - truth| / truth, rmse the root of the mean squared error in metres,
    and silog a hundred times the standard deviation of ln(prediction / truth).
    """
    found, truth = np.maximum(found.astype(np.float64), NEAREST), truth.astype(np.float64)
    scaled = found * (np.median(truth) / np.median(found))
    return {
        **_errors(scaled, truth, (1, 2, 3)),
        "silog": float(100 * np.std(np.log(found / truth))),
        **{f"{name}-metric": value for name, value in _errors(found, truth, (1,)).items()},
        **{f"{name}-affine": value for name, value in _errors(fit_affine(found, truth), truth, (1,)).items()},
    }


def fit_affine(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    """Return predictions (N,) times a factor plus a constant that make their squared errors least, at least 1 mm."""
    centred = found - found.mean()
    spread = float((centred**2).sum())
    factor = float((centred * truth).sum()) / spread if spread > 0 else 0.0
    fitted: NDArray[Any] = np.maximum(factor * centred + truth.mean(), NEAREST)
    return fitted


def _errors(found: NDArray[Any], truth: NDArray[Any], powers: Sequence[int]) -> dict[str, float]:
    ratio = np.maximum(found / truth, truth / found)
    return {
        **{f"delta{power}": float((ratio < 1.25**power).mean()) for power in powers},
        "abs-rel": float((np.abs(found - truth) / truth).mean()),
        "rmse": float(np.sqrt(np.square(found - truth).mean())),
    }
