"""The YOLO family's files against measurements of the originals: parameters, costs, state-dict keys, outputs.

Each file is tested at one scale by default, at all measured ones by the slow tests.
"""

import gzip
import json
from pathlib import Path

import pytest
import torch
from helpers.filled_weights import fill, image, samples, text
from helpers.packaged import resolve_packaged

from netbuild.costs.outputs import tensors_of
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import load
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.report.summary import summarize_graph

FILES = packaged_architectures()
TOLERANCE = 1e-5  # relative to the mean absolute value, in addition to float32's rounding error
LOOSE_TOLERANCE = 1e-3


def golden(name):
    return json.loads(gzip.decompress((Path(__file__).parents[1] / "golden" / f"{name}.json.gz").read_bytes()))


TABLES, STATE_KEYS, NUMERIC = map(golden, ("tables", "state_keys", "numeric"))


# Names whose state keys and outputs are compared by default: a network of each kind of head.
QUICK = {
    "yolo11n", "yolo11n-cls", "yolo11n-seg", "yolov8n-pose", "yolo12n-obb", "yolo26n-seg", "yolo26n-depth",
    "yolo26n-sem", "yolov10n", "yolov9t", "yolov5n", "yolov8n-worldv2", "yoloe-26n-seg", "yolov8n-rtdetr",
}  # fmt: skip


def sampled(names):
    """Return parameters for the names, and mark all but one per file as slow."""
    seen = {}
    for name in sorted(names, key=lambda name: (TABLES[name]["totals"]["params"], name)):
        seen.setdefault(TABLES[name]["file"], name)
    quick = set(seen.values()) | {"yolo11n-nc5", "yolo11s", "yolo11m", "yolov8m", "yolo12m"}
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def spec_of(stem):
    return load(FILES[f"{stem}.yaml"])


def resolve_measured(name):
    facts = TABLES[name]
    spec = spec_of(facts["file"])
    scale = facts["scale"] if spec.scales else None
    size = (facts["imgsz"],) * 2
    graph = resolve_packaged(facts["file"], scale)
    if (graph.nc, graph.imgsz) != (facts["nc"], size):
        graph = resolve(spec, Options(scale, None, facts["nc"], imgsz=size))
    return graph, facts


def written_sources(index, written):
    written = written if isinstance(written, list) else [written]
    return tuple(source if source >= 0 or index == 0 else index + source for source in written)


@pytest.mark.parametrize("name", sampled(TABLES))
def test_rows_and_totals_are_those_measured(name):
    graph, facts = resolve_measured(name)
    check_rows(graph, facts)
    check_totals(graph, facts)


def check_rows(graph, facts):
    assert len(graph.layers) == len(facts["rows"])
    for i, (layer, (written, n, module, args, params, shape, flops)) in enumerate(
        zip(graph.layers, facts["rows"], strict=True)
    ):
        sources = layer.row.sources[:-1] if layer.factory.takes_text else layer.row.sources
        assert sources == written_sources(i, written), i
        assert (layer.n, layer.factory.name, layer.params) == (n, module, params), i
        if module != "TorchVision":  # that row says where its weights come from
            assert layer.arguments == args, i
        assert (layer.out_shape, layer.tally.flops("torch")) == (shape, flops), i


def check_totals(graph, facts):
    summary = summarize_graph(graph, flops="all").to_dict()
    found, wanted = summary["totals"], facts["totals"]
    exact = ("params", "gradients", "modules_all", "modules_leaf")
    assert {key: found[key] for key in exact} == {key: wanted[key] for key in exact}
    assert found["flops_all"] == {
        "torch": wanted["flops_torch"],
        "thop": pytest.approx(wanted["flops_thop"], rel=1e-3),
        "thop-stride": pytest.approx(wanted["flops_thop_stride"], rel=1e-3),
    }
    assert summary["flops_unknown"] == {}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STATE_KEYS]
)
def test_state_keys_are_those_measured(name):
    facts = TABLES.get(name)
    spec = spec_of(facts["file"] if facts else name)
    graph = resolve(spec, Options(facts["scale"] if facts and spec.scales else None, imgsz=(64, 64)))
    assert [[f"model.{k}", list(t.shape)] for k, t in graph.skeleton().state_dict().items()] == STATE_KEYS[name]


# -- outputs ----------------------------------------------------------------------------------------------------------

RUNS = [
    pytest.param(
        name,
        run,
        marks=pytest.mark.slow if name not in QUICK or run.startswith("192") else (),
        id=f"{name}-{run}",
    )
    for name, facts in NUMERIC.items()
    for run in facts["runs"]
]


