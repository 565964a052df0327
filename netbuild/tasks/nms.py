"""Selection of detections from a head's boxes and scores: thresholds and non-maximum suppression.

`netbuild.runtime` does the same in numpy for files that run without torch; a test holds both equal.
"""

import torch
from torch import Tensor

from netbuild.runtime import MAX_CANDIDATES
from netbuild.runtime import Filter as Filter
from netbuild.system.packages import package
from netbuild.tasks.box_math import to_corners


def join_objectness(y: Tensor) -> Tensor:
    """Multiply class probabilities by objectness: rows (B, N, 5+nc) to columns (B, 4+nc, N) as `suppress` takes them.

    A row is centre, size, objectness, class probabilities.
    """
    return torch.cat((y[..., :4], y[..., 4:5] * y[..., 5:]), -1).transpose(1, 2)


def suppress(y: Tensor, options: Filter, nc: int | None = None) -> list[Tensor]:
    """Apply non-maximum suppression to predictions (B, 4+nc+extra, A): centre, size, class probabilities, extra values.

    Returns:
        For each image (n, 6+extra), best first: corners, score, class, extra values.

    Raises:
        MissingExtraError: without torchvision, or if it was built for another torch.
    """
    nms = package("torchvision.ops", "train").nms
    nc = y.shape[1] - 4 if nc is None else nc
    found = []
    for image in y.detach():
        rows = find_candidates(image.float(), nc, options)
        kept = nms(offset_by_class(rows, options.agnostic), rows[:, 4], options.iou)
        found.append(rows[kept[: options.max_det]])
    return found


def find_candidates(image: Tensor, nc: int, options: Filter) -> Tensor:
    """List the detections above the threshold before suppression: (4+nc+extra, A) -> (n, 6+extra), best first."""
    boxes, scores, extra = image.T.split((4, nc, image.shape[0] - 4 - nc), 1)
    if options.multi_label:
        cells, classes = (scores > options.conf).nonzero(as_tuple=True)
    else:
        best, classes = scores.max(1)
        cells = (best > options.conf).nonzero()[:, 0]
        classes = classes[cells]
    found = scores[cells, classes]
    wanted = _has_wanted_class(classes, options)
    order = found[wanted].argsort(descending=True, stable=True)[:MAX_CANDIDATES]
    cells, classes, found = (x[wanted][order] for x in (cells, classes, found))
    return torch.cat((to_corners(boxes[cells]), found[:, None], classes[:, None].to(found), extra[cells]), 1)


def offset_by_class(rows: Tensor, agnostic: bool) -> Tensor:
    """Shift the boxes of each class so far that they overlap no box of another class; unchanged if ``agnostic``."""
    boxes = rows[:, :4]
    if agnostic or not len(rows):
        return boxes
    span = boxes.max() - boxes.min() + 1
    return boxes + rows[:, 5:6] * span


def filter_rows(rows: Tensor, options: Filter) -> list[Tensor]:
    """Apply score threshold, classes and limit to detections (B, k, 6+extra), best first, that need no suppression."""
    found = []
    for image in rows.detach().float():
        image = image[image[:, 4] > options.conf]
        found.append(image[_has_wanted_class(image[:, 5], options)][: options.max_det])
    return found


def _has_wanted_class(classes: Tensor, options: Filter) -> Tensor:
    if options.classes is None:
        return torch.ones_like(classes, dtype=torch.bool)
    return torch.isin(classes.long(), torch.tensor(options.classes, device=classes.device))
