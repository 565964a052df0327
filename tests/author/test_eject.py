"""netbuild eject: the files compute what the network computes, are clean code, and run without netbuild."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.packaged import resolve_packaged

import netbuild
from netbuild.author.ejecting import build_network, has_shared_tensors
from netbuild.author.ejecting.proving import Case, prove, record
from netbuild.author.ejecting.writing import write_source
from netbuild.errors import NetbuildError
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import load
from netbuild.graph.opening import open_graph

ROOT = Path(__file__).parents[2]
# Batch norms with constants of their own and two branches, activations by name, blocks, an autoencoder.
SOME = ("yolov10n", "lenet5", "resnet18", "conv-autoencoder")
GROUPS = 12

GATE = '''\
"""A module as its author has it."""

from __future__ import annotations

import math
import torch.nn as nn, torch.nn.functional as F
from typing import Annotated

import netbuild
from netbuild.layers import Conv as Convolution

LEAST = 4  # channels


def attend(x):
    return x.mean((2, 3), keepdim=True)


@netbuild.module(name="Gated")
class ChannelGate(nn.Module):
    def __init__(self, c1, width: Annotated[int, netbuild.Width], r: int = 4):
        super().__init__()
        hidden = max(c1 // r, LEAST)
        self.conv = Convolution(c1, width)
        self.down, self.up = nn.Linear(c1, hidden), nn.Linear(hidden, width)

    def forward(self, x: "torch.Tensor") -> torch.Tensor:
        gate = self.up(F.relu(self.down(attend(x).flatten(1)))) / math.sqrt(2)
        return self.conv(x) * gate.sigmoid()[..., None, None]

import torch
from helpers.packaged import resolve_packaged
'''
OWN = """\
imports: [./gate.py]
activation: nn.PReLU()
init: he
inputs: {rgb: [3, 32, 32], class: [3, 32, 32], vector: [1, 5]}
blocks:
  attend:                      # the name of a function of the module's, too
    params: [{k: 3}]
    inputs: [a, b]
    result: [keys, second]
    rows:
      - [a, 1, nn.Conv2d, [8, 8, k, 1, k // 2], keys]
      - [b, 2, nn.Conv2d, [8, 8, 1]]
      - [-1, 1, nn.BatchNorm2d, [8], second]
layers:
  - [rgb, 1, Conv, [8, 3]]
  - [class, 1, Conv, [8, 1, 1, null, 1, 1, relu]]
  - [[0, 1], 1, attend, []]
  - [[2.keys, 2.second], 1, attend, [5], again]
  - [again.second, 1, ChannelGate, [12], gated]
  - [[gated, "again[0]"], 1, Concat, [1]]
  - [-1, 1, nn.Conv2d, {out_channels: 6, kernel_size: [3, 1], padding: same}]
  - [vector, 1, nn.Linear, [5, 6]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Unflatten, [1, [6, 1, 1]]]
  - [[6, -1], 1, Multiply, []]
  - [-1, 2, Conv, [6, 3, 1, null, 1, 1, leaky relu]]
"""
BACKBONE = """\
nc: 3
layers:
  - [-1, 1, torchvision.models.resnet18, {features: [layer2, layer3], pretrained: true}, backbone]
  - [backbone.layer2, 1, Conv, [64, 1]]
  - ["backbone[1]", 1, torchvision.ops.Conv2dNormActivation, {out_channels: 64, kernel_size: 1}]
  - [[1, 2], 1, Detect, [nc]]
"""


def smallest(stem):
    """Return a packaged network at its smallest scale, resolved."""
    scales = load(packaged_architectures()[f"{stem}.yaml"]).scales
    scale = min(scales, key=lambda s: (s.width, s.depth)).name if scales else None
    return open_graph(f"{stem}.yaml", scale=scale)


def ejected(graph, folder, name):
    """Write a network's file, and return the case that proves it."""
    network = build_network(graph)
    done = write_source(graph, has_shared_tensors(network))
    file = folder / f"{re.sub(r'[^a-z0-9]', '_', name)}.py"
    file.write_text(done.text, encoding="utf-8")
    record(network, graph, file.with_suffix(".pt"))
    return Case(file, done.name, file.with_suffix(".pt"))


def assert_clean(folder):
    """Check that the files are formatted as by ruff, contain nothing unused, and do not import netbuild."""
    ruff = [sys.executable, "-m", "ruff"]
    options = ["--isolated", "--line-length", "120", "--no-cache", str(folder)]
    for command in (["check", "--select", "E,F,I"], ["format", "--check", "--diff"]):
        done = subprocess.run([*ruff, *command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for file in folder.glob("*.py"):
        assert_no_leftovers(file.read_text(encoding="utf-8"))


def assert_no_leftovers(text):
    tree = ast.parse(text)
    modules = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    modules += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    assert not any(module.startswith("netbuild") for module in modules)
    defined = [n.name for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))]
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert set(defined) - used == set()


@pytest.mark.slow
def test_some_packaged_networks(tmp_path):
    prove([ejected(smallest(stem), tmp_path, stem) for stem in SOME])
    assert_clean(tmp_path)


def files_with_new_modules():
    """Return stems of packaged files that together have every module that any of them has."""
    seen, stems = set(), []
    for name, path in sorted(packaged_architectures().items()):
        modules = {row.module for row in load(path).all_rows()}
        if modules - seen:
            stems.append(Path(name).stem)
            seen |= modules
    return stems


@pytest.mark.parametrize("stem", files_with_new_modules())
def test_the_code_of_every_packaged_module_can_be_copied(stem):
    """The slow tests prove what the files compute."""
    assert "import netbuild" not in write_source(resolve_packaged(stem)).text


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_packaged_network(tmp_path, group):
    stems = sorted(Path(name).stem for name in packaged_architectures())[group::GROUPS]
    for proof in prove([ejected(smallest(stem), tmp_path, stem) for stem in stems]):
        assert proof.difference == 0
        assert proof.runs == ("training", "after training", "eval", "fused")
    assert_clean(tmp_path)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "gate.py").write_text(GATE, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(OWN, encoding="utf-8")
    return tmp_path / "mine.yaml"


def test_a_deep_network_stays_finite(tmp_path):
    deep = tmp_path / "deep.yaml"
    deep.write_text("imgsz: 16\nlayers:\n  - [-1, 1, Conv, [64, 3]]\n  - [-1, 64, Conv, [64, 3]]\n")
    (proof,) = prove([ejected(open_graph(deep), tmp_path, "deep")])
    assert proof.difference == 0


def test_the_constant_of_batch_norms_is_the_files(tmp_path):
    cases = []
    for name, task in (("plain", ""), ("detector", "task: detect\n")):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"imgsz: 16\nnorm_eps: 0.5\n{task}layers:\n  - [-1, 1, Conv, [8, 3]]\n")
        cases.append(ejected(open_graph(file), tmp_path, name))
    assert [proof.difference for proof in prove(cases)] == [0, 0]


@pytest.mark.slow
def test_own_modules_blocks_inputs(own, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    graph = open_graph(own, trusted=True)
    case = ejected(graph, folder, "mine")
    text = case.file.read_text(encoding="utf-8")
    # An activation with parameters is shared within a network, and not between two.
    for line in ("def attend(x):", "class Attend(", "class ChannelGate(nn.Module):", "global DEFAULT_ACTIVATION"):
        assert line in text
    assert "The code from gate.py is under its author's terms." in " ".join(text.split())
    proof = prove([case])[0]
    assert proof.difference == 0
    assert_clean(folder)


@pytest.mark.slow
def test_initial_weights_are_those_of_the_network(own, tmp_path):
    for graph in (open_graph(own, trusted=True), smallest("yolo11")):
        case = ejected(graph, tmp_path, graph.name)
        names: dict[str, object] = {"__name__": "ejected"}
        exec(compile(case.file.read_text(encoding="utf-8"), str(case.file), "exec"), names)
        torch.manual_seed(3)
        network = graph.build()
        torch.manual_seed(3)
        model = names[case.name]()
        assert list(model.state_dict()) == list(network.state_dict())
        for key, tensor in network.state_dict().items():
            assert torch.equal(model.state_dict()[key], tensor), key


@pytest.mark.slow
def test_models_of_torchvision(tmp_path, cli):
    file = tmp_path / "net.yaml"
    file.write_text(BACKBONE, encoding="utf-8")
    done = cli("eject", file, "-o", tmp_path / "net.py", "--imgsz", 64)
    assert done.code == 0, done.err
    assert "note: the file imports torchvision too" in done.err
    assert "It needs torchvision beside torch." in (tmp_path / "net.py").read_text(encoding="utf-8")
    file.unlink()
    assert_clean(tmp_path)


@pytest.mark.slow
def test_the_callers_generators_are_not_changed(tmp_path):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    netbuild.eject("lenet5.yaml", tmp_path / "lenet5.py")
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.slow
def test_the_command(tmp_path, cli):
    for command in (
        ("build", "yolo11n.yaml", "--nc", 5, "-o", tmp_path / "net.safetensors"),
        ("eject", tmp_path / "net.safetensors", "--json"),
    ):
        done = cli(*command)
        assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["path"] == str(tmp_path / "net.py")
    assert result["proof"]["equal"] is True
    assert result["packages"] == []
    # It runs without netbuild and without warnings, loads the checkpoint's tensors, and can be exported by torch.
    program = """
import sys
sys.modules["netbuild"] = None
import runpy, safetensors.torch, torch
model = runpy.run_path("net.py", run_name="__main__")["YOLO11n"]()
model.load_state_dict(safetensors.torch.load_file("net.safetensors"))
x = torch.rand(1, 3, 64, 64)
exported = torch.export.export(model.eval(), (x,))
print(torch.equal(exported.module()(x)[0], model(x)[0]))
"""
    for command in (["-W", "error", "-m", "py_compile", "net.py"], ["-c", program]):
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True"


def test_equal_networks_give_equal_files():
    first, second = (write_source(smallest("yolov10n")).text for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_a_file_that_differs_is_renamed_to_failed(own, tmp_path, cli, monkeypatch):
    from netbuild.author import ejecting

    def wrong(graph, shared):
        done = write_source(graph, shared)
        assert "math.sqrt(2)" in done.text
        return type(done)(done.text.replace("math.sqrt(2)", "math.sqrt(3)"), done.name, done.packages, done.own)

    monkeypatch.setattr(ejecting, "write_source", wrong)
    done = cli("eject", own, "--trust", "-o", tmp_path / "net.py")
    assert done.code == 1
    assert "differs from the network by" in done.err
    assert not (tmp_path / "net.py").exists()
    assert (tmp_path / "net.failed.py").exists()


def test_networks_that_cannot_be_ejected_are_errors(own, tmp_path, cli):
    (tmp_path / "gate.py").write_text(
        GATE.replace("import Conv as", "import conv as").replace("Convolution(c1", "Convolution.Conv(c1"), "utf-8"
    )
    with pytest.raises(NetbuildError, match=r"'Convolution' is netbuild.layers.conv"):
        netbuild.eject(own, tmp_path / "net.py", trusted=True)
    (tmp_path / "taken.py").write_text("mine", encoding="utf-8")
    for out, expected in (("net.txt", "must end in .py"), ("no/net.py", "no folder"), ("taken.py", "exists already")):
        done = cli("eject", "lenet5.yaml", "-o", tmp_path / out)
        assert done.code == 2
        assert expected in done.err
    assert (tmp_path / "taken.py").read_text(encoding="utf-8") == "mine"
