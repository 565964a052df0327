"""A run's folder appears complete, a run is resumed with what may change, and says what it does."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from netbuild.settings import Settings
from netbuild.training.folder import create_folder
from netbuild.training.memory import OutOfMemoryError, explain_out_of_memory

NET = """nc: 2
ch: 1
imgsz: 16
task: classify
layers:
  - [-1, 1, nn.Conv2d, [1, 4, 3, 2, 1]]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.AdaptiveAvgPool2d, [1]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [4, 2]]
"""
QUICK = ["--device", "cpu", "-O", "workers=0", "-O", "plots=false", "--batch", 4]


def add_class(folder, name, value):
    for split in ("train", "val"):
        place = folder / split / name
        place.mkdir(parents=True)
        for i in range(4):
            pixels = np.full((16, 16), value + i, np.uint8)
            Image.fromarray(pixels).save(place / f"{name}{i}.png")


@pytest.fixture
def run(cli, tmp_path, monkeypatch):
    """A run of one epoch in the folder "run", on pictures in "data"."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(NET)
    add_class(tmp_path / "data", "dark", 10)
    add_class(tmp_path / "data", "light", 200)
    done = cli("train", "net.yaml", "--data", "data", "--epochs", 1, "-o", "run", *QUICK)
    assert done.code == 0, done.err
    return tmp_path / "run"


def test_more_epochs_are_said_and_kept(cli, run):
    done = cli("train", "--resume", run, "--epochs", 3, "-O", "minutes=0.00001")
    assert (done.code, "epochs is 3 from now on, it was 1" in done.err) == (0, True)
    done = cli("train", "--resume", run, "-O", "minutes=0")  # the epochs that were given are remembered
    assert (done.code, "of 3" in done.out) == (0, True), done.err


def test_a_finished_run_says_so(cli, run):
    done = cli("train", "--resume", run)
    assert (done.code, "all 1 epochs are finished; --epochs" in done.err) == (0, True)


def test_moved_data_is_found_where_it_is_said_to_be(cli, run):
    shutil.move("data", "elsewhere")
    done = cli("train", "--resume", run, "--epochs", 2)
    assert (done.code, "--data says where it lies now" in done.err) == (2, True)
    done = cli("train", "--resume", run, "--epochs", 2, "--data", "elsewhere")
    assert (done.code, "in epoch" in done.out) == (0, True), done.err
    shutil.copytree("elsewhere", "other")
    Image.fromarray(np.zeros((24, 16), np.uint8)).save("other/train/dark/dark0.png")
    done = cli("train", "--resume", run, "--epochs", 3, "--data", "other")
    assert (done.code, "is not the data of the run" in done.err) == (2, True)


def test_changed_data_is_said_and_another_class_is_refused(cli, run):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("data/train/dark/new.png")
    done = cli("train", "--resume", run, "--epochs", 2)
    assert (done.code, "the data has changed since the run began" in done.err) == (0, True), done.err
    add_class(run.parent / "data", "middle", 100)
    done = cli("train", "--resume", run, "--epochs", 3)
    assert (done.code, "has 3 classes now, the run's network 2" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["net.yaml", "--resume", "run"], "net.yaml has no effect with --resume"),
        (["--resume", "run", "--epochs", "2", "--imgsz", "16x8"], "square"),
        (["--resume", "run", "--scale", "n"], "--scale has no effect with --resume"),
        (["--resume", "nowhere"], "there is no run to resume"),
        (["--resume", "data"], "there is no run to resume"),
        (["net.yaml", "--data", "data", "-o", "run"], "run: the folder is not empty"),
        (["net.yaml", "--data", "missing", "-o", "run"], "run: the folder is not empty"),  # before the data is opened
        (["net.yaml", "--data", "missing", "-o", "net.yaml/deep/run"], "net.yaml is no folder"),
        (["net.yaml", "--data", "missing", "-o", "link"], "link: is a link to nowhere, which does not exist"),
    ],
)
def test_what_cannot_be_resumed_or_begun_is_said(cli, run, flags, message):
    os.symlink("nowhere", "link")
    done = cli("train", *flags)
    assert (done.code, message in done.err) == (2, True), done.err


def test_fewer_epochs_than_are_finished_are_refused(cli, run):
    assert cli("train", "--resume", run, "--epochs", 2).code == 0
    done = cli("train", "--resume", run, "--epochs", 1)
    assert (done.code, "has finished 2 epochs" in done.err) == (2, True)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"data": 3}', "{}", '{"data": "digits", "data_hash": []}'])
def test_a_damaged_description_is_an_error_with_its_file(cli, run, text):
    (run / "run.json").write_text(text)
    done = cli("train", "--resume", run)
    assert (done.code, "run.json: is damaged" in done.err, "Traceback" in done.err) == (2, True, False)


