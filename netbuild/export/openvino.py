"""The OpenVINO target: a folder of .xml and .bin, made of our ONNX graph.

Of torch's own graph OpenVINO makes more operators, loses names and fixed sizes, and gives other rows of RT-DETR.
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
from netbuild.export.onnx import OPSET, convert, finish, store

HOME = "netbuild"  # of our metadata in rt_info
# Some CPUs would use bfloat16 unasked; what is proven is the file, not the shortcuts of a machine.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


@target
class OpenvinoTarget(Target):
    """A folder NAME_openvino with NAME.xml and NAME.bin, run by OpenVINO on the CPU."""

    name = "openvino"
    suffix = "_openvino"
    holds = (".xml", ".bin")
    extra = "openvino"
    packages = ("onnx", "onnxscript", "openvino", "PIL")
    takes = frozenset({"dynamic", "half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        import openvino

        model = _converted(job)
        for key, text in job.metadata.items():
            model.set_rt_info(text, [HOME, key])
        path.mkdir()
        file = path / f"{path.name.removesuffix(self.suffix)}.xml"
        try:
            openvino.save_model(model, str(file), compress_to_fp16=job.half)
        except RuntimeError as error:
            raise NetbuildError(f"the OpenVINO files cannot be written: {shorten(error, 200)}") from error
        said = "weights in float16, reckoned with in float32" if job.half else "float32"
        return [f"openvino.convert_model of OpenVINO {openvino.__version__}, {said}"]

    def open(self, path: Path) -> Run:
        return self.quick(path, 1)

    def quick(self, path: Path, threads: int) -> Run:
        settings = {**EXACT, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = _core().compile_model(str(file_in(path, ".xml")), "CPU", settings)

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = compiled(list(arrays))
            return [np.array(found[i]) for i in range(len(compiled.outputs))]

        return run

    def facts(self, path: Path) -> dict[str, str]:
        model = _core().read_model(str(file_in(path, ".xml")))
        known = model.get_rt_info([HOME]).astype(dict) if model.has_rt_info([HOME]) else {}
        return {key: _text(value) for key, value in known.items()}


@cache
def _core() -> Any:
    """The one Core of this process, which lives as long as it.

    OpenVINO's plugin for CPUs moves the thread's alternate signal stack into memory that goes with the last Core.
    Python's signal handlers run on that stack: Ctrl-C, or the end of a data loader's worker, would then kill netbuild.
    """
    import openvino

    return openvino.Core()


def _converted(job: Job) -> Any:
    """The job as a model of OpenVINO, in memory."""
    import openvino

    model = convert(job, OPSET)
    finish(model, job)
    folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
    try:
        store(model, folder / "model.onnx")
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
