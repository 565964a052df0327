"""Help for authors: check, modules, explain, --set."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

import netbuild
from netbuild.author import index, quick, zoo
from netbuild.author.catalogue import explain, find_entries, resolve_example
from netbuild.author.check import check
from netbuild.author.new import list_origins
from netbuild.costs.outputs import tensors_of
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import load
from netbuild.graph.options import Options
from netbuild.modules import registry

CASES = Path(__file__).parents[1] / "cases"
SUSPECT = """\
blocks:
  Conv: {params: [c2], rows: [[input, 1, nn.Conv2d, [c1, c2, 1]]]}
scales: {n: [1, 0.5, 64], s: [1, 1, 64]}
nc: 2
something: 1
backbone:
  - [-1, 1, DWConv, [16, 3, 2], a]
  - [a, 1, nn.Conv2d, [8, 32, 3, 2, 1]]
  - [a, 1, DWConv, [64, 3, 2], b]
  - [b, 1, nn.Upsample, ["None", 2]]
head:
  - [[b, a], 1, Detect, [nc]]
"""


# Tests that take a second per network run for these, each of another family; `make test-all` runs the others.
QUICK = "classifier segmenter autoencoder lenet5 yolo11 yolov8-cls rtdetr-l yolov8-world yolov10s".split()


def mark_slow(name):
    return pytest.param(name, marks=() if Path(name).stem in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("name", [mark_slow(name) for name in sorted(packaged_architectures())])
def test_packaged_files_have_no_finding(name):
    first = next((scale.name for scale in load(packaged_architectures()[name]).scales), None)
    assert check(name, Options(scale=first)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(packaged_architectures()))
def test_packaged_files_have_no_finding_at_any_scale(name):
    assert check(name) == []


def test_likely_mistakes_are_warnings_at_their_place(cli, tmp_path):
    file = tmp_path / "net.yaml"
    file.write_text(SUSPECT)
    done = cli("check", file, "--scale", "n", "--imgsz", "64")
    assert done.code == 1
    assert "1 file(s): 0 error(s), 7 warning(s)" in done.out
    for place, expected in [
        ("2:3", "hides the packaged module"),
        ("5:1", "unknown key 'something'"),
        ("8:24", "8 channels stay as written"),
        ("8:5", "no row reads its output (2,336 parameters)"),
        ("10:26", "'None' in quotes is read as None"),
        ("10:5", "no row reads its output"),
        ("12:5", "strides [4, 2], not from fine to coarse"),
    ]:
        assert any(f"net.yaml:{place}: " in line and expected in line for line in done.err.splitlines()), (
            place,
            done.err,
        )


def test_check_reports_all_errors_of_all_files_at_all_scales(cli, tmp_path):
    (tmp_path / "a.yaml").write_text("layers:\n  - [-1, 1, Cnov, [8]]\n  - [-1, 0, Conv, [8]]\n")
    # Correct at scale n only: at s the convolution gets 8 channels.
    text = "scales: {n: [1, 0.5, 64], s: [1, 1, 64]}\nwidth_divisor: 1\nbackbone:\n  - [-1, 1, Conv, [8]]\n"
    (tmp_path / "b.yaml").write_text(text + "  - [-1, 1, nn.Conv2d, [4, 8, 1]]\n")
    done = cli("check", tmp_path / "a.yaml", tmp_path / "b.yaml", "yolo11.yaml", "--imgsz", "64", "--json")
    assert done.code == 2
    found = [f for f in json.loads(done.out) if f["level"] == "error"]
    assert [(Path(f["file"]).name, f["line"], f["column"]) for f in found] == [("a.yaml", 3, 10), ("b.yaml", 5, 5)]
    assert "built for 4 input channels, 8 arrive" in found[1]["message"]


def test_the_index_of_signatures_is_up_to_date():
    stored, here = index.load_entries(), index.generate()
    torch_names = set(registry.torch_names())
    if torch.__version__ >= TorchVersion("2.14"):
        assert index.FILE.read_text() == index.to_json(), "run: python -m netbuild.author.index"
    # The file has the signatures of torch 2.14; an older torch has fewer layers and parameters.
    assert stored.keys() - torch_names == here.keys() - torch_names
    for name, found in here.items():
        if name not in torch_names:
            assert stored[name] == found, name
        else:
            names = [parameter[0] for parameter in stored[name]["parameters"]]
            assert {parameter[0] for parameter in found["parameters"]} <= set(names), name


@pytest.mark.parametrize("name", sorted(packaged_architectures()))
def test_a_check_without_shapes_finds_nothing_in_packaged_files(name):
    assert quick.check(name) == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("[-1, 1, Cnov, [8]]", "unknown module 'Cnov'"),
        ("[-1, 1, Conv, []]", "c2 missing"),
        ("[-1, 1, SPPF, [8, 5, 3, true, 9]]", "5 values given, but a row may give at most 4"),
        ("[-1, 1, Conv, [8, {kk: 3}]]", "has no argument 'kk'"),
        ("[-1, 1, nn.Conv2d, [3, 8]]", "kernel_size missing"),
        ("[-1, 1, nn.ReLU, [1, 2]]", "2 values given"),
        ("[7, 1, Conv, [8]]", "source 7 is row 7"),
        ("[-1, 1, Mine, [8, 3]]", "at most 1: c2"),
    ],
)
def test_a_check_without_shapes(cli, tmp_path, row, expected):
    block = "blocks: {Mine: {params: [c2], rows: [[input, 1, Conv, [c2]]]}}\n"
    (tmp_path / "net.yaml").write_text(f"{block}layers:\n  - {row}\n")
    done = cli("check", tmp_path / "net.yaml", "--no-shapes", "--json")
    assert done.code == 2
    (finding,) = json.loads(done.out)
    assert expected in finding["message"]
    assert finding["line"] == 3
    # With shapes the same row is an error at the same line.
    (with_shapes,) = [f for f in json.loads(cli("check", tmp_path / "net.yaml", "--json").out) if f["level"] == "error"]
    assert with_shapes["line"] == 3


@pytest.mark.parametrize(
    "stated", ["task: klassify\n", "heads: {kind: {row: classify, task: klassify}}\n"], ids=["task", "heads"]
)
def test_a_task_that_is_not_installed_is_a_warning(cli, tmp_path, stated):
    rows = "  - [-1, 1, Conv, [8]]\n  - [-1, 1, Classify, [nc], classify]\n"
    (tmp_path / "net.yaml").write_text(f"{stated}nc: 3\nlayers:\n{rows}")
    done = cli("check", tmp_path / "net.yaml")
    assert "net.yaml:1:" in done.err
    assert "there is no task 'klassify' here" in done.err
    assert "did you mean 'classify'?" in done.err


@pytest.mark.parametrize("flags", [[], ["--no-shapes"]])
def test_a_check_with_other_values_of_params(cli, tmp_path, flags):
    (tmp_path / "net.yaml").write_text("params: {k: 3}\nlayers:\n  - [-1, 1, Conv, [8, k]]\n")
    assert cli("check", tmp_path / "net.yaml", *flags, "--set", "k=5").code == 0
    done = cli("check", tmp_path / "net.yaml", *flags, "--set", "kk=5")
    assert (done.code, "kk" in done.err) == (2, True)


def test_a_check_without_shapes_imports_no_torch():
    code = "import sys; sys.argv = ['netbuild', 'check', 'yolo11.yaml', '--no-shapes']\nfrom netbuild.cli import main\n"
    code += "try: main()\nexcept SystemExit as stop: assert not stop.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_check_of_a_missing_file(cli):
    assert cli("check", "nothere.yaml").code == 2
    assert cli("check", "yolo11.yaml").code == 0


def test_the_catalogue_describes_every_packaged_module():
    found = find_entries()
    assert [e.name for e in found] == sorted(registry.packaged_names(), key=str.lower)
    assert all(e.doc and e.signature.startswith(f"{e.name}(") for e in found)


def test_examples_of_the_catalogue_build():
    # These need other inputs.
    without = {"CBFuse", "MultiLabel", "RBF", "Regress", "ScoreScale", "TableConv", "TimeEmbedding"}
    without |= {"ASFF_Detect", "TransformerEncoderLayer", "TransformerLayer"}
    for name in set(registry.packaged_names()) - without:
        assert resolve_example(name, registry.get_factory(name), {}) is not None, name


def test_modules_by_pattern(cli):
    out = cli("modules", "c3k").out
    assert "C3k2(<c1>, c2, <n>, c3k=False, e=0.5, attn=False, g=1, shortcut=True)" in out
    names = [entry["name"] for entry in json.loads(cli("modules", "nn.conv?d", "--json").out)]
    assert names == ["nn.Conv1d", "nn.Conv2d", "nn.Conv3d"]
    own = cli("modules", "gate", "--modules", CASES / "a03-user-channel-gate.py").out
    assert "ChannelGate(<c1>, r=4)\n    Scale each channel by a number in (0, 1)" in own
    assert cli("modules", "nosuchthing").code == 2


def test_explain(cli):
    out = cli("explain", "GhostConv").out
    assert "example row     - [-1, 1, GhostConv, [64]]" in out
    assert "arXiv 1911.11907" in out
    data = explain("SPPF")
    assert data["sample"]["params"] == 64 * 32 + 64 + 128 * 64 + 128
    assert [part["path"] for part in data["inner"] if part["level"] == 0] == ["cv1", "cv2", "m"]
    assert "did you mean 'GhostConv'" in cli("explain", "GostConv").err


@pytest.mark.parametrize("origin", [mark_slow(origin) for origin in list_origins()])
def test_a_new_file_passes_check_and_summary(cli, tmp_path, monkeypatch, origin):
    monkeypatch.chdir(tmp_path)
    done = cli("new", "mine", "--from", origin)
    assert (done.code, done.err) == (0, "")
    assert check("mine.yaml") == []
    assert "mine" in cli("summary", "mine.yaml").out
    assert "mine.yaml exists already" in cli("new", "mine.yaml", "--from", origin).err


@pytest.mark.parametrize("origin", ["classifier", "segmenter", "autoencoder", "yolo11"])
def test_a_new_file_gets_gradients(cli, tmp_path, monkeypatch, origin):
    monkeypatch.chdir(tmp_path)
    cli("new", "mine", "--from", origin)
    network = netbuild.build("mine.yaml").train()
    outputs = network(torch.rand(2, network.card.ch, 64, 64))
    sum(t.square().mean() for t in tensors_of(outputs)).backward()
    without_gradient = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == []


def test_a_new_file_from_an_unknown_origin(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("new", "mine", "--from", "yolo1l")
    assert done.code == 2
    assert "did you mean" in done.err
    assert not list(tmp_path.iterdir())
    assert "cannot be written" in cli("new", "no/folder/mine", "--from", "classifier").err


SET = "params: {width: 8, slope: 0.5, name: relu, deep: true, double: width * 2}\nlayers:\n"
SET += "  - [-1, 1, Conv, [width, 3, {act: name}]]\n  - [-1, 1, Conv, [double]]\n"


@pytest.mark.parametrize(
    ("sets", "widths"), [([], [8, 16]), (["width=12"], [12, 24]), (["width=12", "double=5"], [12, 5])]
)
def test_set_replaces_parameters(cli, tmp_path, sets, widths):
    (tmp_path / "net.yaml").write_text(SET)
    flags = [flag for text in sets for flag in ("--set", text)]
    done = cli("summary", tmp_path / "net.yaml", "--imgsz", "32", "--json", *flags)
    assert [row["args"][1] for row in json.loads(done.out)["rows"]] == widths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wdith=3", "did you mean 'width'"),
        ("width=wide", "a whole number is needed"),
        ("width=2.5", "a whole number is needed"),
        ("deep=3", "true or false is needed"),
        ("name=3", "a text is needed"),
        ("width", "NAME=VALUE"),
        ("width=[1", "--set width"),
    ],
)
def test_set_checks_names_and_types(cli, tmp_path, text, expected):
    (tmp_path / "net.yaml").write_text(SET)
    done = cli("summary", tmp_path / "net.yaml", "--set", text)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Conv", "c1*c2 + 2*c2"),
        ("nn.Conv2d", "9*c1*c2 + c2"),
        ("SPPF", "0.5*c1*c1 + 2*c1*c2 + c1 + 2*c2"),
        ("C2PSA", "2*c1*c1 + 1.75*n*c1*c1 + 4*c1 + 11.5*n*c1"),  # has as many output channels as input channels
        ("Detect", None),  # has a maximum in it
        ("Concat", None),
    ],
)
def test_parameters_as_a_formula(cli, name, expected):
    assert explain(name)["sample"]["params_formula"] == expected
    assert (f"parameters = {expected}" in cli("explain", name).out) is (expected is not None)


SHIFTED = """
import torch.nn as nn

