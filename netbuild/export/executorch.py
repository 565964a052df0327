"""The ExecuTorch target for phones and small boards: operators run in XNNPACK, or else in ExecuTorch's own kernels."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netbuild.errors import NetbuildError
from netbuild.export import tracing
from netbuild.export.base import Job, Run, Target, target
from netbuild.export.parts import Rules, adaptive_max, average, decompose, pad

METADATA = "netbuild"  # name of the file's method that returns netbuild's metadata as JSON
aten = torch.ops.aten
DECOMPOSITIONS: Rules = {  # ExecuTorch lacks these kernels, or those for negative padding
    aten.adaptive_max_pool2d.default: adaptive_max, aten.avg_pool3d.default: average, aten.pad.default: pad,
}  # fmt: skip
MAX_BATCH = 8  # largest free batch: ExecuTorch plans memory for it


@target
class ExecutorchTarget(Target):
    """A .pte file: `executorch.runtime.Runtime.get().load_program(path).load_method("forward")` runs it."""

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    packages = ("executorch", "PIL")
    takes = frozenset({"dynamic"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        program = decompose(_capture(job), DECOMPOSITIONS)
        try:
            with tracing.quiet(), tracing.silenced():
                lowered, known = _lower(program, job), _known_kernels()
        except Exception as error:  # ExecuTorch raises several classes for what cannot be lowered
            raise tracing.unsupported_error(str(error), program, job.rows, "ExecuTorch") from error
        for operator in _runtime_operators(lowered):
            if operator not in known:
                raise tracing.operator_error(operator.replace("::", "."), program, job.rows, "ExecuTorch")
        path.write_bytes(lowered.buffer)
        free = [f"batches of 1 to {MAX_BATCH}"] if job.dynamic else []
        return [f"executorch {version('executorch')}, delegated to XNNPACK where possible", *free]

    def open(self, path: Path) -> Run:
        return Method(path)

    def open_fast(self, path: Path, threads: int) -> Run:
        return Method(path, threads)

    def read_metadata(self, path: Path) -> dict[str, str]:
        with tracing.quiet(), tracing.silenced():
            program = _load_program(path)
            if METADATA not in program.method_names:
                return {}
            return json.loads(program.load_method(METADATA).execute([])[0])


class Method:
    """A file's method, which is loaded again when the process's only thread pool, to which it is bound, was replaced.

    Args:
        path: the .pte file.
        threads: number of threads of the pool; None leaves it as it is.
    """

    pool_count = 0  # how often the process's thread pool was replaced

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        self._load()

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.loaded != Method.pool_count:  # its pool is gone, and running it would crash the process
            self._load()
        return [x.numpy() for x in self.method.execute([torch.from_numpy(np.ascontiguousarray(x)) for x in arrays])]

    def _load(self) -> None:
        with tracing.quiet(), tracing.silenced():
            from executorch.extension.pybindings import portable_lib

            current = portable_lib._threadpool_get_thread_count()  # the first call makes the pool, and prints
            if self.threads not in (None, current):
                portable_lib._unsafe_reset_threadpool(self.threads)
                Method.pool_count += 1
            self.method, self.loaded = _load_program(self.path).load_method("forward"), Method.pool_count


def _capture(job: Job) -> torch.export.ExportedProgram:
    """Trace the job; with a free batch at the largest batch.

    Traced with a smaller batch, torch notes that convolutions may use another memory format for larger ones, which
    ExecuTorch takes for an upper bound.

    Raises:
        NetbuildError: for free sizes, and as for `tracing.capture`.
    """
    if not job.dynamic:
        return tracing.capture(job)
    if job.dynamic != {"batch"}:
        raise NetbuildError("the target 'executorch' supports fixed sizes only", hint="try --dynamic batch")
    full = tuple(torch.cat([x] * (MAX_BATCH // len(x))) for x in job.examples)
    return tracing.capture(replace(job, examples=full), most=MAX_BATCH)


def _lower(program: torch.export.ExportedProgram, job: Job) -> Any:
    """Lower the program to ExecuTorch's, in memory."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        constant_methods={METADATA: json.dumps(job.metadata)},
        # The validity check fixes a free batch by comparing sizes, so it is off; the proof runs the file anyway.
        compile_config=EdgeCompileConfig(_check_ir_validity=not job.dynamic),
    )
    return lowered.to_executorch()


def _runtime_operators(lowered: Any) -> list[str]:
    """List the operators that XNNPACK does not run, such as aten::split_with_sizes_copy.out."""
    found = [operator for plan in lowered.executorch_program.execution_plan for operator in plan.operators]
    return [f"{operator.name}.{operator.overload}" if operator.overload else operator.name for operator in found]


def _known_kernels() -> set[str]:
    from executorch.runtime import Runtime

    return set(Runtime.get().operator_registry.operator_names)


def _load_program(path: Path) -> Any:
    from executorch.runtime import Runtime

    return Runtime.get().load_program(path)
