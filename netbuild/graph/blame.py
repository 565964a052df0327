"""Whatever goes wrong in a module becomes an error at its row, with what arrives at it and how to repair it."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from netbuild.costs.outputs import Shape, shape_of
from netbuild.costs.receptive_field import Field
from netbuild.costs.shape_rules import MismatchError, ShapeError, shape_text
from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.rows import Row
from netbuild.modules.factory import Factory


class Resolved(Protocol):
    """What blame must know of the rows above."""

    @property
    def row(self) -> Row:
        """The row."""

    @property
    def out_shape(self) -> Shape:
        """What came out of it."""

    @property
    def field(self) -> Field | None:
        """Its receptive field."""


class SourceFailedError(Exception):
    """A source of the row has an error of its own."""


@contextmanager
def blame(
    row: Row, inputs: Sequence[Any], above: Sequence[Resolved], factory: Factory, imgsz: Sequence[int]
) -> Iterator[None]:
    """Turn whatever goes wrong in a module into an error at its row, with what arrives at it."""
    try:
        with placed(row):
            yield
    except (NetbuildError, SourceFailedError):
        raise
    except Exception as error:
        raise _row_error(row, inputs, above, factory, imgsz, error) from error


@contextmanager
def placed(row: Row) -> Iterator[None]:
    """Give an error that knows no place the row's."""
    try:
        yield
    except NetbuildError as error:
        if error.where is None:
            error.message, error.where = f"{row.label}: {error.message}", row.where
        raise


def _row_error(
    row: Row, inputs: Sequence[Any], above: Sequence[Resolved], factory: Factory, imgsz: Sequence[int], error: Exception
) -> NetbuildError:
    text = shorten(str(error) or type(error).__name__, 300)
    labels = {layer.row.index: layer.row.label for layer in above}
    place = _own_place(factory, error)
    if place:
        text += f" (raised at {place})"
    arriving = [
        f"  from {labels.get(s, 'the input')}: {_shape_words(x)}" for s, x in zip(row.sources, inputs, strict=True)
    ]
    sides = [
        (s, tuple(x.shape[-2:]))
        for s, x in zip(row.sources, inputs, strict=True)
        if isinstance(x, torch.Tensor) and x.ndim == 4
    ]
    lines = [f"{row.label}: {text}", *arriving]
    hint = f"it takes {factory.signature()}"
    if isinstance(error, ShapeError):
        hint += f"; the image here is {'x'.join(map(str, imgsz))} (--imgsz gives another)"
    if isinstance(error, MismatchError) and len({side for _, side in sides}) > 1:
        lines[0] = f"{row.label}: the spatial sizes of its sources differ: " + " and ".join(
            f"{h}x{w}" for _, (h, w) in sides
        )
        hint = _stride_hint(above, imgsz) or _matching(sides, above) or hint
    return NetbuildError("\n".join(lines), row.where, hint)


def _own_place(factory: Factory, error: Exception) -> str:
    """Where in an own module's file an error was raised: file:line and the line's text."""
    if not factory.file or factory.path.startswith("netbuild."):
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == factory.file]
    return f"{Path(factory.file).name}:{frames[-1].lineno}: {shorten(frames[-1].line)}" if frames else ""


def _shape_words(value: Any) -> str:
    shape = shape_of(value)
    return shape_text(shape) if isinstance(shape, list) else str(shape)


def _stride_hint(above: Sequence[Resolved], imgsz: Sequence[int]) -> str:
    strides = [max(layer.field.stride) for layer in above if layer.field and layer.field.known]
    largest = int(max(strides, default=1))
    if all(side % largest == 0 for side in imgsz):
        return ""
    fits = "x".join(str(max(1, round(side / largest)) * largest) for side in imgsz)
    return f"the image {imgsz[0]}x{imgsz[1]} is no multiple of the largest stride so far, {largest}: try --imgsz {fits}"


def _matching(sides: Sequence[tuple[int, tuple[int, ...]]], above: Sequence[Resolved]) -> str:
    (_, wanted), *_ = sides
    used = {index for index, _ in sides}
    rows = [
        layer for layer in above
        if layer.row.index not in used and isinstance(layer.out_shape, list) and tuple(layer.out_shape[-2:]) == wanted
    ]  # fmt: skip
    size = "x".join(map(str, wanted))
    return f"of the size {size}: " + ", ".join(layer.row.label for layer in rows[-4:]) if rows else ""