class Gate(nn.Module):
    def __init__(self, c1, r=4, k=3):
        super().__init__()
        self.down = nn.Conv2d(c1, max(c1 // r, 1), k, padding=k // 2)
        self.up = nn.Conv2d(max(c1 // r, 1), c1, 1)
    def forward(self, x):
        return x * self.up(self.down(x)).sigmoid()
"""


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("Gate, [32, 5]", "32 looks like the input channels, which are supplied already"),
        ("Conv, [32, 64, 3]", "32 looks like the input channels, which are supplied already"),
        ("Gate, [8, 5]", None),
        ("Conv, [32, 3]", None),
        ("C2f, [32, true]", None),
        ("RepNCSPELAN4, [32, 32, 16]", None),
    ],
)
def test_input_channels_in_the_arguments_are_a_warning(tmp_path, row, expected):
    (tmp_path / "gate.py").write_text(SHIFTED)
    (tmp_path / "net.yaml").write_text(f"layers:\n  - [-1, 1, Conv, [32, 3, 2]]\n  - [-1, 1, {row}]\n")
    found = check(str(tmp_path / "net.yaml"), Options(imgsz=(64, 64)), [tmp_path / "gate.py"])
    assert [f.message.split(": ")[1] for f in found] == ([expected] if expected else [])


# -- the zoo ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [mark_slow(name) for name in sorted(packaged_architectures())])
def test_the_zoo_is_up_to_date(name):
    (entry,) = (e for e in zoo.load_entries() if e.name == Path(name).stem)
    assert zoo.measure(name, packaged_architectures()[name]) == entry, "run: python -m netbuild.author.zoo"


def test_the_zoo_lists_all_packaged_networks():
    assert {e.name for e in zoo.load_entries()} == {Path(n).stem for n in packaged_architectures()}
    assert all(e.title and e.task and e.sizes for e in zoo.load_entries())
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert zoo.update_table(page) == page


def test_zoo(cli):
    assert "YOLO11n".lower() in cli("zoo", "yolo11").out
    found = json.loads(cli("zoo", "--task", "obb", "--family", "yolo26", "--json").out)
    assert [(e["name"], e["sizes"][0]["scale"]) for e in found] == [("yolo26-obb", "n")]
    assert "did you mean" in cli("zoo", "--family", "yolo27").err
    assert cli("zoo", "nothing-like-it").code == 2
    assert cli("zoo", "lenet*").out.count("lenet5") == 2


def test_the_zoo_needs_no_torch():
    code = "import sys; sys.argv = ['netbuild', 'zoo']\nfrom netbuild.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
