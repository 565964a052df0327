"""Shapes and sizes of module outputs: tensors, or nested lists, tuples and dicts of tensors."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

Shape = Any  # a list of ints, or lists and dicts of shapes


def shape_of(value: Any) -> Shape:
    """Return a tensor's shape as a list; for lists, tuples and dicts the same structure of shapes; else None."""
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, dict):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shape_of(item) for item in value]
    return None


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in an output, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(item)


def bytes_of(out: Any, inputs: Sequence[Any]) -> int:
    """Count the bytes of an output's tensors, each once; inputs that are passed on in a list or dict do not count."""
    if isinstance(out, torch.Tensor):
        return out.numel() * out.element_size()
    input_ids = {id(t) for x in inputs for t in tensors_of(x)}
    new = {id(t): t for t in tensors_of(out) if id(t) not in input_ids}
    return sum(t.numel() * t.element_size() for t in new.values())


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return the first tensor in an output, None if it has none."""
    return next(tensors_of(value), None)


def parameter_count(module: nn.Module) -> int:
    """Count a module's parameters (values), shared ones once."""
    return sum(p.numel() for p in module.parameters())
