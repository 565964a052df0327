"""The training loop: runs learn, repeat exactly, can be killed and resumed at any moment, and report errors."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

import netbuild
from netbuild import NetbuildError, settings
from netbuild.feed.loader import BatchLoader
from netbuild.grammar import checkpoint_header
from netbuild.tasks.classify import ClassifyTask
from netbuild.training import musgd, optimisers
from netbuild.training.batches import fastest_memory_format, network_inputs
from netbuild.training.callbacks import Callback
from netbuild.training.loop import NotFiniteError, Trainer
from netbuild.training.overfitting import overfit

NET = """
nc: 10
ch: 1
imgsz: 8
layers:
  - [-1, 1, nn.Conv2d, [1, 16, 3, 1, 1], stem]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.MaxPool2d, [2]]
  - [-1, 1, nn.Dropout, [0.1]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [256, 10], head]
"""


class Digits:
    """scikit-learn's digits, randomly shifted in training."""

    def __init__(self, part, moves=False):
        from sklearn.datasets import load_digits

        data = load_digits()
        chosen = [i for i in range(len(data.target)) if (i % 5 == 0) == (part == "val")]
        self.images, self.classes = (data.images[chosen] * 15.9).astype(np.uint8), data.target[chosen]
        self.moves = moves

    def __len__(self):
        return len(self.classes)

    def get(self, index, rng, epoch):
        image = self.images[index]
        if self.moves:
            image = np.roll(image, rng.integers(-1, 2, 2), (0, 1))
        return torch.from_numpy(image.copy())[None], int(self.classes[index])


def collate(items):
    images, classes = zip(*items, strict=True)
    return {"images": torch.stack(images), "classes": torch.tensor(classes)}


def trainer(folder, seed=0, network=None, workers=0, text=NET, **options):
    folder.mkdir(exist_ok=True)
    (folder / "net.yaml").write_text(text)
    chosen = settings.load(flags={"epochs": 4, "batch": 64, "seed": seed, "device": "cpu", "warmup": 1.0, **options})
    torch.manual_seed(seed)
    network = network or netbuild.build(folder / "net.yaml")
    names = [str(i) for i in range(10)]
    train = BatchLoader(Digits("train", True), chosen.batch, collate, seed, True, workers)
    val = BatchLoader(Digits("val"), 128, collate)
    return Trainer(network, ClassifyTask(network.model[-1], names), train, val, chosen, folder, names)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_learns_and_saves_its_best_and_last_weights(tmp_path):
    run = trainer(tmp_path, epochs=12, lr=0.003, ema=0.99, save_period=5)
    progress = run.run()
    assert progress.best > 0.9
    saved = netbuild.build(tmp_path / "best.safetensors")
    facts = checkpoint_header.read_info(tmp_path / "best.safetensors")
    assert facts.names == [str(i) for i in range(10)]
    assert facts.training["epoch"] == progress.best_epoch
    network = run.network
    main = run.learner.main
    main.network = saved  # the saved weights give the measure that was reported
    main.average = optimisers.EMA(saved, 0.9)
    assert run.validate()["fitness"] == pytest.approx(facts.training["measures"]["fitness"])
    main.network = network
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,train/cls")
    assert len(lines) == 13
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "best.safetensors", "epoch10.safetensors", "epoch5.safetensors", "last.safetensors", "state.safetensors",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    runs = [
        trainer(tmp_path / str(i), seed=seed, workers=workers)
        for i, (seed, workers) in enumerate([(0, 0), (0, 2), (1, 0)])
    ]
    for run in runs:
        run.run()
    assert same(runs[0].network, runs[1].network)
    assert not same(runs[0].network, runs[2].network)


class StopError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, optimizer):
    complete = trainer(tmp_path / "whole", optimizer=optimizer)
    complete.run()

    class Stop(Callback):
        def on_batch_end(self, run, epoch, number, losses, rate):
            if (epoch, number) == (2, 7):
                raise StopError

    broken = trainer(tmp_path / "broken", optimizer=optimizer)
    broken.callbacks.append(Stop())
    with pytest.raises(StopError):
        broken.run()
    again = trainer(
        tmp_path / "broken", seed=0, network=netbuild.build(tmp_path / "broken" / "net.yaml"), optimizer=optimizer
    )
    again.resume()
    assert again.progress.epoch == 2
    again.run()
    assert same(complete.network, again.network)
    for name in ("last.safetensors", "results.csv"):
        a, b = ((tmp_path / run / name).read_bytes() for run in ("whole", "broken"))
        assert a == b, name


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_loop import trainer
run = trainer(Path({folder!r}), epochs=40)
if (run.state_path).exists():
    run.resume()
