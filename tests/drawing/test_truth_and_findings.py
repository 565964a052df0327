"""Sheets of truth and findings: both sides show boxes, masks, keypoints, oriented boxes and maps where they are."""

import numpy as np
import pytest
import torch

from netbuild.drawing.annotated import class_colour
from netbuild.drawing.sheets import GAP, TEXT
from netbuild.layers.heads.base import Head
from netbuild.tasks import find
from netbuild.training.plotting import save_comparison

SIDE, GREY = 256, 100  # of the picture, which a cell of the sheet shows in its own size
LEFT, RIGHT = (40, 60, 100, 200), (150, 60, 210, 200)  # the box of the truth, and the one that is found
COLOUR = class_colour(1)
TINTED = tuple((GREY + part) // 2 for part in COLOUR)


class PlainHead(Head):
    nc, box_form, stride = 3, "centres", (8, 16)

    def __init__(self, task, extra):
        super().__init__()
        self.task, self.values = task, extra

    @property
    def extra(self):
        return self.values


def make_task(name, extra=()):
    cls = find(name)
    if not cls.trainable:
        pytest.skip(f"{name} has no truth yet")
    task = object.__new__(cls)
    task.head, task.names = PlainHead(name, extra), ["a", "b", "c"]
    return task


def box_batch(**more):
    x1, y1, x2, y2 = LEFT
    boxes = torch.tensor([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]]) / SIDE
    picture = torch.full((1, 3, SIDE, SIDE), GREY, dtype=torch.uint8)
    return {"images": picture, "boxes": boxes, "classes": torch.tensor([1]), "index": torch.tensor([0]), **more}


def row(*more):
    return torch.tensor([[*map(float, RIGHT), 0.9, 1.0, *more]])


def inside(box):
    """A map (H, W), true inside a box."""
    x1, y1, x2, y2 = box
    found = np.zeros((SIDE, SIDE), bool)
    found[y1:y2, x1:x2] = True
    return found


def middle(box):
    return (box[0] + box[2]) // 2, (box[1] + box[3]) // 2


def detect():
    return make_task("detect"), box_batch(), row(), [(x1, (y1 + y2) // 2) for x1, y1, _, y2 in (LEFT, RIGHT)], COLOUR


def segment():
    x1, y1, x2, y2 = LEFT
    outline = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], float)
    batch = box_batch(instances=torch.from_numpy(inside(LEFT)[None, ::4, ::4].astype(np.int32)), outlines=[(outline,)])
    prototypes = torch.from_numpy(inside(RIGHT)[None, 2::4, 2::4] * 2.0 - 1).float()
    return make_task("segment", (1,)), batch, (row(1.0), prototypes), [middle(LEFT), middle(RIGHT)], TINTED


def training_segment():
    task, batch, prediction, places, colour = segment()
    return task, {name: value for name, value in batch.items() if name != "outlines"}, prediction, places, colour


def pose():
    (x, y), found = middle(LEFT), middle(RIGHT)
    points = torch.tensor([[[x, y, 2.0], [5, 5, 0]]]) / torch.tensor([SIDE, SIDE, 1])
    rows = row(*found, 0.9, found[0], found[1] + 40, 0.8)
    return make_task("pose", (2, 3)), box_batch(keypoints=points), rows, [(x, y), found], COLOUR


def obb():
    (x, y), (u, v) = middle(LEFT), middle(RIGHT)
    corners = torch.tensor([[[x - 40, y], [x, y - 40], [x + 40, y], [x, y + 40]]]) / SIDE
    half = 20 * 2**0.5
    rows = torch.tensor([[u - half, v - half, u + half, v + half, 0.9, 1, np.pi / 4]])
    places = [(x - 20, y - 20), (u - 20, v - 20)]  # the middles of an edge of either
    return make_task("obb", (1,)), box_batch(corners=corners), rows, places, COLOUR


def semantic():
    true = np.where(inside(LEFT), 1, 255)
    logits = np.stack((np.full((64, 64), -1.0), inside(RIGHT)[2::4, 2::4] * 3.0 - 2, np.full((64, 64), -9.0)))
    batch = {"images": box_batch()["images"], "mask": torch.from_numpy(true[None, None].astype(np.int32))}
    return make_task("semantic"), batch, torch.from_numpy(logits), [middle(LEFT), middle(RIGHT)], TINTED


def depth():
    """Near, and so bright, in the box; far elsewhere."""
    true, found = (torch.from_numpy(np.where(inside(box), 1.0, 9.0)).float() for box in (LEFT, RIGHT))
    batch = {"images": box_batch()["images"], "depth": true[None, None]}
    return make_task("depth"), batch, found[None, 2::4, 2::4], [middle(LEFT), middle(RIGHT)], (255, 255, 255)


@pytest.mark.parametrize("make", [detect, segment, training_segment, pose, obb, semantic, depth])
def test_both_sides_of_a_sheet_show_what_is_true_and_what_is_found(make, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    task, batch, prediction, (true, found), colour = make()
    save_comparison(task, batch, [prediction], tmp_path / "sheet.png")
    sheet = np.asarray(pil.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    top = TEXT + 2 * GAP
    cells = [sheet[top : top + SIDE, x : x + SIDE] for x in (GAP, 2 * GAP + SIDE)]
    for cell, shown, empty in ((cells[0], true, found), (cells[1], found, true)):
        assert np.abs(cell[shown[1], shown[0]] - colour).max() <= 1
        assert np.abs(cell[empty[1], empty[0]] - colour).max() > 20
