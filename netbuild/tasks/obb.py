"""Oriented boxes: rotated by an angle that the head predicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netbuild import runtime
from netbuild.drawing.annotated import Drawing, Image
from netbuild.layers.heads.base import traits
from netbuild.tasks.base import PredictOnlyTask, Record, View
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.nms import Filter, filter_rows, find_candidates


class OrientedBoxTask(PredictOnlyTask, BoxTask):
    """Boxes with classes and angles; suppression compares the boxes as they are rotated."""

    name = "obb"
    embedded = "shapes-obb"
    record_fields = ("box", "corners")

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
