"""Random rectangles and affine matrices, and warping pictures and maps by them."""

from math import cos, pi, sin, tan
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


def random_affine(
    shape: tuple[int, int], size: tuple[int, int], fit: float, rng: Generator, s: Settings
) -> tuple[Any, float]:
    """Return a random affine matrix (2, 3) that maps the centre of a picture near the centre of a size, and its scale.

    Args:
        shape: height and width of the picture.
        size: height and width of the result.
        fit: scale to which the random scale is applied.
        rng: random generator.
        s: bounds of rotation, scale, shear and shift.
    """
    scaling, degrees, translation, shear = (value or 0.0 for value in (s.scale, s.degrees, s.translate, s.shear))
    angle = rng.uniform(-degrees, degrees) * pi / 180
    scale = fit * rng.uniform(1 - scaling, 1 + scaling)
    shear_x, shear_y = (tan(rng.uniform(-shear, shear) * pi / 180) for _ in range(2))
    shift = [rng.uniform(0.5 - translation, 0.5 + translation) * side for side in reversed(size)]
    rotation = scale * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    matrix = np.array([[1, shear_x], [shear_y, 1]]) @ rotation
    offset = np.array(shift) - matrix @ (shape[1] / 2, shape[0] / 2)
    return np.concatenate((matrix, offset[:, None]), 1), scale


def warp_image(image: NDArray[Any], matrix: Any, size: tuple[int, int], *, smooth: bool = True, **border: Any) -> Any:
    """Warp a picture or map by an affine map of its points.

    Args:
        image: (H, W) or (H, W, C).
        matrix: (2, 3), from points of the image to points of the result.
        size: height and width of the result.
        smooth: whether values are interpolated; otherwise the nearest pixel's are taken.
        border: OpenCV's ``borderMode`` and ``borderValue``.
    """
    linear, offset = matrix[:, :2], matrix[:, 2]
    # OpenCV's coordinates begin at the centre of the first pixel, those of boxes and polygons at its corner.
    offset = offset + linear @ (0.5, 0.5) - 0.5
    cv = cv2()
    method = cv.INTER_LINEAR if smooth else cv.INTER_NEAREST
    out = cv.warpAffine(image, np.column_stack((linear, offset)), size[::-1], flags=method, **border)
    return out.reshape(*size, -1)
