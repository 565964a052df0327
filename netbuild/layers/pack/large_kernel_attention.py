"""Attention whose weights are convolutions with large kernels, split into strips or into dilated parts."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.pack.parts import make_depthwise, pool_channels, reduce_channels
from netbuild.layers.pool import SPPF, pool_in_series


class LSKA(nn.Module):
    """Large separable kernel attention: x * conv1(a chain of four depthwise strips, two of them dilated).

    The strips together cover k_size x k_size positions. Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError unless k_size is 7, 11, 23, 35, 41 or 53. arXiv 2309.01439.
    """

    # Size of the first strips, size and dilation of the others, by k_size.
    STRIPS = {7: (3, 3, 2), 11: (3, 5, 2), 23: (5, 7, 3), 35: (5, 11, 3), 41: (5, 13, 3), 53: (5, 17, 3)}

    def __init__(self, c1: int, k_size: int = 7):
        super().__init__()
        if k_size not in self.STRIPS:
            raise ValueError(f"kernel size must be one of {', '.join(map(str, self.STRIPS))}: {k_size}")
        near, far, d = self.STRIPS[k_size]
        self.conv0h = make_depthwise(c1, (1, near))
        self.conv0v = make_depthwise(c1, (near, 1))
        self.conv_spatial_h = make_depthwise(c1, (1, far), d)
        self.conv_spatial_v = make_depthwise(c1, (far, 1), d)
        self.conv1 = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.conv0v(self.conv0h(x))
        return x * self.conv1(self.conv_spatial_v(self.conv_spatial_h(near)))


class SPPF_LSKA(SPPF):
    """SPPF with large separable kernel attention (size 11) on the concatenated poolings.

    (B, c1, H, W) -> (B, c2, H, W). LSKA, arXiv 2309.01439.
    """

    def __init__(self, c1: int, c2: int, k: int = 5):
        super().__init__(c1, c2, k)
        self.lska = LSKA(4 * (c1 // 2), 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv2(self.lska(pool_in_series(self.cv1(x), [self.m] * self.n)))


class LSKblock(nn.Module):
    """Large selective kernel: two depthwise convolutions of growing reach, mixed with weights for each position.

    x * conv(a1 * s1 + a2 * s2), the weights s by a 7x7 convolution of the mean and maximum over the channels.
    Keeps channels: (B, c1, H, W) -> same shape. Raises ValueError if c1 < 2. LSKNet, arXiv 2303.09030.
    """

    def __init__(self, c1: int):
        super().__init__()
        half = reduce_channels(c1, 2)
        self.conv0 = make_depthwise(c1, 5)
        self.conv_spatial = make_depthwise(c1, 7, 3)
        self.conv1 = nn.Conv2d(c1, half, 1)
        self.conv2 = nn.Conv2d(c1, half, 1)
        self.conv_squeeze = nn.Conv2d(2, 2, 7, padding=3)
        self.conv = nn.Conv2d(half, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.conv0(x)
        far = self.conv2(self.conv_spatial(near))
        near = self.conv1(near)
        for_near, for_far = torch.sigmoid(self.conv_squeeze(pool_channels(torch.cat((near, far), 1)))).split(1, 1)
        return x * self.conv(near * for_near + far * for_far)


class LSKBlock(nn.Module):
    """LSKblock between two 1x1 convolutions, GELU after the first, plus the input: (B, c1, H, W) -> same shape.

    Keeps channels. Raises ValueError if c1 < 2. LSKNet, arXiv 2303.09030.
    """

    def __init__(self, c1: int):
        super().__init__()
        self.proj_1 = nn.Conv2d(c1, c1, 1)
        self.spatial_gating_unit = LSKblock(c1)
        self.proj_2 = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x))))


class SegNext_Attention(nn.Module):
    """Multi-scale convolutional attention: a 5x5 convolution and pairs of strips of 7, 11 and 21 on it, all depthwise.

    x * conv3(a + sum of pairs(a)), a = conv0(x). Keeps channels: (B, c1, H, W) -> same shape.
    SegNeXt, arXiv 2209.08575.
    """

    SIZES = (7, 11, 21)

    def __init__(self, c1: int):
        super().__init__()
        self.conv0 = make_depthwise(c1, 5)
        for i, k in enumerate(self.SIZES):
            self.add_module(f"conv{i}_1", make_depthwise(c1, (1, k)))
            self.add_module(f"conv{i}_2", make_depthwise(c1, (k, 1)))
        self.conv3 = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.conv0(x)
        strips = [getattr(self, f"conv{i}_2")(getattr(self, f"conv{i}_1")(near)) for i in range(len(self.SIZES))]
        return x * self.conv3(sum(strips, near))


class CAA(nn.Module):
    """Context anchor attention: x * sigmoid of a 7x7 mean pooling, a horizontal and a vertical strip between two Convs.

    Keeps channels: (B, c1, H, W) -> same shape. PKINet, arXiv 2403.06258.
    """

    def __init__(self, c1: int, h_kernel_size: int = 11, v_kernel_size: int = 11):
        super().__init__()
        self.conv1 = Conv(c1, c1)
        self.h_conv = make_depthwise(c1, (1, h_kernel_size))
        self.v_conv = make_depthwise(c1, (v_kernel_size, 1))
        self.conv2 = Conv(c1, c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.avg_pool2d(x, 7, 1, 3))
        return x * torch.sigmoid(self.conv2(self.v_conv(self.h_conv(y))))
