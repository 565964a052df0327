"""Networks without padding, such as U-Net: pictures fill the middle that the map covers, mirrored in the margin."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild import runtime
from netbuild.data.fitting import FITTINGS, Fitting
from netbuild.export import export
from netbuild.graph.card import make_card
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.contract import find_window, task_of
from netbuild.tasks.pictures import mirror_images
from netbuild.training.opening import choose_embedded_size

# Each cell of the map is the pixel in the middle of the 7x7 that it sees: class 1 where it is bright, else class 0.
NET = "task: semantic\nnc: 2\nch: 1\nimgsz: {size}\nlayers:\n  - [-1, 1, nn.Conv2d, {{out_channels: nc, {kernel}}}]\n"
KERNEL = "kernel_size: 7"
SIZE, WINDOW = 30, 24
QUICK = ["--device", "cpu", "-O", "workers=0", "-O", "plots=false"]


def make_network(folder, size=SIZE, kernel=KERNEL):
    (folder / "net.yaml").write_text(NET.format(size=size, kernel=kernel))
    network = netbuild.build(folder / "net.yaml")
    conv = network.model[0]
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[1, 0, 3, 3] = 8
        conv.bias.copy_(torch.tensor([4.0, 0.0]))
    return network


def write_data(folder):
    """Write pictures of bright rectangles at their borders, larger than the window, with class maps that say so."""
    shapes = ((48, 48), (48, 72), (96, 48))
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i, (h, w) in enumerate(shapes):
            classes = np.zeros((h, w), np.uint8)
            classes[: h // 4], classes[:, : w // 3], classes[-h // 4 :, -w // 4 :] = 1, 1, 1
            Image.fromarray(classes * 200).save(folder / f"images/{split}/{i}.png")
            Image.fromarray(classes).save(folder / f"masks/{split}/{i}.png")
    text = "train: images/train\nval: images/val\nmasks_dir: masks\nnames: [dark, bright]\n"
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("bright"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "size", "step", "window"), [
    ("unet.yaml", 320, 1, 132), ("unet.yaml", 316, 1, 132), ("unet-same.yaml", 256, 0, None),
    ("yolo26n-sem.yaml", 64, 0, None), ("yolo26n-depth.yaml", 64, 0, None), ("dncnn.yaml", 64, 0, None),
])  # fmt: skip
def test_the_window_is_what_the_map_covers(name, size, step, window):
    graph = open_graph(name, imgsz=size)
    assert graph.map_step == step
    if step:  # meta tensors show the map at any size
        network = Network(graph.skeleton(), make_card(graph.name, graph, graph.stride, (), graph.map_step))
        assert find_window(network, task_of(network), (size, size)) == (window, window)
        assert network.find_window((size + 16, size)) == (window + 16, window)
        with pytest.raises(netbuild.NetbuildError, match="the network fails on images of 100x100 pixels"):
            network.find_window((100, 100))


@pytest.mark.parametrize(("kernel", "step", "window"), [
    (KERNEL, 1, (24, 24)), ("kernel_size: 8, stride: 2", 2, (24, 24)),
    ("kernel_size: 8, stride: 2, padding: 3", 0, None), ("kernel_size: 2, stride: 2", 0, None),
    ("kernel_size: [7, 1]", 0, None),
])  # fmt: skip
def test_the_step_of_a_map_and_its_window(here, kernel, step, window):
    (here / "net.yaml").write_text(NET.format(size=SIZE, kernel=kernel))
    network = netbuild.build(here / "net.yaml")
    assert (network.card.map_step, network.find_window((SIZE, SIZE))) == (step, window)


@pytest.mark.parametrize(("inner", "size"), [((5, 3), (9, 9)), ((2, 7), (15, 8)), ((1, 1), (4, 3)), ((4, 4), (4, 4))])
def test_a_margin_is_the_mirrored_picture(inner, size):
    image = np.random.default_rng(0).integers(0, 256, (*inner, 3), np.uint8)
    margins = [((n - k) // 2, n - k - (n - k) // 2) for n, k in zip(size, inner, strict=True)]
    wanted = np.pad(image, (*margins, (0, 0)), mode="symmetric")
    assert np.array_equal(runtime.mirror_margin(image, size), wanted)
    batch = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    found, other = mirror_images([batch, torch.zeros(1, 2)], size)
    assert np.array_equal(found[0].numpy().transpose(1, 2, 0), wanted)
    assert other.shape == (1, 2)


@pytest.mark.parametrize("name", ["letterbox", "stretch"])
def test_a_picture_is_fitted_into_the_window(name):
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    found, place = Fitting(name, (31, 30), 32, True, "area", (24, 24)).apply(image)
    middle, wanted = FITTINGS[name](image, (24, 24), 1, False, "area")
    assert (found.shape, place) == ((31, 30, 3), wanted)
    assert np.array_equal(found[3:27, 3:27], middle)
    assert np.array_equal(found, runtime.mirror_margin(middle, (31, 30)))


def test_prediction_validation_and_exported_files_cover_the_whole_picture(here, data, cli):
    """A network that names each pixel by its brightness is right up to the borders, in torch and in its file."""
    netbuild.save(make_network(here), "net.safetensors", names=["dark", "bright"])
    assert export("net.safetensors", "net.onnx", imgsz=54).metadata["map_step"] == "1"
    for file in ("net.safetensors", "net.onnx"):
        done = cli("val", file, "--data", data, "--json", "-O", "workers=0", "--device", "cpu")
        assert done.code == 0, done.err
        # Pixels between two of the window are not seen: the border between dark and bright may be off by one.
        assert json.loads(done.out)["measures"]["mIoU"] > 0.93
    picture = data.parent / "images/val/0.png"
    truth = np.asarray(Image.open(data.parent / "masks/val/0.png"))
    for size in (SIZE, 54):  # with windows of 24 and 48 pixels; the picture has 48
        (result,) = netbuild.predict("net.safetensors", picture, imgsz=size, device="cpu")
        masks = {record["name"]: runtime.mask_of(record["mask"]) for record in result.records}
        edges = np.zeros_like(truth, bool) if size == 54 else near_edges(truth)
        assert np.array_equal(masks["bright"][~edges], truth[~edges] == 1)
    model = runtime.load("net.onnx")
    assert np.array_equal(model.map(picture), masks["bright"].astype(int))
    assert model.predict(picture)["records"] == result.records


def near_edges(classes):
    """Return the pixels (H, W) beside one of another class."""
    found = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        for step in (-1, 1):
            found |= np.roll(classes, step, axis) != classes
    return found


def test_training_learns_from_the_whole_picture(here, data, cli):
    make_network(here)
    done = cli("train", "net.yaml", "--data", data, "--epochs", 2, "-o", "run", "--batch", 2, *QUICK, "--amp", "bf16")
    assert done.code == 0, done.err
    assert "images of 30x30 pixels: pictures fill the middle 24x24 and are mirrored around it" in done.err + done.out
    assert cli("train", "--resume", "run", "--epochs", 3).code == 0
    network = netbuild.build("run/last.safetensors")
    assert network.card.map_step == 1
    done = cli("val", "run/last.safetensors", "--data", data, "-o", "val", "-O", "workers=0", "--device", "cpu")
    assert done.code == 0, done.err
    assert (here / "val/val_batch0.png").exists()


def test_the_batch_has_windows_and_the_truth_of_all_their_pixels(here, data):
    from netbuild import settings
    from netbuild.data import open_data, scan
    from netbuild.training.parts import make_samples, make_training_task

    network = make_network(here)
    report = scan(open_data(data))
    for learning in (True, False):
        chosen = settings.load(flags={"epochs": 20, "mosaic": 0.5}).with_augmentation_defaults("pictures", "detect")
        task = make_training_task(network, report, chosen)
        samples, collate = make_samples(network, task, report, "train", chosen, learning)
        batch = collate([samples.get(i, np.random.default_rng(i), 0) for i in range(3)])
        assert (batch["images"].shape, batch["mask"].shape) == ((3, 1, WINDOW, WINDOW),) * 2
        assert batch["image_size"] == (SIZE, SIZE)
        assert "image_size" not in task.targets(batch)
        (images,) = task.inputs(batch)
        assert images.shape == (3, 1, SIZE, SIZE)
        outputs = network.eval()(images)
        assert outputs.shape[2:] == (WINDOW, WINDOW)
        right = outputs.argmax(1) == batch["mask"][:, 0]
        assert right[batch["mask"][:, 0] != 255].float().mean() > 0.9
        assert task.draw_truth(batch, 0).areas  # the truth is as large as the drawn picture


def test_what_a_window_cannot_have_is_refused(here, data, cli):
    netbuild.save(make_network(here), "net.safetensors", names=["dark", "bright"])
    picture = data.parent / "images/val/0.png"
    for words, message in (
        (["train", "net.yaml", "--data", data, "-o", "no", "-O", "rect=true"], "rect has no effect on a network whose"),
        (["train", "net.yaml", "--data", data, "-o", "no", "-O", "multi_scale=0.5"], "multi_scale has no effect on a"),
        (["val", "net.safetensors", "--data", data, "-O", "rect=true"], "rect has no effect on a network whose map"),
        (["predict", "net.safetensors", picture, "--no-rect"], "on pictures that are mirrored around themselves"),
        (["export", "net.safetensors", "--dynamic", "size"], "the size cannot stay free: the network's map leaves out"),
        (["predict", "net.safetensors", picture, "--imgsz", "5"], "the network fails on images of 5x5 pixels"),
    ):
        done = cli(*words)
        assert (done.code, message in done.err) == (2, True), (message, done.err)


def test_the_embedded_scenes_are_shrunk_into_a_small_window():
    graph = open_graph("unet.yaml")
    assert choose_embedded_size(graph, "shapes") == 252
    assert open_graph("unet.yaml", imgsz=252).out_shape == [1, 2, 68, 68]
    assert choose_embedded_size(open_graph("unet.yaml", imgsz=236), "shapes") is None
    assert choose_embedded_size(open_graph("unet-same.yaml"), "shapes") == 160


def test_second_pictures_are_mirrored_too(here):
    batch = {"images": torch.zeros(1, 3, 4, 4), "inputs": (torch.ones(1, 1, 4, 4), torch.ones(1, 5, 2))}
    task = task_of(make_network(here))
    shapes = [tuple(x.shape) for x in task.inputs({**batch, "image_size": (8, 8)})]
    assert shapes == [(1, 3, 8, 8), (1, 1, 8, 8), (1, 5, 2)]
