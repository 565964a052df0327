"""Detection by prompts: texts, examples in a picture, or a large fixed vocabulary. YOLOE, arXiv 2503.07465."""

from collections.abc import Sequence
from copy import deepcopy
from math import log
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import nn

from netbuild.layers.conv import Conv
from netbuild.layers.heads.detect import Detect, Raw, dense_branch
from netbuild.layers.heads.prompts import LRPCHead, merge_texts, select_cells
from netbuild.layers.heads.segment import Proto, Proto26, add_prototypes, describe_masks
from netbuild.layers.heads.world import BNContrastiveHead, fold_comparisons, score_texts
from netbuild.roles import In, Setting, Stride, Width


class SwiGLUFFN(nn.Module):
    """Gated linear unit: (..., gc) -> (..., ec). GLU Variants Improve Transformer, arXiv 2002.05202."""

    def __init__(self, gc: int, ec: int, e: int = 4):
        super().__init__()
        self.w12 = nn.Linear(gc, e * ec)
        self.w3 = nn.Linear(e * ec // 2, ec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class Residual(nn.Module):
    """A module's input plus its output; the output starts at zero, because the weights of its layer `w3` do."""

    def __init__(self, m: nn.Module):
        super().__init__()
        self.m = m
        nn.init.zeros_(m.w3.weight)
        nn.init.zeros_(m.w3.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.m(x)


def make_upsample(level: int) -> nn.Module:
    """Make the module that upsamples a level to the size of the finest map."""
    return nn.Upsample(scale_factor=2**level) if level else nn.Identity()


class SAVPE(nn.Module):
    """Prompts (B, Q, embed) of length one, from maps and from masks (B, Q, H, W) of examples in them.

    Each map is half the size of the one before; the masks have the size of the first. Each mask pools 16 groups of
    channels by weights of its own. YOLOE, arXiv 2503.07465.
    """

    groups = 16

    def __init__(self, ch: list[int], c3: int, embed: int):
        super().__init__()
        self.cv1 = nn.ModuleList(
            nn.Sequential(Conv(c, c3, 3), Conv(c3, c3, 3), make_upsample(i)) for i, c in enumerate(ch)
        )
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(c, c3), make_upsample(i)) for i, c in enumerate(ch))
        self.cv3 = nn.Conv2d(len(ch) * c3, embed, 1)
        self.cv4 = nn.Conv2d(len(ch) * c3, self.groups, 3, padding=1)
        self.cv5 = nn.Conv2d(1, self.groups, 3, padding=1)
        self.cv6 = nn.Sequential(
            Conv(2 * self.groups, self.groups, 3), nn.Conv2d(self.groups, self.groups, 3, padding=1)
        )

    def forward(self, feats: list[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        values, keys = (torch.cat([m(f) for m, f in zip(part, feats)], 1) for part in (self.cv1, self.cv2))
        b, q, h, w = masks.shape
        queries = self.cv5(masks.reshape(b * q, 1, h, w))
        weights = self.cv6(torch.cat((self.cv4(keys).repeat_interleave(q, 0), queries), 1)).view(
            b, q, self.groups, h * w
        )
        mask = masks.view(b, q, 1, h * w).float()
        outside = torch.where(mask == 0, torch.finfo(torch.float32).min, 0.0)
        weights = (weights * mask + outside).softmax(-1).to(values.dtype)
        pooled = self.cv3(values).view(b, 1, self.groups, -1, h * w) @ weights[..., None]
        return F.normalize(pooled.flatten(2), dim=-1)


class YOLOEDetect(Detect):
    """Detect on maps (B, ch[i], H_i, W_i) and prompts (B, K, embed): K classes. YOLOE, arXiv 2503.07465.

    Prompts are made of texts (`text_prompts`) or of examples in a picture (`visual_prompts`). `fuse_text` merges
    prompts into the class branches, `drop_prompts` does so for a large vocabulary.

    Raises:
        ValueError: if the class branch is wider than `embed`, without `with_bn`, or if forward gets no prompts and none
            were merged.
    """

    parts = ("cv2", "cv3", "cv4", "lrpc")
    conf = 0.001  # threshold of the filter after drop_prompts; 0 computes every cell, as export needs it

    def __init__(
        self,
        nc: int,
        embed: int = 512,
        with_bn: bool = True,
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, ch, reg_max, end2end, legacy)
        inner = max(ch[0], min(nc, 100))
        if not with_bn or inner > embed:
            raise ValueError(f"with_bn must be true, and embed at least the width of the class branch, {inner}")
        self.stride = [float(s) for s in stride]
        for branch in self.cv3:
            branch[-1] = nn.Conv2d(inner, embed, 1)
        self.cv4 = nn.ModuleList(BNContrastiveHead(embed) for _ in ch)
        self.copy_parts(end2end, "cv3", "cv4")
        self.reprta = Residual(SwiGLUFFN(embed, embed))
        self.savpe = SAVPE(ch, inner, embed)
        self.lrpc = self.one2one_lrpc = None
        if self.stride:
            self.init_bias()

    @torch.no_grad()
    def init_bias(self) -> None:
        for prefix in self.prefixes():
            boxes, classes, comparisons = (getattr(self, f"{prefix}{part}") for part in ("cv2", "cv3", "cv4"))
            for box, cls, comparison, s in zip(boxes, classes, comparisons, self.stride, strict=True):
                box[-1].bias.fill_(2.0)
                cls[-1].bias.zero_()
                comparison.bias.fill_(log(5 / (self.nc * (640 / s) ** 2)))

    def text_prompts(self, text: torch.Tensor) -> torch.Tensor:
        """Make prompts (B, K, embed) of length one from text features of the same shape."""
        return F.normalize(self.reprta(text), dim=-1)

    def visual_prompts(self, feats: list[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
        """Make prompts (B, Q, embed) from masks (B, Q, H_0, W_0) of examples."""
        return self.savpe(feats, masks)

    @torch.no_grad()
    def fuse_text(self, text: torch.Tensor) -> None:
        """Merge prompts (K, embed) of `text_prompts` into the class branches, which then have K classes."""
        for prefix in self.prefixes():
            branches, comparisons = getattr(self, f"{prefix}cv3"), getattr(self, f"{prefix}cv4")
            for branch, comparison in zip(branches, comparisons, strict=True):
                branch[-1] = merge_texts(branch[-1], comparison, text)
            setattr(self, f"{prefix}cv4", None)
        self.nc = len(text)
        self.reprta = nn.Identity()

    def drop_prompts(self, text: torch.Tensor, filters: Sequence[nn.Conv2d]) -> None:
        """Merge the prompts (K, embed) of a large vocabulary, and compute its scores only for cells that pass a filter.

        Args:
            text: the prompts, see `text_prompts`.
            filters: for each level a 1x1 convolution from the inner width of the class branch to one channel.
        """
        self.fuse_text(text)
        for prefix in self.prefixes():
            levels = zip(getattr(self, f"{prefix}cv3"), filters, getattr(self, f"{prefix}cv2"), strict=True)
            heads = [LRPCHead(c.pop(-1), deepcopy(f), b.pop(-1), i < 2) for i, (c, f, b) in enumerate(levels)]
            setattr(self, f"{prefix}lrpc", nn.ModuleList(heads))

    def forward(self, feats: list[torch.Tensor], text: torch.Tensor | None = None) -> Any:
        return self.run(feats, *(() if text is None else (text,)))

    def scores(self, feats: list[torch.Tensor], prefix: str, *guides: torch.Tensor) -> torch.Tensor:
        if getattr(self, f"{prefix}cv4") is None:
            return self.per_cell("cv3", prefix, feats)
        if not guides:
            raise ValueError("the head needs prompts: pass them as text, or merge them by fuse_text")
        return score_texts(self, feats, prefix, guides[0])

    def branch(self, feats: list[torch.Tensor], prefix: str, *guides: torch.Tensor) -> Raw:
        if getattr(self, f"{prefix}lrpc") is None:
            return super().branch(feats, prefix, *guides)
        parts = (getattr(self, f"{prefix}{part}") for part in ("lrpc", "cv3", "cv2"))
        levels = [head(c(f), b(f), self.conf) for head, c, b, f in zip(*parts, feats, strict=True)]
        boxes, scores, selected = zip(*levels, strict=True)
        outputs = {
            "boxes": torch.cat([b.flatten(2) for b in boxes], 2),
            "scores": torch.cat(scores, 2),
            "feats": feats,
            "selected": None if any(mask is None for mask in selected) else torch.cat(selected),
        }
        return {**outputs, **self.raw_extras(feats, prefix)}

    def boxes(self, raw: Raw, corners: bool) -> torch.Tensor:
        return select_cells(super().boxes(raw, corners), raw.get("selected"))

    def fuse(self) -> None:
        """Drop the second branch, and merge the batch norms of the comparisons."""
        super().fuse()
        for prefix in self.prefixes():
            comparisons = getattr(self, f"{prefix}cv4")
            if comparisons is not None:
                fold_comparisons(getattr(self, f"{prefix}cv3"), comparisons)


class YOLOESegment(YOLOEDetect):
    """YOLOEDetect with masks, as `Segment` has them."""

    task = "segment"
    learns = "segment"
    parts = (*YOLOEDetect.parts, "cv5")

    def __init__(
        self,
        nc: int,
        nm: int = 32,
        npr: Annotated[int, Width] = 256,
        embed: int = 512,
        with_bn: bool = True,
        *,
        ch: Annotated[list[int], In],
        reg_max: Annotated[int, Setting] = 16,
        end2end: Annotated[bool, Setting] = False,
        legacy: Annotated[bool, Setting] = False,
        stride: Annotated[list[float], Stride] = (),
    ):
        super().__init__(nc, embed, with_bn, ch=ch, reg_max=reg_max, end2end=end2end, legacy=legacy, stride=stride)
        self.nm = nm
        self.proto = self.make_proto(ch, npr, nm, nc)
        self.cv5 = nn.ModuleList(dense_branch(c, max(ch[0] // 4, nm), nm) for c in ch)
        self.copy_parts(end2end, "cv5")

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
        return {"mask_coefficient": self.per_cell("cv5", prefix, feats)}

    def decode_extras(self, raw: Raw) -> list[torch.Tensor]:
        return [select_cells(raw["mask_coefficient"], raw.get("selected"))]

    def describe_extras(self) -> list[str]:
        return describe_masks(self.nm)

    def run(self, feats: list[torch.Tensor], *guides: torch.Tensor) -> Any:
        return add_prototypes(super().run(feats, *guides), self.prototypes(feats), self.training)


class YOLOESegment26(YOLOESegment):
    """YOLOESegment with prototypes from all maps; their gradient does not reach the maps."""

    def make_proto(self, ch: list[int], npr: int, nm: int, nc: int) -> nn.Module:
        return Proto26(ch, npr, nm, nc)

    def prototypes(self, feats: list[torch.Tensor]) -> Any:
        return self.proto([feat.detach() for feat in feats], semantic=False)
