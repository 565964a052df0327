"""Names of classes as texts as written, and the hints for labels of other tools."""

import json

import numpy as np
import pytest
from helpers.small_networks import TINY
from PIL import Image

from netbuild import NetbuildError
from netbuild.data import open_data, scan
from netbuild.data.formats.labels import LabelFile, Rules
from netbuild.data.images import UnreadableImageError, decode
from netbuild.grammar.checkpoint_header import read_info

WRITTEN = ("007", "1e3", "null", "true", "1.0", "0x10", "~", "no", ".inf", "1_000", "2024-01-01", "été")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)


def yolo(root, names):
    for number, split in enumerate(("train", "val")):
        picture(root / f"images/{split}/a.png", number)
        (root / f"labels/{split}").mkdir(parents=True)
        (root / f"labels/{split}/a.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return root / "data.yaml"


@pytest.mark.parametrize("form", ["list", "block", "map"])
def test_names_are_texts_as_written(here, form):
    texts = {
        "list": f"[{', '.join(WRITTEN)}]",
        "block": "".join(f"\n  - {name}" for name in WRITTEN),
        "map": "".join(f"\n  {number}: {name}" for number, name in enumerate(WRITTEN)),
    }
    assert open_data(yolo(here, texts[form])).names == WRITTEN


@pytest.mark.parametrize("text", ["[a, ]\nnc: 2", "\n  - a\n  -", "{0: a, 1: }", "[a, [b]]", "{0: a, \u0661: b}"])
def test_names_that_are_none_are_errors(here, text):
    with pytest.raises(NetbuildError):
        open_data(yolo(here, text))


def test_names_of_coco_and_checkpoints_are_texts_as_written(cli, here):
    text = '{"images": [], "annotations": [], "categories": [{"id": 1, "name": 1e3}, {"id": 2, "name": "007"}]}'
    (here / "train.json").write_text(text)
    assert open_data(here / "train.json").names == ("1e3", "007")
    (here / "net.yaml").write_text(TINY)
    flags = ("--epochs", 1, "--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-o", "run")
    done = cli("train", "net.yaml", "--data", yolo(here, "[007, 1e3, null]"), *flags)
    assert done.code == 0, done.err
    assert read_info(here / "run/last.safetensors").names == ["007", "1e3", "null"]


@pytest.mark.parametrize(
    ("row", "shape", "is_hinted"),
    [
        ("0 .5 .5 .2 .2 0.9", None, True),
        ("0 .1 .1 .5 .1 .5 .5 .1 .5 0.9", None, True),
        ("0 .5 .5 .2 .2 .5 .5 2 0.9", (1, 3), True),
        ("0 .5 .5 .2 .2 7", None, False),
        ("0 .5 .5 .2", None, False),
    ],
)
def test_a_confidence_in_label_rows_is_recognised(here, row, shape, is_hinted):
    (problem,) = LabelFile(here / "a.txt", Rules(["a"], shape)).read(row).problems
    assert ("confidence" in problem.hint) == is_hinted


@pytest.mark.parametrize("word", ["\u0663", "\uff11", "\u0966", "0_1"])  # digits of other scripts, and Python's own
def test_digits_of_other_scripts_are_no_numbers(here, word):
    for row in (f"{word} 0.5 0.5 0.2 0.2", f"0 0.5 {word} 0.2 0.2"):
        (problem,) = LabelFile(here / "a.txt", Rules(["a", "b"])).read(row).problems
        assert problem.kind == "no number"
    picture(here / "a.png")
    (here / "a.csv").write_text(f"a.png,{word}\n")
    assert open_data(here / "a.csv").names == (word,)


def test_saved_labels_can_be_trained_on(cli, here):
    (here / "net.yaml").write_text(TINY)
    picture(here / "a.png")
    flags = ("--conf", 0, "--max-det", 3, "--device", "cpu")
    for kind in ("txt", "labels"):
        assert cli("predict", "net.yaml", "a.png", *flags, "--save", kind, "-o", kind).code == 0
    scored, bare = (here / kind / "labels/a.txt" for kind in ("txt", "labels"))
    assert [row.split()[:-1] for row in scored.read_text().splitlines()] == [
        row.split() for row in bare.read_text().splitlines()
    ]
    problems = LabelFile(bare, Rules(["a", "b", "c"])).read(bare.read_text()).problems
    assert {problem.weight for problem in problems} <= {"note"}
    done = cli("predict", "net.yaml", "a.png", *flags, "--save", "txt,labels")
    assert (done.code, "with and without confidence" in done.err) == (2, True)


def coco(here, **changes):
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    parts = {"image": image, "annotation": annotation, "category": {"id": 1, "name": "x"}}
    for place, value in changes.items():
        part, _, key = place.partition("__")
        parts[part] = {**parts[part], key: value}
    picture(here / "a.png")
    image, annotation, category = parts.values()
    (here / "train.json").write_text(
        json.dumps({"images": [image], "annotations": [annotation], "categories": [category]})
    )
    return here / "train.json"


@pytest.mark.parametrize("place", ["image__id", "category__id", "annotation__image_id", "annotation__category_id"])
def test_coco_ids_that_are_texts_get_a_hint(here, place):
    try:
        hints = [problem.hint for problem in open_data(coco(here, **{place: "1"})).split("train").problems]
    except NetbuildError as error:
        hints = [error.hint]
    assert any("without quotes" in hint for hint in hints)


def test_hints_for_backslashes_voc_without_size_and_other_picture_formats(cli, here):
    with pytest.raises(NetbuildError) as caught:
        open_data(coco(here, image__file_name="pictures\\a.png")).split("train")
    assert "backslashes" in caught.value.hint
    (here / "voc/Annotations").mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (here / "voc/Annotations/a.xml").write_text(f"<annotation><object><name>x</name>{box}</object></annotation>")
    picture(here / "voc/JPEGImages/a.png")
    (problem,) = scan(open_data(here / "voc")).problems()
    assert ("there is no <size>" in problem.message, "<width>" in problem.hint) == (True, True)
    for data, form in ((b"\0\0\0\x18ftypheic" + bytes(99), "HEIC"), (b"\xff\x0a" + bytes(99), "JPEG XL")):
        with pytest.raises(UnreadableImageError, match=f"{form} is not read: convert"):
            decode(data, "a.jpg")
    (here / "phone").mkdir()
    (here / "phone/a.HEIC").write_bytes(b"x")
    (here / "net.yaml").write_text(TINY)
    assert ".heic is not read" in cli("predict", "net.yaml", "phone").err


def test_a_detectors_data_file_for_a_classifier_gets_a_hint(cli, here):
    done = cli("train", "lenet5.yaml", "--data", yolo(here, "[a, b]"), "-o", "run")
    assert (done.code, "if its classes are folders, name the folder itself" in done.err) == (2, True)


def test_an_image_size_that_export_refuses_is_noted_at_training(cli, here):
    (here / "net.yaml").write_text(TINY)
    flags = ("--epochs", 1, "--device", "cpu", "-O", "workers=0", "-O", "plots=false", "-o", "run")
    done = cli("train", "net.yaml", "--data", yolo(here, "[a, b, c]"), "--imgsz", 60, *flags)
    assert "no multiple of the network's largest stride" in done.err, done.err
