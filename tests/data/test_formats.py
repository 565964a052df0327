"""Data formats, pictures as arrays, label files and the scan: what is read, and how errors are reported."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.real_data import DATA, needs_data
from PIL import Image

from netbuild import NetbuildError, settings
from netbuild.data import open_data, scan
from netbuild.data.formats.idx import read_idx
from netbuild.data.formats.labels import LabelFile, Rules
from netbuild.data.formats.voc import parse_xml
from netbuild.data.images import UnreadableImageError, decode, inspect_image, read_image
from netbuild.data.statistics import check, stats, stats_text
from netbuild.errors import MissingExtraError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "cache"  # one for all tests: the embedded pictures are made once
    monkeypatch.setenv("NETBUILD_CACHE", str(folder))
    return folder


def picture(path, size=(32, 24), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def yolo(root, labels, names="[bolt, nut]", more=""):
    """A data set with one training picture for each label text (None: no file) and one for validation."""
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/val").mkdir()
    for index, text in enumerate(labels):
        picture(root / f"images/train/{index}.png", seed=index)
        if text is not None:
            (root / f"labels/train/{index}.txt").write_text(text)
    picture(root / "images/val/a.png", seed=1000)
    (root / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    file = root / "data.yaml"
    file.write_text(f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n{more}")
    return file


# Pictures


def png(width, height, depth, colour, rows, *chunks):
    """A PNG by hand, for what Pillow does not write: ``rows`` are the bytes of the lines, without their filter byte."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*c) for c in chunks) + body + chunk(b"IEND", b"")


def encoded(image, form, **options):
    import io

    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


RGB = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]
TURNED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_turned_by_exif(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RGB), "PNG", exif=exif)
    expected = TURNED[orientation](RGB)
    np.testing.assert_array_equal(decode(data, "a.png"), expected)
    assert inspect_image(data, "a.png").size == (expected.shape[1], expected.shape[0])


