"""Reading picture files as arrays: upright, in 8 bits, grey or RGB; or as an error that says why that is impossible."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netbuild.data import band_tiff
from netbuild.data.integrity import find_missing_pixels
from netbuild.errors import MissingExtraError, NetbuildError, print_note_once, shorten
from netbuild.system.files import refuse_special
from netbuild.system.packages import install_hint

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .jfif .jpe .jpeg .jpg .jp2 .pbm .pgm .png .ppm .tga .tif .tiff .webp".split()
)
FOREIGN = frozenset(".arw .cr2 .dng .heic .heif .jxl .nef .psd .raw .svg".split())  # formats that Pillow cannot read
MAX_PIXELS = 178_956_970  # half a GiB as RGB; Pillow has the same limit
MAX_BYTES = 2**30  # of a picture's file
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I"}  # Pillow's modes of 16-bit grey; its own conversion to 8 bits clips


Bytes = NDArray[np.uint8]


class UnreadableImageError(NetbuildError):
    """Raised for a file that is not a picture, or whose values cannot be represented in 8 bits."""


@dataclass(frozen=True)
class MapFacts:
    """What was found when a map was decoded, before any mapping or scale is applied to its values.

    Attributes:
        counts: of a class map, the number of pixels of each value, as a text.
        has_colours: whether these values are colours, red * 65536 + green * 256 + blue.
        measured: of a map of measured values, the number of pixels with a finite value above 0.
        least: the smallest of these values.
        most: the largest of these values.
        negative: the number of pixels with a finite value below 0.
        not_finite: the number of pixels that are NaN or infinite.
        is_whole: whether the file has whole numbers.
    """

    counts: dict[str, int]
    has_colours: bool = False
    measured: int = 0
    least: float = 0.0
    most: float = 0.0
    negative: int = 0
    not_finite: int = 0
    is_whole: bool = False


@dataclass(frozen=True)
class ImageFacts:
    """What was found when a picture was decoded.

    Attributes:
        size: width and height after EXIF orientation; None if the picture cannot be used.
        fault: why it cannot be used, or empty.
        remark: what is unusual about it, or empty.
        channels: how many its first page has; 0 if the picture cannot be used.
        pages: how many grey pages of equal size a TIFF has, each of which may be a band.
        map: of a map of classes or values.
    """

    size: tuple[int, int] | None
    fault: str = ""
    remark: str = ""
    channels: int = 0
    pages: int = 1
    map: MapFacts | None = None


def pillow() -> Any:
    """Return the module `PIL.Image`.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("reading pictures needs Pillow", hint=install_hint("train")) from None
    return Image


