"""RT-DETR learns: matching and terms of its loss, its stretched pictures, and the way from data to an exported file."""

from itertools import permutations
from math import exp, log

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild import layers as L
from netbuild import runtime, settings
from netbuild.data.fitting import FITTINGS
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.layers.heads.rtdetr import gather_maps, sample_maps
from netbuild.settings import Settings
from netbuild.tasks.detect import DetectTask
from netbuild.tasks.losses import queries
from netbuild.tasks.losses.queries import Objects, QueriesLoss, assign_proposals, match
from netbuild.training import run
from netbuild.training.overfitting import is_overfit

OBJECTS = Objects(
    torch.tensor(
        [[0.3, 0.4, 0.2, 0.2], [0.6, 0.6, 0.3, 0.1], [0.5, 0.2, 0.1, 0.3], [0.7, 0.3, 0.2, 0.4]], dtype=torch.double
    ),
    torch.tensor([2, 0, 1, 1]),
    torch.tensor([0, 0, 0, 2]),  # three in the first image, none in the second, one in the third
)
BATCH = {
    "boxes": OBJECTS.boxes,
    "classes": OBJECTS.classes,
    "index": OBJECTS.image,
    "images": torch.zeros(3, 3, 64, 64),
}
MAPS = [torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(2))]  # fmt: skip
NETWORK = """
nc: 2
imgsz: 64
task: detect
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2], p2]
  - [-1, 1, Conv, [16, 3, 2], p3]
  - [[p2, p3], 1, RTDETRDecoder, [nc, {hd: 16, nq: 12, ndp: 2, nh: 2, ndl: 2, d_ffn: 32, nd: 8}]]
"""


def small_head(**options):
    torch.manual_seed(0)
    return L.RTDETRDecoder(3, [8, 8], hd=16, nq=12, ndp=2, nh=2, ndl=2, d_ffn=32, **{"nd": 6, **options}).double()


