"""Modules that mix positions without comparing them with each other: shifts, focal convolutions, reconstruction."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.parts import check_multiple, make_depthwise, to_channels_first, to_channels_last


def shift_map(x: torch.Tensor, steps: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Move equal parts of the channels by one position each: (B, H, W, c) -> same shape.

    `steps` are (axis, direction) of the parts. Positions at the border that nothing moves to keep their values.
    """
    parts = []
    for part, (axis, direction) in zip(x.chunk(len(steps), 3), steps, strict=True):
        size = part.shape[axis]
        first, last = part.narrow(axis, 0, 1), part.narrow(axis, size - 1, 1)
        if direction > 0:
            parts.append(torch.cat((first, part.narrow(axis, 0, size - 1)), axis))
        else:
            parts.append(torch.cat((part.narrow(axis, 1, size - 1), last), axis))
    return torch.cat(parts, 3)


class SplitAttention(nn.Module):
    """Sum of k maps, weighted for each channel by a two-layer network of the sum of all.

    (B, k, H, W, c) -> (B, H, W, c). S2-MLPv2, arXiv 2108.01072; ResNeSt, arXiv 2004.08955.
    """

    def __init__(self, channels: int, k: int = 3):
        super().__init__()
        self.mlp1 = nn.Linear(channels, channels, bias=False)
        self.mlp2 = nn.Linear(channels, channels * k, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.mlp2(F.gelu(self.mlp1(x.sum((1, 2, 3)))))
        weights = scores.unflatten(1, (x.shape[1], -1)).softmax(1)
        return (x * weights[:, :, None, None]).sum(1)


class S2Attention(nn.Module):
    """Spatial shift: two of three maps have the quarters of their channels moved by one position, each its own way.

    The three are then mixed by SplitAttention, between linear layers. Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError unless c1 is a multiple of 4. S2-MLPv2, arXiv 2108.01072.
    """

    ROWS_FIRST = ((1, 1), (1, -1), (2, 1), (2, -1))
    COLUMNS_FIRST = ((2, 1), (2, -1), (1, 1), (1, -1))

    def __init__(self, c1: int):
        super().__init__()
        check_multiple(c1, 4)
        self.mlp1 = nn.Linear(c1, 3 * c1)
        self.mlp2 = nn.Linear(c1, c1)
        self.split_attention = SplitAttention(c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = self.mlp1(to_channels_last(x)).chunk(3, 3)
        maps = torch.stack((shift_map(a, self.ROWS_FIRST), shift_map(b, self.COLUMNS_FIRST), c), 1)
        return to_channels_first(self.mlp2(self.split_attention(maps)))


class FocalModulation(nn.Module):
    """Multiplies queries by a context, gated sums of depthwise convolutions of growing kernels and of the map's mean.

    proj(q * h(sum_l ctx_l * gate_l)), ctx_l = gelu(dw_l(ctx_(l-1))). Keeps channels: (B, c1, H, W) -> same shape.
    FocalNet, arXiv 2203.11926.

    Args:
        c1: channels.
        focal_window: size of the first kernel.
        focal_level: number of convolutions.
        focal_factor: growth of the kernels.
    """

    def __init__(self, c1: int, focal_window: int = 3, focal_level: int = 2, focal_factor: int = 2):
        super().__init__()
        self.widths = (c1, c1, focal_level + 1)
        self.f_linear = nn.Conv2d(c1, sum(self.widths), 1)
        self.h = nn.Conv2d(c1, c1, 1)
        self.proj = nn.Conv2d(c1, c1, 1)
        kernels = [focal_window + focal_factor * level for level in range(focal_level)]
        self.focal_layers = nn.ModuleList(nn.Sequential(make_depthwise(c1, k, bias=False), nn.GELU()) for k in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, context, gates = self.f_linear(x).split(self.widths, 1)
        gates = gates.split(1, 1)
        total = 0
        for layer, gate in zip(self.focal_layers, gates, strict=False):
            context = layer(context)
            total = total + context * gate
        total = total + F.gelu(context.mean((2, 3), keepdim=True)) * gates[-1]
        return self.proj(query * self.h(total))


class SpatialReconstruction(nn.Module):
    """First unit of ScConv: parts informative from redundant values and adds them crosswise.

    (B, c1, H, W) -> same shape. CVPR 2023, doi 10.1109/CVPR52729.2023.00596.
    """

    def __init__(self, c1: int, groups: int, gate: float):
        super().__init__()
        self.gn = nn.GroupNorm(groups, c1)
        if not 0 < gate < 1:
            raise ValueError(f"the gate must be between 0 and 1: {gate}")
        self.threshold = math.log(gate / (1 - gate))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = self.gn.weight / self.gn.weight.sum()
        scores = self.gn(x) * share[:, None, None]
        # The scores are small, so that half precision would round their sigmoids to the gate of 0.5.
        informative = scores > self.threshold
        weights = torch.sigmoid(scores)
        a1, a2 = (x * weights.masked_fill(informative, 1.0)).chunk(2, 1)
        b1, b2 = (x * weights.masked_fill(informative, 0.0)).chunk(2, 1)
        return torch.cat((a1 + b2, a2 + b1), 1)


class ChannelReconstruction(nn.Module):
    """Second unit of ScConv: convolutions of two channel parts, mixed by the softmax of their means.

    (B, c1, H, W) -> same shape. CVPR 2023, doi 10.1109/CVPR52729.2023.00596.
    """

    def __init__(self, c1: int, alpha: float, squeeze: int, groups: int, k: int):
        super().__init__()
        up = int(alpha * c1)
        low = c1 - up
        check_multiple(up, squeeze, "channels of the first part (c1 * alpha)")
        check_multiple(low, squeeze, "channels of the second part (c1 - c1 * alpha)")
        check_multiple(up // squeeze, groups, "squeezed channels of the first part (c1 * alpha / squeeze)")
        self.widths = (up, low)
        self.squeeze1 = nn.Conv2d(up, up // squeeze, 1, bias=False)
        self.squeeze2 = nn.Conv2d(low, low // squeeze, 1, bias=False)
        self.GWC = nn.Conv2d(up // squeeze, c1, k, padding=k // 2, groups=groups)
        self.PWC1 = nn.Conv2d(up // squeeze, c1, 1, bias=False)
        self.PWC2 = nn.Conv2d(low // squeeze, c1 - low // squeeze, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, low = x.split(self.widths, 1)
        up, low = self.squeeze1(up), self.squeeze2(low)
        y = torch.cat((self.GWC(up) + self.PWC1(up), self.PWC2(low), low), 1)
        first, second = (y * y.mean((2, 3), keepdim=True).softmax(1)).chunk(2, 1)
        return first + second


class ScConv(nn.Module):
    """Spatial and channel reconstruction: parts informative from redundant values, then convolves channel parts apart.

    Keeps channels: (B, c1, H, W) -> same shape. A value is informative where the sigmoid of its scaled group norm
    exceeds the gate. Raises ValueError unless c1 is a multiple of 8 (with the default options).
    CVPR 2023, doi 10.1109/CVPR52729.2023.00596.

    Args:
        c1: channels.
        group_num: groups of the group norm.
        gate_treshold: the gate; the name is spelt as in public files.
        alpha: share of the channels in the first part.
        squeeze_radio: channels of a part divided by those after its first convolution.
        group_size: groups of the k x k convolution.
        group_kernel_size: k.
    """

    def __init__(
        self,
        c1: int,
        group_num: int = 4,
        gate_treshold: float = 0.5,
        alpha: float = 0.5,
        squeeze_radio: int = 2,
        group_size: int = 2,
        group_kernel_size: int = 3,
    ):
        super().__init__()
        check_multiple(c1, group_num)
        self.SRU = SpatialReconstruction(c1, group_num, gate_treshold)
        self.CRU = ChannelReconstruction(c1, alpha, squeeze_radio, group_size, group_kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.CRU(self.SRU(x))
