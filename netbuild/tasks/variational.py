"""Variational autoencoders: reconstruction, with codes that follow a normal distribution."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.data.dataset import Dataset, Sample
from netbuild.drawing.annotated import Drawing, Image
from netbuild.drawing.charts import Figure
from netbuild.drawing.points import plot_points
from netbuild.errors import NetbuildError
from netbuild.graph.network import Network
from netbuild.layers.heads.variational import Variational
from netbuild.settings import Settings
from netbuild.tasks.autoencode import AutoencodeTask, ReconstructionMetric, target_images
from netbuild.tasks.base import Batch, Losses, Record
from netbuild.tasks.codes import CodeSampler
from netbuild.tasks.making import keep_pictures


class Reconstruction(NamedTuple):
    """The prediction for a picture: the picture (C, H, W) from 0 to 1, and mean and log variance of the code."""

    picture: Tensor
    moments: Tensor


class Reconstructions(NamedTuple):
    """The predictions for a batch, a `Reconstruction` each: pictures (B, C, H, W) and moments (B, 2d, ...)."""

    pictures: Tensor
    moments: Tensor

    def __getitem__(self, index: Any) -> Any:
        return Reconstruction(self.pictures[index], self.moments[index])


class VariationalTask(AutoencodeTask):
    """The negative evidence lower bound, in nats a picture: reconstruction and Kullback-Leibler divergence of the code.

    Auto-Encoding Variational Bayes, arXiv 1312.6114. The reconstruction is the negative logarithm of the pixels'
    likelihood, which the head names. A batch has "images"; "classes" colour the chart of the codes.

    Args:
        head: a `Variational`.
        names: names of the classes.
        kl: weight of the divergence (beta-VAE).

    Raises:
        NetbuildError: for another head.
    """

    name = "vae"
    measures: ClassVar[tuple[str, ...]] = ("nats", "kl", "psnr")
    own_settings: ClassVar[tuple[str, ...]] = ("kl",)
    output_count: ClassVar[int] = 2

    def __init__(self, head: nn.Module, names: list[str] | None = None, kl: float = 1.0) -> None:
        super().__init__(head, names)
        self.kl = kl

    @classmethod
    def options_of(cls, settings: Settings, samples: Any, nc: int) -> dict[str, Any]:
        """Return the weight of the divergence."""
        return {"kl": settings.kl}

    @classmethod
    def adapt_settings(cls, settings: Settings, dataset: Dataset) -> Settings:
        """Return the settings without changes of pictures unless they ask for them."""
        return keep_pictures(settings)

    def check_loss(self) -> None:
        """Check that the head gives the moments of the code.

        Raises:
            NetbuildError: if it does not.
        """
        if not isinstance(self.head, Variational):
            hint = "end the network with [[-1, moments], 1, Variational, []], as vae.yaml"
            raise NetbuildError(f"the task 'vae' cannot train the head {type(self.head).__name__}", hint=hint)

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the bound, divided by the number of the picture's values; its terms are in nats a picture."""
        logits, moments = (x.float() for x in outputs)
        reconstruction = self.reconstruction_nats(logits, target_images(batch, logits)).mean()
        divergence = kl_divergence(moments).mean()
        # Nats grow with the picture, and gradients are clipped: by their mean over values runs are alike.
        total = (reconstruction + self.kl * divergence) / logits[0].numel()
        return total, {"reconstruction": reconstruction.detach(), "kl": divergence.detach()}

    def reconstruction_nats(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return the negative log likelihood (B,) of pictures (B, C, H, W) from 0 to 1.

        A Gaussian has the variance that is best for the batch, arXiv 2006.13202, in units of the range of the pixels.
        """
        if getattr(self.head, "likelihood", "bernoulli") == "bernoulli":
            return F.binary_cross_entropy_with_logits(logits, images, reduction="none").flatten(1).sum(1)
        error = (logits.sigmoid() - images).square().flatten(1)
        variance = error.mean().clamp(min=1e-8)
        return (error / variance + torch.log(2 * math.pi * variance)).sum(1) / 2

    def decode(self, outputs: Any, **options: Any) -> Any:
        """Return pictures (B, C, H, W) from 0 to 1 with the moments of their codes."""
        pictures, moments = outputs
        return Reconstructions(super().decode(pictures), moments.detach().float())

    def metric(self) -> "VariationalMetric":
        """Return a metric of the bound and of the peak signal-to-noise ratio."""
        return VariationalMetric(self)

    def sampler(self, network: Network) -> CodeSampler:
        """Return a sampler of codes from the normal distribution."""
        return CodeSampler(network)

    # -- prediction ---------------------------------------------------------------------------------------------------

    def draw(self, image: Image, prediction: Any, records: list[Record]) -> Drawing:  # type: ignore[override]
        """Return the reconstructed picture, in the network's size."""
        return super().draw(image, prediction.picture, records)

    def draw_labels(self, samples: list[Sample]) -> Figure | None:  # type: ignore[override]
        """Draw the numbers of pictures by class, where the data has classes."""
        return super().draw_labels(samples) if any(sample.label is not None for sample in samples) else None


class VariationalMetric(ReconstructionMetric):
    """The bound in nats a picture, at the mean code: reconstruction, divergence and both; PSNR; a chart of the codes.

    Args:
        task: gives the likelihood.
    """

    lists = ("ratios", "errors", "divergences", "codes", "classes_seen")
    lower_is_better = ("nats", "kl")

    def __init__(self, task: VariationalTask) -> None:
        super().__init__()
        self.task = task
        self.errors: list[float] = []
        self.divergences: list[float] = []
        self.codes: list[list[float]] = []
        self.classes_seen: list[int] = []

    def update(self, predictions: Any, batch: Batch) -> None:
        """Add the pictures of a batch."""
        pictures, moments = predictions.pictures, predictions.moments
        super().update(pictures, batch)
        nats = self.task.reconstruction_nats(pictures.double().logit(1e-7), target_images(batch, pictures).double())
        self.errors += nats.cpu().tolist()
        self.divergences += kl_divergence(moments.double()).cpu().tolist()
        self.codes += moments.chunk(2, 1)[0].flatten(1).cpu().tolist()
        self.classes_seen += batch.get("classes", torch.zeros(len(pictures), dtype=torch.int64)).cpu().tolist()

    def result(self) -> dict[str, float]:
        """Return the means in nats, the PSNR, and as fitness the bound itself."""
        error, divergence = float(np.mean(self.errors or [0.0])), float(np.mean(self.divergences or [0.0]))
        measures = {"nats": error + divergence, "kl": divergence, "psnr": super().result()["psnr"]}
        return {**measures, "fitness": -measures["nats"]}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the chart of the pictures' codes, coloured by class."""
        codes = np.array(self.codes)
        title = "mean codes" if codes.shape[1] == 2 else f"mean codes of {codes.shape[1]} numbers, main components"
        return {"codes": lambda: plot_points(codes, np.array(self.classes_seen), self.task.names or [], title)}


def kl_divergence(moments: Tensor) -> Tensor:
    """Return the divergence (B,) in nats of normal distributions, moments (B, 2d, ...), from the standard one."""
    mean, log_variance = moments.chunk(2, 1)
    return (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2
