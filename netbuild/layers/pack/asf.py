"""Fusion of three scales as in ASF-YOLO."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.merge import check_several
from netbuild.layers.pack.maps import check_same_shapes, check_source_count
from netbuild.layers.pack.parts import count_neighbours
from netbuild.roles import In


class Zoom_cat(nn.Module):
    """Concatenation of a large map pooled by maximum plus mean, a middle one, and a small one resized (nearest).

    (B, c_0, H_0, W_0), (B, c_1, H, W), (B, c_2, H_2, W_2) -> (B, c_0 + c_1 + c_2, H, W). ASF-YOLO, arXiv 2312.06458.
    """

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        large, middle, small = xs
        size = middle.shape[2:]
        pooled = F.adaptive_max_pool2d(large, size) + F.adaptive_avg_pool2d(large, size)
        return torch.cat((pooled, middle, F.interpolate(small, size)), 1)


class ScalSeq(nn.Module):
    """Maximum over three scales, laid in a third dimension, after a 1x1x1 convolution, batch norm and leaky ReLU.

    Each source gets c2 channels by a 1x1 Conv, the first one only if it has others, and the first's size (nearest).
    (B, c_0, H, W), (B, c_1, H_1, W_1), (B, c_2, H_2, W_2) -> (B, c2, H, W). Raises ValueError unless there are three
    sources. ASF-YOLO, arXiv 2312.06458.
    """

    def __init__(self, ch: Annotated[list[int], In], c2: int):
        super().__init__()
        check_source_count(ch, 3)
        if ch[0] != c2:
            self.conv0 = Conv(ch[0], c2)
        self.conv1 = Conv(ch[1], c2)
        self.conv2 = Conv(ch[2], c2)
        self.conv3d = nn.Conv3d(c2, c2, 1)
        self.bn = nn.BatchNorm3d(c2)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        first, middle, small = xs
        first = self.conv0(first) if hasattr(self, "conv0") else first
        others = (self.conv1(middle), self.conv2(small))
        scales = torch.stack([first, *(F.interpolate(x, first.shape[2:]) for x in others)], 2)
        return self.act(self.bn(self.conv3d(scales))).amax(2)


class asf_attention_model(nn.Module):
    """Channel attention on the first map, the second added, and attention along rows and columns of the sum.

    The channel weights are a 1-D convolution over the channels' means (as ECA, arXiv 1910.03151). (B, c, H, W) twice ->
    same shape. Raises ValueError unless there are two sources of equal channels, at least 16 of them. ASF-YOLO,
    arXiv 2312.06458.
    """

    def __init__(self, ch: Annotated[list[int], In]):
        super().__init__()
        check_source_count(ch, 2)
        check_same_shapes(ch)
        c = ch[0]
        if c < 16:
            raise ValueError(f"at least 16 channels are needed for the reduction by 16: {c} arrive")
        k = count_neighbours(c)
        self.channel_att = nn.Module()
        self.channel_att.conv = nn.Conv1d(1, 1, k, padding=(k - 1) // 2, bias=False)
        self.local_att = nn.Module()
        self.local_att.conv_1x1 = nn.Conv2d(c, c // 16, 1, bias=False)
        self.local_att.bn = nn.BatchNorm2d(c // 16)
        self.local_att.F_h = nn.Conv2d(c // 16, c, 1, bias=False)
        self.local_att.F_w = nn.Conv2d(c // 16, c, 1, bias=False)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        first, second = xs
        means = first.mean((2, 3))[:, None]
        y = first * self.channel_att.conv(means).sigmoid().transpose(1, 2)[..., None] + second
        local = self.local_att
        axes = torch.cat((y.mean(3), y.mean(2)), 2)[:, :, None]  # a row of H + W cells
        rows, columns = F.relu(local.bn(local.conv_1x1(axes))).split(y.shape[2:], 3)
        return y * local.F_h(rows.transpose(2, 3)).sigmoid() * local.F_w(columns).sigmoid()
