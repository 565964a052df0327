"""Fusion of several maps to one: weighted sums, concatenations of halves, and maps of different sizes joined."""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.merge import Add, check_several
from netbuild.layers.pack.gsconv import GSConv
from netbuild.layers.pack.maps import check_same_shapes, check_source_count, resize_map
from netbuild.layers.pack.parts import BlockConv
from netbuild.roles import In, Plain

EPSILON = 1e-4  # added to the sum of weights that divides each of them


class Concat_bifpn(nn.Module):
    """Weighted mean of two or three maps of one shape, ReLU and a 1x1 Conv: (B, c1, H, W) each -> (B, c2, H, W).

    The weights are trained, one for each source: w_i / (sum of w + 1e-4), which is not kept above zero as in the paper.
    Weights for two and for three sources always exist; one of the two is not used. Raises ValueError for another number
    of sources and for different channels. BiFPN of EfficientDet, arXiv 1911.09070.
    """

    def __init__(self, ch: Annotated[list[int], In], c2: int):
        super().__init__()
        check_source_count(ch, 2, 3)
        check_same_shapes(ch)
        self.w1_weight = nn.Parameter(torch.ones(2))
        self.w2_weight = nn.Parameter(torch.ones(3))
        self.conv = Conv(ch[0], c2)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        weights = self.w1_weight if len(xs) == 2 else self.w2_weight
        return self.conv(F.relu(sum_weighted(xs, weights / (weights.sum() + EPSILON))))


class BiFPN_Add2(nn.Module):
    """Weighted mean of two maps of one shape, SiLU and a 1x1 convolution: (B, c1, H, W) each -> (B, c2, H, W).

    The weights are trained: w_i / (sum of w + 1e-4). Raises ValueError for another number of sources and for different
    channels. BiFPN of EfficientDet, arXiv 1911.09070.
    """

    sources = 2

    def __init__(self, ch: Annotated[list[int], In], c2: int):
        super().__init__()
        check_source_count(ch, self.sources)
        check_same_shapes(ch)
        self.w = nn.Parameter(torch.ones(self.sources))
        self.conv = nn.Conv2d(ch[0], c2, 1)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        return self.conv(F.silu(sum_weighted(xs, self.w / (self.w.sum() + EPSILON))))


class BiFPN_Add3(BiFPN_Add2):
    """BiFPN_Add2 of three maps of one shape: (B, c1, H, W) each -> (B, c2, H, W). arXiv 1911.09070."""

    sources = 3


class Fusion(nn.Module):
    """Fusion of maps of one shape by a mode: (B, c, H, W) each -> (B, c, H, W), or the sum of channels for "concat".

    "bifpn" is a mean with trained weights above zero (arXiv 1911.09070), "weight" a sum of 1x1 Convs, one for each
    source, "adaptive" a sum of these Convs whose weights a further Conv finds for each position, by softmax over the
    sources (as ASFF, arXiv 1911.09516). "concat" joins the channels; its Convs exist in public files and are not used.
    "SDI" is the module of that name. Raises ValueError for another mode, and for different channels, which only
    "concat" and "SDI" may have.
    """

    modes = ("bifpn", "weight", "adaptive", "concat", "SDI")

    def __init__(self, ch: Annotated[list[int], In], mode: str = "bifpn"):
        super().__init__()
        if mode not in self.modes:
            raise ValueError(f"the mode of fusion is one of {', '.join(self.modes)}, not '{mode}'")
        if mode not in ("concat", "SDI"):
            check_same_shapes(ch)
        self.mode = mode
        if mode == "SDI":
            self.SDI = SDI(ch)
        elif mode == "bifpn":
            self.fusion_weight = nn.Parameter(torch.ones(len(ch)))
        else:
            self.fusion_conv = nn.ModuleList(Conv(c, c) for c in ch)
        if mode == "adaptive":
            self.fusion_adaptive = Conv(sum(ch), len(ch))

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        if self.mode == "SDI":
            return self.SDI(xs)
        if self.mode == "concat":
            return torch.cat(list(xs), 1)
        if self.mode == "bifpn":
            weights = F.relu(self.fusion_weight)
            return sum_weighted(xs, weights / (weights.sum() + EPSILON))
        maps = torch.stack([conv(x) for conv, x in zip(self.fusion_conv, xs, strict=True)], 1)
        if self.mode == "weight":
            return maps.sum(1)
        weights = self.fusion_adaptive(maps.flatten(1, 2)).softmax(1)
        return (maps * weights[:, :, None]).sum(1)


class ADD(nn.Module):
    """First map plus `alpha` times the second, of one shape: (B, c, H, W) each -> same shape.

    The sum with a fixed weight of YOLO files of several forks.
    """

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        first, second = xs
        return first + self.alpha * second


class Shortcut(Add):
    """Sum of maps of one shape: (B, c, H, W) each -> same shape.

    `dimension`, which YOLOv7's files write, has no effect.
    """

    def __init__(self, dimension: int = 0):
        super().__init__()


class Chuncat(nn.Module):
    """Concatenation of the first halves of all maps, then of their second halves: (B, c_i, H, W) -> (B, sum c_i, H, W).

    `dimension` is the one to halve and to join. Odd channels give the first half one more. YOLOR and YOLOv7 files.
    """

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        halves = [x.chunk(2, self.d) for x in xs]
        return torch.cat([half[part] for part in (0, 1) for half in halves if part < len(half)], self.d)


class Foldcut(nn.Module):
    """Sum of the first and the second half of the channels: (B, c1, H, W) -> (B, c1/2, H, W).

    `dimension` is the one to halve. Raises ValueError for odd channels. YOLOR and YOLOv7 files.
    """

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[self.d] % 2:
            raise ValueError(f"two halves are added, and the input has an odd number of channels: {x.shape[self.d]}")
        first, second = x.chunk(2, self.d)
        return first + second


