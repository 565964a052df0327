"""What comes out of an operator on the ``meta`` device: the operators that vision nets are made of, as shape rules.

torch computes the same, but its first meta operator imports sympy and torch._dynamo (about a second). Operators without
a rule here fall through to torch, where they are merely slow. Each rule is proven against torch in tests/test_ops.py.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch

aten = torch.ops.aten
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}


class ShapeError(RuntimeError):
    """An operator's inputs do not fit together; the message says what was expected and what arrived."""


class MismatchError(ShapeError):
    """Inputs that must have the same sides have not."""


class NoRule(Exception):  # noqa: N818 (no error: torch is asked instead)
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


def _like(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    return _iterated([x], dtype or x.dtype)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as it stands in messages, such as ``[1, 64, 8, 8]``."""
    return str(list(shape))


# -- pointwise --------------------------------------------------------------------------------------------------------


def _iterated(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """What a loop over elements fills: broadcast sides, and strides in the order that the inputs' strides have."""
    first = tensors[0]
    if all(t.shape == first.shape and t.is_contiguous() for t in tensors):
        return torch.empty(first.shape, dtype=dtype, device="meta")
    shape = list(first.shape)
    for t in tensors[1:]:
        shape = _broadcast(shape, t.shape)
    strides, step = [0] * len(shape), 1
    for i in _stride_order(shape, [_strides_in(t, shape) for t in tensors]):
        strides[i], step = step, step * max(shape[i], 1)
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _strides_in(x: torch.Tensor, shape: Sequence[int]) -> list[int]:
    ahead = len(shape) - x.ndim
    return [0] * ahead + [0 if x.shape[i] != shape[ahead + i] else x.stride(i) for i in range(x.ndim)]


def _stride_order(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Dimensions from the innermost outwards, as torch's TensorIterator sorts them: a later view may depend on it."""
    order = list(reversed(range(len(shape))))
    for i in range(1, len(shape)):
        at = i
        for j in reversed(range(i)):
            inner = _is_inner(order[at], order[j], shape, strides)
            if inner is False:
                break
            if inner:
                order[at], order[j], at = order[j], order[at], j
    return order


def _is_inner(i: int, j: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> bool | None:
    # Broadcast dimensions leave the question to the next input; equal strides put the shorter side inside.
    for stride in strides:
        if stride[i] and stride[j] and stride[i] != stride[j]:
            return stride[i] < stride[j]
        if stride[i] and stride[j] and shape[i] < shape[j]:
            return True
    return None


def _broadcast(a: Sequence[int], b: Sequence[int]) -> list[int]:
    rank = max(len(a), len(b))
    pairs = zip([1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b), strict=True)
    return [_broadcast_side(x, y, a, b) for x, y in pairs]


def _broadcast_side(x: int, y: int, a: Sequence[int], b: Sequence[int]) -> int:
    if x != y and 1 not in (x, y):
        raise MismatchError(f"shapes {shape_text(a)} and {shape_text(b)} do not fit together: {x} against {y}")
    return y if x == 1 else x


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    return [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]


_UNARY = (
    "silu sigmoid relu tanh leaky_relu elu gelu hardswish hardsigmoid hardtanh mish softplus exp log log1p sqrt rsqrt "
    "neg abs sin cos tan atan reciprocal clamp clamp_min clamp_max floor ceil round trunc celu sign "
    "erf erfinv softshrink hardshrink threshold"
).split()
_SECOND = ("Tensor", "Scalar")
_FLOAT = [
    *(f"{name}.default" for name in (*_UNARY, "atan2", "addcmul", "addcdiv")),
    *(
        "div.Tensor",
        "div.Scalar",
        "pow.Tensor_Tensor",
        "pow.Tensor_Scalar",
        "clamp.Tensor",
        "clamp_min.Tensor",
        "clamp_max.Tensor",
    ),
]
_NUMBER = [
    *(f"{name}.{second}" for name in ("add", "sub", "mul", "remainder") for second in _SECOND),
    *("rsub.Scalar", "maximum.default", "minimum.default", "floor_divide.default", "floor_divide.Scalar"),
]
_COMPARISON = [f"{name}.{second}" for name in ("eq", "ne", "lt", "le", "gt", "ge") for second in _SECOND]


def _in_place_forms(names: Sequence[str]) -> list[str]:
    return [name.replace(".", "_.").replace("Tensor_", "") for name in names if not name.endswith("Tensor_Tensor")]


@rule(*_FLOAT)
def _floats(*args: Any, **kwargs: Any) -> torch.Tensor:
    tensors = _tensors(args, kwargs)
    if not all(t.is_floating_point() for t in tensors):
        raise NoRule
    dtype = _common(tensors)
    return _iterated(_cast(tensors, dtype), dtype)


def _common(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    if len({t.dtype for t in tensors}) == 1:
        return tensors[0].dtype
    if len(tensors) != 2:
        raise NoRule
    return torch.result_type(*tensors)


_FRACTIONS = "silu leaky_relu elu gelu hardswish hardsigmoid mish softplus celu softshrink hardshrink".split()


@rule(*(f"{name}{kind}.default" for name in _FRACTIONS for kind in ("", "_")))
def _activation(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    _check_fractions(x)
    return _floats(x, *args, **kwargs)


@rule("pow.Scalar")
def _power_of_number(base: Any, x: torch.Tensor) -> torch.Tensor:
    return _new(x.shape, _floats(x))


@rule(*_NUMBER)
def _numbers(a: Any, b: Any, *rest: Any, **kwargs: Any) -> torch.Tensor:
    tensors = _tensors((a, b), {})
    if all(t.is_floating_point() for t in tensors):
        return _floats(a, b)
    dtype = torch.result_type(a, b)
    # An alpha, booleans and complex numbers have rules of their own.
    if rest or kwargs or dtype.is_complex or any(t.dtype == torch.bool for t in tensors):
        raise NoRule
    return _iterated(_cast(tensors, dtype), dtype)


def _cast(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    # A tensor of another dtype is copied first, and a copy is dense.
    return [t if t.dtype == dtype else _like(t) for t in tensors]


@rule(*_COMPARISON, "isnan.default", "logical_not.default", "logical_and.default", "logical_or.default")
def _comparison(*args: Any) -> torch.Tensor:
    tensors = _tensors(args, {})
    if any(t.is_complex() for t in tensors):
        raise NoRule
    common = torch.result_type(*args) if len(args) > 1 else args[0].dtype
    return _iterated(_cast(tensors, common), torch.bool)


@rule("bitwise_not.default", "bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor")
def _bits(*tensors: torch.Tensor) -> torch.Tensor:
    if any(t.is_floating_point() or t.is_complex() for t in tensors):
        raise NoRule
    return _iterated(tensors, _common(tensors))


@rule("where.self")
def _where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if condition.dtype != torch.bool:
        raise NoRule
    dtype = torch.result_type(a, b)
    return _iterated([condition, *_cast([a, b], dtype)], dtype)


@rule("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    if mask.dtype != torch.bool:
        raise NoRule
    return _new(_broadcast(x.shape, mask.shape), x)


@rule("_prelu_kernel.default")
def _prelu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _floats(x, weight)


@rule("log_sigmoid_forward.default")
def _log_sigmoid(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _check_fractions(x)
    return _new(x.shape, x), _new(x.shape, x)


@rule("glu.default")
def _glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    _check_fractions(x)
    shape = list(x.shape)
    if not -x.ndim <= dim < x.ndim or shape[dim] % 2:
        raise ShapeError(f"halves along dimension {dim} need an even number there, {shape_text(shape)} arrives")
    shape[dim] //= 2
    return _like(torch.empty_strided(shape, x.stride(), dtype=x.dtype, device="meta"))


@rule("lerp.Tensor", "lerp.Scalar")
def _lerp(x: torch.Tensor, *args: Any) -> torch.Tensor:
    if any(t.dtype != x.dtype for t in _tensors(args, {})):
        raise NoRule
    return _floats(x, *args)


_RANDOM = ("bernoulli_.float", "uniform_.default", "normal_.default")


@rule(*_in_place_forms((*_FLOAT, *_NUMBER)), *_RANDOM)
def _in_place(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    others = _tensors(args, kwargs)
    for other in others:
        if _broadcast(x.shape, other.shape) != list(x.shape):
            raise MismatchError(f"{shape_text(other.shape)} does not fit into {shape_text(x.shape)}")
    # Integers that become fractions, and tensors that overlap themselves, are torch's to refuse.
    if not all(t.is_floating_point() for t in (x, *others)) or 0 in x.stride():
        raise NoRule
    return x


@rule("fill_.Scalar", "fill_.Tensor", "zero_.default", "copy_.default", "masked_fill_.Scalar")
def _filled(x: torch.Tensor, *args: Any, **__: Any) -> Any:
    for other in _tensors(args, {}):
        if _broadcast(x.shape, other.shape) != list(x.shape):
            raise MismatchError(f"{shape_text(other.shape)} does not fit into {shape_text(x.shape)}")
    if 0 in x.stride():
        raise NoRule
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
    if 0 in weight.shape[:2]:  # torch hands back a map without channels, or refuses, by its backend
        raise ShapeError(f"a convolution without channels: its weight is {shape_text(weight.shape)}")
    _check_dtypes(x, weight, bias)
    rank = weight.ndim - 2
    stride, padding, dilation, output_padding = (_full(v, rank) for v in (stride, padding, dilation, output_padding))
    windows = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    if transposed:
        side = [_unwindow(*window, extra) for window, extra in zip(windows, output_padding, strict=True)]
    else:
        side = [_window(*window) for window in windows]
    if weight.shape[0] % groups or (bias is not None and bias.shape != (channels,)):
        raise ShapeError(f"{groups} groups or a bias do not fit {channels} output channels")
    return _new((x.shape[0], channels, *side), x)


def _check_fractions(x: torch.Tensor) -> None:
    # On meta torch lets whole numbers pass that no kernel takes, such as the indices of a pooling.
    if x.dtype in (torch.int64, torch.int32, torch.bool):
        raise ShapeError(f"it takes numbers with fractions, {x.dtype} arrives")


def _check_dtypes(x: torch.Tensor, *others: torch.Tensor | None) -> None:
    for other in others:
        if other is not None and other.dtype != x.dtype:
            raise ShapeError(f"{x.dtype} and {other.dtype} do not go together here")


def _full(value: Any, rank: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) != 1:
        _check_count(values, rank)
    return values * rank if len(values) == 1 else values


def _check_count(values: Sequence[int], rank: int) -> None:
    if len(values) != rank:
        raise ShapeError(f"{list(values)} stands where {rank} numbers are needed")


def _window(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False) -> int:
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    _check_window(kernel, stride, padding, dilation)
    out = (-(-room // stride) if ceil else room // stride) + 1
    # The last window of ceil mode must begin inside the map or its left padding.
    out -= ceil and (out - 1) * stride >= n + padding
    if out < 1 or n < 1:
        raise ShapeError(f"a kernel of {dilation * (kernel - 1) + 1} does not fit a map of {n} (padding {padding})")
    return out


def _check_window(kernel: int, stride: int, padding: int, dilation: int) -> None:
    if min(kernel, stride, dilation) < 1 or padding < 0:
        raise ShapeError(f"kernel {kernel}, stride {stride}, padding {padding}, dilation {dilation} are no window")


def _unwindow(n: int, kernel: int, stride: int, padding: int, dilation: int, extra: int) -> int:
    _check_window(kernel, stride, padding, dilation)
    side = (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    if side == 0:
        raise NoRule
    if side < 0 or not 0 <= extra < max(stride, dilation):
        raise ShapeError(f"a map of {n} becomes one of {side}: padding {padding}, output padding {extra}")
    return side


@rule("mm.default")
def _mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[1] != b.shape[0]:
        raise ShapeError(f"the linear layer is built for {b.shape[0]} input features, {a.shape[1]} arrive")
    _check_dtypes(a, b)
    return _new((a.shape[0], b.shape[1]), a)


@rule("bmm.default")
def _bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise ShapeError(f"a matrix product of {shape_text(a.shape)} and {shape_text(b.shape)} is not possible")
    _check_dtypes(a, b)
    return _new((a.shape[0], a.shape[1], b.shape[2]), a)


@rule("addmm.default", "baddbmm.default")
def _add_product(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **__: Any) -> torch.Tensor:
    out = _mm(a, b) if a.ndim == 2 else _bmm(a, b)
    _check_dtypes(a, bias)
    if _broadcast(bias.shape, out.shape) != list(out.shape):
        raise ShapeError(f"{shape_text(bias.shape)} cannot be added to {shape_text(out.shape)}")
    return out


# -- normalisation ----------------------------------------------------------------------------------------------------


@rule("native_batch_norm.default")
def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> tuple[torch.Tensor, ...]:
    _check_fractions(x)
    for known in (weight, bias, mean, var):
        if known is not None and known.shape[0] != x.shape[1]:
            raise ShapeError(f"the batch norm is built for {known.shape[0]} channels, {x.shape[1]} arrive")
        if known is not None and known.dtype != x.dtype:
            raise NoRule
    kept = (x.shape[1],) if training else (0,)
    return _new(x.shape, x), _new(kept, x), _new(kept, x)


@rule("native_layer_norm.default")
def _layer_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[torch.Tensor, ...]:
    _check_fractions(x)
    if not shape or list(x.shape[-len(shape) :]) != list(shape):
        raise ShapeError(f"the layer norm is built for {shape_text(shape)}, {shape_text(x.shape)} arrives")
    if any(
        known is not None and (list(known.shape) != list(shape) or known.dtype != x.dtype) for known in (weight, bias)
    ):
        raise NoRule
    kept = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    return _new(x.shape, x), _new(kept, x), _new(kept, x)


@rule("native_group_norm.default")
def _group_norm(x: torch.Tensor, w: Any, b: Any, n: int, c: int, area: int, groups: int, eps: float) -> Any:
    _check_fractions(x)
    if w is not None and w.shape[0] != c:
        raise ShapeError(f"the group norm is built for {w.shape[0]} channels, {c} arrive")
    if (w is not None and w.dtype != x.dtype) or c % groups:
        raise NoRule
    return _new(x.shape, x), _new((n, groups), x), _new((n, groups), x)


@rule("_softmax.default", "_log_softmax.default")
def _softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    _check_fractions(x)
    if half_to_float:
        raise NoRule
    if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):  # torch does not look on meta
        raise ShapeError(f"there is no dimension {dim} in {shape_text(x.shape)}")
    return _new(x.shape, x)


@rule("_safe_softmax.default")
def _safe_softmax(x: torch.Tensor, dim: int, dtype: Any = None) -> torch.Tensor:
    return _softmax(x, dim, dtype not in (None, x.dtype))


# -- pooling, padding, resizing ---------------------------------------------------------------------------------------


def _pooled(x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, rank: int) -> list[int]:
    kernel, padding, dilation = (_full(v, rank) for v in (kernel, padding, dilation))
    stride = _full(stride, rank) if stride not in ((), []) else kernel
    _check_maps(x, rank)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(f"the pooling's padding {padding} is more than half its kernel {kernel}")
    sides = zip(x.shape[-rank:], kernel, stride, padding, dilation, strict=True)
    return [*x.shape[:-rank], *(_window(*side, ceil) for side in sides)]


def _check_maps(x: torch.Tensor, rank: int) -> None:
    if x.ndim not in (rank + 1, rank + 2) or 0 in x.shape[-rank - 1 :]:
        raise ShapeError(f"it takes maps of {rank} spatial dimensions, {shape_text(x.shape)} arrives")


def _max_pooled(
    rank: int, x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    shape = _pooled(x, kernel, stride, padding, dilation, ceil, rank)
    return _new(shape, x), _new(shape, x, torch.int64)


def _mean_pooled(
    rank: int, x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, *_: Any
) -> Any:
    _check_maps(x, rank)
    if rank == 3 and any(k > n for k, n in zip(_full(kernel, 3), x.shape[-3:], strict=True)):
        raise ShapeError(f"a kernel of {_full(kernel, 3)} is larger than maps of {shape_text(x.shape[-3:])}")
    return _new(_pooled(x, kernel, stride, padding, 1, ceil, rank), x)


for _rank in (2, 3):
    rule(f"max_pool{_rank}d_with_indices.default")(partial(_max_pooled, _rank))
    rule(f"avg_pool{_rank}d.default")(partial(_mean_pooled, _rank))


def _adaptive_pooled(rank: int, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    _check_maps(x, rank)
    _check_fractions(x)
    _check_count(size, rank)
    if min(size) < 1:
        raise NoRule
    return _new((*x.shape[:-rank], *size), x)


def _adaptive_max_pooled(rank: int, x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    out = _adaptive_pooled(rank, x, size)
    return out, _new(out.shape, x, torch.int64)


for _rank in (2, 3):
    rule(f"_adaptive_avg_pool{_rank}d.default")(partial(_adaptive_pooled, _rank))
    rule(f"adaptive_max_pool{_rank}d.default")(partial(_adaptive_max_pooled, _rank))


@rule("constant_pad_nd.default")
def _constant_pad(x: torch.Tensor, pad: Sequence[int], value: Any = 0) -> torch.Tensor:
    if not any(pad):
        raise NoRule
    return _padded(x, pad, 0)


def _padded(x: torch.Tensor, pad: Sequence[int], least: int) -> torch.Tensor:
    shape = list(x.shape)
    for i in range(min(len(pad) // 2, x.ndim)):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    if len(pad) > 2 * x.ndim or len(pad) % 2 or min(shape, default=1) < least:
        raise ShapeError(f"padding {list(pad)} does not fit {shape_text(x.shape)}")
    return _new(shape, x)


@rule("replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default")
def _replication_pad(x: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    _check_maps(x, len(pad) // 2)
    if min(pad) < 0:
        raise NoRule
    return _padded(x, pad, 1)


@rule("reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default")
def _reflection_pad(x: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    if any(p >= x.shape[-1 - i // 2] for i, p in enumerate(pad[: 2 * x.ndim])):
        raise ShapeError(f"a map of {shape_text(x.shape)} is too small to be mirrored by {list(pad)}")
    return _replication_pad(x, pad)


@rule(
    *(f"upsample_{kind}.default" for kind in ("nearest1d", "linear1d", "nearest2d", "bilinear2d", "bicubic2d")),
    *("upsample_nearest3d.default", "upsample_trilinear3d.default", "_upsample_nearest_exact2d.default"),
    *("_upsample_bilinear2d_aa.default", "_upsample_bicubic2d_aa.default"),
)
def _upsample(x: torch.Tensor, size: Sequence[int], *_: Any) -> torch.Tensor:
    _check_fractions(x)
    if x.ndim != len(size) + 2 or min(*size, *x.shape[1:]) < 1:
        raise ShapeError(f"resizing to {list(size)} takes a batch of maps, {shape_text(x.shape)} arrives")
    return _new((*x.shape[:2], *size), x)


@rule("pixel_shuffle.default")
def _pixel_shuffle(x: torch.Tensor, r: int) -> torch.Tensor:
    if x.ndim < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ShapeError(f"pixel shuffle by {r} needs a multiple of {r * r} channels, {shape_text(x.shape)} arrives")
    return _new((*x.shape[:-3], x.shape[-3] // (r * r), x.shape[-2] * r, x.shape[-1] * r), x)


@rule("pixel_unshuffle.default")
def _pixel_unshuffle(x: torch.Tensor, r: int) -> torch.Tensor:
    if x.ndim < 3 or r < 1 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"pixel unshuffle by {r} needs sides that are multiples of it, {shape_text(x.shape)} arrives")
    return _new((*x.shape[:-3], x.shape[-3] * r * r, x.shape[-2] // r, x.shape[-1] // r), x)


@rule("channel_shuffle.default")
def _channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    if x.ndim < 3 or groups < 1 or x.shape[1] % groups:
        raise ShapeError(f"{groups} groups do not divide the channels of {shape_text(x.shape)}")
    return _new(x.shape, x)


@rule("im2col.default")
def _im2col(x: torch.Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any) -> torch.Tensor:
    _check_maps(x, 2)
    _check_fractions(x)
    for values in (kernel, stride, padding, dilation):
        _check_count(values, 2)
    windows = zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True)
    places = math.prod(_window(*window) for window in windows)
    return _new((*x.shape[:-3], x.shape[-3] * math.prod(kernel), places), x)


@rule("grid_sampler_2d.default")
def _grid_sampler(x: torch.Tensor, grid: torch.Tensor, *_: Any) -> torch.Tensor:
    if x.ndim != 4 or grid.ndim != 4 or grid.shape[0] != x.shape[0] or grid.shape[3] != 2 or 0 in x.shape[1:]:
        raise ShapeError(f"a grid of {shape_text(grid.shape)} does not sample maps of {shape_text(x.shape)}")
    _check_dtypes(x, grid)
    return _new((*x.shape[:2], *grid.shape[1:3]), x)


# -- joining, reducing, copying, making -------------------------------------------------------------------------------


@rule("cat.default")
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
    return _new(shape, first, reduce(torch.promote_types, (t.dtype for t in tensors)))


@rule("stack.default")
def _stack(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    if not tensors or not -tensors[0].ndim - 1 <= dim <= tensors[0].ndim:
        raise NoRule
    first = tensors[0]
    for t in tensors:
        if t.shape != first.shape:
            raise MismatchError(f"{shape_text(first.shape)} and {shape_text(t.shape)} cannot be stacked")
    shape = list(first.shape)
    shape.insert(dim % (first.ndim + 1), len(tensors))
    return _new(shape, first, reduce(torch.promote_types, (t.dtype for t in tensors)))


def reduced_dims(x: torch.Tensor, dim: Any) -> list[int]:
    """The dimensions that a reduction's ``dim`` argument names; none or an empty list means all."""
    if dim is None or dim == []:
        return list(range(x.ndim))
    return [d % x.ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim])]


def _reduced(x: torch.Tensor, dim: Any, keepdim: bool) -> list[int]:
    gone = reduced_dims(x, dim)
    given = dim if isinstance(dim, (list, tuple)) else [] if dim is None else [dim]
    if any(not -x.ndim <= d < x.ndim for d in given) or len(set(gone)) < len(gone):
        raise NoRule
    return [1 if i in gone else n for i, n in enumerate(x.shape) if keepdim or i not in gone]


@rule("mean.dim", "sum.dim_IntList")
def _reduce(x: torch.Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> torch.Tensor:
    if dtype is not None or not x.is_floating_point() or x.ndim == 0:
        raise NoRule
    return _new(_reduced(x, dim, keepdim), x)


@rule("mean.default", "sum.default")
def _reduce_all(x: torch.Tensor, *, dtype: Any = None) -> torch.Tensor:
    return _reduce(x, dtype=dtype)


@rule("var.correction", "std.correction")
def _variance(x: torch.Tensor, dim: Any = None, *, correction: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _reduce(x, dim, keepdim)


@rule("linalg_vector_norm.default")
def _norm(
    x: torch.Tensor, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> torch.Tensor:
    if 0 in x.shape:
        raise NoRule
    return _reduce(x, dim, keepdim, dtype=dtype)


@rule("amax.default", "amin.default")
def _extreme(x: torch.Tensor, dim: Any = (), keepdim: bool = False) -> torch.Tensor:
    if x.ndim == 0 or 0 in x.shape:
        raise NoRule
    return _new(_reduced(x, list(dim), keepdim), x)


@rule("max.dim", "min.dim")
def _max(x: torch.Tensor, dim: int, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    out = _extreme(x, [dim], keepdim)
    return out, _new(out.shape, x, torch.int64)


@rule("argmax.default", "argmin.default")
def _argmax(x: torch.Tensor, dim: int | None = None, keepdim: bool = False) -> torch.Tensor:
    out = _extreme(x, [] if dim is None else [dim], keepdim)
    return _new(out.shape, x, torch.int64)


def _dim(x: torch.Tensor, dim: int) -> int:
    if not -x.ndim <= dim < x.ndim:
        raise NoRule
    return dim % x.ndim


@rule("topk.default")
def _topk(x: torch.Tensor, k: int, dim: int = -1, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    shape, dim = list(x.shape), _dim(x, dim)
    if not 0 <= k <= shape[dim]:
        raise ShapeError(f"the {k} largest of {shape[dim]} values are asked for")
    shape[dim] = k
    return _new(shape, x), _new(shape, x, torch.int64)


@rule("gather.default")
def _gather(x: torch.Tensor, dim: int, index: torch.Tensor, **_: Any) -> torch.Tensor:
    dim = _dim(x, dim)
    if index.dtype != torch.int64 or index.ndim != x.ndim:
        raise NoRule
    if any(a > b for i, (a, b) in enumerate(zip(index.shape, x.shape, strict=True)) if i != dim):
        raise ShapeError(f"an index of {shape_text(index.shape)} does not gather from {shape_text(x.shape)}")
    return _new(index.shape, x)


@rule("index_select.default")
def _index_select(x: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    shape, dim = list(x.shape), _dim(x, dim)
    if index.ndim != 1 or index.dtype not in (torch.int64, torch.int32):
        raise NoRule
    shape[dim] = index.shape[0]
    return _new(shape, x)


@rule("embedding.default")
def _embedding(weight: torch.Tensor, index: torch.Tensor, *_: Any) -> torch.Tensor:
    if weight.ndim != 2 or index.dtype not in (torch.int64, torch.int32):
        raise NoRule
    return _new((*index.shape, weight.shape[1]), weight)


@rule("flip.default")
def _flip(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    _reduced(x, list(dims) or None, True)
    return _like(x)


@rule("roll.default")
def _roll(x: torch.Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> torch.Tensor:
    if len(shifts) != max(len(dims), 1) or not all(-x.ndim <= d < x.ndim for d in dims):
        raise NoRule
    return _new(x.shape, x)


@rule("repeat.default")
def _repeat(x: torch.Tensor, repeats: Sequence[int]) -> torch.Tensor:
    ahead = len(repeats) - x.ndim
    if ahead < 0 or min(repeats, default=0) < 0:
        raise NoRule
    return _new([n * r for n, r in zip([1] * ahead + list(x.shape), repeats, strict=True)], x)


@rule("clone.default")
def _clone(x: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
    if memory_format not in (None, torch.preserve_format, torch.contiguous_format):
        raise NoRule
    return _new(x.shape, x) if memory_format is torch.contiguous_format else _like(x)


@rule(*(f"{kind}_like.default" for kind in ("empty", "zeros", "ones", "full", "rand", "randn")))
def _made_like(x: torch.Tensor, *_: Any, dtype: Any = None, memory_format: Any = None, **__: Any) -> torch.Tensor:
    if memory_format not in (None, torch.preserve_format, torch.contiguous_format):
        raise NoRule
    return _new(x.shape, x, dtype) if memory_format is torch.contiguous_format else _like(x, dtype)


def made(shape: Sequence[int], dtype: Any, default: torch.dtype | None = None) -> torch.Tensor:
    """A new meta tensor of the default floating dtype unless one is asked for."""
    return torch.empty(shape, dtype=dtype or default or torch.get_default_dtype(), device="meta")


@rule("zeros.default", "ones.default", "rand.default", "randn.default")
def _constant(size: Sequence[int], *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return made(size, dtype)


@rule("full.default")
def _full_tensor(size: Sequence[int], value: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    kinds = {bool: torch.bool, int: torch.int64, float: None}
    if dtype is None and type(value) not in kinds:
        raise NoRule
    return made(size, dtype, kinds.get(type(value)))


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
