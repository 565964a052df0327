"""Attention to the neighbourhood of each position, and attention beside convolutions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.parts import (
    check_heads,
    check_multiple,
    make_depthwise,
    merge_heads,
    split_heads,
    to_channels_first,
    to_channels_last,
)


def attend_neighbours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend to K neighbours of each position: q (B, heads, d, N), k and v (B, heads, d, K, N) -> (B, heads, d, N)."""
    weights = (q.unsqueeze(3) * k).sum(2, keepdim=True).softmax(3)
    return (weights * v).sum(3)


class ACmix(nn.Module):
    """Adds self-attention to the k x k neighbourhood and a convolution, which share three 1x1 convolutions q, k, v.

    rate1 * attention + rate2 * convolution. The attention has a learnt linear function of the relative position; the
    map is mirrored at the border. Keeps channels: (B, c1, H, W) -> (B, c1, H/stride, W/stride).
    Raises ValueError unless c1 is a multiple of `head`, and for maps that are smaller than the mirrored border.
    arXiv 2111.14556.

    Args:
        c1: channels.
        kernel_att, head: size of the neighbourhood, and heads, of the attention.
        kernel_conv: kernel of the convolution.
        stride, dilation: of both; the dilation is the attention's.
    """

    def __init__(
        self,
        c1: int,
        kernel_att: int = 7,
        head: int = 4,
        kernel_conv: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ):
        super().__init__()
        check_heads(c1, head)
        self.head, self.stride, self.kernel, self.dilation = head, stride, kernel_att, dilation
        width, cells = c1 // head, kernel_conv**2
        self.conv1 = nn.Conv2d(c1, c1, 1)
        self.conv2 = nn.Conv2d(c1, c1, 1)
        self.conv3 = nn.Conv2d(c1, c1, 1)
        self.conv_p = nn.Conv2d(2, width, 1)
        self.fc = nn.Conv2d(3 * head, cells, 1, bias=False)
        self.dep_conv = nn.Conv2d(cells * width, c1, kernel_conv, stride, kernel_conv // 2, groups=width, bias=False)
        self.rate1 = nn.Parameter(torch.tensor([0.5]))
        self.rate2 = nn.Parameter(torch.tensor([0.5]))
        # Each of the shared maps starts as the one that its place in the kernel moves.
        shifts = torch.eye(cells).view(1, cells, kernel_conv, kernel_conv)
        self.dep_conv.weight = nn.Parameter(shifts.repeat(c1, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        return self.rate1 * self._attend(q, k, v) + self.rate2 * self._convolve(q, k, v)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        height, width = q.shape[2:]
        columns = torch.linspace(-1, 1, width, device=q.device, dtype=q.dtype).expand(height, -1)
        rows = torch.linspace(-1, 1, height, device=q.device, dtype=q.dtype)[:, None].expand(-1, width)
        positions = self.conv_p(torch.stack((columns, rows))[None]).repeat(1, self.head, 1, 1)
        q = q[:, :, :: self.stride, :: self.stride]
        size = q.shape[2:]
        q = q.flatten(2).unflatten(1, (self.head, -1))
        # A query's own position adds the same to all its scores, which the softmax does not see.
        k = self._unfold(k - positions)
        y = attend_neighbours(q * q.shape[2] ** -0.5, k, self._unfold(v))
        return y.flatten(1, 2).unflatten(2, size)

    def _unfold(self, x: torch.Tensor) -> torch.Tensor:
        """Return the neighbours of each position: (B, heads * d, H, W) -> (B, heads, d, kernel * kernel, N)."""
        border = self.dilation * (self.kernel - 1) // 2
        if min(x.shape[2:]) <= border:
            raise ValueError(f"height and width must be above {border}, the mirrored border: {tuple(x.shape[2:])}")
        padded = F.pad(x, (border,) * 4, mode="reflect")
        neighbours = F.unfold(padded, self.kernel, self.dilation, stride=self.stride)
        return neighbours.unflatten(1, (self.head, -1, self.kernel**2))

    def _convolve(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        heads = torch.cat([part.flatten(2).unflatten(1, (self.head, -1)) for part in (q, k, v)], 1)
        maps = self.fc(heads).transpose(1, 2).flatten(1, 2)  # of each channel of a head, the places of the kernel
        return self.dep_conv(maps.unflatten(2, q.shape[2:]))


class MultiDilatelocalAttention(nn.Module):
    """Attention of each position to a 3 x 3 neighbourhood, dilated differently in each part of the heads.

    softmax(q k / sqrt(d)) v; neighbours beyond the border are zeros, which count. Keeps channels:
    (B, c1, H, W) -> same shape. Raises ValueError unless num_heads is a multiple of the number of dilations and c1 of
    num_heads. The dilations default to two: the public default of three contradicts its eight heads.
    MSDA of DilateFormer, arXiv 2302.01791.

    Args:
        c1: channels.
        num_heads: heads.
        qkv_bias: whether the convolution before the attention has a bias.
        kernel_size: side of the neighbourhood, odd.
        dilation: dilations of the parts.
    """

    def __init__(
        self,
        c1: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        kernel_size: int = 3,
        dilation: Sequence[int] = (1, 2),
    ):
        super().__init__()
        check_heads(c1, num_heads)
        check_multiple(num_heads, len(dilation), "the number of heads, which the dilations share,")
        self.heads, self.kernel, self.dilation = num_heads // len(dilation), kernel_size, tuple(dilation)
        self.qkv = nn.Conv2d(c1, 3 * c1, 1, bias=qkv_bias)
        self.proj = nn.Linear(c1, c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.chunk(len(self.dilation), 1) for part in self.qkv(x).chunk(3, 1))
        parts = [self._attend(*group) for group in zip(q, k, v, self.dilation, strict=True)]
        return to_channels_first(self.proj(to_channels_last(torch.cat(parts, 1))))

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, d: int) -> torch.Tensor:
        border = d * (self.kernel - 1) // 2
        k, v = (
            F.unfold(part, self.kernel, d, border).unflatten(1, (self.heads, -1, self.kernel**2)) for part in (k, v)
        )
        heads = q.flatten(2).unflatten(1, (self.heads, -1))
        return attend_neighbours(heads * heads.shape[2] ** -0.5, k, v).flatten(1, 2).unflatten(2, q.shape[2:])


class GateMlp(nn.Module):
    """Two 1x1 convolutions with SiLU between: (B, c, H, W) -> same shape. CloFormer, arXiv 2303.17803."""

    def __init__(self, channels: int):
        super().__init__()
        self.act_block = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.SiLU(), nn.Conv2d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act_block(x)


class EfficientAttention(nn.Module):
    """Heads of gated depthwise convolutions beside heads of attention to the pooled map, joined by a 1x1 convolution.

    Local: tanh(mlp(q * k) / sqrt(d)) * v, all three convolved. Global: softmax(q k / sqrt(d)) v, keys and values of the
    mean-pooled map. Keeps channels: (B, c1, H, W) -> same shape. Raises ValueError unless c1 is a multiple of
    num_heads, and group_split sums to it. CloFormer, arXiv 2303.17803.

    Args:
        c1: channels.
        num_heads: heads.
        group_split: heads of each depthwise convolution, and last of the global attention, which may be 0.
        kernel_sizes: kernels of the depthwise convolutions.
        window_size: side and stride of the pooling.
    """

    def __init__(
        self,
        c1: int,
        num_heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (5,),
        window_size: int = 4,
    ):
        super().__init__()
        check_heads(c1, num_heads)
        if sum(group_split) != num_heads or len(group_split) != len(kernel_sizes) + 1:
            raise ValueError(
                f"group_split must sum to {num_heads} heads and have one entry more than kernel_sizes: "
                f"{list(group_split)} and {list(kernel_sizes)}"
            )
        d = c1 // num_heads
        *local, self.global_heads = group_split
        self.scale, self.window = d**-0.5, window_size
        if self.global_heads:
            self.global_q = nn.Conv2d(c1, self.global_heads * d, 1)
            self.global_kv = nn.Conv2d(c1, 2 * self.global_heads * d, 1)
        widths = [heads * d for heads in local]
        self.convs = nn.ModuleList(make_depthwise(3 * m, k) for m, k in zip(widths, kernel_sizes, strict=True))
        self.act_blocks = nn.ModuleList(GateMlp(m) for m in widths)
        self.qkvs = nn.ModuleList(nn.Conv2d(c1, 3 * m, 1) for m in widths)
        self.proj = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for qkv, conv, gate in zip(self.qkvs, self.convs, self.act_blocks, strict=True):
            q, k, v = conv(qkv(x)).chunk(3, 1)
            parts.append(torch.tanh(gate(q * k) * self.scale) * v)
        if self.global_heads:
            parts.append(self._attend(x))
        return self.proj(torch.cat(parts, 1))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(x, [min(self.window, side) for side in x.shape[2:]])
        k, v = self.global_kv(pooled).chunk(2, 1)
        q, k, v = (split_heads(part, self.global_heads) for part in (self.global_q(x), k, v))
        return merge_heads(F.scaled_dot_product_attention(q, k, v), x.shape[2:])
