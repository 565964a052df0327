"""Overlap of oriented boxes (..., 5): centre, width, height, and the width's angle in radians from x towards y."""

import torch
from torch import Tensor

EPS = 1e-7
FLOOR = 0.01  # square units added to the variances of boxes in a loss: a box without area has a gradient, too
FARTHEST = 100.0  # largest distance; farther boxes have no gradient


def probiou(a: Tensor, b: Tensor, floor: float = 0.0) -> Tensor:
    """Compute the probabilistic IoU of oriented boxes (..., 5), which broadcast: (...), from 0 to almost 1.

    Each box is a Gaussian with the mean and covariance of a uniform distribution over it. The value is 1 minus the
    Hellinger distance of the two. ProbIoU, arXiv 2106.06072.

    Args:
        a, b: oriented boxes in the same unit.
        floor: added to each box's variances along its sides.
    """
    (xa, ya), (xb, yb) = a[..., :2].unbind(-1), b[..., :2].unbind(-1)
    variances_a, variances_b = (boxes[..., 2:4].square() / 12 + floor for boxes in (a, b))
    xx, yy, xy = (p + q for p, q in zip(covariance(variances_a, a[..., 4]), covariance(variances_b, b[..., 4])))
    # The determinants are sums and products of positive numbers: xx * yy - xy**2 would lose the digits of thin boxes.
    det_a, det_b = variances_a.prod(-1), variances_b.prod(-1)
    cos2 = (a[..., 4] - b[..., 4]).cos().square()
    crossed, parallel = (variances_a * variances_b.flip(-1)).sum(-1), (variances_a * variances_b).sum(-1)
    det = det_a + det_b + crossed * cos2 + parallel * (1 - cos2)
    dx, dy = xa - xb, ya - yb
    distance = ((xx * dy.square() + yy * dx.square()) / 4 - xy * dx * dy / 2) / (det + EPS)
    # Without the clamp the root of a box without area would have an infinite gradient.
    spread = torch.log(det / (4 * (det_a * det_b).clamp(min=1e-20).sqrt() + EPS) + EPS) / 2
    total = (distance + spread).clamp(EPS, FARTHEST)
    return 1 - (-torch.expm1(-total) + EPS).sqrt()


def covariance(variances: Tensor, angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the covariances xx, yy and xy (...) of variances (..., 2) along axes that an angle (...) rotates."""
    a, b = variances.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return a * cos.square() + b * sin.square(), a * sin.square() + b * cos.square(), (a - b) * cos * sin


def rotate(vectors: Tensor, angle: Tensor) -> Tensor:
    """Rotate vectors (..., 2) by an angle (...) in radians, from the x axis towards the y axis."""
    x, y = vectors.unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((x * cos - y * sin, x * sin + y * cos), -1)
