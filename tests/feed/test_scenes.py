"""Random augmentation: boxes and polygons stay on their objects, class shares equal pixel shares."""

import cv2
import numpy as np
import pytest
import torch

from netbuild import settings
from netbuild.data.dataset import Sample
from netbuild.data.fitting import GREY
from netbuild.feed import pictures, scenes
from netbuild.feed.labels import LabelledSamples, collate_labels
from netbuild.feed.scenes import Scene

STILL = dict.fromkeys(
    ("mosaic", "degrees", "translate", "scale", "shear", "hsv_h", "hsv_s", "hsv_v", "flip_lr", "erasing"), 0.0
) | {"policy": "off", "crop": False}


def chosen(**flags):
    return settings.load(flags={**STILL, **flags})


def diamond(cx, cy, r):
    return np.array([[cx - r, cy], [cx, cy - r], [cx + r, cy], [cx, cy + r]], float)


def scene(*objects, side=120):
    """Diamonds (centre x, centre y, radius) in colours of their own, with their outlines."""
    image = np.full((side, side, 3), 30, np.uint8)
    polygons = [diamond(*thing) for thing in objects]
    for i, polygon in enumerate(polygons):
        cv2.fillPoly(image, [np.rint(polygon).astype(np.int32)], (150 + 40 * i,) * 3)
    boxes = np.array([[i, *p.min(0), *p.max(0)] for i, p in enumerate(polygons)], float).reshape(-1, 5)
    return Scene.of_boxes(image, boxes, tuple((p,) for p in polygons))


def painted(image, kind):
    rows, columns = np.nonzero(np.abs(image[..., 0].astype(int) - 150 - 40 * kind) < 16)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("seed", range(8))
def test_polygons_give_tighter_boxes_than_corners(seed):
    s = chosen(degrees=45.0, scale=0.2)
    start = scene((60, 60, 30))
    found = scenes.warp(start, 120, np.random.default_rng(seed), s)
    plain = scenes.warp(Scene.of_boxes(start.image, start.boxes, ((),)), 120, np.random.default_rng(seed), s)
    assert found.boxes[0, 1:] == pytest.approx(painted(found.image, 0), abs=2.5)
    assert np.array_equal(found.image, plain.image)
    assert (plain.boxes[0, 1:3] <= found.boxes[0, 1:3] + 1e-9).all()
    assert (plain.boxes[0, 3:] >= found.boxes[0, 3:] - 1e-9).all()
    assert np.concatenate([found.outlines[0][0].min(0), found.outlines[0][0].max(0)]) == pytest.approx(
        found.boxes[0, 1:]
    )


@pytest.mark.parametrize("flip", [scenes.flip_left_right, scenes.flip_up_down])
def test_mirrored_twice_is_the_same(flip):
    start = scene((40, 50, 20), (90, 80, 10))
    once, twice = flip(start), flip(flip(start))
    assert np.array_equal(twice.image, start.image)
    np.testing.assert_allclose(twice.boxes, start.boxes)
    np.testing.assert_allclose(twice.outlines[1][0], start.outlines[1][0])
    for box in once.boxes:
        assert box[1:] == pytest.approx(painted(once.image, int(box[0])), abs=1.5)


