"""Masks, keypoints, rotated boxes and pixel maps: the runtime against torch, torchvision and OpenCV."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.filled_weights import fill
from helpers.small_networks import network_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

import netbuild
from netbuild import runtime
from netbuild.data.fitting import letterbox, stretch
from netbuild.data.images import read_image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from netbuild.export import export
from netbuild.tasks import find

BODY = """
imgsz: 64
reg_max: 4
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
"""
HEADS = {
    "segment": "nc: 3\n" + BODY + "  - [[2, 3], 1, Segment, [nc, 8, 32]]\n",
    "pose": "nc: 3\nkpt_shape: [5, 3]\n" + BODY + "  - [[2, 3], 1, Pose, [nc, kpt_shape]]\n",
    "obb": "nc: 3\n" + BODY + "  - [[2, 3], 1, OBB, [nc, 1]]\n",
    "semantic": "nc: 3\n" + BODY + "  - [[2, 3], 1, SemanticSegment, [nc]]\n",
    "depth": BODY + "  - [[2, 3], 1, Depth, [16]]\n",
}
REAL = {"segment": "yolo11n-seg", "pose": "yolo11n-pose", "obb": "yolo11n-obb"}
NAMES = ["bolt", "nut", "screw"]
PICTURES = ["wide.png", "tall.png"]
CONF, IOU, MOST = 0.3, 0.5, 40
SPREAD = ("cv2", "cv3", "cv4")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with two pictures."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    for name, (w, h) in zip(PICTURES, ((150, 97), (61, 140)), strict=True):
        coarse = rng.integers(0, 256, (h // 12 + 1, w // 12 + 1, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((w, h)).save(folder / name)
    return folder


def write_files(folder, task):
    """Write a checkpoint of a task and its exported file, unless an earlier test did."""
    if (folder / f"{task}.onnx").exists():
        return
    names = NAMES if "nc" in HEADS[task] else None
    checkpoint = network_of(folder, task, HEADS[task], names, SPREAD)
    if task in ("semantic", "depth"):
        netbuild.save(fill(netbuild.build(checkpoint)), checkpoint, names=names)
    export(checkpoint, folder / f"{task}.onnx", dynamic="size" if task == "segment" else None)


@pytest.fixture
def here(files, request, monkeypatch):
    """The folder as working directory, with the files of the test's ``task``."""
    write_files(files, request.node.callspec.params["task"])
    monkeypatch.chdir(files)
    return files


def make_ranking_network(folder, task):
    """Make the network of a task whose one-to-one branch predicts, and its exported file."""
    text = HEADS[task] + "end2end: true\n"
    network = netbuild.build(network_of(folder, f"{task}2", text, NAMES, SPREAD)).eval()
    network.model[-1].end2end = True
    network.card = replace(network.card, names=NAMES)
    file = folder / f"{task}2.onnx"
    if not file.exists():
        export(network, file)
    return network.fuse(), file


# -- reference in torch -----------------------------------------------------------------------------------------------


def fit_picture(picture, shape, fit=letterbox):
    """Fit a picture to an input shape: (1, 3, H, W), and its placement."""
    pixels, place = fit(read_image(picture), shape, 1, False)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255, place


def run_network(network, picture, shape, fit=letterbox):
    image, place = fit_picture(picture, shape, fit)
    with torch.no_grad():
        found = network(image)
    return (found[0] if isinstance(found, tuple) else found), place


class NetworkOfFile:
    """A network that returns the outputs of its file: noise decides the order of nearly equal scores."""

    def __init__(self, network, file):
        self.model, self.file = network.model, file

    def __call__(self, image):
        found = tuple(map(torch.from_numpy, self.file.run(image.numpy())))
        return (found if len(found) > 1 else found[0], None)


def to_corners(boxes):
    return torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)


def polygon(box):
    """Compute the corners of a rotated box (5,) by OpenCV, which takes degrees."""
    cx, cy, w, h, angle = map(float, box)
    return cv2.boxPoints(((cx, cy), (w, h), float(np.degrees(angle))))


def polygon_iou(a, b):
    first, second = (polygon(box).astype(float) for box in (a, b))
    both = area(clip_polygon(list(first), second))
    return both / (area(first) + area(second) - both)


