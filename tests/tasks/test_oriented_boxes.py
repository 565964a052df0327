"""Oriented boxes: ProbIoU, assignment, loss and metric, compared with plain loops and finite differences."""

import json
from math import atan2, cos, exp, hypot, log, pi, sin, sqrt
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.plain_assignment import choose_cells

import netbuild
from netbuild import runtime, settings
from netbuild.data import open_data
from netbuild.data.fitting import Letterbox
from netbuild.data.overview import draw_sample
from netbuild.errors import NetbuildError
from netbuild.feed.rectangles import find_corners, fit_rectangles, normalize_angles
from netbuild.layers.heads.obb import OBB, OBB26
from netbuild.tasks.assign import pad_targets
from netbuild.tasks.detection_metric import DetectionMetric
from netbuild.tasks.losses.base import Gains
from netbuild.tasks.losses.cells import dfl_loss
from netbuild.tasks.losses.obb import RotatedAssigner, RotatedDetectionLoss
from netbuild.tasks.obb import OrientedBoxTask
from netbuild.tasks.rotated_math import FLOOR, probiou
from netbuild.tasks.rotated_metric import RotatedMetric
from netbuild.training import run
from netbuild.training.overfitting import is_overfit

WIDTH, HEIGHT, STRIDES = 96, 64, (8, 16, 32)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_boxes(n, g, small=3.0, large=40.0):
    """(n, 5) oriented boxes inside an image, double precision, in the form that labels have."""
    boxes = torch.rand(n, 5, generator=g, dtype=torch.float64)
    span = torch.tensor([WIDTH, HEIGHT, large - small, large - small, 2 * pi])
    return normalize_angles(boxes * span + torch.tensor([0, 0, small, small, 0]))


# -- rectangles and overlaps ------------------------------------------------------------------------------------------


def plain_probiou(a, b, floor=0.0):
    """The formula of the paper (arXiv 2106.06072) for two boxes (cx, cy, w, h, angle)."""

    def spread(box):
        p, q, c, s = box[2] ** 2 / 12 + floor, box[3] ** 2 / 12 + floor, cos(box[4]), sin(box[4])
        return p * c * c + q * s * s, p * s * s + q * c * c, (p - q) * c * s

    (a1, b1, c1), (a2, b2, c2) = spread(a), spread(b)
    p, q, r, dx, dy = a1 + a2, b1 + b2, c1 + c2, a[0] - b[0], a[1] - b[1]
    det = p * q - r * r
    distance = 0.25 * (p * dy**2 + q * dx**2) / det - 0.5 * r * dx * dy / det
    distance += 0.5 * log(det / (4 * sqrt((a1 * b1 - c1**2) * (a2 * b2 - c2**2))))
    return 1 - sqrt(1 - exp(-min(max(distance, 1e-7), 100)) + 1e-7)


@pytest.mark.parametrize("floor", [0.0, FLOOR, 2.0])
def test_probiou_equals_its_formula(floor):
    a, b = random_boxes(80, generator(0)), random_boxes(80, generator(1))
    b[:40, :2] = a[:40, :2] + torch.randn(40, 2, generator=generator(2)) * 3
    expected = [plain_probiou(p, q, floor) for p, q in zip(a.tolist(), b.tolist())]
    assert probiou(a, b, floor).tolist() == pytest.approx(expected, abs=1e-6)
    assert max(expected[:40]) > 0.7
    assert probiou(a, a, floor).tolist() == pytest.approx([1 - sqrt(2e-7)] * 80, abs=1e-5)
    turned = torch.stack((a[:, 0], a[:, 1], a[:, 3], a[:, 2], a[:, 4] + pi / 2), 1)  # the same rectangles
    assert torch.allclose(probiou(turned, b, floor), probiou(a, b, floor), atol=1e-9)
    # In single precision a thin box across the picture keeps its digits.
    thin = torch.tensor([[300.0, 300, 600, 2, 0.7], [301.0, 300, 590, 3, 0.702]])
    assert probiou(thin[0], thin[1]).item() == pytest.approx(plain_probiou(*thin.tolist()), abs=1e-3)


