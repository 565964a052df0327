"""Repeats of a row: its module several times in sequence, each bound to the output of the one before."""

from collections.abc import Callable
from typing import Any

import torch

from netbuild.graph.bind import BoundCall, SourceShapes
from netbuild.graph.network import call_module
from netbuild.graph.sources import measure_sources
from netbuild.roles import Role


def bind_repeats(
    first: BoundCall,
    copies: int,
    inputs: list[Any],
    call_style: str,
    bind_to: Callable[[SourceShapes], BoundCall],
    imgsz: tuple[int, int],
) -> tuple[BoundCall, ...]:
    """Bind the copies of a repeated module: the second to the channels that the first returns, and so on.

    Args:
        first: the constructor call of the first copy.
        copies: how many there are.
        inputs: the row's inputs, on ``meta``.
        call_style: how the first copy is called, see `netbuild.graph.network.Step`.
        bind_to: binds the row to other shapes of its source.
        imgsz: height and width of the image in pixels.
    """
    bounds, shapes, out = [first], measure_sources(inputs, imgsz), None
    fits = first.factory.takes(Role.IN) and "+text" not in call_style
    while len(bounds) < copies and fits:
        module = bounds[-1].make().eval()
        out = call_module(module, inputs, call_style) if out is None else module(out)
        if not isinstance(out, torch.Tensor):
            break
        before, shapes = shapes, measure_sources([out], imgsz)
        if shapes == before:  # and so it will go on
            break
        bounds.append(bind_to(shapes))
    return (*bounds, *[bounds[-1]] * (copies - len(bounds)))
