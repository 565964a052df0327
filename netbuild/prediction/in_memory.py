"""Pictures given from Python: arrays, PIL pictures, tensors and bytes as well as names of files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.data.fitting import Image
from netbuild.data.images import pillow
from netbuild.errors import NetbuildError
from netbuild.prediction.sources import InMemory, Source, list_files


def collect(source: Any) -> list[Source]:
    """List what is to be predicted on, in order; a picture that is given twice is listed twice.

    Args:
        source: a file, folder, glob pattern or ``-`` (see `netbuild.prediction.sources.list_files`); an array (H, W),
            (H, W, 3) or (H, W, 4), uint8 or floats from 0 to 1; a PIL picture; a tensor (C, H, W), or (B, C, H, W)
            for B pictures; the bytes of a picture's file; or a list, tuple or other iterable of these.

    Raises:
        NetbuildError: for a name that matches nothing, a thing or a shape that is no picture, or an empty list.
    """
    things = source if _is_iterable(source) else [source]
    found: list[Source] = []
    for thing in things:
        if isinstance(thing, (str, Path)):
            found += list_files(thing)
        else:
            found += [InMemory(Path(f"image-{len(found) + i}"), data) for i, data in enumerate(_pictures(thing), 1)]
    if not found:
        raise NetbuildError("there is no picture: nothing was named, or an empty list")
    return found


def _is_iterable(source: Any) -> bool:
    single = (str, Path, bytes, bytearray, memoryview, np.ndarray, torch.Tensor)
    return isinstance(source, Iterable) and not isinstance(source, single) and not _is_pil(source)


def _is_pil(thing: Any) -> bool:
    # Pillow is optional: a PIL picture can only be given if it is installed, and its module names it.
    return type(thing).__module__.startswith("PIL.") and isinstance(thing, pillow().Image)


def _pictures(thing: Any) -> list[bytes | Image]:
    """Convert one thing that is no name to pictures: bytes of a file, or pixels uint8 (H, W, C)."""
    if isinstance(thing, (bytes, bytearray, memoryview)):
        return [bytes(thing)]
    if isinstance(thing, torch.Tensor):
        return list(_from_tensor(thing))
    if isinstance(thing, np.ndarray):
        return [_from_array(thing)]
    if _is_pil(thing):
        return [_from_array(np.asarray(thing.convert("RGBA" if "A" in thing.mode else "RGB")))]
    wanted = "a path, an array, a PIL picture, a tensor, bytes, or a list of these"
    raise NetbuildError(f"a {type(thing).__name__} is no picture", hint=f"give {wanted}")


def _from_tensor(tensor: torch.Tensor) -> list[Image]:
    values = tensor.detach().cpu()
    if values.ndim not in (3, 4) or values.shape[-3] not in (1, 3, 4):
        raise NetbuildError(
            f"a tensor of shape {list(values.shape)} is no picture", hint="tensors are (C, H, W) or (B, C, H, W)"
        )
    batch = values if values.ndim == 4 else values[None]
    if batch.is_floating_point():
        batch = batch.float()  # numpy has no bfloat16
    return [_from_array(image.permute(1, 2, 0).numpy()) for image in batch]


def _from_array(array: Any) -> Image:
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        hint = "arrays are (H, W), (H, W, 3) or (H, W, 4); of several pictures give a list"
        raise NetbuildError(f"an array of shape {list(array.shape)} is no picture", hint=hint)
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if not np.issubdtype(image.dtype, np.floating):
        raise NetbuildError(
            f"an array of {image.dtype} is no picture", hint="give uint8 from 0 to 255, or floats from 0 to 1"
        )
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise NetbuildError("floats of a picture must be from 0 to 1", hint="divide by 255, or give uint8")
    return np.ascontiguousarray(np.rint(image * 255).astype(np.uint8))
