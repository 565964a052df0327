"""Joining and picking what several layers give."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Size2, auto_padding


class Concat(nn.Module):
    """Concatenation of the sources along one dimension."""

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(xs, self.d)


class Add(nn.Module):
    """The sum of the sources, which have one shape."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        first, *others = xs
        for other in others:
            first = first + other
        return first


class Multiply(nn.Module):
    """Element-wise product of the sources, broadcast where a side is 1: a gate (B, c, 1, 1) on a map (B, c, H, W)."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        out = xs[0]
        for x in xs[1:]:
            out = out * x
        return out


class Slice(nn.Module):
    """Channels begin to end of a map, as a view: (B, c1, H, W) -> (B, end - begin, H, W). ValueError beyond c1."""

    def __init__(self, c1: int, begin: int, end: int):
        super().__init__()
        if not 0 <= begin < end <= c1:
            raise ValueError(f"channels {begin} to {end} are asked for, {c1} arrive")
        self.begin, self.end = begin, end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, self.begin : self.end]


class Index(nn.Module):
    """One element of a layer that gives several."""

    def __init__(self, index: int = 0):
        super().__init__()
        self.index = index

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        return xs[self.index]


class CBLinear(nn.Module):
    """One convolution whose channels are dealt out as a tuple of maps of widths c2s. CBNetV2, arXiv 2107.00420."""

    def __init__(self, c1: int, c2s: list[int], k: Size2 = 1, s: Size2 = 1, p: Size2 | None = None, g: int = 1):
        super().__init__()
        self.c2s = tuple(c2s)
        self.conv = nn.Conv2d(c1, sum(c2s), k, s, auto_padding(k, p), groups=g)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.conv(x).split(self.c2s, 1)


class CBFuse(nn.Module):
    """The last source plus element idx[i] of each earlier one, resized to it (nearest). CBNetV2, arXiv 2107.00420."""

    def __init__(self, idx: list[int]):
        super().__init__()
        self.idx = tuple(idx)

    def forward(self, xs: Sequence[Any]) -> torch.Tensor:
        *earlier, out = xs
        size = out.shape[2:]
        for parts, i in zip(earlier, self.idx, strict=True):
            part = parts[i]
            out = out + (part if part.shape[2:] == size else F.interpolate(part, size))
        return out