def test_an_identity_warp_changes_nothing():
    """Coordinates are those of pixels' corners; a shift by half a pixel would go unnoticed otherwise."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    same = pictures.warp_mildly(image, (32, 32), np.random.default_rng(0), chosen())
    want = cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR)
    assert np.abs(same[..., 0].astype(int) - want).max() <= 2
    start = scene((60, 60, 30))
    still = scenes.warp(start, 120, np.random.default_rng(0), chosen())
    assert np.array_equal(still.image, start.image)
    assert np.array_equal(still.boxes, start.boxes)


def test_copy_paste_covers_no_object():
    start = scene((25, 30, 15), (60, 90, 20))  # the second one's mirrored self lies upon it
    found = scenes.copy_paste(start, 1.0)
    assert found.boxes[:, 0].tolist() == [0, 1, 0]
    copy = found.boxes[2, 1:]
    assert copy == pytest.approx([120 - 40, 15, 120 - 10, 45])
    inside = found.image[int(copy[1]) + 8 : int(copy[3]) - 8, int(copy[0]) + 8 : int(copy[2]) - 8]
    assert (inside == 150).all()
    assert (found.image[16:20, 81:85] == start.image[16:20, 81:85]).all()  # outside of the outline nothing changes
    assert len(scenes.copy_paste(start, 0.4).boxes) == 3
    assert len(scenes.copy_paste(Scene.of_boxes(start.image, start.boxes, ((), ())), 1.0).boxes) == 2


@pytest.mark.parametrize("seed", range(30))
def test_cut_mix_brings_objects_and_covers_none(seed):
    start, other = scene((25, 30, 15)), scene((60, 60, 50))
    other.boxes[:, 0] = 1
    found = scenes.cut_mix(start, other, np.random.default_rng(seed))
    assert found.boxes[0].tolist() == start.boxes[0].tolist()
    assert (found.image[20:40, 20:30] == start.image[20:40, 20:30]).all()
    for box in found.boxes[1:]:
        x1, y1, x2, y2 = box[1:].astype(int)
        assert np.array_equal(found.image[y1:y2, x1:x2], other.image[y1:y2, x1:x2])


def test_mosaic_keeps_polygons():
    found = scenes.make_mosaic([scene((60, 60, 30)) for _ in range(4)], 120, np.random.default_rng(3))
    assert found.image.shape == (240, 240, 3)
    assert len(found.outlines) == len(found.boxes)
    for (_, *box), outline in zip(found.boxes, found.outlines, strict=True):
        hull = np.concatenate([outline[0].min(0), outline[0].max(0)]).clip(0, 240)
        assert hull == pytest.approx(box)


def test_mix_up_keeps_the_objects_of_both():
    found = scenes.mix_up(scene((25, 30, 15)), scene((90, 90, 15)), np.random.default_rng(0))
    assert len(found.boxes) == len(found.outlines) == 2
    assert 80 < found.image[30, 25, 0] < 100  # about half of 150 and half of 30


@pytest.mark.parametrize("cut", [True, False])
def test_class_shares_equal_pixel_shares(cut):
    black, white = np.zeros((40, 50, 3), np.uint8), np.full((40, 50, 3), 255, np.uint8)
    shares = []
    for seed in range(20):
        image, share = pictures.blend(black, white, np.random.default_rng(seed), cut)
        assert 1 - image.mean() / 255 == pytest.approx(share, abs=0.01)
        shares.append(share)
    assert len(set(shares)) > 15
    assert not black.any()


@pytest.mark.parametrize("name", pictures.POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_depend_on_the_generator_alone(name, channels):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, channels), np.uint8)
    policy, state = pictures.load_policy(name), torch.random.get_rng_state()
    found = [policy(image, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert np.array_equal(found[0], found[1])
    assert any(not np.array_equal(found[0], other) for other in found[2:])
    assert {f.shape for f in found} == {image.shape}
    assert torch.equal(torch.random.get_rng_state(), state)


def test_erasing_fills_a_rectangle():
    image = np.zeros((60, 60, 3), np.uint8)
    assert pictures.erase_rectangle(image, np.random.default_rng(0), 0.0) is image
    parts = [(pictures.erase_rectangle(image, np.random.default_rng(s), 1.0) > 0).any(-1).mean() for s in range(40)]
    assert min(parts) > 0.01
    assert max(parts) < 0.34
    assert not image.any()


def test_mixed_batches_have_class_shares():
    pictures = [Sample("x", (9, 9), label=i, pixels=np.full((9, 9, 3), 100 * i, np.uint8)) for i in range(3)]
    samples = LabelledSamples(pictures, (8, 8), 3, chosen(mixup=1.0, cutmix=0.5), 3)
    batch = collate_labels([samples.get(i, np.random.default_rng(i), 0) for i in range(3)])
    assert batch["classes"].shape == (3, 3)
    torch.testing.assert_close(batch["classes"].sum(1), torch.ones(3))
    assert (batch["classes"].max(1).values < 1).any()
    alone = LabelledSamples(pictures, (8, 8), 3, chosen())
    assert collate_labels([alone.get(2, np.random.default_rng(0), 0)])["classes"].tolist() == [2]


def test_padding_is_grey():
    found = scenes.warp(scene(side=40), 120, np.random.default_rng(0), chosen())
    assert (found.image[0, 0] == GREY).all()
    assert (found.image[60, 60] == 30).all()
