"""Annotated pictures: boxes, masks, keypoints and labels drawn by Pillow, in colours safe for the colour-blind."""

from collections.abc import Iterable, Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from netbuild.drawing.fonts import find_font
from netbuild.errors import MissingExtraError
from netbuild.system.packages import install_hint

Image = NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

# Okabe and Ito's palette without black: its seven colours are distinct with any kind of colour vision.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip


def class_colour(number: int) -> Colour:
    """Return the colour of class ``number``: red, green, blue from 0 to 255. Consecutive classes differ in hue."""
    if number < len(COLOURS):
        return COLOURS[number]
    hue = (0.03 + number * 0.618034) % 1  # steps of the golden ratio spread hues evenly without repeats
    saturation, value = ((0.85, 0.95), (0.6, 1.0), (1.0, 0.7))[number // 5 % 3]
    red, green, blue = (round(255 * x) for x in hsv_to_rgb(hue, saturation, value))
    return red, green, blue


MIN_BAR_WIDTH = 240  # width in pixels below which the text of a bar would not fit


@dataclass(frozen=True)
class Drawing:
    """A picture with the annotations that are drawn on it and under it. All positions are in pixels of ``image``.

    Args:
        image: (H, W, 3) from 0 to 255.
        boxes: (N, 4) left, top, right, bottom.
        labels: the text of each box.
        colours: the colour of each box.
        caption: a line of text for the space under the picture; only sheets show it.
        bars: name, value from 0 to 1 and colour of each bar under the picture, such as a classifier's probabilities.
        areas: masks (H, W), each with its colour.
        outlines: (N, 4, 2) corners of oriented boxes, drawn instead of ``boxes``; labels stay at ``boxes``.
        points: groups of keypoints (K, 2), x and y, each group with its colour.
        texts: lines of text under the picture, such as predicted numbers.
        lines: groups of lines (N, 2, 2) between two points x, y, such as skeletons, each group with its colour.
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
    texts: Sequence[str] = ()
    lines: Sequence[tuple[NDArray[Any], Colour]] = ()

    def render(self) -> Image:
        """Draw all annotations and return the picture (H, W, 3); bars and lines of text make it higher.

        Raises:
            MissingExtraError: if Pillow is not installed.
        """
        image = tint_masks(self.image, self.areas)
        if len(self.boxes):
            image = draw_boxes(image, self.boxes, self.labels, self.colours, self.outlines)
        image = draw_lines(image, self.lines) if self.lines else image
        image = draw_points(image, self.points) if self.points else image
        image = draw_bars(image, self.bars) if self.bars else image
        return write_texts(image, self.texts) if self.texts else image

    def scale(self, ratio: float) -> "Drawing":
        """Return the drawing with its picture and all annotations ``ratio`` times as large.

        Lines and letters keep their width when the result is rendered, so they stay sharp.

        Raises:
            MissingExtraError: if Pillow is not installed.
        """
        return replace(
            self,
            image=_resize(self.image, ratio),
            boxes=np.asarray(self.boxes) * ratio,
            areas=[(_resize(mask.astype(np.uint8) * 255, ratio) >= 128, tint) for mask, tint in self.areas],
            outlines=None if self.outlines is None else np.asarray(self.outlines) * ratio,
            points=[(np.asarray(places) * ratio, tint) for places, tint in self.points],
            lines=[(np.asarray(places) * ratio, tint) for places, tint in self.lines],
        )


def _resize(image: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """Resize a picture (H, W, 3) or a map (H, W)."""
    pil = pillow()[0]
    h, w = image.shape[:2]
    size = max(round(w * ratio), 1), max(round(h * ratio), 1)
    # Nearest neighbour keeps the pixels of small pictures visible; averaging keeps thin structures of large ones.
    resampling = pil.Resampling.NEAREST if ratio > 1 else pil.Resampling.BOX
    return np.asarray(pil.fromarray(np.ascontiguousarray(image)).resize(size, resampling))


def pillow() -> tuple[Any, Any, Any]:
    """Import Pillow and return its modules Image, ImageDraw and ImageFont.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingExtraError("drawing needs Pillow", hint=install_hint("train")) from None
    return Image, ImageDraw, ImageFont


def tint_masks(image: Image, areas: Iterable[tuple[NDArray[np.bool_], Colour]]) -> Image:
    """Blend masks (H, W) half and half with their colours into a copy of a picture (H, W, 3).

    Without masks the picture itself is returned, not a copy.
    """
    blended = image
    for mask, tint in areas:
        blended = blended.copy() if blended is image else blended
        blended[mask] = (image[mask].astype(np.uint16) + np.array(tint, np.uint16)) // 2
    return blended


def join_keypoints(
    places: NDArray[Any], seen: NDArray[np.bool_], skeleton: Sequence[tuple[int, int]]
) -> NDArray[np.float64]:
    """Return the lines (N, 2, 2) of a skeleton between those keypoints (K, 2) of an object that are ``seen``, (K,)."""
    pairs = [pair for pair in skeleton if max(pair) < len(places) and all(seen[list(pair)])]
    return np.array([places[list(pair)] for pair in pairs], float).reshape(-1, 2, 2)


def draw_lines(image: Image, groups: Sequence[tuple[NDArray[Any], Colour]]) -> Image:
    """Return a copy of a picture (H, W, 3) with lines; a group (N, 2, 2) of them has one colour.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, _ = pillow()
    canvas = pil.fromarray(np.ascontiguousarray(image))
    pen, width = draws.Draw(canvas), max(round(_text_size(canvas.size) / 7), 1)
    for lines, tint in groups:
        for ends in np.asarray(lines).reshape(-1, 4).tolist():
            pen.line(ends, fill=tint, width=width)
    return np.asarray(canvas)


def draw_points(image: Image, points: Sequence[tuple[NDArray[Any], Colour]]) -> Image:
    """Return a copy of a picture (H, W, 3) with a dot at each keypoint; a group (K, 2) of keypoints has one colour.

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
    """Return a copy of a picture (H, W, 3) with boxes and their labels.

    Large boxes are drawn first, so that small ones stay visible. A label is placed where it covers no other
    label; if there is no such place it is left out.

    Args:
        image: (H, W, 3) from 0 to 255.
        boxes: (N, 4) left, top, right, bottom in pixels.
        labels: N texts; a box with an empty text gets no label.
        colours: N colours.
        outlines: (N, 4, 2) corners of oriented boxes, drawn instead of the boxes; labels stay at the boxes.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, _ = pillow()
    canvas = pil.fromarray(np.ascontiguousarray(image))
    pen, size = draws.Draw(canvas), _text_size(canvas.size)
    font, width = find_font(labels, size), max(round(size / 6), 2)
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
    """Return the font size in pixels for a picture of this width and height."""
    return min(max(round(max(size) / 32), 11), 40)


def _label(
    pen: Any, font: Any, size: tuple[int, int], box: Sequence[float], text: str, tint: Colour, taken: list[Any]
) -> None:
    """Write a label at the first free position: above the box, inside it at the top, below it, then at the right.

    ``taken`` lists the rectangles of the labels so far; the new one is appended.
    """
    text = " ".join(text.split())
    if not text:
        return
    (left, _, right, _), (_, top, _, bottom) = font.getbbox(text), font.getbbox("Ag")
    w, h = round(right - left) + 4, round(bottom - top) + 4
    x1, y1, x2, y2 = box
    for x, y in ((x1, y1 - h), (x1, y1), (x1, y2), (x2 - w, y1 - h), (x2 - w, y2 - h), (x1, y2 - h)):
        # Positions are rounded because Pillow cuts off letters at fractional ones.
        x, y = min(max(round(x), 0), max(size[0] - w, 0)), min(max(round(y), 0), max(size[1] - h, 0))
        if not any(x < b[2] and b[0] < x + w and y < b[3] and b[1] < y + h for b in taken):
            taken.append((x, y, x + w, y + h))
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill=tint)
            pen.text((x + 2 - left, y + 2 - top), text, fill=_ink(tint), font=font)
            return


def draw_bars(image: Image, shares: Sequence[tuple[str, float, Colour]]) -> Image:
    """Return the picture with a bar under it for each name and value; it is enlarged if it is too narrow for text.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    texts = [f"{share:.2f}  {' '.join(name.split())}" for name, share, _ in shares]
    return write_texts(image, texts, [(share, tint) for _, share, tint in shares])


def write_texts(image: Image, texts: Sequence[str], bars: Sequence[tuple[float, Colour]] = ()) -> Image:
    """Return the picture with lines of text under it; it is enlarged if it is too narrow for them.

    Args:
        image: (H, W, 3).
        texts: the lines.
        bars: for each line the length, as a fraction of the width, and the colour of a bar under it; or none at all.

    Raises:
        MissingExtraError: if Pillow is not installed.
    """
    pil, draws, _ = pillow()
    times = ceil(MIN_BAR_WIDTH / image.shape[1])
    image = image.repeat(times, 0).repeat(times, 1)
    size = max(round(image.shape[1] * 0.03), 13)
    font, row = find_font(texts, size), round(size * 1.6)
    panel = np.full((row * len(texts) + size // 2, image.shape[1], 3), 255, np.uint8)
    canvas = pil.fromarray(np.concatenate((image, panel)))
    pen = draws.Draw(canvas)
    for i, text in enumerate(texts):
        top = image.shape[0] + size // 4 + i * row
        for share, tint in bars[i : i + 1]:
            end = round((image.shape[1] - 1) * share)
            pen.rectangle((0, top + row - max(size // 4, 3), end, top + row - 2), fill=tint)
        pen.text((size // 2, top), text, fill=(20, 20, 20), font=font)
    return np.asarray(canvas)


def _ink(tint: Colour) -> Colour:
    """Return black or white, whichever has more contrast (as WCAG defines it) with a background colour."""
    red, green, blue = (((x / 255 + 0.055) / 1.055) ** 2.4 for x in tint)
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)
