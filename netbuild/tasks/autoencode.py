"""Reconstruction: the network gives back the picture that it sees, through less room than the picture takes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.costs.outputs import first_tensor
from netbuild.drawing.annotated import Drawing, Image
from netbuild.tasks.base import Batch, Losses, Metric, Record, Task, View, picture


class AutoencodeTask(Task):
    """Mean squared error between picture and output, both from 0 to 1. A batch needs "images" alone."""

    name = "autoencode"
    embedded = "digits"
    counts_classes = False
    measures = ("psnr",)
    unused_settings = ("multi_scale", "copy_paste", "mixup", "cutmix", "label_smoothing", "class_weights")
    saves = ("pictures", "json")

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Mean over pixels, channels and batch."""
        total = F.mse_loss(_picture(outputs).float(), truth(batch))
        return total, {"mse": total.detach()}

    def decode(self, outputs: Any, **options: Any) -> Tensor:
        """Pictures (B, C, H, W) from 0 to 1."""
        return _picture(outputs).detach().float().clamp(0, 1)

    def metric(self) -> "ReconstructionMetric":
        """Peak signal-to-noise ratio."""
        return ReconstructionMetric()

    # -- prediction ---------------------------------------------------------------------------------------------------

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """None: a picture is all that is found."""
        return []

    def line(self, records: Sequence[Record]) -> str:
        """What there is to see."""
        return "reconstructed"

    def draw(self, image: Image, prediction: Tensor, records: Sequence[Record]) -> Drawing:
        """The picture as it is given back, in the network's size."""
        return Drawing(picture(prediction))


class ReconstructionMetric(Metric):
    """Peak signal-to-noise ratio in decibels, the mean over pictures; at most 100, for one given back exactly."""

    lists = ("found",)

    def __init__(self) -> None:
        self.found: list[float] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch of pictures."""
        error = (predictions - truth(batch)).square().flatten(1).mean(1).double().cpu()
        self.found += (-10 * error.clamp(min=1e-10).log10()).tolist()

    def result(self) -> dict[str, float]:
        """The ratio; as fitness, too."""
        mean = float(torch.tensor(self.found, dtype=torch.float64).mean()) if self.found else 0.0
        return {"psnr": mean, "fitness": mean}


def truth(batch: Batch) -> Tensor:
    """The pictures of a batch as numbers from 0 to 1."""
    images: Tensor = batch["images"]
    return images.float() / 255 if images.dtype is torch.uint8 else images.float()


def _picture(outputs: Any) -> Tensor:
    found = first_tensor(outputs)
    assert found is not None, "the network gives no tensor"
    return found
