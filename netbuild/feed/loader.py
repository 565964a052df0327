"""The batch loader: order and augmentation depend on seed, epoch and index alone.

A resumed run therefore repeats an epoch exactly: nothing depends on the random numbers drawn before it or on the number
of worker processes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from netbuild.data.fitting import Image
from netbuild.settings import Settings

Batch = dict[str, Any]
Collate = Callable[[Any], Batch]


class SampleSource(Protocol):
    """A map-style source of samples, each made with a random generator of its own."""

    def __len__(self) -> int: ...

    def get(self, index: int, rng: np.random.Generator, epoch: int) -> Any:
        """Sample ``index`` in an epoch; all random numbers come from ``rng``."""


@dataclass(frozen=True)
class Feeding:
    """How the samples of a split are brought to a network.

    Args:
        imgsz: height and width of the network's images, in pixels.
        channels: of them.
        nc: number of the network's classes.
        canvas: height and width of the only images that an exported file takes; None for other networks.
        settings: of the run.
        learning: whether samples are augmented, for training.
        batch: samples a batch.
        pictures: channels of each second picture that the network takes, by the name of the samples' extra.
    """

    imgsz: tuple[int, int]
    channels: int
    nc: int
    canvas: tuple[int, int] | None
    settings: Settings
    learning: bool
    batch: int
    pictures: Mapping[str, int] = field(default_factory=dict)

    @property
    def augmentation(self) -> Settings | None:
        """The settings of augmentation; None where samples are not augmented."""
        return self.settings if self.learning else None

    def cache(self) -> "ImageCache":
        """A new cache of decoded pictures, of this split's share of the memory that the settings allow."""
        # A half each for what is learnt and what is validated, in each of the workers.
        return ImageCache(self.settings.memory * 1e9 / 2 / max(self.settings.workers, 1))


class ImageCache:
    """A per-process cache of decoded pictures; what came first stays.

    Args:
        room: the most bytes that it holds.
    """

    def __init__(self, room: float = 0) -> None:
        self.room, self.found = room, dict[Any, Any]()

    def get(self, key: Any, read: Callable[[Any], Any]) -> Any:
        """Return the array that ``read(key)`` makes, from the cache if it is there; it must not be changed."""
        if key in self.found:
            return self.found[key]
        value = read(key)
        if value.nbytes <= self.room:  # what came first stays: epochs go over all in turn
            self.room -= value.nbytes
            self.found[key] = value
        return value


class BatchLoader:
    """Batches of samples for each epoch, loaded by worker processes and sharded over the ranks of a run.

    Args:
        samples: the source of samples.
        batch: samples a batch, over all processes of a distributed run.
        collate: samples to a batch.
        seed: of the order and the augmentation.
        shuffle: whether each epoch has a random order; otherwise samples keep theirs.
        workers: processes that prepare samples.
        rank, world: this process and how many there are: each gets its share of every step. Of an epoch that does
            not divide, training repeats samples of its beginning; evaluation has each sample once, in one process.
    """

    def __init__(
        self,
        samples: SampleSource,
        batch: int,
        collate: Collate,
        seed: int = 0,
        shuffle: bool = False,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.samples, self.batch, self.collate = samples, batch, collate
        self.seed, self.shuffle, self.workers, self.rank, self.world = seed, shuffle, workers, rank, world
        self.order = _Order(self)

    def __len__(self) -> int:
        """The number of batches of this process in an epoch."""
        count = len(self.samples)
        full, rest = divmod(count + (-count % self.world if self.shuffle else 0), self.batch)
        return full * (self.batch > self.rank) + (rest > self.rank)

    def steps(self, epoch: int) -> list[list[int]]:
        """The samples of each step of all processes together, in the epoch's order."""
        count = len(self.samples)
        order = np.random.default_rng((self.seed, epoch)).permutation(count).tolist() if self.shuffle else range(count)
        order = list(order)
        if self.shuffle:
            order += [order[i % count] for i in range(-count % self.world)]
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def batches(self, epoch: int) -> list[list[int]]:
        """This process's share of each step; none of one that has too few samples.

        A step of all has the samples of one process's step, so that canvases are chosen alike.
        """
        return [share for step in self.steps(epoch) if (share := step[self.rank :: self.world])]

    def indices(self, epoch: int) -> list[int]:
        """The samples of this process, in the epoch's order."""
        return [index for batch in self.batches(epoch) for index in batch]

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch."""
        self.order.epoch = number
        yield from self.loader

    @cached_property
    def loader(self) -> DataLoader[Any]:
        """The workers, the same for all epochs: they keep what they read."""
        return DataLoader(
            _Made(self.samples, self.seed),
            batch_sampler=self.order,
            collate_fn=self.collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            generator=torch.Generator().manual_seed(0),  # else each epoch would draw from the global one
            pin_memory=torch.cuda.is_available(),
        )


class _Order:
    """The batches of the epoch that is asked for, each sample with the epoch's number."""

    def __init__(self, feed: BatchLoader) -> None:
        self.feed, self.epoch = feed, 0

    def __len__(self) -> int:
        return len(self.feed)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(self.epoch, index) for index in batch] for batch in self.feed.batches(self.epoch)])


class _Made(Dataset[Any]):
    def __init__(self, samples: SampleSource, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        return self.samples.get(index, np.random.default_rng((self.seed, epoch, index)), epoch)


def image_to_tensor(image: Image) -> torch.Tensor:
    """A picture (H, W, C) as (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
