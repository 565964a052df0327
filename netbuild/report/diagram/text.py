"""Formats the architecture as source for Mermaid and Graphviz, which lay it out themselves."""

from collections.abc import Callable, Iterator

from netbuild.report.diagram.model import Diagram, Node, make_diagram
from netbuild.report.rows import Report
from netbuild.report.units import short

_SAFE = frozenset(" .,:-_()[]/×·")


def to_mermaid(summary: Report) -> str:
    """Return a Mermaid flowchart from top to bottom; sections are subgraphs."""
    diagram = make_diagram(summary)
    lines = ["---", f'title: "{_escape_title(diagram.title)}: {_escape_title(diagram.totals)}"', "---", "flowchart TD"]
    for node in diagram.nodes:
        if node.is_input:
            lines.append(f'  {_key(node.index)}(["{_escape_mermaid(_input_label(node, " "))}"])')
    for band, nodes in _sections(diagram):
        lines.append(f'  subgraph s_{band}["{_escape_mermaid(band)}"]')
        lines += [f'    {_key(node.index)}["{_join_parts(node, "<br/>", _escape_mermaid)}"]' for node in nodes]
        lines.append("  end")
    for edge in diagram.edges:
        selection = f'|"{_escape_mermaid(edge.selection)}"|' if edge.selection else ""
        lines.append(f"  {_key(edge.source)} -->{selection} {_key(edge.target)}")
    return "\n".join([*lines, ""])


def to_dot(summary: Report) -> str:
    """Return a directed graph in the DOT language; sections are clusters."""
    diagram = make_diagram(summary)
    label = _quote_dot(f"{diagram.title}: {diagram.totals}")
    lines = [f"digraph {_quote_dot(diagram.title)} {{", f"  label={label}; labelloc=t; rankdir=TB;"]
    lines.append('  node [shape=box, style=rounded, fontname="monospace"];')
    for node in diagram.nodes:
        if node.is_input:
            lines.append(f"  {_key(node.index)} [label={_quote_dot(_input_label(node, ' '))}, shape=oval];")
    for i, (band, nodes) in enumerate(_sections(diagram)):
        lines.append(f"  subgraph cluster_{i} {{")
        lines.append(f"    label={_quote_dot(band)};")
        lines += [
            f'    {_key(node.index)} [label="{_join_parts(node, chr(92) + "n", _escape_dot)}"];' for node in nodes
        ]
        lines.append("  }")
    for edge in diagram.edges:
        selection = f" [label={_quote_dot(edge.selection)}]" if edge.selection else ""
        lines.append(f"  {_key(edge.source)} -> {_key(edge.target)}{selection};")
    return "\n".join([*lines, "}", ""])


def _sections(diagram: Diagram) -> Iterator[tuple[str, list[Node]]]:
    for band in diagram.bands:
        yield band.name, [node for node in diagram.nodes if band.first <= node.index <= band.last]


def _key(index: int) -> str:
    return f"r{index}" if index >= 0 else f"in{-index}"


def _input_label(node: Node, between: str) -> str:
    return between.join(_label_parts(node))


def _join_parts(node: Node, between: str, escape: Callable[[str], str]) -> str:
    return between.join(map(escape, _label_parts(node)))


def _label_parts(node: Node) -> list[str]:
    if node.is_input:
        return [node.name, node.shape]
    head = f"{node.index} {node.module}" + (f" ({node.name})" if node.name else "")
    return [head, f"{node.shape} · {short(node.values['params'])} · {short(node.values['flops'])}FLOPs"]


def _escape_mermaid(words: str) -> str:
    """Replace every character that could be Mermaid syntax by its entity code."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in _SAFE else f"#{ord(c)};" for c in words)


def _escape_title(words: str) -> str:
    """Make a text safe between double quotes in the YAML front matter of a chart."""
    return "".join(c if c.isprintable() and c not in '"\\' else " " for c in words)


def _escape_dot(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words).replace("\\", "\\\\").replace('"', '\\"')


def _quote_dot(words: str) -> str:
    return f'"{_escape_dot(words)}"'
