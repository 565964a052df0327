"""Summarises a network row by row: parameters, FLOPs, shapes, memory, receptive fields and totals, as plain data."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Unpack

from netbuild.costs.observer import CONVENTIONS
from netbuild.costs.outputs import parameter_count
from netbuild.costs.receptive_field import Field
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph.layers import Graph
from netbuild.graph.network import Rows
from netbuild.graph.opening import NetworkOptions, open_graph
from netbuild.report import text
from netbuild.report.html import html_table
from netbuild.report.rows import Report, RowSummary
from netbuild.report.trace import ModuleTrace, fuse_graph, measure_saved, trace

MIN_STRIDED_SIDE = 32  # smallest side in pixels of the image that the convention thop-stride runs


class Summary(Report):
    """A network's table and totals. Prints itself; `to_dict` gives the JSON."""

    def __str__(self) -> str:
        return text.as_text(self)

    def __rich__(self) -> Any:
        return text.as_table(self)

    def _repr_html_(self) -> str:
        rows = [
            {"#": r.i, "name": r.name, "from": r.from_, "n": r.n, "params": r.params, "module": r.module,
             "arguments": r.args, "output": r.out_shape}
            for r in self.top_rows
        ]  # fmt: skip
        return f"<p>{escape(text.headline(self))}</p>{html_table(rows)}"


def summarize(
    file: str | Path,
    *,
    flops: str = "torch",
    fused: bool = False,
    batch: int = 1,
    depth: int = 1,
    **options: Unpack[NetworkOptions],
) -> Summary:
    """Summarise a network file without allocating or initialising its weights.

    Args:
        file: as for `netbuild.graph.opening.open_graph`.
        flops: a convention of `netbuild.costs.observer.CONVENTIONS`, or ``all``.
        fused: count after merging batch norms into convolutions.
        batch: the batch size for which training memory is counted.
        depth: 1 for the file's rows; each level above adds a level of submodules.
        options: see `netbuild.graph.opening.NetworkOptions`.

    Raises:
        NetbuildError: with the place of every mistake in the file.
    """
    graph = open_graph(file, **options)
    return summarize_graph(graph, flops=flops, fuse=fused, batch=batch, depth=depth)


def summarize_graph(
    graph: Graph, *, flops: str = "torch", fuse: bool = False, batch: int = 1, depth: int = 1
) -> Summary:
    """Summarise a resolved network; arguments as for `summarize`.

    Raises:
        NetbuildError: for an unknown FLOPs convention.
    """
    conventions = parse_conventions(flops)
    model = fuse_graph(graph) if fuse else graph.skeleton()
    parts, peak = _row_traces(graph) if depth == 1 and not fuse else trace(graph, model)
    strided, notes = _trace_strided(graph, model) if "thop-stride" in conventions else ({}, ())
    counts = {path: _count_flops(path, conventions, strided, parts) for path in parts}
    # thop-stride scales the counts of its small image by the ratio of the areas.
    side = strided_side(graph)
    factors = {"thop-stride": graph.imgsz[0] * graph.imgsz[1] / side**2} if strided else {}
    counts = {path: _scale_counts(count, factors) for path, count in counts.items()}
    rows = tuple(_make_rows(graph, parts, counts, depth))
    totals = _make_totals(graph, model, rows, conventions, peak, 0 if fuse else batch)
    return Summary(graph, conventions[0], rows, totals, fuse, batch, (*graph.notes, *notes), _unknown_operators(parts))


def parse_conventions(flops: str) -> list[str]:
    """Return the FLOPs conventions that a value of ``--flops`` stands for, the first of which is the main one.

    Raises:
        NetbuildError: for an unknown convention.
    """
    if flops == "all":
        return list(CONVENTIONS)
    if flops not in CONVENTIONS:
        known = [*CONVENTIONS, "all"]
        raise NetbuildError(
            f"unknown FLOPs convention '{flops}'", hint=did_you_mean(flops, known) or f"known: {', '.join(known)}"
        )
    return [flops]


def _row_traces(graph: Graph) -> tuple[dict[str, ModuleTrace], int]:
    """Return the traces of rows from the run that resolved the graph: a plain summary needs no second run."""
    parts = {
        str(i): ModuleTrace(str(i), r.module, r.tally, True, r.in_shapes, r.out_shape, r.out_bytes, r.field)
        for i, r in enumerate(graph.layers)
    }
    return parts, graph.peak_bytes


def _trace_strided(graph: Graph, model: Rows) -> tuple[dict[str, ModuleTrace], tuple[str, ...]]:
    """Trace the network on an image of `strided_side`; empty, with a note for the user, if a row fails on it."""
    side = strided_side(graph)
    try:
        return trace(graph, model, (side, side))[0], ()
    except NetbuildError as error:  # such as a network with a fixed input size
        why = error.__cause__
        return {}, (f"thop-stride: the network fails on {side}x{side} ({why}); counted at its own size instead",)


