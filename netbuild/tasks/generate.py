"""Adversarial generation: a generator makes pictures of noise, and a discriminator tells them from real ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.costs.shape_rules import shape_text
from netbuild.data.dataset import Dataset, Sample
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Collate, FeedOptions, SampleSource
from netbuild.feed.noise import NoisySamples, collate_noise
from netbuild.graph.card import NetworkCard
from netbuild.graph.network import Network
from netbuild.runtime import Noise
from netbuild.settings import Settings
from netbuild.tasks.base import Batch, Losses, Metric
from netbuild.tasks.frechet import frechet_distance
from netbuild.tasks.making import MakingTask, count_classes, scale_images
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.sampling import Array, SampleOptions, Sampler

LOSSES = ("non-saturating", "hinge", "wasserstein")
RATE = 2e-4  # arXiv 1511.06434
PENALTY, CRITIC_STEPS = 10.0, 5  # of the Wasserstein loss, arXiv 1704.00028
FEATURE_SIDE = 8  # pictures are compared at so many pixels a side


class GenerateTask(MakingTask):
    """Generative adversarial networks, arXiv 1406.2661, trained by `netbuild.training.adversarial.AdversarialLearner`.

    The generator's inputs are noise (B, ...) and optionally the number of the class (B,); it returns pictures (B, C, H,
    W) with values from -1 to 1. The discriminator takes pictures, and optionally the class, and returns one logit for
    each. A batch has "images", "classes" (B,) and "noise" (B, ...).

    Args:
        head: the generator's last module.
        names: names of the classes.
        nc: number of classes, 0 for a generator without.
        loss_name: one of `LOSSES`.
        penalty: weight of the gradient penalty; None for that of the loss.
        critic_steps: steps of the discriminator for one of the generator; None for that of the loss.
    """

    name = "generate"
    measures: ClassVar[tuple[str, ...]] = ("pixel-frechet", "variety")
    own_settings: ClassVar[tuple[str, ...]] = ("adversarial_loss", "gradient_penalty", "critic_steps")
    networks: ClassVar[tuple[str, ...]] = ("discriminator",)
    learner = "netbuild.training.adversarial:AdversarialLearner"
    adam_betas = (0.5, 0.999)

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        nc: int = 0,
        loss_name: str = LOSSES[0],
        penalty: float | None = None,
        critic_steps: int | None = None,
    ) -> None:
        super().__init__(head, names)
        is_wasserstein = loss_name == "wasserstein"
        self.nc, self.loss_name = nc, loss_name
        self.penalty = penalty if penalty is not None else PENALTY * is_wasserstein
        self.critic_steps = critic_steps or (CRITIC_STEPS if is_wasserstein else 1)

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the loss of the settings and the number of classes."""
        loss, penalty, steps = settings.adversarial_loss, settings.gradient_penalty, settings.critic_steps
        return {"nc": nc, "loss_name": loss, "penalty": penalty, "critic_steps": steps}

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings without changes of pictures, with AdamW, and the rate of DCGAN for it."""
        rate = RATE if settings.lr is None and settings.optimizer in ("auto", "adam", "adamw") else settings.lr
        return replace(super().adapt_settings(settings, dataset), lr=rate)

    def complete_card(self, card: NetworkCard) -> NetworkCard:
        """Return the card with the way of sampling, which checkpoints and exported files carry."""
        return replace(card, sampling={"kind": "generator"})

    def find_unused_settings(self, settings: Settings) -> dict[str, str]:
        """Return the settings without effect; the pictures have the size that the generator makes."""
        reason = "for the task 'generate': its pictures have the size that the generator makes"
        return {**super().find_unused_settings(settings), "imgsz": reason}

    def picture_shape(self, card: NetworkCard) -> tuple[int, tuple[int, int]]:
        """Return channels and size of the pictures that the generator makes.

        Raises:
            NetbuildError: if it makes none.
        """
        if card.output is None or card.output[0] not in (1, 3):
            found = "no picture" if card.output is None else shape_text(card.output)
            hint = "a generator returns 1 or 3 channels, height and width"
            raise NetbuildError(f"the network of the task 'generate' returns {found}", hint=hint)
        channels, height, width = card.output
        return channels, (height, width)

    # -- training -----------------------------------------------------------------------------------------------------

    def feed(self, samples: Sequence[Sample], options: FeedOptions) -> tuple[SampleSource, Collate]:
        """Return the source of pictures, each with the generator's noise, and the function that batches them."""
        shape = options.inputs[0][1] if options.inputs else None
        return NoisySamples(self.feed_pictures(samples, options), shape, nc=self.nc), collate_noise

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return noise and classes; a generator without classes does not read the last."""
        if "noise" not in batch:  # a batch that only shows the shapes
            images = batch["images"].float()
            return [images, images.new_zeros(len(images))]
        return [batch["noise"], batch["classes"].float()]

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Refuse: the loss is that of the learner, with the discriminator.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("AdversarialLearner has the losses of the task 'generate'")

    def discriminator_loss(self, real: Tensor, made: Tensor) -> Tensor:
        """Return the discriminator's loss for its logits of real pictures and of the generator's."""
        if self.loss_name == "hinge":  # arXiv 1705.02894
            return F.relu(1 - real).mean() + F.relu(1 + made).mean()
        if self.loss_name == "wasserstein":
            return made.mean() - real.mean()
        return F.softplus(-real).mean() + F.softplus(made).mean()

    def generator_loss(self, made: Tensor) -> Tensor:
        """Return the generator's loss for the discriminator's logits of its pictures."""
        return F.softplus(-made).mean() if self.loss_name == "non-saturating" else -made.mean()

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return pictures (B, C, H, W) from 0 to 1."""
        return (require_tensor(outputs).detach().float() + 1).clamp(0, 2) / 2

    def metric(self) -> "GenerationMetric":
        """Return a metric of the distance between real and made pictures."""
        return GenerationMetric()

    def sampler(self, network: Network) -> "GeneratorSampler":
        """Return the sampler of the generator's pictures."""
        return GeneratorSampler(network)