DEEP = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1900 + 257
KINDS = {
    "grey": (encoded(Image.fromarray(GREY), "PNG"), np.repeat(GREY[..., None], 3, 2)),
    "bits": (encoded(Image.fromarray(GREY > 99), "PNG"), np.repeat((GREY > 99)[..., None], 3, 2) * 255),
    "alpha": (encoded(Image.fromarray(np.dstack([RGB, GREY])), "PNG"), RGB),
    "grey and alpha": (
        encoded(Image.fromarray(np.dstack([GREY, RGB[..., 1]]), "LA"), "PNG"),
        np.repeat(GREY[..., None], 3, 2),
    ),
    "16 bits": (png(7, 5, 16, 0, [row.astype(">u2").tobytes() for row in DEEP]), np.rint(DEEP / 257)[..., None]),
    "16 bits, TIFF": (encoded(Image.fromarray(DEEP), "TIFF"), np.rint(DEEP / 257)[..., None]),
    "16-bit colour": (png(7, 5, 16, 2, [(row.astype(">u2") * 257).tobytes() for row in RGB]), RGB),
    "palette": (
        png(2, 1, 8, 3, [b"\1\0"], (b"PLTE", bytes([10, 20, 30, 200, 100, 0])), (b"tRNS", b"\0\xff")),
        [[[200, 100, 0], [10, 20, 30]]],
    ),
    "one pixel": (encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), [[[1, 2, 3]]]),
    # Ink takes light away: full cyan leaves no red, black takes from all alike.
    "CMYK": (encoded(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), [[[0, 255, 255]]]),
    "several frames": (
        encoded(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        GREY[..., None],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_becomes_8_bits(kind):
    data, expected = KINDS[kind]
    found = decode(data, kind)
    expected = np.broadcast_to(np.asarray(expected), found.shape)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8
    facts = inspect_image(data, kind)
    assert (facts.size, facts.fault) == (found.shape[1::-1], "")
    grey = decode(data, kind, 1)
    assert grey.shape == (*found.shape[:2], 1)
    light = expected @ [0.299, 0.587, 0.114]  # ITU-R 601
    assert np.abs(grey[..., 0] - light).max() <= 1


def test_cmyk_of_a_jpeg_is_not_inverted():
    ink = Image.new("CMYK", (16, 16), (0, 200, 200, 0))
    assert np.abs(decode(encoded(ink, "JPEG", quality=95), "a.jpg").astype(int) - [255, 55, 55]).max() < 8


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"this is text\n", "not a picture"),
    "cut PNG": (KINDS["alpha"][0][:70], "cut off|broken|not a picture"),
    "cut JPEG": (encoded(Image.fromarray(np.tile(RGB, (20, 20, 1))), "JPEG")[:3000], "cut off"),
    "cut progressive JPEG": (
        encoded(Image.fromarray(np.tile(RGB, (20, 20, 1))), "JPEG", progressive=True)[:3000],
        "cut off",
    ),
    "bomb": (png(20000, 20000, 8, 2, [b""]), "too large"),
    "float": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point"),
    "32 bits": (encoded(Image.fromarray(GREY.astype(np.int32) * 70000), "TIFF"), "0..65535"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_are_not_pictures_are_reported(kind, tmp_path):
    data, words = BROKEN[kind]
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=words) as caught:
        read_image(path)
    assert str(path) in caught.value.message
    assert inspect_image(data, str(path)).fault == caught.value.message.removeprefix(f"{path}: ")


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about damaged files
def test_inspection_of_damaged_pictures_agrees_with_decoding():
    random = np.random.default_rng(0)
    large = Image.fromarray(np.tile(RGB, (4, 4, 1)))
    seeds = [encoded(large, form) for form in ("JPEG", "GIF", "BMP", "PNG", "TIFF", "PPM")] + [
        d for d, _ in KINDS.values()
    ]
    fates = {True: 0, False: 0}
    for turn in range(600):
        data = bytearray(seeds[turn % len(seeds)])
        for place in random.integers(0, len(data), 4):
            data[place] = random.integers(0, 256)
        facts = inspect_image(bytes(data), "a")
        try:
            size = decode(bytes(data), "a").shape[1::-1]
        except UnreadableImageError:
            size = None
        assert facts.size == size
        fates[size is None] += 1
    assert min(fates.values()) > 50


def test_remarks_on_pictures():
    assert "2 frames" in inspect_image(KINDS["several frames"][0], "a").remark
    assert "dark" in inspect_image(encoded(Image.fromarray(DEEP // 64), "TIFF"), "a").remark
    with pytest.raises(NetbuildError, match="not 2"):
        read_image("a.png", 2)


# Label files

LABELS = [  # text, (kind, line, words, what is dropped)...
    ("0 0.5 0.5 0.2 0.2\n\n 1\t0.5 0.5 0.2 0.2 \n",),
    ("0 0.5 0.5 0.2", ("columns", 1, "4 columns, needs 5", "box")),
    ("0 0.5 0.5 0.2 0.2 0.9", ("columns", 1, "6 columns", "box")),
    ("0,0.5,0.5,0.2,0.2", ("separator", 1, "commas", "box")),
    ("nut 0.5 0.5 0.2 0.2", ("no number", 1, "'nut' is not a number", "box")),
    ("\n0 0.5 nan 0.2 0.2", ("nan", 2, "'nan'", "box")),
    ("0 0.5 0.5 0_1 0.2", ("no number", 1, "'0_1'", "box")),
    ("1e300 0.5 0.5 0.1 0.2", ("class range", 1, "class 1e+300 is outside", "box")),
    ("0 0.5 inf 0.2 0.2", ("nan", 1, "'inf'", "box")),
    ("2 0.5 0.5 0.2 0.2", ("class range", 1, "class 2 is outside 0..1 (2 names)", "box")),
    ("-1 0.5 0.5 0.2 0.2", ("class range", 1, "class -1", "box")),
    ("0.5 0.5 0.5 0.2 0.2", ("class", 1, "whole number", "box")),
    ("0 1.02 0.5 0.2 0.2", ("outside", 1, "centre x 1.02 > 1", "box")),
    ("0 0.5 -0.01 0.2 0.2", ("outside", 1, "centre y -0.01 < 0", "box")),
    ("0 32 32 20 20", ("pixels", 1, "32 32 20 20 look like pixels", "box")),
    ("0 0.5 0.5 0 0.2", ("size", 1, "width 0", "box")),
    ("0 0.5 0.5 1.2 0.2", ("size", 1, "width 1.2", "box")),
    ("0 0.95 0.5 0.3 0.2", ("clipped", 1, "0.1 outside", "")),
    ("0 .5 .5 .2 .2\n0 .5 .5 .2 .2", ("duplicate", 2, "repeats line 1", "box")),
    ("0 .1 .1 .9 .1 .5 .9\n1 .5 .5 .2 .2", ("mixed", 2, "1 boxes, 1 polygons", "")),
    ("0 100 100 300 100 200 300", ("pixels", 1, "look like pixels", "box")),
]


@pytest.mark.parametrize(("text", "expected"), [(text, expected) for text, *expected in LABELS])
def test_faults_of_label_files(text, expected):
    file = LabelFile(Path("1.txt"), Rules(["bolt", "nut"])).read(text)
    found = [(p.kind, p.line, p.drops) for p in file.problems]
    assert found == [(kind, line, drops) for kind, line, _, drops in expected]
    assert all(words in p.message for p, (_, _, words, _) in zip(file.problems, expected))
    rows = sum(bool(line.strip()) for line in text.splitlines())
    assert len(file.objects.rows) == rows - sum(p.drops == "box" for p in file.problems)


def test_kinds_of_label_rows():
    def read(text, shape=None):
        return LabelFile(Path("1.txt"), Rules(["a"], shape)).read(text).objects.sample(Path("1.png"), None)

    np.testing.assert_array_equal(read("0 0.2 0.3 0.3 0.4\n").boxes, [[0, 0.2, 0.3, 0.3, 0.4]])
    np.testing.assert_allclose(read("0 0.95 0.5 0.3 0.2\n").boxes, [[0, 0.9, 0.5, 0.2, 0.2]])
    shape = read("0 .1 .2 .5 .2 .3 .6\n")
    np.testing.assert_allclose(shape.boxes, [[0, 0.3, 0.4, 0.4, 0.4]])
    assert shape.outlines[0][0].shape == (3, 2)
    oriented = read("0 .9 .4 1.1 .5 .9 .6 .7 .5\n")  # a corner outside stays where it is, the box does not
    assert oriented.outlines[0][0].max() == 1.1
    np.testing.assert_allclose(oriented.boxes, [[0, 0.85, 0.5, 0.3, 0.2]])
    pose = read("0 .5 .5 .4 .4 .4 .4 2 0 0 0\n", (2, 3))
    np.testing.assert_array_equal(pose.keypoints, [[[0.4, 0.4, 2], [0, 0, 0]]])
    assert read("").boxes.shape == (0, 5)


@pytest.mark.parametrize("shape", [None, (2, 3), (1, 2)])
def test_random_text_never_gives_a_wrong_box(shape):
    random = np.random.default_rng(1)
    good = "0 1 0.5 0.1 0.9 0.3 1e-320".split()
    bad = "2 -3 1.02 100 nan inf 1e400 x , _ é \0 -0".split(" ")
    boxes = 0
    for _ in range(2000):
        words = good * 4 + list(random.choice(bad, 2))
        counts = random.choice([4, 5, 6, 8, 10], 3)
        rows = [" ".join([random.choice(["0", "1", "2"]), *random.choice(words, count)]) for count in counts]
        sample = (
            LabelFile(Path("a.txt"), Rules(["a", "b"], shape)).read("\n".join(rows)).objects.sample(Path("a.png"), None)
        )
        _, x, y, w, h = sample.boxes.T
        assert np.isfinite(sample.boxes).all()
        assert set(sample.boxes[:, 0]) <= {0, 1}
        assert ((w > 0) & (h > 0)).all()
        edges = np.concatenate([x - w / 2, y - h / 2, 1 - x - w / 2, 1 - y - h / 2])
        assert (edges >= -1e-12).all()
        assert len(sample.outlines) in (0, len(x))
        assert sample.keypoints is None or len(sample.keypoints) == len(x)
        boxes += len(x)
    assert boxes > 100


# The scan


def test_counts_and_dropped_samples_of_a_scan(tmp_path):
    ok = "0 0.5 0.5 0.2 0.2\n"
    file = yolo(tmp_path, [ok, "", None, " \n\n", ok + "7 0.5 0.5 0.2 0.2\n", "2 0.5 0.5 0.2 0.2\n"])
    broken = tmp_path / "images/train/9.jpg"
    broken.write_bytes(b"nothing")
    (tmp_path / "labels/train/lost.txt").write_text(ok)
    report = scan(open_data(file))
    counts = {"pictures": 5, "labelled": 2, "missing": 1, "empty": 2, "objects": 2}
    assert report.splits["train"].counts == {**counts, "dropped_pictures": 2, "dropped_boxes": 2}
    assert [sample.path.name for sample in report.samples("train")] == [f"{i}.png" for i in range(5)]
    assert all(sample.size == (32, 24) for sample in report.samples("train"))
    kinds = {problem.kind: problem for problem in report.problems()}
    assert kinds.keys() == {"class range", "unreadable", "no picture", "nothing left", "no labels"}
    assert kinds["unreadable"].file == broken
    assert json.loads(json.dumps(report.to_dict()))["splits"]["train"]["dropped_boxes"] == 2
    for words in ("labels/train/4.txt:2: class 7 is outside 0..1", "drops the box", "9.jpg: not a picture", "missing"):
        assert words in report.text()
    with pytest.raises(NetbuildError, match="train: 2 label errors in 2 of 7 files"):
        report.raise_for_faults()
    assert report.raise_for_faults(lenient=True) is report
    with pytest.raises(NetbuildError, match="train: 1 unreadable picture in 1 of 7 files"):
        report.raise_for_faults(lenient=True, strict=True)


@pytest.mark.parametrize(("classes", "hinted"), [((1, 2), True), ((0, 2), False), ((1, 3), False)])
def test_classes_counted_from_1_get_a_hint(tmp_path, classes, hinted):
    report = scan(open_data(yolo(tmp_path, [f"{c} 0.5 0.5 0.2 0.2\n" for c in classes])), splits=["train"])
    assert any("subtract 1" in problem.hint for problem in report.problems()) == hinted


def test_training_data_without_any_box_is_refused(tmp_path):
    file = yolo(tmp_path, ["", None])
    _, faults = check(file)
    assert "0 boxes in 2 training pictures" in faults[0].message
    assert str(tmp_path / "images/train/0.png") in faults[0].message
    assert str(tmp_path / "labels/train/0.txt") in faults[0].message
    assert check(file, allow_empty=True)[1] == []


def test_labels_beyond_the_networks_classes(tmp_path):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n1 .5 .5 .2 .2\n"])
    report = scan(open_data(file), nc=1, splits=["train"])
    (problem,) = report.problems()
    assert (problem.kind, problem.line, problem.drops) == ("class range", 2, "box")
    assert report.samples("train")[0].boxes[:, 0].tolist() == [0]


def test_folders_beyond_the_networks_classes(tmp_path):
    for index, name in enumerate(("a", "b", "c")):
        picture(tmp_path / "train" / name / "1.png", seed=index)
    told = []
    report = scan(open_data(tmp_path), nc=2, progress=lambda *args: told.append(args))
    assert [(p.kind, p.drops, p.file.name) for p in report.problems()] == [("class range", "picture", "c")]
    assert [sample.label for sample in report.samples("train")] == [0, 1]
    assert told == [("train", 1, 2), ("train", 2, 2)]


def test_escape_sequences_of_files_do_not_reach_the_terminal(tmp_path):
    report = scan(open_data(yolo(tmp_path, ["\x1b[2J 0 0 0 0\n"])))
    assert "is not a number" in report.text()
    assert "\x1b" not in report.text()


def test_pictures_of_unknown_formats_are_noted(tmp_path):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"])
    (tmp_path / "images/train/phone.HEIC").write_bytes(b"")
    (problem,) = scan(open_data(file)).problems()
    assert "1 files .heic" in problem.message


def test_equal_pictures_are_noted(tmp_path):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"] * 2)
    for copy in ("train/1.png", "val/a.png"):
        (tmp_path / "images" / copy).write_bytes((tmp_path / "images/train/0.png").read_bytes())
    problems = scan(open_data(file)).problems()
    assert [(p.kind, p.file.name) for p in problems] == [("duplicate picture", "1.png"), ("shared picture", "a.png")]


def test_the_scan_cache_is_used_and_never_stale(tmp_path, cache, monkeypatch):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"] * 3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    first = scan(open_data(file))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    inspected = []

    def inspect(data, name, numbers):
        inspected.append(name)
        return inspect_image(data, name, numbers)

    monkeypatch.setattr("netbuild.data.scan_cache.inspect_image", inspect)
    second = scan(open_data(file))
    assert inspected == []
    assert second.to_dict() == first.to_dict()
    stat = (tmp_path / "images/train/1.png").stat()
    data = bytearray((tmp_path / "images/train/1.png").read_bytes())
    data[60] ^= 255
    (tmp_path / "images/train/1.png").write_bytes(data)
    os.utime(tmp_path / "images/train/1.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same time and size
    assert [p.file.name for p in scan(open_data(file)).problems("picture")] == ["1.png"]
    (tmp_path / "data.yaml").write_text(file.read_text().replace("[bolt, nut]", "[bolt]"))
    (tmp_path / "labels/train/0.txt").write_text("1 .5 .5 .2 .2\n")
    assert [p.kind for p in scan(open_data(file)).problems("label")] == ["class range"]
    for kept in (cache / "pictures").iterdir():
        assert not kept.name.startswith(".")  # nothing half written
        kept.write_bytes(b"damaged")
    assert scan(open_data(file)).problems("picture")


# The data file


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("train: images/train\nnames: [a]\nnc: 2\n", 3, "nc is 2, but there are 1 names"),
        ("train: images/train\nnames: {0: a, 2: b}\n", 2, "must run from 0 to 1"),
        ("train: images/train\nnames: [a, b, a]\n", 2, "'a' occurs twice, for 0 and 2"),
        ("train: images/train\n", 1, "neither names nor nc"),
        ("names: [a]\n", 1, "names no split"),
        ("path: nowhere\ntrain: images/train\nnames: [a]\n", 1, "there is no folder {root}/nowhere"),
        ("train: images/nowhere\nnames: [a]\n", 1, "there is no {root}/images/nowhere"),
        ("train: labels/train\nnames: [a]\n", 1, "no pictures in {root}/labels/train"),
        ("train: [3]\nnames: [a]\n", 1, "not 3"),
        ("train: images/train\nnames: [a]\nkpt_shape: [17]\n", 3, "kpt_shape is"),
        ("train: images/train\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1]\n", 4, "flip_idx must have each number"),
        ("train: images/train\nnames: [a]\nflip_idx: [1, 0]\n", 3, "flip_idx has no effect without kpt_shape"),
        ("- 1\n", 1, "mapping"),
    ],
)
def test_faults_of_data_files(tmp_path, text, line, words):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"])
    file.write_text(text)
    with pytest.raises(NetbuildError) as caught:
        open_data(file).split("train")
    assert words.format(root=tmp_path) in caught.value.message
    assert caught.value.where.line == line


def test_splits_are_folders_lists_or_several_of_them(tmp_path, monkeypatch):
    yolo(tmp_path / "set", ["0 .5 .5 .2 .2\n"] * 3)
    (tmp_path / "set/some.txt").write_text("./images/train/2.png\n\nimages/train/nowhere.png\nimages/train/0.png\n")
    (tmp_path / "set/b").mkdir()
    picture(tmp_path / "set/b/x.jpg")
    (tmp_path / "set/b/x.txt").write_text("1 .5 .5 .2 .2\n")  # without a folder images, beside the picture
    file = tmp_path / "set/one.yaml"
    file.write_text("train: [some.txt, b]\nval: ../images/val\nnames: {1: nut, 0: bolt}\n")
    monkeypatch.chdir(tmp_path / "set/b")  # the working directory means nothing
    data = open_data("../one.yaml")
    assert data.names == ("bolt", "nut")
    part = data.split("train")
    assert [sample.path.name for sample in part.samples] == ["2.png", "0.png", "x.jpg"]
    assert part.samples[2].boxes[0, 0] == 1
    assert [(p.kind, p.line) for p in part.problems] == [("no picture", 3)]
    assert len(data.split("val").samples) == 1
    assert data.held_out() == "val"
    with pytest.raises(NetbuildError, match="no split 'vall'"):
        data.split("vall")


@pytest.mark.parametrize(
    ("key", "split"), [("valid", "val"), ("validation", "val"), ("testing", "test"), ("val", "val")]
)
def test_other_words_for_splits_are_read(tmp_path, key, split):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"])
    file.write_text(file.read_text().replace("val:", f"{key}:"))
    assert [*open_data(file).splits] == ["train", split]
    assert [p.kind for p in scan(open_data(file)).problems()] == (["no val"] if split == "test" else [])


def test_keys_without_effect_are_noted(tmp_path):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"], more="license: MIT\nkpt_shpae: [2, 3]\ndownload: x.zip\nfoo: 1\n")
    notes = scan(open_data(file), splits=["val"]).problems()
    assert [(p.kind, p.weight, p.line, p.hint) for p in notes] == [
        ("key", "note", 6, "did you mean 'kpt_shape'?"),
        ("key", "note", 7, "nothing is downloaded: get the data yourself"),
        ("key", "note", 8, ""),
    ]


def test_channels_and_masks_of_a_data_file(tmp_path):
    file = yolo(tmp_path, ["0 .5 .5 .2 .2\n"], more="channels: 4\nmasks: areas\n")
    for name in ("train/0", "val/a"):
        picture(tmp_path / f"areas/{name}.png")
    data = open_data(file)
    assert data.channels == 4
    assert (data.extras["mask"].kind, data.split("train").samples[0].extras["mask"]) == (
        "classes",
        tmp_path / "areas/train/0.png",
    )
    for text, words in (("channels: four\n", "channels must be"), ("valid: a\nval: b\n", "means the same as 'val'")):
        file.write_text(f"train: images/train\nnames: [a]\n{text}")
        with pytest.raises(NetbuildError, match=words):
            open_data(file)


# Other formats


def coco(root, **changes):
    picture(root / "images/train/1.png", (40, 20))
    picture(root / "images/train/2.png", (40, 20), 1)
    image = {"width": 40, "height": 20}
    data = {
        "images": [{"id": 7, "file_name": "1.png", **image}, {"id": 9, "file_name": "2.png", **image}],
        "categories": [{"id": 30, "name": "nut"}, {"id": 5, "name": "bolt"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 30,
                "bbox": [10, 5, 20, 10],
                "segmentation": [[10, 5, 30, 5, 30, 15]],
            },
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 4, 2], "segmentation": [[0, 0, 4, 0, 4, 2]]},
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations/instances_train.json").write_text(json.dumps({**data, **changes}))
    return root


def test_coco(tmp_path):
    data = open_data(coco(tmp_path))
    assert data.names == ("bolt", "nut")
    report = scan(data)
    assert [p.kind for p in report.problems()] == ["crowd"]
    first, second = report.samples("train")
    boxes = [[1, 0.5, 0.5, 0.5, 0.5], [0, 0.05, 0.05, 0.1, 0.1], [0, 0.5, 0.5, 1, 1]]
    np.testing.assert_allclose(first.boxes, boxes)
    assert first.crowd.tolist() == [False, False, True]
    np.testing.assert_allclose(first.outlines[0][0], [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]])
    assert second.boxes.shape == (0, 5)
    assert report.splits["train"].counts["empty"] == 1
    assert first.image().shape == (20, 40, 3)


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ({"category_id": 6, "bbox": [1, 1, 2, 2]}, "class range"),
        ({"category_id": 5, "bbox": [1, 1, 2]}, "columns"),
        ({"category_id": 5, "bbox": [1, 1, float("nan"), 2]}, "columns"),
        ({"category_id": 5, "bbox": [1, 1, 0, 2]}, "size"),
        ({"category_id": 5, "bbox": [60, 1, 4, 2]}, "outside"),
        ({"category_id": 5, "bbox": [1, 1, 4, 2], "image_id": 8}, "no picture"),
    ],
)
def test_faults_of_coco_annotations(tmp_path, annotation, kind):
    report = scan(open_data(coco(tmp_path, annotations=[{"id": 11, "image_id": 7, **annotation}])))
    (problem,) = report.problems("label")
    assert (problem.kind, problem.file.name, problem.drops) == (kind, "instances_train.json", "box")
    assert "annotation 11" in problem.message


