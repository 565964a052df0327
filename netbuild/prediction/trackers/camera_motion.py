"""The camera's motion between two frames, by sparse optical flow (BoT-SORT, arXiv 2206.14651, section 3.2)."""

from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.drawing.annotated import Image
from netbuild.system.packages import cv2

Array = NDArray[Any]

WIDTH = 480  # pixels that pictures are scaled down to
MAX_CORNERS = 500
LEAST_CORNERS = 12  # below which a motion is not trusted
STILL = np.eye(2, 3)


def is_available() -> bool:
    """Return whether OpenCV is installed."""
    return find_spec("cv2") is not None


class CameraMotion:
    """Estimates how the camera moved since the previous frame, from corners of the background that are followed."""

    def __init__(self) -> None:
        self.grey: Array | None = None
        self.corners: Array | None = None

    def estimate(self, image: Image, boxes: Array) -> Array:
        """Return the similarity (2, 3) that moves pixels of the previous frame to this one; no motion if it is unclear.

        Args:
            image: (H, W, 3).
            boxes: (N, 4) of objects, whose corners are left out because they move by themselves.

        Raises:
            MissingExtraError: if OpenCV is not installed.
        """
        h, w = image.shape[:2]
        scale = min(WIDTH / max(w, 1), 1)
        size = max(round(w * scale), 1), max(round(h * scale), 1)
        grey = cv2().cvtColor(cv2().resize(image, size, interpolation=cv2().INTER_AREA), cv2().COLOR_RGB2GRAY)
        matrix = self._compare(grey)
        self.grey, self.corners = grey, self._find_corners(grey, boxes * scale)
        matrix[:, 2] /= scale
        return matrix

    def _find_corners(self, grey: Array, boxes: Array) -> Array | None:
        """Return corners (N, 1, 2) outside the boxes; None if there are none."""
        mask = np.full(grey.shape, 255, np.uint8)
        for x1, y1, x2, y2 in np.maximum(boxes, 0).astype(int).tolist():
            mask[y1 : y2 + 1, x1 : x2 + 1] = 0
        return cv2().goodFeaturesToTrack(grey, MAX_CORNERS, 0.01, 3, mask=mask)  # type: ignore[no-any-return]

    def _compare(self, grey: Array) -> Array:
        """Return the motion from the previous picture to this one, in pixels of the scaled pictures."""
        still = STILL.copy()
        if self.grey is None or self.corners is None or self.grey.shape != grey.shape:
            return still
        moved, is_found, _ = cv2().calcOpticalFlowPyrLK(self.grey, grey, self.corners, None)
        is_good = is_found.ravel() == 1
        if is_good.sum() < LEAST_CORNERS:
            return still
        matrix, _ = cv2().estimateAffinePartial2D(self.corners[is_good], moved[is_good], method=cv2().RANSAC)
        return still if matrix is None else matrix
