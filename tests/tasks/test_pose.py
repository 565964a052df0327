"""Pose estimation: its loss against plain loops, its assignment, its metric, and what follows the data set."""

from dataclasses import replace
from math import exp, log, pi, sqrt

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild import settings
from netbuild.data import open_data
from netbuild.errors import NetbuildError
from netbuild.layers.heads.pose import Pose, Pose26
from netbuild.settings import Settings
from netbuild.tasks import losses
from netbuild.tasks.keypoint_math import COCO_SIGMAS, choose_sigmas
from netbuild.tasks.keypoint_metric import KeypointEvaluation, KeypointMetric
from netbuild.tasks.losses.base import Gains
from netbuild.tasks.losses.cells import read_cells
from netbuild.tasks.losses.pose import KeypointPart, LikelihoodPart, LikelihoodPoseLoss, PoseLoss
from netbuild.tasks.overlap_evaluation import OverlapEvaluation
from netbuild.tasks.pose import PoseTask
from netbuild.training import run
from netbuild.training.overfitting import is_overfit

STRIDES, SIDE = (8.0, 16.0), 64


def make_head(kind=Pose, shape=(4, 3), **options):
    torch.manual_seed(0)
    head = kind(2, shape, ch=[16, 16], reg_max=4, stride=list(STRIDES), **options).double().train()
    if kind is Pose26:  # a flow that has learnt something
        with torch.no_grad():
            for parameter in head.flow_model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return head


def make_outputs(head, spread=0.5, seed=0):
    """Outputs of the head in training, as leaves that need gradients."""
    torch.manual_seed(seed)
    cells = sum(int(SIDE / s) ** 2 for s in STRIDES)
    count, dims = head.kpt_shape
    sizes = {"boxes": 4 * head.reg_max, "scores": head.nc, "kpts": count * dims}
    if isinstance(head, Pose26):
        sizes["kpts_sigma"] = 2 * count
    raw = {k: (spread * torch.randn(2, c, cells, dtype=torch.double)).requires_grad_() for k, c in sizes.items()}
    return {**raw, "feats": [torch.zeros(2, 1, int(SIDE / s), int(SIDE / s)) for s in STRIDES]}


def make_batch(count=4):
    """Objects of two pictures, one without visible points."""
    rng = np.random.default_rng(3)
    boxes = torch.tensor([[0.4, 0.5, 0.6, 0.7], [0.7, 0.3, 0.3, 0.4], [0.5, 0.5, 0.9, 0.8]], dtype=torch.double)
    places = boxes[:, None, :2] + (torch.from_numpy(rng.random((3, count, 2))) - 0.5) * boxes[:, None, 2:]
    visible = torch.from_numpy(rng.integers(0, 3, (3, count, 1))).double()
    visible[1] = 0
    return {
        "images": torch.zeros(2, 3, SIDE, SIDE),
        "boxes": boxes,
        "classes": torch.tensor([0, 1, 1]),
        "index": torch.tensor([0, 0, 1]),
        "keypoints": torch.cat((places, visible), 2),
    }


def test_sigmas_are_given_or_cocos_or_equal():
    assert choose_sigmas(17) == COCO_SIGMAS
    assert choose_sigmas(4) == (0.25,) * 4
    assert choose_sigmas(2, [0.1, 0.2]) == (0.1, 0.2)
    with pytest.raises(NetbuildError, match="3 sigmas are given for 2 keypoints"):
        choose_sigmas(2, [1, 2, 3])


# -- loss -------------------------------------------------------------------------------------------------------------


