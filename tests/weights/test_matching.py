"""Foreign weights in our networks: the right tensor in each place, or none, and the report says which."""

import copy
import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.filled_weights import fill, image
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from netbuild.errors import NetbuildError
from netbuild.grammar.spec import load
from netbuild.graph.resolver import Options, resolve
from netbuild.weights.matching import match
from netbuild.weights.pickles.contents import extract_state_dict
from netbuild.weights.pickles.unpickle import read

FILES = {path.stem: path for path in (Path(__file__).parents[2] / "architectures").rglob("*.yaml")}
COUNTER = "num_batches_tracked"


@cache
def build_cached(stem, **options):
    return resolve(load(FILES[stem]), Options(**options)).build()


def make_torchvision_model(name, **options):
    torchvision = pytest.importorskip("torchvision")
    if name == "googlenet":
        options |= {"init_weights": False}
    return fill(torchvision.models.get_model(name, weights=None, **options), gain=1.0).eval()


# -- torchvision, from file to output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "name", "mapping", "ignored"),
    [
        ("resnet18", "resnet18", "torchvision", 0),
        ("resnet18", "resnet18", "timm", 0),
        ("resnet50", "resnet50", "order", 0),
        ("googlenet", "googlenet", "torchvision", 20),  # two heads of ten tensors
    ],
)
def test_torchvision_weights_give_torchvisions_output(tmp_path, stem, name, mapping, ignored):
    theirs, ours = make_torchvision_model(name), copy.deepcopy(build_cached(stem)).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "a.pth")
    found = match(extract_state_dict(read(tmp_path / "a.pth")), ours.state_dict(), mapping)
    found.require("a.pth")
    assert (len(found.ignored), found.how) == (ignored, "in order")
    assert list(found.tensors) == list(ours.state_dict())
    ours.load_state_dict(found.tensors)
    x = image(3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_another_number_of_classes_leaves_out_the_last_layer_alone():
    theirs, ours = make_torchvision_model("resnet18"), build_cached("resnet18", nc=7)
    found = match(theirs.state_dict(), ours.state_dict(), "torchvision")
    keys = list(ours.state_dict())
    assert list(found.tensors) == keys[:-2]
    assert [(pair.key, pair.shape, pair.source_shape) for pair in found.mismatched] == [
        (keys[-2], (7, 512), (1000, 512))
    ]
    assert (found.missing, found.unexpected) == ((keys[-1],), ("fc.bias",))
    assert (
        found.stopped == f"in order shapes differ: the network has {keys[-2]} [7, 512], the file fc.weight [1000, 512]"
    )
    with pytest.raises(NetbuildError, match=r"a\.pth: the weights do not fit the network: 120 fit, .*fc\.weight"):
        found.require("a.pth")


def test_a_file_in_another_order_gives_nothing_wrong():
    """Files of safetensors are sorted by name."""
    theirs, ours = make_torchvision_model("resnet18").state_dict(), build_cached("resnet18").state_dict()
    found = match(dict(sorted(theirs.items())), ours, "order")
    assert not found.tensors
    assert found.stopped


# -- by keys


class Net(nn.Module):
    def __init__(self, outputs=3):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, outputs))


def make_file_state(prefix="", drop=(), **more):
    """The keys of a network's file after a change of its prefix, each with a value of its own."""
    state = {key: torch.full_like(tensor, i) for i, (key, tensor) in enumerate(Net().state_dict().items())}
    renamed = {prefix + key.removeprefix("model."): value for key, value in state.items() if key not in drop}
    return {**renamed, **more}


KEYS = list(Net().state_dict())


@pytest.mark.parametrize(
    ("prefix", "how"),
    [
        ("model.", "equal keys"),
        ("module.model.", "keys without 'module.'"),
        ("module._orig_mod.model.", "keys without 'module._orig_mod.'"),
        ("model.model.", "keys without 'model.'"),
        ("", "equal keys, prefixed by 'model.'"),
        ("module.", "keys without 'module.', prefixed by 'model.'"),
        ("net._orig_mod.", "keys without 'net._orig_mod.', prefixed by 'model.'"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"n_averaged": torch.tensor(3)}])
def test_prefixes_of_wrappers(prefix, how, more):
    found = match(make_file_state(prefix, **more), Net().state_dict())
    assert found.how == how
    assert found.unexpected == tuple(more)
    assert {key: tensor.flatten()[0].item() for key, tensor in found.tensors.items()} == dict(
        zip(KEYS, range(len(KEYS)), strict=True)
    )
    assert list(found.sources.values()) == list(make_file_state(prefix))


