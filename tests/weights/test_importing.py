"""Weights of other programs: the network from the file's own rows or a file of ours, every tensor checked."""

import copy
import json
import sys
import types

import pytest
import torch
from helpers.filled_weights import fill
from safetensors.torch import save_file

import netbuild
from netbuild import NetbuildError
from netbuild.grammar import checkpoint_header

ROWS = {
    "nc": 3,
    "scales": {"n": [0.5, 0.25, 1024], "s": [0.5, 0.5, 1024]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 2, "C2f", [128, True]], [-1, 1, "Conv", [256, 3, 2]]],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 1], 1, "Concat", [1]],
        [[-1, 2], 1, "Detect", ["nc"]],
    ],
    "scale": "s",
    "yaml_file": "small11s.yaml",
    "channels": 3,
}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A checkpoint as a program that is not here would write it: whole objects of its classes, in half precision."""
    module = types.ModuleType("elsewhere")

    class Model(torch.nn.Module):
        pass

    Model.__module__, Model.__qualname__ = "elsewhere", "Model"
    module.Model = Model
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    (tmp_path / "rows.yaml").write_text(
        json.dumps({k: v for k, v in ROWS.items() if k in ("nc", "scales", "backbone", "head")})
    )
    network = fill(netbuild.build(tmp_path / "rows.yaml", scale="s"))
    model = Model()
    model.model = torch.nn.Sequential(*(plain(m) for m in copy.deepcopy(network).model.children()))
    model.yaml, model.names = ROWS, {0: "a", 1: "b", 2: "c"}
    torch.save(
        {"epoch": 7, "model": model.half(), "ema": None, "train_args": {"imgsz": 96, "task": "detect"}},
        tmp_path / "x.pt",
    )
    monkeypatch.delitem(sys.modules, "elsewhere")
    return tmp_path / "x.pt", network


def plain(module):
    """A tree of modules with a network's tensors, of classes that torch has."""
    copy = torch.nn.Module()
    for name, child in module.named_children():
        copy.add_module(name, plain(child))
    for name, value in module._parameters.items():
        copy.register_parameter(name, value)
    for name, value in module._buffers.items():
        copy.register_buffer(name, value)
    return copy


def test_a_model_of_a_program_that_is_not_here(cli, foreign, tmp_path):
    file, network = foreign
    done = cli("weights", "import", file, "-o", tmp_path / "x.safetensors", "--strict", "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert (data["name"], data["names"], data["missing"], data["unexpected"]) == ("small11s", ["a", "b", "c"], [], [])
    found = netbuild.build(tmp_path / "x.safetensors")
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[key], tensor, atol=1e-3, rtol=1e-3)
    facts = checkpoint_header.read_info(tmp_path / "x.safetensors")
    assert (facts.scale, facts.imgsz, facts.task, facts.training["imported"]["epoch"]) == ("s", (96, 96), "detect", 7)
    # Written in half precision it has half the size, and computes the same.
    half = cli("weights", "import", file, "-o", tmp_path / "half.safetensors", "--half")
    assert half.code == 0
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "x.safetensors").stat().st_size
    again = netbuild.build(tmp_path / "half.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), found.state_dict().values(), strict=True))
    assert next(again.parameters()).dtype is torch.float32


def test_its_weights_serve_an_edited_network(cli, foreign, tmp_path):
    file, network = foreign
    rows = {**ROWS, "backbone": [ROWS["backbone"][0], [-1, 1, "ChannelAttention", []], *ROWS["backbone"][1:]]}
    rows["head"] = [ROWS["head"][0], [[-1, 2], 1, "Concat", [1]], [[-1, 3], 1, "Detect", ["nc"]]]
    (tmp_path / "edited.yaml").write_text(json.dumps({k: rows[k] for k in ("nc", "scales", "backbone", "head")}))
    done = cli("build", tmp_path / "edited.yaml", "--scale", "s", "--weights", file, "-o", tmp_path / "e.safetensors")
    assert done.code == 0, done.err
    assert "row 1 ChannelAttention: new" in done.out
    edited = netbuild.build(tmp_path / "e.safetensors")
    torch.testing.assert_close(
        edited.model[2].state_dict()["cv1.conv.weight"],
        network.model[1].state_dict()["cv1.conv.weight"],
        atol=1e-3,
        rtol=1e-3,
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "resnet18"),
        ("mobilenet_v2", "mobilenet-v2"),
        pytest.param("vgg11_bn", "vgg11-bn", marks=pytest.mark.slow),  # half a gigabyte of weights
    ],
)
def test_torchvision_in_the_order_of_definition(cli, tmp_path, name, stem):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.get_model(name, num_classes=10).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    arguments = ["weights", "import", tmp_path / "w.pth", "-o", tmp_path / "w.safetensors", "--model", f"{stem}.yaml"]
    done = cli(*arguments, "--nc", "10", "--map", "torchvision", "--strict")
    assert done.code == 0, done.err
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = netbuild.build(tmp_path / "w.safetensors").eval()(x)
        torch.testing.assert_close(found[0] if isinstance(found, tuple) else found, theirs(x), atol=1e-4, rtol=1e-4)
    by_keys = cli(*arguments, "--nc", "10")
    assert (by_keys.code, "0 fit" in by_keys.err) == (2, True)
    other = cli(*arguments, "--map", "torchvision")  # the last layer has another number of classes
    assert other.code == 0
    assert "in order shapes differ" in other.out
    assert cli(*arguments, "--map", "torchvision", "--strict").code == 2


