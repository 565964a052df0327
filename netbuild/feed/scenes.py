"""Scenes (pictures with their targets) and the augmentation that changes both together.

All random numbers come from the generator that is passed in. Mosaic: arXiv 2004.10934. MixUp: 1710.09412.
CutMix: 1905.04899. Copy-paste: 2012.07177.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.data.fitting import GREY, Image
from netbuild.feed.geometry import depth_of, random_rectangle, random_warp, warp_image
from netbuild.feed.targets import BoxTarget, PolygonTarget, Target
from netbuild.feed.targets.base import Floats
from netbuild.feed.targets.boxes import MIN_VISIBLE
from netbuild.feed.targets.polygons import Outline
from netbuild.settings import Settings
from netbuild.system.packages import cv2

Boxes = Floats  # (N, 5): class, then corners in pixels
MAX_HIDDEN = 0.3  # largest share of an object that a pasted object may cover


@dataclass(frozen=True)
class Scene:
    """A picture with its targets.

    Args:
        image: (H, W, C).
        targets: the targets by name; scenes that are combined have the same names. Where there is a target ``boxes``,
            its objects decide which entries of the other targets are kept.
    """

    image: Image
    targets: Mapping[str, Target]

    @classmethod
    def of_boxes(cls, image: Image, boxes: Boxes, outlines: tuple[Outline, ...] = ()) -> "Scene":
        """Return a scene with boxes (N, 5) and the polygons of each, in pixels."""
        return cls(image, {"boxes": BoxTarget(boxes), "polygons": PolygonTarget(outlines)})

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def boxes(self) -> Boxes:
        """The rows of the target ``boxes``, (N, 5); none where the scene has no boxes."""
        target = self.targets.get("boxes")
        return target.rows if isinstance(target, BoxTarget) else np.zeros((0, 5))

    @property
    def outlines(self) -> tuple[Outline, ...]:
        """The outlines of the target ``polygons``."""
        target = self.targets.get("polygons")
        return target.outlines if isinstance(target, PolygonTarget) else ()

    def map(self, change: Callable[[Any], Any]) -> "Scene":
        """Return the scene with each of its targets changed by a function."""
        return replace(self, targets={name: change(target) for name, target in self.targets.items()})

    def select(self, chosen: NDArray[np.bool_]) -> "Scene":
        """Return the scene with the objects that are ``chosen``, (N,)."""
        return self.map(lambda target: target.select(chosen)) if "boxes" in self.targets else self

    def shift(self, left: int, top: int, size: tuple[int, int]) -> "Scene":
        """Return the scene with its targets moved on a canvas of (height, width); the picture stays."""
        return self.map(lambda target: target.shift(left, top, size))

    def clip(self, rectangle: tuple[int, int, int, int]) -> "Scene":
        """Return the scene with its targets clipped to a rectangle (x1, y1, x2, y2); the picture stays."""
        return self.map(lambda target: target.clip(rectangle))

    def join(self, *others: "Scene") -> "Scene":
        """Return the scene with the targets of others added to its own; the picture stays."""
        joined = {n: t.join([other.targets[n] for other in others]) for n, t in self.targets.items()}
        return replace(self, targets=joined)

    def blend(self, other: "Scene", image: Image, share: float) -> "Scene":
        """Return the blended ``image`` of two scenes, this one's with weight ``share``, with the targets of both."""
        return Scene(image, {n: t.blend(other.targets[n], share) for n, t in self.targets.items()})

    def paste(self, other: "Scene", mask: NDArray[np.bool_]) -> "Scene":
        """Return the scene with another's pixels where ``mask`` (H, W) is set, and with the targets of both."""
        image = np.where(mask[..., None], other.image, self.image)
        return Scene(image, {n: t.paste(other.targets[n], mask) for n, t in self.targets.items()})


# -- several pictures -------------------------------------------------------------------------------------------------


def make_mosaic(scenes: Sequence[Scene], side: int, rng: Generator) -> Scene:
    """Lay four pictures around a random point of a square canvas whose sides are twice ``side`` pixels."""
    size = (2 * side, 2 * side)
    canvas = np.full((*size, scenes[0].image.shape[2]), GREY, np.uint8)
    cx, cy = (int(rng.uniform(side / 2, 3 * side / 2)) for _ in range(2))
    placed = []
    for place, scene in enumerate(scenes):
        h, w = scene.size
        # Each picture has one corner at the point; what reaches over the canvas is cut.
        left, top = cx - w if place % 2 == 0 else cx, cy - h if place < 2 else cy
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 2 * side), min(top + h, 2 * side)
        canvas[y1:y2, x1:x2] = scene.image[y1 - top : y2 - top, x1 - left : x2 - left]
        moved = scene.shift(left, top, size).clip((0, 0, 2 * side, 2 * side))
        boxes = moved.boxes  # those outside the canvas have no area left
        placed.append(moved.select((boxes[:, 3] > boxes[:, 1]) & (boxes[:, 4] > boxes[:, 2])))
    return replace(placed[0].join(*placed[1:]), image=canvas)


def mix_up(scene: Scene, other: Scene, rng: Generator) -> Scene:
    """Blend two pictures of one size, about half of each, and keep the targets of both."""
    share = rng.beta(32, 32)  # close to a half: both pictures stay visible
    image = (scene.image * share + other.image * (1 - share)).astype(np.uint8)
    return scene.blend(other, image, share)


