"""netbuild watch as a process: what it prints after each save, into a pipe and on a terminal."""

import gc
import os
import pty
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torch import nn

from netbuild.author.watch import Watcher, WatchOptions, configure_process, format_change, freeze_objects
from netbuild.cli.flags import may_run
from netbuild.grammar.locate import packaged_architectures
from netbuild.graph.options import Options
from netbuild.modules import trust
from netbuild.modules.custom import PREFIX, unload_modules

FOOT = re.compile(r"^\d\d:\d\d:\d\d  .* ms$")
ENOUGH = 60  # seconds for a redraw on a busy machine
YOLO = packaged_architectures()["yolo11.yaml"].read_text(encoding="utf-8")
GATE = """\
import torch.nn as nn


class Gate(nn.Module):
    def __init__(self, c1, r=4):
        super().__init__()
        self.down, self.up = nn.Conv2d(c1, c1 // r, 1), nn.Conv2d(c1 // r, c1, 1)

    def forward(self, x):
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
"""
OWN = """\
imports: [./gate.py]
layers:
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Gate, []]
"""


class Session:
    """A running watch, and the redraws that it prints."""

    def __init__(self, *arguments, stdout=subprocess.PIPE, **more):
        command = [sys.executable, "-m", "netbuild", "watch", *map(str, arguments)]
        # A shell without job control lets what it starts in the background ignore Ctrl-C.
        listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        piped = {"stdout": stdout, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **piped, **listening, **more)
        self.lines = queue.Queue()
        if stdout is subprocess.PIPE:
            self.read(self.process.stdout)

    def read(self, stream):
        def run():
            try:
                for line in stream:
                    self.lines.put(line.rstrip())
            except OSError:  # a terminal whose other end is closed
                pass
            self.lines.put(None)

        threading.Thread(target=run, daemon=True).start()

    def next(self):
        """Return the text of the next redraw."""
        text = []
        while (line := self.lines.get(timeout=ENOUGH)) is not None:
            text.append(line)
            if FOOT.match(line):
                return "\n".join(text)
        raise AssertionError(f"the watch has ended: {self.process.stderr.read()}")

    def until(self, pattern):
        """Return the next redraw that matches a pattern; redraws before it show intermediate states."""
        while not re.search(pattern, text := self.next()):
            pass
        return text

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=ENOUGH), self.process.stderr.read()


@pytest.fixture
def start():
    sessions = []

    def run(*arguments, **more):
        sessions.append(Session(*arguments, **more))
        return sessions[-1]

    yield run
    for session in sessions:
        session.process.kill()
        session.process.wait()


def replace(path, text):
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def test_each_save_is_shown(start, tmp_path):
    file, base = tmp_path / "mine.yaml", tmp_path / "yolo11.yaml"
    base.write_text(YOLO, encoding="utf-8")
    file.write_text("extends: yolo11.yaml\nnc: 5\n", encoding="utf-8")
    session = start(file, "--scale", "n")
    assert re.match(r"--- \d\d:\d\d:\d\d ---\n", first := session.next())
    assert "2,590,815 parameters" in first
    # A plain write, then one by renaming, as editors do.
    file.write_text("extends: yolo11.yaml\nnc: 6\n", encoding="utf-8")
    assert re.search(r"\+\d+ params, \+\S+ GFLOPs", session.until("nc 6"))
    replace(file, "extends: yolo11.yaml\nnc: 5\n")
    assert re.search(r"-\d+ params, -\S+ GFLOPs", session.until("nc 5"))
    # A save of the base file counts, too; its errors are shown until they are repaired.
    base.write_text(YOLO.replace("C2PSA, [1024]", "C2PSA, [512]"), encoding="utf-8")
    broken = session.until("error")
    assert "2,590,815" not in broken
    assert re.search(rf"error: {re.escape(str(base))}:\d+:\d+: ", broken)
    assert "1 error(s)" in broken
    base.write_text(YOLO, encoding="utf-8")
    assert "params and GFLOPs as before" in session.until("2,590,815")
    # An empty and a missing file are shown as errors.
    file.write_text("", encoding="utf-8")
    assert "error: " in session.next()
    file.unlink()
    assert "there is no such file" in session.until("no such file")
    file.write_text("extends: yolo11.yaml\nnc: 5\n", encoding="utf-8")
    assert "2,590,815 parameters" in session.until("summary")
    assert session.end() == (0, "\n")