run.run()
"""


@pytest.mark.slow
def test_a_killed_run_can_be_resumed_at_any_moment(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    rng = np.random.default_rng(0)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(3 + 2 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    complete = trainer(tmp_path / "whole", epochs=40)
    complete.run()
    last = netbuild.build(tmp_path / "killed" / "last.safetensors")
    assert same(last, complete.learner.main.averaged())


def test_a_state_of_another_network_is_an_error(tmp_path):
    trainer(tmp_path, epochs=1).run()
    other = trainer(tmp_path, text=NET.replace("16, 3, 1, 1]", "8, 3, 1, 1]").replace("256, 10", "128, 10"))
    with pytest.raises(NetbuildError, match="the run cannot be resumed from this state"):
        other.resume()
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(NetbuildError):
        other.resume()


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_row(tmp_path):
    run = trainer(tmp_path)
    with torch.no_grad():
        run.network.model[5].weight[0, 0] = float("nan")
    with pytest.raises(
        NotFiniteError, match=r"epoch 1, batch 1 \(cls nan\): row 5 \(head\) nn.Linear is the first"
    ) as caught:
        run.run()
    assert caught.value.exit_code == 1


def test_frozen_rows_do_not_change(tmp_path):
    run = trainer(tmp_path, epochs=1, freeze="stem")
    before = run.network.model[0].weight.clone()
    run.run()
    assert torch.equal(run.network.model[0].weight, before)
    for wanted, message in [("7", "rows 0 to 5"), ("stme", "did you mean"), ("3-1", "rows 0 to 5")]:
        with pytest.raises(NetbuildError) as caught:
            trainer(tmp_path, freeze=wanted)
        assert message in str(caught.value)
    with pytest.raises(NetbuildError, match="all parameters of the network are frozen"):
        trainer(tmp_path, freeze="0-5")


def test_patience_and_minutes_end_a_run(tmp_path):
    assert trainer(tmp_path / "a", epochs=50, patience=2, lr=0.0).run().epoch <= 4
    assert trainer(tmp_path / "b", epochs=50, minutes=1e-9).run().epoch == 1


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    text, same = NET.replace("  - [-1, 1, nn.Dropout, [0.1]]\n", ""), {"epochs": 1, "warmup": 0.0, "ema": 0.0}
    one = trainer(tmp_path / "one", text=text, batch=64, accumulate=1, optimizer="sgd", **same)
    two = trainer(tmp_path / "two", text=text, batch=32, accumulate=2, optimizer="sgd", **same)
    for run in (one, two):
        run.run()
    for a, b in zip(one.network.parameters(), two.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_norms_and_biases_have_no_weight_decay():
    network = netbuild.build("yolo11n.yaml")
    plan = optimisers.make_plan(network, settings.load(flags={"optimizer": "sgd"}), 10)
    decayed = {id(p) for g in plan.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, p in network.named_parameters():
        if p.requires_grad:
            assert (id(p) in decayed) == (p.ndim > 1), name


@pytest.mark.parametrize(
    ("schedule", "values"), [("linear", [1, 0.505, 0.01]), ("cosine", [1, 0.505, 0.01]), ("constant", [1, 1, 1])]
)
def test_schedules_of_the_learning_rate(schedule, values):
    chosen = settings.load(flags={"schedule": schedule, "epochs": 10})
    assert [optimisers.schedule_factor(chosen, epoch) for epoch in (0, 5, 10)] == pytest.approx(values)


def test_the_decay_of_the_ema_rises():
    network = torch.nn.Linear(2, 1)
    average = optimisers.EMA(network, 0.9)
    first = {k: v.clone() for k, v in average.tensors.items()}
    with torch.no_grad():
        network.weight += 1
    average.update(network)
    decay = 0.9 * (1 - np.exp(-1 / 2000))
    torch.testing.assert_close(average.tensors["weight"], decay * first["weight"] + (1 - decay) * network.weight)


def test_a_batch_can_be_overfitted():
    torch.manual_seed(0)
    network = netbuild.build("lenet5-modern.yaml")
    digits = Digits("train")
    batch = collate([digits.get(i, None, 0) for i in range(16)])
    batch["images"] = torch.nn.functional.interpolate(batch["images"].float(), (32, 32)) / 255
    losses = overfit(network, ClassifyTask(network.model[-1]), batch, 60, 0.003)
    assert losses[-1] < 0.1 * losses[0]


def test_the_loader_yields_each_sample_once_in_an_order_per_epoch():
    class Numbers:
        def __len__(self):
            return 10

        def get(self, index, rng, epoch):
            return index, rng.random()

    loader = BatchLoader(Numbers(), 4, list, seed=1, shuffle=True)
    epochs = [[item for batch in loader.epoch(e) for item in batch] for e in (0, 1, 0)]
    assert sorted(i for i, _ in epochs[0]) == list(range(10))
    assert epochs[0] == epochs[2]
    assert [i for i, _ in epochs[0]] != [i for i, _ in epochs[1]]
    shares = [BatchLoader(Numbers(), 4, list, 1, True, rank=rank, world=2) for rank in (0, 1)]
    steps = [[i for i, _ in a + b] for a, b in zip(*(share.epoch(0) for share in shares), strict=True)]
    complete = [[i for i, _ in batch] for batch in loader.epoch(0)]
    assert [sorted(step) for step in steps] == [sorted(batch) for batch in complete]


TOGETHER = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch.distributed as dist
from test_loop import NET, Digits, collate, names, plain_trainer
dist.init_process_group("gloo")
run = plain_trainer(Path({folder!r}) / str(dist.get_rank()), dist.get_rank(), dist.get_world_size())
run.run()
dist.destroy_process_group()
"""
names = [str(i) for i in range(10)]