def test_gradients_of_probiou():
    a, b = (random_boxes(12, generator(s), small=8).requires_grad_() for s in (2, 3))
    assert torch.autograd.gradcheck(lambda p, q: probiou(p, q, FLOOR), (a, b), fast_mode=True)
    empty = torch.tensor([[5.0, 5, 0, 0, 0], [5, 5, 0, 9, 0.3], [5, 5, 9, -1, 0]], requires_grad=True)
    for other in (empty.detach(), empty.detach().flip(0)):
        for floor in (0.0, FLOOR):
            value = probiou(empty, other, floor)
            (gradient,) = torch.autograd.grad(value.sum(), empty)
            assert value.isfinite().all()
            assert gradient.isfinite().all()


def test_the_smallest_rectangle_around_points():
    g = generator(4)
    boxes = random_boxes(60, g)
    found = fit_rectangles(find_corners(boxes))
    assert torch.allclose(probiou(found, boxes), torch.full((60,), 1 - sqrt(2e-7), dtype=torch.float64), atol=1e-5)
    is_long = boxes[:, 2] > boxes[:, 3] + 1e-3  # a square's angle may be any of two
    assert torch.allclose(found[is_long], boxes[is_long], atol=1e-7)
    np.testing.assert_allclose(find_corners(boxes), runtime.find_corners(boxes.numpy()), atol=1e-12)
    points = torch.randn(40, 7, 2, generator=g, dtype=torch.float64)
    for own, (x, y, w, h, angle) in zip(points, fit_rectangles(points).tolist(), strict=True):
        (_, sides, _) = cv2.minAreaRect(own.numpy().astype(np.float32))
        assert w * h == pytest.approx(sides[0] * sides[1], rel=1e-4)
        assert w >= h
        assert -pi / 4 <= angle < 3 * pi / 4
        local = (own.numpy() - (x, y)) @ np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
        np.testing.assert_allclose(np.abs(local).max(0), (w / 2, h / 2), atol=1e-9)
    angles = torch.tensor([3 * pi / 4, -pi / 4, -pi / 4 - 1e-17, 7.0], dtype=torch.float64)
    normal = normalize_angles(torch.stack([torch.ones_like(angles)] * 4 + [angles], -1))[:, 4]
    assert ((normal >= -pi / 4) & (normal < 3 * pi / 4)).all()


def test_the_iou_of_a_box_with_polygons_equals_pixels_that_are_counted():
    g = np.random.default_rng(0)
    box = np.array([50.0, 40, 40, 20, 0.6])
    quads = runtime.find_corners(random_boxes(30, generator(5)).numpy())
    quads += g.uniform(-4, 4, quads.shape)  # no rectangles any more
    found = runtime.polygon_iou(box, quads)

    def paint(corners):
        canvas = np.zeros((1200, 1600), np.uint8)
        return cv2.fillPoly(canvas, [np.rint((corners + 20) * 10).astype(np.int32)], 1) > 0

    own = paint(runtime.find_corners(box[None])[0])
    for value, quad in zip(found, quads, strict=True):
        other = paint(quad)
        assert value == pytest.approx((own & other).sum() / (own | other).sum(), abs=0.02)
    assert found.max() > 0.3


# -- assignment and loss ----------------------------------------------------------------------------------------------


