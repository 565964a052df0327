"""The map of objects, made from their polygons after augmentation."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from netbuild import settings
from netbuild.data.dataset import Sample
from netbuild.feed import scenes
from netbuild.feed.samples import SceneSamples, collate_scenes
from netbuild.feed.scenes import Scene
from netbuild.feed.targets import BoxTarget, MaskKind, MaskTarget
from netbuild.feed.targets.masks import clip_polygon, draw_instances


def winding(polygon, x, y):
    """How often a polygon winds around a point."""
    total = 0
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
            total += 1 if y1 > y0 else -1
    return total


def fill(outline, size):
    """The mask of an object's polygons, one cell after another."""
    centres = [[(x + 0.5, y + 0.5) for x in range(size[1])] for y in range(size[0])]
    return np.array([[sum(winding(p, *xy) for p in outline) != 0 for xy in row] for row in centres])


@pytest.mark.parametrize("seed", range(8))
def test_the_map_of_objects_equals_plain_loops(seed):
    rng, size = np.random.default_rng(seed), (12, 15)
    sides = [[int(rng.integers(3, 9)) for _ in range(rng.integers(0, 3))] for _ in range(5)]
    outlines = [[rng.uniform(-4, 18, (count, 2)) for count in counts] for counts in sides]
    outlines += [[np.array([(3.6, 4.6), (3.9, 4.6), (3.9, 4.9)])], []]  # no centre in it; no polygon
    expected, masks = np.zeros(size, int), [fill(outline, size) for outline in outlines]
    for i in sorted(range(5), key=lambda i: -masks[i].sum()):
        expected[masks[i]] = i + 1
    expected[4, 3] = 6
    found = draw_instances([[4 * polygon for polygon in outline] for outline in outlines], size, 4)
    assert found.dtype == np.int32
    assert (found == expected).all()


def test_what_is_pasted_hides_what_is_below():
    small, large = (np.array([(0.0, 0), (n, 0), (n, n), (0, n)]) for n in (4, 8))
    below, above, blank = MaskTarget(((small,),), 1), MaskTarget(((large,),), 1), np.zeros((8, 8), bool)
    pasted = below.paste(above, blank)
    assert (pasted.tensors((8, 8))["instances"] == 2).all()
    assert (below.join([above]).tensors((8, 8))["instances"] == 1).sum() == 16
    again = above.paste(pasted, blank).join([below]).select(np.array([True, True, False, True]))
    assert again.layers == (0, 1, 0)


def test_a_hole_is_a_polygon_of_the_other_direction():
    outer = np.array([(0.0, 0), (6, 0), (6, 6), (0, 6)])
    hole = outer[::-1] / 3 + 2
    assert draw_instances([[outer, hole]], (8, 8)).sum() == 36 - 4
    assert draw_instances([[outer, outer + 1]], (8, 8)).sum() == 36 + 11  # parts may overlap


@pytest.mark.parametrize("seed", range(8))
def test_polygons_are_cut_along_a_rectangle(seed):
    polygon = np.random.default_rng(seed).uniform(-4, 18, (7, 2))
    inside = np.zeros((12, 15), bool)
    inside[3:8, 2:9] = True
    found = clip_polygon(polygon, (2, 3, 9, 8))
    assert (fill([found] if len(found) else [], (12, 15)) == (fill([polygon], (12, 15)) & inside)).all()
    assert clip_polygon(polygon, (-4, -4, 18, 18)) is polygon


SIDE = 96


def scene():
    """A bright disc and a dark one on grey; the third object is a box only."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.column_stack((np.cos(angles), np.sin(angles)))
    outlines = ((circle * 20 + (30, 40),), (circle * 12 + (70, 60),), ())
    image = np.full((SIDE, SIDE, 3), 114, np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    image[(x - 30) ** 2 + (y - 40) ** 2 < 400], image[(x - 70) ** 2 + (y - 60) ** 2 < 144] = 250, 0
    boxes = np.array([[0, 10, 20, 50, 60], [1, 58, 48, 82, 72], [2, 1, 1, 20, 15]], float)
    return Scene(image, {"boxes": BoxTarget(boxes), "polygons": MaskTarget(outlines, stride=2)})


FLAGS = {"degrees": 20.0, "translate": 0.1, "scale": 0.3, "shear": 5.0}


def warp(found, rng):
    return scenes.warp(found, SIDE, rng, settings.load(flags=FLAGS))


def cut(found, rng):
    blank = {name: target.select(np.zeros(3, bool)) for name, target in found.targets.items()}
    return scenes.cut_mix(Scene(np.full_like(found.image, 114), blank), found, rng)


def paste(found, rng):
    """The mirrored objects are pasted; a disc of the first picture that one of them hides in part stays below."""
    return scenes.copy_paste(replace(found, image=found.image.copy()), 1.0)


CHANGES = {
    "paste": paste,
    "left right": lambda found, rng: scenes.flip_left_right(found),
    "up down": lambda found, rng: scenes.flip_up_down(found),
    "warp": warp,
    "mosaic": lambda found, rng: warp(scenes.make_mosaic([found] * 4, SIDE, rng), rng),
    "cut": cut,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", CHANGES)
def test_masks_move_with_their_picture(change, seed):
    found = CHANGES[change](scene(), np.random.default_rng(seed))
    tensors = found.targets["polygons"].tensors(found.size)
    assert tensors["instances"].shape == (found.size[0] // 2, found.size[1] // 2)
    classes = torch.tensor([-1, *found.boxes[:, 0].astype(int)])[tensors["instances"].long()].numpy()
    cells = found.image.reshape(found.size[0] // 2, 2, found.size[1] // 2, 2, 3).mean((1, 3, 4))
    assert ((classes == 0) ^ (cells > 182)).mean() < 0.02
    assert ((classes == 1) ^ (cells < 57)).mean() < 0.02
    assert tensors["has_outline"].tolist() == [bool(outline) for outline in found.outlines]
    assert tensors["has_outline"].tolist() == (found.boxes[:, 0] < 2).tolist()


def test_a_batch_has_a_map_for_each_picture_and_perhaps_the_outlines(tmp_path):
    square = np.array([(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)])
    boxes = np.array([[0, 0.5, 0.5, 0.5, 0.5], [1, 0.2, 0.2, 0.1, 0.1]])
    image = np.zeros((40, 80, 3), np.uint8)
    labelled = Sample(tmp_path / "a", (80, 40), boxes, outlines=((square,), ()), pixels=image)
    empty = Sample(tmp_path / "b", (80, 40), np.zeros((0, 5)), pixels=image)
    for gives_outlines in (False, True):
        kinds = {"boxes": BoxTarget, "polygons": pickle.loads(pickle.dumps(MaskKind(4, gives_outlines)))}
        samples = SceneSamples([empty, labelled], 160, kinds=kinds)
        batch = collate_scenes([samples.letterbox(0), samples.letterbox(1)])
        assert (batch["instances"].shape, batch["instances"].dtype) == ((2, 40, 40), torch.int32)
        assert not batch["instances"][0].any()
        low, high = (batch["instances"][1] == 1).nonzero().aminmax(dim=0)
        assert (low.tolist(), high.tolist()) == ([15, 10], [24, 29])
        assert batch["has_outline"].tolist() == [True, False]
        assert ("outlines" in batch) == gives_outlines
    (polygon,), none = batch["outlines"]  # in pixels of the input, in the order of the boxes
    assert polygon.tolist() == [[40, 60], [120, 60], [120, 100], [40, 100]]
    assert none == ()
