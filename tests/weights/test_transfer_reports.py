"""Every command that takes --weights says what was loaded: nothing is an error, less than half a warning."""

import pytest
import torch
from helpers.filled_weights import fill
from safetensors.torch import save_file

import netbuild
from netbuild import NetbuildError

NET = """
nc: 10
ch: 1
imgsz: 8
task: classify
layers:
  - [-1, 1, Conv, [8, 3, 2], stem]
  - [-1, 1, Conv, [16, 3, 2], body]
  - [-1, 1, Classify, [nc]]
"""
COMMANDS = {
    "build": (["build", "NET", "-o", "out.safetensors"], "out.safetensors"),
    "train": (
        ["train", "NET", "--data", "digits", "--epochs", "1", "--imgsz", "8", "-o", "run", "-O", "workers=0"],
        "run",
    ),
    "overfit": (["train", "NET", "--data", "digits", "--epochs", "1", "--overfit-batch", "-O", "workers=0"], "out"),
    "view": (["view", "NET", "--row", "0", "--what", "kernels", "-o", "seen"], "seen"),
}


# An epoch takes seconds; the self-test of one batch loads weights by the same code.
NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "train" else ()) for name in COMMANDS]


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.yaml").write_text(NET)
    return fill(netbuild.build("net.yaml"))


def write(network, rows=(0, 1, 2), **changes):
    """Write the tensors of some rows; a change replaces a tensor by its last name."""
    state = {k: v.clone() for k, v in network.state_dict().items() if int(k.split(".")[1]) in rows}
    save_file({k: changes.get(k.rpartition(".")[2], v).clone() for k, v in state.items()}, "w.safetensors")


def call(cli, name, weights="w.safetensors"):
    words, out = COMMANDS[name]
    return cli(*("net.yaml" if word == "NET" else word for word in words), "--weights", weights), out


@pytest.mark.parametrize("name", NAMES)
def test_all_tensors(cli, network, name):
    write(network)
    done, _ = call(cli, name)
    assert done.code in (0, 1), done.err  # 1: one step does not overfit a batch
    count = len(network.state_dict())
    assert f"({count} of {count} tensors)" in (done.out if name == "build" else done.err)
    assert "warning" not in done.err


@pytest.mark.parametrize("name", NAMES)
def test_less_than_half_is_a_warning_and_the_other_rows_are_named(cli, network, name):
    write(network, rows=(0,))
    done, _ = call(cli, name)
    assert done.code in (0, 1), done.err
    assert "warning: w.safetensors: less than half of the network's weights were loaded" in done.err
    assert "row 1 Conv" in (done.out if name == "build" else done.err)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", ["lenet5", "yolov8n", "resnet18"])
def test_nothing_is_an_error_and_nothing_is_written(cli, network, tmp_path, name, other):
    netbuild.save(netbuild.build(f"{other}.yaml", nc=3), "other.safetensors")
    done, out = call(cli, name, "other.safetensors")
    assert (done.code, "other.safetensors: nothing was loaded" in done.err) == (2, True), done.err
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_are_said(cli, network, name):
    value = float("inf") if name == "build" else float("nan")
    write(network, running_mean=torch.full((8,), value), rows=(0,))
    done, _ = call(cli, name)
    assert "model.0.bn.running_mean" in done.err, done
    assert "not finite" in done.err


def test_from_python(network):
    write(network, rows=(0,))
    with pytest.warns(UserWarning, match=r"w\.safetensors: less than half"):
        netbuild.build("net.yaml", weights="w.safetensors")
    netbuild.save(netbuild.build("lenet5.yaml"), "other.safetensors")
    for call in (
        lambda: netbuild.build("net.yaml", weights="other.safetensors"),
        lambda: netbuild.transfer(network, "other.safetensors"),
        lambda: netbuild.train("net.yaml", "digits", weights="other.safetensors", out="run", workers=0),
    ):
        with pytest.raises(NetbuildError, match="nothing was loaded"):
            call()


def test_an_import_of_less_than_half_is_a_warning(cli, network):
    write(network, rows=(0,))
    done = cli("weights", "import", "w.safetensors", "--model", "net.yaml", "-o", "x.safetensors")
    assert (done.code, "warning: less than half of the network's tensors" in done.out) == (0, True), done
