"""Semantic segmentation and depth from the command line: train, resume, val, predict, export, sheets, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild import runtime, settings
from netbuild.data.dataset import Sample
from netbuild.data.shapes import BACKGROUND, CLASSES, make_scene
from netbuild.feed.loader import FeedOptions
from netbuild.feed.outline_maps import draw_class_maps
from netbuild.training import run
from netbuild.training.overfitting import is_overfit
from netbuild.training.validation import validate

BODY = """imgsz: 64
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
"""
NETS = {
    "semantic": f"nc: 3\n{BODY}  - [[1, 2], 1, SemanticSegment, [nc]]\n",
    "depth": f"{BODY}  - [[1, 2], 1, Depth, [16]]\n",
    "plain": f"task: semantic\nnc: 3\n{BODY}  - [-1, 1, nn.Conv2d, {{out_channels: nc, kernel_size: 1}}]\n",
}
NAMES = [*CLASSES, "background"]
QUICK = ["--device", "cpu", "--batch", 4, "-O", "workers=0", "-O", "plots=false"]
SIZE = (60, 44)


def write_scenes(folder, extras, names):
    """Scenes of shapes in YOLO's format: six to train on, three to measure."""
    for split, count in (("train", 6), ("val", 3)):
        for kind in ("images", "labels", "masks", "depth"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            frame = make_scene((5, count, i), SIZE).frame()
            Image.fromarray(frame.picture).save(folder / f"images/{split}/{i}.png")
            Image.fromarray(frame.classes).save(folder / f"masks/{split}/{i}.png")
            Image.fromarray(frame.depth.astype(np.float32)).save(folder / f"depth/{split}/{i}.tif")
            rows = [(o.label, o.polygons[0] / SIZE) for o in frame.objects]
            text = "".join(f"{label} {' '.join(f'{v:.6f}' for v in p.clip(0, 1).ravel())}\n" for label, p in rows)
            (folder / f"labels/{split}/{i}.txt").write_text(text)
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n{extras}")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    extras = "extras: {mask: {kind: classes, folder: masks}, depth: values}\n"
    return write_scenes(tmp_path_factory.mktemp("scenes"), extras, NAMES)


@pytest.fixture
def here(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in NETS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["plain", *(pytest.param(n, marks=pytest.mark.slow) for n in ("semantic", "depth"))])
def test_train_resume_val_predict_and_export(cli, here, data, name):
    """Each step gives its figures; the file for other runtimes gives those of the checkpoint."""
    measure = "delta1" if name == "depth" else "mIoU"
    drawn = () if name == "plain" else ("-O", "plots=true")
    done = cli("train", f"{name}.yaml", "--data", data, "--epochs", 2, "-o", "run", *QUICK, *drawn)
    assert (done.code, f"{measure} " in done.out) == (0, True), done.err
    if drawn:
        files = {path.name for path in (here / "run").iterdir()}
        assert {"labels.png", "train_batch0.png", "val_batch0.png", "losses.png", "metrics.png"} <= files
        assert ("confusion.png" in files) == (name != "depth")
    assert cli("train", "--resume", "run", "--epochs", 3).code == 0
    done = cli("export", "run/last.safetensors")
    assert done.code == 0, done.err  # it is compared with torch
    values = []
    for file in ("run/last.safetensors", "run/last.onnx"):
        flags = () if name == "depth" or "onnx" in file else ("-O", "rect=false")
        done = cli("val", file, "--data", data, "--json", "-O", "workers=0", "--device", "cpu", *flags)
        assert done.code == 0, done.err
        found = json.loads(done.out)
        values.append(found["measures"])
        assert [row["class"] for row in found["classes"]] == ([] if name == "depth" else names_in(data))
    assert values[1] == pytest.approx(values[0], abs=0.02)
    done = cli("predict", "run/last.safetensors", data / "images/val", "--json", "--device", "cpu")
    records = [picture["records"] for picture in json.loads(done.out)["pictures"]]
    model = runtime.load("run/last.onnx")
    others = [model.predict(data / f"images/val/{i}.png")["records"] for i in range(3)]
    if name == "depth":
        assert all(r[0]["nearest"] <= r[0]["median"] <= r[0]["farthest"] for r in records)
        assert [r[0]["median"] for r in records] == pytest.approx([r[0]["median"] for r in others], rel=1e-3)
    else:
        assert [sum(x["share"] for x in r) for r in records] == pytest.approx([1] * 3, abs=1e-3)


def names_in(data):
    """The names of the classes in the class maps of the validation pictures, in their order."""
    numbers = {int(v) for path in (data / "masks/val").iterdir() for v in np.unique(np.asarray(Image.open(path)))}
    return [NAMES[number] for number in sorted(numbers)]


def test_depth_is_calibrated_with_training_pictures(cli, here, data):
    """After each epoch the network that is saved has, on training pictures, the mean distance of the truth."""
    done = cli("train", "depth.yaml", "--data", data, "--epochs", 2, "-o", "run", *QUICK)
    assert done.code == 0, done.err
    assert "calibrated with 6 training pictures before each validation" in done.err
    start, last = (netbuild.build(here / f"run/{name}.safetensors").head for name in ("start", "last"))
    assert not torch.equal(last.cal_b, start.cal_b)
    network, errors = netbuild.build(here / "run/last.safetensors"), []
    for _ in range(2):
        errors.append(validate(network, data, "train")[0]["rmse-metric"])
        network.head.cal_a.fill_(1), network.head.cal_b.fill_(0)
    assert errors[0] < errors[1]
    done = cli("train", "run/last.safetensors", "--data", data, "--epochs", 1, "-o", "frozen", "--freeze", "3", *QUICK)
    assert done.code == 0, done.err
    assert "calibrated" not in done.err
    assert torch.equal(netbuild.build(here / "frozen/last.safetensors").head.cal_b, last.cal_b)


def test_settings_and_data_that_a_task_cannot_have_are_refused(cli, here, data, tmp_path):
    boxes = write_scenes(tmp_path / "boxes", "", list(CLASSES))
    for path in (boxes / "labels/train").iterdir():
        path.write_text("0 0.5 0.5 0.2 0.2\n")
    shutil.rmtree(boxes / "depth")
    for net, place, flags, message in (
        ("depth", data, ["mosaic=0.5"], "mosaic has no effect for the task 'depth'"),
        ("depth", data, ["mixup=0.1"], "mixup has no effect"),
        ("depth", data, ["rect=true"], "rect has no effect"),
        ("depth", data, ["class_weights=1.0"], "class_weights has no effect"),
        ("semantic", data, ["label_smoothing=0.1"], "label_smoothing has no effect"),
        ("semantic", boxes, [], "has neither a class map 'mask' nor outlines of its objects"),
        ("depth", boxes, [], "has no 'depth', which the task 'depth' learns from"),
        ("semantic", "digits", [], "is a data set for 'classify'"),
    ):
        settings_flags = [word for flag in flags for word in ("-O", flag)]
        done = cli("train", f"{net}.yaml", "--data", place, "--epochs", 1, "-o", "no", *QUICK, *settings_flags)
        assert (done.code, message in done.err) == (2, True), (message, done.err)
    assert not (here / "no").exists()


def feed(name, samples, learning, names=NAMES, **flags):
    """Batches of a task for a network of 64 pixels, as training or validation makes them."""
    from netbuild.tasks import find

    task = find(name)(torch.nn.Identity(), list(names))
    chosen = type(task).adapt_settings(settings.load(flags={"epochs": 20, **flags}), None)
    chosen = chosen.with_augmentation_defaults("pictures", "detect")
    options = FeedOptions((64, 64), 3, len(names), None, chosen, learning, 4, fitting=task.fitting)
    return task, *task.feed(samples, options)


def make_sample(size=(60, 30)):
    """A picture whose left half is dark, with a class map and distances that show it."""
    image = np.full((size[1], size[0], 3), 200, np.uint8)
    image[:, : size[0] // 2] = 20
    classes = np.where(image[..., 0] < 100, 1, 2).astype(np.uint8)
    extras = {"mask": classes, "depth": classes.astype(np.float32)}
    return Sample("a.png", size, np.zeros((0, 5)), pixels=image, extras=extras)


def test_maps_stay_on_their_pictures(data):
    """Dark pixels are class 1 and bright ones 2 after any augmentation; depth is that divided by the enlargement."""
    samples = [make_sample(), make_sample((30, 60))]
    random = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "degrees": 20.0, "shear": 5.0, "flip_ud": 0.5}
    _, source, collate = feed("semantic", samples, True, mosaic=0.5, **random)
    for i in range(12):
        batch = collate([source.get(i % 2, np.random.default_rng(i), 0)])
        image, classes = batch["images"][0, 0].int(), batch["mask"][0, 0]
        assert (image.shape, classes.shape, classes.dtype) == ((64, 64), (64, 64), torch.int32)
        # Where two halves or the border meet, the picture is interpolated and the map is not.
        assert ((classes == 255) == (image == 114)).float().mean() > 0.9
        for number, value in ((1, 20), (2, 200)):
            assert (image[classes == number] == value).float().mean() > 0.85
    image = source.load(0).image
    assert image.shape == (64, 128, 3)  # the shorter side is the network's
    _, source, collate = feed("depth", samples, True, scale=0.9, translate=0.0, **random)
    assert source.load(0).image.shape == source.load(1).image.shape == (64, 64, 3)  # stretched
    seen = [collate([source.get(0, np.random.default_rng(i), 0)])["depth"][0, 0] for i in range(8)]
    ratios = [float(d.max() / d[d > 0].min()) for d in seen]
    assert ratios == pytest.approx([2] * 8, rel=1e-5)
    assert len({round(float(d.max()), 3) for d in seen}) > 4


def test_validation_has_the_maps_of_the_original_pictures():
    samples = [make_sample(), make_sample((30, 60))]
    for name, shape, corner in (("semantic", (32, 64), (16, 0)), ("depth", (64, 64), (0, 0))):
        _, source, collate = feed(name, samples, False, rect=None if name == "depth" else False)
        batch = collate([source.get(0, None, 0)])
        target = {"semantic": "mask", "depth": "depth"}[name]
        assert (batch["letterbox"][0].inner, batch["letterbox"][0].corner) == (shape, corner)
        assert torch.equal(batch["originals"][0][target][0], torch.from_numpy(samples[0].extras[target]))
        outside = batch[target][0, 0, : corner[0]]
        assert (outside == 255).all()
        assert (batch[target][0, 0, 32, :30] == 1).all()


def test_outlines_and_background_become_a_class_map(data, cli, here, tmp_path):
    """The map of a data set with polygons alone is nearly the one that the generator wrote, and has one class more."""
    polygons = write_scenes(tmp_path / "polygons", "", list(CLASSES))
    dataset = netbuild.data.open_data(polygons)
    samples = draw_class_maps(netbuild.data.scan(dataset, splits=["train"]).samples("train"), BACKGROUND)
    for sample in samples:
        drawn, written = (
            sample.extra("mask", "classes"),
            np.asarray(Image.open(data / f"masks/train/{sample.path.name}")),
        )
        assert (drawn[..., 0] == written).mean() > 0.99
    flags = ("--epochs", 1, "-o", "run", "-O", "copy_paste=0.5", "-O", "class_weights=0.5", *QUICK)
    done = cli("train", "semantic.yaml", "--data", polygons, *flags)
    assert (done.code, done.err.count("is the class 6, 'background'")) == (0, 1), done.err
    assert netbuild.build(here / "run/last.safetensors").card.names == [*CLASSES, "background"]
    done = cli("val", "run/last.safetensors", "--data", polygons, "--json", "-O", "workers=0", "--device", "cpu")
    assert "background" in [row["class"] for row in json.loads(done.out)["classes"]]


def test_a_single_class_is_found_where_its_logit_is_positive():
    logits = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4)
    found = runtime.classify_pixels(logits, runtime.Placement((4, 4), (4, 4), (0, 0), (4, 4)))
    assert np.array_equal(found, np.where(logits[0] > 0, 0, -1))
    ((number, area),) = runtime.list_areas(found)
    assert (number, area["share"]) == (0, 0.5)
    assert np.array_equal(runtime.mask_of(area["mask"]), found == 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "rate"), [
    ("yolo26n-sem.yaml", 64, 0.003), ("yolo26n-depth.yaml", 64, 0.003), ("unet.yaml", 204, 0.0003),
])  # fmt: skip
def test_a_batch_is_learnt_by_heart(name, size, rate):
    chosen = {
        "epochs": 150 if size < 100 else 60,
        "batch": 4 if size < 100 else 1,
        "imgsz": size,
        "lr": rate,
        "workers": 0,
    }
    losses = run.overfit_batch(name, "shapes", settings.load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])
