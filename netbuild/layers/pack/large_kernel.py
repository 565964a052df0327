"""Blocks around depthwise convolutions of large or dilated kernels."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.pack.parts import ConvGate, check_multiple, make_depthwise, make_scale, normalise_response
from netbuild.layers.vision import Permute, StochasticDepth

# Kernel size and dilation of the small convolutions beside a large one, by the size of that.
DILATED = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


class Star_Block(nn.Module):
    """Depthwise 7x7, the product of two linear maps of each position, then a depthwise 7x7, added to the input.

    y = dwconv(x); x + dwconv2(g(relu6(f1 y) * f2 y)). (B, c1, H, W) -> same shape: keeps channels. `mlp_ratio` is the
    growth of the channels in the product. StarNet, arXiv 2403.19967.
    """

    def __init__(self, c1: int, mlp_ratio: int = 3):
        super().__init__()
        self.dwconv = Conv(c1, c1, 7, g=c1, act=False)
        self.f1 = nn.Conv2d(c1, mlp_ratio * c1, 1)
        self.f2 = nn.Conv2d(c1, mlp_ratio * c1, 1)
        self.g = Conv(mlp_ratio * c1, c1, act=False)
        self.dwconv2 = nn.Conv2d(c1, c1, 7, padding=3, groups=c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dwconv(x)
        return x + self.dwconv2(self.g(F.relu6(self.f1(y)) * self.f2(y)))


class DWR(nn.Module):
    """3x3 convolution, then three of dilations 1, 3 and 5 side by side, joined and added to the input.

    (B, c1, H, W) -> same shape: keeps channels. Raises ValueError for odd c1. Dilation-wise residual, DWRSeg,
    arXiv 2212.01173.
    """

    def __init__(self, c1: int):
        super().__init__()
        check_multiple(c1, 2)
        self.conv_3x3 = Conv(c1, c1 // 2, 3)
        self.conv_3x3_d1 = Conv(c1 // 2, c1, 3)
        self.conv_3x3_d3 = Conv(c1 // 2, c1 // 2, 3, d=3)
        self.conv_3x3_d5 = Conv(c1 // 2, c1 // 2, 3, d=5)
        self.conv_1x1 = Conv(2 * c1, c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_3x3(x)
        return x + self.conv_1x1(torch.cat((self.conv_3x3_d1(y), self.conv_3x3_d3(y), self.conv_3x3_d5(y)), 1))


class InceptionDWConv2d(nn.Module):
    """Depthwise square and band kernels, each on a share of the channels; the other channels pass unchanged.

    (B, c1, H, W) -> same shape: keeps channels. Raises ValueError where int(c1 * branch_ratio) is 0.
    InceptionNeXt, arXiv 2303.16900.

    Args:
        c1: channels.
        square_kernel_size, band_kernel_size: sizes of the kernels, odd.
        branch_ratio: share of the channels of each of the three kernels.
    """

    def __init__(self, c1: int, square_kernel_size: int = 3, band_kernel_size: int = 11, branch_ratio: float = 0.125):
        super().__init__()
        q, band = int(c1 * branch_ratio), band_kernel_size
        if q < 1:
            raise ValueError(f"{c1} channels are too few for a branch of their {branch_ratio}th part")
        self.parts = (c1 - 3 * q, q, q, q)
        self.dwconv_hw = nn.Conv2d(q, q, square_kernel_size, padding=square_kernel_size // 2, groups=q)
        self.dwconv_w = nn.Conv2d(q, q, (1, band), padding=(0, band // 2), groups=q)
        self.dwconv_h = nn.Conv2d(q, q, (band, 1), padding=(band // 2, 0), groups=q)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rest, square, row, column = x.split(self.parts, 1)
        return torch.cat((rest, self.dwconv_hw(square), self.dwconv_w(row), self.dwconv_h(column)), 1)


class ConvMlp(nn.Module):
    """Two 1x1 convolutions with GELU between: (B, c, H, W) -> same shape. InceptionNeXt, arXiv 2303.16900."""

    def __init__(self, channels: int, ratio: int = 4):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, ratio * channels, 1)
        self.fc2 = nn.Conv2d(ratio * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MetaNeXtBlock(nn.Module):
    """InceptionDWConv2d, batch norm and two 1x1 convolutions, scaled and added to the input.

    (B, c1, H, W) -> same shape: keeps channels. `mlp_ratio` is the growth of the channels between the convolutions,
    `ls_init_value` the first value of the trained scale, `drop_path` the probability of stochastic depth.
    InceptionNeXt, arXiv 2303.16900.
    """

    def __init__(self, c1: int, mlp_ratio: int = 4, ls_init_value: float = 1e-6, drop_path: float = 0.0):
        super().__init__()
        self.token_mixer = InceptionDWConv2d(c1)
        self.norm = nn.BatchNorm2d(c1)
        self.mlp = ConvMlp(c1, mlp_ratio)
        self.gamma = make_scale(c1, ls_init_value)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mlp(self.norm(self.token_mixer(x)))
        return x + self.drop_path(self.gamma.view(-1, 1, 1) * y)


class DilatedReparamBlock(nn.Module):
    """Depthwise k x k convolution and smaller dilated ones, each normalised, summed, which fuse to one.

    (B, c1, H, W) -> same shape: keeps channels. Raises ValueError unless k is odd and from 5 to 17.
    UniRepLKNet, arXiv 2311.15599.
    """

    def __init__(self, c1: int, kernel_size: int):
        super().__init__()
        if kernel_size not in DILATED:
            raise ValueError(f"the kernel size must be one of {', '.join(map(str, DILATED))}: {kernel_size}")
        self.branches = DILATED[kernel_size]
        self.lk_origin: nn.Conv2d = make_depthwise(c1, kernel_size, bias=False)
        self.origin_bn = nn.BatchNorm2d(c1)
        for k, d in self.branches:
            self.add_module(f"dil_conv_k{k}_{d}", make_depthwise(c1, k, d, bias=False))
            self.add_module(f"dil_bn_k{k}_{d}", nn.BatchNorm2d(c1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.origin_bn is None:  # fused
            return self.lk_origin(x)
        y = self.origin_bn(self.lk_origin(x))
        for conv, bn in self.list_branches():
            y = y + bn(conv(x))
        return y

    def list_branches(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """List the dilated convolutions and their norms."""
        return [(getattr(self, f"dil_conv_k{k}_{d}"), getattr(self, f"dil_bn_k{k}_{d}")) for k, d in self.branches]

    def fuse(self) -> None:
        """Merge the branches into one convolution, `lk_origin`."""
        if self.origin_bn is None:
            return
        weight, bias = fold_bn(self.lk_origin, self.origin_bn)
        for conv, bn in self.list_branches():
            kernel, shift = fold_bn(conv, bn)
            weight, bias = weight + spread_kernel(kernel, conv.dilation[0], weight.shape[-1]), bias + shift
        set_weights(self.lk_origin, weight, bias)
        self.origin_bn = None
        for k, d in self.branches:
            delattr(self, f"dil_conv_k{k}_{d}")
            delattr(self, f"dil_bn_k{k}_{d}")


def spread_kernel(kernel: torch.Tensor, d: int, size: int) -> torch.Tensor:
    """Write a kernel of dilation d as one of dilation 1 and of a larger size, with zeros between and around."""
    spread = kernel.new_zeros(*kernel.shape[:2], size, size)
    border = (size - d * (kernel.shape[-1] - 1) - 1) // 2
    spread[..., border : size - border : d, border : size - border : d] = kernel
    return spread


class ResponseNorm4d(nn.Module):
    """Global response normalisation, weights of 4 dimensions: (B, H, W, c) -> same shape. arXiv 2301.00808."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalise_response(x, self.gamma, self.beta)


