"""Self-attention of all positions of a map, in several forms."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.parts import (
    check_heads,
    check_multiple,
    merge_heads,
    merge_windows,
    reduce_channels,
    split_heads,
    split_windows,
)
from netbuild.layers.window import attend_heads
from netbuild.roles import Plain


class MHSA(nn.Module):
    """Multi-head self-attention of all positions, softmax(q k) v without scaling, and a position term with `pos_emb`.

    Keeps channels: (B, c1, H, W) -> same shape. The position term needs a map of width x height positions, `width` its
    first axis; without it these have no effect. Raises ValueError for other sizes, and unless c1 is a multiple of
    `heads`. BoTNet, arXiv 2101.11605.
    """

    def __init__(self, c1: int, width: int = 14, height: int = 14, heads: int = 4, pos_emb: bool = False):
        super().__init__()
        check_heads(c1, heads)
        self.heads = heads
        self.query = nn.Conv2d(c1, c1, 1)
        self.key = nn.Conv2d(c1, c1, 1)
        self.value = nn.Conv2d(c1, c1, 1)
        self.rel_h_weight = self.rel_w_weight = None
        if pos_emb:
            self.rel_h_weight = nn.Parameter(torch.randn(1, heads, c1 // heads, 1, height))
            self.rel_w_weight = nn.Parameter(torch.randn(1, heads, c1 // heads, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        bias = None if self.rel_h_weight is None else self._score_positions(q, x.shape[2:])
        return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0), x.shape[2:])

    def _score_positions(self, q: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """Return the products of the position vectors and the queries: (B, heads, N, N), the second N the queries."""
        positions = self.rel_h_weight + self.rel_w_weight
        if positions.shape[3:] != size:
            expected = " x ".join(map(str, positions.shape[3:]))
            raise ValueError(
                f"pos_emb needs a map of {expected} positions (width x height): {' x '.join(map(str, size))}"
            )
        return positions.flatten(3).transpose(2, 3) @ q.transpose(2, 3)


class CrissCrossAttention(nn.Module):
    """Self-attention of each position to the positions of its row and its column, added with a learnt factor.

    gamma * sum softmax(q k) v + x, without scaling; gamma starts at 0. Keeps channels: (B, c1, H, W) -> same shape.
    Queries and keys have c1 / 8 channels. Raises ValueError if c1 < 8. CCNet, arXiv 1811.11721.
    """

    def __init__(self, c1: int):
        super().__init__()
        hidden = reduce_channels(c1, 8)
        self.query_conv = nn.Conv2d(c1, hidden, 1)
        self.key_conv = nn.Conv2d(c1, hidden, 1)
        self.value_conv = nn.Conv2d(c1, c1, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height = x.shape[2]
        q, k, v = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        column = q.permute(0, 3, 2, 1) @ k.permute(0, 3, 1, 2)  # (B, W, H, H)
        # A position is in its row and in its column, but counts once.
        itself = torch.eye(height, dtype=torch.bool, device=x.device)
        column = column.masked_fill(itself, float("-inf")).transpose(1, 2)
        row = q.permute(0, 2, 3, 1) @ k.permute(0, 2, 1, 3)  # (B, H, W, W)
        weights = torch.cat((column, row), 3).softmax(3)
        columns, rows = weights.split(x.shape[2:], 3)
        from_column = (columns.transpose(1, 2) @ v.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        from_row = (rows @ v.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.gamma * (from_column + from_row) + x


class DoubleAttention(nn.Module):
    """Gathers c_n global descriptors of the map by attention, and distributes them to the positions by another.

    G = A softmax_positions(B)^T, conv(G softmax_channels(V)); A of c_m, B and V of c_n channels. Keeps channels:
    (B, c1, H, W) -> same shape; without `reconstruct` there is no last convolution, and c_m channels come out.
    The softmax is the paper's; common copies take it over the batch. A2-Net, arXiv 1810.11579.
    """

    def __init__(self, c1: int, c_m: int = 128, c_n: int = 128, reconstruct: bool = True):
        super().__init__()
        self.convA = nn.Conv2d(c1, c_m, 1)
        self.convB = nn.Conv2d(c1, c_n, 1)
        self.convV = nn.Conv2d(c1, c_n, 1)
        self.conv_reconstruct = nn.Conv2d(c_m, c1, 1) if reconstruct else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gather, distribute = self.convB(x).flatten(2).softmax(2), self.convV(x).flatten(2).softmax(1)
        descriptors = self.convA(x).flatten(2) @ gather.transpose(1, 2)
        return self.conv_reconstruct((descriptors @ distribute).unflatten(2, x.shape[2:]))


class CoTAttention(nn.Module):
    """Contextual transformer: a k x k convolution is the static context, and weights values for the dynamic one.

    k1 = convs(x); k1 + softmax_positions(mean_k(convs([k1; x]))) * v(x). Keeps channels: (B, c1, H, W) -> same shape.
    This is the common simplified form, not the local matrix products of the paper. Raises ValueError unless c1 is a
    multiple of 4. CoTNet, arXiv 2107.12292.
    """

    def __init__(self, c1: int, kernel_size: int = 3):
        super().__init__()
        check_multiple(c1, 4)
        hidden = 2 * c1 // 4
        self.key_embed = nn.Sequential(
            nn.Conv2d(c1, c1, kernel_size, padding=kernel_size // 2, groups=4, bias=False),
            nn.BatchNorm2d(c1),
            nn.ReLU(),
        )
        self.value_embed = nn.Sequential(nn.Conv2d(c1, c1, 1, bias=False), nn.BatchNorm2d(c1))
        self.attention_embed = nn.Sequential(
            nn.Conv2d(2 * c1, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, kernel_size**2 * c1, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        static = self.key_embed(x)
        scores = self.attention_embed(torch.cat((static, x), 1)).unflatten(1, (x.shape[1], -1)).mean(2)
        weights = scores.flatten(2).softmax(2).view(x.shape)
        return static + weights * self.value_embed(x)


class PreNorm(nn.Module):
    """Residual branch after a layer norm: x + fn(ln(x)), (..., dim) -> same shape. ViT, arXiv 2010.11929."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__()
        self.ln = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.fn(self.ln(x))


