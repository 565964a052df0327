"""ONNX files with the metadata of Ultralytics, and files whose metadata does not fit their outputs."""

import json
import os

import numpy as np
import pytest
import torch
from helpers.foreign_models import save_model
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.errors import NetbuildError
from netbuild.export.benchmark import benchmark
from netbuild.export.inspection.inspect import inspect
from netbuild.prediction.contract import make_metadata
from netbuild.prediction.onnx_network import open_exported
from netbuild.runtime import RunError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ULTRALYTICS = {
    "author": "Ultralytics", "task": "detect", "stride": "32", "batch": "1", "imgsz": "[64, 64]",
    "names": "{0: 'cat', 1: \"dog's\"}", "channels": "3", "args": "{'batch': 1, 'nms': False}",
}  # fmt: skip
OURS = {
    "netbuild": "1", "task": "detect", "names": '["cat", "dog"]', "stride": "32", "imgsz": "[64, 64]", "channels": "3",
    "fitting": "letterbox", "one2one": "false", "boxes": "", "extra": "[]", "nms": "",
}  # fmt: skip


def write(path, metadata, *outputs, shape=(1, 3, 64, 64)):
    """Write a file that adds nothing of its picture to constant outputs."""
    helper, make = onnx.helper, onnx.helper.make_node
    nodes = [make("ReduceMean", ["images"], ["mean"], keepdims=0), make("Constant", [], ["zero"], value_float=0.0)]
    nodes += [make("Mul", ["mean", "zero"], ["nothing"])]
    infos, constants = [], []
    for i, array in enumerate(outputs):
        constants.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), f"c{i}"))
        nodes.append(make("Add", [f"c{i}", "nothing"], [f"output{i}"]))
        infos.append(helper.make_tensor_value_info(f"output{i}", 1, np.shape(array)))
    given = helper.make_tensor_value_info("images", 1, shape)
    graph = helper.make_graph(nodes, "g", [given], infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def dense(*columns, cells=84):
    """Outputs (1, rows, cells) with the given columns, and nothing in the other cells."""
    found = np.zeros((1, len(columns[0]), cells))
    for i, column in enumerate(columns):
        found[0, :, 7 * i] = column
    return found


BOX, LIST = [32, 24, 16, 8], [24, 20, 40, 28]  # the same box as centre and size, and as corners
CASES = {
    "dense": ({}, [dense([*BOX, 0.1, 0.9])]),
    "list": ({"end2end": "True"}, [[[[*LIST, 0.9, 1], [0] * 6]]]),
    "list by its shape": ({"args": "{'nms': True}"}, [[[[*LIST, 0.9, 1], [0] * 6]]]),
    "pose": ({"task": "pose", "kpt_shape": "[1, 3]"}, [dense([*BOX, 0.1, 0.9, 30, 22, 1])]),
    "segment": ({"task": "segment"}, [dense([*BOX, 0.1, 0.9, *[1] * 32]), np.ones((1, 32, 16, 16))]),
    "names as a list": ({"names": "['cat', 'dog']", "imgsz": "64"}, [dense([*BOX, 0.1, 0.9])]),
    "queries": (
        {"names": "['cat', \"dog's\", 'fox']"},
        [[[[0.5, 0.375, 0.25, 0.125, 0.1, 0.9, 0.2], *[[0.5] * 4 + [0.01] * 3] * 9]]],
    ),
    "list of a decoder": ({"head": "RTDETRDecoder"}, [[[[0.5, 0.375, 0.25, 0.125, 0.9, 1], [0] * 6]]]),
    "obb": ({"task": "obb"}, [dense([*BOX, 0.1, 0.9, 0])]),
    "obb list": ({"task": "obb"}, [[[[*BOX, 0.9, 1, 0], [0] * 7]]]),
}


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_ultralytics_is_predicted(tmp_path, cli, picture, name):
    metadata, outputs = CASES[name]
    file = write(tmp_path / "u.onnx", {**ULTRALYTICS, **metadata}, *outputs)
    (record,) = runtime.load(file).predict(picture)["records"]
    assert (record["class"], record["box"], record["confidence"]) == (1, LIST, 0.9)
    assert record["name"] == ("dog" if name == "names as a list" else "dog's")
    done = cli("predict", file, picture, "--json")
    assert done.code == 0, done.err
    (theirs,) = json.loads(done.out)["pictures"][0]["records"]
    assert (theirs["class"], theirs["box"]) == (1, LIST)
    assert cli("inspect", file).code == 0
    (row,) = benchmark(file, rounds=2)
    assert (row.target, row.median_ms > 0, row.difference) == ("u.onnx", True, None)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([dense([*BOX, 0.1, 0.9]) * np.nan], "its output 'output0' has values that are NaN or infinite"),
        ([dense([*BOX, 0.1, np.inf])], "its output 'output0' has values that are NaN or infinite"),
        ([dense([*BOX, 0.1, 5])], "its scores are from 0 to 5, and not probabilities"),
        ([dense([*BOX, 0.1, -5])], "its scores are from -5 to 0.1, and not probabilities"),
        ([[[[*LIST, 9, 1], [0] * 6]]], "its scores are from 0 to 9, and not probabilities"),
        ([np.concatenate([dense([*BOX, 0.1, 0.9])] * 2)], "its output 'output0' has 2 rows for a batch of 1 images"),
    ],
)
def test_outputs_that_can_be_no_detections_are_errors(tmp_path, cli, picture, outputs, words):
    file = write(tmp_path / "u.onnx", ULTRALYTICS, *outputs)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "d.yaml").write_text("path: .\nval: [a.txt.lst.txt]\nnames: [cat, dog]\n")
    (tmp_path / "a.txt.lst.txt").write_text("a.png\n")
    for command in (["predict", file, picture], ["val", file, "--data", tmp_path / "d.yaml"], ["benchmark", file]):
        done = cli(*command)
        assert (done.code, words in done.err) == (2, True), (command, done)
    with pytest.raises(RunError, match=words.split("(")[0]):
        runtime.load(file).predict(picture)


