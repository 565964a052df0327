"""Attention to positions of a map that are learnt from the queries."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.parts import (
    LayerNorm2d,
    check_heads,
    check_multiple,
    make_depthwise,
    merge_heads,
    split_heads,
)


class OffsetNorm(nn.Module):
    """Layer norm over the channels under the name `norm`: (B, c, H, W) -> same shape. DAT, arXiv 2201.00520."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = LayerNorm2d(channels, 1e-5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def make_grid(height: int, width: int, shift: float, like: torch.Tensor) -> torch.Tensor:
    """Return the (y, x) of each position, from -1 to 1 for shift 0: (2, height, width)."""
    axes = (
        (torch.arange(size, device=like.device, dtype=like.dtype) + shift) / max(size - 1, 1) * 2 - 1
        for size in (height, width)
    )
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class DAttention(nn.Module):
    """Deformable attention: keys and values are sampled at offsets that convolutions of the queries give.

    softmax(q k / sqrt(d) + position term) v, then a 1x1 convolution. Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError unless c1 is a multiple of n_heads and n_heads of n_groups. DAT, arXiv 2201.00520.

    Args:
        c1: channels.
        q_size: (height, width) of the map, for the table of positions, without dwc_pe alone.
        n_heads, n_groups: attention heads, and groups of channels with offsets of their own.
        stride: step of the sampled positions.
        offset_range_factor: largest offset in sampled positions; 0 is without bound.
        use_pe: whether there is a position term.
        dwc_pe: whether it is a depthwise 3x3 convolution of the queries, added to the values; a table otherwise.
        ksize: kernel of the convolution that gives the offsets.
    """

    def __init__(
        self,
        c1: int,
        q_size: tuple[int, int] | None = None,
        n_heads: int = 8,
        n_groups: int = 4,
        stride: int = 1,
        offset_range_factor: float = 4,
        use_pe: bool = True,
        dwc_pe: bool = True,
        ksize: int = 3,
    ):
        super().__init__()
        check_heads(c1, n_heads)
        check_multiple(n_heads, n_groups, "the number of heads, which the groups share,")
        self.heads, self.groups, self.factor = n_heads, n_groups, offset_range_factor
        width = c1 // n_groups
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, ksize, stride, ksize // 2 if ksize != stride else 0, groups=width),
            OffsetNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        )
        self.proj_q = nn.Conv2d(c1, c1, 1)
        self.proj_k = nn.Conv2d(c1, c1, 1)
        self.proj_v = nn.Conv2d(c1, c1, 1)
        self.proj_out = nn.Conv2d(c1, c1, 1)
        self.rpe_table = self._make_position_term(c1, q_size, dwc_pe) if use_pe else None

    def _make_position_term(self, c1: int, q_size: tuple[int, int] | None, dwc_pe: bool) -> nn.Module | nn.Parameter:
        if dwc_pe:
            return make_depthwise(c1, 3)
        if q_size is None:
            raise ValueError("dwc_pe = False needs q_size, the (height, width) of the map")
        height, width = q_size
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, 2 * height - 1, 2 * width - 1), std=0.01))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.proj_q(x)
        positions = self._find_positions(q)
        sampled = self._sample(self._group(x), positions).unflatten(0, (-1, self.groups)).flatten(1, 2)
        queries, k, v = (split_heads(part, self.heads) for part in (q, self.proj_k(sampled), self.proj_v(sampled)))
        table = isinstance(self.rpe_table, nn.Parameter)
        bias = self._score_positions(positions, x) if table else None
        y = merge_heads(F.scaled_dot_product_attention(queries, k, v, attn_mask=bias), x.shape[2:])
        return self.proj_out(y if table or self.rpe_table is None else y + self.rpe_table(q))

    def _group(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c, H, W) -> (B * groups, c / groups, H, W)."""
        return x.unflatten(1, (self.groups, -1)).flatten(0, 1)

    def _find_positions(self, q: torch.Tensor) -> torch.Tensor:
        """Return the (y, x) of the sampled positions, -1 to 1 across the map: (B * groups, 2, Hk, Wk)."""
        offsets = self.conv_offset(self._group(q))
        height, width = offsets.shape[2:]
        if self.factor > 0:
            steps = offsets.new_tensor([1 / max(height - 1, 1), 1 / max(width - 1, 1)])[:, None, None]
            offsets = torch.tanh(offsets) * steps * self.factor
        return offsets + make_grid(height, width, 0.5, offsets)

    def _sample(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Sample a map at (y, x) positions, zero outside: (B, c, H, W), (B, 2, h, w) -> (B, c, h, w)."""
        grid = positions.flip(1).permute(0, 2, 3, 1)
        return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)

    def _score_positions(self, positions: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Sample the table at half the distances of queries and keys: (B, heads, N queries, N keys)."""
        queries = make_grid(x.shape[2], x.shape[3], 0.0, x).flatten(1)[None, :, :, None]
        distances = 0.5 * (queries - positions.flatten(2)[:, :, None])
        table = self.rpe_table.unflatten(0, (self.groups, -1)).repeat(x.shape[0], 1, 1, 1)
        return self._sample(table, distances).unflatten(0, (-1, self.groups)).flatten(1, 2)
