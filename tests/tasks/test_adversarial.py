"""A generator against a discriminator: losses by plain formulas, turns, a collapse, and a run as a user starts it."""

import json
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.apart import KILLER, run_apart
from safetensors.torch import load_file
from scipy.linalg import sqrtm

import netbuild
from netbuild import runtime, settings
from netbuild.data.images import read_image
from netbuild.prediction.judging import Judge
from netbuild.tasks import find
from netbuild.tasks.frechet import frechet_distance
from netbuild.tasks.generate import penalize_gradients
from netbuild.training import run
from netbuild.training.adversarial import PATIENCE, CollapseCallback

GENERATOR = """
task: generate
inputs: {noise: [4, 1, 1], label: []}
imgsz: 1
nc: 5
layers:
  - [label, 1, OneHot, [nc]]
  - [-1, 1, nn.Unflatten, [1, [nc, 1, 1]]]
  - [[noise, -1], 1, Concat, []]
  - [-1, 1, nn.ConvTranspose2d, {out_channels: 8, kernel_size: 4}]
  - [-1, 1, nn.BatchNorm2d, []]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.ConvTranspose2d, {out_channels: 1, kernel_size: 4, stride: 2, padding: 1}]
  - [-1, 1, nn.Tanh, []]
"""
DISCRIMINATOR = """
inputs: {image: [1, 8, 8], label: []}
nc: 5
layers:
  - [label, 1, OneHot, [nc]]
  - [-1, 1, nn.Linear, {out_features: 64}]
  - [-1, 1, nn.Unflatten, [1, [1, 8, 8]]]
  - [[image, -1], 1, Concat, []]
  - [-1, 1, nn.Conv2d, {out_channels: 8, kernel_size: 4, stride: 2}]
  - [-1, 1, nn.LeakyReLU, [0.2]]
  - [-1, 1, nn.Conv2d, {out_channels: 1, kernel_size: 3}]
"""
PAIR = ("generator.yaml", "--with", "discriminator=discriminator.yaml")
QUICK = ("--device", "cpu", "-Oworkers=0", "-Oplots=false", "--batch", "128")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = DISCRIMINATOR.replace("kernel_size: 3}", "kernel_size: 2}")
    files = {"generator": GENERATOR, "discriminator": DISCRIMINATOR, "bad": bad}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "killer.py").write_text(KILLER)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [
        ("non-saturating", lambda r, m: -np.log(1 / (1 + np.exp(-r))) - np.log(1 - 1 / (1 + np.exp(-m))), "log"),
        ("hinge", lambda r, m: np.maximum(0, 1 - r) + np.maximum(0, 1 + m), "mean"),
        ("wasserstein", lambda r, m: m - r, "mean"),
    ],
)
def test_the_losses_are_the_papers(name, critic, generator):
    real, made = np.array([2.0, -0.5, 0.3]), np.array([-1.0, 0.4, 3.0])
    task = find("generate")(torch.nn.Identity(), loss_name=name)
    found = task.discriminator_loss(torch.tensor(real), torch.tensor(made))
    assert float(found) == pytest.approx(critic(real, made).mean(), rel=1e-6)
    expected = -np.log(1 / (1 + np.exp(-made))) if generator == "log" else -made
    assert float(task.generator_loss(torch.tensor(made))) == pytest.approx(expected.mean(), rel=1e-6)
    assert (task.penalty, task.critic_steps) == ((10.0, 5) if name == "wasserstein" else (0.0, 1))


def test_the_penalty_is_that_of_the_gradients_length():
    weight = torch.tensor([[[[3.0, 0.0], [0.0, 4.0]]]])  # of length 5
    pictures = torch.rand(3, 1, 2, 2, requires_grad=True)
    assert float(penalize_gradients((weight * pictures).flatten(1).sum(1), pictures)) == pytest.approx(16)


def test_the_distance_is_frechets():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(200, 5)), random.normal(1, 2, (150, 5)) @ random.normal(size=(5, 5))
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(first[:2], second[:2]) > 0  # covariances of lower rank


JUDGE = """
task: classify
nc: 3
ch: 1
imgsz: 4
layers:
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, {out_features: 5}]
  - [-1, 1, nn.Linear, {out_features: nc}]
"""


