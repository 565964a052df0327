"""Blocks in which text embeddings weight image features and vice versa. YOLO-World, arXiv 2401.17270."""

from typing import Annotated

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.csp import Bottleneck
from netbuild.roles import In


class MaxSigmoidAttnBlock(nn.Module):
    """A 3x3 Conv whose output is weighted at each position by its similarity to the most similar of K texts.

    (B, c1, H, W) and texts (B, K, gc) -> (B, c2, H, W). Similarities are computed in nh heads, of ec dimensions in all.
    Raises ValueError unless ec and c2 are multiples of nh.
    """

    def __init__(self, c1: int, c2: int, nh: int = 1, ec: int = 128, gc: int = 512, scale: bool = False):
        super().__init__()
        if nh < 1 or c2 % nh or ec % nh:
            raise ValueError(f"{c2} channels and {ec} dimensions must be multiples of the number of heads, {nh}")
        self.nh = nh
        self.bias = nn.Parameter(torch.zeros(nh))
        self.scale = nn.Parameter(torch.ones(1, nh, 1, 1)) if scale else 1.0
        self.ec = Conv(c1, ec, act=False) if c1 != ec else None
        self.gl = nn.Linear(gc, ec)
        self.proj_conv = Conv(c1, c2, 3, act=False)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        guide = self.gl(text).unflatten(2, (self.nh, -1))
        embed = (x if self.ec is None else self.ec(x)).unflatten(1, (self.nh, -1))
        fit = torch.einsum("bmchw,bkmc->bmhwk", embed, guide).amax(-1) / guide.shape[-1] ** 0.5
        weight = (fit + self.bias[:, None, None]).sigmoid() * self.scale
        return (self.proj_conv(x).unflatten(1, (self.nh, -1)) * weight[:, :, None]).flatten(1, 2)


class C2fAttn(nn.Module):
    """C2f with a MaxSigmoidAttnBlock after the last bottleneck: (B, c1, H, W), texts (B, K, gc) -> (B, c2, H, W)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        ec: int = 128,
        nh: int = 1,
        gc: int = 512,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
    ):
        super().__init__()
        self.c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * self.c)
        self.cv2 = Conv((3 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut, g, e=1.0) for _ in range(n))
        self.attn = MaxSigmoidAttnBlock(self.c, self.c, nh, ec, gc)

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat((*parts, self.attn(parts[-1], text)), 1))


class ImagePoolingAttn(nn.Module):
    """Cross-attention from texts to image features: maps (B, ch[i], H_i, W_i), texts (B, K, ct) -> texts (B, K, ct).

    Each map is max-pooled to k x k positions; the texts attend to all of these in nh heads of ec dimensions in all.
    Raises ValueError unless ec is a multiple of nh.
    """

    def __init__(
        self,
        ec: int = 256,
        *,
        ch: Annotated[list[int], In],
        ct: int = 512,
        nh: int = 8,
        k: int = 3,
        scale: bool = False,
    ):
        super().__init__()
        if nh < 1 or ec % nh:
            raise ValueError(f"{ec} dimensions must be a multiple of the number of heads, {nh}")
        self.nh, self.k = nh, k
        self.scale = nn.Parameter(torch.zeros(1)) if scale else 1.0
        self.query = nn.Sequential(nn.LayerNorm(ct), nn.Linear(ct, ec))
        self.key = nn.Sequential(nn.LayerNorm(ec), nn.Linear(ec, ec))
        self.value = nn.Sequential(nn.LayerNorm(ec), nn.Linear(ec, ec))
        self.proj = nn.Linear(ec, ct)
        self.projections = nn.ModuleList(nn.Conv2d(c, ec, 1) for c in ch)
        self.im_pools = nn.ModuleList(nn.AdaptiveMaxPool2d((k, k)) for _ in ch)

    def forward(self, feats: list[torch.Tensor], text: torch.Tensor) -> torch.Tensor:
        levels = zip(self.im_pools, self.projections, feats, strict=True)
        tokens = torch.cat([pool(project(feat)).flatten(2) for pool, project, feat in levels], 2).transpose(1, 2)
        q, k, v = (
            part(x).unflatten(2, (self.nh, -1))
            for part, x in ((self.query, text), (self.key, tokens), (self.value, tokens))
        )
        weights = (torch.einsum("bqmc,bkmc->bmqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        mixed = torch.einsum("bmqk,bkmc->bqmc", weights, v).flatten(2)
        return self.proj(mixed) * self.scale + text
