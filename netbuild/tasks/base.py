"""What a task is to those who train, validate and predict: they know none of its insides."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

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

    def epoch_end(self, finished: int, epochs: int) -> None:  # noqa: B027  most tasks have nothing to do
        """Told after each epoch, and when training is resumed: how many are finished, of how many."""