def area(corners):
    return (
        abs(sum(cross(a, b) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True))) / 2 if len(corners) else 0
    )


def cross(a, b):
    return a[0] * b[1] - a[1] * b[0]


def clip_polygon(corners, by):
    """Clip a polygon at each side of a convex one in turn. Sutherland and Hodgman, 1974."""
    way = np.sign(cross(by[1] - by[0], by[2] - by[1]))
    for start, end in zip(by, np.roll(by, -1, 0), strict=True):
        inside = [way * cross(end - start, p - start) for p in corners]
        left = []
        for i, p in enumerate(corners):
            before, here = inside[i - 1], inside[i]
            if (before < 0) != (here < 0):
                left.append(corners[i - 1] + (p - corners[i - 1]) * before / (before - here))
            left += [p] if here >= 0 else []
        corners = left
    return corners


def select_detections(y, nc, turned=False):
    """Select detections of (4+nc+extra, A): corners before rotation, scores, classes and extra values."""
    boxes, scores, extra = y.T.split((4, nc, len(y) - 4 - nc), 1)
    best, kinds = scores.max(1)
    order = torch.argsort(best, descending=True, stable=True)
    order = order[best[order] > CONF]
    if not turned:
        from torchvision.ops import batched_nms  # importing it takes a second, which collecting tests must not

        own = order[batched_nms(to_corners(boxes[order]), best[order], kinds[order], IOU)[:MOST]]
    else:
        own = []
        for i in order.tolist():
            box = [*boxes[i], extra[i, 0]]
            if all(kinds[i] != kinds[j] or polygon_iou(box, [*boxes[j], extra[j, 0]]) <= IOU for j in own):
                own.append(i)
        own = torch.tensor(own[:MOST])
    return boxes[own], best[own], kinds[own], extra[own]


def map_to_picture(points, place):
    """Map points (..., 2) of the input to pixels of the picture."""
    ratio = torch.tensor([place.inner[1] / place.size[1], place.inner[0] / place.size[0]])
    return (points - torch.tensor([place.corner[1], place.corner[0]])) / ratio


