"""Blocks of PP-YOLOE.

Rows of public files also write the channels in, and their widths as they are after scaling.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv, RepConv
from netbuild.layers.csp import make_chain
from netbuild.layers.pack.convolution import CoordConv_paddle
from netbuild.layers.pool import make_same_pool, pool_in_parallel
from netbuild.roles import Plain


class RepBasicBlock(nn.Module):
    """A 3x3 Conv, then a 3x3 and a 1x1 side by side, which fuse to one: (B, c, H, W) -> same shape.

    The input is added if `shortcut`. PP-YOLOE, arXiv 2203.16250.
    """

    def __init__(self, channels: int, shortcut: bool, act: nn.Module):
        super().__init__()
        self.conv1 = Conv(channels, channels, 3, act=act)
        self.conv2 = RepConv(channels, channels, act=act)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.add else y


class EffectiveGate(nn.Module):
    """Gate of the channels by one 1x1 convolution of their means and a hard sigmoid: (B, c, H, W) -> same shape.

    arXiv 1911.06667.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * F.hardsigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class RepCSPStage(nn.Module):
    """CSP block of RepBasicBlocks: (B, c1, H, W) -> (B, c2, H/s, W/s). PP-YOLOE, arXiv 2203.16250.

    Args:
        c1, c2: channels in and out.
        n: number of blocks.
        s: stride of a first convolution, which is left out unless it is 2.
        gated: whether the blocks have a shortcut, and the joined paths a channel gate and (c1 + c2) // 2 channels.
    """

    def __init__(self, c1: int, c2: int, n: int, s: int, gated: bool):
        super().__init__()
        act = nn.SiLU()
        m = (c1 + c2) // 2 if gated else c2
        down = s == 2
        self.conv_down = Conv(c1, m, 3, 2, act=act) if down else nn.Identity()
        self.conv1 = Conv(m if down else c1, m // 2, act=act)
        self.conv2 = Conv(m if down else c1, m // 2, act=act)
        self.blocks = make_chain(n, lambda: RepBasicBlock(m // 2, gated, act))
        self.attn = EffectiveGate(m // 2 * 2) if gated else nn.Identity()
        self.conv3 = Conv(m // 2 * 2, c2, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_down(x)
        return self.conv3(self.attn(torch.cat((self.conv1(x), self.blocks(self.conv2(x))), 1)))


class CSPResNet_CBS(nn.Module):
    """Stem of PP-YOLOE, three 3x3 Convs or two, the first of stride 2: (B, c1, H, W) -> (B, c2, H/2, W/2).

    PP-YOLOE, arXiv 2203.16250.
    """

    def __init__(self, c1: int, c2: int, use_large_stem: bool = True):
        super().__init__()
        act = nn.SiLU()
        layers = [Conv(c1, c2 // 2, 3, 2, act=act), Conv(c2 // 2, c2, 3, act=act)]
        if use_large_stem:
            layers.insert(1, Conv(c2 // 2, c2 // 2, 3, act=act))
        self.stem = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(x)


class CSPResNet(nn.Module):
    """CSP stage of PP-YOLOE: (B, c1, H, W) -> (B, c2, H/stride, W/stride). PP-YOLOE, arXiv 2203.16250.

    Raises ValueError unless `infor` is backbone or neck and the stride 1 or 2.

    Args:
        c1, c2: channels in and out.
        n: number of blocks; not scaled.
        stride: 2 puts a 3x3 convolution of stride 2 first.
        infor: "backbone" for blocks with shortcuts and a channel gate, "neck" for neither.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: Annotated[int, Plain] = 1,
        stride: int = 1,
        infor: str = "backbone",
    ):
        super().__init__()
        if infor not in ("backbone", "neck") or stride not in (1, 2):
            raise ValueError(f"infor must be backbone or neck, and stride 1 or 2: {infor!r}, {stride}")
        self.backbone = RepCSPStage(c1, c2, n, stride, infor == "backbone")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)


class ResSPP(nn.Module):
    """1x1 Conv, RepBasicBlocks without shortcuts, and among them a pooling pyramid: (B, c1, H, W) -> (B, c2, H, W).

    n chooses which of the four blocks are used, all of which are there: 1 the first; 2 the first and the second, around
    the pyramid; 3 the first and the second before it, the third after it; 4 also the fourth. A width of 1024 stands for
    512, as in public files. Raises ValueError unless n is 1 to 4. PP-YOLOE, arXiv 2203.16250.
    """

    def __init__(self, c1: int, c2: int, n: Annotated[int, Plain] = 1):
        super().__init__()
        if n not in (1, 2, 3, 4):
            raise ValueError(f"the number of blocks must be 1 to 4: {n}")
        c = 512 if c2 == 1024 else c2
        act = nn.ReLU()
        self.conv1 = Conv(c1, c, act=nn.SiLU())
        self.basicBlock_spp1 = RepBasicBlock(c, False, act)
        self.basicBlock_spp2 = RepBasicBlock(c, False, act)
        self.spp = nn.ModuleList(make_same_pool(k) for k in (5, 9, 13))
        self.conv2 = Conv(4 * c, c, act=nn.SiLU())
        self.basicBlock_spp3 = RepBasicBlock(c, False, act)
        self.basicBlock_spp4 = RepBasicBlock(c, False, act)
        self.n = n

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.basicBlock_spp1(self.conv1(x))
        if self.n > 2:
            x = self.basicBlock_spp2(x)
        x = self.conv2(pool_in_parallel(x, self.spp))
        if self.n == 2:
            return self.basicBlock_spp2(x)
        if self.n > 2:
            x = self.basicBlock_spp3(x)
        return self.basicBlock_spp4(x) if self.n == 4 else x


class DropBlock(nn.Module):
    """In training, sets squares of 3x3 positions to zero and scales the others up: (B, c, H, W) -> same shape.

    About the share `p` of the values is dropped. DropBlock, arXiv 1810.12890.
    """

    def __init__(self, p: float = 0.1, size: int = 3):
        super().__init__()
        self.p, self.size = p, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        centres = (torch.rand_like(x) < self.p / self.size**2).to(x.dtype)
        mask = 1 - F.max_pool2d(centres, self.size, 1, self.size // 2)
        return x * mask / mask.mean().clamp(min=1e-3)


class PPConvBlock(nn.Module):
    """3x3 Conv to twice the channels, and a 1x1 back: (B, c1, H, W) -> same shape: keeps channels.

    With `dropblock`, squares of positions are dropped between the two in training; with `coord`, the 1x1 also sees the
    coordinates of each position. PP-YOLOE, arXiv 2203.16250.
    """

    def __init__(self, c1: int, dropblock: bool = False, coord: bool = False):
        super().__init__()
        self.conv1 = Conv(c1, 2 * c1, 3, act=nn.SiLU())
        self.drop = DropBlock() if dropblock else nn.Identity()
        self.conv2 = CoordConv_paddle(2 * c1, c1) if coord else Conv(2 * c1, c1, act=nn.SiLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.drop(self.conv1(x)))
