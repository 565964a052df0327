"""Prediction as a user runs it: every kind of source and saved file, and the boxes of a reference checkpoint."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.real_data import CHECKPOINTS, DATA, needs_checkpoints
from helpers.small_networks import TINY
from PIL import Image

import netbuild
from netbuild.data.fitting import FITTINGS
from netbuild.data.images import UnreadableImageError, read_image
from netbuild.drawing import annotated
from netbuild.errors import NetbuildError
from netbuild.prediction import predictor, saving, sources
from netbuild.tasks import task
from netbuild.tasks.base import Task

NAMES = ["bolt/nut", "screw", "washer"]
ANY = ("--conf", "0", "--max-det", "4", "--multi-label")  # a network that has learnt nothing is sure of nothing


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    (folder / "tiny.yaml").write_text(TINY)
    torch.manual_seed(0)
    network = netbuild.build(folder / "tiny.yaml")
    return str(netbuild.save(network, folder / "tiny.safetensors", names=NAMES))


def picture(path, size=(90, 60), seed=0, **more):
    """A picture of noise; ``size`` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **more)
    return path


def video(path, frames=6, size=(80, 48), fps=12.5):
    cv2 = pytest.importorskip("cv2")
    code = "mp4v" if path.suffix == ".mp4" else "MJPG"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size)
    for i in range(frames):
        writer.write(np.full((size[1], size[0], 3), i, np.uint8))
    writer.release()
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predicted(cli, *arguments):
    done = cli("predict", *arguments, "--device", "cpu", "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)["pictures"]


# -- sources ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_source(cli, here, detector, monkeypatch):
    for i, name in enumerate(("a/10.png", "a/2.png", "a/b/3.jpg", "c d/x[1].png")):
        picture(here / name, seed=i)
    (here / "a/notes.txt").write_text("no picture")
    picture(here / "a/.hidden.png")
    for names, wanted in [
        (["a"], ["a/2.png", "a/10.png"]),
        (["a/**/*"], ["a/2.png", "a/10.png", "a/b/3.jpg"]),
        (["a/b/3.jpg", "a", "./a/2.png"], ["a/b/3.jpg", "a/2.png", "a/10.png"]),
        (["c d/x[1].png"], ["c d/x[1].png"]),
        (["-", "a/2.png"], ["a/b/3.jpg", "c d/x[1].png", "a/2.png"]),
    ]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("a/b/3.jpg\n\nc d/x[1].png\r\n"))
        assert [row["path"] for row in predicted(cli, detector, *names)] == wanted
    assert not (here / "runs").exists()  # --json alone keeps nothing


def test_frames_of_a_video_are_drawn_and_written_again(cli, here, detector):
    video(here / "clip.mp4")
    picture(here / "clip.png")
    done = cli("predict", detector, "clip.png", "clip.mp4", *ANY, "--save", "pictures,txt,json,crops", "-o", "out")
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.out.splitlines()][:2] == ["clip.png 60x90", "clip.mp4 frame 1 48x80"]
    frames = list(sources.read_shots(here / "out/clip-2.mp4"))
    assert (len(frames), frames[0].fps, frames[0].pixels.shape) == (6, 12.5, (48, 80, 3))
    rows = json.loads((here / "out/results.json").read_text())["pictures"]
    assert [row.get("frame") for row in rows] == [None, 1, 2, 3, 4, 5, 6]
    assert {"clip.txt", "clip-2-000001.txt", "clip-2-000006.txt"} <= set(os.listdir(here / "out/labels"))
    assert not [name for name in os.listdir(here / "out") if name.startswith(".")]


def test_a_video_that_fails_leaves_no_file(here, detector):
    results = list(netbuild.predict(detector, video(here / "clip.mp4"), device="cpu"))

    def some():
        with saving.Writer(here / "out", ("pictures",)) as writer:
            for result in results[:3]:
                writer.add(result)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        some()
    assert os.listdir(here / "out") == []


