"""What was found, drawn into pictures: boxes with labels, bars of probabilities. Pictures are uint8 (H, W, 3), RGB."""

import colorsys
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from netbuild.builders import package
from netbuild.tasks.base import Image

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
PAPER, INK = (255, 255, 255), (20, 20, 20)
NARROWEST = 240  # pixels that a panel of text needs


def colour(number: int) -> Colour:
    """A class's colour: neighbours in number are far apart in hue, and no two of the first hundred are the same."""
    hue = (0.03 + number * 0.618034) % 1  # the golden ratio never comes near a hue again
    saturation, value = ((0.85, 0.95), (0.6, 1.0), (1.0, 0.7))[number // 5 % 3]
    r, g, b = (round(255 * x) for x in colorsys.hsv_to_rgb(hue, saturation, value))
    return r, g, b


def ink(background: Colour) -> Colour:
    """Black or white, whichever is easier to read on a colour."""
    r, g, b = (((x / 255 + 0.055) / 1.055) ** 2.4 for x in background)
    luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return INK if luminance > 0.179 else PAPER  # where both have the same contrast, as WCAG defines it


def line_width(image: Image) -> int:
    """Pixels of a box's line."""
    return max(round(sum(image.shape[:2]) / 2 * 0.003), 1 if max(image.shape[:2]) < 200 else 2)


def font(size: int) -> Any:
    """Pillow's own typeface at a height in pixels."""
    return package("PIL.ImageFont", "train").load_default(size)


def boxes(image: Image, found: Sequence[tuple[Box, str, Colour]]) -> Image:
    """A copy of the picture with boxes of corners in pixels and their labels, later ones above earlier ones."""
    picture, pen = _opened(image)
    width = line_width(image)
    letters = font(max(round(sum(image.shape[:2]) / 2 * 0.022), 11))
    for box, _, paint in found:
        pen.rectangle(_ordered(box, image), outline=paint, width=width)
    for box, text, paint in found:  # above all lines, or they would be crossed out
        _label(pen, _ordered(box, image), text, paint, letters, image)
    return np.asarray(picture)


def bars(image: Image, shares: Sequence[tuple[str, float, Colour]]) -> Image:
    """The picture, enlarged if it is too narrow for text, and under it a bar for each name's share of 1."""
    times = ceil(NARROWEST / image.shape[1])
    image = image.repeat(times, 0).repeat(times, 1)
    size = max(round(image.shape[1] * 0.03), 13)
    letters, row = font(size), round(size * 1.6)
    panel = np.full((row * len(shares) + size // 2, image.shape[1], 3), PAPER, np.uint8)
    picture, pen = _opened(np.concatenate((image, panel)))
    for i, (name, share, paint) in enumerate(shares):
        top = image.shape[0] + size // 4 + i * row
        end = round((image.shape[1] - 1) * share)
        pen.rectangle((0, top + row - max(size // 4, 3), end, top + row - 2), fill=paint)
        pen.text((size // 2, top), f"{share:.2f}  {_plain(name)}", fill=INK, font=letters)
    return np.asarray(picture)


def _opened(image: Image) -> tuple[Any, Any]:
    picture = package("PIL.Image", "train").fromarray(image)
    return picture, package("PIL.ImageDraw", "train").Draw(picture)


def _ordered(box: Box, image: Image) -> tuple[int, int, int, int]:
    """A box in whole pixels of the picture, at least one each way."""
    h, w = image.shape[:2]
    x1, y1 = min(max(round(box[0]), 0), w - 1), min(max(round(box[1]), 0), h - 1)
    return x1, y1, min(max(round(box[2]) - 1, x1), w - 1), min(max(round(box[3]) - 1, y1), h - 1)


def _label(pen: Any, box: tuple[int, int, int, int], text: str, paint: Colour, letters: Any, image: Image) -> None:
    """A label on its box's upper edge: above it, or inside where there is no room; never out of the picture."""
    _, top, _, low = letters.getbbox("Ag")  # of every text the same, so that labels side by side are level
    pad = max((low - top) // 4, 1)
    wide, high = ceil(letters.getlength(_plain(text))) + 2 * pad, low - top + 2 * pad
    x = max(min(box[0], image.shape[1] - wide), 0)
    y = box[1] - high + 1 if box[1] >= high - 1 else min(box[1], max(image.shape[0] - high, 0))
    pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=paint)
    pen.text((x + pad, y + pad - top), _plain(text), fill=ink(paint), font=letters)


def _plain(text: str) -> str:
    return " ".join(text.split())
