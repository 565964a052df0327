"""Samples for classification: pictures with one class each, augmented and batched."""

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
from netbuild.feed.loader import Batch, Collate, FeedOptions, ImageCache, image_to_tensor
from netbuild.feed.scenes import Scene
from netbuild.settings import Settings


@dataclass
class ClassifySamples:
    """Pictures with one class each.

    Args:
        samples: the samples of a split.
        size: height and width of the network's image in pixels.
        channels: number of channels of the network's image.
        settings: of augmentation; None for center crops without augmentation.
        nc: number of classes, for the targets of pictures that are mixed.
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
        """Return a picture (C, H, W) and its class; with MixUp or CutMix the share of each class (nc,)."""
        s, label = self.settings, int(self.samples[index].label or 0)
        if s is None:
            return image_to_tensor(fitting.center_crop(self.cache.get(index, self.read), self.size)), label
        image = self.augment(index, rng, s)
        if not s.mixup and not s.cutmix:
            return image_to_tensor(image), label
        target = np.zeros(self.nc, np.float32)
        target[label] = 1
        for probability, cut in ((s.mixup, False), (s.cutmix, True)):
            if rng.random() < probability:
                other = int(rng.integers(len(self)))
                image, share = pictures.blend(image, self.augment(other, rng, s), rng, cut)
                target *= share
                target[int(self.samples[other].label or 0)] += 1 - share
        return image_to_tensor(image), target

    def read(self, index: int) -> Image:
        """Decode a sample's picture."""
        return self.samples[index].image(self.channels)

    def augment(self, index: int, rng: Generator, s: Settings) -> Image:
        """Return a picture with random augmentation, as training sees it."""
        image = self.cache.get(index, self.read)
        image = (pictures.crop_randomly if s.crop else pictures.warp_mildly)(image, self.size, rng, s)
        if s.policy in pictures.POLICIES:
            self.policy = self.policy or pictures.load_policy(s.policy)
            image = self.policy(image, rng)
        else:  # a policy has its own changes of colours
            image = pictures.jitter_colors(image, rng, s)
        image = augment.flip_randomly(Scene(image, {}), rng, s).image
        return pictures.erase_rectangle(image, rng, s.erasing or 0.0)


def find_unused_changes(settings: Settings) -> dict[str, str]:
    """Return the settings of augmentation that others switch off, each with the reason."""
    unused: dict[str, str] = {}
    if settings.policy in pictures.POLICIES:
        unused |= dict.fromkeys(("hsv_h", "hsv_s", "hsv_v"), f"with policy={settings.policy}, only with off")
    if settings.crop:
        unused |= dict.fromkeys(("degrees", "translate", "shear"), "with crop=true, only with false")
    return unused


def collate_labels(items: Sequence[tuple[torch.Tensor, Any]]) -> Batch:
    """Make a batch of samples: "images" (B, C, H, W) and "classes" (B,), or (B, nc) of mixed pictures."""
    images, classes = zip(*items, strict=True)
    return {"images": torch.stack(images), "classes": torch.from_numpy(np.stack(classes))}


def feed_labels(samples: Sequence[Sample], options: FeedOptions) -> tuple[ClassifySamples, Collate]:
    """Return samples with one class each for a network, and the function that makes batches of them.

    Raises:
        NetbuildError: if the network takes second pictures.
    """
    for name in options.pictures:
        hint = "a task of one's own with target_kinds has second pictures, see docs/tasks.md"
        raise NetbuildError(f"samples with one class have one picture, the network also takes '{name}'", hint=hint)
    cache = options.cache()
    made = ClassifySamples(samples, options.imgsz, options.channels, options.augmentation, options.nc, cache)
    return made, collate_labels