def test_a_network_that_has_diverged_is_not_one_that_finds_nothing(tmp_path, cli, picture):
    network = netbuild.build("yolo11n.yaml")
    with torch.no_grad():
        network.model[0].conv.weight.fill_(torch.nan)
    netbuild.save(network, tmp_path / "n.safetensors")
    done = cli("predict", tmp_path / "n.safetensors", picture, "--imgsz", 64)
    assert (done.code, "error: the network's outputs are NaN or infinite" in done.err) == (2, True), done.err


def interpolate(image, h, w):
    """Bilinear interpolation between pixel centres, in floating point."""
    found = image.astype(float)
    for axis, side in enumerate((h, w)):
        place = ((np.arange(side) + 0.5) * found.shape[axis] / side - 0.5).clip(0, found.shape[axis] - 1)
        low = place.astype(int).clip(0, found.shape[axis] - 2)
        share = (place - low).reshape(-1, *[1] * (2 - axis))
        found = found.take(low, axis) * (1 - share) + found.take(low + 1, axis) * share
    return found


@pytest.mark.parametrize("fitting", ["letterbox", "stretch"])
@pytest.mark.parametrize("metadata", [ULTRALYTICS, OURS, {**OURS, "resizing": "linear"}])
def test_pictures_are_resized_as_the_networks_were_trained(tmp_path, cli, monkeypatch, metadata, fitting):
    """Ultralytics interpolates linearly; netbuild takes area means, which differ unless a picture is halved."""
    pixels = np.random.default_rng(0).integers(0, 256, (93, 90, 3), dtype=np.uint8)  # no corner is cut
    h, w = (64, 62) if fitting == "letterbox" else (64, 64)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "d.yaml").write_text("path: .\nval: images\nnames: [cat, dog]\n")
    metadata = {**metadata, "fitting": fitting} if "netbuild" in metadata else metadata
    if fitting == "stretch" and "netbuild" not in metadata:
        metadata = {**metadata, "head": "RTDETRDecoder"}
    file = write(
        tmp_path / "u.onnx", metadata, [[[*BOX, 0.9, 1]] if fitting == "stretch" else dense([*BOX, 0.1, 0.9])[0]]
    )
    if fitting == "stretch" and "netbuild" in metadata:
        metadata = {**metadata, "one2one": "true", "boxes": "corners"}
        file = write(tmp_path / "u.onnx", metadata, [[[*LIST, 0.9, 1]]])
    seen, run = [], runtime.Model.run

    def keep(model, images):
        seen.append(np.array(images[0]))
        return run(model, images)

    monkeypatch.setattr(runtime.Model, "run", keep)
    runtime.load(file).predict(str(tmp_path / "images" / "a.png"))
    for command in (
        ["predict", file, tmp_path / "images" / "a.png", "--json"],
        ["val", file, "--data", tmp_path / "d.yaml"],
    ):
        done = cli(*command)
        assert done.code == 0, done.err
    assert len(seen) == 3
    is_linear = "netbuild" not in metadata or metadata.get("resizing") == "linear"
    expected = interpolate(pixels, h, w)
    for image in seen:
        image = image if image.dtype == np.uint8 else np.rint(image * 255)
        left = (64 - w) // 2
        difference = np.abs(image[:, :, left : left + w].transpose(1, 2, 0) - expected)
        assert (difference.max() <= 1) if is_linear else (difference.max() > 30)


