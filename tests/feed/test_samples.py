"""Samples for detection and classification: boxes on their objects, letterboxes, batches."""

import numpy as np
import pytest
import torch

from netbuild import settings
from netbuild.data.dataset import Sample
from netbuild.feed.labels import LabelledSamples
from netbuild.feed.samples import RectangularSamples, SceneSamples, collate_scenes
from netbuild.feed.scenes import Scene, flip_randomly, warp
from netbuild.tasks.box_math import to_corners

PLAIN = settings.load(
    flags={
        **dict.fromkeys(("mosaic", "degrees", "translate", "scale", "shear", "hsv_h", "hsv_s", "hsv_v", "flip_lr"), 0.0)
    }
)


def picture(h=60, w=90, boxes=((1, 0.3, 0.4, 0.2, 0.3), (2, 0.7, 0.6, 0.1, 0.2))):
    """A grey picture whose boxes are painted, each in a colour of its own."""
    image = np.full((h, w, 3), 30, np.uint8)
    for kind, cx, cy, bw, bh in boxes:
        x1, x2, y1, y2 = (cx - bw / 2) * w, (cx + bw / 2) * w, (cy - bh / 2) * h, (cy + bh / 2) * h
        image[round(y1) : round(y2), round(x1) : round(x2)] = 180 + 30 * kind
    return Sample("painted.png", (w, h), np.array(boxes, float).reshape(-1, 5), pixels=image)


def painted(image, kind):
    """The box that encloses what is painted in a kind's colour, (x1, y1, x2, y2); None if too little is."""
    rows, columns = np.nonzero(np.abs(image[..., 0].astype(int) - 180 - 30 * kind) < 14)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) > 20 else None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("change", ["mosaic", "affine", "turned", "flips", "all"])
def test_boxes_stay_on_their_objects(seed, change):
    flags = {
        "mosaic": {"mosaic": 1.0, "close_mosaic": 0},
        "affine": {"scale": 0.4, "translate": 0.2},
        "turned": {"degrees": 30.0, "shear": 10.0},
        "flips": {"flip_lr": 0.5, "flip_ud": 0.5},
        "all": {"mosaic": 1.0, "close_mosaic": 0, "scale": 0.3, "translate": 0.1, "flip_lr": 0.5},
    }[change]
    chosen = settings.load(flags={**PLAIN.to_dict(), **flags})
    samples = SceneSamples([picture(boxes=[(1, 0.5, 0.5, 0.4, 0.4)])], 96, 3, chosen)
    scene = samples.augment(0, np.random.default_rng(seed), 0)
    image, boxes = scene.image, scene.boxes
    assert image.shape == (96, 96, 3)
    assert ((boxes[:, 1:] >= 0) & (boxes[:, 1:] <= 96)).all()
    if "mosaic" in flags:  # several of them: every box is full of its colour
        for _, x1, y1, x2, y2 in boxes:
            inside = image[int(y1) + 2 : int(y2) - 2, int(x1) + 2 : int(x2) - 2, 0]
            assert not inside.size or np.median(inside) == pytest.approx(210, abs=14)
    else:
        where = painted(image, 1)
        for _, *box in boxes:
            assert box == pytest.approx(where, abs=2.5)


def test_validation_letterboxes_pictures():
    item = SceneSamples([picture()], 120).get(0, np.random.default_rng(0), 0)
    batch = collate_scenes([item])
    assert batch["images"].shape == (1, 3, 120, 120)
    box = to_corners(batch["boxes"])
    back = batch["letterbox"][0].undo(box * 120)
    wanted = [[18, 15, 36, 33], [58.5, 30, 67.5, 42]]
    torch.testing.assert_close(back, torch.tensor(wanted), atol=0.6, rtol=0.0)
    image = batch["images"][0].permute(1, 2, 0).numpy()
    assert painted(image, 2) == pytest.approx((box[1] * 120).tolist(), abs=2)


def test_rectangular_batches_are_as_narrow_as_their_pictures():
    shapes = [(60, 90), (90, 60), (50, 100), (80, 80), (100, 30)]
    samples = RectangularSamples([picture(h, w, [(1, 0.5, 0.5, 0.5, 0.5)]) for h, w in shapes], 96, 3, 2)
    items = [samples.get(i, np.random.default_rng(0), 0) for i in range(5)]
    assert [item.scene.size for item in items] == [
        (96, 128),
        (96, 128),
        (128, 128),
        (128, 128),
        (128, 64),
    ]
    for item, sample in zip(items, samples.samples, strict=True):
        h, w = item.scene.size
        box = to_corners(collate_scenes([item])["boxes"]) * torch.tensor([w, h, w, h])
        assert painted(item.scene.image, 1) == pytest.approx(box[0].tolist(), abs=2)
        width, height = sample.size
        back = item.letterbox.undo(box)[0].tolist()
        assert back == pytest.approx([width / 4, height / 4, 3 * width / 4, 3 * height / 4], abs=0.8)


def test_a_batch_has_the_picture_of_each_box():
    samples = SceneSamples([picture(), picture(boxes=()), picture(boxes=[(0, 0.5, 0.5, 1, 1)])], 64)
    batch = collate_scenes([samples.get(i, np.random.default_rng(0), 0) for i in range(3)])
    assert batch["index"].tolist() == [0, 0, 2]
    assert batch["classes"].tolist() == [1, 2, 0]
    assert batch["images"].dtype is torch.uint8


def test_boxes_outside_the_picture_are_dropped():
    chosen = settings.load(flags=PLAIN.to_dict())
    image, boxes = np.zeros((50, 50, 3), np.uint8), np.array([[0, -40.0, 10, 2, 20], [1, 10, 10, 40, 40]])
    left = warp(Scene.of_boxes(image, boxes, ((), ())), 50, np.random.default_rng(0), chosen)
    assert left.boxes[:, 0].tolist() == [1]
    mirrored = flip_randomly(left, np.random.default_rng(0), settings.load(flags={"flip_lr": 1.0}))
    assert mirrored.boxes.tolist() == [[1, 10, 10, 40, 40]]
    assert mirrored.image.shape == image.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("learning", [False, True])
def test_classification_pictures_have_the_networks_size(channels, learning):
    sample = Sample("x", (30, 20), label=3, pixels=np.full((20, 30, 3), 77, np.uint8))
    chosen = settings.load(flags={**PLAIN.to_dict(), "scale": 0.5}) if learning else None
    image, label = LabelledSamples([sample], (16, 12), channels, chosen).get(0, np.random.default_rng(0), 0)
    assert image.shape == (channels, 16, 12)
    assert label == 3
    assert (image == 77).all()
