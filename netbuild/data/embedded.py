"""Data sets that need no download: scikit-learn's 1,797 handwritten digits, and scenes of shapes.

``digits`` is for classification: 8x8 grey pictures, of which 360 chosen by a fixed seed are the test split; the same
persons wrote both splits. ``digits-detect`` is for detection: 128x128 pictures, each with one to five digits of random
size and colour on a textured background; no digit is in both splits. It is made once from a fixed seed and stored in
YOLO's format in the cache folder.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import CLASSIFY, Dataset, Floats, Sample, Split
from netbuild.data.images import Bytes, pillow
from netbuild.data.shapes import files as shapes
from netbuild.data.shapes.placing import SIZE as SCENE_SIZE
from netbuild.errors import MissingExtraError
from netbuild.system.files import make_folder, temporary_folder, writing
from netbuild.system.folders import cache_folder
from netbuild.system.packages import install_hint

CLASSIFICATION, DETECTION = "digits", "digits-detect"
NAMES = (CLASSIFICATION, DETECTION, *shapes.SETS)
TEST_COUNT = 360  # digits in the test split
SIDE = 128  # of the pictures of digits-detect, in pixels
# The side in pixels of the pictures of sets for networks that usually take larger ones: a demonstration in minutes.
SIDES = {
    DETECTION: SIDE,
    **dict.fromkeys((*shapes.OBJECT_SETS, shapes.DIGITS_TOO), SCENE_SIZE[0]),
    **dict.fromkeys(shapes.TABLES, shapes.TABLE_SIZE[0]),
}
COUNTS = {"train": 640, "val": 160}  # pictures of digits-detect
AUGMENTATION = "augmentation: digits\n"  # in the data file: digits must not be mirrored
_SEED = 1
_LAYOUT = 2  # version of the files in the cache folder: increase it when what is written changes


def open_digits() -> Dataset:
    """Return the data set for classification.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
    """
    pixels, labels = _load_digits()
    order = np.random.default_rng(_SEED).permutation(len(labels))
    test, train = np.sort(order[:TEST_COUNT]), np.sort(order[TEST_COUNT:])
    splits = {
        "train": partial(_make_split, pixels[train], labels[train]),
        "test": partial(_make_split, pixels[test], labels[test]),
    }
    return Dataset(
        CLASSIFICATION, Path(CLASSIFICATION), "array", CLASSIFY, tuple("0123456789"), splits, augmentation="digits"
    )


def make_data_file(name: str) -> Path:
    """Return the data file, or the folder of tables or videos, of an embedded data set other than ``digits``.

    It is made if it does not exist yet.

    Raises:
        MissingExtraError: if Pillow, or scikit-learn for digits, is not installed.
    """
    if name == DETECTION:
        return _make_folder(f"{DETECTION}-{_LAYOUT}", _write_pictures, "data.yaml") / "data.yaml"
    if name in shapes.TABLES:
        write = partial(shapes.write_tables, progress=_Progress(name))
        return _make_folder(f"{shapes.TABLES_FOLDER}-{shapes.LAYOUT}", write, name) / name
    if name == shapes.DIGITS_TOO:
        write = partial(shapes.write_digits, progress=_Progress(name))
        return _make_folder(f"{name}-{shapes.LAYOUT}", write, name) / name / "data.yaml"
    if name == shapes.VIDEOS:
        write = partial(shapes.write_videos, progress=_Progress(name))
        return _make_folder(f"{name}-{shapes.LAYOUT}", write, "classes.txt")
    write = partial(shapes.write_sets, progress=_Progress(shapes.ALL))
    return _make_folder(f"{shapes.ALL}-{shapes.LAYOUT}", write, shapes.ALL) / name / "data.yaml"


def _make_folder(name: str, write: Callable[[Path], None], last: str) -> Path:
    """Return a folder in the cache, which is written under another name and then renamed if it does not exist yet.

    Args:
        name: of the folder.
        write: writes what is in it.
        last: something in it that is there when it is complete.
    """
    folder = cache_folder() / name
    if not (folder / last).exists():
        make_folder(folder.parent)
        with temporary_folder(folder) as made, writing(folder):
            write(made)
            os.chmod(made, 0o755)  # temporary folders are readable by their owner alone
            _move_into_place(made, folder, last)
    return folder


class _Progress:
    """Writes to stderr how much of an embedded data set is made, once that takes more than two seconds."""

    def __init__(self, name: str) -> None:
        self.name, self.started, self.shown = name, time.monotonic(), 0.0

    def __call__(self, done: int, total: int) -> None:
        now, text = time.monotonic(), f"making the embedded data set '{self.name}', once"
        if now - self.started < 2:
            return
        if not sys.stderr.isatty():
            if not self.shown:
                print(f"{text}: {total} pictures", file=sys.stderr, flush=True)
        elif now - self.shown > 0.2 or done == total:
            print(
                f"{text}: {done} of {total} pictures", end="\r" if done < total else "\n", file=sys.stderr, flush=True
            )
        self.shown = now


def _move_into_place(made: Path, folder: Path, last: str) -> None:
    """Rename the finished folder; another process may have been faster, with the same files."""
    try:
        os.replace(made, folder)
    except OSError:
        if not (folder / last).exists():
            raise


def _load_digits() -> tuple[Bytes, Bytes]:
    """Return all digits: pixels (1797, 8, 8) and labels (1797,)."""
    try:
        module = importlib.import_module("sklearn.datasets")
    except ImportError:
        hint = install_hint("train")
        raise MissingExtraError("the embedded digits need scikit-learn", hint=hint) from None
    found = module.load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.uint8)


def _make_split(pixels: Bytes, labels: Bytes) -> Split:
    path = Path(CLASSIFICATION)
    return Split([Sample(path, (8, 8), label=int(label), pixels=image) for image, label in zip(pixels, labels)])


def _write_pictures(folder: Path) -> None:
    """Write pictures, label files and the data file of digits-detect."""
    pixels, labels = _load_digits()
    first = len(labels) - TEST_COUNT
    ranges = {"train": range(first), "val": range(first, len(labels))}
    for number, (split, count) in enumerate(COUNTS.items()):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index in range(count):
            random = np.random.default_rng([_SEED, number, index])
            picture, rows = _draw_picture(random, pixels, labels, ranges[split])
            pillow().fromarray(picture).save(folder / "images" / split / f"{index:04}.png", compress_level=1)
            (folder / "labels" / split / f"{index:04}.txt").write_text("".join(f"{row}\n" for row in rows))
    names = ", ".join(f"'{digit}'" for digit in range(10))
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames: [{names}]\n{AUGMENTATION}"
    )


def _draw_picture(random: np.random.Generator, pixels: Bytes, labels: Bytes, choice: range) -> tuple[Bytes, list[str]]:
    """Draw a picture (SIDE, SIDE, 3) with digits of these numbers; return it and the rows of its label file."""
    ground = _draw_background(random)
    taken: list[tuple[int, int, int, int]] = []
    rows = []
    for _ in range(int(random.integers(1, 6))):
        index = int(random.integers(choice.start, choice.stop))
        ink = _enlarge_digit(pixels[index], int(random.integers(20, 49)))
        height, width = ink.shape
        left, top = int(random.integers(0, SIDE - width)), int(random.integers(0, SIDE - height))
        place = (left, top, left + width, top + height)
        if any(_overlap(place, other) for other in taken):
            continue  # no digit may cover another
        taken.append(place)
        _paint(ground[top : top + height, left : left + width], ink, random)
        box = ((left + width / 2) / SIDE, (top + height / 2) / SIDE, width / SIDE, height / SIDE)
        rows.append(f"{labels[index]} " + " ".join(f"{value:.6f}" for value in box))
    return np.rint(ground).clip(0, 255).astype(np.uint8), rows


def _draw_background(random: np.random.Generator) -> Floats:
    """Return a texture (SIDE, SIDE, 3): smooth noise at three scales around a random colour, and fine grain."""
    ground = np.full((SIDE, SIDE, 3), random.uniform(60, 195, 3))
    for cells, strength in ((4, 30), (16, 18), (64, 8)):
        noise = random.uniform(-strength, strength, (cells, cells))
        small = pillow().fromarray(noise.astype(np.float32))
        ground += np.asarray(small.resize((SIDE, SIDE), pillow().Resampling.BICUBIC))[..., None]
    return ground + random.normal(0, 4, ground.shape)


def _enlarge_digit(digit: Bytes, side: int) -> Floats:
    """Return a digit enlarged to a side in pixels and cropped to its ink: values 0..1, (H, W)."""
    large = pillow().fromarray(digit).resize((side, side), pillow().Resampling.BICUBIC)
    ink = np.asarray(large) / 255.0
    rows, columns = np.flatnonzero((ink > 0.3).any(1)), np.flatnonzero((ink > 0.3).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paint(ground: Floats, ink: Floats, random: np.random.Generator) -> None:
    """Paint a digit over a part of the background, in place, in a colour that differs enough from it."""
    step = float(random.uniform(70, 130))
    colour = ground.mean((0, 1)) + (step if ground.mean() < 128 else -step) + random.uniform(-20, 20, 3)
    ground += ink[..., None] * (colour - ground)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int = 2) -> bool:
    """Whether two rectangles (x1, y1, x2, y2) overlap or are less than ``gap`` pixels apart."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap
