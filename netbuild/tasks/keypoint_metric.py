"""The metric of pose estimation: COCO's figures of boxes and of keypoints by OKS, PCK, and the mean error of points."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from netbuild import runtime
from netbuild.tasks.average_precision import Bools, Floats, Ints
from netbuild.tasks.base import Batch
from netbuild.tasks.coco_evaluation import BoxEvaluation, CocoEvaluation
from netbuild.tasks.keypoint_math import AREA_SHARE
from netbuild.tasks.matching import match_in_order
from netbuild.tasks.object_metric import ObjectMetric
from netbuild.tasks.overlap_evaluation import MATCH_IOU

PCK_DISTANCE = 0.1  # a point this near to the true one, in diagonals of the object's box, counts as found


class KeypointEvaluation(CocoEvaluation):
    """Poses, compared by the similarity of their keypoints (OKS), as COCO's tool does for ``keypoints``.

    Where only an object's box is known, its area is `AREA_SHARE` of the box. Objects without a visible keypoint do not
    count, nor what is found in them. As in COCO, at most 20 detections per picture and class count.

    Args:
        names, detections, truths: see `OverlapEvaluation`.
        found_points: for each picture (n, K, 2 or 3) keypoints of its detections in pixels.
        true_points: for each picture (m, K, 3) keypoints of its objects in pixels, and their visibility.
        sigmas: (K,) of the keypoints.
    """

    prefix = "pose-"
    iou_type = "keypoints"
    figure_names = (
        "mAP50-95", "mAP50", "mAP75", "mAP50-95-medium", "mAP50-95-large", "AR", "AR50", "AR75", "AR-medium", "AR-large"
    )  # fmt: skip

    def __init__(
        self,
        names: Sequence[str],
        detections: Sequence[Floats],
        truths: Sequence[Floats],
        found_points: Sequence[Floats],
        true_points: Sequence[Floats],
        sigmas: Sequence[float],
    ) -> None:
        super().__init__(names, detections, truths)
        self.found_points, self.true_points, self.sigmas = found_points, true_points, np.array(sigmas)

    def evaluator_options(self) -> dict[str, Any]:
        """Return the sigmas of the keypoints, by the tool's name."""
        return {"kpt_oks_sigmas": self.sigmas}

    def found_fields(self, picture: int, number: int) -> dict[str, Any]:
        """Return the keypoints of a picture's detection in COCO's format, without its box: results of COCO have none.

        So the tool takes for the detection's area the one that its keypoints span, see `found_areas`.
        """
        points = self.found_points[picture][number]
        rows = np.column_stack((points[:, :2], np.ones(len(points))))
        return {"keypoints": rows.flatten().tolist()}

    def true_fields(self, picture: int, number: int) -> dict[str, Any]:
        """Return the box and the keypoints of a picture's object in COCO's format."""
        points = self.true_points[picture][number]
        fields = {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
        return {**super().true_fields(picture, number), **fields}

    def found_areas(self, picture: int) -> Floats:
        """Return the areas (n,) of the upright boxes around the keypoints of a picture's detections."""
        points = self.found_points[picture][..., :2]
        return np.ptp(points, axis=1).prod(-1) if len(points) else np.zeros(0)

    def true_areas(self, picture: int) -> Floats:
        """Return the areas (m,) of a picture's objects in square pixels, estimated from their boxes."""
        return super().true_areas(picture) * AREA_SHARE

    def is_ignored(self, picture: int) -> Bools:
        """Return (m,) whether each object is a crowd or has no visible keypoint."""
        return super().is_ignored(picture) | ~(self.true_points[picture][..., 2] > 0).any(-1)

    def overlap(self, picture: int, found: Ints, true: Ints) -> Floats:
        """Return OKS of detections with objects; for one without visible keypoints by the distance to its box.

        That distance is, as in COCO, the one to the box enlarged by its size on each side, of all keypoints.
        """
        points, objects = self.found_points[picture][found, None, :, :2], self.true_points[picture][None, true]
        boxes = self.truths[picture][true, :4]
        low, high = boxes[:, :2], boxes[:, 2:]
        low, high = (edge[None, :, None] for edge in (low - (high - low), high + (high - low)))
        outside = np.maximum(low - points, 0) + np.maximum(points - high, 0)
        visible = objects[..., 2:] > 0
        known = visible.any(-2, keepdims=True)
        squared = (np.where(known, points - objects[..., :2], outside) ** 2).sum(-1)
        areas = self.true_areas(picture)[true, None] + np.spacing(1)
        similarity = np.exp(-squared / (2 * self.sigmas) ** 2 / areas / 2)
        counts = (visible | ~known)[..., 0]
        return (similarity * counts).sum(-1) / np.maximum(counts.sum(-1), 1)

    def crowd_share(self, picture: int, found: Ints, crowds: Ints) -> Floats:
        """Return OKS with crowds: COCO's tool compares poses with crowds as with any object."""
        return self.overlap(picture, found, crowds)


class PointErrors:
    """Distances of predicted keypoints from the true ones, in diagonals of the objects' boxes.

    Each detection, best first, takes the object of its class whose box it overlaps most and that no better detection
    has taken, if their IoU is at least `MATCH_IOU`. Crowds, and points that are not annotated, do not count.

    Args:
        boxes: the evaluation of the boxes.
        points: the evaluation of the keypoints.
    """

    def __init__(self, boxes: BoxEvaluation, points: KeypointEvaluation) -> None:
        self.boxes, self.points = boxes, points

    @cached_property
    def by_class(self) -> dict[int, tuple[Floats, int]]:
        """By class with visible points: the errors of the points of matched objects, and the number of all points."""
        errors: dict[int, list[Floats]] = {}
        counts: dict[int, int] = {}
        for i, true in enumerate(self.boxes.truths):
            counted = ~self.points.is_ignored(i)
            for number in np.unique(true[counted, 4]).astype(int).tolist():
                objects = np.flatnonzero((true[:, 4] == number) & counted)
                counts[number] = counts.get(number, 0) + int((self.points.true_points[i][objects, :, 2] > 0).sum())
                errors.setdefault(number, []).append(self._match(i, number, objects))
        return {number: (np.concatenate(errors[number]), count) for number, count in counts.items()}

    def _match(self, picture: int, number: int, objects: Ints) -> Floats:
        """Return the errors of the visible points of those objects of a class that a detection matches."""
        rows = self.boxes.detections[picture]
        order = np.argsort(-rows[:, 4], kind="stable")
        found = order[rows[order, 5] == number]
        errors = [np.zeros(0)]
        for d, g in match_in_order(self.boxes.overlap(picture, found, objects), MATCH_IOU):
            true, box = self.points.true_points[picture][objects[g]], self.boxes.truths[picture][objects[g]]
            distance = np.hypot(*(self.points.found_points[picture][found[d], :, :2] - true[:, :2]).T)
            errors.append(distance[true[:, 2] > 0] / np.hypot(*(box[2:4] - box[:2])))
        return np.concatenate(errors)

    def figures(self, number: int | None = None) -> dict[str, float]:
        """Return "PCK" and "point-error" of a class, or over all points of all classes; -1 where there are none."""
        chosen = [found for n, found in self.by_class.items() if number in (None, n)]
        errors, count = np.concatenate([np.zeros(0), *(e for e, _ in chosen)]), sum(c for _, c in chosen)
        return {
            "PCK": float((errors <= PCK_DISTANCE).sum() / count) if count else -1.0,
            "point-error": float(errors.mean()) if len(errors) else -1.0,
        }


class KeypointMetric(ObjectMetric):
    """COCO's figures of boxes, and with the prefix "pose-" of keypoints by OKS; PCK and the mean error of points.

    "PCK" is the share of the visible true points that are predicted within `PCK_DISTANCE` diagonals of their object's
    box; all points of an object without a matching detection count as missed. "point-error" is the mean distance of
    predicted points from the true ones, in diagonals, over the matched objects; see `PointErrors`.

    Args:
        names: names of the classes.
        shape: the number of keypoints, and of values of each in a prediction.
        sigmas: (K,) of the keypoints.
    """

    lists = (*ObjectMetric.lists, "found_points", "true_points")
    lower_is_better = ("point-error",)

    def __init__(self, names: Sequence[str], shape: tuple[int, ...], sigmas: Sequence[float]) -> None:
        super().__init__(names)
        self.shape, self.sigmas = shape, tuple(sigmas)
        self.found_points: list[Floats] = []  # for each image (n, K, D)
        self.true_points: list[Floats] = []  # for each image (m, K, 3)

    def update(self, predictions: Sequence[Tensor], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: for each image (n, 6+K*D): corners in pixels of the input, score, class, keypoints.
            batch: as `ObjectMetric.update` takes it, with "keypoints" (M, K, 3): x, y in fractions of the input, and
                the visibility.
        """
        super().update(predictions, batch)
        h, w = batch["images"].shape[-2:]
        known, index = batch["keypoints"].detach().cpu().double(), batch["index"].cpu().view(-1)
        true = known.numpy().reshape(len(known), -1, 3) * (w, h, 1) if len(known) else np.zeros((0, self.shape[0], 3))
        for i, rows in enumerate(predictions):
            found = rows.detach().cpu().double()[:, 6:].numpy().reshape(-1, *self.shape)
            lists = [found, true[(index == i).numpy()]]
            if "letterbox" in batch:
                lists = [undo_points(points, batch["letterbox"][i]) for points in lists]
            self.found_points.append(lists[0])
            self.true_points.append(lists[1])

    def evaluations(self) -> list[BoxEvaluation | KeypointEvaluation]:
        """Return the evaluations of boxes by their IoU, and of keypoints by OKS."""
        boxes = self.names, self.detections, self.truths
        return [BoxEvaluation(*boxes), KeypointEvaluation(*boxes, self.found_points, self.true_points, self.sigmas)]

    @property
    def point_errors(self) -> PointErrors:
        """The errors of the present state."""
        return PointErrors(*self.current_evaluations())  # type: ignore[arg-type]

    def result(self) -> dict[str, float]:
        """Return the figures of boxes and of keypoints, PCK and the mean error of points, and the fitness."""
        return {**super().result(), **self.point_errors.figures()}

    def classes(self) -> list[dict[str, Any]]:
        """Return for each class with objects its figures of boxes and of keypoints, PCK and mean error."""
        errors, numbers = self.point_errors, self.current_evaluations()[0].count_objects()
        return [{**row, **errors.figures(number)} for number, row in zip(numbers, super().classes(), strict=True)]


def undo_points(points: Floats, letterbox: Any) -> Floats:
    """Map keypoints (n, K, 2 or 3) from pixels of the input to pixels of the picture."""
    return np.concatenate((runtime.map_to_picture(points[..., :2], letterbox), points[..., 2:]), -1)
