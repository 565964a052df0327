"""Modules of kindle, a builder of networks from YAML: convolutions with its state keys, MobileNetV2 and MobileViT."""

from math import gcd
from typing import Annotated

import torch
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import auto_padding
from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.roles import Plain


class KindleConv(nn.Module):
    """Convolution without bias, batch norm, ReLU, with the state keys of kindle: (B, c1, H, W) -> (B, c2, H/s, W/s)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        activation: Act = "ReLU",
    ):
        super().__init__()
        pad = auto_padding(kernel_size, padding)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad, groups=groups, bias=False)
        self.batch_norm = nn.BatchNorm2d(out_channels)
        self.activation = resolve_activation(activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.activation(x if self.batch_norm is None else self.batch_norm(x))

    def fuse(self) -> None:
        """Fold the batch norm into `conv`, which gets a bias."""
        if self.batch_norm is not None:
            set_weights(self.conv, *fold_bn(self.conv, self.batch_norm))
            self.batch_norm = None


class KindleDWConv(KindleConv):
    """KindleConv in gcd(c1, c2) groups, depthwise if c1 = c2: (B, c1, H, W) -> (B, c2, H/s, W/s). kindle."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int | None = None,
        activation: Act = "ReLU",
    ):
        groups = gcd(in_channels, out_channels)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups, activation)


class MV2Block(nn.Module):
    """Inverted residual: 1x1 to `expand_ratio` times the channels, depthwise 3x3, 1x1 without activation.

    The input is added where stride is 1 and c1 = c2. (B, c1, H, W) -> (B, c2, H/s, W/s). MobileNetV2, arXiv 1801.04381,
    as kindle has it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, expand_ratio: int = 4, activation: Act = "ReLU"
    ):
        super().__init__()
        hidden = in_channels * expand_ratio
        self.use_shortcut = stride == 1 and in_channels == out_channels
        expand = [KindleConv(in_channels, hidden, activation=activation)] if expand_ratio != 1 else []
        self.conv = nn.Sequential(
            *expand,
            KindleConv(hidden, hidden, 3, stride, groups=hidden, activation=activation),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class MobileViTBlock(nn.Module):
    """Convolution, a transformer over the pixels at the same place of all patches, and a convolution of both.

    (B, c1, H, W) -> same shape, H and W multiples of the patch. MobileViT, arXiv 2110.02178, as kindle has it.

    Args:
        in_channels: channels of the map.
        conv_channels, mlp_channels: channels of the transformer, and inside its feed-forward layers.
        depth: number of transformer layers, each with one head of 32 channels.
        kernel_size: of the first and the last convolution.
        patch_size: side of a patch.
        dropout: after each linear layer.
        activation: of the convolutions.

    Raises:
        ValueError: in forward, if a side is no multiple of the patch.
    """

    def __init__(
        self,
        in_channels: int,
        conv_channels: Annotated[int, Plain],
        mlp_channels: Annotated[int, Plain],
        depth: Annotated[int, Plain],
        kernel_size: int = 3,
        patch_size: int = 2,
        dropout: float = 0.0,
        activation: Act = "SiLU",
    ):
        super().__init__()
        c, d = in_channels, conv_channels
        self.patch = patch_size
        self.conv1_nxn = KindleConv(c, c, kernel_size, activation=activation)
        self.conv2_1x1 = KindleConv(c, d, activation=activation)
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(
            nn.ModuleList((_PreNorm(d, _Attention(d, dropout)), _PreNorm(d, _FeedForward(d, mlp_channels, dropout))))
            for _ in range(depth)
        )
        self.conv3_1x1 = KindleConv(d, c, activation=activation)
        self.conv4_nxn = KindleConv(2 * c, c, kernel_size, activation=activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p, (h, w) = self.patch, x.shape[2:]
        if h % p or w % p:
            raise ValueError(f"the map must be a multiple of the {p}x{p} patch: {h}x{w} arrives")
        y = self.conv2_1x1(self.conv1_nxn(x))
        # (B, d, rows, p, columns, p) -> (B, p * p, patches, d): pixels at one place of the patches attend to each other
        y = y.unflatten(3, (w // p, p)).unflatten(2, (h // p, p)).permute(0, 3, 5, 2, 4, 1)
        shape = y.shape
        y = y.flatten(3, 4).flatten(1, 2)
        for attend, feed in self.transformer.layers:
            y = y + attend(y)
            y = y + feed(y)
        y = y.view(shape).permute(0, 5, 3, 1, 4, 2).reshape(x.shape[0], -1, h, w)
        return self.conv4_nxn(torch.cat((self.conv3_1x1(y), x), 1))


class _PreNorm(nn.Module):
    """A layer after a layer norm: (..., c) -> same shape."""

    def __init__(self, c: int, layer: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(c)
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(x))


class _Attention(nn.Module):
    """Self-attention with one head of 32 channels: (..., N, c) -> same shape."""

    def __init__(self, c: int, dropout: float, width: int = 32):
        super().__init__()
        self.to_qkv = nn.Linear(c, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, c), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.to_qkv(x).chunk(3, -1)
        return self.to_out((q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5).softmax(-1) @ v)


class _FeedForward(nn.Module):
    """Two linear layers with SiLU between: (..., c) -> same shape."""

    def __init__(self, c: int, hidden: int, dropout: float):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(c, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, c), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)