def test_a_checkpoint_of_ultralytics_is_resized_as_it_was_trained(tmp_path):
    rows = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    (tmp_path / "rows.yaml").write_text(json.dumps(rows))
    save_model(netbuild.build(tmp_path / "rows.yaml"), rows, tmp_path / "x.pt")
    card = netbuild.build(tmp_path / "x.pt").card
    assert card.resizing == "linear"
    assert make_metadata(netbuild.build(tmp_path / "x.pt"), (64, 64), None)["resizing"] == "linear"
    assert netbuild.build("yolo11n.yaml").card.resizing == "area"


def test_class_numbers_of_pixels_of_ultralytics_are_predicted_and_measured(tmp_path, cli, picture):
    """Ultralytics writes the number of each pixel's class instead of scores of all classes."""
    numbers = np.zeros((1, 64, 64))
    numbers[:, :, 48:] = 1
    file = write(tmp_path / "s.onnx", {**ULTRALYTICS, "task": "semantic"}, numbers)
    found = {record["name"]: record["share"] for record in runtime.load(file).predict(picture)["records"]}
    assert found == {"cat": 0.75, "dog's": 0.25}
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "masks").mkdir()
    for i in range(2):
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "d" / "images" / f"{i}.png")
        Image.fromarray(numbers[0].astype(np.uint8)).save(tmp_path / "d" / "masks" / f"{i}.png")
    data = {"path": str(tmp_path / "d"), "train": "images", "val": "images", "masks_dir": "masks"}
    (tmp_path / "d.yaml").write_text(json.dumps({**data, "names": ["cat", "dog's"]}))
    done = cli("val", file, "--data", tmp_path / "d.yaml", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["measures"]["mIoU"] == 1
    numbers[0, 0, 0] = 2
    with pytest.raises(RunError, match="class 2"):
        runtime.load(write(tmp_path / "s.onnx", {**ULTRALYTICS, "task": "semantic"}, numbers)).predict(picture)


def test_a_file_of_ultralytics_measures_depth_on_stretched_pictures(tmp_path):
    Image.fromarray(np.full((32, 128, 3), 90, np.uint8)).save(tmp_path / "wide.png")
    ramp = np.broadcast_to(np.arange(64)[:, None], (1, 1, 64, 64))
    file = runtime.load(write(tmp_path / "d.onnx", {**ULTRALYTICS, "task": "depth", "names": "{0: 'depth'}"}, ramp))
    (record,) = file.predict(tmp_path / "wide.png")["records"]
    assert (record["nearest"], record["farthest"]) == (0.5, 62.5)  # of all rows: a letterbox would use 16 of them


def test_a_classifier_of_ultralytics_is_measured(tmp_path, cli):
    file = write(tmp_path / "c.onnx", {**ULTRALYTICS, "task": "classify"}, [[0.2, 0.8]])
    for name in ("cat", "dog's"):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((64, 64, 3), 50 * i, np.uint8)).save(tmp_path / "data" / "val" / name / f"{i}.png")
    done = cli("val", file, "--data", tmp_path / "data", "--json")
    assert done.code == 0, done.err
    assert "0.5" in done.out
    done = cli("benchmark", file, "--target", "onnx")
    assert (done.code, "no effect on an exported file" in done.err) == (2, True)