def test_a_picture_of_another_size_than_stated(tmp_path):
    root = coco(tmp_path)
    picture(root / "images/train/2.png", (20, 40))
    (problem,) = scan(open_data(root)).problems("label")
    assert (problem.kind, problem.file.name, problem.drops) == ("picture size", "2.png", "picture")
    assert "EXIF" in problem.hint


def test_files_that_are_not_coco_annotations(tmp_path):
    for text, words in (
        ("{", "not JSON"),
        ("[" * 100_000, "too deeply nested|not JSON"),
        ('{"images": []}', "'annotations'"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(NetbuildError, match=words):
            open_data(tmp_path / "a.json")
    other = {"id": 1, "file_name": "elsewhere.png", "width": 1, "height": 1}
    data = open_data(coco(tmp_path, images=[other]))
    with pytest.raises(NetbuildError, match=r"its pictures .* are in none of"):
        data.split("train")


def voc(root, objects, database="", size="<size><width>40</width><height>20</height></size>"):
    (root / "Annotations").mkdir(parents=True)
    picture(root / "JPEGImages/a.png", (40, 20))
    text = f"<annotation><source><database>{database}</database></source>\n{size}\n{objects}\n</annotation>"
    (root / "Annotations/a.xml").write_text(text)
    return root


def voc_object(name, *corners):
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


@pytest.mark.parametrize("database", ["", "The VOC2007 Database"])
def test_voc(tmp_path, database):
    first = 1 if database else 0  # the challenge counts pixels from 1
    objects = voc_object("nut", 10 + first, 5 + first, 30, 15) + voc_object("bolt", first, first, 4, 2)
    report = scan(open_data(voc(tmp_path, objects, database)))
    assert report.dataset.names == ("bolt", "nut")
    assert report.problems() == []
    expected = [[1, 0.5, 0.5, 0.5, 0.5], [0, 0.05, 0.05, 0.1, 0.1]]
    np.testing.assert_allclose(report.samples("train")[0].boxes, expected)


def test_faults_of_voc(tmp_path):
    good, bad = voc_object("nut", 1, 1, 9, 9), voc_object("nut", "x", 1, 9, 9)
    root = voc(tmp_path, f"{good}\n{bad}\n{voc_object('nut', 9, 9, 9, 9)}\n{good}")
    (root / "Annotations/b.xml").write_text("<annotation>\n<object>\n</annotation>")
    picture(root / "JPEGImages/b.png", seed=5)
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/val.txt").write_text("a\nb\n")
    (root / "ImageSets/Main/nut_val.txt").write_text("a 1\nb -1\n")
    report = scan(open_data(root))
    assert list(report.splits) == ["val"]
    found = [(p.kind, p.file.name, p.line) for p in report.problems()]
    expected = [
        ("no number", "a.xml", 4),
        ("size", "a.xml", 5),
        ("duplicate", "a.xml", 6),
        ("label file", "b.xml", None),
    ]
    assert found == expected
    assert report.splits["val"].counts["dropped_pictures"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "a.xml:1: document types"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document types"),
        ("<a>\n&b;</a>", "a.xml:2: not XML"),
        ("<a>" * 100, "nested deeper"),
        ("", "not XML"),
    ],
)
def test_xml_with_entities_or_errors_is_refused(text, words):
    with pytest.raises(NetbuildError, match=words):
        parse_xml(text, "a.xml")


MOT_FAULTS = {
    "1,1,10,10,20,20,1,1,1\n1,2,10": "columns",
    "1,1,10,10,20,20,1,1,1\n1,x,10,10,20,20,1,1,1": "number",
    "1,1,10,10,20,20,1,1,1\n1.5,2,10,10,20,20,1,1,1": "number",
    "1,1,10,10,20,20,1,1,1\n1,2,10,10,0,20,1,1,1": "size",
    "1,1,10,10,20,20,1,1,1\n1,2,200,10,20,20,1,1,1": "outside",
    "1,1,10,10,20,20,1,1,1\n1,2,-5,10,20,20,1,1,1": "clipped",
    "1,1,10,10,20,20,1,1,1\n9,2,10,10,20,20,1,1,1": "no picture",
    "1,1,10,10,20,20,1,1,1\n1,2,10,10,20,20,0,1,1": "flag",
}


def write_sequence(folder, rows, frames=2, place="img1"):
    (folder / place).mkdir(parents=True)
    (folder / "gt").mkdir()
    (folder / "gt/gt.txt").write_text(rows)
    for number in range(1, frames + 1):
        Image.new("RGB", (100, 80)).save(folder / place / f"{number:06}.jpg")
    return folder


def test_sequences_of_motchallenge(tmp_path):
    write_sequence(tmp_path / "train/a", "1,7,10,20,20,40,1,2,0.5\n2,7,12,20,20,40,1,2,1\n2,3,0,0,10,8,1,1,1\n")
    write_sequence(tmp_path / "val/b", "1,1,0,0,50,40,1,1,1\n", place="frames")
    (tmp_path / "val/b/seqinfo.ini").write_text("[Sequence]\nname=b\nimDir=frames\n")
    dataset = open_data(tmp_path)
    assert (dataset.format, dataset.task, dataset.names, [*dataset.splits]) == (
        "mot",
        "detect",
        ("1", "2"),
        ["train", "val"],
    )
    report = scan(dataset)
    first, second = report.samples("train")
    assert first.boxes.tolist() == [[1, 0.2, 0.5, 0.2, 0.5]]
    assert (second.tracks.tolist(), second.video, second.boxes[:, 0].tolist()) == ([7, 3], "a", [1, 0])
    assert [len(sample.boxes) for sample in report.samples("val")] == [1, 0]
    assert second.only(np.array([False, True])).tracks.tolist() == [3]
    (tmp_path / "classes.txt").write_text("car\nperson\n")
    assert open_data(tmp_path).names == ("car", "person")
    (tmp_path / "classes.txt").write_text("car\n")
    with pytest.raises(NetbuildError, match="names 1 classes, there is an object of class 2"):
        open_data(tmp_path)
    assert open_data(write_sequence(tmp_path / "old/c", "1,1,0,0,50,40,1,-1,-1,-1\n")).names == ("object",)
    with pytest.raises(NetbuildError, match=r"no gt/gt\.txt has an object with the flag 1"):
        open_data(write_sequence(tmp_path / "none/d", "1,1,0,0,50,40,0,1,1\n"))


@pytest.mark.parametrize(("rows", "kind"), MOT_FAULTS.items(), ids=MOT_FAULTS.values())
def test_faults_of_tracks(tmp_path, rows, kind):
    report = scan(open_data(write_sequence(tmp_path / "a", rows)), splits=["train"])
    problems = [problem for problem in report.problems() if problem.kind == kind]
    assert [problem.kind for problem in problems] == [kind]
    assert kind == "flag" or problems[0].line == 2
    assert len(report.samples("train")[0].boxes) == (2 if kind == "clipped" else 1)


def test_folders_of_classes(tmp_path):
    for split, classes in (("train", ("0", "90", "180")), ("val", ("0", "90", "more"))):
        for name in classes:
            picture(tmp_path / split / name / "a.png", seed=hash_of(split, name))
    report = scan(open_data(tmp_path))
    assert report.dataset.names == ("0", "180", "90")
    assert [sample.label for sample in report.samples("val")] == [0, 2]  # as in training, though 180 is not here
    assert [(p.kind, p.weight, p.file.name) for p in report.problems()] == [
        ("class", "label", "more"),
        ("empty class", "note", "180"),
    ]
    assert report.splits["val"].counts["dropped_pictures"] == 1
    assert open_data(tmp_path / "train").names == ("0", "180", "90")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NetbuildError, match="no folders of classes"):
        open_data(tmp_path / "nothing")


