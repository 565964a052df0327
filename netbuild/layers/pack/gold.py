"""Gather-and-distribute necks of Gold-YOLO: maps of all scales fused, and their information injected into each."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.merge import check_several
from netbuild.layers.pack.maps import check_source_count, resize_map
from netbuild.layers.pack.reparameterised import RepVGGBlockv6
from netbuild.roles import In, Plain


class SimFusion_4in(nn.Module):
    """Concatenation of four maps at the size of the third, larger ones pooled by mean, the smallest resized bilinearly.

    (B, c_i, H_i, W_i) each -> (B, sum c_i, H_2, W_2). Gold-YOLO, arXiv 2309.11331.
    """

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        large, middle, small, smallest = xs
        size = small.shape[2:]
        pooled = [F.adaptive_avg_pool2d(x, size) for x in (large, middle)]
        return torch.cat((*pooled, small, F.interpolate(smallest, size, mode="bilinear")), 1)


class SimFusion_3in(nn.Module):
    """Three maps at the size of the second, joined by a 1x1 Conv with ReLU.

    A source gets c2 channels by a 1x1 Conv with ReLU where it has others. (B, c_0, H_0, W_0), (B, c_1, H, W),
    (B, c_2, H_2, W_2) -> (B, c2, H, W). Raises ValueError unless there are three sources. Gold-YOLO, arXiv 2309.11331.
    """

    def __init__(self, ch: Annotated[list[int], In], c2: int):
        super().__init__()
        check_source_count(ch, 3)
        self.cv1, self.cv2, self.cv3 = (nn.Identity() if c == c2 else Conv(c, c2, act=nn.ReLU()) for c in ch)
        self.cv_fuse = Conv(3 * c2, c2, act=nn.ReLU())

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        large, middle, small = xs
        size = middle.shape[2:]
        first = self.cv1(F.adaptive_avg_pool2d(large, size))
        last = self.cv3(F.interpolate(small, size, mode="bilinear"))
        return self.cv_fuse(torch.cat((first, self.cv2(middle), last), 1))


class IFM(nn.Module):
    """A 1x1 Conv, RepVGG blocks with ReLU, and a 1x1 Conv to parts of `c2s` channels side by side.

    (B, c1, H, W) -> (B, sum of c2s, H, W). The width multiple does not apply to c2s. Gold-YOLO, arXiv 2309.11331.

    Args:
        c1: channels in.
        c2s: channels of the parts, which InjectionMultiSum_Auto_pool reads.
        hidden: channels of the blocks.
        blocks: number of blocks.
    """

    def __init__(self, c1: int, c2s: list[int], hidden: int = 96, blocks: int = 3):
        super().__init__()
        middle = (RepVGGBlockv6(hidden, hidden) for _ in range(blocks))
        self.conv = nn.Sequential(Conv(c1, hidden), *middle, Conv(hidden, sum(c2s)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class InjectionMultiSum_Auto_pool(nn.Module):
    """A local map weighted by a gate from the global one, plus an embedding of the global one.

    The global source holds parts of `global_inp` channels, of which the one numbered `flag` is read. A local map that
    is smaller than the global one gets the pooled gate without its hard sigmoid, as in public files; a larger one gets
    the gate after the hard sigmoid, resized bilinearly. (B, c_0, H, W), (B, sum of global_inp, H_1, W_1) ->
    (B, c2, H, W). The width multiple applies neither to c2 nor to global_inp. Raises ValueError if the parts do not
    add up to the global source's channels. Gold-YOLO, arXiv 2309.11331.
    """

    def __init__(self, ch: Annotated[list[int], In], c2: Annotated[int, Plain], global_inp: list[int], flag: int = 0):
        super().__init__()
        check_source_count(ch, 2)
        local, total = ch
        if sum(global_inp) != total or not 0 <= flag < len(global_inp):
            raise ValueError(
                f"the global source must have the channels of its parts {global_inp}, of which {flag} is read: it has"
                f" {total}"
            )
        self.parts, self.flag = list(global_inp), flag
        self.local_embedding = Conv(local, c2, act=False)
        self.global_embedding = Conv(global_inp[flag], c2, act=False)
        self.global_act = Conv(global_inp[flag], c2, act=False)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        local, both = xs
        part = both.split(self.parts, 1)[self.flag]
        size, embedded, gate = local.shape[2:], self.global_embedding(part), self.global_act(part)
        if size[0] >= part.shape[2]:
            gate = F.hardsigmoid(gate)
        return self.local_embedding(local) * resize_map(gate, size) + resize_map(embedded, size)


class TopBasicLayer(nn.Module):
    """Two transformer blocks on a pooled map, and a 1x1 convolution to parts of `c2s` channels side by side.

    A block is attention of 4 heads over all positions, with keys of 8 and values of 16 channels and no scaling, and a
    feed-forward of 1x1 Convs around a depthwise 3x3 convolution, both with residuals. (B, c1, H, W) ->
    (B, sum of c2s, H, W). Gold-YOLO, arXiv 2309.11331, with the blocks of TopFormer, arXiv 2204.05525.
    """

    def __init__(self, c1: int, c2s: list[int], blocks: int = 2):
        super().__init__()
        self.transformer_blocks = nn.ModuleList(TopBlock(c1) for _ in range(blocks))
        self.conv = nn.Conv2d(c1, sum(c2s), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.transformer_blocks:
            x = block(x)
        return self.conv(x)


class TopBlock(nn.Module):
    """Attention and a convolutional feed-forward, both with residuals: (B, c, H, W) -> same shape."""

    def __init__(self, c: int, ratio: int = 4):
        super().__init__()
        self.attn = TopAttention(c)
        self.mlp = nn.Module()
        self.mlp.fc1 = Conv(c, ratio * c, act=False)
        self.mlp.dwconv = nn.Conv2d(ratio * c, ratio * c, 3, padding=1, groups=ratio * c)
        self.mlp.act = nn.ReLU6()
        self.mlp.fc2 = Conv(ratio * c, c, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(x)
        mlp = self.mlp
        return x + mlp.fc2(mlp.act(mlp.dwconv(mlp.fc1(x))))


class TopAttention(nn.Module):
    """Attention over all positions with 1x1 Convs: (B, c, H, W) -> same shape."""

    def __init__(self, c: int, heads: int = 4, key: int = 8, value: int = 16):
        super().__init__()
        self.heads = heads
        self.to_q = Conv(c, heads * key, act=False)
        self.to_k = Conv(c, heads * key, act=False)
        self.to_v = Conv(c, heads * value, act=False)
        self.proj = nn.Sequential(nn.ReLU6(), Conv(heads * value, c, act=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).flatten(2).unflatten(1, (self.heads, -1)) for part in (self.to_q, self.to_k, self.to_v))
        weights = (q.transpose(2, 3) @ k).softmax(-1)  # (B, heads, queries, keys)
        return self.proj((v @ weights.transpose(2, 3)).flatten(1, 2).view(x.shape[0], -1, *x.shape[2:]))
