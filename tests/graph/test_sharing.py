"""Rows that share the module of another row: built once, run with the same weights, counted once."""

import copy
import sys
from pathlib import Path

import pytest
import torch

import netbuild
from netbuild import NetbuildError
from netbuild.export import export
from netbuild.grammar.spec import read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve

SHARING = """
nc: 4
blocks:
  Twice:
    rows:
      - [-1, 1, Conv, [c1, 3], conv]
      - {share: conv}
layers:
  - [-1, 1, nn.Conv2d, [3, 8, 3, 2, 1], a]
  - [-1, 1, nn.BatchNorm2d, [8]]
  - [-1, 1, C2f, [8], tower]
  - {from: a, share: tower, name: again}
  - [-1, 1, nn.Conv2d, [8, 8, 3, 1, 1], plain]
  - [-1, 1, nn.BatchNorm2d, [8], norm]
  - {share: plain}
  - {share: norm}
  - [[again, 1, -1], 1, Add, []]
  - [-1, 1, Twice, []]
  - {share: 9}
  - [-1, 1, Classify, [nc]]
"""


@pytest.fixture
def sharing(tmp_path) -> Path:
    (tmp_path / "net.yaml").write_text(SHARING)
    return tmp_path / "net.yaml"


def probabilities(network, x):
    return network(x)[0]


def randomise(network):
    for m in network.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.normal_(m.running_mean)
            torch.nn.init.normal_(m.weight, 1, 0.3)
    return network.eval()


def test_weights_are_counted_once_and_operators_each_time():
    layers = resolve(read_spec(SHARING, Path("net.yaml")), Options(imgsz=(32, 32))).layers
    assert [layers[i].params for i in (3, 6, 7, 10)] == [0, 0, 0, 0]
    assert layers[3].tally.macs == layers[2].tally.macs > 0
    assert layers[9].params == 8 * 8 * 9 + 16
    assert layers[9].tally.macs == 2 * 8 * 8 * 9 * 16 * 16


def test_the_same_weights_run_again_and_learn_from_both(sharing):
    network = randomise(netbuild.build(sharing))
    assert not [key for key in network.state_dict() if key.startswith(("model.3", "model.6", "model.7", "model.10"))]
    x = torch.randn(2, 3, 32, 32)
    rows = network.model
    a = rows[0](x)
    one = rows[1](a)
    last = rows[5](rows[4](rows[5](rows[4](rows[2](a)))))
    total = rows[2](a) + one + last
    wanted = rows[11](rows[9](rows[9](total)))
    assert torch.equal(probabilities(network, x), wanted[0])
    (network.train()(x) * torch.linspace(1, 2, 8).view(2, 4)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_copies_share_their_own_weights_and_fusing_keeps_the_output(sharing, tmp_path):
    network = randomise(netbuild.build(sharing))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = probabilities(network, x)
        other = copy.deepcopy(network)
        assert other.model[3].target is other.model[2]
        fused = copy.deepcopy(network).fuse()
        assert torch.allclose(probabilities(fused, x), wanted, atol=1e-5)
        netbuild.save(network, tmp_path / "net.safetensors")
        assert torch.equal(probabilities(netbuild.build(tmp_path / "net.safetensors").eval(), x), wanted)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        assert torch.allclose(probabilities(compiled, x), wanted, atol=1e-5)


@pytest.mark.slow
def test_shared_rows_are_exported_and_ejected(cli, sharing, tmp_path, monkeypatch):
    network = randomise(netbuild.build(sharing, imgsz=32))
    assert export(network, tmp_path / "net.onnx", imgsz=32).proven
    done = cli("eject", sharing, "-o", tmp_path / "ejected.py")
    assert done.code == 0, done.err
    monkeypatch.syspath_prepend(str(tmp_path))
    import ejected

    plain = ejected.Net().eval()
    plain.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.allclose(probabilities(plain, x), probabilities(network, x), atol=1e-6)
    sys.modules.pop("ejected")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{share: nothing}", "row 4, share: no row before it is named 'nothing'"),
        ("{share: 7}", "source 7 is row 7"),
        ("{share: input}", "no row whose module could be shared"),
        ("{share: tower, n: 2}", "the field 'n' beside 'share'"),
        ("{share: 1}", "expected|channels"),
        ("{from: [0, 1], share: tower}", "row 4 Conv"),
    ],
)
def test_a_row_that_cannot_share_is_an_error_at_its_place(row, message):
    text = f"""
layers:
  - [-1, 1, Conv, [8, 3, 2], tower]
  - [-1, 1, Conv, [12, 3], wide]
  - [-1, 1, Conv, [8]]
  - [1, 1, Conv, [6]]
  - {row}
"""
    with pytest.raises(NetbuildError, match=message) as error:
        resolve(read_spec(text, Path("net.yaml")), Options(imgsz=(32, 32)))
    assert error.value.where is None or error.value.where.line == 7


def test_edits_of_a_base_keep_what_is_shared(sharing, tmp_path):
    text = "extends: net.yaml\nedits:\n  - {insert_before: 0, row: [-1, 1, nn.Identity, []]}\n"
    (tmp_path / "own.yaml").write_text(text)
    rows = netbuild.load(tmp_path / "own.yaml").rows
    assert [row.shares for row in rows if row.shares is not None] == [3, 5, 6, 10]
    text = "extends: net.yaml\nedits:\n  - {remove: 9}\n"
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(NetbuildError, match="reads row 9 of the base, which an edit removes"):
        netbuild.load(tmp_path / "own.yaml")
