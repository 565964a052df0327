"""The task of several heads: each learns and is measured on the pictures that have its truth, by its weight."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_networks import TWO_HEADS

import netbuild
from netbuild.data.dataset import Dataset, Extra, Sample
from netbuild.data.fitting import Letterbox
from netbuild.errors import NetbuildError
from netbuild.feed.targets.partial import TRUTHS
from netbuild.tasks import class_for, find
from netbuild.tasks.base import View
from netbuild.tasks.metric import main_measures
from netbuild.tasks.several_drawing import merge_drawings

NET = """\
nc: 3
imgsz: 64
heads:
  boxes: {row: detect, weight: 2.0}
  sem: {row: semantic, weight: 0.5}
  depth: {row: depth, weight: 0.2}
"""
NET += TWO_HEADS + "  - [[fine, coarse], 1, Depth, [16], depth]\n"
NAMES = ["a", "b", "c"]
KNOWN = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=torch.bool)


@pytest.fixture
def made(tmp_path):
    """A network, its task, and a batch of four pictures, which have the truth of some heads."""
    (tmp_path / "net.yaml").write_text(NET)
    torch.manual_seed(0)
    network = netbuild.build(tmp_path / "net.yaml")
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.7, 0.6, 0.4, 0.4], [0.5, 0.5, 0.5, 0.6], [0.2, 0.8, 0.3, 0.2]])
    batch = {
        "images": torch.rand(4, 3, 64, 64), "boxes": boxes, "classes": torch.tensor([0, 1, 2, 1]),
        "index": torch.tensor([0, 0, 2, 3]), "crowd": torch.zeros(4, dtype=torch.bool),
        "mask": torch.randint(0, 3, (4, 1, 64, 64)), "depth": torch.rand(4, 1, 64, 64) + 1, TRUTHS: KNOWN,
        "letterbox": [Letterbox.fit((64, 64), (64, 64))] * 4,
    }  # fmt: skip
    return network, class_for(network.card)(network.head, NAMES), batch


def share_of(batch, head):
    """The pictures of a head and their part of the batch, told without the code that is tested."""
    chosen = KNOWN[:, ["boxes", "sem", "depth"].index(head)].nonzero().view(-1).tolist()
    rows = [i for i, picture in enumerate(batch["index"].tolist()) if picture in chosen]
    new = torch.tensor([chosen.index(int(batch["index"][i])) for i in rows])
    maps = {name: batch[name][chosen] for name in ("images", "mask", "depth")}
    return chosen, {**maps, "boxes": batch["boxes"][rows], "classes": batch["classes"][rows], "index": new}


def test_the_loss_is_the_weighted_sum_of_the_heads_on_their_pictures(made):
    network, task, batch = made
    network.train()
    outputs = network(batch["images"])
    total, terms = task.loss(outputs, batch)
    wanted = torch.zeros(())
    for (name, weight), output in zip((("boxes", 2.0), ("sem", 0.5), ("depth", 0.2)), outputs, strict=True):
        chosen, share = share_of(batch, name)
        alone = find(task.parts[name].name)(network.heads[list(task.parts).index(name)], NAMES)
        if isinstance(output, dict):
            output = {
                key: [x[chosen] for x in value] if isinstance(value, list) else value[chosen]
                for key, value in output.items()
            }
        else:
            output = tuple(x[chosen] for x in output)
        value, inner = alone.loss(output, share)
        wanted = wanted + weight * value
        for key, term in inner.items():
            assert terms[f"{name}/{key}"] == pytest.approx(float(weight * term), rel=1e-5)
    assert float(total) == pytest.approx(float(wanted), rel=1e-5)
    assert {name.partition("/")[0] for name in terms} == {"boxes", "sem", "depth"}


def test_a_head_without_truth_learns_nothing(made):
    network, task, batch = made
    network.train()
    batch[TRUTHS] = torch.tensor([[1, 0, 0]] * 4, dtype=torch.bool)
    total, terms = task.loss(network(batch["images"]), batch)
    total.backward()
    assert terms["sem/ce"] == terms["depth/silog"] == 0 < terms["boxes/cls"]
    learnt = [[p for p in head.parameters() if p.requires_grad] for head in network.heads]
    gradients = [sum(float(p.grad.abs().sum()) for p in parameters) for parameters in learnt]
    assert gradients[0] > 0 == gradients[1] == gradients[2]  # and none is missing, as several processes need
    only = find("detect")(network.heads[0], NAMES).loss(network(batch["images"])[0], batch)[0]
    assert float(total) == pytest.approx(2 * float(only), rel=1e-4)


def test_processes_ask_for_equal_numbers_of_sums(made):
    """Of processes that ask for different numbers of sums, one would wait for ever."""
    network, task, batch = made
    network.train()
    halves = [batch | {TRUTHS: KNOWN}, batch | {TRUTHS: torch.zeros_like(KNOWN)}]
    sums, losses = [[], []], []  # the sums in the order in which the loss asks for them
    for known, half in zip(sums, halves, strict=True):
        # The mean of both processes, as far as one process knows it: the second one has nothing.
        task.normaliser = lambda total, least, known=known: (known.append(total.detach()), total.clamp(min=1))[1]
        losses.append(task.loss(network(half["images"]), half))
    assert (float(losses[1][0].detach()), set(map(float, losses[1][1].values()))) == (0.0, {0.0})
    assert len(sums[0]) == len(sums[1]) > 3


def test_measures_have_the_name_of_their_head(made):
    network, task, batch = made
    network.eval()
    with torch.no_grad():
        found = task.postprocess(network(batch["images"]), (64, 64), heads={"boxes": {"conf": 0.0}})
    metric = task.metric()
    metric.update(found, batch)
    result = metric.result()
    weights = {"boxes": 2.0, "sem": 0.5, "depth": 0.2}
    mean = sum(weight * result[f"{name}/fitness"] for name, weight in weights.items()) / sum(weights.values())
    assert result["fitness"] == pytest.approx(mean)
    assert "depth/abs-rel" in metric.lower_is_better
    for name in weights:
        chosen, share = share_of(batch, name)
        share["letterbox"] = [batch["letterbox"][i] for i in chosen]
        alone = task.parts[name].metric()
        values = [found[i][name] for i in chosen]
        alone.update(values if name == "boxes" else torch.stack(values), share)
        assert {key: result[f"{name}/{key}"] for key in alone.result()} == pytest.approx(alone.result())
    assert {row["head"] for row in metric.classes()} == {"boxes", "sem"}
    halves = [task.metric(), task.metric()]
    for half, chosen in zip(halves, ([0, 2], [1, 3]), strict=True):
        rows = [i for i, picture in enumerate(batch["index"].tolist()) if picture in chosen]
        index = torch.tensor([chosen.index(int(batch["index"][i])) for i in rows])
        part = {name: batch[name][chosen] for name in ("images", "mask", "depth", TRUTHS)}
        part |= {name: batch[name][rows] for name in ("boxes", "classes", "crowd")}
        half.update([found[i] for i in chosen], {**part, "index": index, "letterbox": batch["letterbox"][:2]})
    states = [copy.deepcopy(half.state()) for half in halves]
    halves[0].merge(states, [[0, 2], [1, 3]])
    assert halves[0].result() == pytest.approx(result)
    assert halves[0].pictures == metric.pictures


def test_the_main_measures_are_those_of_each_head():
    names, found = ("a/R2", "a/MAE", "a/RMSE", "b/mIoU"), {"a/R2": -1.0, "a/MAE": 0.2, "a/RMSE": 0.3, "b/mIoU": 0.5}
    assert main_measures(names, found) == {"a/MAE": 0.2, "b/mIoU": 0.5}
    assert main_measures(names[:3], {**found, "a/R2": -0.5}, count=2) == {"a/R2": -0.5, "a/MAE": 0.2}


def test_records_and_drawings_are_those_of_all_heads(made):
    network, task, batch = made
    network.eval()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with torch.no_grad():
        found = task.postprocess(network(batch["images"]), (64, 64), **task.options({"conf": 0.0, "max_det": 2}))
    records = task.records(found[0], View(image, batch["letterbox"][0]))
    assert (list(records), len(records["boxes"]), "median" in records["depth"][0]) == (
        ["boxes", "sem", "depth"],
        2,
        True,
    )
    assert [text.partition(":")[0] for text in task.line(records).split("; ")] == ["boxes", "sem", "depth"]
    drawing = task.draw(image, found[0], records)
    assert (len(drawing.boxes), drawing.image.shape) == (2, (64, 128, 3))  # the map of depth is beside the picture
    assert drawing.render().shape[1] % 128 == 0
    truth = task.draw_truth(batch, 1)
    assert (len(truth.boxes), len(list(truth.areas))) == (0, 3)
    alone = merge_drawings(image, {"boxes": task.parts["boxes"].draw(image, None, records["boxes"])})
    assert (alone.render() == task.parts["boxes"].draw(image, None, records["boxes"]).render()).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conf": 3.0}, "must be from 0 to 1"),
        ({"tiles": 2}, "--tiles has no effect for any of the heads"),
    ],
)
def test_options_are_those_of_the_heads(made, given, message):
    with pytest.raises(NetbuildError, match=message):
        made[1].options(given)
    assert made[1].options({"conf": 0.5}) == {"heads": {"boxes": {"conf": 0.5}, "sem": {}, "depth": {}}}
    with pytest.raises(NetbuildError, match="--nms has no effect for several heads"):
        made[1].make_nms_filter({})


@pytest.mark.parametrize(
    ("sample", "known"),
    [
        (Sample("1.png", boxes=np.zeros((0, 5)), source="1.txt"), [True, False, False]),
        (Sample("1.png", boxes=np.zeros((0, 5))), [True, False, False]),  # background, as without maps
        (Sample("1.png", boxes=np.zeros((0, 5)), extras={"mask": "1.png"}), [False, True, False]),
        (Sample("1.png", boxes=np.ones((1, 5)), source="1.txt", extras={"depth": "1.png"}), [True, False, True]),
        (Sample("1.png", extras={"mask": "1.png", "depth": "2.png"}), [False, True, True]),
    ],
)
def test_a_picture_teaches_the_heads_whose_truth_it_has(made, sample, known):
    stated = {"mask": Extra("classes"), "depth": Extra("values")}
    data = Dataset("data.yaml", Path(), "yolo", "detect", tuple(NAMES), {}, extras=stated)
    task = type(made[1])(made[0].head, NAMES, **made[1].data_options(data))
    assert [task.has_truth_of(name, sample) for name in ("boxes", "sem", "depth")] == known
