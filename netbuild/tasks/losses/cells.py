"""The loss of anchor-free detection heads: a sum of exchangeable parts over cells with task-aligned targets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.layers.heads.detect import anchor_points
from netbuild.tasks.assign import Assigner, Assignment, Targets, pad_targets
from netbuild.tasks.base import Batch, Losses, Normaliser, local_normaliser
from netbuild.tasks.box_math import ciou, to_corners
from netbuild.tasks.losses.base import Gains, HeadLoss, to_float32

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Cells:
    """The A cells of a head and its predictions for them, in float32 or wider.

    Args:
        points: (A, 2) x and y of the centres, in cells.
        strides: (A, 1) pixels per cell.
        scores: (B, A, nc) class logits.
        sides: (B, A, 4 * bins) raw outputs for left, top, right, bottom.
        distances: (B, A, 4) decoded distances from the centre to the sides, in cells.
        size: the image's width and height in pixels.
        raw: all training outputs of the head's branch, for parts that learn from more than boxes and scores.
    """

    points: Tensor
    strides: Tensor
    scores: Tensor
    sides: Tensor
    distances: Tensor
    size: tuple[float, float]
    raw: Raw = field(default_factory=dict)

    @property
    def boxes(self) -> Tensor:
        """(B, A, 4) predicted corners in cells."""
        before, after = self.distances.chunk(2, -1)
        return torch.cat((self.points - before, self.points + after), -1)

    @property
    def pixel_boxes(self) -> Tensor:
        """(B, A, 4) predicted corners in pixels, as the assigner compares them with the targets."""
        return self.boxes * self.strides

    @property
    def bins(self) -> int:
        """Number of bins of each side's distribution; 1 if the head predicts distances directly."""
        return self.sides.shape[-1] // 4

    def target_distances(self, assigned: Assignment) -> Tensor:
        """Return the distances from each cell's centre to the sides of its assigned box, in cells: (B, A, 4)."""
        low, high = (assigned.boxes / self.strides).chunk(2, -1)
        return torch.cat((self.points - low, high - self.points), -1)


def read_cells(head: Any, raw: Raw) -> Cells:
    """Arrange the raw outputs of a head's branch by cells.

    Args:
        head: module with ``stride`` and ``reg_max``.
        raw: "boxes" (B, 4 * reg_max, A), "scores" (B, nc, A) logits, "feats" the maps.
    """
    boxes, scores = (to_float32(raw[name]) for name in ("boxes", "scores"))
    # Only shape and dtype of the maps are read. In half precision the coordinates of a large image would be rounded.
    maps = [boxes.new_empty(1).expand(1, 1, *f.shape[2:]) for f in raw["feats"]]
    points, strides = anchor_points(maps, head.stride)
    h, w = (side * head.stride[0] for side in raw["feats"][0].shape[2:])
    sides = boxes.transpose(1, 2)
    distances = decode_distances(sides, head.reg_max)
    return Cells(points.T, strides.T, scores.transpose(1, 2), sides, distances, (w, h), raw)


def decode_distances(sides: Tensor, bins: int) -> Tensor:
    """Decode raw outputs (..., 4 * bins) to distances (..., 4) in cells: the expectation over the bins.

    The head's own decoding is not used because it computes in the precision of the weights.
    """
    if bins == 1:
        return sides
    return sides.unflatten(-1, (4, bins)).softmax(-1) @ torch.arange(bins, dtype=sides.dtype, device=sides.device)


def dfl_loss(bins: Tensor, target: Tensor) -> Tensor:
    """Compute the distribution focal loss, mean over the sides: logits (N, 4, R), targets (N, 4) in 0..R-1 -> (N,).

    It is the cross-entropy with the two bins next to the target, weighted by nearness. Generalized focal loss,
    arXiv 2006.04388.
    """
    count = bins.shape[-1]
    target = target.clamp(0, count - 1 - 0.01)  # there must be a bin above
    low = target.long()
    log_p = bins.log_softmax(-1)
    below, above = (log_p.gather(-1, (low + i)[..., None])[..., 0] for i in (0, 1))
    share = target - low
    return -(below * (1 - share) + above * share).mean(-1)


class LossPart(ABC):
    """A part of a detection loss: one or more named terms, computed from the cells and their assigned targets."""

    @abstractmethod
    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the terms by name, times their gains and summed over the batch; `DetectionLoss` normalises them.

        ``assigned.rows`` is the index of each cell's target in the lists of the batch, e.g. of its mask or keypoints.
        """

    def count(self, cells: Cells, assigned: Assignment, batch: Batch) -> Tensor | None:
        """Return what the terms are divided by, unless it is below 1; None for the sum of the target scores."""
        return None

    def lower_bound(self, cells: Cells, assigned: Assignment) -> Tensor | float:
        """Return the smallest sum of the terms that any prediction could reach for these targets."""
        return 0.0


@dataclass(frozen=True)
class BoxPart(LossPart):
    """1 - CIoU of the foreground, weighted by the target scores. CIoU, arXiv 1911.08287."""

    gain: float = 7.5

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "box"."""
        fg = assigned.foreground
        target = (assigned.boxes / cells.strides)[fg]
        return {"box": self.gain * ((1 - ciou(cells.boxes[fg], target)) * assigned.scores[fg].sum(-1)).sum()}


