"""Blocks written in YAML: parameters, scope, several inputs and results, repeats, nesting, names in the state dict."""

from pathlib import Path

import pytest
import torch

import netbuild
from netbuild import NetbuildError
from netbuild.grammar.spec import read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.report.summary import summarize_graph


def resolve_text(text: str, size: int = 16, **options):
    return resolve(read_spec(text, Path("net.yaml")), Options(imgsz=(size, size), **options))


BLOCKS = """
params: {k: 1, half: 2}
blocks:
  Unit:
    params: [c2, {k: 3}, {s: 1}]
    rows:
      - [input, 1, nn.Conv2d, [c1, c2, k, s, k // 2], conv]
      - [-1, 1, nn.ReLU, []]
  Pair:
    params: [c2]
    rows:
      - [input, 1, Unit, [c2], a]
      - [a, 1, Unit, ["c2 // half", k], b]
      - [[a, b], 1, Concat, [1]]
  Sum:
    inputs: [left, right]
    rows:
      - [[left, right], 1, Add, []]
  Split:
    rows:
      - [input, 1, Unit, [4], a]
      - [input, 1, Unit, [8], b]
    result: [a, b]
"""


def test_a_block_has_its_own_parameters_and_the_files():
    g = resolve_text(BLOCKS + "layers:\n  - [input, 1, Pair, [8]]\n")
    assert g.layers[0].out_shape == [1, 12, 16, 16]
    # The inner Unit's k is given by Pair, whose k is the file's 1; the other Unit has its own default, 3.
    assert [tuple(p.shape) for p in g.build().parameters() if p.ndim == 4] == [(8, 3, 3, 3), (4, 8, 1, 1)]


def test_a_block_does_not_see_its_callers_parameters():
    text = """
blocks:
  Inner: {rows: [[input, 1, nn.Conv2d, [c1, secret, 1]]]}
  Outer: {params: [secret], rows: [[input, 1, Inner, []]]}
layers:
  - [input, 1, Outer, [8]]
"""
    with pytest.raises(NetbuildError, match="secret"):
        resolve_text(text)


def test_names_of_inner_rows_are_keys_of_the_state_dict():
    keys = list(resolve_text(BLOCKS + "layers:\n  - [input, 1, Pair, [8]]\n").build().state_dict())
    assert keys == [f"model.0.{n}.conv.{t}" for n in "ab" for t in ("weight", "bias")]


def test_repeats_chain_and_depth_and_width_scale_a_block():
    text = BLOCKS + "scales: {h: [0.5, 0.5, 64]}\nbackbone:\n  - [-1, 4, Pair, [64]]\n"
    layer = resolve_text(text, scale="h").layers[0]
    assert (layer.n, layer.arguments, layer.out_shape) == (2, [32], [1, 48, 16, 16])
    first, second = layer.module
    assert (first.a.conv.in_channels, second.a.conv.in_channels) == (3, 48)


def test_several_inputs_and_several_results():
    g = resolve_text(
        BLOCKS + "layers:\n  - [input, 1, Unit, [3], u]\n  - [[input, u], 1, Sum, []]\n  - [u, 1, Split, []]\n"
    )
    assert g.layers[1].out_shape == [1, 3, 16, 16]
    assert g.layers[2].out_shape == [[1, 4, 16, 16], [1, 8, 16, 16]]
    image = torch.rand(1, 3, 16, 16)
    assert [list(x.shape) for x in g.build()(image)] == g.layers[2].out_shape


@pytest.mark.parametrize("selection", ["s.b", "'s[1]'", "'2[1]'"])
def test_one_of_several_results_by_name_or_number(selection):
    text = "layers:\n  - [input, 1, Unit, [3], u]\n  - [u, 1, Split, []]\n  - [u, 1, Split, [], s]\n"
    g = resolve_text(BLOCKS + text + f"  - [[{selection}, u], 1, Concat, [1]]\n  - [{selection}, 1, Conv, [5]]\n")
    assert g.layers[3].in_shapes == [[1, 8, 16, 16], [1, 3, 16, 16]]
    assert g.layers[4].arguments == [8, 5]
    assert g.build()(torch.rand(2, 3, 16, 16)).shape == (2, 5, 16, 16)


