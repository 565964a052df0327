"""Training by the command line on faulty data sets and full disks: errors are reported before the first epoch."""

import json
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers.small_networks import TINY
from safetensors.torch import load_file

from netbuild.data.images import pillow

NET = Path(__file__).parents[1] / "cases" / "a17-no-p5.yaml"
QUICK = ("--imgsz", 64, "--batch", 2, "--epochs", 1, "--device", "cpu", "-O", "workers=0", "-O", "plots=false")
BOX = "0.5 0.5 0.3 0.3"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 80, (64, 64, 3), dtype=np.uint8)
    pixels[22:42, 22:42] = 230
    pillow().fromarray(pixels).convert(mode).save(path)


def data_set(root, names=("bolt", "nut"), train=4, val=2):
    """Pictures with a bright square and its box, classes in turn; the paths in data.yaml are relative to it."""
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            picture(root / "images" / split / f"{i}.png", 100 * (split == "val") + i)
            label(root, f"{i % len(names)} {BOX}\n", i, split)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {json.dumps(names)}\n")
    return root / "data.yaml"


def label(root, text, number, split="train"):
    path = root / "labels" / split / f"{number}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (
            ["bolt"],
            {1: "1 0.4 0.5 0.3 0.3\n", 2: f"0 {BOX}\n7 0.2 0.2 0.1 0.1\n"},
            ["2 label errors in 2 of 4 files", "1.txt:1: class 1 is outside 0..0 (1 name)", "2.txt:2: class 7"],
        ),
        (
            ["bolt", "nut"],
            dict.fromkeys(range(4), f"1 {BOX}\n2 {BOX}\n"),
            ["4 label errors in 4 of 4 files", "class 2 is outside 0..1 (2 names)", "subtract 1"],
        ),
        (
            ["bolt", "nut"],
            {
                0: f"0 {BOX}\n1 0.95 0.5 0.3 0.2\n",
                1: "0 1.02 0.5 0.2 0.2\n",
                2: "0 -0.01 0.5 0.2 0.2\n",
                3: "0 32 32 20 20\n",
            },
            ["3 label errors in 3 of 4 files (dropped: 3 boxes)", "1.txt:1: centre x 1.02 > 1",
             "2.txt:1: centre x -0.01 < 0", "3.txt:1: 32 32 20 20 look like pixels", "divide by"],
        ),
        (
            ["bolt", "nut"],
            {0: "0 0.5 0.5 0.2\n", 1: "0,0.5,0.5,0.2,0.2\n", 2: f"bolt {BOX}\n", 3: f"0 {BOX}\n0 {BOX}\n"},
            ["0.txt:1: 4 columns, needs 5", "1.txt:1: commas", "write blanks", "'bolt' is not a number", "bolt is 0"],
        ),
    ],
    ids=["class", "counted from 1", "place", "form"],
)  # fmt: skip
def test_wrong_labels_stop_training_unless_lenient(cli, here, names, labels, said):
    file = data_set(here / "ds", names)
    for number, text in labels.items():
        label(here / "ds", text, number)
    for number in range(2):
        label(here / "ds", f"{len(names) - 1} {BOX}\n", number, "val")
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run")
    assert done.code == 2
    assert not (here / "run").exists()
    for words in said:
        assert words in done.err
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run", "--lenient")
    assert (done.code, done.err.count("epoch 1/1")) == (0, 1), done.err
    for words in said:  # what is dropped is said here too
        assert words in done.err
    found = json.loads((here / "run" / "data.json").read_text())["splits"]["train"]
    assert found["dropped_boxes"] == sum(problem["drops"] == "box" for problem in found["problems"]) > 0


def test_background_is_used_and_counted(cli, here):
    file = data_set(here / "ds")
    label(here / "ds", "", 1)
    (here / "ds/labels/train/2.txt").unlink()
    label(here / "ds", "\n   \n", 3)
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run")
    assert done.code == 0, done.err
    head, train = (line.split() for line in done.err.splitlines()[1:3])
    assert train == ["train", "4", "1", "1", "2", "1", "0", "0"], head
    assert done.err.count("epoch 1/1") == 1


def test_background_alone_stops_training_unless_allowed(cli, here):
    file = data_set(here / "ds")
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            label(here / "ds", "", number, split)
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run")
    assert done.code == 2
    for words in ("0 boxes in 4 training pictures", "images/train/0.png", "labels/train/0.txt", "--allow-background"):
        assert words in done.err
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run", "--allow-background")
    assert done.code == 0, done.err
    assert "epoch 1/1: box 0.0000, cls 0." in done.err
    assert "dfl 0.0000" in done.err
    assert "cls 0.0000" not in done.err


