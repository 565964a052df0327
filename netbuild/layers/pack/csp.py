"""Cross-stage partial (CSP) blocks of Scaled-YOLOv4, YOLOR and YOLOv7, and those with residual or ghost blocks.

The letter says where the two paths part: A before the first convolutions, B after one, C as A with one more
convolution after the blocks, F as A with a norm and an activation around the joined paths.
"""

from functools import partial

import torch
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import Conv, RepConv
from netbuild.layers.csp import C3, Bottleneck, GhostBottleneck, make_chain
from netbuild.layers.pack.parts import check_multiple, set_activation

GROUPS = 32  # of the grouped 3x3 convolutions of ResNeXt


def make_bottlenecks(c: int, n: int, shortcut: bool, g: int) -> nn.Sequential:
    """Make a chain of n bottlenecks of a 1x1 and a 3x3 convolution."""
    return make_chain(n, lambda: Bottleneck(c, c, shortcut, g, (1, 3), 1.0))


class Res(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution: (B, c1, H, W) -> (B, c2, H, W).

    The input is added if `shortcut` and c1 = c2. Raises ValueError unless the hidden channels, int(c2 * e), are a
    multiple of g. ResNet, arXiv 1512.03385.
    """

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        check_multiple(c_, g, "hidden channels (c2 * e)")
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c_, c_, 3, g=g)
        self.cv3 = Conv(c_, c2)
        self.add = shortcut and c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv3(self.cv2(self.cv1(x)))
        return x + y if self.add else y


def make_residuals(c: int, n: int, shortcut: bool, g: int, e: float = 0.5) -> nn.Sequential:
    """Make a chain of n Res blocks."""
    return make_chain(n, lambda: Res(c, c, shortcut, g, e))


class BottleneckCSPA(C3):
    """CSP block whose paths part at the input, the same as C3: (B, c1, H, W) -> (B, c2, H, W).

    YOLOR and YOLOv7, arXiv 2207.02696.
    """


class BottleneckCSPB(nn.Module):
    """CSP block whose paths part after the first convolution: (B, c1, H, W) -> (B, c2, H, W).

    All hidden maps have c2 channels: `e` has no effect. YOLOR and YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(make_bottlenecks)

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5):
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.cv2 = Conv(c2, c2)
        self.cv3 = Conv(2 * c2, c2)
        self.m = self.make_inner(c2, n, shortcut, g)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return self.cv3(torch.cat((self.m(x), self.cv2(x)), 1))


class BottleneckCSPC(nn.Module):
    """BottleneckCSPA with one more convolution after the bottlenecks: (B, c1, H, W) -> (B, c2, H, W).

    YOLOR and YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(make_bottlenecks)

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1, self.cv2 = Conv(c1, c_), Conv(c1, c_)
        self.cv3 = Conv(c_, c_)
        self.cv4 = Conv(2 * c_, c2)
        self.m = self.make_inner(c_, n, shortcut, g)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv4(torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1))


class ResCSPA(C3):
    """BottleneckCSPA of n Res blocks: (B, c1, H, W) -> (B, c2, H, W). YOLOv7, arXiv 2207.02696."""

    make_inner = staticmethod(make_residuals)


class ResCSPB(BottleneckCSPB):
    """BottleneckCSPB of n Res blocks: (B, c1, H, W) -> (B, c2, H, W); `e` has no effect. YOLOv7, arXiv 2207.02696."""

    make_inner = staticmethod(make_residuals)

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)


class ResCSPC(BottleneckCSPC):
    """BottleneckCSPC of n Res blocks: (B, c1, H, W) -> (B, c2, H, W). YOLOv7, arXiv 2207.02696."""

    make_inner = staticmethod(make_residuals)


class ResXCSPA(ResCSPA):
    """ResCSPA with 3x3 convolutions in groups, and as many channels inside: (B, c1, H, W) -> (B, c2, H, W).

    Raises ValueError unless the hidden channels, int(c2 * e), are a multiple of g. YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(partial(make_residuals, e=1.0))

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = GROUPS, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)


class ResXCSPB(ResCSPB):
    """ResCSPB with 3x3 convolutions in groups, and as many channels inside: (B, c1, H, W) -> (B, c2, H, W).

    Raises ValueError unless c2 is a multiple of g. YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(partial(make_residuals, e=1.0))

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = GROUPS, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)


class ResXCSPC(ResCSPC):
    """ResCSPC with 3x3 convolutions in groups, and as many channels inside: (B, c1, H, W) -> (B, c2, H, W).

    Raises ValueError unless the hidden channels, int(c2 * e), are a multiple of g. YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(partial(make_residuals, e=1.0))

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = GROUPS, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)


