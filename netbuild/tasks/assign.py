"""Task-aligned assignment of objects to cells. TOOD, arXiv 2108.07755."""

from dataclasses import dataclass

import torch
from torch import Tensor

from netbuild.tasks.box_math import ciou

EPS = 1e-9


@dataclass(frozen=True)
class Targets:
    """The objects of a batch by image, padded with zeros to the largest number G of an image.

    Args:
        boxes: (B, G, 4) corners in pixels, or (B, G, 5) of oriented boxes; one whose numbers do not sum to more than 0
            is padding.
        classes: (B, G) class numbers.
        rows: (B, G) indices of the objects in the batch's lists; -1 for padding.
    """

    boxes: Tensor
    classes: Tensor
    rows: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, G) whether an entry is an object, not padding."""
        return self.boxes.sum(-1) > 0


@dataclass(frozen=True)
class Assignment:
    """The targets of all A cells.

    Args:
        boxes: (B, A, 4) corners in pixels, or of the targets' form; undefined in the background.
        scores: (B, A, nc) soft targets, zeros in the background.
        foreground: (B, A) whether an object is assigned to the cell.
        index: (B, A) number of the object within its image; 0 in the background.
        rows: (B, A) index of the object in the batch's lists; -1 in the background.
    """

    boxes: Tensor
    scores: Tensor
    foreground: Tensor
    index: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Assigner:
    """Task-aligned assignment: alignment t = score^alpha * max(CIoU, 0)^beta of a cell with an object.

    Each object selects the ``topk`` cells of largest t among those whose centre lies inside it. A cell that several
    objects selected goes to the one it overlaps most. Of the cells that remain, the best ``topk2`` are assigned.

    Args:
        topk: number of cells that an object may select.
        topk2: number of cells that are assigned to an object; ``topk`` unless given.
        min_side: pixels; shorter sides of an object are lengthened to this when centres inside are sought, so that
            small objects get cells, too.
        alpha: exponent of the score.
        beta: exponent of the overlap.
    """

    topk: int = 10
    topk2: int | None = None
    min_side: float = 0.0
    alpha: float = 0.5
    beta: float = 6.0

    @torch.no_grad()
    def __call__(self, scores: Tensor, boxes: Tensor, points: Tensor, targets: Targets) -> Assignment:
        """Assign objects to cells.

        Args:
            scores: (B, A, nc) predicted probabilities.
            boxes: (B, A, 4) predicted corners in pixels.
            points: (A, 2) x and y of the cells' centres in pixels.
            targets: the objects.
        """
        if targets.boxes.shape[1] == 0:
            return Assignment(
                boxes.new_zeros(*boxes.shape[:2], targets.boxes.shape[2]),
                torch.zeros_like(scores),
                torch.zeros_like(scores[..., 0], dtype=torch.bool),
                torch.zeros_like(scores[..., 0], dtype=torch.long),
                torch.full_like(scores[..., 0], -1, dtype=torch.long),
            )
        candidates = self.find_candidates(points, targets)
        overlap, align = self.compute_alignment(scores, boxes, targets, candidates)
        selected = mask_top(align, self.topk) & candidates
        selected = resolve_conflicts(selected, overlap)
        if self.topk2 not in (None, self.topk):
            selected &= mask_top(align * selected, self.topk2)
        return make_assignment(selected, overlap, align, targets, scores.shape[2])

    def find_candidates(self, points: Tensor, targets: Targets) -> Tensor:
        """Return whether each cell's centre is strictly inside each object: (B, G, A)."""
        low, high = targets.boxes.chunk(2, -1)
        middle, reach = (low + high) / 2, (high - low).clamp(min=self.min_side) / 2
        long = high - low >= self.min_side  # long sides are left as they are: even rounding could change the result
        low, high = torch.where(long, low, middle - reach), torch.where(long, high, middle + reach)
        inside = torch.ones(1, 1, 1, dtype=torch.bool, device=points.device)
        for axis in range(2):  # one axis at a time, because (B, G, A, 4) would be the largest tensor of training
            inside = inside & (points[:, axis] - low[..., axis, None] > EPS)
            inside &= high[..., axis, None] - points[:, axis] > EPS
        return inside & targets.valid[..., None]

    def compute_alignment(
        self, scores: Tensor, boxes: Tensor, targets: Targets, candidates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute overlap u and alignment t of each object with each cell, both (B, G, A), zero outside candidates."""
        b, g, a = candidates.nonzero(as_tuple=True)  # a small part of all pairs
        u = self.compute_overlap(boxes, scores, targets, (b, g, a))
        t = scores[b, a, targets.classes[b, g]].pow(self.alpha) * u.pow(self.beta)
        overlap, align = (x.new_zeros(candidates.shape) for x in (u, t))
        overlap[b, g, a], align[b, g, a] = u, t
        return overlap, align

    def compute_overlap(
        self, boxes: Tensor, scores: Tensor, targets: Targets, pairs: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Compute the overlap u >= 0 of N pairs of an object and a cell, (N,). A subclass may measure more than boxes.

        Args:
            boxes: (B, A, 4) predicted corners in pixels.
            scores: (B, A, nc) predicted probabilities.
            targets: the objects.
            pairs: the numbers of the image, of the object within its image, and of the cell, (N,) each.
        """
        b, g, a = pairs
        return ciou(targets.boxes[b, g], boxes[b, a]).clamp(min=0)


def mask_top(values: Tensor, k: int | None) -> Tensor:
    """Return which of the values (..., A) are among the k largest of their row."""
    best = values.topk(min(k or 0, values.shape[-1])).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, best, True)


