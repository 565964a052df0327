"""Custom modules: from files, folders and packages, by roles, with trust, and the errors of wrong ones."""

import json
import pickle
import re
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from netbuild import NetbuildError, build, layers
from netbuild.grammar.spec import load as load_spec
from netbuild.grammar.spec import read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.layers.heads.base import Head, check_head_class
from netbuild.modules import trust
from netbuild.modules.custom import load_modules
from netbuild.system import plugins

CASES = Path(__file__).parents[1] / "cases"
BUILT = [
    ("a03-user-channel-gate", [], [928, 552, 18_560, 152_404], 172_444),
    ("a06-simam-no-args", [], [696, 0, 0, 8720, 93_378], 102_794),
    ("a09-weighted-fusion", [], [928, 13_920, 20_832, 0, 2, 13_888, 78_387], 127_957),
    ("f04-resnet18-rows", ["--imgsz", "224"], None, 11_689_512),
]
MODULES = """
from __future__ import annotations
from typing import Annotated
import torch
from torch import nn
import netbuild

class Wide(nn.Module):
    def __init__(self, inp, wide: Annotated[int, netbuild.Width], times: Annotated[int, netbuild.Depth] = 1, k=1):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(wide if i else inp, wide, k) for i in range(times)))
    def forward(self, x):
        return self.layers(x)

class Two(nn.Module):
    def forward(self, a, b):
        return a + b

class Any(nn.Module):
    def forward(self, *xs):
        return sum(xs)

class Sized(nn.Module):
    def __init__(self, c1, hw: Annotated[tuple[int, int], netbuild.Size], stride: Annotated[float, netbuild.Stride]):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, c1, *hw))
        self.factor = stride
    def forward(self, x):
        return x + self.bias * self.factor

@netbuild.module(name="Renamed", roles={"size": netbuild.Width}, task="classify")
class Odd(nn.Module):
    def __init__(self, c1, size):
        super().__init__()
        self.linear = nn.Conv2d(c1, size, 1)
    def forward(self, x):
        return self.linear(x).mean((2, 3))

class Broken(nn.Module):
    def __init__(self, c1):
        super().__init__()
        self.conv = nn.Conv2d(c1 + 1, 4, 1)
    def forward(self, x):
        return self.conv(x)
"""


@pytest.fixture
def custom_file(tmp_path):
    (tmp_path / "own.py").write_text(MODULES)
    return tmp_path / "own.py"


def resolve_text(text: str, custom_file: Path, **options):
    return resolve(
        read_spec(textwrap.dedent(text), Path("net.yaml")),
        Options(imgsz=(16, 16), modules=load_modules([custom_file]), **options),
    )


@pytest.mark.parametrize(("name", "flags", "rows", "total"), BUILT, ids=lambda v: v if isinstance(v, str) else "")
def test_cases_build_from_any_folder(cli, tmp_path, monkeypatch, name, flags, rows, total):
    monkeypatch.chdir(tmp_path)
    flags = flags or ["--imgsz", "64"]
    done = cli("summary", CASES / f"{name}.yaml", "--modules", CASES / f"{name}.py", *flags, "--json")
    data = json.loads(done.out)
    assert data["totals"]["params"] == total
    assert rows is None or [row["params"] for row in data["rows"]] == rows


ECA = """
from torch import nn

class ECA(nn.Module):
    def __init__(self, c1, k=3):
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, padding=k // 2)
    def forward(self, x):
        return self.conv(x)

class Plain(nn.Module):
    def __init__(self, {channels}, k=3):
        super().__init__()
        self.conv = nn.Conv2d({channels}, {channels}, k, padding=k // 2)
    def forward(self, x):
        return self.conv(x)

class Bare(nn.Module):
    def __init__(self, c1):
        super().__init__()
        self.scale = nn.Parameter(__import__("torch").ones(1, c1, 1, 1))
    def forward(self, x):
        return x * self.scale

class Many(nn.Module):
    def __init__(self, c1, a=0, *more, flag=False):
        super().__init__()
        self.got = (c1, a, more, flag)
    def forward(self, x):
        return x

class Tagged(nn.Module):
    def __init__(self, tag="", *, more=()):
        super().__init__()
        self.tag, self.more = tag, more
    def forward(self, x):
        return x
"""
SCALES = "scales: {n: [0.5, 0.25, 1024]}\n"


