"""The torch.export target: the graph that torch traces, which torch opens without netbuild."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError, shorten
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target
from netbuild.export.parts import Half

METADATA = "netbuild.json"  # name of the extra file that holds netbuild's metadata


@target
class TorchExportTarget(Target):
    """A .pt2 file: `torch.export.load(path).module()` runs it."""

    name = "torch-export"
    suffix = ".pt2"
    packages = ("PIL",)
    takes = frozenset({"dynamic", "half"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        program = tracing.capture(job, Half(job.module) if job.half else None)
        _drop_private_data(program)
        try:
            data = io.BytesIO()  # not a file: torch's writer ends the process if the disk is full
            with tracing.quiet():
                torch.export.save(program, data, extra_files={METADATA: json.dumps(job.metadata)})
            path.write_bytes(data.getbuffer())
        except OSError:
            raise
        except Exception as error:  # torch raises several classes for what cannot be written
            raise NetbuildError(f"the network cannot be written as .pt2: {shorten(error, 300)}") from error
        return [f"torch.export of torch {torch.__version__}"]

    def open(self, path: Path) -> Run:
        with tracing.quiet():
            return make_runner(torch.export.load(path).module())

    def read_metadata(self, path: Path) -> dict[str, str]:
        found: dict[str, Any] = {METADATA: ""}
        with tracing.quiet():
            torch.export.load(path, extra_files=found)
        return json.loads(found[METADATA] or "{}")


def make_runner(module: Any) -> Run:
    """Wrap a torch module as a function from arrays to arrays."""

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays))
        return [x.numpy() for x in (found if isinstance(found, (tuple, list)) else [found])]

    return run


def _drop_private_data(program: torch.export.ExportedProgram) -> None:
    """Drop what must not be in a file: paths of this machine's code, and the example inputs."""
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)
    program.example_inputs = None
