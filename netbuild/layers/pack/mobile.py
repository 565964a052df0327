"""Blocks of networks for phones: PicoDet, PP-LCNet, MobileNetV3, ShuffleNetV2, EfficientNet-Lite."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.attention import check_equal_channels
from netbuild.layers.conv import Conv
from netbuild.layers.pack.parts import ConvGate, check_multiple, shuffle_channels


def make_depthwise_norm(c: int, k: int, s: int, bias: bool = False) -> list[nn.Module]:
    """Make a depthwise convolution and its norm."""
    return [nn.Conv2d(c, c, k, s, (k - 1) // 2, groups=c, bias=bias), nn.BatchNorm2d(c)]


def make_point_norm(c1: int, c2: int) -> list[nn.Module]:
    """Make a 1x1 convolution and its norm."""
    return [nn.Conv2d(c1, c2, 1, bias=False), nn.BatchNorm2d(c2)]


def check_halves(c1: int, c2: int, s: int) -> int:
    """Return half the output channels.

    Raises ValueError unless they are even, and at stride 1 as many as the input channels, whose first half passes.
    """
    check_multiple(c2, 2, "output channels")
    if s == 1:
        check_equal_channels(c1, c2)
    return c2 // 2


class GhostHalves(nn.Module):
    """A 1x1 Conv for half the maps and a depthwise 3x3 of these for the others: (B, c, H, W) -> same shape.

    GhostNet, arXiv 1911.11907.
    """

    def __init__(self, channels: int):
        super().__init__()
        check_multiple(channels, 2, "half the output channels")
        self.cv1 = Conv(channels, channels // 2)
        self.cv2 = Conv(channels // 2, channels // 2, 3, g=channels // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return torch.cat((x, self.cv2(x)), 1)


class ES_Bottleneck(nn.Module):
    """Block of the enhanced ShuffleNet, with ghost convolutions and channel gates: (B, c1, H, W) -> (B, c2, H/s, W/s).

    At stride 1 half of the channels pass, then all are shuffled. Branches that the stride does not need are there, as
    in the public weights. Raises ValueError unless c2 is a multiple of 4, and c1 = c2 at stride 1.
    PicoDet, arXiv 2111.00902.
    """

    def __init__(self, c1: int, c2: int, s: int = 1):
        super().__init__()
        b = check_halves(c1, c2, s)
        act = nn.Hardswish()
        if s > 1:
            self.branch1 = nn.Sequential(*make_depthwise_norm(c1, 3, s), *make_point_norm(c1, b), act)
        self.branch2 = nn.Sequential(
            *make_point_norm(c1 if s > 1 else b, b),
            act,
            *make_depthwise_norm(b, 3, s),
            ConvGate(b, b // 4, nn.Hardsigmoid()),
            *make_point_norm(b, b),
            act,
        )
        self.branch3 = nn.Sequential(GhostHalves(b), ConvGate(b, b // 4, nn.Hardsigmoid()), *make_point_norm(b, b), act)
        self.branch4 = nn.Sequential(*make_depthwise_norm(c2, 3, 1), *make_point_norm(c2, c2), act)
        self.s = s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.s == 1:
            first, second = x.chunk(2, 1)
            return shuffle_channels(torch.cat((first, self.branch3(second)), 1), 2)
        return self.branch4(torch.cat((self.branch1(x), self.branch2(x)), 1))


class LC_Block(nn.Module):
    """Depthwise and 1x1 Conv with Hardswish, and if `use_se` a channel gate between.

    (B, c1, H, W) -> (B, c2, H/s, W/s). The gate's weights come from SiLU in place of a sigmoid, as in the public
    weights. `dw_size` is the size of the depthwise kernel. PP-LCNet, arXiv 2109.15099.
    """

    def __init__(self, c1: int, c2: int, s: int = 1, dw_size: int = 3, use_se: bool = False):
        super().__init__()
        act = nn.Hardswish()
        self.dw_conv = Conv(c1, c1, dw_size, s, (dw_size - 1) // 2, g=c1, act=act)
        self.se = ConvGate(c1, c1 // 4, nn.SiLU()) if use_se else nn.Identity()
        self.pw_conv = Conv(c1, c2, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pw_conv(self.se(self.dw_conv(x)))


class Excitation(nn.Module):
    """ConvGate whose convolutions are named as in public weights of PP-LCNet: (B, c, H, W) -> same shape."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.Excitation = ConvGate(channels, hidden, names=("FC1", "FC2"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Excitation(x)


