"""Sources of prediction and tracking from Python: arrays, PIL pictures, tensors, bytes, and paths."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.data.fitting import Image
from netbuild.data.images import pillow
from netbuild.errors import NetbuildError
from netbuild.prediction.sources import FPS, FrameList, InMemory, Source, is_video, list_sources


def collect(source: Any) -> list[Source]:
    """Convert anything that `predict` takes to a list of sources, in order; duplicates stay.

    Args:
        source: a file, folder, glob pattern, camera or ``-`` (see `netbuild.prediction.sources.list_sources`); an array
            (H, W), (H, W, 3) or (H, W, 4), uint8 or floats from 0 to 1; a PIL picture; a tensor (C, H, W), or
            (B, C, H, W) for B pictures; the bytes of a picture's file; or a list, tuple or other iterable of these.

    Raises:
        NetbuildError: for a path that matches nothing, an object that is not a picture, or an empty list.
    """
    items = source if _is_iterable(source) else [source]
    sources: list[Source] = []
    for item in items:
        if isinstance(item, (str, Path)):
            sources += list_sources(item)
        else:
            pictures = _to_pictures(item)
            sources += [InMemory(Path(f"image-{len(sources) + i}"), data) for i, data in enumerate(pictures, 1)]
    if not sources:
        raise NetbuildError("no pictures to predict on: nothing was named, or an empty list")
    return sources


def collect_videos(source: Any, fps: Callable[[Path], float | None] = lambda path: None) -> list[Source]:
    """Convert anything that `collect` takes to a list of videos.

    The pictures of a folder or pattern are the frames of one video, and so are all pictures in memory together.

    Args:
        source: as for `collect`.
        fps: gives the frames per second of a folder of frames, None if they are not known.

    Raises:
        NetbuildError: as `collect`, and for a single picture's file.
    """
    items = list(source) if _is_iterable(source) else [source]
    named = [item for item in items if isinstance(item, (str, Path))]
    data = [item for item in items if not isinstance(item, (str, Path))]
    videos: list[Source] = []
    for name in named:
        found = list_sources(name)
        pictures = [source for source in found if isinstance(source, Path) and not is_video(source)]
        videos += [source for source in found if not isinstance(source, Path) or is_video(source)]
        if pictures:
            if not Path(name).is_dir() and len(pictures) == 1:
                hint = "name a video, or a folder or pattern of the frames of one"
                raise NetbuildError(f"{name}: a picture is no video", hint=hint)
            folder = pictures[0].parent
            videos.append(FrameList(folder, pictures, fps(folder) or FPS))
    if data:
        videos.append(FrameList(Path("video"), collect(data)))
    if not videos:
        raise NetbuildError("no video to track in: nothing was named, or an empty list")
    return videos


def _is_iterable(source: Any) -> bool:
    single = (str, Path, bytes, bytearray, memoryview, np.ndarray, torch.Tensor)
    return isinstance(source, Iterable) and not isinstance(source, single) and not _is_pil(source)


def _is_pil(item: Any) -> bool:
    # Pillow is optional: a PIL picture can only be given if it is installed, and its module names it.
    return type(item).__module__.startswith("PIL.") and isinstance(item, pillow().Image)


def _to_pictures(item: Any) -> list[bytes | Image]:
    """Convert an object to pictures: each the bytes of a file, or uint8 pixels (H, W, C)."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return [bytes(item)]
    if isinstance(item, torch.Tensor):
        return list(_from_tensor(item))
    if isinstance(item, np.ndarray):
        return [_from_array(item)]
    if _is_pil(item):
        return [_from_array(np.asarray(item.convert("RGBA" if "A" in item.mode else "RGB")))]
    accepted = "a path, an array, a PIL picture, a tensor, bytes, or a list of these"
    raise NetbuildError(f"a {type(item).__name__} is no picture", hint=f"pass {accepted}")


def _from_tensor(tensor: torch.Tensor) -> list[Image]:
    """Convert a tensor (C, H, W) or (B, C, H, W) to pictures (H, W, C)."""
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
    """Check an array (H, W) or (H, W, C), uint8 or floats from 0 to 1, and convert it to uint8 (H, W, C)."""
    image = array[..., None] if array.ndim == 2 else array
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        hint = "arrays are (H, W), (H, W, 3) or (H, W, 4); pass several pictures as a list"
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
