"""A pickled model whose modules are not those of its rows: the rows are edited until they are, or it is refused."""

import json

import pytest
import torch
from helpers.filled_weights import fill
from helpers.foreign_models import save_model
from torch import nn

import netbuild

ROWS = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "C2f", [8, True]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "SPPF", [16, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 1], 1, "Concat", [1]], [-1, 1, "C2f", [8, False]],
        [-1, 2, "nn.AvgPool2d", [3, 1, 1]], [[-1, 3], 1, "Detect", ["nc"]],
    ],
}  # fmt: skip


def each(kind, name, value):
    """A change of an attribute in all modules of a class."""

    def change(model):
        for module in model.modules():
            if type(module).__name__ == kind:
                setattr(module, name, value)

    return change


def activation(make):
    def change(model):
        for module in model.modules():
            for name, child in list(module._modules.items()):
                if isinstance(child, nn.SiLU):
                    module._modules[name] = make()

    return change


def at(path, **values):
    def change(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return change


def replace(path, make):
    def change(model):
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = make()

    return change


def both(*changes):
    return lambda model: [change(model) for change in changes]


WRITTEN = {
    "another activation": (activation(nn.ReLU), ["activation: nn.ReLU()"]),
    "one with a slope": (activation(lambda: nn.LeakyReLU(0.1)), ["activation: nn.LeakyReLU(negative_slope=0.1)"]),
    "of one row": (replace("model.0.act", nn.Hardswish), ["row 0 Conv: act=nn.Hardswish()"]),
    "eps": (each("BatchNorm2d", "eps", 1e-5), ["norm_eps: 1e-05"]),
    "dilation": (at("model.2.conv", dilation=(2, 2), padding=(2, 2)), ["row 2 Conv: d=2"]),
    "no shortcut": (at("model.1.m.0", add=False), ["row 1 C2f: argument 2 is False"]),
    "a shortcut": (at("model.6.m.0", add=True), ["row 6 C2f: argument 2 is True"]),
    "pooling": (at("model.3.m", kernel_size=3, padding=1), ["row 3 SPPF: argument 2 is 3"]),
    "upsampling": (at("model.4", mode="bilinear"), ["row 4 nn.Upsample: argument 3 is bilinear"]),
    "corners": (
        at("model.4", mode="bilinear", align_corners=True),
        ["row 4 nn.Upsample: argument 3 is bilinear", "row 4 nn.Upsample: align_corners=True"],
    ),
    "several": (
        both(activation(nn.Mish), each("BatchNorm2d", "eps", 1e-4), at("model.4", mode="bicubic")),
        ["activation: nn.Mish()", "norm_eps: 0.0001", "row 4 nn.Upsample: argument 3 is bicubic"],
    ),
}


@pytest.fixture
def network(tmp_path):
    (tmp_path / "rows.yaml").write_text(json.dumps({**ROWS, "imgsz": 64}))
    return fill(netbuild.build(tmp_path / "rows.yaml")).eval()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_modules_are_is_written_into_the_file(cli, tmp_path, network, name):
    change, edits = WRITTEN[name]
    save_model(network, ROWS, tmp_path / "x.pt", change)
    done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["notes"] == [
        f"the file's modules differ from its rows; the new file says {e}" for e in edits
    ]
    found = netbuild.build(tmp_path / "x.safetensors").eval()
    change(network)  # our own modules have the attributes too, so the same change gives the right outputs
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(x)[0], network(x)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("model.1.m.0.cv1.conv", dilation=(2, 2), padding=(2, 2)), "row 1: model.1.m.0.cv1.conv:"),
        (
            at("model.8.cv2.0.0.conv", groups=2),
            "row 8: model.8.cv2.0.0.conv: groups is 2 in the file, 1 in the network",
        ),
        (replace("model.7.0", lambda: nn.MaxPool2d(3, 1, 1)), "row 7: model.7.0 is a nn.MaxPool2d(kernel_size=3"),
        (replace("model.2.act2", nn.ReLU), "row 2: model.2.act2 is a nn.ReLU() in the file, and missing"),
        (replace("model.9", nn.ReLU), "row 9: model.9 is a nn.ReLU() in the file, and missing in the network"),
        (at("model.5", f=[-1, 0]), "row 5: model.5: sources is [4, 0] in the file, [4, 1] in the network"),
        (at("model.8", stride=torch.tensor([4.0, 8.0])), "row 8: model.8: stride is [4.0, 8.0] in the file"),
        (
            lambda model: nn.utils.spectral_norm(model.get_submodule("model.0.conv")),
            "row 0: model.0.conv: forward pre hooks is changed in the file",
        ),
        (
            at("model.0.conv", bias=nn.Parameter(torch.ones(8))),
            "1 tensors that their modules in the network do not have: model.0.conv.bias (a Conv2d)",
        ),
    ],
)
def test_what_rows_cannot_say_is_refused_by_row(cli, tmp_path, network, change, message):
    save_model(network, ROWS, tmp_path / "x.pt", change)
    for more in ([], ["--model", tmp_path / "rows.yaml"]):
        done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors", *more)
        if more and "missing" in message:  # a network of another shape may be meant
            assert (done.code, "warning: 1 modules have no counterpart" in done.out) == (0, True), done
            continue
        assert (done.code, message in done.err) == (2, True), done.err
        assert not (tmp_path / "x.safetensors").exists()


