"""The batch loader. The order and augmentation of samples depend on seed, epoch and index alone.

So a resumed run repeats an epoch exactly: neither the random numbers drawn before nor the number of worker processes
matter.
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
    """A map-style data set whose samples are augmented with a random generator of their own."""

    def __len__(self) -> int: ...

    def get(self, index: int, rng: np.random.Generator, epoch: int) -> Any:
        """Return sample ``index`` as it is in an epoch; all random numbers come from ``rng``."""


@dataclass(frozen=True)
class FeedOptions:
    """What a task must know to make batches of a split's samples for a network.

    Args:
        imgsz: height and width of the network's images in pixels.
        channels: number of channels of these images.
        nc: number of the network's classes.
        canvas: the only height and width that an exported file takes; None for other networks.
        settings: the settings of the run.
        learning: whether the samples are for training, and so augmented.
        batch: number of samples per batch.
        pictures: channels of each second picture that the network takes, by the name of the samples' extra.
        fitting: how pictures are fitted to ``imgsz`` where the source of samples knows several ways, see
            `netbuild.data.fitting.FITTINGS`.
        resizing: how pictures are resized, see `netbuild.data.fitting.resize`.
        inputs: name and shape, without the batch, of each of the network's inputs; empty for one image.
    """

    imgsz: tuple[int, int]
    channels: int
    nc: int
    canvas: tuple[int, int] | None
    settings: Settings
    learning: bool
    batch: int
    pictures: Mapping[str, int] = field(default_factory=dict)
    fitting: str = "letterbox"
    resizing: str = "area"
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def augmentation(self) -> Settings | None:
        """The settings of augmentation; None where samples are not augmented."""
        return self.settings if self.learning else None

    def cache(self) -> "ImageCache":
        """Return a new cache of decoded pictures with this split's share of the memory that the settings allow."""
        # Half for training and half for validation, divided among the worker processes, which have a cache each.
        return ImageCache(self.settings.memory * 1e9 / 2 / max(self.settings.workers, 1))


class ImageCache:
    """A cache of decoded pictures in one process. It keeps those that came first: an epoch reads each sample once.

    Args:
        room: largest number of bytes that it holds.
    """

    def __init__(self, room: float = 0) -> None:
        self.room, self.arrays = room, dict[Any, Any]()

    def get(self, key: Any, read: Callable[[Any], Any]) -> Any:
        """Return the array that ``read(key)`` makes, from the cache if it is there; it must not be changed."""
        if key in self.arrays:
            return self.arrays[key]
        value = read(key)
        if value.nbytes <= self.room:
            self.room -= value.nbytes
            self.arrays[key] = value
        return value


class BatchLoader:
    """Batches of samples for each epoch, loaded by worker processes and sharded over the ranks of a run.

    Args:
        samples: the source of samples.
        batch: number of samples per batch, over all ranks together.
        collate: makes a batch of samples.
        seed: of the order and the augmentation.
        shuffle: whether each epoch has a random order, for training; otherwise samples keep theirs.
        workers: number of worker processes.
        rank: number of this process.
        world: number of processes. Each gets its share of every step. If the samples do not divide evenly, training
            repeats some from the beginning of the epoch, whereas in validation each sample occurs on one rank only.
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
        self.sampler = _EpochBatchSampler(self)

    def __len__(self) -> int:
        """Return the number of batches of this rank in an epoch."""
        count = len(self.samples)
        full, rest = divmod(count + (-count % self.world if self.shuffle else 0), self.batch)
        return full * (self.batch > self.rank) + (rest > self.rank)

    def steps(self, epoch: int) -> list[list[int]]:
        """Return the indices of the samples of each step, over all ranks together, in the epoch's order."""
        count = len(self.samples)
        order = np.random.default_rng((self.seed, epoch)).permutation(count).tolist() if self.shuffle else range(count)
        order = list(order)
        if self.shuffle:  # all ranks must have as many batches, or gradients could not be averaged
            order += [order[i % count] for i in range(-count % self.world)]
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def batches(self, epoch: int) -> list[list[int]]:
        """Return this rank's share of each step; a last step with too few samples is left out.

        A step of all ranks has the samples that it has with one process, so that letterboxes have the same shapes.
        """
        return [share for step in self.steps(epoch) if (share := step[self.rank :: self.world])]

    def indices(self, epoch: int) -> list[int]:
        """Return the indices of this rank's samples, in the epoch's order."""
        return [index for batch in self.batches(epoch) for index in batch]

    def unsharded(self) -> "BatchLoader":
        """Return a loader of the samples of all ranks, for one process alone; in a run of one process this loader."""
        # A copy would share the DataLoader of this one, once there is one, and with it this rank's share.
        if self.world == 1:
            return self
        return BatchLoader(self.samples, self.batch, self.collate, self.seed, self.shuffle, self.workers)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        self.sampler.epoch = number
        yield from self.loader

    @cached_property
    def loader(self) -> DataLoader[Any]:
        """The DataLoader for all epochs, so that its worker processes keep their caches."""
        return DataLoader(
            _EpochDataset(self.samples, self.seed),
            batch_sampler=self.sampler,
            collate_fn=self.collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            generator=torch.Generator().manual_seed(0),  # otherwise each epoch draws from the global generator
            pin_memory=torch.cuda.is_available(),
        )

    def close(self) -> None:
        """End the worker processes; the next epoch starts new ones.

        Without it they wait for the garbage collector, whose order makes torch wait 5 s for each of them.
        """
        self.__dict__.pop("loader", None)


class _EpochBatchSampler:
    """Yields the batches of the epoch that is set, as pairs of epoch and index."""

    def __init__(self, loader: BatchLoader) -> None:
        self.loader, self.epoch = loader, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(self.epoch, index) for index in batch] for batch in self.loader.batches(self.epoch)])


class _EpochDataset(Dataset[Any]):
    """Samples by epoch and index, each with its own random generator."""

    def __init__(self, samples: SampleSource, seed: int) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        return self.samples.get(index, np.random.default_rng((self.seed, epoch, index)), epoch)


def image_to_tensor(image: Image) -> torch.Tensor:
    """Return a picture (H, W, C) as a tensor (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
