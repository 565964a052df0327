"""Convolutions that are sums of branches in training, and one convolution once they are fused."""

from collections.abc import Sequence

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.csp import CrossStage
from netbuild.layers.fuse import add_kernels, fold_bn, fold_identity, make_identity, set_weights
from netbuild.layers.pack.parts import BlockConv


def fold_branch(branch: nn.Module, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of the convolution that equals a branch: a Conv or a batch norm, in eval mode."""
    if isinstance(branch, nn.BatchNorm2d):
        return fold_identity(branch, groups)
    if isinstance(branch, Conv):
        return fold_bn(branch.conv, branch.bn)
    return fold_bn(branch, None)


def add_branches(x: torch.Tensor, branches: Sequence[nn.Module]) -> torch.Tensor:
    """Return the sum of what the branches make of a map."""
    first, *others = branches
    y = first(x)
    for branch in others:
        y = y + branch(x)
    return y


def merge_branches(branches: Sequence[nn.Module]) -> nn.Conv2d:
    """Return the convolution with bias that equals the sum of the branches; it is that of the largest Conv, changed."""
    convs = [branch.conv for branch in branches if isinstance(branch, Conv)]
    largest = max(convs, key=lambda conv: conv.kernel_size)
    set_weights(largest, *add_kernels(*(fold_branch(branch, largest.groups) for branch in branches)))
    return largest


def make_identity_norm(c1: int, c2: int, s: int) -> nn.BatchNorm2d | None:
    """Create the norm of a branch that passes the input on, which needs the shape of the output; else None."""
    return nn.BatchNorm2d(c1) if c1 == c2 and s == 1 else None


def make_branch(conv: Conv) -> nn.ModuleDict:
    """Put a Conv under the name `conv` of a module."""
    return nn.ModuleDict({"conv": conv})


class RepVGGBlock(nn.Module):
    """Sum of 3x3, 1x1 and identity branches, then SiLU, which fuse to one 3x3: (B, c1, H, W) -> (B, c2, H/s, W/s).

    The identity branch is there if c1 = c2 and s = 1. The activation is that of yolov5-lite and yoloair;
    RepVGGBlockv6 has the paper's ReLU. Raises ValueError unless k = 3. RepVGG, arXiv 2101.03697.
    """

    activation: type[nn.Module] = nn.SiLU

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        if k != 3:
            raise ValueError(f"the kernel size must be 3: {k}")
        self.rbr_identity = make_identity_norm(c1, c2, s)
        self.rbr_dense = Conv(c1, c2, 3, s, act=False)
        self.rbr_1x1 = Conv(c1, c2, 1, s, act=False)
        self.act = self.activation()

    def list_branches(self) -> list[nn.Module]:
        """List the branches."""
        return [b for b in (self.rbr_dense, self.rbr_1x1, self.rbr_identity) if b is not None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rbr_1x1 is None:  # fused
            return self.act(self.rbr_dense(x))
        return self.act(add_branches(x, self.list_branches()))

    def fuse(self) -> None:
        """Merge the branches into one convolution, `rbr_dense`."""
        if self.rbr_1x1 is not None:
            self.rbr_dense = merge_branches(self.list_branches())
            self.rbr_1x1 = self.rbr_identity = None


class RepVGGBlockv6(RepVGGBlock):
    """RepVGGBlock with ReLU, as in RepVGG and YOLOv6: (B, c1, H, W) -> (B, c2, H/s, W/s). arXiv 2101.03697."""

    activation = nn.ReLU


class QARepVGGBlock(nn.Module):
    """RepVGG block that can be quantised: only the 3x3 branch and the sum are normalised, then ReLU.

    (B, c1, H, W) -> (B, c2, H/s, W/s). The input is added if c1 = c2 and s = 1. It fuses to one 3x3 convolution. Raises
    ValueError unless k = 3. arXiv 2212.01593.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        if k != 3:
            raise ValueError(f"the kernel size must be 3: {k}")
        self.rbr_dense = Conv(c1, c2, 3, s, act=False)
        self.rbr_1x1 = nn.Conv2d(c1, c2, 1, s, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.ReLU()
        self.add = c1 == c2 and s == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rbr_1x1 is None:  # fused
            return self.act(self.rbr_dense(x))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.act(self.bn(y + x if self.add else y))

    def fuse(self) -> None:
        """Merge the branches and the norm of their sum into one convolution, `rbr_dense`."""
        if self.rbr_1x1 is None:
            return
        conv = self.rbr_dense.conv
        kernels = [fold_bn(conv, self.rbr_dense.bn), fold_bn(self.rbr_1x1, None)]
        if self.add:
            bias = kernels[0][1]
            kernels.append((make_identity(bias), torch.zeros_like(bias)))
        set_weights(conv, *add_kernels(*kernels))
        set_weights(conv, *fold_bn(conv, self.bn))
        self.rbr_dense = conv
        self.rbr_1x1 = self.bn = None


class RepBlock(nn.Module):
    """Chain of n RepVGG blocks with ReLU: (B, c1, H, W) -> (B, c2, H, W). YOLOv6, arXiv 2209.02976."""

    def __init__(self, c1: int, c2: int, n: int = 1):
        super().__init__()
        self.conv1 = RepVGGBlockv6(c1, c2)
        self.block = nn.Sequential(*(RepVGGBlockv6(c2, c2) for _ in range(n - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.conv1(x))


class BottleRep(nn.Module):
    """Two RepVGG blocks with ReLU, plus the input if c1 = c2: (B, c1, H, W) -> (B, c2, H, W).

    With `weight` the input is scaled by a trained factor alpha, 1 at first. YOLOv6, arXiv 2209.02976.
    """

    def __init__(self, c1: int, c2: int, weight: bool = False):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1)) if weight else None
        self.conv1 = RepVGGBlockv6(c1, c2)
        self.conv2 = RepVGGBlockv6(c2, c2)
        self.add = c1 == c2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        if not self.add:
            return y
        return y + (x if self.alpha is None else self.alpha * x)


class BottleRepChain(nn.Module):
    """Chain of n // 2 BottleReps, at least one, with scaled inputs: (B, c, H, W) -> same shape."""

    def __init__(self, c: int, n: int):
        super().__init__()
        self.conv1 = BottleRep(c, c, True)
        self.block = nn.Sequential(*(BottleRep(c, c, True) for _ in range(n // 2 - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.conv1(x))


class BepC3(CrossStage):
    """CSP block of YOLOv6 with n // 2 BottleReps on one of two paths: (B, c1, H, W) -> (B, c2, H, W). arXiv 2209.02976.

    Args:
        c1, c2: channels in and out.
        n: number of RepVGG blocks, two of which make a BottleRep.
        e: int(c2 * e) channels are hidden.
    """

    conv = BlockConv

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5):
        c = int(c2 * e)
        super().__init__(c1, c2, c, BottleRepChain(c, n))


class MobileOneBlock_official(nn.Module):
    """Sum of k x k, 1x1 and identity branches, then ReLU, which fuse to one k x k: (B, c1, H, W) -> (B, c2, H/s, W/s).

    The authors' block: one depthwise with k = 3 and one with k = 1 make a layer of MobileOne. arXiv 2206.04040.

    Args:
        c1, c2: channels in and out.
        k, s, g: kernel, stride and groups.
        num_conv_branches: number of k x k branches.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, num_conv_branches: int = 1):
        super().__init__()
        self.identity = make_identity_norm(c1, c2, s)
        self.conv_kxk = nn.ModuleList(Conv(c1, c2, k, s, g=g, act=False) for _ in range(num_conv_branches))
        self.conv_scale = Conv(c1, c2, 1, s, g=g, act=False) if k > 1 else None
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv_kxk is None:  # fused
            return self.act(self.conv(x))
        return self.act(add_branches(x, self.list_branches()))

    def list_branches(self) -> list[nn.Module]:
        """List the branches."""
        return [*self.conv_kxk, *(b for b in (self.conv_scale, self.identity) if b is not None)]

    def fuse(self) -> None:
        """Merge the branches into one convolution, `conv`."""
        if self.conv_kxk is not None:
            self.conv = merge_branches(self.list_branches())
            self.conv_kxk = self.conv_scale = self.identity = None


class MobileOneBlock(nn.Module):
    """Layer of MobileOne: a depthwise 3x3 and a 1x1 convolution, each a sum of branches, then ReLU.

    (B, c1, H, W) -> (B, c2, H/s, W/s). Each of the two fuses to one convolution. This is the form of yoloair; that of
    the authors, half of it, is MobileOneBlock_official. arXiv 2206.04040.

    Args:
        c1, c2: channels in and out.
        k: number of 3x3 branches, and of 1x1 branches.
        s: stride.
    """

    def __init__(self, c1: int, c2: int, k: int = 4, s: int = 1):
        super().__init__()
        self.k = k
        self.dw_bn_layer = make_identity_norm(c1, c2, s)
        for i in range(k):
            self.add_module(f"dw_3x3_{i}", make_branch(Conv(c1, c1, 3, s, g=c1, act=False)))
        self.dw_1x1 = make_branch(Conv(c1, c1, 1, s, g=c1, act=False))
        self.pw_bn_layer = make_identity_norm(c1, c2, s)
        for i in range(k):
            self.add_module(f"pw_1x1_{i}", make_branch(Conv(c1, c2, act=False)))
        self.act = nn.ReLU()

    def list_branches(self, names: str, norm: nn.Module | None) -> list[nn.Module]:
        """List the numbered branches whose names begin with `names`, and a norm if there is one."""
        numbered = [getattr(self, f"{names}_{i}")["conv"] for i in range(self.k)]
        return numbered if norm is None else [*numbered, norm]

    def list_depthwise(self) -> list[nn.Module]:
        """List the branches of the depthwise convolution."""
        return [*self.list_branches("dw_3x3", self.dw_bn_layer), self.dw_1x1["conv"]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.dw_1x1 is None:  # fused
            return self.act(self.pw(self.act(self.dw(x))))
        x = self.act(add_branches(x, self.list_depthwise()))
        return self.act(add_branches(x, self.list_branches("pw_1x1", self.pw_bn_layer)))

    def fuse(self) -> None:
        """Merge the branches into a depthwise convolution, `dw`, and a 1x1 convolution, `pw`."""
        if self.dw_1x1 is None:
            return
        self.dw = merge_branches(self.list_depthwise())
        self.pw = merge_branches(self.list_branches("pw_1x1", self.pw_bn_layer))
        self.dw_bn_layer = self.dw_1x1 = self.pw_bn_layer = None
        for i in range(self.k):
            delattr(self, f"dw_3x3_{i}")
            delattr(self, f"pw_1x1_{i}")


class MobileOne(nn.Module):
    """Chain of n MobileOneBlocks, the first of stride s: (B, c1, H, W) -> (B, c2, H/s, W/s). arXiv 2206.04040.

    Args:
        c1, c2: channels in and out.
        n: number of blocks.
        k: number of branches of each kind.
        s: stride of the first block.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, k: int = 4, s: int = 1):
        super().__init__()
        first = MobileOneBlock(c1, c2, k, s)
        self.m = nn.Sequential(first, *(MobileOneBlock(c2, c2, k) for _ in range(n - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.m(x)
