"""Completion in a shell."""

import json
import subprocess
import sys

import pytest

from netbuild.data import embedded
from netbuild.settings import FIELDS

NET = "nc: 3\nscales: {n: [1, 1, 64], tiny: [1, 1, 64]}\nblocks:\n  Own: {rows: [[-1, 1, nn.ReLU, []]]}\nlayers:\n"
NET += "  - {name: stem, module: Own}\n  - {name: body, module: Conv, args: [8]}\n"


# Completes each line of stdin in a process of its own; they share the import of the command line.
SERVER = """
import json, os, sys
sys.argv = ["netbuild"]
sys.modules["torch"] = None  # an import of torch would fail
import netbuild.cli
os.environ["_NETBUILD_COMPLETE"] = "complete_bash"
for request in sys.stdin:
    folder, words, line = json.loads(request)
    if not os.fork():
        os.chdir(folder)
        os.environ |= {"COMP_WORDS": f"netbuild {line}", "COMP_CWORD": str(words)}
        netbuild.cli.entry()
    os.wait()
    for stream in (sys.stdout, sys.stderr):
        print("end", file=stream, flush=True)
"""


@pytest.fixture(scope="module")
def server():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.stdin.close()


def complete(server, folder, words, line):
    print(json.dumps([str(folder), words, line]), file=server.stdin, flush=True)
    found, errors = (list(iter(stream.readline, "end\n")) for stream in (server.stdout, server.stderr))
    assert errors == []
    return "".join(found).split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("summary yolo11n-s", {"yolo11n-seg.yaml"}),
        ("summary resnet5", {"resnet50.yaml"}),
        ("train net.y", {"net.yaml"}),
        ("diff lenet5.yaml fold", {"folder/"}),
        ("explain C2PS", {"C2PSA"}),
        ("explain nn.ConvTranspose", {"nn.ConvTranspose1d", "nn.ConvTranspose2d", "nn.ConvTranspose3d"}),
        ("train net.yaml --data digi", {"digits", "digits-detect"}),
        ("val net.yaml --data shap", {name for name in embedded.NAMES if name.startswith("shapes")}),
        ("train net.yaml -O close", {"close_mosaic="}),
        ("train net.yaml -O optimizer=ad", {"optimizer=adamw", "optimizer=adam"}),
        ("train net.yaml -O wandb=", {"wandb=true", "wandb=false"}),
        ("train net.yaml --optimizer mu", {"musgd"}),
        ("train net.yaml --amp b", {"bf16"}),
        ("train net.yaml --scale t", {"tiny"}),
        ("summary yolo11 --scale x", {"x"}),
        ("summary net.yaml --format ma", {"markdown"}),
        ("summary net.yaml --columns i,pa", {"i,params"}),
        ("summary net.yaml --columns +str", {"+stride"}),
        ("new mine --from seg", {"segmenter"}),
        ("export net.yaml --target openvino,torch", {"openvino,torch-export", "openvino,torchscript"}),
        ("benchmark net.yaml --target onnx-", {"onnx-int8"}),
        ("predict net.yaml a.png --save txt,j", {"txt,json"}),
        ("zoo --family yolov1", {"yolov10"}),
        ("zoo --task seg", {"segment"}),
        ("val net.yaml --split t", {"train", "test"}),
        ("train net.yaml --modules own", {"own.py"}),
        ("swap net.yaml --with SimA", {"SimAM"}),
        ("insert net.yaml --after st", {"stem"}),
    ],
)
def test_names_and_choices_are_completed(server, tmp_path, line, expected):
    (tmp_path / "net.yaml").write_text(NET, encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "own.py").write_text("")
    assert set(complete(server, tmp_path, len(line.split()), line)) == expected


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("train net.yaml --freeze ", {"stem"}),
        ("explain --file net.yaml O", {"Own"}),
        ("summary ", {"net.yaml", "lenet5.yaml", "yolo26.yaml", "yolo26n.yaml"}),
        ("train net.yaml -O ", {f"{name}=" for name in FIELDS}),
    ],
)
def test_all_names_are_offered(server, tmp_path, line, some):
    (tmp_path / "net.yaml").write_text(NET, encoding="utf-8")
    assert some <= set(complete(server, tmp_path, len(line.split(" ")), line))


def test_the_names_that_are_written_out_are_all_there_are():
    from netbuild.cli import completion
    from netbuild.export import base
    from netbuild.prediction.saving import KINDS
    from netbuild.prediction.trackers import TRACKERS

    assert sorted(completion.TARGETS) == sorted(base.TARGETS.built_in)
    assert set(completion.COMPLETIONS["save"](None, "")) == {*KINDS, "none"}
    assert sorted(completion.COMPLETIONS["tracker"](None, "")) == sorted(TRACKERS.built_in)
    settings = {name for tracker in TRACKERS.built_in for name in TRACKERS.get(tracker).settings_class().__dict__}
    assert set(completion.TRACKER_SETTINGS) == settings


def test_a_wrong_file_completes_nothing(server, tmp_path):
    (tmp_path / "net.yaml").write_text("layers: [[", encoding="utf-8")
    assert complete(server, tmp_path, 4, "train net.yaml --scale t") == []
