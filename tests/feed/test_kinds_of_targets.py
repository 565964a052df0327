"""Kinds of targets follow their picture through augmentation; a new kind is one class."""

import hashlib

import numpy as np
import pytest
import torch
from helpers.centre_target import CentreTarget
from PIL import Image

from netbuild import settings
from netbuild.data import open_data
from netbuild.data.dataset import Sample
from netbuild.errors import NetbuildError
from netbuild.feed import scenes
from netbuild.feed.loader import BatchLoader, FeedOptions
from netbuild.feed.samples import BOX_KINDS, SceneSamples, collate_scenes, feed_scenes
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import (
    BoxTarget,
    ClassMapTarget,
    InputPictureTarget,
    KeypointTarget,
    PictureTarget,
    PolygonTarget,
    ValueMapTarget,
)

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
            "mask": ClassMapTarget(mask, "mask"),
            "fine": ClassMapTarget(mask.repeat(2, 0).repeat(2, 1), "fine", 2),
            "second": PictureTarget(image, "second"),
            "centre": CentreTarget((corners[0] + corners[2])[None] / 2),
        },
    )


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
def test_targets_move_with_their_picture(change, seed):
    found = CHANGES[change](np.random.default_rng(seed))
    h, w = found.size
    bright = found.image[..., 0] > 157
    assert ((found.targets["mask"].values[..., 0] == 1) ^ bright).mean() < 0.02
    fine = bright.repeat(2, 0).repeat(2, 1)  # a map of twice the resolution
    assert ((found.targets["fine"].values[..., 0] == 1) ^ fine).mean() < 0.02
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


def test_each_kind_has_its_own_collate():
    items = [CHANGES[name](np.random.default_rng(0)) for name in ("warp", "left right")]
    batch = {}
    for name in items[0].targets:
        batch |= type(items[0].targets[name]).collate([item.targets[name].tensors(item.size) for item in items])
    assert batch["boxes"].shape == (2, 4)
    assert batch["index"].tolist() == [0, 1]
    assert batch["keypoints"].shape == (2, 4, 3)
    assert batch["mask"].shape == (2, 1, SIDE, SIDE)
    assert batch["fine"].shape == (2, 1, 2 * SIDE, 2 * SIDE)
    assert batch["second"].shape == (2, 3, SIDE, SIDE)
    assert batch["centre"].shape == (2, 2)


def test_maps_are_pasted_where_the_picture_is():
    found = scenes.copy_paste(scene(), 1.0)
    if len(found.boxes) == 1:  # the mirrored object would cover the first
        assert np.array_equal(found.image, scene().image)
    other = scenes.flip_up_down(scene(210))
    for seed in range(20):
        made = scenes.cut_mix(scene(), other, np.random.default_rng(seed))
        assert (made.targets["second"].values == made.image).all()
        fine = made.targets["fine"].values[..., 0] == 1
        assert (fine == (made.image[..., 0] > 100).repeat(2, 0).repeat(2, 1)).all()
        assert ((made.targets["mask"].values[..., 0] == 1) == (made.image[..., 0] > 100)).all()
        assert len(made.targets["centre"].points) == len(made.boxes) == len(made.outlines)
    mixed = scenes.mix_up(scene(), other, np.random.default_rng(0))
    assert (mixed.targets["second"].values == mixed.image).all()
    target = KeypointTarget(scene().targets["keypoints"].points, (1, 0, 3, 2))
    assert (target.mirror(1, (SIDE, SIDE)).points[0, 0, :2] == (SIDE - 70, 40)).all()
    # A vertical flip is a horizontal one turned by 180 degrees, so that it swaps left and right as well.
    assert (target.mirror(0, (SIDE, SIDE)).points[0, 0, :2] == (70, SIDE - 40)).all()


# -- samples to batches -----------------------------------------------------------------------------------------------


def sample(number, size=(90, 60)):
    """A dark picture with a bright rectangle, its mask, its distances, a twice as large and an infrared picture."""
    rng = np.random.default_rng(number)
    (w, h), (x, y) = size, rng.uniform(0.3, 0.7, 2)
    pixels, mask = np.full((h, w, 3), 30, np.uint8), np.zeros((h, w), np.uint8)
    rows, columns = slice(int((y - 0.2) * h), int((y + 0.2) * h)), slice(int((x - 0.2) * w), int((x + 0.2) * w))
    pixels[rows, columns], mask[rows, columns] = 220, 1
    box = (columns.start + columns.stop) / 2 / w, (rows.start + rows.stop) / 2 / h
    box = [1, *box, (columns.stop - columns.start) / w, (rows.stop - rows.start) / h]
    extras = {"mask": mask, "depth": 1 + mask * np.float32(1.5), "infrared": pixels[..., 0]}
    extras["fine"] = pixels.repeat(2, 0).repeat(2, 1)
    return Sample("x", size, boxes=np.array([box]), pixels=pixels, extras=extras)


