"""Pictures of kernels, feature maps and activation functions, as drawn and as written by `netbuild view`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import needs_browser
from PIL import Image
from torch import nn

import netbuild
from netbuild.author.seeing import kernels, maps, tiles
from netbuild.author.seeing.activations import find_activations, is_activation
from netbuild.author.seeing.kernels import draw_weights
from netbuild.author.seeing.maps import draw_map
from netbuild.author.seeing.places import find_place
from netbuild.author.seeing.view import draw_views
from netbuild.errors import NetbuildError

PICTURE = Path(netbuild.__file__).with_name("export") / "pictures" / "strip.jpg"
NETWORKS = {"yolo11n.yaml": 64, "lenet5.yaml": None, "vit-b-16.yaml": 32, "yolov10n.yaml": 64}


@pytest.fixture(scope="module")
def lenet():
    return netbuild.build("lenet5.yaml")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "lenet5.yaml" else pytest.mark.slow) for name in NETWORKS]
)
def test_every_row_is_drawn(name):
    network = netbuild.build(name, imgsz=NETWORKS[name])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = draw_views(network, PICTURE)
    assert {view.row for view in found if view.kind.startswith("maps")} == set(range(len(network.model)))
    assert len({view.name for view in found}) == len(found)
    assert network.training  # the mode is restored
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_map_shows_the_rows_output(lenet):
    """A channel's largest value is light, its smallest dark, and the tiles are in the order of the channels."""
    outputs = []
    handle = lenet.model[0].register_forward_hook(lambda m, i, o: outputs.append(o[0]))
    with torch.no_grad():
        lenet.eval()(maps.load_input(lenet, PICTURE))
    handle.remove()
    image, description = draw_map(outputs[0].numpy())
    count, h, w = outputs[0].shape
    assert description.startswith(f"{count} maps of {h}x{w}")
    times = tiles.MAX_MAP_SIDE // h
    columns = (image.shape[1] - tiles.GAP) // (w * times + tiles.GAP)
    for channel in range(count):
        top, left = (tiles.GAP + i * (h * times + tiles.GAP) for i in divmod(channel, columns))
        tile = image[top : top + h * times : times, left : left + w * times : times].astype(int)
        y, x = divmod(int(outputs[0][channel].argmax()), w)
        assert (tile[y, x] == [253, 231, 36]).all()  # viridis' last colour
        y, x = divmod(int(outputs[0][channel].argmin()), w)
        assert (tile[y, x] == [68, 1, 84]).all()  # its first


