"""README is true: its commands run and print what it shows, its Python runs, its files check."""

import re
import shlex
from pathlib import Path

import pytest

from netbuild.cost import CONVENTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BROKEN = """\
# the file of README's section on mistakes
nc: 2
backbone:
  - [-1, 1, Conv, [16, 3, 2]]                 # 0  /2
  - [-1, 1, Conv, [32, 3, 2]]                 # 1  /4
  - [-1, 1, Conv, [64, 3, 2]]                 # 2  /8
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]  # 3  /4
  - [[-1, 0], 1, Concat, [1]]                 # 4  WRONG: should be 1
"""


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, list[str]]]:
    """Each ``$ netbuild ...`` of README with the lines shown under it."""
    found: list[tuple[str, list[str]]] = []
    for block in fences("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, lines) for command, lines in found if command.startswith("netbuild ")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (net,) = (block for block in fences("yaml") if block.startswith("# net.yaml"))
    (tmp_path / "net.yaml").write_text(net, encoding="utf-8")
    (attention,) = (block for block in fences("yaml") if block.startswith("# attention.yaml"))
    (tmp_path / "attention.yaml").write_text(attention, encoding="utf-8")
    (gate,) = (block for block in fences("python") if block.startswith("# gate.py"))
    (tmp_path / "gate.py").write_text(gate, encoding="utf-8")
    (imports,) = (block for block in fences("yaml") if block.startswith("imports:"))
    (tmp_path / "gated.yaml").write_text(imports, encoding="utf-8")
    (tmp_path / "broken.yaml").write_text(BROKEN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("command", "shown"), commands(), ids=lambda v: v if isinstance(v, str) else "")
def test_commands_print_what_is_shown(cli, here, command, shown):
    done = cli(*shlex.split(command)[1:])
    wrong = shown and shown[0].startswith("error:")
    assert done.code == (2 if wrong else 0), done.err
    printed = (done.err if wrong else done.out).rstrip("\n").splitlines()
    # An ellipsis stands for any lines; between two of them the lines follow one another.
    for part in "\n".join(shown).split("..."):
        lines = part.strip("\n").splitlines()
        starts = [i for i in range(len(printed)) if printed[i : i + len(lines)] == lines]
        assert starts, f"not printed by {command}:\n{part}"
        printed = printed[starts[0] + len(lines) :]


def test_python_runs(here, capsys):
    (code,) = (block for block in fences("python") if block.startswith("import netbuild"))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "25,3" in capsys.readouterr().out  # YOLO11l has 25.3 million parameters
    assert next(iter(names["network"].state_dict())).startswith("model.0.")


def test_own_module_runs(cli, here):
    done = cli("summary", "gated.yaml", "--imgsz", "64", "--trust", "--columns", "module,params")
    assert done.code == 0, done.err
    assert "ChannelGate 552" in " ".join(done.out.split())
    assert cli("summary", "gated.yaml", "--imgsz", "64").code == 2


def test_each_convention_is_defined():
    for name in CONVENTIONS:
        assert f"| `{name}`" in README


def test_packaged_architectures_are_listed():
    for path in (ROOT / "architectures").rglob("*.yaml"):
        assert f"`{path.stem}`" in README


def test_layout_names_the_files_there_are():
    layout = README.split("netbuild/\n")[1].split("architectures/")[0]
    there = {path.name for path in (ROOT / "netbuild").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(re.findall(r"\w+\.py", layout)) == there
