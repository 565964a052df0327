"""Metrics of objects by several kinds of overlap: average precision, curves, tables and merging."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import coco_scenes

from netbuild import runtime
from netbuild.data.fitting import Letterbox
from netbuild.errors import NetbuildError
from netbuild.tasks import average_precision
from netbuild.tasks.base import View
from netbuild.tasks.box_math import to_centres
from netbuild.tasks.coco_evaluation import BoxEvaluation
from netbuild.tasks.detection_metric import DetectionMetric
from netbuild.tasks.keypoint_math import choose_sigmas
from netbuild.tasks.keypoint_metric import KeypointEvaluation, KeypointMetric
from netbuild.tasks.mask_metric import MaskMetric, compress
from netbuild.tasks.object_metric import ObjectMetric
from netbuild.tasks.overlap_evaluation import OverlapEvaluation
from netbuild.tasks.segment import SegmentTask
from netbuild.training import parts

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
    tables = json.loads(json.dumps(metric.tables()))
    assert set(tables) == set(metric.plots())
    assert tables["confusion"] == {"names": [*NAMES, "background"], "counts": metric.confusion().tolist()}
    for prefix in ("", "plain-"):
        for curve, row in zip(tables[f"{prefix}curves"]["classes"], plain.classes(), strict=True):
            assert curve["class"] == row["class"]
            assert np.mean(curve["precision-by-recall"]) == pytest.approx(row["AP50"], abs=1e-4)
            at = tables[f"{prefix}curves"]["confidence"].index(pytest.approx(boxes["confidence"], abs=5.1e-3))
            assert curve["F1"][at] == pytest.approx(row["F1"], abs=0.1)


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


# -- figures of pycocotools on a fixed set, see helpers/coco_scenes.py ------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return coco_scenes.make_scenes()


def scene_batches(truth, detections, in_batch=3):
    """The scenes as batches of a validation, and the detections of each as rows (n, 6)."""
    height, width = coco_scenes.SIZE
    for start in range(0, len(truth["images"]), in_batch):
        numbers = range(start, min(start + in_batch, len(truth["images"])))
        objects = [one for number in numbers for one in truth["annotations"] if one["image_id"] == number]
        found = [[one for one in detections if one["image_id"] == number] for number in numbers]
        boxes = torch.tensor([one["bbox"] for one in objects], dtype=torch.float64).view(-1, 4)
        boxes[:, :2] += boxes[:, 2:] / 2
        batch = {
            "images": torch.zeros(len(numbers), 3, height, width),
            "boxes": boxes / torch.tensor([width, height] * 2),
            "classes": torch.tensor([one["category_id"] for one in objects]),
            "crowd": torch.tensor([one["iscrowd"] for one in objects]),
            "index": torch.tensor([one["image_id"] - start for one in objects]),
            "outlines": [(np.array(one["segmentation"]).reshape(-1, 2),) for one in objects],
        }
        rows = [torch.zeros(0, 6, dtype=torch.float64) for _ in found]
        for i, of_picture in enumerate(found):
            if of_picture:
                corners = torch.tensor([one["bbox"] for one in of_picture], dtype=torch.float64)
                corners[:, 2:] += corners[:, :2]
                ends = [[one["score"], one["category_id"]] for one in of_picture]
                rows[i] = torch.cat((corners, torch.tensor(ends, dtype=torch.float64)), 1)
        yield batch, rows, found


def test_figures_of_boxes_and_masks_equal_those_of_pycocotools(scenes):
    pytest.importorskip("faster_coco_eval")
    expected = json.loads((Path(__file__).parent / "coco_figures.json").read_text())
    metric, boxes = MaskMetric(coco_scenes.NAMES), DetectionMetric(coco_scenes.NAMES)
    for batch, rows, found in scene_batches(*scenes):
        metric.update([(of_picture, torch.zeros(0, 60, 80)) for of_picture in rows], batch)
        boxes.update(rows, batch)
        # The scenes' detections have masks instead of coefficients and prototypes.
        metric.found_masks[-len(rows) :] = [
            compress([one["segmentation"] for one in of_picture]) for of_picture in found
        ]
    result, table = metric.result(), metric.classes()
    for prefix, name in (("", "box"), ("mask-", "mask")):
        figures = [result[prefix + figure] for figure in average_precision.COCO_FIGURES]
        assert figures == pytest.approx(expected[name]["stats"], abs=1e-6)
        assert [row[f"{prefix}AP50-95"] for row in table] == pytest.approx(expected[name]["AP50-95"], abs=1e-6)
    assert result["fitness"] == pytest.approx(result["mAP50-95"] + result["mask-mAP50-95"])
    fitness = {"fitness": boxes.result()["fitness"]}
    assert {name: value for name, value in result.items() if not name.startswith("mask-")} | fitness == boxes.result()
    own = OverlapEvaluation.average_precision.func(metric.evaluations()[1])
    assert own.figures == pytest.approx(metric.evaluations()[1].average_precision.figures, abs=1e-12)


def test_figures_of_keypoints_equal_those_of_pycocotools(scenes):
    pytest.importorskip("faster_coco_eval")
    expected = json.loads((Path(__file__).parent / "coco_figures.json").read_text())["keypoints"]
    metric, (height, width) = KeypointMetric(coco_scenes.NAMES, (17, 3), choose_sigmas(17)), coco_scenes.SIZE
    objects = scenes[0]["annotations"]
    for batch, rows, found in scene_batches(*scenes):
        count, points = len(batch["index"]), [[one["keypoints"] for one in of_picture] for of_picture in found]
        keypoints = torch.tensor([one["keypoints"] for one in objects[:count]], dtype=torch.float64).view(-1, 17, 3)
        objects = objects[count:]
        batch["keypoints"] = keypoints / torch.tensor([width, height, 1])
        rows = [torch.cat((r, torch.tensor(p, dtype=torch.float64).view(-1, 51)), 1) for r, p in zip(rows, points)]
        metric.update(rows, batch)
    result, table = metric.result(), metric.classes()
    figures = [result[f"pose-{name}"] for name in KeypointEvaluation.figure_names]
    assert figures == pytest.approx(expected["stats"], abs=1e-6)
    assert [row["pose-AP50-95"] for row in table] == pytest.approx(expected["AP50-95"], abs=1e-6)


def test_masks_are_those_of_prediction_and_outlines_are_drawn_in_the_original_picture():
    tools = pytest.importorskip("faster_coco_eval").mask
    generator = torch.Generator().manual_seed(0)
    letterbox = Letterbox.fit((90, 150), (64, 64))
    corners = torch.tensor([[4.0, 14, 40, 44], [20, 20, 60, 50], [0, 0, 64, 64]])
    rows = torch.cat((corners, torch.tensor([[0.9, 0], [0.8, 1], [0.7, 0]]), torch.randn(3, 4, generator=generator)), 1)
    prototypes = torch.randn(4, 16, 16, generator=generator)
    # A square with a hole, whose polygon has the other direction, and an object of which only the box is known.
    square = np.array([[10.0, 20], [50, 20], [50, 60], [10, 60]])
    hole = np.array([[20.0, 30], [20, 40], [40, 40], [40, 30]])
    beside = np.array([[100.0, 20], [120, 20], [120, 30], [100, 30]])
    ratio = np.array(letterbox.inner[::-1]) / letterbox.size[::-1]
    outlines = [tuple(p * ratio + letterbox.corner[::-1] for p in (square, hole, beside)), ()]
    boxes = letterbox.apply(torch.tensor([[10.0, 20, 120, 60], [30, 10, 90, 80]]).double())
    batch = {"images": torch.zeros(1, 3, 64, 64), "boxes": to_centres(boxes) / 64, "classes": torch.tensor([0, 1])}
    metric = MaskMetric(["a", "b"])
    metric.update(
        [(rows, prototypes)], {**batch, "index": torch.zeros(2), "letterbox": [letterbox], "outlines": outlines}
    )
    task = object.__new__(SegmentTask)
    task.names = ["a", "b"]
    records = task.records((rows, prototypes), View(None, letterbox))
    found, true = (list(map(tools.decode, masks[0])) for masks in (metric.found_masks, metric.true_masks))
    assert len(found) == 3
    for mask, record in zip(found, records, strict=True):
        assert (mask == runtime.mask_of(record["mask"])).all()
        assert 0 < mask.sum() < mask.size
    expected = np.zeros((2, 90, 150), bool)
    expected[0, 20:60, 10:50] = expected[0, 20:30, 100:120] = expected[1, 10:80, 30:90] = True
    expected[0, 30:40, 20:40] = False
    assert (np.array(true) == expected).all()


def test_an_error_cannot_select_the_best_epoch():
    metric = SimpleNamespace(
        result=lambda: {"rmse": 1.0, "delta1": 0.5, "mask-confidence": 0.4}, lower_is_better=("rmse",)
    )
    task = SimpleNamespace(name="depth", metric=lambda: metric)
    parts.check_best_measure("delta1", task)
    for name, message in (
        ("rmse", "a smaller 'rmse' is better"),
        ("mask-confidence", "the task 'depth' has no measure 'mask-confidence'"),
    ):
        with pytest.raises(NetbuildError, match=message):
            parts.check_best_measure(name, task)
