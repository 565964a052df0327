"""Attention that weights channels and positions, one after the other or at once."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.attention import check_equal_channels
from netbuild.layers.pack.parts import (
    check_multiple,
    count_neighbours,
    make_channel_conv,
    make_depthwise,
    pool_by_attention,
    reduce_channels,
    shuffle_channels,
    to_channels_first,
    to_channels_last,
)


def make_position_mlp(c1: int, hidden: int) -> nn.Sequential:
    """Create two linear layers with ReLU between for the channels of each position: (..., c1) -> same shape."""
    return nn.Sequential(nn.Linear(c1, hidden), nn.ReLU(), nn.Linear(hidden, c1))


def make_wide_gate(c1: int, hidden: int, groups: int = 1) -> nn.Sequential:
    """Create two 7x7 convolutions with batch norms, ReLU between: (B, c1, H, W) -> same shape."""
    return nn.Sequential(
        nn.Conv2d(c1, hidden, 7, padding=3, groups=groups),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, c1, 7, padding=3, groups=groups),
        nn.BatchNorm2d(c1),
    )


class GAM_Attention(nn.Module):
    """Global attention: two linear layers over the channels of each position, then two 7x7 convolutions, as gates.

    y = x * sigmoid(mlp(x)); y * sigmoid(conv(conv(y))). Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError if c1 < rate. GAMAttention is another public form. GAM, arXiv 2112.05561.
    """

    def __init__(self, c1: int, rate: int = 4):
        super().__init__()
        hidden = reduce_channels(c1, rate)
        self.channel_attention = make_position_mlp(c1, hidden)
        self.spatial_attention = make_wide_gate(c1, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * to_channels_first(torch.sigmoid(self.channel_attention(to_channels_last(x))))
        return x * torch.sigmoid(self.spatial_attention(x))


class GAMAttention(nn.Module):
    """Global attention with convolutions in groups: y = x * mlp(x), without sigmoid; y * shuffled sigmoid(convs(y)).

    Keeps channels: (B, c1, H, W) -> same shape. With `group` the 7x7 convolutions have `rate` groups.
    Raises ValueError unless c1 = c2 and c1 is a multiple of 4, and of rate ** 2 with `group`. GAM, arXiv 2112.05561.
    """

    def __init__(self, c1: int, c2: int, group: bool = True, rate: int = 4):
        super().__init__()
        check_equal_channels(c1, c2)
        hidden = reduce_channels(c1, rate)
        check_multiple(c1, 4)
        if group:
            check_multiple(hidden, rate, f"channels divided by the rate of {rate}")
        self.channel_attention = make_position_mlp(c1, hidden)
        self.spatial_attention = make_wide_gate(c1, hidden, rate if group else 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * to_channels_first(self.channel_attention(to_channels_last(x)))
        return x * shuffle_channels(torch.sigmoid(self.spatial_attention(x)), 4)


class MLCA(nn.Module):
    """Mixed local channel attention: channel weights of local_size x local_size parts, mixed with those of the map.

    Both by convolutions along neighbouring channels; `local_weight` is the share of the parts'. The local convolution
    runs over the channels of all parts as one sequence. Keeps channels: (B, c1, H, W) -> same shape.
    doi 10.1016/j.engappai.2023.106442.
    """

    def __init__(self, c1: int, local_size: int = 5, gamma: float = 2, b: float = 1, local_weight: float = 0.5):
        super().__init__()
        k = count_neighbours(c1, b, gamma)
        self.local_size, self.local_weight = local_size, local_weight
        self.conv, self.conv_local = make_channel_conv(k), make_channel_conv(k)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = F.adaptive_avg_pool2d(x, self.local_size)
        whole = torch.sigmoid(self.conv(parts.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(3)
        cells = parts.flatten(2).transpose(1, 2)  # (B, cells, c1)
        local = self.conv_local(cells.flatten(1).unsqueeze(1)).view(cells.shape)
        local = torch.sigmoid(local).transpose(1, 2).reshape(parts.shape)
        weights = (1 - self.local_weight) * whole + self.local_weight * local
        return x * F.adaptive_avg_pool2d(weights, x.shape[2:])


class MeanMaxGate(nn.Module):
    """Channel gate of CPCA: x * (gate of the means + gate of the maxima), each of two 1x1 convolutions and a sigmoid.

    (B, c1, H, W) -> same shape. arXiv 2306.05196.
    """

    def __init__(self, c1: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Conv2d(c1, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        return x * sum(torch.sigmoid(self.fc2(F.relu(self.fc1(p)))) for p in pooled)


class CPCA(nn.Module):
    """Channel prior convolutional attention: a channel gate, then weights by depthwise strips of 7, 11 and 21.

    u = gate(gelu(conv(x))), t = dw5x5(u); conv(conv(t + sum of pairs of strips(t)) * u) with one shared 1x1
    convolution. Keeps channels: (B, c1, H, W) -> same shape. Raises ValueError if c1 < channelAttention_reduce.
    arXiv 2306.05196.
    """

    SIZES = (7, 11, 21)

    def __init__(self, c1: int, channelAttention_reduce: int = 4):  # noqa: N803
        super().__init__()
        self.ca = MeanMaxGate(c1, reduce_channels(c1, channelAttention_reduce))
        self.dconv5_5 = make_depthwise(c1, 5)
        for k in self.SIZES:
            self.add_module(f"dconv1_{k}", make_depthwise(c1, (1, k)))
            self.add_module(f"dconv{k}_1", make_depthwise(c1, (k, 1)))
        self.conv = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.ca(F.gelu(self.conv(x)))
        near = self.dconv5_5(x)
        strips = [getattr(self, f"dconv{k}_1")(getattr(self, f"dconv1_{k}")(near)) for k in self.SIZES]
        return self.conv(self.conv(sum(strips, near)) * x)


class ShuffleAttention(nn.Module):
    """Gates one half of each channel group by its means and the other by its group norm, then shuffles the channels.

    sigmoid(w mean(x0) + b) * x0 and sigmoid(w gn(x1) + b) * x1 in each of G groups. Keeps channels:
    (B, c1, H, W) -> same shape. `reduction` has no effect. Raises ValueError unless c1 is a multiple of 2 * G.
    SA-Net, arXiv 2102.00240.
    """

    def __init__(self, c1: int, reduction: int = 16, G: int = 8):  # noqa: N803
        super().__init__()
        check_multiple(c1, 2 * G)
        width = c1 // (2 * G)
        self.groups = G
        self.cweight = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, width, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, width, 1, 1))
        self.gn = nn.GroupNorm(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x0, x1 = x.unflatten(1, (self.groups, -1)).flatten(0, 1).chunk(2, 1)
        x0 = x0 * torch.sigmoid(self.cweight * x0.mean((2, 3), keepdim=True) + self.cbias)
        x1 = x1 * torch.sigmoid(self.sweight * self.gn(x1) + self.sbias)
        return shuffle_channels(torch.cat((x0, x1), 1).view(x.shape), 2)


class ParallelPolarizedSelfAttention(nn.Module):
    """Polarized self-attention: a channel gate and a position gate, each by attention with c1 / 2 features, added.

    Channel gate: sigmoid(ln(W (v(x) softmax_positions(q(x))))). Position gate: sigmoid(softmax(mean q(x)) . v(x)).
    Keeps channels: (B, c1, H, W) -> same shape. Raises ValueError if c1 < 2. PSA_p, arXiv 2107.00782.
    """

    def __init__(self, c1: int):
        super().__init__()
        half = reduce_channels(c1, 2)
        self.ch_wv = nn.Conv2d(c1, half, 1)
        self.ch_wq = nn.Conv2d(c1, 1, 1)
        self.ch_wz = nn.Conv2d(half, c1, 1)
        self.ln = nn.LayerNorm(c1)
        self.sp_wv = nn.Conv2d(c1, half, 1)
        self.sp_wq = nn.Conv2d(c1, half, 1)

    def gate_channels(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map with weighted channels: (B, c1, H, W) -> same shape."""
        z = self.ch_wz(pool_by_attention(self.ch_wv(x), self.ch_wq(x)))
        return x * torch.sigmoid(self.ln(z.flatten(1)))[:, :, None, None]

    def gate_positions(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map with weighted positions: (B, c1, H, W) -> same shape."""
        query = self.sp_wq(x).mean((2, 3)).softmax(1).unsqueeze(1)
        scores = query @ self.sp_wv(x).flatten(2)
        return x * torch.sigmoid(scores).unflatten(2, x.shape[2:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate_positions(x) + self.gate_channels(x)


class SequentialPolarizedSelfAttention(ParallelPolarizedSelfAttention):
    """ParallelPolarizedSelfAttention whose position gate follows the channel gate: (B, c1, H, W) -> same shape.

    Keeps channels. Raises ValueError if c1 < 2. PSA_s, arXiv 2107.00782.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate_positions(self.gate_channels(x))


class BAMChannelGate(nn.Module):
    """Channel part of BAMBlock, four linear layers on the means: (B, c1, H, W) -> (B, c1, 1, 1). arXiv 1807.06514."""

    def __init__(self, c1: int, hidden: int, layers: int = 3):
        super().__init__()
        self.ca = nn.Sequential()
        for i in range(layers):
            self.ca.add_module(f"fc{i}", nn.Linear(hidden if i else c1, hidden))
            self.ca.add_module(f"bn{i}", nn.BatchNorm1d(hidden))
            self.ca.add_module(f"relu{i}", nn.ReLU())
        self.ca.add_module("last_fc", nn.Linear(hidden, c1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ca(x.mean((2, 3)))[:, :, None, None]


class BAMSpatialGate(nn.Module):
    """Position part of BAMBlock, dilated 3x3 convolutions: (B, c1, H, W) -> (B, 1, H, W). arXiv 1807.06514."""

    def __init__(self, c1: int, hidden: int, dia_val: int, layers: int = 3):
        super().__init__()
        self.sa = nn.Sequential()
        self.sa.add_module("conv_reduce1", nn.Conv2d(c1, hidden, 1))
        self.sa.add_module("bn_reduce1", nn.BatchNorm2d(hidden))
        self.sa.add_module("relu_reduce1", nn.ReLU())
        for i in range(layers):
            self.sa.add_module(f"conv_{i}", nn.Conv2d(hidden, hidden, 3, padding=dia_val, dilation=dia_val))
            self.sa.add_module(f"bn_{i}", nn.BatchNorm2d(hidden))
            self.sa.add_module(f"relu_{i}", nn.ReLU())
        self.sa.add_module("last_conv", nn.Conv2d(hidden, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sa(x)


class BAMBlock(nn.Module):
    """Bottleneck attention: x * (1 + sigmoid(channel scores + position scores)).

    Linear layers on the means score the channels, 3x3 convolutions of dilation `dia_val` the positions, both with
    c1 / reduction hidden channels. Keeps channels: (B, c1, H, W) -> same shape. Training needs batches of two or more.
    Raises ValueError if c1 < reduction. BAM, arXiv 1807.06514.
    """

    def __init__(self, c1: int, reduction: int = 16, dia_val: int = 2):
        super().__init__()
        hidden = reduce_channels(c1, reduction)
        self.ca = BAMChannelGate(c1, hidden)
        self.sa = BAMSpatialGate(c1, hidden, dia_val)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1 + torch.sigmoid(self.ca(x) + self.sa(x)))
