"""Every file in architectures/ resolves, builds and computes as it says, and as what it is named after does.

A new file is tested by being there; measured facts are in golden/.
"""

import copy
import gzip
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from fill import fill, image, samples
from torch import nn

from netbuild.graph import resolve
from netbuild.prepare import Options
from netbuild.shapes import shape_of, tensors_of
from netbuild.spec import load, read

HERE = Path(__file__).parent
FILES = sorted((HERE.parent / "architectures").rglob("*.yaml"))
SCALES = {path: [scale.name for scale in load(path).scales] or [None] for path in FILES}
ALL_SCALES = {"yolo11", "yolov8", "yolo12"}  # of other files the first is taken by default


def scaled(path, scale):
    slow = path.stem not in ALL_SCALES and scale != SCALES[path][0]
    return pytest.param(path, scale, marks=pytest.mark.slow if slow else (), id=f"{path.stem}-{scale}")


SCALED = [scaled(path, scale) for path, scales in SCALES.items() for scale in scales]
SMALL = (64, 128)  # not square, so that height and width cannot be mixed up unnoticed


def golden(name):
    return json.loads(gzip.decompress((HERE / "golden" / f"{name}.json.gz").read_bytes()))


TORCHVISION = golden("torchvision")
MEASURED = {"alexnet-torchvision": "alexnet", "googlenet": "googlenet"} | {
    f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)
}


def find(stem):
    return next(path for path in FILES if path.stem == stem)


@cache
def graph_of(stem, scale=None, **options):
    return resolve(load(find(stem)), Options(scale=scale, **options))


def total(graph, convention="torch"):
    return sum(layer.tally.flops(convention) for layer in graph.layers)


def params(module):
    return sum(p.numel() for p in module.parameters())


def named(graph, name):
    return next(layer for layer in graph.layers if layer.row.name == name)


def row_outputs(network, *inputs):
    """Each row's output in the order of rows, and the network's."""
    outputs = []
    hooks = [row.register_forward_hook(lambda *call: outputs.append(call[2])) for row in network.model.children()]
    with torch.no_grad():
        result = network(*inputs)
    for hook in hooks:
        hook.remove()
    return outputs, result


# -- every file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "scale"), SCALED)
def test_file_resolves_and_states_its_parameters(path, scale):
    graph = graph_of(path.stem, scale)
    text = path.read_text()
    count = sum(layer.params for layer in graph.layers)
    assert text.startswith("# ")
    assert f"{count:,}" in text, f"the file's comment lacks its count, {count:,}"
    assert not graph.spec.warnings
    assert not {name for layer in graph.layers for name in layer.tally.unknown}


