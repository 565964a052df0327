"""Kinds of targets follow their picture through augmentation; a new kind is one class."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from netbuild import settings
from netbuild.feed import scenes
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import BoxTarget, KeypointTarget, MapTarget, PolygonTarget, Target

SIDE = 120
RECTANGLE = (30, 40, 70, 90)  # the object: x1, y1, x2, y2


def scene(value=200):
    """A bright rectangle, with a target of each kind that says where it is."""
    x1, y1, x2, y2 = RECTANGLE
    image, mask = np.full((SIDE, SIDE, 3), 30, np.uint8), np.zeros((SIDE, SIDE, 1), np.uint8)
    image[y1:y2, x1:x2], mask[y1:y2, x1:x2] = value, 1
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float)
    return Scene(
        image,
        {
            "boxes": BoxTarget(np.array([[0, x1, y1, x2, y2]], float)),
            "polygons": PolygonTarget(((corners,),)),
            "keypoints": KeypointTarget(np.column_stack((corners, np.full(4, 2.0)))[None]),
            "mask": MapTarget(mask),
            "second": MapTarget(image, 114, "second", smooth=True),
            "centre": CentreTarget((corners[0] + corners[2])[None] / 2),
        },
    )


@dataclass(frozen=True)
class CentreTarget(Target):
    """A kind of target that netbuild does not have: the centre of each object, (N, 2)."""

    points: np.ndarray

    def move(self, matrix, size):
        return CentreTarget(self.points @ matrix[:, :2].T + matrix[:, 2])

    def shift(self, left, top, size):
        return CentreTarget(self.points + (left, top))

    def mirror(self, axis, size):
        points = self.points.copy()
        points[:, 1 - axis] = size[axis] - points[:, 1 - axis]
        return CentreTarget(points)

    def select(self, chosen):
        return CentreTarget(self.points[chosen])

    def join(self, others):
        return CentreTarget(np.concatenate([target.points for target in (self, *others)]))

    def tensors(self, size):
        return {"centre": torch.from_numpy(self.points)}


def warped(rng):
    flags = {"degrees": 0.0, "translate": 0.1, "scale": 0.3, "shear": 0.0}
    return scenes.warp(scene(), SIDE, rng, settings.load(flags=flags))


CHANGES = {
    "left right": lambda rng: scenes.flip_left_right(scene()),
    "up down": lambda rng: scenes.flip_up_down(scene()),
    "warp": warped,
    "mosaic": lambda rng: scenes.make_mosaic([scene() for _ in range(4)], SIDE, rng),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", CHANGES)
def test_targets_of_all_kinds_stay_on_what_they_mark(change, seed):
    found = CHANGES[change](np.random.default_rng(seed))
    h, w = found.size
    bright = found.image[..., 0] > 157
    assert ((found.targets["mask"].values[..., 0] == 1) ^ bright).mean() < 0.02
    assert (found.targets["second"].values == found.image).mean() > 0.98
    assert found.boxes.shape[0] == len(found.targets["centre"].points) >= 1
    inside = np.zeros((h, w), bool)
    for (_, x1, y1, x2, y2), points, outline in zip(
        found.boxes, found.targets["keypoints"].points, found.outlines, strict=True
    ):
        inside[round(y1) : round(y2), round(x1) : round(x2)] = True
        edges = np.concatenate((points[:, :2].min(0), points[:, :2].max(0)))
        np.testing.assert_allclose(edges.clip(0, w), (x1, y1, x2, y2), atol=1e-6)
        np.testing.assert_allclose(np.sort(outline[0], 0), np.sort(points[:, :2], 0), atol=1e-6)
        seen = (points[:, :2] >= 0).all(-1) & (points[:, :2] <= w).all(-1)
        assert ((points[:, 2] > 0) == seen).all()
    assert (inside ^ bright).mean() < 0.02
    if change in ("left right", "up down"):
        np.testing.assert_allclose(found.targets["centre"].points, (found.boxes[:, 1:3] + found.boxes[:, 3:]) / 2)


def test_batches_join_each_kind_by_its_own_rule():
    items = [CHANGES[name](np.random.default_rng(0)) for name in ("warp", "left right")]
    batch = {}
    for name in items[0].targets:
        batch |= type(items[0].targets[name]).collate([item.targets[name].tensors(item.size) for item in items])
    assert batch["boxes"].shape == (2, 4)
    assert batch["index"].tolist() == [0, 1]
    assert batch["keypoints"].shape == (2, 4, 3)
    assert batch["mask"].shape == (2, 1, SIDE, SIDE)
    assert batch["second"].shape == (2, 3, SIDE, SIDE)
    assert batch["centre"].shape == (2, 2)


def test_copies_and_patches_change_maps_where_they_change_the_picture():
    found = scenes.copy_paste(scene(), 1.0)
    if len(found.boxes) == 1:  # the mirrored object would cover the first
        assert np.array_equal(found.image, scene().image)
    other = scenes.flip_up_down(scene(210))
    for seed in range(20):
        made = scenes.cut_mix(scene(), other, np.random.default_rng(seed))
        assert (made.targets["second"].values == made.image).all()
        assert ((made.targets["mask"].values[..., 0] == 1) == (made.image[..., 0] > 100)).all()
        assert len(made.targets["centre"].points) == len(made.boxes) == len(made.outlines)
    swapped = KeypointTarget(scene().targets["keypoints"].points, (1, 0, 3, 2)).mirror(1, (SIDE, SIDE))
    assert (swapped.points[0, 0, :2] == (SIDE - 70, 40)).all()
