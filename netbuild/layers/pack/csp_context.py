"""C3 blocks whose inner blocks see a wider context: shared dilated kernels, global context, attention."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.csp import CrossStage, make_chain
from netbuild.layers.pack.context_attention import ContextBlock2d
from netbuild.layers.pack.csp import make_bottlenecks
from netbuild.layers.pack.parts import check_multiple
from netbuild.layers.pack.transformer import MHSA, CoTAttention


class TridentBlock(nn.Module):
    """Bottleneck whose 3x3 kernel is used with dilations 1, 2 and 3; the three results are added.

    (B, c, H, W) -> same shape. TridentNet, arXiv 1901.01892.
    """

    def __init__(self, channels: int):
        super().__init__()
        check_multiple(channels, 2, "hidden channels (c2 * e)")
        self.share_weightconv1 = nn.Parameter(torch.empty(channels // 2, channels, 1, 1))
        self.share_weightconv2 = nn.Parameter(torch.empty(channels, channels // 2, 3, 3))
        for weight in (self.share_weightconv1, self.share_weightconv2):
            nn.init.kaiming_uniform_(weight, nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(channels // 2)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x)
        for d in (1, 2, 3):
            y = F.silu(self.bn1(F.conv2d(x, self.share_weightconv1)))
            y = self.bn2(F.conv2d(y, self.share_weightconv2, padding=d, dilation=d))
            total = total + F.silu(y + x)
        return total


class RFEM(nn.Module):
    """TridentBlock whose results are added to the input and normalised: (B, c, H, W) -> same shape.

    YOLO-FaceV2, arXiv 2208.02019.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.layer = nn.Sequential(TridentBlock(channels))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.bn(self.layer(x) + x))


class C3RFEM(CrossStage):
    """C3 of n blocks with a kernel shared by dilations 1, 2 and 3 (RFEM): (B, c1, H, W) -> (B, c2, H, W).

    `shortcut` has no effect. Raises ValueError unless the hidden channels, int(c2 * e), are even.
    YOLO-FaceV2, arXiv 2208.02019.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, e: float = 0.5):
        c_ = int(c2 * e)
        super().__init__(c1, c2, c_, make_chain(n, lambda: RFEM(c_)))


class C3GC(nn.Module):
    """C3 whose second path begins with a global context block: (B, c1, H, W) -> (B, c2, H, W).

    GCNet, arXiv 1904.11492; the block is YOLOAir's.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.gc = ContextBlock2d(c1)
        self.cv1, self.cv2 = Conv(c1, c_), Conv(c1, c_)
        self.cv3 = Conv(2 * c_, c2)
        self.m = make_bottlenecks(c_, n, shortcut, g)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(self.gc(x))), 1))


class CoTBottleneck(nn.Module):
    """1x1 Conv, then contextual transformer attention, plus the input if `shortcut`: (B, c, H, W) -> same shape.

    CoTNet, arXiv 2107.12292.
    """

    def __init__(self, channels: int, shortcut: bool):
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = CoTAttention(channels, 3)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class CoT3(CrossStage):
    """C3 of n bottlenecks with contextual transformer attention: (B, c1, H, W) -> (B, c2, H, W).

    `g` has no effect. Raises ValueError unless the hidden channels, int(c2 * e), are a multiple of 4.
    CoTNet, arXiv 2107.12292.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        c_ = int(c2 * e)
        super().__init__(c1, c2, c_, make_chain(n, lambda: CoTBottleneck(c_, shortcut)))


class BottleneckTransformer(nn.Module):
    """1x1 Conv, then self-attention of 4 heads over all positions, plus the input: (B, c, H, W) -> same shape.

    The linear layer `fc1` has no effect: public weights hold it. BoTNet, arXiv 2101.11605.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = nn.Sequential(MHSA(channels))
        self.fc1 = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.cv2(self.cv1(x))


class BoT3(CrossStage):
    """C3 of n bottleneck transformers, 4 heads of attention over all positions: (B, c1, H, W) -> (B, c2, H, W).

    There is no position term, so `e2`, `w` and `h`, which rows of public files write, have no effect. Raises ValueError
    unless the hidden channels, int(c2 * e), are a multiple of 4. BoTNet, arXiv 2101.11605.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5, e2: float = 1, w: int = 20, h: int = 20):
        c_ = int(c2 * e)
        super().__init__(c1, c2, c_, make_chain(n, lambda: BottleneckTransformer(c_)))
