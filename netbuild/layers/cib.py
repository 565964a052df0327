"""Compact inverted blocks of YOLOv10, arXiv 2405.14458."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.csp import DenseStage
from netbuild.layers.fuse import set_weights
from netbuild.roles import In


class RepVGGDW(nn.Module):
    """Sum of a depthwise 7x7 and a 3x3 convolution, which fuse to one 7x7: (B, ed, H, W) -> same shape.

    YOLOv10, arXiv 2405.14458; RepVGG, arXiv 2101.03697.
    """

    def __init__(self, ed: Annotated[int, In]):
        super().__init__()
        self.conv = Conv(ed, ed, 7, g=ed, act=False)
        self.conv1 = Conv(ed, ed, 3, g=ed, act=False)
        self.act = nn.SiLU()  # as published, whatever the default activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.act(y if self.conv1 is None else y + self.conv1(x))

    def fuse(self) -> None:
        """Merge both branches into `conv`, a plain depthwise 7x7 with bias."""
        if self.conv1 is None:
            return
        self.conv.fuse()
        self.conv1.fuse()
        large, small = self.conv.conv, self.conv1.conv
        # Padding by 2 on each side puts the 3x3 kernel in the middle of the 7x7.
        set_weights(large, large.weight + F.pad(small.weight, (2, 2, 2, 2)), large.bias + small.bias)
        self.conv, self.conv1 = large, None


class CIB(nn.Module):
    """Alternating depthwise and 1x1 convolutions, plus the input if `shortcut` and c1 = c2.

    (B, c1, H, W) -> (B, c2, H, W); lk makes the middle kernel 7x7. YOLOv10, arXiv 2405.14458.
    """

    def __init__(self, c1: int, c2: int, shortcut: bool = True, e: float = 0.5, lk: bool = False):
        super().__init__()
        c = 2 * int(c2 * e)
        self.cv1 = nn.Sequential(
            Conv(c1, c1, 3, g=c1),
            Conv(c1, c),
            RepVGGDW(c) if lk else Conv(c, c, 3, g=c),
            Conv(c, c2),
            Conv(c2, c2, 3, g=c2),
        )
        self.add = shortcut and c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)
        return x + y if self.add else y


class C2fCIB(DenseStage):
    """C2f with CIBs as blocks: (B, c1, H, W) -> (B, c2, H, W); g has no effect. YOLOv10, arXiv 2405.14458."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = False, lk: bool = False, g: int = 1, e: float = 0.5
    ):
        c = int(c2 * e)
        super().__init__(c1, c2, c, (CIB(c, c, shortcut, 1.0, lk) for _ in range(n)))
