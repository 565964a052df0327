"""Shape rules: output shapes, dtypes and strides of the aten operators that vision networks are made of, on ``meta``.

torch computes the same, but its first operator on meta imports sympy and torch._dynamo, which takes about a second.
Operators without a rule are left to torch, where they are only slower. tests/costs/test_shape_rules.py compares each
rule with torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

aten = torch.ops.aten
Rule = Callable[..., Any]
RULES: dict[Any, Rule] = {}


class ShapeError(RuntimeError):
    """Inputs that an operator cannot take; the message says what is expected and what arrives."""


class MismatchError(ShapeError):
    """Inputs whose sizes should be equal and are not."""


class NoRule(Exception):  # noqa: N818 (no error: a signal to leave the operator to torch)
    """Raised by a rule for arguments that it does not cover; torch then computes the output."""


def shape_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of aten operators.

    The function takes the operator's arguments and returns its output on meta.

    Args:
        names: ``name.overload``; operators that the installed torch lacks are skipped.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(aten, packet, None), overload or "default", None)
            if op is not None:
                RULES[op] = function
        return function

    return register


def new_tensor(shape: Sequence[int], like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Create a contiguous meta tensor with the dtype of another unless one is given."""
    return torch.empty(shape, dtype=dtype or like.dtype, device="meta")


