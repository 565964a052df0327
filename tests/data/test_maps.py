"""Maps of classes and of depth: every form of file, mappings and scales, and every fault by its kind."""

import json

import numpy as np
import pytest
from helpers.real_data import DATA, needs_data
from PIL import Image

from netbuild import NetbuildError
from netbuild.data import open_data, scan

SIZE = (6, 4)  # width and height of the pictures
CLASSES = np.array([[0, 1, 2, 255, 0, 0]] * 4)
METRES = np.array([[0, 0.5, 1, 2.5, 40, 0.25]] * 4)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))


def make(root, values, suffix=".png", keys="masks: masks\n", folder="masks", palette=False, names="[sky, road, car]"):
    """A data set with two training pictures, the first of which has this map, and the second one without faults."""
    random = np.random.default_rng(0)
    for i in range(2):
        for place in (f"images/train/{i}.png", f"{folder}/train/{i}{suffix}"):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture = random.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / f"images/train/{i}.png")
        found = values if i == 0 else np.ones_like(values)
        if suffix == ".npy":
            np.save(root / f"{folder}/train/{i}.npy", found)
        else:
            image = Image.fromarray(found, "P" if palette else None)
            if palette:
                image.putpalette(random.integers(0, 256, 768).tolist())
            image.save(root / f"{folder}/train/{i}{suffix}")
    (root / "data.yaml").write_text(f"train: images/train\nnames: {names}\n{keys}")
    return root


def colours(values):
    """The classes as colours: 0 is red, 1 is green, 2 is grey."""
    table = np.zeros((256, 3), np.uint8)
    table[[0, 1, 2]] = ((255, 0, 0), (0, 255, 0), (128, 128, 128))
    return table[values]


IDS = "masks_dir: masks\nlabel_mapping: {7: 0, 300: 1, 9: 2, -1: 255}\n"
MASKS = {  # the file's values, and keys of the data file
    "grey": (CLASSES.astype(np.uint8), "masks_dir: masks\n", {}),
    "16 bits": (CLASSES.astype(np.uint16), "masks: masks\n", {}),
    "palette": (CLASSES.astype(np.uint8), "masks: masks\n", {"palette": True}),
    "grey as RGB": (CLASSES.astype(np.uint8)[..., None].repeat(3, 2), "masks: masks\n", {}),
    "array": (CLASSES.astype(np.int64), "masks: masks\n", {"suffix": ".npy"}),
    "mapping": (np.array([7, 300, 9, 255, 7, 7], np.uint16)[None].repeat(4, 0), IDS, {}),
    "mapping of an array": (np.array([7, 300, 9, -1, 7, 7])[None].repeat(4, 0), IDS, {"suffix": ".npy"}),
    "colours": (
        colours(CLASSES),
        "masks: masks\nlabel_mapping: {'#ff0000': 0, '0 255 0': 1, '(128,128,128)': 2, '#000000': 255}\n",
        {},
    ),
}


@pytest.mark.parametrize("form", MASKS)
def test_class_maps(tmp_path, form, cli):
    values, keys, options = MASKS[form]
    root = make(tmp_path, values, keys=keys, **options)
    if "mapping" in form or form == "colours":  # the second map is of ones, which these do not name
        for path in (root / "masks/train").glob("1.*"):
            path.write_bytes(next((root / "masks/train").glob("0.*")).read_bytes())
    report = scan(open_data(root)).raise_for_faults()
    assert report.problems() == []
    assert report.splits["train"].counts["labelled"] == 2
    found = report.samples("train")[0].extra("mask", "classes")
    assert found.dtype in (np.uint8, np.uint16)
    np.testing.assert_array_equal(found[..., 0], CLASSES)
    again = scan(open_data(root))  # from the cache
    assert again.to_dict() == report.to_dict()
    assert again.splits["train"].maps["mask"].pixels == report.splits["train"].maps["mask"].pixels
    assert report.splits["train"].maps["mask"].pixels[2] >= 4


