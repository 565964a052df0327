"""Theoretical receptive fields, propagated from an operator's inputs to its outputs.

For each image axis, a `Field` holds the interval of input pixels that each position of a map depends on, as if the map
had no borders. After upsampling the intervals of neighbouring positions are not evenly spaced, so they are stored for a
whole period of positions. An axis whose positions depend on all pixels has infinite intervals. Without upsampling this
is the calculation of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks" (Distill,
2019).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from netbuild.costs.shape_rules import aten

MAX_PERIOD = 1024  # positions
MAX_ADVANCE = 2**53  # pixels; beyond it floats are no longer exact
MAX_READS = 4096  # positions read by all positions of a period; real networks have dozens


class _PeriodLimitError(Exception):
    """The period of an axis is too long; its field is then unknown."""


class Axis(NamedTuple):
    """The receptive fields of a map's positions along one axis.

    Args:
        low, high: position i depends on the input pixels low[i] to high[i]; after ``len(low)`` positions, the period,
            the intervals repeat.
        advance: pixels by which the intervals are shifted from one period to the next.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    advance: float

    @property
    def jump(self) -> float:
        """Average distance of neighbouring positions in input pixels."""
        return self.advance / len(self.low)

    @property
    def size(self) -> float:
        """Size of the largest interval in pixels."""
        return max(high - low for low, high in zip(self.low, self.high, strict=True)) + 1

    def interval(self, i: int) -> tuple[float, float]:
        """Return the interval of a position, which may lie outside the first period."""
        periods, place = divmod(i, len(self.low))
        return self.low[place] + periods * self.advance, self.high[place] + periods * self.advance


class Field(NamedTuple):
    """The receptive fields of a map's positions.

    Args:
        h, w: along the height and the width.
        grid: (height, width) of the map.
        known: False after an operator whose effect on the field is not known.
    """

    h: Axis
    w: Axis
    grid: tuple[int, int]
    known: bool = True

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in input pixels; None if positions depend on a whole axis."""
        if math.inf in (self.h.size, self.w.size):
            return None
        return math.ceil(self.h.size), math.ceil(self.w.size)

    @property
    def stride(self) -> tuple[float, float]:
        """Average distance of neighbouring positions, (vertical, horizontal), in input pixels."""
        return self.h.jump, self.w.jump


FieldRule = Callable[..., Field]
FIELD_RULES: dict[Any, FieldRule] = {}


def field_rule(*names: str) -> Callable[[FieldRule], FieldRule]:
    """Register a function that computes an output's field for aten operators, given as ``name.overload``.

    The function takes the joined field of the inputs, the output, and the operator's arguments.
    """

    def register(function: FieldRule) -> FieldRule:
        for name in names:
            packet, _, overload = name.partition(".")
            op = getattr(getattr(aten, packet, None), overload or "default", None)
            if op is not None:
                FIELD_RULES[op] = function
        return function

    return register


def mark_image(image: torch.Tensor) -> None:
    """Mark a tensor as the input image, in which each position depends on itself."""
    pixel = Axis((0,), (0,), 1)
    image.nb_field = Field(pixel, pixel, (image.shape[-2], image.shape[-1]))  # type: ignore[attr-defined]


def field_of(x: Any) -> Field | None:
    """Return a tensor's field, None for a weight or a constant."""
    return getattr(x, "nb_field", None)


