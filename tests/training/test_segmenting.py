"""Instance segmentation as a user runs it: from polygons to masks that are learnt, measured, predicted and exported."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

import netbuild
from netbuild import settings
from netbuild.data import open_data
from netbuild.drawing.annotated import class_colour
from netbuild.errors import NetbuildError
from netbuild.feed.loader import FeedOptions
from netbuild.tasks.segment import SegmentTask
from netbuild.training import run
from netbuild.training.overfitting import is_overfit

NAMES = ["disc", "box"]
NETWORK = """
nc: 2
imgsz: 64
reg_max: {bins}
end2end: {both}
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [24, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [[2, 3], 1, {head}, [nc, 8, 16]]
"""


def write_pictures(folder, count=6, split="train", boxes_only=False):
    """Pictures of 60 x 48 pixels with a red disc and a blue box each, labelled by polygons or by boxes."""
    rng = np.random.default_rng(len(split))
    for part in ("images", "labels"):
        (folder / part / split).mkdir(parents=True)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for i in range(count):
        picture = Image.new("RGB", (60, 48), (90, 90, 90))
        x, y = rng.uniform(12, 24, 2)
        disc = np.column_stack((np.cos(angles), np.sin(angles))) * 9 + (x, y)
        left, top = rng.uniform(34, 42), rng.uniform(8, 24)
        box = np.array([(left, top), (left + 14, top), (left + 14, top + 18), (left, top + 18)])
        draw = ImageDraw.Draw(picture)
        draw.polygon([tuple(p) for p in disc], (240, 60, 60))
        draw.polygon([tuple(p) for p in box], (40, 60, 240))
        picture.save(folder / "images" / split / f"{i}.png")
        lines = []
        for number, polygon in enumerate((disc, box)):
            values = (polygon / (60, 48)).ravel().tolist()
            if boxes_only:
                low, high = (polygon / (60, 48)).min(0), (polygon / (60, 48)).max(0)
                values = [*((low + high) / 2), *(high - low)]
            lines.append(" ".join([str(number), *(f"{v:.5f}" for v in values)]))
        (folder / "labels" / split / f"{i}.txt").write_text("\n".join(lines))


def write_data(folder, **options):
    for split in ("train", "val"):
        write_pictures(folder, split=split, **options)
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {NAMES}\n")
    return folder / "data.yaml"


def read_history(folder):
    rows = csv.DictReader((folder / "results.csv").open())
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


@pytest.mark.parametrize(
    ("head", "both", "bins", "plots"),
    [
        ("Segment", "false", 4, False),
        pytest.param("Segment26", "true", 1, True, marks=pytest.mark.slow),
    ],
)
def test_masks_are_learnt_measured_and_resumed(cli, tmp_path, monkeypatch, head, both, bins, plots):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "d")
    (tmp_path / "n.yaml").write_text(NETWORK.format(head=head, both=both, bins=bins))
    flags = [f"-O{name}" for name in ("workers=0", "copy_paste=0.5", "multi_scale=0.3", "mixup=0.5", f"plots={plots}")]
    done = cli("train", "n.yaml", "--data", "d/data.yaml", "--epochs", 1, "--batch", 4, *flags, "-o", "run")
    assert (done.code, "mask-mAP50-95" in done.err) == (0, True), done.err
    more = cli("train", "--resume", "run", "--epochs", 2)
    assert (more.code, "epoch 2/2" in more.err) == (0, True), more.err
    history = read_history(tmp_path / "run")
    terms = {"box", "seg", "cls", "dfl" if bins > 1 else "l1", *(["sem"] if head == "Segment26" else [])}
    assert {name[6:] for name in history[0] if name.startswith("train/")} == terms
    for epoch in history:
        both_sum = max(epoch["mAP50-95"], 0) + max(epoch["mask-mAP50-95"], 0)
        assert epoch["fitness"] == pytest.approx(both_sum)
    done = cli("val", "run/last.safetensors", "--data", "d/data.yaml", "-Oworkers=0", "--json")
    assert json.loads(done.out)["measures"]["mask-mAP50"] == pytest.approx(history[-1]["mask-mAP50"], abs=0.02)
    if not plots:
        return
    for picture in ("labels", "train_batch0", "val_batch0", "mask-curves"):
        assert (tmp_path / "run" / f"{picture}.png").exists(), sorted(p.name for p in (tmp_path / "run").iterdir())
    assert cli("export", "run/last.safetensors", "-o", "n.onnx").code == 0
    exported = json.loads(cli("val", "n.onnx", "--data", "d/data.yaml", "-Oworkers=0", "--json").out)["measures"]
    assert exported["mask-mAP50"] == pytest.approx(history[-1]["mask-mAP50"], abs=0.02)
    found = json.loads(cli("predict", "n.onnx", "d/images/val/0.png", "--conf", 0.0001, "--json").out)
    assert all(record["mask"]["size"] == [48, 60] for record in found["pictures"][0]["records"])


def feed_one(folder, learning):
    dataset = open_data(write_data(folder))
    network = netbuild.build(folder / "n.yaml", nc=2)
    task = SegmentTask(network.model[-1], NAMES)
    samples = dataset.split("train").samples
    options = FeedOptions((64, 64), 3, 2, None, settings.load(None, {"mosaic": 0.0, "epochs": 1}), learning, 4)
    source, collate = task.feed(samples, options)
    return task, collate([source.get(i, np.random.default_rng(i), 0) for i in range(4)])


@pytest.mark.parametrize("learning", [True, False])
def test_the_truth_is_drawn_with_its_masks(tmp_path, learning):
    (tmp_path / "n.yaml").write_text(NETWORK.format(head="Segment", both="false", bins=4))
    task, batch = feed_one(tmp_path, learning)
    assert ("outlines" in batch) == (not learning)
    quarter = [side // 4 for side in batch["images"].shape[2:]]  # the finest map has a cell for each 8 pixels
    assert list(batch["instances"].shape[1:]) == quarter
    for i in range(4):
        drawing = task.draw_truth(batch, i)
        picture = batch["images"][i].permute(1, 2, 0).int().numpy()
        own = batch["classes"][batch["index"] == i].tolist()
        assert len(drawing.areas) == len(own)
        for mask, colour in drawing.areas:
            number = [class_colour(0), class_colour(1)].index(colour)
            # Red discs and blue boxes: colours are augmented, but which of the two is stronger stays.
            strong = picture[..., 2 * number] > picture[..., 2 - 2 * number] + 30
            assert (mask & strong).sum() > 0.75 * mask.sum()


def test_data_without_polygons_are_refused_and_partly_labelled_ones_noted(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.yaml").write_text(NETWORK.format(head="Segment", both="false", bins=4))
    write_data(tmp_path / "d", boxes_only=True)
    done = cli("train", "n.yaml", "--data", "d/data.yaml", "--epochs", 1, "-O", "workers=0")
    assert (done.code, "has only boxes" in done.err, "label polygons" in done.err) == (2, True, True), done.err
    dataset = open_data(write_data(tmp_path / "e"))
    samples = dataset.split("train").samples
    task = SegmentTask(netbuild.build(tmp_path / "n.yaml").model[-1], NAMES)
    assert task.check_samples(dataset, samples) == ""
    lacking = open_data(tmp_path / "d" / "data.yaml").split("train").samples
    assert "12 of 24 objects have a box and no polygon" in task.check_samples(dataset, [*samples, *lacking])
    with pytest.raises(NetbuildError, match="only boxes"):
        task.check_samples(dataset, lacking)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n-seg.yaml", "yolo11n-seg.yaml", "yolo12n-seg.yaml", "yolo26n-seg.yaml"])
def test_each_kind_of_head_with_masks_overfits_a_batch(name):
    chosen = {"epochs": 150, "batch": 4, "imgsz": 96, "lr": 0.003, "workers": 0, "mosaic": 0.0}
    losses = run.overfit_batch(name, "shapes-segment", settings.load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])
