"""Turns arrays into pictures: colours, enlarges, arranges and titles tiles."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from netbuild.drawing.annotated import Image, pillow
from netbuild.drawing.fonts import find_font
from netbuild.system.packages import package

MAX_TILES = 64  # default for the largest number of maps or kernels in a picture
MAX_MAP_SIDE = 128  # largest side in pixels of a map's tile
MAX_WIDTH = 1200  # largest width in pixels of a picture
GAP, TEXT = 2, 15  # in pixels: between tiles, height of a line of text
GREY = 90  # background of kernels, in which white stands for 0


def matrix_side(count: int) -> int:
    """Return the side in pixels of a drawn matrix with ``count`` values along it; large matrices are reduced."""
    return min(count * min(max(480 // count, 1), 12), MAX_WIDTH)


def apply_colormap(values: np.ndarray, name: str) -> Image:
    """Colour an array (H, W) by a colormap of matplotlib and return (H, W, 3).

    The range of values is 0 to 1 for viridis and -1 to 1 for RdBu_r.
    """
    scale = package("matplotlib", "train").colormaps[name]
    shown = (values + 1) / 2 if name == "RdBu_r" else values
    return np.asarray(scale(shown, bytes=True)[..., :3])


def resize(image: Image, height: int, width: int) -> Image:
    """Resize a picture; if it is enlarged, its pixels stay visible as squares."""
    pil = pillow()[0]
    is_larger = height >= image.shape[0] and width >= image.shape[1]
    resampling = pil.Resampling.NEAREST if is_larger else pil.Resampling.BOX
    return np.asarray(pil.fromarray(np.ascontiguousarray(image)).resize((width, height), resampling))


def arrange_tiles(tiles: Sequence[Image], columns: int | None = None, ground: int = 255) -> Image:
    """Arrange tiles of one size line by line on a grey background of value ``ground``; columns are chosen if None."""
    h, w = tiles[0].shape[:2]
    columns = columns or min(max(math.ceil(math.sqrt(len(tiles) * h / w)), 1), max(MAX_WIDTH // (w + GAP), 1))
    lines = math.ceil(len(tiles) / columns)
    canvas = np.full((lines * (h + GAP) + GAP, columns * (w + GAP) + GAP, 3), ground, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        canvas[top : top + h, left : left + w] = tile
    return canvas


def add_title(image: Image, title: str) -> Image:
    """Return a picture with its title above it, wrapped into as many lines as it needs."""
    pil, draws, _ = pillow()
    font, width = find_font([title], TEXT - 2), max(image.shape[1], 320)
    lines = _wrap(title, font, width - 2 * GAP)
    top = len(lines) * (TEXT + 3) + GAP
    canvas = pil.new("RGB", (width, top + image.shape[0]), (255, 255, 255))
    canvas.paste(pil.fromarray(np.ascontiguousarray(image)), (0, top))
    pen = draws.Draw(canvas)
    for i, line in enumerate(lines):
        pen.text((GAP, GAP + i * (TEXT + 3)), line, fill=(20, 20, 20), font=font)
    return np.asarray(canvas)


def _wrap(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
