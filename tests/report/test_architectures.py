"""Every file in architectures/ resolves, builds, and computes what its comment and its original say.

New files are tested without further work; measurements of the originals are in golden/.
"""

import copy
import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from helpers.filled_weights import fill, image, samples
from helpers.packaged import resolve_packaged
from torch import nn

from netbuild.author import zoo
from netbuild.costs.outputs import shape_of, tensors_of
from netbuild.grammar.spec import load, read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve

HERE = Path(__file__).parents[1]
FILES = sorted((HERE.parent / "architectures").rglob("*.yaml"))
SCALES = {path: [scale.name for scale in load(path).scales] or [None] for path in FILES}
ALL_SCALES = {"yolo11", "yolov8", "yolo12"}  # of other files the first is taken by default


def scaled(path, scale):
    slow = path.stem not in ALL_SCALES and scale != SCALES[path][0]
    return pytest.param(path, scale, marks=pytest.mark.slow if slow else (), id=f"{path.stem}-{scale}")


SCALED = [scaled(path, scale) for path, scales in SCALES.items() for scale in scales]
SMALL = (64, 128)  # not square, so that height and width cannot be mixed up unnoticed
# Sizes of networks that need another one, or that enlarge the image many times; None: their own inputs.
SMALL_OF = {
    "inception-v3": (96, 128), "unet": (188, 204), "dcgan-generator": (1, 2), "siamfc": None, "ddpm-unet": (32, 48),
    **dict.fromkeys(("vae", "ddpm-digits", "dcgan-digits-generator", "dcgan-digits-discriminator")),
    **dict.fromkeys(("dncnn", "edsr", "edsr-baseline", "srcnn"), (16, 24)),
}  # fmt: skip


def golden(name):
    return json.loads(gzip.decompress((HERE / "golden" / f"{name}.json.gz").read_bytes()))


TORCHVISION = golden("torchvision")
MEASURED = {{"alexnet": "alexnet-torchvision"}.get(name, name.replace("_", "-")): name for name in TORCHVISION}


def find(stem):
    return next(path for path in FILES if path.stem == stem)


def changed(stem, **params):
    """Return the network with other values of its ``params``."""
    return resolve(load(find(stem), [f"{name}={value}" for name, value in params.items()]))


def total(graph, convention="torch"):
    return sum(layer.tally.flops(convention) for layer in graph.layers)


def params(module):
    return sum(p.numel() for p in module.parameters())


def named(graph, name):
    return next(layer for layer in graph.layers if layer.row.name == name)


def row_outputs(network, *inputs):
    """Run the network and return the outputs of its rows in their order, and its own output."""
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
    graph = resolve_packaged(path.stem, scale)
    text = path.read_text()
    count = sum(layer.params for layer in graph.layers)
    assert text.startswith("# ")
    assert f"{count:,}" in text, f"the file's comment lacks its count, {count:,}"
    if scale is None and (macs := re.search(r"([\d,]+) multiply-adds", text)):
        assert int(macs[1].replace(",", "")) == total(graph) // 2
    assert not graph.spec.warnings
    assert not {name for layer in graph.layers for name in layer.tally.unknown}


# Output shapes without the batch of networks whose task has no head.
OUTPUTS = {
    "unet": [2, 388, 388], "unet-same": [2, 256, 256], "srcnn": [1, 192, 192], "espcn": [1, 192, 192],
    "edsr": [3, 96, 96], "edsr-baseline": [3, 96, 96], "dncnn": [1, 64, 64], "conv-autoencoder": [1, 28, 28],
    "dcgan-generator": [3, 64, 64], "dcgan-discriminator": [1], "ddpm-unet": [3, 32, 32], "siamfc": [1, 17, 17],
    "vae": [1, 28, 28], "ddpm-digits": [1, 28, 28],
    "dcgan-digits-generator": [1, 28, 28], "dcgan-digits-discriminator": [1],
}  # fmt: skip


