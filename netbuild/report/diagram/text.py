"""The architecture as text that other programs draw: Mermaid and DOT. No layout is needed."""

from collections.abc import Callable, Iterator

from netbuild.report.diagram.model import Diagram, Node, diagram
from netbuild.report.rows import Report
from netbuild.report.units import short

_PLAIN = frozenset(" .,:-_()[]/×·")


def mermaid(summary: Report) -> str:
    """A Mermaid flowchart, top down; sections are subgraphs."""
    shown = diagram(summary)
    lines = ["---", f'title: "{_front(shown.title)}: {_front(shown.totals)}"', "---", "flowchart TD"]
    for node in shown.nodes:
        if node.is_input:
            lines.append(f'  {_key(node.index)}(["{_coded(_label(node, " "))}"])')
    for band, nodes in _sections(shown):
        lines.append(f'  subgraph s_{band}["{_coded(band)}"]')
        lines += [f'    {_key(node.index)}["{_lines(node, "<br/>", _coded)}"]' for node in nodes]
        lines.append("  end")
    for edge in shown.edges:
        pick = f'|"{_coded(edge.pick)}"|' if edge.pick else ""
        lines.append(f"  {_key(edge.source)} -->{pick} {_key(edge.target)}")
    return "\n".join([*lines, ""])


def dot(summary: Report) -> str:
    """A directed graph in the DOT language; sections are clusters."""
    shown = diagram(summary)
    label = _quoted(f"{shown.title}: {shown.totals}")
    lines = [f"digraph {_quoted(shown.title)} {{", f"  label={label}; labelloc=t; rankdir=TB;"]
    lines.append('  node [shape=box, style=rounded, fontname="monospace"];')
    for node in shown.nodes:
        if node.is_input:
            lines.append(f"  {_key(node.index)} [label={_quoted(_label(node, ' '))}, shape=oval];")
    for i, (band, nodes) in enumerate(_sections(shown)):
        lines.append(f"  subgraph cluster_{i} {{")
        lines.append(f"    label={_quoted(band)};")
        lines += [f'    {_key(node.index)} [label="{_lines(node, chr(92) + "n", _escaped)}"];' for node in nodes]
        lines.append("  }")
    for edge in shown.edges:
        pick = f" [label={_quoted(edge.pick)}]" if edge.pick else ""
        lines.append(f"  {_key(edge.source)} -> {_key(edge.target)}{pick};")
    return "\n".join([*lines, "}", ""])


def _sections(shown: Diagram) -> Iterator[tuple[str, list[Node]]]:
    for band in shown.bands:
        yield band.name, [node for node in shown.nodes if band.first <= node.index <= band.last]


def _key(index: int) -> str:
    return f"r{index}" if index >= 0 else f"in{-index}"


def _label(node: Node, between: str) -> str:
    return between.join(_parts(node))


def _lines(node: Node, between: str, escape: Callable[[str], str]) -> str:
    return between.join(map(escape, _parts(node)))


def _parts(node: Node) -> list[str]:
    if node.is_input:
        return [node.name, node.shape]
    head = f"{node.index} {node.module}" + (f" ({node.name})" if node.name else "")
    return [head, f"{node.shape} · {short(node.values['params'])} · {short(node.values['flops'])}FLOPs"]


def _coded(words: str) -> str:
    """Mermaid's own form of every character that could mean something to it."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in _PLAIN else f"#{ord(c)};" for c in words)


def _front(words: str) -> str:
    """A text between double quotes in the YAML before a chart."""
    return "".join(c if c.isprintable() and c not in '"\\' else " " for c in words)


def _escaped(words: str) -> str:
    return "".join(c if c.isprintable() else " " for c in words).replace("\\", "\\\\").replace('"', '\\"')


def _quoted(words: str) -> str:
    return f'"{_escaped(words)}"'