class TokenAttention(nn.Module):
    """Multi-head self-attention with heads of a width of their own: (..., N, dim) -> same shape.

    ViT, arXiv 2010.11929.
    """

    def __init__(self, dim: int, heads: int = 8, head_dim: int = 64):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.to_out(attend_heads(self.to_qkv(x), self.heads))


class TokenMlp(nn.Module):
    """Two linear layers with SiLU between: (..., dim) -> same shape. MobileViT, arXiv 2110.02178."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        # Places 2 and 4 are dropouts of rate 0 in public checkpoints, where the second layer is number 3.
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Identity(), nn.Linear(hidden, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class PatchTransformer(nn.Module):
    """Pre-norm transformer layers: (..., N, dim) -> same shape. ViT, arXiv 2010.11929."""

    def __init__(self, dim: int, depth: int, hidden: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(PreNorm(dim, TokenAttention(dim)), PreNorm(dim, TokenMlp(dim, hidden))) for _ in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MobileViTAttention(nn.Module):
    """Convolutions, then a transformer in which the positions at the same place of all patches attend to each other.

    conv4([x; conv3(transformer(conv2(conv1(x))))]). Three layers of `dim` features, eight heads of 64.
    Keeps channels: (B, c1, H, W) -> same shape. Maps whose sides are no multiples of the patch are resized to the next
    ones for the transformer, as in the paper. MobileViT, arXiv 2110.02178.

    Args:
        c1: channels.
        dim: features of the transformer.
        kernel_size: kernel of the first and of the last convolution.
        patch_size: side of the patches.
        depth: layers of the transformer.
        mlp_dim: features between the linear layers.
    """

    def __init__(
        self,
        c1: int,
        dim: Annotated[int, Plain],
        kernel_size: int = 3,
        patch_size: int = 7,
        depth: Annotated[int, Plain] = 3,
        mlp_dim: int = 1024,
    ):
        super().__init__()
        self.patch = patch_size
        self.conv1 = nn.Conv2d(c1, c1, kernel_size, padding=kernel_size // 2)
        self.conv2 = nn.Conv2d(c1, dim, 1)
        self.trans = PatchTransformer(dim, depth, mlp_dim)
        self.conv3 = nn.Conv2d(dim, c1, 1)
        self.conv4 = nn.Conv2d(2 * c1, c1, kernel_size, padding=kernel_size // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(self.conv1(x))
        rows, columns = (-(-side // self.patch) for side in x.shape[2:])
        size = (rows * self.patch, columns * self.patch)
        resized = x.shape[2:] != size
        if resized:
            y = F.interpolate(y, size=size, mode="bilinear")
        places = self.trans(split_windows(y, rows, columns).transpose(1, 2))
        y = merge_windows(places.transpose(1, 2), rows, columns, self.patch)
        if resized:
            y = F.interpolate(y, size=x.shape[2:], mode="bilinear")
        return self.conv4(torch.cat((x, self.conv3(y)), 1))