@pytest.mark.slow
def test_changed_own_modules_are_loaded_again(start, tmp_path):
    file, code = tmp_path / "own.yaml", tmp_path / "gate.py"
    file.write_text(OWN, encoding="utf-8")
    code.write_text(GATE, encoding="utf-8")
    session = start(file, "--trust")
    session.until("Gate")
    code.write_text(GATE.replace("r=4", "r=8"), encoding="utf-8")  # within a second, and of the same size
    session.until(r"-260 params, -\S+ GFLOPs")
    code.write_text(GATE.replace("r=4", "r="), encoding="utf-8")
    session.until(f"error: {re.escape(str(code))}:5:")
    code.write_text(GATE, encoding="utf-8")
    session.until(r"\+260 params")


def test_changed_code_must_be_trusted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    file, code = tmp_path / "own.yaml", tmp_path / "gate.py"
    file.write_text(OWN, encoding="utf-8")
    code.write_text(GATE, encoding="utf-8")
    trust.add_trusted(code)
    snapshots = Watcher(file, WatchOptions(Options(), trusted=may_run(False))).snapshots()
    assert next(snapshots).summary
    code.write_text(GATE.replace("r=4", "r=8"), encoding="utf-8")
    assert "runs only if you trust it" in next(snapshots).findings[0].message
    trust.add_trusted(code)
    code.touch()
    assert "-260 params" in next(snapshots).change


@pytest.mark.slow
def test_a_terminal_is_cleared_and_ctrl_c_ends(start, tmp_path):
    file = tmp_path / "yolo11.yaml"
    file.write_text(YOLO, encoding="utf-8")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140"}
    environment.pop("NO_COLOR", None)
    session = start(file, "--scale", "n", stdin=theirs, stdout=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    session.read(os.fdopen(ours, encoding="utf-8", closefd=False))
    assert "\x1b[2J\x1b[H" in (first := session.next())
    assert "\x1b[1m" in first  # bold
    replace(file, YOLO.replace("nc: 80", "nc: 5"))
    second = session.until("2,590,815")
    assert second.count("\x1b[2J\x1b[H") == 1
    assert re.search(r"-33,265 params, -\S+ GFLOPs", second)
    assert session.end()[0] == 0


def test_the_text_of_a_change():
    assert format_change((10, 0), (10, 0)) == "params and GFLOPs as before"
    assert format_change((10, 2 * 10**9), (1244, 2.1e9)) == "+1,234 params, +0.1 GFLOPs"


@pytest.fixture
def collected():
    """Garbage collection as in the command: between snapshots, and without the objects from before."""
    before = sys.dont_write_bytecode
    unload_modules()
    configure_process()
    freeze_objects()
    yield
    gc.unfreeze()
    gc.enable()
    sys.dont_write_bytecode = before


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param(OWN, 40, id="own"),
        pytest.param(YOLO + "imports: [./gate.py]\n", 200, marks=pytest.mark.slow, id="yolo11n"),
    ],
)
def test_memory_does_not_grow(collected, tmp_path, text, count):
    file, code = tmp_path / "net.yaml", tmp_path / "gate.py"
    file.write_text(text, encoding="utf-8")
    snapshots = Watcher(file, WatchOptions(Options(), trusted=lambda _: True)).snapshots()
    sizes = []
    for i in range(count):
        code.write_text(f"{GATE}# {i}\n", encoding="utf-8")
        snapshot = next(snapshots)
        assert snapshot.summary, snapshot.findings
        assert sum(name.startswith(PREFIX) for name in sys.modules) == 1
        del snapshot
        gc.collect()
        sizes.append((sum(issubclass(type(o), nn.Module) for o in gc.get_objects()), resident()))
    settled, end = sizes[count // 4], sizes[-1]
    assert end[0] == settled[0]
    assert end[1] - settled[1] < 8_000_000


def resident():
    """Return the bytes of memory of this process on Linux, elsewhere 0."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0
