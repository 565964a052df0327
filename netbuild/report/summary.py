"""What a network is and costs, row by row: the numbers behind every table, as plain data."""

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
from netbuild.report.trace import Part, fused, measure_saved, trace

STRIDE_IMAGE = 32  # the smallest side of the one image that thop-stride profiles


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
    """Summarise a network file: nothing is allocated or initialised.

    Args:
        file: as for `netbuild.graph.opening.open_graph`.
        flops: a convention of `netbuild.costs.observer.CONVENTIONS`, or ``all``.
        fused: count after merging batch norms into convolutions.
        batch: the batch size for which the memory of training is counted.
        depth: 1 for the file's rows, 2 and more to open them into their submodules.
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
    conventions = conventions_of(flops)
    model = fused(graph) if fuse else graph.skeleton()
    parts, peak = _row_parts(graph) if depth == 1 and not fuse else trace(graph, model)
    strided, notes = _strided(graph, model) if "thop-stride" in conventions else ({}, ())
    counts = {path: _flops(path, conventions, strided, parts) for path in parts}
    side = stride_image(graph)
    factors = {"thop-stride": graph.imgsz[0] * graph.imgsz[1] / side**2} if strided else {}
    rows = tuple(_rows(graph, parts, {path: _scaled(count, factors) for path, count in counts.items()}, depth))
    return Summary(
        graph, conventions[0], rows, _totals(graph, model, rows, conventions, peak, 0 if fuse else batch), fuse, batch,
        (*graph.notes, *notes), _unknown(parts),
    )  # fmt: skip


def conventions_of(flops: str) -> list[str]:
    """The conventions that ``--flops`` asks for.

    Raises:
        NetbuildError: for an unknown one.
    """
    if flops == "all":
        return list(CONVENTIONS)
    if flops not in CONVENTIONS:
        known = [*CONVENTIONS, "all"]
        raise NetbuildError(
            f"unknown FLOPs convention '{flops}'", hint=did_you_mean(flops, known) or f"known: {', '.join(known)}"
        )
    return [flops]


def _row_parts(graph: Graph) -> tuple[dict[str, Part], int]:
    """The rows' parts as resolving saw them: no second run is needed for a plain summary."""
    parts = {
        str(i): Part(str(i), r.module, r.tally, True, r.in_shapes, r.out_shape, r.out_bytes, r.field)
        for i, r in enumerate(graph.layers)
    }
    return parts, graph.peak_bytes


def _strided(graph: Graph, model: Rows) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The run on one stride-sized image; empty where a row cannot take so small an image, with a note that says so."""
    side = stride_image(graph)
    try:
        return trace(graph, model, (side, side))[0], ()
    except NetbuildError as error:  # a size that is not its own
        why = error.__cause__
        return {}, (f"thop-stride: the net does not take {side}x{side} ({why}); counted at the requested size instead",)


def stride_image(graph: Graph) -> int:
    """The side of the image that thop-stride profiles: the head's largest stride, at least 32."""
    head = graph.layers[-1]
    return int(max([STRIDE_IMAGE, *(s for s in head.strides or () if s)]))


def _flops(
    path: str, conventions: Sequence[str], strided: Mapping[str, Part], parts: Mapping[str, Part]
) -> dict[str, int]:
    counts = {}
    for convention in conventions:
        if convention == "thop-stride" and strided:
            counts[convention] = _tally_sum(strided, path, "thop")
        else:
            counts[convention] = _tally_sum(parts, path, "torch" if convention == "torch" else "thop")
    return counts


def _tally_sum(parts: Mapping[str, Part], path: str, convention: str) -> int:
    """A part's FLOPs; of a container that is not called itself, those of its children."""
    part = parts[path]
    if part.called:
        return part.tally.flops(convention)
    return sum(_tally_sum(parts, f"{path}.{name}", convention) for name, _ in part.module.named_children())


def _rows(
    graph: Graph, parts: Mapping[str, Part], counts: Mapping[str, Mapping[str, int]], depth: int
) -> Iterator[RowSummary]:
    for index, layer in enumerate(graph.layers):
        part, row = parts[str(index)], layer.row
        stride = _stride(part) if layer.strides is None else [*map(_whole, layer.strides)]
        yield RowSummary(
            row.index, row.name, row.written_from, layer.n, layer.factory.name, layer.factory.path, layer.arguments,
            parameter_count(part.module), layer.in_shapes, part.out_shape, counts[str(index)], part.tally.macs,
            part.out_bytes, _receptive(part.field), stride,
        )  # fmt: skip
        if depth > 1:
            yield from _children(part, parts, counts, depth - 1, 2)


def _children(
    part: Part, parts: Mapping[str, Part], counts: Mapping[str, Mapping[str, int]], left: int, level: int
) -> Iterator[RowSummary]:
    for name, child in part.module.named_children():
        cls = type(child)
        path = f"{part.path}.{name}"
        below = parts[path]
        yield RowSummary(
            path, None, None, 1, getattr(child, "title", cls.__name__), f"{cls.__module__}.{cls.__qualname__}", [],
            parameter_count(child), below.in_shapes, below.out_shape, counts[path], below.tally.macs,
            below.out_bytes, _receptive(below.field), _stride(below), level,
        )  # fmt: skip
        if left > 1:
            yield from _children(below, parts, counts, left - 1, level + 1)


def _scaled(counts: Mapping[str, int], factors: Mapping[str, float]) -> dict[str, int]:
    return {name: round(count * factors.get(name, 1)) for name, count in counts.items()}


def _receptive(known: Field | None) -> Any:
    if known is None or not known.known:
        return None
    if known.size is None:
        return "global"
    return known.size[0] if known.size[0] == known.size[1] else list(known.size)


def _stride(part: Part) -> Any:
    if part.field is None or not part.field.known or not isinstance(part.out_shape, list):
        return None
    if len(part.out_shape) != 4 or not all(isinstance(n, int) for n in part.out_shape):
        return None
    h, w = (_whole(s) for s in part.field.stride)
    return h if h == w else [h, w]


def _whole(value: float | None) -> int | float | None:
    return int(value) if value is not None and float(value).is_integer() else value


def _totals(
    graph: Graph, model: Rows, rows: Sequence[RowSummary], conventions: Sequence[str], peak: int, batch: int
) -> dict[str, Any]:
    modules = {id(m): m for m in model.modules()}
    flops = {name: sum(row.flops[name] for row in rows if row.depth == 1) for name in conventions}
    saved, saved_params = _saved(graph, batch)
    totals = {
        "rows": len(graph.layers),
        "modules_all": len(modules) + 1,  # and the root that holds the rows
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


def _saved(graph: Graph, batch: int) -> tuple[int | None, int | None]:
    try:
        return measure_saved(graph, batch) if batch else (None, None)
    except Exception:  # a net that cannot train at this size, such as a batch norm on a single value
        return None, None


def _unknown(parts: Mapping[str, Part]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for path, part in parts.items():
        if "." not in path:
            for name in part.tally.unknown:
                found.setdefault(name, []).append(int(path))
    return found
