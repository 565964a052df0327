"""Average precision and recall by COCO's definition, for any kind of overlap between detections and objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

# Names of the figures that COCO's evaluation of boxes and masks prints, in its order.
COCO_FIGURES = tuple(
    """mAP50-95 mAP50 mAP75 mAP50-95-small mAP50-95-medium mAP50-95-large
    AR1 AR10 AR100 AR-small AR-medium AR-large""".split()
)
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # least overlaps of a detection with its object
RECALLS = np.linspace(0, 1, 101)  # recalls at which precision is averaged
# Ranges of the objects' areas in square pixels, both ends included; objects outside do not count.
AREA_RANGES: Mapping[str, tuple[float, float]] = {
    "all": (0, 1e10),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e10),
}
MAX_DETECTIONS = (1, 10, 100)  # most detections of a class in a picture that count, the best ones


@dataclass(frozen=True)
class AveragePrecision:
    """The result of an evaluation.

    Args:
        figures: the measures by name; -1 for one without objects.
        precision: (thresholds, recalls, classes) for areas of all sizes; -1 for a class without objects.
    """

    figures: dict[str, float]
    precision: Floats


@dataclass(frozen=True)
class Candidates:
    """The n detections, best first, and the m objects of one class in one picture.

    Args:
        scores: (n,) confidences.
        found_areas: (n,) areas of the detections in square pixels.
        true_areas: (m,) areas of the objects.
        ignored: (m,) whether an object does not count: neither is it missed, nor is its detection wrong.
        crowd: (m,) whether an object is a crowd, to which many detections may be matched.
        overlap: (n, m) from 0 to 1; for a crowd the share of the detection that lies in it.
    """

    scores: Floats
    found_areas: Floats
    true_areas: Floats
    ignored: Bools
    crowd: Bools
    overlap: Floats


@dataclass(frozen=True)
class Matches:
    """The outcome of matching a picture's detections of a class at all `THRESHOLDS`.

    Args:
        scores: (n,) confidences, best first.
        hits: (thresholds, n) whether a detection is matched to an object that counts.
        counts: (thresholds, n) whether a detection counts: as right if it is a hit, else as wrong.
        objects: the number of objects that count.
    """

    scores: Floats
    hits: Bools
    counts: Bools
    objects: int


def evaluate(classes: Sequence[Sequence[Candidates]]) -> AveragePrecision:
    """Evaluate the pictures' candidates of each class, as COCO's evaluation does.

    Precision is made monotone and averaged over 101 recalls, 10 thresholds of overlap and the classes with objects.
    """
    matches = {area: [[match(c, limits) for c in of_class] for of_class in classes]
               for area, limits in AREA_RANGES.items()}  # fmt: skip
    precision, recall = {}, {}
    for area, of_area in matches.items():
        results = [accumulate(of_class, MAX_DETECTIONS[-1]) for of_class in of_area]
        precision[area] = np.stack([p for p, _ in results], -1) if results else np.zeros((0, 0, 0))
        recall[area] = [r for _, r in results]
    values = [_mean(p) for p in (precision["all"], precision["all"][:1], precision["all"][5:6])]
    values += [_mean(precision[area]) for area in AREA_RANGES if area != "all"]
    for count in MAX_DETECTIONS:
        values.append(_mean([accumulate(of_class, count)[1] for of_class in matches["all"]]))
    values += [_mean(recall[area]) for area in AREA_RANGES if area != "all"]
    return AveragePrecision(dict(zip(COCO_FIGURES, values, strict=True)), precision["all"])


def match(candidates: Candidates, area_range: tuple[float, float]) -> Matches:
    """Match detections, best first, each to the object of largest overlap that no better detection has taken.

    Objects outside the range of areas are ignored, as are detections outside it that match nothing. A detection
    takes an ignored object only where none that counts is left.
    """
    low, high = area_range
    n = min(len(candidates.scores), MAX_DETECTIONS[-1])
    overlap, areas = candidates.overlap[:n], candidates.found_areas[:n]
    ignored = candidates.ignored | (candidates.true_areas < low) | (candidates.true_areas > high)
    hits, counts = np.zeros((len(THRESHOLDS), n), dtype=bool), np.ones((len(THRESHOLDS), n), dtype=bool)
    counts[:, (areas < low) | (areas > high)] = False
    taken = np.zeros((len(THRESHOLDS), len(ignored)), dtype=bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for d in np.flatnonzero((overlap >= least[0]).any(1)).tolist():
        fits = (overlap[d] >= least) & (~taken | candidates.crowd)
        counted = fits & ~ignored
        eligible = np.where(counted.any(1, keepdims=True), counted, fits)
        found = np.flatnonzero(eligible.any(1))
        # Of equal overlaps COCO's tool takes the last.
        best = len(ignored) - 1 - np.where(eligible, overlap[d], -1)[found, ::-1].argmax(1)
        taken[found, best] = True
        hits[found, d] = counts[found, d] = ~ignored[best]
    return Matches(candidates.scores[:n], hits, counts, int((~ignored).sum()))


def accumulate(pictures: Sequence[Matches], limit: int) -> tuple[Floats, Floats]:
    """Return a class's precision (thresholds, recalls) and largest recall (thresholds,); -1 without objects.

    Args:
        pictures: the class's matches in each picture.
        limit: most detections in a picture that count, the best ones.
    """
    objects = sum(picture.objects for picture in pictures)
    if not objects:
        return np.full((len(THRESHOLDS), len(RECALLS)), -1.0), np.full(len(THRESHOLDS), -1.0)
    scores = np.concatenate([picture.scores[:limit] for picture in pictures])
    order = np.argsort(-scores, kind="stable")
    hits = np.concatenate([picture.hits[:, :limit] for picture in pictures], 1)[:, order]
    counts = np.concatenate([picture.counts[:, :limit] for picture in pictures], 1)[:, order]
    precision, recall = np.zeros((len(THRESHOLDS), len(RECALLS))), np.zeros(len(THRESHOLDS))
    for t in range(len(THRESHOLDS)):
        right = np.cumsum(hits[t])
        rates = right / np.maximum(np.cumsum(counts[t]), 1)
        monotone = np.maximum.accumulate(rates[::-1])[::-1]  # the best precision at this recall or a larger one
        at = np.searchsorted(right / objects, RECALLS, side="left")
        precision[t, at < len(right)] = monotone[at[at < len(right)]]
        recall[t] = right[-1] / objects if len(right) else 0
    return precision, recall


def _mean(values: Floats | Iterable[Floats]) -> float:
    """Return the mean of the values that are known; -1 if there are none."""
    found = values if isinstance(values, np.ndarray) else np.array(list(values))
    known = found[found > -1]
    return float(known.mean()) if known.size else -1.0
