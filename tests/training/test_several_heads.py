"""Networks with several heads as a user runs them: data of one or several sets, partial labels, resume, export."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.scenes import write_few_scenes
from helpers.small_networks import TWO_HEADS
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.data import open_data, scan
from netbuild.data.shapes import files
from netbuild.errors import NetbuildError
from netbuild.grammar.checkpoint_header import read_info
from netbuild.training.callbacks import Callback
from netbuild.weights.checkpoint import load_tensors

NET = """\
nc: 3
imgsz: 64
heads:
  boxes: {row: detect}
  SECOND
  depth: {row: depth, weight: 0.2}
"""
NET += TWO_HEADS + "  - [[fine, coarse], 1, Depth, [16], depth]\n"
SEM = "sem: {row: semantic, weight: 0.5}"
LANES = "lanes: {row: semantic, data: lanes}"
FLAGS = ("--batch", 4, "--imgsz", 64, "--device", "cpu", "-Oworkers=0")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The embedded scenes, few, with the truth of some heads missing from some pictures."""
    folder = tmp_path_factory.mktemp("scenes")
    write_few_scenes(folder)
    data = folder / f"shapes-{files.LAYOUT}/shapes"
    for stem in ("0000", "0001"):
        (data / f"masks/train/{stem}.png").unlink()
    (data / "labels/train/0002.txt").unlink()
    (data / "depth/train/0003.png").unlink()
    return data


def write_net(folder, second=SEM):
    (folder / "net.yaml").write_text(NET.replace("SECOND", second))
    return folder / "net.yaml"


def last_row(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))[-1]


@pytest.fixture(scope="module")
def run(scenes, tmp_path_factory):
    """A run of two epochs on pictures that have a part of the labels."""
    folder = tmp_path_factory.mktemp("run")
    return netbuild.train(
        write_net(folder), scenes, out=folder / "run", epochs=2, batch=4, imgsz=64, device="cpu", workers=0, plots=True,
        tensorboard=False, progress=False,
    )  # fmt: skip


def test_a_run_learns_from_what_each_picture_has(run, scenes):
    report = scan(open_data(scenes), splits=["train"], partial=True)
    notes = [p.message for p in report.problems("note") if p.kind == "partial labels"]
    assert [note.split(", such as")[0] for note in notes] == [
        "2 of 8 pictures of 'train' have no 'mask'",
        "1 of 8 pictures of 'train' have no 'depth'",
        "1 of 8 pictures of 'train' have no label file, though they have a map",
    ]
    assert not report.problems("label")
    assert len(scan(open_data(scenes), splits=["train"]).samples("train")) == 5
    row = last_row(run.folder)
    assert {"train/boxes/cls", "train/sem/ce", "train/depth/silog", "boxes/mAP50", "sem/mIoU"} <= set(row)
    assert float(row["fitness"]) == pytest.approx(
        (float(row["boxes/fitness"]) + 0.5 * float(row["sem/fitness"]) + 0.2 * float(row["depth/fitness"])) / 1.7,
        abs=1e-4,
    )
    drawn = {path.name for path in run.folder.glob("*.png")}
    assert {"labels-boxes.png", "labels-sem.png", "train_batch0.png", "val_batch0.png", "sem-confusion.png"} <= drawn


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(run, scenes, cli, tmp_path):
    done = cli("train", write_net(tmp_path), "--data", scenes, "--epochs", 2, *FLAGS, "-o", tmp_path / "run",
               "-Ominutes=0.00001", "-Oplots=false")  # fmt: skip
    assert done.code == 0, done.err
    assert last_row(tmp_path / "run")["epoch"] == "1"
    done = cli("train", "--resume", tmp_path / "run", "-Ominutes=0")
    assert done.code == 0, done.err
    assert last_row(tmp_path / "run") == last_row(run.folder)