def plain_keypoint_terms(head, raw, batch, assigned, sigmas, gains):
    """The terms of keypoints cell by cell and point by point, as the formulas state them."""
    cells = read_cells(head, raw)
    count, dims = head.kpt_shape
    pose, distance, visibility, anchors = 0.0, 0.0, 0.0, 0
    likelihood, points = 0.0, 0
    for b, a in assigned.foreground.nonzero().tolist():
        stride, (px, py) = float(cells.strides[a]), cells.points[a].tolist()
        row = int(assigned.rows[b, a])
        w, h = (batch["boxes"][row, 2:] * SIDE / stride).tolist()
        seen = [v > 0 for v in batch["keypoints"][row, :, 2].tolist()]
        anchors += 1
        for k in range(count):
            t = raw["kpts"][b, k * dims : (k + 1) * dims, a].tolist()
            x, y = (t[0] + px, t[1] + py) if isinstance(head, Pose26) else (2 * t[0] + px - 0.5, 2 * t[1] + py - 0.5)
            tx, ty = (batch["keypoints"][row, k, :2] * SIDE / stride).tolist()
            squared = (x - tx) ** 2 + (y - ty) ** 2
            if dims == 3:
                p = 1 / (1 + exp(-t[2]))
                visibility -= (log(p) if seen[k] else log(1 - p)) / count
            if not seen[k]:
                continue
            pose += (1 - exp(-squared / ((2 * sigmas[k]) ** 2 * 2 * w * h))) / sum(seen)
            distance += (sqrt(squared / (w * h) + 0.01**2) - 0.01) / sum(seen)
            if isinstance(head, Pose26):
                points += 1
                s = raw["kpts_sigma"][b, 2 * k : 2 * k + 2, a].sigmoid().tolist()
                e = [max(min(d / (u + 1e-9), 100), -100) for d, u in zip((x - tx, y - ty), s, strict=True)]
                log_p = head.flow_model.log_prob(torch.tensor([e], dtype=torch.double)).item()
                likelihood += sum(log(u) - log_p + log(2 * u) + abs(d) for d, u in zip(e, s, strict=True))
    found = {"pose": gains.pose * pose / anchors, "distance": gains.distance * distance / anchors}
    found |= {"kobj": gains.kobj * visibility / anchors} if dims == 3 else {}
    return found | ({"rle": gains.rle * max(likelihood, 0) / points} if isinstance(head, Pose26) else {})


@pytest.mark.parametrize("kind", [Pose, Pose26])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("given", "distance"), [((), 7.0), ((0.3, 0.1, 0.2, 0.4), 7.0), ((0.3, 0.1, 0.2, 0.4), 0.0)])
def test_the_loss_of_keypoints_equals_plain_loops(kind, dims, given, distance):
    """With a term of the distance and with widened sigmas, and as published, without either."""
    head, gains = make_head(kind, (4, dims)), Gains(pose=3.0, kobj=2.0, rle=0.5, distance=distance)
    loss = losses.find(head.learns)(head, gains)
    assert isinstance(loss, LikelihoodPoseLoss if kind is Pose26 else PoseLoss)
    if given:
        loss.set_sigmas(given)
    raw, batch = make_outputs(head), make_batch()
    # Sigmas of the first epoch, of the second of eight, and of the last.
    for finished, least in ((0, 0.15), (1, 0.15 * 3 / 4), (7, 0.0)) if gains.distance else ((0, 0.0),):
        loss.epoch_end(finished, 8)
        cells, branch = read_cells(head, raw), loss.one2many
        assigned = branch.assign(cells, branch.targets(cells, batch), batch)
        assert assigned.foreground.sum() > 12
        total, terms = loss(raw, batch)
        sigmas = [max(sigma, least) for sigma in given or (0.25,) * 4]
        expected = plain_keypoint_terms(head, raw, batch, assigned, sigmas, gains)
        expected = {name: value for name, value in expected.items() if name != "distance" or gains.distance}
        assert {"box", "cls", "dfl", *expected} == set(terms)
        assert {name: float(terms[name]) for name in expected} == pytest.approx(expected, rel=1e-6)
        assert total.item() == pytest.approx(2 * sum(map(float, terms.values())))


@pytest.mark.parametrize("kind", [Pose, Pose26])
def test_gradients_of_keypoints_are_those_of_finite_differences(kind):
    head, batch = make_head(kind), make_batch()
    raw, branch = make_outputs(head), losses.find(head.learns)(head).one2many
    cells = read_cells(head, raw)
    assigned = branch.assign(cells, branch.targets(cells, batch), batch)
    parts = [KeypointPart(head, (0.25,) * 4), *([LikelihoodPart(head)] if kind is Pose26 else [])]
    names = ["kpts", *(["kpts_sigma"] if kind is Pose26 else [])]
    # All cells but some of the foreground are left as they are: numbers of them have no influence.
    b, a = (x[::20] for x in assigned.foreground.nonzero(as_tuple=True))
    assert 1 < len(b) < 4

    def value(*chosen):
        changed = {name: raw[name].detach().clone() for name in names}
        for name, numbers in zip(names, chosen, strict=True):
            changed[name][b, :, a] = numbers
        found = replace(cells, raw={**raw, **changed})
        return sum(v for part in parts for v in part(found, assigned, batch).values())

    start = tuple(raw[name].detach()[b, :, a].requires_grad_() for name in names)
    if kind is Pose26:  # the flow computes in single precision
        head.flow_model.log_prob = lambda x: -x.square().sum(1) / 2 - log(2 * pi)
    assert torch.autograd.gradcheck(value, start, atol=1e-6)


def test_far_points_are_pulled_as_near_ones_are():
    """A point that is half an object away has a gradient, which the published loss does not give it."""
    head, batch = make_head(shape=(40, 3)), make_batch(40)
    for distance, expected in ((12.0, True), (0.0, False)):
        raw = make_outputs(head)
        with torch.no_grad():
            raw["kpts"].view(2, 40, 3, -1)[:, :, :2] = 8.0  # far to the lower right
        branch = PoseLoss(head, Gains(distance=distance, kobj=0.0)).one2many
        branch(raw, batch)
        cells = read_cells(head, raw)
        assigned = branch.assign(cells, branch.targets(cells, batch), batch)
        part = KeypointPart(head, branch.sigmas, branch.gains)
        sum(part(cells, assigned, batch).values()).backward()
        assert (raw["kpts"].grad.abs().max() > 0.01) == expected


@pytest.mark.parametrize("kind", [Pose, Pose26])
def test_a_batch_without_objects_has_a_loss_and_gradients(kind):
    head = make_head(kind)
    raw, batch = make_outputs(head), make_batch()
    empty = {**batch, **{name: batch[name][:0] for name in ("boxes", "classes", "index", "keypoints")}}
    for keypoints in (empty["keypoints"], torch.zeros(0, 0, 3)):
        total, terms = losses.find(head.learns)(head)(raw, {**empty, "keypoints": keypoints})
        total.backward()
        assert float(terms["pose"]) == float(terms["distance"]) == float(terms["kobj"]) == 0
        assert total.item() > 0
        assert torch.isfinite(raw["kpts"].grad).all()


# -- assignment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("distance", "share"), [(12.0, 0.5), (0.0, 0.0)])
def test_objects_of_pose26_are_assigned_by_keypoints_and_level(distance, share):
    head, batch = make_head(Pose26), make_batch()
    raw, branch = make_outputs(head, spread=1.5), LikelihoodPoseLoss(head, Gains(distance=distance)).one2many
    cells = read_cells(head, raw)
    assigner, targets = branch.make_assigner(cells, batch), branch.targets(cells, batch)
    centres = cells.points * cells.strides
    candidates = assigner.find_candidates(centres, targets)
    overlap, _ = assigner.compute_alignment(
        cells.scores.detach().sigmoid(), cells.boxes * cells.strides, targets, candidates
    )
    boxwise = super(type(assigner), assigner)
    seen_levels = set()
    for b, g in targets.valid.nonzero().tolist():
        x1, y1, x2, y2 = targets.boxes[b, g].tolist()
        row, size = int(targets.rows[b, g]), sqrt((x2 - x1) * (y2 - y1))
        levels = [s for s in STRIDES if (size >= 2 * s or s == 8) and (size <= 12 * s or s == 16)]
        seen_levels.add(tuple(levels))
        inside = boxwise.find_candidates(centres, targets)[b, g]
        expected = [bool(inside[a]) and float(cells.strides[a]) in levels for a in range(len(centres))]
        assert candidates[b, g].tolist() == expected
        true = (batch["keypoints"][row] * torch.tensor([SIDE, SIDE, 1])).tolist()
        visible = [k for k in range(4) if true[k][2] > 0]
        chosen = candidates[b, g].nonzero()[:, 0]
        pairs = torch.full_like(chosen, b), torch.full_like(chosen, g), chosen
        by_boxes = boxwise.compute_overlap(cells.boxes * cells.strides, cells.scores, targets, pairs).tolist()
        for a, expected in zip(chosen.tolist(), by_boxes, strict=True):
            stride, centre, similarity = float(cells.strides[a]), cells.points[a].tolist(), 0.0
            for k in visible:
                x, y = ((raw["kpts"][b, 3 * k + i, a].item() + centre[i]) * stride for i in range(2))
                squared = (x - true[k][0]) ** 2 + (y - true[k][1]) ** 2
                similarity += exp(-squared / (2 * 0.25) ** 2 / (size**2 * 0.53) / 2) / len(visible)
            found = share * expected + (1 - share) * similarity if visible else expected
            assert overlap[b, g, a].item() == pytest.approx(found, abs=1e-9)
    assert seen_levels == {(8,), (8, 16)}


