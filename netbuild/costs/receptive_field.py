"""Theoretical receptive fields, carried from tensor to tensor by the operators that run.

Along each image axis a tensor knows the input interval that each of its positions sees, as if the map had no borders.
After upsampling neighbours see unequal steps, so intervals are kept for a whole period of positions. An axis that is
seen whole has an infinite interval. (Without upsampling this is Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from netbuild.costs.shape_rules import aten, reduced_dims

MAX_PERIOD = 1024
MAX_ADVANCE = 2**53  # pixels; beyond it floats are no longer exact
MAX_READS = 4096  # of the positions of a period together; nets that people draw have dozens


class _TooLongError(Exception):
    """An axis whose period is not worth its computation."""


class Axis(NamedTuple):
    """What positions see along one axis: position i sees [low[i], high[i]] in input pixels.

    Intervals repeat every ``len(low)`` positions, ``advance`` pixels further on.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    advance: float

    @property
    def jump(self) -> float:
        """Input pixels from a position to the next, on average."""
        return self.advance / len(self.low)

    @property
    def size(self) -> float:
        """Pixels of the largest interval."""
        return max(high - low for low, high in zip(self.low, self.high, strict=True)) + 1

    def at(self, i: int) -> tuple[float, float]:
        """The interval that a position sees."""
        turns, place = divmod(i, len(self.low))
        return self.low[place] + turns * self.advance, self.high[place] + turns * self.advance


class Field(NamedTuple):
    """The receptive field of a map's positions; ``grid`` is the (height, width) of the map they lie on."""

    h: Axis
    w: Axis
    grid: tuple[int, int]
    known: bool = True

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in input pixels, None once an axis sees everything."""
        if math.inf in (self.h.size, self.w.size):
            return None
        return math.ceil(self.h.size), math.ceil(self.w.size)

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
    pixel = Axis((0,), (0,), 1)
    image.nb_field = Field(pixel, pixel, (image.shape[-2], image.shape[-1]))  # type: ignore[attr-defined]


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
        try:
            field = function(field, out, *args, **kwargs)
        except _TooLongError:
            field = field._replace(known=False)
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
    if any(axis.size == math.inf for axis in axes):
        return seen_whole(base)
    if any(axis.jump != base.jump for axis in axes):
        axes, base = [_evened(axis) for axis in axes], _evened(base)
    period = math.lcm(*(len(axis.low) for axis in axes))
    if period > MAX_PERIOD:
        axes, base, period = [_evened(axis) for axis in axes], _evened(base), 1
    seen = [[axis.at(i) for axis in axes] for i in range(period)]
    return _axis(seen, base.advance * (period // len(base.low)))


def _axis(seen: Iterable[Sequence[tuple[float, float]]], advance: float) -> Axis:
    # A position that reads nothing, as between the taps of a transposed convolution, sees less than any other.
    low, high = zip(
        *((min((a for a, _ in s), default=math.inf), max((b for _, b in s), default=-math.inf)) for s in seen),
        strict=True,
    )
    return Axis(low, high, advance)


def _evened(axis: Axis) -> Axis:
    """One interval for all positions, wide enough for each: for maps whose positions do not lie on each other."""
    places = range(len(axis.low))
    low, high = min(axis.low[i] - i * axis.jump for i in places), max(axis.high[i] - i * axis.jump for i in places)
    return Axis((low,), (high,), axis.jump)


def _read(axis: Axis, period: int, step: int, reads: Callable[[int], Sequence[int]]) -> Axis:
    """The axis of positions that read others: i reads reads(i), and i + period what lies step further on."""
    turns = math.lcm(step, len(axis.low)) // step
    if period > MAX_PERIOD:
        raise _TooLongError
    most = max(len(reads(i)) for i in range(period))
    if period * turns * min(most, 2 * len(axis.low)) > MAX_READS:
        axis, turns = _evened(axis), 1
    advance = axis.advance * step * turns / len(axis.low)
    if advance > MAX_ADVANCE:
        raise _TooLongError
    return _axis([[axis.at(j) for j in _ends(axis, reads(i))] for i in range(period * turns)], advance)


def _ends(axis: Axis, places: Sequence[int]) -> Sequence[int]:
    """Of evenly spaced places those that may see furthest: a period at either end, whatever lies between."""
    period = len(axis.low)
    return places if len(places) <= 2 * period else (*places[:period], *places[-period:])


def on_grid(x: Any, field: Field) -> bool:
    """Whether a tensor's last two dimensions are the positions of its field."""
    return isinstance(x, torch.Tensor) and x.ndim >= 3 and tuple(x.shape[-2:]) == field.grid


