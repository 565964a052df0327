"""Blocks of efficient backbones: RepViT, EMO, GhostNetV2, EfficientViT."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.attention import attend, check_equal_channels
from netbuild.layers.conv import Conv
from netbuild.layers.fuse import fold_bn, set_weights
from netbuild.layers.pack.coordinate_attention import EMA
from netbuild.layers.pack.mobile import make_depthwise_norm, make_point_norm
from netbuild.layers.pack.parts import ConvGate, check_multiple
from netbuild.roles import Width


class ConvNorm(nn.Module):
    """Convolution without bias under the name `c`, and its norm: (B, c1, H, W) -> (B, c2, H/s, W/s). LeViT, RepViT."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1):
        super().__init__()
        self.c = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c(x)
        return x if self.bn is None else self.bn(x)

    def fuse(self) -> None:
        """Fold the batch norm into `c`, which gets a bias."""
        if self.bn is not None:
            set_weights(self.c, *fold_bn(self.c, self.bn))
            self.bn = None


class RepVggDepthwise(nn.Module):
    """Sum of a normalised depthwise 3x3, a depthwise 1x1 and the input, normalised; fuses to one depthwise 3x3.

    (B, c, H, W) -> same shape. RepViT, arXiv 2307.09283.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, g=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.bn is None:  # fused
            return self.conv(x)
        return self.bn(self.conv(x) + self.conv1(x) + x)

    def fuse(self) -> None:
        """Merge the branches into the convolution `conv.c`."""
        if self.bn is None:
            return
        self.conv.fuse()
        conv, point = self.conv.c, self.conv1
        # Padding by 1 on each side puts the 1x1 kernel, and the input's own 1, in the middle of the 3x3.
        set_weights(conv, conv.weight + F.pad(point.weight + 1, (1, 1, 1, 1)), conv.bias + point.bias)
        set_weights(conv, *fold_bn(conv, self.bn))
        self.conv1 = self.bn = None


class AddBranch(nn.Module):
    """A map plus a branch's output, whose weights are found under `name`: (B, c, H, W) -> same shape."""

    def __init__(self, name: str, branch: nn.Module):
        super().__init__()
        self.name = name
        self.add_module(name, branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + getattr(self, self.name)(x)


class RepViTBlock(nn.Module):
    """Depthwise 3x3 with parallel branches and a channel gate, then two 1x1 convolutions added to their input.

    (B, c1, H, W) -> (B, c2, H/s, W/s). At s = 2 the first part is a single depthwise 3x3 of stride 2 and, after the
    gate, a 1x1 convolution to c2 channels. `use_se` says whether there is a gate. Raises ValueError unless c1 = c2
    at s = 1. RepViT, arXiv 2307.09283.
    """

    def __init__(self, c1: int, c2: int, use_se: bool = True, s: int = 1):
        super().__init__()
        gate = self.make_gate(c1) if use_se else nn.Identity()
        if s == 1:
            check_equal_channels(c1, c2)
            self.token_mixer = nn.Sequential(RepVggDepthwise(c1), gate)
        else:
            self.token_mixer = nn.Sequential(ConvNorm(c1, c1, 3, s, g=c1), gate, ConvNorm(c1, c2))
        mlp = nn.Sequential(ConvNorm(c2, 2 * c2), nn.GELU(), ConvNorm(2 * c2, c2))
        nn.init.zeros_(mlp[2].bn.weight)
        self.channel_mixer = AddBranch("fn" if s == 1 else "m", mlp)

    @staticmethod
    def make_gate(channels: int) -> nn.Module:
        """Make the module after the depthwise convolution."""
        hidden = max(8, (channels // 4 + 4) // 8 * 8)  # a quarter, rounded to a multiple of 8
        return ConvGate(channels, hidden, names=("fc1", "fc2"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.channel_mixer(self.token_mixer(x))


class RepViTBlockPlain(RepViTBlock):
    """RepViTBlock without a channel gate: (B, c1, H, W) -> (B, c2, H/s, W/s). RepViT, arXiv 2307.09283."""

    def __init__(self, c1: int, c2: int, s: int = 1):
        super().__init__(c1, c2, use_se=False, s=s)


class RepViTBlockEMA(RepViTBlock):
    """RepViTBlock with efficient multi-scale attention as its gate: (B, c1, H, W) -> (B, c2, H/s, W/s).

    Raises ValueError unless c1 is a multiple of 8. arXiv 2307.09283 and 2305.13563.
    """

    @staticmethod
    def make_gate(channels: int) -> nn.Module:
        return EMA(channels)


class iRMB(nn.Module):
    """Inverted residual mobile block: attention in windows of spread positions, then a depthwise 3x3, added to x.

    y = attention(norm(x)); x + proj(y + conv_local(y)). A map padded to 7n x 7m has n x m windows, and the positions of
    one lie n rows and m columns apart. (B, c1, H, W) -> (B, c2, H, W). Raises ValueError unless c1 = c2, a multiple of
    dim_head. EMO, arXiv 2301.01146.

    Args:
        c1, c2: channels.
        norm_in: whether the input is normalised.
        exp_ratio: growth of the channels of the values.
        dw_ks: size of the depthwise kernel.
        dim_head: channels of queries and keys for each head.
        window_size: positions of a window along each axis.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        norm_in: bool = True,
        exp_ratio: float = 1.0,
        dw_ks: int = 3,
        dim_head: int = 16,
        window_size: int = 7,
    ):
        super().__init__()
        check_equal_channels(c1, c2)
        check_multiple(c1, dim_head, "channels, split into heads,")
        self.heads, self.window_size = c1 // dim_head, window_size
        hidden = int(c1 * exp_ratio)
        check_multiple(hidden, self.heads, "channels of the values (c1 * exp_ratio)")
        self.norm = nn.BatchNorm2d(c1) if norm_in else nn.Identity()
        self.qk = nn.Conv2d(c1, 2 * c1, 1, bias=False)
        self.v = nn.Sequential(nn.Conv2d(c1, hidden, 1, bias=False), nn.SiLU())
        self.conv_local = Conv(hidden, hidden, dw_ks, g=hidden)
        self.proj = nn.Conv2d(hidden, c2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, height, width = x.shape
        size = self.window_size
        padded = F.pad(self.norm(x), (0, -width % size, 0, -height % size))
        q, k = split_spread_windows(self.qk(padded), size).chunk(2, 3)
        v = split_spread_windows(self.v(padded), size)
        y = attend(*(part.unflatten(3, (self.heads, -1)) for part in (q, k, v))).flatten(3, 4)
        y = merge_spread_windows(y, size)[:, :, :height, :width]
        return x + self.proj(y + self.conv_local(y))


def split_spread_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """Split a map into windows whose positions lie as far apart as can be: (B, C, s*n, s*m) -> (B, n, m, C, s*s).

    Position (a, b) of window (i, j) is row a*n + i and column b*m + j of the map.
    """
    grid = x.unflatten(3, (size, -1)).unflatten(2, (size, -1))
    return grid.permute(0, 3, 5, 1, 2, 4).flatten(4)


def merge_spread_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """Join windows of spread positions to a map: (B, n, m, C, s*s) -> (B, C, s*n, s*m)."""
    return x.unflatten(4, (size, size)).permute(0, 3, 4, 1, 5, 2).flatten(4).flatten(2, 3)


class GhostModuleV2(nn.Module):
    """A 1x1 convolution for half the maps, a depthwise 3x3 of these for the others, and a gate from far positions.

    [p; cheap(p)] * sigmoid(short(mean of 2x2)), where short sees 5 rows and columns of the halved map.
    (B, c1, H, W) -> (B, c2, H, W); H and W must be at least 2. The names of its weights are timm's.
    GhostNetV2, arXiv 2211.12905.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        half = (c2 + 1) // 2
        self.c2 = c2
        self.primary_conv, self.cheap_operation = make_ghost_halves(c1, half, nn.ReLU())
        self.short_conv = nn.Sequential(
            *make_point_norm(c1, c2),
            nn.Conv2d(c2, c2, (1, 5), padding=(0, 2), groups=c2, bias=False),
            nn.BatchNorm2d(c2),
            nn.Conv2d(c2, c2, (5, 1), padding=(2, 0), groups=c2, bias=False),
            nn.BatchNorm2d(c2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.short_conv(F.avg_pool2d(x, 2)))
        y = self.primary_conv(x)
        y = torch.cat((y, self.cheap_operation(y)), 1)[:, : self.c2]
        return y * F.interpolate(gate, size=y.shape[2:], mode="nearest")


def make_ghost_halves(c1: int, half: int, act: nn.Module) -> tuple[nn.Sequential, nn.Sequential]:
    """Make the convolution of a ghost module's first maps and the depthwise one that makes the others of them."""
    return (
        nn.Sequential(*make_point_norm(c1, half), act),
        nn.Sequential(*make_depthwise_norm(half, 3, 1), act),
    )


class GhostModule(nn.Module):
    """A 1x1 convolution for half the maps, a depthwise 3x3 of these for the others, without activation.

    (B, c1, H, W) -> (B, c2, H, W). GhostNet, arXiv 1911.11907.
    """

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.c2 = c2
        self.primary_conv, self.cheap_operation = make_ghost_halves(c1, (c2 + 1) // 2, nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.primary_conv(x)
        return torch.cat((y, self.cheap_operation(y)), 1)[:, : self.c2]


class GhostBottleneck_v2(nn.Module):
    """GhostModuleV2 to `mid` channels, a depthwise convolution if s > 1, a ghost module to c2, plus a shortcut.

    (B, c1, H, W) -> (B, c2, H/s, W/s). The shortcut is the input, or a depthwise and a 1x1 convolution unless s = 1 and
    c1 = c2. `k` is the size of the depthwise kernels. GhostNetV2, arXiv 2211.12905.
    """

    def __init__(self, c1: int, mid: Annotated[int, Width], c2: int, k: int = 3, s: int = 1):
        super().__init__()
        self.ghost1 = GhostModuleV2(c1, mid)
        if s > 1:
            self.conv_dw, self.bn_dw = make_depthwise_norm(mid, k, s)
        self.ghost2 = GhostModule(mid, c2)
        plain = s == 1 and c1 == c2
        shortcut = [] if plain else [*make_depthwise_norm(c1, k, s), *make_point_norm(c1, c2)]
        self.shortcut = nn.Sequential(*shortcut)
        self.s = s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ghost1(x)
        if self.s > 1:
            y = self.bn_dw(self.conv_dw(y))
        return self.ghost2(y) + self.shortcut(x)


class NamedConv(nn.Module):
    """Convolution, then a norm and an activation if asked for, named as timm's: (B, c1, H, W) -> (B, c2, H, W)."""

    def __init__(
        self, c1: int, c2: int, k: int = 1, g: int = 1, bias: bool = False, norm: bool = False, act: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, padding=k // 2, groups=g, bias=bias)
        self.norm = nn.BatchNorm2d(c2) if norm else nn.Identity()
        self.act = nn.Hardswish() if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class LiteMLA(nn.Module):
    """Linear attention with ReLU on queries, keys and values of two scales: (B, c1, H, W) -> (B, c2, H, W).

    relu(q) (relu(k)^T v) / relu(q) relu(k)^T 1, for heads of `dim` channels; the second scale comes from a depthwise
    5x5. Cost grows with H * W, not with its square. Raises ValueError unless c1 is a multiple of dim.
    EfficientViT, arXiv 2205.14756.
    """

    def __init__(self, c1: int, c2: int, dim: int = 8):
        super().__init__()
        check_multiple(c1, dim, "channels, split into heads,")
        self.dim = dim
        self.qkv = NamedConv(c1, 3 * c1)
        aggregation = nn.Sequential(
            nn.Conv2d(3 * c1, 3 * c1, 5, padding=2, groups=3 * c1, bias=False),
            nn.Conv2d(3 * c1, 3 * c1, 1, groups=3 * c1 // dim, bias=False),
        )
        self.aggreg = nn.ModuleList([aggregation])
        self.proj = NamedConv(2 * c1, c2, norm=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(x)
        scales = torch.cat((qkv, self.aggreg[0](qkv)), 1).flatten(2)
        q, k, v = scales.unflatten(1, (-1, 3 * self.dim)).chunk(3, 2)  # (B, heads, dim, N)
        q, k = q.relu(), k.relu()
        extended = F.pad(v, (0, 0, 0, 1), value=1.0)  # a row of ones adds up the weights
        y = (extended @ k.transpose(-2, -1)) @ q
        y = y[:, :, :-1] / (y[:, :, -1:] + 1e-5)
        return self.proj(y.flatten(1, 2).unflatten(2, x.shape[2:]))


class InvertedBottleneck(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 back, the first two with Hardswish: (B, c, H, W) -> same shape.

    EfficientViT, arXiv 2205.14756.
    """

    def __init__(self, channels: int, expand_ratio: int):
        super().__init__()
        hidden = channels * expand_ratio
        self.inverted_conv = NamedConv(channels, hidden, bias=True, act=True)
        self.depth_conv = NamedConv(hidden, hidden, 3, g=hidden, bias=True, act=True)
        self.point_conv = NamedConv(hidden, channels, norm=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.point_conv(self.depth_conv(self.inverted_conv(x)))


class EfficientVitBlock(nn.Module):
    """LiteMLA, then an inverted bottleneck, both added to their input: (B, c1, H, W) -> same shape: keeps channels.

    Raises ValueError unless c1 is a multiple of `head_dim`. EfficientViT, arXiv 2205.14756.
    """

    def __init__(self, c1: int, head_dim: int = 32, expand_ratio: int = 4):
        super().__init__()
        self.context_module = AddBranch("main", LiteMLA(c1, c1, head_dim))
        self.local_module = AddBranch("main", InvertedBottleneck(c1, expand_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.local_module(self.context_module(x))
