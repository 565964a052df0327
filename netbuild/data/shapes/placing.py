"""Making scenes from a seed: a background, and objects that are placed before it at random."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from netbuild.data.dataset import Floats
from netbuild.data.shapes.outlines import SHAPES
from netbuild.data.shapes.scene import Scene
from netbuild.data.shapes.things import FAR, FINE, KINDS, NEAR, Thing, add_haze, find_owners, list_views

SIZE = (160, 160)  # width and height of a picture, in pixels
MIN_VISIBLE = 0.3  # of the area of each object in a still scene
STILL_THINGS = (2, 7)  # least and largest number of objects of a still scene
_SEEN_FOR = 110  # frames in which an object crosses a picture of this size, on average

Random = np.random.Generator
Maker = Callable[[int, tuple[float, float], float], Thing]  # of a track, at a place, at a time


def make_scene(
    seed: int | tuple[int, ...],
    size: tuple[int, int] = SIZE,
    count: int = 1,
    things: tuple[int, int] = STILL_THINGS,
    digits: bool = False,
) -> Scene:
    """Return a scene, the same for the same arguments on every machine.

    Args:
        seed: one or several numbers from 0.
        size: width and height of its frames, in pixels.
        count: of its frames. In a scene of a single frame each object's centre is in the picture, and at least
            `MIN_VISIBLE` of its area is seen; in a longer one objects enter, hide each other and leave.
        things: least and largest number of objects of a scene of a single frame; fewer where they find no place.
        digits: whether there are also digits among the objects, whose classes follow those of the shapes.
    """
    seed = seed if isinstance(seed, tuple) else (seed,)
    # All numbers are made from `random()`, which gives the same in every version of numpy, unlike other distributions.
    random = np.random.default_rng((*seed, 0))
    ground, depth, haze = _make_ground(random, size)
    mean = ground.mean((0, 1))
    kinds, still = len(KINDS if digits else SHAPES), count == 1
    make = partial(_make_thing, random, kinds, mean)
    while True:
        placed = _place_still(random, size, make, things) if still else _place_moving(random, size, make, count)
        placed.sort(key=lambda thing: -thing.distance)
        if not still or _shows_all(placed, size):
            return Scene(size, ground, depth, haze, tuple(placed), seed, kinds)


def _shows_all(things: list[Thing], size: tuple[int, int]) -> bool:
    """Whether enough of each thing is seen at time 0."""
    views = list_views(things, 0, size)
    owners = find_owners(views, size)
    for number, view in enumerate(views, 1):
        left, top, right, bottom = view.part.scale(FINE)
        seen = np.count_nonzero(owners[top:bottom, left:right] == number)
        if seen < MIN_VISIBLE * np.count_nonzero(view.cells):
            return False
    return True


def _uniform(random: Random, low: float, high: float) -> float:
    return low + (high - low) * float(random.random())


def _make_ground(random: Random, size: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
    """Return colours (H, W, 3) and distances (H, W) of a textured plane that leans away from the camera, and its haze.

    The plane is farther away at the top. How far, and which of its sides is nearer, only its haze shows.
    """
    width, height = size
    texture = np.zeros((height, width))
    colour = 70 + 115 * random.random(3)
    for cell, strength in ((48.0, 28.0), (14.0, 18.0), (4.0, 9.0)):
        texture += strength * (2 * _smooth_noise(random, size, cell) - 1)
    side = _uniform(random, 10, 22)
    if random.random() < 0.5:  # tiles
        x, y = np.floor(np.arange(width) / side), np.floor(np.arange(height) / side)
        texture += 14 * (2 * ((x[None] + y[:, None]) % 2) - 1)
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    down, across = _uniform(random, -1.6, -0.6), _uniform(random, -0.7, 0.7)
    depth = 7.1 + down * y[:, None] + across * x[None]
    haze = 190 + 55 * random.random(3)
    return add_haze(colour + texture[..., None], depth[..., None], haze), depth, haze


def _smooth_noise(random: Random, size: tuple[int, int], cell: float) -> Floats:
    """Return noise (H, W) from 0 to 1 that is smooth over cells of so many pixels."""
    width, height = size
    grid = random.random((int(height / cell) + 2, int(width / cell) + 2))
    x, y = np.arange(width) / cell, np.arange(height) / cell
    column, row = x.astype(np.int64), y.astype(np.int64)
    u, v = x - column, (y - row)[:, None]
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    rows = grid[:, column] * (1 - u) + grid[:, column + 1] * u
    return rows[row] * (1 - v) + rows[row + 1] * v


def _make_thing(random: Random, kinds: int, mean: Floats, track: int, place: tuple[float, float], time: float) -> Thing:
    """Return a thing of one of so many classes that is at a place at a time; its colour differs from a mean."""
    distance = NEAR * (FAR / NEAR) ** float(random.random())  # so that small and large ones are equally frequent
    distance = round(distance, 3)
    label = int(random.random() * kinds)
    heading, speed = _uniform(random, 0, 2 * math.pi), _uniform(random, 2.0, 5.0) / distance
    velocity = (speed * math.cos(heading), speed * math.sin(heading))
    angle, spin = _uniform(random, 0, 2 * math.pi), _uniform(random, -0.05, 0.05)
    while True:
        colour = 30 + 195 * random.random(3)
        if float(np.abs(colour - mean).sum()) > 130:
            break
    start = (place[0] - velocity[0] * time, place[1] - velocity[1] * time)
    return Thing(track, label, distance, start, velocity, angle - spin * time, spin, colour)


def _place_still(random: Random, size: tuple[int, int], make: Maker, limits: tuple[int, int]) -> list[Thing]:
    """Return things at places where they overlap little; ``limits`` are the least and largest number of them."""
    things: list[Thing] = []
    wanted = limits[0] + int(random.random() * (limits[1] - limits[0] + 1))
    for _ in range(60):
        place = (size[0] * _uniform(random, 0.04, 0.96), size[1] * _uniform(random, 0.04, 0.96))
        thing = make(len(things) + 1, place, 0)
        gaps = (math.dist(thing.place, other.place) / (_reach(thing) + _reach(other)) for other in things)
        if all(gap > 0.65 for gap in gaps):
            things.append(thing)
        if len(things) == wanted:
            break
    return things


def _reach(thing: Thing) -> float:
    """Return the radius of a disc that is about as large as the thing, in pixels."""
    return thing.half_length * math.sqrt(thing.shape.half_width)


def _place_moving(random: Random, size: tuple[int, int], make: Maker, count: int) -> list[Thing]:
    """Return things that cross the picture, so many that about six are seen at any time."""
    margin = _SEEN_FOR // 2  # frames: a thing may be at its place before the first or after the last frame
    total = 6 * (count + 2 * margin) / _SEEN_FOR * (size[0] * size[1]) / (SIZE[0] * SIZE[1])
    things = []
    for track in range(1, round(total) + 1):
        place = (size[0] * float(random.random()), size[1] * float(random.random()))
        things.append(make(track, place, _uniform(random, -margin, count + margin)))
    return things
