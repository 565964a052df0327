"""Shape rules of operators that slide a window: convolution, pooling, padding, resampling."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from netbuild.costs.shape_rules import (
    NoRule,
    ShapeError,
    check_dtypes,
    check_floating,
    new_tensor,
    shape_rule,
    shape_text,
)


@shape_rule("convolution.default")
def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *rest: Any,
) -> torch.Tensor:
    output_padding, groups = rest
    expected = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.ndim != weight.ndim:
        raise ShapeError(f"the convolution takes {weight.ndim - 2} spatial dimensions, {shape_text(x.shape)} arrives")
    if x.shape[1] != expected:
        raise ShapeError(f"the convolution is built for {expected} input channels, {x.shape[1]} arrive")
    if 0 in weight.shape[:2]:  # depending on the backend, torch returns a map without channels or refuses
        raise ShapeError(f"a convolution without channels: its weight is {shape_text(weight.shape)}")
    check_dtypes(x, weight, bias)
    rank = weight.ndim - 2
    stride, padding, dilation, output_padding = (
        _expand_to_rank(v, rank) for v in (stride, padding, dilation, output_padding)
    )
    windows = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    if transposed:
        side = [_transposed_size(*window, extra) for window, extra in zip(windows, output_padding, strict=True)]
    else:
        side = [_window_count(*window) for window in windows]
    if weight.shape[0] % groups or (bias is not None and bias.shape != (channels,)):
        raise ShapeError(f"{groups} groups or the bias do not fit {channels} output channels")
    return new_tensor((x.shape[0], channels, *side), x)


def _expand_to_rank(value: Any, rank: int) -> list[int]:
    """Return one number for each spatial dimension; a single number is repeated."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) != 1:
        _check_count(values, rank)
    return values * rank if len(values) == 1 else values


def _check_count(values: Sequence[int], rank: int) -> None:
    if len(values) != rank:
        raise ShapeError(f"{list(values)} has {len(values)} numbers, {rank} are expected")


