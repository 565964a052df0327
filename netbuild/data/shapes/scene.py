"""Scenes of shapes before a textured plane, and the frames that a camera sees, with all that is true of each."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Floats
from netbuild.data.images import Bytes
from netbuild.data.shapes.outlines import SHAPES
from netbuild.data.shapes.raster import trace
from netbuild.data.shapes.things import FINE, Thing, View, find_owners, list_views

BACKGROUND = len(SHAPES)  # the number of the background in class maps of scenes without digits
MIN_AREA = 12.0  # pixels: an object of which less is seen is not labelled


@dataclass(frozen=True)
class SeenObject:
    """What is true of an object in one frame; all lengths in pixels.

    Attributes:
        track: the object's number in its scene, the same in all frames.
        label: its class.
        distance: from the camera, in metres.
        visible: the share of the object's whole area that is seen: not hidden, and inside the picture.
        polygons: around what is seen; several where a nearer object divides it, with a slit to each hole. Parts smaller
            than a pixel are left out.
        box: x1, y1, x2, y2 around what is seen.
        outline: (K, 2) of the whole object, also where it is hidden or outside.
        corners: (4, 2) of the rectangle around the whole object that is turned as the object is: front left, front
            right, back right, back left.
        keypoints: (4, 3) of the landmarks: x, y, and 2 if it is seen, 1 if it is hidden, 0 if it is outside.
    """

    track: int
    label: int
    distance: float
    visible: float
    polygons: tuple[Floats, ...]
    box: tuple[float, float, float, float]
    outline: Floats
    corners: Floats
    keypoints: Floats


@dataclass(frozen=True)
class Frame:
    """A picture of a scene, and what is true of it.

    Attributes:
        picture: (H, W, 3) RGB.
        objects: those of which at least `MIN_AREA` pixels are seen, the farthest first.
        tracks: (H, W) the track of the object at each pixel, 0 for the background.
        classes: (H, W) the class at each pixel, `Scene.background` where there is no object.
        depth: (H, W) the distance at each pixel, in metres.
    """

    picture: Bytes
    objects: tuple[SeenObject, ...]
    tracks: NDArray[np.int64]
    classes: Bytes
    depth: Floats


@dataclass(frozen=True)
class Scene:
    """A background with objects before it; `make_scene` makes one from a seed.

    Attributes:
        size: width and height of its frames, in pixels.
        ground: (H, W, 3) the background's colours.
        ground_depth: (H, W) the background's distance, in metres.
        haze: (3,) the colour that far things take on.
        things: the objects, the farthest first.
        seed: of the grain of its pictures.
        background: the number of the background in class maps: how many classes of objects there may be.
    """

    size: tuple[int, int]
    ground: Floats
    ground_depth: Floats
    haze: Floats
    things: tuple[Thing, ...]
    seed: tuple[int, ...]
    background: int = BACKGROUND

    def frame(self, time: int = 0) -> Frame:
        """Return the frame at a time, counted in frames."""
        views = list_views(self.things, time, self.size)
        owners = find_owners(views, self.size)
        picture = self.ground.copy()
        for view in views:
            view.paint(picture, self.haze)
        grain = np.random.default_rng((*self.seed, 1, time)).random((*picture.shape[:2], 1))
        pixels = np.rint(picture + (grain - 0.5) * 16).clip(0, 255).astype(np.uint8)
        numbers = owners[FINE // 2 :: FINE, FINE // 2 :: FINE]  # at the centre of each pixel
        tracks = np.array([0, *(view.thing.track for view in views)])[numbers]
        classes = np.array([self.background, *(view.thing.label for view in views)], np.uint8)[numbers]
        distances = np.array([0.0, *(view.thing.distance for view in views)])[numbers]
        depth = np.where(numbers > 0, distances, self.ground_depth)
        seen = (_describe(view, owners, number) for number, view in enumerate(views, 1))
        return Frame(pixels, tuple(found for found in seen if found), tracks, classes, depth)

    def frames(self, count: int) -> Iterator[Frame]:
        """Yield so many consecutive frames, from time 0."""
        for time in range(count):
            yield self.frame(time)


def _describe(view: View, owners: NDArray[np.uint16], number: int) -> SeenObject | None:
    """Return what is true of a thing; None if too little of it is seen.

    Args:
        view: of the thing.
        owners: of `find_owners`.
        number: of the thing among the owners.
    """
    left, top, right, bottom = view.part.scale(FINE)
    seen = owners[top:bottom, left:right] == number
    area, whole = np.count_nonzero(seen), np.count_nonzero(view.cells)
    if area < MIN_AREA * FINE**2:
        return None
    around = [view.outline]
    if area < whole:
        around = [(polygon + (left, top)) / FINE for polygon in trace(seen, 0.75, FINE**2)]
    # Even where the whole object is seen, its outline may reach out by less than half a cell.
    polygons = tuple(polygon.clip(0, (owners.shape[1] / FINE, owners.shape[0] / FINE)) for polygon in around)
    points = np.concatenate(polygons)
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    thing, half = view.thing, view.thing.shape.half_width
    corners = thing.locate(np.array([(-half, -1.0), (half, -1.0), (half, 1.0), (-half, 1.0)]), view.time)
    return SeenObject(
        track=thing.track,
        label=thing.label,
        distance=thing.distance,
        visible=area / whole,
        polygons=polygons,
        box=(x1, y1, x2, y2),
        outline=view.outline,
        corners=corners,
        keypoints=_find_keypoints(view, owners, number),
    )


def _find_keypoints(view: View, owners: NDArray[np.uint16], number: int) -> Floats:
    """Return the landmarks (4, 3) of a thing as `SeenObject.keypoints`."""
    places = view.thing.locate(view.thing.shape.landmarks, view.time)
    height, width = owners.shape
    cells = np.floor(places * FINE).astype(int)
    inside = ((cells >= 0) & (cells < (width, height))).all(1)
    columns, rows = cells.clip(0, (width - 1, height - 1)).T
    visibility = np.where(inside, np.where(owners[rows, columns] == number, 2, 1), 0)
    return np.column_stack((places, visibility))
