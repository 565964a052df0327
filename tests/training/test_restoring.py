"""Restoration by the command line: train, resume, validate, predict, export, and the same without torch."""

import json

import numpy as np
import pytest
from PIL import Image

import netbuild
from netbuild import runtime, settings
from netbuild.grammar.checkpoint_header import read_info
from netbuild.training import run

NETS = {
    # SRCNN as published: it gets enlarged pictures and does not pad.
    "enlarged": """
ch: 1
imgsz: 33
task: restore
space: y
degrade: [{downscale: 2}]
layers:
  - [-1, 1, nn.Conv2d, {out_channels: 8, kernel_size: 5}]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.Conv2d, {out_channels: 1, kernel_size: 3}]
""",
    "upscaler": """
ch: 3
imgsz: 24
task: restore
degrade: [{downscale: 2}, {jpeg: [60, 90]}]
layers:
  - [-1, 1, nn.Conv2d, {out_channels: 12, kernel_size: 3, padding: 1}]
  - [-1, 1, nn.PixelShuffle, [2]]
""",
    # It subtracts noise, at half the size inside.
    "denoiser": """
ch: 3
imgsz: 32
task: restore
degrade: [{blur: 1.0}, {noise: [5, 25]}, {mask: 0.1}]
layers:
  - [-1, 1, nn.Conv2d, {out_channels: 8, kernel_size: 3, stride: 2, padding: 1}]
  - [-1, 1, nn.ReLU, []]
  - [-1, 1, nn.ConvTranspose2d, {out_channels: ch, kernel_size: 4, stride: 2, padding: 1}]
  - [[input, -1], 1, Add, []]
""",
}
QUICK = ("--device", "cpu", "-O", "workers=0", "-O", "plots=false", "--batch", 4, "-O", "patches=2")