def test_weights_of_other_image_channels(cli, tmp_path):
    torch.save(netbuild.build("lenet5-modern.yaml", ch=3).state_dict(), tmp_path / "w.pth")
    call = ("weights", "import", tmp_path / "w.pth", "-o", tmp_path / "w.safetensors", "--strict")
    assert cli(*call, "--model", "lenet5-modern.yaml").code == 2
    assert cli(*call, "--model", "lenet5-modern.yaml", "--ch", "3").code == 0
    assert netbuild.build(tmp_path / "w.safetensors").card.ch == 3


def test_what_does_not_fit_is_told_and_strictly_refused(cli, tmp_path):
    state = netbuild.build("lenet5-modern.yaml").state_dict()
    keys = list(state)
    state[keys[0]] = torch.zeros(1, 2, 3)
    state["further"] = state.pop(keys[1])
    save_file(state, tmp_path / "w.safetensors")
    arguments = [
        "weights",
        "import",
        tmp_path / "w.safetensors",
        "--model",
        "lenet5-modern.yaml",
        "-o",
        tmp_path / "o.safetensors",
    ]
    done = cli(*arguments)
    assert done.code == 0
    for said in (
        f"1 missing in the file: {keys[1]}",
        "1 unexpected in the file: further",
        "the file model.0.weight [1, 2, 3]",
    ):
        assert said in done.out
    refused = cli(*arguments, "--strict")
    assert (refused.code, "the weights do not fit the network" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (None, "does not contain its network's rows"),
        ({"backbone": 7}, "must be a list of rows"),
        ({**ROWS, "backbone": [[-1, 1, "Nowhere", [8]]]}, "unknown module 'Nowhere'"),
        ({**ROWS, "nc": 5}, "shapes differ"),
    ],
)
def test_rows_that_are_none_or_others(cli, foreign, tmp_path, rows, said):
    _, network = foreign
    torch.save({"yaml": rows, "state_dict": network.state_dict()}, tmp_path / "y.pt")
    done = cli("weights", "import", tmp_path / "y.pt", "-o", tmp_path / "y.safetensors", "--strict")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "y.safetensors").exists()


def test_flags_and_files_that_are_wrong(cli, foreign, tmp_path):
    file, _ = foreign
    out = tmp_path / "o.safetensors"
    for arguments, said in [
        (["--map", "tochvision"], "did you mean 'torchvision'"),
        (["--prefer", "best"], "must be ema or model"),
        (["--nc", "3"], "--nc has no effect without --model"),
    ]:
        done = cli("weights", "import", file, "-o", out, *arguments)
        assert done.code == 2
        assert said in done.err
    assert cli("weights", "import", tmp_path / "none.pt", "-o", out).code == 2
    with pytest.raises(NetbuildError, match=r"ends in \.safetensors"):
        netbuild.save(netbuild.build("lenet5-modern.yaml"), tmp_path / "x.pt")
