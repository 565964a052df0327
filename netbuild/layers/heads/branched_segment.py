"""Instance segmentation heads of YOLOv9: its detection heads with mask coefficients and prototypes."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.auxiliary import BranchedDetect
from netbuild.layers.heads.detect import Raw, dense_branch, per_cell
from netbuild.layers.heads.segment import NearestProto, describe_masks
from netbuild.roles import In, Stride, Width


class BranchedSegment(BranchedDetect):
    """BranchedDetect with masks: each branch has mask coefficients, and prototypes from its finest map.

    The outputs in training of a branch contain also "mask_coefficient" (B, nm, A) and "proto" (B, nm, h, w). Eval:
    ((y, proto), outputs of the main branch) with y (B, 4+nc+nm, A). YOLOv9, arXiv 2402.13616.

    Args:
        nc: number of classes.
        nm: number of mask coefficients, and of prototypes.
        npr: channels inside the prototypes' convolutions.
        ch: channels of the maps: those of the first branch, finest first, then those of the next one; after them the
            maps of the prototypes, one for each branch, if `has_sources`.
        stride: input pixels per cell of each map.
    """

    task = "segment"
    learns = "segment"
    branches = 1
    has_sources = False  # whether each branch reads its prototypes from a source of its own

    def __init__(
        self,
        nc: int,
        nm: int = 32,
        npr: Annotated[int, Width] = 256,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        maps = len(ch) - self.branches * self.has_sources
        super().__init__(nc, ch[:maps], stride[:maps])
        self.nm = nm
        self.make_prototypes(ch, npr)
        for i in range(self.branches):
            widths = self.split(ch, i)
            coefficients = (dense_branch(c, max(widths[0] // 4, nm), nm) for c in widths)
            setattr(self, self.coefficients_name(i), nn.ModuleList(coefficients))

    def make_prototypes(self, ch: list[int], npr: int) -> None:
        """Make the module of each branch that computes its prototypes."""
        self.proto = NearestProto(ch[0], npr, self.nm)

    def coefficients_name(self, branch: int) -> str:
        """Return the name of a branch's module list for mask coefficients, that of published checkpoints."""
        return f"cv{2 * self.branches + 2 + branch}"

    @staticmethod
    def proto_name(branch: int) -> str:
        """Return the name of the module of a branch's prototypes."""
        return f"proto{branch + 1}" if branch else "proto"

    @property
    def extra(self) -> tuple[int, ...]:
        """(nm,), the mask coefficients."""
        return (self.nm,)

    @property
    def is_fused(self) -> bool:
        """Whether only the main branch is left, and its sources."""
        return self.branches > 1 and self.cv2 is None

    def main_sources(self, count: int) -> Sequence[int]:
        """Return the positions of the main branch's maps among this number of sources."""
        if not self.has_sources:
            return super().main_sources(count)
        end = count - count // (self.levels + 1)  # before the maps of the prototypes
        return [*range(end - self.levels, end), count - 1]

    def forward(self, feats: list[torch.Tensor]) -> Any:
        main = self.branches - 1
        count = (1 if self.is_fused else self.branches) * self.has_sources
        maps, sources = feats[: len(feats) - count], feats[len(feats) - count :]
        if not self.training:
            raw = self.run_masks(main, maps[-self.levels :], sources)
            return (self.predict(raw, False), raw["proto"]), raw
        outputs = [self.run_masks(i, self.split(maps, i), sources[i : i + 1]) for i in range(self.branches)]
        return outputs if main else outputs[0]

    def run_masks(self, branch: int, feats: list[torch.Tensor], sources: list[torch.Tensor]) -> Raw:
        """Compute the raw outputs of a branch from its maps and the last of the sources of its prototypes."""
        raw = self.run_branch(branch, feats)
        raw["mask_coefficient"] = per_cell(getattr(self, self.coefficients_name(branch)), feats)
        raw["proto"] = getattr(self, self.proto_name(branch))(sources[-1] if sources else feats[0])
        return raw

    def decode_extras(self, raw: Raw) -> list[torch.Tensor]:
        return [raw["mask_coefficient"]]

    def describe_extras(self) -> list[str]:
        return describe_masks(self.nm)

    def fuse(self) -> None:
        """Drop the auxiliary branches."""
        super().fuse()
        for i in range(self.branches - 1):
            setattr(self, self.coefficients_name(i), None)
            setattr(self, self.proto_name(i), None)


class v9Segment(BranchedSegment):
    """v9Detect with masks, on L maps: `Segment` of the yolov9 repository. YOLOv9, arXiv 2402.13616."""


class DSegment(BranchedSegment):
    """DDetect with masks, on L maps and a map that a Conv makes the prototypes of; `npr` has no effect.

    YOLOv9 (gelan), arXiv 2402.13616. The loss expects this map twice as fine as the first one, as in public files.
    """

    grouped = True
    has_sources = True

    def make_prototypes(self, ch: list[int], npr: int) -> None:
        for i, channels in enumerate(ch[len(ch) - self.branches :]):
            setattr(self, self.proto_name(i), Conv(channels, self.nm))


class DualDSegment(DSegment):
    """DSegment with an auxiliary branch: L auxiliary maps, L main maps, a map for the prototypes of each.

    YOLOv9, arXiv 2402.13616.
    """

    learns = "segment-auxiliary"
    branches = 2


class Panoptic(BranchedSegment):
    """v9Segment with the class of every pixel: `sem_nc` classes of surfaces, and the nc classes of objects.

    The raw outputs contain also "semantic" (B, sem_nc+nc, 2*H_0, 2*W_0), logits, which the prediction of masks does not
    use. YOLOv9, arXiv 2402.13616. It can be built, loaded and used for prediction of masks; netbuild has no loss to
    train it.
    """

    learns = ""

    def __init__(
        self,
        nc: int,
        sem_nc: int = 93,
        nm: int = 32,
        npr: Annotated[int, Width] = 256,
        *,
        ch: Annotated[list[int], In],
        stride: Annotated[list[float], Stride] = (),
    ):
        self.sem_nc = sem_nc  # make_prototypes reads it
        super().__init__(nc, nm, npr, ch=ch, stride=stride)

    def make_prototypes(self, ch: list[int], npr: int) -> None:
        super().make_prototypes(ch, npr)
        self.uconv = nn.Module()
        self.uconv.cv1 = Conv(ch[0], ch[0] // 4, 3)
        self.uconv.cv2 = nn.Conv2d(ch[0] // 4, self.sem_nc + self.nc, 1)

    def run_masks(self, branch: int, feats: list[torch.Tensor], sources: list[torch.Tensor]) -> Raw:
        raw = super().run_masks(branch, feats, sources)
        logits = self.uconv.cv2(self.uconv.cv1(feats[0]))
        raw["semantic"] = F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=True)
        return raw
