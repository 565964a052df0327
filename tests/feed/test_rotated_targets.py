"""Oriented boxes follow their picture exactly through augmentation, compared with rectangles that are drawn on it."""

from math import cos, pi, sin

import cv2
import numpy as np
import pytest
import torch

from netbuild import settings
from netbuild.data.dataset import Sample
from netbuild.feed import scenes
from netbuild.feed.geometry import clip_polygon, random_warp
from netbuild.feed.rectangles import find_corners, fit_rectangles
from netbuild.feed.samples import SceneSamples, collate_scenes
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import BoxTarget, RotatedBoxTarget

SIDE = 160
KINDS = {"boxes": BoxTarget, "polygons": RotatedBoxTarget}
BOXES = np.array([[60, 50, 60, 24, 0.4], [110, 110, 40, 30, 2.1], [40, 120, 50, 14, -0.6]])


def corners_of(boxes):
    return find_corners(torch.from_numpy(np.asarray(boxes, float))).numpy()


def paint(polygons, side=SIDE):
    """A map of the pixels whose centres are in convex polygons: 1 in the first, 2 in the second, and so on."""
    found = np.zeros((side, side), np.uint8)
    y, x = np.mgrid[:side, :side] + 0.5
    for number, polygon in enumerate(polygons, 1):
        edges = np.roll(polygon, -1, 0) - polygon
        sides = np.array([dx * (y - y0) - dy * (x - x0) for (x0, y0), (dx, dy) in zip(polygon, edges, strict=True)])
        found[(sides >= 0).all(0) | (sides <= 0).all(0)] = number
    return found


def scene(boxes=BOXES, side=SIDE):
    """A picture of rotated rectangles, one red, one green, one blue, with their targets."""
    corners = corners_of(boxes)
    image = (255 * (paint(corners, side)[..., None] == (1, 2, 3))).astype(np.uint8)
    rows = np.column_stack((np.arange(len(boxes)), corners.min(1), corners.max(1)))
    outlines = tuple((own,) for own in corners)
    return Scene(image, {"boxes": BoxTarget(rows), "polygons": RotatedBoxTarget(outlines, outlines)})


def replace_polygons(made):
    """The scene for detection, which learns from upright boxes."""
    return Scene.of_boxes(made.image, made.boxes, made.outlines)


def found_boxes(made):
    """The oriented boxes (N, 5) in pixels that a loss makes of a scene."""
    h, w = made.size
    corners = made.targets["polygons"].tensors(made.size)["corners"].double()
    return fit_rectangles(corners * torch.tensor([w, h])).numpy()


def assert_on_picture(made):
    """Each oriented box covers the pixels of its object, and hardly others."""
    for number, box in zip(made.boxes[:, 0].astype(int), found_boxes(made), strict=True):
        drawn, mine = made.image[..., number] > 127, paint(corners_of([box])) > 0
        assert (drawn & mine).sum() / (drawn | mine).sum() > 0.93, number


@pytest.mark.parametrize("seed", range(4))
def test_rotated_boxes_are_exact_after_any_rotation(seed):
    chosen = settings.load(flags={"degrees": 180.0, "translate": 0.0, "scale": 0.2, "shear": 0.0})
    rng = np.random.default_rng(seed)
    matrix, scale = random_warp((SIDE, SIDE), (2 * SIDE, 2 * SIDE), 1.0, rng, chosen)
    made = scenes.move_objects(scene(), matrix, 2 * SIDE, scale)
    assert len(made.boxes) == 3  # all is on the larger canvas
    expected = BOXES.copy()
    expected[:, :2] = BOXES[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    expected[:, 2:4] *= scale
    expected[:, 4] += np.arctan2(matrix[1, 0], matrix[0, 0])
    found = found_boxes(made)
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-4)  # tensors are in single precision
    np.testing.assert_allclose(np.sin(found[:, 4] - expected[:, 4]), 0, atol=1e-5)
    np.testing.assert_allclose(made.boxes[:, 1:3], corners_of(found).min(1), atol=1e-4)  # upright ones fit tightly


@pytest.mark.parametrize("seed", range(4))
def test_sheared_boxes_get_the_smallest_rectangle(seed):
    rng = np.random.default_rng(seed)
    chosen = settings.load(flags={"degrees": 90.0, "translate": 0.0, "scale": 0.2, "shear": 25.0})
    matrix, scale = random_warp((SIDE, SIDE), (2 * SIDE, 2 * SIDE), 1.0, rng, chosen)
    made = scenes.move_objects(scene(), matrix, 2 * SIDE, scale)
    for own, box in zip(corners_of(BOXES), found_boxes(made), strict=True):
        moved = own @ matrix[:, :2].T + matrix[:, 2]
        _, sides, _ = cv2.minAreaRect(moved.astype(np.float32))
        assert box[2] * box[3] == pytest.approx(sides[0] * sides[1], rel=1e-3)
        local = (moved - box[:2]) @ [[cos(box[4]), -sin(box[4])], [sin(box[4]), cos(box[4])]]
        assert (np.abs(local) <= box[2:4] / 2 + 1e-3).all()


FLAGS = {"degrees": 180.0, "translate": 0.2, "scale": 0.3, "shear": 0.0, "flip_lr": 0.5, "flip_ud": 0.5}


