"""Maps of scores, and which places of the search image their cells stand for."""

import torch
import torch.nn.functional as F
from torch import Tensor

FINE = 16  # times as fine as the cells is the map on which the highest score is sought, as in arXiv 1606.09549


def cell_stride(count: int, side: int) -> float:
    """Return the pixels between a map's cells.

    An exemplar has half the side of the search image, and the cells are its places from one border to the other.
    """
    return (side + 1) / 2 / max(count - 1, 1)


def cell_centres(count: int, side: float, stride: float) -> Tensor:
    """Return the places (count,) in pixels of the search image that a map's cells stand for: around its middle."""
    return (torch.arange(count) - (count - 1) / 2) * stride + side / 2


def interpolate_scores(scores: Tensor) -> Tensor:
    """Return maps (B, h, w) as (B, h * `FINE`, w * `FINE`), interpolated on the CPU."""
    return F.interpolate(scores[:, None].float().cpu(), scale_factor=FINE, mode="bicubic", align_corners=False)[:, 0]


def find_offsets(best: Tensor, shape: tuple[int, int], side: int) -> Tensor:
    """Return the offsets x and y (..., 2) in pixels from the middle of the search image.

    Args:
        best: (...) indices of places in interpolated maps, row by row.
        shape: h and w of the maps before they were interpolated.
        side: of the search image in pixels.
    """
    h, w = shape
    places = torch.stack((best % (w * FINE), best // (w * FINE)), -1)
    stride = torch.tensor([cell_stride(count, side) for count in (w, h)], dtype=torch.float64)
    middle = torch.tensor([(w - 1) / 2, (h - 1) / 2], dtype=torch.float64)
    return ((places + 0.5) / FINE - 0.5 - middle) * stride
