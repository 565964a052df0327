"""Attention that weights positions of a map; the channels share the weights, or each has its own."""

import torch
from torch import nn


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
