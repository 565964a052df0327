"""Keypoints of objects, with their visibility."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.geometry import move_points
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Target, Tensors


@dataclass(frozen=True)
class KeypointTarget(Target):
    """Keypoints.

    Args:
        points: (N, K, 3) of x and y in pixels and visibility, 0 where a point is not annotated.
        swap: for each of the K points the one that it becomes in a mirror, as a left hand becomes a right one; empty if
            each stays itself.
    """

    points: Floats
    swap: tuple[int, ...] = ()
    object_names: ClassVar[tuple[str, ...]] = ("keypoints",)

    @classmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        """Build the target; points without a visibility are visible, unless a negative number marks them as missing."""
        points = sample.keypoints
        if points is None:
            return cls(np.zeros((0 if sample.boxes is None else len(sample.boxes), 0, 3)))
        if points.shape[2] == 2:  # without visibility all points count as visible, except those at a negative place
            points = np.concatenate((points, 2.0 * (points >= 0).all(2, keepdims=True)), 2)
        return cls(points * (size[1], size[0], 1), sample.keypoint_swap)

    def move(self, matrix: Floats, size: Size) -> Self:
        return self._at(move_points(self.points[..., :2], matrix)).clip((0, 0, size[1], size[0]))

    def shift(self, left: int, top: int, size: Size) -> Self:
        return self._at(self.points[..., :2] + (left, top))

    def mirror(self, axis: int, size: Size) -> Self:
        """Return the points of the flipped picture; either flip makes a mirror image, so left and right are swapped."""
        h, w = size
        sign, offset = ((-1, 1), (w, 0)) if axis == 1 else ((1, -1), (0, h))
        mirrored = self._at(self.points[..., :2] * sign + offset)
        return replace(mirrored, points=mirrored.points[:, list(self.swap)]) if self.swap else mirrored

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        return replace(self, points=self.points[chosen])

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        """Return the same points; those outside the rectangle are marked as not annotated."""
        x1, y1, x2, y2 = rectangle
        place = self.points[..., :2]
        inside = np.all((place >= (x1, y1)) & (place <= (x2, y2)), axis=-1, keepdims=True)
        return replace(self, points=self.points * np.where(inside, 1.0, (1.0, 1.0, 0.0)))

    def join(self, others: Sequence[Self]) -> Self:
        points = [target.points for target in (self, *others)]
        swap = next((target.swap for target in (self, *others) if target.swap), ())
        # A picture without keypoints does not know how many an object has.
        count = max(p.shape[1] for p in points)
        points = [p if p.shape[1] else np.zeros((len(p), count, 3)) for p in points]
        return replace(self, swap=swap, points=np.concatenate(points))

    def tensors(self, size: Size) -> Tensors:
        """``keypoints`` (N, K, 3) of x and y in fractions of the picture's sides, and visibility."""
        return {"keypoints": torch.from_numpy((self.points / (size[1], size[0], 1)).astype(np.float32))}

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """Concatenate the keypoints of all pictures, in the order of their boxes."""
        points = [item["keypoints"] for item in items]
        count = max(p.shape[1] for p in points)
        return {"keypoints": torch.cat([p if p.shape[1] else p.new_zeros(len(p), count, 3) for p in points])}

    def _at(self, place: Floats) -> Self:
        return replace(self, points=np.concatenate((place, self.points[..., 2:]), -1))
