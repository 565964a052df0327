"""Modules of older YOLO versions: heads with anchor boxes, and the poolings of YOLOv7."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.base import Head
from netbuild.roles import In, Stride


class AnchorDetect(Head):
    """Detection head with anchor boxes on maps (B, ch[i], H_i, W_i), finest first. YOLOv3, arXiv 1804.02767.

    Args:
        nc: number of classes.
        anchors: for each level a list w1, h1, w2, h2, ... in pixels; or the number of anchors of each level.
        ch: channels of the maps.
        stride: input pixels per cell of each map.

    In training it returns raw values (B, anchors, H_i, W_i, 5+nc) for each level. In eval it returns (y, raw), where y
    is (B, N, 5+nc) with the boxes of all levels: centre and size in pixels, objectness, class probabilities. Raises
    ValueError unless there are anchors for each level, and in eval if the strides are not known.
    """

    task = "detect"
    returns_raw = True

    def __init__(
        self,
        nc: int,
        anchors: list[list[float]] | int,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__()
        sizes = [[float(i) for i in range(2 * anchors)]] * len(ch) if isinstance(anchors, int) else anchors
        if len(sizes) != len(ch) or len({len(level) for level in sizes}) > 1 or len(sizes[0]) % 2 or not sizes[0]:
            raise ValueError(
                f"each of the {len(ch)} maps needs a list of anchors w1, h1, w2, h2, ..., all of one length: {sizes}"
            )
        self.nc, self.no, self.na = nc, 5 + nc, len(sizes[0]) // 2
        self.stride = [float(s) for s in stride]
        steps = torch.tensor(self.stride or [1.0] * len(ch)).view(-1, 1, 1)
        self.register_buffer("anchors", torch.tensor(sizes).float().view(len(ch), -1, 2) / steps)  # in cells
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)

    def forward(self, feats: list[torch.Tensor]) -> Any:
        raw = [self.predict_level(i, feat) for i, feat in enumerate(feats)]
        return raw if self.training else (torch.cat([self.decode_level(i, x) for i, x in enumerate(raw)], 1), raw)

    def layout(self) -> str:
        """Describe the output in one sentence."""
        return (
            "output 0: one row per box: centre x, centre y, width, height in pixels, objectness, then"
            f" {self.nc} class probabilities"
        )

    def predict_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Apply a level's convolution and split off the anchors: (B, ch[i], H, W) -> (B, anchors, H, W, 5+nc)."""
        return self.m[i](x).unflatten(1, (self.na, self.no)).permute(0, 1, 3, 4, 2)

    def decode_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Decode a level's raw values to boxes in pixels: (B, anchors, H, W, 5+nc) -> (B, anchors*H*W, 5+nc).

        As in YOLOv5, centres may lie up to half a cell outside their cell, and sizes are up to four times the anchor's.
        """
        if not self.stride:
            raise ValueError("the head needs the stride of every source to decode boxes; none are known")
        h, w = x.shape[2:4]
        axes = (torch.arange(side, device=x.device, dtype=x.dtype) for side in (h, w))
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        xy, wh, rest = x.sigmoid().split((2, 2, self.no - 4), -1)
        xy = (xy * 2 - 0.5 + torch.stack((columns, rows), -1)) * self.stride[i]
        wh = (wh * 2).square() * self.anchors[i].view(1, -1, 1, 1, 2) * self.stride[i]
        return torch.cat((xy, wh, rest), -1).flatten(1, 3)


class Implicit(nn.Module):
    """A trained value for each channel that does not depend on the input. YOLOR, arXiv 2105.04206."""

    def __init__(self, c: int, mean: float):
        super().__init__()
        self.implicit = nn.Parameter(mean + 0.02 * torch.randn(1, c, 1, 1))


class IDetect(AnchorDetect):
    """AnchorDetect with a trained offset before and a trained factor after each convolution.

    YOLOv7, arXiv 2207.02696.
    """

    def __init__(
        self,
        nc: int,
        anchors: list[list[float]] | int,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        self.ia = nn.ModuleList(Implicit(c, 0.0) for c in ch)
        self.im = nn.ModuleList(Implicit(self.no * self.na, 1.0) for _ in ch)

    def predict_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = (self.m[i](x + self.ia[i].implicit) * self.im[i].implicit) if self.ia is not None else self.m[i](x)
        return x.unflatten(1, (self.na, self.no)).permute(0, 1, 3, 4, 2)

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the offsets and factors into the convolutions."""
        if self.ia is None:
            return
        for conv, offset, factor in zip(self.m, self.ia, self.im, strict=True):
            conv.bias += (conv.weight[:, :, 0, 0] @ offset.implicit.view(-1, 1)).view(-1)
            conv.bias *= factor.implicit.view(-1)
            conv.weight *= factor.implicit.view(-1, 1, 1, 1)
        self.ia = self.im = None


class MP(nn.MaxPool2d):
    """Max pooling with kernel and stride k: (B, c, H, W) -> (B, c, H/k, W/k)."""

    def __init__(self, k: int = 2):
        super().__init__(k, k)


class SP(nn.MaxPool2d):
    """Max pooling with padding k // 2: (B, c, H, W) -> (B, c, H/s, W/s) for odd k."""

    def __init__(self, k: int = 3, s: int = 1):
        super().__init__(k, s, k // 2)


class SPPCSPC(nn.Module):
    """Spatial pyramid pooling on one of two CSP paths: (B, c1, H, W) -> (B, c2, H, W). YOLOv7, arXiv 2207.02696."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = False,
        g: int = 1,
        e: float = 0.5,
        k: Sequence[int] = (5, 9, 13),
    ):
        super().__init__()
        c = int(2 * c2 * e)
        self.cv1, self.cv2 = Conv(c1, c), Conv(c1, c)
        self.cv3, self.cv4 = Conv(c, c, 3), Conv(c, c)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in k)
        self.cv5, self.cv6 = Conv((1 + len(k)) * c, c), Conv(c, c, 3)
        self.cv7 = Conv(2 * c, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv4(self.cv3(self.cv1(x)))
        y = self.cv6(self.cv5(torch.cat((y, *(pool(y) for pool in self.m)), 1)))
        return self.cv7(torch.cat((y, self.cv2(x)), 1))
