"""Samples of a data set as a network learns them: read, changed by chance, brought to one size, stacked to batches.

Mosaic: arXiv 2004.10934. MixUp: arXiv 1710.09412. Random resized crops: arXiv 1409.4842.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, sin, sqrt, tan
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.builders import package
from netbuild.data.samples import Sample
from netbuild.errors import MissingExtraError
from netbuild.feed import Batch
from netbuild.settings import Settings
from netbuild.tasks.boxes import Letterbox

Image = NDArray[np.uint8]  # (H, W, C)
Boxes = NDArray[np.float64]  # (N, 5): class, then corners in pixels
GREY = 114  # of what no picture covers
LEAST = 2.0  # pixels of a side below which a box is dropped after a change
LEAST_PART = 0.1  # of a box's area that must be left
MOST_ASPECT = 100.0


def cv2() -> Any:
    """OpenCV, which changes pictures several times faster than Pillow.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return package("cv2", "train")
    except MissingExtraError:
        message = "pictures are resized and videos read by OpenCV: pip install 'netbuild[train]'"
        raise MissingExtraError(message) from None


# -- detection --------------------------------------------------------------------------------------------------------


@dataclass
class DetectSamples:
    """Pictures with boxes.

    Args:
        samples: what is fed.
        size: side of the square that the network sees.
        channels: of the network's image.
        settings: of augmentation; without, pictures are only fitted into the square.
    """

    samples: Sequence[Sample]
    size: int
    channels: int = 3
    settings: Settings | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> dict[str, Any]:
        """A picture (C, size, size), its boxes as centre and size in fractions, classes, and where it lies."""
        if self.settings is None:
            image, boxes, letterbox = self.fitted(index)
        else:
            image, boxes = self.changed(index, rng, epoch)
            letterbox = Letterbox.fit((self.size, self.size), (self.size, self.size))
        h, w = image.shape[:2]
        scaled = np.concatenate(((boxes[:, 1:3] + boxes[:, 3:]) / 2, boxes[:, 3:] - boxes[:, 1:3]), 1) / (w, h, w, h)
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "boxes": torch.from_numpy(scaled.astype(np.float32)),
            "classes": torch.from_numpy(boxes[:, 0].astype(np.int64)),
            "letterbox": letterbox,
        }

    def loaded(self, index: int) -> tuple[Image, Boxes]:
        """A picture with its long side as the network's, and its boxes in its pixels."""
        sample = self.samples[index]
        image = sample.image(self.channels)
        ratio = self.size / max(image.shape[:2])
        if ratio != 1:
            h, w = (max(round(side * ratio), 1) for side in image.shape[:2])
            image = resized(image, h, w)
        h, w = image.shape[:2]
        rows = np.zeros((0, 5)) if sample.boxes is None else sample.boxes
        centre, half = rows[:, 1:3] * (w, h), rows[:, 3:] * (w, h) / 2
        return image, np.concatenate((rows[:, :1], centre - half, centre + half), 1)

    def canvas(self, index: int) -> tuple[int, int]:
        """Height and width of what the network sees of a picture in validation."""
        return self.size, self.size

    def fitted(self, index: int) -> tuple[Image, Boxes, Letterbox]:
        """A picture in the middle of its canvas, as validation sees it."""
        image, boxes = self.loaded(index)
        height, width = self.canvas(index)
        inner = image.shape[0], image.shape[1]
        corner = max((height - inner[0]) // 2, 0), max((width - inner[1]) // 2, 0)
        place = Letterbox(original_size(self.samples[index], image), inner, corner)
        top, left = corner
        boxes = boxes.copy()
        boxes[:, 1:] += (left, top, left, top)
        return on_grey(image, (height, width), corner), boxes, place

    def changed(self, index: int, rng: Generator, epoch: int) -> tuple[Image, Boxes]:
        """A picture changed by chance, as training sees it."""
        s = self.settings
        assert s is not None
        image, boxes = self.composed(index, rng, epoch)
        if s.mixup and rng.random() < s.mixup:
            other, more = self.composed(int(rng.integers(len(self))), rng, epoch)
            share = rng.beta(32, 32)
            image = (image * share + other * (1 - share)).astype(np.uint8)
            boxes = np.concatenate((boxes, more))
        if self.channels == 3:
            image = recoloured(image, rng, s)
        return flipped(image, boxes, rng, s)

    def composed(self, index: int, rng: Generator, epoch: int) -> tuple[Image, Boxes]:
        """One picture or a mosaic of four, turned, scaled and shifted into the square."""
        s = self.settings
        assert s is not None
        if rng.random() < s.mosaic and epoch < s.epochs - s.close_mosaic:
            image, boxes = self.mosaic(index, rng)
        else:
            image, boxes = self.loaded(index)
        return warped(image, boxes, self.size, rng, s)

    def mosaic(self, index: int, rng: Generator) -> tuple[Image, Boxes]:
        """Four pictures around a point of a canvas of twice the side."""
        side, found = self.size, []
        canvas = np.full((2 * side, 2 * side, self.channels), GREY, np.uint8)
        cx, cy = (int(rng.uniform(side / 2, 3 * side / 2)) for _ in range(2))
        for place, which in enumerate([index, *rng.integers(len(self), size=3)]):
            image, boxes = self.loaded(int(which))
            h, w = image.shape[:2]
            left, top = cx - w if place % 2 == 0 else cx, cy - h if place < 2 else cy
            x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 2 * side), min(top + h, 2 * side)
            canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
            boxes = boxes.copy()
            boxes[:, 1:] = np.clip(boxes[:, 1:] + (left, top, left, top), 0, 2 * side)
            found.append(boxes[(boxes[:, 3] > boxes[:, 1]) & (boxes[:, 4] > boxes[:, 2])])
        return canvas, np.concatenate(found)


