"""Prediction: pictures to what a network finds in them, one after another. It knows no task's insides."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netbuild.data.fitting import FITTINGS, Image
from netbuild.data.images import UnreadableImageError, from_pixels
from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.keys import MAX_SIDE
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import Size, open_graph, pair
from netbuild.prediction import sources
from netbuild.prediction.onnx_network import OnnxNetwork, is_exported, open_exported
from netbuild.prediction.sources import Shot
from netbuild.system.devices import pick_device
from netbuild.tasks import find as find_task
from netbuild.tasks.base import Record, Task, View, refuse
from netbuild.weights.building import build_graph

Unreadable = Callable[[Path, NetbuildError], None]


@dataclass(frozen=True)
class Result:
    """What a network finds in a picture.

    Attributes:
        path: the picture's file.
        size: height and width in pixels, as the picture is seen (after its EXIF orientation).
        records: what is found, as JSON data; the task says what a record has.
        frame: number in the video, from 1; None for a picture.
        fps: frames a second of the video.
        prediction: the task's own form, in terms of what the network saw.
    """

    path: Path
    size: tuple[int, int]
    records: list[Record]
    frame: int | None
    fps: float | None
    prediction: Any = field(repr=False)
    view: View = field(repr=False)
    task: Task = field(repr=False)

    def picture(self) -> Image:
        """The picture with what is found drawn into it: uint8 (H, W, 3), RGB."""
        return self.task.draw(self.view.image, self.prediction, self.records).render()

    def line(self) -> str:
        """Path, height x width, and what is found, in one line."""
        frame = "" if self.frame is None else f" frame {self.frame}"
        text = f"{self.path}{frame} {self.size[0]}x{self.size[1]}: {self.task.line(self.records)}"
        # What a file's or a class's name says must not steer the terminal.
        return "".join(c if c.isprintable() else " " for c in text)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        frame = {} if self.frame is None else {"frame": self.frame}
        height, width = self.size
        return {"path": str(self.path), **frame, "width": width, "height": height, "records": self.records}


@dataclass(frozen=True)
class Predictor:
    """A network with all that is settled before it sees a picture; see `prepare`.

    Args:
        network: on its device.
        task: what it is for.
        size: height and width that pictures are fitted into.
        stride: both sides of a letterboxed canvas are multiples of it.
        batch: pictures that the network sees at once, at most.
        rect: whether canvases are as narrow as their pictures allow, where the task letterboxes them.
        options: of the task's `decode`.
    """

    network: Network
    task: Task
    size: tuple[int, int]
    stride: int
    batch: int
    rect: bool
    options: dict[str, Any]

    def run(self, files: Iterable[Path], unreadable: Unreadable | None = None) -> Iterator[Result]:
        """Results in the order of the files, of a video for each frame; pictures are read as results are asked for.

        A picture's canvas is its own, whatever comes before or after it; neighbours of one canvas share a batch.

        Raises:
            UnreadableImageError: for a picture that cannot be read, if ``unreadable`` is not there to be told.
            NetbuildError: if the network fails.
        """
        waiting: list[_Seen] = []
        for seen in self._seen(files, unreadable):
            if waiting and waiting[0].pixels.shape != seen.pixels.shape:
                yield from self._results(waiting)
                waiting = []
            waiting.append(seen)
            if len(waiting) == self.batch:
                yield from self._results(waiting)
                waiting = []
        if waiting:
            yield from self._results(waiting)

    def _seen(self, files: Iterable[Path], unreadable: Unreadable | None) -> Iterator["_Seen"]:
        channels = self.network.card.ch
        for file in files:
            try:
                for shot in sources.shots(file, channels == 4):
                    pixels = shot.pixels if channels != 1 else from_pixels(shot.pixels, 1)
                    fitted, place = FITTINGS[self.task.fitting](pixels, self.size, self.stride, self.rect)
                    yield _Seen(shot, fitted, View(shot.pixels[..., :3], place))
            except UnreadableImageError as error:
                if unreadable is None:
                    raise
                unreadable(file, error)

    def _results(self, waiting: Sequence["_Seen"]) -> Iterator[Result]:
        stacked = np.stack([seen.pixels for seen in waiting]).transpose(0, 3, 1, 2)
        outputs = self.outputs(torch.from_numpy(np.ascontiguousarray(stacked)))
        found = self.task.predictions(outputs, stacked.shape[2:], **self.options)
        for i, seen in enumerate(waiting):
            shot, view = seen.shot, seen.view
            records = self.task.records(found[i], view)
            h, w = view.image.shape[:2]
            yield Result(shot.path, (h, w), records, shot.frame, shot.fps, found[i], view, self.task)

    def outputs(self, images: torch.Tensor) -> Any:
        """What the network makes of uint8 images (B, C, H, W), in eval, without gradients.

        Raises:
            NetbuildError: if it fails, as it may at a size that it was not made for.
        """
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        try:
            with torch.no_grad(), evaluating(self.network):
                return self.network(images.to(device).float() / 255)
        except RuntimeError as error:
            said = f"the network fails on images of shape {list(images.shape)}: {shorten(error, 200)}"
            hint = "try another --imgsz, or a smaller --batch if memory is short"
            raise NetbuildError(said, hint=hint) from error


@dataclass(frozen=True)
class _Seen:
    """A shot, the pixels (H, W, C) that the network sees of it, and where it lies in them."""

    shot: Shot
    pixels: Image
    view: View


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """In eval for now; each module is given back as it was."""
    learning = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in learning:
            module.training = True


def predict(
    file: str | Path | Network,
    pictures: str | Path | Iterable[str | Path],
    *,
    unreadable: Unreadable | None = None,
    **options: Any,
) -> Iterator[Result]:
    """What a network finds in pictures and videos, one `Result` after another, as they are asked for.

    Args:
        file: a checkpoint, an exported ONNX file, a network as `netbuild.build` gives it, or a network's file, whose
            weights are random.
        pictures: files, folders, patterns such as ``shots/**/*.jpg``, or ``-`` for a list on stdin.
        unreadable: told of each picture that cannot be read, and why; without it, the first is an error.
        options: as for `prepare`.

    Raises:
        NetbuildError: at once, for whatever is wrong with network, names or options; or as `Predictor.run` tells.
    """
    found = sources.find(pictures)
    return prepare(file, **options).run(found, unreadable)


def prepare(
    file: str | Path | Network,
    *,
    imgsz: Size = None,
    batch: int = 8,
    rect: bool | None = None,
    device: str | None = None,
    modules: Sequence[str | Path] = (),
    trusted: bool | Callable[[Path], bool] = False,
    **options: Any,
) -> Predictor:
    """A network made ready to predict.

    Args:
        file: a checkpoint, an exported ONNX file, a network, or a network's file.
        imgsz: side, or (height, width), that pictures are fitted into; that of training, else the network's own.
        batch: pictures that the network sees at once, at most.
        rect: of letterboxed pictures, whether the canvas is as narrow as each allows (the default), or square.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``; a network that is given stays where it is.
        modules, trusted: own modules, as for `netbuild.build`.
        options: of the task: of detection conf, iou, max_det, agnostic, multi_label, classes; None is not given.

    Raises:
        NetbuildError: for whatever is wrong with them.
    """
    if batch < 1:
        raise NetbuildError(f"--batch {batch}: must be at least 1")
    if isinstance(file, Network):
        refuse({} if device is None else {"device": device}, "on a network that is built: move it yourself")
        network, size = file, file.card.imgsz
    elif is_exported(file):
        code = {"modules": modules or None, "trusted": trusted if trusted is True else None}
        refuse({name: value for name, value in code.items() if value}, "on an ONNX file")
        network = open_exported(file, device)
        size = network.card.imgsz
    else:
        network, size = _opened(file, modules, trusted)
        network.to(pick_device(device or "auto"))
    task = _task(network)
    given = task.options({name: value for name, value in options.items() if value is not None})
    if isinstance(network, OnnxNetwork):
        network.check(options)
        size, narrow = network.settle(imgsz, rect)
        return Predictor(network, task, size, 1 if network.file.canvas else task.stride, batch, narrow, given)
    square = task.fitting == "letterbox"
    if rect is not None and not square:
        refuse({"rect" if rect else "no-rect": rect}, f"for the task '{task.name}'")
    if asked := pair(imgsz):
        size = asked
    elif square:
        size = (max(size),) * 2
    return Predictor(network, task, size, task.stride, batch, rect is not False, given)


def _opened(file: str | Path, modules: Sequence[str | Path], trusted: Any) -> tuple[Network, tuple[int, int]]:
    graph = open_graph(file, modules=modules, trusted=trusted)
    if len(graph.inputs) != 1 or len(graph.inputs[0][1]) != 3:
        raise NetbuildError(f"{file}: prediction is for networks of one image, this one has other inputs")
    return build_graph(graph).eval().fuse(), trained_size(graph) or graph.imgsz


def trained_size(graph: Graph) -> tuple[int, int] | None:
    """Height and width of the images that a checkpoint was trained on, if it is one that says so."""
    settings = graph.spec.stored.training.get("settings") if graph.spec.stored else None
    trained = settings.get("imgsz") if isinstance(settings, dict) else None
    return (trained, trained) if type(trained) is int and 1 <= trained <= MAX_SIDE else None


def _task(network: Network) -> Task:
    name, channels = network.card.task, network.card.ch
    if name is None:
        hint = "say it in its file: task: classify, or task: detect"
        raise NetbuildError("the network has no task: what its outputs mean is not known", hint=hint)
    if channels not in (1, 3, 4):
        raise NetbuildError(f"pictures have 1, 3 or 4 channels, the network's image has {channels}")
    return find_task(name)(network.model[-1], network.card.names)