def test_what_does_not_fit_is_reported():
    state = make_file_state("module.model.", drop=("model.1.bias", f"model.1.{COUNTER}"))
    state |= {"module.model.9.weight": torch.ones(1), "module.model.2.weight": torch.ones(5, 4)}
    state["module.model.1.weight"] = torch.ones(4, dtype=torch.int32)
    found = match(state, Net().state_dict())
    assert found.missing == ("model.1.bias",)
    assert found.unexpected == ("module.model.9.weight",)
    assert found.ignored == (f"model.1.{COUNTER}",)
    said = {pair.key: pair.why for pair in found.mismatched}
    assert said == {"model.1.weight": "types differ, torch.float32 and torch.int32", "model.2.weight": "shapes differ"}
    report = json.loads(json.dumps(found.report()))
    assert report["mismatched"][1] == {
        "key": "model.2.weight",
        "source": "module.model.2.weight",
        "shape": [3, 4],
        "source_shape": [5, 4],
        "why": "shapes differ",
    }
    assert report["loaded"] == {key: f"module.{key}" for key in found.tensors}
    with pytest.raises(NetbuildError, match="1 missing in the file") as caught:
        found.require("a.pt")
    for part in ("model.1.bias", "module.model.9.weight", "[3, 4]", "[5, 4]", "4 fit"):
        assert part in str(caught.value)


@pytest.mark.parametrize("mapping", [None, "order"])
@pytest.mark.parametrize("side", ["file", "network"])
def test_counters_of_batch_norms_may_be_absent(mapping, side):
    state, own = make_file_state("model."), Net().state_dict()
    del (state if side == "file" else own)[f"model.1.{COUNTER}"]
    found = match(state, own, mapping)
    found.require("a.pt")
    assert found.ignored == (f"model.1.{COUNTER}",)
    assert list(found.tensors) == [key for key in KEYS if COUNTER not in key]


def test_nothing_in_common():
    found = match({"a": torch.ones(1)}, Net().state_dict())
    assert not found.tensors
    assert (found.how, found.unexpected, len(found.missing)) == ("equal keys", ("a",), len(KEYS) - 1)
    assert match({}, Net().state_dict(), "order").missing == found.missing


def test_mappings_are_known_by_name():
    with pytest.raises(NetbuildError, match="no mapping 'torchvison'") as caught:
        match({}, {}, "torchvison")
    assert "torchvision" in caught.value.hint


# -- in order: one place where the sides differ is never the cause of a wrong tensor elsewhere


def make_blocks(widths):
    """Convolution and batch norm by turns, with repeats that look alike."""
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 2))


def renamed(state):
    """A file with other names, whose tensors know by identity what they are."""
    return {f"layers.{key}": tensor.clone() for key, tensor in state.items()}


changes = st.tuples(st.sampled_from(["drop", "double", "widen", "bias"]), st.floats(0, 0.999), st.integers(1, 14))


@pytest.mark.parametrize("side", ["file", "network"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(widths=st.lists(st.sampled_from([2, 3]), min_size=2, max_size=8), change=changes)
@example(widths=[2] * 6, change=("widen", 0.53125, 1))  # a batch norm's counter
def test_a_change_at_one_place_never_moves_a_tensor(side, widths, change):
    own = make_blocks(widths).state_dict()
    theirs = renamed(own)
    right = {id(tensor): key for key, tensor in zip(own, theirs.values(), strict=True)}
    kind, share, length = change
    changed = list((theirs if side == "file" else own).items())
    at = int(share * len(changed))
    if kind == "drop":
        del changed[at : at + length]
    elif kind == "double":
        copies = [(f"{key}.copy.{key.rpartition('.')[2]}", tensor.clone()) for key, tensor in changed[at : at + length]]
        changed[at + length : at + length] = copies
    elif kind == "widen":
        changed[at] = (changed[at][0], torch.ones(7, *changed[at][1].shape))
    else:
        changed.insert(at, (f"{changed[at][0].rpartition('.')[0]}.bias2", torch.ones(2)))
    theirs, own = (dict(changed), own) if side == "file" else (theirs, dict(changed))
    found = match(theirs, own, "order")
    for key, tensor in found.tensors.items():
        assert right[id(tensor)] == key
    if not found.is_complete:
        assert found.stopped
        with pytest.raises(NetbuildError, match="do not fit"):
            found.require("a.pt")


def test_a_missing_block_among_equal_ones_leaves_out_what_could_be_shifted():
    own = make_blocks([2, 3, 3, 3, 3]).state_dict()
    theirs = {f"x.{key}": tensor for key, tensor in own.items() if not key.startswith(("4.", "5."))}
    found = match(theirs, own, "order")
    assert {key.partition(".")[0] for key in found.tensors} == {"0"}
    assert "left out, since they also fit when shifted" in found.stopped


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ({"a.weight": (2,), "a.bias": (2,), "b.bias": (2,)}, "kinds differ"),
        ({"a.weight": (2,), "b.bias": (2,), "b.weight": (2,)}, "modules have other tensors"),
        ({"a.weight": (2,), "a.bias": (2,), "a.gamma": (2,)}, "modules have other tensors"),
        ({"a.weight": (2,), "a.bias": (2,)}, "the network has m2.weight [2], the file nothing more"),
        ({"a.weight": (2,), "a.bias": (2,), "b.gamma": (2,), "c": (3,)}, "has nothing more, the file c [3]"),
    ],
)
def test_where_the_order_stops(file, why):
    own = {"m1.weight": torch.ones(2), "m1.bias": torch.ones(2), "m2.weight": torch.ones(2)}
    found = match({key: torch.ones(shape) for key, shape in file.items()}, own, "order")
    assert why in found.stopped
