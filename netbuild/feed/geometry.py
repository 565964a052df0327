"""Affine and perspective matrices drawn at random, and pictures warped by them."""

from math import cos, pi, sin, tan
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.settings import Settings
from netbuild.system.packages import cv2


def random_rectangle(size: tuple[int, int], share: float, rng: Generator) -> tuple[int, int, int, int]:
    """Corners of a rectangle with this share of the sides (height, width), around any point, cut at the edges."""
    (h, w), (y, x) = size, (int(rng.integers(side)) for side in size)
    half_h, half_w = int(h * share / 2), int(w * share / 2)
    return max(x - half_w, 0), max(y - half_h, 0), min(x + half_w, w), min(y + half_h, h)


def random_affine(
    shape: tuple[int, int], size: tuple[int, int], fit: float, rng: Generator, s: Settings
) -> tuple[Any, float]:
    """A matrix (2, 3) that brings the middle of (height, width) near that of a size, and by how much it enlarges.

    Args:
        shape: of the picture.
        size: height and width of what it becomes.
        fit: enlargement before chance adds its own.
        rng, s: chance and its bounds.
    """
    change, turned, away, sheared = (value or 0.0 for value in (s.scale, s.degrees, s.translate, s.shear))
    angle = rng.uniform(-turned, turned) * pi / 180
    scale = fit * rng.uniform(1 - change, 1 + change)
    shear_x, shear_y = (tan(rng.uniform(-sheared, sheared) * pi / 180) for _ in range(2))
    shift = [rng.uniform(0.5 - away, 0.5 + away) * side for side in reversed(size)]
    turn = scale * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    matrix = np.array([[1, shear_x], [shear_y, 1]]) @ turn
    offset = np.array(shift) - matrix @ (shape[1] / 2, shape[0] / 2)
    return np.concatenate((matrix, offset[:, None]), 1), scale


def warp_image(image: NDArray[Any], matrix: Any, size: tuple[int, int], *, smooth: bool = True, **border: Any) -> Any:
    """A picture or map after an affine map (2, 3) of points, on a canvas of (height, width); see OpenCV for borders."""
    turn, offset = matrix[:, :2], matrix[:, 2]
    # OpenCV counts from the middle of the first pixel, boxes and outlines from its corner.
    offset = offset + turn @ (0.5, 0.5) - 0.5
    cv = cv2()
    method = cv.INTER_LINEAR if smooth else cv.INTER_NEAREST
    out = cv.warpAffine(image, np.column_stack((turn, offset)), size[::-1], flags=method, **border)
    return out.reshape(*size, -1)
