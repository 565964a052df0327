"""Diffusion: a network learns what noise is in a picture, and makes pictures by removing it step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.costs.shape_rules import shape_text
from netbuild.data.dataset import Sample
from netbuild.errors import NetbuildError, shorten
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.noise import NoisySamples, collate_noise
from netbuild.graph.card import NetworkCard
from netbuild.graph.network import Network
from netbuild.runtime import METHODS, STEPS, Diffusion, Noise, guide
from netbuild.settings import Settings
from netbuild.tasks.base import Batch, Losses, Metric
from netbuild.tasks.making import MakingTask, count_classes, scale_images
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.sampling import Array, SampleOptions, Sampler


class DiffuseTask(MakingTask):
    """Mean squared error of the noise, or of v, that the network finds in pictures at random steps.

    Denoising Diffusion Probabilistic Models, arXiv 2006.11239. The network's inputs are the noisy picture (B, C, H, W),
    values from -1 to 1 without noise, the step (B,) from 0, and optionally the number of the class (B,), ``nc`` for
    none. A batch has "images", "classes" (B,), "noise" (B, C, H, W) and "steps" (B,).

    Args:
        head: the network's last module.
        names: names of the classes.
        diffusion: the schedule of the noise, and what is predicted.
        class_dropout: share of the pictures whose class is withheld in training.
        nc: number of classes, 0 for a network without.
    """

    name = "diffuse"
    measures: ClassVar[tuple[str, ...]] = ("noise-error",)
    own_settings: ClassVar[tuple[str, ...]] = ("noise_steps", "noise_schedule", "predicts", "class_dropout")

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        diffusion: Diffusion | None = None,
        class_dropout: float = 0.0,
        nc: int = 0,
    ) -> None:
        super().__init__(head, names)
        self.diffusion, self.class_dropout, self.nc = diffusion or Diffusion(), class_dropout, nc

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the schedule of the settings, and the share of classes that are withheld."""
        diffusion = Diffusion(settings.noise_schedule, settings.noise_steps, settings.predicts)
        return {"diffusion": diffusion, "class_dropout": settings.class_dropout if nc else 0.0, "nc": nc}

    @classmethod
    def card_options(cls, card: NetworkCard) -> dict[str, Any]:
        """Return the schedule that the network was trained with.

        Raises:
            NetbuildError: if the checkpoint's metadata has a wrong value.
        """
        facts = {name: value for name, value in card.sampling.items() if name in ("schedule", "steps", "predicts")}
        try:
            return {"diffusion": Diffusion(**facts), "nc": card.nc or 0}
        except (ValueError, TypeError) as error:
            raise NetbuildError(f"the metadata 'sampling' has a wrong value: {shorten(error)}") from None

    def complete_card(self, card: NetworkCard) -> NetworkCard:
        """Return the card with the schedule, which checkpoints and exported files carry."""
        return replace(card, sampling={"kind": "diffusion", **asdict(self.diffusion)})

    def find_unused_settings(self, settings: Settings) -> dict[str, str]:
        """Return the settings without effect; the share of withheld classes has none for a network without classes."""
        unused = super().find_unused_settings(settings)
        return unused if self.nc else {**unused, "class_dropout": "for a network without classes"}

    # -- training -----------------------------------------------------------------------------------------------------

    @cached_property
    def levels(self) -> Tensor:
        """The share of the picture's variance that is left after each step, (steps,)."""
        return torch.from_numpy(self.diffusion.levels()).float()

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of pictures with their noise and steps, and the function that batches them."""
        dropout = self.class_dropout if options.learning else 0.0
        source = self.feed_pictures(samples, options)
        return NoisySamples(source, None, self.diffusion.steps, self.nc, dropout), collate_noise

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return the noisy pictures, the steps and the classes; a network without classes does not read the last."""
        pictures = scale_images(batch)
        noise, steps = self._read_noise(batch)
        level = self._levels_at(steps, pictures)
        noisy = level.sqrt() * pictures + (1 - level).sqrt() * noise
        classes = batch.get("classes", torch.full_like(steps, self.nc))
        return [noisy, steps.float(), classes.float()]

    def _read_noise(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return noise and steps of a batch; zeros for one that only shows the shapes."""
        images = batch["images"]
        noise = batch.get("noise")
        steps = batch.get("steps", torch.zeros(len(images), dtype=torch.int64, device=images.device))
        return torch.zeros_like(images, dtype=torch.float32) if noise is None else noise, steps

    def _levels_at(self, steps: Tensor, like: Tensor) -> Tensor:
        return self.levels.to(like.device)[steps].view(-1, *[1] * (like.ndim - 1))

    def target(self, batch: Batch) -> Tensor:
        """Return what the network should predict for a batch (B, C, H, W): the noise, or v."""
        noise, steps = self._read_noise(batch)
        if self.diffusion.predicts == "noise":
            return noise
        pictures = scale_images(batch)
        level = self._levels_at(steps, pictures)
        return level.sqrt() * noise - (1 - level).sqrt() * pictures

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the mean over pixels, channels and batch.

        Raises:
            NetbuildError: if the output has not the shape of the pictures.
        """
        found, wanted = require_tensor(outputs).float(), self.target(batch)
        if found.shape != wanted.shape:
            message = f"the network returns {shape_text(found.shape)} for pictures {shape_text(wanted.shape)}"
            raise NetbuildError(message, hint="a network of the task 'diffuse' returns as many channels as it takes")
        total = F.mse_loss(found, wanted)
        return total, {"error": total.detach()}

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return the prediction (B, C, H, W) as it is."""
        return require_tensor(outputs).detach().float()

    def metric(self) -> "NoiseMetric":
        """Return a metric of the mean squared error."""
        return NoiseMetric(self)

    def sampler(self, network: Network) -> "DiffusionSampler":
        """Return the sampler of the network's pictures."""
        return DiffusionSampler(network, self.diffusion)


class NoiseMetric(Metric):
    """Mean squared error of the prediction at the steps and with the noise that validation pictures always have.

    Args:
        task: gives the target.
    """

    lists = ("errors",)
    lower_is_better = ("noise-error",)

    def __init__(self, task: DiffuseTask) -> None:
        self.task = task
        self.errors: list[float] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add the error of each picture of a batch."""
        error = (predictions - self.task.target(batch)).square().flatten(1).mean(1)
        self.errors += error.double().cpu().tolist()

    def result(self) -> dict[str, float]:
        """Return the mean error, and its negative as fitness."""
        mean = float(np.mean(self.errors or [0.0]))
        return {"noise-error": mean, "fitness": -mean}


class DiffusionSampler(Sampler):
    """A diffusion model.

    Args:
        network: the network in eval mode, on its device.
        diffusion: its schedule, and what it predicts.
    """

    takes: tuple[str, ...] = ("steps", "method", "animate")
    methods = METHODS

    def __init__(self, network: Network, diffusion: Diffusion) -> None:
        super().__init__(network)
        self.diffusion = diffusion
        self.class_count = count_classes(network, 2)
        if self.class_count:
            self.takes = (*self.takes, "guidance")

    def run(self, noise: Noise, classes: Array | None, options: SampleOptions) -> Iterator[Array]:
        """Yield the pictures after each step, the noise first."""
        card = self.network.card
        predict = guide(self.call, classes, self.class_count, options.guidance or 0.0)
        method, steps = options.method or METHODS[0], options.steps or STEPS
        for found in self.diffusion.run(predict, noise, (card.ch, *card.imgsz), steps, method):
            yield (found.clip(-1, 1) + 1) / 2