def plain_trainer(folder, rank=0, world=1):
    """A run without dropout and batch norms, whose samples count alike."""
    text = NET.replace("  - [-1, 1, nn.Dropout, [0.1]]\n", "")
    run = trainer(folder, text=text, epochs=2, batch=16, accumulate=1, lr=0.01, optimizer="sgd")
    for loader in (run.train, run.val):
        loader.rank, loader.world = rank, world
    return run


@pytest.mark.slow
def test_two_processes_are_one_of_twice_the_batch(tmp_path):
    code = TOGETHER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    script = tmp_path / "together.py"
    script.write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29512", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    one = plain_trainer(tmp_path / "one")
    one.run()
    together = netbuild.build(tmp_path / "0" / "last.safetensors")
    for a, b in zip(one.learner.main.averaged().parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert not (tmp_path / "1" / "last.safetensors").exists()
    rows = [(tmp_path / part / "results.csv").read_text().splitlines()[-1].split(",") for part in ("one", "0")]
    assert [float(v) for v in rows[0][2:]] == pytest.approx([float(v) for v in rows[1][2:]], abs=0.01)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_from_a_file_and_flags(tmp_path):
    (tmp_path / "train.yaml").write_text("epochs: 7\nlr: 1e-3\nschedule: cosine\n")
    chosen = settings.load(tmp_path / "train.yaml", {"epochs": 9, "batch": None})
    assert (chosen.epochs, chosen.lr, chosen.schedule, chosen.batch) == (9, 0.001, "cosine", 16)
    (tmp_path / "again.yaml").write_text(chosen.to_yaml(comments=True))
    assert settings.load(tmp_path / "again.yaml") == chosen
    assert all(f.metadata["doc"] for f in settings.FIELDS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "1:1: unknown setting 'epoch'"),
        ("epochs: many", "epochs: 'many' must be a whole number"),
        ("epochs: 0", "must be from 1 to"),
        ("schedule: cosin", "did you mean 'cosine'"),
        ("lr: true", "must be a number or null"),
        ("[1]", "settings must be a mapping"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, text, message):
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(NetbuildError) as caught:
        settings.load(tmp_path / "train.yaml")
    assert message in str(caught.value)


def test_musgd_equals_its_definition():
    """A matrix follows the orthogonal one next to its gradient, everything Nesterov's SGD."""
    torch.manual_seed(0)
    matrix = torch.randn(6, 20)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(musgd.orthogonalise(matrix))
    assert 0.6 < values.min() < values.max() < 1.3
    assert torch.nn.functional.cosine_similarity(musgd.orthogonalise(matrix).flatten(), (u @ v).flatten(), 0) > 0.97
    torch.testing.assert_close(musgd.orthogonalise(matrix.T), musgd.orthogonalise(matrix).T)

    def stepped(kind, start, grads, **options):
        p = torch.nn.Parameter(start.clone())
        optimizer = kind([p], 0.1, 0.9, **options)
        for grad in grads:
            p.grad = grad.clone()
            optimizer.step()
        return p.detach()

    def sgd(params, lr, momentum, **options):
        return torch.optim.SGD(params, lr, momentum, nesterov=True, **options)

    vector, kernel = torch.randn(5), torch.randn(4, 3, 3, 3)
    grads = [[torch.randn_like(x) for _ in range(3)] for x in (vector, kernel)]
    wanted = stepped(sgd, vector, grads[0], weight_decay=0.1)
    torch.testing.assert_close(stepped(musgd.MuSGD, vector, grads[0], weight_decay=0.1), wanted)
    plain = stepped(sgd, kernel, grads[1])
    torch.testing.assert_close(stepped(musgd.MuSGD, kernel, grads[1], muon=0.0), plain)
    mean, moved = torch.zeros_like(kernel), torch.zeros_like(kernel)
    for grad in grads[1]:
        mean = 0.9 * mean + 0.1 * grad
        moved += musgd.orthogonalise((0.9 * mean + 0.1 * grad).flatten(1)).view_as(kernel)
    torch.testing.assert_close(stepped(musgd.MuSGD, kernel, grads[1]), plain - 0.2 * 0.1 * moved)


def test_short_runs_accumulate_fewer_batches():
    network = netbuild.build("lenet5.yaml")
    for epochs, batches, batch, wanted in [(40, 13, 16, (1, 520)), (100, 1000, 16, (4, 25_000)), (5, 9, 4, (4, 15))]:
        plan = optimisers.make_plan(network, settings.load(flags={"epochs": epochs, "batch": batch}), batches)
        assert (plan.accumulate, plan.steps) == wanted
    assert optimisers.make_plan(network, settings.load(flags={"accumulate": 3}), 10).accumulate == 3


def test_rows_may_have_their_own_learning_rates(tmp_path):
    text = NET + "lr_factors: {layers: 0.5, 0-2: 0.1, head: 3}\n"
    run = trainer(tmp_path, text=text, warmup=0.0, optimizer="sgd", lr=0.01, epochs=1)
    optimisers.set_rates(run.learner.main.plan, run.settings, 0, 10)
    rates = {id(p): g["lr"] for g in run.learner.main.plan.optimizer.param_groups for p in g["params"]}
    assert rates[id(run.network.model[0].weight)] == pytest.approx(0.001)
    assert rates[id(run.network.model[5].bias)] == pytest.approx(0.03)
    start = run.network.model[5].weight.detach().clone()
    run.run()
    checkpoint = netbuild.load(tmp_path / "last.safetensors")
    assert checkpoint.lr_factors == {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.5, 4: 0.5, 5: 3.0}
    assert not torch.equal(start, run.network.model[5].weight)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr_factors: {steam: 0.1}", "no row or section 'steam'"),
        ("lr_factors: {0-9: 0.1}", "rows are 0 to 5"),
        ("lr_factors: {stem: -1}", "must be a number from 0 to 100"),
        ("lr_factors: 0.1", "is a mapping"),
    ],
)
def test_wrong_learning_rates_of_rows_are_refused(tmp_path, line, message):
    (tmp_path / "net.yaml").write_text(f"{NET}{line}\n")
    with pytest.raises(NetbuildError, match=message) as caught:
        netbuild.load(tmp_path / "net.yaml")
    assert caught.value.where.line == 12


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = trainer(tmp_path, epochs=3)

    class Spoil(Callback):
        def on_epoch_end(self, run, measures, best):
            run.network.model[0].weight.data.fill_(float("nan"))

    run.callbacks.append(Spoil())
    with pytest.raises(NotFiniteError):
        run.run()
    saved = netbuild.build(tmp_path / "best.safetensors")
    assert all(torch.isfinite(p).all() for p in saved.parameters())
    run = trainer(tmp_path / "b", epochs=1)
    run.learner.step = lambda: run.network.model[0].weight.data.fill_(float("inf"))
    run.train_batch = lambda *_: {}
    with pytest.raises(NotFiniteError, match=r"model.0.weight is not finite after epoch 1"):
        run.run()
    assert not (tmp_path / "b/best.safetensors").exists()


