"""Samples with boxes for detection: read, augmented, brought to one size and collated."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.random import Generator

from netbuild.data.dataset import Sample
from netbuild.data.fitting import Image, Letterbox, pad, resize
from netbuild.feed import pictures
from netbuild.feed import scenes as augment
from netbuild.feed.loader import Batch, Collate, Feeding, ImageCache, tensor_of
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import BoxTarget
from netbuild.settings import Settings


@dataclass
class DetectSamples:
    """Pictures with boxes.

    Args:
        samples: of a split.
        size: side of the square that the network sees.
        channels: of the network's image.
        settings: of augmentation; without, pictures are only fitted into the square.
        cache: of decoded pictures.
    """

    samples: Sequence[Sample]
    size: int
    channels: int = 3
    settings: Settings | None = None
    cache: ImageCache = field(default_factory=ImageCache)

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> dict[str, Any]:
        """A picture (C, size, size), its boxes as centre and size in fractions, classes, and where it lies."""
        if self.settings is None:
            scene, letterbox = self.fitted(index)
        else:
            scene = self.changed(index, rng, epoch)
            letterbox = Letterbox.fit((self.size, self.size), (self.size, self.size))
        made = {"image": tensor_of(scene.image), "letterbox": letterbox}
        for target in scene.targets.values():
            made |= target.tensors(scene.size)
        return made

    def loaded(self, index: int) -> Scene:
        """A picture with its long side as the network's, and its objects in its pixels."""
        sample, image = self.samples[index], self.cache.get(index, self.read)
        h, w = image.shape[:2]
        rows = np.zeros((0, 5)) if sample.boxes is None else sample.boxes
        centre, half = rows[:, 1:3] * (w, h), rows[:, 3:] * (w, h) / 2
        outlines = tuple(tuple(p * (w, h) for p in outline) for outline in sample.outlines) or ((),) * len(rows)
        return Scene.of_boxes(image, np.concatenate((rows[:, :1], centre - half, centre + half), 1), outlines)

    def read(self, index: int) -> Image:
        """A picture with its long side as the network's."""
        image = self.samples[index].image(self.channels)
        ratio = self.size / max(image.shape[:2])
        h, w = (max(round(side * ratio), 1) for side in image.shape[:2])
        return image if ratio == 1 else resize(image, h, w)

    def canvas(self, index: int) -> tuple[int, int]:
        """Height and width of what the network sees of a picture in validation."""
        return self.size, self.size

    def fitted(self, index: int) -> tuple[Scene, Letterbox]:
        """A letterboxed picture without augmentation, as validation sees it."""
        scene = self.loaded(index)
        image, (height, width) = scene.image, self.canvas(index)
        inner = image.shape[0], image.shape[1]
        corner = max((height - inner[0]) // 2, 0), max((width - inner[1]) // 2, 0)
        place = Letterbox(original_size(self.samples[index], image), inner, corner)
        top, left = corner
        return replace(scene.shift(left, top, (height, width)), image=pad(image, (height, width), corner)), place

    def changed(self, index: int, rng: Generator, epoch: int) -> Scene:
        """A picture with random augmentation, as training sees it."""
        s = self.settings
        assert s is not None
        composing = epoch < s.epochs - s.close_mosaic  # the last epochs see pictures as they are
        scene = self.composed(index, rng, composing)
        for chance, combined in ((s.mixup, augment.mix_up), (s.cutmix, augment.cut_mix)):
            if composing and chance and rng.random() < chance:
                scene = combined(scene, self.composed(int(rng.integers(len(self))), rng, composing), rng)
        image = pictures.jitter_colors(scene.image, rng, s)
        return augment.flip_randomly(replace(scene, image=image), rng, s)

    def composed(self, index: int, rng: Generator, composing: bool) -> Scene:
        """One picture or a mosaic of four, randomly rotated, scaled and shifted into the square."""
        s = self.settings
        assert s is not None
        if rng.random() < s.mosaic and composing:
            scenes = [self.loaded(int(i)) for i in (index, *rng.integers(len(self), size=3))]
            scene = augment.make_mosaic(scenes, self.size, rng)
        else:
            scene = self.loaded(index)
        if composing and s.copy_paste:
            scene = augment.copy_paste(scene, s.copy_paste)
        return augment.warp(scene, self.size, rng, s)


class RectangularSamples(DetectSamples):
    """Pictures sorted by their shape, each batch on a canvas as narrow as its pictures allow.

    Args:
        samples: of a split; their sizes must be known.
        size: the canvas's long side.
        channels: of the network's image.
        batch: pictures that share a canvas.
        stride: that both sides are multiples of.
        cache: of decoded pictures.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        channels: int,
        batch: int,
        stride: int = 32,
        cache: ImageCache | None = None,
    ) -> None:
        ordered = sorted(samples, key=_aspect)
        super().__init__(ordered, size, channels, None, cache or ImageCache())
        self.batch = batch
        groups = [ordered[i : i + batch] for i in range(0, len(ordered), batch)]
        self.canvases = [_narrow([_aspect(s) for s in group], size, stride) for group in groups]

    def canvas(self, index: int) -> tuple[int, int]:
        return self.canvases[index // self.batch]


class FixedSizeSamples(DetectSamples):
    """Pictures each as large as fits into one canvas of any shape, for a network that takes no other.

    Args:
        samples: of a split.
        shape: height and width of the canvas.
        channels: of the network's image.
        cache: of decoded pictures.
    """

    def __init__(
        self, samples: Sequence[Sample], shape: tuple[int, int], channels: int, cache: ImageCache | None = None
    ) -> None:
        super().__init__(samples, max(shape), channels, None, cache or ImageCache())
        self.shape = shape

    def read(self, index: int) -> Image:
        image = self.samples[index].image(self.channels)
        h, w = Letterbox.fit((image.shape[0], image.shape[1]), self.shape).inner
        return image if image.shape[:2] == (h, w) else resize(image, h, w)

    def canvas(self, index: int) -> tuple[int, int]:
        return self.shape


def _aspect(sample: Sample) -> float:
    """Height over width; 1 where it is not known."""
    return sample.size[1] / sample.size[0] if sample.size else 1.0


def _narrow(aspects: Sequence[float], size: int, stride: int) -> tuple[int, int]:
    """Height and width for pictures of these aspects: half a stride of margin, then up to a multiple of it."""
    tall, wide = (
        (max(aspects), 1.0) if max(aspects) < 1 else (1.0, 1 / min(aspects)) if min(aspects) > 1 else (1.0, 1.0)
    )
    return ceil(tall * size / stride + 0.5) * stride, ceil(wide * size / stride + 0.5) * stride


def original_size(sample: Sample, image: Image) -> tuple[int, int]:
    """Height and width of a sample's picture before it was resized."""
    if sample.size:
        return sample.size[1], sample.size[0]
    h, w = sample.image(1).shape[:2]
    return h, w


def detect_batch(items: Sequence[dict[str, Any]]) -> Batch:
    """Collate pictures with boxes: all boxes one after the other, and ``index``, the picture of each."""
    return {
        "images": torch.stack([item["image"] for item in items]),
        **BoxTarget.collate([{name: item[name] for name in ("boxes", "classes")} for item in items]),
        "letterbox": [item["letterbox"] for item in items],
    }


def feed_boxes(samples: Sequence[Sample], feeding: Feeding, stride: int = 32) -> tuple[DetectSamples, Collate]:
    """Samples with boxes for a network, and the function that makes batches of them.

    Args:
        samples: of a split.
        feeding: how they are brought to the network.
        stride: in pixels, of which both sides of the images in validation are multiples.
    """
    side, channels, cache = max(feeding.imgsz), feeding.channels, feeding.cache()
    if feeding.canvas:
        return FixedSizeSamples(samples, feeding.canvas, channels, cache), detect_batch
    if feeding.learning or feeding.settings.rect is False:
        return DetectSamples(samples, side, channels, feeding.augmentation, cache), detect_batch
    return RectangularSamples(samples, side, channels, feeding.batch, stride, cache), detect_batch
