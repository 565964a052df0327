"""Rows that call a package's model builder: stages as outputs, that package's weights, no download unasked."""

from pathlib import Path

import pytest
import torch

from netbuild import NetbuildError
from netbuild.errors import MissingExtraError
from netbuild.grammar.spec import read_spec
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import builders, registry

ROWS = {
    "timm": "timm.create_model, [resnet18, {features_only: true, out_indices: [2, 3, 4]}]",
    "torchvision": "torchvision.models.resnet18, {features: [layer2, layer3, layer4]}",
}
HEAD = """
  - ["net[0]", 1, Conv, [32, 1], p3]
  - ["net[2]", 1, Conv, [32, 1], p5]
  - [[p3, p5], 1, Detect, [nc]]
"""


def graph(row: str, rest: str = "", ch: int = 3, size: int = 64, section: str = "layers"):
    text = f"nc: 2\nch: {ch}\n{section}:\n  - [-1, 1, {row}, net]\n{rest}"
    return resolve(read_spec(text, Path("net.yaml")), Options(imgsz=(size, size)))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something was downloaded")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("package", ROWS)
def test_the_stages_of_a_backbone_are_outputs(package):
    pytest.importorskip(package)
    found = graph(ROWS[package], HEAD)
    assert found.layers[0].out_shape in (
        [[1, 128, 8, 8], [1, 256, 4, 4], [1, 512, 2, 2]],
        {"layer2": [1, 128, 8, 8], "layer3": [1, 256, 4, 4], "layer4": [1, 512, 2, 2]},
    )
    assert found.layers[-1].strides == [8, 32]
    network = found.build()
    y = network(torch.rand(1, 3, 64, 64))
    y = network.eval()(torch.rand(1, 3, 64, 64))
    assert torch.isfinite(y[0]).all()


def test_input_channels_reach_timm():
    pytest.importorskip("timm")
    assert graph(ROWS["timm"], HEAD, ch=4).build().model[0].conv1.weight.shape == (64, 4, 7, 7)


def test_outputs_equal_torchvisions_own():
    torchvision = pytest.importorskip("torchvision")
    mine = graph("torchvision.models.resnet18, {num_classes: 7}").build().eval()
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    theirs.load_state_dict({k.removeprefix("model.0."): v for k, v in mine.state_dict().items()})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(mine(x), theirs(x))
    found = graph("torchvision.models.segmentation.fcn_resnet50, {num_classes: 7}", "  - [net.out, 1, nn.ReLU, []]\n")
    assert found.layers[-1].out_shape == [1, 7, 64, 64]


def test_ultralytics_rows_of_torchvision():
    text = '[512, "resnet18", "DEFAULT", True, 2]'
    found = graph(f"TorchVision, {text}", "head:\n  - [-1, 1, Classify, [nc]]\n", section="backbone")
    assert found.layers[0].arguments == ["resnet18", "DEFAULT", True, 2]
    with pytest.warns(UserWarning, match="random weights; --download gets the published ones"):
        network = found.build()
    assert next(k for k in network.state_dict() if k.startswith("model.0.m.4.0")) == "model.0.m.4.0.conv1.weight"
    split = graph("TorchVision, [512, resnet18, None, true, 2, true]", section="backbone")
    assert [shape[1] for shape in split.layers[0].out_shape] == [3, 64, 64, 64, 64, 64, 128, 256, 512]
    whole = graph("TorchVision, [512, resnet18, None, false]", section="backbone")
    assert whole.layers[0].out_shape == [1, 1000]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("package", ROWS)
def test_pretrained_weights_are_downloaded_only_when_both_say_so(package):
    pytest.importorskip(package)
    found = graph(ROWS[package].replace("{", "{pretrained: true, "), HEAD)
    with pytest.raises(NetbuildError, match=r"net.yaml:4:5: row 0 \(net\).*would be downloaded") as error:
        found.build()
    assert "--download" in error.value.hint
    assert "pretrained: false" in error.value.hint
    with builders.pretrained_mode("skip"):
        found.build()


def test_published_weights_are_read_from_where_torch_keeps_them(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    (tmp_path / "checkpoints").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "checkpoints" / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = graph("torchvision.models.resnet18, {pretrained: true, features: [layer1]}")
    with builders.pretrained_mode("download"):
        network = found.build()
    assert torch.equal(network.model[0].get_submodule("layer1.0.conv1").weight, theirs.layer1[0].conv1.weight)
    (tmp_path / "checkpoints" / name).write_bytes(b"not a checkpoint")
    with pytest.raises(NetbuildError, match="cannot be loaded"), builders.pretrained_mode("download"):
        found.build()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("torchvision.models.resnet19, []", "no model 'resnet19'.*resnet18"),
        ("torchvision.models.resnet18, {features: [layer9]}", "no layer 'layer9'.*layer"),
        ("torchvision.models.resnet18, {weights: DEFAULT}", "pretrained: true"),
        ("torchvision.models.resnet18, {nonsense: 1}", "nonsense"),
        ("timm.create_model, [resnet19x]", "no model 'resnet19x'"),
        ("timm.create_model, ['hf-hub:someone/something']", "no model 'hf-hub"),
        (
            "timm.create_model, [resnet18, {checkpoint_path: x.pt}]",
            "'checkpoint_path' is not allowed in a network file",
        ),
        ("timm.create_model, [resnet18, {pretrained_cfg: {url: 'http://x'}}]", "'pretrained_cfg' is not"),
        ("timm.create_model, [7]", "a text is needed"),
        ("timm.create_model, []", "model_name missing"),
    ],
)
def test_what_is_wrong_is_said_at_its_row(row, said):
    pytest.importorskip("timm")
    with pytest.raises(NetbuildError) as error:
        graph(row)
    assert str(error.value).startswith("error: net.yaml:4:")
    assert __import__("re").search(said, str(error.value).replace("\n", " ")), str(error.value)


def test_a_missing_package_is_an_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"net.yaml:4:.*the package 'timm' is not installed") as error:
        graph(ROWS["timm"])
    assert error.value.exit_code == 3
    assert "netbuild[timm]" in error.value.hint
    assert registry.get_factory("TorchVision").name == "TorchVision"  # known without its package