def test_multi_scale_draws_repeatable_random_sizes(tmp_path):
    run = trainer(tmp_path, multi_scale=0.5)
    run.task.head.stride = torch.tensor([8.0, 16.0])
    batch = {"images": torch.zeros(2, 3, 320, 160, dtype=torch.uint8)}
    sizes = [tuple(run.rescale(batch, 0, number)["images"].shape[2:]) for number in range(30)]
    assert sizes == [tuple(run.rescale(batch, 0, number)["images"].shape[2:]) for number in range(30)]
    assert len(set(sizes)) > 4
    assert all(h % 32 == w % 32 == 0 and 128 <= h <= 480 for h, w in sizes)


VIEWS = """
import torch.nn as nn


class Apart(nn.Module):
    def forward(self, x):
        return x.{method}(len(x), -1).{method}(x.shape)
"""


@pytest.mark.parametrize(("method", "form"), [("view", torch.contiguous_format), ("reshape", torch.channels_last)])
def test_the_memory_format_is_one_that_every_module_takes(tmp_path, method, form):
    (tmp_path / "apart.py").write_text(VIEWS.format(method=method))
    text = NET.replace("  - [-1, 1, nn.Dropout, [0.1]]", "  - [-1, 1, Apart, []]")
    any_channels = text.replace("[1, 16, 3, 1, 1]", "{out_channels: 16, kernel_size: 3, padding: 1}")
    (tmp_path / "net.yaml").write_text(any_channels)
    for channels, half, wanted in ((3, False, form), (1, False, torch.contiguous_format), (1, True, form)):
        network = netbuild.build(tmp_path / "net.yaml", ch=channels, modules=[tmp_path / "apart.py"])
        task = ClassifyTask(network.model[-1])
        assert fastest_memory_format(network, task, half) is wanted
        image = torch.rand(2, channels, 8, 8)
        given = network_inputs(task, {"images": (image * 255).byte()}, wanted)[0]
        assert given.is_contiguous(memory_format=wanted)
        # Convolutions follow the strides, which for one channel differ only here.
        assert (given.stride(1) == 1) == (wanted is torch.channels_last)
        network(given).sum().backward()
    # A module that views is known, because it fails.
    network = netbuild.build(tmp_path / "net.yaml", ch=3, modules=[tmp_path / "apart.py"])
    last = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view size") if method == "view" else nullcontext():
        network(last)


