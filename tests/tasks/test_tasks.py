"""Losses, assignment, suppression and metrics, compared with plain loops, finite differences and pycocotools."""

from math import atan, exp, floor, log, pi
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.plain_assignment import choose_cells

import netbuild
from netbuild import tasks
from netbuild.data.fitting import Letterbox
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.layers.heads.detect import Detect, v10Detect
from netbuild.layers.heads.rtdetr import RTDETRDecoder
from netbuild.system import plugins
from netbuild.tasks import average_precision, classification_metric, detection_metric, matching, nms
from netbuild.tasks.assign import Assigner, Targets, pad_targets
from netbuild.tasks.base import Task
from netbuild.tasks.box_math import ciou, giou, iou, pairwise_iou, to_centres, to_corners
from netbuild.tasks.class_weights import compute_class_weights
from netbuild.tasks.classify import ClassifyTask
from netbuild.tasks.coco_evaluation import BoxEvaluation
from netbuild.tasks.detect import DetectTask
from netbuild.tasks.losses.cells import BoxPart, DetectionLoss, DualSchedule, Gains, LossPart, dfl_loss, read_cells


def generator(seed):
    return torch.Generator().manual_seed(seed)


def random_boxes(n, g, side=(96.0, 64.0), small=2.0, large=40.0):
    """(n, 4) corners inside an image of (width, height), double precision."""
    size = small + (large - small) * torch.rand(n, 2, generator=g, dtype=torch.float64)
    low = torch.rand(n, 2, generator=g, dtype=torch.float64) * (torch.tensor(side) - size)
    return torch.cat((low, low + size), 1)


# -- boxes ------------------------------------------------------------------------------------------------------------


def plain_iou(a, b, eps=0.0):
    """IoU of two corner boxes, the union, and the enclosing box's sides."""
    w = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    h = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - w * h
    hull = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    return w * h / (union + eps), union, hull


def plain_ciou(a, b, weight=None):
    """CIoU of two corner boxes; the weight of the shape term can be given."""
    overlap, _, (w, h) = plain_iou(a, b)
    distance = sum((a[i] + a[i + 2] - b[i] - b[i + 2]) ** 2 / 4 for i in (0, 1))
    angles = [atan((x[2] - x[0]) / (x[3] - x[1])) for x in (a, b)]
    v = 4 / pi**2 * (angles[0] - angles[1]) ** 2
    weight = v / (1 - overlap + v) if weight is None and v else weight or 0.0
    return overlap - distance / (w * w + h * h) - weight * v, weight


def plain_giou(a, b):
    overlap, union, (w, h) = plain_iou(a, b)
    return overlap - (w * h - union) / (w * h)


def test_overlaps_equal_their_formulas():
    a, b = random_boxes(60, generator(0)), random_boxes(60, generator(1))
    for function, plain in (
        (iou, lambda *x: plain_iou(*x)[0]),
        (giou, plain_giou),
        (ciou, lambda *x: plain_ciou(*x)[0]),
    ):
        expected = [plain(p, q) for p, q in zip(a.tolist(), b.tolist())]
        assert function(a, b).tolist() == pytest.approx(expected, abs=1e-6)
        assert function(a, a).tolist() == pytest.approx([1.0] * 60, abs=1e-6)
    assert torch.equal(pairwise_iou(a, b)[3], iou(a[3].expand_as(b), b))
    assert torch.allclose(to_corners(to_centres(a)), a)
    assert to_centres(torch.tensor([2.0, 4.0, 6.0, 10.0])).tolist() == [4, 7, 4, 6]


@pytest.mark.parametrize("function", [iou, giou, ciou])
def test_degenerate_boxes_have_finite_overlap_and_gradient(function):
    a = torch.tensor([[1.0, 1, 1, 1], [0, 0, 4, 4], [5, 5, 5, 9], [9, 9, 3, 3]], requires_grad=True)
    for b in (a.detach(), torch.zeros_like(a), a.detach().flip(0)):
        value = function(a, b)
        (gradient,) = torch.autograd.grad(value.sum(), a)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [iou, giou])
def test_gradients_of_iou_and_giou(function):
    a, b = (random_boxes(12, generator(s), small=15).requires_grad_() for s in (2, 3))
    assert torch.autograd.gradcheck(function, (a, b))


def test_the_gradient_of_ciou_holds_the_weight_of_its_shape_term_fixed():
    a, b = random_boxes(12, generator(4), small=15).requires_grad_(), random_boxes(12, generator(5), small=15)
    (gradient,) = torch.autograd.grad(ciou(a, b).sum(), a)
    moved = 0.0
    for p, q, found in zip(a.tolist(), b.tolist(), gradient.tolist()):
        weight = plain_ciou(p, q)[1]
        for i in range(4):
            ends = [plain_ciou([x + step * (i == j) for j, x in enumerate(p)], q, weight)[0] for step in (1e-6, -1e-6)]
            assert found[i] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)
            free = [plain_ciou([x + step * (i == j) for j, x in enumerate(p)], q)[0] for step in (1e-6, -1e-6)]
            moved = max(moved, abs(free[0] - free[1] - ends[0] + ends[1]) / 2e-6)
    assert moved > 1e-4  # a weight with gradient would have been noticed