def _window_count(n: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool = False) -> int:
    """The number of windows along one dimension, which is the size of the output."""
    room = n + 2 * padding - dilation * (kernel - 1) - 1
    _check_window(kernel, stride, padding, dilation)
    out = (-(-room // stride) if ceil else room // stride) + 1
    # In ceil mode the last window must begin inside the map or its left padding.
    out -= ceil and (out - 1) * stride >= n + padding
    if out < 1 or n < 1:
        raise ShapeError(f"a kernel of {dilation * (kernel - 1) + 1} does not fit a map of {n} (padding {padding})")
    return out


def _check_window(kernel: int, stride: int, padding: int, dilation: int) -> None:
    if min(kernel, stride, dilation) < 1 or padding < 0:
        raise ShapeError(
            f"kernel {kernel}, stride {stride}, padding {padding}, dilation {dilation}:"
            " all must be at least 1, the padding at least 0"
        )


def _transposed_size(n: int, kernel: int, stride: int, padding: int, dilation: int, extra: int) -> int:
    """The output size of a transposed convolution along one dimension."""
    _check_window(kernel, stride, padding, dilation)
    side = (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
    if side == 0:
        raise NoRule
    if side < 0 or not 0 <= extra < max(stride, dilation):
        raise ShapeError(
            f"a map of size {n} would become one of size {side}: padding {padding}, output padding {extra}"
        )
    return side


def _pool_shape(
    x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, rank: int
) -> list[int]:
    kernel, padding, dilation = (_expand_to_rank(v, rank) for v in (kernel, padding, dilation))
    stride = _expand_to_rank(stride, rank) if stride not in ((), []) else kernel
    _check_maps(x, rank)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ShapeError(f"the pooling's padding {padding} is more than half its kernel {kernel}")
    sides = zip(x.shape[-rank:], kernel, stride, padding, dilation, strict=True)
    return [*x.shape[:-rank], *(_window_count(*side, ceil) for side in sides)]


def _check_maps(x: torch.Tensor, rank: int) -> None:
    if x.ndim not in (rank + 1, rank + 2) or 0 in x.shape[-rank - 1 :]:
        raise ShapeError(f"it takes maps of {rank} spatial dimensions, {shape_text(x.shape)} arrives")


def _max_pool(
    rank: int, x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    shape = _pool_shape(x, kernel, stride, padding, dilation, ceil, rank)
    return new_tensor(shape, x), new_tensor(shape, x, torch.int64)


def _average_pool(
    rank: int, x: torch.Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False, *_: Any
) -> Any:
    _check_maps(x, rank)
    if rank == 3 and any(k > n for k, n in zip(_expand_to_rank(kernel, 3), x.shape[-3:], strict=True)):
        raise ShapeError(f"a kernel of {_expand_to_rank(kernel, 3)} is larger than maps of {shape_text(x.shape[-3:])}")
    return new_tensor(_pool_shape(x, kernel, stride, padding, 1, ceil, rank), x)


def _adaptive_average_pool(rank: int, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    _check_maps(x, rank)
    check_floating(x)
    _check_count(size, rank)
    if min(size) < 1:
        raise NoRule
    return new_tensor((*x.shape[:-rank], *size), x)


def _adaptive_max_pool(rank: int, x: torch.Tensor, size: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    out = _adaptive_average_pool(rank, x, size)
    return out, new_tensor(out.shape, x, torch.int64)


@shape_rule("constant_pad_nd.default")
def _constant_pad(x: torch.Tensor, pad: Sequence[int], value: Any = 0) -> torch.Tensor:
    if not any(pad):
        raise NoRule
    padded = _pad(x, pad, 0)
    if not padded.numel():  # whether a side of 0 is accepted depends on torch's version
        raise NoRule
    return padded


def _pad(x: torch.Tensor, pad: Sequence[int], min_size: int) -> torch.Tensor:
    shape = list(x.shape)
    for i in range(min(len(pad) // 2, x.ndim)):
        shape[-1 - i] += pad[2 * i] + pad[2 * i + 1]
    if len(pad) > 2 * x.ndim or len(pad) % 2 or min(shape, default=1) < min_size:
        raise ShapeError(f"padding {list(pad)} does not fit {shape_text(x.shape)}")
    return new_tensor(shape, x)


@shape_rule("replication_pad1d.default", "replication_pad2d.default", "replication_pad3d.default")
def _replication_pad(x: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    _check_maps(x, len(pad) // 2)
    if min(pad) < 0:
        raise NoRule
    return _pad(x, pad, 1)


@shape_rule("reflection_pad1d.default", "reflection_pad2d.default", "reflection_pad3d.default")
def _reflection_pad(x: torch.Tensor, pad: Sequence[int]) -> torch.Tensor:
    if any(p >= x.shape[-1 - i // 2] for i, p in enumerate(pad[: 2 * x.ndim])):
        raise ShapeError(f"a map of {shape_text(x.shape)} is too small for a reflection padding of {list(pad)}")
    return _replication_pad(x, pad)


@shape_rule(
    *(f"upsample_{kind}.default" for kind in ("nearest1d", "linear1d", "nearest2d", "bilinear2d", "bicubic2d")),
    *("upsample_nearest3d.default", "upsample_trilinear3d.default", "_upsample_nearest_exact2d.default"),
    *("_upsample_bilinear2d_aa.default", "_upsample_bicubic2d_aa.default"),
)
def _upsample(x: torch.Tensor, size: Sequence[int], *_: Any) -> torch.Tensor:
    check_floating(x)
    if x.ndim != len(size) + 2 or min(*size, *x.shape[1:]) < 1:
        raise ShapeError(f"resizing to {list(size)} takes a batch of maps, {shape_text(x.shape)} arrives")
    return new_tensor((*x.shape[:2], *size), x)


@shape_rule("pixel_shuffle.default")
def _pixel_shuffle(x: torch.Tensor, r: int) -> torch.Tensor:
    if x.ndim < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ShapeError(f"pixel shuffle by {r} needs a multiple of {r * r} channels, {shape_text(x.shape)} arrives")
    return new_tensor((*x.shape[:-3], x.shape[-3] // (r * r), x.shape[-2] * r, x.shape[-1] * r), x)


@shape_rule("pixel_unshuffle.default")
def _pixel_unshuffle(x: torch.Tensor, r: int) -> torch.Tensor:
    if x.ndim < 3 or r < 1 or x.shape[-2] % r or x.shape[-1] % r:
        raise ShapeError(f"pixel unshuffle by {r} needs sides that are multiples of it, {shape_text(x.shape)} arrives")
    return new_tensor((*x.shape[:-3], x.shape[-3] * r * r, x.shape[-2] // r, x.shape[-1] // r), x)


@shape_rule("channel_shuffle.default")
def _channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    if x.ndim < 3 or groups < 1 or x.shape[1] % groups:
        raise ShapeError(f"{groups} groups do not divide the channels of {shape_text(x.shape)}")
    return new_tensor(x.shape, x)


@shape_rule("im2col.default")
def _im2col(x: torch.Tensor, kernel: Any, dilation: Any, padding: Any, stride: Any) -> torch.Tensor:
    _check_maps(x, 2)
    check_floating(x)
    for values in (kernel, stride, padding, dilation):
        _check_count(values, 2)
    windows = zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True)
    windows_count = math.prod(_window_count(*window) for window in windows)
    return new_tensor((*x.shape[:-3], x.shape[-3] * math.prod(kernel), windows_count), x)


@shape_rule("grid_sampler_2d.default")
def _grid_sampler(x: torch.Tensor, grid: torch.Tensor, *_: Any) -> torch.Tensor:
    if x.ndim != 4 or grid.ndim != 4 or grid.shape[0] != x.shape[0] or grid.shape[3] != 2 or 0 in x.shape[1:]:
        raise ShapeError(f"a grid of {shape_text(grid.shape)} does not sample maps of {shape_text(x.shape)}")
    check_dtypes(x, grid)
    return new_tensor((*x.shape[:2], *grid.shape[1:3]), x)


for _rank in (2, 3):
    shape_rule(f"max_pool{_rank}d_with_indices.default")(partial(_max_pool, _rank))
    shape_rule(f"avg_pool{_rank}d.default")(partial(_average_pool, _rank))
    shape_rule(f"_adaptive_avg_pool{_rank}d.default")(partial(_adaptive_average_pool, _rank))
    shape_rule(f"adaptive_max_pool{_rank}d.default")(partial(_adaptive_max_pool, _rank))
