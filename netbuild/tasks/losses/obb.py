"""The loss of heads for oriented boxes: boxes, classes, sides and angles. ProbIoU, arXiv 2106.06072."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from netbuild.feed.rectangles import fit_rectangles
from netbuild.tasks.assign import Assigner, Assignment, Targets, pad_targets
from netbuild.tasks.base import Batch
from netbuild.tasks.losses.base import to_float32
from netbuild.tasks.losses.cells import (
    Cells,
    CellsLoss,
    ClassPart,
    DetectionLoss,
    LossPart,
    Raw,
    SidesPart,
    read_cells,
)
from netbuild.tasks.rotated_math import FLOOR, probiou, rotate

MIN_SIDE = 2.0  # pixels; a target with a shorter side is left out


@dataclass(frozen=True)
class RotatedCells(Cells):
    """The cells of a head for oriented boxes; distances are along the axes of the predicted box.

    Args:
        angle: (B, A) predicted angles in radians.
    """

    angle: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def boxes(self) -> Tensor:
        """(B, A, 5) predicted oriented boxes in cells."""
        before, after = self.distances.chunk(2, -1)
        centre = self.points + rotate((after - before) / 2, self.angle)
        return torch.cat((centre, before + after, self.angle[..., None]), -1)

    @property
    def pixel_boxes(self) -> Tensor:
        """(B, A, 5) predicted oriented boxes in pixels."""
        return scale_boxes(self.boxes, self.strides)

    def target_distances(self, assigned: Assignment) -> Tensor:
        """Return the distances, along the axes of the assigned box, from each cell's centre to its sides, in cells."""
        boxes = scale_boxes(assigned.boxes, 1 / self.strides)
        centre, half = rotate(boxes[..., :2] - self.points, -boxes[..., 4]), boxes[..., 2:4] / 2
        return torch.cat((half - centre, half + centre), -1)


def scale_boxes(boxes: Tensor, factor: Tensor) -> Tensor:
    """Return oriented boxes (..., 5) in another unit; their angles stay."""
    return torch.cat((boxes[..., :4] * factor, boxes[..., 4:]), -1)


@dataclass(frozen=True)
class RotatedAssigner(Assigner):
    """Task-aligned assignment of oriented boxes (..., 5): the overlap is ProbIoU."""

    def find_candidates(self, points: Tensor, targets: Targets) -> Tensor:
        """Return whether each cell's centre is inside each object or on its border: (B, G, A)."""
        boxes = targets.boxes[..., None, :]
        reach = boxes[..., 2:4].clamp(min=self.min_side) / 2
        x, y = (points[:, axis] - boxes[..., axis] for axis in range(2))  # (B, G, A)
        cos, sin = boxes[..., 4].cos(), boxes[..., 4].sin()
        inside = (x * cos + y * sin).abs() <= reach[..., 0]
        inside &= (y * cos - x * sin).abs() <= reach[..., 1]
        return inside & targets.valid[..., None]

    def compute_overlap(
        self, boxes: Tensor, scores: Tensor, targets: Targets, pairs: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Compute the ProbIoU of N pairs of an object and a cell, (N,)."""
        b, g, a = pairs
        return probiou(targets.boxes[b, g], boxes[b, a], FLOOR).clamp(min=0)


@dataclass(frozen=True)
class RotatedBoxPart(LossPart):
    """1 - ProbIoU of the foreground, weighted by the target scores."""

    gain: float = 7.5

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "box"."""
        fg = assigned.foreground
        target = scale_boxes(assigned.boxes, 1 / cells.strides)[fg]
        overlap = probiou(cells.boxes[fg], target, FLOOR)
        return {"box": self.gain * ((1 - overlap) * assigned.scores[fg].sum(-1)).sum()}


@dataclass(frozen=True)
class AnglePart(LossPart):
    """sin(2 d)^2 of the angles' differences d in the foreground, weighted by the target scores.

    A quarter turn costs nothing: it exchanges width and height, which the term of the boxes judges. A long box counts
    less than a square one, because its angle has a large part in ProbIoU already.
    """

    gain: float = 1.0

    def __call__(self, cells: Cells, assigned: Assignment, batch: Batch) -> dict[str, Tensor]:
        """Return the term "angle"."""
        fg = assigned.foreground
        _, _, w, h, angle = assigned.boxes[fg].unbind(-1)
        weight = assigned.scores[fg].sum(-1) * torch.exp(-(w / h).log().square() / 9)
        return {"angle": self.gain * ((2 * (cells.boxes[fg][:, 4] - angle)).sin().square() * weight).sum()}


@dataclass(frozen=True)
class RotatedDetectionLoss(DetectionLoss):
    """Loss of one branch of a head for oriented boxes. A batch has "corners" (M, 4, 2) in fractions of the image."""

    def read(self, raw: Raw) -> Cells:
        """Arrange the raw outputs by cells; "angle" (B, ne, A) is in radians, and the first of the ne angles counts."""
        cells = read_cells(self.head, raw)
        return RotatedCells(**{**vars(cells), "angle": to_float32(raw["angle"])[:, 0]})

    def all_parts(self) -> Sequence[LossPart]:
        """Return the given parts, or the four default parts."""
        if self.parts is not None:
            return self.parts
        gains = self.gains
        classes = ClassPart(gains.cls, self.class_weights)
        return RotatedBoxPart(gains.box), classes, SidesPart(gains.dfl), AnglePart(gains.angle)

    def targets(self, cells: Cells, batch: Batch) -> Targets:
        """Return the smallest rectangles around the corners of the batch's objects, in pixels."""
        like = cells.scores
        boxes = fit_rectangles(batch["corners"].to(like).view(-1, 4, 2) * like.new_tensor(cells.size))
        boxes = boxes * (boxes[:, 3:4] >= MIN_SIDE)  # zeros are padding, see `Targets`
        classes, index = (batch[name].to(like.device).view(-1).long() for name in ("classes", "index"))
        return pad_targets(boxes, classes, index, like.shape[0])

    def make_assigner(self, cells: Cells, batch: Batch) -> Assigner:
        """Return the assigner of oriented boxes."""
        return RotatedAssigner(self.topk, self.topk2, min_side=self.min_side)


class RotatedLoss(CellsLoss):
    """Loss of anchor-free heads for oriented boxes with one or two branches, see `CellsLoss`."""

    branch_class: ClassVar[type[DetectionLoss]] = RotatedDetectionLoss