def sample_at_pixels(maps, place, canvas):
    """Maps (k, h, w) at every pixel of the picture, by torch's own sampling."""
    (h, w), (height, width) = place.size, canvas
    y = ((torch.arange(h) + 0.5) * place.inner[0] / h + place.corner[0]) / height * 2 - 1
    x = ((torch.arange(w) + 0.5) * place.inner[1] / w + place.corner[1]) / width * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
    return F.grid_sample(maps[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def predict_with_torch(task, network, picture, shape):
    """Predict a picture with torch: boxes, scores, classes, and masks, keypoints or corners, in its pixels."""
    outputs, place = run_network(network, picture, shape)
    y, prototypes = outputs if task == "segment" else (outputs, None)
    nc = network.model[-1].nc
    if not network.model[-1].one2one():
        boxes, scores, kinds, extra = select_detections(y[0], nc, task == "obb")
    else:
        rows = y[0][y[0][:, 4] > CONF][:MOST]
        boxes, scores, kinds, extra = rows[:, :4], rows[:, 4], rows[:, 5].int(), rows[:, 6:]
        if task != "obb":
            boxes = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
    h, w = place.size
    limits = torch.tensor([w, h, w, h])
    corners = map_to_picture(to_corners(boxes).view(-1, 2, 2), place).view(-1, 4).clamp(min=0).minimum(limits)
    if task == "segment":
        inside = (
            sample_at_pixels((extra @ prototypes[0].flatten(1)).view(len(boxes), *prototypes.shape[2:]), place, shape)
            > 0
        )
        x, y = torch.arange(w) + 0.5, torch.arange(h)[:, None] + 0.5
        x1, y1, x2, y2 = corners[:, :, None, None].unbind(1)
        more = inside & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    elif task == "pose":
        points = extra.view(len(boxes), *network.model[-1].kpt_shape)
        more = torch.cat((map_to_picture(points[..., :2], place), points[..., 2:]), -1)
    else:
        turned = [polygon([*box, angle]) for box, angle in zip(boxes, extra[:, 0], strict=True)]
        more = map_to_picture(torch.from_numpy(np.array(turned).reshape(-1, 4, 2)), place)
        corners = torch.cat((more.amin(1), more.amax(1)), 1).clamp(min=0).minimum(limits)
    return corners, scores, kinds, more


def assert_records(task, records, wanted):
    """Assert that records, best first, equal the expected values."""
    boxes, scores, kinds, more = wanted
    assert len(records) == len(boxes) > 3
    assert [r["class"] for r in records] == kinds.tolist()
    assert [r["confidence"] for r in records] == pytest.approx(scores.tolist(), abs=1e-4)
    assert np.abs(np.array([r["box"] for r in records]) - boxes.numpy()).max() < 0.05
    if task == "segment":
        masks = np.array([decode_mask(r["mask"]) for r in records])
        assert (masks != more.numpy()).mean((1, 2)).max() < 1e-3
        assert masks.any((1, 2)).sum() > 3
    elif task == "pose":
        found = np.array([r["keypoints"] for r in records])
        assert np.abs(found[..., :2] - more[..., :2].numpy()).max() < 0.05
        assert np.abs(found[..., 2] - more[..., 2].numpy()).max() < 1e-3
    else:  # OpenCV begins at another corner
        for record, corners in zip(records, more.numpy(), strict=True):
            apart = np.linalg.norm(np.array(record["corners"])[:, None] - corners[None], axis=-1)
            assert apart.min(0).max() < 0.05
            assert apart.min(1).max() < 0.05


def decode_mask(encoded):
    return coco.decode(coco.frPyObjects(encoded, *encoded["size"])).astype(bool)


# -- equal ------------------------------------------------------------------------------------------------------------


OPTIONS = {"conf": CONF, "iou": IOU, "max_det": MOST}


@pytest.mark.parametrize("task", ["segment", *(pytest.param(t, marks=pytest.mark.slow) for t in ("pose", "obb"))])
def test_records_of_boxes_equal_those_of_torch(here, task):
    network = netbuild.build(f"{task}.safetensors").eval().fuse()
    model = runtime.load(f"{task}.onnx", threads=1)
    shape = model.fixed_size or (96, 96)
    options = {**OPTIONS, **({} if model.fixed_size else {"imgsz": 96, "rect": False})}
    for picture in PICTURES:
        assert_records(
            task, model.predict(picture, **options)["records"], predict_with_torch(task, network, picture, shape)
        )
    # netbuild predict returns the same for the file and for the checkpoint
    found = [model.predict(picture, **options)["records"] for picture in PICTURES]
    for file, rect in ((f"{task}.onnx", options.get("rect")), (f"{task}.safetensors", False)):
        results = netbuild.predict(file, PICTURES, device="cpu", **{**options, "rect": rect})
        for result, records in zip(results, found, strict=True):
            assert_nearly_equal(result.records, records)


def assert_nearly_equal(found, wanted):
    """Assert that records are equal except for noise."""
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        assert dict(flatten(one)) == pytest.approx(dict(flatten(other)), abs=0.05)
        if "mask" in one:
            assert (decode_mask(one["mask"]) != decode_mask(other["mask"])).mean() < 1e-3


def flatten(value, name=""):
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(inner, f"{name}.{key}".strip(".")) if key != "mask" else ()
    else:
        yield name, value


@pytest.mark.slow
@pytest.mark.parametrize(
    "task", [pytest.param("segment", marks=pytest.mark.slow), pytest.param("pose", marks=pytest.mark.slow), "obb"]
)
def test_heads_that_rank_are_decoded(here, task):
    network, file = make_ranking_network(here, task)
    model = runtime.load(file, threads=1)
    assert model.info.one2one
    assert model.info.boxes == ("centres" if task == "obb" else "corners")
    for picture in PICTURES:
        found = model.predict(picture, conf=CONF, max_det=MOST)["records"]
        assert_records(task, found, predict_with_torch(task, network, picture, (64, 64)))
        (result,) = netbuild.predict(file, picture, device="cpu", conf=CONF, max_det=MOST)
        assert_nearly_equal(result.records, found)


@pytest.mark.slow
@pytest.mark.parametrize("task", REAL)
def test_real_networks_are_decoded_alike(tmp_path, files, monkeypatch, task):
    monkeypatch.chdir(files)
    family, kind = REAL[task].split("n-")
    checkpoint = network_of(tmp_path, REAL[task], f"extends: {family}-{kind}.yaml\nnc: 5\n", None, SPREAD, 1.0)
    network = netbuild.build(checkpoint).eval().fuse()
    model = runtime.load(export(checkpoint, tmp_path / "net.onnx", imgsz=160).path, threads=1)
    for picture in PICTURES:
        found = model.predict(picture, **OPTIONS)["records"]
        assert_records(task, found, predict_with_torch(task, NetworkOfFile(network, model), picture, (160, 160)))


@pytest.mark.slow
def test_boxes_of_a_transformer_are_fractions_of_the_image(files, monkeypatch):
    monkeypatch.chdir(files)
    text = BODY.replace("imgsz: 64", "nc: 3\nimgsz: 64\ntask: detect") + (
        "  - [[2, 3], 1, RTDETRDecoder, [nc, 32, 30, 4, 4, 2, 64]]\n"
    )
    checkpoint = network_of(files, "decoder", text, NAMES, ())
    model = runtime.load(export(checkpoint, files / "decoder.onnx", imgsz=(64, 96)).path, threads=1)
    assert (model.info.boxes, model.info.fitting) == ("parts", "stretch")
    outputs, place = run_network(netbuild.build(checkpoint).eval(), "wide.png", (64, 96), stretch)
    rows = outputs[0][:10]
    corners = map_to_picture((to_corners(rows[:, :4]) * torch.tensor([96, 64, 96, 64])).view(-1, 2, 2), place).view(
        -1, 4
    )
    corners = corners.clamp(min=0).minimum(torch.tensor([150, 97, 150, 97]))
    for records in (
        model.predict("wide.png", conf=0, max_det=10)["records"],
        next(netbuild.predict("decoder.onnx", "wide.png", device="cpu", conf=0, max_det=10)).records,
    ):
        assert np.abs(np.array([r["box"] for r in records]) - corners.numpy()).max() < 0.05
        assert [r["class"] for r in records] == rows[:, 5].int().tolist()


@pytest.mark.parametrize("task", ["semantic", "depth"])
def test_pixel_maps_equal_those_of_torch(here, task):
    network, model = netbuild.build(f"{task}.safetensors").eval().fuse(), runtime.load(f"{task}.onnx", threads=1)
    results = netbuild.predict(f"{task}.onnx", PICTURES, device="cpu")
    padded = {"rect": False} if task == "semantic" else {}  # depth is predicted on stretched pictures
    of_net = netbuild.predict(f"{task}.safetensors", PICTURES, device="cpu", **padded)
    for picture, result, other in zip(PICTURES, results, of_net, strict=True):
        outputs, place = run_network(network, picture, (64, 64), letterbox if task == "semantic" else stretch)
        wanted, found = sample_at_pixels(outputs[0], place, (64, 64)), model.map(picture)
        records = model.predict(picture)["records"]
        assert found.shape == place.size
        assert result.records == records
        assert_nearly_equal(other.records, records)
        if task == "depth":
            assert np.abs(found - wanted[0].numpy()).max() < 1e-3 * wanted.max()
            assert records == [
                {"nearest": pytest.approx(found.min(), abs=1e-3), "median": pytest.approx(np.median(found), abs=1e-3),
                 "farthest": pytest.approx(found.max(), abs=1e-3)}
            ]  # fmt: skip
            continue
        assert (found != wanted.argmax(0).numpy()).mean() < 1e-3
        assert len({*found.flat}) > 1
        assert [r["share"] for r in records] == sorted((r["share"] for r in records), reverse=True)
        for record in records:
            assert np.array_equal(decode_mask(record["mask"]), found == record["class"])
    with pytest.raises(runtime.RunError, match="conf has no effect for the task"):
        model.predict(PICTURES[0], conf=0.5)


def test_a_map_without_padding_covers_the_middle():
    place = runtime.Placement((572, 572), (572, 572), (0, 0), (572, 572))
    whole = np.random.default_rng(0).random((1, 572, 572), np.float32)
    found = runtime.resample_depth(whole[:, 92:480, 92:480], place)
    assert np.array_equal(found[92:480, 92:480], whole[0, 92:480, 92:480])


# -- its own versions of other functions -------------------------------------------------------------------------------

side, turn = st.floats(0.5, 60), st.floats(-4, 4)
box = st.tuples(st.floats(0, 60), st.floats(0, 60), side, side, turn)


@settings(max_examples=80, deadline=None)
@given(box, st.lists(box, min_size=1, max_size=4))
def test_overlaps_of_rotated_boxes_are_those_of_polygons(first, others):
    found = runtime.rotated_iou(np.array(first), np.array(others))
    assert found == pytest.approx([polygon_iou(first, other) for other in others], abs=2e-3)
    assert runtime.rotated_iou(np.array(first), np.array([first])) == pytest.approx([1])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.1003, 0.5003, 0.7003]), st.booleans())