@dataclass(frozen=True)
class ClassPart(LossPart):
    """Binary cross-entropy of all cells and classes with the soft target scores.

    Args:
        gain: weight of the term.
        class_weights: (nc,) factors of the classes.
    """

    gain: float = 0.5
    class_weights: Tensor | None = None

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "cls"."""
        return {"cls": self.gain * self._sum(cells.scores, assigned.scores)}

    def lower_bound(self, cells: Cells, assigned: Assignment) -> Tensor:
        """Return the entropy of the soft target scores."""
        return self.gain * self._sum(assigned.scores.logit(1e-7), assigned.scores)

    def _sum(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return (loss if self.class_weights is None else loss * self.class_weights.to(loss)).sum()


@dataclass(frozen=True)
class SidesPart(LossPart):
    """Distribution focal loss of the foreground's sides ("dfl"), or L1 in fractions of the image ("l1")."""

    gain: float = 1.5

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "dfl", or "l1" for a head without bins."""
        return {"dfl" if cells.bins > 1 else "l1": self.gain * self._sum(cells, assigned)}

    def lower_bound(self, cells: Cells, assigned: Assignment) -> Tensor | float:
        """Return the entropy of the targets, which is positive between two bins."""
        if cells.bins == 1:
            return 0.0
        target = cells.target_distances(assigned).clamp(0, max(cells.bins - 1 - 0.01, 0))[..., None]
        bins = torch.arange(cells.bins, device=target.device, dtype=target.dtype)
        exact = (1 - (bins - target).abs()).clamp(min=1e-7).log().flatten(-2)
        return self.gain * self._sum(replace(cells, sides=exact), assigned)

    def _sum(self, cells: Cells, assigned: Assignment) -> Tensor:
        fg = assigned.foreground
        target = cells.target_distances(assigned)[fg]
        weight = assigned.scores[fg].sum(-1)
        if cells.bins > 1:
            return (dfl_loss(cells.sides[fg].unflatten(-1, (4, -1)), target) * weight).sum()
        scale = (cells.strides / cells.strides.new_tensor([*cells.size, *cells.size])).expand(fg.shape[0], -1, -1)[fg]
        return (((cells.distances[fg] - target) * scale).abs().mean(-1) * weight).sum()


@dataclass(frozen=True)
class DetectionLoss:
    """Loss of one branch: task-aligned assignment, then the sum of its parts.

    Args:
        head: module with ``stride`` and ``reg_max``.
        gains: weights of the three default parts.
        topk, topk2: numbers of cells for an object, see `Assigner`.
        class_weights: (nc,) factors of the classes' cross-entropy, in the default parts.
        normaliser: returns what the terms are divided by: the sum of the target scores over all ranks.
        parts: the terms to sum; by default `BoxPart`, `ClassPart` and `SidesPart`.
    """

    head: Any
    gains: Gains = field(default_factory=Gains)
    topk: int = 10
    topk2: int | None = None
    class_weights: Tensor | None = None
    normaliser: Normaliser = local_normaliser
    parts: Sequence[LossPart] | None = None

    def __call__(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Return the normalised terms of all parts by name.

        Args:
            raw: "boxes" (B, 4 * reg_max, A), "scores" (B, nc, A) logits, "feats" the maps.
            batch: "boxes" (M, 4) as centre and size, in fractions of the image; "classes" (M,); "index" (M,) number of
                the image.
        """
        cells = self.read(raw)
        assigned = self.assign(cells, self.targets(cells, batch), batch)
        terms, total = dict[str, Tensor](), self.normaliser(assigned.scores.sum(), 1)
        for part in self.all_parts():
            count = part.count(cells, assigned, batch)
            divisor = total if count is None else self.normaliser(count, 1)
            terms |= {name: value / divisor for name, value in part(cells, assigned, batch).items()}
        return terms

    @torch.no_grad()
    def lower_bound(self, raw: Raw, batch: Batch) -> float:
        """Return the smallest loss that any prediction could reach with this assignment."""
        cells = self.read(raw)
        assigned = self.assign(cells, self.targets(cells, batch), batch)
        total, bounds = self.normaliser(assigned.scores.sum(), 1), 0.0
        for part in self.all_parts():
            count = part.count(cells, assigned, batch)
            bounds += float(part.lower_bound(cells, assigned) / (total if count is None else self.normaliser(count, 1)))
        return bounds

    def read(self, raw: Raw) -> Cells:
        """Arrange the branch's raw outputs by cells; a subclass may read more than boxes and scores."""
        return read_cells(self.head, raw)

    def all_parts(self) -> Sequence[LossPart]:
        """Return the given parts, or the three default parts."""
        if self.parts is not None:
            return self.parts
        gains = self.gains
        return BoxPart(gains.box), ClassPart(gains.cls, self.class_weights), SidesPart(gains.dfl)

    def targets(self, cells: Cells, batch: Batch) -> Targets:
        """Return the batch's objects in pixels."""
        like = cells.scores
        w, h = cells.size
        boxes = batch["boxes"].to(like).view(-1, 4) * like.new_tensor([w, h, w, h])
        classes, index = (batch[name].to(like.device).view(-1).long() for name in ("classes", "index"))
        return pad_targets(to_corners(boxes), classes, index, like.shape[0])

    def assign(self, cells: Cells, targets: Targets, batch: Batch) -> Assignment:
        """Assign the targets to the cells."""
        assigner = self.make_assigner(cells, batch)
        scores = cells.scores.detach().sigmoid()
        return assigner(scores, cells.pixel_boxes.detach(), cells.points * cells.strides, targets)

    def make_assigner(self, cells: Cells, batch: Batch) -> Assigner:
        """Return the assigner of a batch; a subclass may compare masks or keypoints with those of the batch."""
        return Assigner(self.topk, self.topk2, min_side=self.min_side)

    @property
    def min_side(self) -> float:
        """Pixels of a cell of the second level: smaller objects are sought as if they had its size."""
        strides = self.head.stride
        return float(strides[min(1, len(strides) - 1)])


