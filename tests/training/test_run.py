"""Training as a user runs it: embedded data, folders of runs, pictures with their boxes, what is said when wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from netbuild import settings
from netbuild.data import open_data
from netbuild.data.dataset import Sample
from netbuild.data.images import pillow
from netbuild.feed.labels import ClassifySamples
from netbuild.feed.samples import RectangularSamples, SceneSamples, collate_scenes
from netbuild.feed.scenes import Scene, flip_randomly, warp
from netbuild.grammar import checkpoint_header
from netbuild.tasks.box_math import to_corners
from netbuild.training import run

PLAIN = settings.load(
    flags={
        **dict.fromkeys(("mosaic", "degrees", "translate", "scale", "shear", "hsv_h", "hsv_s", "hsv_v", "flip_lr"), 0.0)
    }
)


def picture(h=60, w=90, boxes=((1, 0.3, 0.4, 0.2, 0.3), (2, 0.7, 0.6, 0.1, 0.2))):
    """A grey picture whose boxes are painted, each in a colour of its own."""
    image = np.full((h, w, 3), 30, np.uint8)
    for kind, cx, cy, bw, bh in boxes:
        x1, x2, y1, y2 = (cx - bw / 2) * w, (cx + bw / 2) * w, (cy - bh / 2) * h, (cy + bh / 2) * h
        image[round(y1) : round(y2), round(x1) : round(x2)] = 180 + 30 * kind
    return Sample("painted.png", (w, h), np.array(boxes, float).reshape(-1, 5), pixels=image)


def painted(image, kind):
    """The box that encloses what is painted in a kind's colour, (x1, y1, x2, y2); None if too little is."""
    rows, columns = np.nonzero(np.abs(image[..., 0].astype(int) - 180 - 30 * kind) < 14)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) > 20 else None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("change", ["mosaic", "affine", "turned", "flips", "all"])
def test_boxes_stay_on_what_they_enclose(seed, change):
    flags = {
        "mosaic": {"mosaic": 1.0, "close_mosaic": 0},
        "affine": {"scale": 0.4, "translate": 0.2},
        "turned": {"degrees": 30.0, "shear": 10.0},
        "flips": {"flip_lr": 0.5, "flip_ud": 0.5},
        "all": {"mosaic": 1.0, "close_mosaic": 0, "scale": 0.3, "translate": 0.1, "flip_lr": 0.5},
    }[change]
    chosen = settings.load(flags={**PLAIN.to_dict(), **flags})
    samples = SceneSamples([picture(boxes=[(1, 0.5, 0.5, 0.4, 0.4)])], 96, 3, chosen)
    scene = samples.augment(0, np.random.default_rng(seed), 0)
    image, boxes = scene.image, scene.boxes
    assert image.shape == (96, 96, 3)
    assert ((boxes[:, 1:] >= 0) & (boxes[:, 1:] <= 96)).all()
    if "mosaic" in flags:  # several of them: every box is full of its colour
        for _, x1, y1, x2, y2 in boxes:
            inside = image[int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2, 0]
            assert not inside.size or np.median(inside) == pytest.approx(210, abs=14)
    else:
        where = painted(image, 1)
        for _, *box in boxes:
            assert box == pytest.approx(where, abs=2.5)


def test_validation_fits_pictures_and_gives_their_place():
    item = SceneSamples([picture()], 120).get(0, np.random.default_rng(0), 0)
    batch = collate_scenes([item])
    assert batch["images"].shape == (1, 3, 120, 120)
    box = to_corners(batch["boxes"])
    back = batch["letterbox"][0].undo(box * 120)
    wanted = [[18, 15, 36, 33], [58.5, 30, 67.5, 42]]
    torch.testing.assert_close(back, torch.tensor(wanted), atol=0.6, rtol=0.0)
    image = batch["images"][0].permute(1, 2, 0).numpy()
    assert painted(image, 2) == pytest.approx((box[1] * 120).tolist(), abs=2)


def test_narrow_canvases_have_room_and_no_more():
    shapes = [(60, 90), (90, 60), (50, 100), (80, 80), (100, 30)]
    samples = RectangularSamples([picture(h, w, [(1, 0.5, 0.5, 0.5, 0.5)]) for h, w in shapes], 96, 3, 2)
    items = [samples.get(i, np.random.default_rng(0), 0) for i in range(5)]
    assert [item.scene.size for item in items] == [
        (96, 128),
        (96, 128),
        (128, 128),
        (128, 128),
        (128, 64),
    ]
    for item, sample in zip(items, samples.samples, strict=True):
        h, w = item.scene.size
        box = to_corners(collate_scenes([item])["boxes"]) * torch.tensor([w, h, w, h])
        assert painted(item.scene.image, 1) == pytest.approx(box[0].tolist(), abs=2)
        width, height = sample.size
        back = item.letterbox.undo(box)[0].tolist()
        assert back == pytest.approx([width / 4, height / 4, 3 * width / 4, 3 * height / 4], abs=0.8)


