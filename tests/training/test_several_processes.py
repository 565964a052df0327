"""Distributed runs with real processes, over gloo on this machine: they equal a run of one process and end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import netbuild
from netbuild import settings
from netbuild.errors import NetbuildError
from netbuild.feed.loader import BatchLoader
from netbuild.system import processes
from netbuild.tasks.autoencode import ReconstructionMetric
from netbuild.tasks.classification_metric import ClassificationMetric
from netbuild.tasks.classify import ClassifyTask
from netbuild.tasks.detection_metric import DetectionMetric
from netbuild.tasks.losses.cells import DetectionLoss
from netbuild.training import plotting
from netbuild.training.callback_list import CallbackList
from netbuild.training.loop import Trainer
from netbuild.training.memory import OutOfMemoryError

ROOT = Path(netbuild.__file__).parent.parent
NET = """
nc: 10
ch: 1
imgsz: 8
task: classify
layers:
  - [-1, 1, nn.Conv2d, [1, 8, 3, 1, 1], stem]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.MaxPool2d, [2]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [128, 10], head]
"""
NAMES = [str(i) for i in range(10)]
QUICK = ["--epochs", "1", "--batch", "16", "-O", "workers=0", "--device", "cpu"]


def environment(**more):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def run_ranks(world, folder, call):
    """Run ``call``, an expression of this file's names, in several processes; return what each printed."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); from test_several_processes import *; {call}; gone()"
    who = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(**who, RANK=str(rank)),
        )
        for rank in range(world)
    ]  # fmt: skip
    message = [process.communicate(timeout=180)[0] for process in started]
    for process, text in zip(started, message, strict=True):
        assert process.returncode == 0, text[-3000:]
    return message


def gone():
    sys.stdout.flush()
    os._exit(0)  # as the command does


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def netbuild_in(folder, *arguments, timeout=180, **more):
    command = [sys.executable, "-m", "netbuild", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment(**more), check=False
    )


@pytest.fixture
def here(tmp_path):
    (tmp_path / "net.yaml").write_text(NET)
    return tmp_path


# -- 2 x 8 is 1 x 16 --------------------------------------------------------------------------------------------------