def test_unreadable_pictures_are_reported_and_skipped(cli, here, detector):
    picture(here / "good.png")
    (here / "cut.png").write_bytes((here / "good.png").read_bytes()[:3000])
    (here / "no.mp4").write_bytes(b"no video at all")
    whole = video(here / "whole.avi", frames=40).read_bytes()
    (here / "half.avi").write_bytes(whole[: len(whole) // 2])
    done = cli("predict", detector, "cut.png", "no.mp4", "half.avi", "good.png", "--save", "json", "-o", "out")
    assert done.code == 1
    assert done.out.splitlines()[0] == "half.avi frame 1 48x80: nothing"
    assert done.out.endswith("\ngood.png 60x90: nothing\n")
    for message in ("cut.png: cut off", "no.mp4: OpenCV cannot open this video", "half.avi: broken or cut off: "):
        assert f"error: {message}" in done.err
    document = json.loads((here / "out/results.json").read_text())
    assert [row["path"] for row in document["failed"]] == ["cut.png", "no.mp4", "half.avi"]
    assert "cut off" in document["failed"][0]["reason"]
    assert cli("predict", detector, "cut.png").code == 1
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png"], "did you mean 'one.png'"),
        (["nowhere/gone.png"], "nor a folder nowhere"),
        (["*.bmp"], "'*.bmp' matches no picture"),
        (["empty"], "empty: this folder has no pictures"),
        (["https://a.b/c.jpg"], "pictures are not downloaded"),
        (["-"], "no pictures to predict on: nothing was named"),
        (["one.png", "--conf", "1.5"], "--conf 1.5: must be from 0 to 1"),
        (["one.png", "--iou", "nan"], "--iou nan: must be from 0 to 1"),
        (["one.png", "--max-det", "0"], "--max-det 0: must be at least 1"),
        (["one.png", "--classes", "screw,wahser"], "did you mean 'washer'"),
        (["one.png", "--classes", "3"], "there is 0 to 2"),
        (["one.png", "--classes", ""], "an argument is empty"),
        (["one.png", "--save", "pitcures"], "did you mean 'pictures'"),
        (["one.png", "--save", "none,txt"], "none excludes all other kinds"),
        (["one.png", "--save", "none", "-o", "new"], "--out has no effect where nothing is saved"),
        (["one.png", "-o", "."], "the folder is not empty"),
        (["one.png", "-o", "one.png"], "one.png: cannot be written"),
        (["one.png", "-o", "one.png/in"], "cannot be written"),
        (["one.png", "--imgsz", "big"], "'big' is no image size"),
        (["one.png", "--device", "tpu9"], "--device tpu9"),
    ],
)
def test_mistakes_are_reported(cli, here, detector, monkeypatch, arguments, message):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    picture(here / "one.png")
    (here / "empty").mkdir()
    done = cli("predict", detector, *arguments)
    assert done.code == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert sorted(os.listdir(here)) == ["empty", "one.png"]


def test_options_without_effect_are_refused(cli, here, detector):
    picture(here / "one.png")
    (here / "plain.yaml").write_text("imgsz: 32\nlayers:\n  - [-1, 1, nn.ReLU, []]\n")
    for file, arguments, message in [
        ("lenet5.yaml", ["--conf", "0.5"], "--conf has no effect for the task 'classify'"),
        ("lenet5.yaml", ["--no-rect"], "--no-rect has no effect"),
        ("lenet5.yaml", ["--save", "crops"], "the task 'classify' cannot save it"),
        ("lenet5.yaml", ["--imgsz", "40"], "the network fails on images of shape"),
        ("lenet5.yaml", ["--tiles", "32"], "--tiles has no effect for the task 'classify'"),
        ("srcnn.yaml", ["--imgsz", "40"], "--imgsz has no effect for the task 'restore'"),
        ("srcnn.yaml", ["--save", "crops"], "it saves pictures, beside, json"),
        ("plain.yaml", [], "task"),
        ("gone.safetensors", [], "there is no file"),
    ]:
        done = cli("predict", file, "one.png", *arguments)
        assert (done.code, message in done.err) == (2, True), done.err
    with pytest.raises(NetbuildError, match="move it yourself"):
        netbuild.predict(netbuild.build("lenet5.yaml"), "one.png", device="cpu")


