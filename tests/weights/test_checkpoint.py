"""Checkpoints and weight transfer: what is written opens elsewhere, runs no code unasked, serves edited networks."""

import copy
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import netbuild
from netbuild import NetbuildError
from netbuild.grammar import checkpoint_header
from netbuild.weights import checkpoint
from netbuild.weights.transfer import align_rows, group_by_row

GATE = """
import torch.nn as nn

class Gate(nn.Module):
    def __init__(self, c1, r=4):
        super().__init__()
        self.down, self.up = nn.Conv2d(c1, c1 // r, 1), nn.Conv2d(c1 // r, c1, 1)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
"""
NET = """
imports: [./gate.py]
params: {r: 4}
scales: {a: [1, 0.5, 64], b: [2, 1.0, 64]}
backbone:
  - [-1, 1, Conv, [32, 3, 2], stem]
  - [-1, 2, Conv, [32, 3]]
  - [-1, 1, Gate, [r]]
head:
  - [-1, 1, Classify, [nc]]
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "gate.py").write_text(GATE)
    (tmp_path / "net.yaml").write_text(NET)
    return tmp_path / "net.yaml"


def equal_states(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_alone_is_the_network(net, tmp_path, monkeypatch):
    made = netbuild.build(net, scale="b", nc=7, ch=4, imgsz=(64, 32), set=["r=8"], trusted=True)
    file = netbuild.save(made, tmp_path / "net.safetensors", names=["x"] * 7, training={"epoch": 3})
    (tmp_path / "elsewhere").mkdir()
    file = file.rename(tmp_path / "elsewhere" / "renamed.safetensors")
    net.unlink()
    (tmp_path / "gate.py").unlink()
    monkeypatch.chdir("/")
    opened = netbuild.build(file, trusted=True)
    assert equal_states(made.state_dict(), opened.state_dict())
    x = torch.rand(2, 4, 64, 32)
    assert torch.equal(made.eval()(x)[0], opened.eval()(x)[0])
    kept = ("name", "scale", "task", "nc", "ch", "imgsz", "params", "modules", "yaml")
    assert all(getattr(opened.card, key) == getattr(made.card, key) for key in kept)
    assert (opened.facts["name"], opened.card.nc, opened.card.params) == ("net-b", 7, {"r": 8})
    facts = checkpoint_header.read_info(file)
    assert (facts.names, facts.training, facts.task) == (["x"] * 7, {"epoch": 3}, "classify")
    assert "x" in opened.card.names
    again = netbuild.save(opened, tmp_path / "again.safetensors", training={"epoch": 3})
    assert again.read_bytes() == file.read_bytes()
    assert (again.stat().st_mode & 0o777) == (0o666 & ~read_umask())


def read_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("package", [False, True])
def test_carried_code_runs_only_where_it_is_trusted(cli, net, tmp_path, monkeypatch, package):
    marker = tmp_path / "ran"
    code = f"{GATE}\nopen({str(marker)!r}, 'a').close()\n"
    (tmp_path / "gate.py").write_text(code)
    if package:
        (tmp_path / "gates").mkdir()
        (tmp_path / "gates" / "__init__.py").write_text("from .inner import Gate\n")
        (tmp_path / "gate.py").rename(tmp_path / "gates" / "inner.py")
        net.write_text(NET.replace("./gate.py", "./gates"))
    file = tmp_path / "new.safetensors"
    assert cli("build", net, "--nc", "3", "--scale", "a", "-o", file).code == 2
    assert cli("build", net, "--nc", "3", "--scale", "a", "-o", file, "--trust").code == 0
    marker.unlink()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    refused = cli("summary", file)
    assert (refused.code, refused.out, marker.exists()) == (2, "", False)
    assert "carries the code of custom modules" in refused.err
    assert (
        "would run gates/inner.py" if package else f"would run gate.py ({len(code.splitlines())} lines, "
    ) in refused.err
    assert "class Gate(nn.Module)" in cli("show", file, "--code").out
    assert "Gate, [r]" in cli("show", file).out
    done = cli("summary", file, "--trust", "--json")
    assert json.loads(done.out)["name"] == "net"
    assert marker.exists()
    # The user's own copy stands in for the carried one.
    mine = tmp_path / "mine.py"
    mine.write_text(GATE)
    marker.unlink()
    assert cli("summary", file, "--modules", mine).code == 0
    assert not marker.exists()


@pytest.mark.slow
def test_an_opened_checkpoint_leaves_no_file_behind(net, tmp_path):
    netbuild.save(netbuild.build(net, nc=3, trusted=True), tmp_path / "net.safetensors")
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-m", "netbuild", "summary", tmp_path / "net.safetensors", "--trust"]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path / "temporary")}, capture_output=True)
    assert done.returncode == 0
    assert os.listdir(tmp_path / "temporary") == []


def test_tied_and_viewed_tensors_come_back(tmp_path):
    file = tmp_path / "net.yaml"
    file.write_text("layers:\n  - [-1, 1, nn.Conv2d, [3, 8, 1]]\n  - [-1, 1, nn.Conv2d, [8, 8, 1]]\n")
    made = netbuild.build(file)
    made.model[1].bias = made.model[0].bias
    made.model[1].weight = torch.nn.Parameter(torch.rand(16, 8, 1, 1)[::2])
    path = netbuild.save(made, tmp_path / "net.safetensors")
    assert checkpoint_header.read_info(path).aliases == {"model.1.bias": "model.0.bias"}
    assert equal_states(netbuild.build(path).state_dict(), made.state_dict())
    assert path.stat().st_size < 4000


def test_nothing_is_left_half_written(cli, tmp_path, monkeypatch):
    file = tmp_path / "net.safetensors"
    made = netbuild.build("lenet5.yaml")
    netbuild.save(made, file)
    before = file.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NetbuildError, match="No space left on device"):
        netbuild.save(netbuild.build("lenet5.yaml"), file)
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]
    for target, said in [
        ("x.pt", "ends in .safetensors"),
        ("no/x.safetensors", "there is no folder"),
        (tmp_path, "ends in"),
    ]:
        done = cli("build", "lenet5.yaml", "-o", target)
        assert done.code == 2
        assert said in done.err


def make_tensors_and_metadata(data):
    return {"a": torch.zeros(1)}, {"netbuild": data if isinstance(data, str) else json.dumps(data)}


GOOD = {"schema": 1, "yaml": "layers:\n  - [-1, 1, nn.Conv2d, [3, 1, 1]]\n", "file": "a.yaml", "name": "a"}
CODE = {"path": "../x.py", "text": "x = 1\n", "sha256": "0"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "tensors but no network"),
        ("{", "its metadata cannot be read"),
        ({**GOOD, "schema": 99}, "a newer netbuild"),
        ({"schema": 1}, "its metadata cannot be read"),
        ([], "its metadata cannot be read"),
        ({**GOOD, "imgsz": 5}, "its metadata cannot be read"),
        ({**GOOD, "yaml": "layers:\n  - [-1, 1, Cnov, [3]]\n"}, "a.yaml:2:13: row 0: unknown module 'Cnov'"),
        ({**GOOD, "modules": [[CODE]]}, "not a valid path for a module file"),
        ({**GOOD, "modules": [[{**CODE, "path": "x.py"}]]}, "its SHA-256 differs"),
        ({**GOOD, "aliases": {"b": "c"}}, "'b' is an alias of 'c'"),
        (GOOD, "'model.0.weight' is missing; 'model.0.bias' is missing; 'a' is unexpected"),
    ],
)
def test_what_is_no_checkpoint_is_an_error(cli, tmp_path, data, said):
    file = tmp_path / "bad.safetensors"
    tensors, metadata = make_tensors_and_metadata(data) if data is not None else ({"a": torch.zeros(1)}, None)
    save_file(tensors, file, metadata)
    done = cli("build", file, "-o", tmp_path / "out.safetensors", "--trust")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", struct.pack("<Q", 2**60), struct.pack("<Q", 3) + b"[1]", struct.pack("<Q", 2) + b"\xff{"],
)
def test_what_is_no_safetensors_file_is_an_error(cli, tmp_path, content):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    for command in (
        ["summary", file],
        ["check", file],
        ["build", "lenet5.yaml", "--weights", file, "-o", "x.safetensors"],
    ):
        done = cli(*command)
        assert done.code == 2
        assert "safetensors" in done.err


def test_a_cut_off_file_is_an_error(cli, tmp_path):
    file = netbuild.save(netbuild.build("lenet5.yaml"), tmp_path / "net.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    assert cli("summary", file).code == 0  # its header is whole
    done = cli("build", file, "-o", tmp_path / "x.safetensors")
    assert done.code == 2
    assert "damaged or incomplete safetensors file" in done.err


# -- transfer ---------------------------------------------------------------------------------------------------------

EDITS = """
extends: yolo11.yaml
nc: {nc}
edits:
  - {{insert_after: 10, row: [-1, 1, ChannelAttention, []]}}
  - {{insert_before: 3, row: [-1, 1, Conv, [256, 1]]}}
  - {{replace: 6, row: [-1, 2, C2f, [512, true]]}}