class DepthSepConv(nn.Module):
    """Depthwise and 1x1 convolution with Hardswish, and if `use_se` a channel gate between.

    (B, c1, H, W) -> (B, c2, H/s, W/s). Unlike LC_Block's, the gate has a sigmoid and c1 // 16 hidden channels;
    `dw_size` is the size of the depthwise kernel. PP-LCNet, arXiv 2109.15099.
    """

    def __init__(self, c1: int, c2: int, dw_size: int = 3, s: int = 1, use_se: bool = False):
        super().__init__()
        act = nn.Hardswish()
        self.dw_sp = nn.Sequential(
            *make_depthwise_norm(c1, dw_size, s),
            act,
            Excitation(c1, c1 // 16) if use_se else nn.Identity(),
            *make_point_norm(c1, c2),
            act,
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dw_sp(x)


class MobileNetV3_InvertedResidual(nn.Module):
    """Inverted residual with a channel gate: 1x1 to `hidden` channels, depthwise k x k, 1x1 to c2.

    (B, c1, H, W) -> (B, c2, H/s, W/s). The first 1x1 is left out if hidden = c1, and the input is added if s = 1 and
    c1 = c2. MobileNetV3, arXiv 1905.02244.

    Args:
        c1, c2: channels in and out.
        hidden: channels between; not scaled by the width multiple.
        k, s: size and stride of the depthwise kernel.
        use_se: whether there is a gate.
        use_hs: whether the activation is Hardswish; ReLU otherwise.
    """

    def __init__(self, c1: int, c2: int, hidden: int, k: int = 3, s: int = 1, use_se: bool = True, use_hs: bool = True):
        super().__init__()
        act = self.make_act() if use_hs else nn.ReLU()
        gate = self.make_gate(hidden) if use_se else nn.Identity()
        depthwise, project = make_depthwise_norm(hidden, k, s), make_point_norm(hidden, c2)
        if hidden == c1:
            self.conv = nn.Sequential(*depthwise, act, gate, *project)
        else:
            self.conv = nn.Sequential(*make_point_norm(c1, hidden), act, *depthwise, gate, act, *project)
        self.add = s == 1 and c1 == c2

    def make_act(self) -> nn.Module:
        """Make the activation for `use_hs`."""
        return nn.Hardswish()

    def make_gate(self, channels: int) -> nn.Module:
        """Make the channel gate."""
        return Excitation(channels, channels // 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return x + y if self.add else y


class LinearGate(nn.Module):
    """Gate of the channels by two linear layers and a hard sigmoid: (B, c, H, W) -> same shape. arXiv 1905.02244."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        check_multiple(channels, reduction, "hidden channels")
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class mobilev3_bneck(MobileNetV3_InvertedResidual):
    """MobileNetV3_InvertedResidual with a gate of linear layers, as in YOLOAir: (B, c1, H, W) -> (B, c2, H/s, W/s).

    The activation for `use_hs` is a hard sigmoid, relu6(x + 3) / 6, where the paper has x times it: public weights are
    trained so. MobileNetV3, arXiv 1905.02244.
    """

    def make_act(self) -> nn.Module:
        return nn.Hardsigmoid()

    def make_gate(self, channels: int) -> nn.Module:
        return LinearGate(channels)


class Shuffle_Block(nn.Module):
    """Block of ShuffleNetV2: 1x1, depthwise 3x3 and 1x1 on half the channels, then a shuffle.

    (B, c1, H, W) -> (B, c2, H/s, W/s). At stride 1 half of the channels pass, at other strides a second branch makes
    them. Raises ValueError unless c2 is even, and c1 = c2 at stride 1. ShuffleNetV2, arXiv 1807.11164.
    """

    depthwise_bias = False

    def __init__(self, c1: int, c2: int, s: int = 1):
        super().__init__()
        b, bias = check_halves(c1, c2, s), self.depthwise_bias
        if s > 1:
            self.branch1 = nn.Sequential(*make_depthwise_norm(c1, 3, s, bias), *make_point_norm(c1, b), nn.ReLU())
        self.branch2 = nn.Sequential(
            *make_point_norm(c1 if s > 1 else b, b),
            nn.ReLU(),
            *make_depthwise_norm(b, 3, s, bias),
            *make_point_norm(b, b),
            nn.ReLU(),
        )
        self.s = s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.s == 1:
            first, second = x.chunk(2, 1)
        else:
            first, second = self.branch1(x), x
        return shuffle_channels(torch.cat((first, self.branch2(second)), 1), 2)


class ShuffleNetV2_Model(Shuffle_Block):
    """Shuffle_Block whose depthwise convolutions have a bias: (B, c1, H, W) -> (B, c2, H/s, W/s).

    ShuffleNetV2, arXiv 1807.11164.
    """

    depthwise_bias = True


class MBConvBlock(nn.Module):
    """Depthwise k x k and 1x1 convolution, added to the input at stride 1: (B, c1, H, W) -> (B, c2, H/s, W/s).

    Without the growth of the channels and the gate that EfficientNet has. Raises ValueError unless c1 = c2.
    EfficientNet-Lite, arXiv 1905.11946.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        check_equal_channels(c1, c2)
        self._depthwise_conv = nn.Conv2d(c1, c1, k, s, (k - 1) // 2, groups=c1, bias=False)
        self._bn1 = nn.BatchNorm2d(c1, eps=1e-3)
        self._project_conv = nn.Conv2d(c1, c2, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(c2, eps=1e-3)
        self.add = s == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self._bn1(self._depthwise_conv(x)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.add else y