class Pictures:
    """Random pictures, each with a class that is visible in it."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def get(self, index, rng, epoch):
        picture = np.random.default_rng(index).integers(0, 120, (1, 8, 8), dtype=np.uint8)
        picture[0, index % 8] += 100
        return torch.from_numpy(picture), index % 10


def collate(items):
    images, classes = zip(*items, strict=True)
    return {"images": torch.stack(images), "classes": torch.tensor(classes)}


def trainer(folder, held_out=21, text=NET, **options):
    """Set up a run of this rank."""
    processes.init_process_group()
    folder.mkdir(exist_ok=True, parents=True)
    own = folder / f"net{processes.rank()}.yaml"
    own.write_text(text)
    flags = {"epochs": 2, "batch": 16, "device": "cpu", "warmup": 0.0, "lr": 0.05, "optimizer": "sgd", "ema": 0.9}
    chosen = settings.load(flags={**flags, "accumulate": 1, **options})
    torch.manual_seed(0)
    network = netbuild.build(own)
    share = (processes.rank(), processes.world_size())
    train = BatchLoader(Pictures(96), chosen.batch, collate, 0, True, 0, *share)
    val = BatchLoader(Pictures(held_out), 32, collate, 0, False, 0, *share)
    return Trainer(network, ClassifyTask(network.model[-1], NAMES), train, val, chosen, folder, NAMES)


def train_once(folder, **options):
    run = trainer(Path(folder), **options)
    run.run()
    processes.destroy_process_group()


def is_same_run(one, two):
    """Losses and measures of all epochs, and weights, last and averaged."""
    a, b = (np.genfromtxt(folder / "results.csv", delimiter=",", names=True) for folder in (one, two))
    assert a.dtype == b.dtype
    for name in a.dtype.names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name)
    from safetensors.torch import load_file

    for file in ("last.safetensors", "state.safetensors"):
        x, y = load_file(one / file), load_file(two / file)
        assert x.keys() == y.keys()
        for key in x:
            torch.testing.assert_close(x[key], y[key], atol=2e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_two_processes_are_one_of_twice_the_batch(tmp_path):
    train_once(tmp_path / "one")
    run_ranks(2, tmp_path, "train_once('two')")
    is_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 3},
        {"accumulate": 4, "optimizer": "adamw"},  # the last step of an epoch is of fewer batches
        {"parallel": "fsdp"},
        {"parallel": "fsdp", "accumulate": 2, "optimizer": "adamw", "clip": 0.05},
        {"parallel": "fsdp", "ema": 0.0, "held_out": 1},
        {"held_out": 1},
        {"freeze": "stem", "parallel": "fsdp"},
    ],
    ids=str,
)
def test_two_processes_equal_one_with_other_settings_too(tmp_path, options):
    train_once(tmp_path / "one", **{**options, "parallel": "ddp"})
    run_ranks(2, tmp_path, f"train_once('two', **{options})")
    is_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_torch_compile_in_several_processes(tmp_path):
    train_once(tmp_path / "one")
    run_ranks(2, tmp_path, "train_once('two', compile=True)")
    is_same_run(tmp_path / "one", tmp_path / "two")


def resume_once(folder, **options):
    run = trainer(Path(folder), **options)
    run.resume()
    assert run.progress.epoch == 1
    run.run()
    processes.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("first", ["ddp", "fsdp"])
def test_a_run_can_be_resumed_with_another_number_of_processes(tmp_path, first):
    options = {"optimizer": "adamw", "lr": 0.003, "schedule": "constant"}
    train_once(tmp_path / "one", **options)
    run_ranks(2, tmp_path, f"train_once('two', minutes=1e-5, parallel={first!r}, **{options})")
    run_ranks(2, tmp_path, f"resume_once('two', parallel={'fsdp' if first == 'ddp' else 'ddp'!r}, **{options})")
    is_same_run(tmp_path / "one", tmp_path / "two")
    run_ranks(2, tmp_path, f"train_once('three', minutes=1e-5, parallel={first!r}, **{options})")
    resume_once(tmp_path / "three", **options)
    is_same_run(tmp_path / "one", tmp_path / "three")


def test_a_detection_loss_in_shards_equals_that_of_the_whole_batch():
    """Shares divided by the common normaliser: the mean of their losses is the loss of the whole batch."""
    torch.manual_seed(0)
    network = netbuild.build("yolo11n.yaml", nc=3).eval()
    head = network.model[-1]
    with torch.no_grad():
        raw = network.train()(torch.rand(4, 3, 64, 64))
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.4], [0.4, 0.6, 0.3, 0.6], [0.5, 0.4, 0.8, 0.7]])
    batch = {"boxes": boxes, "classes": torch.tensor([0, 1, 2]), "index": torch.tensor([0, 1, 3])}

    def part(start, stop):
        rows = (batch["index"] >= start) & (batch["index"] < stop)
        some = {"boxes": boxes[rows], "classes": batch["classes"][rows], "index": batch["index"][rows] - start}
        return {"boxes": raw["boxes"][start:stop], "scores": raw["scores"][start:stop],
                "feats": [f[start:stop] for f in raw["feats"]]}, some  # fmt: skip

    totals = []
    for start in (0, 2):
        DetectionLoss(head, normaliser=lambda total, _: totals.append(total) or total)(*part(start, start + 2))
    pooled = sum(totals).clamp(min=1) / 2
    shares = [DetectionLoss(head, normaliser=lambda *_: pooled)(*part(start, start + 2)) for start in (0, 2)]
    whole = DetectionLoss(head)(*part(0, 4))
    for name, value in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares) / 2, value)


# -- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 32, 33, 65])
def test_shards_have_each_sample_once_with_the_size_of_one_process(world, count):
    loaders = [BatchLoader(Pictures(count), 32, collate, rank=rank, world=world) for rank in range(world)]
    assert sorted(i for loader in loaders for i in loader.indices(0)) == list(range(count))
    for loader in loaders:
        for batch in loader.batches(0):
            assert len({i // 32 for i in batch}) == 1
    learning = [BatchLoader(Pictures(count), 24, collate, 0, True, 0, rank, world) for rank in range(world)]
    assert len({len(loader.indices(0)) for loader in learning}) == 1
    assert {i for loader in learning for i in loader.indices(0)} == set(range(count))


def test_the_main_process_draws_the_pictures_of_all_ranks_once_the_others_have_ended(tmp_path, monkeypatch):
    loader = BatchLoader(Pictures(21), 4, collate, rank=0, world=2)
    assert sum(len(batch["classes"]) for batch in loader.epoch(0)) == 11  # its share, by a DataLoader that it keeps
    seen = []

    def iterate_predictions(network, loader):
        for batch in loader.epoch(0):
            seen.append(batch["classes"].tolist())
            yield batch, torch.eye(10)[batch["classes"]]

    task, network = ClassifyTask(torch.nn.Identity(), NAMES), torch.nn.Identity()
    run = SimpleNamespace(val=loader, iterate_predictions=iterate_predictions, device="cpu", folder=tmp_path, task=task)
    run.callbacks = CallbackList([])
    run.unsharded_network = lambda: network
    monkeypatch.setattr(plotting.checkpoint, "load_weights", lambda network, file: network)
    plotting.PlotCallback([]).plot_validation(run)
    assert [number for batch in seen for number in batch] == [i % 10 for i in range(21)]
    assert len(list(tmp_path.glob("val_batch*.png"))) == plotting.MAX_BATCHES
    assert loader.unsharded().world == 1 < loader.world


def fed(metric, order):
    """A metric with some of 11 pictures."""
    for i in order:
        rng = np.random.default_rng(i)
        if isinstance(metric, DetectionMetric):
            corners = torch.from_numpy(rng.uniform(0, 40, (6, 2)))
            found = torch.cat(
                [corners, corners + 20, torch.from_numpy(rng.random((6, 1))), torch.arange(6)[:, None] % 3], 1
            )
            batch = {"images": torch.zeros(1, 3, 64, 64), "boxes": torch.from_numpy(rng.uniform(0.2, 0.6, (3, 4))),
                     "classes": torch.arange(3), "index": torch.zeros(3)}  # fmt: skip
            metric.update([found], batch)
        elif isinstance(metric, ClassificationMetric):
            metric.update(torch.from_numpy(rng.random((1, 8))), {"classes": torch.tensor([i % 8])})
        else:
            picture = torch.from_numpy(rng.random((1, 1, 4, 4), dtype=np.float32))
            metric.update(picture * 0.9, {"images": picture})
    return metric


@pytest.mark.parametrize("world", [2, 3, 16])
@pytest.mark.parametrize(
    "new",
    [
        lambda: DetectionMetric(["a", "b", "c"]),
        lambda: ClassificationMetric([str(i) for i in range(8)]),
        ReconstructionMetric,
    ],
    ids=["detect", "classify", "autoencode"],
)
def test_merged_metrics_equal_those_of_one_process_exactly(new, world):
    places = [list(range(rank, 11, world)) for rank in range(world)]
    merged = new()
    merged.merge([fed(new(), order).state() for order in places], places)
    whole = fed(new(), range(11))
    assert merged.result() == whole.result()
    assert merged.classes() == whole.classes()


def validate_once(folder, held_out):
    run = trainer(Path(folder), held_out, batch=12)
    run.val.samples.get = counted(run.val.samples.get)
    print("figures", run.validate(), "seen", COUNTED)
    processes.destroy_process_group()


COUNTED = []


def counted(get):
    def count(index, rng, epoch):
        COUNTED.append(index)
        return get(index, rng, epoch)

    return count


@pytest.mark.slow
@pytest.mark.parametrize(("world", "count"), [(2, 33), (3, 65), (3, 1), (2, 7)])
def test_validation_in_several_processes_equals_that_of_one(tmp_path, world, count):
    figures = trainer(tmp_path, count, batch=12).validate()
    lines = [text.splitlines()[-1] for text in run_ranks(world, tmp_path, f"validate_once('.', {count})")]
    assert {line.split(" seen ")[0] for line in lines} == {f"figures {figures}"}
    seen = [i for line in lines for i in eval(line.split(" seen ")[1])]
    assert sorted(seen) == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_val_of_a_detector_with_rect_batches(tmp_path, world):
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(9):
        for part in ("images", "labels"):
            (tmp_path / part / "val").mkdir(parents=True, exist_ok=True)
        size = (int(rng.integers(40, 120)), int(rng.integers(40, 120)))
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"images/val/{i}.png")
        (tmp_path / f"labels/val/{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.4 0.3\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/val\nval: images/val\nnames: [a, b]\n")
    torch.manual_seed(0)
    netbuild.save(netbuild.build("yolo11n.yaml", nc=2), tmp_path / "net.safetensors")
    flags = ["val", "net.safetensors", "--data", "data.yaml", "--imgsz", 96, "--batch", 2, "-O", "workers=0", "--json"]
    one, several = (netbuild_in(tmp_path, *flags, *more) for more in ([], ["--nproc", world]))
    assert (one.returncode, several.returncode) == (0, 0), several.stderr
    assert several.stdout == one.stdout


# -- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nproc_starts_processes_that_train_together(here):
    done = netbuild_in(here, "train", "net.yaml", *QUICK, "--nproc", 2, "-o", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run: best") == 1
    assert done.stderr.count("epoch 1/1") == 1, done.stderr
    assert done.stderr.count("digits: classify") == 1, done.stderr  # the look at the data
    assert (here / "run" / "best.safetensors").is_file()


@pytest.mark.slow
def test_mistakes_are_reported_once(here):
    (here / "full").mkdir()
    (here / "full" / "file").write_text("")
    for flags, message in [
        (["--data", "nowhere", "-o", "run"], "nowhere\n"),
        (["-o", "full"], "the folder is not empty"),
        (["-O", "freeze=nostem", "-o", "run"], "no row has this name"),
        (["--batch", "7", "-o", "run"], "--batch 7 is no multiple of the 2 processes"),
        (["-O", "sync_bn=true", "-o", "run"], "SyncBatchNorm does not work on cpu"),
        (["-O", "parallel=fsdp", "--amp", "fp16", "-o", "run"], "does not work with fp16"),
    ]:
        done = netbuild_in(here, "train", "net.yaml", *QUICK, *flags, "--nproc", 2)
        assert done.returncode == 2, done.stderr
        assert (done.stderr.count("error:"), done.stderr.count(message)) == (1, 1), done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr[done.stderr.index("error:") :].splitlines()) <= 2, done.stderr
    assert not (here / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nnodes", "2"], "--rdzv is missing"),
        (["--nnodes", "2", "--rdzv", "host"], "must be HOST:PORT"),
        (["--nnodes", "2", "--rdzv", "host:1", "--node-rank", "2"], "must be from 0 to 1"),
        (["--rdzv", "host:1"], "--rdzv has no effect on one machine"),
        (["--amp", "bf16", "--no-amp"], "exclude each other"),
        (["--amp", "half"], "must be one of auto, off, bf16, fp16"),
        (["--nproc", "2", "--resume", "nowhere"], "there is no run to resume"),
        (["--nproc", "2", "nowhere.yaml"], "there is no file 'nowhere.yaml'"),
    ],
)
def test_wrong_flags_are_refused_before_processes_start(cli, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(NET)
    file = [] if "--resume" in flags or "nowhere.yaml" in flags else ["net.yaml"]
    done = cli("train", *file, *flags)
    assert done.code == 2
    assert message in done.err


def test_the_environment_of_a_slurm_task():
    known = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[003-004,9]",
             "SLURM_JOB_ID": "41", "SLURM_STEP_ID": "2"}  # fmt: skip
    assert processes.read_slurm_environment(known) == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu003", "MASTER_PORT": "12043",
    }  # fmt: skip
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "2"}
    assert {k: processes.read_slurm_environment({**known, **own})[k] for k in own} == own
    for other in ({"SLURM_NTASKS": "1"}, {"WORLD_SIZE": "8"}, {"SLURM_STEP_NUM_TASKS": "1"}):
        assert processes.read_slurm_environment({**known, **other}) == {}
    assert processes.read_slurm_environment({}) == {}
    assert processes.is_distributed(known)
    assert not processes.is_distributed({"SLURM_NTASKS": "8"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu[003-007,12],login", "gpu003"), ("a", "a"), ("a,b", "a"), ("n-[1,3]", "n-1"), ("r[2-3]-ib", "r2-ib")],
)
def test_the_first_host_of_a_node_list(monkeypatch, nodes, host):
    monkeypatch.setenv("PATH", "")
    assert processes.find_first_host(nodes) == host


def test_the_first_host_from_scontrol(monkeypatch, tmp_path):
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && echo "x9"\necho "$3"\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert processes.find_first_host("x[9-10]") == "x9"


def under_slurm(here, job, *arguments):
    """Return the exit codes and outputs of two tasks of a SLURM job."""
    command = [sys.executable, "-m", "netbuild", "train", *map(str, arguments), *QUICK, "-o", "run"]
    job = {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": str(job)}
    started = [
        subprocess.Popen(
            command, cwd=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(**job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
        )
        for rank in range(2)
    ]  # fmt: skip
    message = [process.communicate(timeout=180)[0] for process in started]
    return [process.returncode for process in started], message


@pytest.mark.slow
def test_two_tasks_of_slurm_train_together(here):
    codes, message = under_slurm(here, os.getpid(), "net.yaml")
    assert codes == [0, 0], message
    assert "run: best" in message[0]
    assert message[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [None, (0, 1)])
def test_two_machines_simulated_on_this_one(here, ranks):
    flags = ["--nnodes", "2", "--rdzv", f"localhost:{free_port()}", "-o", "run"]
    command = [sys.executable, "-m", "netbuild", "train", "net.yaml", *QUICK, *flags]
    started = [
        subprocess.Popen(
            [*command, *(["--node-rank", str(ranks[i])] if ranks else [])], cwd=here, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(),
        )
        for i in range(2)
    ]  # fmt: skip
    message = [process.communicate(timeout=180)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], message
    assert "".join(message).count("run: best") == 1


OWN = """
import os, torch
from torch import nn

