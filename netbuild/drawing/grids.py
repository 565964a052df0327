"""Grids of small pictures, and animations of them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from netbuild.drawing.annotated import Image, pillow
from netbuild.errors import NetbuildError
from netbuild.system.files import write_bytes

GAP = 2  # pixels between pictures
SMALL = 48  # pictures with a smaller side are enlarged by a whole factor to at least this
FRAME, LAST_FRAME = 80, 2000  # milliseconds that a frame of an animation is shown
ANIMATIONS = (".gif", ".png", ".apng")


def make_grid(pictures: Sequence[Image], columns: int = 0) -> Image:
    """Arrange pictures (H, W, 3) of one size row by row on white and return the grid.

    Args:
        pictures: at least one.
        columns: number of pictures in a row; 0 for a square.
    """
    count = len(pictures)
    columns = min(columns or int(np.ceil(np.sqrt(count))), count)
    rows = -(-count // columns)
    factor = max(-(-SMALL // min(pictures[0].shape[:2])), 1)
    h, w = (side * factor + GAP for side in pictures[0].shape[:2])
    grid = np.full((rows * h + GAP, columns * w + GAP, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * h + GAP, i % columns * w + GAP
        grid[top : top + h - GAP, left : left + w - GAP] = picture.repeat(factor, 0).repeat(factor, 1)
    return grid


def check_animation(path: Path) -> None:
    """Refuse a file that is no GIF or animated PNG by its ending.

    Raises:
        NetbuildError: for another ending.
    """
    if path.suffix.lower() not in ANIMATIONS:
        raise NetbuildError(f"{path}: an animation is a .gif, or a .png (APNG)", hint="try way.gif")


def save_animation(frames: Sequence[Image], path: Path) -> None:
    """Write frames (H, W, 3) of one size atomically as a GIF or an animated PNG, by the file's ending.

    Raises:
        NetbuildError: for another ending, or if the file cannot be written.
    """
    check_animation(path)
    images = [pillow()[0].fromarray(np.ascontiguousarray(frame)) for frame in frames]
    durations = [FRAME] * (len(images) - 1) + [LAST_FRAME]
    data = io.BytesIO()
    form = "GIF" if path.suffix.lower() == ".gif" else "PNG"
    images[0].save(data, form, save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_bytes(path, data.getvalue())
