"""Heads of YOLOv5, v7 and v9 as a user runs them: trained, resumed, measured, exported with and without suppression."""

import csv
import json

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.filled_weights import fill
from helpers.foreign_models import save_model
from helpers.scenes import write_few_scenes

import netbuild
from netbuild import runtime, settings
from netbuild.data.shapes import files
from netbuild.training import run
from netbuild.training.overfitting import is_overfit

NETWORK = """
nc: 6
imgsz: 64
anchors: {anchors}
layers:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [24, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [2, 1, Conv, [16, 3]]  # 4
  - [3, 1, Conv, [16, 3]]
  - [4, 1, Conv, [24]]
  - [{sources}, 1, {head}, [nc{more}]]
"""
FITTING = "[[8,8, 12,12, 18,18], [16,24, 30,30, 48,48]]"
TOO_LARGE = "[[208,208, 412,412, 518,518], [516,524, 530,530, 548,548]]"
# head -> its sources: the maps 2 and 3 learn as main ones wherever there are auxiliary ones; terms beside box and cls
HEADS = {
    "AnchorDetect": ("[2, 3]", {"obj"}),
    "IDetect": ("[2, 3]", {"obj"}),
    "IAuxDetect": ("[2, 3, 6, 5]", {"obj", "aux"}),
    "DDetect": ("[2, 3]", {"dfl"}),
    "DualDetect": ("[6, 5, 2, 3]", {"dfl", "aux"}),
    "DualDDetect": ("[6, 5, 2, 3]", {"dfl", "aux"}),
    "TripleDDetect": ("[6, 5, 6, 5, 2, 3]", {"dfl", "aux"}),
}
HAS_ANCHORS = ("AnchorDetect", "IDetect", "IAuxDetect")
QUICK = ("--data", "shapes-segment", "--batch", 4, "--device", "cpu", "-Oworkers=0", "-Oplots=false")
VALIDATE = ("--data", "shapes-segment", "-Oworkers=0", "--json")


