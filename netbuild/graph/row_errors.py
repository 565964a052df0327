"""Exceptions of modules as errors at their row, with the input shapes and a hint for the repair."""

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


class ResolvedRow(Protocol):
    """The parts of a resolved row that error messages of later rows show; `netbuild.graph.layers.Layer` has them."""

    @property
    def row(self) -> Row:
        """The row of the file."""

    @property
    def out_shape(self) -> Shape:
        """The shape of its output."""

    @property
    def field(self) -> Field | None:
        """Its receptive field, None where it is unknown."""


class SourceFailedError(Exception):
    """A source of the row failed, so the row cannot be resolved; the source's own error is reported already."""


@contextmanager
def errors_at_row(
    row: Row, inputs: Sequence[Any], above: Sequence[ResolvedRow], factory: Factory, imgsz: Sequence[int]
) -> Iterator[None]:
    """Convert any exception of a module into an error at its row.

    Args:
        row: the row whose module is built and run.
        inputs: the values of its sources.
        above: the rows resolved before it.
        factory: builds its module.
        imgsz: height and width of the image in pixels.

    Raises:
        NetbuildError: with the shapes of the inputs and a hint for the repair.
    """
    try:
        with add_location(row):
            yield
    except (NetbuildError, SourceFailedError):
        raise
    except Exception as error:  # constructors and forwards may raise anything
        raise _row_error(row, inputs, above, factory, imgsz, error) from error


@contextmanager
def add_location(row: Row) -> Iterator[None]:
    """Give an error without a place that of the row."""
    try:
        yield
    except NetbuildError as error:
        if error.where is None:
            error.message, error.where = f"{row.label}: {error.message}", row.where
        raise


def _row_error(
    row: Row,
    inputs: Sequence[Any],
    above: Sequence[ResolvedRow],
    factory: Factory,
    imgsz: Sequence[int],
    error: Exception,
) -> NetbuildError:
    text = shorten(str(error) or type(error).__name__, 300)
    labels = {layer.row.index: layer.row.label for layer in above}
    if place := _place_in_custom_code(factory, error):
        text += f" (raised at {place})"
    sources = list(zip(row.sources, inputs, strict=True))
    input_lines = [f"  from {labels.get(s, 'the input')}: {_format_shape(x)}" for s, x in sources]
    sides = [(s, tuple(x.shape[-2:])) for s, x in sources if isinstance(x, torch.Tensor) and x.ndim == 4]
    lines = [f"{row.label}: {text}", *input_lines]
    hint = f"it takes {factory.signature()}"
    if factory.input_hint:
        hint += f"; {factory.input_hint}"
    if isinstance(error, ShapeError):
        hint += f"; the image here is {'x'.join(map(str, imgsz))} (--imgsz gives another)"
    if isinstance(error, MismatchError) and len({side for _, side in sides}) > 1:
        lines[0] = f"{row.label}: the spatial sizes of its sources differ: " + " and ".join(
            f"{h}x{w}" for _, (h, w) in sides
        )
        hint = _stride_hint(above, imgsz) or _matching_rows_hint(sides, above) or hint
    return NetbuildError("\n".join(lines), row.where, hint)


def _place_in_custom_code(factory: Factory, error: Exception) -> str:
    """Return ``file:line: text`` of the line of an custom module that raised an error; empty for other modules."""
    if not factory.file or factory.path.startswith("netbuild."):
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == factory.file]
    return f"{Path(factory.file).name}:{frames[-1].lineno}: {shorten(frames[-1].line)}" if frames else ""


def _format_shape(value: Any) -> str:
    shape = shape_of(value)
    return shape_text(shape) if isinstance(shape, list) else str(shape)


def _stride_hint(above: Sequence[ResolvedRow], imgsz: Sequence[int]) -> str:
    """Suggest an image size that the largest stride divides; empty if the present one is divisible."""
    strides = [max(layer.field.stride) for layer in above if layer.field and layer.field.known]
    largest = int(max(strides, default=1))
    if all(side % largest == 0 for side in imgsz):
        return ""
    fits = "x".join(str(max(1, round(side / largest)) * largest) for side in imgsz)
    return f"the image {imgsz[0]}x{imgsz[1]} is no multiple of the largest stride so far, {largest}: try --imgsz {fits}"


def _matching_rows_hint(sides: Sequence[tuple[int, tuple[int, ...]]], above: Sequence[ResolvedRow]) -> str:
    """List the last rows, not yet among the sources, whose outputs have the spatial size of the first source."""
    (_, first), *_ = sides
    used = {index for index, _ in sides}
    rows = [
        layer for layer in above
        if layer.row.index not in used and isinstance(layer.out_shape, list) and tuple(layer.out_shape[-2:]) == first
    ]  # fmt: skip
    size = "x".join(map(str, first))
    return f"rows whose output is {size}: " + ", ".join(layer.row.label for layer in rows[-4:]) if rows else ""