def resolve_eca(tmp_path, row: str, head: str = "", section: str = "backbone", channels: str = "channels"):
    (tmp_path / "eca.py").write_text(ECA.replace("{channels}", channels))
    return resolve_text(f"{head}{section}:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, {row}]\n", tmp_path / "eca.py")


@pytest.mark.parametrize(
    ("head", "row", "note"),
    [
        ("", "ECA, [64, 5]", "row 1 ECA: 64 are the input channels, which netbuild supplies: leave 64 out"),
        ("", "ECA, [64, {k: 5}]", "row 1 ECA: 64 are"),
        (SCALES, "ECA, [64, 5]", "row 1 ECA: 64 (16 at scale n) are the input channels"),
        (SCALES, "ECA, [16, 5]", "row 1 ECA: 16 are the input channels"),
        ("", "Bare, [64]", "row 1 Bare: 64 are the input channels"),
    ],
)
def test_input_channels_that_forks_write_are_dropped_with_a_note(cli, tmp_path, head, row, note):
    graph = resolve_eca(tmp_path, row, head)
    assert any(found.startswith(note) for found in graph.notes), graph.notes
    arriving = 16 if head else 64
    module = graph.layers[1].module
    assert row.startswith("Bare") or module.conv.weight.shape == (arriving, arriving, 5, 5)
    net = tmp_path / "net.yaml"
    net.write_text(
        f"{head}backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 1, {row}]\nhead:\n  - [-1, 1, Classify, [4]]\n"
    )
    assert note in cli("summary", net, "--modules", tmp_path / "eca.py").err
    assert note in cli("check", net, "--modules", tmp_path / "eca.py").err
    built = cli("build", net, "--modules", tmp_path / "eca.py", "-o", tmp_path / "net.safetensors")
    assert (built.code, note in built.err) == (0, True)
    with pytest.warns(UserWarning, match=re.escape(note)):
        build(net, modules=[tmp_path / "eca.py"])


@pytest.mark.parametrize(("scale", "arriving"), [("n", 16), ("s", 32)])
def test_an_unscaled_count_of_input_channels_builds_the_net_of_its_scale(cli, scale, arriving):
    file, code = CASES / "a04-gate-under-width.yaml", CASES / "a04-gate-under-width.py"
    done = cli("summary", file, "--scale", scale, "--modules", code, "--imgsz", "64", "--json")
    assert json.loads(done.out)["rows"][1]["out_shape"][1] == arriving
    assert f"row 1 ChannelGate: 64 ({arriving} at scale {scale}) are the input channels" in done.out + done.err


@pytest.mark.parametrize(
    ("section", "head", "row", "message"),
    [
        ("layers", "", "ECA, [64, 5]", "2 values given, \\[64, 5\\], but a row may give at most 1"),
        ("layers", "", "Bare, [64]", "1 values given"),
        ("backbone", "", "ECA, [32, 5]", "the input channels, is supplied: 64 arrive"),
        ("backbone", SCALES, "ECA, [32, 5]", "16 arrive at scale n"),
        ("backbone", "", "ECA, [64, 5, 1]", "3 values given"),
        ("backbone", "", "ECA, [64.0, 5]", "2 values given"),
        ("backbone", "", "Conv, [64, 64, 3, 2, None, 1, 1, true]", "8 values given"),
        ("backbone", "", "nn.ReLU, [64, true]", "values given"),
        ("backbone", "", "nn.Identity, [64]", "1 values given"),
        ("backbone", "", "Silence, [64]", "1 values given"),
        ("backbone", "", "ECA, [64, {k: 5, j: 1}]", "no argument 'j'"),
    ],
)
def test_a_value_that_nothing_takes_is_an_error_never_another_net(tmp_path, section, head, row, message):
    with pytest.raises(NetbuildError, match=message) as error:
        resolve_eca(tmp_path, row, head, section)
    assert "row 1" in str(error.value)


