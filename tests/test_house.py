"""Imports go down only: each module may import what stands below it, and torch is imported where it is needed."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import netbuild

ROOT = Path(netbuild.__file__).parent

# Each package and root file may import those of lower tiers, and none of its own tier.
TIERS = [
    {"errors", "roles", "runtime", "costs"},
    {"system", "grammar", "layers"},
    {"settings", "drawing", "modules"},
    {"graph", "data"},
    {"weights", "report", "feed"},
    {"tasks"},
    {"prediction"},
    {"training", "tracking"},
    {"export"},
    {"author", "model"},
    {"cli"},
    {"__main__"},
]
TIER = {name: number for number, names in enumerate(TIERS) for name in names}
LAZY = {"__init__"}  # loads names when they are used
LIGHT = (
    "errors",
    "grammar.expressions",
    "grammar.nodes",
    "grammar.edits",
    "grammar.extends",
    "grammar.rows",
    "grammar.spec",
    "grammar.writing",
    "grammar.ultralytics",
    "grammar.locate",
    "grammar.checkpoint_header",
    "settings",
)


def home(name):
    """The package or root file of ours to which a dotted name belongs."""
    return name.split(".")[0]


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
parse = cache(ast.parse)  # several tests read each module


def imported(source):
    """The dotted names that a module imports, at the top and inside functions; of ``from a import b`` also ``a.b``."""
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(source):
    """The packages and root files of ours among what is imported."""
    names = (name.removeprefix("netbuild.") for name in imported(source) if name.startswith("netbuild."))
    return {home(name) for name in names if home(name) in TIER or name in MODULES}


def upward(name, source):
    """The homes of what a module imports from its own tier or a higher one, itself excepted."""
    return {found for found in own(source) - {home(name)} if TIER[found] >= TIER[home(name)]}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - LAZY))
def test_imports_go_down(name):
    assert home(name) in TIER, f"{name} has no place in the order yet: add it to TIERS and to the design"
    assert upward(name, MODULES[name].read_text(encoding="utf-8")) == set()


def test_the_order_names_what_there_is():
    assert {home(name) for name in MODULES} - LAZY == TIER.keys()


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("grammar.spec", "from netbuild.graph.resolver import resolve", {"graph"}),
        ("grammar.spec", "def f():\n    from netbuild import graph", {"graph"}),
        ("costs.observer", "import netbuild.errors", {"errors"}),
        ("layers.conv", "from netbuild.errors import NetbuildError", set()),
        ("layers.conv", "from netbuild.layers.fuse import fuse\nfrom netbuild.system import files", {"system"}),
        ("layers.conv", "from netbuild.layers.fuse import fuse\nfrom netbuild.roles import In", set()),
        ("graph.resolver", "from netbuild import __version__, modules", set()),
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
    assert loaded_by("from netbuild import load", "netbuild.grammar.spec", "torch") == ["netbuild.grammar.spec"]
    assert loaded_by("from netbuild import resolve", "torch") == ["torch"]


def functions(name):
    """The functions of a module, with those of its classes, by name."""
    for node in ast.walk(parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}.{node.name}", node


def parameters(node):
    """How many parameters a function has, itself (or its class) left out."""
    a = node.args
    names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x))]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_the_root_holds_few_files():
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_files_of_tests_have_names_of_their_own():
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))  # pytest imports them by name alone


def test_no_file_is_long():
    long = {name for name, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > 400}
    assert long - {"runtime"} == set()  # runtime is one file, since it may be copied


def test_no_function_is_long():
    long = {path for name in MODULES for path, node in functions(name) if node.end_lineno - node.lineno >= 60}
    assert long == set()


def test_no_function_has_many_parameters():
    outside = [name for name in MODULES if home(name) != "cli"]  # a command has a parameter for each flag
    many = {path for name in outside for path, node in functions(name) if parameters(node) > 8}
    # A module's constructor takes what a row of a YAML file gives, in its order.
    assert {path for path in many if not (home(path) == "layers" and path.endswith(".__init__"))} == set()


def imported_modules(name):
    """The modules of ours that a module imports; of ``from package import module`` the module alone."""
    for node in ast.walk(parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("netbuild."):
            package = node.module.removeprefix("netbuild.")
            for alias in node.names:
                inner = f"{package}.{alias.name}"
                yield inner if inner in MODULES else package


def test_no_imports_in_a_circle():
    edges = {name: {*imported_modules(name)} - {name} for name in MODULES}
    while free := {name for name, below in edges.items() if not below & edges.keys()}:
        edges = {name: below for name, below in edges.items() if name not in free}
    assert edges == {}
