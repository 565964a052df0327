"""Theoretical receptive fields, carried from tensor to tensor by the operators that run.

Along each image axis a tensor knows the input interval that each of its positions sees, as if the map had no borders.
After upsampling neighbours see unequal steps, so intervals are kept for a whole period of positions. An axis that is
seen whole has an infinite interval. (Without upsampling this is Araujo, Norris and Sim, "Computing Receptive Fields of
Convolutional Neural Networks", Distill 2019.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from netbuild.costs.shape_rules import aten

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


def propagate(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
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
    h = _join_axes([f.h for f in fields], base.h)
    w = _join_axes([f.w for f in fields], base.w)
    return Field(h, w, base.grid, all(f.known for f in fields))


def _join_axes(axes: Sequence[Axis], base: Axis) -> Axis:
    if any(axis.size == math.inf for axis in axes):
        return unbounded_axis(base)
    if any(axis.jump != base.jump for axis in axes):
        axes, base = [average_axis(axis) for axis in axes], average_axis(base)
    period = math.lcm(*(len(axis.low) for axis in axes))
    if period > MAX_PERIOD:
        axes, base, period = [average_axis(axis) for axis in axes], average_axis(base), 1
    seen = [[axis.at(i) for axis in axes] for i in range(period)]
    return _enclosing_axis(seen, base.advance * (period // len(base.low)))


def _enclosing_axis(seen: Iterable[Sequence[tuple[float, float]]], advance: float) -> Axis:
    # A position that reads nothing, as between the taps of a transposed convolution, sees less than any other.
    low, high = zip(
        *((min((a for a, _ in s), default=math.inf), max((b for _, b in s), default=-math.inf)) for s in seen),
        strict=True,
    )
    return Axis(low, high, advance)


def average_axis(axis: Axis) -> Axis:
    """One interval for all positions, wide enough for each: for maps whose positions do not lie on each other."""
    places = range(len(axis.low))
    low, high = min(axis.low[i] - i * axis.jump for i in places), max(axis.high[i] - i * axis.jump for i in places)
    return Axis((low,), (high,), axis.jump)


def read_positions(axis: Axis, period: int, step: int, reads: Callable[[int], Sequence[int]]) -> Axis:
    """The axis of positions that read others: i reads reads(i), and i + period what lies step further on."""
    turns = math.lcm(step, len(axis.low)) // step
    if period > MAX_PERIOD:
        raise _TooLongError
    most = max(len(reads(i)) for i in range(period))
    if period * turns * min(most, 2 * len(axis.low)) > MAX_READS:
        axis, turns = average_axis(axis), 1
    advance = axis.advance * step * turns / len(axis.low)
    if advance > MAX_ADVANCE:
        raise _TooLongError
    return _enclosing_axis([[axis.at(j) for j in _furthest(axis, reads(i))] for i in range(period * turns)], advance)


def _furthest(axis: Axis, places: Sequence[int]) -> Sequence[int]:
    """Of evenly spaced places those that may see furthest: a period at either end, whatever lies between."""
    period = len(axis.low)
    return places if len(places) <= 2 * period else (*places[:period], *places[-period:])


def on_grid(x: Any, field: Field) -> bool:
    """Whether a tensor's last two dimensions are the positions of its field."""
    return isinstance(x, torch.Tensor) and x.ndim >= 3 and tuple(x.shape[-2:]) == field.grid


def on_own_grid(x: torch.Tensor, field: Field) -> Field:
    """The field on `x`'s own H x W grid, after views moved positions into channels (space to depth) or back."""
    if x.ndim != 4 or x.shape[0] != 1 or on_grid(x, field) or 0 in x.shape:
        return field
    (height, width), (h, w) = field.grid, x.shape[-2:]
    down, across = height // h, width // w
    if (down * h, across * w) == field.grid and x.shape[1] % (down * across) == 0:
        return Field(
            slide_window(field.h, down, down, 0, 1), slide_window(field.w, across, across, 0, 1), (h, w), field.known
        )
    if h % height == 0 and w % width == 0:
        up, along = h // height, w // width
        axes = (
            read_positions(field.h, up, 1, lambda i: [i // up]),
            read_positions(field.w, along, 1, lambda i: [i // along]),
        )
        return Field(*axes, (h, w), field.known)
    return field


def mix_all_positions(field: Field) -> Field:
    """The field once all positions are mixed; one position alone has nothing to mix with."""
    if field.grid == (1, 1):
        return field
    return field._replace(h=unbounded_axis(field.h), w=unbounded_axis(field.w))


def unbounded_axis(axis: Axis) -> Axis:
    """An axis of which each position sees everything."""
    return Axis((-math.inf,), (math.inf,), axis.jump)


def slide_window(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """The axis of positions that each see a window of the positions before, as a convolution's do."""
    return read_positions(
        axis, 1, stride, lambda i: range(i * stride - padding, i * stride - padding + dilation * kernel, dilation)
    )
