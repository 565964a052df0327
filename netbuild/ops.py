"""What comes out of an operator on the ``meta`` device: the operators that vision nets are made of, as shape rules.

torch computes the same, but its first meta operator imports sympy and torch._dynamo (about a second). Operators without
a rule here fall through to torch, where they are merely slow. Each rule is proven against torch in tests/test_ops.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

aten = torch.ops.aten
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}


class ShapeError(RuntimeError):
    """An operator's inputs do not fit together; the message says what was expected and what arrived."""


class MismatchError(ShapeError):
    """Inputs that must have the same sides have not."""


class NoRule(Exception):
    """A rule meets arguments that it leaves to torch."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for aten operators given as ``name.overload``; names that this torch lacks are skipped."""

    def register(function: Rule) -> Rule:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(aten, packet, None), overload or "default", None)
            if op is not None:
                RULES[op] = function
        return function

    return register


def _new(shape: Sequence[int], like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device="meta")


def _like(x: torch.Tensor) -> torch.Tensor:
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    # A permuted tensor keeps the order of its strides, as in torch: whether a later view is possible depends on it.
    shape, old = x.shape, x.stride()
    strides, step = [0] * x.ndim, 1
    for i in sorted(range(x.ndim), key=lambda i: (old[i], -i)):
        strides[i], step = step, step * max(shape[i], 1)
    return torch.empty_strided(shape, strides, dtype=x.dtype, device="meta")


def shape_text(shape: Sequence[int]) -> str:
    """A shape as it stands in messages, such as ``[1, 64, 8, 8]``."""
    return str(list(shape))


# -- pointwise --------------------------------------------------------------------------------------------------------

_UNARY = (
    "silu sigmoid relu tanh leaky_relu elu gelu hardswish hardsigmoid hardtanh mish softplus exp log log1p sqrt rsqrt "
    "neg abs sin cos reciprocal clamp clamp_min clamp_max relu6 floor ceil round celu selu sign square erf log_sigmoid"
).split()
_BINARY = "add sub mul div maximum minimum pow".split()


@rule(*(f"{n}.default" for n in _UNARY), "pow.Tensor_Scalar", "alias.default", "detach.default")
def _unary(x: torch.Tensor, *_: Any, **__: Any) -> Any:
    if not x.is_floating_point():
        raise NoRule
    return _like(x)


@rule(*(f"{n}.{o}" for n in _BINARY for o in ("Tensor", "Scalar", "default", "Tensor_Tensor")), "rsub.Scalar")
def _binary(a: torch.Tensor, b: Any, *_: Any, **kwargs: Any) -> Any:
    if not isinstance(b, torch.Tensor):
        return _unary(a)
    if not isinstance(a, torch.Tensor) or not (a.is_floating_point() and b.is_floating_point()) or "rounding_mode" in kwargs:
        raise NoRule
    if a.shape == b.shape and a.dtype == b.dtype:
        return _like(a)
    return _new(_broadcast(a.shape, b.shape), a, torch.result_type(a, b))


def _broadcast(a: Sequence[int], b: Sequence[int]) -> list[int]:
    rank = max(len(a), len(b))
    pairs = zip([1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b), strict=True)
    return [_broadcast_side(x, y, a, b) for x, y in pairs]


def _broadcast_side(x: int, y: int, a: Sequence[int], b: Sequence[int]) -> int:
    if x != y and 1 not in (x, y):
        raise MismatchError(f"shapes {shape_text(a)} and {shape_text(b)} do not fit together: {x} against {y}")
    return y if x == 1 else x


@rule(
    *(f"{n}_.default" for n in (*_UNARY, "uniform", "normal", "zero", "copy", "detach")),
    *(f"{n}_.{o}" for n in (*_BINARY, "fill") for o in ("Tensor", "Scalar")),
    *("bernoulli_.float", "bernoulli_.Tensor", "copy_.default", "erfinv_.default"),
)
def _in_place(x: torch.Tensor, *_: Any, **__: Any) -> Any:
    return x


# -- convolution and matrix products ----------------------------------------------------------------------------------


@rule("convolution.default")
def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> torch.Tensor:
    expected = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.ndim != weight.ndim:
        raise ShapeError(f"the convolution takes {weight.ndim - 2} spatial dimensions, {shape_text(x.shape)} arrives")
    if x.shape[1] != expected:
        raise ShapeError(f"the convolution is built for {expected} input channels, {x.shape[1]} arrive")
    rank = weight.ndim - 2
    stride, padding, dilation, output_padding = (_full(v, rank) for v in (stride, padding, dilation, output_padding))
    kernel = weight.shape[2:]
    if transposed:
        side = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, k, s, p, d, o in zip(x.shape[2:], kernel, stride, padding, dilation, output_padding, strict=True)
        ]
        return _new((x.shape[0], weight.shape[1] * groups, *side), x)
    side = [_window(*v) for v in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)]
    return _new((x.shape[0], weight.shape[0], *side), x)


