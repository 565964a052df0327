"""Attention by one context vector, a mean of the map, which scales the channels or is added to them."""

from collections import OrderedDict

import torch
from torch import nn

from netbuild.layers.pack.parts import LayerNorm2d, pool_by_attention, reduce_channels, round_channels


class GlobalContext(nn.Module):
    """Scales or shifts the channels by a two-layer network of one context vector, an attention-weighted mean.

    z = sum_positions softmax(W x) x; x * sigmoid(mlp(z)), then + mlp(z). Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError if c1 < 4. This is the form with layer norm over channels and c1 / 8 hidden channels;
    ContextBlock2d is the other one. GCNet, arXiv 1904.11492.

    Args:
        c1: channels.
        use_attn: whether the context is weighted by attention; it is the plain mean otherwise.
        fuse_add, fuse_scale: whether the context is added, and whether it scales.
    """

    def __init__(self, c1: int, use_attn: bool = True, fuse_add: bool = False, fuse_scale: bool = True):
        super().__init__()
        hidden = round_channels(c1, 8)
        self.conv_attn = nn.Conv2d(c1, 1, 1) if use_attn else None
        self.mlp_add = self._make_mlp(c1, hidden) if fuse_add else None
        self.mlp_scale = self._make_mlp(c1, hidden) if fuse_scale else None

    def _make_mlp(self, c1: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(
            OrderedDict(
                fc1=nn.Conv2d(c1, hidden, 1), norm=LayerNorm2d(hidden), act=nn.ReLU(), fc2=nn.Conv2d(hidden, c1, 1)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention = self.conv_attn
        context = x.mean((2, 3), keepdim=True) if attention is None else pool_by_attention(x, attention(x))
        if self.mlp_scale is not None:
            x = x * torch.sigmoid(self.mlp_scale(context))
        return x if self.mlp_add is None else x + self.mlp_add(context)


class ContextBlock2d(nn.Module):
    """Global context block that scales and shifts the channels: x * sigmoid(mlp1(z)) + mlp2(z).

    z is a mean of the map, weighted by attention. Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError if c1 < reduction. GCNet, arXiv 1904.11492.
    """

    def __init__(self, c1: int, reduction: int = 4):
        super().__init__()
        hidden = reduce_channels(c1, reduction)
        self.conv_mask = nn.Conv2d(c1, 1, 1)
        self.channel_add_conv, self.channel_mul_conv = (
            nn.Sequential(nn.Conv2d(c1, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), nn.Conv2d(hidden, c1, 1))
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = pool_by_attention(x, self.conv_mask(x))
        return x * torch.sigmoid(self.channel_mul_conv(context)) + self.channel_add_conv(context)


class ContextAggregation(nn.Module):
    """Adds one context vector, weighted by attention, to all positions, with a gate for each position.

    x + m(sum_positions v(x) softmax(k(x))) * sigmoid(a(x)). Keeps channels: (B, c1, H, W) -> same shape.
    CATNet, arXiv 2111.11057.
    """

    def __init__(self, c1: int, reduction: int = 1):
        super().__init__()
        hidden = max(c1 // reduction, 1)
        sizes = ("a", c1, 1), ("k", c1, 1), ("v", c1, hidden), ("m", hidden, c1)
        for name, channels, width in sizes:
            self.add_module(name, nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, width, 1))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.m(pool_by_attention(self.v(x), self.k(x))) * torch.sigmoid(self.a(x))