@pytest.mark.parametrize(("path", "scale"), SCALED)
def test_output_is_what_the_task_needs(path, scale):
    graph = graph_of(path.stem, scale)
    height, width = graph.imgsz
    strides = [int(stride) for stride in graph.layers[-1].strides or ()]
    cells = sum(height // stride * (width // stride) for stride in strides)
    kpts = 1
    for count in graph.spec.settings.get("kpt_shape", ()):
        kpts *= count
    boxes = {"detect": 0, "segment": 32, "pose": kpts, "obb": 1}  # what follows box and classes
    shapes = list(leaves(graph.layers[-1].out_shape))
    if graph.task in boxes:
        # A decoder of queries gives them; every other head gives all cells.
        wanted = [1, 4 + graph.nc + boxes[graph.task], cells] if strides else [1, 300, 6]
    else:
        quarter, eighth = [height // 4, width // 4], [height // 8, width // 8]
        wanted = {"classify": [1, graph.nc], "depth": [1, 1, *quarter], "semantic": [1, graph.nc, *eighth]}[graph.task]
    assert shapes[0] == wanted


def leaves(shape):
    """The shapes of an output with several, in order."""
    if isinstance(shape, dict):
        shape = list(shape.values())
    if shape and all(isinstance(side, int) for side in shape):
        yield shape
    else:
        for item in shape or ():
            yield from leaves(item)


LARGE = 30_000_000  # parameters: allocating and initialising them takes most of a second


def is_large(path):
    return sum(layer.params for layer in graph_of(path.stem, SCALES[path][0]).layers) > LARGE


BUILT = [pytest.param(path, marks=pytest.mark.slow if is_large(path) else (), id=path.stem) for path in FILES]


@pytest.fixture(scope="module", params=BUILT)
def built(request):
    """A small image's graph of each file at its first scale, and the network with weights."""
    graph = resolve(load(request.param), Options(imgsz=SMALL))
    return graph, fill(graph.build(), gain=1.0).eval()


def inputs_of(graph):
    """An image, and features for the inputs that are none."""
    return [image(*shape) if len(shape) == 3 else image(1, *shape)[0] for _, shape in graph.inputs]


def test_shapes_on_meta_are_those_of_a_real_run(built):
    graph, network = built
    outputs, _ = row_outputs(network, *inputs_of(graph))
    assert [shape_of(out) for out in outputs] == [layer.out_shape for layer in graph.layers]


def test_built_network_has_the_resolved_state(built):
    graph, network = built
    assert [params(row) for row in network.model.children()] == [layer.params for layer in graph.layers]
    resolved = {f"model.{key}": tensor.shape for key, tensor in graph.skeleton().state_dict().items()}
    assert list(resolved.items()) == [(key, tensor.shape) for key, tensor in network.state_dict().items()]


def prediction(value):
    """The tensors of a network's answer: of a head that also gives what its loss needs, the answer alone."""
    return list(tensors_of(value[0] if isinstance(value, tuple) else value))


def close(a, b, graph):
    if graph.layers[-1].factory.name == "RTDETRDecoder":  # which queries are taken, and in what order, rounding decides
        a, b = a.sort(dim=1).values, b.sort(dim=1).values
        return (a - b).abs().mean() <= 1e-2 * b.abs().mean()
    return (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_fused_equals_unfused(built):
    graph, network = built
    fused = copy.deepcopy(network).fuse()
    with torch.no_grad():
        before, after = network(*inputs_of(graph)), fused(*inputs_of(graph))
    for a, b in zip(prediction(before), prediction(after), strict=True):
        assert close(a, b, graph)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms or params(fused) < params(network), "nothing was merged"


def test_batch_of_two_is_two_images(built):
    graph, network = built
    ones = inputs_of(graph)
    others = [1 - one for one in ones]
    with torch.no_grad():
        both = network(*(torch.cat(pair) for pair in zip(ones, others, strict=True)))
        second = network(*others)
    for a, b in zip(prediction(both), prediction(second), strict=True):
        assert close(a[1:], b, graph)


def assert_measured(tensor, fact):
    """The tensor is the measured one up to float32's rounding in this network, which err64 tells."""
    tolerance = 1e-5 * fact["mean_abs"] + 10 * fact.get("err64", 1e-5 * fact["mean_abs"])
    assert list(tensor.shape) == fact["shape"]
    assert samples(tensor) == pytest.approx(fact["samples"], rel=0, abs=tolerance)
    assert tensor.double().mean().item() == pytest.approx(fact["sum"] / tensor.numel(), rel=0, abs=tolerance)
    assert tensor.double().abs().mean().item() == pytest.approx(fact["mean_abs"], rel=0, abs=tolerance)


# -- torchvision's networks -------------------------------------------------------------------------------------------

MEASURED_NET = pytest.mark.parametrize(("stem", "name"), MEASURED.items(), ids=MEASURED)


@MEASURED_NET
def test_torchvision_size_and_cost(stem, name):
    graph, facts = graph_of(stem), TORCHVISION[name]
    assert (params(graph.skeleton()), total(graph)) == (facts["params"], facts["flops_torch"])


@MEASURED_NET
def test_torchvision_tensors_in_order(stem, name):
    shapes = [list(tensor.shape) for tensor in graph_of(stem).skeleton().state_dict().values()]
    assert shapes == [shape for _, shape in TORCHVISION[name]["state_dict"]]


def torchvision_key(graph, key):
    """Our key in torchvision's words: the row's name, and blocks 1, 2, ... of a stage without their common number 1."""
    index, _, rest = key.partition(".")
    rest = re.sub(r"^1\.(\d+)\.", lambda match: f"{int(match[1]) + 1}.", rest)
    return f"{graph.layers[int(index)].row.name}.{rest}"


@pytest.mark.parametrize("stem", [stem for stem in MEASURED if stem != "alexnet-torchvision"])
def test_torchvision_names_follow_from_rows(stem):
    graph = graph_of(stem)
    keys = [torchvision_key(graph, key) for key in graph.skeleton().state_dict()]
    assert keys == [key for key, _ in TORCHVISION[stem]["state_dict"]]


@pytest.mark.parametrize("stem", ["alexnet-torchvision", "googlenet", "resnet18", "resnet50"])
def test_torchvision_output(stem):
    facts, network = TORCHVISION[MEASURED[stem]], graph_of(stem).build()
    theirs = dict(zip(network.state_dict(), (key for key, _ in facts["state_dict"]), strict=True))
    fill(network, facts["gain"], theirs.__getitem__).eval()
    with torch.no_grad():
        assert_measured(network(image(3, 224, 224)), facts["output"])


# -- as published -----------------------------------------------------------------------------------------------------

# name: parameters, and the shape where a lecture's table has the row
LENET = {
    "C1": (156, [6, 28, 28]),
    "S2": (12, [6, 14, 14]),
    "C3": (1516, [16, 10, 10]),
    "S4": (32, [16, 5, 5]),
    "C5": (48_120, [120, 1, 1]),
    "F6": (10_164, [84]),
    "Out": (0, [10]),
}
LENET_MODERN = {
    "C1": (156, [6, 28, 28]),
    "S2": (0, [6, 14, 14]),
    "C3": (2416, [16, 10, 10]),
    "S4": (0, [16, 5, 5]),
    "C5": (48_120, [120]),
    "F6": (10_164, [84]),
    "Out": (850, [10]),
}
ALEXNET = {
    "C1": (34_944, [96, 55, 55]),
    "S2": (0, [96, 27, 27]),
    "C3": (614_656, [256, 27, 27]),
    "S4": (0, [256, 13, 13]),
    "C5": (885_120, [384, 13, 13]),
    "C6": (1_327_488, [384, 13, 13]),
    "C7": (884_992, [256, 13, 13]),
    "S8": (0, [256, 6, 6]),
    "F9": (37_752_832, [4096]),
    "F10": (16_781_312, [4096]),
    "Out": (0, [1000]),
}


@pytest.mark.parametrize(("stem", "rows"), [("lenet5", LENET), ("lenet5-modern", LENET_MODERN), ("alexnet", ALEXNET)])
def test_rows_are_those_published(stem, rows):
    graph = graph_of(stem)
    assert {name: (named(graph, name).params, named(graph, name).out_shape[1:]) for name in rows} == rows


@pytest.mark.parametrize(
    ("stem", "count"),
    [("lenet5", 60_000), ("lenet5-modern", 61_706), ("alexnet", 62_378_344), ("googlenet-2014", 6_998_552)],
)
def test_total_is_that_published(stem, count):
    assert params(graph_of(stem).skeleton()) == count


def test_lenet5_multiplies_only_what_its_table_connects():
    positions = {"C1": 28 * 28, "C3": 10 * 10, "C5": 1}
    weights = {"C1": 6 * 25, "C3": 60 * 25, "C5": 120 * 16 * 25}
    layers = {name: named(graph_of("lenet5"), name).tally.macs for name in positions}
    assert layers == {name: positions[name] * weights[name] for name in positions}


@pytest.mark.parametrize(("stem", "name"), [("alexnet", "N1"), ("alexnet", "N2"), ("googlenet-2014", "norm1")])
def test_response_norm_is_the_papers_formula(stem, name):
    x = 20 * torch.rand(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    squares = torch.stack([x[:, max(0, i - 2) : i + 3].square().sum(1) for i in range(8)], 1)
    torch.testing.assert_close(named(graph_of(stem), name).make()(x), x / (2 + 1e-4 * squares) ** 0.75)


# -- receptive fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "row", "size"),
    [("alexnet-torchvision", "C7", 163), ("alexnet-torchvision", "S8", 195), ("resnet50", "layer4", 427)],
)
def test_receptive_field(stem, row, size):
    assert named(graph_of(stem), row).field.size == (size, size)


@pytest.mark.parametrize(("stem", "billions"), [("resnet50", 3.86), ("resnet101", 7.57), ("resnet152", 11.28)])
def test_resnet_with_the_stride_where_the_paper_has_it(stem, billions):
    path = find(stem)
    text = path.read_text()
    graph = resolve(read(text.replace("stride_at: 2", "stride_at: 1"), path))
    assert params(graph.skeleton()) == params(graph_of(stem).skeleton())
    assert total(graph) / 2e9 == pytest.approx(billions, abs=0.01)
    if stem == "resnet50":
        assert named(graph, "layer4").field.size == (483, 483)
