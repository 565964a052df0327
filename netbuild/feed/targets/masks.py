"""Masks of objects: polygons that become one map of all objects of a picture after augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Tensors
from netbuild.feed.targets.polygons import Outline, PolygonTarget

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MaskTarget(PolygonTarget):
    """Polygons of objects, which a batch has as a map of objects.

    Args:
        outlines: the polygons of each object, in pixels; empty where only its box is known.
        stride: pixels of the picture per cell of the map.
        gives_outlines: whether a batch also has the polygons themselves, for metrics at the picture's own resolution.
        layers: for each object its layer; a higher one hides lower ones. Empty while all objects are in layer 0.
    """

    stride: int = 4
    gives_outlines: bool = False
    layers: tuple[int, ...] = ()
    object_names: ClassVar[tuple[str, ...]] = ("has_outline", "outlines")

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        layers = tuple(self.layers[i] for i in chosen.nonzero()[0]) if self.layers else ()
        return replace(super().select(chosen), layers=layers)

    def join(self, others: Sequence[Self]) -> Self:
        joined = super().join(others)
        if not any(target.layers for target in (self, *others)):
            return joined
        return replace(joined, layers=tuple(layer for target in (self, *others) for layer in target._filled_layers()))

    def paste(self, other: Self, mask: NDArray[np.bool_]) -> Self:
        """Return the objects of both; those of the other picture hide this one's."""
        top = max(self.layers, default=0) + 1
        return self.join([replace(other, layers=tuple(layer + top for layer in other._filled_layers()))])

    def _filled_layers(self) -> tuple[int, ...]:
        return self.layers or (0,) * len(self.outlines)

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        """Return the polygons cut along the rectangle's edges; what is outside, and so not in the picture, is gone."""

        def clip_outline(outline: Outline) -> Outline:
            parts = (clip_polygon(polygon, rectangle) for polygon in outline)
            return tuple(part for part in parts if len(part))

        return replace(self, outlines=tuple(map(clip_outline, self.outlines)))

    def tensors(self, size: Size) -> Tensors:
        """``instances`` (h, w), see `draw_instances`; ``has_outline`` (N,); perhaps ``outlines``, a list of N."""
        cells = ceil(size[0] / self.stride), ceil(size[1] / self.stride)
        found: Tensors = {
            "instances": torch.from_numpy(draw_instances(self.outlines, cells, self.stride, self.layers)),
            "has_outline": torch.tensor([bool(outline) for outline in self.outlines], dtype=torch.bool),
        }
        return {**found, "outlines": list(self.outlines)} if self.gives_outlines else found

    @classmethod
    def collate(cls, items: Sequence[Tensors]) -> dict[str, Any]:
        """Stack ``instances`` to (B, h, w); concatenate the others in the order of the boxes."""
        batch: dict[str, Any] = {
            "instances": torch.stack([item["instances"] for item in items]),
            "has_outline": torch.cat([item["has_outline"] for item in items]),
        }
        if "outlines" in items[0]:
            batch["outlines"] = [outline for item in items for outline in item["outlines"]]
        return batch