print("loaded", os.environ.get("RANK"), __file__, flush=True)


class Mine(nn.Module):
    def __init__(self, c1):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(c1, 1, 1))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        {fault}
        return x * self.scale
"""
OWN_NET = NET.replace("  - [-1, 1, nn.ReLU, []]\n", "  - [-1, 1, Mine, []]\n")


def own_net(folder, fault="pass", imports=""):
    (folder / "mine.py").write_text(OWN.replace("{fault}", fault))
    (folder / "own.yaml").write_text(imports + OWN_NET)


@pytest.mark.slow
@pytest.mark.parametrize(("imports", "flag"), [("", ["--modules", "mine.py"]), ("imports: [./mine.py]", ["--trust"])])
def test_every_process_loads_the_same_module_file(here, imports, flag):
    own_net(here, imports=imports)
    done = netbuild_in(here, "train", "own.yaml", *QUICK, *flag, "--nproc", 2, "-o", "run")
    assert done.returncode == 0, done.stderr
    file = str((here / "mine.py").resolve())
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("loaded")) == [
        f"loaded {rank} {file}" for rank in ("0", "1", "None")
    ]


@pytest.mark.slow
def test_several_processes_do_not_ask_for_trust(here):
    own_net(here, imports="imports: [./mine.py]")
    done = netbuild_in(here, "train", "own.yaml", *QUICK, "--nproc", 2, "-o", "run")
    assert done.returncode == 2
    assert done.stderr.count("runs only if you trust it") == 1


@pytest.mark.slow
def test_the_commands_of_the_manual_run(here):
    """Those for the CPU of one machine."""
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    lines = [line[2:].split("#")[0] for line in page.splitlines() if line.startswith("$ netbuild ")]
    chosen = [line for line in lines if "cells" not in line and "/shared" not in line]
    assert len(chosen) == 3
    for line in chosen:
        done = netbuild_in(here, *line.split()[1:])
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (here / "run" / "results.csv").read_text().count("\n") == 3


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (
            "if self.calls == 3 and os.environ.get('RANK') == '1': x = x * float('nan')",
            1,
            "the loss is not finite in epoch 1",
        ),
        ("if self.calls == 3 and os.environ.get('RANK') == '1': os._exit(7)", 7, ""),
        ("if self.calls == 3 and os.environ.get('RANK') == '0': os.kill(os.getpid(), 9)", 1, "was killed by SIGKILL"),
        ("if self.calls == 3 and os.environ.get('RANK'): raise torch.OutOfMemoryError('CUDA')", 1, "too little memory"),
    ],
)
def test_a_failing_process_ends_all(here, fault, code, message):
    own_net(here, fault)
    done = netbuild_in(here, "train", "own.yaml", *QUICK, "--modules", "mine.py", "--nproc", 2, "-o", "run", timeout=90)
    assert done.returncode != 0
    if "RANK') == '1'" not in fault or code == 1:
        assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def train_with_failing_callbacks():
    """Train once for each hook that raises; all ranks meet in a collective operation after each run."""
    from netbuild.training.callbacks import Callback

    for hook in ("on_run_begin", "on_batch_end", "on_epoch_end", "on_save", "on_run_end"):

        def fail(*_):
            raise ZeroDivisionError

        run = trainer(Path(hook), epochs=2)
        run.callbacks.append(type("Failing", (Callback,), {hook: fail})())
        try:
            run.run()
        except (ZeroDivisionError, processes.PeerFailedError) as error:
            print(hook, type(error).__name__, run.progress.epoch, processes.all_gather("here"))


@pytest.mark.slow
def test_an_exception_in_a_callback_on_rank_0_ends_all_ranks(tmp_path):
    first, second = run_ranks(2, tmp_path, "train_with_failing_callbacks()")
    epochs = {"on_run_begin": 0, "on_batch_end": 0, "on_epoch_end": 1, "on_save": 1, "on_run_end": 2}
    for text, error in ((first, "ZeroDivisionError"), (second, "PeerFailedError")):
        assert text.splitlines() == [f"{hook} {error} {epoch} ['here', 'here']" for hook, epoch in epochs.items()]


@pytest.mark.slow
def test_without_a_launcher_a_failing_process_ends_all(here):
    """As under SLURM, where nobody ends the others."""
    own_net(here, "if self.calls == 3 and os.environ.get('SLURM_PROCID') == '1': x = x * float('nan')")
    codes, message = under_slurm(here, os.getpid() + 1, "own.yaml", "--modules", "mine.py")
    assert codes == [1, 1], message
    assert "the loss is not finite" in message[1]
    assert "process 0 of 2 lost the connection to the others" in message[0]


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "arguments"), [(1, ["nt.yaml"]), (0, ["net.yaml", "--no-such-flag"])])
def test_ranks_that_are_started_by_hand_do_not_wait_for_one_that_fails_early(here, broken, arguments):
    """Before the processes are connected: the one that fails tells the other."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "netbuild", "train", *(arguments if rank == str(broken) else ["net.yaml"]), *QUICK],
            cwd=here, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=environment(**place, RANK=rank),
        )
        for rank in "01"
    ]  # fmt: skip
    messages = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2], messages
    assert f"error: process {broken} of 2 of the run failed: " in messages[1 - broken]
    assert arguments[-1] in messages[broken]
    assert "Traceback" not in "".join(messages)


