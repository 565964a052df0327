"""Convolutions whose kernels depend on the input."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.attention import check_equal_channels
from netbuild.layers.conv import Conv, auto_padding
from netbuild.layers.csp import Bottleneck
from netbuild.layers.pack.parts import check_multiple, reduce_channels
from netbuild.layers.pack.wrappers import C2fWrapper, C3k2Wrapper, C3Wrapper


def convolve_samples(x: torch.Tensor, kernels: torch.Tensor, s: int, p: int, d: int, g: int) -> torch.Tensor:
    """Convolve each sample with its own kernel: (B, c1, H, W) and (B, c2, c1/g, k, k) -> (B, c2, H/s, W/s)."""
    batch, k = x.shape[0], kernels.shape[-1]
    if isinstance(batch, torch.SymInt):  # of an export, whose files cannot hold a number of groups that varies
        neighbours = F.unfold(x, k, d, p, s).unflatten(1, (g, -1))
        y = kernels.flatten(2).unflatten(1, (g, -1)) @ neighbours
        size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n in x.shape[2:]]
        return y.flatten(1, 2).unflatten(2, size)
    # The samples become groups of one convolution, which needs less memory.
    y = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), None, s, p, d, batch * g)
    return y[0].unflatten(0, (batch, -1))


class OmniAttention(nn.Module):
    """Weights for the channels, filters, kernel positions and kernels of an ODConv2d from a map's means.

    (B, c1, H, W) -> (B, c1, 1, 1), (B, c2, 1, 1), (B, 1, 1, k, k), (B, kernel_num, 1, 1, 1); 1 where there is nothing
    to weight. ODConv, ICLR 2022.

    Args:
        c1, c2, k, g: channels in and out, kernel size and groups of the convolution.
        hidden: channels that all weights are computed from.
        kernel_num: number of kernels.
        is_conv: whether the first layer is a Conv, with its norm inside.
    """

    def __init__(self, c1: int, c2: int, k: int, g: int, hidden: int, kernel_num: int, is_conv: bool):
        super().__init__()
        if is_conv:
            self.fc = Conv(c1, hidden, act=nn.ReLU())
        else:
            self.fc = nn.Conv2d(c1, hidden, 1, bias=False)
            self.bn = nn.BatchNorm2d(hidden)
        self.is_conv, self.k = is_conv, k
        self.channel_fc = nn.Conv2d(hidden, c1, 1)
        self.filter_fc = None if c1 == g == c2 else nn.Conv2d(hidden, c2, 1)
        self.spatial_fc = None if k == 1 else nn.Conv2d(hidden, k * k, 1)
        self.kernel_fc = None if kernel_num == 1 else nn.Conv2d(hidden, kernel_num, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        z = self.fc(x.mean((2, 3), keepdim=True))
        z = z if self.is_conv else F.relu(self.bn(z))
        one = z.new_ones(1, 1, 1, 1)
        filters = one if self.filter_fc is None else self.filter_fc(z).sigmoid()
        positions = (
            one[None] if self.spatial_fc is None else self.spatial_fc(z).sigmoid().view(-1, 1, 1, self.k, self.k)
        )
        kernels = one[None] if self.kernel_fc is None else self.kernel_fc(z).softmax(1)[..., None]
        return self.channel_fc(z).sigmoid(), filters, positions, kernels


class ODConv2d(nn.Module):
    """Convolution with attention for its channels, filters, kernel positions and kernels: no norm, no activation.

    (B, c1, H, W) -> (B, c2, H/s, W/s). In training a batch of one sample has no batch statistics, so it fails there.
    ODConv2d_bnact has a norm and an activation. ODConv, ICLR 2022; arXiv 2209.07947.

    Args:
        c1, c2: channels in and out.
        k, s, p, d, g: kernel, stride, padding (None keeps the size), dilation and groups.
        reduction: int(c1 * reduction) channels, at least 16, are what the weights are computed from.
        kernel_num: number of kernels, whose weighted sum is used.
    """

    is_normalised = False

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        d: int = 1,
        g: int = 1,
        reduction: float = 1 / 16,
        kernel_num: int = 1,
    ):
        super().__init__()
        self.s, self.p, self.d, self.g = s, auto_padding(k, p, d), d, g
        plain = [nn.Conv2d(c1, c2, k, groups=g).weight.detach() for _ in range(kernel_num)]
        self.weight = nn.Parameter(torch.stack(plain))
        hidden = max(int(c1 * reduction), 16)
        self.attention = OmniAttention(c1, c2, k, g, hidden, kernel_num, self.is_normalised)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels, filters, positions, kernels = self.attention(x)
        # (B, kernels, 1, 1, 1) weights of (kernels, c2, c1/g, k, k)
        kernel = (kernels[..., None] * self.weight).sum(1) * positions
        kernel = kernel.expand(x.shape[0], -1, -1, -1, -1)
        return convolve_samples(x * channels, kernel, self.s, self.p, self.d, self.g) * filters


class ODConv2d_bnact(ODConv2d):
    """ODConv2d, batch norm and activation, with the arguments in the order of Conv: (B, c1, H, W) -> (B, c2, H/s, W/s).

    The form of files in the style of YOLOv7; the first layer of its attention is a Conv. arXiv 2209.07947.

    Args:
        c1, c2: channels in and out.
        k, s, p, g, d: kernel, stride, padding (None keeps the size), groups and dilation.
        act: activation.
        reduction, kernel_num: as in ODConv2d.
    """

    is_normalised = True

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: Act = True,
        d: int = 1,
        reduction: float = 1 / 16,
        kernel_num: int = 1,
    ):
        super().__init__(c1, c2, k, s, p, d, g, reduction, kernel_num)
        self.bn = nn.BatchNorm2d(c2)
        self.act = resolve_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(super().forward(x)))


class OmniBottleneck(Bottleneck):
    """Bottleneck of two ODConv2d, without activations: (B, c1, H, W) -> (B, c2, H, W). arXiv 2209.07947."""

    first_conv = second_conv = ODConv2d


class C3_ODConv(C3Wrapper):
    """C3 of n bottlenecks of two ODConv2d: (B, c1, H, W) -> (B, c2, H, W). arXiv 2209.07947."""

    block = OmniBottleneck


class C2f_ODConv(C2fWrapper):
    """C2f of n bottlenecks of two ODConv2d: (B, c1, H, W) -> (B, c2, H, W). arXiv 2209.07947."""

    block = OmniBottleneck


class C3k2_ODConv(C3k2Wrapper):
    """C3k2 of n bottlenecks of two ODConv2d: (B, c1, H, W) -> (B, c2, H, W). arXiv 2209.07947."""

    block = OmniBottleneck


class ExpertKernels(nn.Module):
    """Kernels of a CondConv's experts, one a row: weights (B, num_experts) -> (B, c2, c1/g, k, k)."""

    def __init__(self, c1: int, c2: int, k: int, g: int, num_experts: int):
        super().__init__()
        plain = [nn.Conv2d(c1, c2, k, groups=g).weight.detach().flatten() for _ in range(num_experts)]
        self.weight = nn.Parameter(torch.stack(plain))
        self.shape = (c2, c1 // g, k, k)

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        return (weights @ self.weight).unflatten(1, self.shape)


class CondConv(nn.Module):
    """Convolution without bias whose kernel is a sum of experts' kernels, weighted by a sigmoid of the map's means.

    (B, c1, H, W) -> (B, c2, H/s, W/s). arXiv 1904.04971.
    """

    def __init__(self, c1: int, c2: int, k: int, s: int, p: int, g: int, d: int, num_experts: int):
        super().__init__()
        self.s, self.p, self.g, self.d = s, p, g, d
        self.routing = nn.Linear(c1, num_experts)
        self.cond_conv = ExpertKernels(c1, c2, k, g, num_experts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernels = self.cond_conv(self.routing(x.mean((2, 3))).sigmoid())
        return convolve_samples(x, kernels, self.s, self.p, self.d, self.g)


class DynamicConv(nn.Module):
    """Convolution whose kernel is a weighted sum of experts' kernels, batch norm, activation.

    (B, c1, H, W) -> (B, c2, H/s, W/s). CondConv, arXiv 1904.04971; ParameterNet, arXiv 2306.14525.

    Args:
        c1, c2: channels in and out.
        k, s, p, g, d: kernel, stride, padding (None keeps the size), groups and dilation.
        act: activation.
        num_experts: number of kernels.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: Act = True,
        num_experts: int = 4,
    ):
        super().__init__()
        conv = CondConv(c1, c2, k, s, auto_padding(k, p, d), g, d, num_experts)
        self.conv = nn.Sequential(conv, nn.BatchNorm2d(c2), resolve_activation(act))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class GhostModule_Dynamic(nn.Module):
    """A DynamicConv to half of the channels, and a depthwise DynamicConv of it for the rest.

    (B, c1, H, W) -> (B, c2, H/s, W/s). ParameterNet, arXiv 2306.14525.

    Args:
        c1, c2: channels in and out.
        k: kernel of the first convolution.
        dw_size: kernel of the depthwise convolution.
        s: stride.
        act: activation.
        num_experts: number of kernels.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        dw_size: int = 3,
        s: int = 1,
        act: Act = True,
        num_experts: int = 4,
    ):
        super().__init__()
        c = (c2 + 1) // 2
        self.c2 = c2
        self.primary_conv = DynamicConv(c1, c, k, s, act=act, num_experts=num_experts)
        self.cheap_operation = DynamicConv(c, c, dw_size, g=c, act=act, num_experts=num_experts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.primary_conv(x)
        return torch.cat((x, self.cheap_operation(x)), 1).narrow(1, 0, self.c2)


class Involution(nn.Module):
    """Kernels of each position, shared by the 16 channels of a group: (B, c1, H, W) -> (B, c1, H/s, W/s).

    Two 1x1 Convs, with norm and activation, compute them; the authors' second one has neither. Keeps channels. Raises
    ValueError unless c1 = c2, a multiple of 16. arXiv 2103.06255.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        check_equal_channels(c1, c2)
        check_multiple(c1, 16)
        self.k, self.s, self.groups = k, s, c1 // 16
        hidden = reduce_channels(c1, 4)
        self.conv1 = Conv(c1, hidden)
        self.conv2 = Conv(hidden, k * k * self.groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Rounded up, as a strided convolution does, for maps that the stride does not divide.
        pooled = x if self.s == 1 else F.avg_pool2d(x, self.s, self.s, ceil_mode=True)
        kernels = self.conv2(self.conv1(pooled))
        size = kernels.shape[2:]
        neighbours = F.unfold(x, self.k, padding=(self.k - 1) // 2, stride=self.s)
        neighbours = neighbours.unflatten(1, (self.groups, 16, self.k**2))  # (B, groups, 16, k k, H W)
        kernels = kernels.flatten(2).unflatten(1, (self.groups, 1, self.k**2))
        return (neighbours * kernels).sum(3).flatten(1, 2).unflatten(2, size)
