"""The base of metrics of objects: detections and truths of each picture, measured by one or several overlaps."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from netbuild.tasks.average_precision import Floats, Ints
from netbuild.tasks.base import Batch, Metric
from netbuild.tasks.box_math import to_corners
from netbuild.tasks.overlap_evaluation import OverlapEvaluation
from netbuild.tasks.precision_curves import PrecisionCurves


class ObjectMetric(Metric):
    """COCO's figures, precision, recall and F1 of detected objects, by one or several kinds of overlap.

    The metric keeps the boxes of each picture, in pixels of the original picture, or of the network's input if a batch
    has no "letterbox". To compare more than boxes, a subclass

    1. names in ``lists`` the further lists that it keeps, with one entry per picture, so that several processes can
       merge their shares, and appends to them in `update` after it has passed the boxes to the one of this class;
    2. returns by `evaluations` an `OverlapEvaluation` for each kind of overlap, the main one first, constructed from
       these lists. A further one has a prefix, which begins the names of its figures, columns and charts::

        class MaskMetric(ObjectMetric):
            lists = (*ObjectMetric.lists, "found_masks", "true_masks")

            def __init__(self, names):
                super().__init__(names)
                self.found_masks, self.true_masks = [], []

            def update(self, predictions, batch):
                super().update([rows for rows, _ in predictions], batch)
                self.found_masks += ...  # for each picture the masks of its detections
                self.true_masks += ...

            def evaluations(self):
                boxes = self.names, self.detections, self.truths
                return [BoxEvaluation(*boxes), MaskEvaluation(*boxes, self.found_masks, self.true_masks)]

        class MaskEvaluation(OverlapEvaluation):  # or CocoEvaluation, where COCO's tool knows the overlap
            prefix = "mask-"

            def __init__(self, names, detections, truths, found_masks, true_masks):
                super().__init__(names, detections, truths)
                self.found_masks, self.true_masks = found_masks, true_masks

            def overlap(self, picture, found, true):
                return ...  # (len(found), len(true)) of masks found_masks[picture][i], true_masks[picture][j]

    The fitness is the sum of the evaluations' own (`OverlapEvaluation.fitness`).

    Args:
        names: names of the classes.
    """

    lists: tuple[str, ...] = ("detections", "truths")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.detections: list[Floats] = []  # for each image (n, 6): corners, score, class
        self.truths: list[Floats] = []  # for each image (m, 6): corners, class, 1 for a crowd
        self._evaluations: list[OverlapEvaluation] = []  # of the present state, made when first needed
        self.main_overlap = next(iter(self.overlaps), "")

    def choose_overlap(self, name: str) -> None:
        """Make one of ``overlaps`` the main kind of overlap, see `Metric.choose_overlap`."""
        self.main_overlap, self._evaluations = name, []

    @abstractmethod
    def evaluations(self) -> Sequence[OverlapEvaluation]:
        """Return a new evaluation of the present state for each kind of overlap, the main one first."""

    def update(self, predictions: Sequence[Any], batch: Batch) -> None:
        """Add the boxes of a batch.

        Args:
            predictions: for each image (n, >=6): corners in pixels of the input, score, class.
            batch: "images" (B, C, H, W), "boxes" (M, 4) as centre and size in fractions of the input, "classes" and
                "index" (M,); optionally "letterbox", a `netbuild.data.fitting.Letterbox` for each image, and "crowd"
                (M,), true for a box around many objects.
        """
        self._evaluations = []
        truths = list_truths(batch, len(predictions))
        for i, found in enumerate(predictions):
            rows, true = found.detach().cpu().double()[:, :6].clone(), truths[i]
            if "letterbox" in batch:
                rows[:, :4], true[:, :4] = (batch["letterbox"][i].undo(x[:, :4]) for x in (rows, true))
            self.detections.append(rows.numpy())
            self.truths.append(true.numpy())

    def merge(self, states: Sequence[Mapping[str, Any]], indices: Sequence[Sequence[int]]) -> None:
        """Replace the state by that of several processes, see `Metric.merge`."""
        self._evaluations = []
        super().merge(states, indices)

    def current_evaluations(self) -> list[OverlapEvaluation]:
        """Return the evaluations of the present state, whose results are computed once."""
        self._evaluations = self._evaluations or list(self.evaluations())
        return self._evaluations

    def result(self) -> dict[str, float]:
        """Return the figures of all kinds of overlap, and the fitness.

        Raises:
            MissingExtraError: without faster-coco-eval, if a kind of overlap needs it.
        """
        evaluations = self.current_evaluations()
        found = {name: value for evaluation in evaluations for name, value in evaluation.result().items()}
        return {**found, "fitness": sum(evaluation.fitness() for evaluation in evaluations)}

    def classes(self) -> list[dict[str, Any]]:
        """Return for each class with objects: images, objects, and for each kind of overlap its figures."""
        evaluations = self.current_evaluations()
        tables = [evaluation.classes() for evaluation in evaluations]
        return [
            {"class": self.names[number], "images": images, "objects": objects}
            | {name: value for table in tables for name, value in table.get(number, {}).items()}
            for number, (images, objects) in evaluations[0].count_objects().items()
        ]

    def curves(self) -> PrecisionCurves:
        """Return precision and recall by confidence, by the main kind of overlap."""
        return self.current_evaluations()[0].curves

    def confusion(self) -> Ints:
        """Return the confusion matrix by the main kind of overlap, see `OverlapEvaluation.confusion`."""
        return self.current_evaluations()[0].confusion()

    def tables(self) -> dict[str, Any]:
        """Return confusion matrices and curves of all kinds of overlap, see `OverlapEvaluation.tables`."""
        return {name: table for evaluation in self.current_evaluations() for name, table in evaluation.tables().items()}

    def plots(self) -> dict[str, Callable[[], Any]]:
        """Return the charts of all kinds of overlap: precision, recall and F1 by class, and the confusion matrix."""
        return {name: draw for evaluation in self.current_evaluations() for name, draw in evaluation.plots().items()}


def list_truths(batch: Batch, count: int) -> list[Tensor]:
    """Return for each of the batch's ``count`` images (m, 6) in double: corners in pixels of the input, class, crowd.

    Args:
        batch: as `ObjectMetric.update` takes it.
        count: the number of its images.
    """
    h, w = batch["images"].shape[-2:]
    boxes = to_corners(batch["boxes"].detach().cpu().double().view(-1, 4)) * torch.tensor([w, h, w, h])
    crowd = batch.get("crowd", torch.zeros(len(boxes)))
    columns = [x.detach().cpu().double().view(-1, 1) for x in (batch["classes"], crowd)]
    rows, index = torch.cat((boxes, *columns), 1), batch["index"].cpu().view(-1)
    return [rows[index == i] for i in range(count)]