@pytest.mark.parametrize(
    ("size", "canvas", "enlarge", "inner", "corner"),
    [
        ((480, 640), (640, 640), True, (480, 640), (80, 0)),
        ((1080, 1921), (640, 640), True, (360, 640), (140, 0)),
        ((335, 500), (640, 640), True, (429, 640), (105, 0)),
        ((100, 101), (320, 384), False, (100, 101), (110, 141)),
        ((3000, 2), (64, 64), True, (64, 1), (0, 31)),
    ],
)
def test_boxes_go_into_a_letterbox_and_back(size, canvas, enlarge, inner, corner):
    box = Letterbox.fit(size, canvas, enlarge)
    assert (box.inner, box.corner) == (inner, corner)
    h, w = size
    whole = torch.tensor([[0.0, 0, w, h], [w / 4, h / 3, w / 2, h]], dtype=torch.float64)
    placed = box.apply(whole)
    top, left = corner
    assert placed[0].tolist() == pytest.approx([left, top, left + inner[1], top + inner[0]])
    assert torch.allclose(box.undo(placed), whole, atol=1e-9)
    assert box.undo(torch.tensor([[-9.0, -9, 9999, 9999]])).tolist() == [[0, 0, w, h]]


# -- assignment -------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, STRIDES = 96, 64, (8, 16, 32)
FULL = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])


