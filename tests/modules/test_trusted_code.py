"""What runs of a module file is the text that was read, listed and hashed: no byte code, no link, no later version."""

import importlib.util
import json
import os
import py_compile
import shutil
import sys
from pathlib import Path

import pytest
import torch

import netbuild
from netbuild import NetbuildError
from netbuild.modules import source, trust
from netbuild.modules.custom import PREFIX, import_file, load_modules, unload_modules
from netbuild.training.callbacks import callbacks_of_file

GATE = """
from torch import nn

class Gate(nn.Module):
    SAYS = "{says}"
    def __init__(self, c1, k=3):
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, padding=k // 2)
    def forward(self, x):
        return self.conv(x)
"""
GOOD = GATE.format(says="good")
EVIL = GATE.format(says="evil")

# Where the class is defined, and how the package's __init__.py gets it.
LAYOUTS = {
    "a file": ("gate.py", {}),
    "a package": ("pack/__init__.py", {}),
    "a relative import": ("pack/inner.py", {"pack/__init__.py": "from .inner import Gate\n"}),
    "a module of the package": ("pack/inner.py", {"pack/__init__.py": "from . import inner\nGate = inner.Gate\n"}),
    "a subpackage": (
        "pack/sub/inner.py",
        {"pack/__init__.py": "from .sub import Gate\n", "pack/sub/__init__.py": "from .inner import Gate\n"},
    ),
    "a folder without __init__": ("pack/sub/inner.py", {"pack/__init__.py": "from .sub.inner import Gate\n"}),
    "an import of a submodule when it is used": (
        "pack/inner.py",
        {"pack/__init__.py": "import importlib\nGate = importlib.import_module('.inner', __name__).Gate\n"},
    ),
}


@pytest.fixture(autouse=True)
def separate(tmp_path, monkeypatch):
    """Settings of this test only; what it imports is forgotten, so that no other test gets it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield
    unload_modules()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture(params=LAYOUTS)
def laid_out(request, tmp_path):
    """A network's folder, with the file that defines its module and the path that it imports."""
    home, others = LAYOUTS[request.param]
    top = home.split("/")[0]
    write(tmp_path, {home: GOOD, **others, "net.yaml": f"imports: [./{top}]\nlayers:\n  - [-1, 1, Gate, []]\n"})
    return tmp_path / "net.yaml", tmp_path / home, tmp_path / top


def says(net: Path, **options) -> str:
    return type(netbuild.build(net, imgsz=16, **options).model[0]).SAYS


def plant(file: Path, target: Path | None = None) -> None:
    """Put the byte code of other source, which Python does not compare with the file, beside it."""
    evil = file.with_name("evil_source.txt")
    evil.write_text(EVIL)
    target = target or Path(importlib.util.cache_from_source(str(file)))
    py_compile.compile(
        str(evil), str(target), str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    evil.unlink()


def test_byte_code_beside_a_trusted_file_never_runs(laid_out):
    net, file, top = laid_out
    trust.add_trusted(top)
    plant(file)
    plant(file, file.with_suffix(".pyc"))
    assert says(net, trusted=trust.is_trusted) == "good"
    assert says(net, modules=[top], trusted=False) == "good"


def test_no_byte_code_is_written(laid_out, monkeypatch):
    net, _, _ = laid_out
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert says(net, trusted=True) == "good"
    assert not list(net.parent.rglob("*.pyc"))


@pytest.mark.parametrize("suffix", [".pyc", ".so"])
def test_compiled_files_are_not_imported(tmp_path, suffix):
    write(tmp_path, {"pack/__init__.py": "from .inner import Gate\n", "x.py": GOOD})
    compiled = tmp_path / "pack" / f"inner{suffix}"
    plant(tmp_path / "x.py", compiled)
    with pytest.raises(NetbuildError, match=r"ModuleNotFoundError.*compiled files are not imported"):
        load_modules([tmp_path / "pack"])
    with pytest.raises(NetbuildError, match="not a Python file"):
        load_modules([compiled])


def test_byte_code_of_callbacks_and_of_packages_in_rows_never_runs(tmp_path, monkeypatch):
    hook = "from netbuild.training.callbacks import Callback\nclass Mine(Callback):\n    SAYS = 'good'\n"
    write(tmp_path, {"hooks.py": hook, "dotted_pack/__init__.py": "", "dotted_pack/inner.py": GOOD})
    plant(tmp_path / "hooks.py")
    plant(tmp_path / "dotted_pack" / "inner.py")
    assert callbacks_of_file(tmp_path / "hooks.py")[0].SAYS == "good"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "net.yaml").write_text("layers:\n  - [-1, 1, dotted_pack.inner.Gate, []]\n")
    with pytest.raises(NetbuildError, match="runs only if you trust it"):
        netbuild.build(tmp_path / "net.yaml", imgsz=16, trusted=trust.is_trusted)
    trust.add_trusted(tmp_path / "dotted_pack")
    try:
        assert says(tmp_path / "net.yaml", trusted=trust.is_trusted) == "good"
    finally:
        for name in [name for name in sys.modules if name.startswith("dotted_pack")]:
            del sys.modules[name]
        source.FINDER.forget("dotted_pack")


