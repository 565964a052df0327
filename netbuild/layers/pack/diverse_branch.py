"""Diverse branch block and wrappers of bottlenecks with it."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import Conv, auto_padding
from netbuild.layers.csp import Bottleneck
from netbuild.layers.fuse import add_kernels, fold_bias, fold_bn, make_identity, set_weights
from netbuild.layers.pack.wrappers import C2fWrapper, C3k2Wrapper, C3Wrapper

Kernel = tuple[torch.Tensor, torch.Tensor]


class PaddedNorm(nn.Module):
    """Batch norm, then a border of what it makes of zeros: (B, c, H, W) -> (B, c, H + 2p, W + 2p).

    A padded convolution that follows then fuses with what stands before the norm. arXiv 2103.13425.
    """

    def __init__(self, channels: int, p: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(x)
        _, border = fold_bias(torch.zeros_like(self.bn.running_mean), self.bn)
        border = border.to(y.dtype).view(-1, 1, 1)
        return F.pad(y - border, [self.p] * 4) + border


class IdentityConv(nn.Module):
    """1x1 convolution without bias that begins as the identity: (B, c, H, W) -> same shape. arXiv 2103.13425."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, groups=groups, bias=False)
        nn.init.zeros_(self.conv.weight)

    def compute_weight(self) -> torch.Tensor:
        """Return the kernel, the weight plus the identity."""
        return self.conv.weight + make_identity(self.conv.weight[:, 0, 0, 0], self.conv.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.compute_weight(), groups=self.conv.groups)


class PooledBranch(nn.Module):
    """1x1 convolution (unless depthwise), norm, k x k mean pooling, norm: (B, c1, H, W) -> (B, c2, H/s, W/s)."""

    def __init__(self, c1: int, c2: int, k: int, s: int, p: int, g: int):
        super().__init__()
        depthwise = g == c2
        if not depthwise:
            self.conv = nn.Conv2d(c1, c2, 1, groups=g, bias=False)
            self.bn = PaddedNorm(c2, p)
        self.avg = nn.AvgPool2d(k, s, p if depthwise else 0)
        self.avgbn = nn.BatchNorm2d(c2)
        self.k, self.g, self.depthwise = k, g, depthwise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.avgbn(self.avg(x if self.depthwise else self.bn(self.conv(x))))

    def fold(self) -> Kernel:
        """Return weight and bias of the convolution that equals the branch in eval mode."""
        mean = self.avgbn.running_mean
        weight, bias = make_identity(mean, self.g), torch.zeros_like(mean)
        if not self.depthwise:
            weight, bias = fold_bn(self.conv, self.bn.bn)
        scale, bias = fold_bias(bias, self.avgbn)
        return (weight * scale.view(-1, 1, 1, 1) / self.k**2).expand(-1, -1, self.k, self.k), bias


class ChainedBranch(nn.Module):
    """1x1 convolution, norm, k x k convolution, norm: (B, c1, H, W) -> (B, c2, H/s, W/s)."""

    def __init__(self, c1: int, c2: int, k: int, s: int, p: int, g: int):
        super().__init__()
        depthwise = g == c2
        c = 2 * c1 if depthwise else c1
        if depthwise:
            self.conv1 = nn.Conv2d(c1, c, 1, groups=g, bias=False)
        else:
            self.idconv1 = IdentityConv(c1, g)
        self.bn1 = PaddedNorm(c, p)
        self.conv2 = nn.Conv2d(c, c2, k, s, groups=g, bias=False)
        self.bn2 = nn.BatchNorm2d(c2)
        self.g, self.depthwise = g, depthwise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv1 if self.depthwise else self.idconv1
        return self.bn2(self.conv2(self.bn1(first(x))))

    def fold(self) -> Kernel:
        """Return weight and bias of the convolution that equals the branch in eval mode."""
        first = self.conv1.weight.detach() if self.depthwise else self.idconv1.compute_weight().detach()
        scale, shift = fold_bias(torch.zeros_like(self.bn1.bn.running_mean), self.bn1.bn)
        first = (first[:, :, 0, 0] * scale[:, None]).unflatten(0, (self.g, -1))  # (groups, hidden, in)
        second, bias = fold_bn(self.conv2, self.bn2)
        second = second.unflatten(0, (self.g, -1))  # (groups, out, hidden, k, k)
        bias = bias + torch.einsum("gohkl,gh->go", second, shift.unflatten(0, (self.g, -1))).flatten()
        return torch.einsum("gohkl,ghi->goikl", second, first).flatten(0, 1), bias


class DiverseBranchBlock(nn.Module):
    """Sum of a k x k, a 1x1, a pooled and a chained branch, then the activation, which fuse to one k x k convolution.

    (B, c1, H, W) -> (B, c2, H/s, W/s). If g = c2, the block is depthwise: it has no 1x1 branch, and the chained branch
    has 2 * c1 hidden channels. Raises ValueError unless k is odd, p is k // 2 and d is 1. arXiv 2103.13425.

    Args:
        c1, c2: channels in and out.
        k, s, p, d, g: kernel, stride, padding (None: k // 2), dilation and groups.
        act: activation.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: int | None = None,
        d: int = 1,
        g: int = 1,
        act: Act = True,
    ):
        super().__init__()
        padding = auto_padding(k, p)
        if k % 2 == 0 or padding != k // 2 or d != 1:
            raise ValueError(f"kernel size, padding and dilation must be odd, half of it and 1: {k}, {padding} and {d}")
        self.dbb_origin = Conv(c1, c2, k, s, g=g, act=False)
        self.dbb_avg = PooledBranch(c1, c2, k, s, padding, g)
        self.dbb_1x1 = None if g == c2 else Conv(c1, c2, 1, s, g=g, act=False)
        self.dbb_1x1_kxk = ChainedBranch(c1, c2, k, s, padding, g)
        self.act = resolve_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dbb_origin(x)
        if self.dbb_avg is None:  # fused
            return self.act(y)
        y = y + self.dbb_avg(x) + self.dbb_1x1_kxk(x)
        return self.act(y if self.dbb_1x1 is None else y + self.dbb_1x1(x))

    def fuse(self) -> None:
        """Merge the branches into one convolution, `dbb_origin`."""
        if self.dbb_avg is None:
            return
        conv = self.dbb_origin.conv
        kernels = [fold_bn(conv, self.dbb_origin.bn), self.dbb_avg.fold(), self.dbb_1x1_kxk.fold()]
        if self.dbb_1x1 is not None:
            kernels.append(fold_bn(self.dbb_1x1.conv, self.dbb_1x1.bn))
        set_weights(conv, *add_kernels(*kernels))
        self.dbb_origin = conv
        self.dbb_avg = self.dbb_1x1_kxk = self.dbb_1x1 = None


class DiverseBranchBottleneck(Bottleneck):
    """Bottleneck of two DiverseBranchBlocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2103.13425."""

    first_conv = second_conv = DiverseBranchBlock


class C3_DBB(C3Wrapper):
    """C3 of n bottlenecks of two DiverseBranchBlocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2103.13425."""

    block = DiverseBranchBottleneck


class C2f_DBB(C2fWrapper):
    """C2f of n bottlenecks of two DiverseBranchBlocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2103.13425."""

    block = DiverseBranchBottleneck


class C3k2_DBB(C3k2Wrapper):
    """C3k2 of n bottlenecks of two DiverseBranchBlocks: (B, c1, H, W) -> (B, c2, H, W). arXiv 2103.13425."""

    block = DiverseBranchBottleneck
