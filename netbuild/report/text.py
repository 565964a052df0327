"""Formats a summary: rich table, CSV, Markdown, JSON, and the layout of published logs."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from netbuild.costs.observer import CONVENTIONS
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.report.activations import describe_activation
from netbuild.report.rows import Report, RowSummary
from netbuild.report.units import giga, size
from netbuild.system.tables import Line, Table, to_text


def first_shape(shape: Any) -> Any:
    """Return the shape of the first tensor; a head's nested shapes are reduced to it."""
    while isinstance(shape, (list, dict)) and shape and not all(isinstance(n, int) for n in shape):
        shape = next(iter(shape.values())) if isinstance(shape, dict) else shape[0]
    return shape


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def _format_giga(count: int) -> str:
    return "0" if not count else f"{count / 1e9:.4f}" if count >= 1e6 else f"{count / 1e9:.2g}"


Cell = Callable[[RowSummary, str], str]
COLUMNS: dict[str, tuple[str, bool, Cell]] = {  # key: heading, right-aligned, text
    "i": ("#", True, lambda r, c: str(r.i)),
    "name": ("name", False, lambda r, c: r.name or ""),
    "from": ("from", True, lambda r, c: "" if r.from_ is None else format_source(r.from_)),
    "n": ("n", True, lambda r, c: str(r.n)),
    "params": ("params", True, lambda r, c: str(r.params)),
    "module": ("module", False, lambda r, c: "  " * (r.depth - 1) + r.module),
    "args": ("arguments", False, lambda r, c: str(r.args) if r.depth == 1 else ""),
    "in": ("input", False, lambda r, c: ", ".join(_cell(first_shape(s)) for s in r.in_shapes)),
    "out": ("output", False, lambda r, c: _cell(first_shape(r.out_shape))),
    "flops": ("GFLOPs", True, lambda r, c: _format_giga(r.flops[c])),
    "macs": ("GMACs", True, lambda r, c: _format_giga(r.macs)),
    "bytes": ("out bytes", True, lambda r, c: f"{r.out_bytes:,}"),
    "rf": ("field", True, lambda r, c: _cell(r.receptive_field)),
    "stride": ("stride", True, lambda r, c: _cell(r.stride)),
    "type": ("type", False, lambda r, c: r.path),
}
# How the table becomes narrower on a terminal: columns in turn, each cut to a least width or, by 0, left out.
_STEPS: tuple[tuple[str, int], ...] = (
    ("args", 16), ("type", 16), ("in", 16), ("args", 6), ("type", 0), ("in", 0), ("bytes", 0), ("args", 0), ("n", 0),
    ("from", 6), ("module", 8), ("name", 6), ("stride", 0), ("rf", 0), ("from", 0), ("macs", 0), ("name", 0),
    ("flops", 0), ("out", 10),
)  # fmt: skip
DEFAULT_COLUMNS = ("i", "from", "n", "params", "module", "args", "out", "flops")
_ALIASES = {
    "#": "i",
    "arguments": "args",
    "output": "out",
    "gflops": "flops",
    "gmacs": "macs",
    "receptive_field": "rf",
    "out_bytes": "bytes",
}


def format_source(value: Any) -> str:
    """Return a row's ``from`` as written in the file, names without quotes."""
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def parse_columns(text: str | None) -> tuple[str, ...]:
    """Parse a comma-separated list of columns; ``+rf,stride`` adds to the default ones, ``all`` gives all.

    Raises:
        NetbuildError: for an unknown column.
    """
    if not text:
        return DEFAULT_COLUMNS
    if text == "all":
        return tuple(COLUMNS)
    names = [_ALIASES.get(w.strip().lower(), w.strip().lower()) for w in text.removeprefix("+").split(",") if w.strip()]
    for name in names:
        if name not in COLUMNS:
            raise NetbuildError(
                f"unknown column '{name}'", hint=did_you_mean(name, COLUMNS) or f"columns: {', '.join(COLUMNS)}"
            )
    return (*DEFAULT_COLUMNS, *(n for n in names if n not in DEFAULT_COLUMNS)) if text.startswith("+") else tuple(names)


