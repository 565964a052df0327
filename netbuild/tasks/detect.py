"""Detection: the loss of anchor-free heads, with one branch or two, and boxes from their outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netbuild.data.dataset import Sample
from netbuild.drawing.annotated import Drawing, colour
from netbuild.errors import NetbuildError
from netbuild.feed.boxes import feed_boxes
from netbuild.feed.loader import Collate, Feeding, SampleSource
from netbuild.layers.heads.detect import anchor_points
from netbuild.settings import Settings
from netbuild.system.packages import package
from netbuild.tasks.assign import Assigner, Assignment, Targets, pad
from netbuild.tasks.base import Batch, Losses, Pool, alone, class_counts, class_weights, picture
from netbuild.tasks.box_math import ciou, to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.detection_metric import CONFUSION, DetectionMetric
from netbuild.tasks.nms import Filter

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Gains:
    """Weights of the parts; ``dfl`` is also that of ``l1``, which a head without bins has instead."""

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5


@dataclass(frozen=True)
class Cells:
    """A head's cells and what it says of them, in float32 at least.

    Args:
        points: (A, 2) centres in cells, x and y.
        strides: (A, 1) pixels to a cell.
        scores: (B, A, nc) class logits.
        sides: (B, A, 4 * bins) raw outputs for left, top, right, bottom.
        distances: (B, A, 4) the sides, decoded, in cells.
        size: the image's width and height in pixels.
    """

    points: Tensor
    strides: Tensor
    scores: Tensor
    sides: Tensor
    distances: Tensor
    size: tuple[float, float]

    @property
    def boxes(self) -> Tensor:
        """(B, A, 4) corners in cells."""
        before, after = self.distances.chunk(2, -1)
        return torch.cat((self.points - before, self.points + after), -1)


def read(head: Any, raw: Raw) -> Cells:
    """The raw outputs of a head's branch, cells first."""
    boxes, scores = (_wide(raw[name]) for name in ("boxes", "scores"))
    # Only size and kind of the maps are read; half precision could not count the cells of a large image.
    maps = [boxes.new_empty(1).expand(1, 1, *f.shape[2:]) for f in raw["feats"]]
    points, strides = anchor_points(maps, head.stride)
    h, w = (side * head.stride[0] for side in raw["feats"][0].shape[2:])
    sides = boxes.transpose(1, 2)
    return Cells(points.T, strides.T, scores.transpose(1, 2), sides, lengths(sides, head.reg_max), (w, h))


def lengths(sides: Tensor, bins: int) -> Tensor:
    """Distances (..., 4) in cells from raw outputs (..., 4 * bins): expectations over the bins, one bin as it is.

    The head does so too, but in the precision of its weights.
    """
    if bins == 1:
        return sides
    return sides.unflatten(-1, (4, bins)).softmax(-1) @ torch.arange(bins, dtype=sides.dtype, device=sides.device)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dfl_loss(bins: Tensor, target: Tensor) -> Tensor:
    """Distribution focal loss, mean over the sides: bins (N, 4, R) logits, target (N, 4) in 0..R-1: (N,).

    Cross-entropy with the two bins next to the target, by nearness. Generalized focal loss, arXiv 2006.04388.
    """
    count = bins.shape[-1]
    target = target.clamp(0, count - 1 - 0.01)  # there must be a bin above
    low = target.long()
    log_p = bins.log_softmax(-1)
    below, above = (log_p.gather(-1, (low + i)[..., None])[..., 0] for i in (0, 1))
    share = target - low
    return -(below * (1 - share) + above * share).mean(-1)


