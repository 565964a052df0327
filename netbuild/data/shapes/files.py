"""The embedded scenes as data sets of YOLO's format or as CSV: a folder for each kind of labels, of the same pictures.

``shapes`` has polygons, class maps and depth of each picture. Class maps have one class more than the objects, the
background, so it is among the names of this set. The other sets have the labels of one task, and its names alone.
Those of whole pictures are tables: which shapes are in it, and how many objects and how far away on average.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from netbuild.data.dataset import Floats
from netbuild.data.images import pillow
from netbuild.data.shapes.outlines import CLASSES, FLIP_INDEX, LANDMARKS
from netbuild.data.shapes.placing import SIZE, make_scene
from netbuild.data.shapes.raster import join_loops
from netbuild.data.shapes.scene import Frame, SeenObject

ALL, SEGMENT, POSE, ORIENTED = "shapes", "shapes-segment", "shapes-pose", "shapes-obb"
LABELS, NUMBERS = "shapes-labels", "shapes-numbers"
OBJECT_SETS, TABLES = (ALL, SEGMENT, POSE, ORIENTED), (LABELS, NUMBERS)
SETS = (*OBJECT_SETS, *TABLES)
COUNTS = {"train": 480, "val": 120}  # pictures
DEPTH_SCALE = 1000  # numbers of the depth files for a metre
SIGMA = 0.1  # of OKS for all landmarks, which are drawn: about as for the large joints of COCO's people
LAYOUT = 3  # version of the files: increase it when what is written changes
_SEED = 1


def write_sets(folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Write the data sets, each into a folder of its name with ``data.yaml``, or ``train.csv`` and ``val.csv``.

    Args:
        folder: an empty folder.
        progress: called after each picture with the number done and the total.
    """
    total, done = sum(COUNTS.values()), 0
    for number, (split, count) in enumerate(COUNTS.items()):
        for name in SETS:
            labels = () if name in TABLES else ("labels",)
            for kind in ("images", *labels, *(("masks", "depth") if name == ALL else ())):
                (folder / name / kind / split).mkdir(parents=True)
        lines: dict[str, list[str]] = {LABELS: [",".join(("path", *CLASSES))], NUMBERS: ["path,objects,depth"]}
        for index in range(count):
            frame, stem = make_scene((_SEED, number, index)).frame(), f"{index:04}"
            _write_picture(folder, split, stem, frame)
            for name in TABLES:
                lines[name].append(f"images/{split}/{stem}.png,{table_row(name, frame)}")
            done += 1
            if progress:
                progress(done, total)
        for name in TABLES:
            _write_lines(folder / name / f"{split}.csv", lines[name])
    for name in OBJECT_SETS:
        (folder / name / "data.yaml").write_text(_describe(name), encoding="utf-8", newline="\n")


def label_row(name: str, found: SeenObject, size: tuple[int, int] = SIZE) -> str:
    """Return the row of an object in the label files of a set.

    Args:
        name: of the set.
        found: the object.
        size: width and height of the picture.
    """
    if name == ORIENTED:
        return _join(found.label, found.corners / size)
    if name == POSE:
        x1, y1, x2, y2 = found.box
        box = np.array((((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1))) / size
        seen = found.keypoints[:, 2:] > 0
        points = np.where(seen, found.keypoints / (*size, 1), 0.0)
        return _join(found.label, box) + "".join(f" {x:.6f} {y:.6f} {seen:.0f}" for x, y, seen in points.tolist())
    polygon = found.polygons[0]
    for part in found.polygons[1:]:  # a row has one polygon: parts are connected by a line that covers no area
        polygon = join_loops(polygon, part)
    return _join(found.label, (polygon / size).clip(0, 1))


def table_row(name: str, frame: Frame) -> str:
    """Return the cells of a picture in the table of a set.

    They are 1 for each class that can be seen and 0 for the others; or the number of objects and the mean depth of the
    pixels in metres.
    """
    if name == NUMBERS:
        return f"{len(frame.objects)},{frame.depth.mean():.4f}"
    there = {found.label for found in frame.objects}
    return ",".join(str(int(number in there)) for number in range(len(CLASSES)))


def _write_lines(file: Path, lines: Sequence[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _join(label: int, numbers: Floats) -> str:
    return " ".join((str(label), *(f"{number:.6f}" for number in numbers.ravel().tolist())))


def _write_picture(folder: Path, split: str, stem: str, frame: Frame) -> None:
    """Write a picture, its maps, and its label files of all sets."""
    library, first = pillow(), folder / ALL / "images" / split / f"{stem}.png"
    library.fromarray(frame.picture).save(first, compress_level=1)
    library.fromarray(frame.classes).save(folder / ALL / "masks" / split / f"{stem}.png", compress_level=1)
    depth = library.fromarray(np.rint(frame.depth * DEPTH_SCALE).astype(np.uint16))
    depth.save(folder / ALL / "depth" / split / f"{stem}.png", compress_level=1)
    for name in SETS:
        if name != ALL:
            _link(first, folder / name / "images" / split / first.name)
    for name in OBJECT_SETS:
        rows = [label_row(name, found) for found in frame.objects]
        _write_lines(folder / name / "labels" / split / f"{stem}.txt", rows)


def _link(file: Path, other: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(file, other)
    except OSError:
        shutil.copyfile(file, other)


def _describe(name: str) -> str:
    """Return the data file of a set."""
    names = (*CLASSES, "background") if name == ALL else CLASSES
    lines = ["path: .", "train: images/train", "val: images/val", f"names: [{', '.join(names)}]"]
    if name == ALL:
        lines += ["masks: masks", "depth: depth", f"depth_scale: {DEPTH_SCALE}"]
    if name == POSE:
        lines += [f"kpt_shape: [{len(LANDMARKS)}, 3]", f"flip_idx: {list(FLIP_INDEX)}"]
        lines += [f"kpt_names: [{', '.join(LANDMARKS)}]", "skeleton: [[0, 1], [0, 2], [3, 1], [3, 2]]"]
        lines += [f"kpt_oks_sigmas: {[SIGMA] * len(LANDMARKS)}"]
    return "".join(f"{line}\n" for line in lines)
