"""Kinds of targets follow their picture through augmentation; a new kind is one class."""

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from helpers.centre_target import CentreTarget
from PIL import Image

from netbuild import settings
from netbuild.data import open_data
from netbuild.data.contours import fill_polygons
from netbuild.data.dataset import Sample
from netbuild.data.shapes import make_scene
from netbuild.errors import NetbuildError
from netbuild.feed import scenes
from netbuild.feed.geometry import move_points, random_warp, warp_image
from netbuild.feed.loader import BatchLoader, FeedOptions
from netbuild.feed.rectangles import fit_rectangles
from netbuild.feed.samples import BOX_KINDS, SceneSamples, collate_scenes, feed_scenes
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import (
    BoxTarget,
    ClassMapTarget,
    DistanceMapTarget,
    InputPictureTarget,
    KeypointTarget,
    PictureTarget,
    PolygonTarget,
    RotatedBoxTarget,
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


def warped(rng, **more):
    flags = {"degrees": 0.0, "translate": 0.1, "scale": 0.3, "shear": 0.0, **more}
    return scenes.warp(scene(), SIDE, rng, settings.load(flags=flags))


CHANGES = {
    "left right": lambda rng: scenes.flip_left_right(scene()),
    "up down": lambda rng: scenes.flip_up_down(scene()),
    "warp": warped,
    "turn": lambda rng: scenes.turn_randomly(scene(), rng),
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
    if change in ("left right", "up down", "turn"):
        np.testing.assert_allclose(found.targets["centre"].points, (found.boxes[:, 1:3] + found.boxes[:, 3:]) / 2)


def test_a_turn_is_that_of_numpy_for_every_kind_of_target():
    x1, y1, x2, y2 = RECTANGLE
    for quarters, box in ((1, (y1, SIDE - x2, y2, SIDE - x1)), (3, (SIDE - y2, x1, SIDE - y1, x2))):
        made = scenes.turn(scene(), quarters)
        assert made.boxes.tolist() == [[0, *box]]
        assert (made.image == np.rot90(scene().image, quarters)).all()
        assert (made.targets["fine"].values == np.rot90(scene().targets["fine"].values, quarters)).all()
    wide = Scene(np.zeros((4, 6, 3), np.uint8), {"boxes": BoxTarget(np.array([[0, 1.0, 1, 3, 2]]))})
    made = scenes.turn(wide, 1)
    assert (made.size, made.boxes.tolist()) == ((6, 4), [[0, 1, 3, 2, 5]])
    assert scenes.turn_randomly(wide, np.random.default_rng(0)).size == (4, 6)
    always = settings.load(flags={"rot90": 1.0, "flip_lr": 0.0})
    turned = [scenes.flip_randomly(scene(), np.random.default_rng(i), always).image for i in range(8)]
    assert not any((image == scene().image).all() for image in turned)
    assert len({image.tobytes() for image in turned}) == 3


@pytest.mark.parametrize("seed", range(6))
def test_targets_keep_to_their_picture_in_perspective(seed):
    """The object is no rectangle any more: it is compared with what is drawn, pixel by pixel."""
    flags = {"degrees": 60.0, "translate": 0.0, "scale": 0.2, "shear": 10.0, "perspective": 0.4}
    matrix, scale = random_warp((SIDE,) * 2, (SIDE,) * 2, 1.0, np.random.default_rng(seed), settings.load(flags=flags))
    assert matrix.shape == (3, 3)
    plain = scene()
    plain = replace(plain, targets={name: t for name, t in plain.targets.items() if name != "centre"})
    made = scenes.move_objects(plain, matrix, SIDE, scale)
    image = warp_image(plain.image, matrix, (SIDE, SIDE))
    bright = image[..., 0] > 100
    drawn = fill_polygons([made.outlines[0][0]], (SIDE, SIDE))
    assert (drawn ^ bright).mean() < 0.01
    assert ((made.targets["mask"].values[..., 0] == 1) ^ bright).mean() < 0.01
    fine = cv2.resize(image[..., 0], (2 * SIDE, 2 * SIDE)) > 100
    assert ((made.targets["fine"].values[..., 0] == 1) ^ fine).mean() < 0.01
    points, outline = made.targets["keypoints"].points[0], made.outlines[0][0]
    np.testing.assert_allclose(points[:, :2], outline)
    ((_, *box),) = made.boxes
    np.testing.assert_allclose(box, np.concatenate((outline.min(0), outline.max(0))).clip(0, SIDE))
    oriented = RotatedBoxTarget(plain.outlines, plain.outlines).move(matrix, (SIDE, SIDE)).tensors((SIDE, SIDE))
    corners = (oriented["corners"] * SIDE).double()
    if (outline > 0).all() and (outline < SIDE).all():  # the smallest rectangle around the moved corners
        np.testing.assert_allclose(corners[0], outline, atol=1e-3)
        box = fit_rectangles(corners)[0]
        assert box[2] * box[3] == pytest.approx(np.prod(cv2.minAreaRect(outline.astype(np.float32))[1]), rel=1e-3)


@pytest.mark.parametrize("perspective", [0.0, 0.4])
def test_distances_follow_the_local_enlargement(perspective):
    """A thing is drawn as large as one so far away would be: area times squared distance stays what it was."""
    flags = {"degrees": 20.0, "translate": 0.0, "scale": 0.3, "shear": 0.0, "perspective": perspective}
    matrix, _ = random_warp((SIDE,) * 2, (SIDE,) * 2, 1.0, np.random.default_rng(3), settings.load(flags=flags))
    for x, y in ((30, 40), (60, 60), (80, 30)):
        small = np.array([[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]], float)
        moved = move_points(small, matrix)
        (a, b), (c, d) = moved[2] - moved[0], moved[3] - moved[1]
        enlargement = np.sqrt(abs(a * d - b * c) / 2)
        depth = np.zeros((SIDE, SIDE, 1), np.float32)
        depth[y - 1 : y + 3, x - 1 : x + 3] = 10
        made = DistanceMapTarget(depth, "depth").move(matrix, (SIDE, SIDE)).values
        column, row = np.floor(moved.mean(0)).astype(int)
        assert made[row, column, 0] == pytest.approx(10 / enlargement, rel=0.02)
        fine = DistanceMapTarget(depth.repeat(2, 0).repeat(2, 1), "depth", 2).move(matrix, (SIDE, SIDE)).values
        assert fine[2 * row, 2 * column, 0] == pytest.approx(10 / enlargement, rel=0.03)


def test_tracks_of_a_scene_turn_and_tilt_with_it():
    frame = make_scene((3, 1)).frame()
    target = ClassMapTarget(frame.tracks[..., None].astype(np.uint8), "tracks")
    objects = [found for found in frame.objects if found.visible > 0.99]
    whole = Scene(
        frame.picture,
        {
            "boxes": BoxTarget(np.array([[found.track, *found.box] for found in objects])),
            "polygons": PolygonTarget(tuple(found.polygons for found in objects)),
            "tracks": target,
        },
    )
    size = frame.picture.shape[0]
    flags = {"degrees": 30.0, "translate": 0.0, "scale": 0.1, "shear": 0.0, "perspective": 0.3}
    matrix, scale = random_warp((size,) * 2, (size,) * 2, 1.0, np.random.default_rng(0), settings.load(flags=flags))
    for made in (scenes.turn(whole, 1), scenes.turn(whole, 3), scenes.move_objects(whole, matrix, size, scale)):
        assert len(made.boxes)
        for track, outline in zip(made.boxes[:, 0], made.outlines, strict=True):
            mine = made.targets["tracks"].values[..., 0] == track
            drawn = fill_polygons(list(outline), (size, size))
            assert (mine & drawn).sum() / (mine | drawn).sum() > 0.9


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
