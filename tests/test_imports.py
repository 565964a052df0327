"""Imports go down only: each module may import what stands below it, and torch is imported where it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import netbuild

ROOT = Path(netbuild.__file__).parent

# A module -> those right below it; it may import these and all that is below them. A package stands for its files.
BELOW = {
    "errors": (),
    "expr": ("errors",),
    "stored": ("errors",),
    "align": (),
    "files": (),
    "plugins": ("errors",),
    "reader": ("expr",),
    "locate": ("errors",),
    "rows": ("reader",),
    "extends": ("rows", "locate"),
    "spec": ("extends", "stored"),
    "roles": (),
    "layers": ("roles",),
    "ops": (),
    "field": ("ops",),
    "cost": ("field",),
    "factories": ("roles",),
    "builders": ("factories", "errors"),
    "registry": ("layers", "expr", "builders", "plugins"),
    "modules": ("factories", "stored"),
    "gather": ("registry", "modules", "spec"),
    "trust": ("modules",),
    "compat": ("spec",),
    "bind": ("registry", "compat"),
    "network": ("layers", "rows"),
    "shapes": (),
    "blame": ("factories", "field", "shapes", "spec"),
    "prepare": ("bind", "field"),
    "describe": ("prepare", "modules"),
    "graph": ("describe", "blame", "cost", "network"),
    "weights": ("network", "stored", "files", "align"),
    "data": ("reader",),
    "api": ("graph", "gather", "weights"),
    "importing": ("api",),
    "trace": ("graph",),
    "report": ("trace",),
    "units": (),
    "render": ("report", "units"),
    "summary": ("render", "api"),
    "drawn": ("summary", "files"),
    "drawing": ("errors",),
    "sheets": ("drawing", "files"),
    "plots": ("builders", "sheets"),
    "overview": ("data", "plots"),
    "runtime": (),
    "tasks": ("layers", "plots", "shapes", "plugins", "runtime"),
    "settings": ("reader",),
    "musgd": (),
    "optim": ("network", "settings", "musgd"),
    "processes": ("errors",),
    "parallel": ("processes", "network", "settings"),
    "state": ("optim", "weights", "parallel"),
    "feed": (),
    "devices": ("processes",),
    "train": ("state", "feed", "weights", "tasks", "devices"),
    "augment": ("builders", "settings"),
    "pictures": ("augment", "data", "feed", "tasks"),
    "recording": ("train", "overview"),
    "exported": ("runtime", "network"),
    "inspecting": ("errors", "units"),
    "training": ("recording", "pictures", "api", "exported"),
    "sources": ("pictures",),
    "predicting": ("sources", "api", "devices", "exported"),
    "saving": ("predicting",),
    "export": ("training", "sources"),
    "ejecting": ("api",),
    "benchmark": ("export",),
    "viewing": ("export", "saving", "drawn"),
    "author": ("summary", "training", "saving"),
    "terminal": ("render",),
    "commands": ("author", "drawn", "ejecting", "viewing", "trust", "importing", "benchmark", "inspecting", "terminal"),
    "cli": ("commands",),
    "__main__": ("cli",),
}
LAZY = {"__init__"}  # loads names when they are used
LIGHT = ("errors", "expr", "reader", "extends", "rows", "spec", "locate", "stored", "settings")


def home(name):
    """The entry of `BELOW` to which a dotted name inside the package belongs."""
    return name.split(".")[0]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported(source):
    """The dotted names that a module imports, at the top and inside functions; of ``from a import b`` also ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(source):
    """Modules of ours among what is imported, as entries of `BELOW`."""
    names = (name.removeprefix("netbuild.") for name in imported(source) if name.startswith("netbuild."))
    return {home(name) for name in names if home(name) in BELOW or name in MODULES}


def reachable(name):
    return {below for direct in BELOW[name] for below in (direct, *reachable(direct))}


def upward(name, source):
    """The edges of a module that do not go down."""
    return own(source) - reachable(home(name)) - {home(name)}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - LAZY))
def test_imports_go_down(name):
    assert home(name) in BELOW, f"{name} has no place in the order yet: add it to BELOW and to the design"
    assert upward(name, MODULES[name].read_text(encoding="utf-8")) == set()


def test_the_order_names_what_there_is():
    assert {home(name) for name in MODULES} - LAZY == BELOW.keys()


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("spec", "from netbuild.graph import resolve", {"graph"}),
        ("spec", "def f():\n    from netbuild import graph", {"graph"}),
        ("cost", "import netbuild.errors", {"errors"}),
        ("layers.conv", "from netbuild.errors import NetbuildError", {"errors"}),
        ("layers.conv", "from netbuild.layers.fuse import fuse\nfrom netbuild.roles import In", set()),
        ("graph", "from netbuild import __version__, bind", set()),
    ],
)
def test_upward_edges_are_found(name, source, found):
    assert upward(name, source) == found


@pytest.mark.parametrize("name", [name for name in MODULES if home(name) == "layers"])
def test_layers_need_nothing_but_torch(name):
    roots = {found.split(".")[0] for found in imported(MODULES[name].read_text(encoding="utf-8"))}
    assert roots - sys.stdlib_module_names <= {"torch", "netbuild"}


def loaded_by(statement, *modules):
    code = f"import sys\n{statement}\nprint(*(m for m in {modules!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    "statement", ["import " + ", ".join(f"netbuild.{name}" for name in LIGHT), "import netbuild.cli"]
)
def test_reading_a_file_needs_no_torch(statement):
    assert loaded_by(statement, "torch", "numpy") == []


def test_the_light_modules_import_no_torch_anywhere():
    for name in LIGHT:
        assert not any(found.split(".")[0] == "torch" for found in imported(MODULES[name].read_text(encoding="utf-8")))


def test_names_of_the_package_load_when_they_are_used():
    assert loaded_by("from netbuild import load", "netbuild.spec", "torch") == ["netbuild.spec"]
    assert loaded_by("from netbuild import resolve", "torch") == ["torch"]
