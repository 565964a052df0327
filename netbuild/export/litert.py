"""The LiteRT target, formerly TensorFlow Lite, for phones, browsers and small boards."""

import json
import zipfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target
from netbuild.export.parts import Rules, adaptive_max, decompose
from netbuild.export.torch_export import METADATA

DECOMPOSITIONS: Rules = {torch.ops.aten.adaptive_max_pool2d.default: adaptive_max}  # the converter lacks it


class NamedPorts(nn.Module):
    """A traced graph with keyword inputs and named outputs: the file's signature takes these names."""

    def __init__(self, program: torch.export.ExportedProgram, outputs: Sequence[str]) -> None:
        super().__init__()
        self.traced, self.outputs = program.module(), outputs

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, self.traced(*inputs.values()), strict=True))


@target
class LitertTarget(Target):
    """A .tflite file, run by LiteRT's interpreter with its own kernels and XNNPACK."""

    name = "litert"
    suffix = ".tflite"
    extra = "litert"
    packages = ("litert_torch", "ai_edge_litert", "PIL")
    takes = frozenset({"half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        program = decompose(tracing.capture(job), DECOMPOSITIONS)
        try:
            with tracing.quiet(), tracing.silenced(), torch.no_grad():
                content = _convert(program, job)
                content = _convert_to_half(content) if job.half else content
        except Exception as error:  # the converter raises several classes
            raise tracing.unsupported_error(str(error), program, job.rows, "LiteRT") from error
        path.write_bytes(content)
        with zipfile.ZipFile(
            path, "a"
        ) as attached:  # the format's convention for metadata: a zip appended to the graph
            attached.writestr(METADATA, json.dumps(job.metadata))
        precision = "weights in float16, computed in float32" if job.half else "float32"
        return [f"litert-torch {version('litert-torch')}, {precision}"]

    def open(self, path: Path) -> Run:
        return self.open_fast(path, 1)

    def open_fast(self, path: Path, threads: int) -> Run:
        with tracing.quiet(), tracing.silenced():
            from ai_edge_litert.interpreter import Interpreter

            opened = Interpreter(str(path), num_threads=threads)
            opened.allocate_tensors()
        places, results = ([x["index"] for x in xs] for xs in (opened.get_input_details(), opened.get_output_details()))

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            for place, array in zip(places, arrays, strict=True):
                opened.set_tensor(place, array)
            opened.invoke()
            return [opened.get_tensor(place) for place in results]

        return run

    def read_metadata(self, path: Path) -> dict[str, str]:
        if not zipfile.is_zipfile(path):
            return {}
        with zipfile.ZipFile(path) as attached:
            return json.loads(attached.read(METADATA)) if METADATA in attached.namelist() else {}


def _convert(program: torch.export.ExportedProgram, job: Job) -> bytes:
    """Convert the program to a LiteRT file in memory; the converter takes modules only, and traces them again."""
    import litert_torch

    litert_torch.config.show_progress = False
    inputs = dict(zip(job.inputs, job.examples, strict=True))
    return litert_torch.convert(NamedPorts(program, job.outputs), sample_kwargs=inputs).model_content()


def _convert_to_half(content: bytes) -> bytes:
    """Convert a file's weights to float16; each is cast back to float32 before its operator."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    made = quantizer.Quantizer(bytearray(content))
    made.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=weights,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING,
    )
    return bytes(made.quantize().quantized_model)
