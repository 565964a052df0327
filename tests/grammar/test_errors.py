"""The texts of errors, as golden files: each ``grammar/errors/NAME.yaml`` (or case) has the message in ``NAME.txt``.

After an intended change of wording run NETBUILD_UPDATE_GOLDEN=1 make test and review the difference.
"""

import os
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted((HERE / "errors").glob("*.yaml"))
CASES = [
    "a01-stale-concat-shape --imgsz 64",
    "a07-unknown-module",
    "a08-too-many-args",
    "a15-scale-not-listed --scale n",
]
CASES += ["a18-from-points-ahead", "a28-negative-from-too-far", "b01-python-tag", "b02-eval-in-arg"]
CASES += ["b04-module-reaches-python", "b10-duplicate-key", "b11-row-arity", "b12-syntax-location"]
CASES += ["b15-dataset-file-as-model", "f01-lenet5 --imgsz 64"]


def check(done, name: str, folder: Path) -> None:
    assert (done.code, done.out) == (2, ""), done
    assert "Traceback" not in done.err
    message = done.err.replace(f"{folder}{os.sep}", "")
    golden = HERE / "errors" / f"{name}.txt"
    if os.environ.get("NETBUILD_UPDATE_GOLDEN"):
        golden.write_text(message, encoding="utf-8")
    # The signature of nn.BatchNorm2d ends in "bias=True" only in a newer torch.
    texts = [
        text.replace("stats=True, bias=True", "stats=True") for text in (message, golden.read_text(encoding="utf-8"))
    ]
    assert texts[0] == texts[1]


SLOW = {"repeats-explode"}  # it runs 20,000 operators


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else (), id=p.stem) for p in FILES]
)
def test_error_of_file(cli, path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    flags = first.removeprefix("# flags:").split() if first.startswith("# flags:") else []
    check(cli("summary", path, *flags), path.stem, path.parent)


@pytest.mark.parametrize("case", CASES)
def test_error_of_case(cli, case):
    name, *flags = case.split()
    check(cli("summary", HERE.parent / "cases" / f"{name}.yaml", *flags), name, HERE.parent / "cases")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_error_of_a_file_has_a_place_and_a_caret(path):
    """Each error names an existing line of the file, and its caret is under a column of that line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for block in (HERE / "errors" / f"{path.stem}.txt").read_text(encoding="utf-8").split("error: ")[1:]:
        place = re.match(rf"{re.escape(path.name)}:(\d+):(\d+): ", block)
        assert place, block
        line, column = int(place[1]), int(place[2])
        assert 1 <= column <= len(lines[line - 1]) + 1
        caret = next(text for text in block.splitlines() if text.strip(" |") == "^")
        shown = next(text for text in block.splitlines() if text.startswith(f"  {line} | "))
        assert caret.index("^") - shown.index("|") == column + 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nothere.yaml"], "there is no file 'nothere.yaml'"),
        (["yolo11k.yaml"], "no scale 'k'"),
        (["yolo11n.yml"], "did you mean 'yolo11.yaml'"),
        (["yolo11n.yaml", "--imgsz", "large"], "'large' is no image size"),
        (["yolo11n.yaml", "--imgsz", "0"], "no image size"),
        (["yolo11n.yaml", "--imgsz", "999999"], "no image size"),
        (["yolo11n.yaml", "--imgsz", "100"], "no multiple of the largest stride so far, 32: try --imgsz 96x96"),
        (["yolo11n.yaml", "--flops", "thopp"], "did you mean 'thop'"),
        (["yolo11n.yaml", "--format", "jsn"], "did you mean 'json'"),
        (["yolo11n.yaml", "--columns", "i,parms"], "did you mean 'params'"),
        (["yolo11n.yaml", "--view", "book"], "unknown view"),
        (["yolo11n.yaml", "--reverse"], "--view textbook"),
        (["yolo11n.yaml", "--scale", "q"], "no scale 'q'"),
        (["yolo11n.yaml", "--json", "--columns", "i"], "--columns has no effect on --format json"),
        (["yolo11n.yaml", "--view", "textbook", "--json"], "its own columns and form"),
        (["yolo11n.yaml", "--format", "plain", "--depth", "2"], "--depth has no effect"),
        (["yolo11n.yaml", "--nc", "0"], "nc"),
        (["yolo11n.yaml", "--nosuch"], "--nosuch"),
        ([str(HERE)], "the folder has no best.safetensors"),
    ],
)
def test_wrong_flags(cli, flags, message):
    done = cli("summary", *flags)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err