LINKS = {
    "a linked subfolder": ("pack/sub", "elsewhere"),
    "a linked module": ("pack/sub/__init__.py", "elsewhere/__init__.py"),
    "a linked package": ("pack", "real"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_linked_code_is_listed_hashed_and_asked_about_again(cli, tmp_path, kind):
    link, target = LINKS[kind]
    write(tmp_path, {"elsewhere/__init__.py": GOOD, "net.yaml": "imports: [./pack]\nlayers:\n  - [-1, 1, Gate, []]\n"})
    home = tmp_path / ("real" if kind == "a linked package" else "pack")
    write(home, {"__init__.py": "from .sub import Gate\n"})
    if kind == "a linked package":
        shutil.copytree(tmp_path / "elsewhere", home / "sub")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / target)
    net, inner = tmp_path / "net.yaml", tmp_path / "pack" / "sub" / "__init__.py"
    refused = cli("summary", net, "--imgsz", "16")
    assert refused.code == 2
    assert f"sub/__init__.py ({len(GOOD.splitlines())} lines" in refused.err
    trust.add_trusted(tmp_path / "pack")
    assert says(net, trusted=trust.is_trusted) == "good"
    inner.write_text(EVIL)
    assert cli("summary", net, "--imgsz", "16").code == 2
    # Remembered of its own path, code is not trusted where a link puts it in another package.
    trust.add_trusted(inner.resolve())
    assert cli("summary", net, "--imgsz", "16").code == (0 if kind == "a linked package" else 2)
    trust.add_trusted(tmp_path / "pack")
    assert says(net, trusted=trust.is_trusted) == "evil"  # after a new answer the new code runs, in this process too


@pytest.mark.parametrize("path", ["./pack", "./pack/__init__.py"])
def test_a_package_is_all_its_files_however_it_is_named(tmp_path, path):
    write(tmp_path, {"pack/__init__.py": "from .inner import Gate\n", "pack/inner.py": GOOD})
    write(tmp_path, {"net.yaml": f"imports: [{path}]\nlayers:\n  - [-1, 1, Gate, []]\n"})
    trust.add_trusted(tmp_path / "pack" / "__init__.py")
    assert says(tmp_path / "net.yaml", trusted=trust.is_trusted) == "good"
    (tmp_path / "pack" / "inner.py").write_text(EVIL)
    with pytest.raises(NetbuildError, match=r"would run .*inner\.py"):
        netbuild.build(tmp_path / "net.yaml", imgsz=16, trusted=trust.is_trusted)


def test_links_in_circles_pipes_and_far_too_many_files_are_refused_or_left_out(tmp_path, monkeypatch):
    write(tmp_path, {"pack/__init__.py": GOOD})
    (tmp_path / "pack" / "gone.py").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pack" / "pipe.py")
    assert list(load_modules([tmp_path / "pack"])) == ["Gate"]
    with pytest.raises(NetbuildError, match="not a regular file"):
        load_modules([tmp_path / "pack" / "pipe.py"])
    (tmp_path / "pack" / "again").symlink_to(tmp_path / "pack")
    with pytest.raises(NetbuildError, match="a link that leads back to"):
        load_modules([tmp_path / "pack"])
    (tmp_path / "pack" / "again").unlink()
    for limit, message in (
        ("MAX_ENTRIES", "too many files"),
        ("MAX_FILES", "too many files"),
        ("MAX_BYTES", "of code"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(source, limit, 0)
            with pytest.raises(NetbuildError, match=message):
                load_modules([tmp_path / "pack"])


def test_what_changes_between_hashing_and_running_does_not_run(laid_out):
    net, file, top = laid_out
    trust.add_trusted(top)

    def change_then_decide(path):
        agreed = trust.is_trusted(path)
        file.write_text(EVIL)
        return agreed

    assert says(net, trusted=change_then_decide) == "good"

    def restore_then_decide(path):  # the code that was read is not trusted, even if the file is by now
        file.write_text(GOOD)
        return trust.is_trusted(path)

    with pytest.raises(NetbuildError, match="runs only if you trust it"):
        netbuild.build(net, imgsz=16, trusted=restore_then_decide)


def test_a_checkpoint_carries_the_text_that_ran(laid_out, tmp_path):
    net, file, _ = laid_out
    network = netbuild.build(net, imgsz=16, trusted=True)
    file.write_text(EVIL)
    netbuild.save(network, tmp_path / "net.safetensors")
    assert says(tmp_path / "net.safetensors", trusted=True) == "good"


def test_trust_in_a_checkpoint_is_in_its_code(tmp_path):
    write(tmp_path, {"gate.py": GOOD, "net.yaml": "imports: [./gate.py]\nlayers:\n  - [-1, 1, Gate, []]\n"})
    file, other = tmp_path / "net.safetensors", tmp_path / "other.safetensors"
    netbuild.save(netbuild.build(tmp_path / "net.yaml", imgsz=16, trusted=True), file)
    (tmp_path / "gate.py").write_text(EVIL)
    netbuild.save(netbuild.build(tmp_path / "net.yaml", imgsz=16, trusted=True), other)
    trust.add_trusted(file)
    good = file.read_bytes()
    assert says(file, trusted=trust.is_trusted) == "good"
    file.write_bytes(other.read_bytes())

    def restore_then_decide(path):
        file.write_bytes(good)
        return trust.is_trusted(path)

    with pytest.raises(NetbuildError, match="runs only if you trust it"):
        netbuild.build(file, imgsz=16, trusted=restore_then_decide)


def test_a_module_shows_the_text_that_runs_and_gets_a_new_name_with_each_version(tmp_path):
    import inspect

    write(tmp_path, {"pack/__init__.py": "from .inner import Gate\n", "pack/inner.py": GOOD})
    first = import_file(tmp_path / "pack" / "__init__.py")
    (tmp_path / "pack" / "inner.py").write_text(EVIL)
    assert 'SAYS = "good"' in inspect.getsource(first.Gate)
    second = import_file(tmp_path / "pack" / "__init__.py")
    assert (first.Gate.SAYS, second.Gate.SAYS) == ("good", "evil")
    assert first.__name__ != second.__name__
    assert first.__name__.startswith(PREFIX)


# -- code that the user names ------------------------------------------------------------------------------------------

COVERED = {
    "the same file": (["gate.py"], "./gate.py", True),
    "the same file by another path": (["sub/../gate.py"], "gate.py", True),
    "a link to the file": (["link.py"], "./gate.py", True),
    "the folder of the file": (["."], "./gate.py", True),
    "a class of the file": (["gate.py"], "{Gate: ./gate.py}", True),
    "a package": (["pack"], "./pack", True),
    "a package by its __init__": (["pack"], "./pack/__init__.py", True),
    "all files of a folder": (["mods/a.py", "mods/b.py"], "./mods", True),
    "another copy of the file": (["sub/gate.py"], "./gate.py", False),
    "one file of a folder": (["mods/a.py"], "./mods", False),
    "one module of a package": (["pack/inner.py"], "./pack", False),
}


@pytest.mark.parametrize("kind", COVERED)
def test_modules_that_the_user_names_may_also_be_imported(cli, tmp_path, kind):
    named, imports, covered = COVERED[kind]
    write(
        tmp_path,
        {
            "gate.py": GOOD, "sub/gate.py": GOOD,
            "pack/__init__.py": "from .inner import Gate\n", "pack/inner.py": GOOD,
            "mods/a.py": GOOD, "mods/b.py": "from torch import nn\nclass Other(nn.Module): pass\n",
        },
    )  # fmt: skip
    (tmp_path / "link.py").symlink_to(tmp_path / "gate.py")
    imports = imports if imports.startswith("{") else f"[{imports}]"
    net = tmp_path / "net.yaml"
    net.write_text(f"imports: {imports}\nlayers:\n  - [-1, 1, Gate, [5]]\n")
    (tmp_path / "derived.yaml").write_text("extends: net.yaml\n")
    flags = [part for name in named for part in ("--modules", tmp_path / name)]
    for file in (net, tmp_path / "derived.yaml"):
        done = cli("summary", file, "--imgsz", "16", "--json", *flags)
        assert done.code == (0 if covered else 2), done.err
        assert covered or "runs only if you trust it" in done.err
        assert not covered or json.loads(done.out)["totals"]["params"] == 3 * 3 * 25 + 3
    assert cli("check", net, *flags).code == (0 if covered else 2)


def test_the_hint_of_a_refusal_works(cli, tmp_path):
    write(tmp_path, {"gate.py": GOOD, "net.yaml": "imports: [./gate.py]\nlayers:\n  - [-1, 1, Gate, []]\n"})
    refused = cli("summary", tmp_path / "net.yaml", "--imgsz", "16")
    path = refused.err.split("--modules ")[1].split()[0]
    assert cli("summary", tmp_path / "net.yaml", "--imgsz", "16", "--modules", path).code == 0
    assert torch.is_tensor(netbuild.build(tmp_path / "net.yaml", imgsz=16, modules=[path])(torch.rand(1, 3, 16, 16)))