@pytest.mark.parametrize(
    "channels", ["channels", "channel", "in_c", "nin", "dim_in", "c", "in_ch_", "inplanes", "planes"]
)
@pytest.mark.parametrize(("row", "head"), [("Plain, []", ""), ("Plain, [64, 3]", SCALES), ("Plain, [64, 3, 1]", "")])
def test_a_parameter_for_the_input_channels_that_is_not_known_is_suggested(tmp_path, channels, row, head):
    with pytest.raises(NetbuildError) as error:
        resolve_eca(tmp_path, row, head, channels=channels)
    hint = f"if '{channels}' is the input channels, call it c1, or annotate it Annotated[int, In]: netbuild supplies it"
    assert hint in str(error.value)


def test_further_values_reach_varargs(tmp_path):
    assert resolve_eca(tmp_path, "Many, [1, 2, 3, {flag: true}]").layers[1].module.got == (64, 1, (2, 3), True)
    graph = resolve_eca(tmp_path, "Many, [1, 2]", section="layers")
    assert graph.layers[1].module.got == (64, 1, (2,), False)
    assert graph.layers[1].arguments == [64, 1, 2]


# -- words in arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["depth", "width", "scale", "max_channels", "depth-wise", "n", "full-scale"])
@pytest.mark.parametrize(
    ("row", "read"),
    [
        ("Tagged, [{}]", lambda module: module.tag),
        ("Tagged, ['{}']", lambda module: module.tag),
        ("Tagged, {{tag: {}}}", lambda module: module.tag),
        ("Tagged, {{more: [{}, 1]}}", lambda module: module.more[0]),
        ("Inner, [{}]", lambda module: module[0].tag),
    ],
)
def test_a_text_is_itself_though_the_scale_has_such_a_word(tmp_path, word, row, read):
    head = SCALES + "blocks:\n  Inner: {params: [kind], rows: [[-1, 1, Tagged, [kind]]]}\n"
    module = resolve_eca(tmp_path, row.format(word), head).layers[1].module
    assert read(list(module.children()) if row.startswith("Inner") else module) == word


@pytest.mark.parametrize(
    ("head", "word", "value"),
    [
        ("nc: 7\n", "nc", 7), ("", "ch", 3), ("params: {depth: 5}\n", "depth", 5),
        ("kpt_shape: [2, 3]\n", "kpt_shape", [2, 3]),
        (SCALES, "width * 8", 2), (SCALES, "None", None), ("", "kpt_shape", "kpt_shape"), ("", "nc", "nc"),
        ("nc: 7\n", "nc + depth", 8),
    ],
)  # fmt: skip
def test_names_that_the_file_defines_have_their_values(tmp_path, head, word, value):
    assert resolve_eca(tmp_path, f"Tagged, [{word}]", head).layers[1].module.tag == value


def test_roles_by_name_by_annotation_and_by_decorator(custom_file):
    text = """
    scales: {h: [0.5, 0.5, 64]}
    backbone:
      - [-1, 4, Wide, [32]]
      - [-1, 1, Sized, []]
    head:
      - [-1, 1, Renamed, [20]]
    """
    g = resolve_text(text, custom_file, scale="h")
    assert [layer.arguments for layer in g.layers] == [[3, 16, 2], [16], [16, 16]]
    assert g.layers[1].module.bias.shape == (1, 16, 16, 16)
    assert g.layers[1].module.factor == 1
    assert g.task == "classify"


def test_several_inputs_as_arguments(custom_file):
    text = """
    layers:
      - [input, 1, Wide, [4], a]
      - [input, 1, Wide, [4], b]
      - [[a, b], 1, Two, []]
      - [[a, b, -1], 1, Any, []]
    """
    net = resolve_text(text, custom_file).build().eval()
    x = torch.rand(1, 3, 16, 16)
    a, b = net.model.get_submodule("0")(x), net.model.get_submodule("1")(x)
    torch.testing.assert_close(net(x), 2 * (a + b))


def test_an_error_in_custom_code_names_row_and_line(custom_file):
    with pytest.raises(NetbuildError) as caught:
        resolve_text("layers:\n  - [input, 1, Broken, []]\n", custom_file)
    message = caught.value.message
    assert "row 0 Broken" in message
    assert "built for 4 input channels, 3 arrive" in message
    assert "raised at own.py:" in message
    assert "return self.conv(x)" in message


def test_classes_can_be_pickled(custom_file):
    net = resolve_text("layers:\n  - [input, 1, Wide, [4]]\n", custom_file).build()
    again = pickle.loads(pickle.dumps(net))
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(again(x), net(x))


