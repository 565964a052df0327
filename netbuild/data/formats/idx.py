"""MNIST's format: arrays of bytes in files ``train-images-idx3-ubyte`` and ``-labels-idx1-``, gzipped or not.

A file has two zero bytes, a byte for the type of the values (8: unsigned bytes), a byte for the number of dimensions,
the dimensions as big-endian 32-bit numbers, then the values.
"""

import math
import struct
from functools import partial
from pathlib import Path

import numpy as np

from netbuild.data.dataset import CLASSIFY, NOTE, Dataset, Problem, Sample, Split
from netbuild.data.formats.base import Format
from netbuild.data.formats.files import SPLITS, read_bytes
from netbuild.data.images import Bytes
from netbuild.errors import NetbuildError

MAX_VALUES = 2**31  # of one file; a damaged header could ask for any number
_UBYTE = 8
MNIST_COUNTS = (  # labels of each class, by which MNIST is told from Fashion-MNIST
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),  # train
    (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),  # test
)
_NOTES = {
    "digits": "the labels are MNIST's: augmented as digits, neither mirrored nor cropped",
    "pictures": "not MNIST's digits: augmented as pictures, mirrored and cropped; "
    "for letters or digits set flip_lr=0 and crop=false",
}
_PREFIXES = {"train": "train", "val": "val", "valid": "val", "t10k": "test", "test": "test"}


class IdxFormat(Format):
    """A folder with files such as ``train-images-idx3-ubyte.gz``, or one of these files."""

    name = "idx"

    def recognizes(self, path: Path) -> bool:
        return "ubyte" in path.name if path.is_file() else bool(_files(path))

    def open(self, path: Path) -> Dataset:
        return open_idx(path.parent if path.is_file() else path)


def open_idx(folder: Path) -> Dataset:
    """Return the data set in a folder; its classes are the numbers up to the largest label.

    Raises:
        NetbuildError: if a file is damaged, or pictures have no file of labels.
    """
    found = _files(folder)
    tables = {}
    for split, images in found.items():
        tables[split] = read_idx(_label_file(images))
        if tables[split].ndim != 1:
            raise NetbuildError(f"{_label_file(images)}: labels have one dimension, these have {tables[split].ndim}")
    count = 1 + max(int(table.max(initial=0)) for table in tables.values())
    augmentation = "digits" if any(_is_mnist(table) for table in tables.values()) else "pictures"
    first = next(iter(found))  # the split whose report has the note, so that it is printed once
    splits = {
        split: partial(_read_split, found[split], table, augmentation if split == first else None)
        for split, table in tables.items()
    }
    names = tuple(map(str, range(count)))
    return Dataset(str(folder), folder.resolve(), "idx", CLASSIFY, names, splits, augmentation=augmentation)


def _is_mnist(labels: Bytes) -> bool:
    """Whether labels (N,) are MNIST's, by their number in each class: Fashion-MNIST's files have the same names."""
    return tuple(np.bincount(labels).tolist()) in MNIST_COUNTS


def read_idx(path: Path) -> Bytes:
    """Return the array in a file, in the shape that its header states.

    Raises:
        NetbuildError: if it is not an IDX file, or longer or shorter than its header states.
    """
    start = read_bytes(path, 4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UBYTE or not 1 <= start[3] <= 4:
        raise NetbuildError(f"{path}: not an IDX file of bytes: it begins with {start.hex(' ') or 'nothing'}")
    begin = 4 + 4 * start[3]
    head = read_bytes(path, begin)
    if len(head) < begin:
        raise NetbuildError(f"{path}: cut off in its header")
    shape = struct.unpack(f">{start[3]}I", head[4:])
    count = math.prod(shape)
    if count > MAX_VALUES:
        raise NetbuildError(f"{path}: its header states {' x '.join(map(str, shape))}, more than {MAX_VALUES:,} values")
    data = read_bytes(path, begin + count + 1)[begin:]  # one more byte shows whether the file is longer
    if len(data) != count:
        stated = f"{' x '.join(map(str, shape))} = {count:,} values"
        has = "more" if len(data) > count else f"{len(data):,}"
        raise NetbuildError(f"{path}: its header states {stated}, the file has {has}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of pictures by split."""
    found = {}
    for path in sorted(folder.glob("*images*ubyte*")):
        if split := _PREFIXES.get(path.name.split("-")[0]):
            found[split] = path
    return {split: found[split] for split in SPLITS if split in found}


def _label_file(images: Path) -> Path:
    """Return the file of labels, gzipped or not, that belongs to one of pictures."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    for path in (images.with_name(name), images.with_name(f"{name}.gz")):
        if path.is_file():
            return path
    raise NetbuildError(f"{images}: there is no {name} beside it")


def _read_split(file: Path, labels: Bytes, augmentation: str | None) -> Split:
    pixels = read_idx(file)
    if pixels.ndim not in (3, 4) or not len(pixels):
        raise NetbuildError(f"{file}: pictures have three or four dimensions, these have the shape {pixels.shape}")
    if len(pixels) != len(labels):
        raise NetbuildError(f"{file}: {len(pixels):,} pictures, but {len(labels):,} labels")
    size = (pixels.shape[2], pixels.shape[1])
    source = _label_file(file)
    samples = [Sample(file, size, label=int(label), source=source, pixels=p) for p, label in zip(pixels, labels)]
    notes = [Problem("augmentation", NOTE, _NOTES[augmentation], file)] if augmentation else []
    return Split(samples, notes)
