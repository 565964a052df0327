"""The losses of anchor heads and of auxiliary branches, compared with plain loops; anchors that suit the data."""

from math import atan, ceil, exp, floor, log, pi, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from netbuild import settings
from netbuild.data.dataset import Sample
from netbuild.errors import NetbuildError
from netbuild.layers import AnchorDetect, DDetect, DualDDetect, IAuxDetect, IDetect, TripleDetect
from netbuild.layers.fuse import fuse
from netbuild.tasks import anchor_fitting
from netbuild.tasks.anchor_fitting import best_possible_recall, compute_fit, find_anchors, measure_objects
from netbuild.tasks.anchor_matching import Matches, match_by_shape, select_by_cost
from netbuild.tasks.detect import DetectTask
from netbuild.tasks.losses.anchors import LOSS_FACTOR, AnchorLoss, AuxiliaryAnchorLoss, CostAnchorLoss
from netbuild.tasks.losses.auxiliary import AuxiliaryCellsLoss
from netbuild.tasks.losses.base import read_objects
from netbuild.tasks.losses.cells import CellsLoss

HEIGHT, WIDTH, STRIDES, NC = 64, 96, (8, 16), 3
ANCHORS = [[6.0, 8, 14, 10, 20, 24], [26.0, 20, 34, 50, 60, 44]]
COUNTS = (4, 0, 3)