class GenerationMetric(Metric):
    """Fréchet distance of made pictures to real ones at 8x8 pixels, and their variety.

    It needs no other network, so it can choose the best epoch; blurred pictures are as good as sharp ones for it. The
    variety is the deviation of made pictures from their mean, as a share of that of real ones: 1 is as varied.
    """

    lists = ("real", "made")
    lower_is_better = ("pixel-frechet",)

    def __init__(self) -> None:
        self.real: list[list[float]] = []
        self.made: list[list[float]] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch of real pictures, and as many made ones."""
        for found, values in ((self.real, (scale_images(batch) + 1) / 2), (self.made, predictions)):
            found += F.adaptive_avg_pool2d(values.double(), FEATURE_SIDE).flatten(1).cpu().tolist()

    def result(self) -> dict[str, float]:
        """Return the distance, the variety, and as fitness the negative distance."""
        if len(self.real) < 2:
            return {"pixel-frechet": 0.0, "variety": 0.0, "fitness": 0.0}
        real, made = np.array(self.real), np.array(self.made)
        distance = frechet_distance(real, made)
        variety = float(np.sqrt(made.var(0).sum() / max(real.var(0).sum(), 1e-12)))
        return {"pixel-frechet": distance, "variety": variety, "fitness": -distance}


class GeneratorSampler(Sampler):
    """A generator, which makes pictures in one step."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.class_count = count_classes(network, 1)
        self.noise_shape = network.card.inputs[0][1]

    def run(self, noise: Noise, classes: Array | None, options: SampleOptions) -> Iterator[Array]:
        """Yield the pictures of noise and classes."""
        found = self.call(noise.draw(self.noise_shape), *([] if classes is None else [classes]))
        yield (found.clip(-1, 1) + 1) / 2


def penalize_gradients(scores: Tensor, pictures: Tensor) -> Tensor:
    """Return the mean of (|gradient| - 1)^2, of scores by the pictures (B, C, H, W) that they are of."""
    [gradient] = torch.autograd.grad(scores.sum(), pictures, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
