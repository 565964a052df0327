"""Run an exported ONNX file as a `Network`, so that the same tasks decode, score and draw its outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn

from netbuild import runtime
from netbuild.errors import MissingExtraError, NetbuildError
from netbuild.graph.card import NetworkCard
from netbuild.graph.heads import HeadCard
from netbuild.graph.network import Network
from netbuild.layers.heads.base import Head
from netbuild.prediction.contract import task_of
from netbuild.runtime import PackageError, RunError
from netbuild.system.packages import install_hint
from netbuild.tasks.base import Task
from netbuild.tasks.outputs import read_exported, require_tensor
from netbuild.tasks.restore import RestoreTask


def is_exported(file: object) -> bool:
    """Whether a path ends in .onnx."""
    return isinstance(file, (str, Path)) and str(file).lower().endswith(".onnx")


class _FileHead(Head):
    """The head of an exported file: implements the protocol of heads by the file's metadata."""

    def __init__(self, info: runtime.ModelInfo, nc: int) -> None:
        super().__init__()
        self.nc, self.stride = nc, [float(info.stride)]
        self.box_form = info.boxes or "corners"
        self.fitting = info.fitting
        self.has_objectness = info.objectness
        self.shape_of_extra = tuple(info.extra)
        # A file that includes non-maximum suppression returns a list of detections, too.
        self.is_ranked = info.one2one or info.nms is not None

    @property
    def extra(self) -> tuple[int, ...]:
        """The file's metadata "extra"."""
        return self.shape_of_extra

    def ranks(self) -> bool:
        """Return whether the file returns a list of detections, which needs no (further) suppression."""
        return self.is_ranked


class OnnxNetwork(Network):
    """An ONNX file as a network: maps images (B, C, H, W) from 0 to 1 to the outputs that its task decodes.

    Its "model" is only a head that knows classes and strides; it has no weights.

    Args:
        file: the file, opened in onnxruntime.
    """

    def __init__(self, file: runtime.Model) -> None:
        nn.Module.__init__(self)
        info, nc = file.info, file.classes or 0
        names = None if info.names is None else list(info.names)
        models = list(file.heads.values()) or [file]
        self.model = nn.ModuleList([_FileHead(m.info, m.classes or 0) for m in models])  # type: ignore[assignment]
        self.card = NetworkCard(
            file.path.name,
            task=info.task,
            nc=nc,
            ch=info.channels,
            imgsz=info.size,
            names=names,
            canvas=file.fixed_size,
            skeleton=info.skeleton,
            heads=_head_cards(file),
            resizing=info.resizing,
            map_step=info.map_step,
            stride=info.stride if info.space else 1,  # of a network that restores pictures, which are padded to it
            output=info.output,
            degrade=info.degrade,
            space=info.space,
        )
        self.file, self.task = file, task_of(self)

    def forward(self, *images: torch.Tensor, targets: Any = None) -> Any:
        """Run the file on a batch of images (B, C, H, W) and return its outputs.

        Raises:
            NetbuildError: if the file fails on them.
        """
        outputs = self.run(images[0].cpu().numpy())
        if self.file.info.nms is not None:
            return _stack_detections(runtime.split_detections(outputs, len(images[0])))
        return outputs_for(self.task, outputs)

    def find_map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        try:
            return self.file.map_size
        except RunError as error:
            _raise_error(error)

    def run(self, images: Any) -> list[Any]:
        """Return the file's output arrays for an array of images (B, C, H, W), see `runtime.Model.run`.

        Raises:
            NetbuildError: if the file fails on them.
        """
        try:
            return self.file.run(images)
        except RunError as error:
            _raise_error(error)

    def choose_size(self, imgsz: int | tuple[int, int] | None, rect: bool | None) -> tuple[tuple[int, int], bool]:
        """Choose the input size, and whether inputs are padded only up to the stride; see `runtime.Model.choose_size`.

        Raises:
            NetbuildError: if the file does not support the size, or one of the arguments has no effect on it.
        """
        try:
            return self.file.choose_size(imgsz, rect)
        except RunError as error:
            _raise_error(error)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse detection options that differ from those that are fixed in the file.

        Raises:
            NetbuildError: for the first such option.
        """
        try:
            self.file.make_filter({name: value for name, value in options.items() if value is not None})
        except RunError as error:
            _raise_error(error)


def _head_cards(file: runtime.Model) -> tuple[HeadCard, ...]:
    """Return the descriptions of a file's heads; their rows are their places among them."""
    return tuple(
        HeadCard(head.name, i, head.info.task, head.weight, head.data, file.heads[head.name].classes, head.info.names)
        for i, head in enumerate(file.info.heads)
    )


