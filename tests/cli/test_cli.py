"""The command line as users run it: output formats, streams, start-up time, terminals, the installed wheel."""

import csv
import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = """
 0 -1            1 464    Conv        [3, 16, 3, 2]
 1 -1            1 4672   Conv        [16, 32, 3, 2]
 2 -1            1 6640   C3k2        [32, 64, 1, False, 0.25]
 3 -1            1 36992  Conv        [64, 64, 3, 2]
 4 -1            1 26080  C3k2        [64, 128, 1, False, 0.25]
 5 -1            1 147712 Conv        [128, 128, 3, 2]
 6 -1            1 87040  C3k2        [128, 128, 1, True]
 7 -1            1 295424 Conv        [128, 256, 3, 2]
 8 -1            1 346112 C3k2        [256, 256, 1, True]
 9 -1            1 164608 SPPF        [256, 256, 5]
10 -1            1 249728 C2PSA       [256, 256, 1]
11 -1            1 0      nn.Upsample [None, 2, 'nearest']
12 [-1, 6]       1 0      Concat      [1]
13 -1            1 111296 C3k2        [384, 128, 1, False]
14 -1            1 0      nn.Upsample [None, 2, 'nearest']
15 [-1, 4]       1 0      Concat      [1]
16 -1            1 32096  C3k2        [256, 64, 1, False]
17 -1            1 36992  Conv        [64, 64, 3, 2]
18 [-1, 13]      1 0      Concat      [1]
19 -1            1 86720  C3k2        [192, 128, 1, False]
20 -1            1 147712 Conv        [128, 128, 3, 2]
21 [-1, 10]      1 0      Concat      [1]
22 -1            1 378880 C3k2        [384, 256, 1, True]
23 [16, 19, 22]  1 431647 Detect      [5, [64, 128, 256]]
""".strip().splitlines()
LINE = "YOLO11n summary: 319 layers, 2,590,815 parameters, 2,590,799 gradients, 6.4 GFLOPs"
YOLO = ("summary", "yolo11n.yaml", "--nc", "5")


def normalise_blanks(text: str) -> str:
    return " ".join(text.split())


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env})


def test_the_published_table(cli):
    done = cli(*YOLO)
    lines = [normalise_blanks(line) for line in done.out.splitlines()]
    assert done.code == 0
    rows = [line for line in lines if re.match(r"\d+ (-1|\[)", line)]
    assert len(rows) == len(TABLE)
    for shown, published in zip(rows, TABLE, strict=True):
        assert shown.startswith(normalise_blanks(published) + " ["), shown
    assert LINE in lines
    assert done.err == ""


def test_json_has_the_documented_keys(cli):
    data = json.loads(cli(*YOLO, "--json").out)
    keys = "name file scale scale_from task nc ch imgsz flops_convention rows totals".split()
    row_keys = "i name from n module args params in_shapes out_shape flops out_bytes receptive_field stride".split()
    totals = "rows modules_all modules_leaf params gradients flops macs param_bytes saved_bytes".split()
    totals.append("peak_activation_bytes")
    assert set(keys) <= set(data)
    assert all(set(row_keys) == set(row) for row in data["rows"])
    assert set(totals) <= set(data["totals"])
    facts = [
        data[key] for key in ("name", "title", "scale", "scale_from", "task", "nc", "ch", "imgsz", "flops_convention")
    ]
    assert facts == ["yolo11", "YOLO11n", "n", "name", "detect", 5, 3, [640, 640], "torch"]
    t = data["totals"]
    assert (t["rows"], t["modules_all"], t["modules_leaf"], t["param_bytes"]) == (24, 319, 181, 4 * 2_590_815)
    assert (t["flops"], t["macs"]) == (6_376_294_400, 3_188_147_200)
    assert data["rows"][-1]["stride"] == [8, 16, 32]
    assert [row["stride"] for row in data["rows"][:4]] == [2, 4, 4, 8]
    assert data["rows"][0]["receptive_field"] == 3
    assert data["rows"][10]["receptive_field"] == "global"


def test_python_gives_the_same_as_the_command(cli):
    import netbuild

    summary = netbuild.summarize("yolo11n.yaml", nc=5)
    assert summary.to_dict() == json.loads(cli(*YOLO, "--json").out)
    assert str(summary) == cli(*YOLO).out.rstrip("\n")