def resolve_conflicts(selected: Tensor, overlap: Tensor) -> Tensor:
    """Leave each cell that several objects selected to the object of the image that it overlaps most."""
    best = torch.zeros_like(selected).scatter_(1, overlap.argmax(1, keepdim=True), True)
    return torch.where(selected.sum(1, keepdim=True) > 1, best, selected)


def make_assignment(selected: Tensor, overlap: Tensor, align: Tensor, targets: Targets, nc: int) -> Assignment:
    """Collect the targets of the cells.

    A cell's score is its alignment, scaled so that the best cell of an object gets the object's largest overlap.
    """
    align, overlap = align * selected, overlap * selected
    scaled = align * overlap.amax(2, keepdim=True) / (align.amax(2, keepdim=True) + EPS)
    index, foreground = selected.int().argmax(1), selected.any(1)
    classes = targets.classes.gather(1, index)
    values = (scaled.amax(1) * foreground)[..., None]
    scores = scaled.new_zeros(*classes.shape, nc).scatter_(2, classes[..., None], values)
    boxes = targets.boxes.gather(1, index[..., None].expand(-1, -1, targets.boxes.shape[2]))
    rows = targets.rows.gather(1, index).where(foreground, -1)
    return Assignment(boxes, scores, foreground, index, rows)


def rows_by_group(groups: Tensor, count: int) -> Tensor:
    """Return the rows of each of ``count`` groups in their order, padded with -1: (count, largest number of rows).

    Args:
        groups: (N,) the group of each row, such as the image of each object.
        count: number of groups.
    """
    order = groups.argsort(stable=True)
    sizes = groups.bincount(minlength=count)
    group = groups[order]
    column = torch.arange(len(order), device=groups.device) - (sizes.cumsum(0) - sizes)[group]
    rows = groups.new_full((count, int(sizes.max()) if len(order) else 0), -1)
    rows[group, column] = order
    return rows


def pad_targets(boxes: Tensor, classes: Tensor, index: Tensor, batch: int) -> Targets:
    """Arrange a batch's objects by image: boxes (M, 4 or 5), classes (M,) and the number of each one's image (M,)."""
    rows = rows_by_group(index, batch)
    valid = rows >= 0
    if not len(index):
        return Targets(boxes.new_zeros(batch, 0, boxes.shape[1]), classes.new_zeros(batch, 0), rows)
    found = rows.clamp(min=0)
    return Targets(boxes[found] * valid[..., None], classes[found] * valid, rows)