SCALED = (METRES * 1000).astype(np.uint16)
DEPTHS = {
    "16 bits": (SCALED, "depth: depth\ndepth_scale: 1000\n", {}),
    "16 bits, another scale": ((METRES * 256).astype(np.uint16), "depth_dir: depth\ndepth_scale: 256\n", {}),
    "a folder that is found": (SCALED, "depth_scale: 1000\n", {}),
    "floats in a TIFF": (METRES.astype(np.float32), "depth: depth\n", {"suffix": ".tif"}),
    "array": (METRES, "depth: depth\n", {"suffix": ".npy"}),
    "array with a third axis": (METRES.astype(np.float16)[None], "depth: depth\n", {"suffix": ".npy"}),
    "an extra": (METRES.astype(np.float32), "extras: {depth: values}\n", {"suffix": ".npy"}),
}


@pytest.mark.parametrize("form", DEPTHS)
def test_depth_is_read_in_metres(tmp_path, form):
    values, keys, options = DEPTHS[form]
    report = scan(open_data(make(tmp_path, values, keys=keys, folder="depth", **options))).raise_for_faults()
    assert report.problems() == []
    found = report.samples("train")[0].extra("depth", "values")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0], METRES, atol=1e-6)
    assert report.splits["train"].maps["depth"].most == 40


