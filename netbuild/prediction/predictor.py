"""Prediction for any task: read pictures, run the network on batches of them, and yield a `Result` for each."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from netbuild.data.fitting import Fitting, Image
from netbuild.data.images import UnreadableImageError
from netbuild.errors import NetbuildError, check_keywords, did_you_mean, shorten
from netbuild.feed.inputs import find_inputs
from netbuild.grammar.keys import MAX_SIDE
from netbuild.graph.layers import Graph
from netbuild.graph.network import Network
from netbuild.graph.opening import Size, expand_size, open_graph
from netbuild.prediction import sources
from netbuild.prediction.contract import find_window, make_task
from netbuild.prediction.in_memory import collect
from netbuild.prediction.onnx_network import OnnxNetwork, is_exported, open_exported
from netbuild.prediction.result import Result
from netbuild.prediction.sources import Shot, Source
from netbuild.prediction.trackers.options import prepare_tracker
from netbuild.system.devices import pick_device
from netbuild.tasks import class_for
from netbuild.tasks.base import FrameState, Task, View, refuse_options
from netbuild.weights.building import build_graph

Unreadable = Callable[[Path, NetbuildError], None]


@dataclass(frozen=True)
class Predictor:
    """A network with all options settled, ready to predict; see `prepare`.

    Args:
        network: the network, on its device.
        task: the task that decodes its outputs.
        fitting: how pictures are fitted to the network's input.
        batch: largest number of pictures in a batch.
        options: keyword arguments of the task's ``decode``.
        inputs: the network's further inputs, after the image, without the batch.
        tracker: makes the tracker of a video; None for the task's own `Task.frame_state`.
    """

    network: Network
    task: Task
    fitting: Fitting
    batch: int
    options: dict[str, Any]
    inputs: tuple[torch.Tensor, ...] = ()
    tracker: Callable[[], FrameState] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that pictures are fitted into."""
        return self.fitting.size

    def run(self, source: Iterable[Source], unreadable: Unreadable | None = None) -> Iterator[Result]:
        """Yield results in the order of the pictures, one for each frame of a video.

        Pictures are read as results are asked for. The input made of a picture does not depend on its neighbours;
        neighbours whose inputs have one size share a batch.

        Args:
            source: files, and pictures in memory.
            unreadable: called with the path and the error of each picture that cannot be read, which is then skipped.

        Raises:
            UnreadableImageError: for a picture that cannot be read, without ``unreadable``.
            NetbuildError: if the network fails.
        """
        state: FrameState | None = None
        for batch in self._batches(source, unreadable):
            for item, prediction in zip(batch, self._predict(batch), strict=True):
                if item.shot.frame in (None, 1):  # a picture, or a new video
                    state = self._new_state() if item.shot.frame else None
                yield self._result(item, prediction, state)

    def _new_state(self) -> FrameState | None:
        return self.task.start_video(self.tracker)

    def _batches(self, source: Iterable[Source], unreadable: Unreadable | None) -> Iterator[list["_Input"]]:
        waiting: list[_Input] = []
        for item in self._read(source, unreadable):
            if waiting and waiting[0].pixels.shape != item.pixels.shape:
                yield waiting
                waiting = []
            waiting.append(item)
            if len(waiting) == self.batch or item.shot.is_live:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _read(self, source: Iterable[Source], unreadable: Unreadable | None) -> Iterator["_Input"]:
        channels = self.network.card.ch
        for one in source:
            try:
                for shot in sources.read_shots(one, channels == 4):
                    fitted, place = self.fitting.apply(self.task.convert_pixels(shot.pixels, channels))
                    yield _Input(shot, fitted, View(shot.pixels[..., :3], place))
            except UnreadableImageError as error:
                if unreadable is None:
                    raise
                unreadable(one if isinstance(one, Path) else one.path, error)

    def _predict(self, batch: Sequence["_Input"]) -> list[Any]:
        """Run the network on a batch and return the task's prediction for each image."""
        stacked = np.stack([item.pixels for item in batch]).transpose(0, 3, 1, 2)
        outputs = self.outputs(torch.from_numpy(np.ascontiguousarray(stacked)))
        if not _are_finite(outputs):
            hint = "it has diverged, or was trained further with too high a rate"
            raise NetbuildError("the network's outputs are NaN or infinite", hint=hint)
        found = self.task.postprocess(outputs, stacked.shape[2:], **self.options)
        return [found[i] for i in range(len(batch))]

    def _result(self, item: "_Input", prediction: Any, state: FrameState | None) -> Result:
        shot, view = item.shot, item.view
        records = self.task.records(prediction, view)
        if state is not None:
            records = state.update(records, view)
        h, w = view.image.shape[:2]
        return Result(shot.path, (h, w), records, shot.frame, shot.fps, prediction, view, self.task)

    def outputs(self, images: torch.Tensor) -> Any:
        """Run the network on uint8 images (B, C, H, W), in eval mode and without gradients.

        Raises:
            NetbuildError: if it fails, as it may on images of a size that it was not made for.
        """
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        further = tuple(x.to(device).expand(len(images), *x.shape) for x in self.inputs)
        batch = {"images": images.to(device), "inputs": further}
        try:
            with torch.no_grad(), evaluating(self.network):
                return self.task.run(self.network, self.task.inputs(batch))
        except RuntimeError as error:
            reason = f"the network fails on images of shape {list(images.shape)}: {shorten(error, 200)}"
            hint = "try another --imgsz, or a smaller --batch if memory is short"
            raise NetbuildError(reason, hint=hint) from error


