"""Heads that say what the numbers of a classifying network are: labels of which several may hold, or quantities.

Both are the last row after any row that gives (B, n), such as ``Classify`` or ``nn.Linear``. A file whose ``task`` is
theirs, and which does not have the row, gets it at its end.
"""

from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.heads.base import Head
from netbuild.roles import Plain


class MultiLabel(Head):
    """Probabilities of labels that do not exclude each other, from logits (B, n) or a tuple that ends with them.

    Training: the logits. Eval: probabilities (B, n).
    """

    task = "multilabel"

    def __init__(self, nc: Annotated[int, Plain]):
        super().__init__()
        self.nc = nc

    def layout(self) -> str:
        """Describe the probabilities in one sentence."""
        return f"output 0: a probability for each of {self.nc} labels, of which several may hold"

    def forward(self, x: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        logits = read_numbers(x, self.nc)
        return logits if self.training else logits.sigmoid()


class Regress(Head):
    """Numbers in the data's units, from normalised ones (B, n) or a tuple that ends with them.

    Training: the normalised numbers. Eval: multiplied by the buffer ``deviation`` and added to the buffer ``mean``,
    both (n,), which training sets to those of its data.
    """

    task = "regress"

    def __init__(self, nc: Annotated[int, Plain]):
        super().__init__()
        self.nc = nc
        self.register_buffer("mean", torch.zeros(nc))
        self.register_buffer("deviation", torch.ones(nc))

    def layout(self) -> str:
        """Describe the numbers in one sentence."""
        return f"output 0: {self.nc} number{'s' * (self.nc != 1)}, in the units of the training data"

    def forward(self, x: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
        values = read_numbers(x, self.nc)
        # Half precision would round numbers such as years to tens.
        return values if self.training else values.float() * self.deviation + self.mean


def read_numbers(x: Any, nc: int) -> torch.Tensor:
    """Return the last of a row's outputs, which `Classify` gives raw in training and in eval.

    Raises:
        ValueError: if it is not (B, nc).
    """
    values: torch.Tensor = x[-1] if isinstance(x, tuple | list) else x
    if values.ndim != 2 or values.shape[1] != nc:
        raise ValueError(f"expected {nc} numbers for each picture (B, {nc}), not {list(values.shape)}")
    return values


# The class of the last row by its task, for files that leave the row out.
FINAL_HEADS: dict[str, type[nn.Module]] = {"multilabel": MultiLabel, "regress": Regress}