@pytest.mark.parametrize(
    ("selection", "message"), [("s.c", "named a, b"), ("'s[2]'", "0..1"), ("u.x", "one output"), ("t.a", "no row")]
)
def test_a_missing_result_is_an_error(selection, message):
    text = "layers:\n  - [input, 1, Unit, [3], u]\n  - [u, 1, Split, [], s]\n"
    with pytest.raises(NetbuildError) as caught:
        resolve_text(BLOCKS + text + f"  - [{selection}, 1, Conv, [5]]\n")
    assert message in str(caught.value)


INPUTS = """
nc: 2
inputs: {rgb: [3, 64, 64], ir: [1, 32, 32]}
backbone:
  - [rgb, 1, Conv, [16, 3, 2], a]
  - [ir, 1, Conv, [16, 3, 1], b]
  - [[a, b], 1, Concat, [1]]
  - [-1, 1, Slice, [8, 24]]
head:
  - [[-1], 1, Detect, [nc]]
"""


def test_several_inputs_of_a_network():
    g = resolve(read_spec(INPUTS, Path("net.yaml")))
    assert [layer.in_shapes[0] for layer in g.layers[:2]] == [[1, 3, 64, 64], [1, 1, 32, 32]]
    assert g.layers[3].out_shape == [1, 16, 32, 32]
    net = g.build().eval()
    y, _ = net(torch.rand(2, 3, 64, 64), torch.rand(2, 1, 32, 32))
    assert y.shape == (2, 6, 1024)
    plain, deep = summarize_graph(g), summarize_graph(g, depth=2)
    assert plain.totals == deep.totals
    assert summarize_graph(g, fuse=True).totals["params"] < plain.totals["params"]


GUIDED = """
from torch import nn

class Guided(nn.Module):
    def __init__(self, c1, c2):
        super().__init__()
        self.conv, self.embed = nn.Conv2d(c1, c2, 1), nn.Linear(12, c2)
    def forward(self, x, text):
        return self.conv(x) * self.embed(text).amax(1)[..., None, None].sigmoid()

class Stepped(nn.Module):
    def forward(self, x, t):
        return x * t[:, None, None, None]
"""
TEXTS = """
nc: 5
inputs: {image: [ch], text: [nc, 12], time: []}
layers:
  - [[image, text], 1, Guided, [ch]]
  - [[-1, time], 1, Stepped, []]
"""


def test_texts_and_numbers_as_inputs(cli, tmp_path):
    (tmp_path / "guided.py").write_text(GUIDED)
    (tmp_path / "net.yaml").write_text(TEXTS)
    net = netbuild.build(tmp_path / "net.yaml", ch=4, nc=3, imgsz=32, modules=[tmp_path / "guided.py"])
    assert net(torch.rand(2, 4, 32, 32), torch.rand(2, 3, 12), torch.rand(2)).shape == (2, 4, 32, 32)
    again = netbuild.build(netbuild.save(net, tmp_path / "net.safetensors"), trusted=True)
    inputs = torch.rand(2, 4, 32, 32), torch.rand(2, 3, 12), torch.rand(2)
    assert torch.equal(net(*inputs), again(*inputs))
    done = cli("summary", tmp_path / "net.yaml", "--modules", tmp_path / "guided.py", "--imgsz", "32")
    assert "input image 3x32x32, input text 5x12, input time a number" in done.out


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("{rgb: 3}", "must be [channels]"),
        ("{rgb: [1, 2, 3, 4]}", "must be [channels]"),
        ("[3]", "inputs must be a mapping"),
        ("{rgb: [0]}", "1 to 65536"),
        ("{input: [3]}", "taken"),
    ],
)
def test_invalid_inputs_are_refused(inputs, message):
    with pytest.raises(NetbuildError) as caught:
        read_spec(f"inputs: {inputs}\nlayers:\n  - [-1, 1, Conv, [8]]\n", Path("net.yaml"))
    assert message in str(caught.value)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_an_image_of_several_channels_is_sliced(channels):
    g = resolve_text(
        f"ch: {channels}\nlayers:\n  - [input, 1, Slice, [0, 1], first]\n  - [[first, input], 1, Concat, [1]]\n"
    )
    x = torch.rand(1, channels, 16, 16)
    assert torch.equal(g.build()(x), torch.cat([x[:, :1], x], 1))
    with pytest.raises(NetbuildError, match=f"the input has {channels}"):
        resolve_text(f"ch: {channels}\nlayers:\n  - [input, 1, Slice, [0, 9]]\n")


