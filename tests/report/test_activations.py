"""The head line of a table names the activations that a network has."""

import pytest

from netbuild.report.activations import describe_activation
from netbuild.report.summary import summarize
from netbuild.report.text import head_lines

ROW = "layers:\n  - [-1, 1, {}]\n"


@pytest.mark.parametrize(
    ("network", "described"),
    [
        ("lenet5", "activation Tanh"),
        ("alexnet", "activations ReLU, Softmax"),
        ("googlenet", "activation ReLU"),
        ("resnet50", "activation ReLU"),
        ("vit-b-16", "activation GELU"),
        ("mobilenet-v3-small", "activations Hardswish, ReLU, Hardsigmoid"),
        ("yolo11n", "activation SiLU (default)"),
        ("yolov6n", "activation ReLU"),  # written in the file, and taken by its modules
        ("Conv, [8]", "activation SiLU (default)"),
        ("Conv, [8, 3, 1, None, 1, 1, nn.SELU()]", "activation SELU"),
        ("nn.Conv2d, [3, 8, 3]", "no activation"),
    ],
)
def test_activations_are_those_that_are_there(tmp_path, network, described):
    if "," in network:
        (tmp_path / "net.yaml").write_text(ROW.format(network), encoding="utf-8")
        network = tmp_path / "net.yaml"
    assert f", {described}, " in head_lines(summarize(network))[1]


@pytest.mark.parametrize(
    ("row", "described"),
    [
        ("Conv, [8]", "activation Mish"),
        ("nn.Conv2d, [3, 8, 3]", "no activation (no module takes the file's Mish)"),
        ("Conv, [8, 3, 1, None, 1, 1, nn.ReLU()]", "activation ReLU (no module takes the file's Mish)"),
    ],
)
def test_a_files_activation_without_effect_is_named(tmp_path, row, described):
    (tmp_path / "net.yaml").write_text(f"activation: mish\n{ROW.format(row)}", encoding="utf-8")
    assert describe_activation(summarize(tmp_path / "net.yaml").graph) == described


def test_activations_called_as_functions_are_found(tmp_path):
    module = "import torch.nn.functional as F\nfrom torch import nn\n\nclass Own(nn.Module):\n"
    (tmp_path / "own.py").write_text(f"{module}    def forward(self, x):\n        return F.leaky_relu(F.selu(x))\n")
    (tmp_path / "net.yaml").write_text(ROW.format("Own, []"), encoding="utf-8")
    summary = summarize(tmp_path / "net.yaml", modules=[tmp_path / "own.py"])
    assert describe_activation(summary.graph) == "activations ELU, LeakyReLU"
