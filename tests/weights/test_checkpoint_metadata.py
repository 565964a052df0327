"""Metadata of a checkpoint that is not of the types of docs/checkpoint.md: every command names the file and the key."""

import copy
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import netbuild
from netbuild import NetbuildError
from netbuild.grammar import checkpoint_header
from netbuild.modules.custom import content_hash
from netbuild.training import state

CODE = "import torch.nn as nn\n\n\nclass Gate(nn.Module):\n    def forward(self, x):\n        return x\n"
FILE = {"path": "gate.py", "text": CODE, "sha256": content_hash(CODE)}
GOOD = {
    "schema": 1, "yaml": "layers:\n  - [-1, 1, nn.Conv2d, [3, 4, 1]]\n  - [-1, 1, Gate, []]\n", "file": "a.yaml",
    "name": "a", "scale": "", "task": None, "nc": 4, "ch": 3, "imgsz": [32, 32], "params": {"r": 4},
    "names": ["a", "b", "c", "d"], "modules": [[FILE]], "requires": ["timm"],
    "aliases": {}, "versions": {"netbuild": "0.1.0"}, "training": {"epoch": 1},
}  # fmt: skip
SURROGATE = "a\ud800.py"


def module(**values):
    return [[{**FILE, **values}]]


def package(*paths):
    return [[{**FILE, "path": path} for path in paths]]


WRONG_TYPES = [None, True, 7, -1, 0.5, "text", "", [], [[]], [7], {}, {"a": 1}, SURROGATE]
# The values of `WRONG_TYPES` that a key takes; equal numbers of other types are told apart by their JSON text.
RIGHT = {
    "yaml": ["text"], "file": ["text"], "name": ["text"], "scale": ["text", ""], "task": [None, "text", ""],
    "nc": [None, 7], "ch": [7], "imgsz": [], "params": [{}, {"a": 1}], "names": [None, []], "modules": [[]],
    "requires": [[]], "aliases": [{}], "versions": [{}], "training": [{}, {"a": 1}], "schema": [],
}  # fmt: skip
WRONG = [
    (key, key, value)
    for key, right in RIGHT.items()
    for value in WRONG_TYPES
    if json.dumps(value) not in map(json.dumps, right) and (key, value) != ("schema", 7)
]
WRONG += [
    ("schema", "schema", 0), ("schema", "schema", 1.5), ("nc", "nc", 0), ("nc", "nc", 2**70), ("ch", "ch", 1e3),
    ("imgsz", "imgsz[1]", [32, "32"]), ("imgsz", "imgsz", [32]), ("imgsz", "imgsz[0]", [True, 32]),
    ("imgsz", "imgsz[0]", [0, 32]), ("file", "file", "../a.yaml"), ("file", "file", "a" * 300), ("file", "file", "/a"),
    ("file", "file", "a\x00b"), ("name", "name", "../../a"), ("name", "name", "\x1b[2Ja"), ("name", "name", ".."),
    ("names", "names[1]", ["a", 5]), ("names", "names[0]", [None]), ("names", "names", {"0": "a"}),
    ("names", "names[0]", ["\udfff"]), ("requires", "requires[0]", [["a"]]), ("aliases", "aliases.b", {"b": 5}),
    ("aliases", "aliases.b", {"b": None}), ("versions", "versions.torch", {"torch": 2.4}),
    ("names", "names", ["a", "b"]), ("nc", "names", 3),
    ("training", "training", {"settings": {"\ud800": 1}}), ("params", "params.a", {"a": "\ud800"}),
    ("modules", "modules[0]", [[]]), ("modules", "modules[0]", [FILE]), ("modules", "modules[0][0]", [["gate.py"]]),
    ("modules", "modules[0][0].text", [[{"path": "a.py"}]]), ("modules", "modules[0][0].path", [[{"text": ""}]]),
    ("modules", "modules[0][0].sha256", [[{"path": "a.py", "text": ""}]]),
    ("modules", "modules[0][0].text", module(text=5)), ("modules", "modules[0][0].text", module(text="\ud800")),
    ("modules", "modules[0][0].sha256", module(sha256=5)), ("modules", "modules[0][0].path", module(path=5)),
    ("modules", "modules[0][0].path", module(path=SURROGATE)), ("modules", "modules[0][0].path", module(path="")),
    ("modules", "modules[0][0].path", module(path="a" * 300 + ".py")),
    ("modules", "modules[0][0].path", module(path="ü" * 130 + ".py")),
    ("modules", "modules[0][0].path", module(path="/a.py")), ("modules", "modules[0][0].path", module(path="a.pyc")),
    ("modules", "modules[0][0].path", module(path="../a.py")), ("modules", "modules[0][0].path", module(path="./a.py")),
    ("modules", "modules[0][0].path", module(path="a//b.py")),
    ("modules", "modules[0][0].path", module(path="a \n.py")),
    ("modules", "modules[0][1].path", package("a.py", "a.py/b.py")),
    ("modules", "modules[0][0].path", package("a.py/b.py", "a.py")),
    ("modules", "modules[0][1].path", package("p/a.py", "p/A.py")),
    ("modules", "modules[0][1].path", package("a.py", "b.py")),
    ("modules", "modules[0][1].path", package("p/a.py", "p/a.py")),
]  # fmt: skip


