"""Precision, recall and F1 as functions of the confidence."""

import numpy as np

from netbuild.tasks.average_precision import Floats

CURVE_POINTS = 1000  # confidences from 0 to 1 at which precision, recall and F1 are computed
F1_WINDOW = 0.1  # width, in confidence, of the moving average of F1 whose maximum is sought: single peaks are noise


class PrecisionCurves:
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


def find_best_f1(curves: PrecisionCurves) -> int:
    """Return the index of the confidence at which F1, mean over the classes and smoothed, is largest."""
    if not len(curves.classes):
        return 0
    half = round(CURVE_POINTS * F1_WINDOW) // 2
    padded = np.pad(curves.f1.mean(0), half, mode="edge")
    return int(np.convolve(padded, np.ones(2 * half + 1), mode="valid").argmax())