def test_upright_boxes_are_suppressed_like_those_of_torchvision(seed, iou, agnostic):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 40, (40, 2))
    rows = np.concatenate((low, low + rng.integers(1, 30, (40, 2)), -np.sort(-rng.random((40, 1)), 0)), 1)
    rows = np.concatenate((rows, rng.integers(0, 3, (40, 1)), np.zeros((40, 1))), 1).astype(np.float32)
    boxes, scores, kinds = (torch.from_numpy(rows[:, i]) for i in (slice(4), 4, 5))
    from torchvision.ops import batched_nms, nms

    wanted = nms(boxes, scores, iou) if agnostic else batched_nms(boxes, scores, kinds, iou)
    assert runtime.suppress_rotated(rows, runtime.Filter(iou=iou, agnostic=agnostic)) == wanted.tolist()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_run_lengths_are_those_of_coco(data):
    h, w = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    top, left = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    part = np.array(
        data.draw(st.lists(st.booleans(), min_size=(h - top) * (w - left), max_size=(h - top) * (w - left)))
    )
    mask = np.zeros((h, w), bool)
    mask[top:, left:] = part.reshape(h - top, w - left)
    encoded = runtime.encode_mask(mask[top:, left:], top, left, (h, w))
    assert json.loads(json.dumps(encoded)) == encoded
    assert coco.frPyObjects(encoded, h, w)["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(runtime.mask_of(encoded), mask)


# -- drawn and saved --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", HEADS)
def test_records_are_drawn_and_saved(here, cli, tmp_path, task):
    boxed = task in REAL
    options = ("--conf", CONF) if boxed else ()
    saves = "pictures,json" + (",crops" if boxed else "") + (",txt" if boxed else "")
    done = cli(
        "predict", f"{task}.onnx", *PICTURES, "--device", "cpu", *options, "-o", tmp_path / "out", "--save", saves
    )
    assert done.code == 0, done.err
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    for found in document["pictures"]:
        drawn, plain = read_image(tmp_path / "out" / found["path"]), read_image(found["path"])
        assert found["records"]
        assert drawn.shape != plain.shape or not np.array_equal(drawn, plain)
        text = tmp_path / "out" / "labels" / Path(found["path"]).with_suffix(".txt").name
        if task in ("pose", "obb"):
            rows = [list(map(float, line.split())) for line in text.read_text().splitlines()]
            assert {len(row) for row in rows} == {6 + 15 if task == "pose" else 10}
            if task == "obb":
                w, h = found["width"], found["height"]
                corners = np.array([r["corners"] for r in found["records"]]).reshape(-1, 8) / ([w, h] * 4)
                assert np.abs(np.array(rows)[:, 1:9] - corners).max() < 1e-5
        if task == "segment":
            assert all(len(line.split()) % 2 == 0 for line in text.read_text().splitlines())
    if not boxed:
        assert cli("predict", f"{task}.onnx", "wide.png", "--save", "txt", "-o", tmp_path / "no").code == 2


@pytest.mark.parametrize("task", HEADS)
def test_tasks_without_loss_and_data_of_other_kinds_are_refused_by_val(here, cli, task):
    done = cli("val", f"{task}.onnx", "--data", "digits")
    other = "digits is a data set for 'classify'" if task == "depth" else "digits has 10"
    reason = f"the task '{task}' cannot be trained yet" if not find(task).trainable else other
    assert (done.code, reason in done.err) == (2, True), done.err
    done = cli("export", f"{task}.safetensors", "--nms", "-o", "never.onnx")
    assert (done.code, "--nms" in done.err) == (2, True), done.err