HOLES = np.where(METRES == 40, np.nan, np.where(METRES == 2.5, -1, METRES))
EMPTY = np.zeros((4, 6))
FAULTS = {  # values, keys, options, then kind, weight, what is dropped, words of the message or the hint
    "a value without name": (
        CLASSES.astype(np.uint8) % 250,
        "masks: masks\n",
        {},
        "mask class",
        "label",
        "picture",
        "no name has (there are 3 names): 5 (4 pixels)",
    ),
    "a number that is left out": (
        CLASSES.astype(np.uint8),
        "masks: masks\n",
        {"names": "{0: sky, 1: road, 4: car}"},
        "mask class",
        "label",
        "picture",
        "2 (4 pixels)",
    ),
    "a value that is not mapped": (
        CLASSES.astype(np.uint8),
        "masks: masks\nlabel_mapping: {0: 0, 1: 1}\n",
        {},
        "mask class",
        "label",
        "picture",
        "label_mapping does not name: 2 (4 pixels)",
    ),
    "a colour that is not mapped": (
        colours(CLASSES),
        "masks: masks\nlabel_mapping: {'#ff0000': 0, '#000000': 255, '#010101': 1, '#808080': 2}\n",
        {},
        "mask class",
        "label",
        "picture",
        "'#00ff00' (4 pixels)",
    ),
    "colours": (colours(CLASSES), "masks: masks\n", {}, "mask colours", "label", "picture", "'#00ff00'"),
    "another size": (
        CLASSES.astype(np.uint8)[:, :5],
        "masks: masks\n",
        {},
        "extra size",
        "label",
        "picture",
        "mask is 5 x 4, its picture is 6 x 4",
    ),
    "not a number": (
        np.where(CLASSES == 2, np.nan, np.minimum(CLASSES, 2)),
        "masks: masks\n",
        {"suffix": ".npy"},
        "mask class",
        "label",
        "picture",
        "no name has (there are 3 names): nan (4 pixels)",
    ),
    "nothing": (np.full((4, 6), 255, np.uint8), "masks: masks\n", {}, "mask empty", "note", "", "every pixel is 255"),
    "no array": (
        np.zeros((4, 6, 2)),
        "depth: depth\n",
        {"suffix": ".npy"},
        "unreadable",
        "picture",
        "picture",
        "an array (4, 6, 2) of float64",
    ),
    "no distances": (
        HOLES,
        "depth: depth\n",
        {"suffix": ".npy"},
        "depth values",
        "note",
        "",
        "4 are negative and 4 are NaN or infinite",
    ),
    "no depth": (EMPTY, "depth: depth\n", {"suffix": ".npy"}, "depth empty", "note", "", "no pixel has a depth"),
    "no scale": (SCALED, "depth: depth\n", {}, "depth scale", "note", "", "states no depth_scale (1000)"),
    "a folder that is found": (METRES, "", {"suffix": ".npy"}, "depth", "note", "", "which the file does not name"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_maps(tmp_path, fault):
    values, keys, options, kind, weight, drops, words = FAULTS[fault]
    folder = "masks" if "masks" in keys else "depth"
    report = scan(open_data(make(tmp_path, values, keys=keys, folder=folder, **options)))
    problems = [p for p in report.problems() if p.file.stem != "1"]  # of the second map
    assert [(p.kind, p.weight, p.drops) for p in problems] == [(kind, weight, drops)], report.text()
    assert words in problems[0].message
    assert problems[0].hint or kind in ("extra size", "mask empty", "depth values", "depth empty", "unreadable")
    depth = report.samples("train")[0].extra("depth", "values") if kind == "depth values" else None
    assert depth is None or (np.isfinite(depth).all() and depth.min() == 0)


def test_of_two_masks_of_a_picture_one_is_read_and_the_other_is_noted(tmp_path):
    root = make(tmp_path, CLASSES.astype(np.uint8))
    (root / "masks/train/1.tif").write_bytes(b"another")
    (problem,) = scan(open_data(root)).problems()
    assert (problem.kind, problem.message) == ("extra twice", "its 'mask' is 1.png; 1.tif is not read")


def test_masks_of_0_and_255_are_noted_once(tmp_path):
    root = make(tmp_path, np.where(CLASSES > 0, 255, 0).astype(np.uint8))
    (root / "masks/train/1.png").write_bytes((root / "masks/train/0.png").read_bytes())
    (problem,) = scan(open_data(root)).problems()
    assert (problem.kind, problem.hint) == ("mask ignored", "is it a class? Write label_mapping: {0: 0, 255: 1}")
    (root / "data.yaml").write_text(
        "train: images/train\nnames: [sky, road]\nmasks: masks\nlabel_mapping: {0: 0, 255: 1}\n"
    )
    report = scan(open_data(root))
    assert report.problems() == []
    assert report.samples("train")[0].extra("mask", "classes").max() == 1


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("masks: 3\n", "masks must be the name of a folder"),
        ("label_mapping: {0: 0}\n", "label_mapping has no effect without masks"),
        ("masks: masks\nlabel_mapping: {0: 3}\n", "a class is a number from 0 to 2, or 255, not 3"),
        ("masks: masks\nlabel_mapping: {road: 1}\n", "'road' is no number in a mask"),
        ("masks: masks\nlabel_mapping: {0: 1, '#ff0000': 1}\n", "numbers and colours"),
        ("masks: masks\nextras: {mask: classes}\n", "extras has a mask, and masks names it again"),
        ("depth_scale: 0\n", "depth_scale must be a number above 0"),
        ("depth_scale: 1.0e-300\n", "depth_scale must be a number above 0, from 1e-06 to"),
    ],
)
def test_faults_of_the_keys_of_maps(tmp_path, keys, words):
    with pytest.raises(NetbuildError, match=words) as caught:
        open_data(make(tmp_path, CLASSES.astype(np.uint8), keys=keys))
    assert caught.value.where.line in (3, 4)


def test_depth_false_leaves_a_folder_out(tmp_path):
    root = make(tmp_path, SCALED, keys="depth: false\n", folder="depth")
    assert open_data(root).extras == {}


@pytest.mark.parametrize("network", ["yolov8n.yaml", "yolov8n-seg.yaml", "yolov8n-obb.yaml"])
def test_data_with_maps_alone_train_no_boxes(tmp_path, cli, network):
    root = make(tmp_path, CLASSES.astype(np.uint8))
    with (root / "data.yaml").open("a") as file:
        file.write("val: images/train\n")
    flags = ("--imgsz", "64", "--epochs", "1", "--device", "cpu", "-o", tmp_path / "run")
    done = cli("train", network, "--data", root, *flags)
    assert done.code != 0
    assert "has no labels of objects: its labels are mask" in done.err


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "classes"), [("camvid", 11), ("coco128/semantic.yaml", 201)])
def test_real_class_maps(name, classes):
    report = scan(open_data(DATA / name), splits=["val"])
    assert {p.kind for p in report.problems("label")} <= {"extra"}  # coco128 has masks of 100 of 128 pictures
    assert report.dataset.nc == classes
    assert len(report.samples("val")) >= 50
    assert json.dumps(report.to_dict())
