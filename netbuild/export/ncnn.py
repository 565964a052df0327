"""The ncnn target: for phones and small boards; a folder of .param and .bin, made by pnnx.

pnnx reads ONNX and TorchScript, and leaves other operators of each that ncnn lacks: torch.narrow of the trace of a
YOLO, Gather of the ONNX graph of a ConvNeXt. So it gets our ONNX graph, and a trace where that does not do.
"""

import json
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
from netbuild.export.onnx import OPSET, convert, finish, store
from netbuild.export.torch_export import METADATA
from netbuild.export.torchscript import traced

# What runs in 16 bits unasked on some machines; what is proven is the file, not the shortcuts of a machine.
NARROW = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")
ONE = "ncnn takes one picture at a time"


@target
class NcnnTarget(Target):
    """A folder NAME_ncnn with NAME.param, NAME.bin and netbuild.json, run by ncnn on the CPU, one picture at a time."""

    name = "ncnn"
    suffix = "_ncnn"
    holds = (".param", ".bin", ".json")
    extra = "ncnn"
    packages = ("onnx", "onnxscript", "pnnx", "ncnn", "PIL")
    takes = frozenset({"half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        if any(len(x) != 1 for x in job.examples):
            raise NetbuildError(ONE, hint="leave --batch out")
        param = path / f"{path.name.removesuffix(self.suffix)}.param"
        folder = Path(tempfile.mkdtemp(prefix="netbuild-"))
        try:
            made, source = _made(job, folder)
            path.mkdir()
            param.write_text(renamed(made.read_text(encoding="utf-8"), job), encoding="utf-8")
            shutil.copyfile(made.with_suffix(".bin"), param.with_suffix(".bin"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        about = {"inputs": job.inputs, "outputs": job.outputs, "metadata": job.metadata}
        (path / METADATA).write_text(json.dumps(about, indent=1), encoding="utf-8")
        said = "weights in float16, reckoned with in float32" if job.half else "float32"
        return [f"pnnx {version('pnnx')} of {source}, run by ncnn {version('ncnn')}, {said}"]

    def open(self, path: Path) -> Run:
        return self.quick(path, 1)

    def quick(self, path: Path, threads: int) -> Run:
        import ncnn

        net, known, param = ncnn.Net(), _known(path), file_in(path, ".param")
        for name in NARROW:
            setattr(net.opt, name, False)
        net.opt.num_threads = threads
        if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
            raise NetbuildError(f"{path}: ncnn cannot load it")

        def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            if any(len(array) != 1 for array in arrays):
                raise ValueError(ONE)
            extractor = net.create_extractor()
            for name, array in zip(known["inputs"], arrays, strict=True):
                extractor.input(name, ncnn.Mat(np.ascontiguousarray(array[0])).clone())
            return [_output(extractor, name) for name in known["outputs"]]

        return run

    def facts(self, path: Path) -> dict[str, str]:
        return dict(_known(path)["metadata"])


def renamed(param: str, job: Job) -> str:
    """The text of a .param with the job's names for inputs and outputs, which pnnx calls in0, in1, ..., out0, ...

    Raises:
        NetbuildError: if one is missing.
    """
    names = {f"in{i}": name for i, name in enumerate(job.inputs)}
    names |= {f"out{i}": name for i, name in enumerate(job.outputs)}
    lines, seen = param.splitlines(), set[str]()
    for at, layer in enumerate(lines[2:], 2):  # after a magic number, and the numbers of layers and blobs
        kind, label, ins, outs, *rest = layer.split()
        count = int(ins) + int(outs)
        seen |= set(rest[:count])
        blobs = [names.get(blob, blob) for blob in rest[:count]]
        lines[at] = " ".join([f"{kind:24} {names.get(label, label):24}", ins, outs, *blobs, *rest[count:]])
    if lost := [name for blob, name in names.items() if blob not in seen]:
        raise NetbuildError(f"pnnx leaves {lost[0]} out: no operator of ncnn takes or gives it")
    return "\n".join([*lines, ""])


def unknown(param: str) -> Counter[str]:
    """Operators of a .param that ncnn lacks: pnnx leaves them there under the names of torch or ONNX."""
    import ncnn

    kinds = Counter(line.split()[0] for line in param.splitlines()[2:])
    return Counter({kind: count for kind, count in kinds.items() if ncnn.layer_to_index(kind) < 0})


def _made(job: Job, folder: Path) -> tuple[Path, str]:
    """A .param that ncnn can load, with a .bin beside it, and what it was made of.

    Raises:
        NetbuildError: if there is none: with the operator that ncnn lacks, and its row where that is known.
    """
    # Halved weights are pnnx's own doing: of a halved graph ncnn could not do the casts.
    whole = replace(job, options={})
    sources: dict[str, Callable[[], Path]] = {
        "our ONNX graph": lambda: _as_onnx(whole, folder),
        f"torch.jit.trace of torch {torch.__version__}": lambda: _as_trace(whole, folder),
    }
    lacks, failed = Counter[str](), NetbuildError("pnnx cannot convert the network")
    for source, store_it in sources.items():
        try:
            made = _run_pnnx(store_it(), job)
            found = unknown(made.read_text(encoding="utf-8"))
            if not found:
                return made, source
            lacks = found
        except NetbuildError as error:  # pnnx may crash on one, and take the other
            failed = error
    raise _unknown_at(lacks, whole) if lacks else failed


def _as_onnx(job: Job, folder: Path) -> Path:
    model = convert(job, OPSET)
    finish(model, job)
    store(model, folder / "graph.onnx")
    return folder / "graph.onnx"


def _as_trace(job: Job, folder: Path) -> Path:
    with tracing.quiet():
        torch.jit.save(traced(job), folder / "trace.pt")
    return folder / "trace.pt"


def _run_pnnx(file: Path, job: Job) -> Path:
    """The .param that pnnx writes beside a file, with its .bin and much else.

    Raises:
        NetbuildError: if it writes none.
    """
    import pnnx

    shapes = ",".join(f"[{','.join(map(str, x.shape))}]f32" for x in job.examples)
    call = [pnnx.EXEC_PATH, file.name, f"inputshape={shapes}", f"fp16={int(job.half)}"]
    done = subprocess.run(
        call, cwd=file.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
    )
    made = file.with_suffix(".ncnn.param")
    if done.returncode or not made.is_file() or not made.with_suffix(".bin").is_file():
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        said = f"pnnx cannot convert the network: exit code {done.returncode}, {shorten(last, 200)}"
        raise NetbuildError(said, hint="use another --target")
    return made


def _unknown_at(lacks: Counter[str], job: Job) -> NetbuildError:
    """What ncnn lacks; at its row, if it does not have this operator at others."""
    kind, count = lacks.most_common()[-1]
    said = f"ncnn has no operator for {', '.join(sorted(lacks))}"
    rows = tracing.rows_with(tracing.capture(job), kind.rpartition(".")[2])
    if rows and (len(rows) == count or len(set(rows)) == 1):
        return tracing.row_error(said, rows[0], job.rows, "use another module there, or another --target")
    return NetbuildError(said, hint="use another --target")


def _known(path: Path) -> dict[str, Any]:
    """What a folder says of itself: names of inputs and outputs, and our metadata.

    Raises:
        NetbuildError: if it says nothing.
    """
    try:
        return json.loads((path / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NetbuildError(f"{path / METADATA}: cannot be read: {shorten(error)}") from error


def _output(extractor: Any, name: str) -> np.ndarray:
    """An output with its batch of one, which ncnn does without.

    Raises:
        RuntimeError: if ncnn does not come to it.
    """
    code, found = extractor.extract(name)
    if code:
        raise RuntimeError(f"ncnn stops on the way to {name} with code {code}")
    return np.array(found)[None]
