"""Contact sheets: annotated pictures side by side in a grid of cells."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from netbuild.drawing.annotated import Drawing, Image, pillow
from netbuild.drawing.fonts import find_font

MAX_SIDE = 320  # largest side of a cell in pixels: four cells are about as wide as half a screen
MAX_PICTURES = 16  # largest number of pictures on a sheet
GAP, TEXT = 6, 16  # space between cells and height of a line of text, in pixels
MIN_SIDES = (96, 240)  # least side of a cell in pixels for its caption to fit, and for labels on its picture to fit


def cell_side(drawings: Sequence[Drawing]) -> int:
    """Return the side of the cells in pixels: that of the largest picture, a multiple of it where pictures are tiny."""
    labelled = any(len(d.boxes) or len(d.points) for d in drawings)
    side, min_side = max(max(d.image.shape[:2]) for d in drawings), MIN_SIDES[labelled]
    return min(side * max(-(-min_side // side), 1), MAX_SIDE)


def render_cell(drawing: Drawing, side: int) -> Image:
    """Render a drawing so that the longer side of its picture has ``side`` pixels; bars and texts are left out."""
    return replace(drawing.scale(side / max(drawing.image.shape[:2])), bars=(), texts=()).render()


def make_sheet(drawings: Sequence[Drawing], columns: int = 4, heads: Sequence[str] = ()) -> Image:
    """Arrange drawings row by row in equal cells, each with its caption, and return the sheet (H, W, 3).

    Args:
        drawings: at least one.
        columns: number of cells in a row.
        heads: titles of the columns.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, _ = pillow()
    side, columns = cell_side(drawings), max(min(columns, len(drawings)), 1)
    high = side + (TEXT + 2 if any(d.caption for d in drawings) else 0) + GAP
    top = TEXT + 2 * GAP if heads else GAP
    rows = -(-len(drawings) // columns)
    canvas = pil.new("RGB", (columns * (side + GAP) + GAP, top + rows * high), (255, 255, 255))
    pen, font = draws.Draw(canvas), find_font([*heads, *(d.caption for d in drawings)], TEXT - 3)
    for column, title in enumerate(heads[:columns]):
        pen.text((GAP + column * (side + GAP), GAP), title, fill=(0, 0, 0), font=font)
    for i, drawing in enumerate(drawings):
        x, y = GAP + i % columns * (side + GAP), top + i // columns * high
        image = render_cell(drawing, side)
        canvas.paste(pil.fromarray(image), (x + (side - image.shape[1]) // 2, y + (side - image.shape[0]) // 2))
        pen.text((x, y + side + 1), _shorten(drawing.caption, font, side), fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


def _shorten(text: str, font: Any, width: int) -> str:
    """Cut a line of text to ``width`` pixels, with an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
