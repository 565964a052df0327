"""Weights of classes that occur seldom."""

from collections.abc import Sequence

import torch
from torch import Tensor

from netbuild.data.dataset import Sample
from netbuild.settings import Settings


def compute_class_weights(counts: Tensor, power: float) -> Tensor:
    """Compute a weight count^-power for each class, scaled to a mean of 1; a class without objects gets the mean."""
    present = counts > 0
    weights = counts.clamp(min=1).double().pow(-power)
    weights[~present] = weights[present].mean() if present.any() else 1.0
    return (weights / weights.mean()).float()


def count_classes(samples: Sequence[Sample], nc: int) -> Tensor:
    """Count the objects of each class, or its pictures where samples have labels: (nc,)."""
    found = [sample.boxes[:, 0] if sample.boxes is not None else [sample.label or 0] for sample in samples]
    return torch.bincount(torch.tensor([int(c) for classes in found for c in classes]), minlength=nc)


def class_weight_option(settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Tensor]:
    """Return the option "class_weights" of a task; empty if the settings ask for none."""
    power = settings.class_weights
    return {"class_weights": compute_class_weights(count_classes(samples, nc), power)} if power else {}
