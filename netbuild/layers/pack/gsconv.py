"""Convolutions and blocks of slim-neck: half of each output from a cheap depthwise convolution, then mixed."""

import torch
from torch import nn

from netbuild.layers.activation import Act
from netbuild.layers.conv import Conv
from netbuild.layers.csp import make_chain
from netbuild.layers.pack.parts import check_multiple, shuffle_channels


class GSConv(nn.Module):
    """A Conv to half of the channels, a depthwise 5x5 of it for the other half, and the channels reordered.

    (B, c1, H, W) -> (B, c2, H/s, W/s). Raises ValueError for odd c2. Slim-neck, arXiv 2206.02424.

    Args:
        c1, c2: channels in and out.
        k, s, g: kernel, stride and groups of the first convolution.
        act: activation of both; the authors' is "Mish".
        interleave: whether channels of both halves alternate, as in the authors' current file, instead of all even
            channels before all odd ones, as in their first file and in its copies.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: Act = True, interleave: bool = False):
        super().__init__()
        check_multiple(c2, 2, "output channels")
        half = c2 // 2
        self.groups = 2 if interleave else half
        self.cv1 = Conv(c1, half, k, s, g=g, act=act)
        self.cv2 = Conv(half, half, 5, g=half, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return shuffle_channels(torch.cat((x, self.cv2(x)), 1), self.groups)


class GSBottleneck(nn.Module):
    """Two GSConvs, plus a 1x1 Conv of the input: (B, c1, H, W) -> (B, c2, H, W).

    Both have the default activation; in the authors' file the second one has none.
    Raises ValueError if int(c2 * e) or c2 is odd. Slim-neck, arXiv 2206.02424.

    Args:
        c1, c2: channels in and out.
        e: int(c2 * e) channels are between the two.
    """

    def __init__(self, c1: int, c2: int, e: float = 0.5):
        super().__init__()
        c = int(c2 * e)
        self.conv_lighting = nn.Sequential(GSConv(c1, c), GSConv(c, c2, 3))
        self.shortcut = Conv(c1, c2, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_lighting(x) + self.shortcut(x)


class CheapGSBottleneck(GSBottleneck):
    """GSBottleneck with a depthwise shortcut: (B, c, H, W) -> same shape. Slim-neck, arXiv 2206.02424."""

    def __init__(self, c: int):
        super().__init__(c, c)
        self.shortcut = Conv(c, c, g=c, act=False)


class OldGSBottleneck(nn.Module):
    """GSBottleneck of the first public file: 1x1 GSConvs, Mish in the first, a 3x3 shortcut, two unused layers.

    (B, c, H, W) -> same shape. Slim-neck, arXiv 2206.02424.
    """

    def __init__(self, c: int):
        super().__init__()
        self.conv_lighting = nn.Sequential(GSConv(c, c // 2, act=nn.Mish()), GSConv(c // 2, c, act=False))
        self.conv = nn.Sequential(GSConv(c, c // 2, 3, act=nn.Mish()), GSConv(c // 2, c, 3, act=False))
        self.shortcut = Conv(c, c, 3, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_lighting(x) + self.shortcut(x)


class SlimStage(nn.Module):
    """Base of VoVGSCSP and its kin: bottlenecks of GSConvs on one of two paths, which are concatenated.

    Args:
        c1, c2: channels in and out.
        c: hidden channels.
        gsb: the bottlenecks, (B, c, H, W) -> same shape.
        act: activation of the convolutions.
    """

    def __init__(self, c1: int, c2: int, c: int, gsb: nn.Module, act: Act = True):
        super().__init__()
        self.cv1 = Conv(c1, c, act=act)
        self.cv2 = Conv(c1, c, act=act)
        self.gsb = gsb
        self.res = Conv(c, c, 3, act=False)  # without effect, but public networks have its weights
        self.cv3 = Conv(2 * c, c2, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.cv2(x), self.gsb(self.cv1(x))), 1))


class VoVGSCSP(SlimStage):
    """n GSBottlenecks on one of two paths, which are concatenated: (B, c1, H, W) -> (B, c2, H, W).

    The layer `res` has no effect but is counted, as in public networks; neither have `shortcut` and `g`. Raises
    ValueError if int(c2 * e) is odd. Slim-neck, arXiv 2206.02424.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        c = int(c2 * e)
        super().__init__(c1, c2, c, make_chain(n, lambda: GSBottleneck(c, c, 1.0)))


class VoVGSCSPC(SlimStage):
    """VoVGSCSP with one cheaper bottleneck, whose shortcut is depthwise, whatever n: (B, c1, H, W) -> (B, c2, H, W).

    The layer `res`, `n`, `shortcut` and `g` have no effect. Raises ValueError unless int(c2 * e) is a multiple of 4.
    Slim-neck, arXiv 2206.02424.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ):
        c = int(c2 * e)
        super().__init__(c1, c2, c, CheapGSBottleneck(c))


class VoVGSCSP_yoloair(SlimStage):
    """VoVGSCSP as yoloair has it: one bottleneck whatever n, with the activation Mish: (B, c1, H, W) -> (B, c2, H, W).

    The layers `res` and `gsb.conv`, `n`, `shortcut` and `g` have no effect. Raises ValueError unless int(c2 * e) is a
    multiple of 4. Slim-neck, arXiv 2206.02424.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        c = int(c2 * e)
        super().__init__(c1, c2, c, OldGSBottleneck(c), nn.Mish())