def new_like(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Create a dense meta tensor of the same shape and order of strides, as ``torch.empty_like`` does."""
    return new_pointwise_output([x], dtype or x.dtype)


def shape_text(shape: Sequence[int]) -> str:
    """Format a shape for a message, such as ``[1, 64, 8, 8]``."""
    return str(list(shape))


# -- pointwise --------------------------------------------------------------------------------------------------------


def new_pointwise_output(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Return a pointwise operator's output: broadcast shape, strides in the order of the inputs' (TensorIterator)."""
    first = tensors[0]
    if all(t.shape == first.shape and t.is_contiguous() for t in tensors):
        return torch.empty(first.shape, dtype=dtype, device="meta")
    shape = list(first.shape)
    for t in tensors[1:]:
        shape = _broadcast(shape, t.shape)
    strides, step = [0] * len(shape), 1
    for i in _stride_order(shape, [_broadcast_strides(t, shape) for t in tensors]):
        strides[i], step = step, step * max(shape[i], 1)
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


def _broadcast_strides(x: torch.Tensor, shape: Sequence[int]) -> list[int]:
    new_dims = len(shape) - x.ndim
    return [0] * new_dims + [0 if x.shape[i] != shape[new_dims + i] else x.stride(i) for i in range(x.ndim)]


def _stride_order(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Sort dimensions from the innermost outwards as torch's TensorIterator does: a later view may depend on it."""
    order = list(reversed(range(len(shape))))
    for i in range(1, len(shape)):
        current = i
        for j in reversed(range(i)):
            inner = _is_inner(order[current], order[j], shape, strides)
            if inner is False:
                break
            if inner:
                order[current], order[j], current = order[j], order[current], j
    return order


def _is_inner(i: int, j: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> bool | None:
    """Whether dimension i is inside dimension j; None if the inputs do not decide it."""
    # A broadcast dimension (stride 0) leaves it to the next input; of equal strides the smaller size is inside.
    for stride in strides:
        if stride[i] and stride[j] and stride[i] != stride[j]:
            return stride[i] < stride[j]
        if stride[i] and stride[j] and shape[i] < shape[j]:
            return True
    return None


def _broadcast(a: Sequence[int], b: Sequence[int]) -> list[int]:
    rank = max(len(a), len(b))
    pairs = zip([1] * (rank - len(a)) + list(a), [1] * (rank - len(b)) + list(b), strict=True)
    return [_broadcast_size(x, y, a, b) for x, y in pairs]


def _broadcast_size(x: int, y: int, a: Sequence[int], b: Sequence[int]) -> int:
    if x != y and 1 not in (x, y):
        raise MismatchError(f"shapes {shape_text(a)} and {shape_text(b)} cannot be broadcast: {x} against {y}")
    return y if x == 1 else x


def _filter_tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    return [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]


_UNARY = (
    "silu sigmoid relu tanh leaky_relu elu gelu hardswish hardsigmoid hardtanh mish softplus exp log log1p sqrt rsqrt "
    "neg abs sin cos tan atan reciprocal clamp clamp_min clamp_max floor ceil round trunc celu sign "
    "erf erfinv softshrink hardshrink threshold"
).split()
_SECOND = ("Tensor", "Scalar")
_FLOATING = [
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
_ARITHMETIC = [
    *(f"{name}.{second}" for name in ("add", "sub", "mul", "remainder") for second in _SECOND),
    *("rsub.Scalar", "maximum.default", "minimum.default", "floor_divide.default", "floor_divide.Scalar"),
]
_COMPARISON = [f"{name}.{second}" for name in ("eq", "ne", "lt", "le", "gt", "ge") for second in _SECOND]


def _in_place_forms(names: Sequence[str]) -> list[str]:
    return [name.replace(".", "_.").replace("Tensor_", "") for name in names if not name.endswith("Tensor_Tensor")]


@shape_rule(*_FLOATING)
def _floating_pointwise(*args: Any, **kwargs: Any) -> torch.Tensor:
    tensors = _filter_tensors(args, kwargs)
    if not all(t.is_floating_point() for t in tensors):
        raise NoRule
    dtype = _find_common_dtype(tensors)
    return new_pointwise_output(_copy_other_dtypes(tensors, dtype), dtype)


def _find_common_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    if len({t.dtype for t in tensors}) == 1:
        return tensors[0].dtype
    if len(tensors) != 2:
        raise NoRule
    return torch.result_type(*tensors)


_FLOAT_ONLY = "silu leaky_relu elu gelu hardswish hardsigmoid mish softplus celu softshrink hardshrink".split()


@shape_rule(*(f"{name}{kind}.default" for name in _FLOAT_ONLY for kind in ("", "_")))
def _activation(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    check_floating(x)
    return _floating_pointwise(x, *args, **kwargs)


@shape_rule("pow.Scalar")
def _power_of_number(base: Any, x: torch.Tensor) -> torch.Tensor:
    return new_tensor(x.shape, _floating_pointwise(x))


@shape_rule(*_ARITHMETIC)
def _arithmetic(a: Any, b: Any, *rest: Any, **kwargs: Any) -> torch.Tensor:
    tensors = _filter_tensors((a, b), {})
    if all(t.is_floating_point() for t in tensors):
        return _floating_pointwise(a, b)
    dtype = torch.result_type(a, b)
    # torch has special rules for an alpha, for bool and for complex tensors.
    if rest or kwargs or dtype.is_complex or any(t.dtype == torch.bool for t in tensors):
        raise NoRule
    return new_pointwise_output(_copy_other_dtypes(tensors, dtype), dtype)


def _copy_other_dtypes(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    # torch first copies a tensor of another dtype, and the copy is dense.
    return [t if t.dtype == dtype else new_like(t) for t in tensors]


@shape_rule(*_COMPARISON, "isnan.default", "logical_not.default", "logical_and.default", "logical_or.default")
def _comparison(*args: Any) -> torch.Tensor:
    tensors = _filter_tensors(args, {})
    if any(t.is_complex() for t in tensors):
        raise NoRule
    common = torch.result_type(*args) if len(args) > 1 else args[0].dtype
    return new_pointwise_output(_copy_other_dtypes(tensors, common), torch.bool)


@shape_rule("bitwise_not.default", "bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor")
def _bits(*tensors: torch.Tensor) -> torch.Tensor:
    if any(t.is_floating_point() or t.is_complex() for t in tensors):
        raise NoRule
    return new_pointwise_output(tensors, _find_common_dtype(tensors))


@shape_rule("where.self")
def _where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if condition.dtype != torch.bool:
        raise NoRule
    dtype = torch.result_type(a, b)
    return new_pointwise_output([condition, *_copy_other_dtypes([a, b], dtype)], dtype)


@shape_rule("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    if mask.dtype != torch.bool:
        raise NoRule
    return new_tensor(_broadcast(x.shape, mask.shape), x)


@shape_rule("_prelu_kernel.default")
def _prelu(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _floating_pointwise(x, weight)


@shape_rule("log_sigmoid_forward.default")
def _log_sigmoid(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    check_floating(x)
    return new_tensor(x.shape, x), new_tensor(x.shape, x)


@shape_rule("glu.default")
def _glu(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    check_floating(x)
    shape = list(x.shape)
    if not -x.ndim <= dim < x.ndim or shape[dim] % 2:
        raise ShapeError(f"splitting along dimension {dim} needs an even number of values, {shape_text(shape)} arrives")
    shape[dim] //= 2
    return new_like(torch.empty_strided(shape, x.stride(), dtype=x.dtype, device="meta"))


@shape_rule("lerp.Tensor", "lerp.Scalar")
def _lerp(x: torch.Tensor, *args: Any) -> torch.Tensor:
    if any(t.dtype != x.dtype for t in _filter_tensors(args, {})):
        raise NoRule
    return _floating_pointwise(x, *args)


_RANDOM = ("bernoulli_.float", "uniform_.default", "normal_.default")


@shape_rule(*_in_place_forms((*_FLOATING, *_ARITHMETIC)), *_RANDOM)
def _in_place(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    others = _filter_tensors(args, kwargs)
    for other in others:
        if _broadcast(x.shape, other.shape) != list(x.shape):
            raise MismatchError(f"{shape_text(other.shape)} does not fit into {shape_text(x.shape)}")
    # torch refuses to store floats in integers, and to write to tensors whose elements overlap (stride 0).
    if not all(t.is_floating_point() for t in (x, *others)) or 0 in x.stride():
        raise NoRule
    return x


@shape_rule("fill_.Scalar", "fill_.Tensor", "zero_.default", "copy_.default", "masked_fill_.Scalar")
def _fill(x: torch.Tensor, *args: Any, **__: Any) -> Any:
    for other in _filter_tensors(args, {}):
        if _broadcast(x.shape, other.shape) != list(x.shape):
            raise MismatchError(f"{shape_text(other.shape)} does not fit into {shape_text(x.shape)}")
    if 0 in x.stride():
        raise NoRule
    return x


# -- convolution and matrix products ----------------------------------------------------------------------------------


def check_floating(x: torch.Tensor) -> None:
    """Raise ShapeError for a tensor of integers or bools."""
    # On meta torch accepts integers that no kernel takes, such as the indices that a max pooling returns.
    if x.dtype in (torch.int64, torch.int32, torch.bool):
        raise ShapeError(f"it takes floating-point numbers, {x.dtype} arrives")


def check_dtypes(x: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Raise ShapeError unless all tensors have the same dtype; None is passed over."""
    for other in others:
        if other is not None and other.dtype != x.dtype:
            raise ShapeError(f"all dtypes must be equal, {x.dtype} and {other.dtype} arrive")


@shape_rule("mm.default")
def _mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[1] != b.shape[0]:
        raise ShapeError(f"the linear layer is built for {b.shape[0]} input features, {a.shape[1]} arrive")
    check_dtypes(a, b)
    return new_tensor((a.shape[0], b.shape[1]), a)


@shape_rule("bmm.default")
def _bmm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise ShapeError(f"a matrix product of {shape_text(a.shape)} and {shape_text(b.shape)} is not possible")
    check_dtypes(a, b)
    return new_tensor((a.shape[0], a.shape[1], b.shape[2]), a)


@shape_rule("addmm.default", "baddbmm.default")
def _add_product(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor, **__: Any) -> torch.Tensor:
    out = _mm(a, b) if a.ndim == 2 else _bmm(a, b)
    check_dtypes(a, bias)
    if _broadcast(bias.shape, out.shape) != list(out.shape):
        raise ShapeError(f"{shape_text(bias.shape)} cannot be added to {shape_text(out.shape)}")
    return out


# -- normalisation ----------------------------------------------------------------------------------------------------


@shape_rule("native_batch_norm.default")
def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, *_: Any
) -> tuple[torch.Tensor, ...]:
    check_floating(x)
    for parameter in (weight, bias, mean, var):
        if parameter is not None and parameter.shape[0] != x.shape[1]:
            raise ShapeError(f"the batch norm is built for {parameter.shape[0]} channels, {x.shape[1]} arrive")
        if parameter is not None and parameter.dtype != x.dtype:
            raise NoRule
    statistics = (x.shape[1],) if training else (0,)  # mean and 1/std of the batch, empty in eval
    return new_tensor(x.shape, x), new_tensor(statistics, x), new_tensor(statistics, x)


@shape_rule("native_layer_norm.default")
def _layer_norm(x: torch.Tensor, shape: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[torch.Tensor, ...]:
    check_floating(x)
    if not shape or list(x.shape[-len(shape) :]) != list(shape):
        raise ShapeError(f"the layer norm is built for {shape_text(shape)}, {shape_text(x.shape)} arrives")
    if any(
        parameter is not None and (list(parameter.shape) != list(shape) or parameter.dtype != x.dtype)
        for parameter in (weight, bias)
    ):
        raise NoRule
    statistics = (*x.shape[: x.ndim - len(shape)], *[1] * len(shape))
    return new_tensor(x.shape, x), new_tensor(statistics, x), new_tensor(statistics, x)


@shape_rule("native_group_norm.default")
def _group_norm(x: torch.Tensor, w: Any, b: Any, n: int, c: int, area: int, groups: int, eps: float) -> Any:
    check_floating(x)
    if w is not None and w.shape[0] != c:
        raise ShapeError(f"the group norm is built for {w.shape[0]} channels, {c} arrive")
    if (w is not None and w.dtype != x.dtype) or c % groups:
        raise NoRule
    return new_tensor(x.shape, x), new_tensor((n, groups), x), new_tensor((n, groups), x)


@shape_rule("_softmax.default", "_log_softmax.default")
def _softmax(x: torch.Tensor, dim: int, half_to_float: bool) -> torch.Tensor:
    check_floating(x)
    if half_to_float:
        raise NoRule
    if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):  # torch does not check this on meta
        raise ShapeError(f"there is no dimension {dim} in {shape_text(x.shape)}")
    return new_tensor(x.shape, x)


@shape_rule("_safe_softmax.default")
def _safe_softmax(x: torch.Tensor, dim: int, dtype: Any = None) -> torch.Tensor:
    return _softmax(x, dim, dtype not in (None, x.dtype))


# -- shared by the modules of rules -----------------------------------------------------------------------------------


def normalise_dims(x: torch.Tensor, dim: Any) -> list[int]:
    """Return the dimensions named by a reduction's ``dim`` argument as non-negative numbers; None or [] means all."""
    if dim is None or dim == []:
        return list(range(x.ndim))
    return [d % x.ndim for d in (dim if isinstance(dim, (list, tuple)) else [dim])]


def new_default(shape: Sequence[int], dtype: Any, default: torch.dtype | None = None) -> torch.Tensor:
    """Create a meta tensor of `dtype`, else of `default`, else of torch's default dtype."""
    return torch.empty(shape, dtype=dtype or default or torch.get_default_dtype(), device="meta")
