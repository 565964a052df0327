"""Convolutions with coordinates, switchable dilation or calibration, and plain ones with fixed activations."""

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.attention import check_equal_channels
from netbuild.layers.conv import Conv, Size2, auto_padding


def make_coordinates(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Make maps of the row and column of each position, from -1 to 1: (B, c, H, W) -> (B, 1, H, W) each."""
    height, width = x.shape[2:]
    steps = (torch.arange(n, device=x.device, dtype=torch.float32) * (2 / max(n - 1, 1)) - 1 for n in (height, width))
    rows, columns = (axis.to(x.dtype) for axis in steps)
    shape = (x.shape[0], 1, height, width)
    return rows[:, None].expand(shape), columns.expand(shape)


def check_least_size(x: torch.Tensor, least: int) -> None:
    """Raise ValueError if a side of a map is smaller than `least`; sides that vary in an export are not checked."""
    if any(isinstance(n, int) and n < least for n in x.shape[2:]):
        raise ValueError(f"the map must be {least} x {least} or larger: {x.shape[2]} x {x.shape[3]}")


class CoordConv(nn.Module):
    """Conv of the map and two or three maps of coordinates: (B, c1, H, W) -> (B, c2, H/s, W/s). arXiv 1807.03247.

    Args:
        c1, c2: channels in and out.
        k, s: kernel and stride.
        with_r: whether to add the distance to the point (1/2, 1/2), where coordinates are from -1 to 1.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, with_r: bool = False):
        super().__init__()
        self.with_r = with_r
        self.conv = Conv(c1 + 3 if with_r else c1 + 2, c2, k, s)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = make_coordinates(x)
        maps = [x, rows, columns]
        if self.with_r:
            maps.append(((rows - 0.5) ** 2 + (columns - 0.5) ** 2).sqrt())
        return self.conv(torch.cat(maps, 1))