class RunNetwork(Network):
    """A runtime that takes batches of a fixed size as a network, so that any export target can be validated.

    Args:
        network: the network that was exported, for its head and card.
        run: a function from a list of input arrays (B, C, H, W) to a list of output arrays.
        shape: the fixed (B, C, H, W).
    """

    def __init__(self, network: Network, run: Callable[[list[Any]], list[Any]], shape: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.model = nn.ModuleList(network.heads)  # type: ignore[assignment]
        size = shape[2], shape[3]
        heads = tuple(replace(head, row=i) for i, head in enumerate(network.card.heads))
        self.run, self.batch, self.task = run, shape[0], task_of(network)
        output = self.task.output_for(size) if isinstance(self.task, RestoreTask) else network.card.output
        self.card = replace(network.card, canvas=size, imgsz=size, heads=heads, output=output)

    def forward(self, *images: torch.Tensor, targets: Any = None) -> Any:
        """Run any number of images (N, C, H, W) in batches of the fixed size; the last one is padded with zeros."""
        values = images[0].cpu().numpy()
        parts = [self._run_batch(values[i : i + self.batch]) for i in range(0, len(values), self.batch)]
        return outputs_for(self.task, [np.concatenate(arrays) for arrays in zip(*parts)])

    def find_map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        found = require_tensor(self(torch.zeros(1, self.card.ch, *size)))
        return found.shape[2], found.shape[3]

    def _run_batch(self, values: Any) -> list[Any]:
        missing = self.batch - len(values)
        batch = np.concatenate((values, np.zeros((missing, *values.shape[1:]), values.dtype))) if missing else values
        return [output[: len(values)] for output in self.run([np.ascontiguousarray(batch)])]


def outputs_for(task: Task | None, outputs: Sequence[Any]) -> Any:
    """Return a file's output arrays as the outputs that the task decodes; without a task as tensors."""
    tensors = [torch.from_numpy(output) for output in outputs]
    return read_exported(tensors) if task is None else task.read_exported(tensors)


def open_exported(file: str | Path, device: str | None = None) -> OnnxNetwork:
    """Open an ONNX file that netbuild exported.

    Args:
        file: the file; its metadata must say what its outputs mean.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: the first GPU that onnxruntime can use, else the CPU.

    Raises:
        NetbuildError: if the file cannot be opened or lacks metadata, or onnxruntime does not support the device.
        MissingExtraError: if onnxruntime is not installed.
    """
    try:
        return OnnxNetwork(runtime.load(file, providers=_providers(device or "auto"), threads=torch.get_num_threads()))
    except RunError as error:
        _raise_error(error)


def _providers(device: str) -> list[Any]:
    """Return the execution providers of onnxruntime for a device, in order of preference."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("running ONNX files needs onnxruntime", hint=install_hint("export")) from None
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and torch.cuda.is_available()
    if kind not in ("auto", "cuda") or not (number or "0").isdecimal():
        raise NetbuildError(f"--device {device}: ONNX files run on cpu, cuda, cuda:1 or auto")
    if kind == "cuda" and not has_gpu:
        hint = "pip install onnxruntime-gpu, or --device cpu"
        raise NetbuildError(f"--device {device}: this onnxruntime has no CUDA, or there is no GPU", hint=hint)
    gpu = [("CUDAExecutionProvider", {"device_id": int(number or 0)})] if has_gpu else []
    return [*gpu, "CPUExecutionProvider"]


def _stack_detections(found: list[Any]) -> torch.Tensor:
    """Stack the rows (n, 6) of each image to one tensor (B, k, 6), padded with rows of score 0."""
    rows = np.zeros((len(found), max((len(image) for image in found), default=0), 6), np.float32)
    for i, image in enumerate(found):
        rows[i, : len(image)] = image
    return torch.from_numpy(rows)


def _raise_error(error: RunError) -> NoReturn:
    if isinstance(error, PackageError):
        raise MissingExtraError(error.message, hint=install_hint("export")) from None
    raise NetbuildError(error.message, hint=error.hint) from None
