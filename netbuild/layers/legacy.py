"""Poolings and reductions of YOLOv7, arXiv 2207.02696."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.pool import make_same_pool, pool_in_parallel


class MP(nn.MaxPool2d):
    """Max pooling with kernel and stride k: (B, c, H, W) -> (B, c, H/k, W/k)."""

    def __init__(self, k: int = 2):
        super().__init__(k, k)


class SP(nn.MaxPool2d):
    """Max pooling with padding k // 2: (B, c, H, W) -> (B, c, H/s, W/s) for odd k."""

    def __init__(self, k: int = 3, s: int = 1):
        super().__init__(k, s, k // 2)


class ReOrg(nn.Module):
    """Move each 2x2 block of positions to the channels: (B, c, H, W) -> (B, 4c, H/2, W/2), for even H and W.

    The four phases follow each other: even rows and columns, odd rows, odd columns, both odd.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)


class DownC(nn.Module):
    """Half of the channels by a strided convolution, half by max pooling: (B, c1, H, W) -> (B, c2, H/k, W/k).

    Args:
        c1, c2: channels of input and output.
        n: without effect; rows of YOLOv7 state it.
        k: stride.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, k: int = 2):
        super().__init__()
        self.cv1 = Conv(c1, c1)
        self.cv2 = Conv(c1, c2 // 2, 3, k)
        self.cv3 = Conv(c1, c2 // 2)
        self.mp = nn.MaxPool2d(k, k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.cv2(self.cv1(x)), self.cv3(self.mp(x))), 1)


class SPPCSPC(nn.Module):
    """Spatial pyramid pooling on one of two CSP paths: (B, c1, H, W) -> (B, c2, H, W). YOLOv7, arXiv 2207.02696."""

    convolution: Callable[..., nn.Module] = Conv  # makes every convolution

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
        k: Sequence[int] = (5, 9, 13),
    ):
        super().__init__()
        c, conv = int(2 * c2 * e), self.convolution
        self.cv1, self.cv2 = conv(c1, c), conv(c1, c)
        self.cv3, self.cv4 = conv(c, c, 3), conv(c, c)
        self.m = nn.ModuleList(make_same_pool(size) for size in k)
        self.cv5, self.cv6 = conv((1 + len(k)) * c, c), conv(c, c, 3)
        self.cv7 = conv(2 * c, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(self.pool(y)))
        return self.cv7(torch.cat((y, self.cv2(x)), 1))

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Concatenate a map and its poolings: (B, c, H, W) -> (B, 4 * c, H, W)."""
        return pool_in_parallel(x, self.m)