def test_the_level_gate_opens_where_it_would_leave_an_object_without_cells():
    head = make_head(Pose26)
    branch, raw = LikelihoodPoseLoss(head).one2many, make_outputs(head)
    batch = {**make_batch(), "boxes": torch.tensor([[0.5, 0.5, 0.22, 0.2]] * 3, dtype=torch.double)}
    cells = read_cells(head, raw)
    assigner, targets = branch.make_assigner(cells, batch), branch.targets(cells, batch)
    far_strides = replace(assigner, strides=torch.tensor([1.0, 2.0]).repeat(40)[: len(cells.points)])
    for one in (assigner, far_strides):
        found = one.find_candidates(cells.points * cells.strides, targets)
        assert found[targets.valid].any(-1).all()


# -- metric -----------------------------------------------------------------------------------------------------------


def random_poses(seed, pictures=12, count=5):
    """Predictions and truths of pictures: points near the true ones or invented, missing points, and crowds."""
    rng = np.random.default_rng(seed)
    found_all, true_all = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 300, (n, 2)), rng.uniform(10, 200, (n, 2))
        boxes = np.concatenate((corner, corner + side), 1)
        points = corner[:, None] + rng.random((n, count, 2)) * side[:, None]
        visible = rng.integers(0, 3, (n, count, 1)) * (rng.random((n, 1, 1)) > 0.2)
        truths = boxes, rng.integers(0, 2, n), rng.random(n) < 0.1, np.concatenate((points, visible), 2)
        near = np.repeat(points, 2, 0) + rng.normal(0, 0.03, (2 * n, count, 2)) * np.repeat(side, 2, 0)[:, None]
        rows = np.repeat(boxes, 2, 0) + rng.normal(0, 3, (2 * n, 4))
        kinds = np.where(rng.random(2 * n) < 0.1, 1, np.repeat(truths[1], 2))
        scores = rng.integers(1, 30, 2 * n) / 30
        found = rows, scores, kinds, np.concatenate((near, rng.random((2 * n, count, 1))), 2)
        found_all.append(found)
        true_all.append(truths)
    return found_all, true_all


def fill_metric(found_all, true_all, sigmas, count=5):
    metric = KeypointMetric(["a", "b", "none"], (count, 3), sigmas)
    for (rows, scores, kinds, points), (boxes, classes, crowd, true) in zip(found_all, true_all, strict=True):
        prediction = np.column_stack((rows, scores, kinds, points.reshape(len(rows), 3 * count)))
        centres = np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
        batch = {
            "images": torch.zeros(1, 3, 512, 512), "boxes": torch.from_numpy(centres / 512),
            "classes": torch.from_numpy(classes), "index": torch.zeros(len(boxes)), "crowd": torch.from_numpy(crowd),
            "keypoints": torch.from_numpy(true / (512, 512, 1)),
        }  # fmt: skip
        metric.update([torch.from_numpy(prediction).reshape(len(rows), 6 + 3 * count)], batch)
    return metric


class PlainEvaluation(KeypointEvaluation):
    """Keypoints, evaluated by average precision of our own."""

    average_precision = OverlapEvaluation.average_precision


@pytest.mark.parametrize("seed", range(3))
def test_oks_map_is_that_of_pycocotools(seed):
    pytest.importorskip("faster_coco_eval")
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    sigmas = np.array([0.05, 0.1, 0.08, 0.03, 0.2])
    metric = fill_metric(*random_poses(seed), sigmas)
    figures, tool = metric.result(), metric.evaluations()[1]
    truth = coco.COCO()
    truth.dataset = tool.truth_data()
    truth.createIndex()
    evaluator = evaluation.COCOeval(truth, truth.loadRes(tool.detection_data()), "keypoints")
    evaluator.params.kpt_oks_sigmas = sigmas
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    names = [f"pose-{name}" for name in KeypointEvaluation.figure_names]
    assert [figures[name] for name in names] == pytest.approx(evaluator.stats.tolist(), abs=1e-4)
    assert 0.1 < figures["pose-mAP50-95"] < figures["pose-mAP50"] < 1
    assert figures["fitness"] == pytest.approx(figures["mAP50-95"] + figures["pose-mAP50-95"])
    # Our own overlap, from which curves and confusion are made, gives the same average precision.
    own = PlainEvaluation(
        metric.names, metric.detections, metric.truths, metric.found_points, metric.true_points, sigmas
    )
    assert own.average_precision.figures["mAP50-95"] == pytest.approx(figures["pose-mAP50-95"], abs=1e-6)


def test_pck_and_the_error_of_points_count_what_their_docstring_says():
    pytest.importorskip("faster_coco_eval")
    box, far = np.array([[100, 100, 130, 140.0]]), np.array([[300, 300, 330, 340.0]])  # diagonals of 50
    true = np.array(
        [[[100, 100, 2], [130, 140, 1], [110, 110, 0]], [[300, 300, 2], [310, 310, 2], [320, 320, 2]]], float
    )
    points = np.array(
        [[[104, 103, 1], [130, 148, 1], [0, 0, 1]]], float
    )  # off by 5 and 8, and by what is not annotated
    truths = np.concatenate((box, far)), np.zeros(2, int), np.zeros(2, bool), true
    metric = fill_metric([(box + 1, np.ones(1), np.zeros(1), points)], [truths], [0.1] * 3, 3)
    figures = metric.result()
    assert figures["PCK"] == pytest.approx(1 / 5)  # five points are visible, three of an object that is not found
    assert figures["point-error"] == pytest.approx((0.1 + 0.16) / 2)
    assert metric.classes()[0]["PCK"] == figures["PCK"]
    assert metric.lower_is_better == ("point-error",)  # cannot select the best epoch
    nothing = KeypointMetric(["a"], (3, 3), [0.1] * 3)
    assert nothing.result()["PCK"] == nothing.result()["point-error"] == -1


# -- what follows the data set ----------------------------------------------------------------------------------------

TINY = """
nc: 1
ch: 3
imgsz: 64
{key}
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [[-1], 1, {head}, [nc, {shape}]]
"""


def write_network(folder, head="Pose", key="kpt_shape: [17, 3]", shape="kpt_shape"):
    file = folder / "tiny.yaml"
    file.write_text(TINY.format(head=head, key=key, shape=shape))
    return file


def write_data(folder, count=3, more="flip_idx: [1, 0, 2]", dims=3):
    """Bright rectangles whose keypoints are two corners and the centre."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        for i in range(8 if split == "train" else 4):
            image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
            (x, y), (w, h) = rng.uniform(0.35, 0.65, 2), rng.uniform(0.3, 0.5, 2)
            x1, y1, x2, y2 = (int(v * 64) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
            image[y1:y2, x1:x2] = 220
            Image.fromarray(image).save(folder / split / "images" / f"{i}.png")
            points = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x, y), *[(x, y)] * 9][:count]
            values = [v for p in points for v in (*p, 2)[:dims]]
            (folder / split / "labels" / f"{i}.txt").write_text(" ".join(map(str, (0, x, y, w, h, *values))))
    file = folder / "data.yaml"
    shape = f"kpt_shape: [{count}, {dims}]\n{more}\n" if count else ""
    file.write_text(f"train: train/images\nval: val/images\nnames: [rectangle]\n{shape}")
    return file


FAST = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0, "plots": False, "progress": False}


@pytest.mark.parametrize("head", ["Pose", "Pose26"])
def test_the_keypoints_of_a_network_follow_the_data_set(tmp_path, capsys, head):
    pytest.importorskip("faster_coco_eval")
    data = write_data(tmp_path / "data", dims=2)
    result = netbuild.train(write_network(tmp_path, head), data, out=tmp_path / "run", **FAST)
    said = capsys.readouterr().err
    assert said.count("kpt_shape is [3, 2] as in the data set; the network's file has [17, 3]") == 1
    assert {"pose-mAP50-95", "pose-mAP50", "PCK", "point-error", "mAP50-95"} <= set(result.measures)
    network = netbuild.build(result.best)
    assert network.model[-1].extra == (3, 2)
    assert netbuild.val(result.best, data, imgsz=64, workers=0)["PCK"] >= 0
    with pytest.raises(NetbuildError, match="kpt_shape has no effect on a file without the key kpt_shape"):
        netbuild.build(write_network(tmp_path, head, "", "[17, 3]"), kpt_shape=(3, 2))


def test_data_and_networks_that_do_not_fit_are_refused(tmp_path):
    data, bare = write_data(tmp_path / "data"), write_data(tmp_path / "bare", 0)
    with pytest.raises(NetbuildError, match="has 3 keypoints, the head of the network 17") as caught:
        netbuild.train(write_network(tmp_path, key="", shape="[17, 3]"), data, out=tmp_path / "a", **FAST)
    assert "write kpt_shape: [3, 3] into the network's file" in caught.value.hint
    with pytest.raises(NetbuildError, match="has no keypoints, which the task 'pose' needs") as caught:
        netbuild.train(write_network(tmp_path), bare, out=tmp_path / "b", **FAST)
    assert "kpt_shape" in caught.value.hint


def test_pictures_are_mirrored_only_if_the_data_say_how(tmp_path):
    without, with_swap = (
        open_data(write_data(tmp_path / name, more=more)) for name, more in (("a", ""), ("b", "flip_idx: [1, 0, 2]"))
    )
    assert PoseTask.adapt_settings(Settings(), without) == replace(Settings(), flip_lr=0.0)
    assert PoseTask.adapt_settings(Settings(), with_swap) == Settings()
    for name in ("flip_lr", "flip_ud", "copy_paste"):
        with pytest.raises(NetbuildError, match=f"{name} needs to know which keypoint"):
            PoseTask.adapt_settings(settings.load(flags={name: 0.5}), without)


def test_sigmas_of_the_data_reach_loss_and_metric(tmp_path):
    data = open_data(write_data(tmp_path / "data", more="kpt_oks_sigmas: [0.1, 0.2, 0.3]"))
    task = PoseTask(make_head(shape=(3, 3)), ["rectangle"], **PoseTask.data_options(data))
    assert task.metric().sigmas == task.criterion.one2many.sigmas == task.criterion.one2one.sigmas == (0.1, 0.2, 0.3)


def test_truth_is_drawn_with_the_visible_points():
    batch = {**make_batch(), "images": torch.zeros(2, 3, SIDE, SIDE)}
    task = PoseTask(make_head(), ["a", "b"])
    drawing = task.draw_truth(batch, 0)
    assert [len(points) for points, _ in drawing.points] == (batch["keypoints"][:2, :, 2] > 0).sum(1).tolist()
    np.testing.assert_allclose(
        np.concatenate([points for points, _ in drawing.points]),
        batch["keypoints"][0][batch["keypoints"][0, :, 2] > 0][:, :2] * SIDE,
    )
    assert drawing.render().shape == (SIDE, SIDE, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n-pose.yaml", "yolo11n-pose.yaml", "yolo26n-pose.yaml"])
def test_each_kind_of_pose_network_overfits_a_batch(tmp_path, name):
    chosen = {"epochs": 200, "batch": 4, "imgsz": 96, "lr": 0.003, "workers": 0, "mosaic": 0.0}
    found = run.overfit_batch(name, write_data(tmp_path / "data"), settings.load(None, chosen))
    assert is_overfit(found), (found[0], max(found), found[-5:])