def test_a_one2one_head_gets_no_suppression(here):
    picture(here / "one.png")
    (here / "two.yaml").write_text(TINY.replace("imgsz: 64", "imgsz: 64\nend2end: true"))
    network = netbuild.build("two.yaml")
    assert len(next(netbuild.predict(network, "one.png", conf=0.0, iou=0.5, max_det=7)).records) == 7
    network.model[-1].end2end = True
    assert len(next(netbuild.predict(network, "one.png", conf=0.0, max_det=7)).records) == 7
    with pytest.raises(NetbuildError, match="--iou has no effect without suppression"):
        netbuild.predict(network, "one.png", iou=0.5)


def test_without_opencv_the_extra_is_named(cli, here, detector, monkeypatch):
    video(here / "clip.mp4")
    monkeypatch.setitem(sys.modules, "cv2", None)
    done = cli("predict", detector, "clip.mp4")
    assert (done.code, done.err.count("\n")) == (3, 2)  # the error and its hint
    assert "netbuild[train]" in done.err


# -- results ----------------------------------------------------------------------------------------------------------


def test_every_kind_of_file_is_saved(cli, here, detector):
    picture(here / "a/x.jpg", seed=1)
    picture(here / "b/X.png", (50, 70), seed=2)
    picture(here / "x-2.png", (31, 7), seed=3)
    done = cli("predict", detector, "a/x.jpg", "b/X.png", "x-2.png", *ANY, "--save", "pictures,txt,json,crops")
    assert done.code == 0, done.err
    assert done.err.endswith("saved in runs/predict\n")
    out = here / "runs/predict"
    assert {p.name for p in out.iterdir()} == {
        *("x.jpg", "X-2.png", "x-2-2.png"),
        *("labels", "crops", "results.json"),
    }
    data = json.loads((out / "results.json").read_text())
    assert (data["task"], data["names"], data["failed"]) == ("detect", NAMES, [])
    for row, stem, (width, height) in zip(
        data["pictures"], ["x", "X-2", "x-2-2"], [(90, 60), (50, 70), (31, 7)], strict=True
    ):
        assert (row["width"], row["height"], len(row["records"])) == (width, height, 4)
        lines = [line.split() for line in (out / "labels" / f"{stem}.txt").read_text().splitlines()]
        for number, (record, line) in enumerate(zip(row["records"], lines, strict=True), 1):
            assert record["name"] == NAMES[record["class"]]
            x1, y1, x2, y2 = record["box"]
            assert 0 <= x1 <= x2 <= width
            assert 0 <= y1 <= y2 <= height
            cx, cy, w, h, confidence = map(float, line[1:])
            assert int(line[0]) == record["class"]
            assert confidence == pytest.approx(record["confidence"], abs=1e-5)
            corners = (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height
            assert corners == pytest.approx(record["box"], abs=2e-3)
            crop = out / "crops" / record["name"].replace("/", "_") / f"{stem}-{number}.png"
            with Image.open(crop) as part:
                assert part.size == (int(np.ceil(x2)) - int(x1), int(np.ceil(y2)) - int(y1))
    drawn = read_image(out / "X-2.png")
    assert drawn.shape == (70, 50, 3)
    assert (drawn != read_image(here / "b/X.png")).any()
    assert cli("predict", detector, "x-2.png", "--save", "none").code == 0
    assert cli("predict", detector, "x-2.png").err.endswith("saved in runs/predict-2\n")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(here, detector, orientation):
    upright = picture(here / "upright.png", (90, 60))
    pixels = read_image(upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # quarters against the clock
    Image.fromarray(np.rot90(pixels, turns)).save(here / "turned.png", exif=exif)
    options = {"conf": 0.0, "max_det": 5, "device": "cpu"}
    a, b = (next(netbuild.predict(detector, here / name, **options)) for name in ("upright.png", "turned.png"))
    assert b.size == (60, 90)
    assert a.records == b.records
    assert (a.plot() == b.plot()).all()


def test_a_prediction_does_not_depend_on_the_rest_of_the_batch(here, detector):
    files = [picture(here / f"{i}.png", size, i) for i, size in enumerate([(90, 60), (60, 90), (91, 61), (20, 13)] * 2)]
    alone = [next(netbuild.predict(detector, file, conf=0.0, max_det=5, device="cpu")) for file in files]
    for batch in (1, 3):
        together = netbuild.predict(detector, files, conf=0.0, max_det=5, device="cpu", batch=batch)
        for one, other in zip(alone, together, strict=True):
            assert one.path == other.path
            for a, b in zip(one.records, other.records, strict=True):
                assert a["class"] == b["class"]
                assert a["box"] == pytest.approx(b["box"], abs=0.01)


@pytest.mark.parametrize(
    ("size", "target", "rect", "canvas"),
    [
        ((480, 640), (320, 320), True, (256, 320)),
        ((480, 640), (320, 320), False, (320, 320)),
        ((30, 20), (100, 100), True, (128, 96)),
        ((30, 20), (100, 100), False, (128, 128)),
        ((700, 10), (64, 64), True, (64, 32)),
        ((64, 64), (64, 96), True, (64, 64)),
        ((64, 64), (64, 96), False, (64, 96)),
    ],
)
def test_letterboxing_is_inverted(size, target, rect, canvas):
    image = np.full((*size, 3), 10, np.uint8)
    seen, place = FITTINGS["letterbox"](image, target, 32, rect)
    assert seen.shape == (*canvas, 3)
    assert max(a / b for a, b in zip(place.inner, target, strict=True)) == 1
    rows, columns = np.nonzero((seen < 60).all(2))
    box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
    assert place.undo(box).tolist() == [[0, 0, size[1], size[0]]]
    assert (seen[~(seen < 60).all(2)] == 114).all()


def test_predictions_are_filtered_by_class(cli, here, detector):
    picture(here / "one.png")
    for wanted, numbers in (("screw", {1}), ("2, screw", {1, 2}), ("bolt/nut,0", {0})):
        rows = predicted(cli, detector, "one.png", "--conf", "0", "--classes", wanted)
        assert {record["class"] for record in rows[0]["records"]} == numbers


def test_a_classifier_gives_five_names(cli, here):
    picture(here / "one.png", (33, 20))
    done = cli("predict", "lenet5-modern.yaml", "one.png", "--save", "pictures,txt,json", "--out", "out")
    assert (done.code, "its weights are random" in done.err) == (0, True)
    records = json.loads((here / "out/results.json").read_text())["pictures"][0]["records"]
    assert len(records) == 5
    assert sorted((r["confidence"] for r in records), reverse=True) == [r["confidence"] for r in records]
    assert done.out == "one.png 20x33: " + ", ".join(f"{r['name']} {r['confidence']:.2f}" for r in records) + "\n"
    lines = (here / "out/labels/one.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [r["name"] for r in records]
    assert read_image(here / "out/one.png").shape[1] >= annotated.MIN_BAR_WIDTH


def test_an_autoencoder_gives_a_picture(cli, here):
    picture(here / "one.png", (40, 60))
    (here / "net.yaml").write_text("task: autoencode\nch: 1\nimgsz: 32\nlayers:\n  - [-1, 1, nn.Conv2d, [1, 1, 1]]\n")
    done = cli("predict", "net.yaml", "one.png", "--out", "out")
    assert done.code == 0, done.err
    assert done.out == "one.png 60x40: reconstructed\n"
    assert read_image(here / "out/one.png").shape == (32, 64, 3)  # what goes in, and what comes out


def test_a_custom_task_needs_only_decode(cli, here, monkeypatch):
    class Mean(Task):
        name = "mean-of-image"
        loss = metric = None

        def decode(self, outputs, **options):
            return outputs.mean((1, 2, 3))

    monkeypatch.setattr("netbuild.tasks.TASKS.registered", {})
    task(Mean)
    Image.new("RGB", (8, 8), (51, 51, 51)).save(here / "one.png")
    (here / "net.yaml").write_text("task: mean-of-image\nimgsz: 8\nlayers:\n  - [-1, 1, nn.Identity, []]\n")
    done = cli("predict", "net.yaml", "one.png", "--out", "out")
    assert done.code == 0, done.err
    assert done.out.startswith("one.png 8x8: 0.19999")
    assert os.listdir(here / "out") == ["results.json"]


def test_predict_is_lazy_in_python(here, detector):
    files = [picture(here / "0.png"), here / "bad.png"]
    files[1].write_bytes(b"bad")
    network = netbuild.build(detector).train()
    network.model[0].eval()
    results = netbuild.predict(network, files, batch=1, conf=0.0, max_det=3)
    first = next(results)
    assert (first.path, first.size, len(first.records)) == (files[0], (60, 90), 3)
    assert first.line() == first.task.line(first.records).join([f"{files[0]} 60x90: ", ""])
    assert [m.training for m in network.model.children()] == [False, True, True, True]
    with pytest.raises(UnreadableImageError):
        next(results)
    failures = []
    assert len([*netbuild.predict(network, files, unreadable=lambda *failure: failures.append(failure))]) == 1
    assert [path for path, _ in failures] == [files[1]]
    with pytest.raises(NetbuildError, match="--colour has no effect"):
        netbuild.predict(network, files, colour=3)


def test_the_input_size_is_that_of_training(here, detector):
    network = netbuild.build(detector)
    netbuild.save(network, here / "trained.safetensors", training={"settings": {"imgsz": 96}})
    assert predictor.prepare(here / "trained.safetensors", device="cpu").size == (96, 96)
    assert predictor.prepare(detector, device="cpu").size == (64, 64)


def test_file_names_are_unique_and_safe_and_sorted():
    assert len({annotated.class_colour(i) for i in range(100)}) == 100
    assert (annotated._ink((255, 255, 0)), annotated._ink((0, 0, 120))) == ((0, 0, 0), (255, 255, 255))
    names = [saving.safe_folder_name(name) for name in ("a b", "../x", "CON", "..", "café", "")]
    assert names == ["a_b", "_x", "_CON", "_", "café", "_"]
    paths = sorted(map(Path, ("b10", "b9", "a", "b9/2", "10", "9")), key=sources.natural_key)
    assert [str(path) for path in paths] == ["9", "10", "a", "b9", "b9/2", "b10"]


# -- the reference ----------------------------------------------------------------------------------------------------


@needs_checkpoints
def test_boxes_equal_those_of_the_reference(cli, here):
    assert cli("weights", "import", CHECKPOINTS / "yolo11n-bccd.pt", "-o", "bccd.safetensors").code == 0
    wanted = json.loads((CHECKPOINTS / "yolo11n-bccd.json").read_text())["predict"]["images"]
    rows = predicted(cli, "bccd.safetensors", *(DATA / "bccd/images/val" / name for name in wanted))
    for row, boxes in zip(rows, wanted.values(), strict=True):
        assert len(row["records"]) == len(boxes)
        # Scores that are nearly alike may change places.
        found = sorted(row["records"], key=lambda record: record["box"])
        for record, (*box, confidence, number) in zip(found, sorted(boxes), strict=True):
            assert record["box"] == pytest.approx(box, abs=0.1)
            assert record["confidence"] == pytest.approx(confidence, abs=1e-3)
            assert record["class"] == number
