"""Maps with a value for each pixel: classes, distances, or a second picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.feed.geometry import warp_image
from netbuild.feed.targets.base import Floats, Size, Target, Tensors
from netbuild.system.packages import cv2


@dataclass(frozen=True)
class MapTarget(Target):
    """A map of the picture's size, warped as the picture is.

    Args:
        values: (H, W, C), of a type that OpenCV warps: uint8, uint16, int16, float32, float64.
        fill: the value of pixels that no map covers; losses ignore it.
        name: the map's name in a batch.
        smooth: whether values are interpolated, as those of a second picture; classes take the nearest pixel's.
    """

    values: NDArray[Any]
    fill: float = 255
    name: str = "mask"
    smooth: bool = False

    def move(self, matrix: Floats, size: Size) -> Self:
        fill, smooth = (self.fill,) * 4, self.smooth
        return replace(self, values=warp_image(self.values, matrix, size, smooth=smooth, borderValue=fill))

    def shift(self, left: int, top: int, size: Size) -> Self:
        h, w = self.values.shape[:2]
        moved = self._empty(size)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, size[1]), min(top + h, size[0])
        moved[y1:y2, x1:x2] = self.values[y1 - top : y2 - top, x1 - left : x2 - left]
        return replace(self, values=moved)

    def mirror(self, axis: int, size: Size) -> Self:
        return replace(self, values=np.flip(self.values, axis))

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        x1, y1, x2, y2 = rectangle
        clipped = self._empty((self.values.shape[0], self.values.shape[1]))
        clipped[y1:y2, x1:x2] = self.values[y1:y2, x1:x2]
        return replace(self, values=clipped)

    def join(self, others: Sequence[Self]) -> Self:
        """This map, and the others' values where it has none."""
        values = self.values
        for other in others:
            values = np.where((values == self.fill).all(-1, keepdims=True), other.values, values)
        return replace(self, values=values)

    def paste(self, other: Self, mask: NDArray[np.bool_]) -> Self:
        return replace(self, values=np.where(mask[..., None], other.values, self.values))

    def tensors(self, size: Size) -> Tensors:
        """The map (C, H, W) by its name."""
        return {self.name: torch.from_numpy(np.ascontiguousarray(self.values.transpose(2, 0, 1)))}

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """The maps of one size stacked: (B, C, H, W)."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def resize(self, size: Size) -> Self:
        """The map on a picture of another (height, width)."""
        method = cv2().INTER_LINEAR if self.smooth else cv2().INTER_NEAREST
        return replace(self, values=cv2().resize(self.values, size[::-1], interpolation=method).reshape(*size, -1))

    def _empty(self, size: Size) -> NDArray[Any]:
        return np.full((*size, self.values.shape[2]), self.fill, self.values.dtype)
