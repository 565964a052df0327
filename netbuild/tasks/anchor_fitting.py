"""Anchor boxes that suit a data set: how well given ones fit its objects, and better ones by k-means and evolution.

k-means of object sizes: YOLO9000, arXiv 1612.08242.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.tasks.anchor_matching import MAX_RATIO

GOOD_RECALL = 0.98  # share of the objects that the anchors of a head should fit
MIN_SIDE = 2.0  # pixels; smaller objects are left out
MAX_OBJECTS = 5_000  # objects that k-means sees; more make it slow and change little
ROUNDS = 30  # of k-means
MUTATIONS = 300  # of the evolution
SPREAD = 0.1  # standard deviation of a mutation, in powers of e

Floats = NDArray[np.float64]


def measure_objects(samples: Sequence[Sample], size: tuple[int, int]) -> Floats:
    """Return width and height (M, 2) of the objects, in pixels of pictures that are fitted to a height and width.

    Objects with a side below `MIN_SIDE` are left out, and crowds.
    """
    found = [np.zeros((0, 2))]
    for sample in (sample.without_crowds() for sample in samples):
        if sample.boxes is not None and sample.size:
            width, height = sample.size
            scale = min(size[0] / height, size[1] / width)
            found.append(sample.boxes[:, 3:5] * (width * scale, height * scale))
    sides = np.concatenate(found)
    return sides[sides.min(1) >= MIN_SIDE]


def compute_fit(sides: Floats, anchors: Floats) -> Floats:
    """Compute how well each object is fitted by its best anchor, from 0 to 1: (M,).

    It is the smaller of the ratios of width and of height, each as a number up to 1; 0 where the object would not be
    matched, see `netbuild.tasks.anchor_matching.match_by_shape`.

    Args:
        sides: (M, 2) width and height of the objects.
        anchors: (K, 2) width and height of the anchors.
    """
    with np.errstate(divide="ignore"):  # an anchor without a side fits nothing
        distance = np.abs(np.log(sides)[:, None] - np.log(anchors)).max(2).min(1)
    return np.where(distance < np.log(MAX_RATIO), np.exp(-distance), 0.0)


def best_possible_recall(sides: Floats, anchors: Floats) -> float:
    """Compute the share of the objects that at least one anchor fits; arguments as of `compute_fit`."""
    return float((compute_fit(sides, anchors) > 0).mean())


def find_anchors(sides: Floats, count: int, seed: int = 0) -> Floats:
    """Find anchors for objects by k-means of the logarithms of their sides, improved by random mutations.

    Logarithms, because objects and anchors are compared by ratios.

    Args:
        sides: (M, 2) width and height of at least one object.
        count: number of anchors.
        seed: of the random choices.

    Returns:
        Width and height (count, 2), smallest area first.
    """
    rng = np.random.default_rng(seed)
    if len(sides) > MAX_OBJECTS:
        sides = sides[rng.choice(len(sides), MAX_OBJECTS, replace=False)]
    anchors = np.exp(cluster(np.log(sides), count, rng))
    best = compute_fit(sides, anchors).mean()
    for _ in range(MUTATIONS):
        changed = anchors * np.exp(rng.normal(0, SPREAD, anchors.shape) * (rng.random(anchors.shape) < 0.5))
        fit = compute_fit(sides, changed).mean()
        if fit > best:
            anchors, best = changed, fit
    return anchors[anchors.prod(1).argsort(kind="stable")]


def cluster(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return the centres (count, D) of k-means clusters of points (M, D), starting as k-means++ does."""
    centres = points[rng.integers(len(points), size=1)]
    while len(centres) < count:
        distance = square_distances(points, centres).min(1)
        total = distance.sum()
        # With fewer different points than centres all distances are 0: some centres are then the same.
        chosen = rng.choice(len(points), p=distance / total if total else None)
        centres = np.concatenate((centres, points[chosen][None]))
    for _ in range(ROUNDS):
        nearest = square_distances(points, centres).argmin(1)
        used = np.unique(nearest)
        centres[used] = [points[nearest == i].mean(0) for i in used]
    return centres


def square_distances(points: Floats, centres: Floats) -> Floats:
    """Compute the squared distances (M, K) of points (M, D) from centres (K, D)."""
    return ((points[:, None] - centres) ** 2).sum(2)
