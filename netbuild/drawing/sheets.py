"""Pictures side by side on one sheet, and files that are whole at every moment."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.drawing.annotated import Drawing, Image, draw_boxes, pillow
from netbuild.system.files import write_bytes

SIDE = 320  # pixels of a picture's cell: four of them are as wide as a screen's half
MOST = 16  # pictures on a sheet
GAP, TEXT = 6, 16  # pixels
SMALLEST = (96, 240)  # a cell's side below which names would not fit under it, or on boxes in it


def cell_side(drawings: Sequence[Drawing]) -> int:
    """Pixels of the cells' side: the pictures' own where they are small, a multiple of it where they are tiny."""
    side, least = max(max(d.image.shape[:2]) for d in drawings), SMALLEST[any(len(d.boxes) for d in drawings)]
    return min(side * max(-(-least // side), 1), SIDE)


def scaled(drawing: Drawing, side: int) -> Image:
    """A drawing with the long side of its picture at so many pixels; boxes are drawn then, to stay sharp."""
    pil = pillow()[0]
    h, w = drawing.image.shape[:2]
    ratio = side / max(h, w)
    size = max(round(w * ratio), 1), max(round(h * ratio), 1)
    # Small pictures keep their pixels visible.
    how = pil.Resampling.NEAREST if ratio > 1 else pil.Resampling.BOX
    image = np.asarray(pil.fromarray(np.ascontiguousarray(drawing.image)).resize(size, how))
    if not len(drawing.boxes):
        return image
    return draw_boxes(image, np.asarray(drawing.boxes) * ratio, drawing.labels, drawing.colours)


def sheet(drawings: Sequence[Drawing], columns: int = 4, heads: Sequence[str] = ()) -> Image:
    """Drawings row by row in equal cells, each with its caption: (H, W, 3).

    Args:
        drawings: at least one.
        columns: cells in a row.
        heads: titles of the columns; none unless given.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, fonts = pillow()
    side, columns = cell_side(drawings), max(min(columns, len(drawings)), 1)
    high = side + (TEXT + 2 if any(d.caption for d in drawings) else 0) + GAP
    top = TEXT + 2 * GAP if heads else GAP
    rows = -(-len(drawings) // columns)
    canvas = pil.new("RGB", (columns * (side + GAP) + GAP, top + rows * high), (255, 255, 255))
    pen, font = draws.Draw(canvas), fonts.load_default(TEXT - 3)
    for column, title in enumerate(heads[:columns]):
        pen.text((GAP + column * (side + GAP), GAP), title, fill=(0, 0, 0), font=font)
    for i, drawing in enumerate(drawings):
        x, y = GAP + i % columns * (side + GAP), top + i // columns * high
        image = scaled(drawing, side)
        canvas.paste(pil.fromarray(image), (x + (side - image.shape[1]) // 2, y + (side - image.shape[0]) // 2))
        pen.text((x, y + side + 1), _cut(drawing.caption, font, side), fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


def _cut(text: str, font: Any, width: int) -> str:
    """As much of a line as fits."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def save(image: Image, path: Path) -> None:
    """Write a picture as PNG.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_bytes(path, encoded(image))


def encoded(image: Image) -> bytes:
    """A picture (H, W, 3) as a PNG file's bytes."""
    data = io.BytesIO()
    pillow()[0].fromarray(np.ascontiguousarray(image)).save(data, "PNG")
    return data.getvalue()
