"""Fusing for inference: a batch norm into the convolution before it, parallel branches into one kernel."""

import torch
import torch.nn.functional as F
from torch import nn


def fold_bn(conv: nn.Conv2d | nn.ConvTranspose2d, bn: nn.Module | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight and bias of the single convolution that equals `bn(conv(x))` in eval mode.

    Without `bn` they are those of `conv`, with a bias of zeros if it has none.
    """
    weight = conv.weight.detach()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    if bn is None:
        return weight, bias
    scale, bias = fold_bias(bias, bn)
    if conv.transposed:  # (in, out / groups, ...): the output axis is the second one, within each group
        grouped = weight.unflatten(0, (conv.groups, -1)) * scale.view(conv.groups, 1, -1, 1, 1)
        return grouped.flatten(0, 1), bias
    return weight * scale.view(-1, 1, 1, 1), bias


def fold_bias(bias: torch.Tensor, bn: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factors of the channels, and a bias, that equal a batch norm in eval mode of something plus a bias."""
    std = torch.sqrt(bn.running_var + bn.eps)
    scale = (torch.ones_like(std) if bn.weight is None else bn.weight.detach()) / std
    bias = (bias - bn.running_mean) * scale
    return scale, bias if bn.bias is None else bias + bn.bias.detach()


def fold_identity(bn: nn.BatchNorm2d, groups: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weight (c, c / groups, 1, 1) and bias of the 1x1 convolution that equals a batch norm in eval mode."""
    scale, bias = fold_bias(torch.zeros_like(bn.running_mean), bn)
    return make_identity(bn.running_mean, groups) * scale.view(-1, 1, 1, 1), bias


def make_identity(like: torch.Tensor, groups: int = 1) -> torch.Tensor:
    """Make the weight (c, c / groups, 1, 1) of a 1x1 convolution that changes nothing; `like` is of shape (c,)."""
    eye = torch.eye(len(like) // groups, dtype=like.dtype, device=like.device)
    return eye.repeat(groups, 1)[..., None, None]


def add_kernels(*kernels: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the weights, with the centres of smaller ones in the centre of the largest (of odd sizes), and the biases."""
    size = max(weight.shape[-1] for weight, _ in kernels)
    padded = [F.pad(weight, [(size - weight.shape[-1]) // 2] * 4) for weight, _ in kernels]
    return torch.stack(padded).sum(0), torch.stack([bias for _, bias in kernels]).sum(0)


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