def test_weights_are_initialised_as_the_file_says(tmp_path):
    text = NET + "init: he\n"
    (tmp_path / "he.yaml").write_text(text.replace("[1, 16, 3, 1, 1]", "[1, 160, 3, 1, 1]").replace("[256,", "[2560,"))
    torch.manual_seed(0)
    network = netbuild.build(tmp_path / "he.yaml")
    convolution, linear = network.model[0], network.model[-1]
    for module, fan_in in ((convolution, 9), (linear, 2_560)):
        assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
        assert not module.bias.any()
    (tmp_path / "he.yaml").write_text(text.replace("init: he", "init: hee"))
    with pytest.raises(NetbuildError, match="'init' must be he, not hee") as found:
        netbuild.build(tmp_path / "he.yaml")
    assert "did you mean 'he'" in str(found.value)


@pytest.mark.parametrize("name", ["yolo11.yaml", "yolo26.yaml"])
def test_a_head_keeps_its_biases_with_any_initialisation(tmp_path, name):
    heads = []
    for more in ("", "init: he\n"):
        (tmp_path / "net.yaml").write_text(f"extends: {name}\n{more}")
        heads.append(netbuild.build(tmp_path / "net.yaml", scale="n").model[-1])
    biases = [{k: v for k, v in head.state_dict().items() if k.endswith("2.bias")} for head in heads]
    assert biases[0].keys() == biases[1].keys() != set()
    assert all(biases[0][key].equal(biases[1][key]) for key in biases[0])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_number_of_batches_is_that_of_the_epoch(world, shuffle):
    for count in range(1, 15):
        for batch in (1, 2, 3, 6):
            loaders = [BatchLoader(range(count), batch, list, 0, shuffle, 0, rank, world) for rank in range(world)]
            assert [len(loader) for loader in loaders] == [len(loader.batches(0)) for loader in loaders], (count, batch)
