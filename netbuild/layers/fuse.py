"""Merging for inference: batch norm into the convolution before it, parallel branches into one kernel."""

import torch
from torch import nn


def fold_bn(conv: nn.Conv2d | nn.ConvTranspose2d, bn: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one convolution that equals `bn(conv(x))` in eval mode; `bn` None: conv's own."""
    weight = conv.weight.detach()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    if bn is None:
        return weight, bias
    spread = torch.sqrt(bn.running_var + bn.eps)
    scale = (torch.ones_like(spread) if bn.weight is None else bn.weight.detach()) / spread
    bias = (bias - bn.running_mean) * scale
    if bn.bias is not None:
        bias = bias + bn.bias.detach()
    if conv.transposed:  # (in, out / groups, ...): the output axis is the second one, within each group
        grouped = weight.unflatten(0, (conv.groups, -1)) * scale.view(conv.groups, 1, -1, 1, 1)
        return grouped.flatten(0, 1), bias
    return weight * scale.view(-1, 1, 1, 1), bias


def set_weights(conv: nn.Conv2d | nn.ConvTranspose2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give a convolution new tensors; they ask for a gradient if its old weight did."""
    trainable = conv.weight.requires_grad
    conv.weight = nn.Parameter(weight, requires_grad=trainable)
    conv.bias = nn.Parameter(bias, requires_grad=trainable)


def fuse(module: nn.Module) -> nn.Module:
    """Call `fuse()` of the module and of every submodule that has one, in place, and return `module`.

    Parents come first, so a block merges its branches before what is left of them is visited.
    """
    merge = getattr(module, "fuse", None)
    if callable(merge):
        merge()
    for child in module.children():
        fuse(child)
    return module
