"""A task whose networks learn against each other, as one file of a user's: trained, saved and resumed like one."""

import json

import pytest
import torch

import netbuild
from netbuild.errors import NetbuildError

GENERATOR = """
imports: [./rivals.py]
task: rivals
ch: 1
imgsz: 28
layers:
  - [-1, 1, nn.Conv2d, [1, 4, 3, 1, 1]]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.BatchNorm2d, [4]]
  - [-1, 1, nn.Conv2d, [4, 1, 3, 1, 1]]
  - [-1, 1, nn.Sigmoid, []]
"""
CRITIC = """
ch: 1
imgsz: 28
layers:
  - [-1, 1, nn.Conv2d, [1, 4, 3, 2]]
  - [-1, 1, nn.AdaptiveAvgPool2d, [1]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [4, 1]]
"""
TASK = """
import torch.nn.functional as F

from netbuild.tasks import task
from netbuild.tasks.autoencode import AutoencodeTask
from netbuild.training.learners import Learner


class RivalLearner(Learner):
    '''A critic learns to tell pictures from what the network makes of them, the network to deceive it.'''

    def learn(self, batch, share):
        critic = self.others["critic"]
        with self.autocast():
            [images] = self.task.inputs(batch)
            made = self.forward(batch)
            judged = critic.model(images).mean() - critic.model(made.detach()).mean()
            judgement = F.softplus(-judged)
        self.backward(critic, judgement * share, {"critic": judgement})
        with self.autocast(), critic.fixed():
            deceit = F.softplus(-critic.model(made).mean()) + F.mse_loss(made, images)
        self.backward(self.main, deceit * share, {"deceit": deceit})
        return {"critic": judgement.detach(), "deceit": deceit.detach()}


@task
class Rivals(AutoencodeTask):
    name = "rivals"
    networks = ("critic",)
    learner = RivalLearner

    def loss(self, outputs, batch):
        raise NotImplementedError("its learner has the losses")
"""
QUICK = ["--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-O", "batch=256", "--trust"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name, text in {"generator.yaml": GENERATOR, "critic.yaml": CRITIC, "rivals.py": TASK}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tensors(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.slow
def test_two_networks_are_trained_saved_and_resumed_bit_equal(cli, here):
    pair = ["generator.yaml", "--with", "critic=critic.yaml"]
    done = cli("train", *pair, "--epochs", 2, "-o", "whole", *QUICK)
    assert done.code == 0, done.err
    done = cli("train", *pair, "--epochs", 2, "-o", "halves", *QUICK, "-O", "minutes=0.00001")  # ends after an epoch
    assert done.code == 0, done.err
    assert "in epoch 1 of 1" in done.out
    done = cli("train", "--resume", "halves", "--trust", "-O", "minutes=0")
    assert done.code == 0, done.err
    assert (here / "whole/results.csv").read_text().startswith("epoch,train/critic,train/deceit")
    files = ["state", "last", "last.critic", "best", "best.critic"]
    for name in files:
        one, two = tensors(f"halves/{name}.safetensors"), tensors(f"whole/{name}.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one), name
    keys = tensors("whole/state.safetensors")
    for part in ("network/", "average/", "optimizer/"):
        assert any(key.startswith(part) for key in keys)
        assert any(key.startswith(f"critic:{part}") for key in keys)
    start, last = tensors("whole/start.critic.safetensors"), tensors("whole/last.critic.safetensors")
    assert not all(torch.equal(start[key], last[key]) for key in start)  # both learnt
    critic = netbuild.build("whole/last.critic.safetensors")
    assert critic(torch.zeros(1, 1, 28, 28)).shape == (1, 1)


def test_python_takes_them_too_and_a_state_of_other_networks_is_refused(here):
    keywords = {"trusted": lambda *_: True, "device": "cpu", "workers": 0, "plots": False, "batch": 256, "epochs": 1}
    result = netbuild.train("generator.yaml", out="run", networks={"critic": "critic.yaml"}, **keywords)
    assert result.best.exists()
    state = here / "run/state.safetensors"
    content = state.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    facts = json.loads(head["__metadata__"]["netbuild-state"])
    facts["others"] = {}
    head["__metadata__"]["netbuild-state"] = json.dumps(facts)
    text = json.dumps(head).encode()
    state.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(NetbuildError, match="holds the networks network, the run has network, critic"):
        netbuild.train(resume="run", trusted=keywords["trusted"], epochs=2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the task 'rivals' trains a second network, 'critic'"),
        (["--with", "critc=critic.yaml"], "did you mean 'critic'?"),
        (["--with", "critic"], "write NAME=FILE"),
        (["--with", "critic=a.yaml", "--with", "critic=b.yaml"], "given twice"),
        (["--with", "critic=nothing.yaml"], "nothing.yaml"),
        (["--overfit-batch"], "one batch cannot be overfitted"),
    ],
)
def test_networks_that_do_not_fit_the_task_are_refused(cli, here, flags, message):
    done = cli(
        "train", "generator.yaml", "--epochs", 1, *(() if "--overfit-batch" in flags else ("-o", "r")), *QUICK, *flags
    )
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (here / "r").exists()
