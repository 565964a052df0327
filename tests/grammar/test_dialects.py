"""Files written for other programs: each dialect is recognised, told, and built as its own program builds it."""

from pathlib import Path

import pytest
import torch

from netbuild import NetbuildError, build, layers
from netbuild.grammar.spec import load, read_spec
from netbuild.graph.resolver import resolve

STEM = """  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
"""
YOLOV5 = f"""
nc: 2
depth_multiple: 1.0
width_multiple: 0.5
anchors:
  - [10,13, 16,30]
  - [30,61, 62,45]
backbone:
{STEM}head:
"""
ACTIVATED = "  - [-1, 1, Conv, [64, 3, 1, 1, 1, nn.ReLU()]]\n"
KINDLE = """
input_size: [64, 64]
input_channel: 3
depth_multiple: 0.5
width_multiple: 0.25
n_classes: 3
anchors: [[10,13, 16,30], [30,61, 62,45]]
backbone:
  - [-1, 1, Conv, [32, 3, 2], {activation: LeakyReLU}]
  - [-1, 4, Conv, [64, 3, 2]]
  - [-1, 2, MV2Block, [64, 2, 2]]
  - [-1, 2, C3, [64, True, 1, 0.5]]
  - [-2, 1, MobileViTBlock, [32, 48, 1]]
  - [[-1, -2], 1, Concat, [1]]
head:
  - [-1, 2, Conv, [24, 3, 2]]
  - [-1, 1, UpSample, [null, 2]]
  - [1, 1, MaxPool, [2, 2]]
  - [[8, 6], 1, YOLOHead, [n_classes, anchors]]
"""
CLASSIFIER = """
input_size: [32, 32]
input_channel: 1
channel_divisor: 8
custom_module_paths: [mine]
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, GlobalAvgPool, []]
  - [-1, 1, Flatten, []]
  - [-1, 1, Linear, [20, ReLU]]
  - [-1, 1, Linear, [10]]
"""
TECH_LAB = """
name: small
anchor: {reg_max: 16}
model:
  backbone:
    - Conv:
        args: {out_channels: 16, kernel_size: 3, stride: 2}
        source: 0
    - ELAN:
        args: {out_channels: 32, part_channels: 32}
        tags: B1
    - AConv: {args: {out_channels: 32}}
    - RepNCSPELAN:
        args: {out_channels: 64, part_channels: 64, csp_args: {repeat_num: 2}}
        tags: B2
  neck:
    - SPPELAN: {args: {out_channels: 64}, tags: N1}
    - UpSample: {args: {scale_factor: 2, mode: nearest}}
    - Concat: {source: [-1, B1]}
    - Conv: {args: {out_channels: 32, kernel_size: 1}, tags: P1}
  head:
    - MultiheadDetection: {source: [P1, N1], tags: Main, output: True}
  auxiliary:
    - CBLinear: {source: B2, args: {out_channels: [32, 16]}, tags: R1}
    - Conv: {source: 0, args: {out_channels: 16, kernel_size: 3, stride: 2}}
    - Conv: {args: {out_channels: 16, kernel_size: 3, stride: 2}}
    - CBFuse: {source: [R1, -1], args: {index: [1]}, tags: A2}
    - MultiheadDetection: {source: [P1, A2], tags: AUX, output: True}
"""


def resolve_text(text: str):
    return resolve(read_spec(text, Path("net.yaml")))


