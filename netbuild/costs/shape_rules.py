"""What comes out of an operator on the ``meta`` device: the operators that vision nets are made of, as shape rules.

torch computes the same, but its first meta operator imports sympy and torch._dynamo (about a second). Operators without
a rule here fall through to torch, where they are merely slow. tests/costs/test_shape_rules.py proves each rule against
torch.
"""

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


def _check_fractions(x: torch.Tensor) -> None:
    # On meta torch lets whole numbers pass that no kernel takes, such as the indices of a pooling.
    if x.dtype in (torch.int64, torch.int32, torch.bool):
        raise ShapeError(f"it takes numbers with fractions, {x.dtype} arrives")


def _check_dtypes(x: torch.Tensor, *others: torch.Tensor | None) -> None:
    for other in others:
        if other is not None and other.dtype != x.dtype:
            raise ShapeError(f"{x.dtype} and {other.dtype} do not go together here")


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


# -- shared by the files of rules -------------------------------------------------------------------------------------


def reduced_dims(x: torch.Tensor, dim: Any) -> list[int]:
    """The dimensions that a reduction's ``dim`` argument names; none or an empty list means all."""
    if dim is None or dim == []:
        return list(range(x.ndim))
    return [d % x.ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim])]


def made(shape: Sequence[int], dtype: Any, default: torch.dtype | None = None) -> torch.Tensor:
    """A new meta tensor of the default floating dtype unless one is asked for."""
    return torch.empty(shape, dtype=dtype or default or torch.get_default_dtype(), device="meta")
