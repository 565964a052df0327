"""Draws the feature maps of rows and modules."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netbuild.author.seeing.places import Place, View
from netbuild.author.seeing.tiles import (
    MAX_MAP_SIDE,
    MAX_TILES,
    add_title,
    apply_colormap,
    arrange_tiles,
    matrix_side,
    resize,
)
from netbuild.costs.outputs import tensors_of
from netbuild.data.fitting import Fitting
from netbuild.data.images import read_image
from netbuild.drawing.annotated import Image
from netbuild.drawing.encoding import encode
from netbuild.errors import NetbuildError, shorten
from netbuild.graph.network import Network
from netbuild.prediction.contract import find_window, make_metadata, size_multiple, task_of
from netbuild.prediction.predictor import evaluating


def draw_feature_maps(
    network: Network, image: str | Path, places: Sequence[Place], limit: int, step: Callable[[], object]
) -> list[View]:
    """Run the network on a picture and draw the outputs at each place: a tile per channel.

    Each tile has its own scale, from its smallest value (dark) to its largest (light).

    Args:
        network: the network, run in eval mode.
        image: the picture's file.
        places: the rows and modules whose outputs are drawn.
        limit: the largest number of maps in a view.
        step: called after each place.

    Raises:
        NetbuildError: if the picture cannot be read, or if the network needs other inputs or fails.
    """
    found: list[View] = []

    def make_hook(place: Place) -> Callable[..., None]:
        def draw(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.extend(_draw_outputs(place, output, limit))
            step()

        return draw

    handles = [place.module.register_forward_hook(make_hook(place)) for place in places]
    try:
        with torch.no_grad(), evaluating(network):
            network(load_input(network, image))
    except RuntimeError as error:
        raise NetbuildError(
            f"the network fails on {image}: {shorten(error, 200)}", hint="try another --imgsz"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list({(v.row, v.path, v.title): v for v in found}.values())  # a module may be called more than once


def _draw_outputs(place: Place, output: Any, limit: int) -> Iterator[View]:
    tensors = [x for x in tensors_of(output) if isinstance(x, Tensor) and x.is_floating_point()]
    for number, tensor in enumerate(tensors):
        image, description = draw_map(tensor[0].detach().float().cpu().numpy(), limit)
        which = f" output {number}" if len(tensors) > 1 else ""
        inner = f" {place.path}" if place.path else ""
        title = f"row {place.row} {place.label}{inner}{which}: {description}"
        kind = f"maps{f'-{number}' if number else ''}"
        yield View(place.row, place.path, place.label, kind, title, encode(add_title(image, title)))


def draw_map(values: np.ndarray, limit: int = MAX_TILES) -> tuple[Image, str]:
    """Draw an output without its batch axis and return the picture and its description.

    Outputs (C, H, W) are drawn as tiles, others as a matrix with one line per entry of the first axis.
    """
    if values.ndim != 3 or min(values.shape[1:]) == 1:
        matrix = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
        low, high = _finite_range(matrix)
        pixels = apply_colormap(np.stack([_stretch(line) for line in matrix]), "viridis")
        size = "x".join(map(str, values.shape)) or "1"
        description = f"{size}, each line scaled by itself, values from {low:.3g} to {high:.3g}"
        return resize(pixels, matrix_side(len(matrix)), matrix_side(matrix.shape[1])), description
    count, h, w = values.shape
    # Small maps are enlarged by integers, so that all values have squares of one size.
    times = max(MAX_MAP_SIDE // max(h, w), 1)
    ratio = min(MAX_MAP_SIDE / max(h, w), 1) if times == 1 else times
    side = max(round(h * ratio), 1), max(round(w * ratio), 1)
    shown = [resize(apply_colormap(_stretch(channel), "viridis"), *side) for channel in values[:limit]]
    constant = sum(low == high for low, high in map(_finite_range, values))
    description = f"{count} map{'s' if count > 1 else ''} of {h}x{w}" + (
        f", the first {limit}" if count > limit else ""
    )
    return arrange_tiles(shown), description + (f"; {constant} constant" if constant else "")


def _finite_range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _stretch(values: np.ndarray) -> np.ndarray:
    """Scale values to the range from 0 to 1; constant and non-finite values become 0."""
    low, high = _finite_range(values)
    return np.nan_to_num((values - low) / ((high - low) or 1.0), posinf=0.0, neginf=0.0)


def load_input(network: Network, image: str | Path) -> Tensor:
    """Read a picture as the network's input (1, C, H, W) with values from 0 to 1.

    Raises:
        NetbuildError: if it cannot be read, or if the network needs other inputs than one image.
    """
    card = network.card
    inputs, channels = card.inputs, card.ch
    if len(inputs) > 1 or any(len(shape) != 3 for _, shape in inputs):
        raise NetbuildError(
            "feature maps can be drawn only of networks with one image as input",
            hint="--what kernels,curves needs no picture",
        )
    if channels not in (1, 3, 4):
        raise NetbuildError(f"the network's input has {channels} channels, pictures have 1, 3 or 4")
    size, task = card.imgsz, task_of(network)
    name, window = make_metadata(network, size, task)["fitting"], find_window(network, task, size)
    fitting = Fitting(name, size, size_multiple(network), True, card.resizing, window)
    pixels, _ = fitting.apply(read_image(Path(image), channels))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255