def test_a_judge_counts_what_it_is_sure_of_and_measures_the_distance(here):
    (here / "judge.yaml").write_text(JUDGE)
    torch.manual_seed(0)
    network = netbuild.build("judge.yaml").eval()
    random = np.random.default_rng(0)
    with torch.no_grad():
        network.model[2].weight.mul_(20)
    pictures = list(random.integers(0, 256, (30, 4, 4, 1), np.uint8).repeat(3, 3))
    real = list(random.integers(0, 150, (40, 4, 4, 1), np.uint8).repeat(3, 3))
    values, known = (torch.from_numpy(np.stack(x)[..., 0].reshape(len(x), 1, 4, 4)) / 255 for x in (pictures, real))
    probabilities = network(values).softmax(1).detach().numpy()
    features, others = (network.model[1](x.flatten(1)).detach().double().numpy() for x in (values, known))
    verdict = Judge(network).judge(pictures, np.arange(30) % 3, real)
    chosen, sure = probabilities.argmax(1), probabilities.max(1) > 0.9
    assert 0 < sure.mean() < 1
    assert verdict.sure == pytest.approx(sure.mean())
    assert verdict.as_asked == pytest.approx((chosen == np.arange(30) % 3).mean())
    for number, found in enumerate(verdict.classes):
        assert (found.name, found.share) == (str(number), pytest.approx((chosen == number).mean()))
        assert found.sure == pytest.approx(((chosen == number) & sure).mean())
    assert verdict.frechet == pytest.approx(frechet_distance(features[:20], others[::2]), rel=1e-4)
    assert verdict.frechet_real == pytest.approx(frechet_distance(others[1::2], others[::2]), rel=1e-4)
    assert "times that between their halves" in verdict.lines()[-1]


def test_samples_are_judged(cli, here):
    (here / "judge.yaml").write_text(JUDGE.replace("nc: 3", "nc: 10"))
    words = ("sample", "generator.yaml", "-n", 8, "--judge", "judge.yaml", "--data", "digits", "--json")
    done = cli(*words)
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["files"] == []
    assert document["judge"].keys() == {"count", "sure", "as_asked", "classes", "frechet", "frechet_real"}
    assert document["judge"]["frechet"] > document["judge"]["frechet_real"] > 0
    assert "pictures" in cli(*words[:-1]).out
    for wrong, message in {
        ("--judge", "discriminator.yaml"): "has no task",
        ("--judge", "generator.yaml"): "predict nothing on pictures",
        ("--data", "digits"): "--data has no effect without --judge",
        ("--judge", "judge.yaml", "--data", "nothing"): "nothing",
    }.items():
        done = cli("sample", "generator.yaml", *wrong)
        assert (done.code, message in done.err) == (2, True), done.err


@pytest.mark.parametrize("steps", [1, 3])
def test_the_generator_learns_in_its_turns_alone(here, steps):
    flags = {"epochs": 1, "batch": 64, "device": "cpu", "workers": 0, "plots": False, "critic_steps": steps}
    flags |= {"adversarial_loss": "wasserstein", "ema": 0.0}
    networks = {"discriminator": "discriminator.yaml"}
    trainer = run.start("generator.yaml", "digits", settings.load(flags=flags), here / "run", networks=networks)
    learner, batches = trainer.learner, len(trainer.train)
    assert learner.main.plan.accumulate == 1
    assert learner.main.plan.optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    assert learner.critic.plan.optimizer.param_groups[0]["betas"] == (0.5, 0.999)
    learner.start_epoch()
    turns = []
    for number, batch in enumerate(trainer.train.epoch(0)):
        learner.set_rates(number, batches)
        before = [trainee.network.model[-2 if trainee is learner.main else -1].weight.detach().clone()
                  for trainee in (learner.main, learner.critic)]  # fmt: skip
        parts = learner.learn(batch, 1.0)
        learner.step()
        assert parts.keys() == {"discriminator", "penalty", "generator"}
        assert not torch.equal(before[1], learner.critic.network.model[-1].weight)
        turns.append(not torch.equal(before[0], learner.main.network.model[-2].weight))
        if number == 6:
            break
    assert turns == [number % steps == 0 for number in range(7)]


