"""Pictures as arrays: whatever a file holds comes out upright, in 8 bits, grey or RGB; or as an error that says why."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netbuild.errors import MissingExtraError, NetbuildError, shorten

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .jfif .jpe .jpeg .jpg .jp2 .pbm .pgm .png .ppm .tga .tif .tiff .webp".split()
)
FOREIGN = frozenset(".arw .cr2 .dng .heic .heif .jxl .nef .psd .raw .svg".split())  # pictures that Pillow does not read
MAX_PIXELS = 178_956_970  # half a GiB as RGB; what Pillow refuses too
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I"}  # Pillow's modes of 16-bit grey; converting them, Pillow would clip


Bytes = NDArray[np.uint8]


class UnreadableImageError(NetbuildError):
    """A file that should be a picture and is none, or one that cannot be shown rightly in 8 bits."""


@dataclass(frozen=True)
class Facts:
    """What a look at a picture tells: its size upright (width, height), and why it cannot be used, or an empty text."""

    size: tuple[int, int] | None
    fault: str = ""
    remark: str = ""


def pillow() -> Any:
    """The module `PIL.Image`.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("reading pictures needs Pillow", hint="pip install 'netbuild[train]'") from None
    return Image


def is_picture(path: Path) -> bool:
    """Whether a file's ending is that of a picture; hidden files (such as ``._a.jpg`` of macOS) are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path, channels: int = 3) -> Bytes:
    """A picture as uint8 (H, W, channels): 1 is grey, 3 RGB, 4 RGB and alpha.

    It is turned as its EXIF orientation says. 16 bits are scaled to 8, CMYK and palettes converted, alpha is left out
    unless asked for; of several frames the first is read.

    Raises:
        UnreadableImageError: if the file is no picture, is cut off, too large, or has no right form in 8 bits.
    """
    path = Path(path)
    if channels not in _MODES:
        raise NetbuildError(f"{path}: pictures are read with 1, 3 or 4 channels, not {channels}")
    return decode(content(path), str(path), channels)


def content(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        UnreadableImageError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"{path}: cannot be read: {error.strerror or error}") from None


def decode(data: bytes, name: str, channels: int = 3) -> Bytes:
    """The picture that a file's bytes are, see `read_image`."""
    image = _loaded(_opened(data, name), name)
    turned = _turn(image)
    level = _levelled(image if turned is None else image.transpose(turned), name, channels)
    return np.ascontiguousarray(level).reshape(*level.shape[:2], channels)


def look(data: bytes, name: str) -> Facts:
    """Decode a picture whole, to know its size and that it can be used."""
    try:
        image = _opened(data, name)
        width, height = image.size
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))  # of JPEG: every byte read, fewer pixels made
        _loaded(image, name)
        turned = _turn(image)
        remark = _remark(image, name)
    except UnreadableImageError as error:
        return Facts(None, error.message.removeprefix(f"{name}: "))
    return Facts((height, width) if turned in _sideways() else (width, height), remark=remark)


def from_pixels(pixels: Bytes, channels: int) -> Bytes:
    """A picture given as (H, W) or (H, W, C) with the number of channels asked for."""
    image = pillow().fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    return np.asarray(image.convert(_MODES[channels])).reshape(*pixels.shape[:2], channels)


def _opened(data: bytes, name: str) -> "Image":
    """The picture with its header read. A decoder meets any bytes, so any of its failures is the file's fault."""
    if not data:
        raise UnreadableImageError(f"{name}: the file is empty")
    library = pillow()
    try:
        image = library.open(io.BytesIO(data))
    except library.DecompressionBombError:
        raise _too_large(name) from None
    except library.UnidentifiedImageError:
        raise UnreadableImageError(f"{name}: not a picture: no format that Pillow reads here") from None
    except Exception as error:
        raise UnreadableImageError(f"{name}: not a picture: {_reason(error)}") from None
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, image.size)
    return image


def _loaded(image: "Image", name: str) -> "Image":
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


def _turn(image: "Image") -> Any:
    """Pillow's transposition that sets a picture upright, from its EXIF; None if it is, or the EXIF is damaged."""
    how = pillow().Transpose
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:
        return None
    first = (how.FLIP_LEFT_RIGHT, how.ROTATE_180, how.FLIP_TOP_BOTTOM)  # of the orientations 2, 3, ...
    turns = (*first, how.TRANSPOSE, how.ROTATE_270, how.TRANSVERSE, how.ROTATE_90)
    return turns[orientation - 2] if orientation in range(2, 9) else None


def _sideways() -> tuple[int, ...]:
    how = pillow().Transpose
    return (how.TRANSPOSE, how.ROTATE_270, how.TRANSVERSE, how.ROTATE_90)


def _remark(image: "Image", name: str) -> str:
    if image.mode in _DEEP:
        top = int(_deep(image, name).max())
        return f"16 bits, of which the values up to {top} use little: it will be dark" if 0 < top < 4096 else ""
    _levelled(image.crop((0, 0, 1, 1)), name, 3)  # whether its mode has a rule
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:
        return "a frame after the first is damaged: only the first is used"
    return f"{frames} frames: only the first is used" if frames > 1 else ""


def _deep(image: "Image", name: str) -> Any:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise UnreadableImageError(f"{name}: values outside 0..65535 have no right form in 8 bits")
    return values


def _levelled(image: "Image", name: str, channels: int) -> Bytes:
    """8 bits a channel, in the mode asked for."""
    if image.mode in _DEEP:
        image = pillow().fromarray(((_deep(image, name).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImageError(f"{name}: floating-point values have no right form in 8 bits")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # through its colours; straight to grey, Pillow may take the numbers
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"):
        raise UnreadableImageError(f"{name}: pictures of Pillow's mode {image.mode} have no rule")
    if channels == 1 and image.mode not in ("1", "L"):
        image = image.convert("RGB")
    return np.asarray(image if image.mode == _MODES[channels] else image.convert(_MODES[channels]))
