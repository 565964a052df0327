"""Maps with a value for each pixel: classes, measured values, or a second picture. They are extras of a sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.data.fitting import GREY
from netbuild.feed.geometry import measure_enlargement, warp_image
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Target, Tensors


@dataclass(frozen=True)
class MapTarget(Target):
    """A map that is warped as its picture is. The base of the kinds of maps, which differ in what pixels mean.

    Args:
        values: (H * scale, W * scale, C), of a type that OpenCV warps: uint8, uint16, int16, float32, float64.
        name: the map's name in a batch.
        scale: how many times as wide and high as the picture it is.
    """

    values: NDArray[Any]
    name: str
    scale: int = 1
    needs_extra: ClassVar[bool] = True
    kind: ClassVar[str]  # as `netbuild.data.dataset.Extra.kind`
    fill: ClassVar[float]  # the value of pixels that no map covers
    dtype: ClassVar[Any]  # of the values in a batch
    smooth: ClassVar[bool] = False  # whether values are interpolated; otherwise the nearest pixel's are taken

    @classmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        values = read_extra(name, cls.kind)
        return cls(values, name, values.shape[0] // size[0])

    @classmethod
    def make_unknown(cls, name: str, size: Size, scale: int) -> Self:
        """Return a map of a picture of (height, width), in which no pixel is known."""
        channels = 3 if cls.kind == "picture" else 1
        # One byte holds 255 and 0; OpenCV cannot warp the whole numbers of batches.
        dtype = np.float32 if cls.dtype is np.float32 else np.uint8
        return cls(np.full((size[0] * scale, size[1] * scale, channels), cls.fill, dtype), name, scale)

    def move(self, matrix: Floats, size: Size) -> Self:
        # The map's pixels are finer than the picture's by the scale: M (p / scale) * scale = A p + scale * b.
        scaled = np.column_stack((matrix[:2, :2], matrix[:2, 2] * self.scale))
        if len(matrix) == 3:
            scaled = np.concatenate((scaled, [matrix[2] / (self.scale, self.scale, 1)]))
        fill = (self.fill,) * 4
        values = warp_image(self.values, scaled, self._scaled(size), smooth=self.smooth, borderValue=fill)
        return replace(self, values=values)

    def shift(self, left: int, top: int, size: Size) -> Self:
        (left, top), (height, width) = (left * self.scale, top * self.scale), self._scaled(size)
        h, w = self.values.shape[:2]
        moved = self._empty((height, width))
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
        moved[y1:y2, x1:x2] = self.values[y1 - top : y2 - top, x1 - left : x2 - left]
        return replace(self, values=moved)

    def mirror(self, axis: int, size: Size) -> Self:
        return replace(self, values=np.flip(self.values, axis))

    def turn(self, quarters: int, size: Size) -> Self:
        return replace(self, values=np.rot90(self.values, quarters))

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        x1, y1, x2, y2 = (edge * self.scale for edge in rectangle)
        clipped = self._empty((self.values.shape[0], self.values.shape[1]))
        clipped[y1:y2, x1:x2] = self.values[y1:y2, x1:x2]
        return replace(self, values=clipped)

    def join(self, others: Sequence[Self]) -> Self:
        """This map, with the others' values where it has none."""
        values = self.values
        for other in others:
            values = np.where((values == self.fill).all(-1, keepdims=True), other.values, values)
        return replace(self, values=values)

    def paste(self, other: Self, mask: NDArray[np.bool_]) -> Self:
        fine = mask.repeat(self.scale, 0).repeat(self.scale, 1)
        return replace(self, values=np.where(fine[..., None], other.values, self.values))

    def tensors(self, size: Size) -> Tensors:
        """The map (C, H, W) by its name, as ``dtype``."""
        values = self.values.astype(self.dtype, copy=False).transpose(2, 0, 1)
        return {self.name: torch.from_numpy(np.require(values, requirements=("C", "W")))}  # Pillow's are read-only

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """The maps of all pictures, which have one size, stacked: (B, C, H, W)."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def _scaled(self, size: Size) -> Size:
        return size[0] * self.scale, size[1] * self.scale

    def _empty(self, size: Size) -> NDArray[Any]:
        return np.full((*size, self.values.shape[2]), self.fill, self.values.dtype)


class ClassMapTarget(MapTarget):
    """The class number of each pixel; 255 where it is not known, which losses ignore."""

    kind = "classes"
    fill = 255
    dtype = np.int32


class ValueMapTarget(MapTarget):
    """A measured value for each pixel, such as a distance; 0 where it is not known."""

    kind = "values"
    fill = 0
    dtype = np.float32


class DistanceMapTarget(ValueMapTarget):
    """A distance for each pixel. It is divided by the factor by which a warp enlarges its picture.

    A camera sees a thing enlarged when it is nearer by that factor. Otherwise the same thing would be as far away in
    pictures of any enlargement, and the network could not learn from its size how far away it is.
    """

    def move(self, matrix: Floats, size: Size) -> Self:
        moved = super().move(matrix, size)
        enlargement = np.float32(measure_enlargement(matrix, size))
        if enlargement.ndim:  # of each pixel of the picture, which the map's may be finer than
            enlargement = enlargement.repeat(self.scale, 0).repeat(self.scale, 1)[..., None]
        return replace(moved, values=moved.values / enlargement)


class PictureTarget(MapTarget):
    """A picture that the network learns to make of the sample's; grey where there is none."""

    kind = "picture"
    fill = GREY
    dtype = np.uint8
    smooth = True
    fixes_colors = True

    def blend(self, other: Self, share: float) -> Self:
        return replace(self, values=(self.values * share + other.values * (1 - share)).astype(np.uint8))


class InputPictureTarget(PictureTarget):
    """A second picture that the network sees beside the sample's, such as infrared."""

    fixes_colors = False
