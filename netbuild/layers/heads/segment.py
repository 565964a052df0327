"""Instance segmentation: the mask of a box is a weighted sum of prototypes. YOLACT, arXiv 1904.02689."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.detect import Detect, Raw, dense_branch
from netbuild.roles import In, Setting, Stride, Width


class Proto(nn.Module):
    """Prototype masks from one map: (B, c1, H, W) -> (B, c2, 2H, 2W)."""

    def __init__(self, c1: int, c_: int = 256, c2: int = 32):
        super().__init__()
        self.cv1 = Conv(c1, c_, 3)
        self.upsample = nn.ConvTranspose2d(c_, c_, 2, 2)
        self.cv2 = Conv(c_, c_, 3)
        self.cv3 = Conv(c_, c2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class NearestProto(Proto):
    """Prototype masks as in YOLOv5 and YOLOv9, with nearest upsampling: (B, c1, H, W) -> (B, c2, 2H, 2W)."""

    def __init__(self, c1: int, c_: int = 256, c2: int = 32):
        super().__init__(c1, c_, c2)
        self.upsample = nn.Upsample(scale_factor=2)


class Proto26(Proto):
    """Prototype masks from all maps, finest first: coarser ones are upsampled and added to the finest.

    Training: (prototypes (B, c2, 2H, 2W), class logits of every pixel (B, nc, H, W)). Eval: the prototypes.
    """

    def __init__(self, ch: list[int], c_: int = 256, c2: int = 32, nc: int = 80):
        super().__init__(c_, c_, c2)
        first, *others = ch
        self.feat_refine = nn.ModuleList(Conv(c, first) for c in others)
        self.feat_fuse = Conv(first, c_, 3)
        self.semseg = nn.Sequential(Conv(first, c_, 3), Conv(c_, c_, 3), nn.Conv2d(c_, nc, 1))

    def forward(self, feats: list[torch.Tensor], semantic: bool = True) -> Any:  # type: ignore[override]
        x = feats[0]
        for i, (refine, feat) in enumerate(zip(self.feat_refine, feats[1:], strict=True)):
            x = x + F.interpolate(refine(feat), scale_factor=2.0 ** (i + 1), mode="nearest")
        masks = super().forward(self.feat_fuse(x))
        return (masks, self.semseg(x)) if self.training and semantic else masks

    def fuse(self) -> None:
        """Drop the classifier of pixels, which only training uses."""
        self.semseg = None


class Segment(Detect):
    """Detect with masks: maps (B, ch[i], H_i, W_i), finest first.

    The raw outputs contain also "mask_coefficient" (B, nm, A) and "proto" (B, nm, 2*H_0, 2*W_0). Eval:
    ((y, proto), raw) with y (B, 4+nc+nm, A), or (B, k, 6+nm). A mask is
    where coefficients @ prototypes is above 0.
    """

    task = "segment"
    learns = "segment"
    parts = ("cv2", "cv3", "cv4")

    def __init__(
        self,
        nc: int,
        nm: int = 32,
        npr: Annotated[int, Width] = 256,
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, ch, reg_max, end2end, legacy, stride)
        self.nm = nm
        self.proto = self.make_proto(ch, npr, nm, nc)
        self.cv4 = nn.ModuleList(dense_branch(c, max(ch[0] // 4, nm), nm) for c in ch)
        self.copy_parts(end2end, "cv4")

    def make_proto(self, ch: list[int], npr: int, nm: int, nc: int) -> nn.Module:
        """Make the module that computes the prototypes."""
        return Proto(ch[0], npr, nm)

    @property
    def extra(self) -> tuple[int, ...]:
        """(nm,), the mask coefficients."""
        return (self.nm,)

    def prototypes(self, feats: list[torch.Tensor]) -> Any:
        """Compute the prototypes from the maps."""
        return self.proto(feats[0])

    def raw_extras(self, feats: list[torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        return {"mask_coefficient": self.per_cell("cv4", prefix, feats)}

    def decode_extras(self, raw: Raw) -> list[torch.Tensor]:
        return [raw["mask_coefficient"]]

    def describe_extras(self) -> list[str]:
        return describe_masks(self.nm)

    def run(self, feats: list[torch.Tensor], *guides: torch.Tensor) -> Any:
        return add_prototypes(super().run(feats, *guides), self.prototypes(feats), self.training)


class Segment26(Segment):
    """Segment with prototypes from all maps; in training "proto" is (prototypes, class logits of every pixel)."""

    learns = "segment-semantic"

    def make_proto(self, ch: list[int], npr: int, nm: int, nc: int) -> nn.Module:
        return Proto26(ch, npr, nm, nc)

    def prototypes(self, feats: list[torch.Tensor]) -> Any:
        return self.proto(feats)


def describe_masks(count: int) -> list[str]:
    """Return the phrases of `Detect.describe_extras` for this number of prototypes."""
    masks = f"{count} prototypes, whose sum weighted by the coefficients is a mask's logit"
    return [f"{count} mask coefficients; output 1: {masks}"]


def add_prototypes(outputs: Any, proto: Any, training: bool) -> Any:
    """Add the prototypes to a head's outputs; the loss of a one-to-one branch does not reach them."""
    raw = outputs if training else outputs[1]
    for name, branch in raw.items() if "one2many" in raw else [("", raw)]:
        branch["proto"] = detach(proto) if name == "one2one" and training else proto
    return raw if training else ((outputs[0], proto), raw)


def detach(value: Any) -> Any:
    """Detach a tensor, or each of a tuple, from the graph."""
    return tuple(map(detach, value)) if isinstance(value, tuple) else value.detach()