def overlap(a, b, generalised=False):
    """IoU or GIoU of two boxes as centre and size, in plain Python."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    low, high = zip(
        *[(max(p - s / 2, q - t / 2), min(p + s / 2, q + t / 2)) for p, s, q, t in ((ax, aw, bx, bw), (ay, ah, by, bh))]
    )
    inner = max(high[0] - low[0], 0) * max(high[1] - low[1], 0)
    union = aw * ah + bw * bh - inner
    if not generalised:
        return inner / union
    outer = 1.0
    for p, s, q, t in ((ax, aw, bx, bw), (ay, ah, by, bh)):
        outer *= max(p + s / 2, q + t / 2) - min(p - s / 2, q - t / 2)
    return inner / union - (outer - union) / outer


def plain_cost(box, logits, true, number):
    p = 1 / (1 + exp(-logits[number]))
    focal = 0.25 * (1 - p) ** 2 * -log(p + 1e-8) - 0.75 * p**2 * -log(1 - p + 1e-8)
    return 2 * focal + 5 * sum(abs(x - y) for x, y in zip(box, true)) + 2 * (1 - overlap(box, true, True))


def plain_match(boxes, scores, objects):
    """Try every way to give each object a query of its own: pairs (query, object) of one image."""
    ways = permutations(range(len(boxes)), len(objects))
    true, classes = OBJECTS.boxes.tolist(), OBJECTS.classes.tolist()
    return min(
        ([(q, g) for q, g in zip(way, objects)] for way in ways),
        key=lambda pairs: sum(plain_cost(boxes[q], scores[q], true[g], classes[g]) for q, g in pairs),
    )


def plain_terms(boxes, scores, pairs, count, used=lambda image, query: True):
    """Sum classes, L1 and GIoU over the queries of one layer, given pairs (image, query, object)."""
    true, classes, cls, l1, giou = OBJECTS.boxes.tolist(), OBJECTS.classes.tolist(), 0.0, 0.0, 0.0
    targets = {(i, q): g for i, q, g in pairs}
    for i, (of_image, logits) in enumerate(zip(boxes.tolist(), scores.tolist(), strict=True)):
        for q, (box, row) in enumerate(zip(of_image, logits, strict=True)):
            g = targets.get((i, q))
            if g is not None:
                l1 += sum(abs(x - y) for x, y in zip(box, true[g]))
                giou += 1 - overlap(box, true[g], True)
            for c, logit in enumerate(row if used(i, q) else []):
                p, is_target = 1 / (1 + exp(-logit)), g is not None and classes[g] == c
                quality = overlap(box, true[g]) if is_target else 0.0
                weight = quality if is_target else 0.25 * p**1.5
                cls += weight * -(quality * log(p) + (1 - quality) * log(1 - p))
    return np.array([cls, 5 * l1, 2 * giou]) / count


def test_matching_and_terms_equal_a_plain_second_implementation():
    head = small_head()
    outputs = head([m.double() for m in MAPS], {k: v for k, v in BATCH.items() if k != "images"})
    boxes, scores, noise, proposals = outputs[0], outputs[1], outputs[4], outputs[5]
    loss = QueriesLoss(head)
    total, terms = loss(outputs, BATCH)
    noisy = len(noise.classes[0])
    matched, logits = boxes[:, :, noisy:].detach(), scores[:, :, noisy:].detach()
    # Only a few queries take part in the exhaustive search: five for three objects.
    pairs = match(matched[:, :, :5], logits[:, :, :5], OBJECTS)
    for layer in range(2):
        found = {(i, q, g) for at, i, q, g in zip(*(part.tolist() for part in pairs)) if at == layer}
        wanted = set()
        for image in (0, 2):
            objects = (OBJECTS.image == image).nonzero()[:, 0].tolist()
            rows = matched[layer, image, :5].tolist(), logits[layer, image, :5].tolist()
            wanted |= {(image, q, g) for q, g in plain_match(*rows, objects)}
        assert found == wanted
    pairs = [part.tolist() for part in match(matched, logits, OBJECTS)]
    layers = [
        plain_terms(matched[n], logits[n], [(i, q, g) for at, i, q, g in zip(*pairs) if at == n], 4) for n in range(2)
    ]
    assert [float(terms[name]) for name in ("cls", "l1", "giou")] == pytest.approx(layers[1].tolist(), rel=1e-5)
    assert float(terms["aux"]) == pytest.approx(layers[0].sum(), rel=1e-5)
    known = list(zip(noise.image.tolist(), noise.slot.tolist(), noise.target.tolist()))
    assert len(known) == 4 * noise.groups == 8
    used = noise.classes >= 0
    noisy_layers = zip(boxes[:, :, :noisy].detach(), scores[:, :, :noisy].detach(), strict=True)
    denoise = sum(plain_terms(*layer, known, 8, lambda i, q: used[i, q]).sum() for layer in noisy_layers)
    assert float(terms["denoise"]) == pytest.approx(denoise, rel=1e-5)
    assigned = assign_proposals(proposals, OBJECTS, (64, 64))
    assert assigned.foreground.sum() > 4  # several positions learn an object
    encoder = 0.0
    for i, a in assigned.foreground.nonzero().tolist():
        box, true = proposals.boxes[i, a].tolist(), OBJECTS.boxes[assigned.rows[i, a]].tolist()
        parts = 5 * sum(abs(x - y) for x, y in zip(box, true)) + 2 * (1 - overlap(box, true, True))
        encoder += float(assigned.scores[i, a].sum()) * parts
    for p, t in zip(proposals.scores.sigmoid().flatten().tolist(), assigned.scores.flatten().tolist()):
        encoder -= t * log(p) + (1 - t) * log(1 - p)
    assert float(terms["encoder"]) == pytest.approx(encoder / max(float(assigned.scores.sum()), 1), rel=1e-5)
    assert float(total.detach()) == pytest.approx(sum(float(term) for term in terms.values()))
    # Without targets the head has neither denoising queries nor proposals: the encoder's selection is matched.
    plain = head([m.double() for m in MAPS])
    assert loss(plain, BATCH)[1].keys() == {"cls", "l1", "giou", "aux", "denoise"}
    assert loss(plain, BATCH)[1]["denoise"] == 0


def test_gradients_of_the_terms():
    boxes = torch.rand(2, 3, 5, 4, dtype=torch.double).mul(0.4).add(0.2).requires_grad_()
    scores = torch.randn(2, 3, 5, 3, dtype=torch.double, requires_grad=True)
    pairs, loss = match(boxes, scores, OBJECTS), QueriesLoss(small_head())

    def parts(boxes):
        terms = loss.learn_pairs(boxes, scores, pairs, OBJECTS, torch.tensor(4.0))
        return terms["l1"], terms["giou"]

    assert torch.autograd.gradcheck(parts, (boxes,))
    # Targets and weights of the classes have no gradient: what remains is weight * (p - target).
    loss.learn_pairs(boxes, scores, pairs, OBJECTS, torch.tensor(4.0))["cls"].sum().backward()
    p, target, wrong = scores.detach().sigmoid(), torch.zeros_like(scores), torch.ones_like(scores)
    for layer, image, query, g in zip(*(part.tolist() for part in pairs)):
        place = layer, image, query, int(OBJECTS.classes[g])
        target[place], wrong[place] = overlap(boxes[layer, image, query].tolist(), OBJECTS.boxes[g].tolist()), 0
    torch.testing.assert_close(scores.grad, (0.25 * p**1.5 * wrong + target) * (p - target) / 4, rtol=1e-5, atol=1e-8)


def test_batches_without_objects_with_too_many_and_with_wrong_numbers():
    head, nothing = small_head(), {**BATCH, **{name: BATCH[name][:0] for name in ("boxes", "classes", "index")}}
    outputs = head([m.double() for m in MAPS], nothing)
    total, terms = QueriesLoss(head)(outputs, nothing)
    assert terms["l1"] == terms["giou"] == terms["denoise"] == 0
    p = outputs[1][-1].detach().sigmoid()
    assert float(terms["cls"]) == pytest.approx(float((-0.75 * p**1.5 * (1 - p).log()).sum()))  # the focal loss
    total.backward()
    assert all(parameter.grad is not None for parameter in head.parameters())  # as DDP demands on every rank
    boxes, scores = torch.rand(1, 3, 2, 4), torch.randn(1, 3, 2, 3)
    assert match(boxes, scores, OBJECTS).image.tolist() == [0, 0, 2]  # two queries for three objects
    boxes[0, 0, 0, 0], scores[0, 2] = torch.nan, torch.inf
    assert len(match(boxes, scores, OBJECTS).query) == 3


def test_a_missing_scipy_is_said_in_one_line(monkeypatch):
    def refuse(name, extra):
        raise MissingExtraError(f"{name} of {extra}")

    monkeypatch.setattr(queries, "package", refuse)
    with pytest.raises(MissingExtraError, match=r"scipy\.optimize of train"):
        match(torch.rand(1, 3, 2, 4), torch.randn(1, 3, 2, 3), OBJECTS)


def test_sums_of_rows_equal_interpolated_maps():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 6), (4, 3)]
    maps = torch.randn(2, 60, 4, 8, generator=generator, dtype=torch.double).requires_grad_()
    # Some positions are outside the maps, where both give zeros.
    positions = (torch.rand(2, 5, 4, 2, 3, 2, generator=generator, dtype=torch.double) * 2.6 - 1.3).requires_grad_()
    weights = torch.rand(2, 5, 4, 6, generator=generator, dtype=torch.double).requires_grad_()
    found = gather_maps(maps, shapes, positions, weights)
    sampled = sample_maps(maps, shapes, positions) * weights.transpose(1, 2)[:, :, None]
    wanted = sampled.sum(-1).flatten(1, 2).transpose(1, 2)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), (maps, positions, weights)) for x in (found, wanted))):
        torch.testing.assert_close(a, b)


def test_box_coordinates_are_not_rounded_in_half_precision():
    head = L.RTDETRDecoder(3, [8, 8], hd=16, nq=12, ndp=2, nh=2, ndl=2, d_ffn=32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(MAPS, {**BATCH, "boxes": OBJECTS.boxes.float()})
    assert {outputs[0].dtype, outputs[2].dtype, outputs[5].boxes.dtype, outputs[5].points.dtype} == {torch.float32}
    assert torch.isfinite(QueriesLoss(head)(outputs, BATCH)[0])


def write_pictures(folder, count=6):
    """Write wide pictures of one red and one blue rectangle each, with labels; return the data file."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            image, lines = np.full((48, 96, 3), 90, np.uint8), []
            for number, colour in enumerate(((220, 30, 30), (30, 30, 220))):
                x, y, w, h = number * 48 + rng.integers(2, 20), rng.integers(2, 14), 24, 30
                image[y : y + h, x : x + w] = colour
                lines.append(f"{number} {(x + w / 2) / 96} {(y + h / 2) / 48} {w / 96} {h / 48}")
            Image.fromarray(image).save(folder / "images" / split / f"{i}.png")
            (folder / "labels" / split / f"{i}.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [red, blue]\n")
    return folder / "data.yaml"