"""


def write_edited_file(tmp_path, nc=80):
    (tmp_path / "edited.yaml").write_text(EDITS.format(nc=nc))
    return tmp_path / "edited.yaml"


def test_rows_find_their_weights_whatever_their_numbers(cli, tmp_path):
    base = netbuild.build("yolo11n.yaml")
    file = netbuild.save(base, tmp_path / "base.safetensors")
    done = cli(
        "build", write_edited_file(tmp_path), "--scale", "n", "--weights", file, "-o", tmp_path / "out.safetensors"
    )
    assert done.code == 0
    assert "row 3 Conv: new" in done.out
    assert "row 7 C2f: new" in done.out
    assert "row 6 C3k2 of the source: not used" in done.out
    network = netbuild.build(tmp_path / "out.safetensors")
    rows = {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 6: 5, 8: 7, 9: 8, 10: 9, 11: 10, 15: 13, 25: 23}
    for here, there in rows.items():
        assert equal_states(network.model[here].state_dict(), base.model[there].state_dict()), here
    new = [m for i in (3, 7, 12) for m in network.model[i].parameters()]
    total = sum(p.numel() for p in network.parameters())
    data = json.loads(
        cli(
            "build",
            write_edited_file(tmp_path),
            "--scale",
            "n",
            "--weights",
            file,
            "-o",
            tmp_path / "o.safetensors",
            "--json",
        ).out
    )["weights"]
    buffers = sum(b.numel() for b in network.buffers())
    lost = sum(b.numel() for i in (3, 7, 12) for b in network.model[i].buffers())
    assert data["values_loaded"] == total + buffers - sum(p.numel() for p in new) - lost
    assert data["rows"][-1]["from"] == 23


def test_another_number_of_classes_keeps_what_fits(tmp_path):
    base = netbuild.build("yolo11n.yaml")
    file = netbuild.save(base, tmp_path / "base.safetensors")
    network = netbuild.build("yolo11n.yaml", nc=3)
    report = netbuild.transfer(network, file)
    head = report.rows[-1]
    assert head.source.index == 23
    assert set(head.skipped) == {
        k for k, v in network.model[23].state_dict().items() if v.shape != base.model[23].state_dict()[k].shape
    }
    assert all(r.is_complete for r in report.rows[:-1])
    assert "row 23 Detect: " in str(report)
    assert "in the source, [64, " in head.skipped["cv3.0.0.1.conv.weight"]


@pytest.mark.parametrize(
    ("edits", "levels"),
    [
        ("- {remove: [20, 21, 22]}\n  - {replace: 23, row: [[16, 19], 1, Detect, [nc]]}", {0: 0, 1: 1}),
        (
            "- replace: 23\n    rows:\n      - [16, 1, nn.Upsample, [None, 2, nearest]]\n"
            "      - [[-1, 2], 1, Concat, [1]]\n"
            "      - [-1, 2, C3k2, [128, false], out2]\n      - [[out2, 16, 19, 22], 1, Detect, [nc]]",
            {1: 0, 2: 1, 3: 2},
        ),
    ],
)
def test_a_head_with_other_levels_keeps_those_that_stay(tmp_path, edits, levels):
    base = netbuild.build("yolo11n.yaml")
    file = netbuild.save(base, tmp_path / "base.safetensors")
    (tmp_path / "edited.yaml").write_text(f"extends: yolo11.yaml\nedits:\n  {edits}\n")
    network = netbuild.build(tmp_path / "edited.yaml", scale="n", weights=file)
    for here, there in levels.items():
        for branch in ("cv2", "cv3"):
            mine, theirs = (getattr(n.model[-1], branch)[i] for n, i in ((network, here), (base, there)))
            assert equal_states(mine.state_dict(), theirs.state_dict()), (branch, here)


def test_the_same_network_loses_nothing_and_plain_tensors_will_do(tmp_path):
    base = netbuild.build("yolov8n.yaml")
    save_file({f"module.{k}": v.clone() for k, v in base.state_dict().items()}, tmp_path / "plain.safetensors")
    network = netbuild.build("yolov8n.yaml", weights=tmp_path / "plain.safetensors")
    assert equal_states(network.state_dict(), base.state_dict())


def test_names_first_then_order_then_what_moved():
    def rows(*shapes, names=()):
        state = {f"model.{i}.w": torch.zeros(*shape) for i, shape in enumerate(shapes)}
        return group_by_row(state, {i: ("", name) for i, name in enumerate(names)})

    def pairs(a, b):
        return {here: row.index for here, row in align_rows(a, b).items()}

    equal = rows((4, 4), (4, 4), (4, 4), names=["a", "b", "c"])
    assert pairs(equal, rows((4, 4), (4, 4), (4, 4), names=["c", "x", "a"])) == {0: 2, 1: 1, 2: 0}
    assert pairs(rows((1, 2), (3, 4), (5, 6)), rows((5, 6), (1, 2), (9, 9), (3, 4))) == {1: 0, 3: 1, 0: 2}
    assert pairs(rows((1, 2), (100, 2)), rows((100, 2), (1, 2))) == {0: 1, 1: 0}
    assert pairs(rows((1, 2)), rows((7, 7))) == {}


def test_weights_without_a_row_in_common_are_an_error(cli, tmp_path):
    save_file({"fc.weight": torch.zeros(3, 3)}, tmp_path / "w.safetensors")
    done = cli("build", "lenet5.yaml", "--weights", tmp_path / "w.safetensors", "-o", tmp_path / "x.safetensors")
    assert done.code == 2
    assert "no tensor belongs to a row" in done.err
    assert (
        cli("build", "lenet5.yaml", "--weights", tmp_path / "no.safetensors", "-o", tmp_path / "x.safetensors").code
        == 2
    )


# -- a plain module ---------------------------------------------------------------------------------------------------

PLAIN = {"yolo11n.yaml": 64, "lenet5.yaml": 32, "resnet18.yaml": 64}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "lenet5.yaml" else pytest.mark.slow) for name in PLAIN]
)
def test_a_built_network_is_a_plain_module(name):
    network = netbuild.build(name).eval()
    x = torch.rand(2, network.card.ch, PLAIN[name], PLAIN[name])
    wanted = first_tensor(network(x))
    assert torch.equal(first_tensor(copy.deepcopy(network)(x)), wanted)
    assert torch.equal(first_tensor(pickle.loads(pickle.dumps(network))(x)), wanted)
    assert torch.equal(first_tensor(torch.nn.DataParallel(network)(x)), wanted)
    exported = torch.export.export(network, (x,)).module()
    assert torch.allclose(first_tensor(exported(x)), wanted, atol=1e-5)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(first_tensor(compiled(x)), wanted, atol=1e-5)
    torch.compiler.reset()


def first_tensor(value):
    while not isinstance(value, torch.Tensor):
        value = value[0]
    return value


def test_the_verbs_of_the_package(net):
    assert [f.level for f in netbuild.check(net)] == ["error"]
    assert netbuild.check("yolo11n.yaml") == []
    assert set(netbuild.__all__) >= {"load", "resolve", "build", "summarize", "check", "module", "save", "transfer"}
    assert checkpoint.save is netbuild.save
    assert netbuild.resolve(netbuild.load("architectures/yolo11/yolo11.yaml")).build().card.name == "yolo11n"
    assert Path(netbuild.__file__).parent.name == "netbuild"
