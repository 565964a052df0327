"""The diagram as plain data: a node per input and row, an edge per value that a row reads, a band per section."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from netbuild.grammar.rows import INPUT
from netbuild.graph.layers import Graph, Layer
from netbuild.report.diagram.source import row_text
from netbuild.report.rows import Report, RowSummary
from netbuild.report.text import first_shape, foot_lines, head_lines, headline
from netbuild.report.units import short, size

METRICS = {"params": "parameters", "flops": "FLOPs", "memory": "memory"}


@dataclass(frozen=True)
class Node:
    """A row, or an input of the network.

    Args:
        index: the row's number; -1, -2, ... are the inputs.
        section: the section of the file, such as backbone.
        module: the module's name, with the number of repeats if there are several.
        name: the row's name, or "".
        sources: the sources as text; empty if the node before is the only one.
        shape: the output's shape without the batch, as text.
        values: the value of each of `METRICS`: parameters, FLOPs, bytes of the output.
        facts: pairs of label and text for the details of the row.
        place: file and line of the row.
        row_text: the text of the row in its file.
    """

    index: int
    section: str
    module: str
    name: str
    sources: str
    shape: str
    values: Mapping[str, int]
    facts: tuple[tuple[str, str], ...]
    place: str = ""
    row_text: str = ""

    @property
    def is_input(self) -> bool:
        """Whether the node is an input of the network, not a row."""
        return self.index < 0

    @property
    def label(self) -> str:
        """A description in one line for screen readers."""
        what = f"input {self.name}" if self.is_input else f"row {self.index}, {self.module}"
        named = f", {self.name}" if self.name and not self.is_input else ""
        return f"{what}{named}, output {self.shape}"


@dataclass(frozen=True)
class Edge:
    """A value that a row reads; ``selection`` is the output's number or name if the source has several."""

    source: int
    target: int
    selection: str = ""


@dataclass(frozen=True)
class Band:
    """A section of the file: its name, and the numbers of its first and last row."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Diagram:
    """A network's diagram; nodes are in the order of the file after the inputs."""

    title: str
    totals: str
    facts: str
    notes: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    bands: tuple[Band, ...]

    def share(self, node: Node, metric: str) -> float:
        """Return a node's share of the network's total of a metric, from 0 to 1."""
        return node.values[metric] / max(self._totals[metric], 1)

    def height(self, node: Node, metric: str) -> float:
        """Return a node's value of a metric relative to the largest node's, from 0 to 1."""
        return node.values[metric] / max(self._largest[metric], 1)

    @cached_property
    def _totals(self) -> dict[str, int]:
        return {metric: sum(node.values[metric] for node in self.nodes) for metric in METRICS}

    @cached_property
    def _largest(self) -> dict[str, int]:
        return {metric: max(node.values[metric] for node in self.nodes) for metric in METRICS}


def make_diagram(summary: Report) -> Diagram:
    """Make the diagram of a summary."""
    graph = summary.graph
    inputs = [_input_node(i, name, shape) for i, (name, shape) in enumerate(graph.inputs)]
    names = {INPUT - i: name for i, (name, _) in enumerate(graph.inputs)}
    names.update({layer.row.index: str(layer.row.name or layer.row.index) for layer in graph.layers})
    rows = [
        _row_node(layer, row, summary.convention, names, i == 0 and len(inputs) > 1)
        for i, (layer, row) in enumerate(zip(graph.layers, summary.top_rows, strict=True))
    ]
    head = head_lines(summary)
    notes = (f"file: {Path(head[0]).name}", *foot_lines(summary))
    totals = headline(summary).partition(": ")[2] + (", batch norms merged" if summary.fused else "")
    return Diagram(summary.title, totals, head[1], notes, (*inputs, *rows), _make_edges(graph), _make_bands(graph))


def _make_edges(graph: Graph) -> tuple[Edge, ...]:
    found = [
        Edge(source, layer.row.index, "" if selection is None else str(selection))
        for layer in graph.layers
        for source, selection in zip(layer.row.sources, layer.row.selections, strict=True)
    ]
    return tuple(dict.fromkeys(found))


