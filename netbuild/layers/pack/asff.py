"""Adaptively spatial feature fusion: three levels of a pyramid at the size of one of them."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.pack.maps import check_source_count
from netbuild.roles import In


class ASFFV5(nn.Module):
    """Three maps brought to the size and the channels of one of them, then their mean with weights for each position.

    A finer map is halved by a Conv with stride 2, after a pooling where it is four times as fine; a coarser one gets a
    1x1 Conv and is resized (nearest). The weights are a softmax over the three of 1x1 Convs. (B, c_i, H_i, W_i) each,
    finest first -> (B, c_k, H_k, W_k), k = 2 - level. Raises ValueError unless there are three sources. ASFF,
    arXiv 1911.09516.

    Args:
        ch: channels of the maps.
        level: the level whose size the output has; 0 is the coarsest.
        multiplier: no effect: the widths are those of the maps.
        rfb: whether the weights come from 8 channels for each map rather than 16.
    """

    def __init__(self, ch: Annotated[list[int], In], level: int = 0, multiplier: float = 1.0, rfb: bool = False):
        super().__init__()
        check_source_count(ch, 3)
        if level not in (0, 1, 2):
            raise ValueError(f"the level must be 0, 1 or 2, the coarsest first: {level}")
        self.level = level
        widths = ch[::-1]
        c, hidden = widths[level], 8 if rfb else 16
        for i in range(3):
            if i < level:
                setattr(self, f"compress_level_{i}", Conv(widths[i], c))
            elif i > level:
                setattr(self, f"stride_level_{i}", Conv(widths[i], c, 3, 2))
        self.expand = Conv(c, c, 3)
        self.weight_level_0, self.weight_level_1, self.weight_level_2 = (Conv(c, hidden) for _ in range(3))
        self.weight_levels = Conv(3 * hidden, 3)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        levels = xs[::-1]
        size = levels[self.level].shape[2:]
        maps = [self.fit(i, x, size) for i, x in enumerate(levels)]
        weighings = (self.weight_level_0, self.weight_level_1, self.weight_level_2)
        weights = self.weight_levels(torch.cat([w(x) for w, x in zip(weighings, maps, strict=True)], 1)).softmax(1)
        return self.expand(sum(x * weights[:, i : i + 1] for i, x in enumerate(maps)))

    def fit(self, i: int, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Bring the map of a level to the size and the channels of the output."""
        if i == self.level:
            return x
        if i < self.level:
            return F.interpolate(getattr(self, f"compress_level_{i}")(x), size)
        x = F.max_pool2d(x, 3, 2, 1) if i - self.level == 2 else x
        return getattr(self, f"stride_level_{i}")(x)
