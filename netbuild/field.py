"""Theoretical receptive fields, carried from tensor to tensor by the operators that run.

For each image axis a tensor knows the input interval that one position sees and the step from a position to the next:
position i sees the input from i * jump + low to i * jump + high (Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019). An axis that is seen whole has an infinite interval.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from netbuild.ops import aten, reduced_dims


class Axis(NamedTuple):
    """What one position sees along one axis: the interval [low, high] around i * jump, in input pixels."""

    low: float
    high: float
    jump: float


class Field(NamedTuple):
    """The receptive field of a map's positions; ``grid`` is the (height, width) of the map they lie on."""

    h: Axis
    w: Axis
    grid: tuple[int, int]
    known: bool = True

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in input pixels, None once an axis sees everything."""
        if math.inf in (self.h.high, self.w.high):
            return None
        return math.ceil(self.h.high - self.h.low) + 1, math.ceil(self.w.high - self.w.low) + 1

    @property
    def stride(self) -> tuple[float, float]:
        """Input pixels from a position to the next."""
        return self.h.jump, self.w.jump


Transfer = Callable[..., Field]
TRANSFERS: dict[Any, Transfer] = {}


def transfer(*names: str) -> Callable[[Transfer], Transfer]:
    """Register how the field of an operator's first input becomes that of its output."""

    def register(function: Transfer) -> Transfer:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(aten, packet, None), overload or "default", None)
            if op is not None:
                TRANSFERS[op] = function
        return function

    return register


def image_field(image: torch.Tensor) -> None:
    """Mark a tensor as the input image: every position sees itself."""
    image.nb_field = Field(Axis(0, 0, 1), Axis(0, 0, 1), (image.shape[-2], image.shape[-1]))  # type: ignore[attr-defined]


def field_of(x: Any) -> Field | None:
    """The field of a tensor, None for a weight or a constant."""
    return getattr(x, "nb_field", None)


