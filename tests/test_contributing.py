"""The examples of CONTRIBUTING.md: each is one file, and does what its section says."""

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netbuild import tasks
from netbuild.data import open_data
from netbuild.data.fitting import Letterbox
from netbuild.data.formats import FORMATS
from netbuild.export.base import TARGETS
from netbuild.prediction.trackers import TRACKERS
from netbuild.system import plugins
from netbuild.tasks.base import View

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path, monkeypatch):
    for block in re.findall(r"^```(?:python|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        (tmp_path / block.split()[1]).write_text(block)
    for registry in (tasks.TASKS, TARGETS, FORMATS, TRACKERS):
        monkeypatch.setattr(registry, "registered", dict(registry.registered))
    monkeypatch.setattr(plugins, "_REGISTERED", dict(plugins._REGISTERED))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_module(cli, here):
    done = cli("summary", "scaled.yaml", "--trust", "--imgsz", 64)
    assert done.code == 0, done.err
    assert "ChannelScale" in done.out


def test_metric(here):
    import_module("worst_class")
    metric = tasks.find("classify-worst")(torch.nn.Identity(), ["cat", "dog"]).metric()
    metric.update(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), {"classes": torch.tensor([0, 1])})
    assert (metric.result()["top1"], metric.result()["fitness"]) == (0.5, 0.0)


def test_export_target(cli, here):
    import_module("state_target")
    assert "pickled" in TARGETS.names()
    done = cli("export", "lenet5.yaml", "--target", "pickled", "-o", "net.pickled")
    assert done.code == 0, done.err
    assert (here / "net.pickled").exists()


def test_data_format(cli, here, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(here / "cache"))
    for split in ("train", "val"):
        (here / "set" / split).mkdir(parents=True)
        for number, name in enumerate(("cat-1", "dog-1", "dog-2")):
            Image.fromarray(np.full((32, 32), 80 * number, np.uint8)).save(here / "set" / split / f"{name}.png")
    quick = ("--epochs", 1, "--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-O", "policy=off")
    done = cli("train", "lenet5.yaml", "--data", "set", "--modules", "prefixed.py", "--trust", "-o", "run", *quick)
    assert done.code == 0, done.err
    assert "set: classify, 2 classes (cat, dog), format prefixed" in done.err
    assert [sample.label for sample in open_data("set").split("val").samples] == [0, 1, 1]


def test_callback(cli, here):
    quick = ("--device", "cpu", "--batch", 256, "-O", "workers=0", "-O", "plots=false", "-o", "run")
    done = cli("train", "lenet5.yaml", "--imgsz", 32, "--epochs", 1, *quick, "--callbacks", "slowest_epoch.py")
    assert done.code == 0, done.err
    assert float((here / "run" / "slowest.txt").read_text().removesuffix(" s")) > 0


def test_tracker(here):
    import_module("nearest_tracker")
    tracker = TRACKERS.get("nearest")()
    view = View(np.zeros((100, 100, 3), np.uint8), Letterbox.fit((100, 100), (100, 100)))
    frames = [
        [{"box": [0, 0, 10, 10]}, {"box": [50, 50, 60, 60]}],
        [{"box": [52, 50, 62, 60]}, {"box": [3, 0, 13, 10]}, {"box": [80, 0, 90, 10]}],
        [{"box": [82, 0, 92, 10]}],
    ]
    assert [[record["id"] for record in tracker.update(records, view)] for records in frames] == [
        [1, 2],
        [2, 1, 3],
        [3],
    ]