@pytest.mark.parametrize(
    ("rows", "dialects", "head"),
    [
        ("  - [[1, 2], 1, Detect, [nc, anchors]]\n", ["YOLOv5 with anchors"], "AnchorDetect"),
        ("  - [[1, 2], 1, Detect, [nc, 3]]\n", ["YOLOv5 with anchors"], "AnchorDetect"),
        ("  - [[1, 2], 1, Segment, [nc, anchors, 8, 32]]\n", ["YOLOv5 with anchors"], "AnchorSegment"),
        ("  - [[1, 2], 1, Segment, [nc, 2, 8, 32]]\n", ["YOLOv5 with anchors"], "AnchorSegment"),
        ("  - [[1, 2], 1, Segment, [nc, 8, 32]]\n", [], "Segment"),
        ("  - [[1, 2], 1, Detect, [nc]]\n", [], "Detect"),
        (f"{ACTIVATED}  - [[1, 3], 1, IDetect, [nc, anchors]]\n", ["YOLOv7"], "IDetect"),
        ("  - [[1, 2, 1, 2], 1, IAuxDetect, [nc, anchors]]\n", ["YOLOv7"], "IAuxDetect"),
        ("  - [[1, 2], 1, ISegment, [nc, anchors, 8, 32]]\n", ["YOLOv7"], "ISegment"),
        ("  - [[1, 2], 1, Decoupled_Detect, [nc, anchors]]\n", [], "Decoupled_Detect"),
        ("  - [[1, 1, 2, 2], 1, DetectX, [nc, 1]]\nloss: ComputeXLoss\n", ["yoloair", "YOLOX"], "DetectX"),
        ("  - [2, 1, Silence, []]\n  - [[1, 3], 1, DDetect, [nc]]\n", ["yolov9 repository"], "DDetect"),
        ("  - [[1, 2], 1, Panoptic, [nc, 4, 8, 32]]\n", ["yolov9 repository"], "Panoptic"),
    ],
)  # fmt: skip
def test_heads_of_other_repositories(rows, dialects, head):
    graph = resolve_text(YOLOV5 + rows)
    assert (list(graph.spec.dialects), graph.layers[-1].row.module) == (dialects, head)
    assert graph.nc == 2
    assert any("loss: ComputeXLoss has no effect" in note for note in graph.notes) == ("loss" in rows)


def test_heads_of_yolov9_are_wider_than_those_of_the_same_name():
    text = YOLOV5.replace("anchors:\n  - [10,13, 16,30]\n  - [30,61, 62,45]\n", "anchors: 3\n")
    blocks = "  - [-1, 1, SPPELAN, [64, 32]]\n"
    for row, name in ("Detect, [nc]", "v9Detect"), ("Segment, [nc, 8, 32]", "v9Segment"):
        graph = resolve_text(f"{text}{blocks}  - [[1, 3], 1, {row}]\n")
        assert (graph.spec.dialects, graph.layers[-1].row.module) == (("yolov9 repository",), name)
        assert resolve_text(f"{text}  - [[1, 2], 1, {row}]\n").layers[-1].row.module == row.partition(",")[0]


def test_the_head_line_tells_the_dialects(cli, tmp_path):
    (tmp_path / "net.yaml").write_text(YOLOV5 + "  - [[1, 2], 1, Detect, [nc, anchors]]\nloss: ComputeXLoss\n")
    done = cli("summary", tmp_path / "net.yaml", "--imgsz", 64)
    assert "dialect yoloair and YOLOv5 with anchors, no scales" in done.out
    assert "line 14: loss: ComputeXLoss has no effect" in done.out + done.err


def test_keys_that_rows_use_by_name_stand_for_their_values():
    scales = "scales: {n: [0.5, 0.5, 1024]}\n"
    text = (
        f"n_classes: 4\nact: nn.ReLU()\n{scales}node_mode: C2f\nhead_channel: 64\nfusion_mode: bifpn\nbackbone:\n{STEM}"
    )
    text += "head:\n  - [-1, 2, node_mode, [head_channel, True]]\n  - [[-1, -2], 1, Fusion, [fusion_mode]]\n"
    graph = resolve_text(text + "  - [-1, 1, Detect, [n_classes]]\nnote: by somebody\n")
    plain = text.partition("backbone:")[2].replace("node_mode", "C2f").replace("head_channel", "64")
    plain = plain.replace("fusion_mode", "bifpn") + "  - [-1, 1, Detect, [nc]]\n"
    wanted = resolve_text(f"nc: 4\nactivation: nn.ReLU()\n{scales}backbone:{plain}")
    assert (graph.spec.dialects, graph.nc, graph.activation) == (("named values",), 4, "ReLU")
    assert [(layer.row.module, layer.arguments) for layer in graph.layers] == [
        (layer.row.module, layer.arguments) for layer in wanted.layers
    ]
    assert [warning.message for warning in graph.spec.warnings] == ["unknown key 'note'"]


