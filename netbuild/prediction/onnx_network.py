"""An exported ONNX file in the place of a network: what it gives is read, scored and drawn by the same tasks."""

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
from netbuild.graph.network import Network
from netbuild.layers.heads.base import Head
from netbuild.prediction.contract import task_of
from netbuild.runtime import PackageError, RunError
from netbuild.tasks.base import Task, read_exported


def is_exported(file: object) -> bool:
    """Whether a file's name is that of an ONNX file."""
    return isinstance(file, (str, Path)) and str(file).lower().endswith(".onnx")


class _FileHead(Head):
    """The head of an exported file: the members of the protocol, as the file's metadata give them."""

    def __init__(self, info: runtime.ModelInfo, nc: int) -> None:
        super().__init__()
        self.nc, self.stride = nc, [float(info.stride)]
        self.box_form = info.boxes or "corners"
        self.shape_of_extra = tuple(info.extra)
        # A file with suppression inside lists detections, too.
        self.is_ranked = info.one2one or info.nms is not None

    @property
    def extra(self) -> tuple[int, ...]:
        """The file's metadata "extra"."""
        return self.shape_of_extra

    def ranks(self) -> bool:
        """Return whether the file lists detections that need no (further) suppression."""
        return self.is_ranked


class OnnxNetwork(Network):
    """An ONNX file as a network that predicts: images (B, C, H, W) from 0 to 1 to what its task reads.

    Its "model" is a head that only knows classes and strides; there are no weights.

    Args:
        file: open in onnxruntime.
    """

    def __init__(self, file: runtime.Model) -> None:
        nn.Module.__init__(self)
        info, nc = file.info, file.classes or 0
        names = None if info.names is None else list(info.names)
        self.model = nn.ModuleList([_FileHead(info, nc)])  # type: ignore[assignment]
        self.card = NetworkCard(
            file.path.name,
            task=info.task,
            nc=nc,
            ch=info.channels,
            imgsz=info.size,
            names=names,
            canvas=file.fixed_size,
        )
        self.file, self.task = file, task_of(self)

    def forward(self, *images: torch.Tensor, targets: Any = None) -> Any:
        """The outputs of the file for one batch of images.

        Raises:
            NetbuildError: if it does not run on them.
        """
        try:
            outputs = self.file.run(images[0].cpu().numpy())
        except RunError as error:
            _pass_on(error)
        if self.file.info.nms is not None:
            return _stack_detections(runtime.split_detections(outputs, len(images[0])))
        return outputs_for(self.task, outputs)

    def settle(self, imgsz: int | tuple[int, int] | None, rect: bool | None) -> tuple[tuple[int, int], bool]:
        """Size that pictures are fitted into, and whether canvases are narrow, as `runtime.Model.choose_size` has it.

        Raises:
            NetbuildError: for what the file cannot have, or has no effect on it.
        """
        try:
            return self.file.choose_size(imgsz, rect)
        except RunError as error:
            _pass_on(error)

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options of detection that the file itself has decided otherwise.

        Raises:
            NetbuildError: for the first.
        """
        try:
            self.file.make_filter({name: value for name, value in options.items() if value is not None})
        except RunError as error:
            _pass_on(error)


class RunNetwork(Network):
    """Whatever runs a fixed batch of a fixed size as a network that predicts, for measures that any target can have.

    Args:
        network: whose head and facts are meant.
        run: arrays (B, C, H, W) in a list to the outputs.
        shape: B, C, H, W.
    """

    def __init__(self, network: Network, run: Callable[[list[Any]], list[Any]], shape: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.model = nn.ModuleList([network.model[-1]])  # type: ignore[assignment]
        size = shape[2], shape[3]
        self.card = replace(network.card, canvas=size, imgsz=size)
        self.run, self.batch, self.task = run, shape[0], task_of(network)

    def forward(self, *images: torch.Tensor, targets: Any = None) -> Any:
        """The outputs for images of any number: the last batch is filled up."""
        values = images[0].cpu().numpy()
        parts = [self._part(values[i : i + self.batch]) for i in range(0, len(values), self.batch)]
        return outputs_for(self.task, [np.concatenate(several) for several in zip(*parts)])

    def _part(self, values: Any) -> list[Any]:
        missing = self.batch - len(values)
        whole = np.concatenate((values, np.zeros((missing, *values.shape[1:]), values.dtype))) if missing else values
        return [output[: len(values)] for output in self.run([np.ascontiguousarray(whole)])]


def outputs_for(task: Task | None, outputs: Sequence[Any]) -> Any:
    """Return a file's output arrays as the outputs that the task decodes; without a task as tensors."""
    tensors = [torch.from_numpy(output) for output in outputs]
    return read_exported(tensors) if task is None else task.read_exported(tensors)


def open_exported(file: str | Path, device: str | None = None) -> OnnxNetwork:
    """An ONNX file, ready to run.

    Args:
        file: one of netbuild's, which says what its outputs mean.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: the first GPU that onnxruntime can use, else the CPU.

    Raises:
        NetbuildError: if it cannot be opened, says too little, or onnxruntime has not this device.
        MissingExtraError: without onnxruntime.
    """
    try:
        return OnnxNetwork(runtime.load(file, providers=_providers(device or "auto"), threads=torch.get_num_threads()))
    except RunError as error:
        _pass_on(error)


def _providers(device: str) -> list[Any]:
    """Of onnxruntime, in order of preference."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("running ONNX files needs onnxruntime", hint="pip install 'netbuild[export]'") from None
    has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and torch.cuda.is_available()
    if kind not in ("auto", "cuda") or not (number or "0").isdecimal():
        raise NetbuildError(f"--device {device}: ONNX files run on cpu, cuda, cuda:1 or auto")
    if kind == "cuda" and not has_gpu:
        hint = "pip install onnxruntime-gpu, or --device cpu"
        raise NetbuildError(f"--device {device}: this onnxruntime has no CUDA, or there is no GPU", hint=hint)
    gpu = [("CUDAExecutionProvider", {"device_id": int(number or 0)})] if has_gpu else []
    return [*gpu, "CPUExecutionProvider"]


def _stack_detections(found: list[Any]) -> torch.Tensor:
    """Rows (n, 6) of each image as one tensor (B, k, 6), filled up with rows of no score."""
    rows = np.zeros((len(found), max((len(image) for image in found), default=0), 6), np.float32)
    for i, image in enumerate(found):
        rows[i, : len(image)] = image
    return torch.from_numpy(rows)


def _pass_on(error: RunError) -> NoReturn:
    if isinstance(error, PackageError):
        raise MissingExtraError(error.message, hint="pip install 'netbuild[export]'") from None
    raise NetbuildError(error.message, hint=error.hint) from None