class NarrowSamples(DetectSamples):
    """Pictures sorted by their shape, each batch on a canvas as narrow as its pictures allow.

    Args:
        samples: what is fed; their sizes must be known.
        size: the canvas's long side.
        channels: of the network's image.
        batch: pictures that share a canvas.
        stride: that both sides are multiples of.
    """

    def __init__(self, samples: Sequence[Sample], size: int, channels: int, batch: int, stride: int = 32) -> None:
        ordered = sorted(samples, key=_aspect)
        super().__init__(ordered, size, channels)
        self.batch = batch
        groups = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
        self.canvases = [_narrow([_aspect(s) for s in group], size, stride) for group in groups]

    def canvas(self, index: int) -> tuple[int, int]:
        return self.canvases[index // self.batch]


def _aspect(sample: Sample) -> float:
    """Height over width; 1 where it is not known."""
    return sample.size[1] / sample.size[0] if sample.size else 1.0


def _narrow(aspects: Sequence[float], size: int, stride: int) -> tuple[int, int]:
    """Height and width for pictures of these aspects: half a stride of margin, then up to a multiple of it."""
    tall, wide = (
        (max(aspects), 1.0) if max(aspects) < 1 else (1.0, 1 / min(aspects)) if min(aspects) > 1 else (1.0, 1.0)
    )
    return ceil(tall * size / stride + 0.5) * stride, ceil(wide * size / stride + 0.5) * stride


def on_grey(image: Image, canvas: tuple[int, int], corner: tuple[int, int]) -> Image:
    """A picture laid on a grey canvas of (height, width), its top and left at the corner, cut at the edges."""
    (height, width), (top, left) = canvas, corner
    out = np.full((height, width, image.shape[2]), GREY, np.uint8)
    h, w = min(image.shape[0], height - top), min(image.shape[1], width - left)
    out[top : top + h, left : left + w] = image[:h, :w]
    return out


def original_size(sample: Sample, image: Image) -> tuple[int, int]:
    """Height and width of a sample's picture before it was resized."""
    if sample.size:
        return sample.size[1], sample.size[0]
    h, w = sample.image(1).shape[:2]
    return h, w


def resized(image: Image, h: int, w: int) -> Image:
    """A picture of another size: (h, w, C)."""
    cv = cv2()
    smaller = h < image.shape[0] or w < image.shape[1]
    out = cv.resize(image, (w, h), interpolation=cv.INTER_AREA if smaller else cv.INTER_LINEAR)
    return out.reshape(h, w, -1)


def warped(image: Image, boxes: Boxes, size: int, rng: Generator, s: Settings) -> tuple[Image, Boxes]:
    """The picture's middle brought to the square's, turned, scaled, sheared and shifted by chance, with its boxes."""
    h, w = image.shape[:2]
    angle = rng.uniform(-s.degrees, s.degrees) * pi / 180
    change = s.scale or 0.0
    scale = rng.uniform(1 - change, 1 + change)
    shear_x, shear_y = (tan(rng.uniform(-s.shear, s.shear) * pi / 180) for _ in range(2))
    shift = [rng.uniform(0.5 - s.translate, 0.5 + s.translate) * size for _ in range(2)]
    turn = scale * np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    matrix = np.array([[1, shear_x], [shear_y, 1]]) @ turn
    offset = np.array(shift) - matrix @ (w / 2, h / 2)
    cv = cv2()
    affine = np.concatenate((matrix, offset[:, None]), 1)
    out = cv.warpAffine(image, affine, (size, size), flags=cv.INTER_LINEAR, borderValue=(GREY,) * 4)
    return out.reshape(size, size, -1), moved_boxes(boxes, matrix, offset, size, scale)


def moved_boxes(boxes: Boxes, matrix: Any, offset: Any, size: int, scale: float) -> Boxes:
    """The hulls of boxes after an affine change, cut at the square; those of which too little is left are dropped."""
    if not len(boxes):
        return boxes
    corners = boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 4, 2) @ matrix.T + offset
    low, high = (np.clip(edge, 0, size) for edge in (corners.min(1), corners.max(1)))
    wide = high - low
    before = np.prod(boxes[:, 3:] - boxes[:, 1:3], 1) * scale**2
    aspect = np.maximum(wide[:, 0] / (wide[:, 1] + 1e-9), wide[:, 1] / (wide[:, 0] + 1e-9))
    kept = (wide > LEAST).all(1) & (wide.prod(1) > LEAST_PART * before) & (aspect < MOST_ASPECT)
    return np.concatenate((boxes[:, :1], low, high), 1)[kept]


