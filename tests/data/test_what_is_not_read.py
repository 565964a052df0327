"""What a data set has and netbuild does not use, or may not have meant, is said: in VOC's files, lists and tables."""

import os
import re

import numpy as np
import pytest

from netbuild import NetbuildError
from netbuild.data import open_data, scan
from netbuild.data.images import pillow


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(path, size=(40, 20), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    pillow().fromarray(pixels).save(path)


def yolo(root):
    """Two splits with two pictures each, without labels."""
    for i, split in enumerate(("train", "train", "val", "val")):
        picture(root / "images" / split / f"{i}.png", seed=i)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [bolt]\n")
    return root


def voc(root, objects):
    """A folder with one picture in VOC's layout."""
    (root / "Annotations").mkdir(parents=True)
    picture(root / "JPEGImages/a.png")
    size = "<size><width>40</width><height>20</height></size>"
    (root / "Annotations/a.xml").write_text(f"<annotation>{size}{objects}</annotation>", encoding="utf-8")
    return root


def voc_object(name, *corners):
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (("</object>", "<polygon><x1>1</x1></polygon></object>"), "not read", "1 elements <polygon> in objects"),
        (("</object>", "<part><name>head</name></part></object>"), "not read", "1 elements <part> in objects"),
        (("</object>", "<bndbox><xmin>1</xmin></bndbox></object>"), "not read", "1 further elements <bndbox>"),
        (("bndbox", "robndbox"), "no box", "the object has no <bndbox>"),
        (("</object>", "<difficult>1</difficult></object>"), "difficult", "1 objects are marked difficult"),
        (("<size>", "<filename>C:\\x\\other.jpg</filename><size>"), "filename", "names other as its picture"),
        (("<size>", "<filename>C:\\x\\a.jpg</filename><size>"), None, ""),
    ],
)
def test_voc_says_what_it_does_not_read(tmp_path, change, kind, words):
    root = voc(tmp_path, voc_object("nut", 10, 5, 30, 15))
    file = root / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace(*change))
    found = {p.kind: p.message for p in scan(open_data(root)).problems() if kind != "no box" or p.kind == "no box"}
    assert list(found) == ([kind] if kind else [])
    assert words in found.get(kind, "")


@pytest.mark.parametrize(
    ("encoding", "head"),
    [("utf-16", True), ("utf-16", False), ("iso-8859-1", True), ("gbk", True), ("utf-8-sig", False), ("utf-8", False)],
)
def test_voc_is_read_in_its_own_encoding(tmp_path, encoding, head):
    name = "猫" if encoding not in ("iso-8859-1",) else "ä"
    root = voc(tmp_path, voc_object(name, 10, 5, 30, 15))
    file = root / "Annotations" / "a.xml"
    text = file.read_text(encoding="utf-8")
    file.write_bytes(((f'<?xml version="1.0" encoding="{encoding}"?>\n' if head else "") + text).encode(encoding))
    report = scan(open_data(root))
    assert (report.dataset.names, report.problems()) == ((name,), [])


def test_voc_names_an_unknown_encoding_and_pictures_without_annotation(tmp_path):
    root = voc(tmp_path, voc_object("nut", 10, 5, 30, 15))
    (root / "Annotations" / "b.xml").write_text('<?xml version="1.0" encoding="klingon"?><annotation/>')
    picture(root / "JPEGImages/c.png", seed=5)
    words = [p.message for p in scan(open_data(root)).problems()]
    assert "the encoding 'klingon' is unknown" in words
    assert "1 pictures have no annotation file, and are left out: c.png" in words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images\\val\\4.png\n", "line 1: there is no {root}/images\\val\\4.png (write / for the backslash)"),
        ('"images/val/4.png"\n', "(write the path without quotes)"),
        ("images/val\n", "line 1: {root}/images/val is a folder"),
    ],
)
def test_a_list_without_a_picture_says_how_it_was_read(tmp_path, text, words):
    root = yolo(tmp_path)
    (root / "v.txt").write_text(text)
    data = root / "data.yaml"
    data.write_text(re.sub("(?m)^val:.*", "val: v.txt", data.read_text()))
    with pytest.raises(NetbuildError) as error:
        scan(open_data(data))
    assert words.format(root=root.resolve()) in str(error.value)


