"""The shapes and digits of the embedded scenes in their own coordinates, their landmarks and their patterns.

A shape's own coordinates are (u, v): its front is at v = -1, its back at v = 1, its left where u is negative. Each
shape is mirror-symmetric about the axis u = 0, and the left and the right landmark look alike: which is which only
follows from the direction of the front. So a mirrored shape is a shape again, in which left and right have changed
places, as ``flip_idx`` states it, and the landmarks can be told apart however the shape is turned. The digits are
those that a mirror leaves as they are, but for a turn: 0, 3 and 8.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netbuild.data.dataset import Floats

LANDMARKS = ("front", "left", "right", "back")
FLIP_INDEX = (0, 2, 1, 3)  # which landmark each becomes in a mirrored picture


Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Shape:
    """One class of objects.

    Attributes:
        name: of the class.
        points: (K, 2) of the outline; v from -1 to 1, u from -half_width to half_width. A slit leads to each hole.
        half_width: half the width for half a length of 1.
        length: half the length in metres, the same for all objects of the class: their size shows their distance.
        landmarks: (4, 2) of `LANDMARKS`.
        pattern: returns the pattern's value for u and v, from -1 to 1, by which the colour is darker or brighter.
    """

    name: str
    points: Floats
    half_width: float
    length: float
    landmarks: Floats
    pattern: Callable[[Floats, Floats], Floats]


def _symmetric(right: Points) -> Floats:
    """Return the outline of a shape from the points on its right side, from front to back."""
    left = [(-u, v) for u, v in reversed(right) if u != 0]
    return np.array(right + left, np.float64)


def _ellipse(half_width: float, count: int = 40) -> Floats:
    angles = [2 * math.pi * i / count for i in range(count)]
    return np.array([(half_width * math.sin(angle), -math.cos(angle)) for angle in angles])


def _star(half_width: float) -> Floats:
    """Return a star with five tips, the first at the front."""
    points = []
    for i in range(10):
        radius, angle = (1.0, 0.48)[i % 2], math.pi * i / 5
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return _fill_frame(np.array(points), half_width)


def _heart(half_width: float) -> Floats:
    """Return a heart with its tip at the front."""
    points = []
    for i in range(36):
        angle = math.pi * (1 - i / 18)
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        points.append((x, y))
    return _fill_frame(np.array(points), half_width)


def _arc(centre: tuple[float, float], half: tuple[float, float], first: float, last: float, count: int = 16) -> Points:
    """Return points of an ellipse around (u, v) with these half axes, between two angles clockwise from its front."""
    angles = [first + (last - first) * i / count for i in range(count + 1)]
    return [(centre[0] + half[0] * math.sin(a), centre[1] - half[1] * math.cos(a)) for a in angles]


def _cut_hole(points: Floats, index: int, hole: Floats) -> Floats:
    """Return an outline with a slit from the point of this index to the first point of a hole, and back.

    The points of the hole run the other way, so that the area of the polygon is without it.
    """
    return np.concatenate((points[: index + 1], hole, hole[:1], points[index:]))


def _zero() -> Floats:
    """Return a 0: an ellipse with a hole."""
    return _cut_hole(_ellipse(0.72), 0, np.array(_arc((0, 0), (0.24, 0.48), 0.0, -2 * math.pi, 40)[:-1]))


def _eight(half_width: float) -> Floats:
    """Return an 8: two ellipses, the smaller one at the front, each with a hole."""
    waist, near, far = 0.3525, (0.56, 0.52), (half_width, 0.58)
    end, start = math.pi - math.asin(waist / near[0]), math.asin(waist / far[0])
    right = [*_arc((0, -0.48), near, 0.0, end), *_arc((0, 0.42), far, start, math.pi)[1:-1], (0.0, 1.0)]
    points = _fill_frame(_symmetric(right), half_width)
    # The hole at the back is cut first, so that the indices of the points before it stay.
    points = _cut_hole(points, len(right) - 1, np.array(_arc((0, 0.42), (0.20, 0.18), math.pi, -math.pi, 20)[:-1]))
    return _cut_hole(points, 0, np.array(_arc((0, -0.44), (0.18, 0.15), 0.0, -2 * math.pi, 20)[:-1]))


def _three() -> Floats:
    """Return a 3 that lies on its side, with its bows at the front."""
    bow, hollow, end = (0.56, 1.0), (0.18, 0.5), 2.8
    outer = _arc((0.44, 0.0), bow, -math.asin(0.44 / bow[0]), end, 28)
    return _fill_frame(
        _symmetric([(0.0, outer[0][1]), *outer[1:], *_arc((0.44, 0.0), hollow, end, -math.pi / 2), (0.26, 0.22)]), 1.0
    )


def _fill_frame(points: Floats, half_width: float) -> Floats:
    """Stretch points so that v runs from -1 to 1 and u from -half_width to half_width."""
    low, high = points.min(0), points.max(0)
    return ((points - (low + high) / 2) / ((high - low) / 2)) * (half_width, 1.0)


def _stripe(values: Floats, count: float) -> Floats:
    """Return stripes of -1 and 1, ``count`` for each unit of length."""
    return 1.0 - 2.0 * (np.floor(values * count) % 2)


_CROSS = [(0.27, -1.0), (0.27, -0.5), (0.72, -0.5), (0.72, 0.04), (0.27, 0.04), (0.27, 1.0)]
SHAPES = (
    Shape(
        "ellipse", _ellipse(0.64), 0.64, 0.46,
        np.array([(0, -0.68), (-0.34, 0.05), (0.34, 0.05), (0, 0.68)]),
        lambda u, v: 1.0 - 2.0 * (u * u / 0.41 + v * v),
    ),
    Shape(
        "bar", _symmetric([(0.48, -1.0), (0.48, 1.0)]), 0.48, 0.50,
        np.array([(0, -0.70), (-0.26, 0.0), (0.26, 0.0), (0, 0.75)]),
        lambda u, v: _stripe(v, 2.5),
    ),
    Shape(
        "triangle", _symmetric([(0.0, -1.0), (0.80, 1.0)]), 0.80, 0.46,
        np.array([(0, -0.45), (-0.46, 0.70), (0.46, 0.70), (0, 0.55)]),
        lambda u, v: v,
    ),
    Shape(
        "star", _star(0.95), 0.95, 0.44,
        np.array([(0, -0.50), (-0.52, -0.22), (0.52, -0.22), (0, 0.25)]),
        lambda u, v: np.full_like(u, 0.6),
    ),
    Shape(
        "cross", _symmetric(_CROSS), 0.72, 0.50,
        np.array([(0, -0.72), (-0.50, -0.23), (0.50, -0.23), (0, 0.75)]),
        lambda u, v: _stripe(u - v, 3.0),
    ),
    Shape(
        "heart", _heart(0.90), 0.90, 0.42,
        np.array([(0, -0.50), (-0.46, 0.45), (0.46, 0.45), (0, 0.22)]),
        lambda u, v: _stripe(u, 2.5) * _stripe(v, 2.5),
    ),
)  # fmt: skip
DIGITS = (
    Shape(
        "zero", _zero(), 0.72, 0.50,
        np.array([(0, -0.74), (-0.48, 0.0), (0.48, 0.0), (0, 0.74)]),
        lambda u, v: _stripe(v, 2.0),
    ),
    Shape(
        "three", _three(), 1.0, 0.42,
        np.array([(0, -0.36), (-0.81, 0.0), (0.81, 0.0), (0, 0.08)]),
        lambda u, v: v,
    ),
    Shape(
        "eight", _eight(0.68), 0.68, 0.52,
        np.array([(0, -0.79), (-0.44, 0.42), (0.44, 0.42), (0, 0.80)]),
        lambda u, v: _stripe(u - v, 2.0),
    ),
)  # fmt: skip
CLASSES = tuple(shape.name for shape in SHAPES)
DIGIT_CLASSES = tuple(shape.name for shape in DIGITS)


def paint_landmarks(colours: Floats, shape: Shape, u: Floats, v: Floats) -> None:
    """Paint the landmarks into an object's colours (..., 3), in place, where its own coordinates are (u, v).

    The front is a bright disc, left and right are smaller dark discs, the back is a bright bar; each has a rim of the
    opposite brightness.
    """
    front, left, right, back = shape.landmarks
    for place, radius, ink in ((front, 0.15, 245.0), (left, 0.11, 15.0), (right, 0.11, 15.0)):
        distance = (u - place[0]) ** 2 + (v - place[1]) ** 2
        colours[distance < (radius + 0.06) ** 2] = 260.0 - ink
        colours[distance < radius**2] = ink
    across, along = np.abs(u - back[0]), np.abs(v - back[1])
    colours[(across < 0.23) & (along < 0.12)] = 15.0
    colours[(across < 0.17) & (along < 0.06)] = 245.0