def write(path, data, tensors=None):
    save_file(tensors or {"model.0.weight": torch.zeros(4, 3, 1, 1), "model.0.bias": torch.zeros(4)}, path, data)
    return path


def write_checkpoint(path, **values):
    return write(path, {"netbuild": json.dumps({**GOOD, **values})})


def test_the_metadata_that_the_cases_change_is_right(cli, tmp_path):
    file = write_checkpoint(tmp_path / "a.safetensors")
    assert cli("build", file, "-o", tmp_path / "b.safetensors", "--trust").code == 0
    # Keys that are not in the schema are ignored, at each level; most keys may be absent.
    few = {key: GOOD[key] for key in ("schema", "yaml", "file", "name")}
    more = {**few, "later": [1], "modules": [[{**FILE, "mode": 3}]]}
    checkpoint_header.read_info(write(tmp_path / "c.safetensors", {"netbuild": json.dumps(more)}))


def is_refused(done, file, key):
    assert done.code == 2, done
    assert f"{file}: its metadata cannot be read: " in done.err
    assert f"'{key}" in done.err or f"'a key of {key}" in done.err
    return True


CASES = [pytest.param(*case, marks=pytest.mark.slow if i % 3 else ()) for i, case in enumerate(WRONG)]


@pytest.mark.parametrize(("key", "place", "value"), CASES, ids=lambda value: ascii(value)[:40])
def test_a_value_of_another_type_is_an_error_with_its_key(cli, tmp_path, key, place, value):
    file = write_checkpoint(tmp_path / "bad.safetensors", **{key: value})
    assert is_refused(cli("summary", file, "--trust"), file, place)


@pytest.mark.parametrize("key", ["schema", "yaml", "file", "name"])
def test_a_key_that_is_missing_is_named(cli, tmp_path, key):
    data = {name: value for name, value in GOOD.items() if name != key}
    file = write(tmp_path / "bad.safetensors", {"netbuild": json.dumps(data)})
    assert is_refused(cli("summary", file, "--trust"), file, key)


