"""Small pictures put together on one sheet, enlarged, coloured and titled."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from netbuild.drawing.annotated import Image, pillow
from netbuild.system.packages import package

MOST = 64  # maps or kernels of a picture, unless told
SIDE = 128  # pixels of a map's tile, at most
WIDEST = 1200  # pixels of a picture
GAP, TEXT = 2, 15
GREY = 90  # between kernels, in which white is 0


def _cell(count: int) -> int:
    """Pixels of a matrix's side: some a value, or fewer than values where it is large."""
    return min(count * min(max(480 // count, 1), 12), WIDEST)


def coloured(values: np.ndarray, name: str) -> Image:
    """Numbers as colours of a map of matplotlib's: of viridis from 0 to 1, of RdBu_r from -1 to 1; (H, W, 3)."""
    scale = package("matplotlib", "train").colormaps[name]
    shown = (values + 1) / 2 if name == "RdBu_r" else values
    return np.asarray(scale(shown, bytes=True)[..., :3])


def enlarged(image: Image, height: int, width: int) -> Image:
    """A picture in another size; values stay visible as squares."""
    pil = pillow()[0]
    larger = height >= image.shape[0] and width >= image.shape[1]
    how = pil.Resampling.NEAREST if larger else pil.Resampling.BOX
    return np.asarray(pil.fromarray(np.ascontiguousarray(image)).resize((width, height), how))


def grid(tiles: Sequence[Image], columns: int | None = None, ground: int = 255) -> Image:
    """Tiles of one size, line by line, on white or a grey."""
    h, w = tiles[0].shape[:2]
    columns = columns or min(max(math.ceil(math.sqrt(len(tiles) * h / w)), 1), max(WIDEST // (w + GAP), 1))
    lines = math.ceil(len(tiles) / columns)
    canvas = np.full((lines * (h + GAP) + GAP, columns * (w + GAP) + GAP, 3), ground, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * (h + GAP), GAP + i % columns * (w + GAP)
        canvas[top : top + h, left : left + w] = tile
    return canvas


def titled(image: Image, title: str) -> Image:
    """A picture with a line of text above it, wrapped where it is too long."""
    pil, draws, fonts = pillow()
    font, width = fonts.load_default(TEXT - 2), max(image.shape[1], 320)
    lines = _wrapped(title, font, width - 2 * GAP)
    top = len(lines) * (TEXT + 3) + GAP
    canvas = pil.new("RGB", (width, top + image.shape[0]), (255, 255, 255))
    canvas.paste(pil.fromarray(np.ascontiguousarray(image)), (0, top))
    pen = draws.Draw(canvas)
    for i, line in enumerate(lines):
        pen.text((GAP, GAP + i * (TEXT + 3)), line, fill=(20, 20, 20), font=font)
    return np.asarray(canvas)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
