"""Field rules: how aten operators change the receptive field of the map that they read."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from netbuild.costs.receptive_field import (
    Axis,
    Field,
    field_of,
    field_rule,
    is_on_grid,
    mix_all_positions,
    read_positions,
    regrid,
    slide_window,
    unbounded_axis,
)
from netbuild.costs.shape_rules import normalise_dims


def _slide_over_map(
    field: Field, out: Any, x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> Field:
    kernel, stride, padding, dilation = (_pair(v) for v in (kernel, stride, padding, dilation))
    field = regrid(x, field)
    if not is_on_grid(x, field):
        # The last two dimensions are not the map's, as after a view: a larger kernel mixes positions in an unknown way.
        return field if kernel == (1, 1) else field._replace(known=False)
    h = slide_window(field.h, kernel[0], stride[0], padding[0], dilation[0])
    w = slide_window(field.w, kernel[1], stride[1], padding[1], dilation[1])
    return field._replace(h=h, w=w, grid=_grid(out))


def _pair(value: Any) -> tuple[int, int]:
    # Only the last two numbers count: a 3-d pooling over channels, height and width ends in the image's axes.
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (values[-2], values[-1]) if len(values) > 1 else (values[0], values[0])


def _grid(out: Any) -> tuple[int, int]:
    first = out[0] if isinstance(out, (tuple, list)) else out
    return first.shape[-2], first.shape[-1]


@field_rule("convolution.default")
def _convolution(field: Field, out: Any, x: Any, weight: Any, bias: Any, *options: Any) -> Field:
    stride, padding, dilation, transposed = options[:4]
    if weight.ndim == 4 and not transposed:
        return _slide_over_map(field, out, x, weight.shape[2:], stride, padding, dilation)
    field = regrid(x, field)
    if weight.ndim == 4 and is_on_grid(x, field):
        return _transposed_convolution(field, out, weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation))
    return field._replace(known=False)


def _transposed_convolution(field: Field, out: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    h, w = (_transpose_axis(*v) for v in zip((field.h, field.w), kernel, stride, padding, dilation, strict=True))
    return field._replace(h=h, w=w, grid=_grid(out))


def _transpose_axis(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    common = math.gcd(dilation, stride)
    # Output i reads input (i + padding - dilation * tap) / stride for the taps where that is a whole number: every
    # `tap_step`-th tap, each `input_step` inputs before the previous one.
    tap_step, input_step = stride // common, dilation // common

    def reads(i: int) -> range:
        if (i + padding) % common:
            return range(0)
        first = (i + padding) // common * pow(input_step, -1, tap_step) % tap_step
        start = (i + padding - dilation * first) // stride
        return range(start, start - input_step * len(range(first, kernel, tap_step)), -input_step)

    return read_positions(axis, stride, 1, reads)


@field_rule("max_pool2d_with_indices.default", "avg_pool2d.default", "avg_pool3d.default")
def _pool(
    field: Field, out: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, *rest: Any, **_: Any
) -> Field:
    dilation = rest[0] if rest and not isinstance(rest[0], bool) else 1
    return _slide_over_map(field, out, x, kernel, stride or kernel, padding, dilation)


@field_rule("_adaptive_avg_pool2d.default", "adaptive_max_pool2d.default")
def _adaptive(field: Field, out: Any, x: Any, size: Sequence[int]) -> Field:
    field = regrid(x, field)
    if not is_on_grid(x, field):
        return field._replace(known=False)
    h = _adaptive_axis(field.h, x.shape[-2], size[0])
    w = _adaptive_axis(field.w, x.shape[-1], size[1])
    return field._replace(h=h, w=w, grid=_grid(out))


def _adaptive_axis(axis: Axis, n: int, bins: int) -> Axis:
    if n == bins:
        return axis
    if bins == 1:
        return unbounded_axis(axis)
    # torch's bin i covers the inputs from floor(i n / bins) to ceil((i + 1) n / bins); this repeats as in _resize_axis.
    common = math.gcd(n, bins)
    return read_positions(axis, bins // common, n // common, lambda i: range(i * n // bins, -(-(i + 1) * n // bins)))


@field_rule(
    *(f"{name}.default" for name in ("amax", "amin", "mean", "sum", "argmax", "argmin")),
    *(f"{name}.default" for name in ("_softmax", "_log_softmax", "_safe_softmax")),
    *("mean.dim", "sum.dim_IntList", "max.dim", "min.dim", "var.correction", "std.correction"),
)
def _reduction(field: Field, out: Any, x: Any, dim: Any = None, *_: Any, **__: Any) -> Field:
    dims = normalise_dims(x, dim)
    if is_on_grid(x, field):
        reduces_h, reduces_w = x.ndim - 2 in dims and field.grid[0] > 1, x.ndim - 1 in dims and field.grid[1] > 1
        keeps_grid = (
            all(a == b for a, b in zip(_grid(out), field.grid, strict=True)) if _count_dims(out) >= 2 else False
        )
        grid = field.grid if keeps_grid else (1 if reduces_h else field.grid[0], 1 if reduces_w else field.grid[1])
        h, w = (
            unbounded_axis(axis) if reduces else axis for axis, reduces in ((field.h, reduces_h), (field.w, reduces_w))
        )
        return field._replace(h=h, w=w, grid=grid)
    # Positions flattened into one dimension, as tokens.
    area = field.grid[0] * field.grid[1]
    return mix_all_positions(field) if area > 1 and any(x.shape[d] == area for d in dims) else field


@field_rule("linalg_vector_norm.default")
def _norm(field: Field, out: Any, x: Any, order: Any = 2, dim: Any = None, *_: Any, **__: Any) -> Field:
    return _reduction(field, out, x, dim)


def _count_dims(out: Any) -> int:
    return (out[0] if isinstance(out, (tuple, list)) else out).ndim


@field_rule("mm.default")
def _mm(field: Field, out: Any, a: torch.Tensor, b: torch.Tensor) -> Field:
    # If the rows are positions (perhaps with padding or a class token), each is mapped by itself; a row that holds a
    # flattened map mixes its positions.
    area = field.grid[0] * field.grid[1]
    return field if a.shape[0] >= area else mix_all_positions(field)._replace(grid=(1, 1))


@field_rule("addmm.default")
def _addmm(field: Field, out: Any, _: Any, a: torch.Tensor, b: torch.Tensor, **__: Any) -> Field:
    return _mm(field, out, a, b)


@field_rule("bmm.default")
def _bmm(field: Field, out: Any, a: torch.Tensor, b: torch.Tensor) -> Field:
    # A product with a constant matrix acts on channels; two factors from the image are attention.
    if field_of(a) is None or field_of(b) is None:
        return field
    group = max(a.shape[1], b.shape[2]) if a.shape[2] != max(a.shape[1:]) else a.shape[2]
    height, width = field.grid
    if group >= height * width:
        return mix_all_positions(field)
    if group % width:  # window attention: the shapes do not tell which positions are in a window
        return field._replace(known=False)
    # Area attention: each position attends to the rows of its own area.
    rows = group // width
    h = read_positions(field.h, rows, rows, lambda i: range(i // rows * rows, i // rows * rows + rows))
    return field._replace(h=h, w=unbounded_axis(field.w))


@field_rule("baddbmm.default")
def _baddbmm(field: Field, out: Any, _: Any, a: torch.Tensor, b: torch.Tensor, **__: Any) -> Field:
    return _bmm(field, out, a, b)


@field_rule("upsample_nearest2d.default", "upsample_nearest3d.default")
def _nearest(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resize(field, out, x, lambda i, n, m: [i * n // m])


@field_rule("_upsample_nearest_exact2d.default")
def _nearest_exact(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resize(field, out, x, lambda i, n, m: [(2 * i + 1) * n // (2 * m)])


@field_rule("upsample_bilinear2d.default", "upsample_trilinear3d.default")
def _bilinear(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resize(field, out, x, partial(_neighbours, 1))


@field_rule("upsample_bicubic2d.default")
def _bicubic(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resize(field, out, x, partial(_neighbours, 2))


def _neighbours(reach: int, i: int, n: int, m: int) -> range:
    # Output i lies at (i + 1/2) n / m - 1/2 of the input; exactly on a position it reads that one alone.
    position, rest = divmod((2 * i + 1) * n - m, 2 * m)
    return range(position - reach + 1, position + reach + 1) if rest else range(position, position + 1)


def _resize(field: Field, out: Any, x: torch.Tensor, reads: Callable[[int, int, int], Sequence[int]]) -> Field:
    field = regrid(x, field)
    if not is_on_grid(x, field):
        return field._replace(known=False)
    h, w = (_resize_axis(*v, reads) for v in zip((field.h, field.w), x.shape[-2:], out.shape[-2:], strict=True))
    return field._replace(h=h, w=w, grid=_grid(out))


def _resize_axis(axis: Axis, before: int, after: int, reads: Callable[[int, int, int], Sequence[int]]) -> Axis:
    # After `after / common` outputs the pattern of what is read repeats, `before / common` inputs further on.
    common = math.gcd(before, after)
    return read_positions(axis, after // common, before // common, lambda i: reads(i, before, after))


@field_rule("pixel_shuffle.default")
def _pixel_shuffle(field: Field, out: Any, x: torch.Tensor, r: int) -> Field:
    return _resize(field, out, x, lambda i, n, m: [i // r])


@field_rule("im2col.default")
def _im2col(field: Field, out: Any, x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Field:
    if not is_on_grid(x, field):
        return field._replace(known=False)
    k, s, p, d = map(_pair, (kernel, stride, padding, dilation))
    high, wide = ((n + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i, n in enumerate(field.grid))
    h, w = (slide_window(axis, k[i], s[i], p[i], d[i]) for i, axis in enumerate((field.h, field.w)))
    return field._replace(h=h, w=w, grid=(high, wide))


@field_rule("pixel_unshuffle.default")
def _pixel_unshuffle(field: Field, out: Any, x: torch.Tensor, r: int) -> Field:
    # Each output position reads r x r inputs, like a convolution with kernel and stride r.
    return _slide_over_map(field, out, x, r, r, 0, 1)


@field_rule("constant_pad_nd.default", "reflection_pad2d.default", "replication_pad2d.default")
def _pad(field: Field, out: Any, x: Any, pad: Sequence[int], *_: Any) -> Field:
    if not is_on_grid(x, field):
        return field
    top, left = (pad[2] if len(pad) > 2 else 0), pad[0]
    return field._replace(
        h=slide_window(field.h, 1, 1, top, 1), w=slide_window(field.w, 1, 1, left, 1), grid=_grid(out)
    )


@field_rule("flip.default")
def _flip(field: Field, out: Any, x: Any, dims: Sequence[int]) -> Field:
    return _reorder(field, x, dims)


@field_rule("roll.default")
def _roll(field: Field, out: Any, x: Any, shifts: Any, dims: Sequence[int] = ()) -> Field:
    return _reorder(field, x, dims)


def _reorder(field: Field, x: torch.Tensor, dims: Sequence[int]) -> Field:
    # After reordering, neighbouring positions are no longer a fixed step apart.
    moved = is_on_grid(x, field) and (not dims or any(d % x.ndim >= x.ndim - 2 for d in dims))
    return field._replace(known=False) if moved else field


@field_rule("slice.Tensor")
def _slice(
    field: Field, out: Any, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Field:
    name = {x.ndim - 2: "h", x.ndim - 1: "w"}.get(dim % x.ndim)
    if name is None or not is_on_grid(x, field):
        return field
    axis: Axis = getattr(field, name)
    # A slice is a sliding window of size 1 whose padding is negative: it begins `start` positions later.
    first = (start or 0) % x.shape[dim] if (start or 0) < 0 else (start or 0)
    moved = slide_window(axis, 1, step, -first, 1)
    h, w = (moved, field.w) if name == "h" else (field.h, moved)
    return field._replace(h=h, w=w, grid=_grid(out))
