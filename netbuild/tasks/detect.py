"""Detection: the loss of anchor-free heads, with one branch or two, and boxes from their outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.data.dataset import Sample
from netbuild.drawing.annotated import Drawing, class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.samples import BOX_KINDS
from netbuild.layers.heads.base import traits
from netbuild.settings import Settings
from netbuild.system.packages import package
from netbuild.tasks.base import Batch, Losses, class_counts, class_weights, picture
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.detection_metric import CONFUSION, DetectionMetric
from netbuild.tasks.losses import find as find_loss
from netbuild.tasks.losses.base import Gains, HeadLoss
from netbuild.tasks.nms import Filter


class DetectTask(BoxTask):
    """Boxes and classes. A batch has "boxes" (M, 4) as centre and size in fractions of the image, "classes", "index".

    Args:
        head: a head with boxes; the loss that it names by ``learns`` teaches it, see `netbuild.tasks.losses`.
        names: names of the classes.
        gains: weights of the loss's parts.
        class_weights: (nc,) factors of the classes' cross-entropy.

    Raises:
        NetbuildError: if the head is none of these.
    """

    name = "detect"
    embedded = "digits-detect"
    learns_from = ("detect",)
    target_kinds = BOX_KINDS
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
        self.criterion = self.make_loss(gains, class_weights)
        self.summed = self.criterion.summed if self.criterion else True

    def make_loss(self, gains: Gains | None, class_weights: Tensor | None) -> HeadLoss | None:
        """The loss that the head names by ``learns``; None for a head that can only be read."""
        name = traits(self.head).learns
        # The normaliser is looked up when it is used: a run of several processes replaces it.
        return (
            find_loss(name)(self.head, gains, class_weights, lambda total, least: self.normaliser(total, least))
            if name
            else None
        )

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """The weights of the classes, where they are asked for."""
        power = settings.class_weights
        return {"class_weights": class_weights(class_counts(samples, nc), power)} if power else {}

    @classmethod
    def default_rate(cls, nc: int) -> float:
        """A rate that falls with the number of classes, as the classes' loss grows with it."""
        return round(0.01 / (4 + nc), 6)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Non-maximum suppression as COCO's evaluation wants it: a box may have several classes."""
        return {"conf": settings.conf, "iou": settings.iou, "max_det": settings.max_det, "multi_label": True}

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the loss that the head names, and its terms by name.

        Raises:
            NetbuildError: for a head that names none.
        """
        self.check_loss()
        assert self.criterion is not None
        return self.criterion(outputs, batch)

    def check_loss(self) -> None:
        """Refuse a head that names no loss.

        Raises:
            NetbuildError: for such a head.
        """
        if self.criterion is None:
            message = f"the task 'detect' has no loss for the head {type(self.head).__name__}"
            raise NetbuildError(message, hint="a head names its loss by the attribute learns")

    def least(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any prediction could reach."""
        return self.criterion.least(outputs, batch) if self.criterion else 0.0

    def metric(self) -> DetectionMetric:
        """mAP as COCO has it, and more."""
        return DetectionMetric(self.names or [str(i) for i in range(self.nc)])

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """The picture with its boxes and their classes."""
        own = batch["index"].view(-1) == i
        h, w = batch["images"].shape[-2:]
        boxes = to_corners(batch["boxes"].view(-1, 4)[own].detach().cpu().float()) * torch.tensor([w, h, w, h])
        classes = batch["classes"].view(-1)[own].int().tolist()
        labels, colours = [self.class_name(c) for c in classes], [class_colour(c) for c in classes]
        return Drawing(picture(batch["images"][i]), boxes.numpy(), labels, colours)

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Tell the loss, whose terms may have a schedule."""
        if self.criterion:
            self.criterion.epoch_end(finished, epochs)

    def suppression(self, given: Mapping[str, Any]) -> Filter:
        """The filter of these options.

        Raises:
            NetbuildError: if the head needs no suppression, or for a wrong value.
            MissingExtraError: without torchvision, which a file's suppression is compared with.
        """
        if traits(self.head).ranks:
            said = f"--nms: the head {type(self.head).__name__} gives each object once, it needs no suppression"
            raise NetbuildError(said, hint="leave it out")
        package("torchvision.ops", "train")
        return Filter(**self.options(given))