def test_folders_and_packages(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.py").write_text("from torch import nn\nclass A(nn.Module): pass\n")
    (tmp_path / "plain" / "b.py").write_text("from torch import nn\nclass B(nn.Module): pass\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("from .inner import C\n")
    (tmp_path / "pack" / "inner.py").write_text("from torch import nn\nclass C(nn.Module): pass\n")
    assert set(load_modules([tmp_path / "plain", tmp_path / "pack"])) == {"A", "B", "C"}


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        ("import torch\nclass A(:\n", "SyntaxError", 2),
        ("x = 1\ny = x / 0\n", "ZeroDivisionError", 2),
        ("import nosuchpackage\n", "nosuchpackage", 1),
        ("raise SystemExit(3)\n", "SystemExit", 1),
        ("x = 1\n", "no nn.Module class", None),
    ],
)
def test_code_that_does_not_load(cli, tmp_path, code, message, line):
    (tmp_path / "own.py").write_text(code)
    done = cli("summary", CASES / "a03-user-channel-gate.yaml", "--modules", tmp_path / "own.py")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert line is None or f"own.py:{line}:" in done.err
    assert "Traceback" not in done.err


def test_two_files_with_one_name_and_a_missing_file(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.py").write_text("from torch import nn\nclass Same(nn.Module): pass\n")
    with pytest.raises(NetbuildError, match="defined twice"):
        load_modules([tmp_path / "a.py", tmp_path / "b.py"])
    with pytest.raises(NetbuildError, match="no such module file"):
        load_modules([tmp_path / "c.py"])


@pytest.fixture
def importing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + MODULES.replace("from __future__ import annotations\n", "")
    )
    (folder / "net.yaml").write_text("imports: {Wide: ./own.py}\nlayers:\n  - [-1, 1, Wide, [4]]\n")
    return folder / "net.yaml"


def test_imports_run_only_when_trusted(cli, importing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("summary", importing, "--imgsz", "16")
    assert done.code == 2
    for message in ("net.yaml:1:17:", "runs only if you trust it", "own.py", "--trust", "--modules"):
        assert message in done.err
    assert not (tmp_path / "ran").exists()
    done = cli("summary", importing, "--imgsz", "16", "--trust", "--json")
    assert json.loads(done.out)["totals"]["params"] == 16
    assert (tmp_path / "ran").exists()


def test_trust_is_remembered_for_a_path_and_its_content(cli, importing):
    module = importing.parent / "own.py"
    trust.add_trusted(module)
    assert cli("summary", importing, "--imgsz", "16").code == 0
    module.write_text(module.read_text() + "\n")
    assert cli("summary", importing, "--imgsz", "16").code == 2


@pytest.mark.parametrize(
    ("imports", "message"),
    [
        ("./nothere.py", "does not exist"),
        ("{Nope: ./own.py}", "defines no module 'Nope'"),
        ("[3]", "must be a text"),
        ("3", "imports must be"),
    ],
)
def test_wrong_imports_are_errors_at_their_place(cli, importing, imports, message):
    importing.write_text(f"imports: {imports}\nlayers:\n  - [-1, 1, Wide, [4]]\n")
    done = cli("summary", importing, "--trust")
    assert done.code == 2
    assert message in done.err
    assert "net.yaml:1:" in done.err


def test_reading_a_file_with_imports_runs_nothing(importing, tmp_path):
    assert load_spec(importing).imports[0].name == "Wide"
    assert not (tmp_path / "ran").exists()


def test_layers_of_packages_by_dotted_path(cli, tmp_path):
    pytest.importorskip("torchvision")
    (tmp_path / "net.yaml").write_text("layers:\n  - [-1, 1, torchvision.ops.SqueezeExcitation, [3, 1]]\n")
    data = json.loads(cli("summary", tmp_path / "net.yaml", "--imgsz", "16", "--json").out)
    assert data["totals"]["params"] == 10
    for name in ("torchvision.ops.nms", "torchvision.os", "timm.layers.Nope", "os.path.join"):
        (tmp_path / "net.yaml").write_text(f"layers:\n  - [-1, 1, {name}, []]\n")
        done = cli("summary", tmp_path / "net.yaml")
        assert done.code in (2, 3)
        assert name in done.err


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def fuse(self, a, b): return a + b", "its fuse() fails: "),
        ("def fuse(self): self.conv = None", "its module fails when it is run: "),
        ("def __deepcopy__(self, memo): raise RuntimeError('no copies')", "its module cannot be copied: no copies"),
    ],
)
def test_a_module_that_cannot_be_merged_is_an_error_at_its_row(cli, tmp_path, body, message):
    (tmp_path / "own.py").write_text(
        "from torch import nn\nclass Own(nn.Module):\n    def __init__(self, c1):\n"
        "        super().__init__()\n        self.conv = nn.Conv2d(c1, c1, 1)\n"
        f"    def forward(self, x):\n        return self.conv(x)\n    {body}\n"
    )
    (tmp_path / "net.yaml").write_text("layers:\n  - [-1, 1, Conv, [8]]\n  - [-1, 1, Own, []]\n")
    flags = ["--modules", tmp_path / "own.py", "--imgsz", "16"]
    assert cli("summary", tmp_path / "net.yaml", *flags).code == 0
    done = cli("summary", tmp_path / "net.yaml", *flags, "--fuse")
    assert (done.code, done.out) == (2, "")
    assert "net.yaml:3:5: row 1 Own: " in done.err
    assert message in done.err
    assert "--fuse" in done.err


