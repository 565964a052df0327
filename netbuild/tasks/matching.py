"""Matching of detections to objects by their overlaps: by confidence, or one to one by the largest overlap."""

import numpy as np

from netbuild.tasks.average_precision import Floats


def match_detections(overlap: Floats, threshold: float) -> Floats:
    """Match detections as `match_in_order` does; return 1 for each matched detection (n,)."""
    hits = np.zeros(len(overlap))
    hits[[d for d, _ in match_in_order(overlap, threshold)]] = 1
    return hits


def match_in_order(overlap: Floats, threshold: float) -> list[tuple[int, int]]:
    """Match detections, best first, to objects by their overlaps (n, m); return the pairs of a detection and an object.

    Each detection takes the object of largest overlap that no better detection has taken, down to the threshold.
    """
    taken, matched, pairs = set[int](), set[int](), []
    d, g = np.nonzero(overlap >= threshold)
    for i in np.lexsort((-overlap[d, g], d)).tolist():  # by detection, then by falling overlap
        found, true = int(d[i]), int(g[i])
        if found not in matched and true not in taken:
            matched.add(found)
            taken.add(true)
            pairs.append((found, true))
    return pairs


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
