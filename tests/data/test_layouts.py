"""Data sets as tools and competitions leave them: what is read, left out, and refused as unclear."""

import numpy as np
import pytest
from PIL import Image

from netbuild import NetbuildError
from netbuild.data import open_data, scan

BOX = "0.5 0.5 0.25 0.5"
EXPECTED = [[1, 0.5, 0.5, 0.25, 0.5]]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("NETBUILD_CACHE", str(tmp_path_factory.mktemp("cache")))


def picture(path, seed=0):
    """A picture of 40 x 20 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


LAYOUTS = {  # place of the pictures and of the labels, and further files
    "Roboflow": ("{split}/images", "{split}/labels", {}),
    "valid": ("{valid}/images", "{valid}/labels", {"classes.txt": "bolt\nnut\n"}),
    "images first": ("images/{split}", "labels/{split}", {"labels/classes.txt": "bolt\nnut\n"}),
    "COCO's names": ("images/{split}2017", "labels/{split}2017", {}),
    "beside": ("{split}", "{split}", {"train/_darknet.labels": "bolt\nnut\n"}),
    "CVAT": ("obj_{valid}_data", "obj_{valid}_data", {"obj.names": "bolt\nnut\n", "obj.data": "classes = 2\n"}),
    "CVAT without names": ("obj_{valid}_data", "obj_{valid}_data", {"train.txt": "data/obj_train_data/a.png\n"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_yolo_labels_without_a_data_file_are_read(tmp_path, name):
    pictures, labels, files = LAYOUTS[name]
    for number, split in enumerate(("train", "val")):
        words = {"split": split, "valid": {"val": "valid"}.get(split, split)}
        picture(tmp_path / pictures.format(**words) / "a.png", number)
        write(tmp_path / labels.format(**words) / "a.txt", f"1 {BOX}\n")
    for file, text in files.items():
        write(tmp_path / file, text)
    report = scan(open_data(tmp_path)).raise_for_faults()
    assert (report.dataset.task, report.dataset.format, list(report.splits)) == ("detect", "yolo", ["train", "val"])
    for split in ("train", "val"):
        (sample,) = report.samples(split)
        np.testing.assert_array_equal(sample.boxes, EXPECTED)
    named = any("nut" in text for text in files.values())
    assert report.dataset.names == (("bolt", "nut") if named else ("class0", "class1"))
    assert [p.kind for p in report.problems()] == ([] if named else ["names"])


@pytest.mark.parametrize("places", [("images", "labels"), ("", "")], ids=["folders", "beside"])
def test_a_folder_without_splits_is_the_training_split(tmp_path, places):
    picture(tmp_path / places[0] / "a.png")
    write(tmp_path / places[1] / "a.txt", f"1 {BOX}\n")
    np.testing.assert_array_equal(scan(open_data(tmp_path)).samples("train")[0].boxes, EXPECTED)


TABLES = {
    "TensorFlow": "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,40,20,nut,15,5,25,15\n",
    "no size": "image,xmin,ymin,xmax,ymax,label\na.png,15,5,25,15,nut\n",
    "no header": "a.png,15,5,25,15,nut\n",
    "no suffix": "image_id,class_name,x_min,y_min,x_max,y_max\na,nut,15.0,5.0,25.0,15.0\n",
    "sides": "image_name,x,y,w,h,category\na.png,15,5,10,10,nut\n",
    "COCO text": 'image_id,width,height,bbox,label\na,40,20,"[15, 5, 10.0, 10]",nut\n',
    "Open Images": "ImageID,LabelName,XMin,XMax,YMin,YMax\na,nut,0.375,0.625,0.25,0.75\n",
    "centre": "filename,x_center,y_center,width,height,class\na.png,20,10,10,10,nut\n",
    "semicolons": "filename;xmin;ymin;xmax;ymax;class\na.png;15;5;25;15;nut\n",
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("folder", ["", "images"])
def test_boxes_of_csv_files(tmp_path, name, folder):
    picture(tmp_path / folder / "a.png")
    write(tmp_path / "boxes.csv", TABLES[name])
    report = scan(open_data(tmp_path / "boxes.csv")).raise_for_faults()
    assert (report.dataset.task, report.dataset.names, report.problems()) == ("detect", ("nut",), [])
    np.testing.assert_allclose(report.samples("train")[0].boxes, [[0, 0.5, 0.5, 0.25, 0.5]])


def test_faults_and_backgrounds_of_csv_boxes(tmp_path):
    picture(tmp_path / "train/a.png"), picture(tmp_path / "train/b.png", 1), picture(tmp_path / "valid/c.png", 2)
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    rows = "a.png,40,20,nut,15,5,25,15\na.png,40,20,nut,15,x,25,15\nb.png,40,20,,,,,\na.png,40,20,nut,15,5,25,15\n"
    write(tmp_path / "train/_annotations.csv", head + rows)
    write(tmp_path / "valid/_annotations.csv", head + "c.png,20,40,bolt,1,1,5,5\n")
    report = scan(open_data(tmp_path))
    assert [(p.kind, p.file.name, p.line) for p in report.problems()] == [
        ("no number", "_annotations.csv", 3),
        ("duplicate", "_annotations.csv", 5),
        ("picture size", "c.png", None),
    ]
    assert [len(sample.boxes) for sample in report.samples("train")] == [1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "image_id,label\na,cat\n",
        "id,breed\na,cat\n",
        "file,what\na.png,cat\n",
        "a.png,cat\n",
        "id_code,diagnosis\na,cat\n",
    ],
)
def test_the_header_of_a_csv_file_is_no_picture(tmp_path, text):
    picture(tmp_path / "train_images/a.png")
    write(tmp_path / "train.csv", text)
    report = scan(open_data(tmp_path)).raise_for_faults()
    assert (report.dataset.names, len(report.samples("train"))) == (("cat",), 1)


JUNK = (".ipynb_checkpoints", "__MACOSX", ".AppleDouble", "@eaDir", ".Trash-1000", "__pycache__")


@pytest.mark.parametrize("junk", JUNK)
def test_hidden_folders_at_any_depth_are_no_data(tmp_path, junk):
    for number, name in enumerate(("cat", "dog")):
        picture(tmp_path / "folders/train" / name / "a.png", number)
        picture(tmp_path / "folders/train" / name / junk / "deep/b.png", 5 + number)
    picture(tmp_path / "folders/train" / junk / "c.png")
    picture(tmp_path / "folders" / junk / "train/cat/d.png")
    picture(tmp_path / "folders/train/cat/._a.png")
    report = scan(open_data(tmp_path / "folders"))
    assert (report.dataset.names, len(report.samples("train")), report.problems()) == (("cat", "dog"), 2, [])
    for name in ("a", f"{junk}/b"):
        picture(tmp_path / f"yolo/images/{name}.png")
        write(tmp_path / f"yolo/labels/{name}.txt", f"1 {BOX}\n")
    write(tmp_path / "yolo/data.yaml", "train: images\nnames: [bolt, nut]\n")
    report = scan(open_data(tmp_path / "yolo"))
    assert (len(report.samples("train")), report.problems()) == (1, [])


@pytest.mark.parametrize(
    ("files", "readings"),
    [
        (("images/a.png", "masks/a.png"), ("images, masks", "data.yaml")),
        (("train/images/a.png", "val/images/a.png"), ("1 class (images)", "data.yaml")),
        (("JPEGImages/a.png", "SegmentationClass/a.png"), ("JPEGImages", "data.yaml")),
        (("x/a.png", "x/a.txt", "y/b.png"), ("2 classes (x, y)", "data.yaml")),
        (("one/train/cat/a.png", "two/train/cat/a.png"), ("2 classes (one, two)", "a data set of its own in 'one'")),
        (("val/cat/a.png", "valid/cat/b.png"), ("'val' is the split", "'valid' is the split")),
    ],
)
def test_what_stays_ambiguous_is_an_error_with_its_readings(tmp_path, files, readings):
    for file in files:
        picture(tmp_path / file) if file.endswith("png") else write(tmp_path / file, f"1 {BOX}\n")
    with pytest.raises(NetbuildError, match="not clear") as caught:
        open_data(tmp_path)
    for words in readings:
        assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,who,where\na.png,cat,home\n", "'who' is the class"),
        ('image,bbox,label\na.png,"[1, 2, 5, 6]",cat\n', "a box is x, y, width, height"),
        ("image,xmin,ymin,label\na.png,1,2,cat\n", "do not make up a box"),
        ("a,b,c\n1,2,3\n", "3 columns without names"),
        ("label,score\ncat,3\n", "names"),
    ],
)
def test_csv_files_whose_columns_are_unclear(tmp_path, text, words):
    picture(tmp_path / "a.png")
    write(tmp_path / "a.csv", text)
    with pytest.raises(NetbuildError, match=words):
        open_data(tmp_path / "a.csv")
