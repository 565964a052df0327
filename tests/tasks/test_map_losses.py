"""The losses and metrics of class maps and depth, compared with plain loops; their gradients in double precision."""

from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from torch import nn

from netbuild.data.fitting import Letterbox
from netbuild.errors import NetbuildError
from netbuild.layers.heads.pixels import Depth, SemanticSegment
from netbuild.tasks import find
from netbuild.tasks.depth import DepthTask
from netbuild.tasks.losses.depth import DepthLoss
from netbuild.tasks.losses.maps import match_sizes
from netbuild.tasks.losses.semantic import SemanticLoss

IMAGES = torch.zeros(2, 3, 8, 8)
SMALL = torch.zeros(2, 3, 6, 6)


def draw_classes(nc, seed=0, size=8):
    """A class map (2, 1, size, size) of which about a fifth is not known, and the last class does not occur."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, max(nc - 1, 2), (2, 1, size, size), generator=random, dtype=torch.int32)
    return classes.where(torch.rand(classes.shape, generator=random) > 0.2, 255)


def resample_plainly(values, size):
    """Bilinear interpolation of (h, w) to a size, pixel by pixel; pixels' centres at halves."""
    (h, w), (height, width) = values.shape, size
    ys, xs = ([(i + 0.5) * a / b for i in range(b)] for a, b in ((h, height), (w, width)))
    return np.array([[sample_plainly(values, y, x) for x in xs] for y in ys])


def sample_plainly(values, y, x):
    """The value of a map (h, w) at a place, in pixels of the map, between the centres of its pixels."""
    h, w = values.shape
    v, u = min(max(y - 0.5, 0), h - 1), min(max(x - 0.5, 0), w - 1)
    top, left = int(v), int(u)
    p, q = v - top, u - left
    below, right = min(top + 1, h - 1), min(left + 1, w - 1)
    upper = values[top, left] * (1 - q) + values[top, right] * q
    return float(upper * (1 - p) + (values[below, left] * (1 - q) + values[below, right] * q) * p)


def semantic_plainly(logits, truth, weights):
    """Cross-entropy and Dice of logits (B, nc, h, w), pixel by pixel."""
    nc, size = logits.shape[1], truth.shape[-2:]
    large = np.stack([np.stack([resample_plainly(m, size) for m in image]) for image in logits.numpy()])
    truth = truth.numpy()
    cost = total = 0.0
    overlap, area = [0.0] * max(nc, 1), [0.0] * max(nc, 1)
    for b in range(len(large)):
        for y in range(size[0]):
            for x in range(size[1]):
                true = int(truth[b, 0, y, x])
                if true == 255:
                    continue
                z = large[b, :, y, x].tolist()
                if nc == 1:
                    p = 1 / (1 + exp(-z[0]))
                    cost -= log(p) if true == 1 else log(1 - p)
                    total += 1
                    overlap[0] += p * (true == 1)
                    area[0] += p + (true == 1)
                    continue
                probabilities = [exp(v) / sum(map(exp, z)) for v in z]
                cost -= weights[true] * log(probabilities[true])
                total += weights[true]
                overlap[true] += probabilities[true]
                area = [a + p + (c == true) for c, (a, p) in enumerate(zip(area, probabilities, strict=True))]
    dice = sum(1 - (2 * i + 1) / (s + 1) for i, s in zip(overlap, area, strict=True)) / len(area)
    return cost / total, dice


@pytest.mark.parametrize(("nc", "weighted"), [(1, False), (3, False), (3, True)])
def test_semantic_loss_equals_a_plain_one(nc, weighted):
    torch.manual_seed(nc)
    logits, auxiliary = (torch.randn(2, nc, side, side, dtype=torch.float64, requires_grad=True) for side in (3, 2))
    weights = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if weighted else torch.ones(3)
    batch = {"images": SMALL, "mask": draw_classes(nc, size=6)}
    loss = SemanticLoss(None, class_weights=weights if weighted else None)
    total, terms = loss((logits, auxiliary), batch)
    ce, dice = semantic_plainly(logits.detach(), batch["mask"], weights.tolist())
    aux = 0.4 * semantic_plainly(auxiliary.detach(), batch["mask"], weights.tolist())[0]
    assert {k: float(v) for k, v in terms.items()} == pytest.approx({"ce": ce, "dice": dice, "aux": aux}, rel=1e-9)
    assert float(total.detach()) == pytest.approx(2 * (ce + dice + aux), rel=1e-9)
    assert torch.autograd.gradcheck(lambda *maps: loss(maps, batch)[0], (logits, auxiliary))


