"""The OpenVINO target: a folder with .xml and .bin, converted from netbuild's ONNX graph.

OpenVINO can also read torch's graph, but then it makes more operators, loses names and fixed sizes, and returns other
rows of RT-DETR.
"""

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, file_in, target
from netbuild.export.onnx import OPSET, OnnxTarget, convert, save_model, set_metadata

METADATA = "netbuild"  # key of netbuild's metadata in rt_info
# Some CPUs would use bfloat16 by default; the proof is about the file, not about a machine's precision.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@target
class OpenvinoTarget(Target):
    """A folder NAME_openvino with NAME.xml and NAME.bin, run by OpenVINO on the CPU."""

    name = "openvino"
    suffix = "_openvino"
    holds = (".xml", ".bin")
    extra = "openvino"
    packages = ("onnx", "onnxscript", "openvino", "PIL")
    least_torch = OnnxTarget.least_torch
    takes = frozenset({"dynamic", "half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        import openvino

        model = _convert(job)
        for key, text in job.metadata.items():
            model.set_rt_info(text, [METADATA, key])
        path.mkdir()
        file = path / f"{path.name.removesuffix(self.suffix)}.xml"
        try:
            openvino.save_model(model, str(file), compress_to_fp16=job.half)
        except RuntimeError as error:
            raise NetbuildError(f"the OpenVINO files cannot be written: {shorten(error, 200)}") from error
        precision = "weights in float16, computed in float32" if job.half else "float32"
        return [f"openvino.convert_model of OpenVINO {openvino.__version__}, {precision}"]

    def open(self, path: Path) -> Run:
        return self.open_fast(path, 1)

    def open_fast(self, path: Path, threads: int) -> Run:
        settings = {**EXACT, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = _core().compile_model(str(file_in(path, ".xml")), "CPU", settings)

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = compiled(list(arrays))
            return [np.array(found[i]) for i in range(len(compiled.outputs))]

        return run

    def read_metadata(self, path: Path) -> dict[str, str]:
        model = _core().read_model(str(file_in(path, ".xml")))
        known = model.get_rt_info([METADATA]).astype(dict) if model.has_rt_info([METADATA]) else {}
        return {key: _text(value) for key, value in known.items()}


@cache
def _core() -> Any:
    """The only Core of this process, which must live until the process ends.

    OpenVINO's CPU plug-in moves the thread's alternate signal stack into memory that is freed with the last Core.
    Python's signal handlers run on that stack, so that Ctrl-C or the end of a data loader's worker would then kill
    netbuild.
    """
    import openvino

    return openvino.Core()


def _convert(job: Job) -> Any:
    """Convert the job to an OpenVINO model in memory."""
    import openvino

    model = convert(job, OPSET)
    set_metadata(model, job)
    folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
    try:
        save_model(model, folder / "model.onnx")
        with tracing.quiet():
            return openvino.convert_model(str(folder / "model.onnx"))
    except NetbuildError:
        raise
    except Exception as error:  # OpenVINO's own classes share no base
        raise NetbuildError(f"the network cannot be written for OpenVINO: {shorten(error, 300)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))
