"""Pooling pyramids and downsampling blocks."""

from collections.abc import Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv, Size2
from netbuild.roles import Plain


def make_same_pool(k: int) -> nn.MaxPool2d:
    """Create a max pooling that keeps the size, for odd k."""
    return nn.MaxPool2d(k, 1, k // 2)


def pool_in_parallel(x: torch.Tensor, pools: Iterable[nn.Module]) -> torch.Tensor:
    """Concatenate a map and its poolings: (B, c, H, W) -> (B, (1 + number of pools) * c, H, W)."""
    return torch.cat((x, *(pool(x) for pool in pools)), 1)


def pool_in_series(x: torch.Tensor, pools: Iterable[nn.Module]) -> torch.Tensor:
    """Concatenate a map and what each of a chain of n poolings makes of it: (B, c, H, W) -> (B, (1 + n) * c, H, W)."""
    outputs = [x]
    for pool in pools:
        outputs.append(pool(outputs[-1]))
    return torch.cat(outputs, 1)


class SPP(nn.Module):
    """Parallel max poolings, concatenated: (B, c1, H, W) -> (B, c2, H, W). Spatial pyramid pooling, arXiv 1406.4729."""

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (5, 9, 13)):
        super().__init__()
        c_ = c1 // 2
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c_ * (len(k) + 1), c2)
        self.m = nn.ModuleList(make_same_pool(size) for size in k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv2(pool_in_parallel(self.cv1(x), self.m))


class SPPF(nn.Module):
    """A chain of n max poolings, all outputs concatenated: (B, c1, H, W) -> (B, c2, H, W); equals SPP for k = 5, n = 3.

    Without `n` and `shortcut` it is the form of YOLOv5 to YOLO11: three poolings, and an activation after the first
    convolution. With either there is no such activation, and `shortcut` adds the input if c1 = c2.
    """

    def __init__(
        self, c1: int, c2: int, k: int = 5, n: Annotated[int | None, Plain] = None, shortcut: bool | None = None
    ):
        super().__init__()
        classic = n is None and shortcut is None
        c_, self.n = c1 // 2, 3 if n is None else n
        self.cv1 = Conv(c1, c_, act=classic)
        self.cv2 = Conv(c_ * (self.n + 1), c2)
        self.m = make_same_pool(k)
        self.add = bool(shortcut) and c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(pool_in_series(self.cv1(x), [self.m] * self.n))
        return x + y if self.add else y


class SPPELAN(nn.Module):
    """A chain of three max poolings, all outputs concatenated: (B, c1, H, W) -> (B, c2, H, W).

    YOLOv9, arXiv 2402.13616.
    """

    def __init__(self, c1: int, c2: int, c3: int, k: int = 5):
        super().__init__()
        self.cv1 = Conv(c1, c3)
        self.cv2 = make_same_pool(k)
        self.cv3 = make_same_pool(k)
        self.cv4 = make_same_pool(k)
        self.cv5 = Conv(4 * c3, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv5(pool_in_series(self.cv1(x), (self.cv2, self.cv3, self.cv4)))


class AConv(nn.Module):
    """2x2 mean pooling of stride 1, then a 3x3 Conv of stride 2: (B, c1, H, W) -> (B, c2, H/2, W/2).

    YOLOv9, arXiv 2402.13616.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.cv1 = Conv(c1, c2, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv1(F.avg_pool2d(x, 2, 1))


class ADown(nn.Module):
    """Half the channels downsampled by a Conv, half by a max pooling: (B, c1, H, W) -> (B, c2, H/2, W/2).

    YOLOv9, arXiv 2402.13616.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        c = c2 // 2
        self.cv1 = Conv(c1 // 2, c, 3, 2, 1)
        self.cv2 = Conv(c1 // 2, c, 1, 1, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = F.avg_pool2d(x, 2, 1).chunk(2, 1)
        return torch.cat((self.cv1(a), self.cv2(F.max_pool2d(b, 3, 2, 1))), 1)


class SCDown(nn.Module):
    """1x1 Conv, then a depthwise k x k of stride s: (B, c1, H, W) -> (B, c2, H/s, W/s). YOLOv10, arXiv 2405.14458."""

    def __init__(self, c1: int, c2: int, k: Size2, s: Size2):
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv(c2, c2, k, s, g=c2, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv2(self.cv1(x))
