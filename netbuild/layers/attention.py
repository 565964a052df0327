"""Self-attention on feature maps, whose positions are flattened row by row to N = H*W tokens."""

from typing import Annotated

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.roles import In


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute softmax attention with channels before positions: q and k (..., d, N), v (..., e, N) -> (..., e, N)."""
    weights = (q * q.shape[-2] ** -0.5).transpose(-2, -1) @ k  # q is scaled, not the larger N x N product
    return v @ weights.softmax(-1).transpose(-2, -1)


def make_conv_mlp(c: int, hidden: int) -> nn.Sequential:
    """Create two 1x1 convolutions, the second without activation: (B, c, H, W) -> (B, c, H, W)."""
    return nn.Sequential(Conv(c, hidden), Conv(hidden, c, act=False))


def check_equal_channels(c1: int, c2: int) -> None:
    """Raise ValueError unless the numbers of input and output channels are equal."""
    if c1 != c2:
        raise ValueError(f"input and output channels must be equal: {c1} and {c2}")


class Attention(nn.Module):
    """Global self-attention plus a depthwise 3x3 of the values as position encoding: (B, dim, H, W) -> same shape.

    Raises ValueError if dim is not a multiple of num_heads. YOLOv10, arXiv 2405.14458.
    """

    def __init__(self, dim: int, num_heads: int = 8, attn_ratio: float = 0.5):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"channels must be a multiple of the number of heads: {dim} channels, {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.key_dim = int(self.head_dim * attn_ratio)
        self.qkv = Conv(dim, dim + 2 * self.key_dim * num_heads, act=False)
        self.proj = Conv(dim, dim, act=False)
        self.pe = Conv(dim, dim, 3, g=dim, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(x).flatten(2).unflatten(1, (self.num_heads, -1))
        q, k, v = heads.split((self.key_dim, self.key_dim, self.head_dim), 2)
        return self.proj(attend(q, k, v).reshape(x.shape) + self.pe(v.reshape(x.shape)))


class PSABlock(nn.Module):
    """Attention and a two-layer feed-forward network, each with a residual connection if `shortcut`.

    (B, c, H, W) -> same shape. YOLOv10, arXiv 2405.14458.
    """

    def __init__(self, c: Annotated[int, In], attn_ratio: float = 0.5, num_heads: int = 4, shortcut: bool = True):
        super().__init__()
        self.attn = Attention(c, num_heads, attn_ratio)
        self.ffn = make_conv_mlp(c, 2 * c)
        self.add = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.add:
            return self.ffn(self.attn(x))
        x = x + self.attn(x)
        return x + self.ffn(x)


class PSA(nn.Module):
    """Attention on the second half of the hidden channels: (B, c1, H, W) -> same shape.

    Raises ValueError unless c1 = c2. YOLOv10, arXiv 2405.14458.
    """

    def __init__(self, c1: int, c2: int, e: float = 0.5):
        super().__init__()
        check_equal_channels(c1, c2)
        c = int(c1 * e)
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv(2 * c, c1)
        self.attn = Attention(c, max(c // 64, 1))  # 64 channels per head
        self.ffn = make_conv_mlp(c, 2 * c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        b = b + self.attn(b)
        b = b + self.ffn(b)
        return self.cv2(torch.cat((a, b), 1))


class C2PSA(nn.Module):
    """n PSABlocks on the second half of the hidden channels: (B, c1, H, W) -> same shape.

    Raises ValueError unless c1 = c2.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, e: float = 0.5):
        super().__init__()
        check_equal_channels(c1, c2)
        c = int(c1 * e)
        self.cv1 = Conv(c1, 2 * c)
        self.cv2 = Conv(2 * c, c1)
        self.m = nn.Sequential(*(PSABlock(c, num_heads=max(c // 64, 1)) for _ in range(n)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((a, self.m(b)), 1))


class AAttn(nn.Module):
    """Self-attention inside `area` equal ranges of positions, plus a depthwise 7x7 of the values as position encoding.

    (B, dim, H, W) -> same shape. Raises ValueError if H*W is not a multiple of area. YOLOv12, arXiv 2502.12524.
    """

    def __init__(self, dim: int, num_heads: int, area: int = 1):
        super().__init__()
        self.area = max(area, 1)
        self.num_heads = num_heads
        self.all_head_dim = dim // num_heads * num_heads
        self.qkv = Conv(dim, 3 * self.all_head_dim, act=False)
        self.proj = Conv(self.all_head_dim, dim, act=False)
        self.pe = Conv(self.all_head_dim, self.all_head_dim, 7, g=self.all_head_dim, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        heads = self._split(self.qkv(x).flatten(2)).unflatten(1, (self.num_heads, -1))
        q, k, v = heads.chunk(3, 2)
        return self.proj(self._merge(attend(q, k, v), size) + self.pe(self._merge(v, size)))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, N) -> (B*area, C, N/area)."""
        if self.area == 1:
            return x
        if x.shape[2] % self.area:
            raise ValueError(f"positions (H*W) must be a multiple of area: {x.shape[2]} positions, area {self.area}")
        return x.unflatten(2, (self.area, -1)).transpose(1, 2).flatten(0, 1)

    def _merge(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """(B*area, heads, d, N/area) -> (B, heads*d, H, W)."""
        x = x.flatten(1, 2)
        if self.area > 1:
            x = x.unflatten(0, (-1, self.area)).transpose(1, 2).flatten(2)
        return x.unflatten(-1, size)


class ABlock(nn.Module):
    """Area attention and a two-layer feed-forward network, both residual: (B, dim, H, W) -> same shape.

    YOLOv12, arXiv 2502.12524.
    """

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 1.2, area: int = 1):
        super().__init__()
        self.attn = AAttn(dim, num_heads, area)
        self.mlp = make_conv_mlp(dim, int(dim * mlp_ratio))
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.trunc_normal_(m.weight, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x)
        return x + self.mlp(x)
