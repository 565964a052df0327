"""Formats a comparison of two networks: a coloured rich table, Markdown, HTML, JSON."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from netbuild.author.changes import MARKS, Changes, RowDiff
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.report.html import html_table
from netbuild.report.text import first_shape, format_source, rows_as_json
from netbuild.report.units import giga, size
from netbuild.system.tables import Line, Table, to_text

COLORS = {"same": "dim", "added": "green", "removed": "red", "changed": "yellow", "moved": "cyan"}
HEADINGS = ("", "a", "b", "module", "arguments", "output", "params", "GFLOPs", "memory", "what")
RIGHT = {"a", "b", "params", "GFLOPs", "memory"}  # columns that are aligned right
# How the table becomes narrower on a terminal: the output is the longest and follows from the arguments; the mark in
# the first column already says most of "what".
_STEPS = (
    ("arguments", 40), ("output", 16), ("memory", 0), ("what", 20), ("output", 0), ("what", 10), ("arguments", 30),
    ("GFLOPs", 0), ("arguments", 22), ("what", 0), ("module", 8), ("arguments", 8),
)  # fmt: skip
TOTAL_HEADINGS = ("", "a", "b", "change", "ratio")
WORDS = {
    "module": "module", "args": "arguments", "output": "output", "params": "params", "flops": "FLOPs",
    "out_bytes": "memory",
}  # fmt: skip
TOTALS = {
    "rows": "rows", "modules_all": "layers", "params": "parameters", "gradients": "gradients", "flops": "FLOPs",
    "param_bytes": "memory of parameters", "peak_activation_bytes": "peak of activations",
    "saved_bytes": "saved for backward",
}  # fmt: skip
FORMATS = ("table", "markdown", "json")


def check_format(name: str) -> str:
    """Return the name of a format if it is one of `FORMATS`.

    Raises:
        NetbuildError: otherwise.
    """
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or f"formats: {', '.join(FORMATS)}"
        raise NetbuildError(f"unknown format '{name}'", hint=hint)
    return name


# -- cells ------------------------------------------------------------------------------------------------------------


def row_cells(row: RowDiff) -> list[str]:
    """Return a row's cells for the columns `HEADINGS`, with both values where they differ."""
    numbers = [str(side.index) if side else "" for side in (row.a, row.b)]
    module = _show_change(row, "module", row.row.summary.module)
    args = _show_change(row, "args", row.row.summary.args)
    output = _show_change(row, "output", row.row.summary.out_shape, first_shape)
    costs = [
        _show_signed(row.change("params"), "{:,}".format),
        _show_signed(row.change("flops"), giga),
        _show_signed(row.change("out_bytes"), size),
    ]
    return [MARKS[row.status], *numbers, module, args, output, *costs, describe_changes(row)]


def _show_change(row: RowDiff, name: str, value: Any, form: Callable[[Any], Any] = lambda value: value) -> str:
    if name not in row.changes:
        return str(form(value))
    before, after = map(form, row.changes[name])
    return f"{before} -> {after}" if before != after else str(after)


def describe_changes(row: RowDiff) -> str:
    """Describe which of a row's properties differ."""
    if row.status in ("same", "added", "removed"):
        return "" if row.status == "same" else row.status
    words = [f"moved from {row.a.index}"] if row.status == "moved" and row.a else []
    for name, (before, after) in row.changes.items():
        if name == "from":
            words.append(f"from {format_source(before)} -> {format_source(after)}")
        elif name == "inside":
            words.append(f"inside: {before} -> {after}")
        elif name == "n":
            words.append(f"n {before} -> {after}")
        elif name != "out_bytes" or "output" not in row.changes:
            words.append(WORDS[name])
    return ", ".join(words)


def _show_signed(change: int, form: Callable[[int], str]) -> str:
    return "" if not change else f"{'+' if change > 0 else '-'}{form(abs(change))}"


def total_cells(found: Changes) -> list[list[str]]:
    """Return the cells of the totals: name, both values, difference and ratio."""
    lines = []
    for name, (a, b) in found.totals().items():
        form = size if name.endswith("_bytes") else "{:,}".format
        known = a is not None and b is not None
        texts = ["-" if value is None else form(value) for value in (a, b)]
        change = (_show_signed(b - a, form) or "0") if known else "-"
        lines.append([TOTALS[name], *texts, change, f"{b / a:.3f}" if known and a else "-"])
    return lines