def built(name, height, width):
    facts = TABLES[name]
    spec = spec_of(facts["file"])
    graph = resolve(spec, Options(facts["scale"] if spec.scales else None, imgsz=(height, width)))
    return fill(graph.build(), NUMERIC[name]["gain"]).eval()


def inputs_of(name, network, height, width):
    images = [image(3, height, width)]
    if "text" in network.card.yaml:
        features = text(80)
        with torch.no_grad():
            images.append(network.model[-1].text_prompts(features) if name.startswith("yoloe") else features)
    return images


def flat(value, path=""):
    """Return the tensors of an output by their paths such as ``[0].boxes``."""
    if isinstance(value, torch.Tensor):
        return {path or "out": value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value or ())
    found = {}
    for key, item in pairs:
        step = f".{key}" if isinstance(value, dict) else f"[{key}]"
        found |= flat(item, f"{path}{step}" if path else step.removeprefix("."))
    return found


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_outputs_are_those_measured(name, run):
    size, mode = run.split(":")
    height, width = map(int, size.split("x"))
    network = built(name, height, width)
    head, rows = network.model[-1], []
    head.training = mode == "head_train"
    head.end2end = mode == "eval_end2end"
    arriving = []
    head.register_forward_pre_hook(lambda _, args: arriving.extend(args[0] if isinstance(args[0], list) else []))
    for row in network.model.children():
        row.register_forward_hook(lambda *call: rows.append(call[2]))
    with torch.no_grad():
        found = flat(network(*inputs_of(name, network, height, width)))
    if "rtdetr" in name:
        found = {f"out{path}": tensor for path, tensor in found.items()} | flat(arriving, "head_in")
    for path, fact in NUMERIC[name]["runs"][run].items():
        assert_measured(found[path], fact, path)
    if run == "256x256:eval":
        assert_rows(rows, NUMERIC[name]["rows"])


def assert_measured(tensor, fact, path):
    """Check that a tensor equals the measured one within the network's rounding error in float32, given by err64."""
    assert list(tensor.shape) == fact["shape"], path
    if "samples" not in fact:  # the order of its rows depends on rounding
        return
    mean = fact["abs_sum"] / tensor.numel()
    tolerance = TOLERANCE * mean + 10 * fact.get("err64", 10 * TOLERANCE * mean)
    values, expected = samples(tensor), fact["samples"]
    if "sorted_samples" in fact and path.startswith("out"):  # the order of queries depends on rounding
        values, expected = samples(tensor.flatten().sort().values), fact["sorted_samples"]
        tolerance = max(tolerance, LOOSE_TOLERANCE * mean)
    assert values == pytest.approx(expected, rel=0, abs=tolerance), path
    assert tensor.double().abs().mean().item() == pytest.approx(mean, rel=0, abs=tolerance), path


def measured(fact):
    """Yield the facts of each tensor of a row, [shape, sum, absolute sum, samples]; several tensors are nested."""
    if all(isinstance(side, int) for side in fact[0]):
        yield fact
    else:
        for item in fact:
            yield from measured(item)


def assert_rows(rows, facts):
    """Compare the rows' outputs with a loose tolerance: the first difference shows which row is wrong."""
    for index, fact in facts.items():
        for tensor, (shape, _, absolute, *first) in zip(tensors_of(rows[int(index)]), measured(fact), strict=False):
            mean = absolute / tensor.numel()
            assert list(tensor.shape) == shape, f"row {index}"
            assert tensor.double().abs().mean().item() == pytest.approx(mean, rel=5e-3), f"row {index}"
            assert not first or samples(tensor)[:4] == pytest.approx(first[0], rel=0, abs=0.02 * mean), f"row {index}"


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("yolo26n-pose", "yolo26n-obb", "yoloe-26n")]


@pytest.mark.parametrize("name", ["yolo26n-seg", "yolov10n", *SLOW])
@pytest.mark.parametrize("end2end", [False, True])
def test_a_fused_dual_head_computes_the_chosen_branch(name, end2end):
    network = (
        built(name, 64, 96)
        if name in NUMERIC
        else fill(resolve(spec_of(TABLES[name]["file"]), Options("n", imgsz=(64, 96))).build(), 1.0).eval()
    )
    network.model[-1].end2end = end2end
    inputs = inputs_of(name, network, 64, 96)
    with torch.no_grad():
        before, *_ = tensors_of(network(*inputs))
        after, *_ = tensors_of(network.fuse()(*inputs))
    assert before.shape == after.shape
    wide = before.abs().max()
    close = (before - after).abs() <= 1e-4 * wide
    # Scores that differ only by rounding may change their order.
    assert close.double().mean() > (0.98 if end2end else 0.9999)