def grid():
    """(A, 2) centres of all cells in pixels, levels in order, row by row."""
    return torch.tensor(
        [[(x + 0.5) * s, (y + 0.5) * s] for s in STRIDES for y in range(HEIGHT // s) for x in range(WIDTH // s)],
        dtype=torch.float64,
    )


def scene(seed, counts, nc=4):
    """Random scores, predicted boxes that are about the objects', cells and objects, of a batch of images."""
    g = generator(seed)
    points = grid()
    index = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
    boxes = random_boxes(len(index), g)
    classes = torch.randint(nc, (len(index),), generator=g)
    targets = pad_targets(boxes, classes, index, len(counts))
    scores = torch.rand(len(counts), len(points), nc, generator=g, dtype=torch.float64)
    shape = (len(counts), len(points), 2)
    predicted = torch.cat(
        [points - 18 * torch.rand(shape, generator=g), points + 18 * torch.rand(shape, generator=g)], 2
    )
    return scores, predicted.double(), points, targets


def plain_assignment(scores, predicted, points, boxes, classes, topk, topk2, min_side):
    """One image: lists of each cell's object (or None), its class and its soft target. All in loops."""
    cells, objects = range(len(points)), range(len(boxes))
    inside, u, t = (np.zeros((len(boxes), len(points))) for _ in range(3))
    for g in objects:
        low, high = list(boxes[g][:2]), list(boxes[g][2:])
        for i in (0, 1):
            if high[i] - low[i] < min_side:
                middle = (low[i] + high[i]) / 2
                low[i], high[i] = middle - min_side / 2, middle + min_side / 2
        for a in cells:
            if all(low[i] + 1e-9 < points[a][i] < high[i] - 1e-9 for i in (0, 1)):
                inside[g, a] = 1
                u[g, a] = max(plain_ciou(boxes[g], predicted[a])[0], 0)
                t[g, a] = scores[a][classes[g]] ** 0.5 * u[g, a] ** 6
    return choose_cells(inside, u, t, topk, topk2)


@pytest.mark.parametrize(("topk", "topk2"), [(10, 10), (7, 1), (10, 1), (3, 2), (200, 200)])
@pytest.mark.parametrize("seed", range(3))
def test_assignment_equals_a_plain_loop(topk, topk2, seed):
    scores, predicted, points, targets = scene(seed, (5, 0, 30, 1))
    found = Assigner(topk, topk2, min_side=16.0)(scores, predicted, points, targets)
    total = 0
    for b in range(4):
        n = int(targets.valid[b].sum())
        boxes, classes = targets.boxes[b, :n].tolist(), targets.classes[b, :n].tolist()
        owner, score = plain_assignment(
            scores[b].tolist(), predicted[b].tolist(), points.tolist(), boxes, classes, topk, topk2, 16.0
        )
        for a, g in enumerate(owner):
            assert bool(found.foreground[b, a]) == (g is not None)
            expected = [0.0] * 4
            if g is not None:
                total += 1
                assert int(found.index[b, a]) == g
                assert found.boxes[b, a].tolist() == boxes[g]
                expected[classes[g]] = score[a]
            assert found.scores[b, a].tolist() == pytest.approx(expected, abs=1e-6)
    assert total >= 15


def test_a_small_object_finds_cells_by_its_enlarged_box():
    box = torch.tensor([[[30.0, 30, 32, 32]]])  # no centre of a cell is inside
    targets = Targets(box, torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    points = grid().float()
    predicted = box.expand(1, len(points), 4)
    counts = [
        int(Assigner(min_side=min_side)(torch.ones(1, len(points), 1), predicted, points, targets).foreground.sum())
        for min_side in (0.0, 16.0, 32.0)
    ]
    # From 23 to 39 there are centres of stride 8 at 28 and 36, and of stride 16 at 24; from 15 to 47 there are 21.
    assert counts == [0, 4 + 1, 10]


def test_the_order_of_objects_and_of_images_does_not_matter():
    scores, predicted, points, targets = scene(3, (6, 4, 0))
    assign = Assigner(7, 1, min_side=16.0)
    first = assign(scores, predicted, points, targets)
    order = torch.randperm(6, generator=generator(0))
    mixed = Targets(*(x[:, order] for x in (targets.boxes, targets.classes, targets.rows)))
    second = assign(scores, predicted, points, mixed)
    turned = assign(scores.flip(0), predicted.flip(0), points, Targets(*(x.flip(0) for x in vars(targets).values())))
    for name in ("scores", "foreground"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(first, name), getattr(turned, name).flip(0))
    assert torch.equal(first.boxes[first.foreground], second.boxes[second.foreground])
    assert first.foreground.sum(1).tolist()[2] == 0


def test_a_batch_without_objects_is_background():
    scores, predicted, points, _ = scene(0, (1, 1))
    none = torch.zeros(0, dtype=torch.long)
    found = Assigner()(scores, predicted, points, pad_targets(torch.zeros(0, 4), none, none, 2))
    assert not found.foreground.any()
    assert not found.scores.any()
    assert found.boxes.shape == predicted.shape


def test_objects_are_padded_in_their_order():
    boxes = torch.arange(1, 17.0).view(4, 4)
    found = pad_targets(boxes, torch.tensor([3, 1, 2, 0]), torch.tensor([2, 0, 2, 0]), 4)
    assert found.rows.tolist() == [[1, 3], [-1, -1], [0, 2], [-1, -1]]
    assert found.classes.tolist() == [[1, 0], [0, 0], [3, 2], [0, 0]]
    assert found.valid.tolist() == [[True, True], [False, False], [True, True], [False, False]]
    assert torch.equal(found.boxes[2], boxes[[0, 2]])


# -- detection loss ---------------------------------------------------------------------------------------------------


def test_dfl_equals_its_definition_and_its_gradient():
    g = generator(6)
    bins = torch.randn(5, 4, 16, generator=g, dtype=torch.float64, requires_grad=True)
    target = torch.rand(5, 4, generator=g, dtype=torch.float64) * 14.9
    target[0] = torch.tensor([-3.0, 0.0, 15.0, 99.0])
    p = bins.detach().softmax(-1)
    for n, found in enumerate(dfl_loss(bins, target).tolist()):
        sides = []
        for i, y in enumerate(target[n].tolist()):
            y = min(max(y, 0), 14.99)
            low = floor(y)
            sides.append(-log(p[n, i, low]) * (low + 1 - y) - log(p[n, i, low + 1]) * (y - low))
        assert found == pytest.approx(sum(sides) / 4)
    assert torch.autograd.gradcheck(lambda x: dfl_loss(x, target), (bins,))


def detection_scene(reg_max, seed=0, counts=(4, 0, 7), nc=3):
    """A head, random raw outputs in double precision, and a batch."""
    g = generator(seed)
    head = Detect(nc, [16, 16, 16], reg_max, stride=list(STRIDES))
    feats = [torch.zeros(len(counts), 16, HEIGHT // s, WIDTH // s) for s in STRIDES]
    cells = sum((HEIGHT // s) * (WIDTH // s) for s in STRIDES)
    sides = torch.randn(len(counts), 4 * reg_max, cells, generator=g, dtype=torch.float64)
    sides = sides if reg_max > 1 else sides.abs() * 2
    scores = torch.randn(len(counts), nc, cells, generator=g, dtype=torch.float64)
    raw = {"boxes": sides.requires_grad_(), "scores": scores.requires_grad_(), "feats": feats}
    index = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
    boxes = to_centres(random_boxes(len(index), g)) / FULL
    order = torch.randperm(len(index), generator=g)
    classes = torch.randint(nc, (len(index),), generator=g)
    return head.double(), raw, {"boxes": boxes[order], "classes": classes.float(), "index": index[order]}


def plain_detection_loss(raw, batch, reg_max, topk, topk2, weights):
    """Sums of the three parts over all cells, divided by the sum of the targets, without gains."""
    points = grid().tolist()
    strides = [s for s in STRIDES for _ in range((HEIGHT // s) * (WIDTH // s))]
    box = cls = side = total = 0.0
    for b in range(len(raw["boxes"])):
        outputs = raw["boxes"][b].detach().T.reshape(len(points), 4, reg_max)
        p = outputs.softmax(-1) if reg_max > 1 else outputs
        distances = (p @ torch.arange(reg_max, dtype=p.dtype) if reg_max > 1 else p[..., 0]).tolist()
        spans = [
            [x / s - d[0], y / s - d[1], x / s + d[2], y / s + d[3]] for (x, y), s, d in zip(points, strides, distances)
        ]
        logits = raw["scores"][b].detach().T.tolist()
        probabilities = [[1 / (1 + exp(-x)) for x in row] for row in logits]
        own = batch["index"] == b
        objects = (to_corners(batch["boxes"][own]) * FULL).tolist()
        classes = batch["classes"][own].long().tolist()
        pixels = [[x * s for x in span] for span, s in zip(spans, strides)]
        owner, score = plain_assignment(probabilities, pixels, points, objects, classes, topk, topk2, 16)
        for a, s in enumerate(strides):
            for c, x in enumerate(probabilities[a]):
                y = score[a] if owner[a] is not None and classes[owner[a]] == c else 0.0
                cls -= (y * log(x) + (1 - y) * log(1 - x)) * weights[c]
            if owner[a] is None:
                continue
            total += score[a]
            true = [x / s for x in objects[owner[a]]]
            box += (1 - plain_ciou(spans[a], true)[0]) * score[a]
            x, y = (v / s for v in points[a])
            target = [x - true[0], y - true[1], true[2] - x, true[3] - y]
            if reg_max > 1:
                loss = dfl_loss(outputs[a][None], torch.tensor([target], dtype=torch.float64)).item()
            else:
                loss = sum(abs(d - t) * s / n for d, t, n in zip(distances[a], target, FULL.tolist())) / 4
            side += loss * score[a]
    return [x / max(total, 1) for x in (box, cls, side)]


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0)])
@pytest.mark.parametrize(("reg_max", "topk", "topk2"), [(16, 10, 10), (16, 7, 1), (1, 10, 10), (1, 7, 1)])
def test_the_detection_loss_equals_plain_loops(reg_max, topk, topk2, weights):
    head, raw, batch = detection_scene(reg_max)
    factors = None if weights is None else torch.tensor(weights)
    parts = DetectionLoss(head, Gains(2.0, 3.0, 5.0), topk, topk2, factors)(raw, batch)
    box, cls, side = plain_detection_loss(raw, batch, reg_max, topk, topk2, weights or (1, 1, 1))
    expected = {"box": 2 * box, "cls": 3 * cls, "dfl" if reg_max > 1 else "l1": 5 * side}
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-5)
    assert min(expected.values()) > 0.1


class WidthPart(LossPart):
    """Squared difference of a cell's predicted width and its target's own, found in the batch by its row."""

    def __call__(self, cells, assigned, batch):
        fg = assigned.foreground
        truth = batch["boxes"][assigned.rows[fg], 2]
        widths = cells.boxes * cells.strides / cells.size[0]
        return {"width": ((widths[..., 2] - widths[..., 0])[fg] - truth.to(widths)).square().sum()}


def test_a_detection_loss_takes_custom_parts():
    head, raw, batch = detection_scene(16)
    parts = DetectionLoss(head, parts=(BoxPart(2.0), WidthPart()))(raw, batch)
    assert list(parts) == ["box", "width"]
    assert parts["box"].item() == DetectionLoss(head, Gains(box=2.0))(raw, batch)["box"].item()
    parts["width"].backward()
    assert parts["width"].item() > 0
    assert raw["boxes"].grad.abs().sum() > 0
    assert raw["scores"].grad is None  # boxes alone give widths

    loss = DetectionLoss(head)
    cells = read_cells(head, raw)
    assigned = loss.assign(cells, loss.targets(cells, batch), batch)
    fg = assigned.foreground
    assert torch.equal(fg, assigned.rows >= 0)
    assert torch.equal(batch["index"][assigned.rows[fg]].long(), fg.nonzero()[:, 0])
    w, h = cells.size
    truth = to_corners(batch["boxes"].to(cells.scores) * cells.scores.new_tensor([w, h, w, h]))
    assert torch.allclose(truth[assigned.rows[fg]], assigned.boxes[fg])


@pytest.mark.parametrize("reg_max", [1, 16])
def test_images_without_objects_train_classes_only(reg_max):
    head, raw, batch = detection_scene(reg_max, counts=(0, 0))
    total, parts = DetectTask(head).loss(raw, batch)
    total.backward()
    assert {name: part.item() > 0 for name, part in parts.items()} == {"box": False, "cls": True} | {
        "dfl" if reg_max > 1 else "l1": False
    }
    assert raw["scores"].grad.abs().sum() > 0
    assert raw["boxes"].grad.abs().sum() == 0  # but there is one: the graph is whole


def test_the_loss_is_times_the_batch_size_and_its_terms_are_not():
    head, raw, batch = detection_scene(16)
    total, parts = DetectTask(head).loss(raw, batch)
    assert total.item() == pytest.approx(3 * sum(part.item() for part in parts.values()))
    assert not any(part.requires_grad for part in parts.values())
    half = raw | {name: raw[name].detach().bfloat16() for name in ("boxes", "scores")}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = DetectTask(head).loss(half, batch)
    same, _ = DetectTask(head).loss(raw | {name: half[name].float() for name in ("boxes", "scores")}, batch)
    assert rough.dtype == torch.float32
    assert rough.item() == same.item()  # only the outputs are rounded
    assert rough.item() == pytest.approx(total.item(), rel=0.02)


def test_two_branches_are_weighted_by_the_schedule():
    head, many, batch = detection_scene(1, counts=(30, 0, 50))
    _, one, _ = detection_scene(1, seed=1, counts=(30, 0, 50))
    head.copy_parts(True, "cv2", "cv3")
    task = DetectTask(head)
    shares = []
    parts = [DetectionLoss(head)(many, batch), DetectionLoss(head, topk=7, topk2=1)(one, batch)]
    sums = [sum(part.item() for part in branch.values()) for branch in parts]
    for finished in range(1, 11):
        total, logged = task.loss({"one2many": many, "one2one": one}, batch)
        assert {name: part.item() for name, part in logged.items()} == pytest.approx(
            {name: part.item() for name, part in parts[1].items()}
        )
        shares.append((total.item() / 3 - sums[1]) / (sums[0] - sums[1]))
        task.epoch_end(finished, 10)
    assert shares == pytest.approx([0.8 - 0.7 * i / 9 for i in range(10)], abs=1e-6)
    assert task.criterion.schedule.share == pytest.approx(0.1)
    single = DualSchedule()
    single.epoch_end(1, 1)
    assert single.share == pytest.approx(0.1)


def test_class_weights():
    found = compute_class_weights(torch.tensor([100, 25, 0, 4]), 0.5)
    raw = np.array([0.1, 0.2, (0.1 + 0.2 + 0.5) / 3, 0.5])
    assert found.tolist() == pytest.approx((raw / raw.mean()).tolist())
    assert compute_class_weights(torch.tensor([0, 0]), 1.0).tolist() == [1, 1]
    assert compute_class_weights(torch.tensor([7, 1]), 0.0).tolist() == [1, 1]


def make_decoder_without_loss():
    decoder = RTDETRDecoder(2, [16])
    decoder.learns = ""
    return decoder


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (torch.nn.Linear(2, 2), "cannot read the head Linear"),
        (make_decoder_without_loss(), "no loss for the head RTDETR"),
        (Detect(2, [16]), "strides of the head Detect"),
    ],
)
def test_a_head_that_cannot_be_trained_says_so(head, message):
    with pytest.raises(NetbuildError, match=message):
        DetectTask(head).check_loss()


def detector(file, nc):
    torch.manual_seed(0)
    network = netbuild.build(file, nc=nc).train()
    head = next(module for module in network.modules() if isinstance(module, Detect))
    return network, head


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "end2end"), [("yolo11n.yaml", False), ("yolov10n.yaml", True), ("yolo26n.yaml", True)]
)
def test_one_batch_is_overfitted(file, end2end):
    network, head = detector(file, nc=3)
    task = DetectTask(head, ["a", "b", "c"])
    batch = {
        "images": torch.rand(2, 3, 96, 96),
        "boxes": torch.tensor([[0.6, 0.7, 0.6, 0.5], [0.3, 0.25, 0.4, 0.4], [0.6, 0.4, 0.5, 0.6]]),
        "classes": torch.tensor([0, 1, 2]),
        "index": torch.tensor([0, 0, 1]),
    }
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    task.epoch_end(1, 2)  # a dual head's last epoch: most of the weight is on one-to-one
    losses = []
    for _ in range(120):
        total, _ = task.loss(network(batch["images"]), batch)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(total.item())
    assert losses[-1] < losses[0] / 4
    head.training, head.end2end = False, end2end  # the batch's own statistics go on serving
    with torch.no_grad():
        found = task.decode(network(batch["images"]), conf=0.1)
    metric = task.metric()
    metric.update(found, batch)
    result = metric.result()
    assert result["mAP50"] > 0.95
    assert result["F1"] > 0.95


# -- suppression ------------------------------------------------------------------------------------------------------


def plain_suppression(image, chosen):
    """Rows of one image (4 + nc, A), in loops: sort, and drop what overlaps a kept one."""
    rows = []
    for cell in image.T.tolist():
        centre, scores = cell[:4], cell[4:]
        corners = to_corners(torch.tensor(centre)).tolist()
        best = max(range(len(scores)), key=lambda c: scores[c])
        for c, score in enumerate(scores):
            wanted = chosen.classes is None or c in chosen.classes
            if score > chosen.conf and wanted and (chosen.multi_label or c == best):
                rows.append([*corners, score, c])
    rows.sort(key=lambda row: -row[4])
    kept = []
    for row in rows:
        rivals = [other for other in kept if chosen.agnostic or other[5] == row[5]]
        if all(plain_iou(row, other)[0] <= chosen.iou for other in rivals):
            kept.append(row)
    return kept[: chosen.max_det]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conf": 0.001, "multi_label": True},
        {"agnostic": True, "iou": 0.3},
        {"conf": 0.1, "multi_label": True, "agnostic": True},
        {"max_det": 5, "conf": 0.0},
        {"classes": (0, 2), "multi_label": True},
        {"conf": 1.0},
    ],
)
def test_suppression_equals_a_plain_loop(options):
    pytest.importorskip("torchvision")
    g = generator(8)
    boxes = to_centres(random_boxes(80, g, small=12).float()).T.expand(2, 4, 80)
    y = torch.cat((boxes, torch.rand(2, 3, 80, generator=g) ** 2), 1)
    y[1, :2] -= 40  # beyond the edge too
    chosen = nms.Filter(**options)
    found = nms.suppress(y, chosen)
    for image, rows in zip(y, found):
        expected = plain_suppression(image, chosen)
        assert rows.shape == (len(expected), 6)
        assert torch.allclose(rows, torch.tensor(expected).view(-1, 6), atol=1e-4)
    most = [len(nms.find_candidates(image, 3, chosen)) for image in y]
    assert sum(map(len, found)) < sum(most) or chosen.conf == 1