@pytest.mark.parametrize(("path", "scale"), SCALED)
def test_output_is_what_the_task_needs(path, scale):
    graph = resolve_packaged(path.stem, scale)
    height, width = graph.imgsz
    kpts = 1
    for count in graph.spec.settings.get("kpt_shape", ()):
        kpts *= count
    boxes = {"detect": 0, "segment": 32, "pose": kpts, "obb": 1}  # what follows box and classes
    for row, task in [(head.row, head.task) for head in graph.heads] or [(-1, graph.task)]:
        layer = graph.layers[row]
        strides = [int(stride) for stride in layer.strides or ()]
        cells = sum(height // stride * (width // stride) for stride in strides)
        if path.stem in OUTPUTS:
            wanted = [1, *OUTPUTS[path.stem]]
        elif task in boxes:
            # A decoder returns its queries, every other head all cells.
            wanted = [1, 4 + graph.nc + boxes[task], cells] if strides else [1, 300, 6]
        else:
            quarter, eighth = [height // 4, width // 4], [height // 8, width // 8]
            wanted = {"classify": [1, graph.nc], "depth": [1, 1, *quarter], "semantic": [1, graph.nc, *eighth]}[task]
        assert next(leaves(layer.out_shape)) == wanted


def leaves(shape):
    """Yield the shapes of all tensors of an output in their order."""
    if isinstance(shape, dict):
        shape = list(shape.values())
    if shape and all(isinstance(side, int) for side in shape):
        yield shape
    else:
        for item in shape or ():
            yield from leaves(item)


LARGE = 2_750_000  # parameters: allocating and initialising them takes most of a second


PARAMS = {entry.name: next(iter(entry.sizes.values()))[0] for entry in zoo.load_entries()}  # at the first scale


def is_large(path):
    return PARAMS.get(path.stem, 0) > LARGE


SIBLINGS = {"densenet161", "densenet169", "densenet201"}  # of a smaller one that differs by numbers alone
BUILT = [
    pytest.param(path, marks=pytest.mark.slow if is_large(path) or path.stem in SIBLINGS else (), id=path.stem)
    for path in FILES
]


@pytest.fixture(scope="module", params=BUILT)
def built(request):
    """Each file's graph at its first scale and a small image size, and the network with weights."""
    graph = resolve(load(request.param), Options(imgsz=SMALL_OF.get(request.param.stem, SMALL)))
    return graph, fill(graph.build(), gain=1.0).eval()


def inputs_of(graph):
    """Return an image, features or a number for each input; the number of a class is 1."""
    values = [image(*[1] * (3 - len(shape)), *shape).view(1, *shape) for _, shape in graph.inputs]
    names = [name for name, _ in graph.inputs]
    return [torch.ones(1) if name == "label" else x for name, x in zip(names, values, strict=True)]


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
    """Return the tensors of a network's prediction, without the raw outputs that a head adds for its loss."""
    return list(tensors_of(value[0] if isinstance(value, tuple) else value))


def close(a, b, graph):
    if graph.layers[-1].factory.name == "RTDETRDecoder":  # the choice and order of queries depends on rounding
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
    """Check that a tensor equals the measured one within the network's rounding error in float32, given by err64."""
    tolerance = 1e-5 * fact["mean_abs"] + 10 * fact.get("err64", 1e-5 * fact["mean_abs"])
    assert list(tensor.shape) == fact["shape"]
    assert samples(tensor) == pytest.approx(fact["samples"], rel=0, abs=tolerance)
    assert tensor.double().mean().item() == pytest.approx(fact["sum"] / tensor.numel(), rel=0, abs=tolerance)
    assert tensor.double().abs().mean().item() == pytest.approx(fact["mean_abs"], rel=0, abs=tolerance)


# -- torchvision's networks -------------------------------------------------------------------------------------------


def some(stems, quick):
    """Return parameters for the stems, and mark all but ``quick`` ones as slow."""
    return [pytest.param(stem, marks=() if stem in quick else pytest.mark.slow) for stem in stems]


@pytest.mark.parametrize("stem", MEASURED)
def test_torchvision_size_and_cost(stem):
    graph, facts = resolve_packaged(stem), TORCHVISION[MEASURED[stem]]
    assert (list(graph.imgsz), params(graph.skeleton())) == ([facts["imgsz"]] * 2, facts["params"])
    assert total(graph) == facts["flops_torch"]


@pytest.mark.parametrize("stem", MEASURED)
def test_torchvision_tensors_in_order(stem):
    shapes = [list(tensor.shape) for tensor in resolve_packaged(stem).skeleton().state_dict().values()]
    assert shapes == [shape for _, shape in TORCHVISION[MEASURED[stem]]["state_dict"]]


def torchvision_key(graph, key):
    """Convert a key of ours to torchvision's: the row's name, then the block of a stage without the row's module 1."""
    index, _, rest = key.partition(".")
    rest = re.sub(r"^1\.(\d+)\.", lambda match: f"{int(match[1]) + 1}.", rest)
    return f"{graph.layers[int(index)].row.name}.{rest}"


@pytest.mark.parametrize("stem", ["googlenet", *(stem for stem in MEASURED if re.match("(wide-)?res?net", stem))])
def test_torchvision_names_follow_from_rows(stem):
    graph = resolve_packaged(stem)
    keys = [torchvision_key(graph, key) for key in graph.skeleton().state_dict()]
    assert keys == [key for key, _ in TORCHVISION[MEASURED[stem]]["state_dict"]]


QUICK = {
    "alexnet-torchvision", "googlenet", "resnet18", "resnet50", "squeezenet1-1", "densenet121", "mobilenet-v2",
    "mobilenet-v3-small", "efficientnet-b0", "shufflenet-v2-x1-0", "regnet-y-400mf",
}  # fmt: skip


@pytest.mark.parametrize("stem", some(MEASURED, QUICK))
def test_torchvision_output(stem):
    facts, network = TORCHVISION[MEASURED[stem]], resolve_packaged(stem).build()
    original_keys = dict(zip(network.state_dict(), (key for key, _ in facts["state_dict"]), strict=True))
    fill(network, facts["gain"], original_keys.__getitem__).eval()
    with torch.no_grad():
        assert_measured(network(image(3, 224, 224)), facts["output"])


@pytest.mark.parametrize("stem", some(MEASURED, {"mobilenet-v3-small"}))
def test_torchvision_itself_agrees(stem):
    """With torchvision's random weights, copied in their order, the outputs for two images are equal."""
    models = pytest.importorskip("torchvision.models")
    options = {"aux_logits": False, "init_weights": False} if stem in ("googlenet", "inception-v3") else {}
    original = getattr(models, MEASURED[stem])(weights=None, **options).eval()
    graph = resolve_packaged(stem)
    network = graph.build().eval()
    network.load_state_dict(dict(zip(network.state_dict(), original.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, *graph.imgsz, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = network(images), original(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


# -- as published -----------------------------------------------------------------------------------------------------

# By the row's name: parameters, and the output's shape if the published table has it.
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
    graph = resolve_packaged(stem)
    assert {name: (named(graph, name).params, named(graph, name).out_shape[1:]) for name in rows} == rows


@pytest.mark.parametrize(
    ("stem", "count"),
    [("lenet5", 60_000), ("lenet5-modern", 61_706), ("alexnet", 62_378_344), ("googlenet-2014", 6_998_552)],
)
def test_total_is_that_published(stem, count):
    assert params(resolve_packaged(stem).skeleton()) == count


def conv(before, after, side):
    return side**2 * before * after + after


def double(before, after):
    return conv(before, after, 3) + conv(after, after, 3)


def up_and_double(width):
    """Count the parameters of a U-Net decoder's level: a transposed 2x2 convolution, then two 3x3 convolutions."""
    return conv(2 * width, width, 2) + double(2 * width, width)


# Computed from the sizes in the papers: weights and biases of convolutions, two parameters per channel of a norm.
UNET = sum(double(a, b) for a, b in ((64, 128), (128, 256), (256, 512), (512, 1024)))
UNET += sum(map(up_and_double, (512, 256, 128, 64))) + conv(64, 2, 1)
DERIVED = {
    "unet": double(1, 64) + UNET,
    "unet-same": double(3, 64) + UNET,
    "srcnn": 8032 + 64 + 32 + 1,  # the paper's 8,032 weights, and the biases
    "espcn": conv(1, 64, 5) + conv(64, 32, 3) + conv(32, 9, 3),
    "dncnn": conv(1, 64, 3) + 15 * (9 * 64 * 64 + 2 * 64) + conv(64, 1, 3),
    # 500 hidden numbers on both sides of a code of two.
    "vae": 784 * 500 + 500 + 500 * 4 + 4 + 2 * 500 + 500 + 500 * 784 + 784,
    # Grouped convolutions see half of the channels; the last one is a scale and a bias.
    "siamfc": conv(3, 96, 11) + conv(48, 256, 5) + conv(256, 384, 3) + conv(192, 384, 3) + conv(192, 256, 3)
    + 2 * (96 + 256 + 384 + 384) + 2,
    # Encoder and decoder have 1 - 16 - 32 - 32 channels; the code's kernel is 7x7, the decoder's are 4x4.
    "conv-autoencoder": conv(1, 16, 3) + conv(16, 32, 3) + 2 * conv(32, 32, 7) + conv(32, 16, 4) + conv(16, 1, 4),
}  # fmt: skip


@pytest.mark.parametrize("stem", DERIVED)
def test_total_follows_from_the_papers_sizes(stem):
    assert params(resolve_packaged(stem).skeleton()) == DERIVED[stem]


@pytest.mark.parametrize(
    ("stem", "values", "count"),
    [
        # As published with the authors' weights, for the magnifications 2, 3, 4.
        ("edsr-baseline", {}, 1_369_859),
        ("edsr-baseline", {"zoom": 3}, 1_554_499),
        ("edsr-baseline", {"steps": 2}, 1_517_571),
        ("edsr", {}, 40_729_603),
        ("edsr", {"zoom": 3}, 43_680_003),
        ("edsr", {"steps": 2}, 43_089_923),
        # At the width of torch's example of a DCGAN, which is half of the paper's.
        ("dcgan-generator", {"w": 64}, 3_576_704),
        ("dcgan-discriminator", {"w": 64}, 2_765_568),
        # "35.7 million parameters" for CIFAR-10.
        ("ddpm-unet", {"w": 128}, 35_746_307),
    ],
)
def test_other_sizes_have_the_published_totals(stem, values, count):
    assert params(changed(stem, **values).skeleton()) == count


@pytest.mark.parametrize("stem", some(OUTPUTS, set(OUTPUTS) - {"unet", "unet-same", "edsr"}))
def test_gradients_reach_every_parameter(stem):
    torch.manual_seed(0)
    graph = resolve(load(find(stem)), Options(imgsz=SMALL_OF.get(stem, SMALL)))
    network = graph.build().train()
    sum(out.square().mean() for out in tensors_of(network(*inputs_of(graph)))).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_siamfc_applies_the_same_weights_to_both_images():
    network = fill(resolve_packaged("siamfc").build(), 1.0).eval()
    by_name = {layer.row.name: row for layer, row in zip(resolve_packaged("siamfc").layers, network.model)}
    features = nn.Sequential(*network.model[2:9])
    exemplar, search = inputs_of(resolve_packaged("siamfc"))
    with torch.no_grad():
        for_exemplar, for_search = features(exemplar), features(search)
        correlation = nn.functional.conv2d(for_search, for_exemplar)
        assert (for_exemplar.shape[1:], for_search.shape[1:]) == ((256, 6, 6), (256, 22, 22))
        torch.testing.assert_close(network(exemplar, search), by_name["adjust"](correlation))


def test_ddpm_depends_on_the_time_step():
    network = fill(resolve_packaged("ddpm-unet").build(), 1.0).eval()
    images = image(3, 32, 32).expand(2, -1, -1, -1)
    with torch.no_grad():
        early, late = network(images, torch.tensor([10.0, 900.0]))
        alone = network(images[:1], torch.tensor([900.0]))
    assert (early - late).abs().max() > 1e-2 * late.abs().max()
    torch.testing.assert_close(alone[0], late, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stem", ["dncnn", "dcgan-generator", "siamfc"])
def test_norms_of_other_tasks_keep_torchs_constants(stem):
    norms = [m for m in resolve_packaged(stem).skeleton().modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_dncnn_subtracts_the_predicted_noise():
    outputs, clean = row_outputs(fill(resolve_packaged("dncnn").build()).eval(), image(1, 64, 64))
    noise = outputs[resolve_packaged("dncnn").layers.index(named(resolve_packaged("dncnn"), "noise"))]
    torch.testing.assert_close(clean, image(1, 64, 64) - noise)


def test_lenet5_counts_only_connections_of_the_papers_table():
    positions = {"C1": 28 * 28, "C3": 10 * 10, "C5": 1}
    weights = {"C1": 6 * 25, "C3": 60 * 25, "C5": 120 * 16 * 25}
    layers = {name: named(resolve_packaged("lenet5"), name).tally.macs for name in positions}
    assert layers == {name: positions[name] * weights[name] for name in positions}


@pytest.mark.parametrize(("stem", "name"), [("alexnet", "N1"), ("alexnet", "N2"), ("googlenet-2014", "norm1")])
def test_response_norm_is_the_papers_formula(stem, name):
    x = 20 * torch.rand(1, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    squares = torch.stack([x[:, max(0, i - 2) : i + 3].square().sum(1) for i in range(8)], 1)
    torch.testing.assert_close(named(resolve_packaged(stem), name).make()(x), x / (2 + 1e-4 * squares) ** 0.75)


# -- receptive fields -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "row", "size"),
    [
        ("alexnet-torchvision", "C7", 163),
        ("alexnet-torchvision", "S8", 195),
        ("resnet50", "layer4", 427),
        ("vgg16", "conv5", 196),
        ("vgg16", "pool5", 212),
        ("dncnn", "clean", 35),
        ("unet", "bottom", 140),
    ],
)
def test_receptive_field(stem, row, size):
    assert named(resolve_packaged(stem), row).field.size == (size, size)


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "billions"), [("resnet50", 3.86), ("resnet101", 7.57), ("resnet152", 11.28)])
def test_resnet_with_strides_as_in_the_paper(stem, billions):
    path = find(stem)
    text = path.read_text()
    graph = resolve(read_spec(text.replace("stride_at: 2", "stride_at: 1"), path))
    assert params(graph.skeleton()) == params(resolve_packaged(stem).skeleton())
    assert total(graph) / 2e9 == pytest.approx(billions, abs=0.01)
    if stem == "resnet50":
        assert named(graph, "layer4").field.size == (483, 483)