def is_picture(path: Path) -> bool:
    """Whether a file name ends as a picture's; hidden files (such as ``._a.jpg`` of macOS) are not pictures."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path, channels: int = 3, check: bool = True) -> Bytes:
    """Read a picture as uint8 (H, W, channels): 1 is grey, 3 RGB, 4 RGB and alpha.

    It is turned upright by its EXIF orientation. 16 bits are scaled to 8, CMYK and palettes are converted, alpha is
    dropped unless there are 4 channels; of several frames the first is read. ``check`` looks for pixels that the
    decoder only made up; pictures that were scanned need no second look.

    Raises:
        UnreadableImageError: if the file is not a picture, is cut off, too large, or cannot be represented in 8 bits.
    """
    path = Path(path)
    if channels not in _MODES and path.suffix.lower() not in (".tif", ".tiff"):
        raise NetbuildError(f"{path}: pictures are read with 1, 3 or 4 channels, not {channels}")
    return decode(read_file(path), str(path), channels, check)


def read_file(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        UnreadableImageError: if it cannot be read.
    """
    try:
        if reason := refuse_special(path, MAX_BYTES):
            raise UnreadableImageError(f"{path}: {reason}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a null byte in the path
        raise UnreadableImageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def decode(data: bytes, name: str, channels: int = 3, check: bool = True) -> Bytes:
    """Decode the bytes of a picture file, see `read_image`."""
    if (header := band_tiff.read_header(data)) is not None:
        return _read_bands(header, data, name, channels)
    image = _load(_open(data, name), name)
    if check:
        _check_complete(data, name, image.format or "")
    if channels > 1 and _count_pages(image) == channels:
        return _read_pages(image, name, channels)
    if check and (remark := _describe_frames(image)):
        print_note_once(f"{name}: {remark}")
    if channels not in _MODES:
        message = f"{name}: pictures of one page are read with 1, 3 or 4 channels, not {channels}"
        raise UnreadableImageError(message, hint="bands are read from a TIFF, all in one page or in one grey page each")
    level = _to_8_bits(_upright(image), name, channels)
    return np.ascontiguousarray(level).reshape(*level.shape[:2], channels)


def decode_values(data: bytes, name: str) -> NDArray[Any]:
    """Decode the bytes of a picture file as the numbers that it holds, (H, W), see `netbuild.data.maps.read_map`."""
    values = np.asarray(_upright(_load(_open(data, name), name)))
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all() and values.shape[2] >= 3:
        values = values[..., 0]  # a grey picture that was saved as RGB
    if values.ndim != 2:
        message = f"{name}: has {values.shape[2]} channels, a map of numbers has one"
        raise UnreadableImageError(message, hint="save it as a grey or palette picture")
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.int32:  # Pillow's mode I, which holds 16 bits as a rule; OpenCV warps no int32
        return values.astype(np.uint16 if values.min() >= 0 and values.max() <= 65535 else np.float32)
    return np.ascontiguousarray(values)


def inspect_image(data: bytes, name: str, numbers: bool = False) -> ImageFacts:
    """Decode a picture completely, to find its size and whether it can be used.

    Args:
        data: the file's bytes.
        name: what messages call it.
        numbers: whether it is a map, whose values need not be representable in 8 bits.
    """
    try:
        if (header := band_tiff.read_header(data)) is not None:
            _read_bands(header, data, name, header.bands)
            return ImageFacts(header.size, "", "", header.bands)
        image = _open(data, name)
        width, height = image.size
        if not numbers:
            # For JPEG: every byte is read, but at an eighth of the resolution.
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        _load(image, name)
        _check_complete(data, name, image.format or "")
        turned = _orientation(image)
        remark = "" if numbers else _remark(image, name)
    except UnreadableImageError as error:
        return ImageFacts(None, error.message.removeprefix(f"{name}: "))
    channels = {"P": 3, "PA": 3, "CMYK": 3, "LA": 1, "RGBX": 3}.get(image.mode, len(image.getbands()))
    size = (height, width) if turned in _sideways() else (width, height)
    return ImageFacts(size, "", remark, channels, _count_pages(image))


def _read_bands(header: band_tiff.BandTiff, data: bytes, name: str, channels: int) -> Bytes:
    """Return the bands of a TIFF page as the channels of a picture in 8 bits."""
    if header.bands != channels:
        raise UnreadableImageError(f"{name}: has {header.bands} bands, not {channels}")
    try:
        values = header.read(data)
    except band_tiff.BandTiffError as error:
        raise UnreadableImageError(f"{name}: {error}") from None
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _count_pages(image: "Image") -> int:
    """Return the number of pages of a TIFF whose pages are grey pictures of equal size; 1 for any other picture."""
    if image.format != "TIFF" or image.mode not in ("L", *_DEEP):
        return 1
    try:
        count, size = int(getattr(image, "n_frames", 1)), image.size
        for index in range(1, count):
            image.seek(index)
            if image.size != size or image.mode not in ("L", *_DEEP):
                return 1
        return count
    except Exception:  # a page is damaged
        return 1
    finally:
        image.seek(0)


def _read_pages(image: "Image", name: str, count: int) -> Bytes:
    """Return the pages of a TIFF as the channels of one picture (H, W, count)."""
    bands = []
    for index in range(count):
        image.seek(index)
        bands.append(_to_8_bits(_upright(_load(image, name)), name, 1))
    return np.ascontiguousarray(np.stack(bands, -1))


def _check_complete(data: bytes, name: str, form: str) -> None:
    """Raise an error if pixels are missing that Pillow fills in without one."""

    def pixels(data: bytes, reduce: bool) -> Any:
        image = _open(data, name)
        if reduce:
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        return np.asarray(_load(image, name))

    if missing := find_missing_pixels(data, form, pixels):
        raise UnreadableImageError(f"{name}: cut off or damaged: {missing}")


def image_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of an upright picture from its file's header, None if it cannot be read."""
    try:
        if refuse_special(path):
            return None
        with pillow().open(path) as image:
            width, height = image.size
            return (height, width) if _orientation(image) in _sideways() else (width, height)
    except MissingExtraError:
        raise
    except Exception:  # of damaged files decoders raise almost anything
        return None


def from_pixels(pixels: Bytes, channels: int) -> Bytes:
    """Convert a picture (H, W) or (H, W, C) to another number of channels, (H, W, channels)."""
    image = pillow().fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    return np.asarray(image.convert(_MODES[channels])).reshape(*pixels.shape[:2], channels)


def _open(data: bytes, name: str) -> "Image":
    """Open a picture and read its header.

    Every exception of a decoder is reported as a fault of the file: on damaged bytes decoders raise almost anything.
    """
    if not data:
        raise UnreadableImageError(f"{name}: the file is empty")
    library = pillow()
    try:
        image = library.open(io.BytesIO(data))
    except library.DecompressionBombError:
        raise _too_large(name) from None
    except library.UnidentifiedImageError:
        if found := _foreign_format(data):
            raise UnreadableImageError(f"{name}: {found} is not read: convert it to JPEG or PNG") from None
        raise UnreadableImageError(f"{name}: not a picture: Pillow knows no such format") from None
    except Exception as error:
        raise UnreadableImageError(f"{name}: not a picture: {_reason(error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image.size)
    return image


def _foreign_format(data: bytes) -> str:
    """Return the name of a picture format that Pillow cannot read, by the first bytes; empty for any other file."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return "HEIC"
    starts = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"8BPS": "PSD", b"II*\0\x10\0\0\0CR": "Canon's CR2"}
    found = next((form for start, form in starts.items() if data.startswith(start)), "")
    return found or ("SVG" if b"<svg" in data[:1000].lower() else "")


def _load(image: "Image", name: str) -> "Image":
    try:
        image.load()
    except Exception as error:
        cut = "truncated" in str(error).lower()
        raise UnreadableImageError(f"{name}: {'cut off' if cut else 'broken'}: {_reason(error)}") from None
    return image


def _reason(error: Exception) -> str:
    return shorten(error) or type(error).__name__


def _too_large(name: str, size: tuple[int, int] | None = None) -> UnreadableImageError:
    has = f"{size[0]} x {size[1]} is" if size else "it has"
    return UnreadableImageError(
        f"{name}: too large: {has} more than {MAX_PIXELS / 1e6:.0f} million pixels", hint="cut it into tiles"
    )


def _upright(image: "Image") -> "Image":
    turned = _orientation(image)
    return image if turned is None else image.transpose(turned)


def _orientation(image: "Image") -> Any:
    """Return Pillow's transposition that sets a picture upright; None if it is upright, or its EXIF is damaged."""
    method = pillow().Transpose
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:
        return None
    first = (method.FLIP_LEFT_RIGHT, method.ROTATE_180, method.FLIP_TOP_BOTTOM)  # EXIF orientations 2, 3, 4
    turns = (*first, method.TRANSPOSE, method.ROTATE_270, method.TRANSVERSE, method.ROTATE_90)  # and 5 to 8
    return turns[orientation - 2] if orientation in range(2, 9) else None


def _sideways() -> tuple[int, ...]:
    """Return the transpositions that exchange width and height."""
    method = pillow().Transpose
    return (method.TRANSPOSE, method.ROTATE_270, method.TRANSVERSE, method.ROTATE_90)


def _remark(image: "Image", name: str) -> str:
    if image.mode in _DEEP:
        top = int(_deep_values(image, name).max())
        return f"16 bits, but no value is above {top}: it will be dark in 8 bits" if 0 < top < 4096 else ""
    _to_8_bits(image.crop((0, 0, 1, 1)), name, 3)  # raises if the mode cannot be converted
    return _describe_frames(image)


def _describe_frames(image: "Image") -> str:
    """Say that a picture has several frames; empty if it has one."""
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:
        return "a frame after the first is damaged: only the first is used"
    return f"{frames} frames: only the first is used" if frames > 1 else ""


def _deep_values(image: "Image", name: str) -> Any:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError(f"{name}: values outside 0..65535 cannot be represented in 8 bits")
    return values


def _to_8_bits(image: "Image", name: str, channels: int) -> Bytes:
    """Convert a picture to 8 bits per channel and the given number of channels."""
    if image.mode in _DEEP:
        image = pillow().fromarray(((_deep_values(image, name).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImageError(f"{name}: floating-point values cannot be represented in 8 bits")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # Pillow may convert a palette to grey by its indices, not by its colours
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        raise UnreadableImageError(f"{name}: pictures of Pillow's mode {image.mode} cannot be converted")
    if channels == 1 and image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return np.asarray(image if image.mode == _MODES[channels] else image.convert(_MODES[channels]))
