"""Detection heads of YOLOv9: `Detect` with grouped box branches, and with branches that only training uses."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.detect import DFL, Detect, Raw, dense_branch, per_cell
from netbuild.roles import In, Stride

REG_MAX = 16  # bins of each side's distribution
GROUPS = 4  # of the box branches' convolutions: one for each side


class BranchedDetect(Detect):
    """Detect on the maps of one or several branches; the last branch is the main one, which alone predicts.

    YOLOv9, arXiv 2402.13616. Branches before it learn the same objects from further maps, so that the layers below get
    better gradients (auxiliary branches). Training: a list of each branch's outputs as of `Detect`, the main one last;
    with one branch only its outputs. Eval: (y, outputs of the main branch). After `fuse` only the main branch is left.

    Args:
        nc: number of classes.
        ch: channels of the maps: those of the first branch, finest first, then those of the next one.
        stride: input pixels per cell of each map.

    Raises:
        ValueError: if the maps are no equal number for each branch, or their strides differ between branches.
    """

    learns = "cells-auxiliary"
    branches = 2
    grouped = False  # whether the convolutions of the box branches have groups

    def __init__(self, nc: int, ch: Annotated[list[int], In], stride: Annotated[list[float], Stride] = ()):
        nn.Module.__init__(self)
        if len(ch) % self.branches:
            raise ValueError(f"the {self.branches} branches need equally many maps, there are {len(ch)} in all")
        self.levels = len(ch) // self.branches
        strides = [tuple(self.split(list(map(float, stride)), i)) for i in range(self.branches)]
        if len(set(strides)) > 1:
            raise ValueError(f"the maps of all branches must have the same strides: {list(stride)}")
        self.nc, self.reg_max, self.end2end, self.stride = nc, REG_MAX, False, list(strides[0])
        for i in range(self.branches):
            boxes, scores = self.branch_names(i)
            widths = self.split(ch, i)
            box, cls = max(widths[0] // 4, 4 * REG_MAX), max(widths[0], min(2 * nc, 128))
            make_boxes = grouped_branch if self.grouped else dense_branch
            setattr(self, boxes, nn.ModuleList(make_boxes(c, box, 4 * REG_MAX) for c in widths))
            setattr(self, scores, nn.ModuleList(dense_branch(c, cls, nc) for c in widths))
        for i in range(self.branches):
            setattr(self, self.dfl_name(i), DFL(REG_MAX))
        self.copy_parts(False, "cv2", "cv3")
        if self.stride:
            self.init_bias()

    def split(self, values: list[Any], branch: int) -> list[Any]:
        """Return the values of a branch's maps, of a list with values of all maps."""
        return values[branch * self.levels : (branch + 1) * self.levels]

    @staticmethod
    def branch_names(branch: int) -> tuple[str, str]:
        """Return the names of the module lists for a branch's boxes and classes, those of published checkpoints."""
        return f"cv{2 * branch + 2}", f"cv{2 * branch + 3}"

    @staticmethod
    def dfl_name(branch: int) -> str:
        """Return the name of a branch's `DFL`."""
        return f"dfl{branch + 1}" if branch else "dfl"

    @torch.no_grad()
    def init_bias(self) -> None:
        for i in range(self.branches):
            boxes, scores = (getattr(self, name) for name in self.branch_names(i))
            self.init_branch_bias(boxes, scores, 1.0)

    def main_sources(self, count: int) -> Sequence[int]:
        """Return the positions of the main branch's maps among this number of sources."""
        return range(count - self.levels, count)

    def forward(self, feats: list[torch.Tensor]) -> Any:
        main = self.branches - 1
        if not self.training:  # after `fuse` the other branches' maps are no longer among the sources
            raw = self.run_branch(main, feats[-self.levels :])
            return self.predict(raw, False), raw
        outputs = [self.run_branch(i, self.split(feats, i)) for i in range(self.branches)]
        return outputs if main else outputs[0]

    def run_branch(self, branch: int, feats: list[torch.Tensor]) -> Raw:
        """Compute the raw outputs of a branch from its maps."""
        boxes, scores = (per_cell(getattr(self, name), feats) for name in self.branch_names(branch))
        return {"boxes": boxes, "scores": scores, "feats": feats}

    def distances(self, raw: Raw) -> torch.Tensor:
        """Decode the main branch's distances (B, 4, A) to the sides of boxes, in cells."""
        return getattr(self, self.dfl_name(self.branches - 1))(raw["boxes"])

    def fuse(self) -> None:
        """Drop the auxiliary branches."""
        for i in range(self.branches - 1):
            for name in (*self.branch_names(i), self.dfl_name(i)):
                setattr(self, name, None)


class v9Detect(BranchedDetect):
    """Detect of the yolov9 repository, whose class branches are wider for small maps. YOLOv9, arXiv 2402.13616."""

    learns = "cells"
    branches = 1


class DDetect(BranchedDetect):
    """Detect with grouped convolutions in the box branches. YOLOv9 (gelan), arXiv 2402.13616."""

    learns = "cells"
    branches = 1
    grouped = True


class DualDetect(BranchedDetect):
    """Detect on 2L maps: L maps of an auxiliary branch, then L main maps. YOLOv9, arXiv 2402.13616."""


class DualDDetect(BranchedDetect):
    """DDetect on 2L maps: L maps of an auxiliary branch, then L main maps. YOLOv9, arXiv 2402.13616."""

    grouped = True


class TripleDetect(BranchedDetect):
    """Detect on 3L maps: L maps of each of two auxiliary branches, then L main maps. YOLOv9, arXiv 2402.13616."""

    branches = 3


class TripleDDetect(BranchedDetect):
    """DDetect on 3L maps: L maps of each of two auxiliary branches, then L main maps. YOLOv9, arXiv 2402.13616."""

    branches = 3
    grouped = True


def grouped_branch(c1: int, c: int, c2: int) -> nn.Sequential:
    """Make a branch as `dense_branch` does, whose second and third convolutions have four groups."""
    c = -(-c // GROUPS) * GROUPS
    return nn.Sequential(Conv(c1, c, 3), Conv(c, c, 3, g=GROUPS), nn.Conv2d(c, c2, 1, groups=GROUPS))
