"""The metric of oriented boxes: COCO's figures by ProbIoU, and by the exact IoU of polygons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netbuild import runtime
from netbuild.feed.rectangles import fit_rectangles
from netbuild.tasks.average_precision import Floats, Ints
from netbuild.tasks.base import Batch
from netbuild.tasks.object_metric import ObjectMetric
from netbuild.tasks.overlap_evaluation import OverlapEvaluation
from netbuild.tasks.rotated_math import probiou


class RotatedEvaluation(OverlapEvaluation):
    """Oriented boxes, compared with the smallest rectangles around the objects by ProbIoU. arXiv 2106.06072.

    Overlaps are measured in pixels of the network's input, areas in those of the original picture.

    Args:
        names, detections, truths: see `OverlapEvaluation`; the boxes are the upright ones around the oriented ones.
        found: for each picture (n, 5), the detected oriented boxes.
        corners: for each picture (m, 4, 2), the corners of the objects as they are labelled.
        scales: for each picture the area in the network's input of one square pixel of the original.
        prefix: see `OverlapEvaluation`; only the evaluation without one adds to the fitness.
    """

    def __init__(
        self,
        names: Sequence[str],
        detections: Sequence[Floats],
        truths: Sequence[Floats],
        found: Sequence[Floats],
        corners: Sequence[Floats],
        scales: Sequence[float],
        prefix: str = "",
    ) -> None:
        super().__init__(names, detections, truths)
        self.found, self.corners, self.scales, self.prefix = found, corners, scales, prefix
        self._overlaps: dict[int, Floats] = {}

    def overlap(self, picture: int, found: Ints, true: Ints) -> Floats:
        """Return the overlaps (len(found), len(true)) of detected boxes with objects."""
        if picture not in self._overlaps:
            self._overlaps[picture] = self.compare(self.found[picture], self.corners[picture])
        return self._overlaps[picture][np.ix_(found, true)]

    def compare(self, boxes: Floats, corners: Floats) -> Floats:
        """Return the overlaps (n, m) of oriented boxes (n, 5) with objects of these corners (m, 4, 2)."""
        rectangles = fit_rectangles(torch.from_numpy(corners))
        return probiou(torch.from_numpy(boxes)[:, None], rectangles[None]).numpy()

    def found_areas(self, picture: int) -> Floats:
        """Return the areas (n,) of a picture's detections in square pixels."""
        return np.abs(self.found[picture][:, 2:4].prod(1)) / self.scales[picture]

    def true_areas(self, picture: int) -> Floats:
        """Return the areas (m,) of a picture's objects in square pixels."""
        return runtime.polygon_areas(self.corners[picture]) / self.scales[picture]

    def fitness(self) -> float:
        """Return mAP50-95 by the main overlap; the further one adds nothing, because it compares the same boxes."""
        return 0.0 if self.prefix else super().fitness()


class PolygonEvaluation(RotatedEvaluation):
    """Oriented boxes, compared with the objects' corners as they are labelled by the exact IoU of the polygons."""

    def compare(self, boxes: Floats, corners: Floats) -> Floats:
        """Return the IoU (n, m) of oriented boxes (n, 5) with polygons of these corners (m, 4, 2)."""
        rows = [runtime.polygon_iou(box, corners) for box in boxes]
        return np.nan_to_num(np.array(rows)).reshape(len(boxes), len(corners))  # a box without area overlaps nothing


class RotatedMetric(ObjectMetric):
    """COCO's figures, precision, recall and F1 of oriented boxes by ProbIoU and by the exact IoU of polygons.

    The names of the figures by the overlap that is not the main one begin with "polygon-" or "probiou-". See
    `ObjectMetric`.
    """

    overlaps = ("probiou", "polygon")
    lists = (*ObjectMetric.lists, "found", "corners", "scales")

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.found: list[Floats] = []  # for each picture (n, 5): the detected boxes
        self.corners: list[Floats] = []  # for each picture (m, 4, 2): the corners of the objects
        self.scales: list[float] = []  # for each picture the area of one of its pixels in the network's input

    def evaluations(self) -> list[RotatedEvaluation]:
        """Return the evaluations by ProbIoU and by the IoU of polygons, the main one first."""
        lists = self.detections, self.truths, self.found, self.corners, self.scales
        kinds = {"probiou": RotatedEvaluation, "polygon": PolygonEvaluation}
        main = kinds.pop(self.main_overlap)
        further = [kind(self.names, *lists, prefix=f"{name}-") for name, kind in kinds.items()]
        return [main(self.names, *lists), *further]

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: for each image (n, 7+): corners before rotation in pixels of the input, score, class, angle.
            batch: as `ObjectMetric.update` takes it, and "corners" (M, 4, 2) in fractions of the input.
        """
        h, w = batch["images"].shape[-2:]
        corners = batch["corners"].detach().cpu().double().view(-1, 4, 2) * torch.tensor([w, h])
        index, upright = batch["index"].cpu().view(-1), []
        for i, rows in enumerate(predictions):
            boxes = runtime.to_rotated_boxes(rows.detach().cpu().numpy())
            self.found.append(boxes)
            self.corners.append(corners[index == i].numpy())
            self.scales.append(scale_of(batch["letterbox"][i]) if "letterbox" in batch else 1.0)
            around = runtime.find_corners(boxes)
            hull = torch.from_numpy(np.concatenate((around.min(1), around.max(1)), 1))
            upright.append(torch.cat((hull, rows[:, 4:6].detach().cpu().double()), 1))
        super().update(upright, batch)


def scale_of(letterbox: Any) -> float:
    """Return the area in the network's input of a square pixel of the original picture."""
    (inner_height, inner_width), (height, width) = letterbox.inner, letterbox.size
    return float(inner_height * inner_width / (height * width))
