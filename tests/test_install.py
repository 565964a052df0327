"""The wheel, installed into a new environment, runs the main commands from a folder with blanks in its name.

By default the packages that netbuild needs are links to those of this environment, exactly the ones that the wheel's
metadata name, so that nothing is downloaded; the slow variant lets pip fetch them.
"""

import json
import os
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path
from zipfile import Path as ZipPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def required(requirements, extras=()):
    """The distributions that requirements name, and those that these require, as installed here."""
    found, waiting = {}, [(Requirement(text), frozenset(extras)) for text in requirements]
    while waiting:
        requirement, chosen = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in chosen or [""]):
            continue
        key = (requirement.name.lower().replace("_", "-"), frozenset(requirement.extras))
        if key not in found:
            found[key] = metadata.distribution(requirement.name)
            waiting += [(Requirement(text), key[1]) for text in found[key].requires or ()]
    return found.values()


def link(distributions, site):
    """Make a distribution's top-level files and folders importable from another environment."""
    for distribution in distributions:
        base = Path(distribution.locate_file(""))
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            target = site / top
            if not target.exists() and (base / top).exists():
                target.symlink_to(base / top)


def requirements_of(wheel):
    return metadata.PathDistribution(wheel_metadata(wheel)).requires


def wheel_metadata(wheel):
    return next(path for path in ZipPath(wheel).iterdir() if path.name.endswith(".dist-info"))


def install(wheel, folder, extras, download):
    """A new environment with the wheel: ``run`` starts its console script in a folder with blanks."""
    environment = folder / "an environment"
    venv.create(environment, with_pip=False, symlinks=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet"]
    named = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    subprocess.run(
        [*pip, *([] if download else ["--no-deps", "--no-index", "--no-compile"]), named],
        check=True,
        capture_output=True,
    )
    if not download:
        site = Path(subprocess.run(
            [scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip())  # fmt: skip
        link(required(requirements_of(wheel), extras), site)
    work = folder / "my networks"
    work.mkdir()
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    settings |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}

    def run(*arguments, code=0):
        command = [str(scripts / "netbuild"), *map(str, arguments)]
        done = subprocess.run(command, cwd=work, env=settings, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run, work


NETWORK = """\
task: classify
nc: 10
imgsz: 32
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, nn.AdaptiveAvgPool2d, [1]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, [8, nc]]
"""
DOWNLOAD = [False, pytest.param(True, marks=pytest.mark.slow)]


def test_the_wheel_has_the_files_that_are_no_python(wheel):
    names = set(ZipFile(wheel).namelist())
    assert {f"netbuild/report/diagram/{name}" for name in ("page.css", "page.js", "svg.css")} <= names


@pytest.mark.slow
@pytest.mark.parametrize("download", DOWNLOAD, ids=["linked", "downloaded"])
def test_the_wheel_alone_summarizes_and_checks_and_names_the_extra_that_a_command_lacks(wheel, tmp_path, download):
    run, work = install(wheel, tmp_path, [], download)
    (work / "my net.yaml").write_text(NETWORK)
    facts = json.loads(run("summary", "yolo11n.yaml", "--nc", 5, "--json").stdout)
    assert facts["totals"]["params"] == 2_590_815
    assert str(tmp_path) in facts["file"]  # the architecture of the wheel, not of this working tree
    assert "netbuild/architectures" in Path(facts["file"]).as_posix()
    run("check", "my net.yaml")
    Image.new("RGB", (48, 32)).save(work / "picture.png")
    refused = [
        (("export", "my net.yaml", "-o", "net.onnx"), "export"),
        (("train", "my net.yaml", "--data", "digits"), "train"),
        (("predict", "my net.yaml", "picture.png"), "train"),
    ]
    for arguments, extra in refused:
        done = run(*arguments, code=3)
        assert f"netbuild[{extra}]" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture(scope="module", params=DOWNLOAD, ids=["linked", "downloaded"])
def trained(request, wheel, tmp_path_factory):
    """A network trained for an epoch by the wheel with the extras train and export."""
    run, work = install(wheel, tmp_path_factory.mktemp("full"), ["train", "export"], request.param)
    (work / "my net.yaml").write_text(NETWORK)
    quick = ("--epochs", 1, "--batch", 480, "--device", "cpu", "-O", "workers=0", "-O", "plots=false")
    run("train", "my net.yaml", "--data", "digits", *quick, "-o", "a run")
    return run, work


@pytest.mark.slow
def test_what_the_wheel_with_extras_trained_predicts(trained):
    run, work = trained
    Image.new("RGB", (48, 32)).save(work / "a picture.png")
    found = json.loads(run("predict", "a run/best.safetensors", "a picture.png", "--json").stdout)
    assert found["names"] == list("0123456789")
    assert [picture["path"] for picture in found["pictures"]] == ["a picture.png"]


@pytest.mark.slow
def test_what_the_wheel_with_extras_trained_becomes_a_proven_onnx_file(trained):
    run, work = trained
    done = run("export", "a run/best.safetensors", "-o", "my net.onnx")
    assert "proven equal to torch" in done.stdout
    assert (work / "my net.onnx").is_file()