def test_a_path_that_the_system_does_not_take(cli):
    done = cli("summary", CASES / "a03-user-channel-gate.yaml", "--modules", "x" * 5000)
    assert (done.code, done.out) == (2, "")
    assert "cannot be read" in done.err


def test_an_entry_point_that_does_not_load(cli, tmp_path, monkeypatch):
    point = EntryPoint("FromPackage", "no.such.package:Layer", "netbuild.modules")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == "netbuild.modules" else [])
    (tmp_path / "net.yaml").write_text("layers:\n  - [-1, 1, FromPackage, []]\n")
    done = cli("summary", tmp_path / "net.yaml")
    assert done.code == 2
    assert "net.yaml:2:13: row 0: the module 'FromPackage' = no.such.package:Layer does not load: No module" in done.err


def test_the_refusal_names_all_code_of_a_package(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("from .inner import C\n")
    (tmp_path / "pack" / "inner.py").write_text("from torch import nn\nclass C(nn.Module): pass\n")
    (tmp_path / "net.yaml").write_text("imports: [./pack]\nlayers:\n  - [-1, 1, C, []]\n")
    done = cli("summary", tmp_path / "net.yaml")
    assert done.code == 2
    assert "__init__.py (1 lines" in done.err
    assert "inner.py (2 lines" in done.err


def test_trust_given_before_the_settings_moved_still_counts(cli, importing, tmp_path, monkeypatch):
    trust.add_trusted(importing.parent / "own.py")
    monkeypatch.setattr(trust, "settings_folder", lambda: tmp_path / "elsewhere")  # as on macOS and Windows
    assert trust.is_trusted(importing.parent / "own.py")
    monkeypatch.setattr(trust, "old_settings_folder", lambda: tmp_path / "nothing")
    assert not trust.is_trusted(importing.parent / "own.py")


HEADS = {
    "a head of boxes without a layout": (
        "class Bad(nn.Module):\n    task = 'detect'\n    def ranks(self): return True\n",
        "Bad states the task 'detect' and has no method 'layout'",
    ),
    "an unknown form of boxes": (
        "class Bad(Head):\n    task = 'detect'\n    box_form = 'polar'\n",
        "Bad has box_form 'polar'; it must be one of corners, centres, parts",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_breaks_the_protocol_is_refused_at_its_class(tmp_path, name):
    code, message = HEADS[name]
    file = tmp_path / "bad.py"
    file.write_text(f"from torch import nn\nfrom netbuild.layers.heads.base import Head\n\n{code}")
    with pytest.raises(NetbuildError, match=re.escape(message)) as caught:
        load_modules([file])
    assert (caught.value.where.file, caught.value.where.line) == (str(file), 4)
    assert "netbuild.layers.heads.base.Head" in caught.value.hint


@pytest.mark.parametrize("name", [name for name in layers.__all__ if hasattr(getattr(layers, name), "task")])
def test_packaged_heads_keep_to_the_protocol(name):
    cls = getattr(layers, name)
    assert issubclass(cls, Head)
    check_head_class(cls, cls.task)
