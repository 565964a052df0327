"""Further runs of a resolved network on ``meta``: each module's cost, the fused network, tensors saved for backward."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netbuild.costs.observer import Observer, Tally, count_saved_bytes, observe_on_meta
from netbuild.costs.outputs import Shape, bytes_of, first_tensor, shape_of
from netbuild.costs.receptive_field import Field, field_of
from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.rows import Row
from netbuild.graph.layers import Graph
from netbuild.graph.network import Rows
from netbuild.layers.fuse import fuse

FUSE_HINT = "a method named fuse must take no arguments and leave a module that runs; or leave out --fuse"


@dataclass
class ModuleTrace:
    """A module's cost and output in one run; ``called`` is False for pure containers such as ModuleList."""

    path: str
    module: nn.Module
    tally: Tally = field(default_factory=Tally)
    called: bool = False
    in_shapes: list[Shape] = field(default_factory=list)
    out_shape: Shape = None
    out_bytes: int = 0
    field: Field | None = None


def trace(graph: Graph, model: Rows, imgsz: tuple[int, int] | None = None) -> tuple[dict[str, ModuleTrace], int]:
    """Run rows on ``meta`` and trace every module.

    Args:
        graph: the resolved network.
        model: its rows, as built or fused.
        imgsz: height and width of the image; the graph's unless given.

    Returns:
        The trace of each module by its path, such as ``2.m.0``, and the peak of activation memory in bytes.

    Raises:
        NetbuildError: at the row whose module fails at this size, or fails after fusing.
    """
    observer = Observer()
    parts = {path: ModuleTrace(path, m) for path, m in model.named_modules(remove_duplicate=False) if path}
    observer.live.exempt(model)
    handles = _add_hooks(parts, observer)
    try:
        with observe_on_meta(observer):
            images = graph.make_inputs(imgsz=imgsz)
            for image in images:
                observer.live.add(image)
            model.eval()(*images)
    except Exception as error:
        # Rows run in order, so the first one that was not called is the one that failed.
        row = next(layer.row for i, layer in enumerate(graph.layers) if not parts[str(i)].called)
        raise _row_error(row, "its module fails when it is run", error) from error
    finally:
        for handle in handles:
            handle.remove()
    return parts, observer.live.peak


def _add_hooks(parts: Mapping[str, ModuleTrace], observer: Observer) -> list[Any]:
    """Register hooks that begin a tally when a module is called and end it when the module returns."""
    paths: dict[int, list[str]] = {}
    for path, part in parts.items():
        paths.setdefault(id(part.module), []).append(path)
    stack = [""]

    def before(module: nn.Module, args: Any) -> None:
        # A module with several parents, such as a shared activation, counts for the parent that is running.
        known = paths[id(module)]
        path = next((p for p in known if p.startswith(f"{stack[-1]}.")), known[0])
        stack.append(path)
        observer.tallies.append(parts[path].tally)

    def after(module: nn.Module, args: Any, out: Any) -> None:
        part = parts[stack.pop()]
        observer.tallies.pop()
        part.called, part.out_shape, part.field = True, shape_of(out), field_of(first_tensor(out))
        part.in_shapes, part.out_bytes = [shape_of(x) for x in args], bytes_of(out, args)

    # A module with several paths gets one pair of hooks, or its calls would be counted several times.
    modules = {id(part.module): part.module for part in parts.values()}
    return [
        handle
        for module in modules.values()
        for handle in (module.register_forward_pre_hook(before), module.register_forward_hook(after))
    ]


def fuse_graph(graph: Graph) -> Rows:
    """Return a copy of the rows on ``meta`` with batch norms and parallel branches merged.

    Raises:
        NetbuildError: at the row whose module cannot be copied or merged.
    """
    with observe_on_meta(Observer(counting=False)):
        memo: dict[int, Any] = {}  # one for all copies, so that modules shared by rows stay shared
        modules = {}
        for layer in graph.layers:
            with _errors_at(layer.row, "its module cannot be copied", "leave out --fuse"):
                modules[str(layer.row.index)] = deepcopy(layer.module, memo)
        model = Rows(modules, graph.plan)
        model.fuse()
        for layer, module in zip(graph.layers, list(model.children()), strict=True):
            with _errors_at(layer.row, "its fuse() fails"):
                fuse(module)
    return model


@contextmanager
def _errors_at(row: Row, what: str, hint: str = FUSE_HINT) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # custom modules may raise anything
        raise _row_error(row, what, error, hint) from error


def _row_error(row: Row, what: str, error: Exception, hint: str = FUSE_HINT) -> NetbuildError:
    text = shorten(str(error) or type(error).__name__, 300)
    return NetbuildError(f"{row.label}: {what}: {text}", row.where, hint)


def measure_saved(graph: Graph, batch: int = 1) -> tuple[int, int]:
    """Measure the bytes that autograd saves for backward in training mode.

    Returns:
        The bytes of all saved tensors, and how many of these belong to parameters and buffers.

    Raises:
        ValueError: from a batch norm that gets a single value per channel.
    """
    model = graph.skeleton()
    stored = {id(t.untyped_storage()): t.untyped_storage() for t in (*model.parameters(), *model.buffers())}
    model.train()
    try:
        with observe_on_meta(Observer(counting=False)), torch.enable_grad():
            images = graph.make_inputs(batch)
            return count_saved_bytes(lambda: model(*images), set(stored))
    finally:
        model.eval()