@dataclass(frozen=True)
class DetectionLoss:
    """Loss of one branch: task-aligned targets, CIoU, cross-entropy, and the distribution of the sides or their L1.

    Args:
        head: module with ``stride`` and ``reg_max``.
        gains: weights of the parts.
        topk: cells that an object may pick.
        topk2: cells that it keeps, if another number.
        class_weights: (nc,) factors of the classes' cross-entropy.
        pool: what the parts are divided by, over the batch of all processes.
    """

    head: Any
    gains: Gains = field(default_factory=Gains)
    topk: int = 10
    topk2: int | None = None
    class_weights: Tensor | None = None
    pool: Pool = alone

    def __call__(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Parts by name, times their gains.

        Args:
            raw: "boxes" (B, 4 * reg_max, A), "scores" (B, nc, A) logits, "feats" the maps.
            batch: "boxes" (M, 4) as centre and size, in fractions of the image; "classes" (M,); "index" (M,) number of
                the image.
        """
        cells = read(self.head, raw)
        assigned = self.assign(cells, self.targets(cells, batch))
        total = self.pool(assigned.scores.sum(), 1)
        side = "dfl" if self.head.reg_max > 1 else "l1"
        return {
            "box": self.gains.box * self.box(cells, assigned) / total,
            "cls": self.gains.cls * self.cls(cells, assigned) / total,
            side: self.gains.dfl * self.sides(cells, assigned) / total,
        }

    @torch.no_grad()
    def least(self, raw: Raw, batch: Batch) -> float:
        """What the sum of the parts could not be less than: the entropy of scores and sides between two bins."""
        cells = read(self.head, raw)
        assigned = self.assign(cells, self.targets(cells, batch))
        sure = replace(cells, scores=assigned.scores.logit(1e-7), sides=self.exact(cells, assigned))
        cls, sides = self.cls(sure, assigned), self.sides(sure, assigned) if self.head.reg_max > 1 else 0
        total = self.pool(assigned.scores.sum(), 1)
        return float((self.gains.cls * cls + self.gains.dfl * sides) / total)

    def exact(self, cells: Cells, assigned: Assignment) -> Tensor:
        """Sides (B, A, 4 * bins) that say where the assigned boxes are as well as bins can."""
        count = cells.sides.shape[-1] // 4
        target = self.lengths(cells, assigned).clamp(0, max(count - 1 - 0.01, 0))[..., None]
        bins = torch.arange(count, device=target.device, dtype=target.dtype)
        return (1 - (bins - target).abs()).clamp(min=1e-7).log().flatten(-2)

    def targets(self, cells: Cells, batch: Batch) -> Targets:
        """The batch's objects in pixels."""
        like = cells.scores
        w, h = cells.size
        boxes = batch["boxes"].to(like).view(-1, 4) * like.new_tensor([w, h, w, h])
        classes, index = (batch[name].to(like.device).view(-1).long() for name in ("classes", "index"))
        return pad(to_corners(boxes), classes, index, like.shape[0])

    def assign(self, cells: Cells, targets: Targets) -> Assignment:
        """Task-aligned assignment in pixels."""
        strides = self.head.stride
        assigner = Assigner(self.topk, self.topk2, floor=strides[min(1, len(strides) - 1)])
        boxes = cells.boxes.detach() * cells.strides
        return assigner(cells.scores.detach().sigmoid(), boxes, cells.points * cells.strides, targets)

    def cls(self, cells: Cells, assigned: Assignment) -> Tensor:
        """Cross-entropy of all cells and classes, summed."""
        loss = F.binary_cross_entropy_with_logits(cells.scores, assigned.scores, reduction="none")
        return (loss if self.class_weights is None else loss * self.class_weights.to(loss)).sum()

    def box(self, cells: Cells, assigned: Assignment) -> Tensor:
        """1 - CIoU of the foreground, by weight of its targets, summed."""
        fg = assigned.foreground
        target = (assigned.boxes / cells.strides)[fg]
        return ((1 - ciou(cells.boxes[fg], target)) * assigned.scores[fg].sum(-1)).sum()

    def sides(self, cells: Cells, assigned: Assignment) -> Tensor:
        """Distribution focal loss, or L1 in fractions of the image, of the foreground by weight, summed."""
        fg = assigned.foreground
        target = self.lengths(cells, assigned)[fg]
        weight = assigned.scores[fg].sum(-1)
        if self.head.reg_max > 1:
            return (dfl_loss(cells.sides[fg].unflatten(-1, (4, -1)), target) * weight).sum()
        scale = (cells.strides / cells.strides.new_tensor([*cells.size, *cells.size])).expand(fg.shape[0], -1, -1)[fg]
        return (((cells.distances[fg] - target) * scale).abs().mean(-1) * weight).sum()

    def lengths(self, cells: Cells, assigned: Assignment) -> Tensor:
        """(B, A, 4) from each cell's centre to the sides of the box that it is assigned, in cells."""
        low, high = (assigned.boxes / cells.strides).chunk(2, -1)
        return torch.cat((cells.points - low, high - cells.points), -1)


@dataclass
class DualSchedule:
    """Share of the one-to-many branch in the loss: from ``start`` to ``end``, which the last epoch has, in a line."""

    start: float = 0.8
    end: float = 0.1
    share: float = field(default=0.8, init=False)

    def __post_init__(self) -> None:
        self.share = self.start

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Set the share for the epoch that follows ``finished`` ones."""
        left = max(1 - finished / max(epochs - 1, 1), 0)
        self.share = left * (self.start - self.end) + self.end


class DetectTask(BoxTask):
    """Boxes and classes. A batch has "boxes" (M, 4) as centre and size in fractions of the image, "classes", "index".

    A head with two branches learns from both: a one-to-many assignment of 10 cells, and a one-to-one in which the best
    of 7 is kept, weighed by `DualSchedule` (YOLOv10, arXiv 2405.14458).

    Args:
        head: an anchor-free detection head whose strides are known; another that ranks its boxes can be read only.
        names: names of the classes.
        gains: weights of the loss's parts.
        class_weights: (nc,) factors of the classes' cross-entropy.

    Raises:
        NetbuildError: if the head is none of these.
    """

    name = "detect"
    embedded = "digits-detect"
    learns_from = ("detect",)
    measures = ("mAP50-95", "mAP50", "precision", "recall")
    unused_settings = ("label_smoothing",)
    shown = CONFUSION[0]
    summed = True

    def __init__(
        self,
        head: nn.Module,
        names: list[str] | None = None,
        gains: Gains | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(head, names)
        gains = gains or Gains()
        common: dict[str, Any] = {"class_weights": class_weights, "pool": lambda total, least: self.pool(total, least)}
        self.one2many = DetectionLoss(head, gains, **common)
        self.one2one = DetectionLoss(head, gains, topk=7, topk2=1, **common)
        self.schedule = DualSchedule()

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """The weights of the classes, where they are asked for."""
        power = settings.class_weights
        return {"class_weights": class_weights(class_counts(samples, nc), power)} if power else {}

    @classmethod
    def default_rate(cls, nc: int) -> float:
        """A rate that falls with the number of classes, as the classes' loss grows with it."""
        return round(0.01 / (4 + nc), 6)

    def feed(self, samples: Sequence[Sample], feeding: Feeding) -> tuple[SampleSource, Collate]:
        """Pictures with boxes."""
        return feed_boxes(samples, feeding, self.stride)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Non-maximum suppression as COCO's evaluation wants it: a box may have several classes."""
        return {"conf": settings.conf, "iou": settings.iou, "max_det": settings.max_det, "multi_label": True}

    def loss(self, outputs: Raw, batch: Batch) -> Losses:
        """The parts' sum times the batch size; the parts themselves are not multiplied.

        Of two branches the parts are those of one-to-one.
        """
        first = outputs.get("one2one", outputs)
        with torch.autocast(first["boxes"].device.type, enabled=False):
            if "one2one" not in outputs:
                parts = self.one2many(outputs, batch)
                total = _sum(parts)
            else:
                parts = self.one2one(outputs["one2one"], batch)
                share = self.schedule.share
                total = share * _sum(self.one2many(outputs["one2many"], batch)) + (1 - share) * _sum(parts)
        return total * len(first["boxes"]), {name: part.detach() for name, part in parts.items()}

    def check_loss(self) -> None:
        """Refuse heads that are not anchor-free.

        Raises:
            NetbuildError: for such a one.
        """
        if not hasattr(self.head, "reg_max"):
            said = f"the task 'detect' has no loss for the head {type(self.head).__name__}"
            raise NetbuildError(said, hint="it predicts and is measured; an anchor-free head such as Detect learns")

    def least(self, outputs: Raw, batch: Batch) -> float:
        """Of the branches by their share, times the batch size."""
        count = len(outputs.get("one2one", outputs)["boxes"])
        if "one2one" not in outputs:
            return count * self.one2many.least(outputs, batch)
        share = self.schedule.share
        many, one = self.one2many.least(outputs["one2many"], batch), self.one2one.least(outputs["one2one"], batch)
        return count * (share * many + (1 - share) * one)

    def metric(self) -> DetectionMetric:
        """mAP as COCO has it, and more."""
        return DetectionMetric(self.names or [str(i) for i in range(int(self.head.nc))])  # type: ignore[arg-type]

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """The picture with its boxes and their classes."""
        own = batch["index"].view(-1) == i
        h, w = batch["images"].shape[-2:]
        boxes = to_corners(batch["boxes"].view(-1, 4)[own].detach().cpu().float()) * torch.tensor([w, h, w, h])
        classes = batch["classes"].view(-1)[own].int().tolist()
        labels, colours = [self.class_name(c) for c in classes], [colour(c) for c in classes]
        return Drawing(picture(batch["images"][i]), boxes.numpy(), labels, colours)

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Shift weight from the one-to-many branch to the other."""
        self.schedule.epoch_end(finished, epochs)

    def suppression(self, given: Mapping[str, Any]) -> Filter:
        """The filter of these options.

        Raises:
            NetbuildError: if the head needs no suppression, or for a wrong value.
            MissingExtraError: without torchvision, which a file's suppression is compared with.
        """
        if self.head.ranks():  # type: ignore[operator]
            said = f"--nms: the head {type(self.head).__name__} gives each object once, it needs no suppression"
            raise NetbuildError(said, hint="leave it out")
        package("torchvision.ops", "train")
        return Filter(**self.options(given))


def _sum(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()
