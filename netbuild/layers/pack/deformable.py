"""Convolutions whose kernel points move: deformable convolutions and LDConv."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import Conv, auto_padding
from netbuild.layers.csp import Bottleneck
from netbuild.layers.pack.parts import check_multiple, to_channels_first, to_channels_last
from netbuild.layers.pack.wrappers import C2fWrapper, C3k2Wrapper, C3Wrapper
from netbuild.layers.vision import Permute


def sample_bilinear(
    x: torch.Tensor, columns: torch.Tensor, rows: torch.Tensor, padding_mode: str = "zeros"
) -> torch.Tensor:
    """Sample groups of channels of a map at points, bilinearly: (B, c, H, W) -> (B, c, N).

    Args:
        x: the map.
        columns, rows: coordinates of the points in positions of the map, from 0, (B, groups, N).
        padding_mode: what lies outside the map: "zeros", or its "border".
    """
    groups, (height, width) = columns.shape[1], x.shape[2:]
    # Half precision has too few digits for coordinates.
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    axes = ((columns, width), (rows, height))  # -1 and 1 are the edges of the map
    points = torch.stack([(place.to(dtype) + 0.5) * (2.0 / n) - 1 for place, n in axes], 3)
    maps = x.to(dtype).unflatten(1, (groups, -1)).flatten(0, 1)
    sampled = F.grid_sample(maps, points.flatten(0, 1)[:, None], "bilinear", padding_mode, align_corners=False)
    return sampled.unflatten(0, (-1, groups)).flatten(1, 2).flatten(2).to(x.dtype)


def place_points(
    points: tuple[torch.Tensor, torch.Tensor], size: tuple[int, int], stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns of the points of a kernel at each position of its output, (K, H, 1) and (K, 1, W).

    Args:
        points: rows and columns of the points at the first position, (K,) each.
        size: (H, W) of the output.
        stride: step of the kernel.
    """
    rows, columns = points
    height, width = (torch.arange(n, device=rows.device, dtype=rows.dtype) * stride for n in size)
    return rows[:, None, None] + height[:, None], columns[:, None, None] + width