def _cells(summary: Report, columns: Sequence[str], convention: str | None = None) -> list[list[str]]:
    chosen = convention or summary.convention
    return [[COLUMNS[name][2](row, chosen) for name in columns] for row in summary.rows]


def _headings(summary: Report, columns: Sequence[str]) -> list[str]:
    return [COLUMNS[name][0] for name in columns]


# -- the lines around the table ---------------------------------------------------------------------------------------


def head_lines(summary: Report) -> list[str]:
    """Return the lines above the table: the file, scale, classes and activation used, and why."""
    g = summary.graph
    dialects = " and ".join(g.spec.dialects)
    facts = [
        *([f"dialect {dialects}"] if dialects else []),
        _describe_scale(summary),
        f"nc {g.nc}{_describe_origin(summary, 'nc')}" if g.nc is not None else "no nc",
        *_describe_inputs(summary),
        describe_activation(g),
        f"task {g.task}" if g.task else "no task",
    ]
    return [str(g.spec.path), ", ".join(facts)]


def _describe_inputs(summary: Report) -> list[str]:
    g = summary.graph
    if not g.spec.inputs:
        return [f"ch {g.ch}{_describe_origin(summary, 'ch')}", f"image {g.imgsz[0]}x{g.imgsz[1]}"]
    return [f"input {name} {'x'.join(map(str, shape)) or 'a number'}" for name, shape in g.inputs]


def _describe_scale(summary: Report) -> str:
    g = summary.graph
    if not g.spec.scales:
        return "no scales"
    if len(g.spec.scales) == 1:
        return f"scale {g.scale.name}"
    names = " ".join(scale.name for scale in g.spec.scales)
    why = {
        "flag": "as requested",
        "name": "from the requested name",
        "default": "the file's first; --scale selects another",
    }[g.scale_from or "default"]
    return f"scale {g.scale.name} of {names} ({why})"


def _describe_origin(summary: Report, key: str) -> str:
    in_file = summary.graph.spec.settings.get(key)
    value = getattr(summary.graph, key)
    if in_file is None:
        return " (default)" if key == "ch" and value == 3 else " (as requested)"
    return "" if in_file == value else f" (as requested; the file has {in_file})"


def headline(summary: Report) -> str:
    """Return the network's totals in one line, as the published logs end."""
    t = summary.totals
    state = " (fused)" if summary.fused else ""
    return (
        f"{summary.title} summary{state}: {t['modules_all']} layers, {t['params']:,} parameters, "
        f"{t['gradients']:,} gradients, {giga(t['flops'])} GFLOPs"
    )


def foot_lines(summary: Report) -> list[str]:
    """Return the lines below the headline, which explain its numbers."""
    t, g = summary.totals, summary.graph
    at = f"{g.imgsz[0]}x{g.imgsz[1]}"
    state = "after merging batch norms" if summary.fused else "batch norms not merged (--fuse merges them)"
    counted = f"{t['modules_all']} modules with root and containers, {t['modules_leaf']} leaf modules, {t['rows']} rows"
    lines = [
        f"layers: {counted}; {state}",
        f"FLOPs ({summary.convention}): {CONVENTIONS[summary.convention]}",
        f"  {t['flops']:,} FLOPs at {at}, {giga(t['macs'])} G multiply-adds (1 MAC = 2 FLOPs)",
    ]
    for name, count in t.get("flops_all", {}).items():
        lines.append(f"  {name:<12}{count:>20,} FLOPs  {CONVENTIONS[name]}")
    lines.append(_memory_line(summary))
    lines += _head_lines(summary)
    strides = _describe_strides(summary)
    if strides:
        lines.append(strides)
    if summary.unknown:
        found = ", ".join(f"{name} (row {', '.join(map(str, rows))})" for name, rows in summary.unknown.items())
        lines.append(f"operators without a FLOPs rule, counted as 0: {found}")
    return lines + [f"note: {note}" for note in summary.notes]