def hash_of(*words):
    return zlib.crc32("/".join(words).encode())


def idx(values):
    values = np.asarray(values, np.uint8)
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def test_mnist_files(tmp_path):
    pixels = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx([1, 4])))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(pixels[:1]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx([2]))
    report = scan(open_data(tmp_path)).raise_for_faults()
    assert (report.dataset.nc, report.dataset.held_out()) == (5, "test")
    first, second = report.samples("train")
    assert (first.label, second.label, first.size) == (1, 4, (4, 3))
    np.testing.assert_array_equal(second.image(1)[..., 0], pixels[1])
    np.testing.assert_array_equal(second.image(3)[..., 2], pixels[1])
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx([2, 3]))
    with pytest.raises(NetbuildError, match="1 pictures, but 2 labels"):
        open_data(tmp_path).split("test")


@pytest.mark.parametrize("kind", ["pictures", pytest.param("digits", marks=pytest.mark.slow)])
def test_a_data_set_states_its_augmentation(tmp_path, kind):
    """MNIST is told from Fashion-MNIST, whose files look the same, by its counts of labels, never by its path."""
    root = tmp_path / "digits-detect"
    root.mkdir()
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009] if kind == "digits" else [5] * 10
    (root / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((sum(counts), 1, 1))))
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(np.repeat(np.arange(10), counts)))
    dataset = open_data(root)
    assert dataset.augmentation == kind
    assert f"augmented as {kind}" in scan(dataset).text()
    chosen = settings.load(flags={}).with_augmentation_defaults(dataset.augmentation, dataset.task)
    assert (chosen.flip_lr, chosen.crop) == ((0.0, False) if kind == "digits" else (0.5, True))
    assert open_data("digits").augmentation == open_data("digits-detect").augmentation == "digits"
    file = yolo(root / "own", ["0 .5 .5 .5 .5\n"])
    assert open_data(file).augmentation == "pictures"
    file.write_text(file.read_text() + f"augmentation: {kind}\n")
    assert open_data(file).augmentation == kind
    file.write_text(file.read_text().replace(f"augmentation: {kind}", "augmentation: cats"))
    with pytest.raises(NetbuildError, match="augmentation must be one of pictures, digits"):
        open_data(file)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (idx([1, 2, 3])[:-1], "3 = 3 values, the file has 2"),
        (idx([1, 2, 3]) + b"\0", "the file has more"),
        (b"\0\0\x0d\x01" + bytes(8), "not an IDX file of bytes"),
        (b"\0\0\x08\x03\0\0", "cut off in its header"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "more than"),
        (b"", "begins with nothing"),
    ],
)
def test_damaged_mnist_files(tmp_path, data, words):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(NetbuildError, match=words):
        read_idx(tmp_path / "a")


