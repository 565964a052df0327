"""The CoreML target for Apple's devices: an ML program that coremltools converts from torch's graph.

coremltools converts on any system, but CoreML, which runs the file, exists on macOS only: elsewhere there is no proof.
The file is still read back there, and its inputs and outputs are compared with the job's.
"""

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target

APPLE_PREFIX = "com.github.apple"  # prefix of metadata that coremltools adds itself
DEBUG_HANDLES = "executorch_debug_handle_mapping.json"  # only ExecuTorch reads it, CoreML does not
MISSING_OPERATOR = re.compile(r"(?:Unsupported fx node \w+, kind |PyTorch convert function for op ')(\w+)")
aten = torch.ops.aten
Ports = dict[str, tuple[tuple[int, ...], str]]  # name to shape and CoreML's name of the type


@target
class CoremlTarget(Target):
    """A package NAME.mlpackage, which is a folder; CoreML on macOS runs it, for the proof on the CPU."""

    name = "coreml"
    suffix = ".mlpackage"
    holds = (".json", ".mlmodel", ".bin", "Data", "com.apple.CoreML", "weights")
    extra = "coreml"
    packages = ("coremltools", "PIL")
    takes = frozenset({"half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        wanted = _ports(job)
        with _coremltools() as tools:
            made = _convert(tools, job, wanted)
            for key, text in job.metadata.items():
                made.user_defined_metadata[key] = text
            made.save(str(path))
        (path / DEBUG_HANDLES).unlink(missing_ok=True)
        check_package(path, job, wanted)
        precision = "float16" if job.half else "float32"
        return [
            f"coremltools {tools.__version__} of torch.export of torch {torch.__version__}, {precision}",
            "read back: names, shapes and types of inputs and outputs match the network's",
        ]

    def barrier(self) -> str:
        return "" if sys.platform == "darwin" else "CoreML runs on macOS only"

    def open(self, path: Path) -> Run:
        if self.barrier():
            raise NetbuildError(f"{path}: cannot be run here: {self.barrier()}")
        with _coremltools() as tools:
            # Other units may compute in float16; the proof is about the file, not about a device's precision.
            model = tools.models.MLModel(str(path), compute_units=tools.ComputeUnit.CPU_ONLY)
        about = model.get_spec().description
        inputs, outputs = ([port.name for port in ports] for ports in (about.input, about.output))

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = model.predict(dict(zip(inputs, arrays, strict=True)))
            return [np.asarray(found[name]) for name in outputs]

        return run

    def read_metadata(self, path: Path) -> dict[str, str]:
        with _coremltools() as tools:
            found = tools.utils.load_spec(str(path)).description.metadata.userDefined
        return {key: text for key, text in found.items() if not key.startswith(APPLE_PREFIX)}


def check_package(path: Path, job: Job, wanted: Ports) -> None:
    """Read a package back, and compare its inputs and outputs with the job's.

    Raises:
        NetbuildError: if it cannot be read, or a name, a shape or a type differs.
    """
    try:
        with _coremltools() as tools:
            about = tools.utils.load_spec(str(path)).description
            kinds = tools.proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType
    except Exception as error:  # protobuf and the file system raise classes of their own
        raise NetbuildError(f"the written package cannot be read: {shorten(error, 200)}") from error
    found: Ports = {}
    for port in [*about.input, *about.output]:
        array = port.type.multiArrayType
        found[port.name] = (tuple(array.shape), kinds.Name(array.dataType))
    if list(found.items()) != list(wanted.items()):
        raise NetbuildError(f"the written package has the inputs and outputs {found} instead of {wanted}")


def _ports(job: Job) -> Ports:
    """The inputs and outputs of a job; integers have 32 bits in CoreML."""
    with torch.no_grad():
        outputs = job.module(*job.examples)
    named = [*zip(job.inputs, job.examples, strict=True), *zip(job.outputs, outputs, strict=True)]
    return {name: (tuple(x.shape), "FLOAT32" if x.is_floating_point() else "INT32") for name, x in named}


def _convert(tools: Any, job: Job, ports: Ports) -> Any:
    """Convert the job to coremltools' model.

    Raises:
        NetbuildError: if it cannot be converted, with the row, if one operator is the cause.
    """
    inputs = [tools.TensorType(name=name, shape=ports[name][0], dtype=np.float32) for name in job.inputs]
    types = {"FLOAT32": np.float32, "INT32": np.int32}
    outputs = [tools.TensorType(name=name, dtype=types[ports[name][1]]) for name in job.outputs]
    precision = tools.precision.FLOAT16 if job.half else tools.precision.FLOAT32
    options = {"inputs": inputs, "outputs": outputs, "convert_to": "mlprogram", "compute_precision": precision}
    program, missing = tracing.capture(job).run_decompositions(DECOMPOSITIONS), set[str]()
    while True:
        _drop_aliases(program)
        try:
            return tools.convert(program, **options)
        except Exception as error:  # coremltools raises plain Python exceptions
            found = MISSING_OPERATOR.search(str(error))
            parts = _torch_decompositions(program, found[1]) if found else {}
            if not found or not parts or found[1] in missing:
                raise _conversion_error(error, program, job.rows) from error
            missing.add(found[1])
            program = program.run_decompositions(parts)


def _torch_decompositions(program: torch.export.ExportedProgram, operator: str) -> dict[Any, Any]:
    """torch's decomposition of an operator of the program; empty if there is none."""
    known = torch.export.default_decompositions()
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    return {x: known[x] for x in targets if x in known and operator in str(x).split(".")}  # type: ignore[index]


def _conversion_error(
    error: Exception, program: torch.export.ExportedProgram, rows: Sequence[tracing.Row]
) -> NetbuildError:
    """The error for coremltools' message, at the row of the operator that it lacks."""
    found = MISSING_OPERATOR.search(str(error))
    if found is None:
        return NetbuildError(f"the network cannot be written for CoreML: {shorten(error, 300)}")
    message, places = f"coremltools has no operator for {found[1]}", tracing.rows_with(program, found[1])
    if places:
        return tracing.row_error(message, places[0], rows, "use another module there, or another --target")
    return NetbuildError(message)


def _drop_aliases(program: torch.export.ExportedProgram) -> None:
    """Replace aliases by their tensors: coremltools does not know aten.alias."""
    for node in list(program.graph.nodes):
        if node.target is aten.alias.default:
            program.graph_signature.replace_all_uses(node.name, node.args[0].name)
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def float_arange(*numbers: Any, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
    """arange in integers, cast afterwards: coremltools drops its float dtype."""
    if dtype is None or not dtype.is_floating_point or not all(isinstance(x, int) for x in numbers):
        return NotImplemented  # type: ignore[no-any-return]  # then the operator stays as it is
    return torch.arange(*numbers).to(dtype)


def crop_by_negative_pad(x: torch.Tensor, pad: Sequence[int], *_: Any) -> torch.Tensor:
    """Negative padding as slicing: coremltools refuses it."""
    if any(side > 0 for side in pad):
        return NotImplemented  # type: ignore[no-any-return]
    for i in range(0, len(pad), 2):
        axis = -1 - i // 2  # torch's padding starts with the last axis
        x = x.narrow(axis, -pad[i], x.shape[axis] + pad[i] + pad[i + 1])
    return x


DECOMPOSITIONS = {
    **dict.fromkeys((aten.arange.default, aten.arange.start, aten.arange.start_step), float_arange),
    **dict.fromkeys((aten.pad.default, aten.constant_pad_nd.default), crop_by_negative_pad),
}


@contextmanager
def _coremltools() -> Iterator[Any]:
    """Import coremltools without its warnings and progress bars on stderr."""
    with tracing.quiet(), redirect_stderr(io.StringIO()):
        import coremltools

        yield coremltools