KINDS = {
    **BOX_KINDS,
    "centre": CentreTarget,
    "mask": ClassMapTarget,
    "depth": ValueMapTarget,
    "infrared": PictureTarget,
    "fine": PictureTarget,
}


def feeding(learning, **flags):
    chosen = settings.load(flags={"workers": 0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, **flags})
    defaults = chosen.with_augmentation_defaults("pictures", "detect")
    return FeedOptions((64, 64), 3, 2, None, defaults, learning, 2)


@pytest.mark.parametrize("learning", [False, True])
def test_a_new_kind_in_one_file_is_augmented_and_batched(learning):
    samples = [sample(i) for i in range(6)] + [sample(6, (60, 90))]
    found, collate = feed_scenes(samples, feeding(learning, mixup=0.3, cutmix=0.3, flip_ud=0.5, scale=0.3), KINDS)
    inside = 0
    for epoch in range(3):
        for batch in BatchLoader(found, 2, collate, shuffle=learning).epoch(epoch):
            count, _, h, w = batch["images"].shape
            assert len(batch["centre"]) == len(batch["boxes"]) == len(batch["index"])
            whole = ((batch["boxes"][:, :2] - batch["boxes"][:, 2:] / 2 > 0.01).all(1)) & (
                (batch["boxes"][:, :2] + batch["boxes"][:, 2:] / 2 < 0.99).all(1)
            )  # a box that was cut has another centre
            inside += int(whole.sum())
            np.testing.assert_allclose(batch["centre"][whole], batch["boxes"][whole, :2], atol=0.01)
            assert (batch["mask"].dtype, batch["mask"].shape) == (torch.int32, (count, 1, h, w))
            assert (batch["depth"].dtype, batch["infrared"].shape) == (torch.float32, (count, 3, h, w))
            assert batch["fine"].shape == (count, 3, 2 * h, 2 * w)
            depths = torch.where(batch["mask"] == 255, 0, 1 + 1.5 * (batch["mask"] == 1))
            assert (batch["depth"] == depths).all()
            assert (batch["infrared"].int() - batch["images"].int()).abs().float().mean() < 1
            bright = batch["images"][:, :1] > 170
            assert ((batch["mask"] == 1) & ~bright).float().mean() < (0.3 if learning else 0.02)
    assert inside > 15