def test_costs_of_a_block_are_those_of_its_rows():
    inside = resolve_text(BLOCKS + "layers:\n  - [input, 1, Pair, [8]]\n")
    rows = "layers:\n  - [input, 1, nn.Conv2d, [3, 8, 3, 1, 1], x]\n  - [-1, 1, nn.ReLU, [], a]\n"
    rows += "  - [-1, 1, nn.Conv2d, [8, 4, 1]]\n  - [-1, 1, nn.ReLU, [], b]\n  - [[a, b], 1, Concat, [1]]\n"
    outside = resolve_text(rows)
    assert inside.layers[0].tally.macs == sum(layer.tally.macs for layer in outside.layers)
    assert inside.peak_bytes == outside.peak_bytes
    assert inside.layers[0].field == outside.layers[-1].field


def test_a_row_may_be_named_like_an_attribute_of_modules():
    text = "blocks:\n  B:\n    rows:\n      - [input, 1, Conv, [4], forward]\n      - [forward, 1, Conv, [4], plan]\n"
    net = resolve_text(text + "layers:\n  - [input, 1, B, []]\n").build()
    assert net(torch.rand(2, 3, 8, 8)).shape == (2, 4, 8, 8)


def test_an_error_inside_a_block_names_the_row_that_uses_it():
    text = BLOCKS + "layers:\n  - [input, 1, nn.Flatten, []]\n  - [-1, 1, Pair, [8]]\n"
    with pytest.raises(NetbuildError) as caught:
        resolve_text(text)
    assert "row 0 (conv) nn.Conv2d" in caught.value.message
    assert "used at line" in caught.value.message
    assert "row 1 Pair" in caught.value.message


CHOOSING = """
nc: 4
params: {block: C3k2, down: Conv}
blocks:
  Stage:
    params: [c2, {inner: Bottleneck}]
    rows:
      - [-1, 1, $down, [c2, 3, 2]]
      - [-1, 1, $inner, [c2]]
      - [-1, 1, $block, [c2]]
layers:
  - [-1, 1, Stage, [16]]
  - [-1, 1, Stage, [32, C2f]]
  - [-1, 1, $block, [32]]
  - [-1, 1, Classify, [nc]]
"""


def test_parameters_choose_the_modules_of_rows(tmp_path):
    graph = resolve_text(CHOOSING, 32)
    inner = [[layer.row.module for layer in row.block_copies[0].layers] for row in graph.layers[:2]]
    assert inner == [["Conv", "Bottleneck", "C3k2"], ["Conv", "C2f", "C3k2"]]
    assert graph.layers[2].row.module == "C3k2"
    written = CHOOSING.replace("$down", "Conv").replace("$block", "C3k2")
    assert [row.params for row in resolve_text(written, 32).layers] == [row.params for row in graph.layers]
    (tmp_path / "net.yaml").write_text(CHOOSING)
    changed = netbuild.build(tmp_path / "net.yaml", set=["block=C2f"])
    assert type(changed.model[2]).__name__ == "C2f"
    netbuild.save(changed, tmp_path / "net.safetensors")
    assert type(netbuild.build(tmp_path / "net.safetensors").model[2]).__name__ == "C2f"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("block: C3k2", "block: C3kk", "row 2: unknown module 'C3kk'"),
        ("block: C3k2", "block: 3", "row 2: the parameter 'block' is 3, and no name of a module"),
        ("$down", "$dwn", "row 0: no parameter is named 'dwn'"),
        ("inner: Bottleneck", "inner: Stage", "nested deeper than 32 levels"),
    ],
)
def test_a_parameter_that_names_no_module_is_an_error_at_its_row(old, new, message):
    with pytest.raises(NetbuildError, match=message):
        resolve_text(CHOOSING.replace(old, new), 32)