# -- lines around the table -------------------------------------------------------------------------------------------


def head_lines(found: Changes) -> list[str]:
    """Return lines that name the two networks and their differences apart from rows."""
    lines = []
    for side, summary in (("a", found.a), ("b", found.b)):
        g = summary.graph
        scale = f", scale {g.scale.name}" if g.scale.name else ""
        lines.append(f"{side}  {summary.title}  {g.spec.checkpoint or g.spec.path}{scale}")
    return [*lines, *(f"~  {name}: {a} -> {b}" for name, (a, b) in found.facts.items())]


def last_line(found: Changes) -> str:
    """Return the number of rows of each status in one line."""
    counts = found.counts()
    if found.equal:
        return f"equal: {counts['same']} rows, {found.b.totals['params']:,} parameters"
    return ", ".join(f"{counts[status]} {status}" for status in ("added", "removed", "changed", "moved", "same"))


def _shown_rows(found: Changes, all: bool) -> list[RowDiff]:
    return [row for row in found.rows if all or row.status != "same"]


# -- forms ------------------------------------------------------------------------------------------------------------


def as_table(found: Changes, all: bool = False) -> Any:
    """Return a rich renderable: the two networks, rows, totals; a single line if they are equal."""
    from rich.console import Group

    last = Line(last_line(found), "bold")
    if found.equal and not all:
        return last
    rows = _shown_rows(found, all)
    parts: list[Any] = [Line(line, "dim" if line[0] != "~" else COLORS["changed"]) for line in head_lines(found)]
    if rows:
        left = [index for index, name in enumerate(HEADINGS) if name not in RIGHT]
        steps = [(HEADINGS.index(name), least) for name, least in _STEPS]
        cells = [HEADINGS, *(row_cells(row) for row in rows)]
        parts.append(Table(cells, left, steps, [COLORS[row.status] for row in rows]))
    totals = Table([TOTAL_HEADINGS, *total_cells(found)], left=[0], steps=[(4, 0), (0, 10), (3, 0)])
    return Group(*parts, Line(""), totals, last)


def as_text(found: Changes, all: bool = False) -> str:
    """Return the table without colours, never wrapped."""
    return to_text(as_table(found, all))


def as_markdown(found: Changes, all: bool = False) -> str:
    """Return two Markdown tables, rows and totals, such as for a comment on a pull request."""
    lines = [f"- {line}" for line in head_lines(found)]
    if rows := _shown_rows(found, all):
        lines += ["", *_markdown_lines(HEADINGS, [row_cells(row) for row in rows], RIGHT, {"", "arguments", "output"})]
    totals = _markdown_lines(TOTAL_HEADINGS, total_cells(found), set(TOTAL_HEADINGS), set())
    return "\n".join([*lines, "", *totals, "", last_line(found)])


def _markdown_lines(
    headings: Sequence[str], lines: Sequence[Sequence[str]], right: set[str], code: set[str]
) -> list[str]:
    rule = "|".join("---:" if heading in right else "---" for heading in headings)
    texts = [[f"`{text}`" if text and name in code else text for name, text in zip(headings, line)] for line in lines]
    rows = [[text.replace("|", "\\|") for text in line] for line in texts]
    return [f"| {' | '.join(headings)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]


def as_html(found: Changes, all: bool = False) -> str:
    """Return two HTML tables, rows and totals, for a notebook."""
    lines = "<br>".join(map(escape, [*head_lines(found), last_line(found)]))
    rows = [dict(zip(HEADINGS, row_cells(row), strict=True)) for row in _shown_rows(found, all)]
    totals = [dict(zip(TOTAL_HEADINGS, line, strict=True)) for line in total_cells(found)]
    return f"<p>{lines}</p>{html_table(rows) if rows else ''}{html_table(totals)}"


def as_json(found: Changes, all: bool = False) -> str:
    """Return the JSON document with one line per row."""
    return rows_as_json(found.to_dict(all))
