"""Files of older repositories: anchors in the file, other module names, another order of arguments."""

from pathlib import Path

import pytest
import torch

from netbuild import NetbuildError
from netbuild.costs.outputs import shape_of
from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.layers import DownC, ReOrg
from netbuild.layers.fuse import fuse

ANCHORS = "anchors:\n  - [10,13, 16,30, 33,23]\n  - [30,61, 62,45, 59,119]\n  - [116,90, 156,198, 373,326]\n"
# As published for 80 classes: depth multiple, width multiple, parameters
YOLOV5 = {
    "n": (0.33, 0.25, 1_872_157),
    "s": (0.33, 0.50, 7_235_389),
    "m": (0.67, 0.75, 21_190_557),
    "l": (1.0, 1.0, 46_563_709),
    "x": (1.33, 1.25, 86_749_405),
}
YOLOV7 = f"""
nc: 3
depth_multiple: 1.0
width_multiple: 1.0
{ANCHORS}
backbone:
  - [-1, 1, Silence, []]
  - [-1, 1, Conv, [32, 3, 2, None, 1, nn.LeakyReLU(0.1)]]
  - [-1, 1, MP, []]
  - [-1, 1, SP, [5]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, SPPCSPC, [64]]
head:
  - [-1, 1, RepConv, [64, 3, 1]]
  - [-1, 1, MP, []]
  - [[3, 5, 7], 1, IDetect, [nc, anchors]]
"""


def write_yolov5(depth, width):
    """Today's YOLOv5 file as it was written when heads had anchors."""
    text = packaged_architectures()["yolov5.yaml"].read_text()
    body = text[text.index("backbone:") :].replace("Detect, [nc]", "Detect, [nc, anchors]")
    return f"nc: 80\ndepth_multiple: {depth}\nwidth_multiple: {width}\n{ANCHORS}{body}"


def resolve_text(text, size=64):
    return resolve(read_spec(text, Path("old.yaml")), Options(imgsz=(size, size)))


@pytest.mark.parametrize("size", YOLOV5)
def test_yolov5_with_anchors_has_the_published_parameters(size):
    depth, width, count = YOLOV5[size]
    found = resolve_text(write_yolov5(depth, width))
    assert sum(layer.params for layer in found.layers) == count
    assert [key for key in found.skeleton().state_dict() if key.startswith("24")][:2] == ["24.anchors", "24.m.0.weight"]
    assert found.layers[-1].out_shape[0] == [1, 3 * (64 + 16 + 4), 85]


def test_rows_of_yolov7():
    found = resolve_text(YOLOV7)
    assert found.layers[1].arguments[-2:] == [1, "nn.LeakyReLU(0.1)"]
    assert isinstance(found.layers[1].module.act, torch.nn.LeakyReLU)
    assert found.layers[1].module.conv.dilation == (1, 1)
    network = found.build().eval()
    head, x = network.model[-1], torch.rand(1, 3, 64, 64)
    for offset in head.ia:
        torch.nn.init.normal_(offset.implicit)
    with torch.no_grad():
        before = network(x)[0]
        after = network.fuse()(x)[0]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert shape_of(network.train()(x))[0] == [1, 3, 16, 16, 8]


# The auxiliary branch of yolov9-c, whose main branch is that of the packaged file.
YOLOV9_AUXILIARY = """
  - [p3, 1, CBLinear, [[256]]]
  - [p4, 1, CBLinear, [[256, 512]]]
  - [8, 1, CBLinear, [[256, 512, 512]]]
  - [input, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, RepNCSPELAN4, [256, 128, 64, 1]]
  - [-1, 1, ADown, [256]]
  - [[22, 23, 24, -1], 1, CBFuse, [[0, 0, 0]]]
  - [-1, 1, RepNCSPELAN4, [512, 256, 128, 1]]
  - [-1, 1, ADown, [512]]
  - [[23, 24, -1], 1, CBFuse, [[1, 1]]]
  - [-1, 1, RepNCSPELAN4, [512, 512, 256, 1]]
  - [-1, 1, ADown, [512]]
  - [[24, -1], 1, CBFuse, [[2]]]
  - [-1, 1, RepNCSPELAN4, [512, 512, 256, 1]]
  - [[30, 33, 36, out3, out4, out5], 1, DualDDetect, [nc]]
"""


@pytest.mark.slow
def test_yolov9_c_has_the_published_parameters_and_loses_its_auxiliary_branch():
    rows = packaged_architectures()["yolov9c.yaml"].read_text().splitlines()
    *shared, head = [line for line in rows if line]
    main = resolve_text("\n".join([*shared, head.replace(" Detect", " DDetect")]))
    assert sum(layer.params for layer in main.layers) == 25_498_752  # gelan-c
    found = resolve_text("\n".join(shared) + YOLOV9_AUXILIARY)
    assert sum(layer.params for layer in found.layers) == 51_182_080
    counts = [sum(p.numel() for p in fuse(graph.skeleton()).parameters()) for graph in (main, found)]
    assert counts == [25_288_768] * 2


def test_reductions_of_yolov7():
    text = YOLOV7.replace("SP, [5]", "ReOrg, []").replace("Conv, [64, 3, 2]", "DownC, [64]")
    text = text.replace("[-1, 1, MP, []]\n  - [[3, 5, 7]", "[[-1, -1], 1, Shortcut, [1]]\n  - [[3, 4, 5]")
    names = [type(layer.module).__name__ for layer in resolve_text(text).layers]
    assert (names[3:5], names[7]) == (["ReOrg", "DownC"], "Add")
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert ReOrg()(x)[0, :, 0, 0].tolist() == [0, 4, 1, 5]
    block = DownC(8, 12).eval()
    y = block(torch.rand(1, 8, 6, 6))
    assert y.shape == (1, 12, 3, 3)
    assert [name for name, _ in block.named_children()][:3] == ["cv1", "cv2", "cv3"]


def test_anchor_boxes_are_decoded():
    head = resolve_text(YOLOV7).layers[-1].make().eval()
    for conv in head.m:
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    with torch.no_grad():
        y, _ = head([torch.zeros(1, c, 64 // s, 64 // s) for c, s in ((32, 4), (64, 8), (64, 16))])
    # sigmoid(0) is a half: the cell's middle, the anchor's size, and half a chance of everything
    assert y[0, 0].tolist() == pytest.approx([2, 2, 10, 13, *[0.5] * 4])
    assert y[0, -1].tolist() == pytest.approx([56, 56, 373, 326, *[0.5] * 4])


def test_an_unknown_module_is_reported_once_with_all_its_rows():
    text = (
        YOLOV7.replace("SP, [5]", "Nowhere, [5]").replace("  - [-1, 1, MP, []]\nhead", "").replace("MP, []", "Lost, []")
    )
    with pytest.raises(NetbuildError) as caught:
        resolve_text(text)
    first, *others = caught.value.all()
    assert "unknown module 'Lost' (2 rows: 2, 7)" in first.message
    assert ["unknown module 'Nowhere'" in error.message for error in others] == [True]
    assert "--modules FILE.py" in first.hint


@pytest.mark.parametrize(
    "anchors", ["[]", "[[1, 2, 3]]", "[[1, 2], [a, 3]]", "0", "[[1, -2]]", "text", "[[1, 2], [1, 2]]"]
)
def test_invalid_anchors_are_refused(anchors):
    text = f"nc: 3\nanchors: {anchors}\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - [[-1], 1, Detect, [nc, anchors]]\n"
    with pytest.raises(NetbuildError) as caught:
        resolve_text(text)
    assert "anchors" in str(caught.value)
    assert caught.value.where is not None
