"""Heads of forks: anchor boxes with masks, with decoupled branches and with fused levels; and the head of YOLOX."""

from math import log
from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.anchors import AnchorDetect, IDetect
from netbuild.layers.heads.base import Head
from netbuild.layers.heads.detect import anchor_points
from netbuild.layers.heads.segment import NearestProto, describe_masks
from netbuild.layers.pack.asff import ASFFV5
from netbuild.roles import In, Stride, Width

Anchors = list[list[float]] | int


class AnchorSegment(AnchorDetect):
    """AnchorDetect with masks: `Segment` of YOLOv5's files with anchors.

    Each box has nm mask coefficients after its classes, for prototypes from the finest map. Raw values are
    (B, anchors, H_i, W_i, 5+nc+nm) for each level. Training: (raw values, proto). Eval: ((y, proto), raw values) with y
    (B, 4+nc+nm, N), whose class probabilities are multiplied by the objectness, and proto (B, nm, 2*H_0, 2*W_0). It can
    be built, loaded and used for prediction; netbuild has no loss to train it. YOLOv5 7.0; YOLACT, arXiv 1904.02689.

    Args:
        nc, anchors, ch, stride: as for AnchorDetect.
        nm: number of mask coefficients, and of prototypes.
        npr: channels inside the prototypes' convolutions.
    """

    task = "segment"
    learns = ""
    has_objectness = False

    def __init__(
        self,
        nc: int,
        anchors: Anchors,
        nm: int = 32,
        npr: Annotated[int, Width] = 256,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        self.nm = nm
        self.no += nm
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)
        self.add_implicit(ch)
        self.proto = NearestProto(ch[0], npr, nm)
        if self.stride:
            self.init_bias(self.m)

    def add_implicit(self, ch: list[int]) -> None:
        """Make trained values before the convolutions, of a head that has them."""

    @property
    def extra(self) -> tuple[int, ...]:
        """(nm,), the mask coefficients."""
        return (self.nm,)

    def forward(self, feats: list[torch.Tensor]) -> Any:
        raw = [self.predict_level(i, feat) for i, feat in enumerate(feats)]
        proto = self.proto(feats[0])
        return (raw, proto) if self.training else ((self.join(self.decode(raw)), proto), raw)

    def decode_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Decode a level's raw values to rows (B, anchors*H*W, 5+nc+nm); the mask coefficients stay as they are."""
        values, coefficients = x.split((self.no - self.nm, self.nm), -1)
        return torch.cat((super().decode_level(i, values), coefficients.flatten(1, 3)), -1)

    def join(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply classes by the objectness: rows (B, N, 5+nc+nm) -> columns (B, 4+nc+nm, N)."""
        boxes, objectness, classes, coefficients = rows.split((4, 1, self.nc, self.nm), -1)
        return torch.cat((boxes, objectness * classes, coefficients), -1).transpose(1, 2)

    def layout(self) -> str:
        return (
            "output 0: one column per box: centre x, centre y, width, height in pixels, then"
            f" {self.nc} class scores from 0 to 1, {describe_masks(self.nm)[0]}"
        )


class ISegment(AnchorSegment):
    """AnchorSegment with a trained offset before each convolution. YOLOv7, arXiv 2207.02696.

    The factors after the convolutions exist in public files and are not used.
    """

    ia: nn.ModuleList | None

    def add_implicit(self, ch: list[int]) -> None:
        self.no -= self.nm  # the factors are those of a head without masks
        IDetect.add_implicit(self, ch)
        self.no += self.nm

    def predict_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return self.split_anchors(self.m[i](x if self.ia is None else x + self.ia[i].implicit))

    @torch.no_grad()
    def fuse(self) -> None:
        """Merge the offsets into the convolutions."""
        if self.ia is None:
            return
        for conv, offset in zip(self.m, self.ia, strict=True):
            conv.bias += (conv.weight[:, :, 0, 0] @ offset.implicit.view(-1, 1)).view(-1)
        self.ia = self.im = None


class DecoupledBranch(nn.Module):
    """Classes and boxes of one level by separate 3x3 Convs: (B, c1, H, W) -> (B, na*(5+nc), H, W).

    The channels are the boxes of all anchors, their objectness, then their classes.
    """

    def __init__(self, c1: int, nc: int, na: int, c: int = 256):
        super().__init__()
        self.merge = Conv(c1, c)
        self.cls_convs1, self.cls_convs2 = Conv(c, c, 3), Conv(c, c, 3)
        self.reg_convs1, self.reg_convs2 = Conv(c, c, 3), Conv(c, c, 3)
        self.cls_preds = nn.Conv2d(c, nc * na, 1)
        self.reg_preds = nn.Conv2d(c, 4 * na, 1)
        self.obj_preds = nn.Conv2d(c, na, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.merge(x)
        classes = self.cls_preds(self.cls_convs2(self.cls_convs1(x)))
        boxes = self.reg_convs2(self.reg_convs1(x))
        return torch.cat((self.reg_preds(boxes), self.obj_preds(boxes), classes), 1)


class Decoupled_Detect(AnchorDetect):
    """AnchorDetect with separate branches for classes and boxes, of 256 channels each: as YOLOX, arXiv 2107.08430.

    The channels of a level are read as (anchors, 5+nc), as public files do, although they lie in another order: with
    several anchors each entry has values of several of them, which training learns.
    """

    def __init__(
        self,
        nc: int,
        anchors: Anchors,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        self.m = nn.ModuleList(DecoupledBranch(c, nc, self.na) for c in ch)


class ASFF_Detect(AnchorDetect):
    """AnchorDetect on three levels, each fused from all three with weights for each position. arXiv 1911.09516.

    Raises ValueError unless there are three maps, finest first. `multiplier` has no effect: the widths are those of the
    maps. With `rfb` the weights come from 8 channels in place of 16.
    """

    def __init__(
        self,
        nc: int,
        anchors: Anchors,
        multiplier: float = 0.5,
        rfb: bool = False,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        del self.m  # it comes last in published checkpoints
        for level in range(3):
            setattr(self, f"l{level}_fusion", ASFFV5(ch, level, multiplier, rfb))
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in ch)
        if self.stride:
            self.init_bias(self.m)

    def forward(self, feats: list[torch.Tensor]) -> Any:
        return super().forward([getattr(self, f"l{level}_fusion")(feats) for level in (2, 1, 0)])


class YOLOHead(AnchorDetect):
    """AnchorDetect with the state keys of kindle, which holds the anchors in pixels too. YOLOv3, arXiv 1804.02767."""

    def __init__(
        self,
        nc: int,
        anchors: Anchors,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        self.conv = self.m
        del self.m
        self.register_buffer("anchor_grid", self.anchor_sizes.view(len(ch), 1, -1, 1, 1, 2).clone())

    def predict_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        return self.split_anchors(self.conv[i](x))

    @torch.no_grad()
    def set_anchors(self, sizes: torch.Tensor) -> None:
        super().set_anchors(sizes)
        if "anchor_grid" in self._buffers:
            self.anchor_grid.copy_(sizes.view_as(self.anchor_grid))


class DarknetDetect(AnchorDetect):
    """AnchorDetect with Darknet's boxes, of YOLOv3 and YOLOv4: centres inside their cell, sizes without a bound.

    x = (scale * sigmoid(t_x) - (scale - 1) / 2 + column) * stride, w = anchor * exp(t_w). It can be built, loaded and
    used for prediction; netbuild has no loss to train it: write AnchorDetect for that. arXiv 1804.02767, 2004.10934.

    Args:
        nc, anchors, ch, stride: as for AnchorDetect.
        scale_xy: how far a centre may leave its cell, of all levels or of each: 1.05 is a fortieth of a cell.

    Raises:
        ValueError: as AnchorDetect, and if there is not a scale for each level.
    """

    learns = ""

    def __init__(
        self,
        nc: int,
        anchors: Anchors,
        scale_xy: float | list[float] = 1.0,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, anchors, ch=ch, stride=stride)
        self.scale_xy = list(scale_xy) if isinstance(scale_xy, (list, tuple)) else [scale_xy] * len(ch)
        if len(self.scale_xy) != len(ch):
            raise ValueError(f"scale_xy has {len(self.scale_xy)} values for {len(ch)} maps: write one, or one for each")

    def decode_level(self, i: int, x: torch.Tensor) -> torch.Tensor:
        cells, anchors = self.find_cells(x), self.anchors[i].view(1, -1, 1, 1, 2)
        xy, wh, scores = x.split((2, 2, 1 + self.nc), -1)
        scale = self.scale_xy[i]
        centres = xy.sigmoid() * scale - (scale - 1) / 2 + cells
        boxes = torch.cat((centres, wh.exp() * anchors), -1) * self.stride[i]
        return torch.cat((boxes, scores.sigmoid()), -1).flatten(1, 3)


class DetectX(Head):
    """Anchor-free detection head of YOLOX on 2L maps: a map for classes and one for boxes of each level in turn.

    Training: raw values (B, A, 5+nc). Eval: (y, raw values), where y is (B, A, 5+nc): centre and size in pixels,
    objectness, class probabilities. It can be built, loaded and used for prediction; netbuild has no loss to train it.
    YOLOX, arXiv 2107.08430.

    Args:
        nc: number of classes.
        anchors: boxes of each cell, 1.
        ch: channels of the maps, finest level first.
        stride: input pixels per cell of each map.

    Raises:
        ValueError: for several boxes in a cell, for an odd number of maps, and in eval if the strides are not known.
    """

    task = "detect"
    box_form = "corners"
    returns_raw = True
    has_objectness = True

    def __init__(
        self,
        nc: int,
        anchors: int = 1,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__()
        if anchors != 1:
            raise ValueError(f"a cell has one box: anchors must be 1, not {anchors}")
        if len(ch) % 2:
            raise ValueError(f"each level needs a map for classes and one for boxes, there are {len(ch)} maps in all")
        self.nc, self.stride = nc, [float(s) for s in stride[::2]]
        self.cls_preds = nn.ModuleList(nn.Conv2d(c, nc, 1) for c in ch[::2])
        self.reg_preds = nn.ModuleList(nn.Conv2d(c, 4, 1) for c in ch[1::2])
        self.obj_preds = nn.ModuleList(nn.Conv2d(c, 1, 1) for c in ch[1::2])
        for conv in (*self.cls_preds, *self.obj_preds):
            nn.init.constant_(conv.bias, -log(99))  # a probability of 1 %

    def forward(self, feats: list[torch.Tensor]) -> Any:
        levels = zip(self.reg_preds, self.obj_preds, self.cls_preds, feats[1::2], feats[::2], strict=True)
        maps = [torch.cat((reg(box), obj(box), cls(x)), 1) for reg, obj, cls, box, x in levels]
        raw = torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2)
        return raw if self.training else (self.decode(raw, maps), raw)

    def decode(self, raw: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
        """Decode raw values (B, A, 5+nc) of the levels' maps to y."""
        if not self.stride:
            raise ValueError("the head needs the stride of every source to decode boxes; none are known")
        points, scales = anchor_points(maps, self.stride)
        cells, scales = points.T - 0.5, scales.T
        xy, wh, scores = raw.split((2, 2, 1 + self.nc), -1)
        return torch.cat(((xy + cells) * scales, wh.exp() * scales, scores.sigmoid()), -1)

    def layout(self) -> str:
        """Describe the output in one sentence."""
        return AnchorDetect.layout(self)
