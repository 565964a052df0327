"""Blocks of the PP-HGNetV2 backbone as RT-DETR uses it (arXiv 2304.08069). Scales leave their widths unchanged."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import Conv, LightConv
from netbuild.roles import Plain


class HGStem(nn.Module):
    """Stem with a pooling and a convolution branch: (B, c1, H, W) -> (B, c2, H/4, W/4)."""

    def __init__(self, c1: int, cm: int, c2: Annotated[int, Plain]):
        super().__init__()
        self.stem1 = Conv(c1, cm, 3, 2, act=nn.ReLU())
        self.stem2a = Conv(cm, cm // 2, 2, 1, 0, act=nn.ReLU())
        self.stem2b = Conv(cm // 2, cm, 2, 1, 0, act=nn.ReLU())
        self.stem3 = Conv(2 * cm, cm, 3, 2, act=nn.ReLU())
        self.stem4 = Conv(cm, c2, act=nn.ReLU())
        self.pool = nn.MaxPool2d(2, 1, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad = (0, 1, 0, 1)  # one column on the right and one row at the bottom, so that 2x2 kernels keep the size
        x = F.pad(self.stem1(x), pad)
        y = self.stem2b(F.pad(self.stem2a(x), pad))
        return self.stem4(self.stem3(torch.cat((self.pool(x), y), 1)))


class HGBlock(nn.Module):
    """A chain of n convolutions, input and all outputs concatenated for two 1x1: (B, c1, H, W) -> (B, c2, H, W).

    `lightconv` makes them LightConvs. `shortcut` adds the input if c1 = c2; act None is ReLU.
    """

    def __init__(
        self,
        c1: int,
        cm: int,
        c2: Annotated[int, Plain],
        k: int = 3,
        n: int = 6,
        lightconv: bool = False,
        shortcut: bool = False,
        act: Act = None,
    ):
        super().__init__()
        # One object for all convolutions of the block, as the default activation is.
        act = nn.ReLU() if act is None else resolve_activation(act)
        kind = LightConv if lightconv else Conv
        self.m = nn.ModuleList(kind(cm if i else c1, cm, k, act=act) for i in range(n))
        self.sc = Conv(c1 + n * cm, c2 // 2, act=act)
        self.ec = Conv(c2 // 2, c2, act=act)
        self.add = shortcut and c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [x]
        for block in self.m:
            outputs.append(block(outputs[-1]))
        y = self.ec(self.sc(torch.cat(outputs, 1)))
        return x + y if self.add else y
