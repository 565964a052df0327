"""The ONNX target: torch's current exporter, constants folded, our metadata; one self-contained file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target
from netbuild.export.parts import Half, decompose
from netbuild.system.files import writing

OPSET, OPSETS = 20, range(18, 24)  # what torch writes unless told; what it can write on this path
LIMIT = 2**31 - 2**20  # bytes of a file that protobuf still reads
FOLDED = 2**26  # elements of a constant that is worked out beforehand: the cells of an image of any sensible size


@target
class OnnxTarget(Target):
    """ONNX, checked in full, run by onnxruntime."""

    name = "onnx"
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime", "PIL")
    takes = frozenset({"dynamic", "half", "opset", "simplify", "nms"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        opset = job.options.get("opset") or OPSET
        if opset not in OPSETS:
            said = f"--opset {opset}: torch's exporter writes {OPSETS[0]} to {OPSETS[-1]} rightly"
            raise NetbuildError(said, hint=f"leave it out for {OPSET}")
        model = convert(job, opset)
        notes = [f"torch.onnx.export (dynamo) of torch {torch.__version__}, opset {opset}"]
        if job.options.get("simplify"):
            model, said = simplified(model)
            notes.append(said)
        finish(model, job)
        if job.options.get("nms"):
            from netbuild.export.suppression import append

            append(model, job.options["nms"], job.outputs)
        if store(model, path):
            notes.append(f"the weights lie in {path.name}.data beside the file: it would be above 2 GB")
        return notes

    def open(self, path: Path) -> Run:
        return runner(session_of(path))

    def quick(self, path: Path, threads: int) -> Run:
        return runner(session_of(path, intra_op_num_threads=threads))

    def facts(self, path: Path) -> dict[str, str]:
        return dict(session_of(path).get_modelmeta().custom_metadata_map)

    def loosened(self, path: Path, conf: float) -> Run:
        import onnx

        from netbuild.export.suppression import loosen

        looser = path.with_name(f"looser-{path.name}")
        try:
            model = loosen(onnx.load(path), conf)
            raw = onnx.helper.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, ["b", "c", "a"])
            model.graph.output.append(raw)  # what is suppressed, too
            store(model, looser)
            return runner(session_of(looser))
        finally:
            looser.unlink(missing_ok=True)


def runner(session: Any) -> Run:
    """A session as a function from arrays in the order of its inputs."""
    names = [x.name for x in session.get_inputs()]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(x) for x in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def session_of(path: Path, **settings: Any) -> Any:
    """An onnxruntime session of one thread on the CPU, that says nothing of its own; settings of its options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def convert(job: Job, opset: int) -> Any:
    """The job as an ONNX model in memory, its constants folded."""
    program = decompose(tracing.capture(job, Half(job.module) if job.half else None))
    nms = bool(job.options.get("nms"))
    names: dict[str, Any] = {"input_names": list(job.inputs), "output_names": ["raw"] if nms else list(job.outputs)}
    try:
        with tracing.quiet():
            made: Any = torch.onnx.export(
                program, (), dynamo=True, opset_version=opset, verbose=False, external_data=False, **names
            )
            fold(made.model)
            return made.model_proto
    except Exception as error:  # the exporter has a dozen, none of them public
        raise unconverted(error, program, job.rows) from error


def fold(model: Any) -> None:
    """Work out what depends on no input, however large: the exporter stops at a few kilobytes."""
    from onnxscript import optimizer

    optimizer.fold_constants(model, input_size_limit=FOLDED, output_size_limit=FOLDED)
    optimizer.remove_unused_nodes(model)


def unconverted(error: Exception, program: torch.export.ExportedProgram, rows: Sequence[tracing.Row]) -> NetbuildError:
    """What ONNX has no operator for, as an error at its row."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and len(causes) < 20:
        causes.append(cause)
    text = " ".join(str(e) for e in causes)
    found = re.search(r"target=torch\.ops\.(\w+\.\w+)", text) or re.search(r"op='(\w+\.\w+)'", text)
    if not found:
        return NetbuildError(f"the network cannot be written as ONNX: {shorten(causes[-1], 300)}")
    return tracing.operator_error(found[1], program, rows, "ONNX")


def finish(model: Any, job: Job) -> None:
    """Names of free axes, our metadata, and none of the exporter's notes, which tell paths of this machine."""
    graph = model.graph
    for entry in [graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]:
        del entry.metadata_props[:]
        entry.doc_string = ""
    del model.functions[:]
    symbols: dict[str, str] = {}
    for value, axes in zip(graph.input, job.axes, strict=False):
        dims = value.type.tensor_type.shape.dim
        for axis, name in axes.items():
            if not dims[axis].dim_param:
                raise NetbuildError(f"{name} is fixed in the written graph, though it was to stay free")
            symbols[dims[axis].dim_param] = name
    for value in [*graph.input, *graph.output]:
        _rename(value, symbols)
    del graph.value_info[:]  # shapes of what is between, in terms of names that are no more
    model.producer_name, model.producer_version = "netbuild", job.metadata.get("netbuild", "")
    del model.metadata_props[:]
    for key, text in job.metadata.items():
        model.metadata_props.add(key=key, value=text)


def _rename(value: Any, symbols: dict[str, str]) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_param:
            dim.dim_param = symbols.get(dim.dim_param, f"{value.name}_{axis}")


def simplified(model: Any) -> tuple[Any, str]:
    """The model after onnxruntime's basic rewriting, if that has fewer nodes; and what came of it."""
    import tempfile

    import onnx
    import onnxruntime

    before = len(model.graph.node)
    with tempfile.TemporaryDirectory(prefix="netbuild-") as folder:
        source, result = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        store(model, source)
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session_of(source, graph_optimization_level=level, optimized_model_filepath=str(result))
        found = onnx.load(result)
    after, foreign = len(found.graph.node), {node.domain for node in found.graph.node} - {""}
    if after >= before or foreign:
        return model, f"--simplify: nothing to remove, {before} nodes stay"
    return found, f"--simplify: {before - after} of {before} nodes removed"


def store(model: Any, path: Path) -> bool:
    """Write and check a model: one file, a second one beside it with the weights only if it must be; whether it is so.

    Raises:
        NetbuildError: if it cannot be written, or is no valid ONNX.
    """
    import onnx

    with writing(path):
        # protobuf cannot even count what is above its limit.
        apart = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LIMIT
        if apart:
            for tensor in model.graph.initializer:
                if len(tensor.raw_data) > 1024:  # a shape must stay where the checker sees it
                    # onnx's own way looks for a file of this name in the working folder, and refuses to go on.
                    onnx.external_data_helper.set_external_data(tensor, f"{path.name}.data")
            onnx.save(model, path)
            path.with_name(f"{path.name}.data").chmod(path.stat().st_mode)
        else:
            path.write_bytes(model.SerializeToString())
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # ValidationError, InferenceError
        raise NetbuildError(f"the written graph is no valid ONNX: {shorten(error, 300)}") from error
    return apart