def test_semantic_loss_without_known_pixels_is_finite_and_wrong_classes_are_errors():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = SemanticLoss(None)
    total, terms = loss(logits, {"images": IMAGES, "mask": torch.full((2, 1, 8, 8), 255)})
    total.backward()
    assert (float(terms["ce"]), float(logits.grad.abs().max())) == (0.0, 0.0)
    for nc, value, message in ((3, 3, "has the class 3, the network has the classes 0 to 2"), (1, 2, "the value 2")):
        with pytest.raises(NetbuildError, match=message):
            loss(torch.zeros(2, nc, 4, 4), {"images": IMAGES, "mask": torch.full((2, 1, 8, 8), value)})
    with pytest.raises(NetbuildError, match="learns from logits"):
        loss(torch.zeros(2, 3), {"images": IMAGES, "mask": draw_classes(3)})


def depth_plainly(predicted, truth, invariance):
    """Both terms for maps (B, H, W) of one size, pixel by pixel."""
    known = [(b, y, x) for b, y, x in np.ndindex(*truth.shape) if truth[b, y, x] > 1e-3]
    if len(known) < 10:
        return 0.0, 0.0
    g = {place: log(max(predicted[place], 1e-3)) - log(truth[place]) for place in known}
    mean = sum(g.values()) / len(g)
    variance = sum((v - mean) ** 2 for v in g.values()) / len(g)
    gradient, maps = 0.0, [{(y, x): v for (b, y, x), v in g.items() if b == i} for i in range(len(truth))]
    h, w = truth.shape[1:]
    for scale in range(4):
        if min(h, w) < (4 if scale else 2) or not maps:
            break
        for dy, dx, positions in ((1, 0, (h - 1) * w), (0, 1, h * (w - 1))):
            steps = [abs(m[y + dy, x + dx] - v) for m in maps for (y, x), v in m.items() if (y + dy, x + dx) in m]
            gradient += sum(steps) / (positions * len(maps))
        coarse = []
        for values in maps:
            cells = {}
            for (y, x), v in values.items():
                if y < h // 2 * 2 and x < w // 2 * 2:
                    cells.setdefault((y // 2, x // 2), []).append(v)
            if cells and sum(map(len, cells.values())) / (4 * len(cells)) > 0.7:
                coarse.append({place: sum(found) / len(found) for place, found in cells.items()})
        maps, h, w = coarse, h // 2, w // 2
    return sqrt(variance + (1 - invariance) * mean**2 + 1e-6), 0.5 * gradient


@pytest.mark.parametrize("unknown", [0.0, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("calibrated", [True, False])
def test_depth_loss_equals_a_plain_one(unknown, calibrated):
    random = torch.Generator().manual_seed(1)
    truth = torch.rand(2, 1, 18, 17, generator=random, dtype=torch.float64) * 5 + 0.1
    truth[0] *= torch.rand(truth.shape[1:], generator=random) >= unknown
    truth[1] *= unknown < 1
    predicted = (torch.rand(truth.shape, generator=random, dtype=torch.float64) * 5 + 0.1).requires_grad_()
    head = Depth(8, ch=[4]) if calibrated else nn.Identity()
    loss, batch = DepthLoss(head), {"images": torch.zeros(2, 3, 18, 17), "depth": truth}
    total, terms = loss({"depth": predicted}, batch)
    wanted = depth_plainly(predicted.detach().numpy()[:, 0], truth.numpy()[:, 0], 1.0 if calibrated else 0.5)
    assert [float(v) for v in terms.values()] == pytest.approx(wanted, rel=1e-8)
    assert float(total.detach()) == pytest.approx(2 * sum(wanted), rel=1e-8)


@pytest.mark.parametrize("calibrated", [True, False])
def test_gradients_of_the_depth_loss(calibrated):
    torch.manual_seed(0)
    truth, predicted = (torch.rand(2, 1, 5, 6, dtype=torch.float64) + 0.1 for _ in range(2))
    truth[0, 0, :2, :3] = 0
    loss = DepthLoss(Depth(8, ch=[4]) if calibrated else torch.nn.Identity())
    batch = {"images": torch.zeros(2, 3, 5, 6), "depth": truth}
    assert torch.autograd.gradcheck(lambda x: loss({"depth": x}, batch)[0], predicted.requires_grad_())


@pytest.mark.parametrize(
    ("slope", "offset", "found"),
    [(1.3, -0.4, (1.3, -0.4)), (-1.0, 0.5, (1.0, None)), (9.0, 0.0, (5.0, None)), (0.15, 0.0, (0.2, None))],
)
def test_a_depth_head_is_calibrated_by_a_line_through_the_logarithms(slope, offset, found):
    """A slope against all sense is not taken over, so that a network that has learnt little is not spoiled."""
    task, head = DepthTask(Depth(8, ch=[4, 4])), Depth(8, ch=[4, 4])
    assert task.calibrates
    head.cal_a.fill_(0.5), head.cal_b.fill_(0.1)
    batches = []
    for i in range(3):
        truth = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(i)) * 4 + 0.5
        maps = ((truth.log() - offset) / slope).exp()
        truth[0, 0, :4] = 0  # not known
        batches.append(({"images": torch.zeros(2, 3, 16, 16), "depth": truth}, maps))
    task.calibrate(head, batches)
    wanted_slope, wanted_offset = found
    assert float(head.cal_a) == pytest.approx(0.5 * wanted_slope, rel=1e-4)
    if wanted_offset is not None:
        assert float(head.cal_b) == pytest.approx(wanted_slope * 0.1 + wanted_offset, rel=1e-3)
    before = head.cal_b.clone()
    task.calibrate(head, [({"images": torch.zeros(2, 3, 16, 16), "depth": torch.zeros(2, 1, 16, 16)}, maps)])
    assert torch.equal(head.cal_b, before)  # nothing is known
    task.head.requires_grad_(False)
    assert not task.calibrates  # frozen
    assert not DepthTask(nn.Identity()).calibrates
    with pytest.raises(NetbuildError, match="learns from a map"):
        DepthLoss(head)(torch.zeros(2, 3, 4, 4), {"images": IMAGES, "depth": truth})


def test_a_map_of_convolutions_without_padding_is_compared_with_the_middle():
    truth = torch.arange(64.0).view(1, 1, 8, 8)
    values, middle = match_sizes(torch.zeros(1, 2, 4, 4), truth, (8, 8))
    assert (values.shape[2:], middle.shape[2:]) == ((8, 8), (8, 8))  # half the size
    values, middle = match_sizes(torch.zeros(1, 2, 6, 6), truth, (8, 8))
    assert torch.equal(middle, truth[..., 1:7, 1:7])  # two pixels are lost
    values, middle = match_sizes(torch.zeros(1, 2, 6, 6), truth.repeat(1, 1, 2, 2), (8, 8))
    assert (values.shape[2:], middle.shape[2:]) == ((12, 12), (12, 12))  # the truth may be finer than the image


@pytest.mark.parametrize("cls", [SemanticLoss, DepthLoss])
def test_gradients_of_several_processes_are_those_of_the_whole_batch(cls, monkeypatch):
    torch.manual_seed(0)
    if cls is SemanticLoss:
        values, target = torch.randn(2, 3, 8, 8, dtype=torch.float64), {"mask": draw_classes(3)}
    else:
        values, target = (torch.rand(2, 1, 8, 8, dtype=torch.float64) + 0.2 for _ in range(2))
        target = {"depth": target}

    def gradient(share, normaliser=None):
        """The gradient of the loss of some pictures."""
        x = values.clone().requires_grad_()
        loss = cls(nn.Identity().eval())
        loss.normaliser = normaliser or loss.normaliser
        loss(x[share], {"images": IMAGES[share], **{k: v[share] for k, v in target.items()}})[0].backward()
        return x.grad

    whole = gradient(slice(0, 2))
    monkeypatch.setattr("netbuild.tasks.losses.semantic.world_size", lambda: 2)
    sums, halves = [], (slice(0, 1), slice(1, 2))
    for number in range(40):  # a sum over both processes may depend on earlier ones, so one more is known each time
        calls = [[], []]
        found = []
        for half, own in zip(halves, calls, strict=True):

            def normaliser(total, least, own=own):
                own.append(total.detach())
                n = len(own) - 1
                return (sums[n] if n < len(sums) else total.detach()).clamp(min=least) / 2

            found.append(gradient(half, normaliser))
        if number == len(calls[0]):
            break
        sums.append(calls[0][number] + calls[1][number])
    # The trainer multiplies a loss that is a sum by the number of processes, and DDP averages the gradients.
    torch.testing.assert_close(sum(found), whole)


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_semantic_metric_counts_pixels_of_the_original_pictures():
    task = find("semantic")(torch.nn.Identity(), ["a", "b", "c"])
    torch.manual_seed(0)
    predictions, batch = torch.randn(2, 3, 4, 4), {"images": IMAGES, "mask": draw_classes(3)}
    # The first picture is wider than the network's image and letterboxed, the second fills it.
    originals = [draw_classes(3, seed, 12)[0, :, : 6 if seed else 12].to(torch.int32) for seed in (1, 0)]
    places = [Letterbox((6, 12), (4, 8), (2, 0)), Letterbox((12, 12), (8, 8), (0, 0))]
    batch |= {"originals": [{"mask": m} for m in originals], "letterbox": places}
    metric = task.metric()
    metric.update(predictions, batch)
    matrix = np.zeros((3, 3), int)
    for logits, truth, place in zip(predictions, originals, places, strict=True):
        top, (h, w) = place.corner[0], place.inner
        for y, x in np.ndindex(*truth.shape[1:]):
            # The pixel's centre in the network's image, and there between the centres of its pixels.
            v, u = (y + 0.5) * h / place.size[0] + top, (x + 0.5) * w / place.size[1]
            values = [sample_plainly(m.numpy(), v / 2, u / 2) for m in logits]
            if truth[0, y, x] != 255:
                matrix[int(np.argmax(values)), int(truth[0, y, x])] += 1
    assert np.array_equal(metric.confusion(), matrix)
    iou = [matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]) for c in (0, 1)]  # c does not occur
    result = metric.result()
    assert (result["mIoU"], result["fitness"]) == pytest.approx((np.mean(iou),) * 2)
    assert result["pixel-accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert [(row["class"], row["IoU"]) for row in metric.classes()] == [("a", iou[0]), ("b", iou[1])]
    other = task.metric()
    other.merge([metric.state(), metric.state()], [[0, 1], [2, 3]])
    assert np.array_equal(other.matrix, 2 * matrix)


def test_one_class_is_measured_against_what_is_not_of_it():
    task = find("semantic")(torch.nn.Identity(), ["crack"])
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.int32)
    truth[..., :2], truth[..., 0, 0] = 1, 255
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[..., :2, :] = 1
    metric = task.metric()
    metric.update(logits, {"images": torch.zeros(1, 3, 4, 4), "mask": truth})
    assert metric.matrix.tolist() == [[4, 4], [4, 3]]
    assert metric.result() == pytest.approx(
        {"mIoU": 3 / 11, "fitness": 3 / 11, "pixel-accuracy": 7 / 15, "class-accuracy": 3 / 7}
    )
    assert [row["class"] for row in metric.classes()] == ["crack"]


def test_depth_metric_scales_each_picture_by_its_median():
    task = find("depth")(Depth(8, ch=[4]))
    random = np.random.default_rng(0)
    truth = random.uniform(1, 5, (3, 1, 8, 8)).astype(np.float32)
    truth[0, 0, 0, :4] = (0, 200, np.nan, np.inf)  # not known, or too far
    truth[2] = 0
    found = (truth * random.uniform(0.7, 1.4, truth.shape) * 3).clip(0.01, 90).astype(np.float32)
    found[~np.isfinite(found)] = 1
    metric = task.metric()
    metric.update(torch.from_numpy(found), {"images": torch.zeros(3, 3, 8, 8), "depth": torch.from_numpy(truth)})
    rows = []
    for p, g in zip(found[:2, 0], truth[:2, 0], strict=True):
        known = (g > 1e-3) & (g < 100)
        p, g = p[known].astype(float), g[known].astype(float)
        s = p * np.median(g) / np.median(p)
        ratios = np.maximum(s / g, g / s)
        logs = np.log(p) - np.log(g)
        fitted = np.polyval(np.polyfit(p, g, 1), p).clip(1e-3)
        rows.append(
            {
                **{f"delta{i}": (ratios < 1.25**i).mean() for i in (1, 2, 3)},
                "abs-rel": (abs(s - g) / g).mean(),
                "rmse": sqrt(((s - g) ** 2).mean()),
                "silog": 100 * sqrt((logs**2).mean() - logs.mean() ** 2),
                "delta1-metric": (np.maximum(p / g, g / p) < 1.25).mean(),
                "abs-rel-metric": (abs(p - g) / g).mean(),
                "rmse-metric": sqrt(((p - g) ** 2).mean()),
                "delta1-affine": (np.maximum(fitted / g, g / fitted) < 1.25).mean(),
                "abs-rel-affine": (abs(fitted - g) / g).mean(),
                "rmse-affine": sqrt(((fitted - g) ** 2).mean()),
            }
        )
    wanted = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    assert metric.result() == pytest.approx({**wanted, "fitness": wanted["delta1"]})
    assert metric.errors[2] == {}


def test_heads_name_their_losses_and_plain_networks_have_the_task_s():
    for head in (SemanticSegment(3, [8, 8]), torch.nn.Conv2d(8, 3, 1)):
        assert isinstance(find("semantic")(head, ["a", "b", "c"]).criterion, SemanticLoss)
    assert isinstance(find("depth")(torch.nn.Conv2d(8, 1, 1)).criterion, DepthLoss)
