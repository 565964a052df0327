"""Pose estimation: boxes with keypoints. YOLO-Pose, arXiv 2204.06806."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.drawing.annotated import Drawing, Image, class_colour
from netbuild.tasks.base import PredictOnlyTask, Record, View
from netbuild.tasks.box_task import BoxTask

MIN_VISIBILITY = 0.5  # keypoints below it are not drawn


class PoseTask(PredictOnlyTask, BoxTask):
    """Boxes with classes and keypoints."""

    name = "pose"
    embedded = "shapes-pose"
    record_fields = ("box", "keypoints")

    def records(self, prediction: Tensor, view: View) -> list[Record]:
        """Return the records of detection and "keypoints": x, y in pixels, perhaps outside the picture, visibility."""
        fields = runtime.keypoint_fields(prediction.cpu().numpy(), self.extra, view.letterbox)
        return self.add_fields(super().records(prediction, view), fields)

    def rows(self, records: Sequence[Record], size: tuple[int, int]) -> list[str]:
        """Return lines ``class cx cy w h x y visibility ... confidence``, lengths as fractions of the picture."""
        h, w = size
        lines = []
        for record, line in zip(records, super().rows(records, size), strict=True):
            box, confidence = line.rsplit(" ", 1)
            points = (f"{v:.6f}" for x, y, *more in record["keypoints"] for v in (x / w, y / h, *more))
            lines.append(" ".join((box, *points, confidence)))
        return lines

    def draw(self, image: Image, prediction: Any, records: Sequence[Record]) -> Drawing:
        """Draw boxes, and the keypoints that are likely visible."""
        dots = []
        for record in records:
            visible = [p[:2] for p in record["keypoints"] if len(p) < 3 or p[2] >= MIN_VISIBILITY]
            dots.append((np.array(visible).reshape(-1, 2), class_colour(record["class"])))
        return Drawing(image, *self.label_boxes(records), points=dots)
