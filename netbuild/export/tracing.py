"""Trace a module with torch.export and free axes; an error names the row that caused it."""

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

MAX_SIDE = 2**31  # torch may state an unbounded side as a very large number
BRANCH_HINT = "compute the same for every size, or leave --dynamic out"
Row = tuple[str, Where | None]  # label of a row in messages, and its place in its file


@dataclass(frozen=True)
class Limit:
    """The range of sides for which a graph is valid, and the row that narrowed it last; None: no upper bound."""

    row: int
    low: int
    high: int | None


class RowTracker:
    """Track by hooks which row runs, and which was the first to fix an axis that should stay free.

    Args:
        module: with its rows as the children of ``model``.
        axes: the free axes of each input.
    """

    def __init__(self, module: nn.Module, axes: Sequence[dict[int, str]]) -> None:
        self.module, self.axes = module, axes
        self.row: int | None = None
        self.fixed: tuple[int, str] | None = None
        self.limits: dict[str, Limit] = {}
        self.inputs: tuple[Any, ...] = ()

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Install the hooks for the duration of the context."""
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
        """Names of free axes that tracing has specialised to a number."""
        for x, axes in zip(self.inputs, self.axes, strict=False):
            for axis, name in axes.items():
                side = x.shape[axis]
                with suppress(Exception):  # private attributes of torch, used only for a better message
                    if isinstance(side, int) or side.node.maybe_as_int() is not None:
                        yield name

    def _note_limits(self, index: int) -> None:
        """Record the range of sides for which the graph so far is valid, and the row that narrowed it."""
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
    """Suppress the warnings and log lines of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress all that libraries print; C++ code writes to file descriptor 2 directly, so that is redirected too."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def capture(job: Job, module: nn.Module | None = None, most: int | None = None) -> torch.export.ExportedProgram:
    """Trace the job's module to torch's graph.

    Args:
        job: its examples and free axes are used.
        module: to trace instead of the job's.
        most: upper bound of a free batch, if the target needs one.

    Raises:
        NetbuildError: at the row that fixes a free axis, or that cannot be traced.
    """
    module = module or job.module
    tracker = RowTracker(getattr(module, "module", module), job.axes)
    shapes = tuple(free_shapes(job, most)) if job.dynamic else None
    with quiet(), tracker.tracking(), torch.no_grad():
        try:
            # The module takes *inputs, whose shapes are those of one argument.
            program = torch.export.export(module, job.examples, dynamic_shapes=(shapes,) if shapes else None)
        except Exception as error:
            raise tracing_error(error, tracker, job.rows) from error
    refuse_branches(job, tracker.limits, most)
    return program


def refuse_branches(job: Job, limits: Mapping[str, Limit], most: int | None = None) -> None:
    """Refuse a module that branches on the size: the graph contains only one of its branches.

    Raises:
        NetbuildError: with its row.
    """
    for name, limit in limits.items():
        step = 1 if name == "batch" else job.multiple
        bound = most if name == "batch" and most else MAX_SIDE
        if limit.high is not None and limit.high < bound:
            raise row_error(_branch(name, f"above {limit.high}"), limit.row, job.rows, BRANCH_HINT)
        below = (limit.low - 1) // step * step
        # torch.export itself assumes at least 2 for every free side.
        if name != "batch" and limit.low > 2 * step and _runs(job, name, below):
            raise row_error(_branch(name, f"below {limit.low}"), limit.row, job.rows, BRANCH_HINT)


def _branch(name: str, beyond: str) -> str:
    return f"its module branches where {name} is {beyond}, which a file with a free {name} cannot express"


def _runs(job: Job, name: str, side: int) -> bool:
    """Whether the network runs at a side for which its graph is not valid."""
    shapes = [
        [side if axes.get(axis) == name else length for axis, length in enumerate(x.shape)]
        for x, axes in zip(job.examples, job.axes, strict=True)
    ]
    try:
        with torch.no_grad():
            job.module(*(torch.zeros(shape) for shape in shapes))
    except Exception:  # the side is too small for the network: there is no other branch
        return False
    return True


