"""A module as torch's graph, its free axes truly free; what goes wrong is an error at its row."""

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netbuild.errors import NetbuildError, Where, shorten
from netbuild.export.base import Job

MOST = 2**31  # what torch takes for endless may come as a very large number
ONE_WAY = "make it one way, or leave --dynamic out"
Row = tuple[str, Where | None]  # how a row is called, and its place in its file


@dataclass(frozen=True)
class Limit:
    """From and up to which side a graph is right, and the row that last said so; None is no end."""

    row: int
    low: int
    high: int | None


class Watch:
    """Which row runs, and which was the first to fix an axis that was to be free.

    Args:
        module: with its rows as the children of ``model``.
        axes: of each input its free axes.
    """

    def __init__(self, module: nn.Module, axes: Sequence[dict[int, str]]) -> None:
        self.module, self.axes = module, axes
        self.row: int | None = None
        self.fixed: tuple[int, str] | None = None
        self.limits: dict[str, Limit] = {}
        self.inputs: tuple[Any, ...] = ()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look on while this lasts."""
        rows = getattr(self.module, "model", None)
        handles = [self.module.register_forward_pre_hook(self._begin)]
        for index, row in enumerate(rows.children() if isinstance(rows, nn.Module) else ()):
            handles.append(row.register_forward_pre_hook(self._enter(index)))
            handles.append(row.register_forward_hook(self._leave(index)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.inputs = inputs

    def _enter(self, index: int) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self.row = index

        return enter

    def _leave(self, index: int) -> Callable[..., None]:
        def leave(*_: Any) -> None:
            self.row = None
            self.fixed = self.fixed or next(((index, name) for name in self._lost()), None)
            self._note_limits(index)

        return leave

    def _lost(self) -> Iterator[str]:
        """Names of free axes that tracing has come to take for a number."""
        for x, axes in zip(self.inputs, self.axes, strict=False):
            for axis, name in axes.items():
                side = x.shape[axis]
                with suppress(Exception):  # a look into torch's insides, for a better message only
                    if isinstance(side, int) or side.node.maybe_as_int() is not None:
                        yield name

    def _note_limits(self, index: int) -> None:
        """From and up to which side the graph so far is right, and which row said so last."""
        for x, axes in zip(self.inputs, self.axes, strict=False):
            for axis, name in axes.items():
                with suppress(Exception):  # as above
                    node = x.shape[axis].node
                    bounds = node.shape_env.bound_sympy(node.expr)
                    low, high = int(bounds.lower), int(bounds.upper) if bounds.upper.is_Integer else None
                    before = self.limits.get(name)
                    if before is None or (before.low, before.high) != (low, high):
                        self.limits[name] = Limit(index, low, high)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of exporters, which are for their makers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def hushed() -> Iterator[None]:
    """Without what libraries print, and without what those in C++ write to the process's own stderr, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def capture(job: Job, module: nn.Module | None = None, most: int | None = None) -> torch.export.ExportedProgram:
    """The job's module as torch's graph.

    Args:
        job: whose examples and free axes are used.
        module: instead of the job's.
        most: the largest of free batches, where a target must know it.

    Raises:
        NetbuildError: with the row that fixes an axis which is to be free, or that cannot be traced.
    """
    module = module or job.module
    watch = Watch(getattr(module, "module", module), job.axes)
    shapes = tuple(free_shapes(job, most)) if job.dynamic else None
    with quiet(), watch.looking(), torch.no_grad():
        try:
            # The module takes *inputs, whose shapes are those of one argument.
            program = torch.export.export(module, job.examples, dynamic_shapes=(shapes,) if shapes else None)
        except Exception as error:
            raise untraced(error, watch, job.rows) from error
    refuse_branches(job, watch.limits, most)
    return program


def refuse_branches(job: Job, limits: Mapping[str, Limit], most: int | None = None) -> None:
    """Refuse a module that does another thing beyond some size: the graph has one of its ways only.

    Raises:
        NetbuildError: with its row.
    """
    for name, limit in limits.items():
        step = 1 if name == "batch" else job.multiple
        bound = most if name == "batch" and most else MOST
        if limit.high is not None and limit.high < bound:
            raise at_row(_branch(name, f"above {limit.high}"), limit.row, job.rows, ONE_WAY)
        below = (limit.low - 1) // step * step
        # Torch itself takes any free number for two at least.
        if name != "batch" and limit.low > 2 * step and _runs(job, name, below):
            raise at_row(_branch(name, f"below {limit.low}"), limit.row, job.rows, ONE_WAY)


