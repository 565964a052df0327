"""Layers with Haar wavelets: of each 2x2 block a b / c d the sum and three differences, halved."""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.attention import check_equal_channels
from netbuild.layers.conv import Conv
from netbuild.layers.pack.downsampling import check_even_size

# Rows: (a + b + c + d), (a + b - c - d), (a - b + c - d), (a - b - c + d), all halved; columns: a, b, c, d.
HAAR = ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, -0.5, -0.5), (0.5, -0.5, 0.5, -0.5), (0.5, -0.5, -0.5, 0.5))


class HaarFilters(nn.Module):
    """Constant filters of a sum and a difference along columns and rows, which public networks save.

    (B, c, H, W) -> (B, 4c, H/2, W/2): all sums, then the differences of rows, of columns, and of both.
    """

    def __init__(self) -> None:
        super().__init__()
        low, high = torch.tensor([1.0, 1.0]) / sqrt(2), torch.tensor([1.0, -1.0]) / sqrt(2)
        self.register_buffer("h0_col", low.view(1, 1, 2, 1))
        self.register_buffer("h1_col", high.view(1, 1, 2, 1))
        self.register_buffer("h0_row", low.view(1, 1, 1, 2).clone())
        self.register_buffer("h1_row", high.view(1, 1, 1, 2).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Each column filter times each row filter is a 2x2 kernel, for one channel after the other.
        kernels = torch.cat(
            [column * row for row in (self.h0_row, self.h1_row) for column in (self.h0_col, self.h1_col)]
        )
        bands = F.conv2d(x.flatten(0, 1)[:, None], kernels, stride=2)  # (B c, 4, H/2, W/2)
        return bands.unflatten(0, x.shape[:2]).transpose(1, 2).flatten(1, 2)


class HWD(nn.Module):
    """Haar wavelets of each 2x2 block, then a 1x1 Conv: (B, c1, H, W) -> (B, c2, H/2, W/2).

    The authors' file has a bias and ReLU in that convolution. Raises ValueError for an odd height or width.
    doi 10.1016/j.patcog.2023.109819.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.wt = HaarFilters()
        self.conv = Conv(4 * c1, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_even_size(x)
        return self.conv(self.wt(x))


class ChannelScale(nn.Module):
    """Trained factor of each channel: (B, c, H, W) -> same shape."""

    def __init__(self, channels: int, value: float):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class WTConv2d(nn.Module):
    """Depthwise convolution of the map, plus depthwise convolutions of its Haar wavelets at wt_levels levels.

    (B, c1, H, W) -> (B, c1, H/stride, W/stride): keeps channels; a stride leaves out positions of the result. Raises
    ValueError unless c2 = c1. The wavelets' filters are counted as parameters but not trained. arXiv 2407.05848.

    Args:
        c1, c2: channels.
        kernel_size: kernel of all depthwise convolutions, odd.
        stride: distance of the positions that are kept.
        bias: whether the convolution of the map has one.
        wt_levels: number of levels, each of half the size of the one before.
    """

    def __init__(self, c1: int, c2: int, kernel_size: int = 5, stride: int = 1, bias: bool = True, wt_levels: int = 1):
        super().__init__()
        check_equal_channels(c1, c2)
        filters = torch.tensor(HAAR).view(4, 1, 2, 2).repeat(c1, 1, 1, 1)
        self.wt_filter = nn.Parameter(filters, requires_grad=False)
        self.iwt_filter = nn.Parameter(filters.clone(), requires_grad=False)
        k, p = kernel_size, kernel_size // 2
        self.base_conv = nn.Conv2d(c1, c1, k, padding=p, groups=c1, bias=bias)
        self.base_scale = ChannelScale(c1, 1.0)
        self.wavelet_convs = nn.ModuleList(
            nn.Conv2d(4 * c1, 4 * c1, k, padding=p, groups=4 * c1, bias=False) for _ in range(wt_levels)
        )
        self.wavelet_scale = nn.ModuleList(ChannelScale(4 * c1, 0.1) for _ in range(wt_levels))
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base_scale(self.base_conv(x)) + self.filter_bands(x, 0)
        return y if self.stride == 1 else y[..., :: self.stride, :: self.stride]

    def filter_bands(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Convolve the wavelet bands of a map, and those of its sums in turn: (B, c, H, W) -> same shape."""
        channels, (height, width) = x.shape[1], x.shape[2:]
        # The stride leaves out what is padded at even sizes.
        bands = F.conv2d(F.pad(x, (0, 1, 0, 1)), self.wt_filter, stride=2, groups=channels)
        filtered = self.wavelet_scale[level](self.wavelet_convs[level](bands)).unflatten(1, (channels, 4))
        if level + 1 < len(self.wavelet_convs):
            below = self.filter_bands(bands[:, ::4], level + 1)
            filtered = torch.cat((filtered[:, :, :1] + below[:, :, None], filtered[:, :, 1:]), 2)
        y = F.conv_transpose2d(filtered.flatten(1, 2), self.iwt_filter, stride=2, groups=channels)
        return y[..., :height, :width]