@dataclass(frozen=True)
class MaskKind:
    """Makes a `MaskTarget` of a sample, with this ``stride`` and ``gives_outlines``."""

    stride: int = 4
    gives_outlines: bool = False
    needs_extra: ClassVar[bool] = False
    object_names: ClassVar[tuple[str, ...]] = MaskTarget.object_names

    def from_sample(self, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> MaskTarget:
        """Build the target of a sample, see `netbuild.feed.targets.Target.from_sample`."""
        target = MaskTarget.from_sample(name, sample, size, read_extra)
        return replace(target, stride=self.stride, gives_outlines=self.gives_outlines)


def draw_instances(
    outlines: Sequence[Sequence[Floats]], size: Size, stride: float = 1, layers: Sequence[int] = ()
) -> NDArray[np.int32]:
    """Draw the polygons of all objects into one map (height, width) of ``size``.

    A cell has the value i + 1 if its centre is inside object i, 0 if it is in none; of several objects of a layer the
    one with the fewest cells is on top. An object that is too small or thin to contain a centre gets the cell at its
    middle. A point is inside an object if its polygons wind around it, so that a hole is a polygon of the other
    direction, and polygons of one object may overlap.

    Args:
        outlines: for each object its polygons (K, 2), x and y in pixels; none for an object without a mask.
        size: height and width in cells.
        stride: pixels per cell.
        layers: for each object its layer, of which the highest is on top; empty if there is only one.
    """
    canvas = np.zeros(size, np.int32)
    polygons = [(i, polygon) for i, outline in enumerate(outlines) for polygon in outline if len(polygon)]
    if not polygons:
        return canvas
    lengths = [len(polygon) for _, polygon in polygons]
    owner = np.repeat([i for i, _ in polygons], lengths)
    points = np.concatenate([polygon for _, polygon in polygons]) / stride
    numbers, cells = _fill(points, owner, np.array(lengths), size)
    counts = np.bincount(numbers, minlength=len(outlines))
    order = np.lexsort((-counts[numbers], np.asarray(layers or [0] * len(outlines))[numbers]))
    # Of values that are assigned to one cell numpy keeps the last.
    canvas.ravel()[cells[order]] = numbers[order] + 1
    for i, outline in enumerate(outlines):
        if not outline or counts[i]:
            continue
        x, y = np.floor(np.concatenate(outline).mean(0) / stride).astype(int)
        if 0 <= x < size[1] and 0 <= y < size[0]:
            canvas[y, x] = i + 1
    return canvas


def _fill(points: Floats, owner: Ints, lengths: Ints, size: Size) -> tuple[Ints, Ints]:
    """Return the number of an object and the flat index of a cell for each cell whose centre is inside the object.

    Each edge adds 1 or -1 to the winding number of all centres to its right. All objects are filled at once, each in a
    rectangle of its own, laid out one after another: a loop over hundreds of objects would take longer than training.

    Args:
        points: (P, 2) vertices of all polygons.
        owner: (P,) the object of each vertex, rising.
        lengths: number of vertices of each polygon.
        size: height and width in cells.
    """
    height, width = size
    ends = np.cumsum(lengths)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = ends - lengths  # the last vertex of a polygon is joined to its first
    start, end = points, points[following]
    rows = np.ceil(np.stack((start[:, 1], end[:, 1])) - 0.5).clip(0, height).astype(int)  # first centres not above
    crossed = np.abs(rows[1] - rows[0])
    edge = np.repeat(np.arange(len(points)), crossed)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + rows.min(0)[edge]
    (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
    column = np.ceil(x + (row + 0.5 - y) * dx / dy - 0.5).clip(0, width).astype(int)  # first centre to the right
    objects, first, index = np.unique(owner[edge], return_index=True, return_inverse=True)
    if not len(objects):
        return objects, objects
    left, top = (np.minimum.reduceat(values, first) for values in (column, row))
    right, bottom = (np.maximum.reduceat(values, first) for values in (column, row))
    widths = right - left + 1
    areas = widths * (bottom - top + 1)
    offset = np.cumsum(areas) - areas
    place = offset[index] + (row - top[index]) * widths[index] + column - left[index]
    step = np.where(rows[1] > rows[0], 1.0, -1.0)[edge]
    # The steps of a row sum to 0, so that one cumulative sum serves the rows of all rectangles.
    inside = np.cumsum(np.bincount(place, step, areas.sum())).round().nonzero()[0]
    which = np.repeat(np.arange(len(objects)), areas)[inside]
    y, x = np.divmod(inside - offset[which], widths[which])
    return objects[which], (y + top[which]) * width + x + left[which]


def clip_polygon(points: Floats, rectangle: tuple[int, int, int, int]) -> Floats:
    """Return the part of a polygon (K, 2) inside a rectangle (x1, y1, x2, y2); (0, 2) if there is none.

    Where a concave polygon falls into several parts, edges of no width along the rectangle connect them. Sutherland and
    Hodgman, Reentrant polygon clipping, 1974.
    """
    low, high = np.array(rectangle[:2], float), np.array(rectangle[2:], float)
    if (points >= low).all() and (points <= high).all():
        return points
    for axis in range(2):
        for sign, edge in ((1, low[axis]), (-1, -high[axis])):
            points = _clip_half_plane(points, sign * points[:, axis] - edge)
    return points


def _clip_half_plane(points: Floats, distance: Floats) -> Floats:
    """Return the part of a polygon (K, 2) whose distance (K,) from a line is not negative."""
    following, next_distance = np.roll(points, -1, 0), np.roll(distance, -1)
    crosses = (distance < 0) != (next_distance < 0)
    share = distance / np.where(crosses, distance - next_distance, 1.0)
    crossings = points + share[:, None] * (following - points)
    # Each vertex is followed by the crossing on the edge to the next one.
    both = np.stack((points, crossings), 1).reshape(-1, 2)
    return both[np.stack((distance >= 0, crosses), 1).ravel()]
