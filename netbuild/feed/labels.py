"""Samples of a classifier: pictures with one class each, augmented and batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.random import Generator

from netbuild.data import fitting
from netbuild.data.dataset import Sample
from netbuild.data.fitting import Image
from netbuild.errors import NetbuildError
from netbuild.feed import pictures
from netbuild.feed import scenes as augment
from netbuild.feed.loader import Batch, Collate, Feeding, ImageCache, image_to_tensor
from netbuild.feed.scenes import Scene
from netbuild.settings import Settings


@dataclass
class ClassifySamples:
    """Pictures with a class.

    Args:
        samples: of a split.
        size: height and width of the network's image.
        channels: of it.
        settings: of augmentation; without, pictures are center-cropped.
        nc: classes, where pictures are mixed and have several.
        cache: of decoded pictures.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    channels: int = 3
    settings: Settings | None = None
    nc: int = 0
    cache: ImageCache = field(default_factory=ImageCache)
    policy: Callable[[Image, Generator], Image] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> tuple[torch.Tensor, Any]:
        """A picture (C, H, W) and its class, or the share of each class (nc,) where pictures are mixed."""
        s, label = self.settings, int(self.samples[index].label or 0)
        if s is None:
            return image_to_tensor(fitting.center_crop(self.cache.get(index, self.read), self.size)), label
        image = self.changed(index, rng, s)
        if not s.mixup and not s.cutmix:
            return image_to_tensor(image), label
        target = np.zeros(self.nc, np.float32)
        target[label] = 1
        for chance, cut in ((s.mixup, False), (s.cutmix, True)):
            if rng.random() < chance:
                other = int(rng.integers(len(self)))
                image, share = pictures.blend(image, self.changed(other, rng, s), rng, cut)
                target *= share
                target[int(self.samples[other].label or 0)] += 1 - share
        return image_to_tensor(image), target

    def read(self, index: int) -> Image:
        """A picture as it is."""
        return self.samples[index].image(self.channels)

    def changed(self, index: int, rng: Generator, s: Settings) -> Image:
        """A picture with random augmentation, as training sees it."""
        image = self.cache.get(index, self.read)
        image = (pictures.crop_randomly if s.crop else pictures.warp_mildly)(image, self.size, rng, s)
        if s.policy in pictures.POLICIES:
            self.policy = self.policy or pictures.load_policy(s.policy)
            image = self.policy(image, rng)
        else:  # a policy changes colours too
            image = pictures.jitter_colors(image, rng, s)
        image = augment.flip_randomly(Scene(image, {}), rng, s).image
        return pictures.erase_rectangle(image, rng, s.erasing or 0.0)


def classify_batch(items: Sequence[tuple[torch.Tensor, Any]]) -> Batch:
    """Pictures with classes as a batch."""
    images, classes = zip(*items, strict=True)
    return {"images": torch.stack(images), "classes": torch.from_numpy(np.stack(classes))}


def feed_labels(samples: Sequence[Sample], feeding: Feeding) -> tuple[ClassifySamples, Collate]:
    """Return samples with one class each for a network, and the function that makes batches of them.

    Raises:
        NetbuildError: if the network takes second pictures.
    """
    for name in feeding.pictures:
        hint = "a task of one's own with target_kinds has second pictures, see docs/tasks.md"
        raise NetbuildError(f"samples with one class have one picture, the network also takes '{name}'", hint=hint)
    cache = feeding.cache()
    made = ClassifySamples(samples, feeding.imgsz, feeding.channels, feeding.augmentation, feeding.nc, cache)
    return made, classify_batch
