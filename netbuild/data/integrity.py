"""Whether a picture file has all the pixels that its header promises: decoders fill in what is missing, silently.

For PNG the rows are counted. For JPEG libjpeg's warnings cannot be had from Pillow, so it is decoded a second time,
with arbitrary bytes added at the end of each run of coded data: a decoder that has met all pixels by then never reads
them, and one that has not fills them in.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import numpy as np

# No 0xff, which begins a marker. The length changes any picture of which a block is missing.
_ARBITRARY = np.random.default_rng(0).integers(1, 250, 256, dtype=np.uint8).tobytes()
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_COMPRESSED = ("WEBP", "JPEG2000", "AVIF", "GIF")
MIN_ZEROS = 256  # bytes
_SOF, _SOS, _EOI = (0xC0, 0xC1, 0xC2), 0xDA, 0xD9  # Huffman-coded frames: baseline, extended, progressive


def find_missing_pixels(data: bytes, form: str, decode: Callable[[bytes, bool], Any]) -> str:
    """Return what is missing in a file that was decoded without an error; empty if nothing is.

    Args:
        data: the file's bytes.
        form: Pillow's name of the format; of other formats than PNG and JPEG, the end of compressed ones is looked at.
        decode: returns a file's pixels; its second argument allows an eighth of the resolution.
    """
    if form == "PNG":
        return _check_png(data)
    if form in ("JPEG", "MPO"):
        return _check_jpeg(data, decode)
    return _check_tail(data, form) if form in _COMPRESSED else ""


def _check_tail(data: bytes, form: str) -> str:
    """Look for a part at the end that was never written: compressed data have no long runs of zeros."""
    if form == "WEBP":  # what follows its container is not part of the picture
        data = data[: 8 + int.from_bytes(data[4:8], "little")]
    zeros = len(data) - len(data.rstrip(b"\0"))
    return f"its last {zeros:,} bytes are zeros" if zeros > max(MIN_ZEROS, len(data) // 8) else ""


def _check_png(data: bytes) -> str:
    """Compare the rows in a PNG with those that its header states, and look for its end."""
    head, coded, ended = b"", [], False
    for kind, content in _png_chunks(data):
        head = content if kind == b"IHDR" else head
        ended = ended or kind == b"IEND"
        if kind == b"IDAT":
            coded.append(content)
    if len(head) < 13:
        return ""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", head[:13])
    bits = depth * _SAMPLES.get(colour, 1)

    def size(w: int, h: int) -> int:
        return h * (1 + ceil(w * bits / 8)) if w and h else 0

    if interlaced:
        passes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in _ADAM7]
        expected = sum(size(max(w, 0), max(h, 0)) for w, h in passes)
    else:
        expected = size(width, height)
    decoder = zlib.decompressobj()
    try:
        found = len(decoder.decompress(b"".join(coded), expected))
    except zlib.error as error:
        return f"its pixels are damaged: {error}"
    if found < expected:
        rows = f"about {found * height // expected} of {height} rows"
        return f"{found:,} of {expected:,} bytes of its pixels are there ({rows})"
    return "" if ended else "its last bytes are missing"


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks that are complete."""
    place = 8
    while place + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        if place + 12 + length > len(data):
            return
        yield kind, data[place + 8 : place + 8 + length]
        if kind == b"IEND":
            return
        place += 12 + length


def _check_jpeg(data: bytes, decode: Callable[[bytes, bool], Any]) -> str:
    parts = _read_jpeg(data)
    if parts is None:
        return ""
    if not parts:
        return "its end mark is missing"
    padded, is_progressive, missing = parts
    if missing:
        return "scans of it are missing"
    try:
        # Pixels of a progressive file may differ in fine detail only, which is not seen at an eighth of the resolution.
        same = np.array_equal(decode(data, not is_progressive), decode(padded, not is_progressive))
    except Exception:  # of the second file, which has no meaning
        return ""
    return "" if same else "its coded data end before its last pixel"


def _read_jpeg(data: bytes) -> tuple[bytes, bool, bool] | tuple[()] | None:
    """Return a JPEG with arbitrary bytes after each run of coded data, whether it is progressive, and lacks scans.

    Nothing, (), for a file without an end mark, for whose missing part decoders may take bytes of zero; None for one
    that is coded in another way.
    """
    pieces, components, done = [data[:2]], list[int](), dict[int, set[int]]()
    place, is_progressive = 2, False
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xFF:  # fill bytes
            place += 1
            continue
        if kind == _EOI:
            break
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        content = data[place + 4 : end]
        pieces.append(data[place:end])
        if kind in _SOF and len(content) > 5:
            is_progressive = kind == 0xC2
            components = [content[i] for i in range(6, len(content) - 2, 3)]
        elif 0xC3 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return None
        elif kind == _SOS and content:
            _record_scan(content, done)
            end = _copy_coded(data, end, pieces)
        place = end
    if not components:
        return None
    if data[place : place + 2] != b"\xff\xd9":
        return ()
    missing = any(len(done.get(number, ())) < 64 for number in components)
    return b"".join([*pieces, b"\xff\xd9"]), is_progressive, missing


def _record_scan(content: bytes, done: dict[int, set[int]]) -> None:
    """Add to each component of a scan the coefficients whose last bit it has."""
    count = content[0]
    if len(content) < 2 * count + 4:
        return
    first, last, bits = content[2 * count + 1 : 2 * count + 4]
    for index in range(count):
        if bits & 15 == 0:
            done.setdefault(content[1 + 2 * index], set()).update(range(first, min(last, 63) + 1))


def _copy_coded(data: bytes, place: int, pieces: list[bytes]) -> int:
    """Copy coded data up to the next marker that is no restart, padding each run; return the marker's place."""
    start = place
    while True:
        place = data.find(b"\xff", place)
        if place < 0 or place + 1 >= len(data):
            pieces.append(data[start:])
            return len(data)
        if data[place + 1] == 0:  # a coded byte 0xff
            place += 2
        elif data[place + 1] == 0xFF:
            place += 1
        else:
            pieces += [data[start:place], _ARBITRARY]
            if not 0xD0 <= data[place + 1] <= 0xD7:
                return place
            start, place = place, place + 2
