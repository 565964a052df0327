"""Boxes with names drawn on pictures. Pillow alone; colours that colour-blind people tell apart."""

from collections.abc import Iterable, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass, field
from math import ceil
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
    """The colour of a class, red, green and blue from 0 to 255; neighbours in number are far apart in hue."""
    if number < len(COLOURS):
        return COLOURS[number]
    hue = (0.03 + number * 0.618034) % 1  # the golden ratio never comes near a hue again
    saturation, value = ((0.85, 0.95), (0.6, 1.0), (1.0, 0.7))[number // 5 % 3]
    red, green, blue = (round(255 * x) for x in hsv_to_rgb(hue, saturation, value))
    return red, green, blue


NARROWEST = 240  # pixels that a line under a picture needs


@dataclass(frozen=True)
class Drawing:
    """A picture and what is to be shown on it and under it.

    Args:
        image: (H, W, 3) from 0 to 255.
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: of each box.
        colours: of each box.
        caption: a line under the picture.
        bars: names, their shares of 1, and colours: what a classifier thinks.
        areas: masks (H, W), and the colour of each.
        outlines: (N, 4, 2) corners of the boxes, where they are turned.
        points: places (K, 2), x and y, and the colour of each few.
    """

    image: Image
    boxes: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 4)))
    labels: Sequence[str] = ()
    colours: Sequence[Colour] = ()
    caption: str = ""
    bars: Sequence[tuple[str, float, Colour]] = ()
    areas: Iterable[tuple[NDArray[np.bool_], Colour]] = ()
    outlines: NDArray[Any] | None = None
    points: Sequence[tuple[NDArray[Any], Colour]] = ()

    def render(self) -> Image:
        """All in one picture (H, W, 3).

        Raises:
            MissingExtraError: if Pillow is not installed.
        """
        image = tinted(self.image, self.areas)
        if len(self.boxes):
            image = draw_boxes(image, self.boxes, self.labels, self.colours, self.outlines)
        image = draw_points(image, self.points) if self.points else image
        return draw_bars(image, self.bars) if self.bars else image


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


def tinted(image: Image, areas: Iterable[tuple[NDArray[np.bool_], Colour]]) -> Image:
    """A picture (H, W, 3) with masks (H, W) half in their colours; the picture itself where there is none."""
    found = image
    for mask, tint in areas:
        found = found.copy() if found is image else found
        found[mask] = (image[mask].astype(np.uint16) + np.array(tint, np.uint16)) // 2
    return found


def draw_points(image: Image, points: Sequence[tuple[NDArray[Any], Colour]]) -> Image:
    """A copy of a picture (H, W, 3) with dots at places (K, 2), each few in a colour, dark around.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, _ = pillow()
    canvas = pil.fromarray(np.ascontiguousarray(image))
    pen, radius = draws.Draw(canvas), max(round(_text_size(canvas.size) / 5), 2)
    for places, tint in points:
        for x, y in places.tolist():
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tint, outline=(20, 20, 20))
    return np.asarray(canvas)


def draw_boxes(
    image: Image,
    boxes: NDArray[Any],
    labels: Sequence[str],
    colours: Sequence[Colour],
    outlines: NDArray[Any] | None = None,
) -> Image:
    """A copy of a picture (H, W, 3) with boxes and their labels; large boxes first, so that small ones stay visible.

    A label stands where it covers no other one; where there is no such place it is left out.

    Args:
        image: (H, W, 3) from 0 to 255.
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: N texts, an empty one for none.
        colours: N colours.
        outlines: (N, 4, 2) corners, drawn instead of the boxes; labels stand at the boxes.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, fonts = pillow()
    canvas = pil.fromarray(np.ascontiguousarray(image))
    pen, size = draws.Draw(canvas), _text_size(canvas.size)
    font, width = fonts.load_default(size), max(round(size / 6), 2)
    order = sorted(range(len(boxes)), key=lambda i: -abs((boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1])))
    for i in order:
        if outlines is not None:
            pen.polygon([(x, y) for x, y in outlines[i].tolist()], outline=colours[i], width=width)
            continue
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


def draw_bars(image: Image, shares: Sequence[tuple[str, float, Colour]]) -> Image:
    """The picture, enlarged if it is too narrow for text, and under it a bar for each name's share of 1.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, fonts = pillow()
    times = ceil(NARROWEST / image.shape[1])
    image = image.repeat(times, 0).repeat(times, 1)
    size = max(round(image.shape[1] * 0.03), 13)
    font, row = fonts.load_default(size), round(size * 1.6)
    panel = np.full((row * len(shares) + size // 2, image.shape[1], 3), 255, np.uint8)
    canvas = pil.fromarray(np.concatenate((image, panel)))
    pen = draws.Draw(canvas)
    for i, (name, share, tint) in enumerate(shares):
        top = image.shape[0] + size // 4 + i * row
        end = round((image.shape[1] - 1) * share)
        pen.rectangle((0, top + row - max(size // 4, 3), end, top + row - 2), fill=tint)
        pen.text((size // 2, top), f"{share:.2f}  {' '.join(name.split())}", fill=(20, 20, 20), font=font)
    return np.asarray(canvas)


def _ink(tint: Colour) -> Colour:
    """Black or white, whichever has more contrast with a colour, as WCAG defines it."""
    red, green, blue = (((x / 255 + 0.055) / 1.055) ** 2.4 for x in tint)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)