def _branch(name: str, beyond: str) -> str:
    return f"its module takes another way where {name} is {beyond}, which a file with a free {name} cannot"


def _runs(job: Job, name: str, side: int) -> bool:
    """Whether the network itself takes a side that its graph does not."""
    shapes = [
        [side if axes.get(axis) == name else length for axis, length in enumerate(x.shape)]
        for x, axes in zip(job.examples, job.axes, strict=True)
    ]
    try:
        with torch.no_grad():
            job.module(*(torch.zeros(shape) for shape in shapes))
    except Exception:  # too small for it: then there is no other way
        return False
    return True


def free_shapes(job: Job, most: int | None = None) -> Iterator[dict[int, Any]]:
    """Of each input what stays free: batches up to ``most``, sides as multiples of what the network needs."""
    dims = {"batch": torch.export.Dim("batch", max=most)}
    for side in ("height", "width"):
        unit = torch.export.Dim(f"{side}_units")
        dims[side] = job.multiple * unit if job.multiple > 1 else unit
    for axes in job.axes:
        yield {axis: dims[name] for axis, name in axes.items()}


def untraced(error: Exception, watch: Watch, rows: Sequence[Row]) -> NetbuildError:
    """What stops tracing, as an error at its row."""
    text = shorten(str(error) or type(error).__name__, 300)
    if watch.row is not None:
        return at_row(
            f"its module cannot be traced: {text}", watch.row, rows, "what it does depends on values or sizes"
        )
    if watch.fixed is not None:
        index, name = watch.fixed
        said = f"its module works at one {name} only, so {name} cannot stay free"
        return at_row(said, index, rows, f"take {name} from the shape of what arrives, or leave --dynamic out")
    return NetbuildError(f"the network cannot be traced: {text}")


def at_row(said: str, index: int, rows: Sequence[Row], hint: str = "") -> NetbuildError:
    """An error at a row."""
    label, where = rows[index] if index < len(rows) else (f"row {index}", None)
    return NetbuildError(f"{label}: {said}", where, hint)


def unheld(text: str, program: torch.export.ExportedProgram, rows: Sequence[Row], form: str) -> NetbuildError:
    """What an exporter says it cannot write, as an error at the row of the operator that it names."""
    found = re.search(r"\baten(?:\.|::)\w+", text)
    if found is None:
        return NetbuildError(f"the network cannot be written as {form}: {shorten(text, 300)}")
    reason = text.strip().partition("\n")[0]
    error = at_operator(found[0].replace("::", "."), program, rows, form)
    error.message += "" if found[0] in reason else f": {shorten(reason, 200)}"
    return error


def at_operator(operator: str, program: torch.export.ExportedProgram, rows: Sequence[Row], form: str) -> NetbuildError:
    """An operator that a form has not, as an error at the first row that uses it.

    Args:
        operator: as torch calls it, such as aten.cummax.
        program: of the network.
        rows: how its rows are called.
        form: how messages call it.
    """
    said, plain = f"the operator {operator} cannot be written as {form}", operator.split(".")[1].removesuffix("_copy")
    for graph in _taken_apart(program):
        nodes = [node for node in graph.nodes if node.op == "call_function" and plain in str(node.target)]
        places = [row for row in map(row_of_node, nodes) if row is not None]
        if places:
            return at_row(said, places[0], rows, "use another module there, or another --target")
    return NetbuildError(said)


def _taken_apart(program: torch.export.ExportedProgram) -> Iterator[torch.fx.Graph]:
    """The graph as it is, then after torch's own rules: what an exporter stumbles over may have its name from these."""
    yield program.graph
    with suppress(Exception), quiet():
        yield program.run_decompositions().graph


def row_of(text: str) -> int | None:
    """The row that a name of torch's graph belongs to."""
    found = re.search(r"\bmodel\.(\d+)\b", text)
    return int(found[1]) if found else None


def row_of_node(node: Any) -> int | None:
    """The row in which a node of torch's graph was made."""
    stack = getattr(node, "meta", {}).get("nn_module_stack") or {}
    found = [row_of(str(path)) for path, _ in stack.values()]
    return next((row for row in found if row is not None), None)


def rows_with(program: torch.export.ExportedProgram, operator: str) -> list[int]:
    """The row of each operator of torch's graph that has this in its name."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and operator in str(node.target)]
    return [row for row in map(row_of_node, nodes) if row is not None]
