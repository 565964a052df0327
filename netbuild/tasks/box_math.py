"""Boxes: conversion between corners and centres, IoU, generalised IoU and complete IoU."""

from math import pi

import torch
from torch import Tensor

EPS = 1e-7


def to_corners(boxes: Tensor) -> Tensor:
    """Convert centre and size (..., 4) to left, top, right, bottom, in the same unit."""
    centre, size = boxes.chunk(2, -1)
    return torch.cat((centre - size / 2, centre + size / 2), -1)


def to_centres(boxes: Tensor) -> Tensor:
    """Convert left, top, right, bottom (..., 4) to centre and size, in the same unit."""
    low, high = boxes.chunk(2, -1)
    return torch.cat(((low + high) / 2, high - low), -1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the intersection over union of corner boxes (..., 4), which broadcast: (...)."""
    inter, union = _areas(a, b)
    return inter / union


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the generalised IoU of corner boxes (..., 4): IoU minus the empty share of the enclosing box, -1 to 1.

    arXiv 1902.09630.
    """
    inter, union = _areas(a, b)
    enclosing = _enclosing_size(a, b).prod(-1) + EPS
    return inter / union - (enclosing - union) / enclosing


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the complete IoU of corner boxes (..., 4): IoU minus terms of centre distance and aspect ratio.

    As in the paper, arXiv 1911.08287, the weight of the aspect ratio's term carries no gradient.
    """
    inter, union = _areas(a, b)
    overlap = inter / union
    diagonal = _enclosing_size(a, b).square().sum(-1) + EPS
    distance = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4
    v = 4 / pi**2 * (_angle(b) - _angle(a)).square()
    with torch.no_grad():
        weight = v / (1 - overlap + v + EPS)
    return overlap - (distance / diagonal + weight * v)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Compute the IoU of each of the corner boxes (N, 4) with each of (M, 4): (N, M)."""
    return iou(a[:, None], b[None])


def _size(boxes: Tensor) -> Tensor:
    # EPS keeps the aspect ratio of an empty box, and what is divided by its sides, finite.
    return boxes[..., 2:] - boxes[..., :2] + EPS


def _angle(boxes: Tensor) -> Tensor:
    w, h = _size(boxes).unbind(-1)
    return torch.atan(w / h)


def _areas(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas of intersection and union."""
    both = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    inter = both.clamp(min=0).prod(-1)
    return inter, _size(a).prod(-1) + _size(b).prod(-1) - inter + EPS


def _enclosing_size(a: Tensor, b: Tensor) -> Tensor:
    """Return width and height of the smallest box around both."""
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
