"""Oriented boxes among a data set's labels: polygons of four corners, and how far they are from rectangles."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import NOTE, Floats, Problem, Sample

MAX_DEVIATION = 0.05  # of half the diagonal; corners nearer to a rectangle's are those of a rectangle
MAX_PIXELS = 1.5  # the same in pixels: files round the corners of small boxes


def has_oriented_boxes(samples: Sequence[Sample]) -> bool:
    """Whether every object with a polygon has one of four corners, and there is such an object."""
    lengths = {len(polygon) for s in samples for outline in s.outlines if outline for polygon in outline[:1]}
    return lengths == {4} and all(len(outline) < 2 for s in samples for outline in s.outlines)


def corners_of(sample: Sample) -> Floats:
    """Return the corners (N, 4, 2) of a sample's oriented boxes, in pixels of its picture."""
    corners = [outline[0] for outline in sample.outlines if outline]
    return np.array(corners, np.float64).reshape(-1, 4, 2) * (sample.size or (1, 1))


def measure_deviations(corners: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far the corners of quadrilaterals (N, 4, 2) are from those of rectangles, (N,) each.

    The rectangle has the mean of the corners as its centre, the directions of the two diagonals, and the mean of their
    lengths. The first result is the largest distance of a corner as a share of half the diagonal, the second in the
    units of the corners.
    """
    centre = corners.mean(1, keepdims=True)
    halves = np.stack((corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]), 1) / 2
    lengths = np.linalg.norm(halves, axis=2, keepdims=True)
    radius = lengths.mean(1, keepdims=True)
    ends = halves / np.maximum(lengths, 1e-12) * radius
    nearest = centre + np.concatenate((-ends, ends), 1)
    distances = np.linalg.norm(corners - nearest, axis=2).max(1)
    return distances / np.maximum(radius[:, 0, 0], 1e-12), distances


def note_no_rectangles(split: str, samples: Sequence[Sample]) -> Iterator[Problem]:
    """Yield a note if objects of four corners are not rectangles, at the one that is farthest from one."""
    if not has_oriented_boxes(samples):
        return
    count, total, worst = 0, 0, (0.0, 0.0, samples[0], 0)
    for sample in samples:
        shares, distances = measure_deviations(corners_of(sample))
        is_wrong = (shares > MAX_DEVIATION) & (distances > MAX_PIXELS)
        count, total = count + int(is_wrong.sum()), total + len(shares)
        for index in is_wrong.nonzero()[0].tolist():
            worst = max(worst, (float(shares[index]), float(distances[index]), sample, index), key=lambda w: w[0])
    if not count:
        return
    share, distance, sample, index = worst
    numbers = [i for i, outline in enumerate(sample.outlines) if outline]
    line = sample.lines[numbers[index]] if sample.lines else None
    message = (
        f"{count} of {total} polygons of four corners of '{split}' are no rectangles: as oriented boxes their corners "
        f"move by up to {distance:.1f} pixels, {share:.0%} of half the diagonal"
    )
    hint = "are the corners in order around the box?" if share > 0.5 else ""
    yield Problem("oriented box", NOTE, message, sample.source or sample.path, line, hint=hint)