@pytest.mark.slow
def test_a_checkpoint_and_its_export_agree(run, scenes, cli, tmp_path):
    picture, file = scenes / "images/val/0000.png", tmp_path / "net.onnx"
    done = cli("export", run.last, "-o", file)
    assert done.code == 0, done.err
    assert "proven equal to torch" in done.out
    outputs = [line.split()[1] for line in done.out.splitlines() if line.startswith("output  ")][:3]
    assert outputs == ["boxes", "sem", "depth"]
    documents = [
        json.loads(cli("predict", model, picture, "--conf", 0.0, "--max-det", 3, "--json").out)
        for model in (run.last, file)
    ]
    records = [document["pictures"][0]["records"] for document in documents]
    assert [list(found) for found in records] == [["boxes", "sem", "depth"]] * 2
    assert documents[0]["heads"] == documents[1]["heads"]
    assert runtime.load(file).document([picture], conf=0.0, max_det=3) == documents[1]
    lone = runtime.load(file).heads["sem"]
    assert lone.predict(picture)["records"] == records[1]["sem"]
    assert lone.map(picture).shape == Image.open(picture).size[::-1]
    assert records[0]["depth"][0] == pytest.approx(records[1]["depth"][0], abs=2e-3)
    measured = []
    for model in (run.last, file):
        done = cli("val", model, "--data", scenes, "--imgsz", 64, "-Oworkers=0", "--json")
        assert done.code == 0, done.err
        measured.append(json.loads(done.out)["measures"])
    assert measured[0] == pytest.approx(measured[1], abs=0.02)
    rows = json.loads(cli("benchmark", file, "--data", scenes, "--rounds", 1, "--json").out)
    assert list(rows[0]["accuracy"]) == ["boxes/mAP50-95", "sem/mIoU", "depth/delta1"]
    table = cli("val", run.last, "--data", scenes, "--imgsz", 64, "-Oworkers=0").out
    assert [line.split()[0] for line in table.splitlines() if " fitness" in line] == ["head"] * 4
    done = cli(
        "predict",
        run.last,
        picture,
        "--conf",
        0.0,
        "--max-det",
        2,
        "--save",
        "pictures,txt,crops",
        "-o",
        tmp_path / "p",
    )
    assert done.code == 0, done.err
    assert len((tmp_path / "p/labels/boxes/0000.txt").read_text().splitlines()) == 2
    assert list((tmp_path / "p/crops/boxes").rglob("*.png"))
    result = next(netbuild.Model(run.last).predict(picture, conf=0.0, max_det=2))
    assert (len(result), len(result.heads["boxes"].boxes), result.heads["sem"].masks.ndim) == (
        3 + len(result.heads["sem"]),
        2,
        3,
    )
    done = cli("export", run.last, "--nms", "-o", tmp_path / "nms.onnx")
    assert (done.code, "--nms has no effect for several heads" in done.err) == (2, True)


