"""Changes of pictures by chance, with the boxes and outlines of what is on them.

All chance comes from the generator that is handed in. Mosaic: arXiv 2004.10934. MixUp: 1710.09412. CutMix: 1905.04899.
Copy-paste: 2012.07177. Random erasing: 1708.04896. Random resized crops: 1409.4842. Policies: AutoAugment 1805.09501,
RandAugment 1909.13719, TrivialAugment 2103.10158, AugMix 1912.02781.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from netbuild.data.fitting import GREY, Image
from netbuild.feed.geometry import random_affine, random_rectangle, warp_image
from netbuild.settings import Settings
from netbuild.system.packages import cv2

Floats = NDArray[np.float64]
Boxes = Floats  # (N, 5): class, then corners in pixels
Outline = tuple[Floats, ...]  # polygons (K, 2) of one object; none where only its box is known
LEAST = 2.0  # pixels of a side below which a box is dropped after a change
LEAST_PART = 0.1  # of a box's area that must be left
MOST_ASPECT = 100.0
HIDDEN = 0.3  # of an object, that a pasted one may cover


@dataclass(frozen=True)
class Scene:
    """A picture with its objects.

    Args:
        image: (H, W, C).
        boxes: (N, 5) class and corners in pixels.
        outlines: for each box its polygons in pixels.
    """

    image: Image
    boxes: Boxes
    outlines: tuple[Outline, ...]

    def only(self, chosen: NDArray[np.bool_]) -> "Scene":
        """With the chosen ones of its objects, (N,)."""
        kept = tuple(self.outlines[i] for i in chosen.nonzero()[0])
        return replace(self, boxes=self.boxes[chosen], outlines=kept)

    def shifted(self, left: float, top: float, size: tuple[int, int] | None = None) -> "Scene":
        """With its objects elsewhere; of a canvas of (height, width), boxes are cut at it and those outside go."""
        boxes = self.boxes + (0, left, top, left, top)
        moved = replace(self, boxes=boxes, outlines=tuple(tuple(p + (left, top) for p in o) for o in self.outlines))
        if size is None:
            return moved
        h, w = size
        boxes[:, 1:] = boxes[:, 1:].clip(0, (w, h, w, h))
        return moved.only((boxes[:, 3] > boxes[:, 1]) & (boxes[:, 4] > boxes[:, 2]))

    def with_objects(self, *others: "Scene") -> "Scene":
        """With the objects of others, too."""
        scenes = (self, *others)
        return replace(
            self,
            boxes=np.concatenate([s.boxes for s in scenes]),
            outlines=tuple(outline for s in scenes for outline in s.outlines),
        )


# -- several pictures -------------------------------------------------------------------------------------------------


def make_mosaic(scenes: Sequence[Scene], side: int, rng: Generator) -> Scene:
    """Four pictures around a point of a canvas of twice the side."""
    canvas = np.full((2 * side, 2 * side, scenes[0].image.shape[2]), GREY, np.uint8)
    cx, cy = (int(rng.uniform(side / 2, 3 * side / 2)) for _ in range(2))
    placed = []
    for place, scene in enumerate(scenes):
        h, w = scene.image.shape[:2]
        left, top = cx - w if place % 2 == 0 else cx, cy - h if place < 2 else cy
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + w, 2 * side), min(top + h, 2 * side)
        canvas[y1:y2, x1:x2] = scene.image[y1 - top : y2 - top, x1 - left : x2 - left]
        placed.append(scene.shifted(left, top, (2 * side, 2 * side)))
    return Scene(canvas, np.zeros((0, 5)), ()).with_objects(*placed)


def mix_up(scene: Scene, other: Scene, rng: Generator) -> Scene:
    """Two pictures of one size laid over each other, about half of each."""
    share = rng.beta(32, 32)
    image = (scene.image * share + other.image * (1 - share)).astype(np.uint8)
    return replace(scene, image=image).with_objects(other)


def cut_mix(scene: Scene, other: Scene, rng: Generator, tries: int = 3) -> Scene:
    """A rectangle of another picture of the same size laid where there is no object, with what lies in it."""
    size = scene.image.shape[0], scene.image.shape[1]
    for _ in range(tries):
        x1, y1, x2, y2 = random_rectangle(size, sqrt(1 - rng.beta(1, 1)), rng)
        if x2 <= x1 or y2 <= y1 or coverage(scene.boxes, np.array([[x1, y1, x2, y2]])).any():
            continue
        image = scene.image.copy()
        image[y1:y2, x1:x2] = other.image[y1:y2, x1:x2]
        kept = other.only(coverage(other.boxes, np.array([[x1, y1, x2, y2]])) >= LEAST_PART)
        kept.boxes[:, 1:] = kept.boxes[:, 1:].clip((x1, y1, x1, y1), (x2, y2, x2, y2))
        return replace(scene, image=image).with_objects(kept)
    return scene


def coverage(boxes: Boxes, others: Floats) -> Floats:
    """(N,) the largest part of each box (N, 5) that one of the others (M, 4) covers."""
    if not len(boxes) or not len(others):
        return np.zeros(len(boxes))
    a, b = boxes[:, None, 1:], others[None]
    inner = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(-1)
    return (inner / ((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2]))[:, None]).max(1)


def copy_paste(scene: Scene, share: float) -> Scene:
    """A share of the objects, cut out along their outlines, pasted once more where the mirrored picture has them.

    Only where they cover at most `HIDDEN` of any object; those that cover least come first.
    """
    image, mirrored = scene.image.copy(), flip_left_right(scene)
    known = [i for i, outline in enumerate(mirrored.outlines) if outline]
    cost = [coverage(scene.boxes, mirrored.boxes[[i], 1:]).max(initial=0.0) for i in known]
    wanted = [known[i] for i in np.argsort(cost, kind="stable") if cost[i] < HIDDEN][: round(share * len(known))]
    mask = np.zeros(image.shape[:2], np.uint8)
    for i in wanted:
        cv2().fillPoly(mask, [np.rint(polygon).astype(np.int32) for polygon in mirrored.outlines[i]], 1)
    image[mask > 0] = mirrored.image[mask > 0]
    return replace(scene, image=image).with_objects(mirrored.only(np.isin(np.arange(len(mirrored.boxes)), wanted)))


# -- geometry ---------------------------------------------------------------------------------------------------------


def warp(scene: Scene, size: int, rng: Generator, s: Settings) -> Scene:
    """The picture's middle brought to the square's, turned, scaled, sheared and shifted by chance, with its objects."""
    matrix, scale = random_affine(scene.image.shape[:2], (size, size), 1.0, rng, s)
    image = warp_image(scene.image, matrix, (size, size), borderValue=(GREY,) * 4)
    return replace(move_objects(scene, matrix, size, scale), image=image)


def move_objects(scene: Scene, matrix: Any, size: int, scale: float) -> Scene:
    """A scene's objects after an affine change (2, 3), cut at the square; those of which too little is left go.

    A box becomes the hull of its outline, where that is known, or of its corners.
    """
    boxes, (turn, offset) = scene.boxes, (matrix[:, :2], matrix[:, 2])
    if not len(boxes):
        return scene
    outlines = tuple(tuple(polygon @ turn.T + offset for polygon in outline) for outline in scene.outlines)
    corners = boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 4, 2) @ turn.T + offset
    hulls = [np.concatenate(outline) if outline else box for outline, box in zip(outlines, corners, strict=True)]
    low, high = (np.array([edge(hull, 0) for hull in hulls]).clip(0, size) for edge in (np.min, np.max))
    found = replace(scene, boxes=np.concatenate((boxes[:, :1], low, high), 1), outlines=outlines)
    wide, before = high - low, np.prod(boxes[:, 3:] - boxes[:, 1:3], 1) * scale**2
    aspect = np.maximum(wide[:, 0] / (wide[:, 1] + 1e-9), wide[:, 1] / (wide[:, 0] + 1e-9))
    return found.only((wide > LEAST).all(1) & (wide.prod(1) > LEAST_PART * before) & (aspect < MOST_ASPECT))


def flip_left_right(scene: Scene) -> Scene:
    """A scene mirrored."""
    w = scene.image.shape[1]
    boxes = scene.boxes[:, [0, 3, 2, 1, 4]] * (1, -1, 1, -1, 1) + (0, w, 0, w, 0)
    return Scene(scene.image[:, ::-1], boxes, _mirrored(scene.outlines, (w, 0), (-1, 1)))


def flip_up_down(scene: Scene) -> Scene:
    """A scene upside down."""
    h = scene.image.shape[0]
    boxes = scene.boxes[:, [0, 1, 4, 3, 2]] * (1, 1, -1, 1, -1) + (0, 0, h, 0, h)
    return Scene(scene.image[::-1], boxes, _mirrored(scene.outlines, (0, h), (1, -1)))


def _mirrored(outlines: Sequence[Outline], offset: tuple[int, int], sign: tuple[int, int]) -> tuple[Outline, ...]:
    return tuple(tuple(polygon * sign + offset for polygon in outline) for outline in outlines)


def flip_randomly(scene: Scene, rng: Generator, s: Settings) -> Scene:
    """A scene mirrored or upside down by chance."""
    if rng.random() < (s.flip_lr or 0.0):
        scene = flip_left_right(scene)
    return flip_up_down(scene) if rng.random() < s.flip_ud else scene
