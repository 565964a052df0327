"""Blocks of ConvNeXt and HorNet, and stages of the whole networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.csp import C3, make_chain
from netbuild.layers.pack.parts import (
    LayerNorm2d,
    check_multiple,
    make_scale,
    normalise_response,
    to_channels_first,
    to_channels_last,
)
from netbuild.layers.vision import StochasticDepth
from netbuild.roles import Plain


class ConvNextBlock(nn.Module):
    """Depthwise 7x7 convolution, layer norm and two linear layers, scaled and added to the input.

    (B, c1, H, W) -> same shape: keeps channels. `drop_path` is the probability of stochastic depth,
    `layer_scale_init_value` the first value of the trained scale. ConvNeXt, arXiv 2201.03545.
    """

    def __init__(self, c1: int, drop_path: float = 0.0, layer_scale_init_value: float = 1e-6):
        super().__init__()
        self.dwconv = nn.Conv2d(c1, c1, 7, padding=3, groups=c1)
        self.norm = nn.LayerNorm(c1, eps=1e-6)
        self.pwconv1 = nn.Linear(c1, 4 * c1)
        self.pwconv2 = nn.Linear(4 * c1, c1)
        self.gamma = make_scale(c1, layer_scale_init_value)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(to_channels_last(self.dwconv(x)))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + self.drop_path(to_channels_first(y))


class CNeB(C3):
    """C3 of n ConvNextBlocks: (B, c1, H, W) -> (B, c2, H, W). ConvNeXt, arXiv 2201.03545.

    `shortcut` and `g` have no effect.
    """

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return make_chain(n, lambda: ConvNextBlock(c))


class ResponseNorm(nn.Module):
    """Global response normalisation: (B, H, W, c) -> same shape. ConvNeXt V2, arXiv 2301.00808."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalise_response(x, self.weight, self.bias)