def test_a_sample_without_a_needed_extra_is_refused():
    bare = Sample("x", (8, 8), boxes=np.zeros((0, 5)), pixels=np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(NetbuildError, match="x: the sample has no 'mask', which the network needs") as caught:
        feed_scenes([bare], feeding(False), {"mask": ClassMapTarget})
    assert "extras: {mask: picture}" in caught.value.hint


@pytest.mark.parametrize(("kind", "same"), [(PictureTarget, True), (InputPictureTarget, False)])
def test_colours_are_augmented_unless_a_target_has_the_same(kind, same):
    found, collate = feed_scenes([sample(i) for i in range(4)], feeding(True, hsv_v=0.9), {"infrared": kind})
    [batch] = BatchLoader(found, 4, collate).epoch(0)
    difference = (batch["images"].int() - batch["infrared"].int()).abs().float().mean()
    assert (difference < 1) == same


def keypoint_sample(count):
    points = np.random.default_rng(count).uniform(0.2, 0.8, (count, 5, 2))
    boxes = np.concatenate((np.zeros((count, 1)), np.full((count, 2), 0.5), np.full((count, 2), 0.7)), 1)
    keypoints = points if count else None
    return Sample("x", (60, 60), boxes=boxes, keypoints=keypoints, pixels=np.zeros((60, 60, 3), np.uint8))


def test_keypoints_of_pictures_without_objects():
    samples = [keypoint_sample(count) for count in (0, 2, 0, 1)]
    kinds = {"boxes": BoxTarget, "keypoints": KeypointTarget}
    found, collate = feed_scenes(samples, feeding(True), kinds)
    for learning in (False, True):
        found, collate = feed_scenes(samples, feeding(learning), kinds)
        for batch in BatchLoader(found, 2, collate).epoch(0):
            assert len(batch["keypoints"]) == len(batch["boxes"])
            assert batch["keypoints"].shape[1:] in ((5, 3), (0, 3))


def test_objects_without_keypoints_stay_beside_those_with_some():
    bare, full = KeypointTarget(np.zeros((2, 0, 3))), KeypointTarget(np.ones((1, 5, 3)))
    assert bare.join([full]).points.shape == full.join([bare]).points.shape == (3, 5, 3)
    batch = KeypointTarget.collate([bare.tensors((9, 9)), full.tensors((9, 9))])["keypoints"]
    assert batch[..., 2].tolist() == [[0] * 5, [0] * 5, [1] * 5]


def test_mirrored_keypoints_are_swapped_as_the_data_file_states(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.8 0.8 0.2 0.3 2 0.7 0.6 2\n")
    file = tmp_path / "data.yaml"
    file.write_text("train: images\nnames: [a]\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n")
    samples = open_data(file).split("train").samples
    chosen = feeding(True, flip_lr=1.0, mosaic=0.0, translate=0.0, scale=0.0)
    found, collate = feed_scenes(samples, chosen, {"boxes": BoxTarget, "keypoints": KeypointTarget})
    [batch] = BatchLoader(found, 1, collate).epoch(0)
    np.testing.assert_allclose(batch["keypoints"][0, :, :2], [[0.3, 0.6], [0.8, 0.3]], atol=1e-6)


# -- detection --------------------------------------------------------------------------------------------------------


def polygon(cx, cy, r):
    return np.array([[cx - r, cy], [cx, cy - r], [cx + r, cy], [cx, cy + r]])


def random_samples():
    """Seven pictures of ramps and noise with boxes, of which some have polygons."""
    rng = np.random.default_rng(0)
    for i in range(7):
        w, h = int(rng.integers(40, 130)), int(rng.integers(40, 130))
        n = int(rng.integers(0, 5))
        centres, radii = rng.uniform(0.2, 0.8, (n, 2)), rng.uniform(0.05, 0.2, n)
        boxes = np.column_stack((rng.integers(0, 4, n), centres, 2 * radii, 2 * radii)).reshape(-1, 5)
        outlines = tuple((polygon(*centres[j], radii[j]),) if j % 3 else () for j in range(n)) if i % 2 else ()
        ramps = np.stack(np.broadcast_arrays(np.arange(w) * 1.0, 2.0 * np.arange(h)[:, None], 90.0 * (i % 3)), -1)
        pixels = (rng.integers(0, 40, (h, w, 3)) + ramps).clip(0, 255).astype(np.uint8)
        yield Sample("x", (w, h), boxes=boxes, outlines=outlines, pixels=pixels)


EVERYTHING = {"mixup": 0.5, "cutmix": 0.5, "copy_paste": 0.7, "degrees": 20.0, "shear": 5.0, "flip_ud": 0.5}


@pytest.mark.parametrize(
    ("flags", "digest", "pixels"),
    [
        ({}, "3836a6d021cd5e52",
         [111.9, 92.1, 92.1, 88.3, 135.9, 141.3, 124.6, 127.8, 139.6, 131.9, 134.3, 146.3,
          54.9, 55.2, 51.8, 50.9, 96.2, 95.9, 75.4, 75.2, 89.7, 110.5, 67.9, 96.1]),
        (EVERYTHING, "30b1024e9c9793ba",
         [64.2, 64.6, 62.9, 65.1, 101.8, 100.5, 100.6, 92.3, 89.1, 90.6, 79.7, 75.5,
          60.1, 68.0, 64.9, 54.0, 96.8, 109.7, 93.0, 96.0, 101.6, 115.0, 90.4, 94.1]),
        ({"mosaic": 0.0}, "5cf57c51bc2df7f0",
         [68.4, 75.3, 71.6, 74.6, 70.9, 72.5, 105.7, 105.0, 98.8, 98.1, 98.6, 97.0,
          81.8, 89.8, 89.9, 99.9, 86.2, 85.6, 146.3, 144.7, 111.3, 105.3, 120.5, 115.6]),
    ],
    ids=["default", "everything", "no mosaic"],
)  # fmt: skip
def test_augmentation_of_detection_is_unchanged(flags, digest, pixels):
    """A run with a seed must stay the same run: its boxes by a hash, its pictures by the mean of each quarter."""
    chosen = settings.load(flags=flags).with_augmentation_defaults("pictures", "detect")
    samples = SceneSamples(list(random_samples()), 96, 3, chosen)
    found, means = hashlib.sha256(), []
    for epoch in range(2):
        batch = collate_scenes([samples.get(i, np.random.default_rng((1, epoch, i)), epoch) for i in range(7)])
        # Rounded, since the last digits depend on the machine; the offset keeps whole numbers off the borders.
        found.update(((batch["boxes"].double() * 96 + 0.26).numpy() // 0.5).astype(np.int64).tobytes())
        found.update(batch["classes"].numpy().tobytes() + batch["index"].numpy().tobytes())
        means += batch["images"].double().unfold(2, 48, 48).unfold(3, 48, 48).mean((0, 4, 5)).flatten().tolist()
    assert found.hexdigest()[:16] == digest
    assert means == pytest.approx(pixels, abs=0.5)