@pytest.mark.slow
def test_from_pictures_to_an_exported_file(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "data")
    (tmp_path / "net.yaml").write_text(NETWORK)
    common = ("--data", "data", "-O", "plots=false", "--workers", 0, "--batch", 4, "--device", "cpu")
    done = cli("train", "net.yaml", *common, "--epochs", 1, "--out", "run")
    assert done.code == 0, done.err
    assert "adamw, rate 0.0005," in done.err
    stored = settings.load("run/args.yaml")
    assert (stored.optimizer, stored.lr) == ("adamw", 0.0005)
    header = (tmp_path / "run/results.csv").read_text().splitlines()[0]
    assert all(f"train/{name}" in header for name in ("cls", "l1", "giou", "aux", "denoise", "encoder"))
    done = cli("train", "--resume", "run", "--epochs", 2, "--lr", 0.002)
    assert done.code == 0, done.err
    result = netbuild.val("run/last.safetensors", "data", workers=0, progress=False, device="cpu")
    exported = netbuild.export("run/last.safetensors", "net.onnx").path
    assert runtime.load(exported).info.fitting == "stretch"
    of_file = netbuild.val(exported, "data", workers=0, progress=False)
    assert of_file.measures == pytest.approx(result.measures, abs=1e-3)
    picture = "data/images/val/0.png"
    records = [
        next(iter(netbuild.predict("run/last.safetensors", picture, device="cpu", conf=0.0, max_det=5))).records,
        next(iter(netbuild.predict(exported, picture, conf=0.0, max_det=5))).records,
        runtime.load(exported).predict(picture, conf=0.0, max_det=5)["records"],
    ]
    for found in records[1:]:
        boxes = [np.array([record["box"] for record in part]) for part in (records[0], found)]
        np.testing.assert_allclose(*boxes, atol=0.05)
    refused = cli("predict", "run/last.safetensors", picture, "--rect")
    assert "--rect has no effect on stretched pictures" in refused.err
    refused = cli("train", "net.yaml", *common, "-O", "rect=true", "--out", "run2")
    assert refused.code == 2
    assert "rect has no effect: the network takes stretched pictures" in refused.err
    assert "lr: 0.0005" in cli("train", "net.yaml", "--print-config").out
    assert "lr: null" in cli("train", "net.yaml", "--print-config", "--optimizer", "sgd").out


