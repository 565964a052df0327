"""Boxes with names drawn on pictures. Pillow alone; colours that colour-blind people tell apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.errors import MissingExtraError

Image = NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

# Okabe and Ito's colours without black: seven that are told apart with any kind of colour vision.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip


def colour(number: int) -> Colour:
    """The colour of a class, red, green and blue from 0 to 255; they repeat after seven."""
    return COLOURS[number % len(COLOURS)]


@dataclass(frozen=True)
class Drawing:
    """A picture and what is to be shown on it and under it.

    Args:
        image: (H, W, 3) from 0 to 255.
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: of each box.
        colours: of each box.
        caption: a line under the picture.
    """

    image: Image
    boxes: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 4)))
    labels: Sequence[str] = ()
    colours: Sequence[Colour] = ()
    caption: str = ""


def pillow() -> tuple[Any, Any, Any]:
    """The modules Image, ImageDraw and ImageFont of Pillow.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtraError("drawing needs Pillow", hint="pip install 'netbuild[train]'") from None
    return Image, ImageDraw, ImageFont


def draw_boxes(image: Image, boxes: NDArray[Any], labels: Sequence[str], colours: Sequence[Colour]) -> Image:
    """A copy of a picture (H, W, 3) with boxes and their labels; large boxes first, so that small ones stay visible.

    A label stands where it covers no other one; where there is no such place it is left out.

    Args:
        image: (H, W, 3) from 0 to 255.
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: N texts, an empty one for none.
        colours: N colours.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, fonts = pillow()
    canvas = pil.fromarray(np.ascontiguousarray(image))
    pen, size = draws.Draw(canvas), _text_size(canvas.size)
    font, width = fonts.load_default(size), max(round(size / 6), 2)
    order = sorted(range(len(boxes)), key=lambda i: -abs((boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1])))
    for i in order:
        x1, y1, x2, y2 = (float(v) for v in boxes[i])
        pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colours[i], width=width)
    taken: list[tuple[float, ...]] = []
    for i in order:
        _label(pen, font, canvas.size, [float(v) for v in boxes[i]], labels[i], colours[i], taken)
    return np.asarray(canvas)


def _text_size(size: tuple[int, int]) -> int:
    """Pixels of the letters on a picture of this size."""
    return min(max(round(max(size) / 32), 11), 40)


def _label(
    pen: Any, font: Any, size: tuple[int, int], box: Sequence[float], text: str, tint: Colour, taken: list[Any]
) -> None:
    """Write a label at the first of its places that is free: above the box, inside it at the top, below it, right."""
    text = " ".join(text.split())
    if not text:
        return
    (left, _, right, _), (_, top, _, bottom) = font.getbbox(text), font.getbbox("Ag")
    w, h = round(right - left) + 4, round(bottom - top) + 4
    x1, y1, x2, y2 = box
    for x, y in ((x1, y1 - h), (x1, y1), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2 - h), (x1, y2 - h)):
        # Whole pixels: Pillow cuts off letters between them.
        x, y = min(max(round(x), 0), max(size[0] - w, 0)), min(max(round(y), 0), max(size[1] - h, 0))
        if not any(x < b[2] and b[0] < x + w and y < b[3] and b[1] < y + h for b in taken):
            taken.append((x, y, x + w, y + h))
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill=tint)
            pen.text((x + 2 - left, y + 2 - top), text, fill=_ink(tint), font=font)
            return


def _ink(tint: Colour) -> Colour:
    """Black or white, whichever is better read on a colour."""
    red, green, blue = tint
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else (255, 255, 255)
