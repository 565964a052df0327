"""Losses of instance segmentation: boxes, classes and masks, and the class of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from netbuild.tasks.assign import EPS, Assigner, Assignment, Targets, rows_by_group
from netbuild.tasks.base import Batch
from netbuild.tasks.losses.base import to_float32
from netbuild.tasks.losses.cells import Cells, CellsLoss, DetectionLoss, LossPart
from netbuild.tasks.losses.masks import (
    Masks,
    Window,
    centres_inside,
    group_rows,
    iterate_windows,
    mask_iou,
    pad_rows,
    read_masks,
    window_logits,
)

MAX_STORED = 2**26  # numbers that are stored for the backward pass; if there were more they are computed again


def read_has_outline(batch: Batch, device: torch.device) -> Tensor:
    """Return (M,) whether the mask of each object is known: "has_outline" of the batch, true where it lacks that."""
    default = torch.ones(batch["classes"].numel(), dtype=torch.bool)
    return batch.get("has_outline", default).to(device).bool()


def learns_mask(assigned: Assignment, batch: Batch) -> Tensor:
    """Return which cells (B, A) have an object whose mask is known."""
    known = read_has_outline(batch, assigned.rows.device)
    return assigned.foreground & known[assigned.rows.clamp(min=0)] if len(known) else assigned.foreground


@dataclass(frozen=True)
class MaskPart(LossPart):
    """Binary cross-entropy of each foreground cell's mask inside the box of its object, mean over the box.

    It is the mean over the cells whose object has a mask. A place of the grid is in a box if its centre is.
    """

    gain: float = 7.5

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "seg"."""
        masks = read_masks(cells, batch)
        image, cell = learns_mask(assigned, batch).nonzero(as_tuple=True)
        total = masks.coefficients[:, :0].sum() + masks.prototypes[:, :0].sum()  # 0, but keeps the graph
        if not len(image):
            return {"seg": total}
        slots = group_rows(assigned.rows[image, cell])  # cells of one object share its window and its mask
        first = slots[:, 0]
        corners = masks.to_grid(assigned.boxes[image, cell][first])
        coefficients = pad_rows(masks.coefficients[image, cell], slots)
        weight = (slots >= 0) / (corners[:, 2:] - corners[:, :2]).clamp(min=EPS).prod(1, keepdim=True)
        number, places = assigned.index[image, cell][first] + 1, masks.places()
        values = places.shape[1] + 4 * slots.shape[1]
        windows = list(iterate_windows(image[first], centres_inside(corners, masks.size), masks.size, values))
        large = sum(window.index.numel() for window in windows) * values > MAX_STORED
        for window in windows:
            g = window.groups
            arguments = (places, coefficients[g], weight[g], masks.instances, number[g], window)
            # Values of a large batch are not stored for the backward pass, but computed there again chunk by chunk.
            total = total + (_recompute(*arguments) if large else _window_loss(*arguments))
        return {"seg": self.gain * total}

    def count(self, cells: Cells, assigned: Assignment, batch: Batch) -> Tensor:
        """Return the number of cells that learn a mask."""
        return learns_mask(assigned, batch).sum().to(cells.scores)