HEAD = '{"name": "boxes", "task": "detect", "names": ["a", "b"]}'
OK = [dense([*BOX, 0.1, 0.9])]
WRONG = [
    ({**ULTRALYTICS, "names": "{0: 'a', 1: 'b', 2: 'c'}"}, OK, "output has 2 classes, names are given for 3"),
    ({**ULTRALYTICS, "names": "{0: 'a', 2: 'b'}"}, OK, "'names'"),
    ({**ULTRALYTICS, "names": "__import__('os')"}, OK, "'names'"),
    ({**ULTRALYTICS, "names": "{" + "[" * 100_000}, OK, "'names'"),
    ({**ULTRALYTICS, "names": "- " * 100_000 + "1"}, OK, "'names'"),
    ({**ULTRALYTICS, "imgsz": "[320, 320]"}, OK, "320x320, its input takes 64x64"),
    ({**ULTRALYTICS, "channels": "1"}, OK, "'channels' is 1, its input has 3"),
    ({**ULTRALYTICS, "task": "pose", "kpt_shape": "[17]"}, OK, "cannot have"),
    ({**ULTRALYTICS, "task": "pose", "kpt_shape": "17"}, OK, "'kpt_shape'"),
    ({**ULTRALYTICS, "task": "classify"}, OK, "of shape (B, 2), the file has (1, 6, 84)"),
    ({**ULTRALYTICS, "task": "segment"}, OK, "second output"),
    ({**ULTRALYTICS}, [np.zeros((1, 7))], "the file has (1, 7)"),
    ({"names": "['a']", "stride": "32"}, OK, "no metadata of netbuild or Ultralytics"),
    *(
        ({**OURS, "names": text}, OK, "'names'")
        for text in ("3", "{}", "[1]", "[[]]", '["\\ud800"]', "[" * 100_000, "[null]")
    ),
    *(({**OURS, "stride": text}, OK, "'stride'") for text in ("0", "-1", str(2**70), "x", "1e3")),
    *(
        ({**OURS, "imgsz": text}, OK, "'imgsz'")
        for text in ("[0, 1]", "[1e3, 1]", "[64]", "null", f"[{2**70}, 1]", "{}", "[true, 1]")
    ),
    *(({**OURS, "extra": text}, OK, "'extra'") for text in ("[-1]", "3", '["a"]', f"[{2**70}]")),
    *(
        ({**OURS, "nms": text}, OK, "'nms'")
        for text in ("[1]", '{"conf": "a"}', '{"iou": NaN}', '{"max_det": 0}', '{"x": 1}')
    ),
    *(({**OURS, name: "x"}, OK, f"'{name}'") for name in ("one2one", "boxes", "fitting", "channels")),
    ({**OURS, "task": "a\x1b[2J"}, OK, "'task'"),
    ({**OURS, "extra": "[1]"}, OK, "cannot have [1]"),
    ({**OURS, "nms": '{"conf": 0.5}'}, OK, "must have 4 outputs"),
    ({**OURS, "nms": '{"conf": 0.5}', "task": "depth"}, OK, "suppresses boxes"),
    ({**OURS, "nms": '{"conf": 0.5}'}, [[0] * 4, [0], [0], [0]], "the file has (4)"),
    ({**OURS, "one2one": "true"}, OK, "the file has (1, 6, 84)"),
    ({**OURS, "task": "depth"}, [np.zeros((1, 2, 4, 4))], "the file has (1, 2, 4, 4)"),
    ({**OURS, "task": "semantic"}, OK, "the file has (1, 6, 84)"),
    *(
        ({**OURS, "task": "several", "heads": text}, OK, "'heads'")
        for text in (
            "3",
            "{",
            "[1]",
            '[{"name": "a"}]',
            '[{"name": 1, "task": "detect"}]',
            '[{"name": "a", "task": "several"}]',
            f"[{HEAD}, {HEAD}]",
            '[{"name": "a", "task": "pose", "extra": [1]}]',
            *(
                f'[{{"name": "a", "task": "detect", {text}}}]'
                for text in (
                    '"outputs": 0',
                    '"weight": NaN',
                    '"one2one": 1',
                    '"boxes": "round"',
                    '"names": [1]',
                    '"data": 5',
                )
            ),
        )
    ),
    ({**OURS, "task": "several"}, OK, "the task 'several' and describes 0 heads"),
    ({**OURS, "heads": f"[{HEAD}]"}, OK, "the task 'detect' and describes 1 heads"),
    ({**OURS, "task": "several", "heads": f"[{HEAD}]"}, OK * 2, "gives its heads boxes 1 outputs, it has 2"),
    ({**OURS, "task": "several", "heads": f"[{HEAD}]".replace("detect", "depth")}, OK, "the file has (1, 6, 84)"),
    ({**OURS, "task": "several", "heads": f"[{HEAD}]".replace('"b"', '"b", "c"')}, OK, "names are given for 3"),
]


