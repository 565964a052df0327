"""Fusing for inference: a batch norm into the convolution before it, parallel branches into one kernel."""

import torch
from torch import nn


def fold_bn(conv: nn.Conv2d | nn.ConvTranspose2d, bn: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of the single convolution that equals `bn(conv(x))` in eval mode.

    Without `bn` they are those of `conv`, with a bias of zeros if it has none.
    """
    weight = conv.weight.detach()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    if bn is None:
        return weight, bias
    std = torch.sqrt(bn.running_var + bn.eps)
    scale = (torch.ones_like(std) if bn.weight is None else bn.weight.detach()) / std
    bias = (bias - bn.running_mean) * scale
    if bn.bias is not None:
        bias = bias + bn.bias.detach()
    if conv.transposed:  # (in, out / groups, ...): the output axis is the second one, within each group
        grouped = weight.unflatten(0, (conv.groups, -1)) * scale.view(conv.groups, 1, -1, 1, 1)
        return grouped.flatten(0, 1), bias
    return weight * scale.view(-1, 1, 1, 1), bias


def set_weights(conv: nn.Conv2d | nn.ConvTranspose2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Replace a convolution's weight and bias; they require a gradient if its old weight did."""
    trainable = conv.weight.requires_grad
    conv.weight = nn.Parameter(weight, requires_grad=trainable)
    conv.bias = nn.Parameter(bias, requires_grad=trainable)


def fuse(module: nn.Module) -> nn.Module:
    """Call the method `fuse` of the module and of all submodules that have one, in place; return the module.

    Parents come first: a block may merge and remove its branches before they are visited.
    """
    method = getattr(module, "fuse", None)
    if callable(method):
        method()
    for child in module.children():
        fuse(child)
    return module
