"""Samples whose pictures have one class, several labels or numbers each, augmented and batched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
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

CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"  # what a picture has, by its name in a batch


@dataclass
class LabelledSamples:
    """Pictures with one class, several labels or numbers each.

    Args:
        samples: the samples of a split.
        size: height and width of the network's image in pixels.
        channels: number of channels of the network's image.
        settings: of augmentation; None for pictures without augmentation.
        nc: number of classes, for the targets of pictures that are mixed.
        cache: of decoded pictures.
        truth: what the samples have: ``classes``, ``labels`` or ``numbers``.
        stretched: whether whole pictures are stretched to the network's image; otherwise those that are not augmented
            are cropped in the middle.
        resizing: how pictures are resized, see `netbuild.data.fitting.resize`.
    """

    samples: Sequence[Sample]
    size: tuple[int, int]
    channels: int = 3
    settings: Settings | None = None
    nc: int = 0
    cache: ImageCache = field(default_factory=ImageCache)
    truth: str = CLASSES
    stretched: bool = False
    resizing: str = "area"
    policy: Callable[[Image, Generator], Image] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.samples)

    def get(self, index: int, rng: Generator, epoch: int) -> tuple[torch.Tensor, Any]:
        """Return a picture (C, H, W) and its truth; with MixUp or CutMix that is the mean of two pictures'."""
        s, target = self.settings, self.read_target(index)
        if s is None:
            return image_to_tensor(
                fitting.center_crop(self.cache.get(index, self.read), self.size, self.resizing)
            ), target
        image = self.augment(index, rng, s)
        if not s.mixup and not s.cutmix:
            return image_to_tensor(image), target
        target = self.make_shares(target)
        for probability, cut in ((s.mixup, False), (s.cutmix, True)):
            if rng.random() < probability:
                other = int(rng.integers(len(self)))
                image, share = pictures.blend(image, self.augment(other, rng, s), rng, cut)
                target = target * np.float32(share) + self.make_shares(self.read_target(other)) * np.float32(1 - share)
        return image_to_tensor(image), target

    def read_target(self, index: int) -> Any:
        """Return a sample's class, its labels (nc,) or its numbers (nc,)."""
        sample = self.samples[index]
        if self.truth == CLASSES:
            return int(sample.label or 0)
        values = sample.labels if self.truth == LABELS else sample.numbers
        assert values is not None
        return values.astype(np.float32 if self.truth == LABELS else np.float64)

    def make_shares(self, target: Any) -> Any:
        """Return a target that can be averaged: a class becomes (nc,), 1 for the class and 0 for the others."""
        if self.truth != CLASSES:
            return target
        shares = np.zeros(self.nc, np.float32)
        shares[target] = 1
        return shares

    def read(self, index: int) -> Image:
        """Decode a sample's picture, and resize it if it is to be stretched."""
        image = self.samples[index].image(self.channels)
        if self.stretched and image.shape[:2] != self.size:
            return fitting.resize(image, *self.size, self.resizing)
        return image

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
        unused |= dict.fromkeys(("degrees", "translate", "shear", "perspective"), "with crop=true, only with false")
    return unused


def collate_labels(items: Sequence[tuple[torch.Tensor, Any]], truth: str = CLASSES) -> Batch:
    """Make a batch of samples: "images" (B, C, H, W), and by its name their truth.

    "classes" (B,), or (B, nc) of mixed pictures; "labels" or "numbers" (B, nc), NaN where they are not known.
    """
    images, found = zip(*items, strict=True)
    return {"images": torch.stack(images), truth: torch.from_numpy(np.stack(found))}


def feed_labels(
    samples: Sequence[Sample], options: FeedOptions, truth: str = CLASSES
) -> tuple[LabelledSamples, Collate]:
    """Return samples for a network that classifies pictures, and the function that makes batches of them.

    Args:
        samples: the samples of a split.
        options: how batches are made for the network.
        truth: what the samples have: ``classes``, ``labels`` or ``numbers``.

    Raises:
        NetbuildError: if the network takes second pictures.
    """
    for name in options.pictures:
        hint = "a task of one's own with target_kinds has second pictures, see docs/tasks.md"
        raise NetbuildError(f"samples with one class have one picture, the network also takes '{name}'", hint=hint)
    cache, stretched = options.cache(), options.fitting == "stretch"
    made = LabelledSamples(
        samples,
        options.imgsz,
        options.channels,
        options.augmentation,
        options.nc,
        cache,
        truth,
        stretched,
        options.resizing,
    )
    return made, partial(collate_labels, truth=truth)