def test_suppression_keeps_extra_values():
    pytest.importorskip("torchvision")
    y = torch.tensor([[10.0, 10, 4, 4, 0.9, 0.1, 7, 8], [50, 50, 4, 4, 0.2, 0.8, 5, 6]]).T[None]
    (rows,) = nms.suppress(y, nms.Filter(), nc=2)
    assert rows[:, 5:].tolist() == [[0, 7, 8], [1, 5, 6]]


def test_classes_are_suppressed_apart_and_scores_must_exceed_the_threshold():
    pytest.importorskip("torchvision")
    y = torch.tensor([[15.0, 15, 10, 10, 0.75, 0], [-5, -5, 10, 10, 0, 0.625], [40, 40, 9, 9, 0.5, 0]]).T[None]
    (rows,) = nms.suppress(y, nms.Filter(conf=0.5))
    assert rows[:, 4:].tolist() == [[0.75, 0], [0.625, 1]]
    (rows,) = nms.suppress(y, nms.Filter(conf=0.5, multi_label=True))
    assert rows[:, 4:].tolist() == [[0.75, 0], [0.625, 1]]


def test_a_one_to_one_head_needs_no_suppression(monkeypatch):
    head = v10Detect(3, [16, 16], stride=[8.0, 16.0]).eval()
    head.end2end = True
    head.max_det = 40
    with torch.no_grad():
        for branch in head.one2one_cv3:
            branch[-1].bias.fill_(0.0)  # scores that differ, about a half
        outputs = head(
            [torch.randn(2, 16, 8, 8, generator=generator(1)), torch.randn(2, 16, 4, 4, generator=generator(2))]
        )
    task = DetectTask(head)
    monkeypatch.setattr("netbuild.tasks.box_task.suppress", None)
    found = task.decode(outputs, conf=0.0)
    assert [len(rows) for rows in found] == [40, 40]
    middle = outputs[0][0, 20, 4].item()
    (first, _) = task.decode(outputs, conf=middle, max_det=15, classes=(0, 1))
    wanted = [row for row in outputs[0][0].tolist() if row[4] > middle and row[5] in (0, 1)][:15]
    assert first.tolist() == wanted
    assert len(wanted) > 0


