"""Networks with several inputs train, validate and are exported: features of the classes, a second picture."""

import numpy as np
import pytest
import torch
from PIL import Image

import netbuild
from netbuild import NetbuildError
from netbuild.data import open_data, scan
from netbuild.feed.inputs import find_inputs, random_embeddings
from netbuild.settings import Settings
from netbuild.tasks.detect import DetectTask
from netbuild.training.batches import dummy_batch, network_inputs, resize_batch, to_device
from netbuild.training.parts import make_loader

QUICK = ("--epochs", 1, "--imgsz", 64, "--batch", 4, "--device", "cpu", "-O", "workers=0", "-O", "plots=false")
TWO = """
nc: 2
imgsz: 64
inputs:
  image: [3]
  infrared: [1]
layers:
  - [image, 1, Conv, [16, 3, 2], colours]
  - [infrared, 1, Conv, [16, 3, 2], heat]
  - [[colours, heat], 1, Concat, [1]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1], 1, Detect, [nc]]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(TWO)
    return tmp_path


def data_set(root, extras=""):
    """Bright squares; the infrared picture is the red channel."""
    for split, count in (("train", 6), ("val", 3)):
        for folder in ("images", "labels", "infrared"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng((count, i)).integers(0, 80, (48, 64, 3), dtype=np.uint8)
            pixels[14:34, 22:42] = 230
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            Image.fromarray(pixels[..., 0]).save(root / "infrared" / split / f"{i}.png")
            (root / "labels" / split / f"{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.3125 0.4167\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [bolt, nut]\n{extras}")
    return root / "data.yaml"


@pytest.mark.slow
def test_a_network_with_texts_learns_from_a_file_of_features(cli, here):
    data = data_set(here / "set")
    np.save("classes.npy", np.random.default_rng(0).normal(size=(2, 512)))
    flags = ("--data", data, *QUICK, "-O", "class_embeddings=classes.npy")
    done = cli("train", "yolov8-worldv2n.yaml", *flags, "-o", "run")
    assert done.code == 0, done.err
    assert "random features" not in done.err
    assert f"class_embeddings: {here / 'classes.npy'}" in (here / "run/args.yaml").read_text()
    done = cli("val", "run/best.safetensors", "--data", data, "-O", "workers=0", "--json")
    assert done.code == 0, done.err
    assert "random features" not in done.err  # those of training
    # Prediction takes the features of training, too; other ones may be given from Python.
    picture, options = "set/images/val/0.png", {"device": "cpu", "conf": 0.0, "max_det": 3}
    trained, again, other = (
        next(iter(netbuild.predict("run/best.safetensors", picture, **options, **more))).records
        for more in ({}, {"inputs": [np.load("classes.npy")]}, {"inputs": [-np.load("classes.npy")]})
    )
    assert trained == again != other
    np.save("classes.npy", np.zeros((3, 512)))
    done = cli("val", "run/best.safetensors", "--data", data, "-O", "workers=0")
    assert "classes.npy: is [3, 512], the network's input is [2, 512]" in done.err
    done = cli("export", "run/best.safetensors", "-o", "net.onnx")
    assert done.code == 0, done.err
    assert "proven equal to torch" in done.out


def test_a_network_with_texts_has_random_features_without_a_file(cli, here):
    data = data_set(here / "set")
    done = cli("train", "yolov8-worldv2n.yaml", "--data", data, *QUICK, "--overfit-batch")
    assert done.err.count("the input 'text' gets random features") == 1, done.err
    assert "one batch, 1 steps" in done.out
    first, second = random_embeddings(["bolt", "nut"], 8), random_embeddings(["nut", "bolt"], 8)
    assert torch.equal(first, second.flip(0))
    assert not torch.allclose(first[0], first[1])


@pytest.mark.slow
def test_yoloe_learns_from_a_file_of_features(cli, here):
    data = data_set(here / "set")
    np.save("classes.npy", np.random.default_rng(0).normal(size=(2, 512)))
    done = cli("train", "yoloe-v8n.yaml", "--data", data, *QUICK, "-O", "class_embeddings=classes.npy", "-o", "run")
    assert done.code == 0, done.err
    done = cli("predict", "run/best.safetensors", "set/images/val/0.png", "--conf", 0, "--max-det", 3, "-o", "found")
    assert done.code == 0, done.err
    done = cli("export", "run/best.safetensors", "-o", "net.onnx")
    assert "proven equal to torch" in done.out, done.err


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_a_second_picture_is_augmented_as_the_first(here, scale):
    report = scan(open_data(data_set(here / "set", "extras: {infrared: picture}\n")))
    network = netbuild.build("two.yaml")
    chosen = Settings(batch=2, workers=0, epochs=20, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0).with_augmentation_defaults(
        "pictures", "detect"
    )
    task = DetectTask(network.model[-1], ["bolt", "nut"])
    for batch in make_loader(network, task, report, "train", chosen, True).epoch(0):
        batch = to_device(resize_batch(batch, (96, 96)) if scale else batch, torch.device("cpu"))
        image, infrared = network_inputs(task, batch, torch.channels_last)
        assert image.shape[0] == infrared.shape[0] == 2
        assert infrared.shape[1:] == (1, *image.shape[2:])
        assert image.max() <= 1
        torch.testing.assert_close(image[:, :1], infrared, atol=2 / 255, rtol=0.0)
    assert [x.shape for x in network_inputs(task, dummy_batch(network.card, 3))] == [(3, 3, 64, 64), (3, 1, 64, 64)]


def test_a_network_with_two_pictures_trains_validates_and_is_exported(cli, here):
    data = data_set(here / "set", "extras: {infrared: picture}\n")
    done = cli("train", "two.yaml", "--data", data, *QUICK, "-O", "multi_scale=0.5", "-o", "run")
    assert done.code == 0, done.err
    assert "infrared (picture)" in done.err
    done = cli("train", "--resume", "run", "-O", "epochs=2")
    assert done.code == 0, done.err
    done = cli("val", "run/best.safetensors", "--data", data, "-O", "workers=0")
    assert done.code == 0, done.err
    done = cli("export", "run/best.safetensors", "-o", "net.onnx")
    assert "proven equal to torch" in done.out, done.err


CLASSIFIER = TWO.replace("[[-1], 1, Detect, [nc]]", "[-1, 1, Classify, [nc]]").replace("nc: 2", "nc: 10")
SMALLER = TWO.replace("infrared: [1]", "infrared: [1, 32, 32]").replace("[16, 3, 2], heat", "[16, 3, 1], heat")
VECTOR = TWO.replace("infrared: [1]", "infrared: [1, 64]").replace("[infrared, 1, Conv", "[image, 1, Conv")


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        (TWO, "set", "the sample has no 'infrared', which the network needs"),
        (SMALLER, "set", "the network's input 'infrared' is [1, 32, 32]"),
        (VECTOR, "set", "no value is known for the network's input 'infrared' [1, 64]"),
        (CLASSIFIER, "digits", "samples with one class have one picture, the network also takes 'infrared'"),
    ],
    ids=["no extra", "size", "shape", "classes"],
)  # fmt: skip
def test_inputs_without_a_value_are_refused(cli, here, network, data, message):
    data_set(here / "set")
    (here / "net.yaml").write_text(network)
    flags = [flag for flag in QUICK if flag not in ("--imgsz", 64)]
    done = cli("train", "net.yaml", "--data", data, *flags, "-o", "run")
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"text", "a.npy: cannot be read"),
        ("a.txt", b"", "read from .npy and .safetensors files"),
        ("b.safetensors", b"", "b.safetensors: cannot be read"),
        ("none.npy", None, "none.npy: cannot be read: No such file"),
    ],
)
def test_files_of_features_that_cannot_be_read(here, name, content, message):
    if content is not None:
        (here / name).write_bytes(content)
    card = netbuild.build("yolov8-worldv2n.yaml", nc=2).card
    with pytest.raises(NetbuildError, match=message):
        find_inputs(card, ["bolt", "nut"], name)
    with pytest.raises(NetbuildError, match="class_embeddings has no effect"):
        find_inputs(netbuild.build("lenet5.yaml").card, ["bolt", "nut"], name)