def propagate(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
    """Compute the field of an operator's outputs from its inputs and attach it to them."""
    fields = [field for arg in args for field in _collect_fields(arg)]
    if not fields:
        return
    field = fields[0] if len(fields) == 1 else join_fields(fields, out)
    function = FIELD_RULES.get(func)
    if function is not None:
        try:
            field = function(field, out, *args, **kwargs)
        except _PeriodLimitError:
            field = field._replace(known=False)
    for item in out if isinstance(out, (tuple, list)) else (out,):
        if isinstance(item, torch.Tensor):
            item.nb_field = field  # type: ignore[attr-defined]


def _collect_fields(arg: Any) -> list[Field]:
    if isinstance(arg, (list, tuple)):
        return [field for item in arg for field in _collect_fields(item)]
    field = field_of(arg)
    return [field] if field is not None else []


def join_fields(fields: Sequence[Field], out: Any) -> Field:
    """Return the smallest field that contains all given ones.

    Its grid is that of the field on the output's grid, else the largest.
    """
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
    seen = [[axis.interval(i) for axis in axes] for i in range(period)]
    return _enclosing_axis(seen, base.advance * (period // len(base.low)))


def _enclosing_axis(seen: Iterable[Sequence[tuple[float, float]]], advance: float) -> Axis:
    """The axis whose position i encloses all intervals in seen[i]."""
    # A position that reads nothing, as between the taps of a transposed convolution, gets an empty interval.
    low, high = zip(
        *((min((a for a, _ in s), default=math.inf), max((b for _, b in s), default=-math.inf)) for s in seen),
        strict=True,
    )
    return Axis(low, high, advance)


def average_axis(axis: Axis) -> Axis:
    """Return an axis of period 1 whose interval, shifted evenly, contains the interval of each position."""
    period = range(len(axis.low))
    low, high = min(axis.low[i] - i * axis.jump for i in period), max(axis.high[i] - i * axis.jump for i in period)
    return Axis((low,), (high,), axis.jump)


def read_positions(axis: Axis, period: int, step: int, reads: Callable[[int], Sequence[int]]) -> Axis:
    """Return the axis of positions that read positions of another axis.

    Args:
        axis: the axis that is read.
        period, step: position i + period reads what position i reads, shifted by step positions.
        reads: evenly spaced positions that position i reads, for i below the period.
    """
    repeats = math.lcm(step, len(axis.low)) // step  # of the period, until what is read is a whole number of periods
    if period > MAX_PERIOD:
        raise _PeriodLimitError
    most = max(len(reads(i)) for i in range(period))
    # Too many intervals to enumerate: a coarser field, wide enough for each position.
    if period * repeats * min(most, 2 * len(axis.low)) > MAX_READS:
        axis, repeats = average_axis(axis), 1
    advance = axis.advance * step * repeats / len(axis.low)
    if advance > MAX_ADVANCE:
        raise _PeriodLimitError
    return _enclosing_axis(
        [[axis.interval(j) for j in _select_ends(axis, reads(i))] for i in range(period * repeats)], advance
    )


def _select_ends(axis: Axis, positions: Sequence[int]) -> Sequence[int]:
    """Select those of evenly spaced positions that may have the outermost intervals: one period at either end."""
    period = len(axis.low)
    return positions if len(positions) <= 2 * period else (*positions[:period], *positions[-period:])


def is_on_grid(x: Any, field: Field) -> bool:
    """Whether a tensor's last two dimensions are the grid of its field."""
    return isinstance(x, torch.Tensor) and x.ndim >= 3 and tuple(x.shape[-2:]) == field.grid


def regrid(x: torch.Tensor, field: Field) -> Field:
    """Return the field on the H x W grid of `x`, after views moved positions into channels (space to depth) or back."""
    if x.ndim != 4 or x.shape[0] != 1 or is_on_grid(x, field) or 0 in x.shape:
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
    """Return the field after an operator that mixes all positions of the map."""
    if field.grid == (1, 1):
        return field
    return field._replace(h=unbounded_axis(field.h), w=unbounded_axis(field.w))


def unbounded_axis(axis: Axis) -> Axis:
    """Return an axis whose positions depend on all pixels."""
    return Axis((-math.inf,), (math.inf,), axis.jump)


def slide_window(axis: Axis, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    """Return the axis after a sliding window, as of a convolution or pooling."""
    return read_positions(
        axis, 1, stride, lambda i: range(i * stride - padding, i * stride - padding + dilation * kernel, dilation)
    )
