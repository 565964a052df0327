"""Blocks of CGNet: a depthwise convolution and a dilated one, joined and gated by the channels' means."""

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.pack.parts import check_multiple, make_depthwise, make_linear_gate


class MeanGate(nn.Module):
    """Gate of the channels by two linear layers of their means: (B, c, H, W) -> same shape. arXiv 1709.01507."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.fc = make_linear_gate(channels, reduction, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class ContextGuidedBlock(nn.Module):
    """A depthwise and a dilated 3x3 convolution, joined, normalised, gated by the means, plus the input if c1 = c2.

    (B, c1, H, W) -> (B, c2, H, W). Raises ValueError for odd c2 or c2 below the reduction. CGNet, arXiv 1811.08201.

    Args:
        c1, c2: channels in and out.
        dilation_rate: dilation of the second convolution.
        reduction: divides the channels in the gate.
    """

    def __init__(self, c1: int, c2: int, dilation_rate: int = 2, reduction: int = 16):
        super().__init__()
        check_multiple(c2, 2, "output channels")
        self.conv1x1 = Conv(c1, c2 // 2)
        self.F_loc = make_depthwise(c2 // 2, 3)
        self.F_sur = make_depthwise(c2 // 2, 3, dilation_rate)
        self.bn_act = nn.Sequential(nn.BatchNorm2d(c2), nn.SiLU())
        self.F_glo = MeanGate(c2, reduction)
        self.add = c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1x1(x)
        y = self.F_glo(self.bn_act(torch.cat((self.F_loc(y), self.F_sur(y)), 1)))
        return x + y if self.add else y


class ContextGuidedBlock_Down(nn.Module):
    """Strided Conv to twice the channels, a depthwise and a dilated convolution, joined, reduced and gated.

    (B, c1, H, W) -> (B, 2 * c1, H/2, W/2). Raises ValueError if 2 * c1 is below the reduction. CGNet,
    arXiv 1811.08201.

    Args:
        c1: channels in.
        dilation_rate: dilation of the second convolution.
        reduction: divides the channels in the gate.
    """

    def __init__(self, c1: int, dilation_rate: int = 2, reduction: int = 16):
        super().__init__()
        c = 2 * c1
        self.conv1x1 = Conv(c1, c, 3, 2)
        self.F_loc = make_depthwise(c, 3)
        self.F_sur = make_depthwise(c, 3, dilation_rate)
        self.bn = nn.BatchNorm2d(2 * c, eps=1e-3)
        self.act = nn.SiLU()
        self.reduce = Conv(2 * c, c)
        self.F_glo = MeanGate(c, reduction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1x1(x)
        joined = torch.cat((self.F_loc(y), self.F_sur(y)), 1)
        return self.F_glo(self.reduce(self.act(self.bn(joined))))
