"""Oriented boxes: the smallest rectangles around objects, at any angle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.dataset import Sample
from netbuild.feed.geometry import clip_polygon
from netbuild.feed.rectangles import find_corners, fit_rectangles, measure_extents
from netbuild.feed.targets.base import Floats, ReadExtra, Size, Tensors
from netbuild.feed.targets.polygons import Outline, PolygonTarget
from netbuild.system.packages import cv2

MAX_PAIRED = 8  # of more points the convex hull is computed first, because all pairs would be many


@dataclass(frozen=True)
class RotatedBoxTarget(PolygonTarget):
    """The smallest rectangle around each object, at any angle.

    The polygons themselves are augmented, and a rectangle is fitted to the result. So it is exact after any affine
    map: a rotated rectangle keeps its sides, a sheared one becomes the smallest rectangle around the parallelogram, and
    one in perspective that around its moved corners.

    An object that the edge of the canvas cuts gets the smallest rectangle around what is left of it, with the
    direction of the whole object's rectangle. So both its sides and its angle are those that can be seen.

    Args:
        outlines: the polygons of each object, in pixels, as they are beyond the canvas.
        visible: the parts of the polygons on the canvas, as far as augmentation cut them.
    """

    visible: tuple[Outline, ...] = ()
    object_names: ClassVar[tuple[str, ...]] = ("corners",)

    @classmethod
    def from_sample(cls, name: str, sample: Sample, size: Size, read_extra: ReadExtra) -> Self:
        outlines = super().from_sample(name, sample, size, read_extra).outlines
        return cls(outlines, outlines)

    def move(self, matrix: Floats, size: Size) -> Self:
        return super().move(matrix, size).clip((0, 0, size[1], size[0]))

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        places = chosen.nonzero()[0]
        return type(self)(tuple(self.outlines[i] for i in places), tuple(self.visible[i] for i in places))

    def clip(self, rectangle: tuple[int, int, int, int]) -> Self:
        """Return the same outlines, of which only the parts in the rectangle are visible."""
        visible = tuple(tuple(clip_polygon(polygon, rectangle) for polygon in outline) for outline in self.visible)
        return type(self)(self.outlines, visible)

    def join(self, others: Sequence[Self]) -> Self:
        targets = (self, *others)
        return type(self)(
            tuple(outline for target in targets for outline in target.outlines),
            tuple(outline for target in targets for outline in target.visible),
        )

    def tighten(self, boxes: Floats) -> Floats:
        """Return boxes (N, 5), each replaced by the smallest upright one around what is visible of the object.

        The box of an object of which nothing is visible becomes a point, so that it is dropped.
        """
        boxes = boxes.copy()
        for row, outline in zip(boxes, self.visible, strict=True):
            points = _points(outline)
            row[1:3], row[3:] = (points.min(0), points.max(0)) if len(points) else (row[1:3], row[1:3])
        return boxes

    def tensors(self, size: Size) -> Tensors:
        """``corners`` (N, 4, 2) of x and y in fractions of the picture's sides, in order around each object.

        They are the label's own corners for a whole object that is labelled by four, otherwise those of the rectangle.
        """
        pairs = zip(self.outlines, self.visible, strict=True)
        found = np.array([_find_corners(outline, visible) for outline, visible in pairs]).reshape(-1, 4, 2)
        return {"corners": torch.from_numpy((found / (size[1], size[0])).astype(np.float32))}

    def _map(self, change: Callable[[Floats], Floats]) -> Self:
        moved = (
            tuple(tuple(change(polygon) for polygon in outline) for outline in outlines)
            for outlines in (self.outlines, self.visible)
        )
        return type(self)(*moved)


def _points(outline: Outline) -> Floats:
    return np.concatenate(outline) if outline else np.zeros((0, 2))


def _find_corners(outline: Outline, visible: Outline) -> Floats:
    """Return the corners (4, 2) of an object's label or rectangle, see `RotatedBoxTarget`; zeros if it is not seen."""
    left = _points(visible)
    if not len(left):
        return np.zeros((4, 2))
    is_whole = all(a is b or np.array_equal(a, b) for a, b in zip(outline, visible, strict=True))
    if is_whole and len(outline) == 1 and len(outline[0]) == 4:
        return outline[0]
    box = _fit_rectangle(_points(outline))
    if not is_whole:
        box = measure_extents(torch.from_numpy(left)[None], box[None, 4:])[0, 0]
    return find_corners(box).numpy()


def _fit_rectangle(points: Floats) -> torch.Tensor:
    """Return the smallest rectangle (5,) around points (K, 2)."""
    directions = None
    if len(points) > MAX_PAIRED:
        # OpenCV computes hulls in single precision, so only the choice of points is taken from it.
        hull = points[cv2().convexHull(points.astype(np.float32), returnPoints=False)[:, 0]]
        directions = torch.from_numpy(np.roll(hull, -1, 0) - hull)[None]
    return fit_rectangles(torch.from_numpy(points)[None], directions)[0]