@pytest.mark.parametrize(
    ("failure", "message"),
    [(ImportError("none"), "is not installed"), (RuntimeError("operator nms"), "does not load")],
)
def test_without_a_working_torchvision_suppression_says_what_is_missing(monkeypatch, failure, message):
    def refuse(name):
        raise failure

    monkeypatch.setattr("netbuild.system.packages.import_module", refuse)
    with pytest.raises(MissingExtraError, match=message) as caught:
        nms.suppress(torch.zeros(1, 6, 3), nms.Filter())
    assert isinstance(failure, RuntimeError) or "netbuild[train]" in caught.value.hint


# -- scores -----------------------------------------------------------------------------------------------------------


def detections(images=12, objects=9, nc=4, seed=0):
    """A metric that has seen random truths of all sizes, and detections near them, doubled, mistaken and invented."""
    g = generator(seed)
    metric = detection_metric.DetectionMetric([f"c{i}" for i in range(nc)])
    side = 400
    for _ in range(images // 3):
        index = torch.arange(3).repeat_interleave(objects)
        boxes = random_boxes(3 * objects, g, (side, side), 10, 200).float()
        classes = torch.randint(nc - 1, (len(index),), generator=g)  # the last class has no objects
        predictions = []
        for i in range(3):
            rows = torch.cat((boxes[index == i].repeat(2, 1), random_boxes(4, g, (side, side), 10, 200).float()))
            kinds = torch.cat((classes[index == i].repeat(2), torch.randint(nc, (4,), generator=g)))
            wrong = torch.rand(len(kinds), generator=g) < 0.2
            kinds[wrong] = torch.randint(nc, (int(wrong.sum()),), generator=g)
            rows = rows + torch.randn(rows.shape, generator=g) * 5
            scores = (torch.rand(len(rows), 1, generator=g) * 50).round() / 50  # some are equal
            predictions.append(torch.cat((rows, scores, kinds[:, None].float()), 1))
        crowd = torch.rand(len(index), generator=g) < 0.1
        batch = {"boxes": to_centres(boxes) / side, "classes": classes, "index": index, "crowd": crowd}
        metric.update(predictions, {"images": torch.zeros(3, 3, side, side), **batch})
    return metric


@pytest.mark.parametrize(("images", "objects"), [(12, 9), (3, 70)])
def test_map_equals_pycocotools(images, objects, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    pytest.importorskip("faster_coco_eval")
    metric = detections(images, objects)
    truth = coco.COCO()
    truth.dataset = metric.evaluations()[0].truth_data()
    truth.createIndex()
    peer = cocoeval.COCOeval(truth, truth.loadRes(metric.evaluations()[0].detection_data()), "bbox")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    capsys.readouterr()
    result = metric.result()
    found = [result[name] for name in average_precision.COCO_FIGURES]
    assert found == pytest.approx(peer.stats.tolist(), abs=1e-6)
    assert 0.1 < result["mAP50-95"] < result["mAP50"] < 1
    table = metric.classes()
    assert [row["class"] for row in table] == ["c0", "c1", "c2"]
    for i, row in enumerate(table):
        assert row["AP50-95"] == pytest.approx(peer.eval["precision"][:, :, i, 0, -1].mean())
    assert np.mean([row["AP50"] for row in table]) == pytest.approx(result["mAP50"])


def small_metric():
    """Two images of 100 x 200. First: a found twice, b taken for a; second: b found at low confidence, b invented."""
    metric = detection_metric.DetectionMetric(["a", "b"])
    boxes = torch.tensor([[10.0, 10, 50, 50], [100, 20, 140, 60], [0, 0, 30, 30], [160, 0, 199, 30]])
    fractions = to_centres(boxes) / torch.tensor([200, 100, 200, 100])
    batch = {"images": torch.zeros(2, 3, 100, 200), "boxes": fractions, "classes": torch.tensor([0, 1, 1, 0])}
    batch["crowd"] = torch.tensor([0, 0, 0, 1])  # neither it counts nor what is found in it
    first = torch.tensor([[11.0, 10, 51, 50, 1.0, 0], [10, 12, 50, 52, 0.6, 0], [100, 20, 140, 60, 0.8, 0]])
    second = torch.tensor([[150.0, 50, 190, 90, 0.7, 1], [0, 0, 30, 30, 0.1, 1], [170, 0, 185, 20, 0.95, 0]])
    metric.update([first, second], {**batch, "index": torch.tensor([0, 0, 1, 1])})
    return metric


def test_scores_of_a_hand_made_example():
    pytest.importorskip("faster_coco_eval")
    metric = small_metric()
    assert metric.confusion().tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 0]]
    result = metric.result()
    # a: found by the first of three. b: 1 of 2 objects by the second of two: precision 1/2 up to recall 1/2.
    assert result["mAP50"] == pytest.approx((1 + 0.5 * 51 / 101) / 2)
    assert result["fitness"] == result["mAP50-95"]
    curves = metric.curves()
    at = {c: round(c * 999) for c in (0.05, 0.5, 0.85, 1.0)}
    assert {c: curves.precision[:, i].tolist() for c, i in at.items()} == {
        0.05: [pytest.approx(1 / 3), 0.5], 0.5: [pytest.approx(1 / 3), 0], 0.85: [1, 0], 1.0: [1, 0]
    }  # fmt: skip
    assert {c: curves.recall[:, i].tolist() for c, i in at.items()} == {
        0.05: [1, 0.5], 0.5: [1, 0], 0.85: [1, 0], 1.0: [1, 0]
    }  # fmt: skip
    assert result["F1"] == pytest.approx((0.5 + 0.5) / 2)  # the mean F1 of both classes is best below 0.1
    assert result["precision"] == pytest.approx((1 / 3 + 0.5) / 2)
    assert result["confidence"] < 0.1
    assert [(row["images"], row["objects"]) for row in metric.classes()] == [(1, 1), (2, 2)]
    assert [row["iscrowd"] for row in metric.evaluations()[0].truth_data()["annotations"]] == [0, 0, 0, 1]