def test_kindle_scales_its_backbone_and_repeats_as_its_parser_does(tmp_path):
    graph = resolve_text(KINDLE)
    assert (graph.spec.dialects, graph.imgsz, graph.ch, graph.nc) == (("kindle",), (64, 64), 3, 3)
    found = [(layer.row.module, layer.n, layer.out_shape) for layer in graph.layers[:-1]]
    assert found == [
        ("KindleConv", 1, [1, 8, 32, 32]),
        ("KindleConv", 1, [1, 16, 32, 32]),  # of two repeats the last has the stride
        ("KindleConv", 1, [1, 16, 16, 16]),
        ("MV2Block", 1, [1, 16, 8, 8]),
        ("C3", 1, [1, 16, 8, 8]),
        ("MobileViTBlock", 1, [1, 16, 8, 8]),
        ("Concat", 1, [1, 32, 8, 8]),
        ("KindleConv", 1, [1, 24, 8, 8]),
        ("KindleConv", 1, [1, 24, 4, 4]),
        ("nn.Upsample", 1, [1, 24, 8, 8]),
        ("nn.MaxPool2d", 1, [1, 16, 8, 8]),
    ]
    assert graph.layers[-1].row.sources == (10, 8)
    assert graph.layers[5].row.sources == (3,)
    assert isinstance(graph.layers[0].module.activation, torch.nn.LeakyReLU)
    (tmp_path / "net.yaml").write_text(KINDLE)
    network = build(tmp_path / "net.yaml").eval()
    assert isinstance(network.head, layers.YOLOHead)
    assert network.head.stride == [8, 16]
    assert network(torch.rand(1, 3, 64, 64))[0].shape == (1, 2 * (64 + 16), 8)


def test_kindle_without_a_head():
    graph = resolve_text(CLASSIFIER)
    assert [layer.row.module for layer in graph.layers[-3:]] == ["nn.Linear", "nn.ReLU", "nn.Linear"]
    assert (graph.out_shape, graph.imgsz, graph.ch) == ([1, 10], (32, 32), 1)
    assert any("custom_module_paths has no effect" in note for note in graph.notes)
    with pytest.raises(NetbuildError, match="YamlModule") as error:
        resolve_text(CLASSIFIER.replace("Flatten, []", "YamlModule, [a.yaml]"))
    assert error.value.where.line == 9


def test_rows_as_mappings_with_tags(tmp_path):
    graph = resolve_text(TECH_LAB)
    assert (graph.spec.dialects, graph.nc, graph.task) == (("MultimediaTechLab",), 80, "detect")
    last = graph.layers[-1].row
    assert (last.module, last.sources) == ("DualDDetect", (7, 11, 7, 4))  # the auxiliary branch, then the main one
    assert [layer.row.module for layer in graph.layers[:5]] == ["Conv", "ELAN1", "AConv", "RepNCSPELAN4", "SPPELAN"]
    assert graph.layers[3].arguments == [32, {"c2": 64, "c3": 64, "c4": 32, "n": 2}]
    assert graph.layers[9].row.sources == (-1,)
    main = resolve_text(TECH_LAB.partition("  auxiliary:")[0])
    assert main.layers[-1].row.module == "DDetect"
    (tmp_path / "net.yaml").write_text(TECH_LAB)
    assert build(tmp_path / "net.yaml").eval()(torch.rand(1, 3, 64, 64))[0].shape[1] == 84


def test_a_file_may_extend_one_of_a_dialect(tmp_path):
    (tmp_path / "base.yaml").write_text(YOLOV5 + "  - [[1, 2], 1, Detect, [nc, anchors]]\nloss: ComputeXLoss\n")
    edit = "{insert_after: 2, row: [-1, 1, SimAM, []]}"
    (tmp_path / "net.yaml").write_text(f"extends: base.yaml\nedits: [{edit}]\n")
    layers = resolve(load(tmp_path / "net.yaml")).layers
    assert [layer.row.module for layer in layers[3:]] == ["SimAM", "AnchorDetect"]


def test_the_stages_of_a_timm_backbone_count_as_five_rows():
    pytest.importorskip("timm")
    text = "nc: 2\nwidth_multiple: 0.5\nbackbone:\n  - [-1, 1, resnet18, [False]]\n  - [-1, 1, SPPF, [64, 5]]\n"
    text += "head:\n  - [3, 1, Conv, [64, 1]]\n  - [[6, 5], 1, Detect, [nc]]\n"
    graph = resolve_text(text)
    assert graph.spec.dialects == ("timm backbone by name",)
    assert [layer.row.module for layer in graph.layers] == [
        "timm.create_model", "Index", "Index", "SPPF", "Conv", "Detect"
    ]  # fmt: skip
    assert [layer.out_shape for layer in graph.layers[1:5]] == [
        [1, 256, 40, 40], [1, 512, 20, 20], [1, 32, 20, 20], [1, 32, 40, 40]
    ]  # fmt: skip
    assert graph.layers[-1].row.sources == (4, 3)
    assert graph.layers[3].row.sources == (2,)
