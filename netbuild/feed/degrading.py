"""Degrade pictures as ``degrade`` states it: make them smaller, noisy, blurred, compressed, or incomplete.

Pictures are float32 (H, W, C) from 0 to 255, and neither rounded nor clipped unless a step needs it.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.data.images import pillow
from netbuild.grammar.degrade import Degradation, count_scale
from netbuild.runtime import resize_bicubic, round_to_bytes
from netbuild.system.packages import cv2

Values = NDArray[np.float32]
DEFAULT_SIDE = (8, 32)  # pixels of a box of ``mask``


class Degrader:
    """Applies degradations to pictures in their order.

    Args:
        entries: as `netbuild.grammar.degrade.read_degrade` returns them.

    Attributes:
        scale: by how many times pictures become smaller.
        fixed: the number of first steps that give the same result each time, as they need no random numbers.
    """

    def __init__(self, entries: Sequence[Degradation]) -> None:
        self.steps = [(kind, fields) for entry in entries for kind, fields in entry.items()]
        self.scale = count_scale(entries)
        is_random = [_is_random(kind, fields) for kind, fields in self.steps]
        self.fixed = is_random.index(True) if any(is_random) else len(is_random)
        self.fixed_scale = count_scale(entries[: self.fixed])

    def apply_fixed(self, picture: Values) -> Values:
        """Apply the first steps, which need no random numbers, so that the result can be cached."""
        return self._apply(self.steps[: self.fixed], picture, None)

    def apply_random(self, picture: Values, rng: Generator) -> Values:
        """Apply the steps after those of `apply_fixed`; all random numbers come from ``rng``."""
        return self._apply(self.steps[self.fixed :], picture, rng)

    @staticmethod
    def _apply(steps: Sequence[tuple[str, Mapping[str, Any]]], picture: Values, rng: Generator | None) -> Values:
        for kind, fields in steps:
            picture = STEPS[kind](picture, rng, **fields)
        return picture


def _is_random(kind: str, fields: Mapping[str, Any]) -> bool:
    ranged = any(isinstance(value, list) for name, value in fields.items() if name != "kernel")
    return kind in ("noise", "mask") or ranged


def downscale(picture: Values, rng: Generator | None, factor: int, method: str = "bicubic") -> Values:
    """Make a picture smaller by a whole factor, as the papers do by bicubic interpolation with antialiasing."""
    h, w = picture.shape[0] // factor, picture.shape[1] // factor
    cut = picture[: h * factor, : w * factor]
    if method == "area":
        return cut.reshape(h, factor, w, factor, -1).mean((1, 3), dtype=np.float32)
    if method == "nearest":
        return np.ascontiguousarray(cut[factor // 2 :: factor, factor // 2 :: factor])
    return resize_bicubic(cut, h, w).astype(np.float32, copy=False)


def add_noise(picture: Values, rng: Generator | None, sigma: Any = None, poisson: Any = None) -> Values:
    """Add Gaussian noise, or the noise of counting light.

    Args:
        picture: the picture.
        rng: random generator.
        sigma: standard deviation of the noise, or its range.
        poisson: the number of counts of a pixel of 255, or its range: fewer counts are noisier.
    """
    assert rng is not None
    if sigma is not None:
        return picture + rng.normal(0, draw_value(sigma, rng), picture.shape).astype(np.float32)
    per_value = draw_value(poisson, rng) / 255
    return (rng.poisson(picture.clip(0) * per_value) / per_value).astype(np.float32)


def blur(
    picture: Values, rng: Generator | None, sigma: Any = None, size: int | None = None, kernel: Any = None
) -> Values:
    """Blur a picture, mirrored at its edges.

    Args:
        picture: the picture.
        rng: random generator, for a range of sigma.
        sigma: standard deviation of a round Gaussian kernel in pixels, or its range.
        size: odd number of rows and columns of that kernel; three sigma to each side unless given.
        kernel: rows of numbers of another kernel, which are divided by their sum.
    """
    if kernel is not None:
        table = np.array(kernel, np.float32)
    else:
        width = draw_value(sigma, rng)
        radius = ceil(3 * width) if size is None else size // 2
        line = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * width**2))
        table = np.outer(line, line).astype(np.float32)
    cv = cv2()
    # OpenCV correlates; a convolution turns the kernel by half a turn.
    turned = np.ascontiguousarray((table / table.sum())[::-1, ::-1])
    return cv.filter2D(picture, cv.CV_32F, turned, borderType=cv.BORDER_REFLECT).reshape(picture.shape)


def compress_jpeg(picture: Values, rng: Generator | None, quality: Any) -> Values:
    """Write a picture as JPEG of a quality from 1 to 100, or a range of these, and read it again."""
    library, data = pillow(), io.BytesIO()
    pixels = round_to_bytes(picture)
    image = library.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(data, "JPEG", quality=int(draw_value(quality, rng, whole=True)))
    with library.open(io.BytesIO(data.getvalue())) as found:
        return np.asarray(found, np.float32).reshape(picture.shape)


def mask(picture: Values, rng: Generator | None, share: Any = None, boxes: Any = None, side: Any = None) -> Values:
    """Make pixels black: a share of them at random places, or a number of boxes.

    Args:
        picture: the picture.
        rng: random generator.
        share: share of the pixels, or its range.
        boxes: number of boxes, or its range.
        side: height and width of a box in pixels, or their range.
    """
    assert rng is not None
    h, w = picture.shape[:2]
    if share is not None:
        hidden = rng.random((h, w)) < draw_value(share, rng)
    else:
        hidden = np.zeros((h, w), np.bool_)
        for _ in range(int(draw_value(boxes, rng, whole=True))):
            high, wide = (int(draw_value(side or list(DEFAULT_SIDE), rng, whole=True)) for _ in range(2))
            top, left = int(rng.integers(max(h - high, 0) + 1)), int(rng.integers(max(w - wide, 0) + 1))
            hidden[top : top + high, left : left + wide] = True
    return np.where(hidden[..., None], np.float32(0), picture)


def draw_value(value: Any, rng: Generator | None, whole: bool = False) -> float:
    """Return a number, or a random one of a range [least, most]."""
    if not isinstance(value, list):
        return float(value)
    assert rng is not None
    return float(rng.integers(value[0], value[1] + 1) if whole else rng.uniform(*value))


STEPS: dict[str, Callable[..., Values]] = {
    "downscale": downscale,
    "noise": add_noise,
    "blur": blur,
    "jpeg": compress_jpeg,
    "mask": mask,
}
