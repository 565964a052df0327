"""Label files of every format with impossible values: each is read, or is an error of netbuild's, never a traceback."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from netbuild.data import open_data, scan
from netbuild.errors import NetbuildError

HUGE = 2**70
VALUES = (HUGE, -HUGE, 1e308, float("nan"), None, "x" * 300, "\ud800", [], {}, True, -1, [[[]]], 1.5)
SPLITS = ("train", "val")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(path)


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))


def coco(folder: Path, part: str = "", key: str = "", value: Any = None) -> Path:
    """Write a COCO file; one key of its image, annotation, category or of the whole gets another value."""
    parts: dict[str, Any] = {
        "image": {"id": 1, "file_name": "a.png", "width": 32, "height": 32},
        "annotation": {
            "id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 8, 8], "iscrowd": 0, "area": 64,
            "segmentation": [[4, 4, 12, 4, 12, 12]], "keypoints": [5, 5, 2, 6, 6, 1],
        },
        "category": {"id": 1, "name": "a", "keypoints": ["p", "q"], "skeleton": [[1, 2]]},
    }  # fmt: skip
    parts["file"] = {
        "images": [parts["image"]], "annotations": [parts["annotation"]], "categories": [parts["category"]],
    }  # fmt: skip
    if part:
        parts[part][key] = value
    picture(folder / "a.png")
    write(folder / "coco.json", json.dumps(parts["file"]))
    return folder / "coco.json"


def yolo(folder: Path, keys: str = "names: [a]\n", rows: str | bytes = "0 .5 .5 .5 .5\n") -> Path:
    for split in SPLITS:
        picture(folder / "images" / split / "1.png")
        write(folder / "labels" / split / "1.txt", rows)
    write(folder / "data.yaml", "path: .\ntrain: images/train\nval: images/val\n" + keys)
    return folder / "data.yaml"


def voc(folder: Path, name: str = "1.png", width: Any = 32, difficult: Any = 0, left: Any = 1, text: str = "") -> Path:
    picture(folder / "JPEGImages" / "1.png")
    box = f"<bndbox><xmin>{left}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    size = f"<size><width>{width}</width><height>32</height><depth>3</depth></size>"
    thing = f"<object><name>a</name><difficult>{difficult}</difficult>{box}</object>"
    whole = f"<annotation><filename>{name}</filename>{size}{thing}</annotation>"
    write(folder / "Annotations" / "1.xml", text or whole)
    return folder


def table(folder: Path, row: str) -> Path:
    picture(folder / "a.png")
    for split in SPLITS:
        write(folder / f"{split}.csv", f"filename,xmin,ymin,xmax,ymax,class\na.png,1,1,9,9,a\n{row}\n")
    return folder


def dota(folder: Path, row: str) -> Path:
    for split in SPLITS:
        picture(folder / split / "images" / "1.png")
        write(folder / split / "labelTxt" / "1.txt", f"imagesource:GoogleEarth\ngsd:0.1\n{row}\n")
    return folder


def class_folders(folder: Path) -> Path:
    """Write a folder for each class, with a FIFO, a loop of links, a dangling link, and a folder named as a picture."""
    for split in SPLITS:
        for name in "ab":
            picture(folder / split / name / "1.png")
    os.mkfifo(folder / "train" / "a" / "pipe.png")
    os.symlink("nowhere", folder / "train" / "a" / "dangling.png")
    os.symlink(".", folder / "train" / "a" / "loop")
    (folder / "train" / "b" / "folder.png").mkdir()
    return folder


KEYS = {
    "image": ("id", "file_name", "width", "height"),
    "annotation": ("id", "image_id", "category_id", "bbox", "iscrowd", "segmentation", "area", "keypoints"),
    "category": ("id", "name", "keypoints", "skeleton"),
    "file": ("images", "annotations", "categories"),
}
MASKS = (
    {"size": [HUGE, HUGE], "counts": [1, 2]}, {"size": [32, 32], "counts": "x" * 50},
    {"size": [32, 32], "counts": [HUGE]}, {"size": [1e9, 1e9], "counts": [10**18]},
    {"size": [32, 32], "counts": "\ud800"}, {"counts": [3]}, {"size": [32], "counts": [3]},
    {"size": [32, 32], "counts": [-5, 3]}, {"size": [100_000, 100_000], "counts": "0" * 30},
    [[1]], [["a", "b"]], [[1, 2, 3]],
)  # fmt: skip
YAMLS = (
    f"nc: {HUGE}", f"names: {{{HUGE}: a}}", f"names: [a]\nkpt_shape: [{HUGE}, 3]", "names: [a]\nkpt_shape: [0, 0]",
    f"names: [a]\nkpt_shape: [2, 3]\nflip_idx: [{HUGE}, 0]",
    "names: [a]\nkpt_shape: [2, 3]\nkpt_oks_sigmas: [.inf, -1]",
    "names: [a]\nmasks_dir: [1]", f"names: [a]\nmasks_dir: masks\nlabel_mapping: {{{HUGE}: 0}}",
    f"names: [a]\nmasks_dir: {'x' * 5000}", "names: [a]\ndepth_scale: 0", f"names: [a]\ndepth_scale: {HUGE}",
    f"names: [a]\nextras: {{mask: {'[' * 900}{']' * 900}}}", f"names: {'[' * 2000}{']' * 2000}",
    f"names: [a]\nchannels: {HUGE}", f"names: [a]\npath: {'y/' * 3000}",
)  # fmt: skip
ROWS = (
    f"{HUGE} .5 .5 .5 .5\n", f"0 {HUGE} .5 .5 .5\n", "0 1e400 .5 .5 .5\n", "0 nan .5 .5 .5\n", "1e3 .5 .5 .5 .5\n",
    "0 " + " ".join([".5"] * 20_001), b"\x00\xff\xfe", b"0 .5 .5 .5 .5\x00\n", "0 " + "9" * 5000 + " .5 .5 .5\n",
)  # fmt: skip
VOCS: tuple[dict[str, Any], ...] = (
    {"name": "x" * 5000}, {"name": "a\0b"}, {"width": HUGE}, {"width": "nan"}, {"difficult": HUGE}, {"difficult": "x"},
    {"left": HUGE}, {"left": "1e400"}, {"left": "nan"},
    {"text": f"<annotation>{'<a>' * 20_000}{'</a>' * 20_000}</annotation>"},
    {"text": '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
     + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
     + "]><annotation>&j;</annotation>"},
)  # fmt: skip
TABLES = (
    "x" * 5000 + ",1,1,9,9,a", "a\0b,1,1,9,9,a", f"a.png,{HUGE},1,9,9,a", "a.png,nan,1,9,9,a", "a.png,1,1,1e400,9,a",
    '"unclosed,1,1,9,9,a', "../../../../etc/passwd,1,1,9,9,a", ",".join("a" * 100_000),
)  # fmt: skip
DOTAS = (f"1 1 9 1 9 9 1 9 plane {HUGE}", f"{HUGE} 1 9 1 9 9 1 9 plane 0", "nan 1 9 1 9 9 1 9 plane 0", "1 1 9", "")
WRITERS: dict[str, list[Callable[[Path], Path]]] = {
    **{
        f"coco-{part}-{key}": [lambda f, p=part, k=key, v=value: coco(f, p, k, v) for value in VALUES]
        for part, keys in KEYS.items()
        for key in keys
    },
    "coco-masks": [lambda f, v=value: coco(f, "annotation", "segmentation", v) for value in MASKS],
    "yolo-keys": [lambda f, v=value: yolo(f, v + "\n") for value in YAMLS],
    "yolo-rows": [lambda f, v=value: yolo(f, rows=v) for value in ROWS],
    "voc": [lambda f, v=value: voc(f, **v) for value in VOCS],
    "table": [lambda f, v=value: table(f, v) for value in TABLES],
    "dota": [lambda f, v=value: dota(f, v) for value in DOTAS],
    "class-folders": [class_folders],
}


@pytest.mark.parametrize("kind", WRITERS)
def test_impossible_values_are_read_or_refused(tmp_path, kind):
    for number, make in enumerate(WRITERS[kind]):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            data = open_data(make(folder))
            report = scan(data)
            assert report.text(80)
            report.samples(next(iter(data.splits)))
        except NetbuildError:
            continue
        except Exception as error:
            raise AssertionError(f"{kind} {number} ends in {type(error).__name__}") from error
