"""Attention on tokens and in windows of channels-last maps, (B, H, W, features).

Rows must give `features` as an argument: what the builder infers are channels, dimension 1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


def attend_heads(qkv: torch.Tensor, heads: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute multi-head attention from joined queries, keys and values: (..., N, 3*heads*d) -> (..., N, heads*d).

    `bias` is added to the scores before the softmax; it must broadcast to (..., heads, N, N).
    """
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(-3, -2) for part in qkv.chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(-3, -2).flatten(-2)


def check_heads(features: int, num_heads: int) -> None:
    """Raise ValueError unless the features are a multiple of the number of heads."""
    if features % num_heads:
        raise ValueError(f"features must be a multiple of the number of heads: {features} features, {num_heads} heads")


def split_windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """Split a map into windows: (B, H, W, C) -> (B, windows, window * window, C); H and W are multiples of `window`."""
    grid = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def merge_windows(x: torch.Tensor, window: int, width: int) -> torch.Tensor:
    """Join windows to a map of a width: (B, windows, window * window, C) -> (B, H, W, C)."""
    grid = x.unflatten(2, (window, window)).unflatten(1, (-1, width // window))
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def compare_regions(sides: tuple[int, int], shifts: Sequence[int], window: int, device: torch.device) -> torch.Tensor:
    """Tell which positions of a window of a rolled map were not side by side before: (windows, N, N), N = window**2."""
    down, across = (number_regions(*axis, window, device) for axis in zip(sides, shifts, strict=True))
    regions = split_windows((3 * down[:, None] + across)[None, :, :, None], window)[0, :, :, 0]
    return regions[:, :, None] != regions[:, None]


def number_regions(side: int, shift: int, window: int, device: torch.device) -> torch.Tensor:
    """Number the regions of a rolled axis, (side,): 0 before the last window, 1 in it, 2 wrapped around into it."""
    if not shift:
        return torch.zeros(side, device=device)
    lengths = (side - window, window - shift, shift)
    return torch.cat([torch.full((n,), float(i), device=device) for i, n in enumerate(lengths)])


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens (B, N, features) or of a map's positions (B, H, W, features) -> same shape.

    Attention Is All You Need, arXiv 1706.03762. Raises ValueError unless `features` is a multiple of `num_heads`.
    """

    def __init__(self, features: int, num_heads: int):
        super().__init__()
        check_heads(features, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(1, -2)
        return self.proj(attend_heads(self.qkv(tokens), self.num_heads)).view(x.shape)


class WindowAttention(nn.Module):
    """Self-attention inside windows of `window` x `window` positions: (B, H, W, features) -> same shape.

    A trained bias for each head and relative position is added to the scores. `shift` moves the windows along both axes
    (cyclic shift); positions that wrap around the border are masked from the others. Sides that are no multiple of the
    window are padded with zeros, and an axis that one window covers is not shifted. Swin Transformer, arXiv 2103.14030.
    Raises ValueError unless `features` is a multiple of `num_heads` and 0 <= shift < window.
    """

    def __init__(self, features: int, num_heads: int, window: int = 7, shift: int = 0):
        super().__init__()
        check_heads(features, num_heads)
        if not 0 <= shift < window:
            raise ValueError(f"the shift must be from 0 to {window - 1}, below the window of {window}: {shift}")
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.bias_table = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, num_heads), std=0.02))
        self.register_buffer("index", make_relative_index(window))
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, height, width, _ = x.shape
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        sides = (x.shape[1], x.shape[2])
        shifts = [self.shift if side > self.window else 0 for side in sides]
        shifted = x.roll([-s for s in shifts], (1, 2)) if any(shifts) else x
        windows = split_windows(shifted, self.window)
        windows = attend_heads(self.qkv(windows), self.num_heads, self._bias(sides, shifts))
        x = merge_windows(self.proj(windows), self.window, sides[1])
        x = x.roll(shifts, (1, 2)) if any(shifts) else x
        return x[:, :height, :width]

    def _bias(self, sides: tuple[int, int], shifts: list[int]) -> torch.Tensor:
        """Return the bias of the scores: (heads, N, N), or (windows, heads, N, N) with the mask of a cyclic shift."""
        positions = self.window**2
        bias = self.bias_table.index_select(0, self.index).view(positions, positions, -1).permute(2, 0, 1)
        if not any(shifts):
            return bias
        differ = compare_regions(sides, shifts, self.window, bias.device)
        # A finite number instead of -inf, which half precision and quantisation do not handle well.
        return bias.masked_fill(differ[:, None], -100.0)


def make_relative_index(window: int) -> torch.Tensor:
    """Return, for each pair of positions in a window, their row in the table of relative biases: (window**4,)."""
    position = torch.arange(window)
    offset = position[:, None] - position + window - 1  # of rows or of columns, from 0 to 2*window - 2
    index = offset[:, None, :, None] * (2 * window - 1) + offset[None, :, None, :]
    return index.flatten()


class PatchMerging(nn.Module):
    """Downsampling: the features of each 2x2 positions concatenated, normalised, projected.

    (B, H, W, features) -> (B, H/2, W/2, c2).

    Odd sides are padded with zeros. Swin Transformer, arXiv 2103.14030.
    """

    def __init__(self, features: int, c2: int, eps: float = 1e-5):
        super().__init__()
        self.reduction = nn.Linear(4 * features, c2, bias=False)
        self.norm = nn.LayerNorm(4 * features, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, down::2, across::2] for across in (0, 1) for down in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))
