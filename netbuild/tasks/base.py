"""What a task is to those who train, validate and predict: they know none of its insides."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from netbuild.drawing import Drawing, Image

Batch = Mapping[str, Any]  # "images" (B, C, H, W), and what the task's own docstring names
Losses = tuple[Tensor, dict[str, Tensor]]


def class_weights(counts: Tensor, power: float) -> Tensor:
    """Factors count^-power, 1 on average, from the number of objects of each class; an unseen class gets the mean."""
    seen = counts > 0
    weights = counts.clamp(min=1).double().pow(-power)
    weights[~seen] = weights[seen].mean() if seen.any() else 1.0
    return (weights / weights.mean()).float()


class Metric(ABC):
    """A score over a data set, fed batch by batch."""

    @abstractmethod
    def update(self, predictions: Any, batch: Batch) -> None:
        """Add what `Task.decode` made of a batch, and the truth."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Figures by name; "fitness", the larger the better, is the one by which weights are chosen."""

    def classes(self) -> list[dict[str, Any]]:
        """A row of figures for each class, where there are classes."""
        return []

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Charts by the name of their file: what makes each, a figure of `netbuild.plots`."""
        return {}


class Task(ABC):
    """What is learnt from a head's outputs and how they are read.

    Args:
        head: the network's last module.
        names: names of the classes.
    """

    name: str

    def __init__(self, head: nn.Module, names: list[str] | None = None) -> None:
        self.head, self.names = head, names

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """What is to be minimised, and its parts by name, without gradient; the outputs are those of training."""

    @abstractmethod
    def decode(self, outputs: Any, **options: Any) -> Any:
        """Predictions in terms of the input image; the outputs are those of eval."""

    @abstractmethod
    def metric(self) -> Metric:
        """A new score."""

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """The batch's picture ``i`` with what is true of it; the plain picture unless a task has more to show."""
        return Drawing(picture(batch["images"][i]))

    def draw(self, predictions: Any, batch: Batch, i: int) -> Drawing | None:
        """The batch's picture ``i`` with what `decode` made of it; None if there is nothing to show."""
        return None

    def epoch_end(self, finished: int, epochs: int) -> None:  # noqa: B027  most tasks have nothing to do
        """Told after each epoch, and when training is resumed: how many are finished, of how many."""


def picture(image: Tensor) -> Image:
    """An image of a batch (C, H, W), numbers from 0 to 1 or bytes, for people: (H, W, 3) in bytes.

    One channel is grey; of more than three the first three are shown.
    """
    values = image.detach().cpu()
    if values.is_floating_point():
        values = (values.float() * 255).round().clamp(0, 255)
    found = values.byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(found[..., :3] if found.shape[-1] >= 3 else found[..., :1].repeat(3, -1))
