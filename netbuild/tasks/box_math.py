"""Boxes: two ways to write them, how much two of them overlap, and the way back from a letterboxed image."""

from math import pi

import torch
from torch import Tensor

EPS = 1e-7


def to_corners(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) to left, top, right, bottom, in the same unit."""
    centre, size = boxes.chunk(2, -1)
    return torch.cat((centre - size / 2, centre + size / 2), -1)


def to_centres(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom (..., 4) to centre and size, in the same unit."""
    low, high = boxes.chunk(2, -1)
    return torch.cat(((low + high) / 2, high - low), -1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of corner boxes (..., 4), which broadcast: (...)."""
    inter, union = _areas(a, b)
    return inter / union


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of corner boxes (..., 4), -1 to 1: less the empty part of the enclosing box. arXiv 1902.09630."""
    inter, union = _areas(a, b)
    hull = _hull(a, b).prod(-1) + EPS
    return inter / union - (hull - union) / hull


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of corner boxes (..., 4): less centre distance and difference of shape. arXiv 1911.08287.

    As in the paper the weight of the shape term carries no gradient.
    """
    inter, union = _areas(a, b)
    overlap = inter / union
    diagonal = _hull(a, b).square().sum(-1) + EPS
    distance = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4
    v = 4 / pi**2 * (_angle(b) - _angle(a)).square()
    with torch.no_grad():
        weight = v / (1 - overlap + v + EPS)
    return overlap - (distance / diagonal + weight * v)


def pairwise(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each of the boxes (N, 4) with each of (M, 4): (N, M)."""
    return iou(a[:, None], b[None])


def _size(boxes: Tensor) -> Tensor:
    # The addend keeps the angle and the quotient of an empty box finite.
    return boxes[..., 2:] - boxes[..., :2] + EPS


def _angle(boxes: Tensor) -> Tensor:
    w, h = _size(boxes).unbind(-1)
    return torch.atan(w / h)


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union."""
    both = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    inter = both.clamp(min=0).prod(-1)
    return inter, _size(a).prod(-1) + _size(b).prod(-1) - inter + EPS


def _hull(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of the box that encloses both."""
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
