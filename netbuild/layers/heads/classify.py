"""Image classification."""

from typing import Annotated

import torch
from torch import nn

from netbuild.layers.conv import Conv, Size2
from netbuild.layers.heads.base import Head
from netbuild.roles import In, Plain


class Classify(Head):
    """Convolution to 1280 channels, global mean, linear layer: (B, c1, H, W) -> (B, c2).

    Training: logits. Eval: (probabilities, logits). Several sources of one size are concatenated on channels.
    """

    task = "classify"
    returns_raw = True

    def __init__(
        self,
        c1: Annotated[int | list[int], In],
        c2: Annotated[int, Plain],
        k: Size2 = 1,
        s: Size2 = 1,
        p: Size2 | None = None,
        g: int = 1,
    ):
        super().__init__()
        self.conv = Conv(c1 if isinstance(c1, int) else sum(c1), 1280, k, s, p, g)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.0, inplace=True)
        self.linear = nn.Linear(1280, c2)

    def layout(self) -> str:
        """Describe the probabilities in one sentence."""
        return f"output 0: probabilities of {self.linear.out_features} classes, which sum to 1"

    def forward(self, x: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if isinstance(x, list | tuple):
            x = torch.cat(x, 1)
        logits = self.linear(self.drop(self.pool(self.conv(x)).flatten(1)))
        return logits if self.training else (logits.softmax(1), logits)
