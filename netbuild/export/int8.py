"""The onnx-int8 target: ONNX with 8-bit convolutions, calibrated on pictures; its outputs differ from torch's."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.data import open_data
from netbuild.data.dataset import PICTURES, Dataset
from netbuild.data.images import SUFFIXES, read_image
from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import ANY, Job, target
from netbuild.export.onnx import OPSET, OnnxTarget, convert, save_model, set_metadata
from netbuild.prediction.onnx_network import open_exported
from netbuild.prediction.sources import natural_key
from netbuild.tasks.metric import main_measures
from netbuild.training.parts import task_class
from netbuild.training.validation import validate

DEFAULT_PICTURES = 128  # calibration pictures by default
QUANTISED_OPERATORS = ("Conv", "Gemm", "MatMul")  # quantised if their weights are constant: nearly all of the time
# Operators that move values and do not change them.
RESHAPING_OPERATORS = {
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Split",
    "Identity",
}


@target
class Int8Target(OnnxTarget):
    """ONNX in QDQ form, run by onnxruntime; its difference to torch is reported, not judged."""

    name = "onnx-int8"
    suffix = ".int8.onnx"
    takes = frozenset({"dynamic", "calibrate", "pictures"})
    needs = ("calibrate",)

    def write(self, job: Job, path: Path) -> Sequence[str]:
        name, most = job.options["calibrate"], job.options.get("pictures") or DEFAULT_PICTURES
        data = _open_dataset(name)
        images = list(_calibration_batches(job, data or name, most))
        folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
        try:
            source = folder / "float.onnx"
            model = convert(job, OPSET)
            set_metadata(model, job)
            save_model(model, source)
            share = quantise(source, path, job.inputs[0], images)
            job.metadata["int8"] = json.dumps({"pictures": len(images)})
            _store_metadata(path, job)
            notes = [f"onnxruntime.quantization: QDQ, int8 by channel, ranges of {len(images)} pictures, {share}"]
            return [*notes, *_accuracy_note(source, path, name, data)]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def tolerance(self, options: Mapping[str, Any]) -> float:
        return ANY


def quantise(source: Path, path: Path, name: str, images: Sequence[np.ndarray]) -> str:
    """Quantise a file; return a note on which layers were.

    Args:
        source: the float32 file.
        path: the file to write.
        name: name of the input.
        images: (1, C, H, W) each, from 0 to 1.

    Raises:
        NetbuildError: if there is nothing to quantise, or onnxruntime cannot.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = onnx.load(source).graph
    chosen, others = _choose_nodes(graph)
    if not chosen:
        raise NetbuildError("the network has no convolution or linear layer to quantise")
    try:
        with tracing.quiet():
            quantize_static(
                str(source), str(path), _CalibrationReader(name, images),
                quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, nodes_to_quantize=chosen, op_types_to_quantize=list(QUANTISED_OPERATORS),
            )  # fmt: skip
    except Exception as error:  # onnxruntime's own classes share no base
        raise NetbuildError(f"the network cannot be quantised: {shorten(error, 300)}") from error
    return f"{len(chosen)} of {len(chosen) + others} layers with weights, the rest in float32"


def _choose_nodes(graph: Any) -> tuple[list[str], int]:
    """Names of the nodes to quantise, and the number of others with the same operators.

    Nodes that read a softmax stay in float32: they decode a head's boxes, whose sides would be rounded to 8 bits.
    """
    weights = {tensor.name for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    nodes = [node for node in graph.node if node.op_type in QUANTISED_OPERATORS]
    chosen = [n for n in nodes if any(x in weights for x in n.input[1:2]) and not _reads_softmax(n.input[0], makers)]
    return [node.name for node in chosen], len(nodes) - len(chosen)


def _reads_softmax(name: str, makers: Mapping[str, Any]) -> bool:
    while (maker := makers.get(name)) is not None and maker.op_type in RESHAPING_OPERATORS:
        name = maker.input[0]
    return maker is not None and maker.op_type == "Softmax"


class _CalibrationReader:
    """The calibration pictures in the form that onnxruntime reads: one dict an image, then None."""

    def __init__(self, name: str, images: Sequence[np.ndarray]) -> None:
        self.name, self.rest = name, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.rest, None)
        return None if image is None else {self.name: image}


def _open_dataset(name: str) -> Dataset | None:
    """Open a data set; None for a plain folder of pictures.

    Raises:
        NetbuildError: if it is neither.
    """
    try:
        return open_data(name)
    except NetbuildError:
        if Path(name).is_dir() and _list_pictures(name):
            return None
        raise


def _list_pictures(folder: str | Path) -> list[Path]:
    return sorted((p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES), key=natural_key)


def _calibration_batches(job: Job, data: Dataset | str, most: int) -> Iterator[np.ndarray]:
    """Yield calibration batches in the network's input form, at most ``most``, evenly spaced over the data.

    Raises:
        NetbuildError: if there is no picture, or one cannot be read.
    """
    fitting = job.fitting
    if len(job.examples) != 1 or job.examples[0].ndim != 4 or fitting is None:
        raise NetbuildError("--calibrate takes pictures, but the network's input is not one image")
    batch, channels = job.examples[0].shape[:2]
    samples = _list_pictures(data) if isinstance(data, str) else data.split(_calibration_split(data)).samples
    if not samples:
        raise NetbuildError("--calibrate: the folder contains no picture")
    for i in np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int)):
        sample: Any = samples[i]
        pixels = read_image(sample, channels) if isinstance(sample, Path) else sample.image(channels)
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        fitted, _ = fitting.apply(pixels)
        image = np.ascontiguousarray(fitted.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)
        yield np.repeat(image, batch, 0)


def _calibration_split(data: Dataset) -> str:
    """The split for calibration: not the one that accuracy is measured on, if there are two."""
    return "train" if "train" in data.splits else data.held_out()


def _store_metadata(path: Path, job: Job) -> None:
    """Store netbuild's metadata in the written file, and check it."""
    import onnx

    model = onnx.load(path)
    set_metadata(model, job)
    save_model(model, path)


_NO_LABELS = "accuracy not measured: the pictures have no labels"


def _accuracy_note(source: Path, path: Path, name: str, data: Dataset | None) -> list[str]:
    """A note on the accuracy of both files on the data, or on why it was not measured."""
    if data is None:
        return [_NO_LABELS]
    try:
        if data.task == PICTURES and task_class(open_exported(source, "cpu").card).needs_labels:
            return [_NO_LABELS]
        float32, int8 = (validate(file, name)[0] for file in (source, path))
    except NetbuildError as error:
        return [f"accuracy not measured: {error.message}"]
    known = main_measures(task_class(open_exported(source, "cpu").card).measures, float32, count=2)
    shown = [f"{name} {int8[name]:.4f} (float32 {value:.4f})" for name, value in known.items()]
    return [f"accuracy of int8 on {data.held_out()}: {', '.join(shown)}"]
