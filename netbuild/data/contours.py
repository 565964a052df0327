"""Masks as polygons, and back: run lengths of COCO, boundaries of masks along the edges of pixels, filled polygons."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]  # (H, W)
Vertex = tuple[int, int]
ROUNDING = 1e-4  # a point so near to a line, as a fraction of the picture, lies on it: files have 4 to 6 decimals


def decode_counts(counts: str | bytes) -> NDArray[np.int64]:
    """Return the run lengths in COCO's compressed text.

    Each number is written in groups of 5 bits, least significant first, as characters from code 48 on: bit 5 says that
    more groups follow, bit 4 of the last group is the sign. From the fourth number on, differences to the last but one
    are written.

    Raises:
        ValueError: if the text is cut off or has other characters.
    """
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    lengths: list[int] = []
    value, shift = 0, 0
    for code in text:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {chr(code)!r} does not occur in compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("compressed run lengths are cut off")
    return np.array(lengths, np.int64)


def decode_mask(counts: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> Mask:
    """Return the mask (H, W) with these run lengths, column by column, first of pixels outside.

    Raises:
        ValueError: if a length is negative, or they do not add up to the pixels of ``size`` (height, width).
    """
    lengths = np.asarray(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"the run lengths add up to {lengths.sum():,} pixels, not {size[0]} x {size[1]}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(size[::-1]).T


def trace_mask(mask: Mask) -> tuple[Floats, ...]:
    """Return polygons (K, 2), x and y in pixels, that cover exactly the pixels of a mask.

    Each region whose pixels share edges is one polygon along the edges of its pixels. A hole is joined to it by a
    bridge without width, which is walked in both directions, so that filling the polygon leaves the hole out.
    """
    loops = _find_loops(mask)
    outer = sorted((loop for loop in loops if signed_area(loop) > 0), key=signed_area)
    for hole in (loop for loop in loops if signed_area(loop) < 0):
        first = hole[np.lexsort((hole[:, 0], hole[:, 1]))[0]]  # the pixel above this corner is inside the region
        place = next(i for i, loop in enumerate(outer) if contains(loop, first + (0.5, -0.5)))
        outer[place] = _join(outer[place], hole)
    return tuple(outer)


def signed_area(points: Floats) -> float:
    """Return the area of a polygon (K, 2), positive if it runs from the x axis towards the y axis."""
    x, y = (points - points[0]).T  # of numbers near 0 the products are exact enough
    return float(x[:-1] @ y[1:] - y[:-1] @ x[1:]) / 2


def contains(polygon: Floats, point: Floats) -> bool:
    """Whether a point (2,) lies inside a polygon (K, 2), by the even-odd rule."""
    (x1, y1), (x2, y2) = polygon.T, np.roll(polygon, -1, 0).T
    crosses = (y1 > point[1]) != (y2 > point[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        places = x1 + (point[1] - y1) / (y2 - y1) * (x2 - x1)
    return bool((crosses & (places > point[0])).sum() % 2)


def is_crossing(points: Floats) -> bool:
    """Whether two edges of a polygon (K, 2), in fractions of the picture, cross each other.

    Edges that only touch or overlap, or cross no farther than files round their numbers, do not.
    """
    edges = points[[*range(1, len(points)), 0]] - points
    # On which side of the edge i the points j lie: a change of side between the ends of j is a crossing of i's line.
    side = _cross(edges[:, None], points[None] - points[:, None])
    side[np.abs(side) <= ROUNDING * np.hypot(*edges.T)[:, None]] = 0
    side = np.sign(side)
    changes = side * side[:, [*range(1, len(points)), 0]] < 0
    return bool((changes & changes.T).any())


def _cross(a: Floats, b: Floats) -> Floats:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _find_loops(mask: Mask) -> list[Floats]:
    """Return the boundaries of a mask, each the corners (K, 2) of a closed path with the inside on its right."""
    padded = np.pad(mask, 1).astype(np.int8)
    # A top edge is walked to the right, a right edge down, a bottom edge to the left, and a left edge up.
    across = _find_runs(np.diff(padded, axis=0)[:, 1:-1])
    down = [((y, x), (b, a)) for (x, y), (a, b) in _find_runs(-np.diff(padded, axis=1)[1:-1].T)]
    onward = {False: _by_start(down), True: _by_start(across)}
    loops = []
    remaining = dict.fromkeys(across)
    while remaining:
        run = first = next(iter(remaining))
        corners, is_across = list[Vertex](), True
        while True:
            if is_across:
                del remaining[run]
            corners.append(run[0])
            run = _next_run(run, onward[not is_across])
            is_across = not is_across
            if run == first:
                break
        loops.append(np.array(corners, np.float64))
    return loops


Run = tuple[Vertex, Vertex]  # from and to


def _find_runs(steps: NDArray[np.int8]) -> list[Run]:
    """Return the runs of equal values other than 0 in the rows of a map, as (x, y) from and to; backwards for -1."""
    padded = np.pad(steps, ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1) != 0
    starts, ends = changes & (padded[:, 1:] != 0), changes & (padded[:, :-1] != 0)
    rows, lefts = starts.nonzero()
    rights = ends.nonzero()[1]
    signs = steps[rows, lefts]
    ordered = zip(rows.tolist(), lefts.tolist(), rights.tolist(), signs.tolist(), strict=True)
    return [((a, y), (b, y)) if sign > 0 else ((b, y), (a, y)) for y, a, b, sign in ordered]


def _by_start(runs: Sequence[Run]) -> dict[tuple[Vertex, Vertex], Run]:
    """Return runs by their start and their direction."""
    return {(run[0], _direction(run)): run for run in runs}


def _next_run(run: Run, others: dict[tuple[Vertex, Vertex], Run]) -> Run:
    """Return the run that goes on where another ends; of two the one to the right, so that regions do not merge."""
    dx, dy = _direction(run)
    return others.get((run[1], (-dy, dx))) or others[run[1], (dy, -dx)]


def _direction(run: Run) -> Vertex:
    (x1, y1), (x2, y2) = run
    return (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)


def _join(polygon: Floats, hole: Floats) -> Floats:
    """Join a hole to a polygon by the shortest bridge between two of their corners."""
    distances = ((polygon[:, None] - hole[None]) ** 2).sum(-1)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    return np.concatenate((polygon[: i + 1], hole[j:], hole[: j + 1], polygon[i:]))
