"""A task that learns pictures from pairs is one file: it trains and validates by the command line."""

import numpy as np
from PIL import Image

TASK = """
import torch.nn.functional as F

from netbuild.feed.targets import PictureTarget
from netbuild.tasks import task
from netbuild.tasks.base import Metric, Task


class MeanError(Metric):
    lists = ("errors",)

    def __init__(self):
        self.errors = []

    def update(self, predictions, batch):
        self.errors += (predictions - batch["target"] / 255).abs().flatten(1).mean(1).tolist()

    def result(self):
        mean = sum(self.errors) / max(len(self.errors), 1)
        return {"error": mean, "fitness": -mean}


@task
class Upscale(Task):
    name = "upscale"
    learns_from = ("pairs",)
    counts_classes = False
    measures = ("error",)
    target_kinds = {"target": PictureTarget}

    def loss(self, outputs, batch):
        total = F.l1_loss(outputs, batch["target"] / 255)
        return total, {"l1": total.detach()}

    def decode(self, outputs, **options):
        return outputs

    def metric(self):
        return MeanError()
"""
NETWORK = """
imports: [./upscale.py]
task: upscale
ch: 3
imgsz: 32
layers:
  - [-1, 1, Conv, [8, 3, 1]]
  - [-1, 1, nn.Conv2d, [8, 12, 3, 1, 1]]
  - [-1, 1, nn.PixelShuffle, [2]]
"""


def test_a_task_learns_larger_pictures_from_pairs(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "upscale.py").write_text(TASK)
    (tmp_path / "upscale.yaml").write_text(NETWORK)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            large = np.random.default_rng((count, i)).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            for side, pixels in (("inputs", large[::2, ::2]), ("targets", large)):
                path = tmp_path / "pairs" / split / side / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    quick = ("--epochs", 1, "--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-O", "batch=2")
    done = cli("train", "upscale.yaml", "--data", "pairs", "--trust", "-o", "run", *quick)
    assert done.code == 0, done.err
    assert "pairs: pairs, target (picture, 2 times the size)" in done.err
    assert "epoch 1/1: l1 0." in done.err
    done = cli("val", "run/best.safetensors", "--data", "pairs", "--trust", "-O", "workers=0")
    assert done.code == 0, done.err
    done = cli("train", "upscale.yaml", "--data", "digits", "--trust", "-o", "other", *quick)
    assert "digits is a data set for 'classify', the network's task is 'upscale'" in done.err
