"""Pooling pyramids: several context sizes of a map side by side."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import Conv, GhostConv
from netbuild.layers.legacy import SPPCSPC
from netbuild.layers.pack.parts import BlockConv, set_activation
from netbuild.layers.pool import make_same_pool, pool_in_parallel, pool_in_series


class SPPFCSPC(SPPCSPC):
    """SPPCSPC whose three poolings follow one another, equal to it for k = 5: (B, c1, H, W) -> (B, c2, H, W).

    `n`, `shortcut` and `g` have no effect. YOLOv7, arXiv 2207.02696.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5, k: int = 5):
        super().__init__(c1, c2, n, shortcut, g, e, (k, k, k))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return pool_in_series(x, self.m)


class SPPCSPC_group(SPPCSPC):
    """SPPCSPC whose convolutions all have 4 groups: (B, c1, H, W) -> (B, c2, H, W).

    `n`, `shortcut` and `g` have no effect. YOLOv7, arXiv 2207.02696.
    """

    convolution = staticmethod(partial(Conv, g=4))


class GhostSPPCSPC(SPPCSPC):
    """SPPCSPC of ghost convolutions: (B, c1, H, W) -> (B, c2, H, W).

    `n`, `shortcut` and `g` have no effect. YOLOv7, arXiv 2207.02696.
    """

    convolution = GhostConv


class SPPCSP(nn.Module):
    """Pooling pyramid on one of two CSP paths, which are normalised together: (B, c1, H, W) -> (B, c2, H, W).

    `n`, `shortcut` and `g` have no effect. `act` is the activation of all layers; None is Mish, as in its files.
    Scaled-YOLOv4, arXiv 2011.08036.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
        k: Sequence[int] = (5, 9, 13),
        act: Act = None,
    ):
        super().__init__()
        c_ = int(2 * c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = nn.Conv2d(c1, c_, 1, bias=False)
        self.cv3, self.cv4 = Conv(c_, c_, 3), Conv(c_, c_)
        self.m = nn.ModuleList(make_same_pool(size) for size in k)
        self.cv5, self.cv6 = Conv((1 + len(k)) * c_, c_), Conv(c_, c_, 3)
        self.bn = nn.BatchNorm2d(2 * c_)
        self.cv7 = Conv(2 * c_, c2)
        self.act = nn.Mish() if act is None else resolve_activation(act)
        set_activation(self, self.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(pool_in_parallel(y, self.m)))
        return self.cv7(self.act(self.bn(torch.cat((y, self.cv2(x)), 1))))


class ReluSPPF(nn.Module):
    """SPPF of convolutions with ReLU: (B, c1, H, W) -> (B, c2, H, W). YOLOv6, arXiv 2209.02976."""

    def __init__(self, c1: int, c2: int, k: int = 5):
        super().__init__()
        self.cv1 = BlockConv(c1, c1 // 2)
        self.cv2 = BlockConv(4 * (c1 // 2), c2)
        self.m = make_same_pool(k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv2(pool_in_series(self.cv1(x), [self.m] * 3))


class SimSPPF(nn.Module):
    """SPPF of convolutions with ReLU: (B, c1, H, W) -> (B, c2, H, W). YOLOv6, arXiv 2209.02976.

    The names of its weights are those of YOLOv6.
    """

    def __init__(self, c1: int, c2: int, k: int = 5):
        super().__init__()
        self.sppf = ReluSPPF(c1, c2, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sppf(x)


class ReluCSPSPPF(nn.Module):
    """SPPFCSPC of convolutions with ReLU: (B, c1, H, W) -> (B, c2, H, W). YOLOv6, arXiv 2301.05586."""

    def __init__(self, c1: int, c2: int, k: int = 5, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1, self.cv2 = BlockConv(c1, c_), BlockConv(c1, c_)
        self.cv3, self.cv4 = BlockConv(c_, c_, 3), BlockConv(c_, c_)
        self.m = make_same_pool(k)
        self.cv5, self.cv6 = BlockConv(4 * c_, c_), BlockConv(c_, c_, 3)
        self.cv7 = BlockConv(2 * c_, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(pool_in_series(y, [self.m] * 3)))
        return self.cv7(torch.cat((self.cv2(x), y), 1))


class SimCSPSPPF(nn.Module):
    """SPPFCSPC of convolutions with ReLU: (B, c1, H, W) -> (B, c2, H, W). YOLOv6, arXiv 2301.05586.

    Unlike SPPFCSPC it has int(c2 * e) hidden channels, and the path without poolings comes first.
    """

    def __init__(self, c1: int, c2: int, kernel_size: int = 5, e: float = 0.5):
        super().__init__()
        self.cspsppf = ReluCSPSPPF(c1, c2, kernel_size, e)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cspsppf(x)


class ASPP(nn.Module):
    """Atrous spatial pyramid: a 1x1, three 3x3 convolutions of dilations 6, 12, 18 and the map's mean, then a 1x1.

    (B, c1, H, W) -> (B, c2, H, W). No layer has a norm or an activation. DeepLabv3, arXiv 1706.05587.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 1)
        self.atrous_block1 = nn.Conv2d(c1, c2, 1)
        self.atrous_block6 = nn.Conv2d(c1, c2, 3, padding=6, dilation=6)
        self.atrous_block12 = nn.Conv2d(c1, c2, 3, padding=12, dilation=12)
        self.atrous_block18 = nn.Conv2d(c1, c2, 3, padding=18, dilation=18)
        self.conv_1x1_output = nn.Conv2d(5 * c2, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.conv(x.mean((2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        blocks = (self.atrous_block1, self.atrous_block6, self.atrous_block12, self.atrous_block18)
        return self.conv_1x1_output(torch.cat((mean, *(block(x) for block in blocks)), 1))


class BasicRFB(nn.Module):
    """Receptive field block: three paths of growing dilation, joined, scaled and added to a 1x1 convolution, then ReLU.

    (B, c1, H, W) -> (B, c2, H/s, W/s). RFB Net, arXiv 1711.07767.

    Args:
        c1, c2: channels in and out.
        s: stride.
        scale: factor of the joined paths.
        map_reduce: c1 divided by the channels of the paths' first convolutions.
        vision: dilation of the paths, less 1, 2 and 4.
        groups: groups of the paths' convolutions.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        s: int = 1,
        scale: float = 0.1,
        map_reduce: int = 8,
        vision: int = 1,
        groups: int = 1,
    ):
        super().__init__()
        c, g = c1 // map_reduce, groups
        if c < 2:
            raise ValueError(f"channels must be at least twice map_reduce ({map_reduce}): {c1}")
        relu = nn.ReLU()
        self.scale = scale
        self.branch0, self.branch1 = (
            nn.Sequential(
                Conv(c1, c, g=g, act=False),
                Conv(c, 2 * c, 3, s, g=g, act=relu),
                Conv(2 * c, 2 * c, 3, d=vision + wider, g=g, act=False),
            )
            for wider in (1, 2)
        )
        self.branch2 = nn.Sequential(
            Conv(c1, c, g=g, act=False),
            Conv(c, c // 2 * 3, 3, g=g, act=relu),
            Conv(c // 2 * 3, 2 * c, 3, s, g=g, act=relu),
            Conv(2 * c, 2 * c, 3, d=vision + 4, g=g, act=False),
        )
        self.ConvLinear = Conv(6 * c, c2, act=False)
        self.shortcut = Conv(c1, c2, s=s, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        paths = torch.cat((self.branch0(x), self.branch1(x), self.branch2(x)), 1)
        return F.relu(self.scale * self.ConvLinear(paths) + self.shortcut(x))