def test_broken_pictures_are_listed_and_dropped(cli, here):
    file, folder = data_set(here / "ds"), here / "ds/images/train"
    picture(folder / "4.jpg")
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:700])
    (folder / "5.jpg").write_text("this is text\n")
    (folder / "6.png").touch()
    for number, mode in ((7, "L"), (8, "RGBA")):
        picture(folder / f"{number}.png", number, mode)
        label(here / "ds", f"0 {BOX}\n", number)
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run")
    assert done.code == 0, done.err
    assert "train: 3 unreadable pictures in 3 of 9 files (dropped: 3 pictures)" in done.err
    for words in ("4.jpg: cut off", "5.jpg: not a picture", "6.png: the file is empty"):
        assert words in done.err
    assert json.loads((here / "run/data.json").read_text())["splits"]["train"]["pictures"] == 6
    done = cli("train", NET, "--data", file, *QUICK, "-o", "strict", "--strict")
    assert done.code == 2
    assert "5.jpg: not a picture" in done.err


def test_paths_are_relative_to_the_data_file(cli, here, monkeypatch):
    data_set(here / "proj/sets/one")
    for number, (folder, file) in enumerate([(".", "proj/sets/one/data.yaml"), ("proj/sets/one", "data.yaml")]):
        monkeypatch.chdir(here / folder)
        done = cli("data", "check", file, "--json")
        assert done.code == 0, number
        splits = json.loads(done.out)["splits"]
        assert {name: split["pictures"] for name, split in splits.items()} == {"train": 4, "val": 2}
    monkeypatch.chdir(here)
    shutil.move("proj/sets/one/images/train", "elsewhere")
    done = cli("train", NET, "--data", "proj/sets/one/data.yaml", *QUICK)
    assert done.code == 2
    assert f"data.yaml:2:8: there is no {here}/proj/sets/one/images/train" in done.err


def test_a_batch_larger_than_the_data_set_trains(cli, here):
    file = data_set(here / "ds", ["bolt"], 3, 3)
    done = cli("train", NET, "--data", file, *QUICK, "--batch", 16, "-o", "run")
    assert done.code == 0, done.err
    first, last = (load_file(here / "run" / f"{name}.safetensors") for name in ("start", "last"))
    assert any(not last[key].equal(first[key]) for key in first if key.endswith("conv.weight"))


def test_a_class_without_validation_pictures_shifts_no_other_class(cli, here):
    for split, kinds in (("train", "0 90 180 270"), ("val", "0 90 270")):
        for kind in kinds.split():
            for i in range(3):
                picture(here / "ds" / split / kind / f"{i}.png", int(kind) + i + 500 * (split == "val"))
    done = cli(
        "train", "lenet5.yaml", "--data", "ds", "--epochs", 1, "-O", "plots=false", "-O", "workers=0", "-o", "run"
    )
    assert done.code == 0, done.err
    assert "4 classes (0, 180, 270, 90)" in done.err
    assert "ds/val/180: no folder for this class" in done.err
    done = cli("val", "run/last.safetensors", "--data", "ds", "--json")
    assert [row["class"] for row in json.loads(done.out)["classes"]] == ["0", "270", "90"]


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_checkpoints(cli, here):
    file = data_set(here / "ds")
    flags = ("--lr", 1e8, "--epochs", 5, "-o", "run")
    done = cli("train", NET, "--data", file, *QUICK, *flags)
    assert done.code == 1
    assert "Traceback" not in done.err
    for words in ("epoch ", "batch ", "learning rate ", "float32", "box ", "cls ", "dfl "):
        assert words in done.err.splitlines()[-2], done.err
    for path in (here / "run").glob("*.safetensors"):
        if path.name != "state.safetensors":
            assert all(t.isfinite().all() for t in load_file(path).values() if t.is_floating_point()), path
    assert cli("train", NET, "--data", file, *QUICK, "--no-amp", "-o", "other").code == 0


def test_labels_are_checked_again_after_names_change(cli, here):
    file = data_set(here / "ds", ["a", "b", "c"], 6)
    assert cli("train", NET, "--data", file, *QUICK, "-o", "run").code == 0
    file.write_text(file.read_text().replace(', "c"', ""))
    done = cli("train", NET, "--data", file, *QUICK, "-o", "again")
    assert done.code == 2
    assert "class 2 is outside 0..1 (2 names)" in done.err