@pytest.mark.parametrize("seed", range(8))
def test_rotated_boxes_stay_on_what_is_drawn(seed):
    """Warped, mirrored both ways, in a mosaic; of objects cut by the edge the visible part is boxed."""
    rng, chosen = np.random.default_rng(seed), settings.load(flags=FLAGS)
    made = scenes.warp(scene(), SIDE, rng, chosen)
    is_cut = (made.boxes[:, 1:3] <= 0).any(1) | (made.boxes[:, 3:] >= SIDE).any(1)
    made = made.select(~is_cut)
    for change in (scenes.flip_left_right, scenes.flip_up_down, lambda s: scenes.flip_randomly(s, rng, chosen)):
        made = change(made)
        assert_on_picture(made)
    mosaic = scenes.make_mosaic([scene() for _ in range(4)], SIDE, rng)
    shapes = mosaic.targets["polygons"].visible
    covered = np.zeros(mosaic.size, bool)
    for (polygon,) in shapes:
        covered |= paint([polygon], 2 * SIDE) > 0
    assert (covered == (mosaic.image == 255).any(-1)).all()


def test_a_cut_box_is_what_is_left_of_it_in_its_own_direction():
    cut = scenes.move_objects(scene(), np.array([[1.0, 0, -60], [0, 1, 0]]), SIDE, 1.0)
    whole = {0: BOXES[0], 1: BOXES[1]}  # the third has left the canvas
    assert cut.boxes[:, 0].tolist() == [0, 1]
    found = found_boxes(cut)
    np.testing.assert_allclose(found[1, :4], whole[1][:4] - (60, 0, 0, 0), atol=1e-4)  # not cut
    assert np.sin(found[0, 4] - whole[0][4]) == pytest.approx(0, abs=1e-5)
    assert found[0, 3] == pytest.approx(24, abs=1e-3)  # its width is cut, not its height
    assert found[0, 2] == pytest.approx(30 + 12 * np.tan(0.4), abs=1e-3)  # from the far side to the edge
    corners, polygon = corners_of(found[:1])[0], cut.targets["polygons"].visible[0][0]
    assert (polygon[:, 0] >= 0).all()
    local = (polygon - found[0, :2]) @ [[cos(found[0, 4]), -sin(found[0, 4])], [sin(found[0, 4]), cos(found[0, 4])]]
    np.testing.assert_allclose(np.abs(local).max(0), found[0, 2:4] / 2, atol=1e-3)  # no smaller one would do
    assert corners.shape == (4, 2)
    # A corner of its upright box is on the canvas, but nothing of a diagonal box itself: it is dropped.
    diagonal, matrix = scene(np.array([[50, 50, 80, 10, 3 * pi / 4]])), np.array([[1.0, 0, -60], [0, 1, -60]])
    for kind, left in ((scene, 0), (lambda boxes: replace_polygons(scene(boxes)), 1)):
        moved = scenes.move_objects(kind([[50, 50, 80, 10, 3 * pi / 4]]), matrix, SIDE, 1.0)
        assert len(moved.boxes) == len(moved.targets["polygons"].outlines) == left
    gone = diagonal.clip((0, 0, 10, 10)).targets["polygons"].tensors((SIDE, SIDE))["corners"]
    assert (gone == 0).all()  # a box that is left without an object: the loss leaves it out


def test_polygons_are_cut_at_the_sides_of_a_rectangle():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygon = rng.uniform(-60, 220, (int(rng.integers(3, 9)), 2))
        hull = polygon[cv2.convexHull(polygon.astype(np.float32), returnPoints=False)[:, 0]]
        found = clip_polygon(hull, (20, 30, 120, 140))
        drawn = paint([hull]) > 0
        drawn[:30], drawn[140:], drawn[:, :20], drawn[:, 120:] = False, False, False, False
        mine = paint([found]) > 0 if len(found) else np.zeros_like(drawn)
        assert (drawn == mine).all()
    assert clip_polygon(polygon, (900, 900, 950, 950)).shape == (0, 2)
    assert clip_polygon(np.zeros((0, 2)), (0, 0, 1, 1)).shape == (0, 2)


def test_samples_of_polygons_become_rotated_boxes():
    """An object of several polygons, or of many points, gets the smallest rectangle around them all."""
    size, angle = (90, 60), np.linspace(0, 2 * pi, 40, endpoint=False)
    ellipse = np.column_stack((30 * np.cos(angle), 12 * np.sin(angle))) @ [[cos(0.5), sin(0.5)], [-sin(0.5), cos(0.5)]]
    parts = corners_of([[30, 30, 20, 6, 0.5], [30 + 30 * cos(0.5), 30 + 30 * sin(0.5), 20, 6, 0.5]])
    quad = np.array([[10, 10], [40, 12], [38, 30], [12, 26]], float)
    outlines = ((ellipse + (45, 30),), tuple(parts), (quad,))
    outlines = tuple(tuple(polygon / size for polygon in outline) for outline in outlines)
    points = [np.concatenate(outline) for outline in outlines]
    boxes = np.array([[0, *((p.max(0) + p.min(0)) / 2), *(p.max(0) - p.min(0))] for p in points])
    pixels = np.zeros((60, 90, 3), np.uint8)
    samples = SceneSamples([Sample("x", size, boxes=boxes, outlines=outlines, pixels=pixels)], 180, kinds=KINDS)
    batch = collate_scenes([samples.get(0, np.random.default_rng(0), 0)] * 2)
    assert batch["corners"].shape == (6, 4, 2)
    found = fit_rectangles(batch["corners"][:3].double() * 180).numpy()
    np.testing.assert_allclose(found[0], [90, 90, 120, 48, 0.5], atol=0.1)
    np.testing.assert_allclose(found[1, 2:], [100, 12, 0.5], atol=1e-3)
    # Corners that a label gives stay as they are, for validation: twice as large, below 30 rows of grey.
    np.testing.assert_allclose(batch["corners"][2] * 180, quad * 2 + (0, 30), atol=1e-4)
    joined = samples.load(0).join(samples.load(0)).select(np.arange(6) != 0)
    assert len(joined.targets["polygons"].outlines) == len(joined.targets["polygons"].visible) == len(joined.boxes) == 5
