"""Pictures as bytes and files."""

import io
from pathlib import Path

import numpy as np

from netbuild.drawing.annotated import Image, pillow
from netbuild.system.files import make_folder, write_bytes

JPEG = frozenset((".jpg", ".jpeg", ".jpe", ".jfif"))  # endings of files that are written as JPEG


def encode(image: Image, form: str = "PNG") -> bytes:
    """Encode a picture (H, W, 3) as the bytes of a file; ``form`` is Pillow's name of the format."""
    data = io.BytesIO()
    options = {"quality": 95} if form == "JPEG" else {}
    pillow()[0].fromarray(np.ascontiguousarray(image)).save(data, form, **options)
    return data.getvalue()


def save(image: Image, path: Path) -> None:
    """Write a picture (H, W, 3) atomically: as JPEG if the file's ending says so, else as PNG.

    Raises:
        NetbuildError: if the file cannot be written.
    """
    make_folder(path.parent)
    write_bytes(path, encode(image, "JPEG" if path.suffix.lower() in JPEG else "PNG"))
