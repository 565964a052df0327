"""Sampling for any task that makes pictures: open a network, make samples batch by batch, and decode between codes."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from netbuild.data.fitting import center_crop
from netbuild.data.images import from_pixels, read_image
from netbuild.drawing.annotated import Image
from netbuild.drawing.grids import make_grid
from netbuild.errors import NetbuildError, check_keywords
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.contract import make_task
from netbuild.prediction.onnx_network import is_exported
from netbuild.runtime import SAMPLE_BATCH, Noise, find_classes
from netbuild.system.devices import pick_device
from netbuild.tasks import TASKS
from netbuild.tasks import find as find_task
from netbuild.tasks.autoencode import AutoencodeTask
from netbuild.tasks.base import Task
from netbuild.tasks.codes import Coder
from netbuild.tasks.sampling import SampleOptions, Sampler, spread_classes, to_pictures
from netbuild.weights.building import build_graph

ANIMATED = 40  # frames of an animation, at most


def open_network(
    file: str | Path | Network,
    device: str = "auto",
    modules: Sequence[str | Path] = (),
    trusted: bool | Callable[[Path], bool] = False,
) -> tuple[Network, Task]:
    """Open a network in eval mode on a device, with its task.

    Raises:
        NetbuildError: if it cannot be opened, or has no task.
    """
    if is_exported(file):
        hint = "name the checkpoint; in Python netbuild.runtime.load_sampler samples from .onnx files"
        raise NetbuildError(f"{file}: an exported file cannot be sampled here", hint=hint)
    if isinstance(file, Network):
        network = file
    else:
        network = build_graph(open_graph(file, modules=modules, trusted=trusted)).to(pick_device(device))
    if network.card.task is None:
        raise NetbuildError("the network has no task", hint="write it into its file, such as task: vae")
    return network.eval(), make_task(network)


def make_sampler(network: Network, task: Task) -> Sampler:
    """Return the sampler of a network.

    Raises:
        NetbuildError: if its task makes no pictures.
    """
    sampler = task.sampler(network)
    if sampler is None:
        names = [name for name in TASKS.names() if find_task(name).sampler is not Task.sampler]
        hint = f"it is for networks of the tasks {', '.join(names)}"
        if isinstance(task, AutoencodeTask):
            hint = "its codes follow no known distribution; --between shows what lies between two pictures"
        raise NetbuildError(f"networks of the task '{task.name}' cannot be sampled", hint=hint)
    return sampler


@dataclass(frozen=True)
class Samples:
    """Pictures that a network made.

    Attributes:
        pictures: the pictures, each uint8 (H, W, 3).
        classes: the number of the class of each; None for a network without classes.
        way: grids of the pictures on their way from noise, the last of them finished; empty unless it was asked for.
    """

    pictures: list[Image]
    classes: NDArray[Any] | None = None
    way: list[Image] = field(default_factory=list, repr=False)


def make_samples(
    sampler: Sampler,
    count: int,
    options: SampleOptions,
    classes: Sequence[int] = (),
    seed: int = 0,
    animated: bool = False,
) -> Samples:
    """Make pictures with a sampler. A picture depends on the seed and its number, not on how many are made.

    Args:
        sampler: of the network.
        count: number of pictures.
        options: how they are made.
        classes: the numbers of their classes, which are taken in turn; empty for all.
        seed: of the random numbers.
        animated: whether to keep grids of the pictures on their way, at most `SAMPLE_BATCH` pictures of them.

    Raises:
        NetbuildError: for options without effect, or outputs that are not finite.
    """
    sampler.check(options)
    chosen = spread_classes(count, sampler.class_count, classes)
    pictures: list[Image] = []
    way: list[Image] = []
    for first in range(0, count, SAMPLE_BATCH):
        size = min(SAMPLE_BATCH, count - first)
        part = None if chosen is None else chosen[first : first + size]
        stages = sampler.run(Noise(seed, first, size), part, options)
        if animated and first == 0:
            found = list(stages)
            way = [make_grid(to_pictures(stage)) for stage in _thin(found)]
            last = found[-1]
        else:
            last = deque(stages, maxlen=1)[0]
        if not np.isfinite(last).all():
            raise NetbuildError("the network's outputs are NaN or infinite", hint="it has diverged in training")
        pictures += to_pictures(last)
    return Samples(pictures, chosen, way)


def _thin(stages: Sequence[Any]) -> list[Any]:
    """Return at most `ANIMATED` entries, evenly spread, with the first and the last."""
    places = np.unique(np.linspace(0, len(stages) - 1, ANIMATED).round().astype(int))
    return [stages[i] for i in places]


class SampleKeywords(TypedDict, total=False):
    """The keywords of `sample`.

    Attributes:
        classes: names or numbers of the classes, taken in turn; all classes unless given.
        seed: of the random numbers; a picture depends on it and on its place alone.
        steps: steps from noise to picture, of a diffusion model.
        method: ``ddim`` or ``ancestral``, of a diffusion model.
        guidance: how strongly the class is enforced, 0 for not at all, of a diffusion model with classes.
        device: ``cpu``, ``cuda``, ..., or ``auto``; a built network stays on its device.
        modules, trusted: custom modules, as for `netbuild.build`.
    """

    classes: str | Sequence[str | int]
    seed: int
    steps: int | None
    method: str | None
    guidance: float | None
    device: str
    modules: Sequence[str | Path]
    trusted: bool | Callable[[Path], bool]


def sample(file: str | Path | Network, count: int = 16, **options: Unpack[SampleKeywords]) -> Samples:
    """Make new pictures with a network that was trained to.

    Args:
        file: a checkpoint, or a built network.
        count: number of pictures.
        options: see `SampleKeywords`.

    Raises:
        KeywordError: for an unknown keyword.
        NetbuildError: if the network cannot be opened or makes no pictures, or an option has no effect.
    """
    check_keywords(options, SampleKeywords.__annotations__)
    device, modules = options.get("device", "auto"), options.get("modules", ())
    network, task = open_network(file, device, modules, options.get("trusted", False))
    sampler = make_sampler(network, task)
    numbers = find_class_numbers(options.get("classes", ()), sampler, network.card.names)
    chosen = SampleOptions(options.get("steps"), options.get("method"), options.get("guidance"))
    return make_samples(sampler, count, chosen, numbers, options.get("seed", 0))


def find_class_numbers(
    classes: str | Sequence[str | int], sampler: Sampler, names: Sequence[str] | None
) -> tuple[int, ...]:
    """Return the numbers of classes that are given by name or number.

    Raises:
        NetbuildError: if there is no such class, or the network has none.
    """
    if not classes:
        return ()
    if not sampler.class_count:
        raise NetbuildError("--class has no effect: the network was trained without classes", hint="leave it out")
    known = list(names or map(str, range(sampler.class_count)))
    found = dict(find_classes(classes, known))
    for word, number in found.items():
        if number is None:
            raise NetbuildError(f"--class {word}: there is no such class", hint=f"classes: {', '.join(known[:20])}")
    return tuple(number for number in found.values() if number is not None)


def interpolate(network: Network, task: Task, first: str | Path, second: str | Path, count: int) -> list[Image]:
    """Return the pictures of ``count`` codes from that of one picture to that of another.

    Args:
        network: an autoencoder, whose row of the code has the name ``code``.
        task: its task.
        first, second: files of pictures.
        count: number of pictures, at least 2.

    Raises:
        NetbuildError: if the network is no such autoencoder, or a picture cannot be read.
    """
    if not isinstance(task, AutoencodeTask):
        hint = "--between is for autoencoders"
        raise NetbuildError(f"networks of the task '{task.name}' have no codes of pictures", hint=hint)
    coder = Coder(network)
    channels = network.card.ch
    pixels = [center_crop(read_image(Path(path), 3), network.card.imgsz) for path in (first, second)]
    images = [
        torch.from_numpy((from_pixels(one, 1) if channels == 1 else one).copy()).permute(2, 0, 1) / 255
        for one in pixels
    ]
    return to_pictures(coder.interpolate(images[0], images[1], count).cpu().numpy())
