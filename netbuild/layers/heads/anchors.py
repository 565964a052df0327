"""Detection with anchor boxes: YOLOv3 to YOLOv5, and YOLOv7 with trained offsets and an auxiliary branch."""

from collections.abc import Sequence
from math import log
from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.heads.base import Head
from netbuild.roles import In, Stride

OBJECTS = 8  # objects of an image of 640 x 640 pixels that the first predictions assume
CLASS_SUM = 0.6  # sum of the class probabilities in the first predictions


class AnchorDetect(Head):
    """Detection head with anchor boxes on maps (B, ch[i], H_i, W_i), finest first. YOLOv3, arXiv 1804.02767.

    Args:
        nc: number of classes.
        anchors: for each level a list w1, h1, w2, h2, ... in pixels; or the number of anchors of each level, whose
            sizes training then finds in the data.
        ch: channels of the maps.
        stride: input pixels per cell of each map.

    In training it returns raw values (B, anchors, H_i, W_i, 5+nc) for each level. In eval it returns (y, raw), where y
    is (B, N, 5+nc) with the boxes of all levels: centre and size in pixels, objectness, class probabilities. Raises
    ValueError unless there are anchors for each level, and in eval if the strides are not known.
    """

    task = "detect"
    learns = "anchors"
    box_form = "corners"
    returns_raw = True
    has_objectness = True
    anchors: torch.Tensor
    stride: list[float]

    def __init__(
        self,
        nc: int,
        anchors: list[list[float]] | int,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__()
        levels = self.count_levels(len(ch))
        # As in YOLOv5, a number of anchors stands for these sizes, which fit no objects.
        sizes = [[float(i) for i in range(2 * anchors)]] * levels if isinstance(anchors, int) else anchors
        if len(sizes) != levels or len({len(level) for level in sizes}) > 1 or len(sizes[0]) % 2 or not sizes[0]:
            raise ValueError(
                f"each of the {levels} maps needs a list of anchors w1, h1, w2, h2, ..., all of one length: {sizes}"
            )
        self.nc, self.no, self.na = nc, 5 + nc, len(sizes[0]) // 2
        self.stride = [float(s) for s in stride[:levels]]
        self.register_buffer("anchors", torch.zeros(levels, self.na, 2))  # width and height in cells
        self.set_anchors(torch.tensor(sizes).float().view(levels, -1, 2))
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch[:levels])
        if self.stride:
            self.init_bias(self.m)

    @staticmethod
    def count_levels(maps: int) -> int:
        """Return the number of levels that are predicted from, of this number of maps."""
        return maps

    @property
    def anchor_sizes(self) -> torch.Tensor:
        """Width and height of the anchors in pixels: (levels, anchors, 2)."""
        return self.anchors * self.level_strides

    @property
    def file_values(self) -> dict[str, Any]:
        """The key ``anchors`` of a network's file: for each level w1, h1, w2, h2, ... in pixels."""
        return {"anchors": [[round(side, 2) for side in level] for level in self.anchor_sizes.flatten(1).tolist()]}

    @property
    def level_strides(self) -> torch.Tensor:
        """Pixels per cell of each level (levels, 1, 1); ones where the strides are not known."""
        return self.anchors.new_tensor(self.stride or [1.0] * len(self.anchors)).view(-1, 1, 1)

    @torch.no_grad()
    def set_anchors(self, sizes: torch.Tensor) -> None:
        """Replace the anchors by those of width and height ``sizes`` in pixels: (levels, anchors, 2)."""
        self.anchors.copy_(sizes.to(self.anchors) / self.level_strides)

    @torch.no_grad()
    def init_bias(self, convolutions: nn.ModuleList) -> None:
        """Shift biases so that training starts from few objects per image and improbable classes."""
        for conv, stride in zip(convolutions, self.stride, strict=True):
            bias = conv.bias.view(self.na, self.no)
            bias[:, 4] += log(OBJECTS / (640 / stride) ** 2)
            # A single class is always probable: its loss is left out, so it must be right from the start.
            bias[:, 5 : 5 + self.nc] += log(CLASS_SUM / (self.nc - 0.99999))

    def forward(self, feats: list[torch.Tensor]) -> Any:
        raw = [self.predict_level(i, feat) for i, feat in enumerate(feats)]
        return raw if self.training else (self.decode(raw), raw)

    def layout(self) -> str:
        """Describe the output in one sentence."""
        return (
            "output 0: one row per box: centre x, centre y, width, height in pixels, objectness, then"
            f" {self.nc} class probabilities"
        )

    def predict_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Apply a level's convolution and split off the anchors: (B, ch[i], H, W) -> (B, anchors, H, W, 5+nc)."""
        return self.split_anchors(self.m[i](x))

    def split_anchors(self, x: torch.Tensor) -> torch.Tensor:
        """Split off the anchors: (B, anchors * (5+nc), H, W) -> (B, anchors, H, W, 5+nc)."""
        return x.unflatten(1, (self.na, self.no)).permute(0, 1, 3, 4, 2)

    def decode(self, raw: list[torch.Tensor]) -> torch.Tensor:
        """Decode the raw values of all levels to y (B, N, 5+nc)."""
        return torch.cat([self.decode_level(i, x) for i, x in enumerate(raw)], 1)

    def decode_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Decode a level's raw values to boxes in pixels: (B, anchors, H, W, 5+nc) -> (B, anchors*H*W, 5+nc)."""
        cells = self.find_cells(x)
        boxes, rest = x.sigmoid().tensor_split((4,), -1)
        boxes = decode_boxes(boxes, cells, self.anchors[i].view(1, -1, 1, 1, 2))
        return torch.cat((boxes * self.stride[i], rest), -1).flatten(1, 3)

    def find_cells(self, x: torch.Tensor) -> torch.Tensor:
        """Return column and row of each cell (H, W, 2) of a level's raw values (B, anchors, H, W, 5+nc).

        Raises:
            ValueError: if the strides, by which all boxes are multiplied afterwards, are not known.
        """
        if not self.stride:
            raise ValueError("the head needs the stride of every source to decode boxes; none are known")
        h, w = x.shape[2:4]
        axes = (torch.arange(side, device=x.device, dtype=x.dtype) for side in (h, w))
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        return torch.stack((columns, rows), -1)


