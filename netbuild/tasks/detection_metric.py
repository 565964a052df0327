"""The metric of detection: mAP by COCO's definition, precision, recall, F1, and the confusion matrix."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netbuild.drawing import charts
from netbuild.system.packages import package
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.box_math import pairwise_iou, to_corners

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

CURVE_POINTS = 1000  # confidences from 0 to 1 at which precision, recall and F1 are computed
F1_WINDOW = 0.1  # width, in confidence, of the moving average of F1 whose maximum is sought: single peaks are noise
MATCH_IOU = 0.5  # least overlap of a detection with an object for precision, recall and F1
# Detections above this confidence, matched at this overlap, enter the confusion matrix.
CONFUSION_CONFIDENCE, CONFUSION_IOU = 0.25, 0.45
# Names of the figures that COCO's evaluation prints, in its order.
COCO_FIGURES = """mAP50-95 mAP50 mAP75 mAP50-95-small mAP50-95-medium mAP50-95-large
AR1 AR10 AR100 AR-small AR-medium AR-large""".split()


class DetectionMetric(Metric):
    """COCO's figures, precision, recall and F1 of boxes.

    Boxes are measured in pixels of the original pictures, or of the network's input if a batch has no "letterbox".

    Args:
        names: names of the classes.
    """

    lists = ("detections", "truths")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.detections: list[Floats] = []  # for each image (n, 6): corners, score, class
        self.truths: list[Floats] = []  # for each image (m, 6): corners, class, 1 for a crowd

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: for each image (n, 6): corners in pixels of the input, score, class.
            batch: "images" (B, C, H, W), "boxes" (M, 4) as centre and size in fractions of the input, "classes" and
                "index" (M,); optionally "letterbox", a `netbuild.data.fitting.Letterbox` for each image, and "crowd"
                (M,), true for a box around many objects.
        """
        h, w = batch["images"].shape[-2:]
        boxes = to_corners(batch["boxes"].detach().cpu().double().view(-1, 4)) * torch.tensor([w, h, w, h])
        crowd = batch.get("crowd", torch.zeros(len(boxes)))
        columns = [x.detach().cpu().double().view(-1, 1) for x in (batch["classes"], crowd)]
        truths, index = torch.cat((boxes, *columns), 1), batch["index"].cpu().view(-1)
        for i, found in enumerate(predictions):
            rows = found.detach().cpu().double()[:, :6].clone()
            true = truths[index == i]
            if "letterbox" in batch:
                rows[:, :4], true[:, :4] = (batch["letterbox"][i].undo(x[:, :4]) for x in (rows, true))
            self.detections.append(rows.numpy())
            self.truths.append(true.numpy())

    def result(self) -> dict[str, float]:
        """Return COCO's twelve figures, and mean precision, recall and F1 at the confidence of the best F1.

        As in COCO, at most 100 detections per image and class count, and a figure without objects is -1.

        Raises:
            MissingExtraError: without faster-coco-eval.
        """
        figures = dict(zip(COCO_FIGURES, (float(x) for x in self.evaluate_coco().stats), strict=False))
        curves = self.curves()
        at = find_best_f1(curves)
        return {
            **figures,
            "precision": _mean(curves.precision[:, at]),
            "recall": _mean(curves.recall[:, at]),
            "F1": _mean(curves.f1[:, at]),
            "confidence": float(curves.confidence[at]),
            "fitness": max(figures["mAP50-95"], 0.0),
        }

    def classes(self) -> list[dict[str, Any]]:
        """Return for each class with objects: images, objects, precision, recall, F1, AP50, AP50-95."""
        evaluator, curves = self.evaluate_coco(), self.curves()
        at = find_best_f1(curves)
        table = []
        for i, (number, objects) in enumerate(zip(curves.classes, curves.objects, strict=True)):
            ap = evaluator.eval["precision"][:, :, number, 0, -1]  # (thresholds, recalls), all areas
            table.append(
                {
                    "class": self.names[number],
                    "images": sum(bool(((t[:, 4] == number) & (t[:, 5] == 0)).any()) for t in self.truths),
                    "objects": int(objects),
                    "precision": float(curves.precision[i, at]),
                    "recall": float(curves.recall[i, at]),
                    "F1": float(curves.f1[i, at]),
                    "AP50": _mean_precision(ap[:1]),
                    "AP50-95": _mean_precision(ap),
                }
            )
        return table

    def evaluate_coco(self) -> Any:
        """Run faster-coco-eval and return its evaluator, whose ``stats`` are `COCO_FIGURES`."""
        coco = package("faster_coco_eval", "train")
        truth = coco.COCO(self.coco_dataset())
        evaluator = coco.COCOeval_faster(truth, truth.loadRes(self.coco_detections()), iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator

    def coco_dataset(self) -> dict[str, Any]:
        """Return the truths in COCO's format; images and classes are numbered from 0, objects from 1."""
        rows = [(i, row) for i, image in enumerate(self.truths) for row in image.tolist()]
        return {
            "info": {},
            "images": [{"id": i} for i in range(len(self.truths))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.names)],
            "annotations": [
                {
                    "id": number,
                    "image_id": i,
                    "category_id": int(row[4]),
                    "bbox": _xywh(row),
                    "area": (row[2] - row[0]) * (row[3] - row[1]),
                    "iscrowd": int(row[5]),
                }
                for number, (i, row) in enumerate(rows, 1)
            ],
        }

    def coco_detections(self) -> list[dict[str, Any]]:
        """Return the detections in COCO's format."""
        return [
            {"image_id": i, "category_id": int(row[5]), "bbox": _xywh(row), "score": row[4]}
            for i, image in enumerate(self.detections)
            for row in image.tolist()
        ]

    def curves(self) -> "Curves":
        """Compute precision and recall by confidence at `MATCH_IOU`; crowds, and detections in them, do not count."""
        hits, scores, classes = [], [], []
        for found, true in zip(self.detections, self.truths, strict=True):
            found = found[np.argsort(-found[:, 4], kind="stable")]
            hit = match_detections(found, true[true[:, 5] == 0], MATCH_IOU)
            counts = (hit > 0) | ~is_in_crowd(found, true, MATCH_IOU)
            hits.append(hit[counts])
            scores.append(found[counts, 4])
            classes.append(found[counts, 5])
        objects = np.concatenate([t[t[:, 5] == 0, 4] for t in self.truths]) if self.truths else np.zeros(0)
        return Curves(_join(hits), _join(scores), _join(classes), objects)

    def confusion(self) -> Ints:
        """Return counts (nc+1, nc+1) by predicted class (row) and true class (column); the last is the background.

        Boxes are matched one to one by overlap, the largest first and regardless of class. Crowds do not count, nor do
        unmatched detections in them.
        """
        n = len(self.names)
        matrix = np.zeros((n + 1, n + 1), dtype=np.int64)
        for found, true in zip(self.detections, self.truths, strict=True):
            found, single = found[found[:, 4] > CONFUSION_CONFIDENCE], true[true[:, 5] == 0]
            pairs = match_pairs(_overlap(found, single), CONFUSION_IOU)
            predicted, real = found[:, 5].astype(int), single[:, 4].astype(int)
            spurious, missed = ~is_in_crowd(found, true, CONFUSION_IOU), np.ones(len(single), dtype=bool)
            for d, g in pairs:
                matrix[predicted[d], real[g]] += 1
                spurious[d] = missed[g] = False
            np.add.at(matrix[:, n], predicted[spurious], 1)
            np.add.at(matrix[n], real[missed], 1)
        return matrix

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the charts of precision, recall and F1 by class, and of the confusion matrix."""
        found = self.curves()
        names = [self.names[number] for number in found.classes]
        best = find_best_f1(found)
        return {
            "curves": partial(charts.plot_curves, found.confidence, found.precision, found.recall, names, best),
            "confusion": partial(charts.plot_confusion, self.confusion(), [*self.names, "background"]),
        }


class Curves:
    """Precision, recall and F1 (classes, confidences) of the classes with objects.

    Args:
        hits: (N,) 1 for a detection that matches an object.
        scores: (N,) confidences of the detections.
        classes: (N,) classes of the detections.
        objects: (M,) classes of the objects.
    """

    def __init__(self, hits: Floats, scores: Floats, classes: Floats, objects: Floats) -> None:
        self.confidence = np.linspace(0, 1, CURVE_POINTS)
        self.classes, self.objects = np.unique(objects.astype(int), return_counts=True)
        shape = (len(self.classes), CURVE_POINTS)
        self.precision, self.recall = np.zeros(shape), np.zeros(shape)
        for i, (number, count) in enumerate(zip(self.classes, self.objects, strict=True)):
            chosen = classes == number
            order = np.argsort(-scores[chosen], kind="stable")
            true_positives = np.concatenate(([0], np.cumsum(hits[chosen][order])))
            # The number of detections at or above each confidence.
            detections = np.searchsorted(-scores[chosen][order], -self.confidence, side="right")
            self.precision[i] = true_positives[detections] / np.maximum(detections, 1)  # 0 without detections
            self.recall[i] = true_positives[detections] / count
        both = self.precision + self.recall
        self.f1 = 2 * self.precision * self.recall / np.where(both > 0, both, 1)


def find_best_f1(curves: Curves) -> int:
    """Return the index of the confidence at which F1, mean over the classes and smoothed, is largest."""
    if not len(curves.classes):
        return 0
    half = round(CURVE_POINTS * F1_WINDOW) // 2
    padded = np.pad(curves.f1.mean(0), half, mode="edge")
    return int(np.convolve(padded, np.ones(2 * half + 1), mode="valid").argmax())


def match_detections(found: Floats, true: Floats, threshold: float) -> Floats:
    """Match detections (n, 6), best first, to objects (m, >=5) of their class; return 1 for each matched one (n,).

    Each detection takes the object of largest overlap that no better detection has taken.
    """
    overlap = _overlap(found, true) * (found[:, 5:6] == true[None, :, 4])
    hits, taken = np.zeros(len(found)), set[int]()
    d, g = np.nonzero(overlap >= threshold)
    for i in np.lexsort((-overlap[d, g], d)).tolist():  # by detection, then by falling overlap
        if not hits[d[i]] and g[i] not in taken:
            hits[d[i]] = 1
            taken.add(int(g[i]))
    return hits


def is_in_crowd(found: Floats, true: Floats, threshold: float) -> Bools:
    """Return which detections (n, 6) lie to at least this share of their area in a crowd of their class: (n,)."""
    crowds = true[true[:, 5] == 1][None]
    boxes = found[:, None]
    low, high = np.maximum(boxes[..., :2], crowds[..., :2]), np.minimum(boxes[..., 2:4], crowds[..., 2:4])
    area = (boxes[..., 2:4] - boxes[..., :2]).prod(-1)
    inside = (high - low).clip(0).prod(-1) >= threshold * np.maximum(area, 1e-9)
    return (inside & (boxes[..., 5] == crowds[..., 4])).any(1)


def match_pairs(overlap: Floats, threshold: float) -> list[tuple[int, int]]:
    """Match rows to columns one to one, greedily by falling overlap, down to the threshold."""
    d, g = np.nonzero(overlap > threshold)
    rows, columns, pairs = set[int](), set[int](), []
    for i in np.argsort(-overlap[d, g], kind="stable"):
        row, column = int(d[i]), int(g[i])
        if row not in rows and column not in columns:
            rows.add(row)
            columns.add(column)
            pairs.append((row, column))
    return pairs


def _overlap(found: Floats, true: Floats) -> Floats:
    return pairwise_iou(torch.from_numpy(found[:, :4]), torch.from_numpy(true[:, :4])).numpy()


def _join(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _xywh(row: list[float]) -> list[float]:
    return [row[0], row[1], row[2] - row[0], row[3] - row[1]]


def _mean_precision(precision: Floats) -> float:
    return float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0
