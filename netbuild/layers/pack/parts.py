"""Parts that several modules of the pack are made of."""

from math import log2
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv, Size2, auto_padding
from netbuild.roles import In


def shuffle_channels(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Interleave the channels of groups: (B, c, H, W) -> same shape, the first of each group first (ShuffleNet)."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def check_multiple(value: int, factor: int, what: str = "channels") -> None:
    """Raise ValueError unless a value, which the message calls `what`, is a positive multiple of a factor."""
    if value < 1 or value % factor:
        raise ValueError(f"{what} must be a multiple of {factor}: {value}")


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    """Move the channels to the end, as a view: (B, c, H, W) -> (B, H, W, c)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: torch.Tensor) -> torch.Tensor:
    """Move the channels to the second place, as a view: (B, H, W, c) -> (B, c, H, W)."""
    return x.permute(0, 3, 1, 2)


def make_scale(channels: int, value: float) -> nn.Parameter:
    """Make a trained factor of each channel (layer scale, arXiv 2103.17239), (c,)."""
    return nn.Parameter(torch.full((channels,), float(value)))


def normalise_response(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Weight channels by their L2 norm over the map, relative to the mean of these norms, and add that to the input.

    (B, H, W, c) -> same shape; scale and shift (c,) or (1, 1, 1, c). ConvNeXt V2, arXiv 2301.00808.
    """
    norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    return x + scale * (x * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + shift


def set_activation(module: nn.Module, act: nn.Module) -> None:
    """Give every Conv inside a module an activation, which they share."""
    for conv in module.modules():
        if isinstance(conv, Conv):
            conv.act = act


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each position: (B, c, H, W) -> same shape. ConvNeXt, arXiv 2201.03545."""

    def __init__(self, channels: Annotated[int, In], eps: float = 1e-6):
        super().__init__(channels, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return to_channels_first(super().forward(to_channels_last(x)))


class ConvGate(nn.Module):
    """Gate of the channels (squeeze and excitation) by two 1x1 convolutions of their means, with ReLU between.

    (B, c, H, W) -> same shape. arXiv 1709.01507.

    Args:
        channels, hidden: channels of the map, and between the convolutions.
        gate: module that turns the result into weights.
        names: names of the two convolutions in the state dict.
    """

    def __init__(
        self, channels: int, hidden: int, gate: nn.Module | None = None, names: tuple[str, str] = ("conv1", "conv2")
    ):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"{channels} channels are too few for the reduction of a channel gate")
        self.names = names
        self.add_module(names[0], nn.Conv2d(channels, hidden, 1))
        self.add_module(names[1], nn.Conv2d(hidden, channels, 1))
        self.gate = nn.Sigmoid() if gate is None else gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (getattr(self, name) for name in self.names)
        return x * self.gate(second(F.relu(first(x.mean((2, 3), keepdim=True)))))


class BlockConv(nn.Module):
    """Conv with ReLU under the name `block`, as in YOLOv6: (B, c1, H, W) -> (B, c2, H/s, W/s)."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1):
        super().__init__()
        self.block = Conv(c1, c2, k, s, g=g, act=nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


def count_neighbours(channels: int, b: float = 1, gamma: float = 2) -> int:
    """Return the odd kernel size |log2 c + b| / gamma of ECA's convolution over channels. arXiv 1910.03151."""
    k = int(abs((log2(channels) + b) / gamma))
    return k if k % 2 else k + 1


def reduce_channels(channels: int, reduction: int) -> int:
    """Return channels // reduction; raise ValueError if that is 0."""
    if channels < reduction:
        raise ValueError(f"channels must be at least the reduction of {reduction}: {channels}")
    return channels // reduction


def round_channels(channels: int, reduction: int) -> int:
    """Return channels / reduction, rounded to an integer, halves up; raise ValueError if that is 0."""
    if 2 * channels < reduction:
        raise ValueError(f"channels must be at least half the reduction of {reduction}: {channels}")
    return (2 * channels + reduction) // (2 * reduction)


def make_channel_conv(k: int) -> nn.Conv1d:
    """Create a convolution that runs along a sequence of channels: (B, 1, channels) -> same shape."""
    if k % 2 == 0:
        raise ValueError(f"the kernel size of a convolution along the channels must be odd: {k}")
    return nn.Conv1d(1, 1, k, padding=k // 2, bias=False)


def make_depthwise(channels: int, k: Size2, d: int = 1, bias: bool = True) -> nn.Conv2d:
    """Create a depthwise convolution that keeps the size, for odd k: (B, channels, H, W) -> same shape."""
    padding = auto_padding(k, None, d)
    return nn.Conv2d(channels, channels, k, padding=padding, dilation=d, groups=channels, bias=bias)


def make_linear_gate(channels: int, reduction: int, bias: bool = False) -> nn.Sequential:
    """Create two linear layers, ReLU between and a sigmoid at the end: (B, channels) -> same shape.

    Raises ValueError if the channels are fewer than the reduction. Squeeze and excitation, arXiv 1709.01507.
    """
    hidden = reduce_channels(channels, reduction)
    return nn.Sequential(
        nn.Linear(channels, hidden, bias=bias), nn.ReLU(), nn.Linear(hidden, channels, bias=bias), nn.Sigmoid()
    )


def pool_by_attention(x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Average a map with weights that are the softmax of scores over the positions.

    (B, c, H, W) and (B, 1, H, W) -> (B, c, 1, 1).
    """
    weights = scores.flatten(2).softmax(2)
    return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


def pool_channels(x: torch.Tensor, maximum_first: bool = False) -> torch.Tensor:
    """Concatenate the mean and the maximum over the channels: (B, c, H, W) -> (B, 2, H, W)."""
    pooled = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
    return torch.cat(pooled[::-1] if maximum_first else pooled, 1)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn a map's positions into tokens of each attention head: (B, heads * d, H, W) -> (B, heads, H*W, d)."""
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def merge_heads(tokens: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Turn the tokens of all heads into a map of a size: (B, heads, H*W, d) -> (B, heads * d, H, W)."""
    return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, size)


def check_heads(channels: int, heads: int) -> None:
    """Raise ValueError unless the channels are a multiple of the number of heads."""
    check_multiple(channels, heads, "channels, which the heads share,")


def split_windows(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Cut a map into rows x columns windows of h x w positions: (B, c, H, W) -> (B, rows * columns, h * w, c)."""
    grid = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def merge_windows(windows: torch.Tensor, rows: int, columns: int, height: int) -> torch.Tensor:
    """Join windows of `height` positions each to a map, the inverse of `split_windows`."""
    grid = windows.unflatten(2, (height, -1)).unflatten(1, (rows, columns))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def pad_to_multiple(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Pad a map with zeros at the right and below until its sides are multiples of a factor."""
    return F.pad(x, (0, -x.shape[3] % factor, 0, -x.shape[2] % factor))
