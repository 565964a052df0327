"""The feature maps of a row as a picture."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netbuild.author.seeing.places import Place, Sight
from netbuild.author.seeing.tiles import MOST, SIDE, _cell, coloured, enlarged, grid, titled
from netbuild.costs.outputs import tensors_of
from netbuild.data.fitting import FITTINGS
from netbuild.data.images import read_image
from netbuild.drawing.annotated import Image
from netbuild.drawing.encoding import encode
from netbuild.errors import NetbuildError, shorten
from netbuild.graph.network import Network
from netbuild.prediction.contract import facts, multiple_of, task_of
from netbuild.prediction.predictor import evaluating


def feature_maps(
    network: Network, image: str | Path, places: Sequence[Place], most: int, step: Callable[[], object]
) -> list[Sight]:
    """What a picture becomes at each place: a tile a channel, each from its own least (dark) to its largest (light).

    Raises:
        NetbuildError: if the picture cannot be read, the network takes something else, or fails.
    """
    found: list[Sight] = []

    def seer(place: Place) -> Callable[..., None]:
        def see(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.extend(_maps(place, output, most))
            step()

        return see

    handles = [place.module.register_forward_hook(seer(place)) for place in places]
    try:
        with torch.no_grad(), evaluating(network):
            network(fitted(network, image))
    except RuntimeError as error:
        raise NetbuildError(
            f"the network fails on {image}: {shorten(error, 200)}", hint="try another --imgsz"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return list({(s.row, s.path, s.title): s for s in found}.values())  # a module may be called more than once


def _maps(place: Place, output: Any, most: int) -> Iterator[Sight]:
    tensors = [x for x in tensors_of(output) if isinstance(x, Tensor) and x.is_floating_point()]
    for number, tensor in enumerate(tensors):
        image, said = map_image(tensor[0].detach().float().cpu().numpy(), most)
        which = f" output {number}" if len(tensors) > 1 else ""
        inner = f" {place.path}" if place.path else ""
        title = f"row {place.row} {place.label}{inner}{which}: {said}"
        kind = f"maps{f'-{number}' if number else ''}"
        yield Sight(place.row, place.path, place.label, kind, title, encode(titled(image, title)))


def map_image(values: np.ndarray, most: int = MOST) -> tuple[Image, str]:
    """A picture of an output without its batch axis, and what is in it: (C, H, W) as tiles, else as a matrix."""
    if values.ndim != 3 or min(values.shape[1:]) == 1:
        matrix = values.reshape(values.shape[0], -1) if values.ndim > 1 else values.reshape(1, -1)
        low, high = _ends(matrix)
        pixels = coloured(np.stack([_stretched(line) for line in matrix]), "viridis")
        size = "x".join(map(str, values.shape)) or "1"
        said = f"{size}, a line each, from {low:.3g} to {high:.3g} in all"
        return enlarged(pixels, _cell(len(matrix)), _cell(matrix.shape[1])), said
    count, h, w = values.shape
    times = max(SIDE // max(h, w), 1)
    ratio = min(SIDE / max(h, w), 1) if times == 1 else times
    side = max(round(h * ratio), 1), max(round(w * ratio), 1)
    shown = [enlarged(coloured(_stretched(channel), "viridis"), *side) for channel in values[:most]]
    flat = sum(low == high for low, high in map(_ends, values))
    said = f"{count} map{'s' if count > 1 else ''} of {h}x{w}" + (f", the first {most}" if count > most else "")
    return grid(shown), said + (f"; {flat} the same everywhere" if flat else "")


def _ends(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _stretched(values: np.ndarray) -> np.ndarray:
    """From 0 to 1; what is the same everywhere, or not finite, is 0."""
    low, high = _ends(values)
    return np.nan_to_num((values - low) / ((high - low) or 1.0), posinf=0.0, neginf=0.0)


def fitted(network: Network, image: str | Path) -> Tensor:
    """The picture as the network sees it: (1, C, H, W), from 0 to 1.

    Raises:
        NetbuildError: if it cannot be read, or the network takes something else than one image.
    """
    card = network.card
    inputs, channels = card.inputs, card.ch
    if len(inputs) > 1 or any(len(shape) != 3 for _, shape in inputs):
        raise NetbuildError("maps are of networks that take one image", hint="--what kernels,curves needs no picture")
    if channels not in (1, 3, 4):
        raise NetbuildError(f"pictures have 1, 3 or 4 channels, the network's image has {channels}")
    size = card.imgsz
    how = FITTINGS[facts(network, size, task_of(network))["fitting"]]
    pixels, _ = how(read_image(Path(image), channels), size, multiple_of(network), True)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255