def test_pictures_that_are_listed_twice_are_noted(tmp_path):
    root = yolo(tmp_path)
    picture = next((root / "images").rglob("*.*")).relative_to(root)
    (root / "v.txt").write_text(f"{picture}\n./{picture}\n")
    data = root / "data.yaml"
    data.write_text(re.sub("(?m)^train:.*", "train: v.txt", data.read_text()))
    words = [p.message for p in scan(open_data(data)).problems()]
    assert "1 of 2 pictures are listed a second time: each is used once" in words


def test_an_annotation_that_is_a_pipe_is_not_opened(tmp_path):
    root = voc(tmp_path, voc_object("nut", 10, 5, 30, 15))
    os.mkfifo(root / "Annotations" / "b.xml")
    assert "a FIFO, not a file" in [p.message for p in scan(open_data(root)).problems()]


BOXES = "filename,xmin,ymin,xmax,ymax,class\n0.png,1,1,9,9,cat\n"


@pytest.mark.parametrize(
    ("text", "words", "task"),
    [
        ('path,label\n0.png,"cat\n1.png,dog\n', "unexpected end of data", None),
        ("path,label\n0.png,cat\0\n1.png,dog\n", "a control character in a cell", "classify"),
        ('path,label\n0.png,"c\nat"\n1.png,dog\n', "a line break or a control character in a cell", "classify"),
        ("path\tlabel\n0.png\tcat\n1.png\tdog\n", "", "classify"),
        ("path;age\n0.png;3,5\n1.png;4,5\n", "numbers with a decimal comma, such as 3,5", None),
        ("path,age\n0.png,inf\n1.png,3.5\n", "'age' is 'inf', expected a number", "regress"),
        ("path,age\n0.png,1e400\n1.png,3.5\n", "'age' is '1e400', expected a number", "regress"),
        ("path,label\n0.png,1\n1.png,3\n", "classes that occur in no line: 0, 2", "classify"),
        ("path,label\n0.png,-1\n1.png,0\n", "labels below 0, such as -1, are read as names", "classify"),
        ("path,label\n./0.png,cat\nsub\\\\1.png,dog\n", "such as sub\\1.png, are no separators here", "classify"),
        (
            BOXES + "1.png,0.1,0.1,0.5,0.5,cat\n",
            "fractions of the picture's size, where other lines have pix",
            "detect",
        ),
    ],
)
def test_what_a_table_may_not_mean_is_said(tmp_path, text, words, task):
    for i in range(2):
        picture(tmp_path / f"{i}.png", seed=i)
    (tmp_path / "a.csv").write_text(text.replace("\\\\", "\\"))
    if task is None:
        with pytest.raises(NetbuildError, match=words):
            open_data(tmp_path / "a.csv")
        return
    report = scan(open_data(tmp_path / "a.csv"))
    assert report.dataset.task == task
    found = [str(problem) for problem in report.problems()]
    assert any(words in message for message in found) if words else not found


@pytest.mark.parametrize("name", ["Cat", "cat ", "ba\u0308r"])
def test_folders_of_classes_that_differ_in_writing_alone_get_a_hint(tmp_path, name):
    right = "bär" if name.startswith("b") else "cat"
    hint = f"rename it to '{right}', as the folder in the training split is written"
    for seed, place in enumerate(("train/cat/0", "train/bär/1", "train/2", f"val/{name}/3")):
        picture(tmp_path / f"{place}.png", seed=seed)
    with pytest.raises(NetbuildError) as error:
        scan(open_data(tmp_path))
    assert error.value.hint == hint
    picture(tmp_path / "val" / ("cat" if right == "bär" else "bär") / "4.png", seed=4)
    found = {problem.kind: problem for problem in scan(open_data(tmp_path)).problems()}
    assert found["class"].hint == hint
    assert found["no class"].message == "1 pictures beside the folders of the classes are left out: 2.png"