def test_pictures_are_stretched_alike_in_training_validation_and_prediction(tmp_path):
    from netbuild.data import open_data
    from netbuild.feed.loader import FeedOptions

    samples = open_data(write_pictures(tmp_path / "data", 1)).split("train").samples
    task = DetectTask(small_head())
    assert task.fitting == "stretch"
    still = dict.fromkeys(("mosaic", "translate", "scale", "flip_lr", "hsv_h", "hsv_s", "hsv_v"), 0.0)
    chosen = Settings(workers=0, degrees=0.0, shear=0.0, **still)
    pixels = samples[0].image(3)
    wanted, place = FITTINGS[task.fitting](pixels, (64, 64), 32, True)
    assert wanted.shape == (64, 64, 3)
    for learning in (True, False):
        options = FeedOptions((64, 64), 3, 2, None, chosen, learning, 4, {}, task.fitting)
        source, collate = task.feed(samples, options)
        batch = collate([source.get(0, np.random.default_rng(0), 0)])
        np.testing.assert_allclose(batch["images"][0].permute(1, 2, 0).numpy(), wanted, atol=1)
        np.testing.assert_allclose(batch["boxes"].numpy(), samples[0].boxes[:, 1:], atol=1e-6)
    corners = torch.tensor([[10.0, 5.0, 40.0, 44.0]])
    torch.testing.assert_close(place.undo(place.apply(corners)), corners)
    assert batch["letterbox"][0] == place
    with pytest.raises(NetbuildError, match="takes stretched pictures"):
        task.feed(samples, FeedOptions((64, 64), 3, 2, None, Settings(rect=True), False, 4, {}, "stretch"))


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(tmp_path):
    (tmp_path / "net.yaml").write_text(NETWORK)
    data = write_pictures(tmp_path / "data")
    chosen = {"epochs": 300, "batch": 4, "imgsz": 64, "lr": 0.003, "workers": 0, "device": "cpu"}
    losses = run.overfit_batch(str(tmp_path / "net.yaml"), str(data), settings.load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])
