"""The embedded scenes as data sets of YOLO's format or as CSV: a folder for each kind of labels.

``shapes`` has polygons, class maps and depth of each picture. Class maps have one class more than the objects, the
background, so it is among the names of this set. The other sets with objects have the same pictures with the labels of
one task, and its names alone. ``shapes-digits`` is as ``shapes``, with pictures of its own that also show digits.

The sets of whole pictures are tables: which shapes are in it, and how many objects and how far away on average. Such
labels say far less of a picture than boxes do: hardly anything is learnt of six labels from 480 pictures with up to
seven objects. So these sets have more pictures, with fewer objects each. The pictures are smaller, so that they are
learnt as quickly, but the shapes in them are not.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import Floats
from netbuild.data.images import pillow
from netbuild.data.shapes.outlines import CLASSES, DIGIT_CLASSES, FLIP_INDEX, LANDMARKS
from netbuild.data.shapes.placing import SIZE, make_scene
from netbuild.data.shapes.raster import join_loops
from netbuild.data.shapes.scene import Frame, Scene, SeenObject
from netbuild.data.shapes.video import write_video

ALL, SEGMENT, POSE, ORIENTED = "shapes", "shapes-segment", "shapes-pose", "shapes-obb"
DIGITS_TOO = "shapes-digits"
LABELS, NUMBERS = "shapes-labels", "shapes-numbers"
OBJECT_SETS, TABLES = (ALL, SEGMENT, POSE, ORIENTED), (LABELS, NUMBERS)
WITH_MAPS = (ALL, DIGITS_TOO)
VIDEOS = "shapes-video"  # sequences as MOTChallenge has them
SETS = (*OBJECT_SETS, DIGITS_TOO, *TABLES, VIDEOS)
COUNTS = {"train": 480, "val": 120}  # pictures
TABLES_FOLDER = "shapes-tables"  # beside that of the sets with objects
VIDEO_COUNTS = {"train": 30, "val": 6}  # sequences of videos
VIDEO_FRAMES = 16  # of each
TABLE_COUNTS = {"train": 1600, "val": 200}  # pictures of tables
TABLE_SIZE = (64, 64)  # of these, in pixels
TABLE_THINGS = (1, 3)  # least and largest number of objects in these
DEPTH_SCALE = 1000  # numbers of the depth files for a metre
SIGMA = 0.1  # of OKS for all landmarks, which are drawn: about as for the large joints of COCO's people
LAYOUT = 3  # version of the files: increase it when what is written changes
_SEED = 1

Progress = Callable[[int, int], None]


def write_sets(folder: Path, progress: Progress | None = None) -> None:
    """Write the data sets of shapes with objects, each into a folder of its name with ``data.yaml``.

    Args:
        folder: an empty folder.
        progress: called after each picture with the number done and the total.
    """
    _write_object_sets(folder, OBJECT_SETS, partial(make_scene, size=SIZE), progress)


def write_digits(folder: Path, progress: Progress | None = None) -> None:
    """Write the data set of shapes and digits, as `write_sets` does."""
    _write_object_sets(folder, (DIGITS_TOO,), partial(make_scene, size=SIZE, digits=True), progress)


def _write_object_sets(
    folder: Path, names: Sequence[str], make: Callable[[tuple[int, ...]], Scene], progress: Progress | None
) -> None:
    """Write data sets of the same pictures, the first of which has maps."""
    for split in COUNTS:
        for name in names:
            for kind in ("images", "labels", *(("masks", "depth") if name in WITH_MAPS else ())):
                (folder / name / kind / split).mkdir(parents=True)
    for split, stem, frame in _make_frames(COUNTS, make, progress):
        _write_picture(folder, names, split, stem, frame)
    for name in names:
        (folder / name / "data.yaml").write_text(_describe(name), encoding="utf-8", newline="\n")


def write_tables(folder: Path, progress: Progress | None = None) -> None:
    """Write the data sets of whole pictures, each into a folder of its name with ``train.csv`` and ``val.csv``.

    Arguments are as of `write_sets`.
    """
    heads = {LABELS: ",".join(("path", *CLASSES)), NUMBERS: "path,objects,depth"}
    lines = {(name, split): [head] for name, head in heads.items() for split in TABLE_COUNTS}
    for name, split in lines:
        (folder / name / "images" / split).mkdir(parents=True)
    for split, stem, frame in _make_frames(TABLE_COUNTS, make_table_scene, progress):
        first, *others = (folder / name / "images" / split / f"{stem}.png" for name in TABLES)
        pillow().fromarray(frame.picture).save(first, compress_level=1)
        for other in others:
            _link(first, other)
        for name in TABLES:
            lines[name, split].append(f"images/{split}/{stem}.png,{table_row(name, frame)}")
    for (name, split), rows in lines.items():
        _write_lines(folder / name / f"{split}.csv", rows)


def write_videos(folder: Path, progress: Progress | None = None) -> None:
    """Write the data set of videos with the tracks of their objects; arguments are as of `write_sets`."""
    total, done = sum(VIDEO_COUNTS.values()) * VIDEO_FRAMES, 0
    for part, (split, count) in enumerate(VIDEO_COUNTS.items()):
        for i in range(count):
            write_video(folder / split / f"{i:02}", VIDEO_FRAMES, _SEED + 1000 * (part + 1) + i, SIZE)
            done += VIDEO_FRAMES
            if progress:
                progress(done, total)
    _write_lines(folder / "classes.txt", CLASSES)


def make_table_scene(seed: tuple[int, ...]) -> Scene:
    """Return the scene of a picture of the tables."""
    return make_scene(seed, TABLE_SIZE, things=TABLE_THINGS)


def _make_frames(
    counts: Mapping[str, int], make: Callable[[tuple[int, ...]], Scene], progress: Progress | None
) -> Iterator[tuple[str, str, Frame]]:
    """Make still scenes and yield split, name without suffix, and what is seen of each.

    Args:
        counts: pictures of each split.
        make: makes the scene of a seed.
        progress: called after each picture.
    """
    total, done = sum(counts.values()), 0
    for number, (split, count) in enumerate(counts.items()):
        for index in range(count):
            yield split, f"{index:04}", make((_SEED, number, index)).frame()
            done += 1
            if progress:
                progress(done, total)


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


def _write_picture(folder: Path, names: Sequence[str], split: str, stem: str, frame: Frame) -> None:
    """Write a picture, its maps, and its label files of all sets of these names."""
    main = folder / names[0]
    library, first = pillow(), main / "images" / split / f"{stem}.png"
    library.fromarray(frame.picture).save(first, compress_level=1)
    library.fromarray(frame.classes).save(main / "masks" / split / f"{stem}.png", compress_level=1)
    depth = library.fromarray(np.rint(frame.depth * DEPTH_SCALE).astype(np.uint16))
    depth.save(main / "depth" / split / f"{stem}.png", compress_level=1)
    for name in names:
        if name != names[0]:
            _link(first, folder / name / "images" / split / first.name)
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
    digits, background = (DIGIT_CLASSES if name == DIGITS_TOO else ()), (("background",) if name in WITH_MAPS else ())
    names = (*CLASSES, *digits, *background)
    lines = ["path: .", "train: images/train", "val: images/val", f"names: [{', '.join(names)}]"]
    if name in WITH_MAPS:
        lines += ["masks: masks", "depth: depth", f"depth_scale: {DEPTH_SCALE}"]
    if name == POSE:
        lines += [f"kpt_shape: [{len(LANDMARKS)}, 3]", f"flip_idx: {list(FLIP_INDEX)}"]
        lines += [f"kpt_names: [{', '.join(LANDMARKS)}]", "skeleton: [[0, 1], [0, 2], [3, 1], [3, 2]]"]
        lines += [f"kpt_oks_sigmas: {[SIGMA] * len(LANDMARKS)}"]
    return "".join(f"{line}\n" for line in lines)