@dataclass(frozen=True)
class _Input:
    """A picture, the pixels (H, W, C) that the network sees of it, and where it lies in them."""

    shot: Shot
    pixels: Image
    view: View


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode for a ``with`` block; each module gets its own mode back afterwards."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class PredictKeywords(TypedDict, total=False):
    """The keywords of `predict` and `prepare`.

    Attributes:
        imgsz: side, or (height, width), that pictures are fitted into; that of training, else the network's own.
        batch: largest number of pictures in a batch.
        rect: pad letterboxed inputs only up to the stride (the default), not to the whole size.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``; a built network stays on its device.
        modules, trusted: custom modules, as for `netbuild.build`.
        inputs: values of the network's further inputs, after the image, each without the batch; features of classes
            that a checkpoint was trained with need not be given.
        tracker: name of a tracker, a YAML file of its settings, or a class; each video gets a new one.
        conf, iou, max_det, agnostic, multi_label, classes: options of detection; None means the default.
        tiles: side of the tiles in which pictures are restored; None for whole pictures, unless they are large.
    """

    imgsz: Size
    batch: int
    rect: bool | None
    device: str | None
    modules: Sequence[str | Path]
    trusted: bool | Callable[[Path], bool]
    inputs: Sequence[Any]
    tracker: str | Path | Callable[[], FrameState] | None
    conf: float | None
    iou: float | None
    max_det: int | None
    agnostic: bool | None
    multi_label: bool | None
    classes: str | Sequence[str | int] | None
    tiles: int | None


def predict(
    model: str | Path | Network, source: Any, *, unreadable: Unreadable | None = None, **options: Any
) -> Iterator[Result]:
    """Predict on pictures and videos and yield a `Result` for each, in order; one for each frame of a video.

    Args:
        model: a checkpoint, an exported ONNX file, a network as `netbuild.build` gives it, or a network's file, whose
            weights are random.
        source: a path, folder, glob pattern, array (H, W, 3) or (H, W), PIL picture, tensor (C, H, W) or (B, C, H, W),
            bytes of a picture's file, or a list of these; see `netbuild.prediction.in_memory.collect`.
        unreadable: called with the path and the error of each picture that cannot be read; without it, the first such
            picture raises its error.
        options: see `PredictKeywords`; a task of a plug-in may have others.

    Raises:
        KeywordError: at once, for an unknown keyword that resembles a known one.
        NetbuildError: at once, for an error in network, source or options; later as `Predictor.run`.
    """
    pictures = collect(source)
    return prepare(model, **options).run(pictures, unreadable)


def prepare(
    model: str | Path | Network,
    *,
    imgsz: Size = None,
    batch: int = 8,
    rect: bool | None = None,
    device: str | None = None,
    inputs: Sequence[Any] = (),
    tracker: str | Path | Callable[[], FrameState] | None = None,
    **options: Any,
) -> Predictor:
    """Open a network and settle all options of prediction; the arguments are those of `predict`.

    Raises:
        KeywordError, NetbuildError: for an error in them.
    """
    if batch < 1:
        raise NetbuildError(f"--batch {batch}: must be at least 1")
    code: dict[str, Any] = {name: options.pop(name) for name in ("modules", "trusted") if name in options}
    network, size, features = _open(model, device, code)
    task = _task(network)
    decode_options = _task_options(task, options)
    states = None if tracker is None else prepare_tracker(tracker)
    further = _further_inputs(network, inputs or features)
    if isinstance(network, OnnxNetwork):
        network.check({name: value for name, value in options.items() if name != "tiles"})
        size, rect = network.choose_size(imgsz, rect)
        stride = 1 if network.file.fixed_size else task.stride
    else:
        size, stride = _input_size(task, size, imgsz, rect, network.card.map_step), task.stride
    window, resizing = find_window(network, task, size), network.card.resizing
    fitting = Fitting(task.fitting, size, stride, rect is not False, resizing, window)
    return Predictor(network, task, fitting, batch, decode_options, further, states)


