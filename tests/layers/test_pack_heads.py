"""Heads of public files against the figures that their own code printed, and what a network with each can do."""

import copy
import gzip
import hashlib
import json
from pathlib import Path

import pytest
import torch
from helpers.filled_weights import fill, samples

from netbuild import NetbuildError, build, layers
from netbuild.export import export
from netbuild.layers.fuse import fuse
from netbuild.layers.heads.base import Head
from netbuild.modules.registry import MODULES
from netbuild.settings import load
from netbuild.tasks import find
from netbuild.training.overfitting import is_overfit
from netbuild.training.run import overfit_batch

GOLDEN = json.loads(gzip.decompress((Path(__file__).parents[1] / "golden/pack.json.gz").read_bytes()))
YOLOV5 = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
YOLOV7 = [[12, 16, 19, 36, 40, 28], [36, 75, 76, 55, 72, 146], [142, 110, 192, 243, 459, 401]]
# Measured entry -> the class, its arguments, and the number of sources for one level.
HEADS = {
    "DDetect": ("DDetect", [5], 1),
    "DualDetect": ("DualDetect", [5], 2),
    "DualDDetect": ("DualDDetect", [5], 2),
    "TripleDetect": ("TripleDetect", [5], 3),
    "TripleDDetect": ("TripleDDetect", [5], 3),
    "Segment_v9": ("v9Segment", [5, 16, 32], 1),
    "DualDSegment": ("DualDSegment", [5, 16, 32], 2),
    "Panoptic": ("Panoptic", [5, 7, 16, 32], 1),
    "IAuxDetect": ("IAuxDetect", [5, YOLOV7], 2),
    "ISegment": ("ISegment", [5, YOLOV5, 16, 32], 1),
    "Segment_anchor": ("AnchorSegment", [5, YOLOV5, 16, 32], 1),
    "Decoupled_Detect": ("Decoupled_Detect", [5, YOLOV5], 1),
    "ASFF_Detect": ("ASFF_Detect", [5, YOLOV5], 1),
    "DetectX": ("DetectX", [5, 1], 2),
    "YOLOHead": ("YOLOHead", [5, YOLOV5], 1),
}


def test_every_measured_head_is_compared():
    classes = {name: MODULES.find(entry["constructor"].partition("(")[0]) for name, entry in GOLDEN.items()}
    assert {name for name, cls in classes.items() if cls and issubclass(cls, Head)} == set(HEADS)


def make(name: str, shapes: list) -> torch.nn.Module:
    """Make a head with the strides of a pyramid from 8 to 32; further sources are those of prototypes."""
    cls, arguments, per_level = HEADS[name]
    strides = [8.0, 16.0, 32.0] * per_level + [4.0] * 2
    if name == "DetectX":
        strides = [8.0, 8.0, 16.0, 16.0, 32.0, 32.0]
    return getattr(layers, cls)(*arguments, ch=[shape[1] for shape in shapes], stride=strides[: len(shapes)])


