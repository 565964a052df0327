"""Polygons around objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.geometry import move_points
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Target, Tensors

Outline = tuple[Floats, ...]  # polygons (K, 2) of one object; empty where only its box is known


@dataclass(frozen=True)
class PolygonTarget(Target):
    """Polygons of objects, from which boxes are tightened after a warp and copy-paste cuts objects out.

    Args:
        outlines: the polygons of each object, in pixels.
    """

    outlines: tuple[Outline, ...]

    @classmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        if sample.outlines:
            return cls(tuple(tuple(p * (size[1], size[0]) for p in outline) for outline in sample.outlines))
        return cls(((),) * (0 if sample.boxes is None else len(sample.boxes)))

    def move(self, matrix: Floats, size: Size) -> Self:
        return self._map(lambda polygon: move_points(polygon, matrix))

    def shift(self, left: int, top: int, size: Size) -> Self:
        return self._map(lambda polygon: polygon + (left, top))

    def mirror(self, axis: int, size: Size) -> Self:
        h, w = size
        sign, offset = ((-1, 1), (w, 0)) if axis == 1 else ((1, -1), (0, h))
        return self._map(lambda polygon: polygon * sign + offset)

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        return replace(self, outlines=tuple(self.outlines[i] for i in chosen.nonzero()[0]))

    def join(self, others: Sequence[Self]) -> Self:
        return replace(self, outlines=tuple(outline for target in (self, *others) for outline in target.outlines))

    def tensors(self, size: Size) -> Tensors:
        """Return nothing: polygons differ in length, and detection learns from the boxes."""
        return {}

    def tighten(self, boxes: Floats) -> Floats:
        """Return boxes (N, 5), each replaced by the smallest one around the object's polygons if it has any."""
        boxes = boxes.copy()
        for row, outline in zip(boxes, self.outlines, strict=True):
            if outline:
                points = np.concatenate(outline)
                row[1:3], row[3:] = points.min(0), points.max(0)
        return boxes

    def _map(self, change: Callable[[Floats], Floats]) -> Self:
        return replace(self, outlines=tuple(tuple(map(change, outline)) for outline in self.outlines))