def make_ghosts(c: int, n: int, shortcut: bool, g: int) -> nn.Sequential:
    """Make a chain of n ghost bottlenecks; `shortcut` and `g` have no effect."""
    return make_chain(n, lambda: GhostBottleneck(c, c))


class GhostCSPA(C3):
    """BottleneckCSPA of n ghost bottlenecks: (B, c1, H, W) -> (B, c2, H, W); `shortcut` and `g` have no effect.

    YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(make_ghosts)


class GhostCSPB(BottleneckCSPB):
    """BottleneckCSPB of n ghost bottlenecks: (B, c1, H, W) -> (B, c2, H, W); `shortcut`, `g` and `e` have no effect.

    YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(make_ghosts)


class GhostCSPC(BottleneckCSPC):
    """BottleneckCSPC of n ghost bottlenecks: (B, c1, H, W) -> (B, c2, H, W); `shortcut` and `g` have no effect.

    YOLOv7, arXiv 2207.02696.
    """

    make_inner = staticmethod(make_ghosts)


class BottleneckCSP2(nn.Module):
    """CSP block whose paths part after the first convolution and are normalised together, with Mish by default.

    (B, c1, H, W) -> (B, c2, H, W). All hidden maps have c2 channels: `e` has no effect. `act` is the activation of all
    layers; None is Mish, as in the files of Scaled-YOLOv4. Scaled-YOLOv4, arXiv 2011.08036.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5, act: Act = None
    ):
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.cv2 = nn.Conv2d(c2, c2, 1, bias=False)
        self.cv3 = Conv(2 * c2, c2)
        self.bn = nn.BatchNorm2d(2 * c2)
        self.act = nn.Mish() if act is None else resolve_activation(act)
        self.m = make_bottlenecks(c2, n, shortcut, g)
        set_activation(self, self.act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return self.cv3(self.act(self.bn(torch.cat((self.m(x), self.cv2(x)), 1))))


class BottleneckCSPF(nn.Module):
    """CSP block whose paths part at the input and are normalised together: (B, c1, H, W) -> (B, c2, H, W).

    YOLOR, arXiv 2105.04206.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = nn.Conv2d(c1, c_, 1, bias=False)
        self.cv4 = Conv(2 * c_, c2)
        self.bn = nn.BatchNorm2d(2 * c_)
        self.act = nn.SiLU()
        self.m = make_bottlenecks(c_, n, shortcut, g)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv4(self.act(self.bn(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))))


class C3C2(nn.Module):
    """CSP block whose one path skips all layers but the first, with Mish at its end: (B, c1, H, W) -> (B, c2, H, W).

    Raises ValueError unless c1 and the hidden channels, int(c2 * e), are multiples of g.
    CSPNet, arXiv 1911.11929; the block is YOLOAir's.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        for channels in (c1, c_):
            check_multiple(channels, g, "channels in and hidden channels (c2 * e)")
        self.conv = nn.Conv2d(c1, c_, 1, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c_)
        self.act = nn.SiLU()
        self.cv1 = Conv(2 * c_, c2, act=nn.Mish())
        self.m = make_bottlenecks(c_, n, shortcut, g)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.cv1(torch.cat((self.m(self.act(self.bn(y))), y), 1))


class RepResidual(nn.Module):
    """RepConv, then a 3x3 Conv, added to the input: (B, c, H, W) -> same shape. DAMO-YOLO, arXiv 2211.15444."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = Conv(channels, channels, 3)
        self.conv2 = RepConv(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv1(self.conv2(x))


class CSPStage(nn.Module):
    """Chain of n residual RepConv blocks on one of two paths, all outputs joined: (B, c1, H, W) -> (B, c2, H, W).

    DAMO-YOLO, arXiv 2211.15444.
    """

    def __init__(self, c1: int, c2: int, n: int = 1):
        super().__init__()
        first = c2 // 2
        c = c2 - first
        self.conv1 = Conv(c1, first)
        self.conv2 = Conv(c1, c)
        self.convs = nn.ModuleList(RepResidual(c) for _ in range(n))
        self.conv3 = Conv(n * c + first, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [self.conv1(x)]
        y = self.conv2(x)
        for block in self.convs:
            y = block(y)
            outputs.append(y)
        return self.conv3(torch.cat(outputs, 1))
