"""The one-shot aggregation of RCS-YOLO, whose convolutions are re-parameterised and whose channels are shuffled."""

import torch
from torch import nn

from netbuild.layers.conv import RepConv
from netbuild.layers.csp import make_chain
from netbuild.layers.pack.channel_attention import SEAttention
from netbuild.layers.pack.parts import shuffle_channels


class ShuffledRepConv(nn.Module):
    """RepConv on the second half of the channels, then a shuffle of both halves: (B, c, H, W) -> same shape.

    RCS-YOLO, arXiv 2307.16412.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.repconv = RepConv(channels // 2, channels // 2, bn=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, 1)
        return shuffle_channels(torch.cat((first, self.repconv(second)), 1), 2)


class RCSOSA(nn.Module):
    """RepConv, two chains of n // 2 RepConvs on half the channels, and a RepConv of all three outputs.

    (B, c1, H, W) -> (B, c2, H, W). The hidden channels are c1 * e, rounded up to a multiple of 8; `g` has no effect.
    With `se` a channel gate follows. RCS-YOLO, arXiv 2307.16412.
    """

    def __init__(self, c1: int, c2: int, n: int = 1, se: bool = False, g: int = 1, e: float = 0.5):
        super().__init__()
        c_ = -int(-c1 * e // 8) * 8
        self.conv1 = RepConv(c1, c_, bn=True)
        self.conv3 = RepConv(3 * c_, c2, bn=True)
        self.sr1 = make_chain(n // 2, lambda: ShuffledRepConv(c_))
        self.sr2 = make_chain(n // 2, lambda: ShuffledRepConv(c_))
        self.se = SEAttention(c2) if se else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        y = self.sr1(x)
        return self.se(self.conv3(torch.cat((x, y, self.sr2(y)), 1)))
