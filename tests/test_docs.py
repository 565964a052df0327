"""README and docs are true: their commands run and print what is shown, their Python runs, their files check."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import netbuild
from netbuild.costs.observer import CONVENTIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
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


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@cache
def commands() -> list[tuple[str, str, list[str]]]:
    """Each ``$ netbuild ...`` of a page with the lines shown under it."""
    found: list[tuple[str, str, list[str]]] = []
    for page in PAGES:
        for line in "\n".join(fences(page.read_text(encoding="utf-8"), "console")).splitlines():
            if line.startswith("$ "):
                found.append((page.name, line[2:], []))
            elif line:
                found[-1][2].append(line)
    # These need files and time; tests/weights/test_importing.py, test_training.py and test_predict.py run them.
    elsewhere = ("netbuild weights import", "netbuild train", "netbuild val", "netbuild data", "netbuild predict")
    elsewhere += ("netbuild sample",)  # tests/tasks/test_generation.py
    elsewhere += ("netbuild track",)  # tests/tracking/test_track_command.py
    elsewhere += ("netbuild export runs/", "netbuild export best")  # tests/export/test_export.py
    elsewhere += ("netbuild benchmark runs/",)  # tests/export/test_targets.py
    elsewhere += ("netbuild watch",)  # tests/author/test_watch.py: it has no end
    cases = [case for case in found if case[1].startswith("netbuild ") and not case[1].startswith(elsewhere)]
    # A command that needs no checkpoint of its page is run once, although several pages show it.
    once = {(case[1], *case[2], case[0] * ("netbuild build" in case[1])): case for case in cases}
    return list(once.values())


SLOW = ("netbuild export", "netbuild eject", "netbuild benchmark", "netbuild check se.yaml no-p5.yaml")
COMMANDS = [pytest.param(*case, marks=pytest.mark.slow if case[1].startswith(SLOW) else ()) for case in commands()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that the pages show: those whose first line is a comment with the name."""
    (tmp_path / "broken.yaml").write_text(BROKEN, encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in fences(text, "yaml") + fences(text, "python"):
            if name := re.match(r"# ([\w-]+\.(?:py|yaml))\b", block):
                (tmp_path / name[1]).write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("page", "command", "shown"), COMMANDS, ids=lambda v: v if isinstance(v, str) else "")
def test_commands_print_what_is_shown(cli, here, page, command, shown):
    for earlier in (text for name, text, _ in commands() if name == page and text.startswith("netbuild build")):
        if earlier == command:
            break
        cli(*shlex.split(earlier)[1:])  # the checkpoints that later commands of the page take
    done = cli(*shlex.split(command)[1:])
    wrong = shown and shown[0].startswith("error:")
    assert done.code == (2 if wrong else 0), done.err
    printed = "\n" + (done.err if wrong else done.out)
    # An ellipsis stands for anything; what is between two of them is printed as shown, in this order.
    for part in "\n".join(shown).split("..."):
        assert part.strip("\n") in printed, f"{page}: not printed by {command}:\n{part}"
        printed = printed[printed.index(part.strip("\n")) + len(part.strip("\n")) :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs(here, capsys, page):
    names: dict[str, object] = {}
    for code in fences(page.read_text(encoding="utf-8"), "python"):
        if not re.match(r"# [\w-]+\.py", code):
            exec(compile(code, page.name, "exec"), names)
    if page.name == "python.md":
        assert "25,3" in capsys.readouterr().out  # YOLO11l has 25.3 million parameters
        assert next(iter(names["network"].state_dict())).startswith("model.0.")


@pytest.mark.slow
def test_files_shown_have_no_finding(cli, here):
    files = sorted(path.name for path in Path().glob("*.yaml") if path.name != "broken.yaml")
    done = cli("check", *files, "--trust", "--imgsz", "64")
    assert done.code == 0, done.err


def test_own_module_runs(cli, here):
    done = cli("summary", "gated.yaml", "--imgsz", "64", "--trust", "--columns", "module,params")
    assert done.code == 0, done.err
    assert "ChannelGate 552" in " ".join(done.out.split())
    assert cli("summary", "gated.yaml", "--imgsz", "64").code == 2


def test_each_convention_is_defined():
    for name in CONVENTIONS:
        assert f"| `{name}`" in (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")


def test_readme_is_a_front_door():
    assert len(README.splitlines()) <= 220


def without_code(page):
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{page.name}: {target}"


def test_contributing_shows_the_tree_that_there_is():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = text.split("```\nnetbuild/\n")[1].split("architectures/")[0]
    shown = set(re.findall(r"^  ([\w.]+/?) ", tree, re.MULTILINE))
    there = {path.name for path in (ROOT / "netbuild").glob("*.py")}
    there |= {f"{path.parent.name}/" for path in (ROOT / "netbuild").glob("*/__init__.py")}
    assert shown == there


@pytest.mark.slow
def test_site_builds_without_a_broken_link_and_has_each_command_and_name(tmp_path):
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "commands.html").read_text(encoding="utf-8")
    assert all(f'id="netbuild-{name}"' in shown for name in ("summary", "train", "data-check", "weights-import"))
    shown = (tmp_path / "python-reference.html").read_text(encoding="utf-8")
    assert all(f'id="netbuild{name.lower()}"' in shown for name in netbuild.__all__ if name != "__version__")
    outside = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="https?://')
    assert not [page.name for page in tmp_path.glob("*.html") if outside.search(page.read_text(encoding="utf-8"))]
