"""Layers that halve the size of a map."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv, Size2
from netbuild.layers.legacy import ReOrg
from netbuild.layers.pack.parts import check_multiple


class space_to_depth(ReOrg):
    """Move each 2x2 block of positions to the channels: (B, c, H, W) -> (B, 4c, H/2, W/2).

    The four phases follow each other: even rows and columns, odd rows, odd columns, both odd. The argument, which rows
    of public files write, has no effect. Raises ValueError for an odd height or width. arXiv 2208.03641.
    """

    def __init__(self, dimension: int = 1):
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_even_size(x)
        return super().forward(x)


class SPDConv(nn.Module):
    """space_to_depth, then a 3x3 Conv: (B, c1, H, W) -> (B, c2, H/2, W/2).

    Raises ValueError for an odd height or width. arXiv 2208.03641.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.space_to_depth = space_to_depth()
        self.conv = Conv(4 * c1, c2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.space_to_depth(x))


def check_even_size(x: torch.Tensor) -> None:
    """Raise ValueError unless the height and the width of a map are even."""
    check_multiple(x.shape[2], 2, "the height of the map")
    check_multiple(x.shape[3], 2, "the width of the map")


class V7DownSampling(nn.Module):
    """Half of the channels from a max pooling, half from a strided convolution: (B, c1, H, W) -> (B, c2, H/2, W/2).

    Raises ValueError for odd c2. YOLOv7, arXiv 2207.02696.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        check_multiple(c2, 2, "output channels")
        c = c2 // 2
        # Rounded up as a convolution of stride 2 does, so that both halves also fit at odd sizes.
        self.maxpool = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), Conv(c1, c))
        self.conv = nn.Sequential(Conv(c1, c), Conv(c, c, 3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.maxpool(x), self.conv(x)), 1)


class Stem(nn.Module):
    """First layers of a network: a strided Conv, then two paths, one of Convs and a max pooling, concatenated.

    (B, c1, H, W) -> (B, c2, H/4, W/4). Raises ValueError if c2 < 2. PeleeNet, arXiv 1804.06882; YOLOv7.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        c = c2 // 2
        if not c:
            raise ValueError(f"at least 2 output channels are needed: {c2}")
        self.cv1 = Conv(c1, c, 3, 2)
        self.cv2 = Conv(c, c)
        self.cv3 = Conv(c, c, 3, 2)
        self.cv4 = Conv(2 * c, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return self.cv4(torch.cat((self.cv3(self.cv2(x)), F.max_pool2d(x, 2, ceil_mode=True)), 1))


class LAWDS(nn.Module):
    """Downsampling with weights: four maps of a strided convolution, summed with the softmax of an attention map.

    The attention map has the input's size; its four quarters (top left, top right, bottom left, bottom right) weight
    one of the four maps each. (B, c1, H, W) -> (B, c1, H/2, W/2): keeps channels. Raises ValueError unless c1 is a
    multiple of `group`, the channels of a group of the convolution, and for an odd height or width. RFAConv,
    arXiv 2304.03198 (the idea).
    """

    def __init__(self, c1: int, group: int = 16):
        super().__init__()
        check_multiple(c1, group)
        self.attention = nn.Sequential(nn.AvgPool2d(3, 1, 1), Conv(c1, c1))
        self.ds_conv = Conv(c1, 4 * c1, 3, 2, g=c1 // group)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_even_size(x)
        # (B, c, 2 h, 2 w) -> (B, 4, c, h, w), a quarter of the map each
        scores = self.attention(x).unflatten(3, (2, -1)).unflatten(2, (2, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        return (self.ds_conv(x).unflatten(1, (4, -1)) * scores.softmax(1)).sum(1)


class Conv_maxpool(nn.Module):
    """3x3 convolution of stride 2, batch norm, ReLU, 3x3 max pooling: (B, c1, H, W) -> (B, c2, H/4, W/4).

    The stem of ShuffleNet, arXiv 1807.11164.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(c1, c2, 3, 2, 1, bias=False), nn.BatchNorm2d(c2), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maxpool(self.conv(x))


class DWConvblock(nn.Module):
    """Depthwise k x k and 1x1 convolution, each with batch norm and ReLU: (B, c1, H, W) -> (B, c2, H/s, W/s).

    MobileNets, arXiv 1704.04861.
    """

    def __init__(self, c1: int, c2: int, k: Size2 = 3, s: Size2 = 1):
        super().__init__()
        depthwise, pointwise = Conv(c1, c1, k, s, g=c1), Conv(c1, c2)
        self.conv1, self.bn1 = depthwise.conv, depthwise.bn
        self.conv2, self.bn2 = pointwise.conv, pointwise.bn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))
