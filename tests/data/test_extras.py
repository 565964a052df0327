"""Samples with more than labels: second pictures, class maps and values, in YOLO's format, in pairs, in own formats."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from netbuild import NetbuildError
from netbuild.data import open_data, scan
from netbuild.data.dataset import Extra, Sample, Split
from netbuild.data.formats import FORMATS, data_format
from netbuild.data.formats.base import Format
from netbuild.system import plugins


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path, size=(32, 24), seed=0, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 4, (size[1], size[0], 3), dtype=np.uint8)
    numbers = values[..., 0].astype(mode) * (257 if mode == "uint16" else 1) if mode != "RGB" else values
    Image.fromarray(numbers).save(path, **options)
    return values


EXTRAS = "extras:\n  infrared: picture\n  mask: {kind: classes, folder: masks}\n  height: {kind: values, scale: 2}\n"


def yolo(root, extras=EXTRAS):
    """Three training pictures and one for validation, each with a second picture, a class map and a map of heights."""
    for split, count in (("train", 3), ("val", 1)):
        for i in range(count):
            seed = i + 10 * (split == "val")
            save(root / f"images/{split}/{i}.jpg", seed=seed)
            save(root / f"infrared/{split}/{i}.png", seed=seed + 100)
            save(root / f"masks/{split}/{i}.png", seed=seed, mode="uint8")
            save(root / f"height/{split}/{i}.png", (64, 48), seed, "uint16")
            (root / f"labels/{split}").mkdir(parents=True, exist_ok=True)
            (root / f"labels/{split}/{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [bolt, nut, pin, cap]\n{extras}")
    return root / "data.yaml"


def test_extras_are_found_read_and_stated(cli, here):
    file = yolo(here / "set")
    report = scan(open_data(file))
    assert report.problems() == []
    assert report.dataset.extras["height"] == Extra("values", 2)
    sample = report.samples("train")[1]
    assert sample.extra("infrared").shape == (24, 32, 3)
    assert sample.extra("infrared", channels=1).shape == (24, 32, 1)
    classes, height = sample.extra("mask", "classes"), sample.extra("height", "values")
    assert (classes.shape, classes.dtype, height.shape, height.dtype) == ((24, 32, 1), np.uint8, (48, 64, 1), np.uint16)
    assert (np.unique(height) == np.arange(4) * 257).all()
    with pytest.raises(NetbuildError, match="no extra 'thermal', there is: infrared, mask, height"):
        sample.extra("thermal")
    done = cli("data", "check", file, "--json")
    assert json.loads(done.out)["extras"]["height"] == {"kind": "values", "scale": 2}
    done = cli("data", "stats", file, "-o", "pages")
    assert "3 infrared (picture), 3 mask (classes), 3 height (values)" in done.out, done.err
    assert Image.open("pages/samples_train.png").width > 4 * 96


def test_extras_are_turned_checked_and_cached_as_pictures(here, monkeypatch):
    file = yolo(here / "set")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = save(here / "set/masks/train/0.png", (24, 32), 5, "uint8", exif=exif)[..., 0]
    report = scan(open_data(file))
    assert report.problems() == []
    upright = report.samples("train")[0].extra("mask", "classes")[..., 0]
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))
    monkeypatch.setattr("netbuild.data.scan_cache.inspect_image", None)  # nothing is decoded again
    assert scan(open_data(file)).to_dict() == report.to_dict()
    monkeypatch.undo()
    monkeypatch.setenv("NETBUILD_CACHE", str(here / "cache"))
    save(here / "set/masks/train/0.png", (24, 32), 5, "uint8")
    (here / "set/masks/train/1.png").unlink()
    (here / "set/infrared/train/2.png").write_bytes(b"text")
    save(here / "set/masks/val/0.png", seed=3)
    report = scan(open_data(file))
    assert [(p.kind, p.weight, p.drops) for p in report.problems("label", "picture")] == [
        ("extra", "label", "picture"), ("extra size", "label", "picture"), ("unreadable", "picture", "picture"),
        ("mask colours", "label", "picture"),
    ]  # fmt: skip
    said = report.text()
    assert "mask is 24 x 32, its picture is 32 x 24: it must be of the same size" in said
    assert "there is no 'mask': looked for" in said
    assert "2.png: infrared: not a picture" in said
    assert "0.png: mask: has 3 channels, a map of numbers has one" in said
    assert len(report.samples("train")) == 0


@pytest.mark.parametrize(
    ("extras", "said"),
    [
        ("extras: [mask]", "extras must be a mapping such as mask: classes, not a list"),
        ("extras: {mask: labels}", "the kind of an extra is one of picture, classes, values, not 'labels'"),
        ("extras: {mask: {kind: classes, scale: 0}}", "scale must be a whole number above 0, not 0"),
        ("extras: {mask: {sort: classes}}", "unknown key 'sort'"),
    ],
)
def test_faults_of_the_entry_extras(here, extras, said):
    with pytest.raises(NetbuildError, match=said) as caught:
        open_data(yolo(here / "set", extras))
    assert caught.value.where.line == 4


def pairs(root, scale=2):
    for split, count in (("train", 3), ("val", 2)):
        for i in range(count):
            save(root / split / "inputs" / "a" / f"{i}.jpg", (32, 24), i + 10 * (split == "val"))
            save(root / split / "targets" / "a" / f"{i}.png", (32 * scale, 24 * scale), i)
    return root


@pytest.mark.parametrize("scale", [1, 3])
def test_pairs(cli, here, scale):
    report = scan(open_data(pairs(here / "set", scale))).raise_for_faults()
    data, sample = report.dataset, report.samples("train")[2]
    assert (data.format, data.task, data.nc, data.extras) == ("pairs", "pairs", 0, {"target": Extra("picture", scale)})
    assert sample.path.name == "2.jpg"
    assert sample.size == (32, 24)
    assert sample.extra("target").shape == (24 * scale, 32 * scale, 3)
    done = cli("data", "check", "set")
    assert done.code == 0, done.err
    assert done.out.startswith("set: pairs, target (picture" + (", 3 times the size)" if scale == 3 else ")"))
    assert [line.split() for line in done.out.splitlines()[2:]] == [
        ["train", *"3300000"],
        ["val", *"2200000"],
    ]
    done = cli("data", "stats", "set", "-o", "pages")
    assert "train: 3 pictures, 3 target (picture)" in done.out, done.err
    assert {path.name for path in (here / "pages").iterdir()} >= {"samples_train.png", "pictures_val.png"}


def test_faults_of_pairs(cli, here):
    root = pairs(here / "set")
    (root / "train/targets/a/0.png").rename(root / "train/targets/a/9.png")
    save(root / "train/inputs/a/1.png")
    save(root / "train/targets/a/2.png", (65, 48))
    done = cli("data", "check", root)
    assert done.code == 2
    for said in (
        "0.jpg: there is no target named a/0 in ",
        "9.png: there is no input named a/9 in ",
        "1.png: has the same name as 1.jpg, which is used",
        "2.png: target is 65 x 48, its picture is 32 x 24: it must be 2 times as large",
        "an input and its target have the same name",
    ):
        assert said in done.out, done.out
    assert cli("data", "check", root, "--lenient").code == 0
    save(root / "train/targets/a/1.png", (48, 36))
    done = cli("data", "check", root)
    assert "1.png: is 48 x 36, its input 1.jpg is 32 x 24" in done.err
    for path in (root / "train/targets/a").iterdir():
        path.unlink()
    assert "inputs: no picture has a target of the same name" in cli("data", "check", root).err


def test_a_format_is_one_class(here, monkeypatch):
    monkeypatch.setattr(FORMATS, "registered", {})
    monkeypatch.setattr(plugins, "_REGISTERED", {})
    plain = FORMATS.get("folders")

    @data_format
    class ArrayFormat(Format):
        name = "arrays"

        def recognizes(self, path):
            return path.suffix == ".npz"

        def open(self, path):
            arrays = np.load(path)

            def read():
                return Split([Sample(path, (8, 8), pixels=p, extras={"depth": d}) for p, d in zip(*arrays.values())])

            data = plain().open(here / "classes")
            extras = {"depth": Extra("values")}
            return replace(data, format=self.name, task="depth", names=(), splits={"train": read}, extras=extras)

    save(here / "classes" / "cat" / "1.png")
    np.savez(here / "set.npz", np.zeros((3, 8, 8, 3), np.uint8), np.ones((3, 8, 8), np.float32))
    report = scan(open_data(here / "set.npz")).raise_for_faults()
    assert (report.dataset.format, len(report.samples("train"))) == ("arrays", 3)
    assert report.samples("train")[0].extra("depth", "values").shape == (8, 8, 1)
    np.savez(here / "set.npz", np.zeros((3, 8, 8, 3), np.uint8), np.ones((3, 8, 9), np.float32))
    assert "depth is 9 x 8, its picture is 8 x 8" in scan(open_data(here / "set.npz")).text()
