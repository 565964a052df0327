"""Masks as polygons, and back: run lengths of COCO, boundaries of masks along the edges of pixels, filled polygons."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from netbuild.data.shapes.raster import rasterize, trace

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]  # (H, W)
ROUNDING = 1e-4  # a point so near to a line, as a fraction of the picture, lies on it: files have 4 to 6 decimals


def decode_counts(counts: str | bytes) -> NDArray[np.int64]:
    """Return the run lengths in COCO's compressed text.

    Each number is written in groups of 5 bits, least significant first, as characters from code 48 on: bit 5 says that
    more groups follow, bit 4 of the last group is the sign. From the fourth number on, differences to the last but one
    are written.

    Raises:
        ValueError: if the text is cut off or has other characters.
    """
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    lengths: list[int] = []
    value, shift = 0, 0
    for code in text:
        group = code - 48
        if not 0 <= group < 64:
            raise ValueError(f"the character {chr(code)!r} does not occur in compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("compressed run lengths are cut off")
    return np.array(lengths, np.int64)


def decode_mask(counts: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> Mask:
    """Return the mask (H, W) with these run lengths, column by column, first of pixels outside.

    Raises:
        ValueError: if a length is negative, or they do not add up to the pixels of ``size`` (height, width).
    """
    lengths = np.asarray(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"the run lengths add up to {lengths.sum():,} pixels, not {size[0]} x {size[1]}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(size[::-1]).T


def trace_mask(mask: Mask) -> tuple[Floats, ...]:
    """Return polygons (K, 2), x and y in pixels, that cover exactly the pixels of a mask.

    Each region whose pixels share edges is one polygon along the edges of its pixels. A hole is joined to it by a
    bridge without width, so that filling the polygon leaves the hole out.
    """
    return tuple(trace(mask, tolerance=0.0))


def fill_polygons(polygons: Sequence[Floats], size: tuple[int, int]) -> Mask:
    """Return the mask (H, W) of the pixels whose centres lie in one of the polygons (K, 2), in pixels."""
    mask = np.zeros(size, np.bool_)
    for points in polygons:
        low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
        (left, top), (right, bottom) = low.clip(0), high.clip(0, (size[1], size[0]))
        if left < right and top < bottom:
            mask[top:bottom, left:right] |= rasterize(points, (left, top, right, bottom))
    return mask


def is_crossing(points: Floats) -> bool:
    """Whether two edges of a polygon (K, 2), in fractions of the picture, cross each other.

    Edges that only touch or overlap, or cross no farther than files round their numbers, do not. Neither do bridges
    between the parts of an object, which are walked in both directions.
    """
    following = points[[*range(1, len(points)), 0]]
    edges = following - points
    # On which side of the edge i the points j lie: a change of side between the ends of j is a crossing of i's line.
    side = _cross(edges[:, None], points[None] - points[:, None])
    side[np.abs(side) <= ROUNDING * np.hypot(*edges.T)[:, None]] = 0
    side = np.sign(side)
    changes = side * side[:, [*range(1, len(points)), 0]] < 0
    crossings = changes & changes.T
    if not crossings.any():
        return False
    near = np.abs(points[:, None] - following[None]).max(-1) <= ROUNDING  # where i begins and j ends
    is_plain = ~(near & near.T).any(1)
    return bool((crossings & is_plain & is_plain[:, None]).any())


def _cross(a: Floats, b: Floats) -> Floats:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