def test_lost_and_damaged_files_of_a_run_are_said(cli, run):
    assert cli("train", "--resume", run, "--epochs", 2).code == 0
    best, state, settings = run / "best.safetensors", run / "state.safetensors", run / "args.yaml"
    best.write_bytes(best.read_bytes()[:-8])
    text = settings.read_text()
    settings.write_text(text[: text.index("patience")])
    done = cli("train", "--resume", run, "--epochs", 3)
    assert done.code == 0, done.err
    assert "best.safetensors: damaged or incomplete" in done.err
    assert "the best epoch is chosen anew" in done.err
    assert "args.yaml: does not state these settings, which are the defaults: patience" in done.err
    assert "in epoch 3 of 3" in done.out
    assert cli("build", best, "-o", "b.safetensors").code == 0
    whole = state.read_bytes()
    state.write_bytes(whole[:-8])
    done = cli("train", "--resume", run, "--epochs", 4)
    assert (done.code, "state.safetensors: damaged or incomplete" in done.err) == (2, True), done.err
    state.unlink()
    done = cli("train", "--resume", run, "--epochs", 4)
    assert (done.code, "is missing, and the run has finished epochs" in done.err) == (2, True), done.err
    assert "--weights of this one's last" in done.err


def test_a_run_without_a_finished_epoch_begins(cli, run):
    for name in ("state", "last", "best"):
        (run / f"{name}.safetensors").unlink()
    done = cli("train", "--resume", run)
    assert (done.code, "no epoch was finished, so the run begins" in done.err) == (0, True), done.err
    assert (run / "best.safetensors").exists()


FILLING = """
import sys, time
from pathlib import Path
from netbuild.training.folder import create_folder
with create_folder(Path("new")) as draft:
    (draft / "start.safetensors").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_process_killed_while_it_creates_the_folder_leaves_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", FILLING], stdout=subprocess.PIPE, env={**os.environ})
    assert process.stdout.readline().strip() == b"ready"
    process.kill()
    process.wait()
    assert not (tmp_path / "new").exists()
    assert len(list(tmp_path.glob(".new.*"))) == 1
    (tmp_path / "new").mkdir()  # an empty folder is taken
    with create_folder(tmp_path / "new") as draft:
        (draft / "run.json").write_text(json.dumps({}))
    assert [p.name for p in tmp_path.iterdir()] == ["new"]  # the draft of the dead process is gone
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["run.json"]


def test_a_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), create_folder(tmp_path / "new"):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


# -- what a run says


def test_a_run_says_what_it_does_and_what_it_did(cli, run):
    done = cli("train", "net.yaml", "--data", "data", "--epochs", 2, "-o", "more", *QUICK)
    lines = done.err.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("network: ")))
    start = lines[first : first + 3]
    assert start[0] == "network: net, 50 parameters, task classify, 2 classes, images of 16x16 pixels"
    assert start[1].endswith("data, 8 samples to train on, 8 to validate")
    assert start[2].startswith("training: 2 epochs of 2 batches of 4 (2 steps), adamw, rate ")
    assert start[2].endswith("float32, on cpu")
    assert "no --data" not in done.err
    last = done.out.splitlines()[-1]
    assert last.startswith("more: best fitness ")
    assert ", top1 " in last
    assert last.endswith(" of 2")
    assert done.out.split()[:3] == ["class", "images", "precision"]  # each class of the best epoch
    assert lines[-1].startswith("next: netbuild val more/best.safetensors --data ")


def test_embedded_data_is_said_loudly(cli, run):
    done = cli("train", "lenet5.yaml", "--epochs", 1, "-o", "embedded", *QUICK[:6], "--batch", 512)
    assert done.code == 0, done.err
    assert done.err.startswith("note: no --data: the network is trained on the embedded demonstration set 'digits'")


def test_the_number_of_a_gpu_is_its_name(cli, run):
    done = cli("train", "net.yaml", "--data", "data", "--device", "7")
    assert (done.code, "--device cuda:7: " in done.err) == (2, True)


INTERRUPTED = """
import os, signal, sys
from netbuild.training.callbacks import Callback

class Interrupt(Callback):
    def on_batch_begin(self, run, epoch, number, batch):
        if epoch == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits its absence
            os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.slow
def test_an_interrupted_run_says_how_it_goes_on(run):
    (run.parent / "stop.py").write_text(INTERRUPTED)
    command = ["train", "net.yaml", "--data", "data", "--epochs", "3", "-o", "cut", "--callbacks", "stop.py"]
    quick = ["--device", "cpu", "-O", "workers=0", "--batch", "4"]
    done = subprocess.run([sys.executable, "-m", "netbuild", *command, *quick], capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert "cut: interrupted after 1 of 3 epochs; netbuild train --resume cut goes on" in done.stderr
    assert (run.parent / "cut/losses.png").exists()


def test_too_little_memory_on_the_cpu_is_explained():
    with pytest.raises(OutOfMemoryError, match="cpu has too little memory at --batch 16") as caught:  # noqa: SIM117
        with explain_out_of_memory(Settings(batch=16), torch.device("cpu")):
            torch.empty(2**48)
    assert "--batch 8" in caught.value.hint
    with pytest.raises(RuntimeError, match="other"), explain_out_of_memory(Settings(), torch.device("cpu")):
        raise RuntimeError("other")


def test_a_run_and_a_validation_end_their_worker_processes(cli, run):
    flags = ["--data", "data", "--device", "cpu", "-O", "workers=1"]
    assert cli("train", "net.yaml", *flags, "--epochs", 1, "--batch", 4, "-O", "plots=false", "-o", "forked").code == 0
    assert multiprocessing.active_children() == []
    assert cli("val", "forked/best.safetensors", *flags).code == 0
    assert multiprocessing.active_children() == []
