"""The ExecuTorch target: for phones and small boards; what XNNPACK knows is its own, all else ExecuTorch's kernels."""

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

METADATA = "netbuild"  # a method of the file that gives our metadata, as JSON
aten = torch.ops.aten
PARTS: Rules = {  # it has no kernels of these, or none for negative sides
    aten.adaptive_max_pool2d.default: adaptive_max, aten.avg_pool3d.default: average, aten.pad.default: pad,
}  # fmt: skip
MOST = 8  # pictures at once of a free batch: memory is planned for so many


@target
class ExecutorchTarget(Target):
    """A .pte file: `executorch.runtime.Runtime.get().load_program(path).load_method("forward")` runs it."""

    name = "executorch"
    suffix = ".pte"
    extra = "executorch"
    packages = ("executorch", "PIL")
    takes = frozenset({"dynamic"})

    def write(self, job: Job, path: Path) -> Sequence[str]:
        program = decompose(_captured(job), PARTS)
        try:
            with tracing.quiet(), tracing.silenced():
                made, known = _lowered(program, job), _kernels()
        except Exception as error:  # what cannot be lowered is told by several classes
            raise tracing.unsupported_error(str(error), program, job.rows, "ExecuTorch") from error
        for operator in _operators(made):
            if operator not in known:
                raise tracing.operator_error(operator.replace("::", "."), program, job.rows, "ExecuTorch")
        path.write_bytes(made.buffer)
        free = [f"batches of 1 to {MOST}"] if job.dynamic else []
        return [f"executorch {version('executorch')}, delegated to XNNPACK where it can be", *free]

    def open(self, path: Path) -> Run:
        return Method(path)

    def quick(self, path: Path, threads: int) -> Run:
        return Method(path, threads)

    def facts(self, path: Path) -> dict[str, str]:
        with tracing.quiet(), tracing.silenced():
            program = _program(path)
            if METADATA not in program.method_names:
                return {}
            return json.loads(program.load_method(METADATA).execute([])[0])


class Method:
    """What a file does, loaded anew where the pool of threads has changed: a process has one, and methods hold it.

    Args:
        path: of the file.
        threads: of the pool; as they are unless given.
    """

    pool = 0  # how often the process's pool was changed

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        self._load()

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        if self.loaded != Method.pool:  # its own pool is gone, and to run it would be the end of the process
            self._load()
        return [x.numpy() for x in self.method.execute([torch.from_numpy(np.ascontiguousarray(x)) for x in arrays])]

    def _load(self) -> None:
        with tracing.quiet(), tracing.silenced():
            from executorch.extension.pybindings import portable_lib

            there = portable_lib._threadpool_get_thread_count()  # the first call makes the pool, and talks
            if self.threads not in (None, there):
                portable_lib._unsafe_reset_threadpool(self.threads)
                Method.pool += 1
            self.method, self.loaded = _program(self.path).load_method("forward"), Method.pool


def _captured(job: Job) -> torch.export.ExportedProgram:
    """The job's graph; of a free batch up to what memory is planned for, seen at that many pictures.

    At fewer, torch notes that convolutions of more may lie in memory otherwise, which ExecuTorch takes for a limit.

    Raises:
        NetbuildError: for free sizes, and as `tracing.capture`.
    """
    if not job.dynamic:
        return tracing.capture(job)
    if job.dynamic != {"batch"}:
        raise NetbuildError("the target 'executorch' has sizes that are fixed", hint="try --dynamic batch")
    full = tuple(torch.cat([x] * (MOST // len(x))) for x in job.examples)
    return tracing.capture(replace(job, examples=full), most=MOST)


def _lowered(program: torch.export.ExportedProgram, job: Job) -> Any:
    """The program as ExecuTorch's, in memory."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    made = to_edge_transform_and_lower(
        program,
        partitioner=[XnnpackPartitioner()],
        constant_methods={METADATA: json.dumps(job.metadata)},
        # The check itself fixes a free batch, by comparing sizes; a proof runs whatever passes without it.
        compile_config=EdgeCompileConfig(_check_ir_validity=not job.dynamic),
    )
    return made.to_executorch()


def _operators(made: Any) -> list[str]:
    """Operators that the runtime itself is to run, such as aten::split_with_sizes_copy.out."""
    found = [operator for plan in made.executorch_program.execution_plan for operator in plan.operators]
    return [f"{operator.name}.{operator.overload}" if operator.overload else operator.name for operator in found]


def _kernels() -> set[str]:
    from executorch.runtime import Runtime

    return set(Runtime.get().operator_registry.operator_names)


def _program(path: Path) -> Any:
    from executorch.runtime import Runtime

    return Runtime.get().load_program(path)
