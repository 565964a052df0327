"""What losses are divided by, so that several processes learn from a batch as one does."""

from collections.abc import Callable

from torch import Tensor

# Returns what a loss is divided by: the batch's total over all ranks, at least the second argument, per rank.
Normaliser = Callable[[Tensor, float], Tensor]


def local_normaliser(total: Tensor, least: float) -> Tensor:
    """The loss's normaliser in a single process: the batch's total, at least ``least``."""
    return total.clamp(min=least)