def _full(value: Sequence[int], rank: int) -> list[int]:
    return list(value) * rank if len(value) == 1 else list(value)


def _window(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False) -> int:
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0:
        raise ShapeError(f"a kernel of {dilation * (kernel - 1) + 1} does not fit a map of {n} (padding {padding})")
    out = (-(-room // stride) if ceil else room // stride) + 1
    # The last window of ceil mode must begin inside the map or its left padding.
    return out - 1 if ceil and (out - 1) * stride >= n + padding else out


@rule("mm.default")
def _mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[1] != b.shape[0]:
        raise ShapeError(f"the linear layer is built for {b.shape[0]} input features, {a.shape[1]} arrive")
    return _new((a.shape[0], b.shape[1]), a)


@rule("addmm.default")
def _addmm(_: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **__: Any) -> torch.Tensor:
    return _mm(a, b)


@rule("bmm.default")
def _bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise ShapeError(f"a matrix product of {shape_text(a.shape)} and {shape_text(b.shape)} is not possible")
    return _new((a.shape[0], a.shape[1], b.shape[2]), a)


@rule("baddbmm.default")
def _baddbmm(_: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **__: Any) -> torch.Tensor:
    return _bmm(a, b)


# -- normalisation ----------------------------------------------------------------------------------------------------


@rule("native_batch_norm.default")
def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> tuple[torch.Tensor, ...]:
    for known in (weight, mean):
        if known is not None and known.shape[0] != x.shape[1]:
            raise ShapeError(f"the batch norm is built for {known.shape[0]} channels, {x.shape[1]} arrive")
    kept = (x.shape[1],) if training else (0,)
    return _like(x), _new(kept, x), _new(kept, x)


@rule("native_layer_norm.default")
def _layer_norm(x: torch.Tensor, shape: Sequence[int], *_: Any) -> tuple[torch.Tensor, ...]:
    if list(x.shape[-len(shape) :]) != list(shape):
        raise ShapeError(f"the layer norm is built for {shape_text(shape)}, {shape_text(x.shape)} arrives")
    kept = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    return _new(x.shape, x), _new(kept, x), _new(kept, x)


@rule("native_group_norm.default")
def _group_norm(x: torch.Tensor, w: Any, b: Any, n: int, c: int, area: int, groups: int, eps: float) -> Any:
    if w is not None and w.shape[0] != c:
        raise ShapeError(f"the group norm is built for {w.shape[0]} channels, {c} arrive")
    return _new(x.shape, x), _new((n, groups), x), _new((n, groups), x)


@rule("_softmax.default", "_log_softmax.default")
def _softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    if half_to_float or not -x.ndim <= dim < max(x.ndim, 1):
        raise NoRule
    return _new(x.shape, x)


# -- pooling, padding, resizing ---------------------------------------------------------------------------------------


def _pooled(x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, rank: int) -> list[int]:
    kernel, padding, dilation = (_full(v if isinstance(v, (list, tuple)) else [v], rank) for v in (kernel, padding, dilation))
    stride = _full(stride, rank) if stride else kernel
    if x.ndim not in (rank + 1, rank + 2):
        raise ShapeError(f"the pooling takes {rank} spatial dimensions, {shape_text(x.shape)} arrives")
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(f"the pooling's padding {padding} is more than half its kernel {kernel}")
    sides = zip(x.shape[-rank:], kernel, stride, padding, dilation, strict=True)
    return [*x.shape[:-rank], *(_window(*side, ceil) for side in sides)]


@rule("max_pool2d_with_indices.default")
def _max_pool(
    x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = _pooled(x, kernel, stride, padding, dilation, ceil_mode, 2)
    return _new(shape, x), _new(shape, x, torch.int64)


@rule("avg_pool2d.default")
def _avg_pool(x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, *_: Any) -> Any:
    return _new(_pooled(x, kernel, stride, padding, 1, ceil_mode, 2), x)


@rule("avg_pool3d.default")
def _avg_pool3d(x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False, *_: Any) -> Any:
    return _new(_pooled(x, kernel, stride, padding, 1, ceil_mode, 3), x)


@rule("_adaptive_avg_pool2d.default")
def _adaptive_pool(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return _new((*x.shape[:-2], *size), x)


@rule("adaptive_max_pool2d.default")
def _adaptive_max_pool(x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (*x.shape[:-2], *size)
    return _new(shape, x), _new(shape, x, torch.int64)


@rule("constant_pad_nd.default", "reflection_pad2d.default", "replication_pad2d.default")
def _pad(x: torch.Tensor, pad: Sequence[int], *_: Any) -> torch.Tensor:
    shape = list(x.shape)
    for i in range(len(pad) // 2):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    if len(pad) > 2 * x.ndim or min(shape, default=1) < 1:
        raise ShapeError(f"padding {list(pad)} does not fit {shape_text(x.shape)}")
    return _new(shape, x)


@rule("upsample_nearest2d.default", "_upsample_nearest_exact2d.default", "upsample_bilinear2d.default", "upsample_bicubic2d.default")
def _upsample(x: torch.Tensor, size: Sequence[int], *_: Any) -> torch.Tensor:
    if x.ndim != 4 or min(size) < 1:
        raise ShapeError(f"resizing to {list(size)} takes a batch of maps, {shape_text(x.shape)} arrives")
    return _new((*x.shape[:2], *size), x)


@rule("pixel_shuffle.default")
def _pixel_shuffle(x: torch.Tensor, r: int) -> torch.Tensor:
    if x.ndim < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ShapeError(f"pixel shuffle by {r} needs a multiple of {r * r} channels, {shape_text(x.shape)} arrives")
    return _new((*x.shape[:-3], x.shape[-3] // (r * r), x.shape[-2] * r, x.shape[-1] * r), x)


# -- joining, reducing, copying, making -------------------------------------------------------------------------------


@rule("cat.default")
def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    parts = [t for t in tensors if t.shape != (0,)]  # torch skips empty vectors
    first = parts[0] if parts else tensors[0]
    if any(t.dtype != first.dtype for t in parts) or not -first.ndim <= dim < first.ndim:
        raise NoRule
    dim %= first.ndim
    for t in parts:
        if t.ndim != first.ndim or any(a != b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if i != dim):
            shapes = " and ".join(shape_text(t.shape) for t in (first, t))
            raise MismatchError(f"{shapes} cannot be joined along dimension {dim}: only that one may differ")
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in parts)
    return _new(shape, first)


@rule("stack.default")
def _stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    first = tensors[0]
    if any(t.shape != first.shape or t.dtype != first.dtype for t in tensors):
        raise NoRule
    shape = list(first.shape)
    shape.insert(dim % (first.ndim + 1), len(tensors))
    return _new(shape, first)


def reduced_dims(x: torch.Tensor, dim: Any) -> list[int]:
    """The dimensions that a reduction's ``dim`` argument names; none or an empty list means all."""
    if dim is None or dim == []:
        return list(range(x.ndim))
    return [d % x.ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim])]


def _reduced(x: torch.Tensor, dim: Any, keepdim: bool) -> list[int]:
    if any(not -x.ndim <= d < x.ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim]) if d is not None):
        raise NoRule
    gone = reduced_dims(x, dim)
    return [1 if i in gone else n for i, n in enumerate(x.shape) if keepdim or i not in gone]


@rule("mean.dim", "sum.dim_IntList", "amax.default", "amin.default")
def _reduce(x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> torch.Tensor:
    if dtype is not None or not x.is_floating_point() or x.ndim == 0:
        raise NoRule
    return _new(_reduced(x, dim, keepdim), x)


@rule("max.dim", "min.dim")
def _max(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    if x.ndim == 0:
        raise NoRule
    shape = _reduced(x, dim, keepdim)
    return _new(shape, x), _new(shape, x, torch.int64)


@rule("clone.default")
def _clone(x: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
    return _new(x.shape, x) if memory_format is torch.contiguous_format else _like(x)


def made(shape: Sequence[int], dtype: Any, default: torch.dtype | None = None) -> torch.Tensor:
    """A new meta tensor of the default floating dtype unless one is asked for."""
    return torch.empty(shape, dtype=dtype or default or torch.get_default_dtype(), device="meta")


@rule("zeros.default", "ones.default")
def _constant(size: Sequence[int], *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return made(size, dtype)


@rule("full.default")
def _full_tensor(size: Sequence[int], value: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    if dtype is None and not isinstance(value, float):
        raise NoRule
    return made(size, dtype)


@rule("arange.default")
def _arange(end: Any, *, dtype: Any = None, **kwargs: Any) -> torch.Tensor:
    return _arange_step(0, end, dtype=dtype)


@rule("arange.start")
def _arange_start(start: Any, end: Any, *, dtype: Any = None, **kwargs: Any) -> torch.Tensor:
    return _arange_step(start, end, dtype=dtype)


@rule("arange.start_step")
def _arange_step(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    integral = all(isinstance(v, int) for v in (start, end, step))
    if step == 0 or (end - start) / step < 0:
        raise NoRule
    return made((math.ceil((end - start) / step),), dtype, torch.int64 if integral else None)