def recoloured(image: Image, rng: Generator, s: Settings) -> Image:
    """Hue, saturation and brightness changed by chance."""
    gains = rng.uniform(-1, 1, 3) * (s.hsv_h, s.hsv_s, s.hsv_v)
    if not gains.any():
        return image
    cv, steps = cv2(), np.arange(256)
    hue, saturation, value = cv.split(cv.cvtColor(image, cv.COLOR_RGB2HSV))
    tables = (
        ((steps + 180 * gains[0]) % 180).astype(np.uint8),
        np.clip(steps * (1 + gains[1]), 0, 255).astype(np.uint8),
        np.clip(steps * (1 + gains[2]), 0, 255).astype(np.uint8),
    )
    channels = [cv.LUT(x, table) for x, table in zip((hue, saturation, value), tables, strict=True)]
    return cv.cvtColor(cv.merge(channels), cv.COLOR_HSV2RGB)


def flipped(image: Image, boxes: Boxes, rng: Generator, s: Settings) -> tuple[Image, Boxes]:
    """The picture mirrored or upside down by chance, with its boxes."""
    h, w = image.shape[:2]
    if rng.random() < (s.flip_lr or 0.0):
        image, boxes = image[:, ::-1], boxes[:, [0, 3, 2, 1, 4]] * (1, -1, 1, -1, 1) + (0, w, 0, w, 0)
    if rng.random() < s.flip_ud:
        image, boxes = image[::-1], boxes[:, [0, 1, 4, 3, 2]] * (1, 1, -1, 1, -1) + (0, 0, h, 0, h)
    return image, boxes