class UniRepLKNetBlock(nn.Module):
    """Depthwise convolution of a large kernel, channel gate and two linear layers, scaled and added to the input.

    (B, c1, H, W) -> same shape: keeps channels. The convolution is a DilatedReparamBlock for kernel sizes from 7, and
    plain below. Raises ValueError for even kernel sizes, and for those above 17. UniRepLKNet, arXiv 2311.15599.

    Args:
        c1: channels.
        kernel_size: size of the kernel.
        drop_path: probability of stochastic depth.
        layer_scale_init_value: first value of the trained scale.
    """

    def __init__(self, c1: int, kernel_size: int = 7, drop_path: float = 0.0, layer_scale_init_value: float = 1e-6):
        super().__init__()
        if not kernel_size % 2:
            raise ValueError(f"the kernel size must be odd: {kernel_size}")
        large = kernel_size >= 7
        self.dwconv = DilatedReparamBlock(c1, kernel_size) if large else make_depthwise(c1, kernel_size, bias=False)
        self.norm = nn.BatchNorm2d(c1)
        self.se = ConvGate(c1, c1 // 4, names=("down", "up"))
        self.pwconv1 = nn.Sequential(Permute([0, 2, 3, 1]), nn.Linear(c1, 4 * c1))
        self.act = nn.Sequential(nn.GELU(), ResponseNorm4d(4 * c1))
        self.pwconv2 = nn.Sequential(nn.Linear(4 * c1, c1, bias=False), Permute([0, 3, 1, 2]), nn.BatchNorm2d(c1))
        self.gamma = make_scale(c1, layer_scale_init_value)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.se(self.norm(self.dwconv(x)))
        y = self.pwconv2(self.act(self.pwconv1(y)))
        return x + self.drop_path(self.gamma.view(-1, 1, 1) * y)
