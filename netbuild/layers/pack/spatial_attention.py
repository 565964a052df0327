"""Attention that weights positions of a map; the channels share the weights, or each has its own."""

import torch
from torch import nn

from netbuild.layers.pack.parts import check_multiple


class SimAM(nn.Module):
    """Weights without parameters: each value by how far it is from its channel's mean, in units of the variance.

    The weight is the sigmoid of an energy of spatial suppression; `e_lambda` keeps its denominator above zero.
    (B, c, H, W) -> same shape. Yang et al., SimAM, ICML 2021.
    """

    def __init__(self, e_lambda: float = 1e-4):
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squared = (x - x.mean((2, 3), keepdim=True)) ** 2
        positions = max(x.shape[2] * x.shape[3] - 1, 1)
        variance = squared.sum((2, 3), keepdim=True) / positions
        return x * torch.sigmoid(squared / (4 * (variance + self.e_lambda)) + 0.5)


class SpatialGroupEnhance(nn.Module):
    """Weights the positions of each channel group by how much they resemble the group's mean.

    s = x . mean(x) over the group's channels, normalised over the positions; x * sigmoid(w s + b).
    Keeps channels: (B, c1, H, W) -> same shape; c1 must be a multiple of `groups`. SGE, arXiv 1905.09646.
    """

    def __init__(self, groups: int = 8):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        check_multiple(x.shape[1], self.groups)
        groups = x.unflatten(1, (self.groups, -1))
        likeness = (groups * groups.mean((3, 4), keepdim=True)).sum(2)
        likeness = likeness - likeness.mean((2, 3), keepdim=True)
        positions = max(x.shape[2] * x.shape[3] - 1, 1)
        variance = likeness.square().sum((2, 3), keepdim=True) / positions
        # The root's slope at 0, where all positions are alike, is infinite.
        likeness = likeness / (variance.clamp_min(1e-12).sqrt() + 1e-5)
        return (groups * torch.sigmoid(self.weight * likeness + self.bias).unsqueeze(2)).view(x.shape)
