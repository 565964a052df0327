"""Attention that weights the channels of a map, each by one factor for all positions."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.pack.parts import (
    check_multiple,
    count_neighbours,
    make_channel_conv,
    make_linear_gate,
    reduce_channels,
    round_channels,
)


class SEAttention(nn.Module):
    """Squeeze and excitation: weights each channel by a network of two linear layers on the means of all channels.

    x * sigmoid(W2 relu(W1 mean(x))). Keeps channels: (B, c1, H, W) -> same shape. The linear layers have no bias; other
    public copies have 1x1 convolutions with bias. Raises ValueError if c1 < reduction. arXiv 1709.01507.
    """

    def __init__(self, c1: int, reduction: int = 16):
        super().__init__()
        self.fc = make_linear_gate(c1, reduction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


def gate_by_neighbours(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    """Weight each channel by the sigmoid of a convolution along the channels' means: (B, c, H, W) -> same shape."""
    means = x.mean((2, 3)).unsqueeze(1)
    return x * torch.sigmoid(conv(means)).transpose(1, 2).unsqueeze(3)


class ECAAttention(nn.Module):
    """Weights each channel by a convolution over the means of k_size neighbouring channels.

    x * sigmoid(conv(mean(x))). Keeps channels: (B, c1, H, W) -> same shape. Works with any c1, which has no effect.
    Raises ValueError unless k_size is odd; EfficientChannelAttention chooses it by the channels. arXiv 1910.03151.
    """

    def __init__(self, c1: int, k_size: int = 3):
        super().__init__()
        self.conv = make_channel_conv(k_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gate_by_neighbours(x, self.conv)


class EfficientChannelAttention(nn.Module):
    """ECAAttention whose kernel size follows from the channels: (log2(c1) + b) / gamma, made odd.

    Keeps channels: (B, c1, H, W) -> same shape. arXiv 1910.03151.
    """

    def __init__(self, c1: int, b: float = 1, gamma: float = 2):
        super().__init__()
        self.conv1 = make_channel_conv(count_neighbours(c1, b, gamma))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return gate_by_neighbours(x, self.conv1)


class SKAttention(nn.Module):
    """Selective kernel: convolutions of several sizes, mixed with weights for each channel that follow from their sum.

    sum_i softmax_i(W_i z) * conv_i(x), z = W mean(sum_i conv_i(x)). Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError unless c1 is a multiple of `group`. arXiv 1903.06586.

    Args:
        c1: channels.
        kernels: odd sizes of the convolutions.
        reduction: c1 divided by the features of z.
        group: groups of the convolutions.
        L: least number of features of z.
    """

    def __init__(
        self,
        c1: int,
        kernels: Sequence[int] = (1, 3, 5, 7),
        reduction: int = 16,
        group: int = 1,
        L: int = 32,  # noqa: N803
    ):
        super().__init__()
        check_multiple(c1, group)
        features = max(L, c1 // reduction)
        self.convs = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(c1, c1, k, padding=k // 2, groups=group), bn=nn.BatchNorm2d(c1), relu=nn.ReLU()
                )
            )
            for k in kernels
        )
        self.fc = nn.Linear(c1, features)
        self.fcs = nn.ModuleList(nn.Linear(features, c1) for _ in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = torch.stack([conv(x) for conv in self.convs], 1)
        z = self.fc(maps.sum(1).mean((2, 3)))
        weights = torch.stack([fc(z) for fc in self.fcs], 1).softmax(1)
        return (weights[..., None, None] * maps).sum(1)


class ParNetAttention(nn.Module):
    """Sum of a 1x1 convolution, a 3x3 convolution and the map with gated channels, then SiLU.

    silu(bn(conv1(x)) + bn(conv3(x)) + x * sigmoid(W mean(x))). Keeps channels: (B, c1, H, W) -> same shape.
    ParNet, arXiv 2110.07641.
    """

    def __init__(self, c1: int):
        super().__init__()
        self.sse = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c1, c1, 1), nn.Sigmoid())
        self.conv1x1 = nn.Sequential(nn.Conv2d(c1, c1, 1), nn.BatchNorm2d(c1))
        self.conv3x3 = nn.Sequential(nn.Conv2d(c1, c1, 3, padding=1), nn.BatchNorm2d(c1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(self.conv1x1(x) + self.conv3x3(x) + x * self.sse(x))


class GatherExcite(nn.Module):
    """Weights channels by a small network of their means over `extent` positions, or over the whole map.

    x * sigmoid(mlp(gather(x))), enlarged by nearest neighbours. Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError if c1 < 8 with `use_mlp`. arXiv 1810.12348.

    Args:
        c1: channels.
        feat_size: side of the map, needed by `extra_params` with extent 0 alone: the size of one depthwise kernel.
        extra_params: whether depthwise convolutions gather instead of a mean pooling.
        extent: stride of the gathering; 0 is the whole map; a power of 2 with `extra_params`.
        use_mlp: whether two 1x1 convolutions of c1 / 16 hidden channels follow.
    """

    def __init__(
        self,
        c1: int,
        feat_size: int | None = None,
        extra_params: bool = False,
        extent: int = 0,
        use_mlp: bool = True,
    ):
        super().__init__()
        self.extent = extent
        self.gather = self._make_gather(c1, feat_size, extent) if extra_params else None
        self.mlp = self._make_mlp(c1) if use_mlp else nn.Identity()

    def _make_mlp(self, c1: int) -> nn.Sequential:
        hidden = round_channels(c1, 16)
        layers = OrderedDict(fc1=nn.Conv2d(c1, hidden, 1), act=nn.ReLU(), fc2=nn.Conv2d(hidden, c1, 1))
        return nn.Sequential(layers)

    def _make_gather(self, c1: int, feat_size: int | None, extent: int) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if extent == 0:
            if feat_size is None:
                raise ValueError("extra_params with extent 0 needs feat_size, the side of the map")
            layers["conv1"] = nn.Conv2d(c1, c1, feat_size, groups=c1, bias=False)
            layers["norm1"] = nn.BatchNorm2d(c1)
            return nn.Sequential(layers)
        steps = round(math.log2(extent))
        if 2**steps != extent:
            raise ValueError(f"extent must be a power of 2 with extra_params: {extent}")
        for i in range(1, steps + 1):
            layers[f"conv{i}"] = nn.Conv2d(c1, c1, 3, 2, 1, groups=c1, bias=False)
            layers[f"norm{i}"] = nn.BatchNorm2d(c1)
            if i < steps:
                layers[f"act{i}"] = nn.ReLU()
        return nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gather is not None:
            gathered = self.gather(x)
        elif self.extent:
            k = 2 * self.extent - 1
            gathered = F.avg_pool2d(x, k, self.extent, k // 2, count_include_pad=False)
        else:
            gathered = x.mean((2, 3), keepdim=True)
        gathered = self.mlp(gathered)
        if gathered.shape[2:] != (1, 1):
            gathered = F.interpolate(gathered, size=x.shape[2:])
        return x * torch.sigmoid(gathered)


class EffectiveSEModule(nn.Module):
    """Squeeze and excitation with one layer: x * hardsigmoid(W mean(x)), W a 1x1 convolution without reduction.

    With `add_maxpool` the mean of mean and maximum. Keeps channels: (B, c1, H, W) -> same shape.
    CenterMask and VoVNetV2, arXiv 1911.06667.
    """

    def __init__(self, c1: int, add_maxpool: bool = False):
        super().__init__()
        self.add_maxpool = add_maxpool
        self.fc = nn.Conv2d(c1, c1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        if self.add_maxpool:
            pooled = 0.5 * pooled + 0.5 * x.amax((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.fc(pooled))


class ChannelNorm(nn.Module):
    """Gate of NAMAttention: x * sigmoid(bn(x) * |w| / sum(|w|)), w the weights of the norm.

    (B, c1, H, W) -> same shape. arXiv 2111.12419.
    """

    def __init__(self, c1: int):
        super().__init__()
        self.bn2 = nn.BatchNorm2d(c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.bn2.weight.detach().abs()
        return x * torch.sigmoid(self.bn2(x) * (scale / scale.sum())[:, None, None])


class NAMAttention(nn.Module):
    """Weights values by their batch norm, and channels by the share of their norm's weight in the sum of all weights.

    x * sigmoid(bn(x) * |w| / sum(|w|)). Keeps channels: (B, c1, H, W) -> same shape. No gradient passes through the
    shares, as in public copies. NAM, arXiv 2111.12419.
    """

    def __init__(self, c1: int):
        super().__init__()
        self.Channel_Att = ChannelNorm(c1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Channel_Att(x)


class Mix(nn.Module):
    """Mean of two tensors weighted by sigmoid(w), 1 - sigmoid(w), w learnt; all shapes are equal."""

    def __init__(self, w: float = -0.8):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w]))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        share = torch.sigmoid(self.w)
        return a * share + b * (1 - share)


class AFGCAttention(nn.Module):
    """Adaptive fine-grained channel attention: relates means of neighbouring channels (u) and of all channels (v).

    x * sigmoid(conv(mix(sigmoid(v * sum(u)), sigmoid(u * sum(v))))): the sums of the rows and columns of the matrix
    u v^T. Keeps channels: (B, c1, H, W) -> same shape. doi 10.1016/j.neunet.2024.106314.
    """

    def __init__(self, c1: int, b: float = 1, gamma: float = 2):
        super().__init__()
        self.conv1 = make_channel_conv(count_neighbours(c1, b, gamma))
        self.fc = nn.Conv2d(c1, c1, 1)
        self.mix = Mix()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        near = self.conv1(means.flatten(2).transpose(1, 2))  # (B, 1, c1)
        far = self.fc(means).flatten(2).transpose(1, 2)
        by_column = torch.sigmoid(far * near.sum(2, keepdim=True))
        by_row = torch.sigmoid(near * far.sum(2, keepdim=True))
        gate = torch.sigmoid(self.conv1(self.mix(by_column, by_row)))
        return x * gate.transpose(1, 2).unsqueeze(3)


class SOCA(nn.Module):
    """Second-order channel attention: weights channels by a two-layer network of the square root of their covariance.

    x * sigmoid(W2 relu(W1 mean_rows(sqrt(cov(x))))), the root by five Newton-Schulz steps, in float32. Of maps with
    more than 1000 rows or columns the middle 1000 count. Keeps channels: (B, c1, H, W) -> same shape.
    Raises ValueError if c1 < reduction. SAN, Dai et al., CVPR 2019.
    """

    LONGEST = 1000

    def __init__(self, c1: int, reduction: int = 8):
        super().__init__()
        hidden = reduce_channels(c1, reduction)
        self.conv_du = nn.Sequential(nn.Conv2d(c1, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, c1, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        root = compute_covariance_root(self._crop(self._crop(x, 2), 3).flatten(2).float())
        return x * self.conv_du(root.mean(1)[:, :, None, None].to(x.dtype))

    def _crop(self, x: torch.Tensor, axis: int) -> torch.Tensor:
        return x.narrow(axis, max((x.shape[axis] - self.LONGEST) // 2, 0), min(x.shape[axis], self.LONGEST))


def compute_covariance_root(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Compute the square root of the covariance matrix of channels, (B, c, N) -> (B, c, c), by Newton-Schulz steps.

    The covariance is divided by its trace first, so that the steps converge. iSQRT-COV, arXiv 1712.01034.
    """
    x = x - x.mean(2, keepdim=True)
    trace = x.square().mean(2).sum(1)[:, None, None].clamp_min(1e-12)
    y = x @ x.transpose(1, 2) / (x.shape[2] * trace)
    identity = torch.eye(x.shape[1], device=x.device, dtype=x.dtype)
    z = 0.5 * (3 * identity - y)
    y = y @ z
    for _ in range(steps - 2):
        factor = 0.5 * (3 * identity - z @ y)
        y, z = y @ factor, factor @ z
    return 0.5 * y @ (3 * identity - z @ y) * trace.sqrt()


class ChannelAttention_HSFPN(nn.Module):
    """Weights the channels by a shared two-layer network of their means and of their maxima.

    g = sigmoid(mlp(mean(x)) + mlp(max(x))), without biases; x * g with `flag`, otherwise the gate g alone.
    Keeps channels: (B, c1, H, W) -> same shape, or (B, c1, 1, 1). Raises ValueError if c1 < ratio.
    HS-FPN of MFDS-DETR, arXiv 2401.00926.
    """

    def __init__(self, c1: int, ratio: int = 4, flag: bool = True):
        super().__init__()
        hidden = reduce_channels(c1, ratio)
        self.conv1 = nn.Conv2d(c1, hidden, 1, bias=False)
        self.conv2 = nn.Conv2d(hidden, c1, 1, bias=False)
        self.flag = flag

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        gate = torch.sigmoid(sum(self.conv2(F.relu(self.conv1(p))) for p in pooled))
        return x * gate if self.flag else gate
