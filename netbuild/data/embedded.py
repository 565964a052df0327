"""Data sets that need no download: scikit-learn's 1,797 handwritten digits, as they are and on pictures to detect.

``digits`` is for classification, 8x8 grey; 360 of them, drawn by chance from a fixed seed, are the test split, so that
writers are in both. ``digits-detect`` has 128x128 pictures with one to five of them each, in sizes and
colours of their own on a textured ground; digits of one split never stand in the other. It is made once, from a
fixed seed, and kept as YOLO's files in the cache folder.
"""

import importlib
import os
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import CLASSIFY, Dataset, Floats, Part, Sample
from netbuild.data.images import Bytes, pillow
from netbuild.errors import MissingExtraError
from netbuild.system.files import make_folder, temporary_folder, writing
from netbuild.system.folders import cache_folder

CLASSIFICATION, DETECTION = "digits", "digits-detect"
NAMES = (CLASSIFICATION, DETECTION)
TESTED = 360  # digits in the test split
SIDE = 128  # of a picture to detect in
COUNTS = {"train": 640, "val": 160}
AUGMENTATION = "augmentation: digits\n"  # in the data file: digits must not be mirrored
_VERSION = 1  # seed of the pictures
_LAYOUT = 2  # version of the files in the cache folder: increase it when what is written changes


def digits() -> Dataset:
    """The classification data set.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
    """
    pixels, labels = _load()
    order = np.random.default_rng(_VERSION).permutation(len(labels))
    test, train = np.sort(order[:TESTED]), np.sort(order[TESTED:])
    splits = {
        "train": partial(_part, pixels[train], labels[train]),
        "test": partial(_part, pixels[test], labels[test]),
    }
    return Dataset(
        CLASSIFICATION, Path(CLASSIFICATION), "array", CLASSIFY, tuple("0123456789"), splits, augmentation="digits"
    )


def detection() -> Path:
    """The data file of the detection data set, made if it is not there yet.

    Raises:
        MissingExtraError: if scikit-learn or Pillow is not installed.
    """
    folder = cache_folder() / f"{DETECTION}-{_LAYOUT}"
    if not (folder / "data.yaml").is_file():
        make_folder(folder.parent)
        with temporary_folder(folder) as made, writing(folder):
            _write(made)
            os.chmod(made, 0o755)
            _move(made, folder)
    return folder / "data.yaml"


def _move(made: Path, folder: Path) -> None:
    """Put the finished folder in its place; another process may have been first, with the same files."""
    try:
        os.replace(made, folder)
    except OSError:
        if not (folder / "data.yaml").is_file():
            raise


def _load() -> tuple[Bytes, Bytes]:
    """All digits: pixels (1797, 8, 8) and labels (1797,)."""
    try:
        module = importlib.import_module("sklearn.datasets")
    except ImportError:
        hint = "pip install 'netbuild[train]'"
        raise MissingExtraError("the embedded digits need scikit-learn", hint=hint) from None
    found = module.load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.uint8)


def _part(pixels: Bytes, labels: Bytes) -> Part:
    path = Path(CLASSIFICATION)
    return Part([Sample(path, (8, 8), label=int(label), pixels=image) for image, label in zip(pixels, labels)])


def _write(folder: Path) -> None:
    pixels, labels = _load()
    first = len(labels) - TESTED
    ranges = {"train": range(first), "val": range(first, len(labels))}
    for number, (split, count) in enumerate(COUNTS.items()):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for index in range(count):
            random = np.random.default_rng([_VERSION, number, index])
            picture, rows = _scene(random, pixels, labels, ranges[split])
            pillow().fromarray(picture).save(folder / "images" / split / f"{index:04}.png", compress_level=1)
            (folder / "labels" / split / f"{index:04}.txt").write_text("".join(f"{row}\n" for row in rows))
    names = ", ".join(f"'{digit}'" for digit in range(10))
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnames: [{names}]\n{AUGMENTATION}"
    )


def _scene(random: np.random.Generator, pixels: Bytes, labels: Bytes, choice: range) -> tuple[Bytes, list[str]]:
    """A picture (SIDE, SIDE, 3) and its rows of labels."""
    ground = _ground(random)
    taken: list[tuple[int, int, int, int]] = []
    rows = []
    for _ in range(int(random.integers(1, 6))):
        index = int(random.integers(choice.start, choice.stop))
        ink = _ink(pixels[index], int(random.integers(20, 49)))
        height, width = ink.shape
        left, top = int(random.integers(0, SIDE - width)), int(random.integers(0, SIDE - height))
        place = (left, top, left + width, top + height)
        if any(_meet(place, other) for other in taken):
            continue  # no digit hides another
        taken.append(place)
        _paint(ground[top : top + height, left : left + width], ink, random)
        box = ((left + width / 2) / SIDE, (top + height / 2) / SIDE, width / SIDE, height / SIDE)
        rows.append(f"{labels[index]} " + " ".join(f"{value:.6f}" for value in box))
    return np.rint(ground).clip(0, 255).astype(np.uint8), rows


def _ground(random: np.random.Generator) -> Floats:
    """A texture (SIDE, SIDE, 3): smooth noise of three sizes around a colour of its own, and grain."""
    ground = np.full((SIDE, SIDE, 3), random.uniform(60, 195, 3))
    for cells, strength in ((4, 30), (16, 18), (64, 8)):
        noise = random.uniform(-strength, strength, (cells, cells))
        small = pillow().fromarray(noise.astype(np.float32))
        ground += np.asarray(small.resize((SIDE, SIDE), pillow().Resampling.BICUBIC))[..., None]
    return ground + random.normal(0, 4, ground.shape)


def _ink(digit: Bytes, side: int) -> Floats:
    """A digit enlarged, cut to its ink: values 0..1, (H, W)."""
    large = pillow().fromarray(digit).resize((side, side), pillow().Resampling.BICUBIC)
    ink = np.asarray(large) / 255.0
    rows, columns = np.flatnonzero((ink > 0.3).any(1)), np.flatnonzero((ink > 0.3).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _paint(ground: Floats, ink: Floats, random: np.random.Generator) -> None:
    """Lay a digit over a piece of the ground, in place, in a colour far from the ground's."""
    step = float(random.uniform(70, 130))
    colour = ground.mean((0, 1)) + (step if ground.mean() < 128 else -step) + random.uniform(-20, 20, 3)
    ground += ink[..., None] * (colour - ground)


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int = 2) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap
