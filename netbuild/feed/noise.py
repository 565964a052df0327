"""Samples with random numbers of their own, for tasks that learn to make pictures of noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from netbuild.feed.loader import Batch, SampleSource


@dataclass
class NoisySamples:
    """Pictures with normal noise, and with a step of a diffusion for each.

    The numbers are those of the sample in its epoch, so they depend neither on the process nor on an interruption, and
    are the same in each validation.

    Args:
        source: gives the picture (C, H, W) and the number of its class.
        shape: of the noise; None for that of the picture.
        steps: number of steps; 0 for none.
        nc: the number that stands for no class.
        dropout: share of the pictures whose class is withheld.
    """

    source: SampleSource
    shape: tuple[int, ...] | None = None
    steps: int = 0
    nc: int = 0
    dropout: float = 0.0

    def __len__(self) -> int:
        return len(self.source)

    def get(self, index: int, rng: Generator, epoch: int) -> tuple[Tensor, int, Tensor, int]:
        """Return a picture, its class, its noise and its step, counted from 0."""
        image, label = self.source.get(index, rng, epoch)
        noise = rng.standard_normal(self.shape or tuple(image.shape), dtype=np.float32)
        step = int(rng.integers(self.steps)) if self.steps else 0
        if self.dropout and rng.random() < self.dropout:
            label = self.nc
        return image, int(label), torch.from_numpy(noise), step


def collate_noise(items: Sequence[tuple[Any, ...]]) -> Batch:
    """Make a batch of samples: "images" (B, C, H, W), "classes" (B,), "noise" (B, ...) and "steps" (B,)."""
    images, labels, noise, steps = zip(*items, strict=True)
    found = {"classes": torch.tensor(labels), "steps": torch.tensor(steps)}
    return {"images": torch.stack(images), "noise": torch.stack(noise), **found}
