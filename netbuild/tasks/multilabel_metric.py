"""The metric of several labels a picture: average precision, precision, recall and F1 of each label."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.drawing import charts
from netbuild.tasks.average_precision import Floats
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.precision_curves import PrecisionCurves, find_best_f1


class MultiLabelMetric(Metric):
    """Average precision of each label that some picture has, and precision, recall and F1 at a probability of 0.5.

    Labels that are not known for a picture do not count for it. The means over the labels weigh each the same.

    Args:
        names: names of the labels.
    """

    lists = ("probabilities", "truths")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.probabilities: list[Floats] = []  # (nc,) of each picture
        self.truths: list[Floats] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch: probabilities (B, nc), and "labels" (B, nc)."""
        self.probabilities += list(predictions.detach().cpu().double().numpy())
        self.truths += list(batch["labels"].detach().cpu().double().numpy())

    def result(self) -> dict[str, float]:
        """Return the means over the labels that occur; "exact" is the share of pictures all of whose labels are right.

        "fitness" is mAP.
        """
        rows = self.classes()
        means = {
            name: float(np.mean([row[key] for row in rows])) if rows else 0.0
            for name, key in {"mAP": "AP", **{n: n for n in ("precision", "recall", "F1", "F1-best")}}.items()
        }
        p, truth = self.stack()
        right = ((p >= runtime.LABEL_CONFIDENCE) == (truth == 1)) | np.isnan(truth)
        return {**means, "exact": float(right.all(1).mean()) if len(p) else 0.0, "fitness": means["mAP"]}

    def classes(self) -> list[dict[str, Any]]:
        """Return a row of measures for each label that some picture has.

        "F1-best" is the largest F1 over all thresholds, "threshold" the one where it is.
        """
        p, truth = self.stack()
        rows = []
        for name, scores, holds in zip(self.names, p.T, truth.T, strict=True):
            known = np.isfinite(holds)
            scores, real = scores[known], holds[known] == 1
            if not real.any():
                continue
            tp, fp, fn, _ = count_outcomes(scores >= runtime.LABEL_CONFIDENCE, real)
            best, threshold = find_best_threshold(scores, real)
            rows.append(
                {
                    "class": name,
                    "images": int(real.sum()),
                    "AP": average_precision(scores, real),
                    "precision": tp / max(tp + fp, 1),
                    "recall": tp / (tp + fn),
                    "F1": 2 * tp / max(2 * tp + fp + fn, 1),
                    "F1-best": best,
                    "threshold": threshold,
                }
            )
        return rows

    def tables(self) -> dict[str, Any]:
        """Return for each label how many pictures have it or not, and are predicted to have it or not."""
        p, truth = self.stack()
        counts = []
        for name, scores, holds in zip(self.names, p.T, truth.T, strict=True):
            known = np.isfinite(holds)
            outcomes = count_outcomes(scores[known] >= runtime.LABEL_CONFIDENCE, holds[known] == 1)
            names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
            counts.append({"class": name, **dict(zip(names, outcomes, strict=True))})
        return {"confusion": {"threshold": runtime.LABEL_CONFIDENCE, "classes": counts}}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the chart of precision, recall and F1 by label."""
        p, truth = self.stack()
        known = np.isfinite(truth)
        classes, objects = (np.nonzero(places)[1].astype(float) for places in (known, truth == 1))
        found = PrecisionCurves((truth[known] == 1).astype(float), p[known], classes, objects)
        names = [self.names[number] for number in found.classes]
        draw = partial(charts.plot_curves, found.confidence, found.precision, found.recall, names, find_best_f1(found))
        return {"curves": draw}

    def stack(self) -> tuple[Floats, Floats]:
        """Return the probabilities and the truth of all pictures, (N, nc) each."""
        shape = (-1, len(self.names))
        return np.array(self.probabilities).reshape(shape), np.array(self.truths).reshape(shape)


def count_outcomes(predicted: Any, real: Any) -> tuple[int, int, int, int]:
    """Return the numbers of true positives, false positives, false negatives and true negatives."""
    pairs = ((predicted, real), (predicted, ~real), (~predicted, real), (~predicted, ~real))
    return tuple(int((a & b).sum()) for a, b in pairs)  # type: ignore[return-value]


def average_precision(scores: Floats, real: Any) -> float:
    """Return the mean precision over the pictures that have the label, each at its own score as threshold.

    It is the area under the curve of precision by recall without interpolation. Pictures of one score count together.

    Args:
        scores: (N,) probabilities.
        real: (N,) whether the label holds; at least once.
    """
    precision, recall, _ = trace_curve(scores, real)
    return float((np.diff(recall, prepend=0) * precision).sum())


def find_best_threshold(scores: Floats, real: Any) -> tuple[float, float]:
    """Return the largest F1 that a threshold reaches, and this threshold."""
    precision, recall, thresholds = trace_curve(scores, real)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    return float(f1[best]), float(thresholds[best])


def trace_curve(scores: Floats, real: Any) -> tuple[Floats, Floats, Floats]:
    """Return precision, recall and threshold at each different score, from the largest to the smallest."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(real[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of the pictures with each score
    return hits[last] / (last + 1), hits[last] / hits[-1], ranked[last]