def test_each_object_is_matched_once():
    true = np.array([[0.0, 0, 10, 10, 3], [2, 0, 12, 10, 3], [2, 0, 12, 10, 1]])
    found = np.array(
        [[1.5, 0, 11.5, 10, 0.9, 3], [2.5, 0, 12.5, 10, 0.8, 3], [0, 0, 10, 4, 0.7, 3], [0, 0, 9, 9, 0.6, 3]]
    )
    overlap = BoxEvaluation([], [found], [true]).overlap(0, np.arange(4), np.arange(3))
    same_class = found[:, 5:] == true[:, 4]
    assert matching.match_detections(overlap * same_class, 0.7).tolist() == [1, 0, 0, 1]
    overlap = np.array([[0.8, 0.9], [0.0, 0.85], [0.3, 0.0]])
    assert matching.match_pairs(overlap, 0.3) == [(0, 1)]
    assert matching.match_pairs(overlap, 0.2) == [(0, 1), (2, 0)]


def test_detections_and_truths_are_measured_in_the_original_images():
    metric = detection_metric.DetectionMetric(["a"])
    box = Letterbox.fit((50, 200), (64, 64))
    true = torch.tensor([[20.0, 5, 80, 45]])
    placed = box.apply(true)
    batch = {"images": torch.zeros(1, 3, 64, 64), "boxes": to_centres(placed) / 64, "index": torch.tensor([0])}
    found = torch.cat((placed, torch.tensor([[0.5, 0]])), 1)
    metric.update([found], {**batch, "classes": torch.tensor([0]), "letterbox": [box]})
    assert metric.evaluations()[0].detection_data()[0]["bbox"] == pytest.approx([20, 5, 60, 40], abs=1e-4)
    assert metric.evaluations()[0].truth_data()["annotations"][0]["area"] == pytest.approx(2400, abs=1e-2)


