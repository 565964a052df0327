"""Bottlenecks and cross-stage partial (CSP) blocks: part of the channels is processed, and all are concatenated."""

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
from torch import nn

from netbuild.layers.attention import ABlock, PSABlock, check_equal_channels
from netbuild.layers.conv import Conv, DWConv, GhostConv, RepConv, Size2
from netbuild.layers.transformer import TransformerBlock
from netbuild.roles import Plain


def make_chain(n: int, make: Callable[[], nn.Module]) -> nn.Sequential:
    """Create a sequence of n modules."""
    return nn.Sequential(*(make() for _ in range(n)))


class Bottleneck(nn.Module):
    """Two convolutions, plus the input if `shortcut` and c1 = c2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1512.03385."""

    first_conv: type[nn.Module] = Conv
    second_conv: type[nn.Module] = Conv

    def __init__(
        self,
        c1: int,
        c2: int,
        shortcut: bool = True,
        g: int = 1,
        k: tuple[Size2, Size2] = (3, 3),
        e: float = 0.5,
    ):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = self.first_conv(c1, c_, k[0])
        self.cv2 = self.second_conv(c_, c2, k[1], g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class RepBottleneck(Bottleneck):
    """Bottleneck whose first convolution is a RepConv (k[0] must be 3). YOLOv9, arXiv 2402.13616."""

    first_conv = RepConv


class GhostBottleneck(nn.Module):
    """Two GhostConvs, with a depthwise convolution between at s = 2: (B, c1, H, W) -> (B, c2, H/s, W/s).

    The input is always added, so c1 = c2 unless s = 2; raises ValueError otherwise. GhostNet, arXiv 1911.11907.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        c_, down = c2 // 2, s == 2
        if not down:
            check_equal_channels(c1, c2)
        between = DWConv(c_, c_, k, s, act=False) if down else nn.Identity()
        self.conv = nn.Sequential(GhostConv(c1, c_), between, GhostConv(c_, c2, act=False))
        self.shortcut = (
            nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False)) if down else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.shortcut(x)


class BottleneckCSP(nn.Module):
    """The cross-stage partial block as published: (B, c1, H, W) -> (B, c2, H, W). CSPNet, arXiv 1911.11929."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = nn.Conv2d(c1, c_, 1, bias=False)
        self.cv3 = nn.Conv2d(c_, c_, 1, bias=False)
        self.cv4 = Conv(2 * c_, c2)
        self.bn = nn.BatchNorm2d(2 * c_)
        self.act = nn.SiLU()  # as published, whatever the default activation
        self.m = make_chain(n, lambda: Bottleneck(c_, c_, shortcut, g, e=1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        joined = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(joined)))


class C1(nn.Module):
    """1x1 Conv, then n 3x3 Convs with one residual connection around them: (B, c1, H, W) -> (B, c2, H, W)."""

    def __init__(self, c1: int, c2: int, n: int = 1):
        super().__init__()
        self.cv1 = Conv(c1, c2)
        self.m = make_chain(n, lambda: Conv(c2, c2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return x + self.m(x)


class C2(nn.Module):
    """n bottlenecks on the first half of the hidden channels: (B, c1, H, W) -> (B, c2, H, W).

    CSPNet, arXiv 1911.11929.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv(2 * c, c2)
        self.m = make_chain(n, lambda: Bottleneck(c, c, shortcut, g, e=1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((self.m(a), b), 1))


class DenseStage(nn.Module):
    """Base of C2f and its variants: a chain of blocks, whose outputs are all concatenated for the last convolution.

    Args:
        c1, c2: channels in and out.
        c: channels of each block.
        blocks: the blocks, (B, c, H, W) -> (B, c, H, W).
        spare: number of further outputs that a subclass concatenates.
    """

    def __init__(self, c1: int, c2: int, c: int, blocks: Iterable[nn.Module], spare: int = 0):
        super().__init__()
        blocks = nn.ModuleList(blocks)
        self.c = c
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv((2 + len(blocks) + spare) * c, c2)
        self.m = blocks

    def compute_outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the output of the first convolution (2*c channels), and that of each block (c channels)."""
        x = self.cv1(x)
        # Not split in two: the concatenation would put both halves side by side again.
        outputs = [x]
        x = x.narrow(1, self.c, self.c)
        for block in self.m:
            x = block(x)
            outputs.append(x)
        return outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv2(torch.cat(self.compute_outputs(x), 1))


class C2f(DenseStage):
    """A chain of n bottlenecks, all outputs concatenated: (B, c1, H, W) -> (B, c2, H, W).

    Cf. ELAN, arXiv 2207.02696.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5):
        c = int(c2 * e)
        super().__init__(c1, c2, c, (Bottleneck(c, c, shortcut, g, e=1.0) for _ in range(n)))


class CrossStage(nn.Module):
    """Base of C3 and its variants: two 1x1 convolutions, `m` after the first, concatenated for a third."""

    conv: type[nn.Module] = Conv

    def __init__(self, c1: int, c2: int, c: int, m: nn.Module):
        super().__init__()
        self.cv1 = self.conv(c1, c)
        self.cv2 = self.conv(c1, c)
        self.cv3 = self.conv(2 * c, c2)
        self.m = m

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3(CrossStage):
    """CSP block with n bottlenecks (1x1, 3x3) on one of two paths: (B, c1, H, W) -> (B, c2, H, W).

    CSPNet, arXiv 1911.11929.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        c_ = int(c2 * e)
        super().__init__(c1, c2, c_, self.make_inner(c_, n, shortcut, g))

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """Create the modules of the first path."""
        return make_chain(n, lambda: Bottleneck(c, c, shortcut, g, (1, 3), 1.0))


class C3x(C3):
    """C3 with 1x3 and 3x1 kernels."""

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return make_chain(n, lambda: Bottleneck(c, c, shortcut, g, ((1, 3), (3, 1)), 1.0))


class C3Ghost(C3):
    """C3 with ghost bottlenecks; shortcut and g have no effect. GhostNet, arXiv 1911.11907."""

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return make_chain(n, lambda: GhostBottleneck(c, c))


class C3TR(C3):
    """C3 with n transformer layers of 4 heads; shortcut and g have no effect. ViT, arXiv 2010.11929."""

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return TransformerBlock(c, c, num_heads=4, num_layers=n)


class RepCSP(C3):
    """C3 with bottlenecks that begin with a RepConv. YOLOv9, arXiv 2402.13616."""

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return make_chain(n, lambda: RepBottleneck(c, c, shortcut, g, e=1.0))


class C3k(CrossStage):
    """C3 whose bottlenecks have two k x k kernels: (B, c1, H, W) -> (B, c2, H, W)."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5, k: Size2 = 3):
        c_ = int(c2 * e)
        super().__init__(c1, c2, c_, make_chain(n, lambda: Bottleneck(c_, c_, shortcut, g, (k, k), 1.0)))


class C3f(nn.Module):
    """C3 that concatenates the outputs of all bottlenecks: (B, c1, H, W) -> (B, c2, H, W)."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c1, c_)
        self.cv3 = Conv((2 + n) * c_, c2)
        self.m = nn.ModuleList(Bottleneck(c_, c_, shortcut, g, e=1.0) for _ in range(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [self.cv2(x), self.cv1(x)]
        for block in self.m:
            outputs.append(block(outputs[-1]))
        return self.cv3(torch.cat(outputs, 1))


class C3k2(DenseStage):
    """C2f whose blocks are bottlenecks, C3k modules (`c3k`), or pairs of a bottleneck and a PSABlock (`attn`).

    (B, c1, H, W) -> (B, c2, H, W); `attn` takes precedence over `c3k`. YOLO11.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        c3k: bool = False,
        e: float = 0.5,
        attn: bool = False,
        g: int = 1,
        shortcut: bool = True,
    ):
        c = int(c2 * e)

        def block() -> nn.Module:
            if attn:
                return nn.Sequential(Bottleneck(c, c, shortcut, g), PSABlock(c, num_heads=max(c // 64, 1)))
            return C3k(c, c, 2, shortcut, g) if c3k else Bottleneck(c, c, shortcut, g)

        super().__init__(c1, c2, c, (block() for _ in range(n)))


class C2fPSA(DenseStage):
    """C2f whose blocks are PSABlocks: (B, c1, H, W) -> same shape. Raises ValueError unless c1 = c2."""

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5):
        check_equal_channels(c1, c2)
        c = int(c2 * e)
        super().__init__(c1, c2, c, (PSABlock(c, num_heads=max(c // 64, 1)) for _ in range(n)))


class A2C2f(nn.Module):
    """A chain of n pairs of ABlocks (a2) or of n C3k, all outputs concatenated: (B, c1, H, W) -> (B, c2, H, W).

    With `a2` and `residual` the result is scaled by a trained gamma and added to the input. Raises ValueError unless
    int(c2 * e) is a multiple of 32, and c1 = c2 where there is a gamma. YOLOv12, arXiv 2502.12524.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        a2: bool = True,
        area: int = 1,
        residual: bool = False,
        mlp_ratio: float = 2.0,
        e: float = 0.5,
        g: int = 1,
        shortcut: bool = True,
    ):
        super().__init__()
        c_ = int(c2 * e)
        if c_ % 32:  # each attention head has 32 channels
            raise ValueError(f"hidden channels (c2 * e) must be a multiple of 32: {c_} from {c2} * {e}")
        if a2 and residual:
            check_equal_channels(c1, c2)

        def block() -> nn.Module:
            if a2:
                return make_chain(2, lambda: ABlock(c_, c_ // 32, mlp_ratio, area))
            return C3k(c_, c_, 2, shortcut, g)

        self.gamma = nn.Parameter(torch.full((c2,), 0.01)) if a2 and residual else None
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv((1 + n) * c_, c2)
        self.m = nn.ModuleList(block() for _ in range(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [self.cv1(x)]
        for block in self.m:
            outputs.append(block(outputs[-1]))
        y = self.cv2(torch.cat(outputs, 1))
        return y if self.gamma is None else torch.addcmul(x, self.gamma.view(-1, 1, 1), y)


class RepC3(nn.Module):
    """n RepConvs on one of two paths, which are added: (B, c1, H, W) -> (B, c2, H, W). RT-DETR, arXiv 2304.08069."""

    def __init__(self, c1: int, c2: int, n: int = 3, e: float = 1.0):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_)
        self.cv2 = Conv(c1, c_)
        self.m = make_chain(n, lambda: RepConv(c_, c_))
        self.cv3 = Conv(c_, c2) if c_ != c2 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(self.m(self.cv1(x)) + self.cv2(x))


class ElanStage(nn.Module):
    """Base of RepNCSPELAN4 and ELAN1: two stages in a row on half the channels, all outputs concatenated.

    Args:
        c1, c2: channels in and out.
        c3: hidden channels.
        c4: channels of each stage.
        cv2, cv3: the stages.
    """

    def __init__(self, c1: int, c2: int, c3: int, c4: int, cv2: nn.Module, cv3: nn.Module):
        super().__init__()
        self.half = c3 // 2
        self.cv1 = Conv(c1, c3)
        self.cv2 = cv2
        self.cv3 = cv3
        self.cv4 = Conv(c3 + 2 * c4, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        a = self.cv2(x.narrow(1, x.shape[1] - self.half, self.half))
        return self.cv4(torch.cat((x, a, self.cv3(a)), 1))


class RepNCSPELAN4(ElanStage):
    """ELAN block whose stages are RepCSPs of depth n: (B, c1, H, W) -> (B, c2, H, W). YOLOv9, arXiv 2402.13616."""

    def __init__(self, c1: int, c2: int, c3: int, c4: int, n: Annotated[int, Plain] = 1):
        def branch(width: int) -> nn.Sequential:
            return nn.Sequential(RepCSP(width, c4, n), Conv(c4, c4, 3))

        super().__init__(c1, c2, c3, c4, branch(c3 // 2), branch(c4))


class ELAN1(ElanStage):
    """ELAN block whose stages are single 3x3 convolutions: (B, c1, H, W) -> (B, c2, H, W). YOLOv9, arXiv 2402.13616."""

    def __init__(self, c1: int, c2: int, c3: int, c4: int):
        super().__init__(c1, c2, c3, c4, Conv(c3 // 2, c4, 3), Conv(c4, c4, 3))
