"""The loss of masks: each part against plain loops, its gradients, and what it does with objects without masks."""

from dataclasses import replace
from math import exp, log

import pytest
import torch

from netbuild.layers.heads.segment import Segment, Segment26
from netbuild.layers.heads.yoloe import YOLOESegment, YOLOESegment26
from netbuild.tasks.box_math import ciou, to_corners
from netbuild.tasks.losses import find, masks, segment
from netbuild.tasks.losses.cells import read_cells
from netbuild.tasks.losses.segment import MaskPart, SegmentBranch, SemanticPart, SemanticSegmentBranch, is_among_best
from netbuild.tasks.segment import SegmentTask

STRIDES, SIDE, GRID, NM, NC = (8, 16), 64, 16, 3, 3


def scene(counts=(5, 0, 7), dtype=torch.float64, seed=0, lacking=()):
    """A head, random raw outputs, and a batch whose objects are rectangles that hide each other; some have no mask."""
    g = torch.Generator().manual_seed(seed)
    head = Segment(NC, NM, 16, ch=[16, 16], stride=list(STRIDES))
    cells = sum((SIDE // s) ** 2 for s in STRIDES)

    def random(*shape):
        return torch.randn(len(counts), *shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    raw = {
        "boxes": random(64, cells),
        "scores": random(NC, cells),
        "mask_coefficient": random(NM, cells),
        "proto": (random(NM, GRID, GRID), random(NC, GRID // 2, GRID // 2)),
        "feats": [torch.zeros(len(counts), 16, SIDE // s, SIDE // s) for s in STRIDES],
    }
    index = torch.tensor([i for i, n in enumerate(counts) for _ in range(n)])
    sizes = torch.rand(len(index), 2, generator=g) * 0.4 + 0.1
    boxes = torch.cat((sizes / 2 + torch.rand(len(index), 2, generator=g) * (1 - sizes), sizes), 1)
    instances = torch.zeros(len(counts), GRID, GRID, dtype=torch.int32)
    has_outline = torch.tensor([i not in lacking for i in range(len(index))])
    for row, (b, (x1, y1, x2, y2)) in enumerate(zip(index.tolist(), (to_corners(boxes) * GRID).round().int().tolist())):
        if has_outline[row]:
            instances[b, y1:y2, x1:x2] = 1 + row - sum(counts[:b])
    classes = torch.randint(NC, (len(index),), generator=g)
    batch = {"boxes": boxes, "classes": classes.float(), "index": index, "instances": instances}
    return head, raw, {**batch, "has_outline": has_outline, "images": torch.zeros(len(counts), 3, SIDE, SIDE)}


def assign(branch, raw, batch):
    cells = read_cells(branch.head, raw)
    return cells, branch.assign(cells, branch.targets(cells, batch), batch)


def bce(logit, target):
    p = 1 / (1 + exp(-logit))
    return -log(p) if target else -log(1 - p)


def mask_logits(raw, b, a):
    coefficients, proto = raw["mask_coefficient"][b, :, a].tolist(), raw["proto"][0][b].tolist()
    return [
        [sum(c * p[y][x] for c, p in zip(coefficients, proto, strict=True)) for x in range(GRID)] for y in range(GRID)
    ]


def inside(corners, x, y):
    x1, y1, x2, y2 = corners
    return x1 <= x + 0.5 < x2 and y1 <= y + 0.5 < y2


def plain_mask_loss(raw, batch, assigned):
    """The sum over foreground cells, and their number."""
    total, count = 0.0, 0
    for b, a in assigned.foreground.nonzero().tolist():
        row = int(assigned.rows[b, a])
        if not batch["has_outline"][row]:
            continue
        number = 1 + [i for i, image in enumerate(batch["index"].tolist()) if image == b].index(row)
        x1, y1, x2, y2 = corners = (to_corners(batch["boxes"][row].double()) * GRID).tolist()
        logits, instances = mask_logits(raw, b, a), batch["instances"][b].tolist()
        values = [
            bce(logits[y][x], instances[y][x] == number)
            for y in range(GRID)
            for x in range(GRID)
            if inside(corners, x, y)
        ]
        total, count = total + sum(values) / ((x2 - x1) * (y2 - y1)), count + 1
    return total, count


@pytest.mark.parametrize("chunks", ["one", "many", "recomputed"])
@pytest.mark.parametrize("lacking", [(), (0, 8)])
def test_the_loss_of_masks_equals_plain_loops(lacking, chunks, monkeypatch):
    head, raw, batch = scene(lacking=lacking)
    monkeypatch.setattr(masks, "MAX_VALUES", {"one": 2**24}.get(chunks, 1))
    monkeypatch.setattr(segment, "MAX_STORED", 0 if chunks == "recomputed" else 2**26)
    branch = SegmentBranch(head)
    cells, assigned = assign(branch, raw, batch)
    terms = branch(raw, batch)
    assert list(terms) == ["box", "seg", "cls", "dfl"]
    total, count = plain_mask_loss(raw, batch, assigned)
    assert count > 20
    assert MaskPart().count(cells, assigned, batch).item() == count
    assert terms["seg"].item() == pytest.approx(7.5 * total / count, rel=1e-6)
    inputs = raw["mask_coefficient"], raw["proto"][0]

    def mask_term(coefficients, prototypes):
        changed = {**raw, "mask_coefficient": coefficients, "proto": prototypes}
        return MaskPart()(replace(cells, raw=changed), assigned, batch)["seg"]

    assert torch.autograd.gradcheck(mask_term, inputs, nondet_tol=1e-9, fast_mode=True)


def test_prototypes_of_another_size_are_resized():
    head, raw, batch = scene()
    fine = torch.nn.functional.interpolate(raw["proto"][0], (GRID, GRID), mode="bilinear").detach()
    half = torch.randn(3, NM, GRID // 2, GRID // 2, dtype=torch.float64)
    resized = torch.nn.functional.interpolate(half, (GRID, GRID), mode="bilinear")
    found, same = (SegmentBranch(head)({**raw, "proto": proto}, batch)["seg"] for proto in (half, resized))
    assert found.item() == pytest.approx(same.item())
    assert torch.equal(fine, raw["proto"][0].detach())


def plain_semantic_loss(raw, batch, lacking):
    logits, total = raw["proto"][1].detach(), 0.0
    side = GRID // 2
    for b in range(len(logits)):
        rows = [i for i, image in enumerate(batch["index"].tolist()) if image == b]
        entropy, places, dice = 0.0, 0, 0.0
        for c in range(NC):
            both = each = 0.0
            for y in range(side):
                for x in range(side):
                    number = int(batch["instances"][b, 2 * y, 2 * x])  # nearest
                    boxes = [(to_corners(batch["boxes"][i].double()) * side).tolist() for i in rows if i in lacking]
                    if number == 0 and any(inside(box, x, y) for box in boxes):
                        continue
                    true = number > 0 and int(batch["classes"][rows[number - 1]]) == c
                    value = float(logits[b, c, y, x])
                    entropy, places = entropy + bce(value, true), places + 1
                    p = 1 / (1 + exp(-value))
                    both, each = both + p * true, each + p + true
            dice += (1 - (2 * both + 1) / (each + 1)) / NC
        total += (entropy / places + dice) / 2
    return total / len(logits)


@pytest.mark.parametrize("lacking", [(), (0, 8)])
def test_the_loss_of_the_class_of_every_pixel_equals_plain_loops(lacking):
    head, raw, batch = scene(lacking=lacking)
    terms = SemanticSegmentBranch(head)(raw, batch)
    assert list(terms) == ["box", "seg", "cls", "dfl", "sem"]
    assert terms["sem"].item() == pytest.approx(7.5 * plain_semantic_loss(raw, batch, lacking), rel=1e-5)
    branch = SegmentBranch(head)
    cells, assigned = assign(branch, raw, batch)

    def semantic_term(logits):
        changed = replace(cells, raw={**raw, "proto": (raw["proto"][0], logits)})
        return SemanticPart()(changed, assigned, batch)["sem"]

    assert torch.autograd.gradcheck(semantic_term, (raw["proto"][1],), fast_mode=True)


def plain_mask_iou(raw, batch, box, b, a, number):
    logits, instances = mask_logits(raw, b, a), batch["instances"][b].tolist()
    corners = [value / SIDE * GRID for value in box.tolist()]
    both = either = 0
    for y in range(GRID):
        for x in range(GRID):
            found, true = logits[y][x] > 0 and inside(corners, x, y), instances[y][x] == number
            both, either = both + (found and true), either + (found or true)
    return both / max(either, 1)


@pytest.mark.parametrize("topk", [10, 2])
@pytest.mark.parametrize("values", [2**24, 1])
def test_the_overlap_of_masks_equals_plain_loops(values, topk, monkeypatch):
    monkeypatch.setattr(masks, "MAX_VALUES", values)
    head, raw, batch = scene(lacking=(0, 8))
    branch = SemanticSegmentBranch(head, topk=topk)
    cells = read_cells(head, raw)
    targets, assigner = branch.targets(cells, batch), branch.make_assigner(cells, batch)
    scores, boxes = cells.scores.detach().sigmoid(), (cells.boxes * cells.strides).detach()
    candidates = assigner.find_candidates(cells.points * cells.strides, targets)
    pairs = candidates.nonzero(as_tuple=True)
    found = assigner.compute_overlap(boxes, scores, targets, pairs).tolist()
    expected, align, similar = [], {}, []
    for n, (b, g, a) in enumerate(zip(*(x.tolist() for x in pairs), strict=True)):
        u = max(float(ciou(targets.boxes[b, g], boxes[b, a])), 0.0)
        expected.append(u)
        score = float(scores[b, a, targets.classes[b, g]])
        align.setdefault((b, g), []).append((-(score**0.5) * u**6, n, a))
    for (b, g), rows in align.items():
        if not batch["has_outline"][targets.rows[b, g]]:
            continue
        for place, (_, n, a) in enumerate(sorted(rows)):
            iou = plain_mask_iou(raw, batch, boxes[b, a], b, a, g + 1) if place < 3 * topk else 0.0
            expected[n] = (expected[n] + iou) / 2
            similar.append(iou)
    assert len(found) > 50
    assert max(similar) > 0.1
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_best_of_each_group():
    values, groups = torch.tensor([1.0, 5, 3, 4, 2, 6]), torch.tensor([0, 1, 0, 0, 1, 0])
    assert is_among_best(values, groups, 2).tolist() == [False, True, False, True, True, True]


@pytest.mark.parametrize("name", ["segment", "segment-semantic"])
@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
def test_without_objects_or_masks_the_graph_is_kept(counts, name):
    head, raw, batch = scene(counts, torch.float32, lacking=range(2))
    total, terms = find(name)(head)(raw, batch)
    assert terms["seg"].item() == 0
    total.backward()
    for values in (raw["mask_coefficient"], raw["proto"][0]):
        assert not values.grad.any()
    assert bool(raw["scores"].grad.any())


def test_both_branches_learn_masks_and_mixed_precision_is_exact():
    _, many, batch = scene()
    _, one, _ = scene(seed=1)
    head = Segment26(NC, NM, 16, ch=[16, 16], stride=list(STRIDES), end2end=True)
    task = SegmentTask(head)
    half = {
        name: {key: raw[key].detach().bfloat16() for key in ("boxes", "scores", "mask_coefficient")}
        | {"proto": tuple(p.detach().bfloat16() for p in raw["proto"]), "feats": raw["feats"]}
        for name, raw in (("one2many", many), ("one2one", one))
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, terms = task.loss(half, batch)
    floats = {
        name: {
            k: tuple(p.float() for p in v) if k == "proto" else v if k == "feats" else v.float() for k, v in raw.items()
        }
        for name, raw in half.items()
    }
    same, _ = task.loss(floats, batch)
    assert list(terms) == ["box", "seg", "cls", "dfl", "sem"]
    assert total.item() == same.item()
    assert 0 <= task.lower_bound(floats, batch) < same.item()
    assert SegmentTask(head).mask_stride == 4


def make_head(cls, **options):
    options = {"npr": 16, "nm": NM, "reg_max": 4, "stride": list(STRIDES), **options}
    if issubclass(cls, YOLOESegment):
        options["embed"] = 16
    return cls(NC, ch=[16, 16], **options).train()


@pytest.mark.parametrize("both", [False, True], ids=["one branch", "two branches"])
@pytest.mark.parametrize("cls", [Segment, Segment26, YOLOESegment, YOLOESegment26])
def test_every_head_with_masks_learns_by_its_loss(cls, both):
    torch.manual_seed(0)
    head = make_head(cls, end2end=both)
    _, _, batch = scene(dtype=torch.float32)
    maps = [torch.randn(3, 16, SIDE // s, SIDE // s, requires_grad=True) for s in STRIDES]
    text = (torch.randn(3, NC, 16),) if issubclass(cls, YOLOESegment) else ()
    total, terms = SegmentTask(head).loss(head(maps, *text), batch)
    total.backward()
    assert ("sem" in terms) == (cls is Segment26)
    coefficients = head.cv5 if issubclass(cls, YOLOESegment) else head.cv4
    learning = [coefficients[0][-1].weight, head.proto.cv3.conv.weight, head.cv2[0][-1].weight, maps[0]]
    if both:
        learning.append((head.one2one_cv5 if issubclass(cls, YOLOESegment) else head.one2one_cv4)[0][-1].weight)
    if cls is Segment26:
        learning.append(head.proto.semseg[-1].weight)
    assert all(bool(values.grad.any()) for values in learning)