def write_lanes(folder):
    """A data set with class maps alone, of two classes, and a file that names it beside the scenes."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"images/{split}/{i}.png")
            Image.fromarray(random.integers(0, 2, (48, 64), np.uint8)).save(folder / f"masks/{split}/{i}.png")
    (folder / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: [road, lane]\nmasks: masks\n"
    )


@pytest.mark.slow
def test_heads_learn_from_several_data_sets(scenes, cli, tmp_path):
    write_lanes(tmp_path / "lanes")
    (tmp_path / "both.yaml").write_text(f"datasets:\n  scenes: {scenes}/data.yaml\n  lanes: lanes/data.yaml\n")
    net, flags = write_net(tmp_path, LANES), ("--data", tmp_path / "both.yaml", *FLAGS, "-Oplots=false")
    done = cli("train", net, "--epochs", 1, "-o", tmp_path / "run", "--freeze", "boxes", *flags)
    assert done.code == 0, done.err
    heads = read_info(tmp_path / "run/last.safetensors").heads
    assert (heads["lanes"]["nc"], heads["lanes"]["names"], heads["boxes"]["nc"]) == (2, ["road", "lane"], None)
    row = last_row(tmp_path / "run")
    assert float(row["train/lanes/ce"]) > 0 < float(row["train/boxes/cls"])
    before, after = (load_tensors(tmp_path / f"run/{name}.safetensors") for name in ("start", "last"))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("model.3."))
    assert not torch.equal(before["model.4.classifier.1.weight"], after["model.4.classifier.1.weight"])
    assert cli("export", tmp_path / "run/last.safetensors", "-o", tmp_path / "net.onnx").code == 0
    for file in ("run/last.safetensors", "net.onnx"):
        done = cli("val", tmp_path / file, "--data", tmp_path / "both.yaml", "-Oworkers=0", "--json")
        assert done.code == 0, done.err
        rows = [row["class"] for row in json.loads(done.out)["classes"] if row["head"] == "lanes"]
        assert rows == ["road", "lane"]
    done = cli("val", tmp_path / "net.onnx", "--data", scenes, "-Oworkers=0")
    assert (done.code, "the head 'lanes': the data has no 'lanes'" in done.err) == (2, True)


def test_a_head_learns_from_an_extra(scenes, cli, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    shutil.copytree(tmp_path / "data/masks", tmp_path / "data/lanes")
    for file in (tmp_path / "data/lanes").rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(file)) > 2).astype(np.uint8)).save(file)
    with (tmp_path / "data/data.yaml").open("a") as file:
        file.write("extras: {lanes: {kind: classes, names: [thing, ground]}}\n")
    net = write_net(tmp_path, LANES + "\n  " + SEM.replace("semantic", "other"))
    net.write_text(net.read_text() + "  - [[fine, coarse], 1, SemanticSegment, [nc], other]\n")
    flags = (*FLAGS, "-Omosaic=1", "-Oplots=false")
    done = cli("train", net, "--data", tmp_path / "data", "--epochs", 1, "-o", tmp_path / "run", *flags)
    assert done.code == 0, done.err
    heads = read_info(tmp_path / "run/last.safetensors").heads
    assert (heads["lanes"]["names"], heads["sem"]["names"]) == (["thing", "ground"], None)


def test_the_skeleton_of_a_head_is_drawn_in_sheets_and_predictions(scenes, cli, tmp_path):
    (tmp_path / "net.yaml").write_text(
        "nc: 6\nkpt_shape: [4, 3]\nimgsz: 64\n"
        "heads: {boxes: {row: detect, data: scenes}, pose: {row: pose, data: things}}\n"
        + TWO_HEADS.replace("SemanticSegment, [nc], semantic", "Pose, [nc, kpt_shape], pose")
    )
    (tmp_path / "both.yaml").write_text(f"datasets: {{scenes: {scenes}, things: {scenes.parent}/shapes-pose}}\n")
    sheets = []

    class Sheets(Callback):
        def on_batch_end(self, trainer, epoch, number, parts, rate):
            sheets.append((trainer.task, trainer.train))

    run = netbuild.train(
        tmp_path / "net.yaml", tmp_path / "both.yaml", out=tmp_path / "run", epochs=1, batch=16, imgsz=64, device="cpu",
        workers=0, plots=False, progress=False, callbacks=[Sheets()],
    )  # fmt: skip
    task, loader = sheets[0]
    batch = next(iter(loader.epoch(0)))
    joined = [sum(len(group) for group, _ in task.draw_truth(batch, i).lines) for i in range(16)]
    has_pose = [i in task.pictures_of("pose", batch) for i in range(16)]
    assert any(joined)
    assert not any(count for count, posed in zip(joined, has_pose, strict=True) if not posed)
    assert cli("export", run.last, "-o", tmp_path / "net.onnx").code == 0
    skeleton = ((0, 1), (0, 2), (3, 1), (3, 2))
    assert runtime.load(tmp_path / "net.onnx").heads["pose"].info.skeleton == skeleton
    for file in (run.last, tmp_path / "net.onnx"):
        result = next(netbuild.Model(file).predict(scenes / "images/val/0000.png", conf=0.0, max_det=1))
        records = {**result.records, "boxes": []}
        records["pose"][0]["keypoints"] = [[20, 20, 1.0], [60, 20, 1.0], [20, 60, 1.0], [60, 60, 0.1]]
        lines = result.task.draw(result.view.image, {"boxes": None, "pose": None}, records).lines
        assert [group.tolist() for group, _ in lines] == [[[[20, 20], [60, 20]], [[20, 20], [20, 60]]]]


@pytest.mark.parametrize(
    ("second", "flags", "message"),
    [
        ("lanes: {row: semantic, data: msk}", (), "net.yaml:5:32: the head 'lanes': the data has no 'msk'"),
        ("lanes: {row: semantic, data: depth}", (), "the head 'lanes' learns from classes, 'depth' has values"),
        ("lanes: {row: semantic, task: semantics}", (), "the head 'lanes': no task 'semantics'"),
        (SEM, ("-Olabel_smoothing=0.1",), "label_smoothing has no effect for the task"),
        (SEM, ("--freeze", "seem"), "--freeze seem: no row has this name"),
        (SEM, ("-Obest=mIoU",), "the task 'several' has no measure 'mIoU'"),
    ],
)
def test_mistakes_are_told_at_their_place(scenes, cli, tmp_path, second, flags, message):
    done = cli("train", write_net(tmp_path, second), "--data", scenes, "-o", tmp_path / "run", *FLAGS, *flags)
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [a]\n", "'datasets' is a mapping such as boxes: cars/data.yaml"),
        ("datasets: {a: nowhere}\n", "there is no data set"),
        ("datasets: {a: both.yaml}\n", "this file names several data sets itself"),
        ("datasets: {a: shapes}\nnames: [b]\n", "'names' has no effect beside 'datasets'"),
    ],
)
def test_files_of_several_data_sets_have_mistakes(tmp_path, text, message):
    (tmp_path / "both.yaml").write_text("datasets: {a: digits-detect}\n" if "both" in text else text)
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(NetbuildError) as caught:
        open_data(tmp_path / "net.yaml")
    assert message in caught.value.message
    assert caught.value.where.file == str(Path(tmp_path / "net.yaml"))


@pytest.mark.slow
def test_one_batch_is_learnt_by_heart(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    write_few_scenes(tmp_path / "cache")
    done = cli("train", "yolo11n-multitask.yaml", "--overfit-batch", "--epochs", 150, "--batch", 4, "--imgsz", 96,
               "--device", "cpu", "-Oworkers=0")  # fmt: skip
    assert done.code == 0, done.out + done.err
