"""Rows that call the model builder of another package: stages as outputs, its weights, no unrequested download."""

import contextlib
import importlib.util
import json
import re
import sys
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


def resolve_row(row: str, rest: str = "", ch: int = 3, size: int = 64, section: str = "layers"):
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
    found = resolve_row(ROWS[package], HEAD)
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
    assert resolve_row(ROWS["timm"], HEAD, ch=4).build().model[0].conv1.weight.shape == (64, 4, 7, 7)


def test_outputs_equal_those_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    network = resolve_row("torchvision.models.resnet18, {num_classes: 7}").build().eval()
    reference = torchvision.models.resnet18(num_classes=7).eval()
    reference.load_state_dict({k.removeprefix("model.0."): v for k, v in network.state_dict().items()})
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(network(x), reference(x))
    found = resolve_row(
        "torchvision.models.segmentation.fcn_resnet50, {num_classes: 7}", "  - [net.out, 1, nn.ReLU, []]\n"
    )
    assert found.layers[-1].out_shape == [1, 7, 64, 64]


def test_ultralytics_rows_of_torchvision():
    text = '[512, "resnet18", "DEFAULT", True, 2]'
    found = resolve_row(f"TorchVision, {text}", "head:\n  - [-1, 1, Classify, [nc]]\n", section="backbone")
    assert found.layers[0].arguments == ["resnet18", "DEFAULT", True, 2]
    with pytest.warns(UserWarning, match="random weights; --download gets the published ones"):
        network = found.build()
    assert next(k for k in network.state_dict() if k.startswith("model.0.m.4.0")) == "model.0.m.4.0.conv1.weight"
    split = resolve_row("TorchVision, [512, resnet18, None, true, 2, true]", section="backbone")
    assert [shape[1] for shape in split.layers[0].out_shape] == [3, 64, 64, 64, 64, 64, 128, 256, 512]
    whole = resolve_row("TorchVision, [512, resnet18, None, false]", section="backbone")
    assert whole.layers[0].out_shape == [1, 1000]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("package", ROWS)
def test_pretrained_weights_are_downloaded_only_if_file_and_caller_agree(package):
    pytest.importorskip(package)
    found = resolve_row(ROWS[package].replace("{", "{pretrained: true, "), HEAD)
    with pytest.raises(NetbuildError, match=r"net.yaml:4:5: row 0 \(net\).*would be downloaded") as error:
        found.build()
    assert "--download" in error.value.hint
    assert "pretrained: false" in error.value.hint
    with builders.pretrained_mode("skip"):
        found.build()


def test_published_weights_are_read_from_where_torch_keeps_them(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    reference = torchvision.models.resnet18()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    (tmp_path / "checkpoints").mkdir()
    torch.save(reference.state_dict(), tmp_path / "checkpoints" / name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = resolve_row("torchvision.models.resnet18, {pretrained: true, features: [layer1]}")
    with builders.pretrained_mode("download"):
        network = found.build()
    assert torch.equal(network.model[0].get_submodule("layer1.0.conv1").weight, reference.layer1[0].conv1.weight)
    (tmp_path / "checkpoints" / name).write_bytes(b"not a checkpoint")
    with pytest.raises(NetbuildError, match="cannot be loaded"), builders.pretrained_mode("download"):
        found.build()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("torchvision.models.resnet19, []", "no model 'resnet19'.*resnet18"),
        ("torchvision.models.resnet18, {features: [layer9]}", "no layer 'layer9'.*layer"),
        ("torchvision.models.resnet18, {weights: DEFAULT}", "'weights' is not allowed.*pretrained: true"),
        ("torchvision.models.resnet18, {pretrained: DEFAULT}", "pretrained.*true or false"),
        ("torchvision.models.resnet18, {nonsense: 1}", "nonsense"),
        ("TorchVision, [fcn_resnet50, null]", "truncate 2 drops all 2 parts of the network: backbone, classifier"),
        ("timm.create_model, [resnet19x]", "no model 'resnet19x'"),
        ("timm.create_model, ['hf-hub:someone/something']", "no model 'hf-hub"),
        (
            "timm.create_model, [resnet18, {checkpoint_path: x.pt}]",
            "'checkpoint_path' is not allowed in a network file",
        ),
        ("timm.create_model, [resnet18, {pretrained_cfg: {url: 'http://x'}}]", "'pretrained_cfg' is not"),
        ("timm.create_model, ['resnet18.hf-hub:a/b']", "no model"),
        ("timm.create_model, ['local-dir:/tmp']", "no model"),
        ("timm.create_model, [7]", "a text is needed"),
        ("timm.create_model, []", "model_name missing"),
    ],
)
def test_mistakes_are_errors_at_their_row(row, message):
    pytest.importorskip("timm")
    with pytest.raises(NetbuildError) as error:
        resolve_row(row)
    assert str(error.value).startswith("error: net.yaml:4:")
    assert re.search(message, str(error.value).replace("\n", " ")), str(error.value)


