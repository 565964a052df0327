"""The TorchScript target: a trace, for programs in C++ and for older ones in Python; proven like every other file."""

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target
from netbuild.export.parts import Half
from netbuild.export.torch_export import METADATA, make_runner


@target
class TorchscriptTarget(Target):
    """A .torchscript file: `torch.jit.load(path)` runs it."""

    name = "torchscript"
    suffix = ".torchscript"
    packages = ("PIL",)
    takes = frozenset({"dynamic", "half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        _save(trace(job), job, path)
        return [f"torch.jit.trace of torch {torch.__version__}"]

    def open(self, path: Path) -> Run:
        with tracing.quiet():
            return make_runner(torch.jit.load(path, map_location="cpu"))

    def read_metadata(self, path: Path) -> dict[str, str]:
        found = {METADATA: ""}
        with tracing.quiet():
            torch.jit.load(path, map_location="cpu", _extra_files=found)
        return json.loads(found[METADATA] or "{}")


def trace(job: Job) -> torch.jit.ScriptModule:
    """Trace the job's module with torch.jit.

    Raises:
        NetbuildError: at the row that cannot be traced.
    """
    module = Half(job.module) if job.half else job.module
    tracker = tracing.RowTracker(getattr(module, "module", module), ())
    try:
        with tracing.quiet(), tracker.tracking(), torch.no_grad():
            return torch.jit.trace(module, job.examples, check_trace=False)
    except Exception as error:  # modules and the tracer raise classes of their own
        raise tracing.tracing_error(error, tracker, job.rows) from error


def _save(module: torch.jit.ScriptModule, job: Job, path: Path) -> None:
    """Write a trace with netbuild's metadata, and without its debug files, which contain paths of this machine."""
    content = io.BytesIO()  # not a file: torch's writer ends the process if the disk is full
    try:
        with tracing.quiet():
            torch.jit.save(module, content, _extra_files={METADATA: json.dumps(job.metadata)})
    except RuntimeError as error:
        raise NetbuildError(f"the network cannot be written as TorchScript: {shorten(error, 300)}") from error
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as result:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                result.writestr(entry, source.read(entry))
