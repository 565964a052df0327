"""Parts that several modules of the pack are made of."""

import torch


def shuffle_channels(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Interleave the channels of groups: (B, c, H, W) -> same shape, the first of each group first (ShuffleNet)."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