@pytest.fixture
def shut(monkeypatch):
    """No socket, no urllib, no hub: whatever would download something is an error of another kind."""
    import urllib.request

    def refuse(*args, **kwargs):
        raise AssertionError(f"something was downloaded: {args[:1]}")

    for name in ("socket.socket.connect", "socket.getaddrinfo", "urllib.request.urlopen", "urllib.request.urlretrieve"):
        monkeypatch.setattr(name, refuse)
    for name in ("load_state_dict_from_url", "download_url_to_file", "load"):
        monkeypatch.setattr(torch.hub, name, refuse)
    if importlib.util.find_spec("torchvision"):
        from torchvision.models import _api

        monkeypatch.setattr(_api, "load_state_dict_from_url", refuse)
    assert urllib.request.urlopen is refuse


@pytest.mark.usefixtures("shut")
@pytest.mark.parametrize("step", [24, pytest.param(1, marks=pytest.mark.slow)])
def test_no_builder_downloads_when_a_file_is_read(step):
    """Each network builds on meta with every default, also where downloads are permitted."""
    # The names are no parameters, because every collection would import torchvision for more than a second.
    for model in pytest.importorskip("torchvision.models").list_models()[::step]:
        with torch.device("meta"), builders.pretrained_mode("download"):
            for network in (builders.build_torchvision(model), builders.TorchVision(model, truncate=1)):
                assert isinstance(network, torch.nn.Module), model
                assert {p.device.type for p in network.parameters()} == {"meta"}, model


def test_a_regnet_computes_its_widths_on_the_cpu(cli, tmp_path):
    models = pytest.importorskip("torchvision.models")
    (tmp_path / "net.yaml").write_text("layers: [[-1, 1, torchvision.models.regnet_y_400mf, []]]")
    done = cli("summary", tmp_path / "net.yaml", "--json", "--imgsz", 64)
    assert done.code == 0, done.err
    expected = sum(p.numel() for p in models.regnet_y_400mf().parameters())
    assert json.loads(done.out)["totals"]["params"] == expected


OPTIONS = {
    "weights": "DEFAULT", "weights_backbone": "DEFAULT", "pretrained_backbone": "true", "weights_encoder": "x",
    "pretrained_cfg": "{url: 'http://127.0.0.1:9/x'}", "pretrained_cfg_overlay": "{hf_hub_id: a/b}",
    "cache_dir": "/tmp",
    "checkpoint_path": "x.pt", "model_args": "{pretrained_cfg: {url: x}}", "options": "[{checkpoint_path: x}]",
    "hf_hub_id": "a/b", "url": "'http://127.0.0.1:9/x'", "pretrained_strict": "false", "local_dir": "/tmp",
}  # fmt: skip


@pytest.mark.usefixtures("shut")
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    "row",
    [
        "timm.create_model, [resnet18, {%s}]",
        "torchvision.models.resnet18, {%s}",
        "torchvision.models.detection.keypointrcnn_resnet50_fpn, {%s}",
        "torchvision.models.segmentation.fcn_resnet50, {%s}",
    ],
)
def test_no_option_of_a_builder_loads_weights(row, option):
    pytest.importorskip("timm")
    with pytest.raises(NetbuildError) as error, builders.pretrained_mode("download"):
        resolve_row(row % f"{option}: {OPTIONS[option]}")
    assert "is not allowed in a network file" in str(error.value)
    assert "--download" in error.value.hint


@pytest.mark.usefixtures("shut")
@pytest.mark.parametrize(
    "row",
    [
        "TorchVision, [keypointrcnn_resnet50_fpn, null]",
        "TorchVision, [fcn_resnet50, null]",
        "TorchVision, [ssd300_vgg16]",
        "TorchVision, [deeplabv3_resnet50, DEFAULT, false]",
        'Conv, [8, 3, 2, 1, 1, 1, "torchvision.models.segmentation.fcn_resnet50(pretrained=True)"]',
        "Conv, [8, 3, 2, 1, 1, 1, \"timm.create_model('resnet18', pretrained=True)\"]",
    ],
)
def test_rows_around_a_detector_or_a_call_download_nothing(row):
    pytest.importorskip("timm")
    with contextlib.suppress(NetbuildError):
        resolve_row(row)


@pytest.mark.parametrize("connect", ["socket.create_connection", "urllib.request.urlopen", "torch.hub"])
def test_a_builder_that_connects_by_itself_is_refused(monkeypatch, connect):
    """The last barrier, should a package change: it sees connections by any library, and those of the build alone."""
    pytest.importorskip("torchvision")
    import socket
    import urllib.request

    url = "http://127.0.0.1:9/weights.pth"
    attempts = {
        "socket.create_connection": lambda: socket.create_connection(("127.0.0.1", 9), 1),
        "urllib.request.urlopen": lambda: urllib.request.urlopen(url, timeout=1),
        "torch.hub": lambda: torch.hub.load_state_dict_from_url(url, model_dir="nowhere"),
    }
    monkeypatch.setattr(builders, "_get_torchvision_builder", lambda _: lambda **_: attempts[connect]())
    with pytest.raises(NetbuildError, match="building torchvision's resnet18 would download something"):
        builders._build_without_weights("resnet18", {})
    with pytest.raises(OSError):
        attempts["socket.create_connection"]()  # refused by the machine, not by us


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"net.yaml:4:.*the package 'timm' is not installed") as error:
        resolve_row(ROWS["timm"])
    assert error.value.exit_code == 3
    assert "netbuild[timm]" in error.value.hint
    assert registry.get_factory("TorchVision").name == "TorchVision"  # known without its package