@pytest.mark.parametrize(("objects", "found", "value"), [(3, 0, 0.0), (0, 3, -1.0), (0, 0, -1.0)])
def test_scores_without_objects_or_detections(objects, found, value):
    pytest.importorskip("faster_coco_eval")
    metric = detection_metric.DetectionMetric(["a", "b"])
    batch = {"images": torch.zeros(1, 3, 64, 64), "boxes": torch.full((objects, 4), 0.5)}
    batch |= {"classes": torch.zeros(objects), "index": torch.zeros(objects)}
    metric.update([torch.tensor([[0.0, 0, 9, 9, 0.9, 1]] * found).view(-1, 6)], batch)
    result = metric.result()
    assert (result["mAP50-95"], result["F1"], result["fitness"]) == (value, 0, 0)
    assert metric.confusion().sum() == objects + found
    assert len(metric.classes()) == min(objects, 1)


# -- classification ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 0.5, 1.0, 1.0, 3.0)])
def test_cross_entropy_equals_its_definition(smoothing, weights):
    logits = torch.randn(5, 6, generator=generator(0), requires_grad=True)
    classes = [3, 0, 5, 5, 1]
    task = ClassifyTask(
        torch.nn.Identity(), smoothing=smoothing, class_weights=None if weights is None else torch.tensor(weights)
    )
    total, parts = task.loss(logits, {"classes": torch.tensor(classes)})
    w = weights or (1,) * 6
    logs = logits.detach().double().log_softmax(1).tolist()
    loss = sum(
        -(1 - smoothing) * w[c] * row[c] - smoothing / 6 * sum(w[k] * row[k] for k in range(6))
        for row, c in zip(logs, classes)
    ) / sum(w[c] for c in classes)
    assert total.item() == pytest.approx(loss, rel=1e-5)
    assert parts["cls"].item() == total.item()
    assert not parts["cls"].requires_grad
    mixed = torch.nn.functional.one_hot(torch.tensor(classes), 6).float()
    if weights is None:
        assert task.loss((None, logits), {"classes": mixed})[0].item() == pytest.approx(loss, rel=1e-5)
    assert torch.allclose(task.decode((logits.softmax(1), logits)), logits.softmax(1))