def _recompute(*arguments: Any) -> Tensor:
    result: Tensor = checkpoint(_window_loss, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


def _window_loss(
    places: Tensor, coefficients: Tensor, weight: Tensor, instances: Tensor, number: Tensor, window: Window
) -> Tensor:
    """Return the weighted cross-entropy of the masks in the windows of some objects, summed."""
    logits = window_logits(places, coefficients, window)
    target = window.matches(instances, number)[:, None].to(logits).expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((loss @ window.valid.flatten(1)[..., None].to(loss))[..., 0] * weight).sum()


@dataclass(frozen=True)
class SemanticPart(LossPart):
    """Half binary cross-entropy, half Dice loss of the class of every pixel, for a head with such logits.

    They are means over the image, of Dice also over the classes; a place without an object has no class. Inside the box
    of an object without a mask nothing is learnt.
    """

    gain: float = 7.5

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "sem"."""
        logits = to_float32(cells.raw["proto"][1])
        target, known = class_maps(batch, logits)
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
        entropy = loss.sum((1, 2, 3)) / (known.sum((1, 2, 3)) * logits.shape[1]).clamp(min=1)
        found = logits.sigmoid() * known
        both, each = (found * target).sum((2, 3)), (found + target).sum((2, 3))
        dice = 1 - (2 * both + 1) / (each + 1)
        return {"sem": self.gain * (entropy + dice.mean(1)).sum() / 2}

    def count(self, cells: Cells, assigned: Assignment, batch: Batch) -> Tensor:
        """Return the number of images."""
        return cells.scores.new_tensor(len(cells.scores))


def class_maps(batch: Batch, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the true classes (B, nc, h, w), one at most, and where they are known (B, 1, h, w), as zeros and ones.

    Args:
        batch: "instances", "classes", "index", and optionally "has_outline" with "boxes".
        like: (B, nc, h, w) logits, whose size the maps get.
    """
    instances = batch["instances"].to(like.device)
    if instances.shape[1:] != like.shape[2:]:
        instances = F.interpolate(instances[:, None].float(), like.shape[2:])[:, 0]
    classes, index = (batch[name].to(like.device).view(-1).long() for name in ("classes", "index"))
    rows = rows_by_group(index, len(like))
    none = like.shape[1]
    table = torch.full((len(like), rows.shape[1] + 1), none, device=like.device)
    if len(classes):
        table[:, 1:] = classes[rows.clamp(min=0)].where(rows >= 0, none)
    number = table.gather(1, instances.long().flatten(1)).view(instances.shape)
    target = F.one_hot(number, none + 1)[..., :none].permute(0, 3, 1, 2).to(like)
    known = torch.ones_like(like[:, :1])
    lacking = ~read_has_outline(batch, like.device)
    if lacking.any():
        inside = boxes_on_grid(batch["boxes"].to(like).view(-1, 4)[lacking], like.shape[2:])
        covered = torch.zeros_like(known).index_add_(0, index[lacking], inside[:, None].to(like))
        known = ((covered == 0) | (instances > 0)[:, None]).to(like)
    return target, known


def boxes_on_grid(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return which places (N, h, w) of a grid lie in boxes (N, 4), centre and size in fractions of it."""
    inside = []
    for axis, side in ((0, size[1]), (1, size[0])):
        places = (torch.arange(side, device=boxes.device) + 0.5) / side
        inside.append((places - boxes[:, axis, None]).abs() <= boxes[:, axis + 2, None] / 2)
    return inside[1][:, :, None] & inside[0][:, None]


# -- assignment -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskAssigner(Assigner):
    """Assignment by boxes and masks: the overlap is the mean of CIoU, at least 0, and the IoU of the masks.

    Masks are compared for the best ``3 * topk`` cells of each object by boxes, and count as disjoint for the others. An
    object without a mask is assigned by its box alone.

    Args:
        masks: the predicted masks of the branch, and the true ones.
        known: (M,) whether the mask of each object of the batch is known.
    """

    masks: Masks | None = None
    known: Tensor | None = None

    def compute_overlap(
        self, boxes: Tensor, scores: Tensor, targets: Targets, pairs: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Compute the overlap of N pairs, see `Assigner.compute_overlap`."""
        b, g, a = pairs
        overlap = super().compute_overlap(boxes, scores, targets, pairs)
        if self.masks is None or self.known is None or not len(overlap):
            return overlap
        align = scores[b, a, targets.classes[b, g]].pow(self.alpha) * overlap.pow(self.beta)
        masked = self.known[targets.rows[b, g]]
        chosen = is_among_best(align, b * targets.rows.shape[1] + g, 3 * self.topk) & masked
        similar = torch.zeros_like(overlap)
        similar[chosen] = mask_iou(self.masks, boxes, (b[chosen], g[chosen], a[chosen])).to(overlap)
        return torch.where(masked, (overlap + similar) / 2, overlap)


def is_among_best(values: Tensor, groups: Tensor, k: int) -> Tensor:
    """Return which of the values (N,) are among the k largest of their group (N,)."""
    order = values.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    group = groups[order].contiguous()
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(group, group)
    return torch.zeros_like(values, dtype=torch.bool).index_put_((order,), place < k)


# -- heads ------------------------------------------------------------------------------------------------------------


class SegmentBranch(DetectionLoss):
    """Loss of one branch with masks."""

    def all_parts(self) -> Sequence[LossPart]:
        """Return the given parts, or those of detection and of masks."""
        if self.parts is not None:
            return self.parts
        box, *others = super().all_parts()
        return box, MaskPart(self.gains.box), *others


class SemanticSegmentBranch(SegmentBranch):
    """Loss of one branch with masks and the class of every pixel, whose cells are assigned by masks, too."""

    def all_parts(self) -> Sequence[LossPart]:
        """Return the given parts, or those of `SegmentBranch` and the classes of pixels."""
        return self.parts if self.parts is not None else (*super().all_parts(), SemanticPart(self.gains.box))

    def make_assigner(self, cells: Cells, batch: Batch) -> Assigner:
        """Return the assigner that compares the masks of this batch."""
        masks, known = read_masks(cells, batch), read_has_outline(batch, cells.scores.device)
        return MaskAssigner(self.topk, self.topk2, min_side=self.min_side, masks=masks, known=known)


class SegmentLoss(CellsLoss):
    """Loss of heads with masks, see `CellsLoss`."""

    branch_class: ClassVar[type[DetectionLoss]] = SegmentBranch


class SemanticSegmentLoss(CellsLoss):
    """Loss of heads with masks and, in training, the class of every pixel."""

    branch_class: ClassVar[type[DetectionLoss]] = SemanticSegmentBranch