def _head_lines(summary: Report) -> list[str]:
    """Return a line for each of several heads with what it alone needs, and one for what heads share."""
    return [
        f"{cost.title}: {len(cost.rows)} row{'s' * (len(cost.rows) != 1)}, {cost.params:,} parameters, "
        f"{giga(cost.flops[summary.convention])} GFLOPs"
        for cost in summary.head_costs
    ]


def _memory_line(summary: Report) -> str:
    t = summary.totals
    line = f"memory (float32): parameters {size(t['param_bytes'])}, "
    line += f"peak of activations at inference {size(t['peak_activation_bytes'])}"
    if t["saved_bytes"] is not None:
        line += f", saved for backward at batch {summary.batch} {size(t['saved_bytes'])}"
    return line


def _describe_strides(summary: Report) -> str:
    graph = summary.graph
    index = next((row for row in graph.plan.result if graph.layers[row].strides is not None), None)
    if index is None:
        return ""
    row, head = summary.top_rows[index], graph.layers[index]
    if None in row.stride:
        return ""
    # Maps that the head reads only in training predict nothing.
    kept = getattr(head.module, "main_sources", range)(len(row.stride))
    shapes = list(_map_shapes(row.in_shapes))
    cells = sum(h * w for _, _, h, w in (shapes[i] for i in kept))
    return f"strides {[row.stride[i] for i in kept]}, {cells:,} anchor points"


def _map_shapes(shape: Any) -> Iterator[list[int]]:
    """Yield the shapes of all maps in a row's nested inputs."""
    if isinstance(shape, list) and len(shape) == 4 and all(isinstance(n, int) for n in shape):
        yield shape
    elif isinstance(shape, (list, dict)):
        for item in shape.values() if isinstance(shape, dict) else shape:
            yield from _map_shapes(item)


# -- forms ------------------------------------------------------------------------------------------------------------


def as_table(summary: Report, columns: Sequence[str] = DEFAULT_COLUMNS) -> Any:
    """Return a rich renderable: head lines, table, totals. It fits the width of a terminal."""
    from rich.console import Group

    extra = list(summary.totals.get("flops_all", {}))[1:]
    more = [_cells(summary, ("flops",), convention) for convention in extra]
    rows = [[*_headings(summary, columns), *(f"GFLOPs {convention}" for convention in extra)]]
    for index, cells in enumerate(_cells(summary, columns)):
        rows.append([*cells, *(column[index][0] for column in more)])
    left = [index for index, name in enumerate(columns) if not COLUMNS[name][1]]
    steps = [(columns.index(name), least) for name, least in _STEPS if name in columns]
    head = [Line(line, "dim") for line in head_lines(summary)]
    foot = [Line(line, "dim") for line in foot_lines(summary)]
    return Group(*head, Table(rows, left, steps), Line(headline(summary), "bold"), *foot)


def as_text(summary: Report, columns: Sequence[str] = DEFAULT_COLUMNS) -> str:
    """Return the table without colours, never wrapped."""
    return to_text(as_table(summary, columns))