def draw_picture(seed, size):
    """A smooth random picture (h, w, 3) of bytes: stripes of three colours."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(0.1, 0.9, (3, 3))]
    return np.rint(127 + 120 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of pictures of several sizes, and small networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    for split, sizes in (("train", [(50, 61), (48, 64), (70, 52)]), ("val", [(45, 60), (53, 51)])):
        (tmp_path / "data" / split).mkdir(parents=True)
        for i, size in enumerate(sizes):
            Image.fromarray(draw_picture((len(sizes), i), size)).save(tmp_path / f"data/{split}/{i}.png")
    for name, text in NETS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("network", "scale", "forms"),
    [
        ("upscaler", 2, {"free": ("--dynamic", "both")}),
        ("enlarged", 2, {"fixed": ()}),  # without padding a size cannot stay free
        *(
            pytest.param(*case, {"free": ("--dynamic", "both"), "fixed": ()}, marks=pytest.mark.slow)
            for case in (("denoiser", 1), ("espcn", 3), ("srcnn", 3), ("dncnn", 1), ("edsr-baseline", 2))
        ),
    ],
)
def test_train_resume_val_predict_and_export(cli, here, network, scale, forms):
    done = cli("train", f"{network}.yaml", "--data", "data", "--epochs", 1, "-o", "run", *QUICK, "-O", "patch=36")
    assert (done.code, "baseline-PSNR" in done.err) == (0, True), done.err
    done = cli("train", "--resume", "run", "--epochs", 2)
    assert done.code == 0, done.err
    checkpoint = "run/last.safetensors"
    assert netbuild.build(here / checkpoint).card.degrade
    measured = {}
    for name, flags in forms.items():
        done = cli("export", checkpoint, "-o", f"{name}.onnx", *flags)
        assert done.code == 0, done.err  # it is compared with torch
    for file in (checkpoint, *(f"{name}.onnx" for name in forms)):
        done = cli("val", file, "--data", "data", "--json", "-O", "workers=0", "--device", "cpu")
        assert done.code == 0, done.err
        measured[file] = json.loads(done.out)["measures"]
    for name in forms:  # around pictures that are smaller than a fixed size there are no zeros
        assert measured[f"{name}.onnx"] == pytest.approx(measured[checkpoint], abs=1e-3 if name == "free" else 0.3)
    done = cli("predict", checkpoint, "data/val", "-o", "out", "--save", "pictures,beside,json", "--device", "cpu")
    assert done.code == 0, done.err
    records = [picture["records"] for picture in json.loads((here / "out/results.json").read_text())["pictures"]]
    assert records[0] == [{"width": 60 * scale, "height": 45 * scale, "scale": scale}]
    found, both = (np.asarray(Image.open(here / path)).astype(int) for path in ("out/0.png", "out/beside/0.png"))
    assert found.shape == (45 * scale, 60 * scale, 3)
    np.testing.assert_array_equal(both[:, 60 * scale :], found)
    for name in forms:
        model = runtime.load(f"{name}.onnx")
        assert model.predict("data/val/0.png")["records"] == records[0]
        edge = 0 if name == "free" else 6 * scale
        inside = np.abs(model.map("data/val/0.png").astype(int) - found)[
            edge : 45 * scale - edge, edge : 60 * scale - edge
        ]
        assert inside.max() <= (1 if name == "free" else 4)  # EDSR sees further than tiles overlap
        done = cli("predict", f"{name}.onnx", "data/val/0.png", "-o", f"{name}-tiles", "--tiles", 16)
        assert (done.code, "--tiles has no effect" in done.err) == ((0, False) if name == "free" else (2, True))


def test_pairs_teach_their_scale(cli, here):
    for split in ("train", "val"):
        for path in (here / "data" / split).iterdir():
            image = Image.open(path)
            large = image.crop((0, 0, image.width // 2 * 2, image.height // 2 * 2))
            for side, picture in (("low", large.reduce(2)), ("high", large)):
                (here / "pairs" / split / side).mkdir(parents=True, exist_ok=True)
                picture.save(here / "pairs" / split / side / path.name)
    lines = [f"{split}: {{inputs: {split}/low, targets: {split}/high}}" for split in ("train", "val")]
    (here / "pairs.yaml").write_text("\n".join(["format: pictures", "path: pairs", *lines]) + "\n")
    (here / "small.yaml").write_text("extends: enlarged.yaml\ndegrade: []\n")
    done = cli("train", "small.yaml", "--data", "pairs.yaml", "--epochs", 1, "-o", "run", *QUICK, "-O", "patch=24")
    assert done.code == 0, done.err
    assert netbuild.build(here / "run/last.safetensors").card.degrade == ({"downscale": {"factor": 2}},)
    done = cli("predict", "run/last.safetensors", "pairs/val/low/0.png", "--json")
    assert json.loads(done.out)["pictures"][0]["records"] == [{"width": 60, "height": 44, "scale": 2}]


def test_val_measures_other_degradations(cli, here):
    flags = ("--data", "data/val", "--json", "-O", "workers=0", "--device", "cpu")
    values = []
    assert cli("train", "denoiser.yaml", "--data", "data", "--epochs", 1, "-o", "run", *QUICK).code == 0
    for sigma in (5, 50):
        done = cli("val", "run/best.safetensors", *flags, "-O", f"degrade=[{{noise: {sigma}}}]")
        assert done.code == 0, done.err
        values.append(json.loads(done.out)["measures"]["baseline-PSNR"])
    assert values == pytest.approx([34.15, 14.15], abs=0.3)


@pytest.mark.parametrize(
    ("network", "flags", "message"),
    [
        ("espcn.yaml", ("-O", "degrade=[{downscale: 2}]"), "its pictures were made 2 times smaller"),
        ("espcn.yaml", ("-O", "space=rgb"), "pictures of the space 'rgb' have 3"),
        ("espcn.yaml", ("-O", "restoration_loss=l3"), "there is no loss 'l3'"),
        ("espcn.yaml", ("-O", "patch=500"), "48 pixels high or wide, a patch 500"),
        ("espcn.yaml", ("-O", "mosaic=0.5"), "mosaic has no effect for the task 'restore'"),
        ("espcn.yaml", ("-O", "hsv_s=0.1"), "hsv_s has no effect for the task 'restore'"),
        ("espcn.yaml", ("-O", "multi_scale=0.5"), "multi_scale has no effect for the task 'restore'"),
        ("lenet5.yaml", ("--data", "digits", "-O", "patch=8"), "patch has no effect for the task 'classify'"),
        ("lenet5.yaml", ("--data", "digits", "-O", "degrade=[{noise: 3}]"), "degrade has no effect"),
    ],
)
def test_settings_that_do_not_fit_are_errors(cli, here, network, flags, message):
    done = cli("train", network, "--data", "data", *QUICK[:-2], *flags, "-o", "run")
    assert (done.code, message in done.err) == (2, True), done.err
    assert not (here / "run").exists()


def test_metadata_of_a_file_that_do_not_fit_are_errors(cli, here):
    import onnx

    assert cli("export", "espcn.yaml", "-o", "net.onnx", "--imgsz", 32).code == 0
    for key, value, message in [
        ("space", "rgb", "its metadata 'space' is 'rgb', its input has 1 channels"),
        ("space", "cmyk", "its metadata 'space' cannot be read"),
        ("output", "[1, 64, 64]", "its metadata 'output' or 'degrade' is wrong"),
        ("degrade", '[{"downscale": {"factor": 0}}]', "its metadata 'degrade' cannot be read"),
        ("degrade", '{"downscale": 3}', "its metadata 'degrade' cannot be read"),
        ("output", "", "its metadata has no 'output'"),
    ]:
        model = onnx.load("net.onnx")
        entry = next(item for item in model.metadata_props if item.key == key)
        entry.value = value
        onnx.save(model, "wrong.onnx")
        with pytest.raises(runtime.RunError) as caught:
            runtime.load("wrong.onnx")
        assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["srcnn", "espcn", "edsr-baseline", "dncnn"])
def test_packaged_networks_learn_from_the_embedded_pictures(cli, tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    flags = ("--epochs", 2, "--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-O", "patches=1", "--batch", 8)
    done = cli("train", f"{network}.yaml", "-o", "run", *flags, "-O", "patch=24")
    assert done.code == 0, done.err
    assert read_info(tmp_path / "run/best.safetensors").training["measures"]["PSNR"] > 15


@pytest.mark.slow
@pytest.mark.parametrize("network", ["srcnn", "espcn", "edsr-baseline", "dncnn"])
def test_packaged_networks_learn_a_batch_by_heart(here, network):
    chosen = {"epochs": 120, "batch": 2, "lr": 0.001, "workers": 0, "device": "cpu"}
    losses = run.overfit_batch(f"{network}.yaml", "data", settings.load(None, chosen))
    assert min(losses[-5:]) < 0.3 * losses[0], (losses[0], losses[-5:])