class GrnMlp(nn.Module):
    """Two linear layers with GELU and global response normalisation between: (B, H, W, c) -> same shape.

    ConvNeXt V2, arXiv 2301.00808.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.grn = ResponseNorm(4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.grn(F.gelu(self.fc1(x))))


class ConvNeXtV2Block(nn.Module):
    """ConvNextBlock with global response normalisation in place of the layer scale.

    (B, c1, H, W) -> same shape: keeps channels. `drop_path` is the probability of stochastic depth. The names of its
    weights are timm's. ConvNeXt V2, arXiv 2301.00808.
    """

    def __init__(self, c1: int, drop_path: float = 0.0):
        super().__init__()
        self.conv_dw = nn.Conv2d(c1, c1, 7, padding=3, groups=c1)
        self.norm = nn.LayerNorm(c1, eps=1e-6)
        self.mlp = GrnMlp(c1)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mlp(self.norm(to_channels_last(self.conv_dw(x))))
        return x + self.drop_path(to_channels_first(y))


class gnconv(nn.Module):
    """Recursive gated convolution: depthwise convolutions of ever more channels gate the map again and again.

    (p, q) = proj_in(x); y = p * d_0; y = pws_i(y) * d_i+1; proj_out(y), where d_i are the parts of dwconv(q) * s with
    c1 / 2^(order - 1) to c1 channels. (B, c1, H, W) -> same shape: keeps channels. Raises ValueError unless c1 is a
    multiple of 2^(order - 1). HorNet, arXiv 2207.14284.
    """

    def __init__(self, c1: int, order: int = 5, s: float = 1.0):
        super().__init__()
        check_multiple(c1, 2 ** (order - 1), f"channels (of a gated convolution of order {order})")
        self.dims = [c1 // 2**i for i in reversed(range(order))]
        self.s = s
        self.proj_in = nn.Conv2d(c1, 2 * c1, 1)
        self.dwconv = nn.Conv2d(sum(self.dims), sum(self.dims), 7, padding=3, groups=sum(self.dims))
        self.proj_out = nn.Conv2d(c1, c1, 1)
        self.pws = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(self.dims, self.dims[1:], strict=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, q = self.proj_in(x).split((self.dims[0], sum(self.dims)), 1)
        first, *gates = (self.dwconv(q) * self.s).split(self.dims, 1)
        y = y * first
        for conv, gate in zip(self.pws, gates, strict=True):
            y = conv(y) * gate
        return self.proj_out(y)


class HorBlock(nn.Module):
    """Recursive gated convolution, then two linear layers, both normalised, scaled and added to their input.

    (B, c1, H, W) -> same shape: keeps channels. Raises ValueError unless c1 is a multiple of 2^(order - 1).
    HorNet, arXiv 2207.14284.

    Args:
        c1: channels.
        drop_path: probability of stochastic depth.
        layer_scale_init_value: first value of the trained scales.
        order, s: order and scale of the gated convolution.
    """

    def __init__(
        self,
        c1: int,
        drop_path: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        order: int = 5,
        s: float = 1.0,
    ):
        super().__init__()
        self.norm1 = LayerNorm2d(c1)
        self.gnconv = gnconv(c1, order, s)
        self.norm2 = nn.LayerNorm(c1, eps=1e-6)
        self.pwconv1 = nn.Linear(c1, 4 * c1)
        self.pwconv2 = nn.Linear(4 * c1, c1)
        self.gamma1 = make_scale(c1, layer_scale_init_value)
        self.gamma2 = make_scale(c1, layer_scale_init_value)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.gamma1.view(-1, 1, 1) * self.gnconv(self.norm1(x)))
        y = self.norm2(to_channels_last(x))
        y = self.gamma2 * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + self.drop_path(to_channels_first(y))


class C3HB(C3):
    """C3 of n HorBlocks: (B, c1, H, W) -> (B, c2, H, W). HorNet, arXiv 2207.14284.

    `shortcut` and `g` have no effect. Raises ValueError unless the hidden channels, int(c2 * e), are a multiple of 16.
    """

    @staticmethod
    def make_inner(c: int, n: int, shortcut: bool, g: int) -> nn.Module:
        return make_chain(n, lambda: HorBlock(c))


class NetworkStage(nn.Module):
    """Base of ConvNeXt and HorNet: stage `index` of a network of four, the other three are there but not used.

    Args:
        c1, c2: channels in and out; c2 must be dim * 2^index.
        index: number of the stage, from 0.
        depths: number of blocks of each stage.
        dim: channels of the first stage; each next one has twice as many.
        make_block: makes a block of a stage: (channels, number of the stage) -> module.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        index: int,
        depths: Sequence[int],
        dim: int,
        make_block: Callable[[int, int], nn.Module],
    ):
        super().__init__()
        channels_in = dim * 2 ** (index - 1) if index else 3
        if not 0 <= index < 4 or len(depths) != 4:
            raise ValueError(f"there are 4 stages, 0 to 3, and as many depths: stage {index}, depths {list(depths)}")
        if c2 != dim * 2**index or c1 != channels_in:
            raise ValueError(
                f"stage {index} of a network with {dim} channels at first has {channels_in} channels in and "
                f"{dim * 2**index} channels out, not {c1} and {c2}"
            )
        self.index = index
        widths = [dim * 2**i for i in range(4)]
        self.downsample_layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, dim, 4, 4), LayerNorm2d(dim))])
        for width in widths[1:]:
            self.downsample_layers.append(nn.Sequential(LayerNorm2d(width // 2), nn.Conv2d(width // 2, width, 2, 2)))
        self.stages = nn.ModuleList(
            make_chain(n, partial(make_block, width, i))
            for i, (n, width) in enumerate(zip(depths, widths, strict=True))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stages[self.index](self.downsample_layers[self.index](x))


class ConvNeXt(NetworkStage):
    """Stage of a ConvNeXt: (B, c1, H, W) -> (B, c2, H/4, W/4) for index 0, (B, c2, H/2, W/2) for others.

    The row also holds the weights of the other three stages, which are not used, as in the files that have such rows:
    `timm` rows of whole networks have no such ballast. `depths` are the blocks of each stage, `dim` the channels of the
    first. Raises ValueError unless c2 = dim * 2^index and c1 fits. ConvNeXt, arXiv 2201.03545.
    """

    def __init__(
        self,
        c1: int,
        c2: Annotated[int, Plain],
        index: int = 0,
        depths: Sequence[int] = (3, 3, 9, 3),
        dim: Annotated[int, Plain] = 96,
    ):
        super().__init__(c1, c2, index, depths, dim, lambda channels, stage: ConvNextBlock(channels))


class HorNet(NetworkStage):
    """Stage of a HorNet: (B, c1, H, W) -> (B, c2, H/4, W/4) for index 0, (B, c2, H/2, W/2) for others.

    The row also holds the weights of the other three stages, which are not used, as in the files that have such rows.
    The gated convolutions have the orders 2, 3, 4 and 5, and the scale 1/3. `in_chans` has no effect, `depths` are the
    blocks of each stage, `dim_base` the channels of the first. Raises ValueError unless c2 = dim_base * 2^index and c1
    fits. HorNet, arXiv 2207.14284.
    """

    def __init__(
        self,
        c1: int,
        c2: Annotated[int, Plain],
        index: int = 0,
        in_chans: Annotated[int, Plain] = 3,
        depths: Sequence[int] = (2, 3, 18, 2),
        dim_base: int = 64,
    ):
        super().__init__(
            c1, c2, index, depths, dim_base, lambda channels, stage: HorBlock(channels, order=stage + 2, s=1 / 3)
        )
