"""Weights and images that are the same everywhere: each tensor's values follow from its state-dict key alone."""

import math
import zlib
from collections.abc import Callable

import torch
from torch import nn

CONSTANT = {"cal_a", "cal_b", "loc", "cov", "mask"}


@torch.no_grad()
def fill(network: nn.Module, gain: float = 2.0, key: Callable[[str], str] = str) -> nn.Module:
    """Fill parameters and buffers in place; ``key`` gives the name that seeds a tensor where it is not its own."""
    for name, tensor in network.state_dict().items():
        seed = key(name)
        if tensor.is_floating_point() and not (seed.endswith("dfl.conv.weight") or leaf_of(seed) in CONSTANT):
            tensor.copy_(values(seed, tensor.shape, gain))
    return network


def leaf_of(key: str) -> str:
    return key.rpartition(".")[2]


def values(key: str, shape: torch.Size, gain: float) -> torch.Tensor:
    """Fan-in scaled weights of several axes, norm scales about 1, variances 0.5 to 1.5, all else small."""
    generator, leaf = torch.Generator().manual_seed(zlib.crc32(key.encode())), leaf_of(key)
    if leaf == "running_var":
        return 0.5 + torch.rand(shape, generator=generator)
    draw = torch.randn(shape, generator=generator)
    if leaf.endswith("weight"):
        return draw * math.sqrt(gain / math.prod(shape[1:])) if len(shape) > 1 else 1 + 0.1 * draw
    return 0.1 * draw


def image(channels: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0))


def text(count: int, width: int = 512) -> torch.Tensor:
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(1))


def samples(tensor: torch.Tensor) -> list[float]:
    """Eight values evenly spread over the flattened tensor."""
    flat = tensor.flatten()
    return [flat[k * (len(flat) - 1) // 7].item() for k in range(8)]
