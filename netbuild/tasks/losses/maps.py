"""Bringing a network's maps and the maps that they learn from to one size."""

import torch
import torch.nn.functional as F
from torch import Tensor


def match_sizes(
    values: Tensor, truth: Tensor, size: tuple[int, int], align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Resize predicted maps bilinearly to the size of the true ones; return both.

    Convolutions without padding cut off a border, so that a map covers the middle of the image alone. If pictures are
    not fitted into this middle, as with several heads, the truth is cropped to it, as `netbuild.runtime.sample_maps`
    reads such a map in prediction; the border must be less than a third of the image.

    Args:
        values: (B, C, h, w) predicted; half precision becomes float32.
        truth: (B, 1, H, W), of the image's size or any other.
        size: height and width of the network's image.
        align_corners: whether the corner pixels' centres lie on each other, as in `torch.nn.functional.interpolate`.
    """
    for axis, length in ((2, size[0]), (3, size[1])):
        count, wide = values.shape[axis], truth.shape[axis]
        border = length - max(round(length / count), 1) * count
        if border > 1:
            cut = round(border / 2 * wide / length)
            truth = truth.narrow(axis, cut, wide - 2 * cut)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if values.shape[2:] != truth.shape[2:]:
        values = F.interpolate(values, truth.shape[2:], mode="bilinear", align_corners=align_corners)
    return values, truth


def share_sum(local: Tensor, mean: Tensor) -> Tensor:
    """Return ``mean`` with the gradient of ``local``, for the loss of a batch that several processes share.

    A ratio of sums over the whole batch, such as Dice, is no mean of the processes' ratios. Each process computes it
    from the sums of all, divided by their number; the mean of the processes' gradients is then that of the whole batch.

    Args:
        local: a sum over this process's share of the batch.
        mean: the same, mean over the processes and without gradient, see `netbuild.tasks.base.Normaliser`.
    """
    return mean + local - local.detach()
