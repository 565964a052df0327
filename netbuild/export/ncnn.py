"""The ncnn target for phones and small boards: a folder with .param and .bin, converted by pnnx.

pnnx reads ONNX and TorchScript, and which operators it leaves that ncnn lacks depends on the source: torch.narrow in a
YOLO's trace, Gather in a ConvNeXt's ONNX graph. So it gets netbuild's ONNX graph first, and a trace if that fails.
"""

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, file_in, target
from netbuild.export.onnx import OPSET, OnnxTarget, convert, save_model, set_metadata
from netbuild.export.torch_export import METADATA
from netbuild.export.torchscript import trace

# Options that make some machines compute in 16 bits; the proof is about the file, not about a machine's precision.
HALF_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
ONE_PICTURE = "ncnn takes one picture at a time"


@target
class NcnnTarget(Target):
    """A folder NAME_ncnn with NAME.param, NAME.bin and netbuild.json; ncnn runs one picture at a time on the CPU."""

    name = "ncnn"
    suffix = "_ncnn"
    holds = (".param", ".bin", ".json")
    extra = "ncnn"
    packages = ("onnx", "onnxscript", "pnnx", "ncnn", "PIL")
    least_torch = OnnxTarget.least_torch
    takes = frozenset({"half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        if any(len(x) != 1 for x in job.examples):
            raise NetbuildError(ONE_PICTURE, hint="leave --batch out")
        param = path / f"{path.name.removesuffix(self.suffix)}.param"
        folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
        try:
            converted, source = _convert(job, folder)
            path.mkdir()
            param.write_text(rename_blobs(converted.read_text(encoding="utf-8"), job), encoding="utf-8")
            shutil.copyfile(converted.with_suffix(".bin"), param.with_suffix(".bin"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        info = {"inputs": job.inputs, "outputs": job.outputs, "metadata": job.metadata}
        (path / METADATA).write_text(json.dumps(info, indent=1), encoding="utf-8")
        precision = "weights in float16, computed in float32" if job.half else "float32"
        return [f"pnnx {version('pnnx')} of {source}, run by ncnn {version('ncnn')}, {precision}"]

    def open(self, path: Path) -> Run:
        return self.open_fast(path, 1)

    def open_fast(self, path: Path, threads: int) -> Run:
        import ncnn

        net, info, param = ncnn.Net(), _read_info(path), file_in(path, ".param")
        for name in HALF_OPTIONS:
            setattr(net.opt, name, False)
        net.opt.num_threads = threads
        if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
            raise NetbuildError(f"{path}: ncnn cannot load it")

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            if any(len(array) != 1 for array in arrays):
                raise ValueError(ONE_PICTURE)
            extractor = net.create_extractor()
            for name, array in zip(info["inputs"], arrays, strict=True):
                extractor.input(name, ncnn.Mat(np.ascontiguousarray(array[0])).clone())
            return [_extract(extractor, name) for name in info["outputs"]]

        return run

    def read_metadata(self, path: Path) -> dict[str, str]:
        return dict(_read_info(path)["metadata"])


def rename_blobs(param: str, job: Job) -> str:
    """Give the inputs and outputs of a .param, which pnnx calls in0, in1, ..., out0, ..., the job's names.

    Raises:
        NetbuildError: if pnnx has dropped one.
    """
    names = {f"in{i}": name for i, name in enumerate(job.inputs)}
    names |= {f"out{i}": name for i, name in enumerate(job.outputs)}
    lines, seen = param.splitlines(), set[str]()
    for i, layer in enumerate(lines[2:], 2):  # lines 0 and 1: a magic number, the numbers of layers and blobs
        kind, label, ins, outs, *rest = layer.split()
        count = int(ins) + int(outs)
        seen |= set(rest[:count])
        blobs = [names.get(blob, blob) for blob in rest[:count]]
        lines[i] = " ".join([f"{kind:24} {names.get(label, label):24}", ins, outs, *blobs, *rest[count:]])
    if lost := [name for blob, name in names.items() if blob not in seen]:
        raise NetbuildError(f"pnnx drops {lost[0]}: no operator of ncnn reads or writes it")
    return "\n".join([*lines, ""])


def unknown_operators(param: str) -> Counter[str]:
    """Count the operators of a .param that ncnn lacks; pnnx writes them under their names in torch or ONNX."""
    import ncnn

    kinds = Counter(line.split()[0] for line in param.splitlines()[2:])
    return Counter({kind: count for kind, count in kinds.items() if ncnn.layer_to_index(kind) < 0})


def _convert(job: Job, folder: Path) -> tuple[Path, str]:
    """Convert the job; return a .param that ncnn can load, with a .bin beside it, and the name of its source.

    Raises:
        NetbuildError: if no source can be converted, with the operator that ncnn lacks and its row, if known.
    """
    # The graph stays in float32, and pnnx halves the weights: ncnn lacks the casts of a float16 graph.
    float32 = replace(job, options={})
    sources: dict[str, Callable[[], Path]] = {
        "netbuild's ONNX graph": lambda: _save_onnx(float32, folder),
        f"torch.jit.trace of torch {torch.__version__}": lambda: _save_trace(float32, folder),
    }
    missing, failure = Counter[str](), NetbuildError("pnnx cannot convert the network")
    for source, save in sources.items():
        try:
            converted = _run_pnnx(save(), job)
            found = unknown_operators(converted.read_text(encoding="utf-8"))
            if not found:
                return converted, source
            missing = found
        except NetbuildError as error:  # pnnx may crash on one source and read the other
            failure = error
    raise _unknown_error(missing, float32) if missing else failure


def _save_onnx(job: Job, folder: Path) -> Path:
    model = convert(job, OPSET)
    set_metadata(model, job)
    save_model(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def _save_trace(job: Job, folder: Path) -> Path:
    with tracing.quiet():
        torch.jit.save(trace(job), folder / "trace.pt")
    return folder / "trace.pt"


def _run_pnnx(file: Path, job: Job) -> Path:
    """Run pnnx on a file; return the .param that it writes beside it, with a .bin.

    Raises:
        NetbuildError: if it fails.
    """
    import pnnx

    shapes = ",".join(f"[{','.join(map(str, x.shape))}]f32" for x in job.examples)
    call = [pnnx.EXEC_PATH, file.name, f"inputshape={shapes}", f"fp16={int(job.half)}"]
    done = subprocess.run(
        call, cwd=file.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    param = file.with_suffix(".ncnn.param")
    if done.returncode or not param.is_file() or not param.with_suffix(".bin").is_file():
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        message = f"pnnx cannot convert the network: exit code {done.returncode}, {shorten(last, 200)}"
        raise NetbuildError(message, hint="use another --target")
    return param


def _unknown_error(missing: Counter[str], job: Job) -> NetbuildError:
    """The error for operators that ncnn lacks; at the row of the rarest one, if only that row can have caused it."""
    kind, count = missing.most_common()[-1]
    message = f"ncnn has no operator for {', '.join(sorted(missing))}"
    rows = tracing.rows_with(tracing.capture(job), re.split(r"::|\.", kind)[-1])
    if rows and (len(rows) == count or len(set(rows)) == 1):
        return tracing.row_error(message, rows[0], job.rows, "use another module there, or another --target")
    return NetbuildError(message, hint="use another --target")


def _read_info(path: Path) -> dict[str, Any]:
    """Read the names of inputs and outputs, and netbuild's metadata, from an exported folder.

    Raises:
        NetbuildError: if its netbuild.json cannot be read.
    """
    try:
        return json.loads((path / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetbuildError(f"{path / METADATA}: cannot be read: {shorten(error)}") from error


def _extract(extractor: Any, name: str) -> np.ndarray:
    """Compute an output, and add the batch axis that ncnn does without.

    Raises:
        RuntimeError: if ncnn fails before it.
    """
    code, found = extractor.extract(name)
    if code:
        raise RuntimeError(f"ncnn stops on the way to {name} with code {code}")
    return np.array(found)[None]
