"""Figures, curves and confusion of detections that are compared with objects by one kind of overlap."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from netbuild.drawing import charts
from netbuild.tasks import average_precision
from netbuild.tasks.average_precision import AveragePrecision, Bools, Candidates, Floats, Ints
from netbuild.tasks.matching import match_detections, match_pairs
from netbuild.tasks.precision_curves import PrecisionCurves, find_best_f1

MATCH_IOU = 0.5  # least overlap of a detection with an object for precision, recall and F1
# Detections above this confidence, matched at this overlap, enter the confusion matrix.
CONFUSION_CONFIDENCE, CONFUSION_IOU = 0.25, 0.45


class OverlapEvaluation(ABC):
    """The figures of a data set's detections by one kind of overlap, such as the IoU of boxes or of masks.

    A subclass sets ``prefix`` and implements `overlap`; it keeps what that needs beside the boxes, such as masks, in
    lists with one entry per picture. Its average precision is that of `netbuild.tasks.average_precision`, unless it
    overrides `average_precision`, as `netbuild.tasks.coco_evaluation.CocoEvaluation` does to run COCO's own tool.

    Args:
        names: names of the classes.
        detections: for each picture (n, 6): corners in pixels, score, class.
        truths: for each picture (m, 6): corners in pixels, class, 1 for a crowd.

    Attributes:
        prefix: the beginning of the figures' names, such as "mask-"; empty for a metric's main kind of overlap.
    """

    prefix: str = ""

    def __init__(self, names: Sequence[str], detections: Sequence[Floats], truths: Sequence[Floats]) -> None:
        self.names, self.detections, self.truths = list(names), detections, truths

    @abstractmethod
    def overlap(self, picture: int, found: Ints, true: Ints) -> Floats:
        """Return the overlaps (len(found), len(true)), from 0 to 1, of detections with objects of a picture.

        Args:
            picture: the number of the picture.
            found: indices of its detections, in any order.
            true: indices of its objects.
        """

    def crowd_share(self, picture: int, found: Ints, crowds: Ints) -> Floats:
        """Return the share of each detection's area that lies in each crowd (len(found), len(crowds)); of boxes here.

        Args:
            picture: the number of the picture.
            found: indices of its detections.
            crowds: indices of its objects that are crowds.
        """
        boxes, others = self.detections[picture][found, None], self.truths[picture][None, crowds]
        low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:4], others[..., 2:4])
        area = (boxes[..., 2:4] - boxes[..., :2]).prod(-1)
        return (high - low).clip(0).prod(-1) / np.maximum(area, 1e-9)

    def is_ignored(self, picture: int) -> Bools:
        """Return (m,) whether each object does not count, neither itself nor what is found in it: crowds here."""
        return self.truths[picture][:, 5] == 1

    def found_areas(self, picture: int) -> Floats:
        """Return the areas (n,) of a picture's detections in square pixels, of their boxes here."""
        rows = self.detections[picture]
        return (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])

    def true_areas(self, picture: int) -> Floats:
        """Return the areas (m,) of a picture's objects in square pixels, of their boxes here."""
        rows = self.truths[picture]
        return (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])

    # -- figures ------------------------------------------------------------------------------------------------------

    @cached_property
    def average_precision(self) -> AveragePrecision:
        """COCO's figures, their names without the prefix."""
        return average_precision.evaluate([list(self.list_candidates(c)) for c in range(len(self.names))])

    def list_candidates(self, number: int) -> Iterator[Candidates]:
        """Yield the detections and objects of a class in each picture that has any."""
        for i, (rows, true) in enumerate(zip(self.detections, self.truths, strict=True)):
            found, objects = np.flatnonzero(rows[:, 5] == number), np.flatnonzero(true[:, 4] == number)
            if not len(found) and not len(objects):
                continue
            found = found[np.argsort(-rows[found, 4], kind="stable")]
            crowd = true[objects, 5] == 1
            overlap = np.zeros((len(found), len(objects)))
            overlap[:, ~crowd] = self.overlap(i, found, objects[~crowd])
            overlap[:, crowd] = self.crowd_share(i, found, objects[crowd])
            areas = self.found_areas(i)[found], self.true_areas(i)[objects]
            yield Candidates(rows[found, 4], *areas, self.is_ignored(i)[objects], crowd, overlap)

    def result(self) -> dict[str, float]:
        """Return COCO's figures, and mean precision, recall and F1 at the confidence of the best F1; with the prefix.

        As in COCO, at most 100 detections per image and class count, and a figure without objects is -1.
        """
        curves = self.curves
        at = find_best_f1(curves)
        found = {
            **self.average_precision.figures,
            "precision": _mean(curves.precision[:, at]),
            "recall": _mean(curves.recall[:, at]),
            "F1": _mean(curves.f1[:, at]),
            "confidence": float(curves.confidence[at]),
        }
        return {self.prefix + name: value for name, value in found.items()}

    def fitness(self) -> float:
        """Return what this kind of overlap adds to the fitness: mAP50-95, 0 without objects."""
        return max(self.average_precision.figures["mAP50-95"], 0.0)

    def classes(self) -> dict[int, dict[str, Any]]:
        """Return by class with objects: precision, recall, F1, AP50, AP50-95; with the prefix."""
        curves, precision = self.curves, self.average_precision.precision
        at = find_best_f1(curves)
        table = {}
        for i, number in enumerate(curves.classes.tolist()):
            found = {
                "precision": float(curves.precision[i, at]),
                "recall": float(curves.recall[i, at]),
                "F1": float(curves.f1[i, at]),
                "AP50": _mean_precision(precision[:1, :, number]),
                "AP50-95": _mean_precision(precision[:, :, number]),
            }
            table[number] = {self.prefix + name: value for name, value in found.items()}
        return table

    def count_objects(self) -> dict[int, tuple[int, int]]:
        """Return by class with objects: the number of pictures that have some, and of objects."""
        counted = [true[~self.is_ignored(i), 4].astype(int) for i, true in enumerate(self.truths)]
        numbers, objects = np.unique(np.concatenate(counted or [np.zeros(0, int)]), return_counts=True)
        return {
            int(number): (sum(bool((of_picture == number).any()) for of_picture in counted), int(count))
            for number, count in zip(numbers, objects, strict=True)
        }

    # -- curves and confusion -----------------------------------------------------------------------------------------

    @cached_property
    def curves(self) -> PrecisionCurves:
        """Precision and recall by confidence at `MATCH_IOU`; ignored objects, and detections in them, do not count."""
        hits, scores, classes, objects = [], [], [], []
        for i, (rows, true) in enumerate(zip(self.detections, self.truths, strict=True)):
            hit, ignored = np.zeros(len(rows)), self.is_ignored(i)
            counts = np.ones(len(rows), dtype=bool)
            order = np.argsort(-rows[:, 4], kind="stable")
            for number in np.unique(true[:, 4]):
                found = order[rows[order, 5] == number]
                hit[found] = match_detections(
                    self.overlap(i, found, np.flatnonzero((true[:, 4] == number) & ~ignored)), MATCH_IOU
                )
                missed = found[hit[found] == 0]
                counts[missed] = ~self._is_in_ignored(i, missed, (true[:, 4] == number) & ignored, MATCH_IOU)
            kept = order[counts[order]]
            hits.append(hit[kept])
            scores.append(rows[kept, 4])
            classes.append(rows[kept, 5])
            objects.append(true[~ignored, 4])
        return PrecisionCurves(_join(hits), _join(scores), _join(classes), _join(objects))

    def confusion(self) -> Ints:
        """Return counts (nc+1, nc+1) by predicted class (row) and true class (column); the last is the background.

        Detections are matched to objects one to one by overlap, the largest first and regardless of class. Ignored
        objects do not count, nor do unmatched detections in them.
        """
        n = len(self.names)
        matrix = np.zeros((n + 1, n + 1), dtype=np.int64)
        for i, (rows, true) in enumerate(zip(self.detections, self.truths, strict=True)):
            ignored = self.is_ignored(i)
            found, single = np.flatnonzero(rows[:, 4] > CONFUSION_CONFIDENCE), np.flatnonzero(~ignored)
            predicted, real = rows[found, 5].astype(int), true[single, 4].astype(int)
            spurious, missed = np.ones(len(found), dtype=bool), np.ones(len(single), dtype=bool)
            for number in np.unique(true[ignored, 4]):
                of_class = predicted == number
                inside = self._is_in_ignored(i, found[of_class], (true[:, 4] == number) & ignored, CONFUSION_IOU)
                spurious[of_class] = ~inside
            for d, g in match_pairs(self.overlap(i, found, single), CONFUSION_IOU):
                matrix[predicted[d], real[g]] += 1
                spurious[d] = missed[g] = False
            np.add.at(matrix[:, n], predicted[spurious], 1)
            np.add.at(matrix[n], real[missed], 1)
        return matrix

    def tables(self) -> dict[str, Any]:
        """Return the confusion matrix and the curves as JSON data; with the prefix.

        The curves have for 101 confidences precision, recall and F1 of each class with objects, and for 101 recalls
        the precision that average precision is the mean of, at the least overlap.
        """
        curves, by_recall = self.curves, self.average_precision.precision[0]
        places = np.linspace(0, len(curves.confidence) - 1, 101).round().astype(int)
        values = {"precision": curves.precision, "recall": curves.recall, "F1": curves.f1}
        rows = [
            {"class": self.names[number], **{name: _rounded(value[i, places]) for name, value in values.items()}}
            | {"precision-by-recall": _rounded(by_recall[:, number])}
            for i, number in enumerate(curves.classes.tolist())
        ]
        found = {
            "confusion": {"names": [*self.names, "background"], "counts": self.confusion().tolist()},
            "curves": {"confidence": _rounded(curves.confidence[places]), "classes": rows},
        }
        return {self.prefix + name: table for name, table in found.items()}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the charts of precision, recall and F1 by class, and of the confusion matrix; with the prefix."""
        found = self.curves
        names = [self.names[number] for number in found.classes]
        best = find_best_f1(found)
        drawn: dict[str, Callable[[], Any]] = {
            "curves": partial(charts.plot_curves, found.confidence, found.precision, found.recall, names, best),
            "confusion": partial(charts.plot_confusion, self.confusion(), [*self.names, "background"]),
        }
        return {self.prefix + name: draw for name, draw in drawn.items()}

    def _is_in_ignored(self, picture: int, found: Ints, ignored: Bools, threshold: float) -> Bools:
        """Return whether each detection lies in an ignored object: by its share in a crowd, by overlap in another."""
        crowd = self.truths[picture][:, 5] == 1
        shares = self.crowd_share(picture, found, np.flatnonzero(ignored & crowd))
        overlaps = self.overlap(picture, found, np.flatnonzero(ignored & ~crowd))
        return np.any(np.concatenate((shares, overlaps), 1) >= threshold, axis=1)


def _join(parts: Sequence[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _rounded(values: Floats) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


def _mean_precision(precision: Floats) -> float:
    return float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0