class CoordConv_paddle(nn.Module):
    """CoordConv with the columns before the rows, as in yoloair and PP-YOLO: (B, c1, H, W) -> (B, c2, H', W').

    `k` and `p` are kernel and padding of the Conv: H' = H + 2p - k + 1. arXiv 1807.03247.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, p: int = 0):
        super().__init__()
        self.conv = Conv(c1 + 2, c2, k, 1, p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = make_coordinates(x)
        return self.conv(torch.cat((x, columns, rows), 1))


class SAConv2d(nn.Module):
    """Switchable atrous convolution: two of dilation d and 3d, mixed by a map of weights, norm and activation.

    The kernels share a standardised weight; the means of the map are added before and after. (B, c1, H, W) ->
    (B, c2, H/s, W/s). The parameter `bias` has no effect. Raises ValueError for maps under 3 x 3. DetectoRS,
    arXiv 2006.02334.

    Args:
        c1, c2: channels in and out.
        k, s, p, g, d: kernel, stride, padding (None keeps the size), groups and dilation.
        act: activation.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: Act = True,
    ):
        super().__init__()
        self.s, self.p, self.g, self.d = s, auto_padding(k, p, d), g, d
        plain = nn.Conv2d(c1, c2, k, groups=g)
        self.weight, self.bias = plain.weight, plain.bias
        self.weight_diff = nn.Parameter(torch.zeros_like(plain.weight))
        self.register_buffer("weight_gamma", torch.ones(c2, 1, 1, 1))
        self.register_buffer("weight_beta", torch.zeros(c2, 1, 1, 1))
        self.switch = nn.Conv2d(c1, 1, 1, s)
        self.pre_context = nn.Conv2d(c1, c1, 1)
        self.post_context = nn.Conv2d(c2, c2, 1)
        for conv in (self.switch, self.pre_context, self.post_context):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
        nn.init.ones_(self.switch.bias)
        self.bn = nn.BatchNorm2d(c2)
        self.act = resolve_activation(act)

    def standardise(self) -> torch.Tensor:
        """Return the weight with mean `weight_beta` and standard deviation `weight_gamma` in each filter."""
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = (self.weight.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return self.weight_gamma * (self.weight - mean) / deviation + self.weight_beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_least_size(x, 3)
        x = x + self.pre_context(x.mean((2, 3), keepdim=True))
        switch = self.switch(F.avg_pool2d(F.pad(x, [2] * 4, "reflect"), 5, 1))
        weight = self.standardise()
        near = F.conv2d(x, weight, None, self.s, self.p, self.d, self.g)
        far = F.conv2d(x, weight + self.weight_diff, None, self.s, 3 * self.p, 3 * self.d, self.g)
        y = switch * near + (1 - switch) * far
        return self.act(self.bn(y + self.post_context(y.mean((2, 3), keepdim=True))))


class SCConv(nn.Module):
    """Self-calibrated convolution: one convolution gated by another of a pooled map, then a third.

    k4(k3(x) * sigmoid(x + k2(pool(x)))), each a 3x3 Conv without activation: (B, c1, H, W) -> (B, c2, H/s, W/s).
    Raises ValueError unless c1 = c2, and for maps smaller than the pooling. CVPR 2020,
    doi 10.1109/CVPR42600.2020.01011.

    Args:
        c1, c2: channels.
        s, d, g: stride of the last convolution, dilation and groups of all.
        pooling_r: size of the pooling.
    """

    def __init__(self, c1: int, c2: int, s: int = 1, d: int = 1, g: int = 1, pooling_r: int = 4):
        super().__init__()
        check_equal_channels(c1, c2)
        self.least = pooling_r
        self.k2 = nn.Sequential(nn.AvgPool2d(pooling_r), Conv(c1, c2, 3, d=d, g=g, act=False))
        self.k3 = Conv(c1, c2, 3, d=d, g=g, act=False)
        self.k4 = Conv(c1, c2, 3, s, d=d, g=g, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_least_size(x, self.least)
        gate = torch.sigmoid(x + F.interpolate(self.k2(x), x.shape[2:]))
        return self.k4(self.k3(x) * gate)


class CBH(Conv):
    """Convolution, batch norm, hard swish: (B, c1, H, W) -> (B, c2, H/s, W/s). MobileNetV3, arXiv 1905.02244."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1):
        super().__init__(c1, c2, k, s, (k - 1) // 2, g, act=nn.Hardswish())


class conv_bn_hswish(CBH):
    """CBH of kernel 3, with the stride alone as an argument: (B, c1, H, W) -> (B, c2, H/s, W/s). arXiv 1905.02244."""

    def __init__(self, c1: int, c2: int, s: int = 1):
        super().__init__(c1, c2, 3, s)


class SimConv(Conv):
    """Convolution, batch norm, ReLU: (B, c1, H, W) -> (B, c2, H/s, W/s). YOLOv6, arXiv 2209.02976."""

    def __init__(self, c1: int, c2: int, k: Size2 = 1, s: Size2 = 1, g: int = 1):
        super().__init__(c1, c2, k, s, g=g, act=nn.ReLU())


class ConvBNLayer(Conv):
    """Convolution with padding p, 0 unless stated, batch norm, activation: (B, c1, H, W) -> (B, c2, H', W').

    H' = (H + 2p - k) / s + 1, rounded down. PP-YOLOE, arXiv 2203.16250.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, p: int = 0, act: Act = "swish"):
        super().__init__(c1, c2, k, s, p, g, act=nn.SiLU() if act == "swish" else act)


class Dense(nn.Module):
    """Convolution without bias and padding, hard swish, dropout: (B, c1, H, W) -> (B, c2, H - k + 1, W - k + 1).

    The last layer of PP-LCNet, arXiv 2109.15099.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, dropout: float = 0.2):
        super().__init__()
        self.dense_conv = nn.Conv2d(c1, c2, k, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(F.hardswish(self.dense_conv(x)))