def _task_options(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's options of ``decode``; a keyword that it refuses is compared with the known ones first."""
    try:
        return task.options({name: value for name, value in options.items() if value is not None})
    except NetbuildError:
        known = {*PredictKeywords.__annotations__, "unreadable"}
        check_keywords([name for name in options if name not in known and did_you_mean(name, known)], known)
        raise


def _open(
    model: str | Path | Network, device: str | None, code: Mapping[str, Any]
) -> tuple[Network, tuple[int, int], tuple[torch.Tensor, ...]]:
    """Return the network, the height and width that it was trained on or made for, and `trained_features`."""
    if isinstance(model, Network):
        refuse_options({} if device is None else {"device": device}, "on a network that is built: move it yourself")
        return model, model.card.imgsz, ()
    if is_exported(model):
        effective = {"modules": code.get("modules"), "trusted": code.get("trusted") is True}
        refuse_options({name: value for name, value in effective.items() if value}, "on an ONNX file")
        exported = open_exported(model, device)
        return exported, exported.card.imgsz, ()
    graph = open_graph(model, modules=code.get("modules", ()), trusted=code.get("trusted", False))
    network = build_graph(graph).eval().fuse()
    features = trained_features(graph, network)
    return network.to(pick_device(device or "auto")), trained_size(graph) or graph.imgsz, features


def _input_size(task: Task, size: tuple[int, int], imgsz: Size, rect: bool | None, map_step: int) -> tuple[int, int]:
    """Return the height and width that pictures are fitted into."""
    letterbox = task.fitting == "letterbox"
    if rect is not None and letterbox and map_step and task.fills_border:
        refuse_options({"rect" if rect else "no-rect": rect}, "on pictures that are mirrored around themselves")
    if rect is not None and not letterbox:
        reason = "on stretched pictures" if task.fitting == "stretch" else f"for the task '{task.name}'"
        refuse_options({"rect" if rect else "no-rect": rect}, reason)
    if task.fitting == "whole" and imgsz is not None:
        refuse_options({"imgsz": imgsz}, f"for the task '{task.name}', which takes pictures of any size")
    if (given := expand_size(imgsz)) is not None:
        return given
    return (max(size),) * 2 if letterbox else size


def _are_finite(outputs: Any) -> bool:
    """Whether the decoded outputs of a network have no values that are NaN or infinite; raw maps are not looked at."""
    if isinstance(outputs, Mapping):
        return all(map(_are_finite, outputs.values()))
    if isinstance(outputs, (list, tuple)):
        return all(map(_are_finite, outputs)) if isinstance(outputs, list) else _are_finite(outputs[0])
    return not isinstance(outputs, torch.Tensor) or bool(torch.isfinite(outputs).all())


def _further_inputs(network: Network, values: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Check the values of the inputs after the image, which the network's file names."""
    image, *further = network.card.inputs or (("input", (network.card.ch, *network.card.imgsz)),)
    if len(image[1]) != 3:
        raise NetbuildError(f"prediction is for networks of images; the input '{image[0]}' is {list(image[1])}")
    if len(values) != len(further):
        names = ", ".join(f"{name} {list(shape)}" for name, shape in further) or "none"
        hint = "from Python: inputs=[...], each without the batch" if further else "leave inputs out"
        raise NetbuildError(f"the network's inputs beside the image are: {names}; {len(values)} were passed", hint=hint)
    tensors = tuple(torch.as_tensor(value).float() for value in values)
    for tensor, (name, shape) in zip(tensors, further, strict=True):
        if tensor.ndim != len(shape):
            raise NetbuildError(f"the input '{name}' is {list(shape)} without the batch, not {list(tensor.shape)}")
    return tensors


def trained_features(graph: Graph, network: Network) -> tuple[torch.Tensor, ...]:
    """Return the features of the classes that a checkpoint was trained with, one (nc, features) for each text input.

    It is empty for a network without such inputs, with further ones of other kinds, or without training.

    Raises:
        NetbuildError: if the file of the features has changed or is gone.
    """
    card, info = network.card, graph.spec.checkpoint_info
    further = card.inputs[1:]
    if not (info and info.training and card.names) or any(len(shape) != 2 for _, shape in further):
        return ()
    found = find_inputs(card, card.names, trained_embeddings(graph)).constants if further else {}
    return tuple(found[name] for name, _ in further)


def trained_embeddings(graph: Graph) -> str | None:
    """Return the file of class features that a checkpoint was trained with, None if it does not record one."""
    settings = graph.spec.checkpoint_info.training.get("settings") if graph.spec.checkpoint_info else None
    file = settings.get("class_embeddings") if isinstance(settings, dict) else None
    return file if isinstance(file, str) else None


def trained_size(graph: Graph) -> tuple[int, int] | None:
    """Return the height and width of the images that a checkpoint was trained on, None if it does not record them."""
    settings = graph.spec.checkpoint_info.training.get("settings") if graph.spec.checkpoint_info else None
    trained = settings.get("imgsz") if isinstance(settings, dict) else None
    return (trained, trained) if type(trained) is int and 1 <= trained <= MAX_SIDE else None


def _task(network: Network) -> Task:
    channels = network.card.ch
    if network.card.task is None:
        hint = "write it into its file: task: classify, or task: detect"
        raise NetbuildError("the network has no task, so its outputs cannot be decoded", hint=hint)
    if channels not in (1, 3, 4) and class_for(network.card).takes_pictures:
        raise NetbuildError(f"pictures have 1, 3 or 4 channels, the network's image has {channels}")
    task = make_task(network)
    if not task.takes_pictures:
        hint = f"use it so: {task.usage.format(weights='NETWORK')}"
        raise NetbuildError(f"networks of the task '{task.name}' predict nothing on pictures", hint=hint)
    return task