@pytest.mark.parametrize(
    "text",
    ["", "null", "5", '"text"', "[]", "{", "[" * 100_000, "1" * 5000, '{"schema": ' + "1" * 5000 + "}",
     json.dumps({**GOOD, "training": {"a": 1}}).replace('"epoch"', '"e"').replace('{"a": 1}', "[" * 900 + "]" * 900)],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_text_that_is_no_object_is_an_error(cli, tmp_path, text):
    file = write(tmp_path / "bad.safetensors", {"netbuild": text})
    done = cli("summary", file)
    assert (done.code, f"{file}: its metadata cannot be read" in done.err) == (2, True), done.err


COMMANDS = {
    "summary": ["FILE"], "graph": ["FILE"], "diff": ["lenet5", "FILE"], "check": ["FILE"], "show": ["FILE"],
    "show code": ["FILE", "--code"], "show resolved": ["FILE", "--resolved"], "build": ["FILE", "-o", "OUT"],
    "build weights": ["lenet5", "--weights", "FILE", "-o", "OUT"], "train": ["FILE", "-o", "OUT"],
    "train weights": ["lenet5", "--data", "digits", "--weights", "FILE", "-o", "OUT"],
    "val": ["FILE", "--data", "digits"], "predict": ["FILE", "x.png"], "export": ["FILE"], "benchmark": ["FILE"],
    "eject": ["FILE", "-o", "out.py"], "view": ["FILE"], "view weights": ["lenet5", "--weights", "FILE"],
    "check quick": ["FILE", "--no-shapes"],
    "weights import": ["FILE", "--model", "lenet5", "-o", "OUT"],
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("key", "value"), [("name", 5), ("modules", [[]]), ("names", [5])])
def test_every_command_checks_the_metadata(cli, tmp_path, monkeypatch, name, key, value):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("x.png")
    file = write_checkpoint(tmp_path / "bad.safetensors", **{key: value})
    words = name.split() if name.startswith("weights") else name.split()[:1]
    out = tmp_path / ("out.safetensors" if "train" not in words else "run")
    arguments = [{"FILE": file, "OUT": out}.get(item, item) for item in COMMANDS[name]]
    done = cli(*words, *arguments)
    assert (done.code, f"{file}: its metadata cannot be read: '{key}" in done.err) == (2, True), done.err
    assert not out.exists()


def test_names_of_a_network_without_classes_are_not_compared(tmp_path):
    """Earlier versions gave checkpoints of depth the names of their data set."""
    path = netbuild.save(netbuild.build("yolo26n-depth.yaml"), tmp_path / "a.safetensors", names=["disc", "bar"])
    assert checkpoint_header.read_info(path).nc == 1


def test_what_no_reader_would_take_is_not_written(tmp_path):
    network = netbuild.build("lenet5.yaml")
    path = netbuild.save(network, tmp_path / "a.safetensors", names=[7, None, *"abcdefgh"])
    assert checkpoint_header.read_info(path).names[:2] == ["7", "None"]
    with pytest.raises(NetbuildError, match="'names' has 2 names, and 'nc' is 10"):
        netbuild.save(network, tmp_path / "b.safetensors", names=["a", "b"])
    for training in ({"a": "\ud800"}, {"a": object()}, {5: {6: {7: "\udfff"}}}):
        with pytest.raises(NetbuildError, match="metadata cannot be written"):
            netbuild.save(network, tmp_path / "b.safetensors", training=training)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.int(), "'model.0.weight' has torch.int32 in the file, torch.float32 in the network"),
        (lambda t: t.bool(), "'model.0.weight' has torch.bool in the file, torch.float32 in the network"),
        (lambda t: t / 0, "2 tensors have values that are not finite: model.0.weight, model.0.bias"),
        (lambda t: t.to(torch.float8_e5m2), ""),
    ],
)
def test_tensors_of_another_kind_or_without_a_value_are_said(cli, tmp_path, change, message):
    file = write(
        tmp_path / "bad.safetensors",
        {"netbuild": json.dumps({**GOOD, "yaml": "layers:\n  - [-1, 1, nn.Conv2d, [3, 4, 1]]\n", "modules": []})},
        {"model.0.weight": change(torch.ones(4, 3, 1, 1)), "model.0.bias": change(torch.ones(4))},
    )
    done = cli("build", file, "-o", tmp_path / "o.safetensors")
    assert (done.code, message in done.err) == (2 if "network" in message else 0, True), done.err
    assert bool(done.err) == bool(message)


PROGRESS = {"epoch": 1, "best": 0.5, "best_epoch": 1, "seconds": 2.0, "history": [{"epoch": 1, "loss": 2.0}]}
STATE = {"schema": 1, "progress": PROGRESS, "numbers": {}, "groups": [{"lr": 0.1}], "steps": 1, "others": {}}


@pytest.mark.parametrize(
    ("key", "value"),
    [("epoch", "1"), ("epoch", -1), ("best", "x"), ("best_epoch", None), ("seconds", []), ("history", {}),
     ("history", [5]), ("history", [{"loss": "x"}]), ("callbacks", []), ("numbers", []), ("groups", {}),
     ("groups", [5]), ("steps", 0.5), ("others", []), ("others", {"a": 5}), ("progress", 5), ("schema", 2)],
)  # fmt: skip
def test_the_state_of_a_run_is_checked_likewise(tmp_path, key, value):
    data = copy.deepcopy(STATE)
    (data["progress"] if key in PROGRESS or key == "callbacks" else data)[key] = value
    write(tmp_path / "state.safetensors", {state.KEY: json.dumps(data)})
    with pytest.raises(NetbuildError, match=f"state.safetensors: the run cannot be resumed from this state: .*{key}"):
        state.load(tmp_path / "state.safetensors", {})


@pytest.mark.parametrize("text", ["5", "[]", "null", "{", "{}"])
def test_a_state_that_is_no_object_is_an_error(tmp_path, text):
    write(tmp_path / "state.safetensors", {state.KEY: text})
    with pytest.raises(NetbuildError, match="cannot be resumed from this state"):
        state.load(tmp_path / "state.safetensors", {})
