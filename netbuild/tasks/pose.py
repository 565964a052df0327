"""Boxes with keypoints. YOLO-Pose, arXiv 2204.06806."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.tasks.base import ReadTask, Record, View
from netbuild.tasks.box_task import BoxTask

SEEN = 0.5  # least chance that a keypoint is seen, of those that are drawn


class PoseTask(ReadTask, BoxTask):
    """Boxes, classes, and the keypoints of each."""

    name = "pose"
    record_fields = ("box", "keypoints")

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """As of detection, and keypoints: x, y in pixels, perhaps outside the picture, and whether each is seen."""
        found = runtime.keypoints(prediction.cpu().numpy(), self.extra, view.place)
        return [{**record, **points} for record, points in zip(super().records(prediction, view), found, strict=True)]

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """``class cx cy w h x y seen ... confidence``, lengths as parts of the picture's size."""
        h, w = size
        lines = []
        for record, line in zip(records, super().rows(records, size), strict=True):
            box, confidence = line.rsplit(" ", 1)
            points = (f"{v:.6f}" for x, y, *more in record["keypoints"] for v in (x / w, y / h, *more))
            lines.append(" ".join((box, *points, confidence)))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Boxes, and the keypoints that are likelier seen than not."""
        points = [
            ([p[:2] for p in r["keypoints"] if len(p) < 3 or p[2] >= SEEN], class_colour(r["class"])) for r in records
        ]
        dots = [(np.array(places).reshape(-1, 2), tint) for places, tint in points]
        return Drawing(image, *self.labelled(records), points=dots)
