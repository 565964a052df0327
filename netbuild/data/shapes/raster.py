"""Polygons to masks and back, exact and alike on every machine: no library that draws differently by its version."""

import math

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Floats

Mask = NDArray[np.bool_]
# Directions are 0 right, 1 down, 2 left, 3 up. For each: the direction after a turn to the right, none, to the left.
_TURNS = ((1, 0, 3), (2, 1, 0), (3, 2, 1), (0, 3, 2))


def rasterize(points: Floats, window: tuple[int, int, int, int]) -> Mask:
    """Return which cells of a grid have their centre inside a polygon, by the even-odd rule.

    Args:
        points: (K, 2) of x and y; the centre of the first cell is at 0.5, 0.5.
        window: left, top, right and bottom of the part of the grid that is returned.
    """
    left, top, right, bottom = window
    start, end = points - (left, top), np.roll(points, -1, 0) - (left, top)
    centres = np.arange(bottom - top) + 0.5
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    edges, rows = np.nonzero((low[:, None] <= centres) & (centres < high[:, None]))
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    crossings = x0 + (centres[rows] - y0) * ((x1 - x0) / (y1 - y0))
    columns = np.ceil(crossings - 0.5).clip(0, right - left).astype(np.int64)
    # Each crossing of an edge changes inside to outside or back for all cells to the right of it.
    width = right - left + 1
    changes = np.bincount(rows * width + columns, minlength=(bottom - top) * width).reshape(bottom - top, width)
    return (np.cumsum(changes, 1)[:, :-1] & 1).astype(bool)


def trace(mask: Mask, tolerance: float, min_area: float = 1.0) -> list[Floats]:
    """Return the polygons (K, 2) around the cells of a mask; a polygon with a hole has a slit that leads to it.

    Cells that touch at a corner only belong to different polygons.

    Args:
        mask: the cells, each with sides of 1.
        tolerance: points this near to the line between others are left out, see `simplify`.
        min_area: smaller polygons and holes are left out.
    """
    loops = [loop for loop in _find_loops(mask) if abs(measure_area(loop)) >= min_area]
    outer = [(loop, simplify(loop, tolerance)) for loop in loops if measure_area(loop) > 0]
    polygons = [polygon for _, polygon in outer]
    for hole in (loop for loop in loops if measure_area(loop) < 0):
        # A loop begins at its topmost corner, from which the hole lies to the right and below.
        around = [i for i, (loop, _) in enumerate(outer) if _contains(loop, hole[0] + 0.5)]
        place = min(around, key=lambda i: measure_area(outer[i][0]))
        polygons[place] = join_loops(polygons[place], simplify(hole, tolerance))
    return [polygon for polygon in polygons if len(polygon) > 2]


def join_loops(first: Floats, second: Floats) -> Floats:
    """Return one polygon of two, connected at their nearest points by a way there and back that covers no area."""
    distances = ((first[:, None] - second[None]) ** 2).sum(-1)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    return np.concatenate((first[: i + 1], np.roll(second, -j, 0), second[j : j + 1], first[i:]))


def simplify(points: Floats, tolerance: float) -> Floats:
    """Return a closed polygon without the points that lie within a distance of the line between its others.

    Douglas and Peucker's method, 1973.
    """
    far = int(((points - points[0]) ** 2).sum(1).argmax())
    ring = np.concatenate((points, points[:1]))
    chosen = {0, far}
    pending = [(0, far), (far, len(points))]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        (x, y), (u, v) = ring[first].tolist(), ring[last].tolist()
        between = ring[first + 1 : last] - (x, y)
        # Twice the area of the triangle that a point forms with the line is exact for whole numbers, unlike its
        # distance: of points at the same distance every machine chooses the first.
        areas = np.abs(between[:, 0] * (v - y) - between[:, 1] * (u - x))
        worst = int(areas.argmax())
        if areas[worst] > tolerance * math.sqrt((u - x) ** 2 + (v - y) ** 2):
            middle = first + 1 + worst
            chosen.add(middle)
            pending += [(first, middle), (middle, last)]
    return points[sorted(chosen)]


def _find_loops(mask: Mask) -> list[Floats]:
    """Return the closed lines between cells inside and outside: clockwise around the inside, holes the other way."""
    padded = np.pad(mask, 1)
    inside, width = padded[1:-1, 1:-1], mask.shape[1] + 1
    starts: list[NDArray[np.int64]] = []
    # The edges of a cell by direction: its top runs right, its right side down, its bottom left, its left side up.
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    for neighbour, (x, y) in zip(neighbours, ((0, 0), (1, 0), (1, 1), (0, 1)), strict=True):
        rows, columns = np.nonzero(inside & ~neighbour)
        starts.append((rows + y) * width + columns + x)
    # An edge is a number: four times the number of the corner that it starts from, and its direction.
    edges = {int(corner) * 4 + direction for direction, corners in enumerate(starts) for corner in corners}
    steps = (1, width, -1, -width)
    loops = []
    while edges:
        edge = min(edges)
        first, previous, loop = edge, -1, list[int]()
        while True:
            edges.discard(edge)
            corner, direction = divmod(edge, 4)
            if direction != previous:  # a corner of the line
                loop.append(corner)
            previous = direction
            reached = 4 * (corner + steps[direction])
            # Turning right first keeps cells apart that touch at a corner only.
            for turn in _TURNS[direction]:
                edge = reached + turn
                if edge in edges or edge == first:
                    break
            if edge == first:
                break
        rows, columns = np.divmod(np.array(loop), width)
        loops.append(np.column_stack((columns, rows)).astype(np.float64))
    return loops


def measure_area(loop: Floats) -> float:
    """Return the area of a polygon, negative if its points run anticlockwise in picture coordinates."""
    x, y = loop.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _contains(loop: Floats, point: Floats) -> bool:
    """Whether a point that is no corner of a polygon lies inside it."""
    (x0, y0), (x1, y1) = loop.T, np.roll(loop, -1, 0).T
    crossed = (y0 <= point[1]) != (y1 <= point[1])
    at = x0[crossed] + (point[1] - y0[crossed]) * (x1 - x0)[crossed] / (y1 - y0)[crossed]
    return bool((at > point[0]).sum() % 2)
