"""The objects of a scene, and how each lies in the picture at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netbuild.data.dataset import Floats
from netbuild.data.shapes.outlines import DIGITS, SHAPES, Shape, paint_landmarks
from netbuild.data.shapes.raster import Mask, rasterize

FINE = 3  # a pixel is drawn as 3 by 3 cells; odd, so that one cell is at its centre
FOCAL = 130.0  # pixels: how long a length of 1 m appears at a distance of 1 m
NEAR, FAR = 1.6, 4.5  # distances of objects, in metres; the background is farther away
KINDS = (*SHAPES, *DIGITS)
_HAZE_END = 9.5  # metres, where the haze is at its full strength
_HAZE = 0.6


@dataclass(frozen=True)
class Thing:
    """An object of a scene, which moves steadily.

    Attributes:
        track: its number in the scene, from 1.
        label: its class, a number of `KINDS`.
        distance: from the camera, in metres.
        place: x and y of its centre in frame 0, in pixels.
        velocity: pixels a frame.
        angle: by which it is turned clockwise in frame 0, in radians; at 0 its front points up.
        spin: radians a frame.
        colour: RGB, from 0 to 255.
    """

    track: int
    label: int
    distance: float
    place: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    spin: float
    colour: Floats

    @property
    def shape(self) -> Shape:
        """The shape of its class."""
        return KINDS[self.label]

    @property
    def half_length(self) -> float:
        """Half its length, in pixels."""
        return FOCAL * self.shape.length / self.distance

    def locate(self, points: Floats, time: float) -> Floats:
        """Return where points (K, 2) in the shape's own coordinates are in the picture, in pixels."""
        angle = self.angle + self.spin * time
        cos, sin = math.cos(angle), math.sin(angle)
        centre = self.centre(time)
        found = points @ np.array(((cos, sin), (-sin, cos))) * self.half_length + centre
        # Sines differ in their last digit between machines: on a grid of 1/1024 pixel the result is the same on all.
        return np.rint(found * 1024) / 1024

    def centre(self, time: float) -> tuple[float, float]:
        """Return x and y of its centre at a time."""
        return self.place[0] + self.velocity[0] * time, self.place[1] + self.velocity[1] * time


class Window(NamedTuple):
    """A rectangle of pixels; the right and the lower edge are not part of it."""

    left: int
    top: int
    right: int
    bottom: int

    def scale(self, factor: int) -> "Window":
        """Return the same rectangle in units that are smaller by a factor."""
        return Window(*(edge * factor for edge in self))

    def clip(self, size: tuple[int, int]) -> "Window":
        """Return the part that lies in a picture of this width and height."""
        (x1, x2), (y1, y2) = np.clip((self[::2], self[1::2]), 0, [[size[0]], [size[1]]]).tolist()
        return Window(x1, y1, x2, y2)


@dataclass(frozen=True)
class View:
    """How a thing lies in the picture at a time.

    Attributes:
        thing: the thing.
        time: of the frame.
        outline: (K, 2) of the whole thing, in pixels.
        window: the pixels around the outline, also those outside the picture.
        cells: which cells of the fine grid the thing covers in the window.
        part: the part of the window that is in the picture.
    """

    thing: Thing
    time: int
    outline: Floats
    window: Window
    cells: Mask
    part: Window

    @classmethod
    def of(cls, thing: Thing, time: int, size: tuple[int, int]) -> "View":
        """Return the view of a thing in a picture of this width and height."""
        outline = thing.locate(thing.shape.points, time)
        (left, top), (right, bottom) = np.floor(outline.min(0)).tolist(), np.ceil(outline.max(0)).tolist()
        window = Window(int(left), int(top), int(right), int(bottom))
        return cls(thing, time, outline, window, rasterize(outline * FINE, window.scale(FINE)), window.clip(size))

    def cells_in_picture(self) -> Mask:
        """Return the cells of the part that is in the picture."""
        x1, y1, x2, y2 = self.part.scale(FINE)
        left, top = FINE * self.window.left, FINE * self.window.top
        return self.cells[y1 - top : y2 - top, x1 - left : x2 - left]

    def paint(self, picture: Floats, haze: Floats) -> None:
        """Paint the thing over a picture (H, W, 3), in place, with a smooth border."""
        left, top, right, bottom = self.part
        cells = self.cells_in_picture()
        by_pixel = cells.reshape(bottom - top, FINE, right - left, FINE).view(np.uint8)
        cover = by_pixel.sum((1, 3))[..., None] / FINE**2
        shape, axes = self.thing.shape, self.thing.locate(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]), self.time)
        (ux, uy), (vx, vy) = (axes[1:] - axes[0]) / self.thing.half_length**2
        x = np.arange(left, right)[None] + 0.5 - axes[0, 0]
        y = np.arange(top, bottom)[:, None] + 0.5 - axes[0, 1]
        u, v = x * ux + y * uy, x * vx + y * vy
        colours = self.thing.colour + 38 * shape.pattern(u, v)[..., None]
        paint_landmarks(colours, shape, u, v)
        part = picture[top:bottom, left:right]
        part += cover * (add_haze(colours, self.thing.distance, haze) - part)


def list_views(things: Sequence[Thing], time: int, size: tuple[int, int]) -> list[View]:
    """Return the views of the things that reach into a picture of this width and height, in the same order."""
    views = []
    for thing in things:
        (x, y), reach = thing.centre(time), 1.5 * thing.half_length  # no shape is wider than long
        if -reach < x < size[0] + reach and -reach < y < size[1] + reach:
            views.append(View.of(thing, time, size))
    return [view for view in views if view.part.left < view.part.right and view.part.top < view.part.bottom]


def find_owners(views: Sequence[View], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Return the number of the nearest thing at each cell of the fine grid, from 1; 0 for the background.

    Args:
        views: the farthest first.
        size: width and height of the picture.
    """
    owners = np.zeros((size[1] * FINE, size[0] * FINE), np.uint16)
    for number, view in enumerate(views, 1):
        left, top, right, bottom = view.part.scale(FINE)
        owners[top:bottom, left:right][view.cells_in_picture()] = number
    return owners


def add_haze(colours: Floats, distance: Floats | float, haze: Floats) -> Floats:
    """Return colours (..., 3) blended with the haze by their distance in metres."""
    share = _HAZE * (np.asarray(distance) - NEAR) / (_HAZE_END - NEAR)
    return colours + (haze - colours) * share