def detect_batch(items: Sequence[dict[str, Any]]) -> Batch:
    """Pictures with boxes as a batch: the boxes of all, and whose each is."""
    index = torch.cat([torch.full((len(item["boxes"]),), i) for i, item in enumerate(items)])
    return {
        "images": torch.stack([item["image"] for item in items]),
        "boxes": torch.cat([item["boxes"] for item in items]),
        "classes": torch.cat([item["classes"] for item in items]),
        "index": index,
        "letterbox": [item["letterbox"] for item in items],
    }


# -- classification ---------------------------------------------------------------------------------------------------


@dataclass
class ClassifySamples:
    """Pictures with a class.

    Args:
        samples: what is fed.
        size: height and width of the network's image.
        channels: of it.
        settings: of augmentation; without, the middle of each picture is taken.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    channels: int = 3
    settings: Settings | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> tuple[torch.Tensor, int]:
        """A picture (C, H, W) and its class."""
        sample, s = self.samples[index], self.settings
        image = sample.image(self.channels)
        image = middle(image, self.size) if s is None else cropped(image, self.size, rng, s)
        if s is not None:
            if self.channels == 3:
                image = recoloured(image, rng, s)
            image, _ = flipped(image, np.zeros((0, 5)), rng, s)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), int(sample.label or 0)


def middle(image: Image, size: tuple[int, int]) -> Image:
    """The middle of a picture, as much of it as the shape allows."""
    h, w = image.shape[:2]
    ratio = min(h / size[0], w / size[1])
    ch, cw = (max(min(round(side * ratio), full), 1) for side, full in zip(size, (h, w), strict=True))
    top, left = (h - ch) // 2, (w - cw) // 2
    return resized(image[top : top + ch, left : left + cw], *size)


def cropped(image: Image, size: tuple[int, int], rng: Generator, s: Settings) -> Image:
    """A part of the picture by chance: of its area at least 1 - scale, of an aspect ratio from 3/4 to 4/3."""
    h, w = image.shape[:2]
    area, ratio = h * w * rng.uniform(1 - (s.scale or 0.0), 1), sqrt(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    ch, cw = (max(min(round(side), full), 1) for side, full in ((sqrt(area) / ratio, h), (sqrt(area) * ratio, w)))
    top, left = int(rng.integers(h - ch + 1)), int(rng.integers(w - cw + 1))
    return resized(image[top : top + ch, left : left + cw], *size)


def classify_batch(items: Sequence[tuple[torch.Tensor, int]]) -> Batch:
    """Pictures with classes as a batch."""
    images, classes = zip(*items, strict=True)
    return {"images": torch.stack(images), "classes": torch.tensor(classes)}


# -- prediction -------------------------------------------------------------------------------------------------------


def letterboxed(image: Image, size: tuple[int, int], stride: int, rect: bool) -> tuple[Image, Letterbox]:
    """A picture (H, W, C) as large as fits into a size, undistorted, in the middle of grey; and where it lies there.

    Args:
        image: the picture; a small one is enlarged.
        size: height and width that it may have.
        stride: both sides of the canvas are multiples of it.
        rect: whether the canvas is as narrow as the picture allows; without, as large as the size.
    """
    original = image.shape[0], image.shape[1]
    inner = Letterbox.fit(original, size).inner
    h, w = (ceil(side / stride) * stride for side in (inner if rect else size))
    place = Letterbox(original, inner, ((h - inner[0]) // 2, (w - inner[1]) // 2))
    return on_grey(image if inner == original else resized(image, *inner), (h, w), place.corner), place


def centred(image: Image, size: tuple[int, int], stride: int, rect: bool) -> tuple[Image, Letterbox]:
    """The middle of a picture (H, W, C) in just the size that is asked for; the place is right to a pixel."""
    h, w = image.shape[:2]
    ratio = max(size[0] / h, size[1] / w)
    inner = round(h * ratio), round(w * ratio)
    place = Letterbox((h, w), inner, ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return middle(image, size), place


FITTINGS = {"letterbox": letterboxed, "middle": centred}  # by the name that a task says
