"""Rows that resolve but are probably not what their author meant, as `netbuild check` and failed files report them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError
from netbuild.graph.layers import Layer
from netbuild.modules.factory import Parameter
from netbuild.roles import SUPPLIED, Role

MIN_WIDTH = 8  # smaller numbers are taken for a kernel size, a stride or a ratio
MAX_KERNEL = 11  # larger kernels are doubted where they are larger than their map


def find_doubts(layers: Sequence[Layer]) -> Iterator[NetbuildError]:
    """Yield a message with place and hint for each row whose arguments look shifted, or whose kernel covers its map."""
    by_row = {layer.row.index: layer for layer in layers}
    for layer in layers:
        doubt = _find_written_input(layer, by_row) or _find_large_kernel(layer)
        if doubt:
            yield doubt


def _find_written_input(layer: Layer, by_row: Mapping[int, Layer]) -> NetbuildError | None:
    """Doubt a first argument that equals the input channels, if the row makes more sense without it."""
    free = [p for p in layer.factory.parameters if p.role not in SUPPLIED]
    values = [node.value for node in layer.row.args]
    # With several sources the number says nothing: rows such as Concat have no single count of input channels.
    if layer.factory.foreign or not layer.factory.takes(Role.IN) or not values or len(layer.row.sources) > 1:
        return None
    shape = _input_shape(layer)
    if layer.bound.note or len(shape) < 2 or type(values[0]) is not int or not free or not _looks_shifted(free, values):
        return None
    # What arrives is scaled, what the author had in mind is the width as it is written in the row before.
    before = by_row.get(layer.row.sources[0])
    if values[0] != shape[1] and (before is None or values[0] != _written_width(before)):
        return None
    message = f"{layer.row.label}: {values[0]} looks like the input channels, which are supplied already"
    return NetbuildError(
        message, layer.row.args[0].where, f"leave it out, if so: as written, {free[0].name} is {values[0]}"
    )


def _written_width(layer: Layer) -> Any:
    """The width that a row's arguments begin with, None if its first argument is none."""
    free = [p for p in layer.factory.parameters if p.role not in SUPPLIED]
    return layer.row.args[0].value if layer.row.args and free and free[0].role is Role.WIDTH else None


def _input_shape(layer: Layer) -> list[int]:
    shape = layer.in_shapes[0] if layer.in_shapes else None
    return shape if isinstance(shape, list) and all(isinstance(side, int) for side in shape) else []


def _looks_shifted(free: Sequence[Parameter], values: Sequence[Any]) -> bool:
    """Return whether the values seem to begin one parameter too early.

    This is so if the second value looks like a width but its parameter takes none, or if the first value looks like
    a width but its parameter takes a small integer.
    """
    if free[0].role is not Role.WIDTH:
        return values[0] >= MIN_WIDTH and type(free[0].default) is int and free[0].default < values[0]
    second = values[1] if len(values) > 1 else None
    takes_width = len(free) > 1 and (free[1].role is Role.WIDTH or "c" in free[1].name)
    return type(second) is int and second >= MIN_WIDTH and not takes_width


def _find_large_kernel(layer: Layer) -> NetbuildError | None:
    """Doubt a convolution whose kernel is larger than the map that arrives at its row."""
    shape = _input_shape(layer)
    kernels = [m.kernel_size for m in layer.module.modules() if isinstance(m, nn.Conv2d)]
    largest = [max((k[i] for k in kernels if not isinstance(k, str)), default=0) for i in (0, 1)]
    if len(shape) != 4 or all(k <= max(side, MAX_KERNEL) for k, side in zip(largest, shape[2:], strict=True)):
        return None
    message = f"{layer.row.label}: its kernel {largest[0]}x{largest[1]} is larger than the map that arrives, "
    message += f"{shape[2]}x{shape[3]}"
    return NetbuildError(message, layer.row.where, "is a number in the wrong place? input channels are not written")
