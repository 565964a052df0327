"""Channel attention, then spatial attention (CBAM) as in its paper, and a residual block with it."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.parts import pool_channels, reduce_channels
from netbuild.roles import Width

SLOPE = 0.1  # of the leaky ReLUs, as published


class MeanMaxChannels(nn.Module):
    """Channel gate of CBAM: x * sigmoid(mlp(mean(x)) + mlp(max(x))): (B, c1, H, W) -> same shape. arXiv 1807.06521."""

    def __init__(self, c1: int, reduction: int):
        super().__init__()
        hidden = reduce_channels(c1, reduction)
        self.shared_MLP = nn.Sequential(nn.Linear(c1, hidden), nn.LeakyReLU(SLOPE), nn.Linear(hidden, c1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.shared_MLP(x.mean((2, 3))) + self.shared_MLP(x.amax((2, 3)))
        return x * torch.sigmoid(scores)[:, :, None, None]


class MeanMaxPositions(nn.Module):
    """Position gate of CBAM: x * sigmoid(conv7x7([mean; max])): (B, c1, H, W) -> same shape. arXiv 1807.06521."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.conv2d(pool_channels(x)))


class CBAM_mlp(nn.Module):
    """CBAM of the paper: a channel gate of two linear layers on means and maxima, then a 7x7 position gate.

    Keeps channels: (B, c1, H, W) -> same shape. CBAM, without "_mlp", has one layer on the means instead.
    Raises ValueError if c1 < reduction. arXiv 1807.06521.
    """

    def __init__(self, c1: int, reduction: int = 16):
        super().__init__()
        self.channel_attention = MeanMaxChannels(c1, reduction)
        self.spatial_attention = MeanMaxPositions()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spatial_attention(self.channel_attention(x))


class ResBlock_CBAM(nn.Module):
    """Residual bottleneck of a 1x1, a 3x3 and a 1x1 convolution with CBAM: (B, c1, H, W) -> (B, 4 * places, H/s, W/s).

    relu(cbam(convs(x)) + shortcut(x)). The shortcut is a 1x1 convolution with `downsampling`, otherwise the input.
    Raises ValueError unless c1 = expansion * places and stride = 1, or `downsampling`. CBAM, arXiv 1807.06521.
    """

    def __init__(
        self,
        c1: int,
        places: Annotated[int, Width],
        stride: int = 1,
        downsampling: bool = False,
        expansion: int = 4,
    ):
        super().__init__()
        c2 = expansion * places
        if not downsampling and (c1 != c2 or stride != 1):
            raise ValueError(
                f"{c1} channels to {c2} (expansion * places) with stride {stride} need downsampling = True: "
                f"without it the channels must be equal and the stride 1"
            )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(c1, places, 1, bias=False),
            nn.BatchNorm2d(places),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(places, places, 3, stride, 1, bias=False),
            nn.BatchNorm2d(places),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(places, c2, 1, bias=False),
            nn.BatchNorm2d(c2),
        )
        self.cbam = CBAM_mlp(c2)
        self.downsample = (
            nn.Sequential(nn.Conv2d(c1, c2, 1, stride, bias=False), nn.BatchNorm2d(c2)) if downsampling else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.cbam(self.bottleneck(x)) + shortcut)
