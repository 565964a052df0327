"""Fitting pictures to a network's input size by letterbox, centre crop or stretching, and mapping coordinates back."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netbuild.runtime import mirror_margin
from netbuild.system.packages import cv2

Image = NDArray[np.uint8]  # (H, W, C)
GREY = 114  # value of the pixels that no picture covers


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies in the padded image that the network sees (the canvas). All values are in pixels.

    Args:
        size: height and width of the original picture.
        inner: height and width to which it was resized; rounding makes the ratios of the two sides differ a little.
        corner: margin at the top and at the left.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    corner: tuple[int, int]

    @classmethod
    def fit(cls, size: tuple[int, int], canvas: tuple[int, int], enlarge: bool = True) -> "Letterbox":
        """Return the largest placement in the middle of a canvas.

        Args:
            size: height and width of the picture.
            canvas: height and width of the canvas; of an odd margin the larger half is at the right or bottom.
            enlarge: whether a small picture is enlarged.
        """
        ratio = min(c / s for c, s in zip(canvas, size, strict=True))
        ratio = ratio if enlarge else min(ratio, 1.0)
        h, w = (max(round(s * ratio), 1) for s in size)
        return cls(size, (h, w), ((canvas[0] - h) // 2, (canvas[1] - w) // 2))

    def apply(self, boxes: Tensor) -> Tensor:
        """Map corner boxes (..., 4) from pixels of the picture to pixels of the canvas."""
        ratio, margin = self._scale_and_margin(boxes)
        return boxes * ratio + margin

    def undo(self, boxes: Tensor) -> Tensor:
        """Map corner boxes (..., 4) from pixels of the canvas to pixels of the picture, clipped to it."""
        ratio, margin = self._scale_and_margin(boxes)
        h, w = self.size
        return ((boxes - margin) / ratio).clamp(min=0).minimum(boxes.new_tensor([w, h, w, h]))

    def _scale_and_margin(self, like: Tensor) -> tuple[Tensor, Tensor]:
        y, x = (inner / size for inner, size in zip(self.inner, self.size, strict=True))
        top, left = self.corner
        return like.new_tensor([x, y, x, y]), like.new_tensor([left, top, left, top])


def resize(image: Image, h: int, w: int, resizing: str = "area") -> Image:
    """Resize a picture to (h, w, C).

    Args:
        image: the picture.
        h, w: the new height and width.
        resizing: ``area`` for area means where it becomes smaller, ``linear`` for interpolation in any case, as in
            `netbuild.runtime.ModelInfo`.
    """
    cv = cv2()
    smaller = resizing == "area" and (h < image.shape[0] or w < image.shape[1])
    out = cv.resize(image, (w, h), interpolation=cv.INTER_AREA if smaller else cv.INTER_LINEAR)
    return out.reshape(h, w, -1)


def center_crop(image: Image, size: tuple[int, int], resizing: str = "area") -> Image:
    """Return the largest center crop with the aspect ratio of ``size`` (height, width), resized to it."""
    h, w = image.shape[:2]
    ratio = min(h / size[0], w / size[1])
    ch, cw = (max(min(round(side * ratio), full), 1) for side, full in zip(size, (h, w), strict=True))
    top, left = (h - ch) // 2, (w - cw) // 2
    return resize(image[top : top + ch, left : left + cw], *size, resizing)


def pad(image: Image, canvas: tuple[int, int], corner: tuple[int, int]) -> Image:
    """Pad a picture to a canvas of (height, width) with grey, its top left at ``corner``; what reaches out is cut."""
    (height, width), (top, left) = canvas, corner
    out = np.full((height, width, image.shape[2]), GREY, np.uint8)
    h, w = min(image.shape[0], height - top), min(image.shape[1], width - left)
    out[top : top + h, left : left + w] = image[:h, :w]
    return out


def letterbox(
    image: Image, size: tuple[int, int], stride: int, rect: bool, resizing: str = "area"
) -> tuple[Image, Letterbox]:
    """Resize a picture (H, W, C) to fit into a size without distortion and pad it with grey; return also its place.

    Args:
        image: the picture; a small one is enlarged.
        size: height and width that it is fitted into.
        stride: both sides of the result are multiples of it.
        rect: whether it is padded only to the next multiples of the stride, not to the whole size.
        resizing: as for `resize`.
    """
    original = image.shape[0], image.shape[1]
    inner = Letterbox.fit(original, size).inner
    h, w = (ceil(side / stride) * stride for side in (inner if rect else size))
    place = Letterbox(original, inner, ((h - inner[0]) // 2, (w - inner[1]) // 2))
    return pad(image if inner == original else resize(image, *inner, resizing), (h, w), place.corner), place


def fit_center_crop(
    image: Image, size: tuple[int, int], stride: int, rect: bool, resizing: str = "area"
) -> tuple[Image, Letterbox]:
    """Center-crop a picture (H, W, C) to exactly this (height, width); return also its place, exact to a pixel."""
    h, w = image.shape[:2]
    ratio = max(size[0] / h, size[1] / w)
    inner = round(h * ratio), round(w * ratio)
    place = Letterbox((h, w), inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return center_crop(image, size, resizing), place


def stretch(
    image: Image, size: tuple[int, int], stride: int, rect: bool, resizing: str = "area"
) -> tuple[Image, Letterbox]:
    """Resize a picture (H, W, C) to a (height, width) without keeping its aspect ratio; return also its place.

    Args:
        image: the picture.
        size: height and width of the network's image.
        stride: both sides of the result are multiples of it.
        rect: without effect, since nothing is padded.
        resizing: as for `resize`.
    """
    h, w = (ceil(side / stride) * stride for side in size)
    original = image.shape[0], image.shape[1]
    fitted = image if original == (h, w) else resize(image, h, w, resizing)
    return fitted, Letterbox(original, (h, w), (0, 0))


def keep_whole(
    image: Image, size: tuple[int, int], stride: int, rect: bool, resizing: str = "area"
) -> tuple[Image, Letterbox]:
    """Return a picture (H, W, C) as it is, and its place; the other arguments, as of `letterbox`, have no effect."""
    original = image.shape[0], image.shape[1]
    return image, Letterbox(original, original, (0, 0))


# By `netbuild.tasks.base.Task.fitting`.
FITTINGS = {"letterbox": letterbox, "middle": fit_center_crop, "stretch": stretch, "whole": keep_whole}


@dataclass(frozen=True)
class Fitting:
    """How pictures become images of a network.

    Args:
        name: a key of `FITTINGS`.
        size: height and width that pictures are fitted into.
        stride: both sides of an image are multiples of it.
        rect: whether letterboxed pictures are padded only to the next multiples of the stride.
        resizing: as for `resize`.
        window: height and width of the middle of the image that the network's map covers: pictures are fitted into it,
            and mirrored in the margin around it. None where the map covers the whole image.
    """

    name: str
    size: tuple[int, int]
    stride: int = 1
    rect: bool = False
    resizing: str = "area"
    window: tuple[int, int] | None = None

    def apply(self, image: Image) -> tuple[Image, Letterbox]:
        """Return the image of a picture (H, W, C), and its place in the image or, if there is one, in the window."""
        if self.window is None:
            return FITTINGS[self.name](image, self.size, self.stride, self.rect, self.resizing)
        fitted, place = FITTINGS[self.name](image, self.window, 1, False, self.resizing)
        return mirror_margin(fitted, self.size), place