def settled(x: torch.Tensor, field: Field) -> Field:
    """The field on a map's own grid: views may have dealt positions out to channels, as Focus does, or back."""
    if x.ndim != 4 or x.shape[0] != 1 or on_grid(x, field) or 0 in x.shape:
        return field
    (height, width), (h, w) = field.grid, x.shape[-2:]
    down, across = height // h, width // w
    if (down * h, across * w) == field.grid and x.shape[1] % (down * across) == 0:
        return Field(_slide(field.h, down, down, 0, 1), _slide(field.w, across, across, 0, 1), (h, w), field.known)
    if h % height == 0 and w % width == 0:
        up, along = h // height, w // width
        axes = _read(field.h, up, 1, lambda i: [i // up]), _read(field.w, along, 1, lambda i: [i // along])
        return Field(*axes, (h, w), field.known)
    return field


def whole(field: Field) -> Field:
    """The field once all positions are mixed; one position alone has nothing to mix with."""
    if field.grid == (1, 1):
        return field
    return field._replace(h=seen_whole(field.h), w=seen_whole(field.w))


def seen_whole(axis: Axis) -> Axis:
    """An axis of which each position sees everything."""
    return Axis((-math.inf,), (math.inf,), axis.jump)


def _slide(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    return _read(
        axis, 1, stride, lambda i: range(i * stride - padding, i * stride - padding + dilation * kernel, dilation)
    )


def _windowed(field: Field, out: Any, x: torch.Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    kernel, stride, padding, dilation = (_pair(v) for v in (kernel, stride, padding, dilation))
    field = settled(x, field)
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
def _convolution(
    field: Field,
    out: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *_: Any,
) -> Field:
    if weight.ndim == 4 and not transposed:
        return _windowed(field, out, x, weight.shape[2:], stride, padding, dilation)
    field = settled(x, field)
    if weight.ndim == 4 and on_grid(x, field):
        return _transposed(field, out, weight.shape[2:], _pair(stride), _pair(padding), _pair(dilation))
    return field._replace(known=False)


def _transposed(field: Field, out: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    h, w = (_spread(*v) for v in zip((field.h, field.w), kernel, stride, padding, dilation, strict=True))
    return field._replace(h=h, w=w, grid=_grid(out))


def _spread(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    common = math.gcd(dilation, stride)
    every, apart = stride // common, dilation // common  # each every-th tap reads, apart from the one before it

    def reads(i: int) -> range:
        if (i + padding) % common:
            return range(0)
        first = (i + padding) // common * pow(apart, -1, every) % every
        place = (i + padding - dilation * first) // stride
        return range(place, place - apart * len(range(first, kernel, every)), -apart)

    return _read(axis, stride, 1, reads)


@transfer("max_pool2d_with_indices.default", "avg_pool2d.default", "avg_pool3d.default")
def _pool(
    field: Field, out: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, *rest: Any, **_: Any
) -> Field:
    dilation = rest[0] if rest and not isinstance(rest[0], bool) else 1
    return _windowed(field, out, x, kernel, stride or kernel, padding, dilation)


@transfer("_adaptive_avg_pool2d.default", "adaptive_max_pool2d.default")
def _adaptive(field: Field, out: Any, x: Any, size: Sequence[int]) -> Field:
    field = settled(x, field)
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
    common = math.gcd(n, bins)
    return _read(axis, bins // common, n // common, lambda i: range(i * n // bins, -(-(i + 1) * n // bins)))


@transfer(
    *(f"{name}.default" for name in ("amax", "amin", "mean", "sum", "argmax", "argmin")),
    *(f"{name}.default" for name in ("_softmax", "_log_softmax", "_safe_softmax")),
    *("mean.dim", "sum.dim_IntList", "max.dim", "min.dim", "var.correction", "std.correction"),
)
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


@transfer("linalg_vector_norm.default")
def _norm(field: Field, out: Any, x: Any, order: Any = 2, dim: Any = None, *_: Any, **__: Any) -> Field:
    return _reduction(field, out, x, dim)


def _rank(out: Any) -> int:
    return (out[0] if isinstance(out, (tuple, list)) else out).ndim


@transfer("mm.default")
def _mm(field: Field, out: Any, a: torch.Tensor, b: torch.Tensor) -> Field:
    # Rows that are positions stay apart (there may be more: padding, a class token); one that holds a map mixes it.
    area = field.grid[0] * field.grid[1]
    return field if a.shape[0] >= area else whole(field)._replace(grid=(1, 1))


@transfer("addmm.default")
def _addmm(field: Field, out: Any, _: Any, a: torch.Tensor, b: torch.Tensor, **__: Any) -> Field:
    return _mm(field, out, a, b)


@transfer("bmm.default")
def _bmm(field: Field, out: Any, a: torch.Tensor, b: torch.Tensor) -> Field:
    if field_of(a) is None or field_of(b) is None:
        return field
    group = max(a.shape[1], b.shape[2]) if a.shape[2] != max(a.shape[1:]) else a.shape[2]
    height, width = field.grid
    if group >= height * width:
        return whole(field)
    if group % width:  # windows: which positions stand together is not seen here
        return field._replace(known=False)
    # Area attention: each position sees its own run of rows.
    rows = group // width
    h = _read(field.h, rows, rows, lambda i: range(i // rows * rows, i // rows * rows + rows))
    return field._replace(h=h, w=seen_whole(field.w))


@transfer("baddbmm.default")
def _baddbmm(field: Field, out: Any, _: Any, a: torch.Tensor, b: torch.Tensor, **__: Any) -> Field:
    return _bmm(field, out, a, b)


@transfer("upsample_nearest2d.default", "upsample_nearest3d.default")
def _nearest(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, lambda i, n, m: [i * n // m])


@transfer("_upsample_nearest_exact2d.default")
def _nearest_exact(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, lambda i, n, m: [(2 * i + 1) * n // (2 * m)])


@transfer("upsample_bilinear2d.default", "upsample_trilinear3d.default")
def _bilinear(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, partial(_neighbours, 1))


@transfer("upsample_bicubic2d.default")
def _bicubic(field: Field, out: Any, x: Any, *_: Any) -> Field:
    return _resized(field, out, x, partial(_neighbours, 2))


def _neighbours(reach: int, i: int, n: int, m: int) -> range:
    # Output i lies at (i + 1/2) n / m - 1/2; exactly on an input it reads that one alone.
    place, rest = divmod((2 * i + 1) * n - m, 2 * m)
    return range(place - reach + 1, place + reach + 1) if rest else range(place, place + 1)


def _resized(field: Field, out: Any, x: torch.Tensor, reads: Callable[[int, int, int], Sequence[int]]) -> Field:
    field = settled(x, field)
    if not on_grid(x, field):
        return field._replace(known=False)
    h, w = (_resized_axis(*v, reads) for v in zip((field.h, field.w), x.shape[-2:], out.shape[-2:], strict=True))
    return field._replace(h=h, w=w, grid=_grid(out))


def _resized_axis(axis: Axis, before: int, after: int, reads: Callable[[int, int, int], Sequence[int]]) -> Axis:
    common = math.gcd(before, after)
    return _read(axis, after // common, before // common, lambda i: reads(i, before, after))


@transfer("pixel_shuffle.default")
def _pixel_shuffle(field: Field, out: Any, x: torch.Tensor, r: int) -> Field:
    return _resized(field, out, x, lambda i, n, m: [i // r])


@transfer("im2col.default")
def _im2col(field: Field, out: Any, x: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Field:
    if not on_grid(x, field):
        return field._replace(known=False)
    k, s, p, d = map(_pair, (kernel, stride, padding, dilation))
    high, wide = ((n + 2 * p[i] - d[i] * (k[i] - 1) - 1) // s[i] + 1 for i, n in enumerate(field.grid))
    h, w = (_slide(axis, k[i], s[i], p[i], d[i]) for i, axis in enumerate((field.h, field.w)))
    return field._replace(h=h, w=w, grid=(high, wide))


@transfer("pixel_unshuffle.default")
def _pixel_unshuffle(field: Field, out: Any, x: torch.Tensor, r: int) -> Field:
    return _windowed(field, out, x, r, r, 0, 1)


@transfer("constant_pad_nd.default", "reflection_pad2d.default", "replication_pad2d.default")
def _pad(field: Field, out: Any, x: Any, pad: Sequence[int], *_: Any) -> Field:
    if not on_grid(x, field):
        return field
    top, left = (pad[2] if len(pad) > 2 else 0), pad[0]
    return field._replace(h=_slide(field.h, 1, 1, top, 1), w=_slide(field.w, 1, 1, left, 1), grid=_grid(out))


@transfer("flip.default")
def _flip(field: Field, out: Any, x: Any, dims: Sequence[int]) -> Field:
    return _turned(field, x, dims)


@transfer("roll.default")
def _roll(field: Field, out: Any, x: Any, shifts: Any, dims: Sequence[int] = ()) -> Field:
    return _turned(field, x, dims)


def _turned(field: Field, x: torch.Tensor, dims: Sequence[int]) -> Field:
    # Positions that change places no longer lie a step apart.
    moved = on_grid(x, field) and (not dims or any(d % x.ndim >= x.ndim - 2 for d in dims))
    return field._replace(known=False) if moved else field


@transfer("slice.Tensor")
def _slice(
    field: Field, out: Any, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Field:
    axis_of = {x.ndim - 2: "h", x.ndim - 1: "w"}.get(dim % x.ndim)
    if axis_of is None or not on_grid(x, field):
        return field
    axis: Axis = getattr(field, axis_of)
    first = (start or 0) % x.shape[dim] if (start or 0) < 0 else (start or 0)
    moved = _slide(axis, 1, step, -first, 1)
    h, w = (moved, field.w) if axis_of == "h" else (field.h, moved)
    return field._replace(h=h, w=w, grid=_grid(out))
