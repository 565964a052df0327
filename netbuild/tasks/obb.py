"""Oriented boxes: rotated by an angle that the head predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from netbuild import runtime
from netbuild.data.dataset import Dataset, Sample
from netbuild.drawing.annotated import Drawing, Image
from netbuild.errors import NetbuildError
from netbuild.feed.targets import BoxTarget, RotatedBoxTarget, Target
from netbuild.layers.heads.base import traits
from netbuild.settings import FIELDS, Settings
from netbuild.tasks.base import Batch, Metric, Record, View
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.nms import Filter, filter_rows, find_candidates
from netbuild.tasks.rotated_metric import RotatedMetric

CONFIDENCE = 0.01  # least confidence in validation, where the setting is left at the default of upright boxes


class OrientedBoxTask(BoxTask):
    """Boxes with classes and angles; suppression compares the boxes as they are rotated.

    A batch has also "corners" (M, 4, 2), the corners of each object in fractions of the image.
    """

    name = "obb"
    embedded = "shapes-obb"
    record_fields = ("box", "corners")
    measures: ClassVar[tuple[str, ...]] = ("mAP50-95", "mAP50", "polygon-mAP50-95", "precision", "recall")
    target_kinds: ClassVar[Mapping[str, type[Target]]] = {"boxes": BoxTarget, "polygons": RotatedBoxTarget}

    # -- training -----------------------------------------------------------------------------------------------------

    def check_samples(self, dataset: Dataset, samples: Sequence[Sample]) -> None:
        """Check that every object has a polygon, around which its oriented box is fitted.

        Raises:
            NetbuildError: if one has only an upright box.
        """
        super().check_samples(dataset, samples)
        for sample in map(Sample.without_crowds, samples):
            if len(sample.classes) and not (sample.outlines and all(sample.outlines)):
                place = sample.source or sample.path
                hint = "label four corners for each object (class x1 y1 x2 y2 x3 y3 x4 y4) or a polygon"
                raise NetbuildError(f"{place}: an object has only an upright box, which has no angle", hint=hint)

    @classmethod
    def decode_options(cls, settings: Settings) -> dict[str, Any]:
        """Return the settings' thresholds; the default of the confidence is larger than that of upright boxes."""
        if settings.conf == FIELDS["conf"].default:  # exact suppression of thousands of rotated boxes would be slow
            settings = replace(settings, conf=CONFIDENCE)
        return super().decode_options(settings)

    def draw_truth(self, batch: Batch, i: int) -> Drawing:
        """Draw the picture with its objects' corners and their classes."""
        drawing = super().draw_truth(batch, i)
        h, w = batch["images"].shape[-2:]
        of_image = batch["index"].view(-1) == i
        corners = batch["corners"].view(-1, 4, 2)[of_image].detach().cpu().float() * torch.tensor([w, h])
        return replace(drawing, outlines=corners.numpy())

    def metric(self) -> Metric:
        """Return a metric of mAP by COCO's definition, precision, recall and F1, by the overlap of rotated boxes."""
        return RotatedMetric(self.class_names)

    # -- prediction ---------------------------------------------------------------------------------------------------

    def select_rows(self, y: Tensor, options: Filter) -> list[Tensor]:
        """Return rows (n, 6+ne) for each image, best first: corners before rotation, score, class, angles."""
        if traits(self.head).ranks:
            return [torch.cat((to_corners(rows[:, :4]), rows[:, 4:]), 1) for rows in filter_rows(y, options)]
        found = [find_candidates(image.float(), self.nc, options) for image in y.detach()]
        return [rows[runtime.suppress_rotated(rows.cpu().numpy(), options)] for rows in found]

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return the records of detection with the upright box and the four corners, in order, in pixels."""
        fields = runtime.rotated_box_fields(prediction.cpu().numpy(), view.letterbox)
        return self.add_fields(super().records(prediction, view), fields)

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class x1 y1 x2 y2 x3 y3 x4 y4 confidence``, corners in fractions of the picture's size."""
        h, w = size
        lines = []
        for record in records:
            parts = [v for x, y in record["corners"] for v in (x / w, y / h)]
            lines.append(" ".join([str(record["class"]), *(f"{v:.6f}" for v in (*parts, record["confidence"]))]))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw the rotated boxes."""
        boxes, labels, colours = self.label_boxes(records)
        outlines = np.array([record["corners"] for record in records]).reshape(-1, 4, 2)
        return Drawing(image, boxes, labels, colours, outlines=outlines)
