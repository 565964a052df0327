"""Draws the kernels of convolutions."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from netbuild.author.seeing.places import Place, View
from netbuild.author.seeing.tiles import GREY, MAX_TILES, add_title, apply_colormap, arrange_tiles, matrix_side, resize
from netbuild.drawing.annotated import Image
from netbuild.drawing.encoding import encode

KERNEL_SIDE = 40  # approximate side in pixels of a kernel's tile
MAX_CHANNELS = 16  # input channels of a kernel that are shown, each as a tile


def draw_kernels(place: Place, limit: int = MAX_TILES) -> Iterator[View]:
    """Yield a view of the first convolution's kernels at a place; nothing if there is no convolution."""
    for name, module in place.module.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weight = module.weight.detach().float().cpu()
            # A transposed convolution has its input channels first.
            weight = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
            path = ".".join(filter(None, (place.path, name)))
            image, description = draw_weights(weight.numpy(), limit)
            title = f"row {place.row} {place.label}{' ' + path if path else ''}: {description}"
            yield View(place.row, place.path, place.label, "kernels", title, encode(add_title(image, title)))
            return


def draw_weights(weight: np.ndarray, limit: int = MAX_TILES) -> tuple[Image, str]:
    """Draw weights (O, I, kh, kw) and return the picture and its description.

    Kernels over three channels are drawn as colour pictures, 1x1 kernels as one matrix, others as one line of tiles
    per kernel with a tile per channel. Except in colour pictures, white is 0.
    """
    out, channels, kh, kw = weight.shape
    large = float(np.abs(weight).max()) or 1.0
    scale = f"blue -{large:.2g}, white 0, red {large:.2g}"
    size = f"{out} kernels of {kh}x{kw} over {channels} channel{'s' if channels > 1 else ''}"
    if kh == kw == 1:
        shown = apply_colormap(weight[:, :, 0, 0] / large, "RdBu_r")
        return resize(shown, matrix_side(out), matrix_side(channels)), f"{size}: one line per kernel, {scale}"
    if channels == 3:
        # Each kernel is scaled by itself, as its pattern matters more than its size.
        tiles = [(0.5 + k.transpose(1, 2, 0) / (2 * (np.abs(k).max() or 1))) * 255 for k in weight[:limit]]
        cells = [resize(tile.astype(np.uint8), *_tile_size((kh, kw))) for tile in tiles]
        return arrange_tiles(cells, ground=GREY), _mention_limit(size, out, limit) + " as red, green and blue, grey 0"
    if channels == 1:
        cells = [resize(apply_colormap(k[0] / large, "RdBu_r"), *_tile_size((kh, kw))) for k in weight[:limit]]
        return arrange_tiles(cells, ground=GREY), f"{_mention_limit(size, out, limit)}, {scale}"
    lines, planes = min(out, max(limit // 2, 1)), min(channels, MAX_CHANNELS)
    cells = [
        resize(apply_colormap(k / large, "RdBu_r"), *_tile_size((kh, kw), 24))
        for o in weight[:lines]
        for k in o[:planes]
    ]
    note = f", the first {lines} x {planes}" if (lines, planes) != (out, channels) else ""
    return arrange_tiles(cells, planes, GREY), f"{size}: one line per kernel{note}, {scale}"


def _mention_limit(text: str, count: int, limit: int) -> str:
    return text if count <= limit else f"{text}, the first {limit},"


def _tile_size(shape: Sequence[int], side: int = KERNEL_SIDE) -> tuple[int, int]:
    times = max(round(side / max(shape)), 2)
    return shape[0] * times, shape[1] * times
