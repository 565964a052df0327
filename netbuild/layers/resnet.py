"""Blocks of residual networks. Deep Residual Learning, arXiv 1512.03385."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.roles import Plain


class ResNetBlock(nn.Module):
    """1x1, 3x3 and 1x1 Convs with a residual connection and a final ReLU: (B, c1, H, W) -> (B, e*c2, H/s, W/s)."""

    def __init__(self, c1: int, c2: int, s: int = 1, e: int = 4):
        super().__init__()
        c3 = e * c2
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv(c2, c2, 3, s, 1)
        self.cv3 = Conv(c2, c3, act=False)
        self.shortcut = nn.Sequential(Conv(c1, c3, 1, s, act=False)) if s != 1 or c1 != c3 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.cv3(self.cv2(self.cv1(x))) + self.shortcut(x))


class ResNetLayer(nn.Module):
    """A stage of n ResNetBlocks, the first of stride s: (B, c1, H, W) -> (B, e*c2, H/s, W/s).

    With `is_first` it is the stem instead, a 7x7 Conv and a max pooling: (B, c1, H, W) -> (B, c2, H/4, W/4). Scales
    leave channels and n unchanged. arXiv 1512.03385.
    """

    def __init__(
        self,
        c1: Annotated[int, Plain],
        c2: Annotated[int, Plain],
        s: int = 1,
        is_first: bool = False,
        n: Annotated[int, Plain] = 1,
        e: int = 4,
    ):
        super().__init__()
        if is_first:
            self.layer = nn.Sequential(Conv(c1, c2, 7, 2, 3), nn.MaxPool2d(3, 2, 1))
        else:
            rest = (ResNetBlock(e * c2, c2, 1, e) for _ in range(n - 1))
            self.layer = nn.Sequential(ResNetBlock(c1, c2, s, e), *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)