def test_accuracy_of_the_first_and_of_five():
    task = ClassifyTask(torch.nn.Identity(), list("abcdefg"))
    metric = task.metric()
    logits = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1]] * 4)
    metric.update(task.decode(logits[:3]), {"classes": torch.tensor([0, 4, 5])})
    metric.update(task.decode(logits[3:]), {"classes": torch.tensor([1])})
    assert metric.result() == {"top1": 0.25, "top5": 0.75, "fitness": 0.5}
    assert metric.confusion()[0].tolist() == [1, 1, 0, 0, 1, 1, 0]
    assert metric.confusion().sum() == 4
    assert metric.classes()[0] == {"class": "a", "images": 1, "precision": 0.25, "recall": 1.0}
    assert classification_metric.ClassificationMetric(["a", "b"]).result()["top1"] == 0
    with pytest.raises(ValueError, match="names"):
        ClassifyTask(torch.nn.Identity()).metric()


# -- tasks by name ----------------------------------------------------------------------------------------------------


def fake_entry_points(monkeypatch, **loads):
    """Installed packages that offer tasks; a load that is an exception is raised."""

    def load(value):
        if isinstance(value, Exception):
            raise value
        return value

    found = [SimpleNamespace(name=n, value=f"pkg:{n}", load=lambda v=v: load(v)) for n, v in loads.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)


def test_tasks_are_found_by_name(monkeypatch):
    class Own(Task):
        name = "own"
        loss = decode = metric = None

    fake_entry_points(monkeypatch, theirs=Own, broken=ImportError("no such thing"), wrong=dict)
    monkeypatch.setattr(tasks.TASKS, "registered", {})
    assert tasks.find("detect") is DetectTask
    assert tasks.find("classify") is ClassifyTask
    assert tasks.find("theirs") is Own
    assert tasks.task(Own) is Own
    assert tasks.find("own") is Own
    for name, message in {
        "detekt": "no task 'detekt'; there are autoencode, broken, classify, depth, detect, .*obb, own, pose",
        "broken": "pkg:broken does not load: no such thing",
        "wrong": "pkg:wrong is no subclass of netbuild.tasks.base.Task",
    }.items():
        with pytest.raises(NetbuildError, match=message):
            tasks.find(name)
    with pytest.raises(NetbuildError) as caught:
        tasks.find("detekt")
    assert caught.value.hint == "did you mean 'detect'?"
