"""Boxes with a class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.geometry import move_points
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Target, Tensors

MIN_SIDE = 2.0  # pixels; a narrower box is dropped after a warp
MIN_VISIBLE = 0.1  # fraction of a box's area that must remain on the canvas
MAX_ASPECT = 100.0  # a longer or narrower box is dropped after a warp


@dataclass(frozen=True)
class BoxTarget(Target):
    """Boxes.

    Args:
        rows: (N, 5) of class and corners in pixels.
        crowd: (N,) whether a box marks a crowd of objects, which metrics ignore; None if none does.
    """

    rows: Floats
    crowd: NDArray[np.bool_] | None = None
    object_names: ClassVar[tuple[str, ...]] = ("boxes", "classes", "crowd", "index")

    @classmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        (h, w), rows = size, np.zeros((0, 5)) if sample.boxes is None else sample.boxes
        centre, half = rows[:, 1:3] * (w, h), rows[:, 3:] * (w, h) / 2
        return cls(np.concatenate((rows[:, :1], centre - half, centre + half), 1), sample.crowd)

    @property
    def is_crowd(self) -> NDArray[np.bool_]:
        """(N,) whether each box marks a crowd."""
        return np.zeros(len(self.rows), np.bool_) if self.crowd is None else self.crowd

    def move(self, matrix: Floats, size: Size) -> Self:
        """Return the smallest boxes around the moved corners, not yet clipped to the canvas."""
        corners = move_points(self.rows[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 4, 2), matrix)
        return replace(self, rows=np.concatenate((self.rows[:, :1], corners.min(1), corners.max(1)), 1))

    def shift(self, left: int, top: int, size: Size) -> Self:
        return replace(self, rows=self.rows + (0, left, top, left, top))

    def mirror(self, axis: int, size: Size) -> Self:
        h, w = size
        if axis == 1:
            return replace(self, rows=self.rows[:, [0, 3, 2, 1, 4]] * (1, -1, 1, -1, 1) + (0, w, 0, w, 0))
        return replace(self, rows=self.rows[:, [0, 1, 4, 3, 2]] * (1, 1, -1, 1, -1) + (0, 0, h, 0, h))

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        return type(self)(self.rows[chosen], None if self.crowd is None else self.crowd[chosen])

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        x1, y1, x2, y2 = rectangle
        corners = self.rows[:, 1:].clip((x1, y1, x1, y1), (x2, y2, x2, y2))
        return replace(self, rows=np.concatenate((self.rows[:, :1], corners), 1))

    def join(self, others: Sequence[Self]) -> Self:
        targets = (self, *others)
        is_marked = any(target.crowd is not None for target in targets)
        crowd = np.concatenate([target.is_crowd for target in targets]) if is_marked else None
        return type(self)(np.concatenate([target.rows for target in targets]), crowd)

    def tensors(self, size: Size) -> Tensors:
        """``boxes`` (N, 4) as centre and size in fractions of the picture's sides, ``classes`` and ``crowd`` (N,)."""
        (h, w), rows = size, self.rows
        scaled = np.concatenate(((rows[:, 1:3] + rows[:, 3:]) / 2, rows[:, 3:] - rows[:, 1:3]), 1) / (w, h, w, h)
        boxes = torch.from_numpy(scaled.astype(np.float32))
        classes, crowd = torch.from_numpy(rows[:, 0].astype(np.int64)), torch.from_numpy(self.is_crowd)
        return {"boxes": boxes, "classes": classes, "crowd": crowd}

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """Concatenate boxes and classes, and add ``index`` (N,), the number of each box's picture in the batch."""
        index = torch.cat([torch.full((len(item["boxes"]),), i) for i, item in enumerate(items)])
        return {**super().collate(items), "index": index}

    def visible(self, whole: Floats, scale: float | Floats) -> NDArray[np.bool_]:
        """Return (N,) whether enough is left of each box, compared with ``whole`` (N, 5) before it was moved.

        Args:
            whole: the boxes before.
            scale: by which the map enlarges lengths; or (N,) that of each box.
        """
        sides = self.rows[:, 3:] - self.rows[:, 1:3]
        area = np.prod(whole[:, 3:] - whole[:, 1:3], 1) * scale**2
        aspect = np.maximum(sides[:, 0] / (sides[:, 1] + 1e-9), sides[:, 1] / (sides[:, 0] + 1e-9))
        return (sides > MIN_SIDE).all(1) & (sides.prod(1) > MIN_VISIBLE * area) & (aspect < MAX_ASPECT)
