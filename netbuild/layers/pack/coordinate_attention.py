"""Attention that pools a map along one axis at a time, so that its weights know where in the map they stand."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.attention import check_equal_channels
from netbuild.layers.conv import Conv
from netbuild.layers.pack.parts import check_multiple, pool_channels


def pool_axes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the means over the columns, (B, c, H, 1), and over the rows, turned into a column (B, c, W, 1)."""
    return x.mean(3, keepdim=True), x.mean(2).unsqueeze(3)


class CoordAtt(nn.Module):
    """Coordinate attention: a shared 1x1 convolution of the means of rows and columns, then one gate for each axis.

    x * sigmoid(conv_h(y_h)) * sigmoid(conv_w(y_w)), y = hardswish(bn(conv([mean_W(x); mean_H(x)]))), with
    max(8, c1 / reduction) hidden channels. Keeps channels: (B, c1, H, W) -> same shape. arXiv 2103.02907.
    """

    def __init__(self, c1: int, reduction: int = 32):
        super().__init__()
        hidden = max(8, c1 // reduction)
        self.conv1 = nn.Conv2d(c1, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_h = nn.Conv2d(hidden, c1, 1)
        self.conv_w = nn.Conv2d(hidden, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return attend_axes(x, self.conv1, self.bn1, self.conv_h, self.conv_w)


def attend_axes(x: torch.Tensor, conv: nn.Module, bn: nn.Module, conv_h: nn.Module, conv_w: nn.Module) -> torch.Tensor:
    """Gate the rows and the columns of a map by the layers of a CoordAtt: (B, c, H, W) -> same shape."""
    rows, columns = F.hardswish(bn(conv(torch.cat(pool_axes(x), 2)))).split(x.shape[2:], 2)
    return x * torch.sigmoid(conv_w(columns.transpose(2, 3))) * torch.sigmoid(conv_h(rows))


class CA(CoordAtt):
    """CoordAtt for rows that write the channels out: (B, c1, H, W) -> same shape.

    Raises ValueError unless c1 = c2. arXiv 2103.02907.
    """

    def __init__(self, c1: int, c2: int, reduction: int = 32):
        check_equal_channels(c1, c2)
        super().__init__(c1, reduction)


class ELA(nn.Module):
    """Efficient local attention: one convolution along the means of the rows, and along those of the columns.

    x * f(mean_W(x)) * f(mean_H(x)), f = sigmoid(groupnorm(conv1d)). Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError unless c1 is a multiple of 16. The paper's other forms have kernel_size 5, or depthwise
    convolutions (`dw`); one public copy has kernel_size 1. arXiv 2403.01123.
    """

    def __init__(self, c1: int, kernel_size: int = 7, dw: bool = False):
        super().__init__()
        check_multiple(c1, 16)
        conv = nn.Conv1d(c1, c1, kernel_size, padding=kernel_size // 2, groups=c1 if dw else 1)
        self.conv1x1 = nn.Sequential(conv, nn.GroupNorm(16, c1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.conv1x1(x.mean(3)).unsqueeze(3) * self.conv1x1(x.mean(2)).unsqueeze(2)


class MPCA(nn.Module):
    """Multi-path coordinate attention: gates of the rows, of the columns, and of the map's means.

    Convolutions of the means of both axes give the axes' gates and weight the means' gate.
    Keeps channels: (B, c1, H, W) -> same shape. A module of public YOLO forks.
    """

    def __init__(self, c1: int):
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), Conv(c1, c1))
        self.conv_hw = Conv(c1, c1, (3, 1))
        self.conv_pool_hw = Conv(c1, c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.conv_hw(torch.cat(pool_axes(x), 2))
        weights = torch.sigmoid(self.conv_pool_hw(pooled))
        rows, columns = torch.sigmoid(pooled * weights).split(x.shape[2:], 2)
        whole = self.gap(x) * weights.mean(2, keepdim=True)
        return x * rows * columns.transpose(2, 3) * torch.sigmoid(whole)


class EMA(nn.Module):
    """Efficient multi-scale attention: coordinate gates and a 3x3 convolution weight each other, in channel groups.

    In each of `factor` groups g: x1 = groupnorm(g * gates of the axes), x2 = conv3x3(g), then
    g * sigmoid(softmax(mean(x1)) . x2 + softmax(mean(x2)) . x1), the products over the channels.
    Keeps channels: (B, c1, H, W) -> same shape. Raises ValueError unless c1 is a multiple of `factor`.
    arXiv 2305.13563.
    """

    def __init__(self, c1: int, factor: int = 8):
        super().__init__()
        check_multiple(c1, factor)
        self.factor = factor
        width = c1 // factor
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = x.unflatten(1, (self.factor, -1)).flatten(0, 1)
        axes = torch.sigmoid(self.conv1x1(torch.cat(pool_axes(groups), 2)))
        rows, columns = axes.split(x.shape[2:], 2)
        x1 = self.gn(groups * rows * columns.transpose(2, 3))
        x2 = self.conv3x3(groups)
        weights = self._weight(x1, x2) + self._weight(x2, x1)
        return (groups * torch.sigmoid(weights)).view(x.shape)

    def _weight(self, pooled: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Sum the channels of one map, weighted by the softmax of another's means: (B, c, H, W) -> (B, 1, H, W)."""
        shares = pooled.mean((2, 3)).softmax(1).unsqueeze(1)
        return (shares @ x.flatten(2)).unflatten(2, x.shape[2:])


class AxisGate(nn.Module):
    """Gate of TripletAttention: y * sigmoid(conv([max; mean])), both over dimension 1: (B, D, H, W) -> same shape.

    arXiv 2010.03045.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv(2, 1, 7, act=False)
        self.conv.bn.momentum = 0.01  # as published

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.conv(pool_channels(x, maximum_first=True)))


class TripletAttention(nn.Module):
    """Mean of three gated maps; each gate pools one axis (height, width or channels) and convolves the other two.

    Keeps channels: (B, c1, H, W) -> same shape. With `no_spatial` there is no gate that pools channels.
    arXiv 2010.03045.
    """

    def __init__(self, no_spatial: bool = False):
        super().__init__()
        self.cw = AxisGate()
        self.hc = AxisGate()
        self.hw = None if no_spatial else AxisGate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cw(x.transpose(1, 2)).transpose(1, 2) + self.hc(x.transpose(1, 3)).transpose(1, 3)
        return y / 2 if self.hw is None else (y + self.hw(x)) / 3
