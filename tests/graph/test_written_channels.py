"""Widths that rows of forks write before modules of the pack, which get the channels of their source."""

from pathlib import Path

import pytest

from netbuild import NetbuildError
from netbuild.grammar.spec import read_spec
from netbuild.graph.resolver import resolve

SCALES = "scales: {n: [0.5, 0.25, 1024]}\n"


def resolve_text(text: str):
    return resolve(read_spec(text, Path("net.yaml")))


def resolve_row(row: str, head: str = "", source: str = "-1"):
    first = "  - [-1, 1, Conv, [256, 3, 2]]\n  - [-1, 1, Conv, [256, 3, 1]]\n"
    return resolve_text(f"{head}nc: 3\nbackbone:\n{first}head:\n  - [{source}, 1, {row}]\n")


@pytest.mark.parametrize(
    ("head", "row", "source", "arguments"),
    [
        ("", "SimAM, [256]", "-1", []),
        (SCALES, "SimAM, [256]", "-1", []),
        (SCALES, "SimAM, [64]", "-1", []),
        ("", "SimAM, [256, 0.1]", "-1", [0.1]),
        ("", "Concat_bifpn, [256, 128]", "[0, 1]", [128]),
        (SCALES, "Concat_bifpn, [256, 128]", "[0, 1]", [32]),
        (SCALES, "Concat_bifpn, [64, 64]", "[0, 1]", [64]),  # exact, as the channels before it
        ("", "TopBasicLayer, [256, [8, 16]]", "-1", [[8, 16]]),
        (SCALES, "PyramidPoolAgg, [64, 2]", "[0, 1]", [64, 2]),  # the output channels, which the scale leaves alone
        ("", "SimAM, [0.1]", "-1", [0.1]),
        (SCALES, "CSPResNet, [64, 128, 2, 2]", "-1", [128, 2, 2]),
    ],
)
def test_channels_of_the_source_are_dropped_and_options_stay(head, row, source, arguments):
    layer = (graph := resolve_row(row, head, source)).layers[-1]
    shown = [a for a in layer.arguments if a not in ([64, 64], [256, 256])]  # the supplied channels of two sources
    assert [a for a in shown if a != layer.bound.call.get("c1")] == arguments
    note = "are the input channels, which netbuild supplies: leave"
    assert any(note in found for found in graph.notes) == ("[0.1]" not in row and "Pyramid" not in row)


@pytest.mark.parametrize(
    ("row", "form", "shape"),
    [
        ("GAM_Attention, [256, 256]", "GAMAttention", [256, 320, 320]),
        ("GAM_Attention, [8]", "GAM_Attention", [256, 320, 320]),
        ("CARAFE, [128, 3, 2]", "CARAFE_yoloair", [128, 640, 640]),
        ("CARAFE, [3, 5]", "CARAFE", [256, 640, 640]),
        ("CoordConv, [256, 128, 3, 1]", "CoordConv_paddle", [128, 320, 320]),
        ("CoordConv, [128, 3, 2]", "CoordConv", [128, 160, 160]),
    ],
)
def test_a_name_that_two_forms_share_is_decided_by_the_widths_written(row, form, shape):
    layer = resolve_row(row).layers[-1]
    assert type(layer.make()).__name__ == form
    assert list(layer.out_shape[1:]) == shape


def test_a_width_before_a_number_that_the_module_needs_is_no_channels_of_the_source():
    call = resolve_row("mobilev3_bneck, [256, 128]").layers[-1].bound.call
    assert (call["c2"], call["hidden"]) == (256, 128)


@pytest.mark.parametrize(
    ("head", "row", "message"),
    [
        ("", "SimAM, [128]", "keeps the channels of its source: 128 are written, 256 arrive"),
        (SCALES, "SimAM, [512]", r"512 \(128 after scaling\) are written, 64 arrive"),
        ("", "TopBasicLayer, [352, [8, 16]]", "352 are written, 256 arrive"),
        ("", "SimAM, [256, 0.1, 3]", "2 values given"),
    ],
)
def test_another_width_is_an_error_at_its_row_that_says_both(head, row, message):
    with pytest.raises(NetbuildError, match=message) as error:
        resolve_row(row, head)
    assert error.value.where.line == 6 + bool(head)


def test_a_mapping_may_hold_the_whole_signature():
    layer = resolve_row("Conv, [{c1: 256, c2: 8}]").layers[-1]
    assert (layer.module.conv.in_channels, layer.module.conv.out_channels) == (256, 8)
    with pytest.raises(NetbuildError, match="'c1' is supplied by netbuild"):
        resolve_row("Conv, [{c1: 128, c2: 8}]")


def test_cbam_with_a_width_is_that_of_its_paper():
    module = resolve_row("CBAM, [256]", SCALES).layers[-1].module
    assert (type(module).__name__, module.channel_attention.shared_MLP[0].in_features) == ("CBAM_mlp", 64)
    assert type(resolve_row("CBAM, [7]").layers[-1].module).__name__ == "CBAM"


def test_groups_of_a_depthwise_deconvolution_are_scaled_as_its_width():
    module = resolve_row("nn.ConvTranspose2d, [256, 4, 2, 1, 0, 256]", SCALES).layers[-1].module
    assert (module.in_channels, module.out_channels, module.groups) == (64, 64, 64)


def test_a_plain_file_writes_no_channels():
    with pytest.raises(NetbuildError, match="2 values given"):
        resolve_text("layers:\n  - [-1, 1, SimAM, [3, 0.1]]\n")