def predict(head: torch.nn.Module, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of a head that netbuild has too, by their place in those of the public head."""
    with torch.no_grad():
        outputs, raw = head.eval()(inputs)
    if isinstance(head, layers.AnchorSegment):  # netbuild multiplies by the objectness at once
        return {"out[0]": head.decode(raw), "out[1]": outputs[1]} | {f"out[2][{i}]": x for i, x in enumerate(raw)}
    if isinstance(outputs, tuple):
        return {"out[0]": outputs[0], "out[1][1]": raw["mask_coefficient"], "out[1][2]": outputs[1]} | (
            {"out[1][3]": raw["semantic"]} if "semantic" in raw else {}
        )
    last = {"DualDetect": "out[0][1]", "DualDDetect": "out[0][1]", "TripleDetect": "out[0][2]"}
    return {last.get(type(head).__name__, "out[0]"): outputs}


@pytest.mark.parametrize("name", HEADS)
def test_parameters_keys_and_outputs_are_those_of_the_public_head(name):
    wanted = GOLDEN[name]
    for run in wanted["runs"]:
        head = make(name, run["inputs"])
        state = head.state_dict()
        text = "\n".join(f"{key}:{list(tensor.shape)}" for key, tensor in state.items())
        assert sum(p.numel() for p in head.parameters()) == wanted["params"]
        assert hashlib.sha256(text.encode()).hexdigest() == wanted["state_sha256"], text
        kept = {k: v.clone() for k, v in state.items() if "dfl" in k or k.rpartition(".")[2] in wanted["keep"]}
        fill(head.eval(), wanted["gain"]).load_state_dict(kept, strict=False)
        inputs = [torch.rand(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(run["inputs"])]
        for key, tensor in predict(head, inputs).items():
            figures = run["outputs"][key]
            tolerance = 1e-5 * figures["mean_abs"] + 10 * (figures["err64"] or 1e-5 * figures["mean_abs"])
            assert list(tensor.shape) == figures["shape"], key
            assert samples(tensor) == pytest.approx(figures["samples"], abs=tolerance), key


BACKBONE = """
nc: 3
layers:
  - [-1, 1, Conv, [8, 3, 2], finest]
  - [-1, 1, Conv, [16, 3, 2], fine]
  - [-1, 1, Conv, [24, 3, 2], middle]
  - [-1, 1, Conv, [32, 3, 2], coarse]
"""
TWO, THREE = "fine, middle", "fine, middle, coarse"
PAIRS = "[[8,8, 12,12], [16,24, 30,30]]"
# Head -> its sources and arguments in a row.
ROWS = {
    "v9Detect": (TWO, "nc"),
    "v9Segment": (TWO, "nc, 8, 16"),
    "DSegment": (f"{TWO}, finest", "nc, 8"),
    "DualDSegment": (f"{TWO}, {TWO}, finest, finest", "nc, 8"),
    "Panoptic": (TWO, "nc, 4, 8, 16"),
    "AnchorSegment": (TWO, f"nc, {PAIRS}, 8, 16"),
    "ISegment": (TWO, f"nc, {PAIRS}, 8, 16"),
    "Decoupled_Detect": (TWO, f"nc, {PAIRS}"),
    "YOLOHead": (TWO, f"nc, {PAIRS}"),
    "DarknetDetect": (TWO, f"nc, {PAIRS}, [1.05, 1.2]"),
    "ASFF_Detect": (THREE, "nc, [[8,8, 12,12], [16,16, 24,24], [32,32, 48,48]]"),
    "DetectX": ("fine, fine, middle, middle", "nc, 1"),
}
UNTRAINED = ("Panoptic", "AnchorSegment", "ISegment", "DetectX", "DarknetDetect")


def write_network(name: str, folder: Path) -> Path:
    sources, arguments = ROWS[name]
    file = folder / "net.yaml"
    file.write_text(f"{BACKBONE}  - [[{sources}], 1, {name}, [{arguments}]]\n")
    return file


def flatten(output) -> list[torch.Tensor]:
    return [output] if isinstance(output, torch.Tensor) else [t for item in output for t in flatten(item)]


@pytest.mark.parametrize("name", ROWS)
def test_a_network_predicts_is_fused_and_says_whether_it_can_be_trained(name, tmp_path):
    network = build(write_network(name, tmp_path)).eval()
    task = find(network.head.task)(network.head)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = network(images)
        found = task.decode(outputs[0], conf=0.0)
        fused = fuse(copy.deepcopy(network))(images)
    assert len(found) == 2
    rows = found[0][0] if network.head.extra else found[0]
    assert rows.shape[1] == 6 + sum(network.head.extra)
    for wanted, tensor in zip(flatten(outputs[0]), flatten(fused[0]), strict=True):
        torch.testing.assert_close(tensor, wanted, atol=1e-3, rtol=1e-3)
    if name in UNTRAINED:
        with pytest.raises(NetbuildError, match=f"no loss for the head {name}"):
            task.check_loss()
    else:
        task.check_loss()


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_the_exported_file_is_proven(name, tmp_path):
    assert export(build(write_network(name, tmp_path)).eval(), tmp_path / "net.onnx", imgsz=64).proven


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROWS if name not in UNTRAINED])
def test_a_batch_is_learnt_by_heart(name, tmp_path):
    epochs = 400 if name == "ASFF_Detect" else 150  # its weights of the levels learn slowly
    chosen = {"epochs": epochs, "batch": 4, "imgsz": 64, "lr": 0.003, "workers": 0, "device": "cpu"}
    losses = overfit_batch(str(write_network(name, tmp_path)), "shapes-segment", load(None, chosen))
    assert is_overfit(losses), (losses[0], max(losses), losses[-5:])