def lose_the_other():
    processes.init_process_group()
    if processes.rank() == 1:
        os._exit(0)
    try:
        for _ in range(3):
            processes.all_gather(0)
    except processes.PeerLostError as error:
        print(error.message)


@pytest.mark.slow
def test_a_rank_that_is_killed_while_the_others_prepare_is_named(tmp_path):
    first, _ = run_ranks(2, tmp_path, "lose_the_other()")
    assert "process 0 of 2 lost the connection to the others" in first


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE='abc', which is no number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 but no RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}, "RANK=2 and WORLD_SIZE=2: ranks"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "y"}, "MASTER_PORT='y', which is"),
        ({"SLURM_NTASKS": "x", "SLURM_PROCID": "0"}, "SLURM_NTASKS='x', which is no number"),
    ],
)  # fmt: skip
def test_an_environment_of_half_a_launcher_is_explained(cli, here, monkeypatch, place, message):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    done = cli("train", here / "net.yaml", *QUICK, "-o", here / "run")
    assert (done.code, message in done.err) == (2, True), done.err


def test_a_process_that_waits_says_so_and_gives_up(here, monkeypatch, capfd):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr(processes, "REMINDER", 0.1)
    monkeypatch.setattr(processes, "CONNECTION_TIMEOUT", 1)
    with pytest.raises(NetbuildError, match="process 0 of 2 cannot connect to the others") as caught:
        processes.init_process_group()
    assert "unset RANK" in caught.value.hint
    waits = capfd.readouterr().err
    assert "process 0 of 2 waits for the others at 127.0.0.1:" in waits
    assert "(at most 1 s)" in waits
    with pytest.raises(NetbuildError, match="cannot connect"):
        processes.init_process_group(patience=0.5)
    assert "(at most 0.5 s)" in capfd.readouterr().err
    monkeypatch.setattr(processes, "rendezvous", None)
    processes.report_early_failure(2)  # does not try again


