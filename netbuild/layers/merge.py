"""Modules that combine several inputs, or select one of several outputs."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Size2, auto_padding


class Concat(nn.Module):
    """Concatenation of the inputs along one dimension, 1 (channels) by default."""

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(xs, self.d)


class Add(nn.Module):
    """Sum of the inputs, which have the same shape or can be broadcast."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        first, *others = xs
        for other in others:
            first = first + other
        return first


class Multiply(nn.Module):
    """Element-wise product of the inputs with broadcasting, such as a gate (B, c, 1, 1) and a map (B, c, H, W)."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        out = xs[0]
        for x in xs[1:]:
            out = out * x
        return out


def check_several(xs: Sequence[torch.Tensor] | torch.Tensor) -> None:
    """Raise ValueError for a single tensor, whose images would be combined in place of several inputs."""
    if isinstance(xs, torch.Tensor):
        raise ValueError("it combines several inputs, and a single one arrives: write its sources as a list")


class Slice(nn.Module):
    """Channels `begin` to `end` of a map, as a view: (B, c1, H, W) -> (B, end - begin, H, W).

    Raises ValueError unless 0 <= begin < end <= c1.
    """

    def __init__(self, c1: int, begin: int, end: int):
        super().__init__()
        if not 0 <= begin < end <= c1:
            raise ValueError(f"channels {begin} to {end} are selected, but the input has {c1}")
        self.begin, self.end = begin, end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.begin : self.end]


class CenterCrop(nn.Module):
    """The middle of the first map, as high and wide as the second: (B, c1, H, W), (B, c2, h, w) -> (B, c1, h, w).

    Of an odd difference one more row is cut at the bottom, and one more column at the right. U-Net, arXiv 1505.04597.
    Raises ValueError if the first map is smaller than the second.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        x, other = xs
        h, w = other.shape[2:]
        top, left = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
        if top < 0 or left < 0:
            sides = "x".join(map(str, x.shape[2:]))
            raise ValueError(f"a map of {sides} cells cannot be cropped to {h}x{w}: write the larger source first")
        return x[:, :, top : top + h, left : left + w]


class Index(nn.Module):
    """One output of a module that returns several, by number."""

    def __init__(self, index: int = 0):
        super().__init__()
        self.index = index

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        return xs[self.index]


class CBLinear(nn.Module):
    """One convolution, split into a tuple of maps of c2s[i] channels: (B, c1, H, W) -> (B, c2s[i], H/s, W/s) each.

    CBNetV2, arXiv 2107.00420.
    """

    def __init__(self, c1: int, c2s: list[int], k: Size2 = 1, s: Size2 = 1, p: Size2 | None = None, g: int = 1):
        super().__init__()
        self.c2s = tuple(c2s)
        self.conv = nn.Conv2d(c1, sum(c2s), k, s, auto_padding(k, p), groups=g)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.conv(x).split(self.c2s, 1)


class CBFuse(nn.Module):
    """The last input plus map idx[i] of each earlier input i, resized (nearest) to the last: -> the last input's shape.

    The earlier inputs are tuples of maps, as CBLinear returns. CBNetV2, arXiv 2107.00420.
    """

    def __init__(self, idx: list[int]):
        super().__init__()
        self.idx = tuple(idx)

    def forward(self, xs: Sequence[Any]) -> torch.Tensor:
        *earlier, out = xs
        size = out.shape[2:]
        for parts, i in zip(earlier, self.idx, strict=True):
            part = parts[i]
            # Interpolation to the same size would only copy.
            out = out + (part if part.shape[2:] == size else F.interpolate(part, size))
        return out