def grid():
    """(A, 2) centres of all cells in pixels, levels in order, row by row."""
    return torch.tensor(
        [[(x + 0.5) * s, (y + 0.5) * s] for s in STRIDES for y in range(HEIGHT // s) for x in range(WIDTH // s)],
        dtype=torch.float64,
    )


def plain_assignment(scores, predicted, points, boxes, classes, topk, topk2, min_side):
    """One image: lists of each cell's object (or None) and of its soft target. All in loops."""
    cells, objects = range(len(points)), range(len(boxes))
    inside, u, t = (np.zeros((len(boxes), len(points))) for _ in range(3))
    for g in objects:
        cx, cy, w, h, angle = boxes[g]
        for a in cells:
            dx, dy = points[a][0] - cx, points[a][1] - cy
            along, across = dx * cos(angle) + dy * sin(angle), dy * cos(angle) - dx * sin(angle)
            if abs(along) <= max(w, min_side) / 2 and abs(across) <= max(h, min_side) / 2:
                inside[g, a] = 1
                u[g, a] = max(plain_probiou(boxes[g], predicted[a], FLOOR), 0)
                t[g, a] = scores[a][classes[g]] ** 0.5 * u[g, a] ** 6
    return choose_cells(inside, u, t, topk, topk2)


@pytest.mark.parametrize(("topk", "topk2"), [(10, 10), (7, 1)])
def test_rotated_assignment_equals_a_plain_loop(topk, topk2):
    g, points, counts = generator(6), grid(), (5, 0, 25, 1)
    index = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)])
    targets = pad_targets(random_boxes(len(index), g), torch.randint(4, (len(index),), generator=g), index, 4)
    scores = torch.rand(4, len(points), 4, generator=g, dtype=torch.float64)
    predicted = torch.cat([random_boxes(len(points), g, small=8) for _ in range(4)]).view(4, -1, 5)
    predicted[..., :2] = points + torch.randn(4, len(points), 2, generator=g) * 4
    found = RotatedAssigner(topk, topk2, min_side=16.0)(scores, predicted, points, targets)
    total = 0
    for b in range(4):
        n = counts[b]
        boxes, classes = targets.boxes[b, :n].tolist(), targets.classes[b, :n].tolist()
        own = scores[b].tolist(), predicted[b].tolist(), points.tolist(), boxes, classes
        owner, score = plain_assignment(*own, topk, topk2, 16.0)
        for a, number in enumerate(owner):
            assert bool(found.foreground[b, a]) == (number is not None)
            expected = [0.0] * 4
            if number is not None:
                total += 1
                assert found.boxes[b, a].tolist() == boxes[number]
                expected[classes[number]] = score[a]
            assert found.scores[b, a].tolist() == pytest.approx(expected, abs=1e-6)
    assert total >= 15


def test_centres_on_the_border_are_inside():
    points = torch.tensor([[2.0, 4.0], [10, 4], [2, 8], [10.01, 4], [6, 9]])
    targets = pad_targets(torch.tensor([[6.0, 6, 8, 4, 0]]), torch.zeros(1).long(), torch.zeros(1).long(), 1)
    assert RotatedAssigner().find_candidates(points, targets)[0, 0].tolist() == [True, True, True, False, False]
    assert RotatedAssigner(min_side=6.0).find_candidates(points, targets)[0, 0].tolist() == [True] * 3 + [False, True]


