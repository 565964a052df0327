"""The losses of heads with anchor boxes: YOLOv5's, and YOLOv7's (arXiv 2207.02696), which selects pairs by cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netbuild.data.dataset import Sample
from netbuild.errors import NetbuildError
from netbuild.layers.heads.anchors import AnchorDetect, decode_boxes
from netbuild.settings import Settings
from netbuild.tasks.anchor_fitting import GOOD_RECALL, best_possible_recall, find_anchors, measure_objects
from netbuild.tasks.anchor_matching import Matches, match_by_shape, select_by_cost
from netbuild.tasks.base import Batch, Losses
from netbuild.tasks.box_math import ciou, iou, to_corners
from netbuild.tasks.losses.base import HeadLoss, Objects, read_objects, to_float32

# Weights of the objectness by level: a fine map has most cells, but few of the objects.
BALANCE = {3: (4.0, 1.0, 0.4)}
MANY_LEVELS = (4.0, 1.0, 0.25, 0.06, 0.02)
NOMINAL_LEVELS, NOMINAL_CLASSES, NOMINAL_SIDE = 3, 80, 640  # for which the gains are stated
BOX_COST = 3.0  # weight of -ln(IoU) in the cost of a pair
# The published gains make a loss about 50 times smaller than that of anchor-free heads, whose gradients are so large
# that clipping gives nearly all steps the same norm. Gradients that are not clipped fall to a tenth after the first
# steps, and those of the first ones stay in AdamW's mean of squares (0.999), so that steps are small for a long time.
# YOLOv5n's mAP50 without and with this factor: 0.385 and 0.416 on BCCD (128 pixels, 14 epochs), 0.097 and 0.136 on the
# embedded shapes-segment (96 pixels, 9 epochs).
LOSS_FACTOR = 50.0
AUXILIARY_GAIN = 0.25  # weight of the auxiliary maps
AUXILIARY_SUMMED = 20  # largest overlaps that are summed to the number of an object's pairs on auxiliary maps


@dataclass(frozen=True)
class AnchorGains:
    """Weights of the terms of an anchor head's loss, for three levels, 80 classes and images of 640 x 640 pixels."""

    box: float = 0.05
    obj: float = 1.0
    cls: float = 0.5

    def scale(self, levels: int, nc: int, side: float) -> "AnchorGains":
        """Return the weights for another number of levels and of classes, and another image size.

        Args:
            levels: number of maps.
            nc: number of classes.
            side: root of the image's area, in pixels.
        """
        factor = NOMINAL_LEVELS / levels
        objectness = self.obj * (side / NOMINAL_SIDE) ** 2
        return AnchorGains(self.box * factor, objectness * factor, self.cls * nc / NOMINAL_CLASSES * factor)