@pytest.mark.parametrize(("metadata", "outputs", "message"), WRONG)
def test_metadata_that_does_not_fit_is_an_error_at_opening(tmp_path, cli, picture, metadata, outputs, message):
    file = write(tmp_path / "wrong.onnx", metadata, *outputs)
    with pytest.raises(RunError) as caught:
        runtime.load(file)
    assert str(file) in caught.value.message
    assert message in caught.value.message
    with pytest.raises(NetbuildError):
        open_exported(file, "cpu")
    inspect(file)  # shows the metadata, whatever it is


@pytest.mark.parametrize(
    ("row", "message"),
    [([*LIST, 0.9, 5], "class 5.0"), ([*LIST, 0.9, -1], "class -1.0"), ([*LIST, 0.9, np.nan], "NaN")],
)
def test_numbers_of_classes_that_do_not_exist_are_an_error(tmp_path, cli, picture, row, message):
    file = write(tmp_path / "n.onnx", {**OURS, "one2one": "true", "boxes": "corners"}, [[row]])
    with pytest.raises(RunError, match=message):
        runtime.load(file).predict(picture)
    done = cli("predict", file, picture)
    assert (done.code, message in done.err) == (2, True)


@pytest.mark.parametrize(("versions", "hint"), [({"opset": 99}, "--opset 18"), ({"ir": 99}, "--opset 18")])
def test_a_file_that_is_too_new_for_onnxruntime_is_not_called_damaged(tmp_path, versions, hint):
    model = onnx.load(write(tmp_path / "new.onnx", OURS, *OK))
    model.opset_import[0].version = versions.get("opset", 18)
    model.ir_version = versions.get("ir", 8)
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RunError, match="is too old for the file's opset") as caught:
        runtime.load(tmp_path / "new.onnx")
    assert hint in caught.value.hint


def test_what_is_no_file_is_named_quickly(tmp_path, cli, picture):
    os.mkfifo(tmp_path / "fifo.onnx")
    with (tmp_path / "sparse.onnx").open("wb") as file:
        file.truncate(20 * 2**30)
    for name, message in (("fifo", "not a regular file"), ("sparse", "more than an ONNX file can have")):
        for call in (("inspect",), ("benchmark",), ("predict",)):
            done = cli(*call, tmp_path / f"{name}.onnx", *([picture] if call == ("predict",) else []))
            assert (done.code, f"{name}.onnx" in done.err, message in done.err) == (2, True, True), done.err