@pytest.mark.slow
def test_ctrl_c_ends_all_with_130(here):
    command = [sys.executable, "-m", "netbuild", "train", "net.yaml", *QUICK, "--epochs", "5000", "--nproc", "2"]
    process = subprocess.Popen(
        command, cwd=here, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        time.sleep(0.1)
        if (here / "runs" / "net" / "results.csv").is_file():
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, message = process.communicate(timeout=90)
    assert process.returncode == 130, message
    assert all(line.startswith("epoch ") for line in message.splitlines() if line != "interrupted"), message


# -- precision and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_on_the_cpu(tmp_path, amp):
    runs = [trainer(tmp_path / kind, amp=kind) for kind in ("auto", "off", amp)]
    for run in runs:
        run.run()
    weights = [torch.cat([p.detach().flatten() for p in run.network.parameters()]) for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert torch.isfinite(weights[2]).all()
    assert weights[2].dtype is torch.float32
    difference = (weights[2] - weights[1]).abs().max()
    assert 1e-6 < difference < 0.05


def test_amp_flags_are_settings(cli):
    assert "amp: bf16" in cli("train", "--print-config", "--amp", "bf16").out
    assert "amp: off" in cli("train", "--print-config", "--no-amp", "-O", "amp=fp16").out
    assert "amp: auto" in cli("train", "--print-config").out


def test_too_little_memory_is_reported_with_what_helps(tmp_path):
    run = trainer(tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    run.network.model[0].register_forward_pre_hook(full)
    with pytest.raises(OutOfMemoryError) as caught:
        run.run()
    assert caught.value.exit_code == 1
    for part in ("GiB were in use", "--batch 8", "accumulate", "--imgsz", "--amp bf16", "parallel=fsdp"):
        assert part in str(caught.value)


def test_sync_bn_keeps_the_keys_and_works_in_eval(tmp_path):
    from netbuild.training.parallel import convert_sync_bn

    network = netbuild.build("yolo11n.yaml", nc=2).eval()
    image, keys = torch.rand(1, 3, 64, 64), list(network.state_dict())
    before = network(image)[0]
    convert_sync_bn(network)
    assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in network.modules())
    assert list(network.state_dict()) == keys
    torch.testing.assert_close(network(image)[0], before)
    netbuild.save(network, tmp_path / "net.safetensors")
    torch.testing.assert_close(netbuild.build(tmp_path / "net.safetensors").eval()(image)[0], before)