def free_shapes(job: Job, most: int | None = None) -> Iterator[dict[int, Any]]:
    """torch.export's dynamic shapes of each input: batches up to ``most``, sides as multiples of the stride."""
    dims = {"batch": torch.export.Dim("batch", max=most)}
    for side in ("height", "width"):
        unit = torch.export.Dim(f"{side}_units")
        dims[side] = job.multiple * unit if job.multiple > 1 else unit
    for axes in job.axes:
        yield {axis: dims[name] for axis, name in axes.items()}


def tracing_error(error: Exception, tracker: RowTracker, rows: Sequence[Row]) -> NetbuildError:
    """The error for a failed trace, at the row that caused it."""
    text = shorten(str(error) or type(error).__name__, 300)
    if tracker.row is not None:
        return row_error(
            f"its module cannot be traced: {text}", tracker.row, rows, "its computation depends on values or sizes"
        )
    if tracker.fixed is not None:
        index, name = tracker.fixed
        message = f"its module supports one {name} only, so {name} cannot stay free"
        return row_error(message, index, rows, f"read {name} from the input's shape, or leave --dynamic out")
    return NetbuildError(f"the network cannot be traced: {text}")


def row_error(message: str, index: int, rows: Sequence[Row], hint: str = "") -> NetbuildError:
    """An error at a row."""
    label, where = rows[index] if index < len(rows) else (f"row {index}", None)
    return NetbuildError(f"{label}: {message}", where, hint)


def unsupported_error(
    text: str, program: torch.export.ExportedProgram, rows: Sequence[Row], form: str
) -> NetbuildError:
    """The error for an operator that an exporter's message names as unsupported, at its row."""
    found = re.search(r"\baten(?:\.|::)\w+", text)
    if found is None:
        return NetbuildError(f"the network cannot be written as {form}: {shorten(text, 300)}")
    reason = text.strip().partition("\n")[0]
    error = operator_error(found[0].replace("::", "."), program, rows, form)
    error.message += "" if found[0] in reason else f": {shorten(reason, 200)}"
    return error


def operator_error(
    operator: str, program: torch.export.ExportedProgram, rows: Sequence[Row], form: str
) -> NetbuildError:
    """The error for an operator that a format lacks, at the first row that uses it.

    Args:
        operator: torch's name, such as aten.cummax.
        program: of the network.
        rows: labels and places of its rows.
        form: name of the format in messages.
    """
    message = f"the operator {operator} cannot be written as {form}"
    plain = operator.split(".")[1].removesuffix("_copy")  # decompositions have copying variants of views
    for graph in _graph_variants(program):
        nodes = [node for node in graph.nodes if node.op == "call_function" and plain in str(node.target)]
        places = [row for row in map(row_of_node, nodes) if row is not None]
        if places:
            return row_error(message, places[0], rows, "use another module there, or another --target")
    return NetbuildError(message)


def _graph_variants(program: torch.export.ExportedProgram) -> Iterator[torch.fx.Graph]:
    """Yield the graph, then its decomposition by torch: exporters may name operators of either."""
    yield program.graph
    with suppress(Exception), quiet():
        yield program.run_decompositions().graph


def row_of(text: str) -> int | None:
    """The row number in a module path of torch's graph."""
    found = re.search(r"\bmodel\.(\d+)\b", text)
    return int(found[1]) if found else None


def row_of_node(node: Any) -> int | None:
    """The row that a node of torch's graph comes from."""
    stack = getattr(node, "meta", {}).get("nn_module_stack") or {}
    found = [row_of(str(path)) for path, _ in stack.values()]
    return next((row for row in found if row is not None), None)


def rows_with(program: torch.export.ExportedProgram, operator: str) -> list[int]:
    """The rows of the nodes of torch's graph whose operator's name contains this."""
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and operator in str(node.target)]
    return [row for row in map(row_of_node, nodes) if row is not None]