def test_rows_that_are_not_those_of_the_tensors_are_refused(cli, tmp_path, network):
    change = at("model.8", reg_max=8)  # written into the rows, whose head has other tensors then
    save_model(network, ROWS, tmp_path / "x.pt", change)
    done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors")
    assert (done.code, "the weights do not fit the network: 104 fit, shapes differ" in done.err) == (2, True), done.err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("attributes", "note"),
    [
        ({"names": {0: "a"}}, "the file names 1 classes, the network has 3: the names are left out"),
        ({"names": {0: "a", 2: "b"}}, "the file's names of classes are no list of texts: they are left out"),
        ({"names": {"0": "a", "1": "b", "2": "c"}}, ""),
        ({"names": [["a"], None, {}]}, "the file's names of classes are no list of texts: they are left out"),
        ({"imgsz": "640"}, "its imgsz is no image size, and is left out: '640'"),
        ({"imgsz": [64, 32]}, ""),
        ({"yaml": {**ROWS, "password": 1}}, "keys of its rows that networks here do not have are left out: password"),
    ],
)
def test_metadata_that_are_not_kept_are_named(cli, tmp_path, network, attributes, note):
    save_model(network, ROWS, tmp_path / "x.pt", lambda model: [setattr(model, *pair) for pair in attributes.items()])
    done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors", "--json")
    assert (done.code, json.loads(done.out)["notes"]) == (0, [note] if note else []), done.err
    card = netbuild.build(tmp_path / "x.safetensors").card
    assert card.names == (["a", "b", "c"] if not note and "names" in attributes else card.names)
    assert card.names is None or len(card.names) == 3
    assert note or list(card.imgsz) == attributes.get("imgsz", [64, 64])


@pytest.mark.parametrize(
    ("change", "more", "code", "message"),
    [
        (lambda t: (t * 10).to(torch.int8), [], 2, "do not fit the network: 20 fit, types differ, torch.float32"),
        (lambda t: t.to(torch.float8_e4m3fn), [], 0, "129 tensors loaded"),
        (lambda t: t.double() * 1e300, [], 0, "warning: 109 tensors have values that are not finite"),
        (lambda t: t * 1e6, ["--half"], 2, "float16 ends at 65504"),
        (lambda t: -t.abs(), [], 0, "warning: 20 tensors have values that are negative, as no variance is"),
    ],
)
def test_values_that_cannot_be_weights(cli, tmp_path, network, change, more, code, message):
    state = {key: change(t) if t.is_floating_point() else t for key, t in network.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    import_ = ["weights", "import", tmp_path / "x.pth", "--model", tmp_path / "rows.yaml"]
    done = cli(*import_, "-o", tmp_path / "x.safetensors", *more)
    assert (done.code, message in done.out + done.err) == (code, True), done
    if not more:  # and for training the same
        done = cli("build", tmp_path / "rows.yaml", "--weights", tmp_path / "x.pth", "-o", tmp_path / "y.safetensors")
        assert done.code == code, done.err
        assert ("nothing was loaded" in done.err) == (code == 2)


def test_a_file_named_by_the_user_is_compared_and_not_edited(cli, tmp_path, network):
    save_model(network, ROWS, tmp_path / "x.pt", activation(nn.ReLU))
    command = [
        "weights",
        "import",
        tmp_path / "x.pt",
        "-o",
        tmp_path / "x.safetensors",
        "--model",
        tmp_path / "rows.yaml",
    ]
    done = cli(*command)
    assert (done.code, "model.0.act is a nn.ReLU() in the file, a SiLU in the network" in done.err) == (2, True), (
        done.err
    )
    (tmp_path / "rows.yaml").write_text(json.dumps({**ROWS, "imgsz": 64, "activation": "nn.ReLU()"}))
    assert cli(*command).code == 0


@pytest.mark.parametrize(
    ("kind", "child"),
    [("DataParallel", "module"), ("DistributedDataParallel", "module"), ("OptimizedModule", "_orig_mod")],
)
def test_a_wrapped_model_is_imported_like_the_one_inside(cli, tmp_path, network, kind, child):
    save_model(network, ROWS, tmp_path / "x.pt", wrap=(kind, child))
    done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors", "--strict")
    assert done.code == 0, done.err
    found = netbuild.build(tmp_path / "x.safetensors").eval()
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(found(x)[0], network(x)[0])


def test_a_fused_checkpoint_is_refused_and_bad_numbers_are_said(cli, tmp_path, network):
    def fuse(model):
        for module in model.modules():
            if "bn" in module._modules:
                parts = module.conv.weight, module.conv.bias
                norm = module._modules.pop("bn")
                numbers = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                module.conv.weight, module.conv.bias = nn.utils.fusion.fuse_conv_bn_weights(*parts, *numbers)

    save_model(network, ROWS, tmp_path / "x.pt", fuse)
    done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors")
    assert (done.code, "the checkpoint is fused" in done.err, "model.0.conv" in done.err) == (2, True, True)
    with torch.no_grad():
        network.model[0].conv.weight[0, 0, 0, 0] = torch.inf
    save_model(network, ROWS, tmp_path / "x.pt")
    done = cli("weights", "import", tmp_path / "x.pt", "-o", tmp_path / "x.safetensors")
    assert done.code == 0
    assert "1 tensors have values that are not finite: model.0.conv.weight" in done.out + done.err
