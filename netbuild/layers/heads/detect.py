"""Object detection: boxes and classes from feature maps of several strides."""

from collections.abc import Sequence
from copy import deepcopy
from math import log
from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.conv import Conv, DWConv
from netbuild.layers.heads.base import Head
from netbuild.roles import In, Setting, Stride

Raw = dict[str, Any]  # the outputs in training: tensors by name, and the list of maps


class DFL(nn.Module):
    """Expected distance to each side from a softmax over c1 bins: (B, 4*c1, A) -> (B, 4, A). arXiv 2006.04388."""

    def __init__(self, c1: int = 16):
        super().__init__()
        self.c1 = c1
        self.conv = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.copy_(torch.arange(c1).view(1, c1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A view moves the sides to the batch axis; as channels they would need a transpose.
        bins = x.reshape(-1, self.c1, 1, x.shape[2])
        return self.conv(bins.softmax(1)).view(-1, 4, x.shape[2])


def anchor_points(feats: Sequence[torch.Tensor], strides: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cells' centres (2, A) as x, y in cells, and strides (1, A); levels in order, row by row."""
    points, scales = [], []
    for feat, stride in zip(feats, strides, strict=True):
        like = {"device": feat.device, "dtype": feat.dtype}
        h, w = feat.shape[2:]
        y, x = torch.meshgrid(torch.arange(h, **like), torch.arange(w, **like), indexing="ij")
        points.append(torch.stack((x, y)).flatten(1))
        scales.append(torch.full((1, h * w), stride, **like))
    return torch.cat(points, 1) + 0.5, torch.cat(scales, 1)


def top_rows(y: torch.Tensor, nc: int, limit: int) -> torch.Tensor:
    """Select the best detections without suppression: (B, 4+nc+extra, A) -> (B, k, 6+extra), best first.

    First the k anchors of highest class score are selected, then the k best of their (anchor, class) pairs. A row is
    box, score, class, extra values.
    """
    boxes, scores, extra = y.split((4, nc, y.shape[1] - 4 - nc), 1)
    k = min(limit, y.shape[2])
    anchors = scores.amax(1).topk(k).indices
    scores = scores.gather(2, anchors[:, None].expand(-1, nc, -1)).transpose(1, 2)  # (B, k, nc)
    scores, pairs = scores.flatten(1).topk(k)
    anchors = anchors.gather(1, pairs // nc)[:, None]
    boxes, extra = (t.gather(2, anchors.expand(-1, t.shape[1], -1)).transpose(1, 2) for t in (boxes, extra))
    return torch.cat((boxes, scores[..., None], (pairs % nc)[..., None].to(y.dtype), extra), 2)


class Detect(Head):
    """Anchor-free detection head on maps (B, ch[i], H_i, W_i), finest first; A cells in all.

    Training: {"boxes": (B, 4*reg_max, A), "scores": (B, nc, A) logits, "feats": the maps}. With a second, one-to-one
    branch (argument end2end): {"one2many": ..., "one2one": ...} of these. Eval: (y, outputs of training). y is
    (B, 4+nc, A): centre and size in pixels, class probabilities. If the attribute `end2end` is set, y is (B, k, 6):
    corners in pixels, score, class, best first.

    Raises:
        ValueError: in eval, if the strides are not known.
    """

    task = "detect"
    learns = "cells"
    box_form = "corners"
    returns_raw = True
    max_det = 300
    parts: tuple[str, ...] = ("cv2", "cv3")  # names of the lists of modules over levels that a second branch copies

    def __init__(
        self,
        nc: int,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__()
        self.nc = nc
        self.reg_max = reg_max
        self.stride = [float(s) for s in stride]
        self.end2end = False  # the branch that computes y; the argument decides whether there are two
        box = max(16, ch[0] // 4, 4 * reg_max)
        self.cv2 = nn.ModuleList(dense_branch(c, box, 4 * reg_max) for c in ch)
        branch = dense_branch if legacy else light_branch
        self.cv3 = nn.ModuleList(branch(c, max(ch[0], min(nc, 100)), nc) for c in ch)
        self.dfl = DFL(reg_max) if reg_max > 1 else nn.Identity()
        self.copy_parts(end2end, "cv2", "cv3")
        if self.stride:
            self.init_bias()

    def copy_parts(self, has_copy: bool, *parts: str) -> None:
        """Set the one-to-one branch's copy of each part, or None without such a branch."""
        for part in parts:
            setattr(self, f"one2one_{part}", deepcopy(getattr(self, part)) if has_copy else None)

    @torch.no_grad()
    def init_bias(self) -> None:
        """Set biases so that training starts from boxes of a few cells and about five objects per 640 x 640 image."""
        for prefix in self.prefixes():
            self.init_branch_bias(getattr(self, f"{prefix}cv2"), getattr(self, f"{prefix}cv3"))

    def init_branch_bias(self, boxes: nn.ModuleList, classes: nn.ModuleList, box: float = 2.0) -> None:
        """Set the biases of one branch's boxes, to the value ``box``, and of its classes."""
        for box_branch, class_branch, s in zip(boxes, classes, self.stride, strict=True):
            box_branch[-1].bias.fill_(box)
            class_branch[-1].bias.fill_(log(5 / (self.nc * (640 / s) ** 2)))

    def prefixes(self) -> dict[str, str]:
        """Return the prefix of each branch's module names, and the branch's name; after fusing there is one."""
        branches = {"": "one2many", "one2one_": "one2one"}
        return {prefix: name for prefix, name in branches.items() if getattr(self, f"{prefix}cv2") is not None}

    def one2one(self) -> bool:
        """Return whether the prediction comes from the one-to-one branch, which needs no suppression."""
        branches = self.prefixes().values()
        return "one2one" in branches and (self.end2end or len(branches) == 1)

    def forward(self, feats: list[torch.Tensor]) -> Any:
        return self.run(feats)

    def run(self, feats: list[torch.Tensor], *guides: torch.Tensor) -> Any:
        """Compute the outputs of all branches, and in eval the prediction; ``guides`` are passed to `scores`."""
        branches = {name: self.branch(feats, prefix, *guides) for prefix, name in self.prefixes().items()}
        one2one = self.one2one()
        chosen = branches["one2one" if one2one else "one2many"]
        raw = branches if len(branches) > 1 else chosen
        return raw if self.training else (self.predict(chosen, one2one), raw)

    def branch(self, feats: list[torch.Tensor], prefix: str, *guides: torch.Tensor) -> Raw:
        """Compute the raw outputs of one branch."""
        if prefix and self.training:  # gradients of the one-to-one branch must not reach the layers before the head
            feats = [f.detach() for f in feats]
        boxes, scores = self.per_cell("cv2", prefix, feats), self.scores(feats, prefix, *guides)
        return {"boxes": boxes, "scores": scores, "feats": feats, **self.raw_extras(feats, prefix)}

    def per_cell(self, part: str, prefix: str, feats: list[torch.Tensor]) -> torch.Tensor:
        """Apply a part's modules to the maps and concatenate the cells of all levels: (B, channels, A)."""
        return per_cell(getattr(self, f"{prefix}{part}"), feats)

    def scores(self, feats: list[torch.Tensor], prefix: str, *guides: torch.Tensor) -> torch.Tensor:
        """Compute class logits (B, nc, A)."""
        return self.per_cell("cv3", prefix, feats)

    def raw_extras(self, feats: list[torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        """Compute a subclass's further raw outputs (B, channels, A) by name."""
        return {}

    def decode_extras(self, raw: Raw) -> list[torch.Tensor]:
        """Decode a subclass's further values (B, channels, A), which follow boxes and probabilities."""
        return []

    def predict(self, raw: Raw, one2one: bool) -> torch.Tensor:
        """Decode a branch's raw outputs to y."""
        scores = raw["scores"].sigmoid()
        y = torch.cat((self.boxes(raw, corners=one2one), scores, *self.decode_extras(raw)), 1)
        return top_rows(y, scores.shape[1], self.max_det) if one2one else y

    def cells(self, raw: Raw) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the centres of all cells, in cells, and their strides.

        Raises:
            ValueError: if the strides are not known.
        """
        if not self.stride:
            raise ValueError("the head needs the stride of every source to decode boxes; none are known")
        return anchor_points(raw["feats"], self.stride)

    def boxes(self, raw: Raw, corners: bool) -> torch.Tensor:
        """Decode boxes (B, 4, A) in input pixels, as corners or as centre and size."""
        points, scales = self.cells(raw)
        before, after = self.distances(raw).chunk(2, 1)  # to left, top and to right, bottom
        if corners:
            return torch.cat((points - before, points + after), 1) * scales
        return torch.cat((points + (after - before) / 2, before + after), 1) * scales

    def distances(self, raw: Raw) -> torch.Tensor:
        """Decode the distances (B, 4, A) from the cells' centres to the sides of their boxes, in cells."""
        return self.dfl(raw["boxes"])

    def ranks(self) -> bool:
        """Return whether y is a list of detections, best first, as that of the one-to-one branch."""
        return self.one2one()

    def layout(self) -> str:
        """Describe y and the further outputs in one sentence."""
        more = "".join(f", {text}" for text in self.describe_extras())
        if self.ranks():
            return f"output 0: one row per detection, best first: x1, y1, x2, y2 in pixels, score, class{more}"
        return (
            "output 0: one column per cell: centre x, centre y, width, height in pixels, then"
            f" {self.nc} class scores from 0 to 1{more}"
        )

    def describe_extras(self) -> list[str]:
        """Return a phrase for each further value of a detection and each further output, for `layout`."""
        return []

    def fuse(self) -> None:
        """Drop the branch that `end2end` does not select."""
        if len(self.prefixes()) == 2:
            dropped = "" if self.end2end else "one2one_"
            for part in self.parts:
                setattr(self, f"{dropped}{part}", None)


class v10Detect(Detect):
    """Detect with two branches and light class branches, regardless of the file's settings.

    YOLOv10, arXiv 2405.14458.
    """

    def __init__(self, nc: int, ch: Annotated[list[int], In], stride: Annotated[list[float], Stride] = ()):
        super().__init__(nc, ch, end2end=True, stride=stride)


def per_cell(modules: nn.ModuleList, feats: list[torch.Tensor]) -> torch.Tensor:
    """Apply a module to each map and concatenate the cells of all levels: (B, channels, A)."""
    return torch.cat([m(f).flatten(2) for m, f in zip(modules, feats, strict=True)], 2)


def dense_branch(c1: int, c: int, c2: int) -> nn.Sequential:
    """Make a branch of two 3x3 convolutions and a plain 1x1 convolution."""
    return nn.Sequential(Conv(c1, c, 3), Conv(c, c, 3), nn.Conv2d(c, c2, 1))


def light_branch(c1: int, c: int, c2: int) -> nn.Sequential:
    """Make a branch as `dense_branch` does, with each 3x3 convolution split into a depthwise 3x3 and a 1x1."""
    return nn.Sequential(
        nn.Sequential(DWConv(c1, c1, 3), Conv(c1, c)),
        nn.Sequential(DWConv(c, c, 3), Conv(c, c)),
        nn.Conv2d(c, c2, 1),
    )