class SDI(nn.Module):
    """Product of all maps after a GSConv each, at the size and with the channels of the first.

    A larger map is pooled by its mean, a smaller one resized bilinearly with aligned corners. (B, c_i, H_i, W_i) each
    -> (B, c_0, H_0, W_0). Raises ValueError if c_0 is odd. U-Net v2, arXiv 2311.17791.
    """

    def __init__(self, ch: Annotated[list[int], In]):
        super().__init__()
        self.convs = nn.ModuleList(GSConv(c, ch[0]) for c in ch)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        size = xs[0].shape[2:]
        maps = [conv(resize_map(x, size, align_corners=True)) for conv, x in zip(self.convs, xs, strict=True)]
        product = maps[0]
        for x in maps[1:]:
            product = product * x
        return product


class BiFusion(nn.Module):
    """A deep map upsampled, a middle one and a shallow one downsampled, joined by a 1x1 Conv.

    (B, c2, H/2, W/2), (B, c_middle, H, W), (B, c_shallow, 2H, 2W) -> (B, c2, H, W). With `v6` the Convs have ReLU and
    the state keys of YOLOv6's own files; by default they have the default activation, as in forks. Raises ValueError
    unless there are three sources and the deep one has c2 channels. YOLOv6 v3, arXiv 2301.05586.
    """

    def __init__(self, ch: Annotated[list[int], In], c2: int, v6: bool = False):
        super().__init__()
        check_source_count(ch, 3)
        deep, middle, shallow = ch
        if deep != c2:
            raise ValueError(f"the first source must have as many channels as the output, {c2}: it has {deep}")
        make = BlockConv if v6 else Conv
        self.cv1 = make(middle, c2, 1)
        self.cv2 = make(shallow, c2, 1)
        self.cv3 = make(3 * c2, c2, 1)
        self.upsample = nn.Sequential()
        self.upsample.add_module("upsample_transpose", nn.ConvTranspose2d(c2, c2, 2, 2))
        self.downsample = make(c2, c2, 3, 2)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        deep, middle, shallow = xs
        return self.cv3(torch.cat((self.upsample(deep), self.cv1(middle), self.downsample(self.cv2(shallow))), 1))


class CGAFusion(nn.Module):
    """Weighted mean of two maps, with a weight for each value from spatial, channel and pixel attention.

    s = x + y; the weight w of each value is a double sigmoid of a 7x7 convolution of s and of the sum of spatial and
    channel attention of s; the output is a 1x1 convolution of s + w x + (1 - w) y. (B, c, H, W) twice -> same shape.
    Raises ValueError unless there are two sources of equal channels, at least `reduction` of them; H and W must be
    above 3. DEA-Net, arXiv 2301.04805.
    """

    def __init__(self, ch: Annotated[list[int], In], reduction: int = 8):
        super().__init__()
        check_source_count(ch, 2)
        check_same_shapes(ch)
        c = ch[0]
        if c < reduction:
            raise ValueError(f"at least {reduction} channels are needed for the reduction by {reduction}: {c} arrive")
        reflecting = {"padding": 3, "padding_mode": "reflect"}
        self.sa = nn.Module()
        self.sa.sa = nn.Conv2d(2, 1, 7, **reflecting)
        self.ca = nn.Module()
        self.ca.ca = nn.Sequential(nn.Conv2d(c, c // reduction, 1), nn.ReLU(), nn.Conv2d(c // reduction, c, 1))
        self.pa = nn.Module()
        self.pa.pa2 = nn.Conv2d(2 * c, c, 7, groups=c, **reflecting)
        self.conv = nn.Conv2d(c, c, 1)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        x, y = xs
        total = x + y
        spatial = self.sa.sa(torch.cat((total.mean(1, keepdim=True), total.amax(1, keepdim=True)), 1))
        gates = spatial + self.ca.ca(total.mean((2, 3), keepdim=True))
        weight = self.pa.pa2(torch.stack((total, gates), 2).flatten(1, 2)).sigmoid().sigmoid()
        return self.conv(total + weight * x + (1 - weight) * y)


class AdvPoolFusion(nn.Module):
    """Concatenation of a map, pooled by its mean to the second's size, and the second.

    (B, c_0, H_0, W_0), (B, c_1, H, W) -> (B, c_0 + c_1, H, W). Gold-YOLO, arXiv 2309.11331.
    """

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        check_several(xs)
        first, second = xs
        return torch.cat((F.adaptive_avg_pool2d(first, second.shape[2:]), second), 1)


class PyramidPoolAgg(nn.Module):
    """Maps pooled by their mean to the last one's size over `stride`, joined by a 1x1 Conv.

    (B, c_i, H_i, W_i) each -> (B, c2, (H-1)//stride + 1, (W-1)//stride + 1), H and W of the last source. The width
    multiple does not apply to c2, as in public files. Gold-YOLO, arXiv 2309.11331.
    """

    def __init__(self, ch: Annotated[list[int], In], c2: Annotated[int, Plain], stride: int = 2):
        super().__init__()
        self.stride = stride
        self.conv = Conv(sum(ch), c2)

    def forward(self, xs: Sequence[torch.Tensor]) -> torch.Tensor:
        size = [(side - 1) // self.stride + 1 for side in xs[-1].shape[2:]]
        return self.conv(torch.cat([F.adaptive_avg_pool2d(x, size) for x in xs], 1))


def sum_weighted(xs: Sequence[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
    """Add maps of one shape, each times its weight: (B, c, H, W) each, weights (k) -> (B, c, H, W)."""
    total = xs[0] * weights[0]
    for x, weight in zip(xs[1:], weights[1:], strict=True):
        total = total + x * weight
    return total
