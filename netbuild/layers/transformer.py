"""Transformer encoders on tokens and on feature maps."""

from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.conv import Conv
from netbuild.roles import In


class TransformerLayer(nn.Module):
    """Self-attention and two linear layers, both residual, without norms: (N, B, c) -> same shape.

    ViT, arXiv 2010.11929.
    """

    def __init__(self, c: Annotated[int, In], num_heads: int):
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        # MultiheadAttention has projections too; these come in addition, as in published checkpoints.
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ma(self.q(x), self.k(x), self.v(x))[0]
        return x + self.fc2(self.fc1(x))


class TransformerBlock(nn.Module):
    """TransformerLayers on the positions of a map as tokens: (B, c1, H, W) -> (B, c2, H, W). ViT, arXiv 2010.11929."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int):
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv is not None:
            x = self.conv(x)
        tokens = x.flatten(2).permute(2, 0, 1)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(x.shape)


class TransformerEncoderLayer(nn.Module):
    """Transformer encoder layer: (B, N, c1) -> same shape; post-norm, or pre-norm with `normalize_before`.

    `cm` are the features between the two linear layers; act None is GELU. The argument `pos` of forward, (B or 1, N,
    c1), is added to queries and keys only. Attention Is All You Need, arXiv 1706.03762.
    """

    def __init__(
        self,
        c1: int,
        cm: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        act: Act = None,
        normalize_before: bool = False,
    ):
        super().__init__()
        self.ma = nn.MultiheadAttention(c1, num_heads, dropout, batch_first=True)
        self.fc1 = nn.Linear(c1, cm)
        self.fc2 = nn.Linear(cm, c1)
        self.norm1 = nn.LayerNorm(c1)
        self.norm2 = nn.LayerNorm(c1)
        self.dropout = nn.Dropout(dropout)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.act = nn.GELU() if act is None else resolve_activation(act)
        self.normalize_before = normalize_before

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
        pos: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if self.normalize_before:
            x = x + self._attend(self.norm1(x), mask, padding_mask, pos)
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(x + self._attend(x, mask, padding_mask, pos))
        return self.norm2(x + self._feed_forward(x))

    def _attend(self, x: torch.Tensor, mask: Any, padding_mask: Any, pos: torch.Tensor | None) -> torch.Tensor:
        # Positions decide what is attended to, and are no part of what is passed on.
        q = x if pos is None else x + pos
        return self.dropout1(self.ma(q, q, x, attn_mask=mask, key_padding_mask=padding_mask, need_weights=False)[0])

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout2(self.fc2(self.dropout(self.act(self.fc1(x)))))


class AIFI(TransformerEncoderLayer):
    """TransformerEncoderLayer on the positions of a map, with sine position encoding: (B, c1, H, W) -> same shape.

    Raises ValueError unless c1 is a multiple of 4. RT-DETR, arXiv 2304.08069.
    """

    def __init__(
        self,
        c1: int,
        cm: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        act: Act = None,
        normalize_before: bool = False,
    ):
        if c1 % 4:
            raise ValueError(f"channels must be a multiple of 4: {c1}")
        super().__init__(c1, cm, num_heads, dropout, act, normalize_before)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        _, c, h, w = x.shape
        # Computed each time, since the size of the map may change.
        pos = make_sine_positions(c, h, w, device=x.device).to(x.dtype)
        return super().forward(x.flatten(2).transpose(1, 2), pos=pos).transpose(1, 2).reshape(x.shape)


def make_sine_positions(c: int, h: int, w: int, device: torch.device) -> torch.Tensor:
    """Return a position encoding (1, h*w, c), float32: sines and cosines of the row, then of the column, c/4 each."""
    frequency = 10000.0 ** -(torch.arange(c // 4, device=device, dtype=torch.float32) / (c // 4))
    row = torch.arange(h, device=device, dtype=torch.float32).repeat_interleave(w)
    column = torch.arange(w, device=device, dtype=torch.float32).repeat(h)
    # A matrix product instead of broadcasting, since the published FLOPs of RT-DETR count it as one.
    rows, columns = (positions[:, None] @ frequency[None] for positions in (row, column))
    return torch.cat((rows.sin(), rows.cos(), columns.sin(), columns.cos()), 1)[None]
