"""Association of tracks and detections: overlap of boxes, and the assignment with the largest sum."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.system.packages import package

Array = NDArray[Any]


def pairwise_iou(a: Array, b: Array) -> Array:
    """Return the intersection over union (N, M) of boxes (N, 4) and (M, 4): left, top, right, bottom."""
    sides = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    common = np.maximum(sides, 0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def match(similarity: Array, least: float) -> tuple[Array, Array]:
    """Assign rows and columns one to one, with the largest sum of similarities (the Hungarian method).

    Args:
        similarity: (N, M), not negative.
        least: pairs with a smaller similarity are not matched, and do not compete with others.

    Returns:
        the numbers of the matched rows (K,) and of their columns (K,).

    Raises:
        MissingExtraError: if scipy is not installed.
    """
    if not similarity.size:
        return np.zeros(0, int), np.zeros(0, int)
    solve = package("scipy.optimize", "train").linear_sum_assignment
    allowed = np.where(similarity >= least, similarity, 0)
    rows, columns = solve(allowed, maximize=True)
    good = similarity[rows, columns] >= least
    return rows[good], columns[good]
