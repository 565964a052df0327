"""Every family of networks overfits one batch, so network, loss and labels fit together."""

import re

import pytest

from netbuild import settings
from netbuild.author.zoo import load_entries
from netbuild.training import run
from netbuild.training.overfitting import is_overfit

# Image sizes of networks that do not work at 64 pixels, steps of large ones, rates of those without batch norms.
SIZES = {"alexnet": 128, "inception": 96, "lenet": 32, "vgg": 32, "vit": 32}
STEPS = {"vgg": 40, "wide": 40, "resnext": 40, "swin": 60}
RATES = {"alexnet": 3e-4, "vgg": 1e-4, "squeezenet": 1e-3, "swin": 3e-4, "vit": 3e-4, "convnext": 1e-3}


def find_smallest_networks():
    """Find the smallest network and scale of each family of classifiers: names that begin with the same letters."""
    found = {}
    for entry in load_entries():
        if entry.task == "classify":
            scale, (parameters, _) = min(entry.sizes.items(), key=lambda item: item[1])
            family = re.match("[a-z]+", entry.name)[0]
            found[family] = min(found.get(family, (parameters, entry.name, scale)), (parameters, entry.name, scale))
    return {family: (name, scale or None) for family, (_, name, scale) in sorted(found.items())}


@pytest.mark.slow
@pytest.mark.parametrize("family", find_smallest_networks())
def test_each_family_of_classifiers_overfits_a_batch(family):
    name, scale = find_smallest_networks()[family]
    chosen = {
        "epochs": STEPS.get(family, 100),
        "batch": 8,
        "imgsz": SIZES.get(family, 64),
        "lr": RATES.get(family, 0.002),
        "workers": 0,
    }
    losses = run.overfit_batch(name, "digits", settings.load(None, chosen), scale=scale)
    assert losses[0] > 1.5  # nothing is known of ten classes at first
    assert min(losses[-5:]) < 0.1 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["yolov3-tiny.yaml", "yolov5n.yaml", "yolov8n.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo11n.yaml",
     "yolo12n.yaml", "yolo26n.yaml"],
)  # fmt: skip
def test_each_kind_of_detector_overfits_a_batch(name):
    steps, rate = (300, 0.001) if "tiny" in name else (200, 0.003)  # twelve million parameters, two levels
    chosen = {"epochs": steps, "batch": 4, "imgsz": 96, "lr": rate, "workers": 0, "mosaic": 0.0}
    losses = run.overfit_batch(name, "digits-detect", settings.load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])


def test_is_overfit_needs_a_fall_by_ninety_per_cent():
    assert is_overfit([5, 20, 8, 1.9, 1.9, 1.8, 1.7, 1.6])
    assert not is_overfit([5, 20, 8, 3, 3, 3, 3, 3])  # fell, but not by 90 %
    assert not is_overfit([1, 50, 8, 1, 1, 1, 1, 0.9])  # rose, and came back


def test_overfit_batch_sets_the_exit_code(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--batch", 8, "-O", "workers=0", "--overfit-batch")
    done = cli("train", "lenet5.yaml", *flags, "--epochs", 60)
    assert (done.code, done.out.rstrip().endswith(": learnt")) == (0, True), done.out
    done = cli("train", "lenet5.yaml", *flags, "--epochs", 6, "--lr", 1e-6)
    assert (done.code, "not learnt" in done.out, "hint: " in done.err) == (1, True, True)
    assert not list(tmp_path.iterdir())  # it leaves nothing
