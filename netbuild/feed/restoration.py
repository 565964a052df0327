"""Samples of networks that restore pictures: the picture itself as truth, and a degraded one as input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.data.formats.pairs import TARGET
from netbuild.data.images import Bytes
from netbuild.errors import NetbuildError
from netbuild.feed.degrading import Degrader
from netbuild.feed.loader import Batch, Collate, FeedOptions, ImageCache
from netbuild.grammar.degrade import Degradation
from netbuild.runtime import convert_space
from netbuild.settings import Settings

PATCHES = 1000  # of an epoch, about, unless the settings say how many are cut out of a picture
_SEED = 7  # of the degradations in validation, which are the same in every run


@dataclass
class RestorationSamples:
    """Pictures with what becomes of them by degradation; random patches of both in training.

    Args:
        samples: the samples of a split.
        degrade: what is done to each picture; for pairs nothing.
        space: the colours: ``y``, ``rgb`` or ``grey``.
        scale: by how many times the input is smaller than the truth.
        settings: of augmentation; None for whole pictures without augmentation.
        patch: side of the patches in pixels of the truth.
        patches: number of patches that an epoch takes from each picture.
        cache: of decoded and degraded pictures.
    """

    samples: Sequence[Sample]
    degrade: Sequence[Degradation]
    space: str
    scale: int = 1
    settings: Settings | None = None
    patch: int = 0
    patches: int = 1
    cache: ImageCache = field(default_factory=ImageCache)

    def __post_init__(self) -> None:
        self.degrader = Degrader(self.degrade)
        # Between the truth and a picture to which the random steps have not been applied yet.
        self.loaded_scale = self.degrader.fixed_scale if self.degrade else self.scale

    def __len__(self) -> int:
        return len(self.samples) * self.patches

    def get(self, index: int, rng: Generator, epoch: int) -> dict[str, torch.Tensor]:
        """Return the input "images" and the truth "target", each (C, H, W) from 0 to 1."""
        number = index % len(self.samples)
        truth = self.cache.get((number, "truth"), lambda _: self.read_truth(number))
        image: NDArray[Any] = truth  # the truth itself if all steps are random, so that it is not cached twice
        if self.degrader.fixed or TARGET in self.samples[number].extras:
            image = self.cache.get((number, "input"), lambda _: self.read_input(number, truth))
        if self.settings is None:
            # The same noise in every epoch and run, or measures could not be compared.
            rng = np.random.default_rng((_SEED, number))
        else:
            image, truth = flip_randomly(*self.crop_randomly(image, truth, rng), rng, self.settings)
        degraded = self.degrader.apply_random(image.astype(np.float32), rng)
        return {"images": _to_tensor(degraded), "target": _to_tensor(truth)}

    def read_truth(self, number: int) -> Bytes:
        """Return the truth of a sample (H, W, C), cut to sides that the scale divides."""
        sample = self.samples[number]
        pixels = sample.extra(TARGET) if TARGET in sample.extras else sample.image(3)
        h, w = (side // self.scale * self.scale for side in pixels.shape[:2])
        return convert_space(pixels[:h, :w], self.space)

    def read_input(self, number: int, truth: Bytes) -> NDArray[Any]:
        """Return the input of a sample as far as it needs no random numbers."""
        sample = self.samples[number]
        if TARGET in sample.extras:
            h, w = (side // self.scale for side in truth.shape[:2])
            return convert_space(sample.image(3)[:h, :w], self.space)
        return self.degrader.apply_fixed(truth.astype(np.float32))

    def crop_randomly(
        self, image: NDArray[Any], truth: NDArray[Any], rng: Generator
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a random patch of the input and of the truth at the same place."""
        scale = self.loaded_scale
        side = self.patch // scale
        top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
        y, x = top * scale, left * scale
        return image[top : top + side, left : left + side], truth[y : y + self.patch, x : x + self.patch]


def flip_randomly(
    image: NDArray[Any], truth: NDArray[Any], rng: Generator, s: Settings
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mirror and turn two square pictures alike, each change with its probability from the settings."""
    both = [image, truth]
    if rng.random() < (s.flip_lr or 0.0):
        both = [values[:, ::-1] for values in both]
    if rng.random() < s.flip_ud:
        both = [values[::-1] for values in both]
    if rng.random() < s.rot90:
        quarters = int(rng.integers(1, 4))
        both = [np.rot90(values, quarters) for values in both]
    return both[0], both[1]


def _to_tensor(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), np.float32) / np.float32(255))


def collate_pictures(items: Sequence[Mapping[str, torch.Tensor]]) -> Batch:
    """Stack the pictures of a batch; of whole pictures of different sizes the upper left part that all have."""
    batch: Batch = {}
    for name in ("images", "target"):
        values = [item[name] for item in items]
        h, w = (min(value.shape[axis] for value in values) for axis in (-2, -1))
        batch[name] = torch.stack([value[..., :h, :w] for value in values])
    return batch


def feed_pictures(
    samples: Sequence[Sample], options: FeedOptions, degrade: Sequence[Degradation], space: str, unit: int, scale: int
) -> tuple[RestorationSamples, Collate]:
    """Return samples for a network that restores pictures, and the function that makes batches of them.

    Args:
        samples: the samples of a split.
        options: how batches are made for the network.
        degrade: what is done to each picture; nothing for pairs.
        space: the colours that the network restores.
        unit: sides of patches are multiples of it, in pixels of the truth.
        scale: by how many times inputs are smaller than the truth.

    Raises:
        NetbuildError: if a picture is smaller than the patches.
    """
    common: dict[str, Any] = {"degrade": degrade, "space": space, "scale": scale, "cache": options.cache()}
    if not options.learning:
        return RestorationSamples(samples, **common), collate_pictures
    s = options.settings
    patch = choose_patch(samples, s.patch, options.imgsz, unit, scale)
    patches = s.patches or -(-PATCHES // len(samples))
    made = RestorationSamples(samples, **common, settings=s, patch=patch, patches=patches)
    return made, collate_pictures


def choose_patch(samples: Sequence[Sample], stated: int | None, size: tuple[int, int], unit: int, scale: int) -> int:
    """Return the side of patches in pixels of the truth.

    Unless it is stated it is ``size``, or as much of it as the smallest picture has.

    Args:
        samples: the training samples, whose sizes are known.
        stated: the setting ``patch``.
        size: height and width of the network's image in pixels of the truth.
        unit: the side is a multiple of it.
        scale: by how many times the inputs of pairs are smaller than the truth.

    Raises:
        NetbuildError: if it does not fit the smallest picture, or the unit.
    """
    sides = [min(sample.size or (0, 0)) * (scale if TARGET in sample.extras else 1) for sample in samples]
    smallest = min(sides)
    patch = stated or min(max(size), smallest) // unit * unit
    if patch > smallest or patch < unit:
        message = (
            f"{samples[sides.index(smallest)].path}: is {smallest} pixels high or wide, a patch {max(patch, unit)}"
        )
        raise NetbuildError(message, hint="-O patch=SIDE in pixels makes patches smaller; or leave small pictures out")
    if patch % unit:
        fits = max(round(patch / unit), 1) * unit
        raise NetbuildError(f"patch {patch}: the network takes sides that are multiples of {unit}", hint=f"try {fits}")
    return patch


def patch_unit(scale: int, network_scale: int, stride: int) -> int:
    """Return what sides of patches are multiples of: inputs must be whole, and fit the network's stride."""
    return lcm(scale, network_scale * stride)
