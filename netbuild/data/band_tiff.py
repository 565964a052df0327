"""Reading TIFF files of more than four bands in one page, as of satellites, which Pillow and OpenCV do not read."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_BANDS = 5  # a page of fewer is read by Pillow
MAX_VALUES = 2**30  # of a picture, over all bands
MAX_ENTRIES = 2**20  # numbers of a field of the directory
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field type -> code of `struct`
_SIZE, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANES, _PREDICTOR = (256, 257), 258, 259, 277, 278, 284, 317
_STRIPS, _TILES, _TILE_SIZE, _FORMAT = (273, 279), (324, 325), (322, 323), 339
_NONE, _DEFLATE = 1, (8, 32946)
_NAMES = {2: "CCITT", 5: "LZW", 7: "JPEG", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP"}


class BandTiffError(Exception):
    """A TIFF of many bands that cannot be read, with the reason."""


@dataclass(frozen=True)
class BandTiff:
    """The first page of a TIFF file.

    Attributes:
        size: width and height.
        bands: number of values of a pixel.
        fields: the numbers of each field of its directory, by tag.
        order: "<" or ">", the order of bytes.
    """

    size: tuple[int, int]
    bands: int
    fields: dict[int, tuple[int, ...]]
    order: str

    def read(self, data: bytes) -> NDArray[Any]:
        """Return the values (H, W, bands), uint8 or uint16.

        Raises:
            BandTiffError: for a form that is not supported, or a file that is cut off.
        """
        kind = self._dtype()
        (width, height), planar = self.size, self._first(_PLANES, 1) == 2
        if width * height * self.bands > MAX_VALUES:
            raise BandTiffError(f"too large: {width} x {height} with {self.bands} bands")
        out = np.zeros((self.bands if planar else 1, height, width, 1 if planar else self.bands), kind)
        for (plane, top, left, h, w), block in self._blocks(data, planar):
            shape = (h, w, out.shape[3])
            raw = self._unpack(block, int(np.prod(shape)) * kind.itemsize)
            values = np.frombuffer(raw, kind.newbyteorder(self.order)).reshape(shape).astype(kind)
            if self._first(_PREDICTOR, 1) == 2:  # differences to the pixel on the left
                values = np.cumsum(values, axis=1, dtype=kind)
            part = out[plane, top : top + h, left : left + w]
            part[...] = values[: part.shape[0], : part.shape[1]]
        return np.ascontiguousarray(out[..., 0].transpose(1, 2, 0) if planar else out[0])

    def _first(self, tag: int, default: int) -> int:
        return self.fields.get(tag, (default,))[0]

    def _dtype(self) -> Any:
        bits, form = set(self.fields.get(_BITS, (1,))), set(self.fields.get(_FORMAT, (1,)))
        if bits not in ({8}, {16}) or form != {1}:
            raise BandTiffError(f"{self.bands} bands of {max(bits)} bits: bands must be whole numbers of 8 or 16 bits")
        predictor = self._first(_PREDICTOR, 1)
        if predictor not in (1, 2):
            raise BandTiffError(f"{self.bands} bands with predictor {predictor}, which is not supported")
        return np.dtype(f"u{bits.pop() // 8}")

    def _blocks(self, data: bytes, planar: bool) -> Iterator[tuple[tuple[int, int, int, int, int], bytes]]:
        """Yield plane, top, left, height and width of each strip or tile, and its bytes."""
        width, height = self.size
        tiled = _TILES[0] in self.fields
        starts, lengths = (self.fields.get(tag, ()) for tag in (_TILES if tiled else _STRIPS))
        h = self._first(_TILE_SIZE[1], 0) if tiled else min(self._first(_ROWS, height), height)
        w = self._first(_TILE_SIZE[0], 0) if tiled else width
        if min(h, w) < 1 or max(h, w) > 2**16 or h * w * self.bands > MAX_VALUES:
            raise BandTiffError("its directory is damaged")
        planes = range(self.bands if planar else 1)
        places = [(p, y, x) for p in planes for y in range(0, height, h) for x in range(0, width, w)]
        if not len(places) == len(starts) == len(lengths):
            raise BandTiffError("its directory is damaged: it does not list the parts of the picture")
        for (plane, top, left), start, length in zip(places, starts, lengths):
            rows = h if tiled else min(h, height - top)
            if start + length > len(data):
                raise BandTiffError("the file is cut off")
            yield (plane, top, left, rows, w), data[start : start + length]

    def _unpack(self, block: bytes, count: int) -> bytes:
        """Return the ``count`` bytes of a strip or tile, decompressed."""
        compression = self._first(_COMPRESSION, _NONE)
        if compression in _DEFLATE:
            try:
                block = zlib.decompressobj().decompress(block, count)
            except zlib.error as error:
                raise BandTiffError(f"damaged: {error}") from None
        elif compression != _NONE:
            name = _NAMES.get(compression, f"method {compression}")
            raise BandTiffError(f"{self.bands} bands compressed by {name}: save it uncompressed, or by deflate")
        if len(block) < count:
            raise BandTiffError("the file is cut off")
        return block[:count]


def read_header(data: bytes) -> BandTiff | None:
    """Return the header of a TIFF whose first page has at least `LEAST_BANDS` bands; None for any other file."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return None
    order = "<" if data[:1] == b"I" else ">"
    try:
        fields = dict(_read_fields(data, order))
        size, bands = (fields[_SIZE[0]][0], fields[_SIZE[1]][0]), fields.get(_SAMPLES, (1,))[0]
    except (struct.error, KeyError, IndexError):  # Pillow says what is wrong with it
        return None
    return BandTiff(size, bands, fields, order) if bands >= LEAST_BANDS and min(size) > 0 else None


def _read_fields(data: bytes, order: str) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield tag and numbers of each field of the first directory that has whole numbers."""
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for i in range(count):
        entry = place + 2 + 12 * i
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        if kind not in _TYPES or not 1 <= number <= MAX_ENTRIES:
            continue
        code = f"{order}{number}{_TYPES[kind]}"
        start = entry + 8
        if struct.calcsize(code) > 4:
            (start,) = struct.unpack_from(f"{order}I", data, start)
        yield tag, struct.unpack_from(code, data, start)
