"""The ONNX target: torch's current exporter, with folded constants and netbuild's metadata, in one file."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target
from netbuild.export.parts import Half, decompose
from netbuild.system.files import writing

OPSET, OPSETS = 20, range(18, 24)  # the default, and the versions that torch's exporter writes correctly
MAX_BYTES = 2**31 - 2**20  # of the largest file that protobuf reads
MAX_FOLDED = 2**26  # elements of the largest constant that is folded: the grid cells of any image


@target
class OnnxTarget(Target):
    """One file NAME.onnx, checked by onnx and run by onnxruntime."""

    name = "onnx"
    suffix = ".onnx"
    packages = ("onnx", "onnxscript", "onnxruntime", "PIL")
    least_torch = "2.8"  # below it the graph that torch writes has functions that no version converter takes
    takes = frozenset({"dynamic", "half", "opset", "simplify", "nms"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        opset = job.options.get("opset") or OPSET
        if opset not in OPSETS:
            message = (
                f"--opset {opset}: must be from {OPSETS[0]} to {OPSETS[-1]}, which torch's exporter writes correctly"
            )
            raise NetbuildError(message, hint=f"leave it out for {OPSET}")
        model = convert(job, opset)
        notes = [f"torch.onnx.export (dynamo) of torch {torch.__version__}, opset {opset}"]
        if job.options.get("simplify"):
            model, note = simplify(model)
            notes.append(note)
        set_metadata(model, job)
        if job.options.get("nms"):
            from netbuild.export.suppression import append_suppression

            append_suppression(model, job.options["nms"], job.outputs)
        if save_model(model, path):
            notes.append(f"the weights are in {path.name}.data beside the file, which would be larger than 2 GB")
        return notes

    def open(self, path: Path) -> Run:
        return make_runner(open_session(path))

    def open_fast(self, path: Path, threads: int) -> Run:
        return make_runner(open_session(path, intra_op_num_threads=threads))

    def read_metadata(self, path: Path) -> dict[str, str]:
        return dict(open_session(path).get_modelmeta().custom_metadata_map)

    def open_with_conf(self, path: Path, conf: float) -> Run:
        import onnx

        from netbuild.export.suppression import set_conf

        changed = path.with_name(f"changed-{path.name}")
        try:
            model = set_conf(onnx.load(path), conf)
            raw = onnx.helper.make_tensor_value_info("raw", onnx.TensorProto.FLOAT, ["b", "c", "a"])
            model.graph.output.append(raw)  # the input of the suppression, for the proof
            save_model(model, changed)
            return make_runner(open_session(changed))
        finally:
            changed.unlink(missing_ok=True)


def make_runner(session: Any) -> Run:
    """Wrap a session as a function from arrays, in the order of its inputs, to arrays."""
    names = [x.name for x in session.get_inputs()]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(x) for x in session.run(None, dict(zip(names, arrays, strict=True)))]

    return run


def open_session(path: Path, **settings: Any) -> Any:
    """Open a silent onnxruntime session on the CPU with one thread; ``settings`` are attributes of its options."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def convert(job: Job, opset: int) -> Any:
    """Convert the job to an ONNX model in memory, with folded constants."""
    program = decompose(tracing.capture(job, Half(job.module) if job.half else None))
    nms = bool(job.options.get("nms"))
    names: dict[str, Any] = {"input_names": list(job.inputs), "output_names": ["raw"] if nms else list(job.outputs)}
    try:
        with tracing.quiet():
            made: Any = torch.onnx.export(
                program, (), dynamo=True, opset_version=opset, verbose=False, external_data=False, **names
            )
            fold_constants(made.model)
            return made.model_proto
    except Exception as error:  # the exporter raises a dozen classes, none of them public
        raise conversion_error(error, program, job.rows) from error


def fold_constants(model: Any) -> None:
    """Fold constants of any sensible size: the exporter itself stops at a few kilobytes."""
    from onnxscript import optimizer

    optimizer.fold_constants(model, input_size_limit=MAX_FOLDED, output_size_limit=MAX_FOLDED)
    optimizer.remove_unused_nodes(model)


def conversion_error(
    error: Exception, program: torch.export.ExportedProgram, rows: Sequence[tracing.Row]
) -> NetbuildError:
    """The error for a failed conversion, at the row whose operator ONNX lacks, if that is the cause."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and len(causes) < 20:
        causes.append(cause)
    text = " ".join(str(e) for e in causes)
    found = re.search(r"target=torch\.ops\.(\w+\.\w+)", text) or re.search(r"op='(\w+\.\w+)'", text)
    if not found:
        return NetbuildError(f"the network cannot be written as ONNX: {shorten(causes[-1], 300)}")
    return tracing.operator_error(found[1], program, rows, "ONNX")


def set_metadata(model: Any, job: Job) -> None:
    """Set the names of free axes and netbuild's metadata, in place; drop the exporter's own, which has local paths.

    Raises:
        NetbuildError: if an axis that should stay free is fixed in the graph.
    """
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
                raise NetbuildError(f"{name} is fixed in the written graph, but should stay free")
            symbols[dims[axis].dim_param] = name
    for value in [*graph.input, *graph.output]:
        _rename(value, symbols)
    del graph.value_info[:]  # shapes of intermediate tensors use the old names
    model.producer_name, model.producer_version = "netbuild", job.metadata.get("netbuild", "")
    del model.metadata_props[:]
    for key, text in job.metadata.items():
        model.metadata_props.add(key=key, value=text)


def _rename(value: Any, symbols: dict[str, str]) -> None:
    for axis, dim in enumerate(value.type.tensor_type.shape.dim):
        if dim.dim_param:
            dim.dim_param = symbols.get(dim.dim_param, f"{value.name}_{axis}")


def simplify(model: Any) -> tuple[Any, str]:
    """Apply onnxruntime's basic optimisation if it removes nodes; return the model and a note on the result."""
    import tempfile

    import onnx
    import onnxruntime

    before = len(model.graph.node)
    with tempfile.TemporaryDirectory(prefix="netbuild-") as folder:
        source, result = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        save_model(model, source)
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        open_session(source, graph_optimization_level=level, optimized_model_filepath=str(result))
        found = onnx.load(result)
    after, foreign = len(found.graph.node), {node.domain for node in found.graph.node} - {""}
    if after >= before or foreign:
        return model, f"--simplify: nothing to remove, {before} nodes stay"
    return found, f"--simplify: {before - after} of {before} nodes removed"


def set_versions(model: Any) -> None:
    """Drop operator sets that no node uses, and set the least IR version that the others need, in place.

    The exporter writes IR version 10 at every opset, which runtimes refuse that could run opset 18 or 20.
    """
    import onnx

    used = {node.domain for node in _all_nodes(model.graph)} | {"", "ai.onnx"}  # two names of the standard domain
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = onnx.helper.find_min_ir_version_for(kept, ignore_unknown=True)


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of the graphs in its attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _all_nodes(inner)


def save_model(model: Any, path: Path) -> bool:
    """Write and check a model; return whether its weights had to go into a second file beside it.

    Raises:
        NetbuildError: if it cannot be written, or is not valid ONNX.
    """
    import onnx

    set_versions(model)
    with writing(path):
        # The weights are added up here because protobuf cannot even measure a model above its limit.
        is_split = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_BYTES
        if is_split:
            for tensor in model.graph.initializer:
                if len(tensor.raw_data) > 1024:  # small tensors may hold shapes, which the checker must see
                    # onnx.save's own option refuses if a file of this name is in the working folder.
                    onnx.external_data_helper.set_external_data(tensor, f"{path.name}.data")
            onnx.save(model, path)
            path.with_name(f"{path.name}.data").chmod(path.stat().st_mode)
        else:
            path.write_bytes(model.SerializeToString())
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # ValidationError, InferenceError
        raise NetbuildError(f"the written graph is not valid ONNX: {shorten(error, 300)}") from error
    return is_split