@pytest.mark.parametrize(
    ("loss", "variety", "text"),
    [
        (1.3, 0.1, "the pictures vary 0.10 times as much as the data"),
        (0.001, 0.9, "the discriminator is never wrong (loss 0.0010)"),
        (1.3, 0.9, ""),
    ],
)
def test_a_collapse_is_noted_once(capsys, loss, variety, text):
    callback, task = CollapseCallback(), find("generate")(torch.nn.Identity())
    measures = {"variety": variety, "train/discriminator": loss}
    for epoch in range(1, PATIENCE + 3):
        callback.on_epoch_end(SimpleNamespace(task=task, progress=SimpleNamespace(epoch=epoch)), measures, False)
        assert epoch >= PATIENCE or not callback.is_noted
    err = capsys.readouterr().err
    assert err.count("note: the generator collapses") == bool(text)
    assert text in err
    again = CollapseCallback()
    again.load_state_dict(callback.state_dict())
    assert again.is_noted == bool(text)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["non-saturating", "wasserstein"])
def test_a_pair_trains_is_sampled_and_exported(cli, here, loss):
    done = cli("train", *PAIR, "--epochs", 2, "-o", "run", *QUICK, "-O", f"adversarial_loss={loss}")
    assert done.code == 0, done.err
    start, last = load_file("run/start.safetensors"), load_file("run/last.safetensors")
    assert not all(torch.equal(start[key], last[key]) for key in start)
    one, two = (cli("val", "run/best.safetensors", "--data", "digits", "--json").out for _ in range(2))
    assert one == two
    assert json.loads(one)["measures"].keys() == {"pixel-frechet", "variety", "fitness"}
    done = cli("sample", "run/best.safetensors", "-n", 12, "--seed", 3, "--single", "made", "--json")
    assert done.code == 0, done.err
    classes = json.loads(done.out)["classes"]
    assert classes == [*range(10), 0, 1]  # nc followed the data, in both networks
    assert cli("export", "run/best.safetensors", "-o", "net.onnx").code == 0
    sampler = runtime.load_sampler("net.onnx")
    found = sampler.sample(12, seed=3)
    assert (sampler.kind, found.shape) == ("generator", (12, 8, 8, 1))
    for number, kind in enumerate(classes):
        assert abs(read_image(here / f"made/{number:02}-{kind}.png", 1).astype(int) - found[number]).max() <= 1
    assert netbuild.sample("run/last.safetensors", 3, classes=[4]).classes.tolist() == [4, 4, 4]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_equal_and_two_processes_train(cli, here):
    flags = ("--epochs", 3, *QUICK, "-Ocritic_steps=2")
    assert cli("train", *PAIR, *flags, "-o", "whole").code == 0
    done = run_apart("train", *PAIR, *flags, "-o", "killed", "--callbacks", "killer.py")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert cli("train", "--resume", "killed").code == 0
    for name in ("last", "last.discriminator"):
        found, expected = (load_file(here / folder / f"{name}.safetensors") for folder in ("killed", "whole"))
        assert all(torch.equal(found[key], expected[key]) for key in expected), name
    assert (here / "killed/results.csv").read_text() == (here / "whole/results.csv").read_text()
    words = ("train", *PAIR, "--epochs", 1, *QUICK, "-Oadversarial_loss=wasserstein", "-o", "two", "--nproc", 2)
    done = run_apart(*words)
    assert done.returncode == 0, done.stderr
    words = ("val", "two/last.safetensors", "--data", "digits", "-Oworkers=0", "--device", "cpu", "--json")
    done = run_apart(*words, "--nproc", 2)
    assert done.returncode == 0, done.stderr
    one = json.loads(cli(*words).out)["measures"]
    assert json.loads(done.stdout)["measures"] == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "generator.yaml"], "the task 'generate' trains a second network, 'discriminator'"),
        (["train", "generator.yaml", "--with", "discriminator=bad.yaml"], "the discriminator returns [16, 1, 2, 2]"),
        (["train", *PAIR, "-O", "adversarial_loss=least-squares"], "must be one of non-saturating, hinge, wasserstein"),
        (["train", *PAIR, "-O", "noise_steps=10"], "noise_steps has no effect for the task 'generate'"),
        (["train", "generator.yaml", "--overfit-batch"], "one batch cannot be overfitted"),
        (["sample", "generator.yaml", "--steps", "3"], "--steps has no effect here: the network is a generator"),
    ],
)
def test_what_cannot_be_is_an_error(cli, here, words, message):
    flags = (*QUICK[:4], "--epochs", 1, *([] if "--overfit-batch" in words else ["-o", "r"]))
    done = cli(*words, *(flags if words[0] == "train" else ()))
    assert (done.code, message in done.err) == (2, True), done.err