def oriented_scene(head_class, reg_max, seed=0, counts=(4, 0, 7), nc=3):
    """A head, random raw outputs in double precision, and a batch."""
    g = generator(seed)
    head = head_class(nc, ch=[16, 16, 16], reg_max=reg_max, stride=list(STRIDES))
    feats = [torch.zeros(len(counts), 16, HEIGHT // s, WIDTH // s) for s in STRIDES]
    shape = (len(counts), -1, sum((HEIGHT // s) * (WIDTH // s) for s in STRIDES))
    sides = torch.randn(shape[0], 4 * reg_max, shape[2], generator=g, dtype=torch.float64)
    sides = sides if reg_max > 1 else sides.abs() * 2
    scores = torch.randn(shape[0], nc, shape[2], generator=g, dtype=torch.float64)
    angle = torch.rand(shape[0], 1, shape[2], generator=g, dtype=torch.float64) * 3 - 0.7
    raw = {"boxes": sides, "scores": scores, "angle": angle}
    raw = {name: value.requires_grad_() for name, value in raw.items()} | {"feats": feats}
    index = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
    corners = find_corners(random_boxes(len(index), g)) / torch.tensor([WIDTH, HEIGHT])
    order = torch.randperm(len(index), generator=g)
    classes = torch.randint(nc, (len(index),), generator=g)
    batch = {"corners": corners[order], "classes": classes.float(), "index": index[order]}
    return head.double(), raw, batch


def plain_oriented_loss(raw, batch, reg_max, topk, topk2):
    """Sums of the four parts over all cells, divided by the sum of the targets, without gains."""
    points, strides = grid().tolist(), [s for s in STRIDES for _ in range((HEIGHT // s) * (WIDTH // s))]
    box = cls = side = turn = total = 0.0
    for b in range(len(raw["boxes"])):
        outputs = raw["boxes"][b].detach().T.reshape(len(points), 4, reg_max)
        p = outputs.softmax(-1) if reg_max > 1 else outputs
        distances = (p @ torch.arange(reg_max, dtype=p.dtype) if reg_max > 1 else p[..., 0]).tolist()
        angles, predicted = raw["angle"][b, 0].tolist(), []
        for (x, y), s, (left, top, right, bottom), angle in zip(points, strides, distances, angles):
            fx, fy = (right - left) / 2, (bottom - top) / 2
            cx, cy = x / s + fx * cos(angle) - fy * sin(angle), y / s + fx * sin(angle) + fy * cos(angle)
            predicted.append([cx * s, cy * s, (left + right) * s, (top + bottom) * s, angle])
        probabilities = [[1 / (1 + exp(-x)) for x in row] for row in raw["scores"][b].detach().T.tolist()]
        own = batch["index"] == b
        objects = []
        for corners in (batch["corners"][own] * torch.tensor([WIDTH, HEIGHT])).tolist():
            (x0, y0), (x1, y1), (x2, y2), _ = corners
            w, h, angle = hypot(x1 - x0, y1 - y0), hypot(x2 - x1, y2 - y1), atan2(y1 - y0, x1 - x0)
            w, h, angle = (h, w, angle + pi / 2) if h > w else (w, h, angle)
            objects.append([(x0 + x2) / 2, (y0 + y2) / 2, w, h, angle])
        classes = batch["classes"][own].long().tolist()
        owner, score = plain_assignment(probabilities, predicted, points, objects, classes, topk, topk2, 16)
        for a, s in enumerate(strides):
            for c, x in enumerate(probabilities[a]):
                y = score[a] if owner[a] is not None and classes[owner[a]] == c else 0.0
                cls -= y * log(x) + (1 - y) * log(1 - x)
            if owner[a] is None:
                continue
            total += score[a]
            cx, cy, w, h, angle = objects[owner[a]]
            small, true = ([v / s for v in q[:4]] + [q[4]] for q in (predicted[a], objects[owner[a]]))
            box += (1 - plain_probiou(small, true, FLOOR)) * score[a]
            dx, dy = (cx - points[a][0]) / s, (cy - points[a][1]) / s
            fx, fy = dx * cos(angle) + dy * sin(angle), dy * cos(angle) - dx * sin(angle)
            target = [w / s / 2 - fx, h / s / 2 - fy, w / s / 2 + fx, h / s / 2 + fy]
            if reg_max > 1:
                loss = dfl_loss(outputs[a][None], torch.tensor([target], dtype=torch.float64)).item()
            else:
                spans = (WIDTH, HEIGHT, WIDTH, HEIGHT)
                loss = sum(abs(d - t) * s / n for d, t, n in zip(distances[a], target, spans)) / 4
            side += loss * score[a]
            turn += exp(-(log(w / h) ** 2) / 9) * sin(2 * (angles[a] - angle)) ** 2 * score[a]
    return [x / max(total, 1) for x in (box, cls, side, turn)]


@pytest.mark.parametrize(("head", "reg_max"), [(OBB, 16), (OBB26, 1)])
@pytest.mark.parametrize(("topk", "topk2"), [(10, 10), (7, 1)])
def test_the_loss_of_oriented_boxes_equals_plain_loops(head, reg_max, topk, topk2):
    head, raw, batch = oriented_scene(head, reg_max)
    parts = RotatedDetectionLoss(head, Gains(2.0, 3.0, 5.0, angle=7.0), topk, topk2)(raw, batch)
    box, cls, side, turn = plain_oriented_loss(raw, batch, reg_max, topk, topk2)
    expected = {"box": 2 * box, "cls": 3 * cls, "dfl" if reg_max > 1 else "l1": 5 * side, "angle": 7 * turn}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-4)
    assert min(expected.values()) > 0.1
    assert type(OrientedBoxTask(head).criterion.one2many) is RotatedDetectionLoss


@pytest.mark.parametrize(("head", "reg_max"), [(OBB, 4), (OBB26, 1)])
def test_gradients_of_the_loss_of_oriented_boxes(head, reg_max):
    head, raw, batch = oriented_scene(head, reg_max, counts=(3,))
    names = ("boxes", "scores", "angle")
    loss = RotatedDetectionLoss(head)
    cells = loss.read(raw)
    assigned = loss.assign(cells, loss.targets(cells, batch), batch)
    assert assigned.foreground.sum() > 5

    def sum_parts(*values):  # with a fixed assignment, which has no gradient
        cells = loss.read({**raw, **dict(zip(names, values, strict=True))})
        return sum(value for part in loss.all_parts() for value in part(cells, assigned, batch).values())

    assert torch.autograd.gradcheck(sum_parts, tuple(raw[name] for name in names), fast_mode=True)


def test_what_is_too_small_or_absent_trains_classes_only():
    head, raw, batch = oriented_scene(OBB, 16, counts=(1, 0))
    corners = torch.tensor([[[40, 30], [60, 30], [60, 31.9], [40, 31.9]]]) / torch.tensor([WIDTH, HEIGHT])
    for change in ({"corners": corners}, {name: batch[name][:0] for name in ("corners", "classes", "index")}):
        total, parts = OrientedBoxTask(head).loss(raw, {**batch, **change})
        total.backward()
        assert {name: part.item() > 0 for name, part in parts.items()} == {
            "box": False, "cls": True, "dfl": False, "angle": False,
        }  # fmt: skip
    assert raw["angle"].grad.abs().sum() == 0  # but there is one: the graph is whole
    _, parts = OrientedBoxTask(head).loss(raw, {**batch, "corners": corners * torch.tensor([1, 1.2])})
    assert parts["box"] > 0


# -- metric -----------------------------------------------------------------------------------------------------------


def scored(boxes, scores, classes):
    """Rows of detections (n, 7) as the task decodes them: corners before rotation, score, class, angle."""
    centre, half = boxes[:, :2], boxes[:, 2:4] / 2
    columns = (torch.as_tensor(scores), torch.as_tensor(classes), boxes[:, 4])
    return torch.cat((centre - half, centre + half, *(c.double()[:, None] for c in columns)), 1)


def truths_of(boxes, classes, index):
    """A batch of images with these oriented boxes (n, 5) in pixels."""
    corners = find_corners(boxes)
    low, high = corners.amin(1), corners.amax(1)
    size = torch.tensor([WIDTH, HEIGHT]).double()
    return {
        "images": torch.zeros(int(index.max()) + 1, 3, HEIGHT, WIDTH),
        "boxes": torch.cat(((low + high) / 2 / size, (high - low) / size), 1),
        "corners": corners / size,
        "classes": classes,
        "index": index,
    }


def test_upright_boxes_are_measured_as_the_metric_of_boxes_does():
    g, count = generator(7), 60
    boxes = random_boxes(count, g, small=6)
    boxes[:, 4] = torch.randint(2, (count,), generator=g) * pi / 2
    sides = find_corners(boxes)
    inside = (sides >= 0).all(-1).all(-1) & (sides[..., 0] <= WIDTH).all(-1) & (sides[..., 1] <= HEIGHT).all(-1)
    boxes = boxes[inside]
    classes, index = torch.arange(len(boxes)) % 3, torch.arange(len(boxes)) % 4
    index[-1] = 3
    batch = truths_of(boxes, classes, index)
    found = boxes + torch.cat((torch.randn(len(boxes), 4, generator=g), torch.zeros(len(boxes), 1)), 1).clamp(-2, 2)
    scores = torch.rand(len(boxes), generator=g)
    rows = [scored(found[index == i], scores[index == i], classes[index == i]) for i in range(4)]
    rotated, upright = RotatedMetric(["a", "b", "c"]), DetectionMetric(["a", "b", "c"])
    rotated.update(rows, batch)
    hulls = []
    for of_image in rows:
        corners = find_corners(torch.from_numpy(runtime.to_rotated_boxes(of_image.numpy())))
        hulls.append(torch.cat((corners.amin(1), corners.amax(1), of_image[:, 4:6]), 1))
    for of_image in hulls:  # the metric of boxes clips them to the picture, that of oriented boxes does not
        assert (of_image[:, 0] >= -2).all()
    upright.update(hulls, batch)
    ours, theirs = rotated.result(), upright.result()
    for name in ("mAP50-95", "mAP50", "mAP75", "AR1", "AR100", "precision", "recall", "F1", "confidence"):
        assert ours[f"polygon-{name}"] == pytest.approx(theirs[name], abs=1e-9), name
    assert 0.2 < theirs["mAP50-95"] < ours["mAP50-95"] == ours["fitness"]  # ProbIoU forgives more
    assert (rotated.current_evaluations()[1].confusion() == upright.confusion()).all()
    assert rotated.plots().keys() == {"curves", "confusion", "polygon-curves", "polygon-confusion"}
    rotated.choose_overlap("polygon")  # exchanges the two
    chosen = rotated.result()
    assert chosen["fitness"] == chosen["mAP50-95"] == ours["polygon-mAP50-95"]
    assert chosen["probiou-mAP50-95"] == ours["mAP50-95"]
    assert (rotated.confusion() == upright.confusion()).all()
    assert [row["AP50-95"] for row in rotated.classes()] == [row["AP50-95"] for row in upright.classes()]


def test_the_metric_of_oriented_boxes_depends_on_their_angles():
    boxes = torch.tensor([[30.0, 30, 40, 8, 0.5], [70, 30, 20, 10, 2.0]], dtype=torch.float64)
    batch = truths_of(boxes, torch.tensor([0, 0]), torch.tensor([0, 0]))
    batch["letterbox"] = [Letterbox((HEIGHT * 2, WIDTH * 2), (HEIGHT, WIDTH), (0, 0))]

    def measure(found):
        metric = RotatedMetric(["a"])
        metric.update([scored(found, [0.9, 0.8], [0, 0])], batch)
        return metric.result(), metric

    found, metric = measure(boxes + torch.tensor([0, 0, 0, 0, pi]))  # half a turn changes nothing
    assert found["mAP50-95"] == found["polygon-mAP50-95"] == pytest.approx(1)
    areas = metric.current_evaluations()[0].true_areas(0)
    np.testing.assert_allclose(areas, (4 * 320, 4 * 200))  # in pixels of the original picture
    np.testing.assert_allclose(metric.current_evaluations()[0].found_areas(0), areas)
    turned = boxes + torch.tensor([0, 0, 0, 0, 0.6])  # the upright boxes around still overlap
    assert measure(turned)[0]["polygon-mAP50"] < 0.6
    parts, states = [RotatedMetric(["a"]) for _ in range(2)], []
    for i, part in enumerate(parts):
        part.update([scored(boxes, [0.9, 0.1 * i], [0, 0])], batch)
        states.append(part.state())
    parts[0].merge(states, [[1], [0]])
    assert [round(float(rows[1, 4]), 6) for rows in parts[0].detections] == [0.1, 0.0]
    assert parts[0].result()["mAP50"] == pytest.approx(1)
    empty = RotatedMetric(["a"])
    empty.update([torch.zeros(0, 7)], {**batch, **{n: batch[n][:0] for n in ("boxes", "corners", "classes", "index")}})
    assert empty.result()["fitness"] == 0


# -- training ---------------------------------------------------------------------------------------------------------

TINY = """
nc: 2
imgsz: 64
layers:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [32, 3, 1]]
  - [[-1], 1, {head}, [nc, 1]]
"""


@pytest.fixture
def tilted(tmp_path, monkeypatch):
    """The working directory: pictures of rotated rectangles in the layout of YOLO, and a file with upright boxes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for number in range(6):
            image, lines = np.full((64, 96, 3), 40, np.uint8), []
            for kind in range(2):
                box = [rng.uniform(*bounds) for bounds in ((20, 76), (20, 44), (20, 30), (8, 14), (0, 3))]
                corners = runtime.find_corners(np.array([box]))[0]
                cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], (220, 60, 60) if kind else (60, 60, 220))
                lines.append(" ".join([str(kind), *(f"{x:.5f}" for x in (corners / (96, 64)).ravel())]))
            cv2.imwrite(str(tmp_path / f"images/{split}/{number}.png"), image)
            (tmp_path / f"labels/{split}/{number}.txt").write_text("\n".join(lines))
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [red, blue]\n")
    return tmp_path


def test_data_of_oriented_boxes_are_drawn_and_upright_boxes_refused(tilted):
    (sample, *_) = samples = open_data("data.yaml").split("val").samples
    assert draw_sample(sample, ["red", "blue"]).outlines[1] == pytest.approx(sample.outlines[1][0] * (96, 64))
    task = OrientedBoxTask(oriented_scene(OBB, 16)[0])
    task.check_samples(None, samples)
    Path("labels/val/3.txt").write_text("0 0.5 0.5 0.2 0.1\n")
    with pytest.raises(NetbuildError, match="an object has only an upright box") as error:
        task.check_samples(None, open_data("data.yaml").split("val").samples)
    assert "four corners" in error.value.hint
    batch = {**oriented_scene(OBB, 16)[2], "images": torch.zeros(3, 3, HEIGHT, WIDTH), "boxes": torch.rand(11, 4)}
    drawing = task.draw_truth(batch, 2)
    corners = batch["corners"][batch["index"] == 2] * torch.tensor([WIDTH, HEIGHT])
    np.testing.assert_allclose(drawing.outlines, corners, rtol=1e-5)
    assert len(drawing.labels) == 7
    assert task.decode_options(settings.load())["conf"] == 0.01
    assert task.decode_options(settings.load(flags={"conf": 0.2}))["conf"] == 0.2


def test_val_measures_by_the_overlap_that_is_chosen(cli, tilted):
    (tilted / "tiny.yaml").write_text(TINY.format(head="OBB"))
    assert cli("build", "tiny.yaml", "-o", "tiny.safetensors").code == 0
    flags = ("tiny.safetensors", "--data", "data.yaml", "--device", "cpu", "-O", "workers=0", "-O", "conf=0", "--json")
    usual, chosen = (json.loads(cli("val", *flags, *more).out)["measures"] for more in ((), ("--iou", "polygon")))
    for name, value in usual.items():
        if name.startswith("polygon-"):
            assert chosen[name.removeprefix("polygon-")] == value, name
            assert chosen[name.replace("polygon", "probiou")] == usual[name.removeprefix("polygon-")], name
    assert not any(name.startswith("polygon-") for name in chosen)
    assert (
        netbuild.val("tiny.safetensors", "data.yaml", overlap="polygon", conf=0.0, workers=0)["mAP50"]
        == chosen["mAP50"]
    )
    for value, hint in (("0.5", "-O iou=0.5"), ("polgon", "did you mean 'polygon'"), ("x", "it is probiou or polygon")):
        done = cli("val", *flags, "--iou", value)
        assert (done.code, hint in done.err) == (2, True), done.err
    (tilted / "upright.yaml").write_text(TINY.format(head="Detect").replace("[nc, 1]", "[nc]"))
    assert cli("build", "upright.yaml", "-o", "upright.safetensors").code == 0
    done = cli("val", "upright.safetensors", *flags[1:], "--iou", "polygon")
    assert (done.code, "only oriented boxes have a choice" in done.err) == (2, True), done.err


@pytest.mark.slow
def test_oriented_boxes_are_trained_validated_exported_and_resumed(cli, tilted):
    (tilted / "tiny.yaml").write_text(TINY.format(head="OBB"))
    flags = ("--batch", 3, "-O", "workers=0", "-O", "warmup=0")
    done = cli("train", "tiny.yaml", "--data", "data.yaml", "--epochs", 2, *flags, "-o", "run")
    assert done.code == 0, done.err
    done = cli("train", "--resume", "run", "--epochs", 3)
    assert done.code == 0, done.err
    assert "angle" in (tilted / "run" / "results.csv").read_text()
    drawn = {path.name for path in (tilted / "run").glob("*.png")}
    assert {"train_batch0.png", "val_batch0.png", "curves.png", "polygon-curves.png"} <= drawn
    done = cli("export", "run/best.safetensors", "-o", "best.onnx")
    assert done.code == 0, done.err
    found = []
    for file, *square in (("run/best.safetensors", "-O", "rect=false"), ("best.onnx",)):
        done = cli("val", file, "--data", "data.yaml", "-O", "conf=0.0001", *square, "--json")
        assert done.code == 0, done.err
        found.append(json.loads(done.out)["measures"])
    assert {"mAP50-95", "polygon-mAP50-95", "polygon-F1"} <= found[0].keys()
    assert found[0] == pytest.approx(found[1], abs=1e-3)
    done = cli("predict", "run/best.safetensors", "images/val", "--conf", 0.0001, "--json")
    records = [record for picture in json.loads(done.out)["pictures"] for record in picture["records"]]
    assert {len(record["corners"]) for record in records} == {4}


@pytest.mark.slow
@pytest.mark.parametrize(("head", "more"), [("OBB", ""), ("OBB26", "reg_max: 1\nend2end: true\n")])
def test_heads_for_oriented_boxes_overfit_a_batch(tilted, head, more):
    (tilted / "tiny.yaml").write_text(more + TINY.format(head=head))
    chosen = {"epochs": 120, "batch": 4, "imgsz": 64, "lr": 0.005, "workers": 0, "mosaic": 0.0}
    losses = run.overfit_batch("tiny.yaml", "data.yaml", settings.load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])