def test_a_batch_knows_whose_boxes_are_whose():
    samples = SceneSamples([picture(), picture(boxes=()), picture(boxes=[(0, 0.5, 0.5, 1, 1)])], 64)
    batch = collate_scenes([samples.get(i, np.random.default_rng(0), 0) for i in range(3)])
    assert batch["index"].tolist() == [0, 0, 2]
    assert batch["classes"].tolist() == [1, 2, 0]
    assert batch["images"].dtype is torch.uint8


def test_boxes_that_leave_the_picture_go():
    chosen = settings.load(flags=PLAIN.to_dict())
    image, boxes = np.zeros((50, 50, 3), np.uint8), np.array([[0, -40.0, 10, 2, 20], [1, 10, 10, 40, 40]])
    left = warp(Scene.of_boxes(image, boxes, ((), ())), 50, np.random.default_rng(0), chosen)
    assert left.boxes[:, 0].tolist() == [1]
    mirrored = flip_randomly(left, np.random.default_rng(0), settings.load(flags={"flip_lr": 1.0}))
    assert mirrored.boxes.tolist() == [[1, 10, 10, 40, 40]]
    assert mirrored.image.shape == image.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("learning", [False, True])
def test_pictures_of_classes_have_the_networks_size(channels, learning):
    sample = Sample("x", (30, 20), label=3, pixels=np.full((20, 30, 3), 77, np.uint8))
    chosen = settings.load(flags={**PLAIN.to_dict(), "scale": 0.5}) if learning else None
    image, label = ClassifySamples([sample], (16, 12), channels, chosen).get(0, np.random.default_rng(0), 0)
    assert image.shape == (channels, 16, 12)
    assert label == 3
    assert (image == 77).all()


# -- as a user runs it ------------------------------------------------------------------------------------------------

QUICK = ("--epochs", "2", "--batch", "64", "--device", "cpu", "-O", "workers=0")


