"""The TorchScript target: for programs in C++ and older ones in Python; a trace, held to the proof like any other."""

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
from netbuild.export.torch_export import METADATA, runner


@target
class TorchscriptTarget(Target):
    """A .torchscript file: `torch.jit.load(path)` runs it."""

    name = "torchscript"
    suffix = ".torchscript"
    packages = ("PIL",)
    takes = frozenset({"dynamic", "half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        _save(traced(job), job, path)
        return [f"torch.jit.trace of torch {torch.__version__}"]

    def open(self, path: Path) -> Run:
        with tracing.quiet():
            return runner(torch.jit.load(path, map_location="cpu"))

    def facts(self, path: Path) -> dict[str, str]:
        found = {METADATA: ""}
        with tracing.quiet():
            torch.jit.load(path, map_location="cpu", _extra_files=found)
        return json.loads(found[METADATA] or "{}")


def traced(job: Job) -> torch.jit.ScriptModule:
    """The job's module as a trace.

    Raises:
        NetbuildError: at the row that cannot be traced.
    """
    module = Half(job.module) if job.half else job.module
    watch = tracing.RowTracker(getattr(module, "module", module), ())
    try:
        with tracing.quiet(), watch.tracking(), torch.no_grad():
            return torch.jit.trace(module, job.examples, check_trace=False)
    except Exception as error:  # whatever modules and the tracer say
        raise tracing.tracing_error(error, watch, job.rows) from error


def _save(traced: torch.jit.ScriptModule, job: Job, path: Path) -> None:
    """Write a trace with our metadata, but without its notes on source lines, which tell paths of this machine."""
    whole = io.BytesIO()  # not a file: torch's writer ends the process where the disk is full
    try:
        with tracing.quiet():
            torch.jit.save(traced, whole, _extra_files={METADATA: json.dumps(job.metadata)})
    except RuntimeError as error:
        raise NetbuildError(f"the network cannot be written as TorchScript: {shorten(error, 300)}") from error
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as kept:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(entry, source.read(entry))
