"""Boxes with an angle: what is kept, and how they are told and shown."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netbuild import runtime
from netbuild.drawing.annotated import Drawing, Image
from netbuild.layers.heads.base import traits
from netbuild.tasks.base import ReadTask, Record, View
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.box_task import BoxTask
from netbuild.tasks.nms import Filter, best_rows, candidates


class TurnedTask(ReadTask, BoxTask):
    """Boxes, classes, and how each box is turned. Of boxes that overlap as they lie the best is kept."""

    name = "obb"
    record_fields = ("box", "corners")

    def chosen(self, y: Tensor, wanted: Filter) -> list[Tensor]:
        """Rows (n, 6+ne) of each image, best first: corners before the box is turned, score, class, angle."""
        if traits(self.head).ranks:
            return [torch.cat((to_corners(rows[:, :4]), rows[:, 4:]), 1) for rows in best_rows(y, wanted)]
        found = [candidates(image.float(), self.nc, wanted) for image in y.detach()]
        same = runtime.Filter(**vars(wanted))
        return [rows[runtime.kept_turned(rows.cpu().numpy(), same)] for rows in found]

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """As of detection with the box around it, and its four corners in pixels of the picture, in order."""
        found = runtime.turned(prediction.cpu().numpy(), view.place)
        return [{**record, **turned} for record, turned in zip(super().records(prediction, view), found, strict=True)]

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """``class x1 y1 x2 y2 x3 y3 x4 y4 confidence``, as parts of the picture's size."""
        h, w = size
        lines = []
        for record in records:
            parts = [v for x, y in record["corners"] for v in (x / w, y / h)]
            lines.append(" ".join([str(record["class"]), *(f"{v:.6f}" for v in (*parts, record["confidence"]))]))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Boxes as they lie."""
        boxes, labels, colours = self.labelled(records)
        outlines = np.array([record["corners"] for record in records]).reshape(-1, 4, 2)
        return Drawing(image, boxes, labels, colours, outlines=outlines)