@dataclass
class DualSchedule:
    """The share of the one-to-many branch in the loss, which falls linearly from ``start`` to ``end``."""

    start: float = 0.8
    end: float = 0.1
    share: float = field(default=0.8, init=False)

    def __post_init__(self) -> None:
        self.share = self.start

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Set the share for the epoch that follows ``finished`` ones."""
        left = max(1 - finished / max(epochs - 1, 1), 0)
        self.share = left * (self.start - self.end) + self.end


class CellsLoss(HeadLoss):
    """Loss of anchor-free heads with one or two branches, times the batch size.

    A head with two branches is trained by both: one gets a one-to-many assignment (10 cells for an object), the other a
    one-to-one assignment (the best of 7 cells). `DualSchedule` weighs them (YOLOv10, arXiv 2405.14458).

    The loss of a head with further outputs, such as masks, is a subclass with another ``branch_class``.

    Args:
        head, gains, class_weights, normaliser: see `HeadLoss`; the head has ``reg_max`` and a known ``stride``.
        parts: the terms that both branches sum, see `DetectionLoss`.

    Attributes:
        branch_class: the loss of one branch.
    """

    branch_class: ClassVar[type[DetectionLoss]] = DetectionLoss

    def __init__(
        self,
        head: nn.Module,
        gains: Gains | None = None,
        class_weights: Tensor | None = None,
        normaliser: Normaliser = local_normaliser,
        parts: Sequence[LossPart] | None = None,
    ) -> None:
        super().__init__(head, gains, class_weights, normaliser)
        shared: dict[str, Any] = {"class_weights": class_weights, "normaliser": normaliser, "parts": parts}
        self.one2many = self.branch_class(head, self.gains, **shared)
        self.one2one = self.branch_class(head, self.gains, topk=7, topk2=1, **shared)
        self.schedule = DualSchedule()

    def __call__(self, outputs: Raw, batch: Batch) -> Losses:
        """Return the sum of the terms times the batch size, and the terms, which are not multiplied by it.

        For a head with two branches the terms are those of the one-to-one branch.
        """
        branch = outputs.get("one2one", outputs)
        # Half precision is too coarse for sums over thousands of cells.
        with torch.autocast(branch["boxes"].device.type, enabled=False):
            if "one2one" not in outputs:
                terms = self.one2many(outputs, batch)
                total = _sum(terms)
            else:
                terms = self.one2one(outputs["one2one"], batch)
                share = self.schedule.share
                total = share * _sum(self.one2many(outputs["one2many"], batch)) + (1 - share) * _sum(terms)
        return total * len(branch["boxes"]), {name: term.detach() for name, term in terms.items()}

    def lower_bound(self, outputs: Raw, batch: Batch) -> float:
        """Return the smallest loss of the branches, weighted by their shares, times the batch size."""
        count = len(outputs.get("one2one", outputs)["boxes"])
        if "one2one" not in outputs:
            return count * self.one2many.lower_bound(outputs, batch)
        share = self.schedule.share
        many = self.one2many.lower_bound(outputs["one2many"], batch)
        one = self.one2one.lower_bound(outputs["one2one"], batch)
        return count * (share * many + (1 - share) * one)

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Shift weight from the one-to-many branch to the other."""
        self.schedule.epoch_end(finished, epochs)


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
