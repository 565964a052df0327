"""Detection: the loss of anchor-free heads, with one branch or two, and boxes from their outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.data.dataset import Sample
from netbuild.drawing.annotated import Drawing, class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.boxes import feed_boxes
from netbuild.feed.loader import Collate, Feeding, SampleSource
from netbuild.settings import Settings
from netbuild.system.packages import package
from netbuild.tasks.base import Batch, Losses, class_counts, class_weights, picture
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.detection_metric import CONFUSION, DetectionMetric
from netbuild.tasks.losses.cells import DetectionLoss, Gains, Raw
from netbuild.tasks.nms import Filter


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
        labels, colours = [self.class_name(c) for c in classes], [class_colour(c) for c in classes]
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
