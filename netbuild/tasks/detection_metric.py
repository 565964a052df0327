"""Scores over a data set: mAP as COCO defines it, precision and recall, confusion; top-1 and top-5 of classifiers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netbuild.drawing import charts
from netbuild.system.packages import package
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.box_math import pairwise, to_corners

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

SMOOTH = 0.1  # width of the window over confidences, 0..1, by which F1 is smoothed before its best is sought
STEPS = 1000
IOU = 0.5  # overlap at which a detection counts for precision, recall and F1
CONFUSION = (0.25, 0.45)  # confidence and overlap of what enters the confusion matrix


class DetectionMetric(Metric):
    """Scores of detections; everything is measured in pixels of the images, or of the canvas where no "letterbox" is.

    Args:
        names: names of the classes.
    """

    lists = ("detections", "truths")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.detections: list[Floats] = []  # of each image (n, 6)
        self.truths: list[Floats] = []  # of each image (m, 6): corners, class, whether it is a crowd

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: of each image (n, 6): corners in pixels of the canvas, score, class.
            batch: "images" (B, C, H, W), "boxes" (M, 4) as centre and size in fractions of the canvas, "classes",
                "index"; perhaps "letterbox", a `boxes.Letterbox` for each image, and "crowd" (M,) of truths that stand
                for many objects.
        """
        h, w = batch["images"].shape[-2:]
        boxes = to_corners(batch["boxes"].detach().cpu().double().view(-1, 4)) * torch.tensor([w, h, w, h])
        crowd = batch.get("crowd", torch.zeros(len(boxes)))
        more = [x.detach().cpu().double().view(-1, 1) for x in (batch["classes"], crowd)]
        truths, index = torch.cat((boxes, *more), 1), batch["index"].cpu().view(-1)
        for i, found in enumerate(predictions):
            rows = found.detach().cpu().double()[:, :6].clone()
            true = truths[index == i]
            if "letterbox" in batch:
                rows[:, :4], true[:, :4] = (batch["letterbox"][i].undo(x[:, :4]) for x in (rows, true))
            self.detections.append(rows.numpy())
            self.truths.append(true.numpy())

    def result(self) -> dict[str, float]:
        """COCO's twelve figures by name, and P, R, F1 at the confidence of the best F1, means over the classes.

        As in COCO, at most 100 detections of an image and class count, and a figure without objects is -1.

        Raises:
            MissingExtraError: without faster-coco-eval.
        """
        figures = dict(zip(_COCO, (float(x) for x in self.coco().stats), strict=False))
        curves = self.curves()
        at = best(curves)
        return {
            **figures,
            "precision": _mean(curves.precision[:, at]),
            "recall": _mean(curves.recall[:, at]),
            "F1": _mean(curves.f1[:, at]),
            "confidence": float(curves.confidence[at]),
            "fitness": max(figures["mAP50-95"], 0.0),
        }

    def classes(self) -> list[dict[str, Any]]:
        """Of each class that has objects: images, objects, P, R, F1, AP50, AP50-95."""
        done, curves = self.coco(), self.curves()
        at = best(curves)
        table = []
        for i, (number, objects) in enumerate(zip(curves.classes, curves.objects, strict=True)):
            ap = done.eval["precision"][:, :, number, 0, -1]  # (thresholds, recalls), all areas
            table.append(
                {
                    "class": self.names[number],
                    "images": sum(bool(((t[:, 4] == number) & (t[:, 5] == 0)).any()) for t in self.truths),
                    "objects": int(objects),
                    "precision": float(curves.precision[i, at]),
                    "recall": float(curves.recall[i, at]),
                    "F1": float(curves.f1[i, at]),
                    "AP50": _ap(ap[:1]),
                    "AP50-95": _ap(ap),
                }
            )
        return table

    def coco(self) -> Any:
        """The evaluator of faster-coco-eval, after its summary."""
        coco = package("faster_coco_eval", "train")
        truth = coco.COCO(self.dataset())
        evaluator = coco.COCOeval_faster(truth, truth.loadRes(self.rows()), iouType="bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator

    def dataset(self) -> dict[str, Any]:
        """The truth in COCO's format; images and classes are numbered from 0, objects from 1."""
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

    def rows(self) -> list[dict[str, Any]]:
        """The detections in COCO's format."""
        return [
            {"image_id": i, "category_id": int(row[5]), "bbox": _xywh(row), "score": row[4]}
            for i, image in enumerate(self.detections)
            for row in image.tolist()
        ]

    def curves(self) -> "Curves":
        """Precision and recall by confidence at an overlap of `IOU`; neither crowds count nor what is found in them."""
        hits, scores, classes = [], [], []
        for found, true in zip(self.detections, self.truths, strict=True):
            found = found[np.argsort(-found[:, 4], kind="stable")]
            hit = claimed(found, true[true[:, 5] == 0], IOU)
            counts = (hit > 0) | ~within_crowd(found, true, IOU)
            hits.append(hit[counts])
            scores.append(found[counts, 4])
            classes.append(found[counts, 5])
        objects = np.concatenate([t[t[:, 5] == 0, 4] for t in self.truths]) if self.truths else np.zeros(0)
        return Curves(_join(hits), _join(scores), _join(classes), objects)

    def confusion(self) -> Ints:
        """(nc+1, nc+1) counts, row: predicted class, column: true class; the last ones are the background.

        Boxes pair one to one by overlap, the largest first and whatever their classes: `CONFUSION`. Crowds do not
        count, nor do detections in them that have no pair.
        """
        conf, iou = CONFUSION
        n = len(self.names)
        matrix = np.zeros((n + 1, n + 1), dtype=np.int64)
        for found, true in zip(self.detections, self.truths, strict=True):
            found, single = found[found[:, 4] > conf], true[true[:, 5] == 0]
            pairs = paired(_overlap(found, single), iou)
            predicted, real = found[:, 5].astype(int), single[:, 4].astype(int)
            alone, missed = ~within_crowd(found, true, iou), np.ones(len(single), dtype=bool)
            for d, g in pairs:
                matrix[predicted[d], real[g]] += 1
                alone[d] = missed[g] = False
            np.add.at(matrix[:, n], predicted[alone], 1)
            np.add.at(matrix[n], real[missed], 1)
        return matrix

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Precision, recall and F1 of each class that has objects; the confusion matrix with the background."""
        found = self.curves()
        names = [self.names[number] for number in found.classes]
        return {
            "curves": partial(charts.plot_curves, found.confidence, found.precision, found.recall, names, best(found)),
            "confusion": partial(charts.plot_confusion, self.confusion(), [*self.names, "background"]),
        }


_COCO = """mAP50-95 mAP50 mAP75 mAP50-95-small mAP50-95-medium mAP50-95-large
AR1 AR10 AR100 AR-small AR-medium AR-large""".split()


class Curves:
    """Precision, recall and F1 (classes, confidences) of the classes that have objects.

    Args:
        hits: (N,) whether a detection found an object.
        scores: (N,) its confidence.
        classes: (N,) its class.
        objects: (M,) classes of the objects.
    """

    def __init__(self, hits: Floats, scores: Floats, classes: Floats, objects: Floats) -> None:
        self.confidence = np.linspace(0, 1, STEPS)
        self.classes, self.objects = np.unique(objects.astype(int), return_counts=True)
        shape = (len(self.classes), STEPS)
        self.precision, self.recall = np.zeros(shape), np.zeros(shape)
        for i, (number, count) in enumerate(zip(self.classes, self.objects, strict=True)):
            own = classes == number
            order = np.argsort(-scores[own], kind="stable")
            found = np.concatenate(([0], np.cumsum(hits[own][order])))
            kept = np.searchsorted(-scores[own][order], -self.confidence, side="right")  # how many at each confidence
            self.precision[i] = found[kept] / np.maximum(kept, 1)  # nothing kept: 0
            self.recall[i] = found[kept] / count
        both = self.precision + self.recall
        self.f1 = 2 * self.precision * self.recall / np.where(both > 0, both, 1)


def best(curves: Curves) -> int:
    """Place of the confidence at which F1, mean over the classes and smoothed, is best."""
    if not len(curves.classes):
        return 0
    half = round(STEPS * SMOOTH) // 2
    padded = np.pad(curves.f1.mean(0), half, mode="edge")
    return int(np.convolve(padded, np.ones(2 * half + 1), mode="valid").argmax())


def claimed(found: Floats, true: Floats, threshold: float) -> Floats:
    """Which detections (n, 6), best first, find an object (m, >=5) of their class that no better one has found."""
    overlap = _overlap(found, true) * (found[:, 5:6] == true[None, :, 4])
    hits, taken = np.zeros(len(found)), set[int]()
    d, g = np.nonzero(overlap >= threshold)
    for i in np.lexsort((-overlap[d, g], d)).tolist():  # by detection, then its best object first
        if not hits[d[i]] and g[i] not in taken:
            hits[d[i]] = 1
            taken.add(int(g[i]))
    return hits


def within_crowd(found: Floats, true: Floats, threshold: float) -> Bools:
    """(n,) of which detections (n, 6) at least this share lies in a crowd of their class."""
    crowds = true[true[:, 5] == 1][None]
    boxes = found[:, None]
    low, high = np.maximum(boxes[..., :2], crowds[..., :2]), np.minimum(boxes[..., 2:4], crowds[..., 2:4])
    area = (boxes[..., 2:4] - boxes[..., :2]).prod(-1)
    inside = (high - low).clip(0).prod(-1) >= threshold * np.maximum(area, 1e-9)
    return (inside & (boxes[..., 5] == crowds[..., 4])).any(1)


def paired(overlap: Floats, threshold: float) -> list[tuple[int, int]]:
    """Rows and columns of a matrix, one to one, the largest overlap above the threshold first."""
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
    return pairwise(torch.from_numpy(found[:, :4]), torch.from_numpy(true[:, :4])).numpy()


def _join(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def _xywh(row: list[float]) -> list[float]:
    return [row[0], row[1], row[2] - row[0], row[3] - row[1]]


def _ap(precision: Floats) -> float:
    return float(precision[precision > -1].mean()) if (precision > -1).any() else 0.0


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0
