"""netbuild stub, and the message for a file that lacks modules."""

import json

import pytest
import torch

import netbuild
from netbuild.errors import NetbuildError

NET = """
nc: 4
params: {r: 4}
blocks:
  Twin: {params: [c2], rows: [[-1, 1, Inner, [c2, 3]]]}
backbone:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Foo, [64, 3, 2]]
  - [-1, 2, Foo, [128]]
  - [-1, 1, GateX, [r, true, {drop: 0.1, n: 2}]]
  - [-1, 1, CBAMM, [None, 1.5]]
  - [-1, 1, CBAMM, [4, 2]]
  - [-1, 1, Twin, [32]]
head:
  - [[-2, 3], 1, FuseX, ['{QUOTES}', [1, 2], nn.ReLU()]]
  - [[-1, 2], 1, HeadX, [nc]]
""".replace("{QUOTES}", '"""a\\')  # would end the docstring of the class
SIGNATURES = {
    "Foo": "c1: int, c2: int, k: int = 3, s: int = 1",
    "GateX": "c1: int, r: int, flag: bool, drop: float = 0.1",
    "CBAMM": "c1: int, number: int | None, ratio: float",
    "FuseX": "c1: list[int], mode: str, values: list, value: nn.Module",
    "HeadX": "c1: list[int], nc: int",
    "Inner": "c1: int, c2: int, k: int",
}


@pytest.fixture
def net(tmp_path, monkeypatch):
    (tmp_path / "net.yaml").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "net.yaml"


def test_a_stub_takes_the_place_of_each_missing_module(cli, net):
    text = net.read_text(encoding="utf-8").replace(", n: 2", "").replace("Inner, [c2", "Conv, [c2")
    net.write_text(text, encoding="utf-8")
    done = cli("stub", "net.yaml", "-o", "missing.py")
    assert (done.code, done.err) == (0, "")
    assert "CBAMM(c1: int, number: int | None, ratio: float): lines 11, 12" in done.out
    assert "netbuild summary net.yaml --modules missing.py" in done.out
    assert cli("summary", "net.yaml", "--modules", "missing.py", "--imgsz", "64").code == 0
    found = netbuild.summarize("net.yaml", imgsz=64, modules=["missing.py"])
    shapes = {layer.row.index: layer.out_shape for layer in found.graph.layers}
    assert shapes[1] == [1, 64, 16, 16]
    assert shapes[2] == [1, 128, 16, 16]  # twice, with the stride of a row that writes none
    assert shapes[8] == [[1, 128, 16, 16], [1, 128, 16, 16]]  # the last row returns its sources
    model = netbuild.build("net.yaml", modules=["missing.py"], imgsz=64).train()
    with pytest.raises(NotImplementedError, match="Foo is a stub: write its forward"):
        model(torch.zeros(1, 3, 64, 64))
    # An existing file is never overwritten.
    assert "missing.py exists already" in cli("stub", "net.yaml", "-o", "missing.py").err
    assert "calls no unknown module" in cli("stub", "net.yaml", "--modules", "missing.py").err
    assert "a file of modules ends in .py" in cli("stub", "net.yaml", "-o", "missing.txt").err


def test_parameters_are_guessed_from_all_rows(cli, net):
    data = {one["name"]: one for one in json.loads(cli("stub", "net.yaml", "--json").out)}
    assert {name: one["signature"] for name, one in data.items()} == SIGNATURES
    assert [row["line"] for row in data["Foo"]["rows"]] == [8, 9]
    compile(cli("stub", "net.yaml").out, "missing.py", "exec")
    # What the classes cannot help is said: `n` is supplied by netbuild, so that the row may not write it.
    assert "still: net.yaml:10:" in cli("stub", "net.yaml", "-o", "missing.py").err


def test_missing_modules_are_said_once_with_all_their_rows(net):
    with pytest.raises(NetbuildError) as raised:
        netbuild.resolve(netbuild.load("net.yaml"))
    errors = raised.value.all()
    messages = [error.message for error in errors]
    assert messages[:2] == ["row 1: unknown module 'Foo' (2 rows: 1, 2)", "row 3: unknown module 'GateX'"]
    assert messages[-1] == "row 0: unknown module 'Inner'"  # of a block whose source failed
    hints = [error.hint for error in errors]
    assert hints[2].startswith("did you mean 'CBAM'")
    assert sum("--modules FILE.py" in hint for hint in hints) == 1
    first = "6 modules are unknown: Foo, GateX, CBAMM, FuseX, HeadX, Inner; for a module of your own"
    assert first in hints[0]
    assert hints[0].endswith("netbuild stub net.yaml -o missing.py writes a start of the missing classes")