def decode_boxes(values: torch.Tensor, cells: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Decode values (..., 4) from 0 to 1 to centre and size, in cells.

    As in YOLOv5, centres may lie up to half a cell outside their cell, and sizes are up to four times the anchor's.

    Args:
        values: the sigmoid of the raw values.
        cells: (..., 2) column and row of each cell.
        anchors: (..., 2) width and height of each anchor, in cells.
    """
    xy, wh = values.split(2, -1)
    return torch.cat((xy * 2 - 0.5 + cells, (wh * 2).square() * anchors), -1)


class Implicit(nn.Module):
    """A trained value for each channel that does not depend on the input. YOLOR, arXiv 2105.04206."""

    def __init__(self, c: int, mean: float):
        super().__init__()
        self.implicit = nn.Parameter(mean + 0.02 * torch.randn(1, c, 1, 1))


class IDetect(AnchorDetect):
    """AnchorDetect with a trained offset before and a trained factor after each convolution.

    YOLOv7, arXiv 2207.02696.
    """

    learns = "anchors-cost"

    def __init__(
        self,
        nc: int,
        anchors: list[list[float]] | int,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        self.add_implicit(ch[: len(self.m)])

    def add_implicit(self, ch: Sequence[int]) -> None:
        """Make the offsets before the convolutions of ``ch`` channels, and the factors after them."""
        self.ia = nn.ModuleList(Implicit(c, 0.0) for c in ch)
        self.im = nn.ModuleList(Implicit(self.no * self.na, 1.0) for _ in ch)

    def predict_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = (self.m[i](x + self.ia[i].implicit) * self.im[i].implicit) if self.ia is not None else self.m[i](x)
        return self.split_anchors(x)

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


class IAuxDetect(IDetect):
    """IDetect on 2L maps: L main maps, finest first, then L auxiliary ones, which only training uses.

    YOLOv7, arXiv 2207.02696. In training it returns the raw values of all maps, main ones first; in eval (y, raw) of
    the main ones. After `fuse` the auxiliary convolutions are gone. Raises ValueError as AnchorDetect does, for an odd
    number of maps, and if an auxiliary map has another stride than its main map.
    """

    learns = "anchors-auxiliary"
    branches = 2

    def __init__(
        self,
        nc: int,
        anchors: list[list[float]] | int,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        levels = self.count_levels(len(ch))
        if list(stride[:levels]) != list(stride[levels:]):
            raise ValueError(f"the auxiliary maps must have the strides of the main ones: {list(stride)}")
        AnchorDetect.__init__(self, nc, anchors, ch=ch, stride=stride)
        # The keys and their order are those of published checkpoints.
        self.register_buffer("anchor_grid", self.anchor_sizes.view(levels, 1, -1, 1, 1, 2).clone())
        self.m2 = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch[levels:])
        self.add_implicit(ch[:levels])
        if self.stride:
            self.init_bias(self.m2)

    @staticmethod
    def count_levels(maps: int) -> int:
        """Return half the number of maps.

        Raises:
            ValueError: for an odd number.
        """
        if maps % 2:
            raise ValueError(f"as many auxiliary maps as main ones are needed, there are {maps} maps in all")
        return maps // 2

    @torch.no_grad()
    def set_anchors(self, sizes: torch.Tensor) -> None:
        super().set_anchors(sizes)
        if "anchor_grid" in self._buffers:
            self.anchor_grid.copy_(sizes.view_as(self.anchor_grid))

    def main_sources(self, count: int) -> range:
        """Return the positions of the main maps among this number of sources."""
        return range(len(self.m))

    def forward(self, feats: list[torch.Tensor]) -> Any:
        levels = len(self.m)
        raw = [self.predict_level(i, feat) for i, feat in enumerate(feats[:levels])]
        if not self.training:
            return self.decode(raw), raw
        return raw + [self.split_anchors(m(feat)) for m, feat in zip(self.m2, feats[levels:], strict=True)]

    def fuse(self) -> None:
        """Merge the offsets and factors into the convolutions, and drop the auxiliary convolutions."""
        super().fuse()
        self.m2 = None