def follow(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Give an operator's outputs their field."""
    fields = [field for arg in args for field in _fields(arg)]
    if not fields:
        return
    field = fields[0] if len(fields) == 1 else union(fields, out)
    function = TRANSFERS.get(func)
    if function is not None:
        field = function(field, out, *args, **kwargs)
    for item in out if isinstance(out, (tuple, list)) else (out,):
        if isinstance(item, torch.Tensor):
            item.nb_field = field  # type: ignore[attr-defined]


def _fields(arg: Any) -> list[Field]:
    if isinstance(arg, (list, tuple)):
        return [field for item in arg for field in _fields(item)]
    field = field_of(arg)
    return [field] if field is not None else []


def union(fields: Sequence[Field], out: Any) -> Field:
    """What a position sees that reads all of these; the grid is the output's where one of them lies on it."""
    shape = out.shape[-2:] if isinstance(out, torch.Tensor) and out.ndim >= 2 else ()
    base = next((f for f in fields if f.grid == tuple(shape)), max(fields, key=lambda f: f.grid[0] * f.grid[1]))
    h = _hull([f.h for f in fields], base.h)
    w = _hull([f.w for f in fields], base.w)
    return Field(h, w, base.grid, all(f.known for f in fields))


def _hull(axes: Sequence[Axis], base: Axis) -> Axis:
    return Axis(min(a.low for a in axes), max(a.high for a in axes), base.jump)


def _regrid(field: Field, out: torch.Tensor) -> Field:
    # A view between tokens and a map keeps the positions; a map of other sides on the same area is another layout.
    return field


def on_grid(x: Any, field: Field) -> bool:
    """Whether a tensor's last two dimensions are the positions of its field."""
    return isinstance(x, torch.Tensor) and x.ndim >= 3 and tuple(x.shape[-2:]) == field.grid


def whole(field: Field) -> Field:
    """The field once all positions are mixed; one position alone has nothing to mix with."""
    if field.grid == (1, 1):
        return field
    return field._replace(h=seen_whole(field.h), w=seen_whole(field.w))


def seen_whole(axis: Axis) -> Axis:
    """An axis of which each position sees everything."""
    return Axis(-math.inf, math.inf, axis.jump)


def _slide(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    low = axis.low - padding * axis.jump
    high = axis.high + (dilation * (kernel - 1) - padding) * axis.jump
    return Axis(low, high, axis.jump * stride)


def _windowed(field: Field, out: Any, x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    kernel, stride, padding, dilation = (_pair(v) for v in (kernel, stride, padding, dilation))
    if not on_grid(x, field):
        return field if kernel == (1, 1) else field._replace(known=False)
    h = _slide(field.h, kernel[0], stride[0], padding[0], dilation[0])
    w = _slide(field.w, kernel[1], stride[1], padding[1], dilation[1])
    return field._replace(h=h, w=w, grid=_grid(out))


def _pair(value: Any) -> tuple[int, int]:
    # The last two count: a 3-d pooling over channels and an image ends in the image's axes.
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (values[-2], values[-1]) if len(values) > 1 else (values[0], values[0])


def _grid(out: Any) -> tuple[int, int]:
    first = out[0] if isinstance(out, (tuple, list)) else out
    return first.shape[-2], first.shape[-1]


@transfer("convolution.default")
def _convolution(field: Field, out: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *_: Any) -> Field:
    if weight.ndim == 4 and not transposed:
        return _windowed(field, out, x, weight.shape[2:], stride, padding, dilation)
    if weight.ndim == 4 and on_grid(x, field):
        return _transposed(field, out, weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation))
    return field._replace(known=False)


def _transposed(field: Field, out: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    axes = []
    for axis, k, s, p, d in zip((field.h, field.w), kernel, stride, padding, dilation, strict=True):
        # Output i reads the inputs (i + p - d*t) / s for the taps t that divide: at most ceil of the kernel over the stride.
        reads = -(-(d * (k - 1) + 1) // s) - 1
        axes.append(Axis(axis.low - (reads - p / s) * axis.jump, axis.high + p / s * axis.jump, axis.jump / s))
    return field._replace(h=axes[0], w=axes[1], grid=_grid(out))


@transfer("max_pool2d_with_indices.default", "avg_pool2d.default", "avg_pool3d.default")
def _pool(field: Field, out: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, *rest: Any, **_: Any) -> Field:
    dilation = rest[0] if rest and not isinstance(rest[0], bool) else 1
    return _windowed(field, out, x, kernel, stride or kernel, padding, dilation)


@transfer("_adaptive_avg_pool2d.default", "adaptive_max_pool2d.default")
def _adaptive(field: Field, out: Any, x: Any, size: Sequence[int]) -> Field:
    if not on_grid(x, field):
        return field._replace(known=False)
    h = _adaptive_axis(field.h, x.shape[-2], size[0])
    w = _adaptive_axis(field.w, x.shape[-1], size[1])
    return field._replace(h=h, w=w, grid=_grid(out))


def _adaptive_axis(axis: Axis, n: int, bins: int) -> Axis:
    if n == bins:
        return axis
    if bins == 1:
        return seen_whole(axis)
    widest = max(-(-(i + 1) * n // bins) - i * n // bins for i in range(bins))
    return Axis(axis.low, axis.high + (widest - 1) * axis.jump, axis.jump * n / bins)


@transfer("mean.dim", "sum.dim_IntList", "amax.default", "amin.default", "max.dim", "min.dim", "_softmax.default", "_log_softmax.default")
def _reduction(field: Field, out: Any, x: Any, dim: Any = None, *_: Any, **__: Any) -> Field:
    dims = reduced_dims(x, dim)
    if on_grid(x, field):
        gone_h, gone_w = x.ndim - 2 in dims and field.grid[0] > 1, x.ndim - 1 in dims and field.grid[1] > 1
        kept = all(a == b for a, b in zip(_grid(out), field.grid, strict=True)) if _rank(out) >= 2 else False
        grid = field.grid if kept else (1 if gone_h else field.grid[0], 1 if gone_w else field.grid[1])
        h, w = (seen_whole(a) if gone else a for a, gone in ((field.h, gone_h), (field.w, gone_w)))
        return field._replace(h=h, w=w, grid=grid)
    area = field.grid[0] * field.grid[1]
    return whole(field) if area > 1 and any(x.shape[d] == area for d in dims) else field


def _rank(out: Any) -> int:
    return (out[0] if isinstance(out, (tuple, list)) else out).ndim


@transfer("mm.default")
def _mm(field: Field, out: Any, a: torch.Tensor, b: torch.Tensor) -> Field:
    # Rows that are positions stay apart; one row that holds a whole map mixes it.
    area = field.grid[0] * field.grid[1]
    return field if a.shape[0] % area == 0 else whole(field)._replace(grid=(1, 1))


@transfer("addmm.default")
def _addmm(field: Field, out: Any, _: Any, a: torch.Tensor, b: torch.Tensor, **__: Any) -> Field:
    return _mm(field, out, a, b)


@transfer("bmm.default")
def _bmm(field: Field, out: Any, a: torch.Tensor, b: torch.Tensor) -> Field:
    if field_of(a) is None or field_of(b) is None:
        return field
    group = max(a.shape[1], b.shape[2]) if a.shape[2] != max(a.shape[1:]) else a.shape[2]
    height, width = field.grid
    if group >= height * width or group % width:
        return whole(field)
    # Area attention: each position sees its own run of rows.
    spread = (group // width - 1) * field.h.jump
    h = Axis(field.h.low - spread, field.h.high + spread, field.h.jump)
    return field._replace(h=h, w=seen_whole(field.w))


@transfer("baddbmm.default")
def _baddbmm(field: Field, out: Any, _: Any, a: torch.Tensor, b: torch.Tensor, **__: Any) -> Field:
    return _bmm(field, out, a, b)


@transfer("upsample_nearest2d.default", "_upsample_nearest_exact2d.default")
def _nearest(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, 0)


@transfer("upsample_bilinear2d.default")
def _bilinear(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, 1)


@transfer("upsample_bicubic2d.default")
def _bicubic(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, 3)


def _resized(field: Field, out: Any, x: torch.Tensor, neighbours: int) -> Field:
    axes = []
    for axis, before, after in zip((field.h, field.w), x.shape[-2:], out.shape[-2:], strict=True):
        axes.append(Axis(axis.low, axis.high + neighbours * axis.jump, axis.jump * before / after))
    return field._replace(h=axes[0], w=axes[1], grid=_grid(out))


@transfer("pixel_shuffle.default")
def _pixel_shuffle(field: Field, out: Any, x: torch.Tensor, r: int) -> Field:
    return _resized(field, out, x, 0)


@transfer("pixel_unshuffle.default")
def _pixel_unshuffle(field: Field, out: Any, x: torch.Tensor, r: int) -> Field:
    return _windowed(field, out, x, r, r, 0, 1)


@transfer("constant_pad_nd.default", "reflection_pad2d.default", "replication_pad2d.default")
def _pad(field: Field, out: Any, x: Any, pad: Sequence[int], *_: Any) -> Field:
    if not on_grid(x, field):
        return field
    top, left = (pad[2] if len(pad) > 2 else 0), pad[0]
    axes = [axis._replace(low=axis.low - p * axis.jump, high=axis.high - p * axis.jump) for axis, p in ((field.h, top), (field.w, left))]
    return field._replace(h=axes[0], w=axes[1], grid=_grid(out))


@transfer("slice.Tensor")
def _slice(field: Field, out: Any, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Field:
    axis_of = {x.ndim - 2: "h", x.ndim - 1: "w"}.get(dim % x.ndim)
    if axis_of is None or not on_grid(x, field):
        return field
    axis: Axis = getattr(field, axis_of)
    first = (start or 0) % x.shape[dim] if (start or 0) < 0 else (start or 0)
    moved = Axis(axis.low + first * axis.jump, axis.high + first * axis.jump, axis.jump * step)
    return field._replace(**{axis_of: moved}, grid=_grid(out))
