"""Which cells answer for which objects: task-aligned assignment (TOOD, arXiv 2108.07755)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from netbuild.tasks.box_math import ciou

EPS = 1e-9


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, image by image, filled up with zeros to the largest number G.

    Args:
        boxes: (B, G, 4) corners in pixels; a box whose coordinates do not sum to more than 0 is filling.
        classes: (B, G) numbers of classes.
        rows: (B, G) the objects' places in the batch's lists; -1 for filling.
    """

    boxes: Tensor
    classes: Tensor
    rows: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, G) which are objects."""
        return self.boxes.sum(-1) > 0


@dataclass(frozen=True)
class Assignment:
    """The target of each of A cells.

    Args:
        boxes: (B, A, 4) corners in pixels; meaningless in the background.
        scores: (B, A, nc) soft targets, zeros in the background.
        foreground: (B, A) which cells answer for an object.
        index: (B, A) the object, counted within its image; 0 in the background.
        rows: (B, A) the object's place in the batch's lists; -1 in the background.
    """

    boxes: Tensor
    scores: Tensor
    foreground: Tensor
    index: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Assigner:
    """Task-aligned assignment: alignment t = score^alpha * max(CIoU, 0)^beta of a cell with an object.

    Each object picks the ``topk`` cells of largest t among those whose centre lies inside it; a cell that several
    picked goes to the object it overlaps most; ``topk2`` (if another number) of the remaining are kept.

    Args:
        topk: cells that an object may pick.
        topk2: cells that it may keep; ``topk`` unless given.
        floor: pixels; a shorter side counts as this long when centres inside are sought, or small objects get none.
    """

    topk: int = 10
    topk2: int | None = None
    floor: float = 0.0
    alpha: float = 0.5
    beta: float = 6.0

    @torch.no_grad()
    def __call__(self, scores: Tensor, boxes: Tensor, points: Tensor, targets: Targets) -> Assignment:
        """Assign cells to objects.

        Args:
            scores: (B, A, nc) predicted probabilities.
            boxes: (B, A, 4) predicted corners in pixels.
            points: (A, 2) centres of the cells, x and y in pixels.
            targets: the objects.
        """
        if targets.boxes.shape[1] == 0:
            return Assignment(
                torch.zeros_like(boxes),
                torch.zeros_like(scores),
                torch.zeros_like(scores[..., 0], dtype=torch.bool),
                torch.zeros_like(scores[..., 0], dtype=torch.long),
                torch.full_like(scores[..., 0], -1, dtype=torch.long),
            )
        candidates = self.candidates(points, targets)
        overlap, align = self.alignment(scores, boxes, targets, candidates)
        picked = top(align, self.topk) & candidates
        picked = settle(picked, overlap)
        if self.topk2 not in (None, self.topk):
            picked &= top(align * picked, self.topk2)
        return soften(picked, overlap, align, targets, scores.shape[2])

    def candidates(self, points: Tensor, targets: Targets) -> Tensor:
        """(B, G, A) whether a cell's centre is strictly inside an object."""
        low, high = targets.boxes.chunk(2, -1)
        middle, reach = (low + high) / 2, (high - low).clamp(min=self.floor) / 2
        long = high - low >= self.floor  # only short sides change, others must not even be rounded
        low, high = torch.where(long, low, middle - reach), torch.where(long, high, middle + reach)
        inside = torch.ones(1, 1, 1, dtype=torch.bool, device=points.device)
        for axis in range(2):  # margins of one axis at a time: (B, G, A, 4) would be the largest tensor of training
            inside = inside & (points[:, axis] - low[..., axis, None] > EPS)
            inside &= high[..., axis, None] - points[:, axis] > EPS
        return inside & targets.valid[..., None]

    def alignment(self, scores: Tensor, boxes: Tensor, targets: Targets, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Overlap u and alignment t, both (B, G, A), zero where a cell is no candidate."""
        b, g, a = candidates.nonzero(as_tuple=True)  # few of all pairs
        u = ciou(targets.boxes[b, g], boxes[b, a]).clamp(min=0)
        t = scores[b, a, targets.classes[b, g]].pow(self.alpha) * u.pow(self.beta)
        overlap, align = (x.new_zeros(candidates.shape) for x in (u, t))
        overlap[b, g, a], align[b, g, a] = u, t
        return overlap, align


def top(values: Tensor, k: int | None) -> Tensor:
    """Which of the values (..., A) are among the k largest of their row."""
    best = values.topk(min(k or 0, values.shape[-1])).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, best, True)


def settle(picked: Tensor, overlap: Tensor) -> Tensor:
    """Give a cell that several objects picked to that of the image's which it overlaps most, the first of equals."""
    best = torch.zeros_like(picked).scatter_(1, overlap.argmax(1, keepdim=True), True)
    return torch.where(picked.sum(1, keepdim=True) > 1, best, picked)


def soften(picked: Tensor, overlap: Tensor, align: Tensor, targets: Targets, nc: int) -> Assignment:
    """Targets of the cells; a score is the alignment, scaled so that an object's best equals its largest overlap."""
    align, overlap = align * picked, overlap * picked
    tau = align * overlap.amax(2, keepdim=True) / (align.amax(2, keepdim=True) + EPS)
    index, foreground = picked.int().argmax(1), picked.any(1)
    classes = targets.classes.gather(1, index)
    scores = tau.new_zeros(*classes.shape, nc).scatter_(2, classes[..., None], (tau.amax(1) * foreground)[..., None])
    boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    rows = targets.rows.gather(1, index).where(foreground, -1)
    return Assignment(boxes, scores, foreground, index, rows)


def pad(boxes: Tensor, classes: Tensor, index: Tensor, batch: int) -> Targets:
    """Lists of a whole batch's objects as `Targets`: boxes (M, 4), classes (M,), number of the image (M,)."""
    order = index.argsort(stable=True)
    counts = index.bincount(minlength=batch)
    image = index[order]
    place = torch.arange(len(order), device=index.device) - (counts.cumsum(0) - counts)[image]
    rows = index.new_full((batch, int(counts.max()) if len(order) else 0), -1)
    rows[image, place] = order
    filled = rows >= 0
    if not len(order):
        return Targets(boxes.new_zeros(batch, 0, 4), classes.new_zeros(batch, 0), rows)
    at = rows.clamp(min=0)
    return Targets(boxes[at] * filled[..., None], classes[at] * filled, rows)