class AnchorLoss(HeadLoss):
    """YOLOv5's loss: CIoU of the boxes, cross-entropy of objectness and classes.

    Each object is learnt by the anchors of about its shape in up to three cells, see `match_by_shape`. The objectness
    of these learns the CIoU of their box, that of all others learns 0; each level has its weight. Classes are learnt by
    the matched anchors, unless there is only one class. Each term is the sum over the levels of a mean.

    Args:
        head, class_weights, normaliser: see `HeadLoss`.
        gains: without effect: this loss has weights of its own, `base_gains`.

    Attributes:
        base_gains: the weights of the terms, before they are scaled to levels, classes and image size.
    """

    fits_anchors = True
    head: AnchorDetect
    base_gains: ClassVar[AnchorGains] = AnchorGains()

    def __call__(self, outputs: Sequence[Tensor], batch: Batch) -> Losses:
        """Return the sum of the terms times the batch size and `LOSS_FACTOR`, and the terms without these factors.

        Args:
            outputs: the raw values (B, anchors, H, W, 5+nc) of each level.
            batch: "boxes" (M, 4) as centre and size in fractions of the image; "classes" (M,); "index" (M,) number of
                the image.
        """
        # Half precision is too coarse for box coordinates and for sums over all cells.
        with torch.autocast(outputs[0].device.type, enabled=False):
            maps = [to_float32(x) for x in outputs]
            terms = self.compute_terms(maps, read_objects(batch, maps[0]))
            total = torch.stack(list(terms.values())).sum()
        return total * len(outputs[0]) * LOSS_FACTOR, {name: term.detach() for name, term in terms.items()}

    def fit_head(self, samples: Sequence[Sample], size: tuple[int, int], settings: Settings) -> str:
        """Compare the anchors with the objects, and replace those that fit too few of them unless they are to be kept.

        Raises:
            NetbuildError: if anchors are kept that fit no object.
        """
        levels, count, _ = self.head.anchors.shape
        sides = measure_objects(samples, size)
        before = self.head.anchor_sizes.flatten(0, 1).double().cpu().numpy()
        recall = best_possible_recall(sides, before) if len(sides) else 1.0
        note = f"anchors: {levels * count} of the network fit {recall:.1%} of {len(sides):,} objects"
        if recall >= GOOD_RECALL:
            return note
        if settings.anchors == "keep":
            if not recall:
                raise NetbuildError(f"{note}: nothing can be learnt", hint="leave anchors: keep out")
            return f"{note}; they are kept (anchors: keep), so the others are not learnt"
        found = find_anchors(sides, levels * count, settings.seed)
        better = best_possible_recall(sides, found)
        if better <= recall:
            return f"{note}; no better ones were found"
        # Smallest first, as the levels are by their strides.
        order = np.argsort(np.argsort(self.head.stride, kind="stable"), kind="stable")
        self.head.set_anchors(torch.from_numpy(found.reshape(levels, count, 2)[order]))
        sizes = ", ".join(f"{w:.0f}x{h:.0f}" for w, h in found)
        return f"{note}: replaced by {sizes} pixels, which fit {better:.1%} (anchors: keep leaves them)"

    def compute_terms(self, maps: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Return the terms by name, times their gains."""
        return self.learn(maps, objects, self.match(maps, objects))

    def match(self, maps: Sequence[Tensor], objects: Objects) -> Matches:
        """Return the predictions that learn each object."""
        return self.find_candidates(maps, objects)

    def find_candidates(self, maps: Sequence[Tensor], objects: Objects, reach: float = 0.5) -> Matches:
        """Match objects with anchors by shape, see `match_by_shape`."""
        centres, sizes = objects.boxes.split(2, 1)
        grids = [(x.shape[2], x.shape[3]) for x in maps]
        anchors = to_float32(self.head.anchor_sizes)
        return match_by_shape(centres, sizes * self.image_size(maps), objects.image, anchors, grids, reach)

    def image_size(self, maps: Sequence[Tensor]) -> Tensor:
        """Return width and height of the image in pixels (2,)."""
        h, w = maps[0].shape[2:4]
        return maps[0].new_tensor([w, h]) * self.head.stride[0]

    def read(self, maps: Sequence[Tensor], matches: Matches) -> tuple[Tensor, Tensor]:
        """Return the predicted boxes (P, 4) of pairs as corners in pixels, and their raw values (P, 5+nc)."""
        boxes, values = [], []
        for level, x in enumerate(maps):
            found = matches.of_level(level)
            raw = x[found.places]
            cells = torch.stack((found.column, found.row), 1).to(raw)
            anchors = self.head.anchors[level].to(raw)[found.anchor]
            boxes.append(to_corners(decode_boxes(raw[:, :4].sigmoid(), cells, anchors)) * self.head.stride[level])
            values.append(raw)
        return torch.cat(boxes), torch.cat(values)

    def target_boxes(self, maps: Sequence[Tensor], objects: Objects, matches: Matches) -> Tensor:
        """Return the boxes (P, 4) of the objects of pairs, as corners in pixels."""
        return to_corners(objects.boxes[matches.target]) * self.image_size(maps).repeat(2)

    def learn(self, maps: Sequence[Tensor], objects: Objects, matches: Matches) -> dict[str, Tensor]:
        """Return the terms "box", "obj" and "cls", times their gains, of predictions that learn these objects."""
        boxes, values = self.read(maps, matches)
        overlap = ciou(boxes, self.target_boxes(maps, objects, matches))
        classes = self.class_errors(values[:, 5:], objects.classes[matches.target])
        zero = values.new_zeros(())
        terms = {"box": zero, "obj": zero, "cls": zero}
        for level, (x, balance) in enumerate(zip(maps, self.balance(len(maps)), strict=True)):
            of_level = matches.level == level
            # The mean of a level over the batches of all ranks.
            count = self.normaliser(of_level.sum().to(zero), 1)
            target = make_objectness(x, matches.select(of_level), overlap[of_level].detach())
            objectness = F.binary_cross_entropy_with_logits(x[..., 4], target, reduction="sum")
            terms["box"] = terms["box"] + (1 - overlap[of_level]).sum() / count
            terms["obj"] = terms["obj"] + balance * objectness / self.normaliser(zero + target.numel(), 1)
            terms["cls"] = terms["cls"] + classes[of_level].sum() / count
        gains = self.base_gains.scale(len(maps), values.shape[1] - 5, float(self.image_size(maps).prod().sqrt()))
        return {name: term * getattr(gains, name) for name, term in terms.items()}

    def class_errors(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the mean cross-entropy of each prediction's classes: logits (P, nc), true numbers (P,) -> (P,).

        It is 0 with a single class, of which objectness says everything.
        """
        if logits.shape[1] == 1:
            return logits.new_zeros(len(logits))
        target = F.one_hot(classes, logits.shape[1]).to(logits)
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (errors if self.class_weights is None else errors * self.class_weights.to(errors)).mean(1)

    @staticmethod
    def balance(levels: int) -> tuple[float, ...]:
        """Return the weight of each level's objectness; finest level first."""
        known = BALANCE.get(levels, MANY_LEVELS)
        return (*known, *known[-1:] * levels)[:levels]


class CostAnchorLoss(AnchorLoss):
    """YOLOv7's loss: as `AnchorLoss`, with the cheapest of the matched pairs of each object, see `select_by_cost`.

    The cost of a pair is the cross-entropy of its classes, by the root of class probability times objectness, and
    three times -ln(IoU).
    """

    base_gains: ClassVar[AnchorGains] = AnchorGains(obj=0.7, cls=0.3)

    def match(self, maps: Sequence[Tensor], objects: Objects) -> Matches:
        """Return the cheapest of the candidates."""
        return self.select(maps, objects, self.find_candidates(maps, objects))

    @torch.no_grad()
    def select(self, maps: Sequence[Tensor], objects: Objects, matches: Matches, most: int = 10) -> Matches:
        """Select from candidates by the cost of the predictions in ``maps``; ``most`` as for `select_by_cost`."""
        boxes, values = self.read(maps, matches)
        overlap = iou(boxes, self.target_boxes(maps, objects, matches))
        p = (values[:, 4:5].sigmoid() * values[:, 5:].sigmoid()).sqrt()
        target = F.one_hot(objects.classes[matches.target], p.shape[1]).to(p)
        cost = F.binary_cross_entropy(p, target, reduction="none").sum(1) - BOX_COST * (overlap + 1e-8).log()
        return select_by_cost(matches, overlap, cost, most)


class AuxiliaryAnchorLoss(CostAnchorLoss):
    """YOLOv7's loss of a head with auxiliary maps: that of the main maps, and a quarter of the auxiliary maps' loss.

    Auxiliary maps learn from more pairs: from all five cells around an object's centre, and up to 20 for an object. All
    pairs are selected by the predictions of the main maps (lead-head guided assignment, coarse to fine).
    """

    def compute_terms(self, maps: Sequence[Tensor], objects: Objects) -> dict[str, Tensor]:
        """Return the terms of the main maps, and "aux", the sum of those of the auxiliary maps times its weight."""
        main, auxiliary = maps[: len(maps) // 2], maps[len(maps) // 2 :]
        terms = super().compute_terms(main, objects)
        coarse = self.select(main, objects, self.find_candidates(main, objects, reach=1.0), AUXILIARY_SUMMED)
        further = self.learn(auxiliary, objects, coarse)
        return {**terms, "aux": AUXILIARY_GAIN * torch.stack(list(further.values())).sum()}


def make_objectness(x: Tensor, matches: Matches, overlap: Tensor) -> Tensor:
    """Return the target (B, anchors, H, W) of a level's objectness: the overlap of matched predictions, otherwise 0.

    A prediction of several objects gets the largest overlap.

    Args:
        x: (B, anchors, H, W, ...) the level's map.
        matches: the pairs of this level.
        overlap: (P,) of their boxes; negative ones count as 0.
    """
    target = x.new_zeros(x.shape[:4])
    _, count, h, w = target.shape
    places = ((matches.image * count + matches.anchor) * h + matches.row) * w + matches.column
    target.view(-1).scatter_reduce_(0, places, overlap.clamp(min=0), "amax")
    return target
