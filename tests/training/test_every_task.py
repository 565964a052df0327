"""Each task alike: killed and resumed, in two processes, compiled, drawn and logged, and with data that do not suit."""

import json
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.apart import KILLER, run_apart
from helpers.scenes import (
    AUTOENCODER,
    CASES,
    open_case,
    scene_tasks,
    smallest_network,
    write_class_folders,
    write_few_scenes,
)
from safetensors.torch import load_file

from netbuild import settings
from netbuild.data import open_data
from netbuild.data.shapes import files
from netbuild.layers import Reparameterize
from netbuild.layers.heads.rtdetr import RTDETRDecoder
from netbuild.tasks import TASKS, find
from netbuild.tasks.losses import semantic
from netbuild.tasks.normaliser import local_normaliser
from netbuild.training import run
from netbuild.training.batches import network_inputs, target_arguments

QUICK = ("--imgsz", "64", "--batch", "4", "--device", "cpu", "-Oworkers=0", "-Oplots=false")


def quick(task):
    """Flags of a short run; of each picture that is restored an epoch has one patch."""
    return (*QUICK, "-Opatches=1") if task == "restore" else QUICK


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with few embedded scenes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    write_few_scenes(tmp_path / "cache", 12, 5)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_as_if_nothing_had_been(cli, here, case):
    network, data = open_case(case, here)
    (here / "killer.py").write_text(KILLER)
    flags = ("--data", data, "--epochs", 3, *quick(case))
    assert cli("train", network, *flags, "-o", "whole").code == 0
    done = run_apart("train", network, *flags, "-o", "killed", "--callbacks", "killer.py")
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = cli("train", "--resume", "killed")
    assert done.code == 0, done.err
    found, expected = (load_file(here / folder / "last.safetensors") for folder in ("killed", "whole"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    rows = [(here / folder / "results.csv").read_text() for folder in ("killed", "whole")]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_and_measure_as_one(cli, here, case):
    network, data = open_case(case, here)
    done = run_apart("train", network, "--data", data, "--epochs", 1, *quick(case), "-o", "two", "--nproc", 2)
    assert done.returncode == 0, done.stderr
    flags = ("two/last.safetensors", "--data", data, "--device", "cpu", "-Oworkers=0", "--batch", 2, "--json")
    one = json.loads(cli("val", *flags).out)
    done = run_apart("val", *flags, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout)
    assert two["measures"] == pytest.approx(one["measures"], abs=1e-6)
    assert [row["class"] for row in two["classes"]] == [row["class"] for row in one["classes"]]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_compiled_network_trains(cli, here, monkeypatch, case):
    # Without inductor's code, which takes minutes: what fails is what cannot be traced, forward or backward.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    network, data = open_case(case, here)
    done = cli("train", network, "--data", data, "--epochs", 1, *quick(case), "-Ocompile=true", "-o", "run")
    assert done.code == 0, done.err
    assert (here / "run/last.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case != "diffuse"])  # which only makes pictures
def test_a_run_is_drawn_logged_measured_and_exported(cli, here, case):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    network, data = open_case(case, here)
    done = cli("train", network, "--data", data, "--epochs", 1, *QUICK[:-1], "-Otensorboard=true", "-o", "run")
    assert (done.code, "left out:" in done.err) == (0, False), done.err  # an error in a plot or log is only a note
    drawn = {path.name for path in (here / "run").glob("*.png")}
    assert {"losses.png", "metrics.png", "train_batch0.png", "val_batch0.png"} <= drawn
    assert case == "autoencode" or any(name.startswith("labels") for name in drawn)
    scalars = events.EventAccumulator(str(here / "run/tensorboard")).Reload().Tags()["scalars"]
    measured = []
    assert cli("export", "run/last.safetensors", "-o", "net.onnx").code == 0
    for file in ("run/last.safetensors", "net.onnx"):
        done = cli("val", file, "--data", data, "--device", "cpu", "-Oworkers=0", "--json", "-o", f"val-{file[:3]}")
        assert done.code == 0, done.err
        measured.append(json.loads(done.out)["measures"])
        assert (here / f"val-{file[:3]}/val_batch0.png").is_file()
        done = cli("predict", file, picture_of(data, here),
                   "--save", "pictures,json", "-o", f"found-{file[:3]}")  # fmt: skip
        assert done.code == 0, done.err
        assert list((here / f"found-{file[:3]}").glob("*.png"))
    assert measured[0].keys() == measured[1].keys()
    assert {f"val/{name}" for name in measured[0]} <= {*scalars}


def picture_of(data, here):
    """A picture of the validation data."""
    if isinstance(data, Path):
        return next((data / "val").rglob("*.png"))
    made = files.TABLES_FOLDER if data in files.TABLES else files.ALL
    return here / f"cache/{made}-{files.LAYOUT}/{data}/images/val/0000.png"


def test_every_task_is_among_the_cases():
    """A new one without embedded scenes needs a small network in `helpers.scenes.OF_FOLDERS`.

    One that learns from videos, whose network takes two crops, has the same tests in test_following.py.
    """
    assert {name for name in TASKS.built_in if find(name).trainable} <= {*CASES, "track", "generate"}


@pytest.mark.parametrize("task", scene_tasks())
def test_data_that_a_task_cannot_learn_from_are_errors_with_a_hint(cli, here, task):
    cls, network = find(task), smallest_network(task, here)
    kinds = {name: open_data(name).task for name in ("digits", "shapes-segment", "shapes-labels", "shapes-numbers")}
    wrong = next(name for name, kind in kinds.items() if kind not in cls.learns_from)
    done = cli("train", network, "--data", wrong, "--epochs", 1, *quick(task), "-o", "no")
    expected = f"{wrong} is a data set for '{kinds[wrong]}', the network's task is '{task}'"
    assert (done.code, expected in done.err, "hint: " in done.err) == (2, True, True), done.err
    if set(cls.target_kinds) - {"boxes"} and task != "detect":  # which boxes alone do not have
        for split in ("train", "val"):
            for path in (here / f"cache/shapes-{files.LAYOUT}/shapes-segment/labels/{split}").iterdir():
                path.write_text("0 0.5 0.5 0.4 0.4\n")
        done = cli("train", network, "--data", "shapes-segment", "--epochs", 1, *quick(task), "-o", "no")
        assert (done.code, "hint: " in done.err) == (2, True), done.err
    assert not (here / "no").exists()


def test_an_autoencoder_whose_output_is_no_picture_is_an_error(cli, here):
    write_class_folders(here / "classes", 2, 2)
    (here / "net.yaml").write_text(AUTOENCODER.replace("8, 3, 2, 2", "8, 6, 2, 2"))
    done = cli("train", "net.yaml", "--data", "classes", "--epochs", 1, *QUICK, "--batch", 2, "-o", "run")
    assert (done.code, "returns [2, 6, 64, 64] for images [2, 3, 64, 64]" in done.err) == (2, True), done.err


SAME_LOSS = [name for name in CASES if name != "vae"]  # which draws other codes for each batch


@pytest.mark.parametrize(
    "case", [name if name == "mixed" else pytest.param(name, marks=pytest.mark.slow) for name in SAME_LOSS]
)
def test_the_gradients_of_two_processes_are_together_those_of_one(here, monkeypatch, case):
    """Losses of the halves of a batch, divided by what both have together, as `processes.reduce_normaliser` does."""
    network, data = open_case(case, here)
    flags = {"epochs": 1, "batch": 4, "imgsz": 64, "device": "cpu", "workers": 0, "plots": False}
    trainer = run.start(str(network), str(data), settings.load(flags=flags), here / "run")
    task, model = trainer.task, trainer.network.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm | torch.nn.Dropout | Reparameterize):
            module.eval()  # statistics are of the pictures of a process, dropout and codes are random
        if isinstance(module, RTDETRDecoder):
            module.nd = 0  # noise is random
    samples = [trainer.train.samples.get(i, np.random.default_rng(i), 0) for i in range(4)]

    def forward(chosen):
        batch = trainer.train.collate(samples[chosen])
        arguments = target_arguments(trainer.network, task, batch)
        return model(*network_inputs(task, batch), **arguments), batch

    def gradients_of(losses):
        model.zero_grad()
        sum(losses).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    task.normaliser = local_normaliser
    whole = gradients_of([task.loss(*forward(slice(4)))[0]])
    monkeypatch.setattr(semantic, "world_size", lambda: 2)
    halves, sums = [forward(slice(2)), forward(slice(2, 4))], []
    for number in range(100):  # a sum over both processes may depend on earlier ones, so one more is known each time
        calls, losses = ([], []), []
        for half, seen in zip(halves, calls, strict=True):

            def normaliser(total, least, seen=seen):
                seen.append(total.detach().clone())
                known = len(seen) <= len(sums)
                return (sums[len(seen) - 1] if known else seen[-1]).clamp(min=least) / 2

            task.normaliser = normaliser
            losses.append(task.loss(*half)[0])
        if number == len(calls[0]):
            break
        sums.append(calls[0][number] + calls[1][number])
    assert len(calls[0]) == len(calls[1]) == number
    # DDP averages the gradients; the trainer multiplies a loss that is a sum by the number of processes before.
    found = gradients_of(loss if task.summed else loss / 2 for loss in losses)
    assert found.keys() == whole.keys()
    scale = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=lambda m, name=name: f"{name}: {m}"
        )