def test_train_resume_and_val(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("train", "lenet5-modern.yaml", *QUICK, "-O", "flip_lr=0", "-O", "lr=0.003")
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / "lenet5-modern"
    assert done.out.startswith("runs/lenet5-modern: best 0.")
    assert [line.split(":")[0] for line in done.err.splitlines() if ":" in line] == ["digits", "epoch 1/2", "epoch 2/2"]
    files = {"args.yaml", "data.json", "best.safetensors", "last.safetensors", "model.yaml", "results.csv", "run.json"}
    kept = {
        p.name for p in folder.iterdir() if p.suffix != ".png"
    }  # of these tests/drawing/test_charts_and_runs.py knows
    assert kept == {*files, "start.safetensors", "state.safetensors"}
    assert cli("check", folder / "model.yaml").code == 0
    assert settings.load(folder / "args.yaml").lr == 0.003
    more = cli("train", "--resume", folder, "--epochs", "3", "-O", "best=top1")
    assert more.code == 0, more.err
    assert "epoch 3/3" in more.err
    measured = json.loads(cli("val", folder / "last.safetensors", "--data", "digits", "-O", "workers=0", "--json").out)
    kept = checkpoint_header.read_info(folder / "last.safetensors").training["measures"]
    assert measured["measures"]["top1"] == pytest.approx(kept["top1"])
    assert len(measured["classes"]) == 10
    assert "precision" in cli("val", folder / "best.safetensors", "--data", "digits", "-O", "workers=0").out
    again = cli("train", "lenet5-modern.yaml", *QUICK, "--out", folder)
    assert (again.code, "there is something in it" in again.err) == (2, True)


@pytest.mark.slow
def test_a_detector_learns_the_embedded_digits(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    flags = ["--imgsz", "128", "--epochs", "12", "--batch", "16", "-O", "workers=0", "-O", "flip_lr=0"]
    done = cli("train", "yolo11n.yaml", "--data", "digits-detect", "--out", "run", *flags)
    assert done.code == 0, done.err
    measures = checkpoint_header.read_info(tmp_path / "run" / "best.safetensors").training["measures"]
    assert measures["mAP50"] > 0.3


def test_what_is_wrong_is_said_before_training(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, said in [
        ([], "the network's file is missing"),
        (["lenet5.yaml", "--data", "nowhere"], "there is no data set"),
        (["lenet5.yaml", "--data", "digits-detect"], "is a data set for 'detect', the network's task is 'classify'"),
        (["srcnn.yaml"], "no task 'super-resolution'"),
        (["lenet5.yaml", "-O", "epoch=3"], "did you mean 'epochs'"),
        (["lenet5.yaml", "-O", "epochs=many"], "must be a whole number"),
        (["lenet5.yaml", "--device", "tpu9"], "--device tpu9"),
        (["lenet5.yaml", "-O", "best=top2"], "the task 'classify' has no measure 'top2'"),
        (["--resume", "nothing"], "there is no run to resume"),
        (["--resume", "nothing", "--data", "digits"], "--data has no effect with --resume"),
    ]:
        done = cli("train", *arguments)
        assert done.code == 2, (arguments, done.err)
        assert said in done.err
    printed = cli("train", "--print-config").out
    assert "epochs: 100  # passes over the training data" in printed


def test_data_commands(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = cli("data", "check", "digits")
    assert done.code == 0, done.err
    assert "Sample(" not in done.out
    assert "1,437" in done.out or "1437" in done.out
    found = json.loads(cli("data", "stats", "digits", "--json").out)
    assert sum(row["objects"] for row in found["splits"]["train"]["classes"]) == 1437
    (tmp_path / "set" / "images" / "train").mkdir(parents=True)
    (tmp_path / "set" / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [a]\n")
    wrong = cli("data", "check", tmp_path / "set")
    assert wrong.code == 2
    assert "no picture" in wrong.err


@pytest.mark.parametrize(("origin", "measure", "least"), [("autoencoder", "psnr", 12), ("classifier", "top1", 0.6)])
def test_a_new_file_trains_at_once(cli, tmp_path, monkeypatch, origin, measure, least):
    monkeypatch.chdir(tmp_path)
    cli("new", "mine", "--from", origin)
    flags = ["--epochs", "1", "--imgsz", "32", "--batch", "32", "--device", "cpu", "-O", "workers=0", "-O", "warmup=0"]
    done = cli("train", "mine.yaml", *flags, "-O", "lr=0.003", "-O", "ema=0", "--out", "run")
    assert done.code == 0, done.err
    assert checkpoint_header.read_info(tmp_path / "run" / "best.safetensors").training["measures"][measure] > least


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("lenet5.yaml", ["multi_scale=0.2"], "multi_scale has no effect for the task 'classify'"),
        ("yolo11n.yaml", ["label_smoothing=0.1"], "label_smoothing has no effect"),
        ("yolo11n.yaml", ["copy_paste=0.5"], "copy_paste needs outlines"),
    ],
)
def test_settings_without_effect_are_said(cli, tmp_path, monkeypatch, file, options, said):
    monkeypatch.chdir(tmp_path)
    done = cli("train", file, "--epochs", "1", *[x for o in options for x in ("-O", o)])
    assert done.code == 2
    assert said in done.err


def test_smoothing_and_class_weights_reach_the_loss(tmp_path):
    def made(**flags):
        chosen = settings.load(flags={"epochs": 1, "device": "cpu", "workers": 0, **flags})
        return run.start("lenet5.yaml", None, chosen, tmp_path / str(len(list(tmp_path.iterdir())))).task

    assert made(label_smoothing=0.1).smoothing == 0.1
    weights = made(class_weights=1.0).class_weights
    assert weights.mean() == pytest.approx(1)
    assert weights.min() < weights.max()
    assert made().class_weights is None


@pytest.mark.parametrize(
    ("name", "data", "flags", "measure"),
    [
        ("lenet5-modern.yaml", "digits", ("--epochs", 2, "--batch", 64, "-O", "lr=0.003"), "top1"),
        ("net.yaml", "digits-detect", ("--epochs", 1, "--batch", 16, "--imgsz", 64), "mAP50"),
    ],
)
def test_from_data_to_predictions(cli, tmp_path, monkeypatch, name, data, flags, measure):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text((Path(__file__).parents[1] / "cases" / "a17-no-p5.yaml").read_text())
    done = cli("train", name, "--data", data, *flags, "-O", "workers=0", "-O", "plots=false", "-o", "run")
    assert done.code == 0, done.err
    told = [line for line in done.err.splitlines() if line.startswith("epoch")][-1]
    best = "run/best.safetensors"
    measures = json.loads(cli("val", best, "--data", data, "-O", "workers=0", "--json").out)["measures"]
    if "best so far" in told:
        assert f"{measure} {measures[measure]:.4f}" in told  # at the run's own size, which the checkpoint has
    pictures = [sample.image(3) for sample in open_data(data).split("test" if data == "digits" else "val").samples[:3]]
    for number, pixels in enumerate(pictures):
        pillow().fromarray(pixels).save(tmp_path / f"{number}.png")
    conf = ("--conf", 0) if data == "digits-detect" else ()
    found = cli("predict", best, "0.png", "1.png", "2.png", "--json", *conf)
    assert found.code == 0, found.err
    results = json.loads(found.out)["pictures"]
    assert [Path(result["path"]).name for result in results] == ["0.png", "1.png", "2.png"]
    assert all(result["records"] for result in results)
