"""Convolution blocks. Parameters are in the order of YAML rows: channels in, channels out, kernel, stride, ..."""

from math import gcd
from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.activation import Act, resolve_activation
from netbuild.layers.fuse import add_kernels, fold_bn, fold_identity, set_weights
from netbuild.roles import In

Size2 = int | tuple[int, int]

# As published, RepConv and ConvTranspose use SiLU whatever the default activation. Each kind shares an object.
_REPCONV_ACT = nn.SiLU()
_TRANSPOSE_ACT = nn.SiLU()


def auto_padding(k: Size2, p: Size2 | None = None, d: int = 1) -> Any:
    """Return `p`, or if it is None the padding that keeps the size at stride 1 (for odd dilated kernels)."""
    if p is not None:
        return p
    if isinstance(k, int):
        return (d * (k - 1) + 1) // 2
    return tuple(auto_padding(size, None, d) for size in k)


class Conv(nn.Module):
    """Convolution without bias, batch norm, activation: (B, c1, H, W) -> (B, c2, H/s, W/s)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Size2 = 1,
        s: Size2 = 1,
        p: Size2 | None = None,
        g: int = 1,
        d: int = 1,
        act: Act = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, auto_padding(k, p, d), d, g, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = resolve_activation(act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        bn = self.bn  # None once fused
        return self.act(x if bn is None else bn(x))

    def fuse(self) -> None:
        """Fold the batch norm into `conv`, which gets a bias."""
        if self.bn is not None:
            set_weights(self.conv, *fold_bn(self.conv, self.bn))
            self.bn = None


class DWConv(Conv):
    """Conv in gcd(c1, c2) groups, depthwise if c1 = c2: (B, c1, H, W) -> (B, c2, H/s, W/s).

    MobileNets, arXiv 1704.04861.
    """

    def __init__(self, c1: int, c2: int, k: Size2 = 1, s: Size2 = 1, d: int = 1, act: Act = True):
        super().__init__(c1, c2, k, s, g=gcd(c1, c2), d=d, act=act)


class Conv2(Conv):
    """Conv with a parallel 1x1 branch, added before the norm: (B, c1, H, W) -> (B, c2, H/s, W/s).

    An explicit padding applies to both branches, so their sizes agree only for p = None or k = 1.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Size2 = 3,
        s: Size2 = 1,
        p: Size2 | None = None,
        g: int = 1,
        d: int = 1,
        act: Act = True,
    ):
        super().__init__(c1, c2, k, s, p, g, d, act)
        self.cv2 = nn.Conv2d(c1, c2, 1, s, auto_padding(1, p, d), d, g, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cv2 is None:  # fused
            return super().forward(x)
        return self.act(self.bn(self.conv(x) + self.cv2(x)))

    def fuse(self) -> None:
        """Add the 1x1 kernel to the centre of the k x k kernel, then fold the batch norm."""
        if self.cv2 is not None:
            weight = self.conv.weight.detach().clone()
            height, width = weight.shape[2:]
            weight[:, :, height // 2, width // 2] += self.cv2.weight.detach()[:, :, 0, 0]
            self.conv.weight = nn.Parameter(weight, requires_grad=self.conv.weight.requires_grad)
            self.cv2 = None
        super().fuse()


class LightConv(nn.Module):
    """1x1 Conv without activation, then a depthwise k x k: (B, c1, H, W) -> (B, c2, H, W); act None is ReLU."""

    def __init__(self, c1: int, c2: int, k: Size2 = 1, act: Act = None):
        super().__init__()
        self.conv1 = Conv(c1, c2, 1, act=False)
        self.conv2 = DWConv(c2, c2, k, act=nn.ReLU() if act is None else act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.conv1(x))


class ConvTranspose(nn.Module):
    """Transposed convolution, batch norm (or bias), activation: (B, c1, H, W) -> (B, c2, H*s, W*s) for k = s."""

    def __init__(self, c1: int, c2: int, k: Size2 = 2, s: Size2 = 2, p: Size2 = 0, bn: bool = True, act: Act = True):
        super().__init__()
        self.conv_transpose = nn.ConvTranspose2d(c1, c2, k, s, p, bias=not bn)
        self.bn = nn.BatchNorm2d(c2) if bn else nn.Identity()
        self.act = resolve_activation(act, _TRANSPOSE_ACT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_transpose(x)
        bn = self.bn  # None once fused
        return self.act(x if bn is None else bn(x))

    def fuse(self) -> None:
        """Fold the batch norm, if there is one, into `conv_transpose`."""
        if isinstance(self.bn, nn.BatchNorm2d):
            set_weights(self.conv_transpose, *fold_bn(self.conv_transpose, self.bn))
            self.bn = None


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution in gcd(c1, c2) groups, with bias: (B, c1, H, W) -> (B, c2, H*s, W*s) for k = s.

    p1 is the padding, p2 the output padding.
    """

    def __init__(self, c1: int, c2: int, k: Size2 = 1, s: Size2 = 1, p1: Size2 = 0, p2: Size2 = 0):
        super().__init__(c1, c2, k, s, p1, p2, groups=gcd(c1, c2))


class Focus(nn.Module):
    """Each 2x2 pixels moved to channels (space to depth), then a Conv: (B, c1, H, W) -> (B, c2, H/2/s, W/2/s).

    H and W must be even. YOLOv5.
    """

    def __init__(
        self, c1: int, c2: int, k: Size2 = 1, s: Size2 = 1, p: Size2 | None = None, g: int = 1, act: Act = True
    ):
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p, g, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # (B, C, h, row, w, column) -> (B, column, row, C, h, w): pixels in the order (0,0) (1,0) (0,1) (1,1)
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 5, 3, 1, 2, 4)
        return self.conv(x.flatten(1, 3))


class GhostConv(nn.Module):
    """A Conv for half the output maps, a depthwise 5x5 of these for the rest: (B, c1, H, W) -> (B, c2, H/s, W/s).

    Raises ValueError for odd c2. GhostNet, arXiv 1911.11907.
    """

    def __init__(self, c1: int, c2: int, k: Size2 = 1, s: Size2 = 1, g: int = 1, act: Act = True):
        super().__init__()
        if c2 % 2:
            raise ValueError(f"output channels must be even: {c2}")
        c_ = c2 // 2
        self.cv1 = Conv(c1, c_, k, s, None, g, act=act)
        self.cv2 = Conv(c_, c_, 5, 1, None, c_, act=act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        return torch.cat((x, self.cv2(x)), 1)


class RepConv(nn.Module):
    """Sum of 3x3, 1x1 and (with `bn`) identity branches, which fuse to one 3x3: (B, c1, H, W) -> (B, c2, H/s, W/s).

    Raises ValueError unless k = 3 and p = 1; d and deploy have no effect. RepVGG, arXiv 2101.03697.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: int = 1,
        g: int = 1,
        d: int = 1,
        act: Act = True,
        bn: bool = False,
        deploy: bool = False,
    ):
        super().__init__()
        if (k, p) != (3, 1):
            raise ValueError(f"kernel and padding must be 3 and 1: {k} and {p}")
        self.act = resolve_activation(act, _REPCONV_ACT)
        self.bn = nn.BatchNorm2d(c1) if bn and c1 == c2 and s == 1 else None
        self.conv1 = Conv(c1, c2, k, s, p, g, act=False)
        self.conv2 = Conv(c1, c2, 1, s, 0, g, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv1 is None:  # fused
            return self.act(self.conv(x))
        y = self.conv1(x) + self.conv2(x)
        return self.act(y if self.bn is None else y + self.bn(x))

    def fuse(self) -> None:
        """Merge the branches into one convolution, `conv`."""
        if self.conv1 is None:
            return
        self.conv1.fuse()
        self.conv2.fuse()
        conv, point = self.conv1.conv, self.conv2.conv
        kernels = [(conv.weight, conv.bias), (point.weight, point.bias)]
        if self.bn is not None:
            kernels.append(fold_identity(self.bn, conv.groups))
        set_weights(conv, *add_kernels(*kernels))
        self.conv = conv
        self.conv1 = self.conv2 = self.bn = None


class ChannelAttention(nn.Module):
    """Channels weighted by a sigmoid of a linear map of their global means: (B, c, H, W) -> same shape.

    As in RTMDet, arXiv 2212.07784.
    """

    def __init__(self, channels: Annotated[int, In]):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(channels, channels, 1)
        self.act = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.act(self.fc(self.pool(x)))


class SpatialAttention(nn.Module):
    """Positions weighted by a sigmoid of a convolution of the channels' mean and maximum: (B, c, H, W) -> same shape.

    Raises ValueError unless kernel_size is 3 or 7. CBAM, arXiv 1807.06521.
    """

    def __init__(self, kernel_size: int = 7):
        super().__init__()
        if kernel_size not in (3, 7):
            raise ValueError(f"kernel size must be 3 or 7: {kernel_size}")
        self.cv1 = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.act = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * self.act(self.cv1(pooled))


class CBAM(nn.Module):
    """Channel attention, then spatial attention: (B, c1, H, W) -> same shape.

    The channel attention is one linear layer on the mean, not the paper's two layers on mean and maximum.
    CBAM, arXiv 1807.06521.
    """

    def __init__(self, c1: int, kernel_size: int = 7):
        super().__init__()
        self.channel_attention = ChannelAttention(c1)
        self.spatial_attention = SpatialAttention(kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.spatial_attention(self.channel_attention(x))
