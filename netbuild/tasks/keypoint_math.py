"""Keypoints: their sigmas, and the object keypoint similarity (OKS) by which COCO compares poses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from netbuild.errors import NetbuildError

# COCO's standard deviations of 17 keypoints of persons, as fractions of the square root of an object's area.
COCO_SIGMAS = tuple(
    value / 10
    for value in (0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89)
)
AREA_SHARE = 0.53  # of a box that its object fills, where only the box is known; a mean over COCO's persons
EPS = 1e-9


def choose_sigmas(count: int, given: Sequence[float] | None = None) -> tuple[float, ...]:
    """Return the sigmas of ``count`` keypoints: the given ones, else COCO's for 17, else 1 / count for each.

    Raises:
        NetbuildError: if the given ones are of another number.
    """
    if given:
        if len(given) != count:
            hint = "write kpt_oks_sigmas with one number for each keypoint, or leave it out"
            raise NetbuildError(f"{len(given)} sigmas are given for {count} keypoints", hint=hint)
        return tuple(map(float, given))
    return COCO_SIGMAS if count == len(COCO_SIGMAS) else (1 / count,) * count


def oks_exponent(squared: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """Compute e, of which exp(-e) is the similarity of a point with the true one.

    Args:
        squared: (..., K) squared distances.
        area: (...) area of the object, in the same unit squared.
        sigmas: (K,) as `choose_sigmas` returns them.
    """
    return squared / ((2 * sigmas).square() * 2 * (area[..., None] + EPS))


def oks(points: Tensor, true: Tensor, area: Tensor, sigmas: Tensor) -> Tensor:
    """Compute the object keypoint similarity: the mean of exp(-e) over the visible points, 0 without any.

    Args:
        points: (..., K, 2) predicted x and y.
        true: (..., K, 3) true x, y, and visibility above 0 where the point is known.
        area: (...) area of the object.
        sigmas: (K,).
    """
    visible = (true[..., 2] > 0).to(points)
    squared = (points - true[..., :2]).square().sum(-1)
    similarity = torch.exp(-oks_exponent(squared, area, sigmas)) * visible
    return similarity.sum(-1) / visible.sum(-1).clamp(min=1)
