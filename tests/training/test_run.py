"""Training as a user runs it: embedded data, run folders, from data to predictions, errors before training."""

import json
from pathlib import Path

import pytest

from netbuild import settings
from netbuild.data import open_data
from netbuild.data.images import pillow
from netbuild.grammar import checkpoint_header
from netbuild.graph import opening
from netbuild.graph.resolver import resolve
from netbuild.training import opening as opening_of_runs
from netbuild.training import run

QUICK = ("--epochs", "2", "--batch", "64", "--device", "cpu", "-O", "workers=0")


def test_train_resume_and_val(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("train", "lenet5-modern.yaml", *QUICK, "-O", "flip_lr=0", "-O", "lr=0.003")
    assert done.code == 0, done.err
    folder = tmp_path / "runs" / "lenet5-modern"
    assert "runs/lenet5-modern: best fitness 0." in done.out
    assert [line.split(":")[0] for line in done.err.splitlines() if "epoch " in line] == ["epoch 1/2", "epoch 2/2"]
    files = {"args.yaml", "data.json", "best.safetensors", "last.safetensors", "model.yaml", "results.csv", "run.json"}
    saved = {p.name for p in folder.iterdir() if p.suffix != ".png"}  # plots: tests/drawing/test_charts_and_runs.py
    assert saved == {*files, "start.safetensors", "state.safetensors"}
    assert cli("check", folder / "model.yaml").code == 0
    assert settings.load(folder / "args.yaml").lr == 0.003
    resolved = []
    monkeypatch.setattr(opening, "resolve", lambda *args: resolved.append(args) or resolve(*args))
    more = cli("train", "--resume", folder, "--epochs", "3", "-O", "best=top1")
    assert more.code == 0, more.err
    assert len(resolved) == 1  # one process opens its network once
    assert "epoch 3/3" in more.err
    measured = json.loads(cli("val", folder / "last.safetensors", "--data", "digits", "-O", "workers=0", "--json").out)
    saved = checkpoint_header.read_info(folder / "last.safetensors").training["measures"]
    assert measured["measures"]["top1"] == pytest.approx(saved["top1"])
    assert len(measured["classes"]) == 10
    assert "precision" in cli("val", folder / "best.safetensors", "--data", "digits", "-O", "workers=0").out
    again = cli("train", "lenet5-modern.yaml", *QUICK, "--out", folder)
    assert (again.code, "the folder is not empty" in again.err) == (2, True)


@pytest.mark.slow
def test_a_detector_learns_the_embedded_digits(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    flags = ["--imgsz", "128", "--epochs", "12", "--batch", "16", "-O", "workers=0", "-O", "flip_lr=0"]
    done = cli("train", "yolo11n.yaml", "--data", "digits-detect", "--out", "run", *flags)
    assert done.code == 0, done.err
    measures = checkpoint_header.read_info(tmp_path / "run" / "best.safetensors").training["measures"]
    assert measures["mAP50"] > 0.3


def test_mistakes_are_reported_before_training(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("task: translate\nlayers:\n  - [-1, 1, nn.ReLU, []]\n")
    for arguments, message in [
        ([], "the network's file is missing"),
        (["lenet5.yaml", "--data", "nowhere"], "there is no data set"),
        (["lenet5.yaml", "--data", "digits-detect"], "is a data set for 'detect', the network's task is 'classify'"),
        (["other.yaml"], "no task 'translate'"),
        (["lenet5.yaml", "-O", "epoch=3"], "did you mean 'epochs'"),
        (["lenet5.yaml", "-O", "epochs=many"], "must be a whole number"),
        (["lenet5.yaml", "--device", "tpu9"], "--device tpu9"),
        (["lenet5.yaml", "-O", "best=top2"], "the task 'classify' has no measure 'top2'"),
        (["--resume", "nothing"], "there is no run to resume"),
        (["--resume", "nothing", "--weights", "x.safetensors"], "--weights has no effect with --resume"),
    ]:
        done = cli("train", *arguments)
        assert done.code == 2, (arguments, done.err)
        assert message in done.err
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


@pytest.mark.parametrize(
    ("file", "chosen", "size", "shown"),
    [
        ("yolov8n.yaml", None, 128, "'digits-detect' at 128 pixels"),
        ("yolov8n.yaml", 96, 96, "'digits-detect'\n"),
        ("lenet5.yaml", None, 32, "'digits'\n"),
    ],
)
def test_without_data_pictures_are_not_enlarged(capsys, file, chosen, size, shown):
    network, _, options = opening_of_runs.open_network_and_data(file, None, settings.load(None, {"imgsz": chosen}))
    assert network.card.imgsz == (options.imgsz or size,) * 2 == (size, size)
    assert shown in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("origin", "measure", "least"), [("autoencoder", "psnr", 12), ("classifier", "top1", 0.6)])
def test_a_new_file_trains_without_further_settings(cli, tmp_path, monkeypatch, origin, measure, least):
    monkeypatch.chdir(tmp_path)
    cli("new", "mine", "--from", origin)
    flags = ["--epochs", "1", "--imgsz", "32", "--batch", "32", "--device", "cpu", "-O", "workers=0", "-O", "warmup=0"]
    done = cli("train", "mine.yaml", *flags, "-O", "lr=0.003", "-O", "ema=0", "--out", "run")
    assert done.code == 0, done.err
    assert checkpoint_header.read_info(tmp_path / "run" / "best.safetensors").training["measures"][measure] > least


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("lenet5.yaml", ["multi_scale=0.2"], "multi_scale has no effect for the task 'classify'"),
        ("yolo11n.yaml", ["label_smoothing=0.1"], "label_smoothing has no effect"),
        ("yolo11n.yaml", ["copy_paste=0.5"], "copy_paste needs outlines"),
    ],
)
def test_settings_without_effect_are_refused(cli, tmp_path, monkeypatch, file, options, message):
    monkeypatch.chdir(tmp_path)
    done = cli("train", file, "--epochs", "1", *[x for o in options for x in ("-O", o)])
    assert done.code == 2
    assert message in done.err


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
        pytest.param(
            "net.yaml", "digits-detect", ("--epochs", 1, "--batch", 16, "--imgsz", 64), "mAP50", marks=pytest.mark.slow
        ),
    ],
)
def test_from_data_to_predictions(cli, tmp_path, monkeypatch, name, data, flags, measure):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text((Path(__file__).parents[1] / "cases" / "a17-no-p5.yaml").read_text())
    done = cli("train", name, "--data", data, *flags, "-O", "workers=0", "-O", "plots=false", "-o", "run")
    assert done.code == 0, done.err
    line_of_epoch = [line for line in done.err.splitlines() if line.startswith("epoch")][-1]
    best = "run/best.safetensors"
    measures = json.loads(cli("val", best, "--data", data, "-O", "workers=0", "--json").out)["measures"]
    if "best so far" in line_of_epoch:
        assert f"{measure} {measures[measure]:.4f}" in line_of_epoch  # at the run's own size, which the checkpoint has
    pictures = [sample.image(3) for sample in open_data(data).split("test" if data == "digits" else "val").samples[:3]]
    for number, pixels in enumerate(pictures):
        pillow().fromarray(pixels).save(tmp_path / f"{number}.png")
    conf = ("--conf", 0) if data == "digits-detect" else ()
    found = cli("predict", best, "0.png", "1.png", "2.png", "--json", *conf)
    assert found.code == 0, found.err
    results = json.loads(found.out)["pictures"]
    assert [Path(result["path"]).name for result in results] == ["0.png", "1.png", "2.png"]
    assert all(result["records"] for result in results)
