"""A head as one file of a user's: it names its own loss, and a row of it gets the batch's targets in training."""

import pytest

NETWORK = """
imports: [./peeking.py]
nc: 10
ch: 3
imgsz: 64
reg_max: 1
layers:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, block, []]
  - [[-1], 1, PeekingDetect, [nc]]
blocks:
  block:
    rows:
      - [-1, 1, Peek, []]
"""
MODULES = """
from typing import Annotated

import torch
from torch import nn

from netbuild.layers import Detect
from netbuild.roles import In
from netbuild.tasks.losses import loss
from netbuild.tasks.losses.base import HeadLoss


class Peek(nn.Module):
    '''Passes its input on, and notes which targets it gets.'''

    seen = []

    def forward(self, x, targets=None):
        Peek.seen.append((self.training, targets))
        assert self.training == (targets is not None), "targets belong to training, and only there"
        if targets is not None:
            assert set(targets) >= {"boxes", "classes", "index"} and "images" not in targets
            assert len(targets["boxes"]) == len(targets["classes"]) > 0
        return x


class PeekingDetect(Detect):
    '''Detect that learns the sum of its scores alone, by its own loss.'''

    learns = "sums"


@loss("sums")
class Sums(HeadLoss):
    summed = False

    def __call__(self, outputs, batch):
        value = outputs["scores"].square().mean()
        return value, {"sums": value.detach()}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "net.yaml").write_text(NETWORK)
    (tmp_path / "peeking.py").write_text(MODULES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_head_names_its_loss_and_rows_get_targets(cli, here):
    quick = ["--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-O", "warmup=0", "--imgsz", 32, "--batch", 64]
    done = cli("train", "net.yaml", "--trust", "--epochs", 1, "-o", "run", *quick)
    assert done.code == 0, done.err
    assert "sums" in (here / "run" / "results.csv").read_text().splitlines()[0]
    done = cli("val", "run/last.safetensors", "--data", "digits-detect", "--trust", "-O", "workers=0", "--json")
    assert done.code == 0, done.err
    done = cli("train", "net.yaml", "--trust", "--overfit-batch", "--epochs", 5, *quick[:4], "--batch", 4)
    assert done.code in (0, 1), done.err  # it runs; whether 5 steps are enough is not the question


def test_unknown_losses_and_repeated_rows_with_targets_are_refused(cli, here):
    file = here / "peeking.py"
    file.write_text(MODULES.replace('learns = "sums"', 'learns = "sumss"'))
    done = cli("train", "net.yaml", "--trust", "--epochs", 1, "-o", "run")
    assert (done.code, "no loss 'sumss'" in done.err, "did you mean 'sums'?" in done.err) == (2, True, True)
    file.write_text(MODULES.replace('learns = "sums"', 'learns = ""'))
    done = cli("train", "net.yaml", "--trust", "--epochs", 1, "-o", "run")
    assert (done.code, "has no loss for the head PeekingDetect" in done.err) == (2, True)
    file.write_text(MODULES)
    for name, rows in {"Peek": "[-1, 1, Peek, []]", "block": "[-1, 1, block, []]"}.items():
        (here / "net.yaml").write_text(NETWORK.replace(rows, rows.replace(", 1,", ", 3,")))
        done = cli("summary", "net.yaml", "--trust")
        assert (done.code, f"{name} takes targets in training and cannot be repeated" in done.err) == (2, True)
