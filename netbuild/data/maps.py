"""Reading maps of classes and of depth: the numbers in their files, what becomes of them, and what a scan must know.

Files are pictures of one channel with 8 or 16 bits or floating-point values, palettes, whose indices count, colours
where a mapping names them, and arrays in ``.npy``.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data.images import (
    MAX_PIXELS,
    ImageFacts,
    MapFacts,
    UnreadableImageError,
    decode,
    decode_values,
    inspect_image,
    read_file,
)

IGNORED = 255  # the class of pixels that losses and metrics leave out
DEPTH_SCALE = 1000.0  # whole numbers in a metre, unless the data set states another number: millimetres
MAX_VALUES = 300  # different values of a map that are counted: more are no classes
_NPY = b"\x93NUMPY"


@dataclass(frozen=True)
class ClassMapFile:
    """A file with a class map.

    Attributes:
        path: of the file.
        mapping: the class of each number in the file, or of each colour; numbers are classes if it is empty. Colours
            are red * 65536 + green * 256 + blue.
        has_colours: whether the mapping is one of colours.
    """

    path: Path
    mapping: Mapping[int, int] = field(default_factory=dict)
    has_colours: bool = False

    def read(self) -> NDArray[Any]:
        """Return the class of each pixel (H, W); 255 where the mapping has none.

        Raises:
            UnreadableImageError: if the file cannot be read.
        """
        values = decode_map(read_file(self.path), str(self.path), self.has_colours)
        if not self.mapping:
            return values
        found, places = np.unique(values, return_inverse=True)
        classes = [self.class_of(value) for value in found.tolist()]
        kind = np.uint8 if max(self.mapping.values()) <= IGNORED else np.uint16
        return np.array([IGNORED if c is None else c for c in classes], kind)[places.reshape(values.shape)]

    def class_of(self, value: int) -> int | None:
        """Return the class of a number or colour in the file; None if the mapping has none."""
        return self.mapping.get(value, IGNORED if value == IGNORED and not self.has_colours else None)


@dataclass(frozen=True)
class DepthFile:
    """A file with a map of depth.

    Attributes:
        path: of the file.
        scale: whole numbers in a metre; None if the data set does not state it, which is read as `DEPTH_SCALE`.
            Floating-point values are metres unless it is stated.
    """

    path: Path
    scale: float | None = None

    def read(self) -> NDArray[np.float32]:
        """Return the depth of each pixel (H, W) in metres; 0 where it is not known, or not a positive number.

        Raises:
            UnreadableImageError: if the file cannot be read.
        """
        values = decode_map(read_file(self.path), str(self.path))
        scale = self.scale or (1.0 if np.issubdtype(values.dtype, np.floating) else DEPTH_SCALE)
        depth = values.astype(np.float32) / np.float32(scale)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


MapFile = ClassMapFile | DepthFile


def read_map(path: Path) -> NDArray[Any]:
    """Read a file as the numbers that it holds, (H, W): class numbers, or measured values such as distances.

    A picture is turned upright by its EXIF orientation. Of a palette picture these are the indices, not the colours. 8
    and 16 bits and floating point keep their type. A colour picture whose pixels are all grey is read as a grey one.

    Raises:
        UnreadableImageError: if the file is no map: not a picture, cut off, too large, or with several channels.
    """
    return decode_map(read_file(path), str(path))


def decode_map(data: bytes, name: str, has_colours: bool = False) -> NDArray[Any]:
    """Decode the bytes of a map's file, (H, W).

    Args:
        data: the file's bytes.
        name: what messages call it.
        has_colours: whether its pixels are colours, which become red * 65536 + green * 256 + blue.

    Raises:
        UnreadableImageError: if it is no map.
    """
    if data.startswith(_NPY):
        return _decode_array(data, name)
    if not has_colours:
        return decode_values(data, name)
    colours = decode(data, name).astype(np.int32)
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _decode_array(data: bytes, name: str) -> NDArray[Any]:
    """Decode an array in NumPy's format; one axis of length 1 beside height and width is left out."""
    try:
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy raises almost anything on damaged bytes
        raise UnreadableImageError(f"{name}: not an array of numbers: {error}") from None
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or not values.size or values.size > MAX_PIXELS or values.dtype.kind not in "biuf":
        found = f"an array {values.shape} of {values.dtype}"
        raise UnreadableImageError(f"{name}: {found}, a map is an array (height, width) of numbers")
    if values.dtype.kind == "b":
        return values.astype(np.uint8)
    # OpenCV, which warps maps, knows neither other whole numbers nor half precision.
    is_short = values.dtype.kind != "f" and values.min() >= 0 and values.max() <= 65535
    known = (np.uint8, np.uint16, np.int16, np.float32, np.float64)
    return values if values.dtype in known else values.astype(np.uint16 if is_short else np.float32)


def inspect_map(data: bytes, name: str, kind: str, has_colours: bool = False) -> ImageFacts:
    """Decode a map completely, to find its size, its values, and whether it can be used.

    Args:
        data: the file's bytes.
        name: what messages call it.
        kind: ``classes`` or ``values``.
        has_colours: see `decode_map`.
    """
    facts = ImageFacts(None) if data.startswith(_NPY) else inspect_image(data, name, numbers=True)
    if facts.fault:
        return facts
    try:
        values, is_colourful = decode_map(data, name, has_colours), has_colours
    except UnreadableImageError as error:
        if kind != "classes" or facts.channels < 3:
            return ImageFacts(None, error.message.removeprefix(f"{name}: "))
        values, is_colourful = decode_map(data, name, has_colours=True), True
    found = count_values(values, is_colourful) if kind == "classes" else measure_values(values)
    return ImageFacts((values.shape[1], values.shape[0]), channels=facts.channels, map=found)


def inspect_array(values: NDArray[Any], kind: str) -> ImageFacts:
    """Return the facts of an extra that is an array (H, W) or (H, W, C), of one of the kinds of extras."""
    size, channel = (values.shape[1], values.shape[0]), values if values.ndim == 2 else values[..., 0]
    if kind == "picture":
        return ImageFacts(size)
    return ImageFacts(size, map=count_values(channel) if kind == "classes" else measure_values(channel))


def count_values(values: NDArray[Any], has_colours: bool = False) -> MapFacts:
    """Return how often each value of a class map occurs."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MAX_VALUES]
    return MapFacts({str(found[i].item()): int(counts[i]) for i in order}, has_colours)


def measure_values(values: NDArray[Any]) -> MapFacts:
    """Return the range of a map of measured values, and how many of them are no measurements."""
    is_finite = np.isfinite(values)
    measured = values[is_finite & (values > 0)]
    span = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 0.0)
    negative = int((values[is_finite] < 0).sum())
    is_whole = not np.issubdtype(values.dtype, np.floating)
    return MapFacts({}, False, measured.size, *span, negative, int((~is_finite).sum()), is_whole)