def scene(cls, counts=COUNTS, nc=NC, seed=0):
    """A head, random raw maps in double precision that require gradients, and a batch."""
    torch.manual_seed(seed)
    copies = 2 if cls is IAuxDetect else 1
    head = cls(nc, ANCHORS, ch=[4, 4] * copies, stride=list(STRIDES) * copies).double()
    shapes = [(len(counts), 3, HEIGHT // s, WIDTH // s, 5 + nc) for s in STRIDES * copies]
    maps = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    index = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
    centres, sizes = torch.rand(len(index), 2).double(), 0.05 + 0.5 * torch.rand(len(index), 2).double()
    classes = torch.randint(nc, (len(index),)).float()
    return head, maps, {"boxes": torch.cat((centres, sizes), 1), "classes": classes, "index": index}


def sigmoid(x):
    return 1 / (1 + exp(-x))


def plain_candidates(batch, reach=0.5):
    """All (level, image, anchor, row, column, object) by loops over the rules as they are stated."""
    found = []
    for level, stride in enumerate(STRIDES):
        rows, columns = HEIGHT // stride, WIDTH // stride
        for target, (x, y, w, h) in enumerate(batch["boxes"].tolist()):
            for anchor in range(3):
                a, b = ANCHORS[level][2 * anchor : 2 * anchor + 2]
                if max(w * WIDTH / a, a / (w * WIDTH), h * HEIGHT / b, b / (h * HEIGHT)) >= 4:
                    continue
                gx, gy = x * columns, y * rows
                cells = [(floor(gx), floor(gy))]
                cells += [(floor(gx) - 1, floor(gy))] if gx - floor(gx) < reach else []
                cells += [(floor(gx) + 1, floor(gy))] if ceil(gx) - gx < reach else []
                cells += [(floor(gx), floor(gy) - 1)] if gy - floor(gy) < reach else []
                cells += [(floor(gx), floor(gy) + 1)] if ceil(gy) - gy < reach else []
                for column, row in cells:
                    if 0 <= column < columns and 0 <= row < rows:
                        found.append((level, int(batch["index"][target]), anchor, row, column, target))
    return found


def plain_box(maps, level, image, anchor, row, column):
    """Corners in pixels of a prediction."""
    x, y, w, h = (sigmoid(v) for v in maps[level][image, anchor, row, column, :4].tolist())
    cx, cy = (2 * x - 0.5 + column) * STRIDES[level], (2 * y - 0.5 + row) * STRIDES[level]
    a, b = ANCHORS[level][2 * anchor : 2 * anchor + 2]
    w, h = 4 * w * w * a, 4 * h * h * b
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def plain_target(batch, target):
    x, y, w, h = batch["boxes"][target].tolist()
    return (x - w / 2) * WIDTH, (y - h / 2) * HEIGHT, (x + w / 2) * WIDTH, (y + h / 2) * HEIGHT


def plain_iou(p, q, complete=False):
    inter = max(0, min(p[2], q[2]) - max(p[0], q[0])) * max(0, min(p[3], q[3]) - max(p[1], q[1]))
    (pw, ph), (qw, qh) = ((b[2] - b[0], b[3] - b[1]) for b in (p, q))
    overlap = inter / (pw * ph + qw * qh - inter)
    if not complete:
        return overlap
    diagonal = (max(p[2], q[2]) - min(p[0], q[0])) ** 2 + (max(p[3], q[3]) - min(p[1], q[1])) ** 2
    distance = ((p[0] + p[2] - q[0] - q[2]) ** 2 + (p[1] + p[3] - q[1] - q[3]) ** 2) / 4
    v = 4 / pi**2 * (atan(qw / qh) - atan(pw / ph)) ** 2
    return overlap - distance / diagonal - v * v / (1 - overlap + v)


def plain_terms(maps, batch, pairs, gains):
    """Box, objectness and classes of YOLOv5's loss for given pairs, with gains for three levels, 80 classes, 640 px."""
    box = obj = cls = 0.0
    nc = maps[0].shape[-1] - 5
    for level in range(len(STRIDES)):
        own = [pair for pair in pairs if pair[0] == level]
        overlaps = [plain_iou(plain_box(maps, *p[:5]), plain_target(batch, p[5]), complete=True) for p in own]
        targets = {}
        for pair, overlap in zip(own, overlaps, strict=True):
            targets[pair[1:5]] = max(targets.get(pair[1:5], 0), overlap, 0)
        box += sum(1 - overlap for overlap in overlaps) / max(len(own), 1)
        errors = []
        for place in np.ndindex(*maps[level].shape[:4]):
            t, p = targets.get(place, 0.0), sigmoid(maps[level][place][4].item())
            errors.append(-t * log(p) - (1 - t) * log(1 - p))
        obj += (4.0, 1.0)[level] * sum(errors) / len(errors)
        errors = []
        for _, image, anchor, row, column, target in own:
            for c, x in enumerate(maps[level][image, anchor, row, column, 5:].tolist()):
                p = sigmoid(x)
                errors.append(-log(p) if c == int(batch["classes"][target]) else -log(1 - p))
        cls += sum(errors) / max(len(errors), 1) * (nc > 1)
    area = HEIGHT * WIDTH / 640**2
    return {"box": gains[0] * 1.5 * box, "obj": gains[1] * 1.5 * area * obj, "cls": gains[2] * 1.5 * nc / 80 * cls}


def plain_selection(maps, batch, candidates, most):
    """SimOTA: for each object as many of the cheapest candidates as its best overlaps sum to."""
    chosen = {}
    for target in {pair[5] for pair in candidates}:
        own, overlaps, costs = [pair for pair in candidates if pair[5] == target], [], []
        for pair in own:
            overlap = plain_iou(plain_box(maps, *pair[:5]), plain_target(batch, target))
            values = [sigmoid(v) for v in maps[pair[0]][pair[1:5]][4:].tolist()]
            p = [sqrt(values[0] * v) for v in values[1:]]
            classes = sum(-log(v) if c == int(batch["classes"][target]) else -log(1 - v) for c, v in enumerate(p))
            overlaps.append(overlap)
            costs.append(classes - 3 * log(overlap + 1e-8))
        count = max(int(sum(sorted(overlaps, reverse=True)[:most])), 1)
        for cost, pair in sorted(zip(costs, own, strict=True))[:count]:
            place = pair[:5]
            if place not in chosen or cost < chosen[place][0]:
                chosen[place] = (cost, pair)
    return sorted(pair for _, pair in chosen.values())


def to_tuples(matches):
    return sorted(zip(*(values.tolist() for values in vars(matches).values()), strict=True))


@pytest.mark.parametrize("nc", [NC, 1])
def test_the_loss_of_yolov5_equals_plain_loops(nc):
    head, maps, batch = scene(AnchorDetect, nc=nc)
    task = DetectTask(head)
    assert type(task.criterion) is AnchorLoss
    total, terms = task.loss(maps, batch)
    pairs = plain_candidates(batch)
    assert len({pair[5] for pair in pairs}) >= 5
    expected = plain_terms(maps, batch, pairs, (0.05, 1.0, 0.5))
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(LOSS_FACTOR * len(COUNTS) * sum(expected.values()), rel=1e-5)


def test_the_loss_of_yolov7_equals_plain_loops():
    head, maps, batch = scene(IAuxDetect)
    main, auxiliary = maps[:2], maps[2:]
    candidates = plain_candidates(batch)
    pairs = plain_selection(main, batch, candidates, 10)
    assert 0 < len(pairs) < len(candidates)
    expected = plain_terms(main, batch, pairs, (0.05, 0.7, 0.3))
    single = IDetect(NC, ANCHORS, ch=[4, 4], stride=list(STRIDES)).double()
    assert type(DetectTask(single).criterion) is CostAnchorLoss
    _, terms = DetectTask(single).loss(main, batch)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    coarse = plain_selection(main, batch, plain_candidates(batch, reach=1.0), 20)
    further = plain_terms(auxiliary, batch, coarse, (0.05, 0.7, 0.3))
    total, terms = DetectTask(head).loss(maps, batch)
    expected["aux"] = 0.25 * sum(further.values())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    assert total.item() == pytest.approx(LOSS_FACTOR * len(COUNTS) * sum(expected.values()), rel=1e-5)


@pytest.mark.parametrize("reach", [0.5, 1.0])
def test_objects_are_matched_by_shape_and_cell(reach):
    batch = scene(AnchorDetect)[2]
    boxes = torch.cat((batch["boxes"], torch.tensor([[1.0, 1, 0.3, 0.3], [0, 0, 0.3, 0.3], [0.5, 0.5, 0, 0.2]])))
    index = torch.cat((batch["index"], torch.tensor([0, 1, 2])))
    sizes = boxes[:, 2:] * torch.tensor([WIDTH, HEIGHT])
    anchors = torch.tensor(ANCHORS).view(2, 3, 2)
    grids = [(HEIGHT // s, WIDTH // s) for s in STRIDES]
    found = to_tuples(match_by_shape(boxes[:, :2], sizes, index, anchors, grids, reach))
    inside = [pair for pair in found if pair[5] < len(batch["boxes"])]
    assert inside == sorted(plain_candidates(batch, reach))
    corners = [pair for pair in found if pair[5] >= len(batch["boxes"])]
    assert {pair[3:5] for pair in corners if pair[5] == len(batch["boxes"]) and pair[0] == 0} >= {(7, 11)}
    assert {pair[3:5] for pair in corners if pair[5] == len(batch["boxes"]) + 1} >= {(0, 0)}
    assert all(pair[5] < len(boxes) - 1 for pair in corners)  # an object without width fits no anchor


def test_a_prediction_of_two_objects_learns_the_cheaper_one():
    zeros = torch.zeros(4, dtype=torch.long)
    matches = Matches(zeros, zeros, zeros, zeros, torch.tensor([0, 1, 0, 2]), torch.tensor([0, 0, 2, 2]))
    overlap, cost = torch.tensor([0.9, 0.6, 0.5, 0.4]), torch.tensor([3.0, 5.0, 2.0, 4.0])
    assert to_tuples(select_by_cost(matches, overlap, cost)) == [(0, 0, 0, 0, 0, 2)]
    many = torch.tensor([0.9, 0.6, 0.95, 0.96])  # 1.5 and 1.91: still one each
    assert to_tuples(select_by_cost(matches, many, cost, 1)) == [(0, 0, 0, 0, 0, 2)]
    more = torch.tensor([1.0, 1.0, 0.5, 0.4])  # two for the first object; the second takes one of them
    assert to_tuples(select_by_cost(matches, more, cost)) == [(0, 0, 0, 0, 0, 2), (0, 0, 0, 0, 1, 0)]
    nothing = matches.select(torch.zeros(4, dtype=torch.bool))
    assert to_tuples(select_by_cost(nothing, overlap[:0], cost[:0])) == []


@pytest.mark.parametrize("head", [AnchorDetect, IDetect, IAuxDetect])
def test_gradients_of_the_anchor_losses(head):
    head, maps, batch = scene(head, counts=(3,))
    criterion = DetectTask(head).criterion
    maps, objects = maps[:2], read_objects(batch, maps[0])
    fixed = criterion.find_candidates(maps, objects)

    def without_objectness(*values):  # whose target depends on the boxes, without gradient
        terms = criterion.learn(values, objects, fixed)
        return terms["box"] + terms["cls"]

    def objectness(*values):
        changed = [torch.cat((x.detach()[..., :4], v[..., 4:]), -1) for x, v in zip(maps, values, strict=True)]
        return criterion.learn(changed, objects, fixed)["obj"]

    assert len(fixed.level) > 10
    assert torch.autograd.gradcheck(without_objectness, tuple(maps), fast_mode=True)
    assert torch.autograd.gradcheck(objectness, tuple(maps), fast_mode=True)


@pytest.mark.parametrize("head", [AnchorDetect, IDetect, IAuxDetect])
def test_images_without_objects_learn_objectness_alone(head):
    head, maps, batch = scene(head, counts=(0, 0))
    total, terms = DetectTask(head).loss(maps, batch)
    total.backward()
    assert (terms["box"], terms["cls"]) == (0, 0)
    assert terms["obj"] > 0
    assert all(x.grad is not None for x in maps)
    assert maps[0].grad[..., :4].abs().sum() == 0


@pytest.mark.parametrize("cls", [AnchorDetect, IAuxDetect])
def test_two_processes_together_have_the_loss_of_one(cls):
    head, maps, batch = scene(cls, counts=(4, 0, 3, 1))
    whole, _ = DetectTask(head).loss(maps, batch)
    shards, counts = [], []
    for rank in (0, 1):
        own = batch["index"] % 2 == rank
        shard = {"boxes": batch["boxes"][own], "classes": batch["classes"][own], "index": batch["index"][own] // 2}
        shards.append(([x[rank::2] for x in maps], shard))
        task, seen = DetectTask(head), []
        task.normaliser = lambda total, least, seen=seen: seen.append(total) or total.clamp(min=least)
        task.loss(*shards[-1])
        counts.append(seen)
    shared = [max((a + b).item(), 1) / 2 for a, b in zip(*counts, strict=True)]
    total = 0
    for shard in shards:
        task, left = DetectTask(head), iter(shared)
        task.normaliser = lambda *_, left=left: next(left)
        total += task.loss(*shard)[0].item()
    assert total == pytest.approx(whole.item())


def test_class_weights_weigh_the_classes():
    head, maps, batch = scene(AnchorDetect)
    batch = {**batch, "classes": torch.zeros_like(batch["classes"])}
    plain = DetectTask(head).loss(maps, batch)[1]["cls"]
    weighed = DetectTask(head, class_weights=torch.full((NC,), 3.0)).loss(maps, batch)[1]["cls"]
    assert weighed.item() == pytest.approx(3 * plain.item())


def test_gradients_are_about_as_large_as_those_of_an_anchor_free_head():
    """Then both are clipped alike: gradients that are never clipped leave those of the first steps in AdamW's state."""
    _, maps, batch = scene(AnchorDetect)
    free, feats, objects = branched_scene(DDetect)
    with_anchors = DetectTask(AnchorDetect(NC, ANCHORS, ch=[4, 4], stride=list(STRIDES)).double()).loss(maps, batch)[0]
    without = DetectTask(free).loss(free(feats), objects)[0]
    assert 0.2 < with_anchors.item() / without.item() < 5


# -- auxiliary branches of YOLOv9 -------------------------------------------------------------------------------------


def branched_scene(cls):
    torch.manual_seed(0)
    head = cls(NC, [8, 8] * cls.branches, list(STRIDES) * cls.branches).double()
    feats = [torch.randn(3, 8, HEIGHT // s, WIDTH // s).double() for s in STRIDES * cls.branches]
    index = torch.tensor([0, 0, 2])
    boxes = torch.tensor([[0.3, 0.4, 0.3, 0.4], [0.6, 0.6, 0.5, 0.3], [0.5, 0.5, 0.6, 0.7]]).double()
    return head, feats, {"boxes": boxes, "classes": torch.tensor([0.0, 1, 2]), "index": index}


@pytest.mark.parametrize("cls", [DualDDetect, TripleDetect])
def test_auxiliary_branches_count_a_quarter(cls):
    head, feats, batch = branched_scene(cls)
    outputs = head(feats)
    assert len(outputs) == cls.branches
    task = DetectTask(head)
    assert type(task.criterion) is AuxiliaryCellsLoss
    total, terms = task.loss(outputs, batch)
    sums, least = zip(
        *((CellsLoss(head)(raw, batch)[0].item(), CellsLoss(head).lower_bound(raw, batch)) for raw in outputs),
        strict=True,
    )
    assert total.item() == pytest.approx(sums[-1] + 0.25 * sum(sums[:-1]))
    assert terms["aux"].item() == pytest.approx(0.25 * sum(sums[:-1]) / 3)
    assert task.lower_bound(outputs, batch) == pytest.approx(least[-1] + 0.25 * sum(least[:-1]))
    total.backward()
    assert all(p.grad is not None for p in head.parameters() if p.requires_grad)


@pytest.mark.parametrize("cls", [DDetect, DualDDetect, TripleDetect])
def test_only_the_main_branch_predicts(cls):
    head, feats, _ = branched_scene(cls)
    head.eval()
    with torch.no_grad():
        y, raw = head(feats)
        assert y.shape == (3, 4 + NC, sum(HEIGHT // s * WIDTH // s for s in STRIDES))
        assert raw["boxes"].shape[1] == 64
        others = [torch.zeros_like(x) for x in feats[:-2]]
        assert torch.equal(head([*others, *feats[-2:]])[0], y)
        fuse(head)
        torch.testing.assert_close(head(feats[-2:])[0], y)
    names = {name.split(".")[0] for name, _ in head.named_parameters()}
    assert len(names) == 3  # boxes, classes and the fixed bins of one branch


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DualDDetect(2, [8, 8, 8]), "equally many maps"),
        (lambda: DualDDetect(2, [8, 8], [8, 16]), "same strides"),
        (lambda: IAuxDetect(2, 3, ch=[8, 8, 8]), "3 maps in all"),
        (lambda: IAuxDetect(2, 3, ch=[8, 8], stride=[8, 16]), "strides of the main ones"),
        (lambda: IAuxDetect(2, ANCHORS[:1], ch=[8, 8, 8, 8]), "each of the 2 maps"),
    ],
)
def test_maps_that_make_no_branches_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- anchors that suit the data ---------------------------------------------------------------------------------------


def sample(boxes, size=(200, 100), **more):
    return Sample(None, size, np.array([[0, 0.5, 0.5, w, h] for w, h in boxes], float).reshape(-1, 5), **more)


def test_objects_are_measured_in_pixels_of_the_input():
    crowd = np.array([False, True])
    samples = [sample([(0.5, 0.5), (0.01, 0.5)]), sample([(0.1, 0.2), (0.9, 0.9)], (100, 100), crowd=crowd)]
    np.testing.assert_allclose(measure_objects(samples, (50, 80)), [[40, 20], [5, 10]])
    assert measure_objects([sample([])], (50, 80)).shape == (0, 2)


def test_the_fit_of_anchors():
    sides, anchors = np.array([[10.0, 10], [11, 41], [30, 20]]), np.array([[10.0, 10], [0, 1], [40, 40]])
    np.testing.assert_allclose(compute_fit(sides, anchors), [1, 0.275, 0.5])
    assert best_possible_recall(np.array([[10.0, 10], [10, 41]]), anchors[:2]) == 0.5
    assert best_possible_recall(sides, np.array([[np.e, 0.0]])) == 0


def test_anchors_are_found_in_clusters_of_objects(monkeypatch):
    rng = np.random.default_rng(0)
    centres = np.array([[8.0, 8], [40, 12], [100, 150]])
    sides = np.concatenate([c * np.exp(0.05 * rng.normal(size=(40, 2))) for c in centres])
    found = find_anchors(sides, 3)
    np.testing.assert_allclose(found, centres, rtol=0.1)
    assert np.array_equal(found, find_anchors(sides, 3))
    wide = np.exp(rng.uniform(np.log(4), np.log(300), (200, 2)))
    evolved = compute_fit(wide, find_anchors(wide, 4)).mean()
    monkeypatch.setattr(anchor_fitting, "MUTATIONS", 0)
    assert evolved > compute_fit(wide, find_anchors(wide, 4)).mean()
    assert find_anchors(np.full((5, 2), 7.0), 9) == pytest.approx(7, rel=0.2)  # fewer sizes than anchors
    monkeypatch.setattr(anchor_fitting, "MAX_OBJECTS", 50)
    np.testing.assert_allclose(find_anchors(sides, 3), centres, rtol=0.2)


def fit(head, boxes, anchors="auto", imgsz=100):
    return DetectTask(head).fit_head(
        [sample(boxes, (100, 100))], (imgsz, imgsz), settings.load(None, {"anchors": anchors})
    )


def test_anchors_are_only_replaced_where_they_fit_badly():
    head = AnchorDetect(NC, ANCHORS, ch=[4, 4], stride=list(STRIDES))
    before = head.anchor_sizes.clone()
    assert fit(head, [(0.2, 0.2), (0.5, 0.4)]) == "anchors: 6 of the network fit 100.0% of 2 objects"
    assert fit(head, []) == "anchors: 6 of the network fit 100.0% of 0 objects"
    note = fit(head, [(0.9, 0.03), (0.03, 0.9), (0.3, 0.3)], "keep")
    assert "fit 33.3% of 3 objects; they are kept (anchors: keep)" in note
    assert torch.equal(head.anchor_sizes, before)


def test_small_anchors_go_to_the_finest_level():
    head = AnchorDetect(NC, ANCHORS, ch=[4, 4], stride=[16, 8])
    long = [(0.02, 0.9), (0.9, 0.02), (0.03, 0.8), (0.7, 0.03)]
    note = fit(head, long, imgsz=320)
    assert "replaced by" in note
    areas = head.anchor_sizes.prod(-1)
    assert areas[0].min() >= areas[1].max()
    assert "fit 100.0%" in fit(head, long, imgsz=320)
    with pytest.raises(NetbuildError, match="nothing can be learnt"):
        fit(AnchorDetect(NC, 3, ch=[4, 4], stride=[8, 16]), long, "keep", 640)
    assert fit(DDetect(NC, [8], [8]), long) == ""


def test_the_first_predictions_are_few_and_improbable():
    for head in (AnchorDetect, IAuxDetect):
        torch.manual_seed(0)
        made = head(20, ANCHORS, ch=[32, 32] * (2 if head is IAuxDetect else 1), stride=[8, 16] * 2)
        for convolutions in (made.m, *([made.m2] if head is IAuxDetect else [])):
            assert isinstance(convolutions, nn.ModuleList)
            for conv, stride in zip(convolutions, STRIDES, strict=True):
                values = conv(torch.randn(4, 32, 20, 20)).unflatten(1, (3, 25)).sigmoid().mean((0, 1, 3, 4))
                assert values[4] < 4 * 8 / (640 / stride) ** 2
                assert 0.01 < values[5:].mean() < 0.1


def test_an_auxiliary_head_learns_from_all_its_maps():
    head, _, batch = scene(IAuxDetect)
    assert type(DetectTask(head).criterion) is AuxiliaryAnchorLoss
    feats = [torch.randn(3, 4, HEIGHT // s, WIDTH // s).double() for s in STRIDES * 2]
    total, _ = DetectTask(head).loss(head(feats), batch)
    total.backward()
    assert all(p.grad is not None for p in head.parameters())
    head.eval()
    with torch.no_grad():
        y, raw = head(feats)
        assert (y.shape, len(raw)) == ((3, 3 * (8 * 12 + 4 * 6), 5 + NC), 2)
        fuse(head)
        torch.testing.assert_close(head(feats[:2])[0], y)
    assert {name.split(".")[0] for name, _ in head.named_parameters()} == {"m"}