def _make_bands(graph: Graph) -> tuple[Band, ...]:
    runs = [list(run) for _, run in groupby((layer.row for layer in graph.layers), key=lambda row: row.section)]
    return tuple(Band(rows[0].section, rows[0].index, rows[-1].index) for rows in runs)


def _input_node(number: int, name: str, shape: Sequence[int]) -> Node:
    words = format_shape([1, *shape]) or "a number"
    facts = (("input", name), ("shape", words))
    return Node(INPUT - number, "", "input", name, "", words, dict.fromkeys(METRICS, 0), facts)


def _row_node(layer: Layer, row: RowSummary, convention: str, names: Mapping[int, str], first_of_many: bool) -> Node:
    before = (layer.row.index - 1 if layer.row.index else INPUT,)
    plain = layer.row.sources == before and layer.row.selections == (None,) and not first_of_many
    sources = (
        "" if plain else ", ".join(_format_source(s, p, names) for s, p in zip(layer.row.sources, layer.row.selections))
    )
    values = {"params": row.params, "flops": row.flops[convention], "memory": row.out_bytes}
    return Node(
        layer.row.index, layer.row.section, row.module + (f" ×{row.n}" if row.n > 1 else ""), row.name or "", sources,
        format_shape(row.out_shape), values, _row_facts(layer, row, convention, names),
        f"{Path(layer.row.where.file).name}:{layer.row.where.line}", row_text(layer.row.node),
    )  # fmt: skip


def _format_source(index: int, selection: int | str | None, names: Mapping[int, str]) -> str:
    return names[index] + (
        "" if selection is None else f"[{selection}]" if isinstance(selection, int) else f".{selection}"
    )


def _row_facts(layer: Layer, row: RowSummary, convention: str, names: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    sources = zip(layer.row.sources, layer.row.selections, strict=True)
    facts = {
        "name": row.name,
        "section": layer.row.section,
        "module": row.path if row.path == row.module else f"{row.module} ({row.path})",
        "repeats": str(row.n) if row.n > 1 else None,
        "arguments": str(row.args),
        "reads": ", ".join(_format_source(s, p, names) for s, p in sources),
        "input": ", ".join(map(_format_full_shape, row.in_shapes)),
        "output": _format_full_shape(row.out_shape),
        "parameters": f"{row.params:,}",
        "FLOPs": f"{row.flops[convention]:,} ({convention})",
        "memory": f"{size(row.out_bytes)} (output, float32: {row.out_bytes:,} bytes)",
        "receptive field": None if row.receptive_field is None else str(row.receptive_field),
        "stride": None if row.stride is None else str(row.stride),
    }
    return tuple((label, text) for label, text in facts.items() if text)


def _format_full_shape(shape: Any) -> str:
    return "-" if shape is None else str(shape)


def format_shape(shape: Any) -> str:
    """Format a shape without its batch, as in 64×80×80; nested shapes as the first one and an ellipsis."""
    first = first_shape(shape)
    if not isinstance(first, list) or not all(isinstance(n, int) for n in first):
        return "-" if first is None else str(first)
    text = "×".join(map(str, first[1:] if len(first) > 1 else first))
    return text if first is shape or not text else f"{text} …"


def submodule_rows(summary: Report) -> dict[int, list[list[Any]]]:
    """Return for each row the cells of its submodules: level, name, module, output, parameters, FLOPs.

    The summary must have been made with a depth above 1.
    """
    found: dict[int, list[list[Any]]] = {}
    for row in summary.rows:
        if row.depth > 1:
            number, _, path = str(row.i).partition(".")
            flops = short(row.flops[summary.convention])
            found.setdefault(int(number), []).append(
                [
                    row.depth - 2,
                    path.rpartition(".")[2],
                    row.module,
                    format_shape(row.out_shape),
                    f"{row.params:,}",
                    flops,
                ]
            )
    return found


# -- text -------------------------------------------------------------------------------------------------------------


def text_width(text: str) -> int:
    """Return the width of a text in columns of a monospaced font."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def truncate(text: str, width: int) -> str:
    """Cut a text to ``width`` columns of a monospaced font, with an ellipsis."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if text_width(text) <= width:
        return text
    while text_width(text) > width - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"
