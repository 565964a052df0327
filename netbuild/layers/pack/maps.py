"""What modules that read several maps share: checks of their channels, and a map brought to the size of another."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def check_source_count(ch: Sequence[int], *counts: int) -> None:
    """Raise ValueError unless the number of sources, whose channels `ch` lists, is one of `counts`."""
    if len(ch) not in counts:
        raise ValueError(f"{' or '.join(map(str, counts))} sources are needed, {len(ch)} arrive")


def check_same_shapes(ch: Sequence[int]) -> None:
    """Raise ValueError unless all sources have the same number of channels."""
    if len(set(ch)) > 1:
        raise ValueError(f"the sources need equal channels: {', '.join(map(str, ch))} arrive")


def resize_map(x: torch.Tensor, size: Sequence[int], align_corners: bool = False) -> torch.Tensor:
    """Bring a map to a size: a larger one by adaptive mean pooling, a smaller one by bilinear interpolation."""
    if x.shape[2] > size[0]:
        return F.adaptive_avg_pool2d(x, size)
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=align_corners)
