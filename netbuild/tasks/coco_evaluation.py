"""Average precision by COCO's own tool, for the overlaps that it knows: of boxes, of masks and of keypoints."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from netbuild.system.packages import package
from netbuild.tasks.average_precision import COCO_FIGURES, RECALLS, THRESHOLDS, AveragePrecision, Floats, Ints
from netbuild.tasks.box_math import pairwise_iou
from netbuild.tasks.overlap_evaluation import OverlapEvaluation


class CocoEvaluation(OverlapEvaluation):
    """An evaluation whose average precision is computed by faster-coco-eval.

    A subclass sets ``iou_type`` and returns by `found_fields` and `true_fields` what COCO's format holds of a
    detection and an object beside picture, class and score.

    Attributes:
        iou_type: the tool's name of the kind of overlap: "bbox", "segm" or "keypoints".
        figure_names: names of the figures that the tool prints for this kind, in its order.
    """

    iou_type: ClassVar[str]
    figure_names: ClassVar[Sequence[str]] = COCO_FIGURES

    def found_fields(self, picture: int, number: int) -> dict[str, Any]:
        """Return the fields of a picture's detection in COCO's format; its box here."""
        return {"bbox": _xywh(self.detections[picture][number].tolist())}

    def true_fields(self, picture: int, number: int) -> dict[str, Any]:
        """Return the fields of a picture's object in COCO's format; its box here."""
        return {"bbox": _xywh(self.truths[picture][number].tolist())}

    def image_fields(self, picture: int) -> dict[str, Any]:
        """Return the fields of a picture in COCO's format beside its number; none here."""
        return {}

    def evaluator_options(self) -> dict[str, Any]:
        """Return further options of the tool's evaluator, such as "kpt_oks_sigmas"."""
        return {}

    @cached_property
    def average_precision(self) -> AveragePrecision:
        """COCO's figures, as the tool computes them.

        Raises:
            MissingExtraError: without faster-coco-eval.
        """
        evaluator = self.evaluate()
        figures = dict(zip(self.figure_names, (float(x) for x in evaluator.stats), strict=False))
        precision = np.full((len(THRESHOLDS), len(RECALLS), len(self.names)), -1.0)
        precision[:, :, evaluator.params.catIds] = evaluator.eval["precision"][..., 0, -1]  # all areas
        return AveragePrecision(figures, precision)

    def evaluate(self) -> Any:
        """Run faster-coco-eval and return its evaluator, whose ``stats`` are the figures.

        Raises:
            MissingExtraError: without faster-coco-eval.
        """
        coco = package("faster_coco_eval", "train")
        truth = coco.COCO(self.truth_data())
        found = truth.loadRes(self.detection_data())
        evaluator = coco.COCOeval_faster(truth, found, iouType=self.iou_type, **self.evaluator_options())
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator

    def truth_data(self) -> dict[str, Any]:
        """Return the truths in COCO's format; images and classes are numbered from 0, objects from 1."""
        rows = [(i, j, row) for i, image in enumerate(self.truths) for j, row in enumerate(image.tolist())]
        areas = [self.true_areas(i).tolist() for i in range(len(self.truths))]
        return {
            "info": {},
            "images": [{"id": i, **self.image_fields(i)} for i in range(len(self.truths))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.names)],
            "annotations": [
                {
                    "id": number,
                    "image_id": i,
                    "category_id": int(row[4]),
                    "area": areas[i][j],
                    "iscrowd": int(row[5]),
                    **self.true_fields(i, j),
                }
                for number, (i, j, row) in enumerate(rows, 1)
            ],
        }

    def detection_data(self) -> list[dict[str, Any]]:
        """Return the detections in COCO's format."""
        return [
            {"image_id": i, "category_id": int(row[5]), "score": row[4], **self.found_fields(i, j)}
            for i, image in enumerate(self.detections)
            for j, row in enumerate(image.tolist())
        ]


class BoxEvaluation(CocoEvaluation):
    """Boxes, compared by their IoU."""

    iou_type = "bbox"

    def overlap(self, picture: int, found: Ints, true: Ints) -> Floats:
        """Return the IoU of detected boxes with those of objects."""
        boxes, others = self.detections[picture][found, :4], self.truths[picture][true, :4]
        return pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()


def _xywh(row: list[float]) -> list[float]:
    return [row[0], row[1], row[2] - row[0], row[3] - row[1]]
