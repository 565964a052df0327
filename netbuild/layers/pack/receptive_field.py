"""Convolutions with attention over the receptive field: each output weights the k x k positions that it sees."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.csp import Bottleneck
from netbuild.layers.pack.coordinate_attention import CoordAtt, attend_axes
from netbuild.layers.pack.parts import pool_channels
from netbuild.layers.pack.wrappers import C2fWrapper, C3k2Wrapper, C3Wrapper


def make_features(channels: int, k: int, s: int) -> nn.Sequential:
    """Create the layers that compute k * k features of each channel at each position of a strided convolution."""
    conv = nn.Conv2d(channels, channels * k * k, k, s, k // 2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels * k * k), nn.ReLU())


class RFAConv(nn.Module):
    """Convolution whose input positions are weighted anew for each output: (B, c1, H, W) -> (B, c2, H/s, W/s).

    Each channel has k * k features and as many weights, a softmax, for each output; their products, laid out as a map
    of k times the size, go through a Conv of stride k. `g` has no effect. arXiv 2304.03198.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1):
        super().__init__()
        self.k = k
        weight = nn.Conv2d(c1, c1 * k * k, 1, groups=c1, bias=False)
        self.get_weight = nn.Sequential(nn.AvgPool2d(k, s, k // 2), weight)
        self.generate_feature = make_features(c1, k, s)
        self.conv = Conv(c1, c2, k, k, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = (x.shape[1], self.k**2)
        weights = self.get_weight(x).unflatten(1, points).softmax(2)
        weighted = self.generate_feature(x).unflatten(1, points) * weights
        return self.conv(F.pixel_shuffle(weighted.flatten(1, 2), self.k))


class RFCBAMConv(nn.Module):
    """RFAConv whose weights are a channel gate and a gate of positions: (B, c1, H, W) -> (B, c2, H/s, W/s).

    `g` has no effect. arXiv 2304.03198.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1):
        super().__init__()
        self.k = k
        self.generate = make_features(c1, k, s)
        self.get_weight = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.Sigmoid())
        self.se = nn.Module()
        self.se.fc = nn.Sequential(
            nn.Linear(c1, 16, bias=False), nn.ReLU(), nn.Linear(16, c1, bias=False), nn.Sigmoid()
        )
        self.conv = Conv(c1, c2, k, k, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels = self.se.fc(x.mean((2, 3)))[..., None, None]
        features = F.pixel_shuffle(self.generate(x), self.k)
        return self.conv(features * channels * self.get_weight(pool_channels(features, maximum_first=True)))


class RFCAConv(nn.Module):
    """RFAConv whose weights are coordinate attention: (B, c1, H, W) -> (B, c2, H/s, W/s).

    The last convolution has a bias, no norm and no activation. `g` has no effect. arXiv 2304.03198.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, reduction: int = 32, g: int = 1):
        super().__init__()
        self.k = k
        self.generate = make_features(c1, k, s)
        self.conv1, self.bn1, self.conv_h, self.conv_w = CoordAtt(c1, reduction).children()
        self.conv = nn.Sequential(nn.Conv2d(c1, c2, k, k))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = F.pixel_shuffle(self.generate(x), self.k)
        return self.conv(attend_axes(features, self.conv1, self.bn1, self.conv_h, self.conv_w))


class Bottleneck_RFAConv(Bottleneck):
    """Bottleneck whose second convolution is an RFAConv: (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198."""

    second_conv = RFAConv


class C3_RFAConv(C3Wrapper):
    """C3 of n bottlenecks whose second convolution is an RFAConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFAConv


class C2f_RFAConv(C2fWrapper):
    """C2f of n bottlenecks whose second convolution is an RFAConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFAConv


class C3k2_RFAConv(C3k2Wrapper):
    """C3k2 of n bottlenecks whose second convolution is an RFAConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFAConv


class Bottleneck_RFCBAMConv(Bottleneck):
    """Bottleneck whose second convolution is an RFCBAMConv: (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198."""

    second_conv = RFCBAMConv


class C3_RFCBAMConv(C3Wrapper):
    """C3 of n bottlenecks whose second convolution is an RFCBAMConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFCBAMConv


class C2f_RFCBAMConv(C2fWrapper):
    """C2f of n bottlenecks whose second convolution is an RFCBAMConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFCBAMConv


class C3k2_RFCBAMConv(C3k2Wrapper):
    """C3k2 of n bottlenecks whose second convolution is an RFCBAMConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFCBAMConv


class Bottleneck_RFCAConv(Bottleneck):
    """Bottleneck whose second convolution is an RFCAConv: (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198."""

    second_conv = RFCAConv


class C3_RFCAConv(C3Wrapper):
    """C3 of n bottlenecks whose second convolution is an RFCAConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFCAConv


class C2f_RFCAConv(C2fWrapper):
    """C2f of n bottlenecks whose second convolution is an RFCAConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFCAConv


class C3k2_RFCAConv(C3k2Wrapper):
    """C3k2 of n bottlenecks whose second convolution is an RFCAConv.

    (B, c1, H, W) -> (B, c2, H, W). arXiv 2304.03198.
    """

    block = Bottleneck_RFCAConv
