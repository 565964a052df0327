"""Shapes and sizes of whatever modules return: tensors, and lists, tuples and dicts of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

Shape = Any  # a list of ints, or lists and dicts of shapes


def shape_of(value: Any) -> Shape:
    """A tensor's shape as a list; of lists, tuples and dicts the same structure of shapes; None of anything else."""
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape_of(item) for item in value]
    return None


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of an output, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def bytes_of(out: Any, inputs: Sequence[Any]) -> int:
    """Bytes of an output's tensors, each once; an output with several parts does not count the inputs it hands on."""
    if isinstance(out, torch.Tensor):
        return out.numel() * out.element_size()
    given = {id(t) for x in inputs for t in tensors_of(x)}
    own = {id(t): t for t in tensors_of(out) if id(t) not in given}
    return sum(t.numel() * t.element_size() for t in own.values())


def first_tensor(value: Any) -> torch.Tensor | None:
    """The first tensor of an output, None if it has none."""
    return next(tensors_of(value), None)


def parameter_count(module: nn.Module) -> int:
    """Number of a module's parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())
