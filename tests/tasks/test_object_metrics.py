"""Metrics of objects by several kinds of overlap: average precision, curves, tables and merging."""

import numpy as np
import pytest
import torch

from netbuild.tasks import average_precision
from netbuild.tasks.coco_evaluation import BoxEvaluation
from netbuild.tasks.detection_metric import DetectionMetric
from netbuild.tasks.object_metric import ObjectMetric
from netbuild.tasks.overlap_evaluation import OverlapEvaluation

NAMES = ["a", "b", "c", "without objects"]


def random_boxes(rng, pictures, objects, extent=500, largest=200):
    """Detections and truths of pictures: crowds, boxes of all sizes, doubles, mistakes, equal scores and inventions."""
    detections, truths = [], []
    for _ in range(pictures):
        count = rng.integers(0, objects + 1)
        corner = rng.uniform(0, extent - largest, (count, 2))
        true = np.concatenate((corner, corner + rng.uniform(5, largest, (count, 2))), 1)
        classes, crowd = rng.integers(3, size=(count, 1)), rng.random((count, 1)) < 0.1
        found = np.repeat(true, 2, 0) + rng.normal(0, 6, (2 * count, 4))
        invented = rng.uniform(0, extent - largest, (5, 2))
        found = np.concatenate((found, np.concatenate((invented, invented + 50), 1)))
        kinds = np.concatenate((np.repeat(classes, 2, 0), rng.integers(4, size=(5, 1))))
        wrong = rng.random(kinds.shape) < 0.15
        kinds = np.where(wrong, rng.integers(4, size=kinds.shape), kinds)
        scores = rng.integers(0, 40, (len(found), 1)) / 40
        detections.append(np.concatenate((found, scores, kinds), 1))
        truths.append(np.concatenate((true, classes, crowd), 1))
    return detections, truths


class PlainBoxEvaluation(BoxEvaluation):
    """The IoU of boxes, evaluated by average precision of our own."""

    prefix = "plain-"
    average_precision = OverlapEvaluation.average_precision


class TwofoldMetric(ObjectMetric):
    """Boxes, measured twice."""

    def evaluations(self):
        boxes = self.names, self.detections, self.truths
        return [BoxEvaluation(*boxes), PlainBoxEvaluation(*boxes)]


@pytest.mark.parametrize(("pictures", "objects"), [(25, 12), (2, 160), (3, 0), (0, 0)])
def test_average_precision_of_our_own_equals_that_of_cocos_tool(pictures, objects):
    pytest.importorskip("faster_coco_eval")
    for seed in range(3):
        boxes = random_boxes(np.random.default_rng(seed), pictures, objects)
        tool, own = (kind(NAMES, *boxes).average_precision for kind in (BoxEvaluation, PlainBoxEvaluation))
        assert own.figures == pytest.approx(tool.figures, abs=1e-12)
        assert np.abs(own.precision - tool.precision).max() < 1e-12
        assert tuple(own.figures) == average_precision.COCO_FIGURES
        if objects:  # all ranges of area and numbers of detections are told apart
            assert len({round(value, 6) for value in own.figures.values()}) == 12
            assert 0.2 < own.figures["mAP50-95"] < own.figures["mAP50"] < 1


def test_kinds_of_overlap_have_their_figures_columns_and_charts_under_their_prefix():
    pytest.importorskip("faster_coco_eval")
    metric, plain = TwofoldMetric(NAMES), DetectionMetric(NAMES)
    for one in (metric, plain):
        one.detections, one.truths = random_boxes(np.random.default_rng(0), 12, 9)
    figures, boxes = metric.result(), plain.result()
    assert figures["fitness"] == pytest.approx(2 * boxes.pop("fitness"))
    assert {name: figures[name] for name in boxes} == boxes
    assert {name: figures[f"plain-{name}"] for name in boxes} == pytest.approx(boxes)
    for row, of_boxes in zip(metric.classes(), plain.classes(), strict=True):
        values = {name: value for name, value in of_boxes.items() if name not in ("class", "images", "objects")}
        assert {name: row[name] for name in of_boxes} == of_boxes
        assert {name: row[f"plain-{name}"] for name in values} == pytest.approx(values)
    assert set(metric.plots()) == {"curves", "confusion", "plain-curves", "plain-confusion"}


def test_results_follow_the_state():
    pytest.importorskip("faster_coco_eval")
    metric = DetectionMetric(["a"])
    batch = {"images": torch.zeros(1, 3, 64, 64), "boxes": torch.full((1, 4), 0.5), "classes": torch.zeros(1)}
    right, wrong = (torch.tensor([[x, 16.0, x + 32, 48, 0.9, 0]]) for x in (16.0, 0))
    metric.update([wrong], {**batch, "index": torch.zeros(1)})
    assert metric.result()["mAP50"] == 0
    metric.update([right], {**batch, "index": torch.zeros(1)})
    assert 0.2 < metric.result()["mAP50"] < 1
    metric.merge([{name: getattr(metric, name)[1:] for name in metric.lists}], [[0]])
    assert metric.result()["mAP50"] == pytest.approx(1)