def strided_side(graph: Graph) -> int:
    """Return the side in pixels of the image for thop-stride: the largest stride of a head, at least 32."""
    heads = [graph.layers[row] for row in graph.plan.result]
    return int(max([MIN_STRIDED_SIDE, *(s for head in heads for s in head.strides or () if s)]))


def _count_flops(
    path: str, conventions: Sequence[str], strided: Mapping[str, ModuleTrace], parts: Mapping[str, ModuleTrace]
) -> dict[str, int]:
    counts = {}
    for convention in conventions:
        if convention == "thop-stride" and strided:
            counts[convention] = _sum_flops(strided, path, "thop")
        else:
            counts[convention] = _sum_flops(parts, path, "torch" if convention == "torch" else "thop")
    return counts


def _sum_flops(parts: Mapping[str, ModuleTrace], path: str, convention: str) -> int:
    """Return a module's FLOPs; for a container that is never called itself, the sum over its children."""
    part = parts[path]
    if part.called:
        return part.tally.flops(convention)
    return sum(_sum_flops(parts, f"{path}.{name}", convention) for name, _ in part.module.named_children())


def _make_rows(
    graph: Graph, parts: Mapping[str, ModuleTrace], counts: Mapping[str, Mapping[str, int]], depth: int
) -> Iterator[RowSummary]:
    for index, layer in enumerate(graph.layers):
        part, row = parts[str(index)], layer.row
        stride = _stride_of(part) if layer.strides is None else [*map(_to_int, layer.strides)]
        yield RowSummary(
            row.index, row.name, row.written_from, layer.n, layer.factory.name, layer.factory.path, layer.arguments,
            parameter_count(part.module), layer.in_shapes, part.out_shape, counts[str(index)], part.tally.macs,
            part.out_bytes, _field_size(part.field), stride,
        )  # fmt: skip
        if depth > 1:
            yield from _make_child_rows(part, parts, counts, depth - 1, 2)


def _make_child_rows(
    part: ModuleTrace, parts: Mapping[str, ModuleTrace], counts: Mapping[str, Mapping[str, int]], left: int, level: int
) -> Iterator[RowSummary]:
    for name, child in part.module.named_children():
        cls = type(child)
        path = f"{part.path}.{name}"
        below = parts[path]
        yield RowSummary(
            path, None, None, 1, getattr(child, "title", cls.__name__), f"{cls.__module__}.{cls.__qualname__}", [],
            parameter_count(child), below.in_shapes, below.out_shape, counts[path], below.tally.macs,
            below.out_bytes, _field_size(below.field), _stride_of(below), level,
        )  # fmt: skip
        if left > 1:
            yield from _make_child_rows(below, parts, counts, left - 1, level + 1)


def _scale_counts(counts: Mapping[str, int], factors: Mapping[str, float]) -> dict[str, int]:
    return {name: round(count * factors.get(name, 1)) for name, count in counts.items()}


def _field_size(known: Field | None) -> Any:
    if known is None or not known.known:
        return None
    if known.size is None:
        return "global"
    return known.size[0] if known.size[0] == known.size[1] else list(known.size)


def _stride_of(part: ModuleTrace) -> Any:
    if part.field is None or not part.field.known or not isinstance(part.out_shape, list):
        return None
    if len(part.out_shape) != 4 or not all(isinstance(n, int) for n in part.out_shape):
        return None
    h, w = (_to_int(s) for s in part.field.stride)
    return h if h == w else [h, w]


def _to_int(value: float | None) -> int | float | None:
    return int(value) if value is not None and float(value).is_integer() else value


def _make_totals(
    graph: Graph, model: Rows, rows: Sequence[RowSummary], conventions: Sequence[str], peak: int, batch: int
) -> dict[str, Any]:
    modules = {id(m): m for m in model.modules()}
    flops = {name: sum(row.flops[name] for row in rows if row.depth == 1) for name in conventions}
    saved, saved_params = _measure_saved(graph, batch)
    totals = {
        "rows": len(graph.layers),
        "modules_all": len(modules) + 1,  # the root module, which contains the rows, counts as one
        "modules_leaf": sum(1 for m in modules.values() if next(m.children(), None) is None),
        "params": parameter_count(model),
        "gradients": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "flops": flops[conventions[0]],
        "macs": sum(row.macs for row in rows if row.depth == 1),
        "param_bytes": sum(p.nbytes for p in model.parameters()),
        "buffer_bytes": sum(b.nbytes for b in model.buffers()),
        "peak_activation_bytes": peak,
        "saved_bytes": saved,
        "saved_parameter_bytes": saved_params,
    }
    return {**totals, "flops_all": flops} if len(flops) > 1 else totals


def _measure_saved(graph: Graph, batch: int) -> tuple[int | None, int | None]:
    try:
        return measure_saved(graph, batch) if batch else (None, None)
    except Exception:  # the network cannot train at this size, such as a batch norm on a single value
        return None, None


def _unknown_operators(parts: Mapping[str, ModuleTrace]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for path, part in parts.items():
        if "." not in path:
            for name in part.tally.unknown:
                found.setdefault(name, []).append(int(path))
    return found