def test_flops_conventions_side_by_side(cli):
    data = json.loads(cli(*YOLO, "--flops", "all", "--json").out)
    assert data["totals"]["flops_all"] == {"torch": 6_376_294_400, "thop": 6_503_884_800, "thop-stride": 6_442_598_400}
    for name, total in data["totals"]["flops_all"].items():
        assert sum(row["flops_all"][name] for row in data["rows"]) == total
    for name, message in (("thop", "6.5 GFLOPs"), ("thop-stride", "6.4 GFLOPs")):
        assert message in cli(*YOLO, "--flops", name).out


def test_csv_and_markdown_hold_the_rows(cli):
    rows = json.loads(cli(*YOLO, "--json").out)["rows"]
    table = list(csv.DictReader(io.StringIO(cli(*YOLO, "--format", "csv").out)))
    assert [(int(r["i"]), int(r["params"]), int(r["flops"]), r["module"]) for r in table] == [
        (r["i"], r["params"], r["flops"], r["module"]) for r in rows
    ]
    lines = cli(*YOLO, "--format", "markdown").out.splitlines()
    cells = [[c.strip() for c in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")][1:]
    assert [int(c[3]) for c in cells] == [r["params"] for r in rows]
    assert all(len(c) == 8 for c in cells)


def test_format_plain_has_the_layout_of_the_published_logs(cli):
    lines = cli(*YOLO, "--format", "plain").out.splitlines()
    assert lines[0] == f"{'from':>23}  n    params  {'module':<45}arguments"
    assert lines[3] == f"  2                  -1  1      6640  {'netbuild.layers.csp.C3k2':<45}[32, 64, 1, False, 0.25]"
    assert (
        lines[12]
        == f" 11                  -1  1         0  {'torch.nn.modules.upsampling.Upsample':<45}[None, 2, 'nearest']"
    )
    assert lines[-1] == LINE


def test_columns_and_depth(cli):
    out = cli("summary", "yolo11n.yaml", "--columns", "i,rf,stride,bytes").out.splitlines()
    assert normalise_blanks(out[2]) == "# field stride out bytes"
    assert normalise_blanks(out[3]) == f"0 3 2 {4 * 16 * 320 * 320:,}"
    rows = json.loads(cli("summary", "yolo11n.yaml", "--depth", "2", "--json").out)["rows"]
    inner = [row for row in rows if str(row["i"]).startswith("2.")]
    assert [row["i"] for row in inner] == ["2.cv1", "2.cv2", "2.m"]
    outer = next(row for row in rows if row["i"] == 2)
    assert sum(row["params"] for row in inner) == outer["params"] == 6640
    assert sum(row["flops"] for row in inner) == outer["flops"]
    deep = json.loads(cli("summary", "resnet18.yaml", "--depth", "9", "--json").out)
    leaves = [row for row in deep["rows"] if row["module"] in ("Conv2d", "Linear", "nn.Conv2d", "nn.Linear")]
    assert sum(row["flops"] for row in leaves) == deep["totals"]["flops"]


def test_textbook_view_shows_the_lectures_table(cli):
    out = cli("summary", "lenet5.yaml", "--view", "textbook").out
    lecture = """
        In  Input            1    32x32  -    -  -      -
        C1  Convolution      6    28x28  5x5  1  valid  tanh
        S2  Mean pooling     6    14x14  2x2  2  valid  tanh
        C3  Convolution      16   10x10  5x5  1  valid  tanh
        S4  Mean pooling     16   5x5    2x2  2  valid  tanh
        C5  Convolution      120  1x1    5x5  1  valid  tanh
        F6  Fully connected  84   -      -    -  -      tanh
        Out Fully connected  10   -      -    -  -      RBF
    """
    expected = [normalise_blanks(line) for line in lecture.strip().splitlines()]
    assert [normalise_blanks(line) for line in out.splitlines()][3:-1] == expected
    back = cli("summary", "lenet5.yaml", "--view", "textbook", "--reverse").out
    assert [normalise_blanks(line) for line in back.splitlines()][3:-1] == expected[::-1]
    alexnet = normalise_blanks(cli("summary", "alexnet.yaml", "--view", "textbook").out)
    assert "C1 Convolution 96 55x55 11x11 4 2 ReLU" in alexnet
    assert "Out Fully connected 1000 - - - - Softmax" in alexnet


@pytest.mark.parametrize(
    "name", ["sigmoid", "ReLU", "Leaky ReLU", "Softmax", "ELU", "SiLU", "tanh", "nn.LeakyReLU(0.2)"]
)
def test_activations_are_accepted_in_the_file_and_in_a_row(cli, tmp_path, name):
    file = tmp_path / "net.yaml"
    file.write_text(f"activation: '{name}'\nlayers:\n  - [-1, 1, Conv, [8, 3]]\n")
    by_file = cli("summary", file, "--imgsz", "32", "--view", "textbook")
    file.write_text(f"layers:\n  - [-1, 1, Conv, [8, 3, {{act: '{name}'}}]]\n")
    by_row = cli("summary", file, "--imgsz", "32", "--view", "textbook")
    shown = {"nn.LeakyReLU(0.2)": "Leaky ReLU"}.get(name, name)
    assert f" {shown}" in by_file.out.splitlines()[4]
    assert by_file.out.splitlines()[4] == by_row.out.splitlines()[4]


def test_data_goes_to_stdout_and_the_rest_to_stderr(cli, tmp_path):
    file = tmp_path / "net.yaml"
    file.write_text("layers:\n  - [-1, 1, Conv, [8]]\nsomething_else: 3\n")
    done = cli("summary", file, "--json")
    assert json.loads(done.out)["totals"]["params"] == 40
    assert "warning" in done.err
    assert "something_else" in done.err


@pytest.mark.slow
def test_two_runs_are_equal_to_the_byte():
    command = [sys.executable, "-m", "netbuild", "summary", "yolo11n.yaml", "--json"]
    first, second = (
        subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in "12"
    )
    assert first == second
    assert len(first.splitlines()) > 30


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["summary", "--help"]])
def test_help_and_version_import_no_torch(args):
    code = f"import sys; sys.argv = ['netbuild', *{args}]\nfrom netbuild.cli import main\ntry: main()\n"
    done = run_python(code + "except SystemExit: pass\nassert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_completion_imports_no_torch():
    code = "import sys; sys.argv = ['netbuild']\nfrom netbuild.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    env = {"_NETBUILD_COMPLETE": "complete_bash", "COMP_WORDS": "netbuild summ", "COMP_CWORD": "1"}
    done = run_python(code + "assert 'torch' not in sys.modules", **env)
    assert done.returncode == 0, done.stderr
    assert "summary" in done.stdout


def test_summaries_import_no_heavy_packages():
    names = ["yolo11n", "lenet5", "googlenet"]
    code = f"import sys, netbuild\nfor name in {names}: str(netbuild.summarize(name + '.yaml', flops='all'))\n"
    done = run_python(code + "print([m for m in ('torch._dynamo', 'sympy', 'torchvision') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
def test_output_works_on_an_ascii_terminal(tmp_path):
    (tmp_path / "cases").mkdir()
    file = Path(__file__).parents[1] / "cases" / "b06-utf8-comments.yaml"
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "netbuild", "summary", str(file), "--imgsz", "64"]
    done = subprocess.run(command, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    assert b"83,490 parameters" in done.stdout
    bad = tmp_path / "\u7f51\u7edc.yaml"
    bad.write_text("nc: 2 # \u7c7b\nlayers:\n  - [\u5c42, 1, Conv, [8]]\n", encoding="utf-8")
    done = subprocess.run([*command[:4], str(bad)], capture_output=True, env=env)
    assert done.returncode == 2
    assert b"\\u5c42" in done.stderr


@pytest.mark.parametrize("no_color", ["", "1"])
def test_terminals_get_colour_unless_no_color_is_set(no_color):
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "150"}
    env.pop("NO_COLOR", None)
    if no_color:
        env["NO_COLOR"] = no_color
    command = [sys.executable, "-m", "netbuild", "summary", "--help"]
    process = subprocess.Popen(command, stdout=child, stderr=subprocess.PIPE, env=env)
    os.close(child)
    data = b""
    while chunk := _read(parent):
        data += chunk
    assert process.wait() == 0
    assert b"--columns" in re.sub(rb"\x1b\[[\d;]*m", b"", data)
    # Bold and dim are allowed without colour; colour codes are 30 to 49.
    assert bool(re.search(rb"\x1b\[(\d;)*[34]\d", data)) is not bool(no_color)


def _read(parent: int) -> bytes:
    try:
        return os.read(parent, 65536)
    except OSError:  # the other end has closed
        return b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
@pytest.mark.parametrize(
    "flags", [["zoo"], pytest.param(["summary", "lenet5.yaml", "--json"], marks=pytest.mark.slow)], ids=" ".join
)
def test_output_that_cannot_be_written_is_one_line(flags):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "netbuild", *flags], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, f"error: the output cannot be written: {os.strerror(errno.ENOSPC)}\n")


def test_a_closed_pipe_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m netbuild zoo | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
def test_debug_shows_the_traceback():
    command = [sys.executable, "-m", "netbuild", "--debug", "summary", "nothere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" in done.stderr
    assert "there is no file" in done.stderr