def test_kernels_are_the_weights():
    weight = np.zeros((2, 1, 3, 3), np.float32)
    weight[0, 0, 0, 0], weight[1, 0, 2, 2] = 1, -1
    image, description = draw_weights(weight)
    assert description == "2 kernels of 3x3 over 1 channel, blue -1, white 0, red 1"
    side = kernels._tile_size((3, 3))[0]
    first, second = (image[tiles.GAP :, tiles.GAP + i * (side + tiles.GAP) :] for i in (0, 1))
    assert first[0, 0, 0] > first[0, 0, 2] + 50  # red
    assert second[side - 1, side - 1, 2] > second[side - 1, side - 1, 0] + 50  # blue
    assert (first[side // 2, side // 2] > 240).all()  # white


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((80, 3, 7, 7), "80 kernels of 7x7 over 3 channels, the first 64, as red"),
        ((8, 4, 1, 1), "8 kernels of 1x1 over 4 channels: one line per kernel"),
        ((100, 40, 3, 3), "one line per kernel, the first 32 x 16"),
        ((5, 1, 3, 5), "5 kernels of 3x5 over 1 channel,"),
        ((2000, 3000, 1, 1), "2000 kernels"),
    ],
)
def test_kernels_of_every_form(shape, expected):
    image, text = draw_weights(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert expected in text
    assert max(image.shape) <= 2000
    assert image.dtype == np.uint8


@pytest.mark.parametrize("shape", [(5,), (1,), (7, 2100), (3, 1, 1), (64, 3, 4), (2, 3, 4, 5), (1, 700, 500)])
@pytest.mark.parametrize("value", ["random", "constant", "nan"])
def test_maps_of_every_form(shape, value):
    values = np.random.default_rng(0).normal(size=shape)
    values = {"random": values, "constant": np.ones(shape), "nan": np.full(shape, np.nan)}[value]
    image, description = draw_map(values)
    assert max(image.shape) <= 1300
    assert ("constant" in description) == (value != "random" and len(shape) == 3 and min(shape[1:]) > 1)


class Squared(nn.Module):
    def forward(self, x):
        return x * x


FUNCTIONS = [nn.SiLU(), nn.ReLU(), nn.LeakyReLU(0.1), nn.GELU(), nn.Sigmoid(), nn.PReLU(), nn.Hardswish(), Squared()]
OTHERS = [nn.Identity(), nn.Dropout(), nn.Softmax(1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.LayerNorm(4)]
OTHERS += [nn.Conv2d(2, 2, 1), nn.PReLU(2), nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm2d(2), nn.AvgPool2d(3, 1, 1)]
PLACES = [("4", 4, ""), ("-1", 23, ""), ("2.cv1.conv", 2, "cv1.conv"), ("model.0.conv", 0, "conv"), ("detect", 23, "")]


@pytest.mark.parametrize("module", FUNCTIONS + OTHERS, ids=lambda m: str(m).replace(" ", ""))
def test_which_modules_are_activation_functions(module):
    assert is_activation(module) == any(module is other for other in FUNCTIONS)


def test_functions_and_their_rows(lenet, tmp_path):
    found = find_activations(netbuild.build("yolo11n.yaml", imgsz=64))
    assert list(found) == ["SiLU"]
    assert {0, 1, 23} <= set(found["SiLU"][1])
    assert not {11, 12} & set(found["SiLU"][1])  # Upsample, Concat
    (tmp_path / "own.yaml").write_text(
        'layers:\n  - [-1, 1, nn.Conv2d, [3, 4, 3]]\n  - [-1, 1, "nn.LeakyReLU", [0.1]]\n  - [-1, 1, nn.ReLU, []]\n'
    )
    found = find_activations(netbuild.build(tmp_path / "own.yaml"))
    assert {name: rows for name, (_, rows) in found.items()} == {"LeakyReLU(negative_slope=0.1)": [1], "ReLU": [2]}


@pytest.mark.parametrize(("text", "row", "path"), PLACES)
def test_places(text, row, path):
    place = find_place(netbuild.build("yolo11n.yaml", imgsz=64), text)
    assert (place.row, place.path) == (row, path)


@pytest.mark.parametrize("text", ["24", "-25", "p9", "2.cv9", "", "2..cv1"])
def test_places_that_do_not_exist(text):
    with pytest.raises(NetbuildError, match="--row"):
        find_place(netbuild.build("yolo11n.yaml", imgsz=64), text)


# -- as a user runs it ------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_pictures(cli, here):
    done = cli("view", "lenet5.yaml", "--image", PICTURE, "-o", "seen", "--json")
    assert done.code == 0, done.err
    assert "its weights are random" in done.err
    listed = json.loads(done.out)
    assert sorted(entry["file"] for entry in listed) == sorted(f"seen/{p.name}" for p in (here / "seen").iterdir())
    for entry in listed:
        with Image.open(entry["file"]) as image:
            image.load()
            assert image.format == "PNG"
    assert {entry["kind"] for entry in listed} == {"kernels", "maps", "curves"}
    again = cli("view", "lenet5.yaml", "-o", "seen")
    assert again.code == 2
    assert "the folder is not empty" in again.err


def test_one_picture(cli, here):
    done = cli(
        "view",
        "yolo11n.yaml",
        "--image",
        PICTURE,
        "--imgsz",
        "64",
        "--row",
        "2.m.0.cv1",
        "--what",
        "maps",
        "-o",
        "x.png",
    )
    assert done.code == 0, done.err
    assert "row 2 Conv m.0.cv1: 8 maps of 8x16" in done.out
    assert [p.name for p in here.iterdir()] == ["x.png"]


def test_the_same_bytes_each_time(cli, here):
    for name in ("a", "b"):
        assert cli("view", "lenet5.yaml", "--image", PICTURE, "-o", name).code == 0
    a, b = ({p.name: p.read_bytes() for p in (here / name).iterdir()} for name in ("a", "b"))
    assert a == b


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--row", "conv9"], "there is no such row"),
        (["--what", "map"], "there is no kind 'map'"),
        (["--what", "maps"], "feature maps need a picture"),
        (["--image", "missing.jpg"], "missing.jpg"),
        (["--image", "text.jpg"], "text.jpg"),
        (["--imgsz", "64"], "--imgsz has no effect without --image"),
        (["-o", "x.png"], "pictures for one file"),
        (["-o", "no/x.png"], "there is no folder no"),
        (["-o", "x.jpg"], "the output must be a folder"),
        (["--row", "1", "--what", "kernels"], "none of these rows has a convolution"),
        (["--image", str(PICTURE), "--what", "curves"], "--image has no effect without maps"),
        (["--weights", "missing.safetensors"], "missing.safetensors"),
    ],
)
def test_mistakes_are_errors(cli, here, flags, expected):
    Path("text.jpg").write_text("no picture")
    done = cli("view", "lenet5.yaml", *flags)
    assert done.code == 2, done.out
    assert expected in done.err
    assert [p.name for p in here.iterdir()] == ["text.jpg"]


def test_networks_of_several_inputs_show_their_kernels(cli, here):
    assert cli("view", "siamfc.yaml", "-o", "seen").code == 0
    done = cli("view", "siamfc.yaml", "--image", PICTURE)
    assert done.code == 2
    assert "only of networks with one image as input" in done.err


@needs_browser
def test_the_page_shows_a_rows_pictures_in_its_panel(cli, here, browser):
    done = cli("view", "lenet5.yaml", "--image", PICTURE, "-o", "seen.html")
    assert done.code == 0, done.err
    browser.open(here / "seen.html")
    browser.click("#n0")
    shown = browser.js('[...document.querySelectorAll("#panel img")].map((e) => [e.alt, e.complete, e.naturalWidth])')
    assert [alt.split(":")[0] for alt, _, _ in shown] == ["row 0 nn.Conv2d", "row 0 nn.Conv2d"]
    assert all(complete and width >= 320 for _, complete, width in shown)
    curves = browser.js('[...document.querySelectorAll("section img")].map((e) => e.alt)')
    assert [alt for alt in curves if alt.startswith("activation functions")]
    assert browser.complaints == []
