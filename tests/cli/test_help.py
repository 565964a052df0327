"""Freezes the command line (commands by group, each command's flags) and the public names.

After an intended change: NETBUILD_UPDATE_GOLDEN=1 pytest tests/cli/test_help.py, and review the diff of flags.json.
"""

import json
import os
import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

import netbuild
from netbuild.cli.flags import LOOK_UP, SHIP, TRAIN, WRITE, app

GOLDEN = Path(__file__).with_name("flags.json")


def commands(node, prefix=""):
    for name, command in node.commands.items():
        path = f"{prefix}{name}"
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} ")
        else:
            yield path, command


COMMANDS = dict(commands(get_command(app)))


def flags(command):
    return sorted(opt for param in command.params for opt in (*param.opts, *param.secondary_opts) if opt[0] == "-")


def test_flags_of_each_command_stay():
    found = {name: flags(command) for name, command in sorted(COMMANDS.items())}
    if os.environ.get("NETBUILD_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_same_thing_has_the_same_flag_everywhere():
    forms = {}
    for command in COMMANDS.values():
        for param in command.params:
            if param.param_type_name == "option" and not param.hidden:
                forms.setdefault(param.name, set()).add((*sorted(param.opts), *sorted(param.secondary_opts)))
    assert {name: found for name, found in forms.items() if len(found) > 1} == {}


REST = {
    "predict": ["0.png"],
    "track": ["0.mp4"],
    "diff": ["lenet5.yaml"],
    "build": ["-o", "x.safetensors"],
    "val": ["--data", "digits"],
    "swap": ["--rows", "0", "--with", "Conv"],
    "insert": ["--after", "0", "--module", "SimAM"],
}


@pytest.mark.parametrize("name", [name for name, c in COMMANDS.items() if "imgsz" in {p.name for p in c.params}])
def test_image_sizes_are_written_alike_everywhere(cli, name):
    for size, message in (
        ("64y64", "'64y64' is no image size"),
        ("0", "'0' is no image size"),
        ("64x96", "square images"),
    ):
        if message != "square images" or name in ("train", "val"):
            done = cli(name, "lenet5.yaml", *REST.get(name, ()), "--imgsz", size)
            assert (done.code, message in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("call", "note"),
    [
        ("summary lenet5.yaml --fused", "--fused is now called --fuse"),
        ("graph lenet5.yaml --fused", "--fused is now called --fuse"),
        ("schema --output=schema.json", "--output is now called --out"),
        ("benchmark lenet5.yaml --targets torch --rounds 1", "--targets is now called --target"),
    ],
)
def test_older_names_of_flags_are_accepted_with_a_note(cli, tmp_path, monkeypatch, call, note):
    monkeypatch.chdir(tmp_path)
    done = cli(*call.split())
    assert (done.code, f"note: {note}\n" in done.err) == (0, True), done.err
    assert note.split()[0] not in cli(call.split()[0], "--help").out


def test_help_groups_the_commands(cli, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = cli("--help").out
    places = [shown.index(f"─ {group} ─") for group in (WRITE, TRAIN, SHIP, LOOK_UP)]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_leaves_out_types(cli, monkeypatch, name):
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = cli(*name.split(), "--help").out
    own = [line for line in shown.splitlines() if "--" in line and "--help" not in line]
    assert not [line for line in own if re.search(r"<(bool|int|float|str|Path)", line)]


def test_public_names_stay():
    names = (
        "load build transfer eject predict check diff save resolve Options summarize draw Summary NetbuildError module"
    )
    names += " In Width Depth Size Stride Plain Model train val export benchmark track"
    assert set(names.split()) <= set(dir(netbuild))
    for path in (
        "netbuild.tasks:task",
        "netbuild.tasks:find",
        "netbuild.tasks.base:Task",
        "netbuild.tasks.base:Metric",
    ):
        home, _, name = path.partition(":")
        assert hasattr(import_module(home), name)
    for path in ("netbuild.export.base:Target", "netbuild.export.base:target", "netbuild.drawing:Drawing"):
        home, _, name = path.partition(":")
        assert hasattr(import_module(home), name)
    assert callable(import_module("netbuild.cli").entry)
    assert import_module("netbuild.runtime").__file__.endswith("runtime.py")


def test_entry_point_groups_stay():
    from netbuild.data.formats import FORMATS
    from netbuild.export.base import TARGETS
    from netbuild.modules.registry import MODULES
    from netbuild.tasks import TASKS

    groups = [registry.group for registry in (MODULES, TASKS, TARGETS, FORMATS)]
    assert groups == ["netbuild.modules", "netbuild.tasks", "netbuild.targets", "netbuild.formats"]