def as_csv(summary: Report, columns: Sequence[str] | None = None) -> str:
    """Return comma-separated values with a heading line; counts are exact integers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    dicts = summary.to_dict()["rows"]
    keys = [key for key in dicts[0] if key != "flops_all"] if columns is None else [_json_key(name) for name in columns]
    writer.writerow(keys)
    writer.writerows([["" if row.get(key) is None else row[key] for key in keys] for row in dicts])
    return out.getvalue()


def _json_key(column: str) -> str:
    keys = {"in": "in_shapes", "out": "out_shape", "bytes": "out_bytes", "rf": "receptive_field"}
    if column in ("macs", "type"):
        raise NetbuildError(f"the column '{column}' is not available as CSV", hint="leave it out of --columns")
    return keys.get(column, column)


def as_markdown(summary: Report, columns: Sequence[str] = DEFAULT_COLUMNS) -> str:
    """Return a Markdown table, with the headline in bold above it and the notes below."""
    lines = [f"**{headline(summary)}**", "", "| " + " | ".join(_headings(summary, columns)) + " |"]
    lines.append("|" + "|".join("---:" if COLUMNS[name][1] else "---" for name in columns) + "|")
    code = {"module", "args", "out", "in", "from"}
    for cells in _cells(summary, columns):
        texts = [f"`{c}`" if name in code and c else c for name, c in zip(columns, cells, strict=True)]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    return "\n".join([*lines, "", *(f"- {line.strip()}" for line in (*head_lines(summary), *foot_lines(summary)))])


def as_plain(summary: Report) -> str:
    """Return the table in the layout of published logs, with the dotted paths of modules."""
    lines = [f"{'':>3}{'from':>20}{'n':>3}{'params':>10}  {'module':<45}{'arguments':<30}"]
    for r in summary.top_rows:
        lines.append(f"{r.i:>3}{format_source(r.from_):>20}{r.n:>3}{r.params:>10}  {r.path:<45}{r.args!s:<30}")
    return "\n".join(line.rstrip() for line in [*lines, headline(summary)])


FORMATS: dict[str, Callable[[Report, Sequence[str]], str]] = {
    "csv": as_csv,
    "markdown": as_markdown,
    "plain": lambda summary, columns: as_plain(summary),
}


def check_format(name: str) -> str:
    """Return the name of a format if it is known.

    Raises:
        NetbuildError: otherwise.
    """
    known = ("table", "json", "html", *FORMATS)
    if name not in known:
        raise NetbuildError(
            f"unknown format '{name}'", hint=did_you_mean(name, known) or f"formats: {', '.join(known)}"
        )
    return name


def as_json(summary: Report) -> str:
    """Return the JSON document with one line per row, so that line-based diffs are readable."""
    return rows_as_json(summary.to_dict())


def rows_as_json(data: dict[str, Any]) -> str:
    """Return a JSON document that ends with ``rows``, one line each."""
    import json

    data = _without_nonfinite(data)
    # json's indent would break every list of a row into lines.
    rows = data.pop("rows")
    body = json.dumps(data, indent=2, ensure_ascii=True)
    listed = ",\n".join("    " + json.dumps(row, ensure_ascii=True) for row in rows)
    return body[:-2] + f',\n  "rows": [\n{listed}\n  ]\n}}'


def _without_nonfinite(value: Any) -> Any:
    """Return the data with infinity and NaN, which JSON lacks, as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_without_nonfinite(item) for item in value]
    return {key: _without_nonfinite(item) for key, item in value.items()} if isinstance(value, dict) else value


def format_explanation(data: dict[str, Any]) -> str:
    """Return the text that `netbuild explain` prints about a module."""
    lines = [data["signature"], f"    {data['doc']}", ""]
    lines += [f"  {name:<12}{role}" for name, role in data["roles"].items()]
    lines += ["", f"example row     - {data['example']}"]
    if data["sample"]:
        shapes = ", ".join(map(str, data["sample"]["in_shapes"]))
        counts = f"{data['sample']['params']:,} parameters, {data['sample']['macs']:,} multiply-adds"
        lines += [f"on {shapes}: {first_shape(data['sample']['out_shape'])}, {counts}"]
        if data["sample"]["params_formula"]:
            lines.append(f"parameters = {data['sample']['params_formula']}")
    if data["inner"]:
        lines += ["", "inside"]
        width = max(len(part["path"]) for part in data["inner"])
        lines += [f"  {part['path']:<{width}}  {part['module']:<14}{part['params']:>10,}" for part in data["inner"]]
    return "\n".join([*lines, "", f"from {data['path']}" + (f", {data['paper']}" if data["paper"] else "")])
