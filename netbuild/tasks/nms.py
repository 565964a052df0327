"""Detections from a head's boxes and scores: what is kept, and suppression of what overlaps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from netbuild.system.packages import package
from netbuild.tasks.box_math import to_corners

MOST = 30_000  # candidates of an image; suppression takes time and memory by their square


@dataclass(frozen=True)
class Filter:
    """Which detections are kept.

    Args:
        conf: a score must be above it.
        iou: of two boxes that overlap more, the one of lower score goes.
        max_det: detections of an image.
        agnostic: boxes of different classes suppress one another too.
        multi_label: a box may have several classes, not its best only.
        classes: numbers of the classes that are wanted; all unless given.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    agnostic: bool = False
    multi_label: bool = False
    classes: tuple[int, ...] | None = None


def suppress(y: Tensor, chosen: Filter, nc: int | None = None) -> list[Tensor]:
    """Non-maximum suppression of predictions (B, 4+nc+extra, A): centre, size, class probabilities, extra.

    Returns:
        For each image (n, 6+extra), best first: corners, score, class, extra.

    Raises:
        MissingExtraError: without torchvision, or if it was built for another torch.
    """
    nms = package("torchvision.ops", "train").nms
    nc = y.shape[1] - 4 if nc is None else nc
    found = []
    for image in y.detach():
        rows = candidates(image.float(), nc, chosen)
        kept = nms(apart(rows, chosen.agnostic), rows[:, 4], chosen.iou)
        found.append(rows[kept[: chosen.max_det]])
    return found


def candidates(image: Tensor, nc: int, chosen: Filter) -> Tensor:
    """Rows (n, 6+extra) of an image's (4+nc+extra, A) before suppression, best first."""
    boxes, scores, extra = image.T.split((4, nc, image.shape[0] - 4 - nc), 1)
    if chosen.multi_label:
        cells, classes = (scores > chosen.conf).nonzero(as_tuple=True)
    else:
        best, classes = scores.max(1)
        cells = (best > chosen.conf).nonzero()[:, 0]
        classes = classes[cells]
    found = scores[cells, classes]
    wanted = _wanted(classes, chosen)
    order = found[wanted].argsort(descending=True, stable=True)[:MOST]
    cells, classes, found = (x[wanted][order] for x in (cells, classes, found))
    return torch.cat((to_corners(boxes[cells]), found[:, None], classes[:, None].to(found), extra[cells]), 1)


def apart(rows: Tensor, agnostic: bool) -> Tensor:
    """Boxes of the rows, each class moved to where it meets no other."""
    boxes = rows[:, :4]
    if agnostic or not len(rows):
        return boxes
    span = boxes.max() - boxes.min() + 1
    return boxes + rows[:, 5:6] * span


def best_rows(rows: Tensor, chosen: Filter) -> list[Tensor]:
    """Rows (B, k, 6+extra), best first, of a head that needs no suppression: for each image those wanted."""
    found = []
    for image in rows.detach().float():
        image = image[image[:, 4] > chosen.conf]
        found.append(image[_wanted(image[:, 5], chosen)][: chosen.max_det])
    return found


def _wanted(classes: Tensor, chosen: Filter) -> Tensor:
    if chosen.classes is None:
        return torch.ones_like(classes, dtype=torch.bool)
    return torch.isin(classes.long(), torch.tensor(chosen.classes, device=classes.device))