def cut_mix(scene: Scene, other: Scene, rng: Generator, tries: int = 3) -> Scene:
    """Paste a rectangle of another picture of the same size, with its objects, where there is no object.

    After ``tries`` rectangles that would cover an object the scene is returned as it is.
    """
    for _ in range(tries):
        x1, y1, x2, y2 = random_rectangle(scene.size, sqrt(1 - rng.beta(1, 1)), rng)
        if x2 <= x1 or y2 <= y1 or coverage(scene.boxes, np.array([[x1, y1, x2, y2]])).any():
            continue
        inside = other.select(coverage(other.boxes, np.array([[x1, y1, x2, y2]])) >= MIN_VISIBLE)
        mask = np.zeros(scene.size, np.bool_)
        mask[y1:y2, x1:x2] = True
        return scene.paste(inside.clip((x1, y1, x2, y2)), mask)
    return scene


def coverage(boxes: Boxes, others: Floats) -> Floats:
    """Return (N,) the largest fraction of each box (N, 5) that one of the others (M, 4) covers."""
    if not len(boxes) or not len(others):
        return np.zeros(len(boxes))
    a, b = boxes[:, None, 1:], others[None]
    inner = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    return (inner / ((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2]))[:, None]).max(1)


def copy_paste(scene: Scene, share: float) -> Scene:
    """Cut objects out along their polygons and paste them where they are in the mirrored picture.

    Objects that would cover more than `MAX_HIDDEN` of another are not pasted; those that cover least come first.

    Args:
        scene: the scene.
        share: fraction of the objects with polygons that are pasted.
    """
    mirrored = flip_left_right(scene)
    with_polygons = [i for i, outline in enumerate(mirrored.outlines) if outline]
    covered = [coverage(scene.boxes, mirrored.boxes[[i], 1:]).max(initial=0.0) for i in with_polygons]
    order = np.argsort(covered, kind="stable")
    pasted = [with_polygons[i] for i in order if covered[i] < MAX_HIDDEN][: round(share * len(with_polygons))]
    mask = np.zeros(scene.size, np.uint8)
    for i in pasted:
        cv2().fillPoly(mask, [np.rint(polygon).astype(np.int32) for polygon in mirrored.outlines[i]], 1)
    return scene.paste(mirrored.select(np.isin(np.arange(len(mirrored.boxes)), pasted)), mask > 0)


# -- geometry ---------------------------------------------------------------------------------------------------------


def warp(scene: Scene, size: int, rng: Generator, s: Settings) -> Scene:
    """Center a scene on a square of ``size`` pixels and randomly rotate, scale, shear, tilt and shift it."""
    matrix, scale = random_warp(scene.size, (size, size), 1.0, rng, s)
    image = warp_image(scene.image, matrix, (size, size), borderValue=(GREY,) * 4)
    return replace(move_objects(scene, matrix, size, scale), image=image)


def move_objects(scene: Scene, matrix: Any, size: int, scale: float) -> Scene:
    """Move a scene's targets by a map, clip them to the square, and drop objects of which too little is left.

    A box becomes the smallest one around its moved polygons, or around its moved corners if it has none.

    Args:
        scene: the scene; its picture stays as it is.
        matrix: (2, 3), or (3, 3) with perspective.
        size: side of the square in pixels.
        scale: by which the map enlarges lengths, with perspective in the middle, for comparing areas.
    """
    moved = scene.map(lambda target: target.move(matrix, (size, size)))
    boxes, polygons = moved.targets.get("boxes"), moved.targets.get("polygons")
    if not isinstance(boxes, BoxTarget):
        return moved
    if isinstance(polygons, PolygonTarget):
        boxes = replace(boxes, rows=polygons.tighten(boxes.rows))
    boxes = boxes.clip((0, 0, size, size))
    middles = (scene.boxes[:, 1:3] + scene.boxes[:, 3:]) / 2
    chosen = boxes.visible(scene.boxes, scale / depth_of(middles, matrix) ** 1.5)
    return replace(moved, targets={**moved.targets, "boxes": boxes}).select(chosen)


def flip_left_right(scene: Scene) -> Scene:
    """Mirror a scene left to right."""
    return replace(scene, image=scene.image[:, ::-1]).map(lambda target: target.mirror(1, scene.size))


def flip_up_down(scene: Scene) -> Scene:
    """Mirror a scene upside down."""
    return replace(scene, image=scene.image[::-1]).map(lambda target: target.mirror(0, scene.size))


def flip_randomly(scene: Scene, rng: Generator, s: Settings) -> Scene:
    """Mirror a scene left to right and upside down, and turn it, each with its probability from the settings."""
    if rng.random() < (s.flip_lr or 0.0):
        scene = flip_left_right(scene)
    scene = flip_up_down(scene) if rng.random() < s.flip_ud else scene
    return turn_randomly(scene, rng) if s.rot90 and rng.random() < s.rot90 else scene


def turn_randomly(scene: Scene, rng: Generator) -> Scene:
    """Turn a scene by one, two or three quarters; by two if its picture is no square, so that it keeps its size."""
    is_square = scene.size[0] == scene.size[1]
    return turn(scene, int(rng.integers(1, 4)) if is_square else 2)


def turn(scene: Scene, quarters: int) -> Scene:
    """Turn a scene by 1 to 3 quarters counter-clockwise."""
    size = scene.size
    return replace(scene, image=np.rot90(scene.image, quarters)).map(lambda target: target.turn(quarters, size))
