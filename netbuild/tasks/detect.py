"""Detection: boxes and classes, learnt by the loss that the head names."""

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
from netbuild.tasks.base import Batch, Losses, class_weight_option, to_picture
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.detection_metric import CONFUSION_CONFIDENCE, DetectionMetric
from netbuild.tasks.losses import find as find_loss
from netbuild.tasks.losses.base import Gains, HeadLoss
from netbuild.tasks.nms import Filter


class DetectTask(BoxTask):
    """Boxes and classes.

    A batch has "boxes" (M, 4) as centre and size in fractions of the image, "classes" (M,), and "index" (M,), the image
    of each box.

    Args:
        head: a head with boxes, see `BoxTask`; it is trained by the loss that its ``learns`` names.
        names: names of the classes.
        gains: weights of the loss's terms.
        class_weights: (nc,) factors of the classes' cross-entropy.

    Raises:
        NetbuildError: if the head has no boxes or its strides are unknown.
    """

    name = "detect"
    embedded = "digits-detect"
    learns_from = ("detect",)
    target_kinds = BOX_KINDS
    measures = ("mAP50-95", "mAP50", "precision", "recall")
    unused_settings = ("label_smoothing",)
    draw_confidence = CONFUSION_CONFIDENCE
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
        """Return the loss that the head names by ``learns``; None if it names none."""
        name = traits(self.head).learns
        # A run of several processes replaces `self.normaliser` later, so the loss must look it up at each call.
        return (
            find_loss(name)(self.head, gains, class_weights, lambda total, least: self.normaliser(total, least))
            if name
            else None
        )

    @classmethod
    def options_of(cls, settings: Settings, samples: Sequence[Sample], nc: int) -> dict[str, Any]:
        """Return the weights of the classes if the settings ask for them."""
        return class_weight_option(settings, samples, nc)

    @classmethod
    def default_rate(cls, nc: int) -> float:
        """Return a rate that falls with the number of classes, because the loss of the classes grows with it."""
        return round(0.01 / (4 + nc), 6)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the settings' thresholds; a box may have several classes, as usual for COCO's evaluation."""
        return {"conf": settings.conf, "iou": settings.iou, "max_det": settings.max_det, "multi_label": True}

    def loss(self, outputs: Any, batch: Batch) -> Losses:
        """Return the head's loss and its terms by name.

        Raises:
            NetbuildError: if the head names no loss.
        """
        self.check_loss()
        assert self.criterion is not None
        return self.criterion(outputs, batch)

    def check_loss(self) -> None:
        """Check that the head names a loss.

        Raises:
            NetbuildError: if it does not.
        """
        if self.criterion is None:
            message = f"the task 'detect' has no loss for the head {type(self.head).__name__}"
            raise NetbuildError(message, hint="a head names its loss by its attribute learns")

    def lower_bound(self, outputs: Any, batch: Batch) -> float:
        """Return the smallest loss that any outputs could reach for these targets."""
        return self.criterion.lower_bound(outputs, batch) if self.criterion else 0.0

    def metric(self) -> DetectionMetric:
        """Return a metric of mAP by COCO's definition, precision, recall and F1."""
        return DetectionMetric(self.names or [str(i) for i in range(self.nc)])

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with its boxes and their classes."""
        of_image = batch["index"].view(-1) == i
        h, w = batch["images"].shape[-2:]
        boxes = to_corners(batch["boxes"].view(-1, 4)[of_image].detach().cpu().float()) * torch.tensor([w, h, w, h])
        classes = batch["classes"].view(-1)[of_image].int().tolist()
        labels, colours = [self.class_name(c) for c in classes], [class_colour(c) for c in classes]
        return Drawing(to_picture(batch["images"][i]), boxes.numpy(), labels, colours)

    def epoch_end(self, finished: int, epochs: int) -> None:
        """Pass the epoch on to the loss, which may have a schedule."""
        if self.criterion:
            self.criterion.epoch_end(finished, epochs)

    def make_nms_filter(self, given: Mapping[str, Any]) -> Filter:
        """Return the filter of these options.

        Raises:
            NetbuildError: if the head needs no suppression, or for a wrong value.
            MissingExtraError: without torchvision, whose suppression the file's is compared with.
        """
        if traits(self.head).ranks:
            message = f"--nms: the head {type(self.head).__name__} gives each object once, it needs no suppression"
            raise NetbuildError(message, hint="leave it out")
        package("torchvision.ops", "train")
        return Filter(**self.options(given))