def make_kernel_points(k: int, p: int, d: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rows and columns of the points of a k x k kernel, (k * k,) each, row after row."""
    steps = torch.arange(k, device=device, dtype=torch.float32) * d - p
    return steps.repeat_interleave(k), steps.repeat(k)


class DCNv2(nn.Module):
    """Modulated deformable convolution, batch norm, activation: (B, c1, H, W) -> (B, c2, H/s, W/s).

    A convolution predicts an offset and a weight of each kernel point at each position, zero and one half at first.
    Raises ValueError unless c1 is a multiple of the deformable groups. arXiv 1811.11168.

    Args:
        c1, c2: channels in and out.
        k, s, p, g, d: kernel, stride, padding (None keeps the size), groups and dilation.
        act: activation.
        deformable_groups: groups of channels, each with offsets of its own.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: Act = True,
        deformable_groups: int = 1,
    ):
        super().__init__()
        check_multiple(c1, deformable_groups)
        self.k, self.s, self.p, self.g, self.d = k, s, auto_padding(k, p, d), g, d
        plain = nn.Conv2d(c1, c2, k, groups=g)
        self.weight, self.bias = plain.weight, plain.bias
        nn.init.zeros_(self.bias)
        self.conv_offset_mask = nn.Conv2d(c1, 3 * deformable_groups * k * k, k, s, self.p, d)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)
        self.bn = nn.BatchNorm2d(c2)
        self.act = resolve_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = self.k * self.k
        predicted = self.conv_offset_mask(x)
        size = predicted.shape[2:]
        offsets, mask = predicted.tensor_split((predicted.shape[1] // 3 * 2,), 1)
        offsets = offsets.unflatten(1, (-1, points, 2))  # of each group and point: along rows, along columns
        mask = mask.unflatten(1, (-1, points)).sigmoid()
        rows, columns = place_points(make_kernel_points(self.k, self.p, self.d, x.device), size, self.s)
        places = (columns + offsets[:, :, :, 1]).flatten(2), (rows + offsets[:, :, :, 0]).flatten(2)
        samples = sample_bilinear(x, *places).unflatten(2, (points, *size)).unflatten(1, (mask.shape[1], -1))
        samples = (samples * mask[:, :, None]).flatten(1, 3)  # (B, c1 * points, H/s, W/s)
        y = F.conv2d(samples, self.weight.flatten(1)[..., None, None], self.bias, groups=self.g)
        return self.act(self.bn(y))


class DCNv3(nn.Module):
    """Deformable convolution with shared weights: samples of each group of channels, weighted by a softmax.

    (B, c1, H, W) -> (B, c1, H/stride, W/stride): keeps channels. Offsets and weights come from a depthwise
    convolution. Raises ValueError unless c1 is a multiple of `group`. InternImage, arXiv 2211.05778.

    Args:
        c1: channels.
        kernel_size, stride, pad, dilation: of the kernel whose points are sampled.
        group: groups of channels, each with points of its own.
        offset_scale: factor of the offsets.
    """

    def __init__(
        self,
        c1: int,
        kernel_size: int = 3,
        stride: int = 1,
        pad: int = 1,
        dilation: int = 1,
        group: int = 4,
        offset_scale: float = 1.0,
    ):
        super().__init__()
        check_multiple(c1, group)
        self.k, self.s, self.p, self.d, self.offset_scale = kernel_size, stride, pad, dilation, offset_scale
        points = group * kernel_size**2
        conv = nn.Conv2d(c1, c1, 3, stride, 1, groups=c1)
        self.dw_conv = nn.Sequential(conv, nn.Sequential(Permute((0, 2, 3, 1)), nn.LayerNorm(c1, 1e-6)), nn.GELU())
        self.offset = nn.Linear(c1, 2 * points)
        self.mask = nn.Linear(c1, points)
        self.input_proj = nn.Linear(c1, c1)
        self.output_proj = nn.Linear(c1, c1)
        self.group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        points = self.k * self.k
        u = self.dw_conv(x)
        size = u.shape[1:3]
        offsets = to_channels_first(self.offset(u)).unflatten(1, (self.group, points, 2)) * self.offset_scale
        mask = to_channels_first(self.mask(u)).unflatten(1, (self.group, points)).softmax(2)
        # The points follow each other column after column.
        columns, rows = make_kernel_points(self.k, self.p, self.d, x.device)
        rows, columns = place_points((rows, columns), size, self.s)
        places = (columns + offsets[:, :, :, 0]).flatten(2), (rows + offsets[:, :, :, 1]).flatten(2)
        values = to_channels_first(self.input_proj(to_channels_last(x)))
        samples = sample_bilinear(values, *places).unflatten(2, (points, *size)).unflatten(1, (self.group, -1))
        y = (samples * mask[:, :, None]).sum(3).flatten(1, 2)
        return to_channels_first(self.output_proj(to_channels_last(y)))


class DCNV3_YOLO(nn.Module):
    """1x1 Conv, DCNv3, batch norm, activation: (B, c1, H, W) -> (B, c2, H/s, W/s).

    Raises ValueError unless c2 is a multiple of 4, the groups of the deformable convolution. arXiv 2211.05778.

    Args:
        c1, c2: channels in and out.
        k, s, p, g, d: kernel, stride, padding (None keeps the size), groups and dilation.
        act: activation.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: int | None = None,
        g: int = 4,
        d: int = 1,
        act: Act = True,
    ):
        super().__init__()
        self.conv = Conv(c1, c2)
        self.dcnv3 = DCNv3(c2, k, s, auto_padding(k, p, d), d, g)
        self.bn = nn.BatchNorm2d(c2)
        self.act = resolve_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.dcnv3(self.conv(x))))


class LDConv(nn.Module):
    """Convolution of num_param points in any arrangement, each moved by a predicted offset, batch norm, SiLU.

    The points begin as rows of round(sqrt(num_param)); the last row may be shorter. Samples beyond the border, or on
    its bottom and right edge, count double along that axis, as in the authors' file. (B, c1, H, W) ->
    (B, c2, H/s, W/s). arXiv 2311.11587.
    """

    def __init__(self, c1: int, c2: int, num_param: int = 3, s: int = 1):
        super().__init__()
        self.n, self.s = num_param, s
        self.conv = nn.Sequential(
            nn.Conv2d(c1, c2, (num_param, 1), (num_param, 1), bias=False), nn.BatchNorm2d(c2), nn.SiLU()
        )
        self.p_conv = nn.Conv2d(c1, 2 * num_param, 3, s, 1)
        nn.init.zeros_(self.p_conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        offsets = self.p_conv(x).unflatten(1, (2, self.n))
        size = offsets.shape[3:]
        order = torch.arange(self.n, device=x.device)
        columns = round(self.n**0.5)
        first = (order // columns).float(), (order % columns).float()
        places, factor = [], 1.0
        for axis, start in enumerate(place_points(first, size, self.s)):
            place, last = start + offsets[:, axis], x.shape[2 + axis] - 1
            factor = factor * (1.0 + ((place < 0) | (place >= last)))
            places.append(place.clamp(0, last).flatten(1)[:, None])
        samples = sample_bilinear(x, places[1], places[0], "border").unflatten(2, (self.n, *size))
        samples = samples * factor[:, None].to(x.dtype)
        return self.conv(samples.transpose(2, 3).flatten(2, 3))  # rows: the points of a position below each other


class DeformableBottleneck(Bottleneck):
    """Bottleneck whose second convolution is a DCNv2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1811.11168."""

    second_conv = DCNv2


class DoublyDeformableBottleneck(DeformableBottleneck):
    """Bottleneck of two DCNv2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1811.11168."""

    first_conv = DCNv2


class C3_DCNv2(C3Wrapper):
    """C3 of n bottlenecks whose second convolution is a DCNv2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1811.11168."""

    block = DeformableBottleneck


class C2f_DCNv2(C2fWrapper):
    """C2f of n bottlenecks whose second convolution is a DCNv2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1811.11168."""

    block = DeformableBottleneck


class C3k2_DCNv2(C3k2Wrapper):
    """C3k2 of n bottlenecks whose second convolution is a DCNv2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1811.11168."""

    block = DeformableBottleneck


class C2f_DCN(C2fWrapper):
    """C2f of n bottlenecks of two DCNv2: (B, c1, H, W) -> (B, c2, H, W). arXiv 1811.11168."""

    block = DoublyDeformableBottleneck