def test_csv(tmp_path):
    for index in range(4):
        picture(tmp_path / f"{index}.png", seed=index)
    table = tmp_path / "all.csv"
    table.write_text(
        "image,label,split\n0.png,dog,train\n1.png,cat,val\n2.png,dog\n3.png,cat,later\n,cat,train\n0.png,cat,train\n"
    )
    report = scan(open_data(table))
    assert report.dataset.names == ("cat", "dog")
    assert [(p.kind, p.line, p.drops) for p in report.problems()] == [
        ("columns", 4, "picture"),
        ("columns", 5, "picture"),
        ("columns", 6, "picture"),
        ("duplicate", 7, "picture"),
    ]
    assert [s.label for s in report.samples("train") + report.samples("val")] == [1, 0]
    (tmp_path / "train.csv").write_text('"0.png";3\n1.png;0\n')
    (tmp_path / "test.csv").write_text("2.png;1\n")
    data = open_data(tmp_path)
    assert (data.names, list(data.splits)) == (("0", "1", "2", "3"), ["train", "test"])
    assert [sample.label for sample in data.split("train").samples] == [3, 0]


@pytest.mark.parametrize("name", ["nowhere.yaml", "digit", "a.bin"])
def test_paths_that_are_not_data_sets(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(NetbuildError, match=r"(no|not a) data set|did you mean 'digits'"):
        open_data(name)


# Embedded data sets


def test_digits():
    report = scan(open_data("digits")).raise_for_faults()
    assert {name: split.counts["pictures"] for name, split in report.splits.items()} == {"train": 1437, "test": 360}
    first = report.samples("train")[0]
    assert (first.label, first.size, first.image(1).max()) == (0, (8, 8), 239)  # 15 of 16


def test_digits_detect(cache):
    report = scan(open_data("digits-detect")).raise_for_faults()
    assert {name: split.counts["pictures"] for name, split in report.splits.items()} == {"train": 640, "val": 160}
    assert not report.problems()
    labels = b"".join(path.read_bytes() for path in sorted(report.dataset.root.rglob("labels/**/*.txt")))
    assert zlib.crc32(labels) == 1211349649  # the same on every machine
    classes = np.concatenate([sample.boxes[:, 0] for sample in report.samples("val")])
    assert set(classes) == set(range(10))
    for sample in report.samples("val")[:20]:
        image = sample.image(1)[..., 0].astype(float)
        for _, x, y, w, h in sample.boxes * [1, 128, 128, 128, 128]:
            inside = image[round(y - h / 2) : round(y + h / 2), round(x - w / 2) : round(x + w / 2)]
            assert abs(np.percentile(inside, [2, 98]) - np.median(image)).max() > 40  # there is ink in every box
    before = (report.dataset.root / "data.yaml").stat().st_mtime_ns
    assert open_data("digits-detect").root.stat().st_mtime_ns <= before + 10**10
    assert (report.dataset.root / "data.yaml").stat().st_mtime_ns == before  # made once


@pytest.mark.parametrize(("module", "name"), [("sklearn.datasets", "digits"), ("PIL", "digits-detect")])
def test_missing_packages_are_named_with_their_extra(monkeypatch, tmp_path, module, name):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        open_data(name)
    assert "netbuild[train]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# What the commands use


def test_statistics(tmp_path):
    file = yolo(tmp_path, ["0 .5 .5 .5 .5\n1 .25 .5 .25 .25\n", "1 .5 .5 1 1\n", None])
    found = json.loads(json.dumps(stats(file)))
    train = found["splits"]["train"]
    assert train["classes"] == [
        {"name": "bolt", "objects": 1, "pictures": 1},
        {"name": "nut", "objects": 2, "pictures": 2},
    ]
    assert train["boxes"]["width"] == {"min": 8, "q25": 12, "median": 16, "q75": 24, "max": 32}
    assert train["boxes"]["areas"] == {"small": 3, "medium": 0, "large": 0}
    assert train["boxes"]["most_in_a_picture"] == 2
    assert train["pictures"]["common"] == [{"width": 32, "height": 24, "count": 3}]
    text = stats_text(found)
    assert "train: 3 pictures, 3 objects" in text
    assert "nut" in text


def test_importing_data_loads_no_torch():
    code = (
        "import sys, netbuild.data, netbuild.data.statistics; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "False"]


@needs_data
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("bccd", {"train": 2804, "val": 1137, "test": 945}),
        ("bccd/annotations/instances_train.json", {"train": 2804}),
        ("coco128", {"train": 929, "val": 898}),
        ("coco8-seg", {"train": 13, "val": 17}),
        ("coco8-pose", {"train": 7, "val": 14}),
        ("dota8", {"train": 125, "val": 8}),
        ("imagenet10", {"train": 10, "val": 10}),
        ("mnist5k", {"train": 4000, "test": 1000}),
    ],
)
def test_real_data_sets(name, counts):
    report = scan(open_data(DATA / name)).raise_for_faults(strict=True)
    assert {split: found.counts["objects"] for split, found in report.splits.items()} == counts


def test_data_without_pictures_for_validation_are_an_error_with_a_hint(tmp_path):
    (tmp_path / "ages.csv").write_text("image,age,height\na.png,30,1.7\n")
    with pytest.raises(NetbuildError, match="neither a split 'val' nor 'test'; there is: train") as caught:
        open_data(tmp_path / "ages.csv").held_out()
    assert "the column split of a CSV file" in caught.value.hint
