"""Rectangles at any angle: the smallest ones around points. An oriented box is centre, width, height and angle."""

from math import pi

import torch
from torch import Tensor


def fit_rectangles(points: Tensor, directions: Tensor | None = None) -> Tensor:
    """Return the smallest rectangle around each of N sets of K points: oriented boxes (N, 5).

    One side of the smallest rectangle lies along an edge of the points' convex hull (Freeman and Shapira, 1975). Each
    edge connects two of the points, so unless told otherwise the directions from each point to each other are tried.

    Args:
        points: (N, K, 2) x and y.
        directions: (N, D, 2) the directions that a side may have; the zero vector stands for the x axis.

    Returns:
        Centre x and y, width, height, and the angle of the width in radians from the x axis towards the y axis. The
        width is the longer side, and the angle is at least -pi/4 and below 3*pi/4.
    """
    if directions is None:
        first, second = torch.triu_indices(points.shape[1], points.shape[1], 1, device=points.device)
        directions = points[:, second] - points[:, first]
    angles = torch.atan2(directions[..., 1], directions[..., 0])
    found = measure_extents(points, angles)
    best = found[..., 2:4].prod(-1).argmin(-1)
    return normalize_angles(found[torch.arange(len(found), device=found.device), best])


def measure_extents(points: Tensor, angles: Tensor) -> Tensor:
    """Return the rectangles at D given angles around N sets of points (N, K, 2): angles (N, D) -> (N, D, 5)."""
    cos, sin = angles.cos()[..., None], angles.sin()[..., None]
    x, y = points[:, None, :, 0], points[:, None, :, 1]
    along, across = x * cos + y * sin, y * cos - x * sin  # (N, D, K) in the rectangles' own axes
    low, high = (torch.stack((f(along, -1), f(across, -1)), -1) for f in (torch.amin, torch.amax))
    u, v = ((low + high) / 2).unbind(-1)
    cos, sin = cos[..., 0], sin[..., 0]
    return torch.cat((torch.stack((u * cos - v * sin, u * sin + v * cos), -1), high - low, angles[..., None]), -1)


def normalize_angles(boxes: Tensor) -> Tensor:
    """Return the same rectangles (..., 5) with the width as the longer side and angles from -pi/4 to below 3*pi/4."""
    x, y, w, h, angle = boxes.unbind(-1)
    angle = torch.remainder(torch.where(h > w, angle + pi / 2, angle) + pi / 4, pi) - pi / 4
    angle = torch.where(angle >= 3 * pi / 4, angle - pi, angle)  # the remainder of -1e-20 is rounded to pi
    return torch.stack((x, y, torch.maximum(w, h), torch.minimum(w, h), angle), -1)


def find_corners(boxes: Tensor) -> Tensor:
    """Return the corners (..., 4, 2) of oriented boxes (..., 5), in order around each."""
    centre, (w, h, angle) = boxes[..., None, :2], boxes[..., 2:].unbind(-1)
    half_width = torch.stack((angle.cos(), angle.sin()), -1)[..., None, :] * w[..., None, None] / 2
    half_height = torch.stack((-angle.sin(), angle.cos()), -1)[..., None, :] * h[..., None, None] / 2
    return centre + torch.cat(
        (
            -half_width - half_height,
            half_width - half_height,
            half_width + half_height,
            half_height - half_width,
        ),
        -2,
    )
