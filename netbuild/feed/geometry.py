"""Random rectangles and matrices of warps, and warping points, pictures and maps by them."""

from math import cos, pi, sin, sqrt, tan
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.settings import Settings
from netbuild.system.packages import cv2


def random_rectangle(size: tuple[int, int], share: float, rng: Generator) -> tuple[int, int, int, int]:
    """Return the corners (x1, y1, x2, y2) of a rectangle around a random point, clipped to a picture.

    Args:
        size: height and width of the picture.
        share: the rectangle's sides as a fraction of the picture's.
        rng: random generator.
    """
    (h, w), (y, x) = size, (int(rng.integers(side)) for side in size)
    half_h, half_w = int(h * share / 2), int(w * share / 2)
    return max(x - half_w, 0), max(y - half_h, 0), min(x + half_w, w), min(y + half_h, h)


def clip_polygon(points: NDArray[np.float64], rectangle: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Return the part of a polygon (K, 2) inside a rectangle (x1, y1, x2, y2); (0, 2) if there is none.

    Of a polygon that is not convex, the parts may be connected by edges on the rectangle's sides. Sutherland and
    Hodgman, 1974.
    """
    x1, y1, x2, y2 = rectangle
    for axis, limit, sign in ((0, x1, 1), (1, y1, 1), (0, x2, -1), (1, y2, -1)):
        depth = sign * (points[:, axis] - limit)
        inside = depth >= 0
        if inside.all():
            continue
        crosses = inside != np.roll(inside, -1)
        steps = np.where(crosses, depth / np.where(crosses, depth - np.roll(depth, -1), 1), 0)
        crossings = points + steps[:, None] * (np.roll(points, -1, 0) - points)
        crossings[:, axis] = limit  # exactly, in spite of rounding
        both = np.stack((points, crossings), 1).reshape(-1, 2)  # each point, then the crossing on the way to the next
        points = both[np.stack((inside, crosses), 1).ravel()]
    return points


MIN_DEPTH = 0.05  # of a point in perspective; one that is nearer, far outside of its picture, is taken as here


def random_warp(
    shape: tuple[int, int], size: tuple[int, int], fit: float, rng: Generator, s: Settings
) -> tuple[Any, float]:
    """Return a random matrix that maps the centre of a picture near the centre of a size, and its scale there.

    It is (2, 3) for an affine map, and (3, 3) with perspective.

    Args:
        shape: height and width of the picture.
        size: height and width of the result.
        fit: scale to which the random scale is applied.
        rng: random generator.
        s: bounds of rotation, scale, shear, shift and perspective.
    """
    scaling, degrees, translation, shear = (value or 0.0 for value in (s.scale, s.degrees, s.translate, s.shear))
    angle = rng.uniform(-degrees, degrees) * pi / 180
    scale = fit * rng.uniform(1 - scaling, 1 + scaling)
    shear_x, shear_y = (tan(rng.uniform(-shear, shear) * pi / 180) for _ in range(2))
    shift = [rng.uniform(0.5 - translation, 0.5 + translation) * side for side in reversed(size)]
    rotation = scale * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    matrix = np.array([[1, shear_x], [shear_y, 1]]) @ rotation
    if not s.perspective:
        offset = np.array(shift) - matrix @ (shape[1] / 2, shape[0] / 2)
        return np.concatenate((matrix, offset[:, None]), 1), scale
    # The depth of a point relative to the centre: 1 plus so much at the middle of the right and the lower edge.
    slope = rng.uniform(-s.perspective, s.perspective, 2) / (shape[1] / 2, shape[0] / 2)
    centre, tilt, placed = np.eye(3), np.eye(3), np.eye(3)
    centre[:2, 2], tilt[2, :2] = (-shape[1] / 2, -shape[0] / 2), slope
    placed[:2, :2], placed[:2, 2] = matrix, shift
    return placed @ tilt @ centre, scale


def move_points(points: NDArray[np.float64], matrix: Any) -> NDArray[np.float64]:
    """Map points (..., 2) by a matrix (2, 3), or (3, 3) with perspective."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    return moved if len(matrix) == 2 else moved / depth_of(points, matrix)[..., None]


def depth_of(points: NDArray[np.float64], matrix: Any) -> NDArray[np.float64]:
    """Return by how much a matrix makes points (..., 2) smaller than in the middle: 1 for each without perspective."""
    if len(matrix) == 2:
        return np.ones(points.shape[:-1])
    return (points @ matrix[2, :2] + matrix[2, 2]).clip(MIN_DEPTH)


def measure_enlargement(matrix: Any, size: tuple[int, int]) -> Any:
    """Return by how much a map enlarges lengths: a number, or with perspective (height, width) at each result pixel."""
    determinant = abs(float(np.linalg.det(matrix if len(matrix) == 3 else matrix[:, :2])))
    if len(matrix) == 2:
        return sqrt(determinant)
    back = np.linalg.inv(matrix)
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    # The determinant of the derivative is det / depth^3; of the inverse map the depth is the inverse.
    return np.sqrt(determinant * (back[2, 0] * x + back[2, 1] * y + back[2, 2]).clip(0, 1 / MIN_DEPTH) ** 3)


def warp_image(image: NDArray[Any], matrix: Any, size: tuple[int, int], *, smooth: bool = True, **border: Any) -> Any:
    """Warp a picture or map by a map of its points.

    Args:
        image: (H, W) or (H, W, C).
        matrix: (2, 3), or (3, 3) with perspective, from points of the image to points of the result.
        size: height and width of the result.
        smooth: whether values are interpolated; otherwise the nearest pixel's are taken.
        border: OpenCV's ``borderMode`` and ``borderValue``.
    """
    cv = cv2()
    method = cv.INTER_LINEAR if smooth else cv.INTER_NEAREST
    # OpenCV's coordinates begin at the centre of the first pixel, those of boxes and polygons at its corner.
    if len(matrix) == 3:
        corner = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        out = cv.warpPerspective(image, np.linalg.inv(corner) @ matrix @ corner, size[::-1], flags=method, **border)
        return out.reshape(*size, -1)
    linear, offset = matrix[:, :2], matrix[:, 2]
    offset = offset + linear @ (0.5, 0.5) - 0.5
    out = cv.warpAffine(image, np.column_stack((linear, offset)), size[::-1], flags=method, **border)
    return out.reshape(*size, -1)


def make_turn(quarters: int, size: tuple[int, int]) -> Any:
    """Return the matrix (2, 3) of turning a picture of (height, width) by so many quarters counter-clockwise.

    It is that of `numpy.rot90`.
    """
    h, w = size
    return np.array(
        {1: [[0, 1, 0], [-1, 0, w]], 2: [[-1, 0, w], [0, -1, h]], 3: [[0, -1, h], [1, 0, 0]]}[quarters], float
    )
