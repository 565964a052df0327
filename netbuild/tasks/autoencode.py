"""Reconstruction: an autoencoder returns the picture that it gets."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.costs.shape_rules import shape_text
from netbuild.data.fitting import center_crop
from netbuild.drawing.annotated import Drawing, Image
from netbuild.errors import NetbuildError
from netbuild.settings import BOX_SETTINGS, NUMBER_SETTINGS, SCENE_SETTINGS
from netbuild.tasks.base import Batch, Losses, Metric, Record, Task, View
from netbuild.tasks.outputs import require_tensor
from netbuild.tasks.pictures import to_picture


class AutoencodeTask(Task):
    """Mean squared error between picture and output, both from 0 to 1.

    A batch has "images" alone: they are the targets.
    """

    name = "autoencode"
    embedded = "digits"
    counts_classes = False
    measures: ClassVar[tuple[str, ...]] = ("psnr",)
    unused_settings = (
        *("label_smoothing", "class_weights", "multi_scale", "mixup", "cutmix", "rect", "allow_background"),
        *(*SCENE_SETTINGS, *BOX_SETTINGS, *NUMBER_SETTINGS),
    )
    saves = ("pictures", "json")

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the mean over pixels, channels and batch."""
        found = require_tensor(outputs).float()
        total = F.mse_loss(found, target_images(batch, found))
        return total, {"mse": total.detach()}

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Return pictures (B, C, H, W) from 0 to 1."""
        return require_tensor(outputs).detach().float().clamp(0, 1)

    def metric(self) -> "ReconstructionMetric":
        """Return a metric of the peak signal-to-noise ratio."""
        return ReconstructionMetric()

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return no records: the prediction is only a picture."""
        return []

    def line(self, records: Sequence[Record]) -> str:
        """Return a constant word, as there are no records."""
        return "reconstructed"

    def draw(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """Return the reconstructed picture, in the network's size."""
        return Drawing(to_picture(prediction))

    def draw_result(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Return what the network sees of the picture, and beside it what it makes of that."""
        made = self.draw(image, prediction, records).image
        seen = center_crop(image, made.shape[:2])
        return Drawing(np.concatenate((seen, made), 1))


class ReconstructionMetric(Metric):
    """Peak signal-to-noise ratio in decibels, mean over pictures; at most 100, for an exact reconstruction."""

    lists: tuple[str, ...] = ("ratios",)

    def __init__(self) -> None:
        self.ratios: list[float] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add the ratio of each picture of a batch."""
        error = (predictions - target_images(batch, predictions)).square().flatten(1).mean(1).double().cpu()
        self.ratios += (-10 * error.clamp(min=1e-10).log10()).tolist()

    def result(self) -> dict[str, float]:
        """Return the mean ratio, also as fitness."""
        mean = float(torch.tensor(self.ratios, dtype=torch.float64).mean()) if self.ratios else 0.0
        return {"psnr": mean, "fitness": mean}


def target_images(batch: Batch, outputs: Tensor) -> Tensor:
    """Return the images of a batch as floats from 0 to 1.

    Raises:
        NetbuildError: if the network's outputs have another shape.
    """
    images: Tensor = batch["images"]
    if outputs.shape != images.shape:
        message = f"the network returns {shape_text(outputs.shape)} for images {shape_text(images.shape)}"
        hint = "a network of the task 'autoencode' returns pictures of the same channels and size"
        raise NetbuildError(message, hint=hint)
    return images.float() / 255 if images.dtype is torch.uint8 else images.float()
