"""The kernels of convolutions as pictures."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from netbuild.author.seeing.places import Place, Sight
from netbuild.author.seeing.tiles import GREY, MOST, _cell, coloured, enlarged, grid, titled
from netbuild.drawing.annotated import Image
from netbuild.drawing.encoding import encode

KERNEL = 40  # pixels of a kernel's tile, about
PLANES = 16  # input channels of a kernel that are shown, each a tile


def kernels(place: Place, most: int = MOST) -> Iterator[Sight]:
    """The kernels of the first convolution at a place, white where a weight is 0; none where there is none."""
    for name, module in place.module.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weight = module.weight.detach().float().cpu()
            # A transposed convolution has its input channels first.
            weight = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
            path = ".".join(filter(None, (place.path, name)))
            image, said = kernel_image(weight.numpy(), most)
            title = f"row {place.row} {place.label}{' ' + path if path else ''}: {said}"
            yield Sight(place.row, place.path, place.label, "kernels", title, encode(titled(image, title)))
            return


def kernel_image(weight: np.ndarray, most: int = MOST) -> tuple[Image, str]:
    """A picture of weights (O, I, kh, kw), and what is in it.

    Kernels over three channels are colours, of 1x1 kernels the matrix is shown; else a line a kernel, a tile a channel.
    """
    out, channels, kh, kw = weight.shape
    large = float(np.abs(weight).max()) or 1.0
    scale = f"blue -{large:.2g}, white 0, red {large:.2g}"
    size = f"{out} kernels of {kh}x{kw} over {channels} channel{'s' if channels > 1 else ''}"
    if kh == kw == 1:
        shown = coloured(weight[:, :, 0, 0] / large, "RdBu_r")
        return enlarged(shown, _cell(out), _cell(channels)), f"{size}: a line each, {scale}"
    if channels == 3:
        tiles = [(0.5 + k.transpose(1, 2, 0) / (2 * (np.abs(k).max() or 1))) * 255 for k in weight[:most]]
        cells = [enlarged(tile.astype(np.uint8), *_tile((kh, kw))) for tile in tiles]
        return grid(cells, ground=GREY), _first(size, out, most) + " as red, green and blue, grey 0"
    if channels == 1:
        cells = [enlarged(coloured(k[0] / large, "RdBu_r"), *_tile((kh, kw))) for k in weight[:most]]
        return grid(cells, ground=GREY), f"{_first(size, out, most)}, {scale}"
    lines, planes = min(out, max(most // 2, 1)), min(channels, PLANES)
    cells = [enlarged(coloured(k / large, "RdBu_r"), *_tile((kh, kw), 24)) for o in weight[:lines] for k in o[:planes]]
    left = f", of it {lines} x {planes}" if (lines, planes) != (out, channels) else ""
    return grid(cells, planes, GREY), f"{size}: a line each{left}, {scale}"


def _first(text: str, count: int, most: int) -> str:
    return text if count <= most else f"{text}, the first {most},"


def _tile(shape: Sequence[int], side: int = KERNEL) -> tuple[int, int]:
    times = max(round(side / max(shape)), 2)
    return shape[0] * times, shape[1] * times
