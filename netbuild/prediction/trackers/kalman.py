"""A Kalman filter for the boxes of many tracks at once, with constant velocity."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Standard deviations as shares of a box's width (for x and the width) and height (for y and the height): of a
# measurement and of the change of a position, and of the change of a velocity, from one frame to the next.
POSITION_SHARE, VELOCITY_SHARE = 1 / 20, 1 / 160
START_POSITION, START_VELOCITY = 2, 10  # times as large for a new track
MIN_SIDE = 1e-3  # pixels


class BoxFilter:
    """Kalman filters with constant velocity for centre x, centre y, width and height of T boxes.

    The state and the noise are those of BoT-SORT (arXiv 2206.14651, section 3.1). All of its matrices are diagonal in
    these four numbers, so each is filtered by itself, with a position and a velocity: the same result without matrices
    of 8 x 8.

    Attributes:
        position: (T, 4) centre x, centre y, width, height in pixels.
        velocity: (T, 4) their change per frame.
        variances: (T, 4, 3) variance of the position, covariance of position and velocity, variance of the velocity.
    """

    def __init__(self) -> None:
        self.position, self.velocity, self.variances = np.zeros((0, 4)), np.zeros((0, 4)), np.zeros((0, 4, 3))

    def __len__(self) -> int:
        return len(self.position)

    def add(self, boxes: Array) -> None:
        """Append filters for boxes (N, 4), which do not move yet."""
        position = to_centres(boxes)
        scale = np.tile(position[:, 2:], 2)
        variances = np.zeros((len(boxes), 4, 3))
        variances[..., 0] = (START_POSITION * POSITION_SHARE * scale) ** 2
        variances[..., 2] = (START_VELOCITY * VELOCITY_SHARE * scale) ** 2
        self.position = np.concatenate((self.position, position))
        self.velocity = np.concatenate((self.velocity, np.zeros_like(position)))
        self.variances = np.concatenate((self.variances, variances))

    def keep(self, chosen: Array) -> None:
        """Keep only the filters that a mask (T,) or a list of numbers chooses."""
        self.position, self.velocity = self.position[chosen], self.velocity[chosen]
        self.variances = self.variances[chosen]

    def copy(self, chosen: Array) -> "BoxFilter":
        """Return a copy of the filters that a mask (T,) or a list of numbers chooses."""
        copied = BoxFilter()
        copied.position, copied.velocity = self.position[chosen].copy(), self.velocity[chosen].copy()
        copied.variances = self.variances[chosen].copy()
        return copied

    def assign(self, rows: Array, other: "BoxFilter") -> None:
        """Overwrite the filters of these numbers by those of another object."""
        self.position[rows], self.velocity[rows] = other.position, other.velocity
        self.variances[rows] = other.variances

    def predict(self) -> None:
        """Move all boxes by one frame."""
        scale = np.tile(self.position[:, 2:], 2)
        self.position += self.velocity
        np.maximum(self.position[:, 2:], MIN_SIDE, out=self.position[:, 2:])
        v = self.variances
        v[..., 0] += 2 * v[..., 1] + v[..., 2] + (POSITION_SHARE * scale) ** 2
        v[..., 1] += v[..., 2]
        v[..., 2] += (VELOCITY_SHARE * scale) ** 2

    def update(self, rows: Array, boxes: Array) -> None:
        """Correct the filters of these numbers (N,) by measured boxes (N, 4)."""
        position, v = self.position[rows], self.variances[rows]
        noise = (POSITION_SHARE * np.tile(position[:, 2:], 2)) ** 2
        gain = v[..., :2] / (v[..., :1] + noise[..., None])  # (N, 4, 2) of position and velocity
        error = to_centres(boxes) - position
        self.position[rows] = position + gain[..., 0] * error
        self.velocity[rows] += gain[..., 1] * error
        v[..., 2] -= gain[..., 1] * v[..., 1]
        v[..., :2] *= 1 - gain[..., :1]
        self.variances[rows] = v

    def move(self, matrix: Array) -> None:
        """Move all boxes by the camera's motion, a similarity (2, 3) in pixels.

        Widths and heights are scaled, not turned, and so are the variances: the motion between two frames turns little.
        """
        turn, shift = matrix[:, :2], matrix[:, 2]
        scale = np.sqrt(abs(np.linalg.det(turn)))
        self.position[:, :2] = self.position[:, :2] @ turn.T + shift
        self.velocity[:, :2] = self.velocity[:, :2] @ turn.T
        self.position[:, 2:] *= scale
        self.velocity[:, 2:] *= scale
        self.variances *= scale**2

    def boxes(self) -> Array:
        """Return the boxes (T, 4): left, top, right, bottom."""
        half = self.position[:, 2:] / 2
        return np.concatenate((self.position[:, :2] - half, self.position[:, :2] + half), 1)


def to_centres(boxes: Array) -> Array:
    """Convert boxes (N, 4) from corners to centre x, centre y, width, height."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], MIN_SIDE)
    return np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, sides), 1)
