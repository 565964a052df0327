"""Shape rules of operators that join, reduce, index, repeat or create tensors."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from netbuild.costs.shape_rules import (
    MismatchError,
    NoRule,
    ShapeError,
    new_default,
    new_like,
    new_tensor,
    normalise_dims,
    shape_rule,
    shape_text,
)


@shape_rule("cat.default")
def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    parts = [t for t in tensors if t.shape != (0,)]  # torch skips empty vectors
    if not parts or not -parts[0].ndim <= dim < parts[0].ndim:
        raise NoRule
    first = parts[0]
    dim %= first.ndim
    for t in parts:
        if t.ndim != first.ndim or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != dim
        ):
            shapes = " and ".join(shape_text(t.shape) for t in (first, t))
            raise MismatchError(f"{shapes} cannot be joined along dimension {dim}: only that one may differ")
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in parts)
    return new_tensor(shape, first, reduce(torch.promote_types, (t.dtype for t in tensors)))


@shape_rule("stack.default")
def _stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    if not tensors or not -tensors[0].ndim - 1 <= dim <= tensors[0].ndim:
        raise NoRule
    first = tensors[0]
    for t in tensors:
        if t.shape != first.shape:
            raise MismatchError(f"{shape_text(first.shape)} and {shape_text(t.shape)} cannot be stacked")
    shape = list(first.shape)
    shape.insert(dim % (first.ndim + 1), len(tensors))
    return new_tensor(shape, first, reduce(torch.promote_types, (t.dtype for t in tensors)))


def _reduce_shape(x: torch.Tensor, dim: Any, keepdim: bool) -> list[int]:
    reduced = normalise_dims(x, dim)
    dims = dim if isinstance(dim, (list, tuple)) else [] if dim is None else [dim]
    if any(not -x.ndim <= d < x.ndim for d in dims) or len(set(reduced)) < len(reduced):
        raise NoRule
    return [1 if i in reduced else n for i, n in enumerate(x.shape) if keepdim or i not in reduced]


@shape_rule("mean.dim", "sum.dim_IntList")
def _reduce(x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> torch.Tensor:
    if dtype is not None or not x.is_floating_point() or x.ndim == 0:
        raise NoRule
    return new_tensor(_reduce_shape(x, dim, keepdim), x)


@shape_rule("mean.default", "sum.default")
def _reduce_all(x: torch.Tensor, *, dtype: Any = None) -> torch.Tensor:
    return _reduce(x, dtype=dtype)


@shape_rule("var.correction", "std.correction")
def _variance(x: torch.Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _reduce(x, dim, keepdim)


@shape_rule("linalg_vector_norm.default")
def _norm(
    x: torch.Tensor, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> torch.Tensor:
    if 0 in x.shape:
        raise NoRule
    return _reduce(x, dim, keepdim, dtype=dtype)


@shape_rule("amax.default", "amin.default")
def _find_extreme(x: torch.Tensor, dim: Any = (), keepdim: bool = False) -> torch.Tensor:
    if x.ndim == 0 or 0 in x.shape:
        raise NoRule
    return new_tensor(_reduce_shape(x, list(dim), keepdim), x)


@shape_rule("max.dim", "min.dim")
def _max(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    out = _find_extreme(x, [dim], keepdim)
    return out, new_tensor(out.shape, x, torch.int64)


@shape_rule("argmax.default", "argmin.default")
def _argmax(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    out = _find_extreme(x, [] if dim is None else [dim], keepdim)
    return new_tensor(out.shape, x, torch.int64)


def _check_dim(x: torch.Tensor, dim: int) -> int:
    if not -x.ndim <= dim < x.ndim:
        raise NoRule
    return dim % x.ndim


@shape_rule("topk.default")
def _topk(x: torch.Tensor, k: int, dim: int = -1, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    shape, dim = list(x.shape), _check_dim(x, dim)
    if not 0 <= k <= shape[dim]:
        raise ShapeError(f"cannot take the {k} largest of {shape[dim]} values")
    shape[dim] = k
    return new_tensor(shape, x), new_tensor(shape, x, torch.int64)


@shape_rule("gather.default")
def _gather(x: torch.Tensor, dim: int, index: torch.Tensor, **_: Any) -> torch.Tensor:
    dim = _check_dim(x, dim)
    if index.dtype != torch.int64 or index.ndim != x.ndim:
        raise NoRule
    if any(a > b for i, (a, b) in enumerate(zip(index.shape, x.shape, strict=True)) if i != dim):
        raise ShapeError(f"an index of {shape_text(index.shape)} is too large to gather from {shape_text(x.shape)}")
    return new_tensor(index.shape, x)


@shape_rule("index_select.default")
def _index_select(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    shape, dim = list(x.shape), _check_dim(x, dim)
    if index.ndim != 1 or index.dtype not in (torch.int64, torch.int32):
        raise NoRule
    shape[dim] = index.shape[0]
    return new_tensor(shape, x)


@shape_rule("embedding.default")
def _embedding(weight: torch.Tensor, index: torch.Tensor, *_: Any) -> torch.Tensor:
    if weight.ndim != 2 or index.dtype not in (torch.int64, torch.int32):
        raise NoRule
    return new_tensor((*index.shape, weight.shape[1]), weight)


@shape_rule("flip.default")
def _flip(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    _reduce_shape(x, list(dims) or None, True)
    return new_like(x)


@shape_rule("roll.default")
def _roll(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    if len(shifts) != max(len(dims), 1) or not all(-x.ndim <= d < x.ndim for d in dims):
        raise NoRule
    return new_tensor(x.shape, x)


@shape_rule("repeat.default")
def _repeat(x: torch.Tensor, repeats: Sequence[int]) -> torch.Tensor:
    new_dims = len(repeats) - x.ndim
    if new_dims < 0 or min(repeats, default=0) < 0:
        raise NoRule
    return new_tensor([n * r for n, r in zip([1] * new_dims + list(x.shape), repeats, strict=True)], x)


@shape_rule("clone.default")
def _clone(x: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
    if memory_format not in (None, torch.preserve_format, torch.contiguous_format):
        raise NoRule
    return new_tensor(x.shape, x) if memory_format is torch.contiguous_format else new_like(x)


@shape_rule(*(f"{kind}_like.default" for kind in ("empty", "zeros", "ones", "full", "rand", "randn")))
def _make_like(x: torch.Tensor, *_: Any, dtype: Any = None, memory_format: Any = None, **__: Any) -> torch.Tensor:
    if memory_format not in (None, torch.preserve_format, torch.contiguous_format):
        raise NoRule
    return new_tensor(x.shape, x, dtype) if memory_format is torch.contiguous_format else new_like(x, dtype)


@shape_rule("zeros.default", "ones.default", "rand.default", "randn.default")
def _constant(size: Sequence[int], *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return new_default(size, dtype)


@shape_rule("full.default")
def _full_tensor(size: Sequence[int], value: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    default_dtypes = {bool: torch.bool, int: torch.int64, float: None}
    if dtype is None and type(value) not in default_dtypes:
        raise NoRule
    return new_default(size, dtype, default_dtypes.get(type(value)))


@shape_rule("arange.default")
def _arange(end: Any, *, dtype: Any = None, **kwargs: Any) -> torch.Tensor:
    return _arange_step(0, end, dtype=dtype)


@shape_rule("arange.start")
def _arange_start(start: Any, end: Any, *, dtype: Any = None, **kwargs: Any) -> torch.Tensor:
    return _arange_step(start, end, dtype=dtype)


@shape_rule("arange.start_step")
def _arange_step(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    integral = all(isinstance(v, int) for v in (start, end, step))
    if step == 0 or (end - start) / step < 0:
        raise NoRule
    return new_default((math.ceil((end - start) / step),), dtype, torch.int64 if integral else None)
