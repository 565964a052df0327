"""Self-attention in windows of a map, or between the windows that resemble each other most."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.efficient import ConvNorm
from netbuild.layers.pack.parts import (
    check_heads,
    make_depthwise,
    merge_windows,
    pad_to_multiple,
    split_windows,
    to_channels_first,
    to_channels_last,
)


class BiLevelRoutingAttention(nn.Module):
    """Attention of each position to all positions of the topk regions whose mean keys match its region's mean query.

    The map is cut into n_win x n_win regions. softmax(q k / sqrt(c)) v + depthwise(v), then a linear layer; the scale
    is that of all channels, not of a head's. Keeps channels: (B, c1, H, W) -> same shape. Sides that are no multiples
    of n_win are padded with zeros, which count. Raises ValueError unless c1 is a multiple of num_heads and topk at most
    n_win * n_win. BiFormer, arXiv 2303.08810.

    Args:
        c1: channels.
        n_win: regions along each axis.
        num_heads: attention heads.
        qk_dim: channels of queries and keys; None is c1.
        topk: regions that each region attends to.
        side_dwconv: kernel of the depthwise convolution of the values; 0 is none.
        auto_pad: whether other sizes are padded; they raise ValueError otherwise.
    """

    def __init__(
        self,
        c1: int,
        n_win: int = 7,
        num_heads: int = 8,
        qk_dim: int | None = None,
        topk: int = 4,
        side_dwconv: int = 3,
        auto_pad: bool = True,
    ):
        super().__init__()
        qk_dim = qk_dim or c1
        check_heads(c1, num_heads)
        check_heads(qk_dim, num_heads)
        if topk > n_win**2:
            raise ValueError(f"topk must be at most the number of regions, {n_win} x {n_win}: {topk}")
        self.n_win, self.num_heads, self.topk, self.auto_pad = n_win, num_heads, topk, auto_pad
        self.widths = (qk_dim, qk_dim, c1)
        self.lepe = make_depthwise(c1, side_dwconv) if side_dwconv else None
        self.make_projections(c1)

    def make_projections(self, c1: int) -> None:
        """Create the layers before and after the attention."""
        self.qkv = TokenProjection(c1, sum(self.widths))
        self.wo = nn.Linear(c1, c1)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return queries, keys and values, joined: (B, c1, H, W) -> (B, 2 * qk_dim + c1, H, W)."""
        return to_channels_first(self.qkv(to_channels_last(x)))

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        """Mix the heads' results: (B, c1, H, W) -> same shape."""
        return to_channels_first(self.wo(to_channels_last(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if not self.auto_pad and (height % self.n_win or width % self.n_win):
            raise ValueError(f"height and width must be multiples of n_win = {self.n_win}: {height} x {width}")
        qkv = self.project(pad_to_multiple(x, self.n_win))
        y = self._attend(qkv)
        if self.lepe is not None:
            y = y + self.lepe(qkv.split(self.widths, 1)[2])
        return self.merge(y)[:, :, :height, :width]

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attend to the regions that match: (B, 2 * qk_dim + c1, H, W) -> (B, c1, H, W)."""
        regions = split_windows(qkv, self.n_win, self.n_win)  # (B, regions, positions, channels)
        q, k, v = regions.split(self.widths, 3)
        scale = self.widths[0] ** -0.5
        chosen = (scale * q.mean(2) @ k.mean(2).transpose(1, 2)).topk(self.topk, 2).indices
        index = chosen.flatten(1)[:, :, None, None]
        q, k, v = (self._split_heads(part) for part in (q, self._gather(k, index), self._gather(v, index)))
        y = F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)
        return merge_windows(y.unflatten(0, (-1, self.n_win**2)), self.n_win, self.n_win, qkv.shape[2] // self.n_win)

    def _gather(self, regions: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Join the positions of the chosen regions: (B, regions, positions, c) -> (B, regions, topk * positions, c)."""
        chosen = regions.gather(1, index.expand(-1, -1, *regions.shape[2:]))
        return chosen.unflatten(1, (-1, self.topk)).flatten(2, 3)

    def _split_heads(self, regions: torch.Tensor) -> torch.Tensor:
        """(B, regions, positions, heads * d) -> (B * regions, heads, positions, d)."""
        return regions.flatten(0, 1).unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class TokenProjection(nn.Module):
    """Linear layer under the name `qkv`: (..., c1) -> (..., c2)."""

    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.qkv = nn.Linear(c1, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.qkv(x)


class BiLevelRoutingAttention_nchw(BiLevelRoutingAttention):
    """BiLevelRoutingAttention whose linear layers are 1x1 convolutions, with other names of weights.

    Keeps channels: (B, c1, H, W) -> same shape. BiFormer, arXiv 2303.08810.
    """

    def make_projections(self, c1: int) -> None:
        """Create the convolutions before and after the attention."""
        self.qkv_linear = nn.Conv2d(c1, sum(self.widths), 1)
        self.output_linear = nn.Conv2d(c1, c1, 1)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.qkv_linear(x)

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_linear(x)


class CascadedGroupAttention(nn.Module):
    """Self-attention whose heads see one part of the channels each, plus what the head before made of its part.

    A learnt bias for each distance of rows and columns is added to the scores. Keeps channels:
    (B, c1, resolution, resolution) -> same shape. Raises ValueError for other sizes, and unless c1 is a multiple of
    num_heads. LocalWindowAttention takes any size. EfficientViT of MSRA, arXiv 2305.07027.

    Args:
        c1: channels.
        key_dim: channels of queries and keys of a head.
        num_heads: heads.
        resolution: side of the map.
        kernels: kernels of the queries' depthwise convolutions, one for each head.
    """

    def __init__(
        self,
        c1: int,
        key_dim: int = 16,
        num_heads: int = 4,
        resolution: int = 7,
        kernels: Sequence[int] = (5, 5, 5, 5),
    ):
        super().__init__()
        check_heads(c1, num_heads)
        if len(kernels) < num_heads:
            raise ValueError(f"each of the {num_heads} heads needs a kernel: {list(kernels)}")
        width = c1 // num_heads
        self.widths, self.resolution = (key_dim, key_dim, width), resolution
        self.qkvs = nn.ModuleList(ConvNorm(width, sum(self.widths)) for _ in range(num_heads))
        self.dws = nn.ModuleList(ConvNorm(key_dim, key_dim, k, g=key_dim) for k in kernels[:num_heads])
        self.proj = nn.Sequential(nn.ReLU(), ConvNorm(c1, c1))
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, resolution**2))
        position = torch.arange(resolution)
        distance = (position[:, None] - position).abs()
        index = distance[:, None, :, None] * resolution + distance[None, :, None, :]
        self.register_buffer("attention_bias_idxs", index.view(resolution**2, resolution**2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (self.resolution, self.resolution):
            size = f"{x.shape[2]} x {x.shape[3]}"
            raise ValueError(f"the map must have {self.resolution} x {self.resolution} positions: {size}")
        index = self.attention_bias_idxs
        biases = self.attention_biases.index_select(1, index.flatten()).unflatten(1, index.shape)
        outputs: list[torch.Tensor] = []
        for part, bias, qkv, dw in zip(x.chunk(len(self.qkvs), 1), biases, self.qkvs, self.dws, strict=True):
            q, k, v = qkv(part + outputs[-1] if outputs else part).split(self.widths, 1)
            q, k, v = (y.flatten(2).transpose(1, 2) for y in (dw(q), k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            outputs.append(y.transpose(1, 2).unflatten(2, x.shape[2:]))
        return self.proj(torch.cat(outputs, 1))


class LocalWindowAttention(nn.Module):
    """CascadedGroupAttention in windows of `window_resolution` x `window_resolution` positions.

    Keeps channels: (B, c1, H, W) -> same shape. Sides that are no multiples of the window are padded with zeros, which
    count. `resolution` has no effect. Raises ValueError unless c1 is a multiple of num_heads.
    EfficientViT of MSRA, arXiv 2305.07027.

    Args:
        c1: channels.
        key_dim: channels of queries and keys of a head.
        num_heads: heads.
        resolution: has no effect.
        window_resolution: side of the windows.
        kernels: kernels of the queries' depthwise convolutions, one for each head.
    """

    def __init__(
        self,
        c1: int,
        key_dim: int = 16,
        num_heads: int = 4,
        resolution: int = 14,
        window_resolution: int = 7,
        kernels: Sequence[int] = (5, 5, 5, 5),
    ):
        super().__init__()
        self.window = window_resolution
        self.attn = CascadedGroupAttention(c1, key_dim, num_heads, window_resolution, kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = pad_to_multiple(x, self.window)
        rows, columns = (side // self.window for side in padded.shape[2:])
        # The windows are maps of their own, since the queries are convolved in them.
        windows = split_windows(padded, rows, columns).transpose(2, 3)
        maps = windows.flatten(0, 1).unflatten(2, (self.window, self.window))
        y = self.attn(maps).flatten(2).unflatten(0, (-1, rows * columns)).transpose(2, 3)
        return merge_windows(y, rows, columns, self.window)[:, :, : x.shape[2], : x.shape[3]]