def test_an_unusable_run_folder_is_reported_before_training(cli, here, monkeypatch):
    file = data_set(here / "ds")
    (here / "taken").write_text("a file")
    (here / "full").mkdir()
    (here / "full" / "thesis.tex").touch()
    for folder, said in (("taken", "taken: is no folder"), ("full", "full: the folder is not empty")):
        done = cli("train", NET, "--data", file, *QUICK, "-o", folder)
        assert (done.code, said in done.err) == (2, True), done.err
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    done = cli("train", NET, "--data", file, *QUICK, "-o", "run")
    assert (done.code, "1 MB of the disk are free, the run's checkpoints need " in done.err) == (2, True), done.err
    assert "epoch" not in done.err


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state_intact(cli, here):
    resource = pytest.importorskip("resource", reason="no limits of processes here")
    file = data_set(here / "ds")
    assert cli("train", NET, "--data", file, *QUICK, "-o", "run").code == 0
    kept = {path.name: path.read_bytes() for path in (here / "run").iterdir()}
    room = max(len(kept["last.safetensors"]), len(kept["start.safetensors"])) + 1000

    def little_room():  # checkpoints fit, the run's state does not
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    command = [sys.executable, "-m", "netbuild", "train", "--resume", "run", "--epochs", "2"]
    done = subprocess.run(command, preexec_fn=little_room, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "state.safetensors: cannot be written: " in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert (here / "run" / "state.safetensors").read_bytes() == kept["state.safetensors"]
    assert not [path for path in (here / "run").iterdir() if path.name.startswith(".")]
    again = cli("train", "--resume", "run", "--epochs", 2)
    assert (again.code, "epoch 2/2" in again.err) == (0, True)


@contextmanager
def full_after(size):
    """Files may have so many bytes in here, and no more, as on a disk that is full."""
    resource = pytest.importorskip("resource", reason="no limits of processes here")
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


SLOW = pytest.mark.slow
TARGETS = [
    pytest.param("onnx", ".onnx", marks=SLOW),
    ("torchscript", ".torchscript"),
    pytest.param("torch-export", ".pt2", marks=SLOW),
    pytest.param("onnx-int8", ".int8.onnx", marks=SLOW),
    pytest.param("openvino", "_openvino", marks=SLOW),
]


@pytest.mark.parametrize(("target", "suffix"), TARGETS)
def test_a_full_disk_leaves_no_partial_exported_file(cli, here, target, suffix):
    if target.startswith("o"):
        pytest.importorskip("openvino" if target == "openvino" else "onnxscript")
    (here / "tiny.yaml").write_text(TINY)
    (here / "out").mkdir()
    more = ("--calibrate", "digits-detect") if target == "onnx-int8" else ()
    if more:
        (here / "tiny.yaml").write_text(TINY.replace("nc: 3", "nc: 10"))
        cli("data", "check", "digits-detect")  # written while there is room
    with full_after(9000):
        done = cli("export", "tiny.yaml", "--target", target, "-o", f"out/net{suffix}", *more)
    assert (done.code, f"out/net{suffix}: cannot be written" in done.err) == (2, True), done.err
    assert not [*(here / "out").iterdir()]


@pytest.mark.parametrize("save", ["pictures", "json", "txt"])
def test_a_full_disk_leaves_no_partial_results(cli, here, save):
    cv2 = pytest.importorskip("cv2")
    (here / "tiny.yaml").write_text(TINY)
    picture(here / "a.png")
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for i in range(5):
        writer.write(np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    writer.release()
    for source in ("a.png", "clip.avi"):
        out = Path(source).stem
        with full_after(100):
            done = cli("predict", "tiny.yaml", source, "--conf", 0, "--save", save, "-o", out, "--device", "cpu")
        assert (done.code, "cannot be written" in done.err) == (2, True), done.err
        assert not [path for path in (here / out).rglob("*") if path.is_file()]


def test_a_table_that_cannot_be_written_is_an_error(cli, here):
    file = data_set(here / "ds")
    assert cli("train", NET, "--data", file, *QUICK, "-o", "run").code == 0
    (here / "run" / "results.csv").unlink()
    (here / "run" / "results.csv" / "in the way").mkdir(parents=True)
    done = cli("train", "--resume", "run", "--epochs", 2)
    assert (done.code, "results.csv: cannot be written" in done.err) == (2, True), done.err
    assert not [path for path in (here / "run").iterdir() if path.name.startswith(".")]