def write_network(folder, head, anchors=FITTING):
    more = ", anchors" if head in HAS_ANCHORS else ""
    (folder / "n.yaml").write_text(NETWORK.format(head=head, sources=HEADS[head][0], more=more, anchors=anchors))
    return folder / "n.yaml"


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """A few embedded scenes, the working folder; the value is a picture of theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    write_few_scenes(tmp_path / "cache")
    return tmp_path / f"cache/shapes-{files.LAYOUT}/shapes-segment/images/val/0000.png"


def slow_but(*quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in HEADS]


@pytest.mark.parametrize("head", slow_but("AnchorDetect", "DualDDetect"))
def test_a_head_is_trained_resumed_and_measured(cli, tmp_path, scenes, head):
    write_network(tmp_path, head)
    done = cli("train", "n.yaml", "--epochs", 1, "-o", "run", *QUICK)
    assert done.code == 0, done.err
    assert ("anchors: 6 of the network fit" in done.err) == (head in HAS_ANCHORS)
    done = cli("train", "--resume", "run", "--epochs", 2)
    assert (done.code, "anchors:" in done.err) == (0, False), done.err
    with (tmp_path / "run/results.csv").open() as file:
        history = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert {name[6:] for name in history[0] if name.startswith("train/")} == {"box", "cls", *HEADS[head][1]}
    measured = json.loads(cli("val", "run/last.safetensors", *VALIDATE).out)["measures"]
    assert measured["mAP50"] == pytest.approx(history[-1]["mAP50"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("head", slow_but("AnchorDetect"))
def test_exported_files_find_the_same_objects(cli, tmp_path, scenes, head):
    network = netbuild.build(write_network(tmp_path, head))
    anchors = {key: tensor.clone() for key, tensor in network.state_dict().items() if "anchor" in key}
    fill(network)  # scores far apart, so that rounding changes no order
    network.load_state_dict(anchors, strict=False)
    netbuild.save(network, "n.safetensors", names=list("abcdef"))
    flags = ("--conf", 0.3, "--iou", 0.4)
    assert cli("export", "n.safetensors", "-o", "n.onnx").code == 0
    done = cli("export", "n.safetensors", "--nms", *flags, "-o", "nms.onnx")
    assert done.code == 0, done.err + done.out
    limits = {"n.safetensors": flags, "n.onnx": flags, "nms.onnx": ()}
    found = [
        json.loads(cli("predict", file, scenes, *more, "--json", "-o", file[:3]).out)["pictures"][0]["records"]
        for file, more in limits.items()
    ]
    found.append(runtime.load("n.onnx").predict(scenes, conf=0.3, iou=0.4)["records"])
    assert len(found[0]) > 3
    for records in found[1:]:
        assert [r["class"] for r in records] == [r["class"] for r in found[0]]
        ours, theirs = ([[*r["box"], r["confidence"]] for r in part] for part in (records, found[0]))
        np.testing.assert_allclose(ours, theirs, atol=0.02)
    if head == "AnchorDetect":
        info = runtime.load("n.onnx").info
        assert (info.objectness, info.is_dense, runtime.load("n.onnx").classes) == (True, True, 6)
        measured = [json.loads(cli("val", f, *VALIDATE).out)["measures"] for f in ("n.safetensors", "n.onnx")]
        assert measured[1]["mAP50"] == pytest.approx(measured[0]["mAP50"], abs=0.01)


@pytest.mark.parametrize(("head", "rows"), [("IAuxDetect", (5, 6)), ("DualDDetect", (5, 6)), ("TripleDDetect", (5, 6))])
def test_rows_that_only_auxiliary_branches_read_are_cut(cli, tmp_path, head, rows):
    network = netbuild.build(write_network(tmp_path, head)).eval()
    x, count = torch.rand(2, 3, 64, 64), sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        before = network(x)[0]
        network.fuse()
        assert [type(network.model[i]).__name__ for i in (3, *rows)] == ["Conv", "Identity", "Identity"]
        torch.testing.assert_close(network(x)[0], before, atol=1e-4, rtol=1e-4)
        network.fuse()
        torch.testing.assert_close(network(x)[0], before, atol=1e-4, rtol=1e-4)
    done = cli("summary", tmp_path / "n.yaml", "--fuse")
    assert "strides [8, 16], 80 anchor points" in done.out
    main = "IDetect" if head == "IAuxDetect" else "DDetect"
    plain = netbuild.build(write_network(tmp_path, main)).fuse()
    for row in (4, 5, 6):  # the plain network still has them
        plain.model[row].requires_grad_(False)
        plain.model._modules[str(row)] = torch.nn.Identity()
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in plain.parameters()) < count


@pytest.mark.slow
def test_an_exported_file_has_no_auxiliary_branch(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_network(tmp_path, "DualDDetect")
    assert cli("export", "n.yaml", "--no-fuse", "-o", "whole.onnx").code == 0
    assert cli("export", "n.yaml", "-o", "n.onnx").code == 0
    shapes = [onnxruntime.InferenceSession(name).get_outputs()[0].shape for name in ("whole.onnx", "n.onnx")]
    assert shapes == [[1, 10, 80]] * 2
    sizes = [(tmp_path / name).stat().st_size for name in ("whole.onnx", "n.onnx")]
    network = netbuild.build("n.yaml")
    assert max(sizes) < 4 * sum(p.numel() for p in network.parameters()) * 0.75


def test_anchors_that_fit_badly_are_replaced_and_are_in_the_checkpoint(cli, tmp_path, scenes):
    write_network(tmp_path, "IAuxDetect", TOO_LARGE)
    flags = ("--epochs", 1, "--lr", 1e-9, "-o", "run", *QUICK)
    done = cli("train", "n.yaml", *flags)
    note = next(line for line in done.err.splitlines() if line.startswith("anchors: "))
    assert (done.code, "6 of the network fit 0.0% of" in note, "replaced by" in note) == (0, True, True), note
    assert done.err.count("anchors: 6") == 1
    network = netbuild.build("run/last.safetensors")
    head = network.head
    sizes = head.anchor_sizes.flatten(0, 1)
    assert f"{sizes[0, 0]:.0f}x{sizes[0, 1]:.0f}" in note
    torch.testing.assert_close(head.anchor_grid.flatten(), sizes.flatten())
    assert (sizes.prod(1).diff() >= 0).all()
    assert sizes.max() < 64
    written = netbuild.grammar.nodes.parse(network.card.yaml, "").plain()["anchors"]
    np.testing.assert_allclose(np.ravel(written), sizes.flatten(), atol=0.01)
    refused = cli("train", "n.yaml", *flags[:-1], "-Oplots=false", "-Oanchors=keep", "-o", "kept")
    assert (refused.code, "nothing can be learnt" in refused.err) == (2, True), refused.err
    assert not (tmp_path / "kept").exists()
    write_network(tmp_path, "AnchorDetect", "[[5,5, 412,412, 518,518], [516,524, 530,530, 548,548]]")
    kept = cli("train", "n.yaml", *flags[:-1], "-Oplots=false", "-Oanchors=keep", "-o", "kept")
    assert (kept.code, "they are kept" in kept.err) == (0, True), kept.err
    assert netbuild.build("kept/last.safetensors").head.anchor_sizes[0, 0].tolist() == [5, 5]


def test_the_setting_anchors_needs_a_head_with_anchors(cli, tmp_path, scenes):
    write_network(tmp_path, "DDetect")
    done = cli("train", "n.yaml", "--epochs", 1, *QUICK, "-Oanchors=keep")
    assert (done.code, "anchors has no effect for the head DDetect" in done.err) == (2, True), done.err
    done = cli("train", "n.yaml", "--epochs", 1, *QUICK, "-Oanchors=best")
    assert (done.code, "auto, keep" in done.err) == (2, True), done.err


def test_placeholders_of_a_number_of_anchors_are_replaced(cli, tmp_path, scenes):
    write_network(tmp_path, "AnchorDetect", "3")
    done = cli("train", "n.yaml", "--epochs", 1, "-o", "run", *QUICK)
    assert (done.code, "replaced by" in done.err) == (0, True), done.err


ROWS = {
    "nc": 6, "depth_multiple": 1.0, "width_multiple": 0.25,
    "anchors": [[8, 8, 12, 12, 18, 18], [16, 24, 30, 30, 48, 48]],
    "backbone": [[-1, 1, "Conv", [32, 6, 2, 2]], [-1, 1, "Conv", [64, 3, 2]], [-1, 3, "C3", [64]],
                 [-1, 1, "Conv", [96, 3, 2]], [-1, 1, "SPPF", [96, 5]]],
    "head": [[-1, 1, "Conv", [128, 3, 2]], [[4, 5], 1, "Detect", ["nc", "anchors"]]],
}  # fmt: skip


def add_grid(model):
    """The buffer that YOLOv5 had up to version 5 beside the anchors."""
    head = model.model[-1]
    head.register_buffer("anchor_grid", head.anchors.clone().view(2, 1, 3, 1, 1, 2))


@pytest.mark.parametrize("form", ["early", "state", pytest.param("model", marks=pytest.mark.slow)])
def test_an_imported_yolov5_predicts_and_is_measured(cli, tmp_path, scenes, form):
    (tmp_path / "rows.yaml").write_text(json.dumps({**ROWS, "imgsz": 64}))
    network = netbuild.build("rows.yaml").eval()
    with torch.no_grad():
        network.head.anchors.mul_(1.1)  # as those that were fitted to data, which no row says
    if form == "state":
        torch.save(network.state_dict(), "v5.pt")
        flags = ("weights", "import", "v5.pt", "--model", "rows.yaml", "-o", "v5.safetensors")
        assert cli(*flags).code == 0
        name = "v5.safetensors"
    else:
        save_model(network, ROWS, "v5.pt", change=add_grid if form == "early" else None)
        name = "v5.pt"
    loaded = netbuild.build(name)
    torch.testing.assert_close(loaded.head.anchors, network.head.anchors)
    done = cli("val", name, *VALIDATE, "--imgsz", 64)
    assert (done.code, "mAP50" in json.loads(done.out)["measures"]) == (0, True), done.err
    done = cli("predict", name, scenes, "--conf", 0.0001, "--json", "-o", "seen")
    records = json.loads(done.out)["pictures"][0]["records"]
    assert {"class", "name", "confidence", "box"} == set(records[0])


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_each_head_overfits_a_batch(tmp_path, scenes, head):
    # The selection of pairs by cost changes during training, so it takes longer.
    steps = 500 if head in ("IDetect", "IAuxDetect") else 250
    chosen = {"epochs": steps, "batch": 4, "imgsz": 96, "lr": 0.003, "workers": 0, "mosaic": 0.0}
    losses = run.overfit_batch(write_network(tmp_path, head), "shapes-segment", settings.load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])
