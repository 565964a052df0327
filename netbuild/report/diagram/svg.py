"""Draws the diagram as a self-contained SVG file, with colours and fonts from svg.css in a light and a dark theme."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from netbuild.report.diagram.layout import Layout, Point, Route, lay_out
from netbuild.report.diagram.model import METRICS, Diagram, Node, make_diagram, text_width, truncate
from netbuild.report.rows import Report
from netbuild.report.units import short

CELL = 7.3  # largest width in pixels of a letter in a monospaced font of 12 pixels
BETWEEN = 12  # pixels between columns
MARGIN, GUTTER = 16, 12  # pixels around the picture, and between the names of sections and the lanes
BAR = 64  # width in pixels of a metric's cell
LEGEND = "A full bar is the largest row; rows are tinted by their share of the parameters."
HEADINGS = {"params": "params", "flops": "FLOPs", "memory": "memory"}
COLUMNS = {"number": "#", "module": "module", "name": "name", "sources": "from", "shape": "output"}
MAX_LETTERS = {"module": 26, "name": 18, "sources": 16, "shape": 20}  # widest columns; longer texts are cut

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that XML does not allow


def escape(value: object) -> str:
    """Escape a text for XML and HTML, between tags or in double quotes."""
    return html.escape(_ILLEGAL.sub("\ufffd", str(value)))


def px(value: float) -> str:
    """Format pixels with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Column:
    """A column of texts in the boxes: the attribute of a node that it shows, its x in pixels, its width in letters."""

    key: str
    heading: str
    x: float
    letters: int
    right: bool = False

    @property
    def end(self) -> float:
        """The x of its right edge in pixels."""
        return self.x + self.letters * CELL

    def cell_text(self, node: Node) -> str:
        """Return the node's text, cut to the width."""
        value = ("" if node.is_input else str(node.index)) if self.key == "number" else getattr(node, self.key)
        return truncate(value, self.letters)


@dataclass(frozen=True)
class SvgDrawing:
    """A laid-out diagram; ``left`` is the x of the boxes, ``head`` are the lines of text above them."""

    diagram: Diagram
    columns: tuple[Column, ...]
    layout: Layout
    width: float
    left: float
    head: tuple[str, ...]

    @property
    def legend(self) -> float:
        """The y of the line that explains the colours."""
        return 62 + 16 * len(self.head) if self.head else 22

    @property
    def top(self) -> float:
        """The y of the first box."""
        return self.legend + 40

    @property
    def height(self) -> float:
        """The height of the picture."""
        return self.top + self.layout.bottom + MARGIN + 6

    @property
    def bars(self) -> dict[str, float]:
        """The x of each metric's cell."""
        start = self.columns[-1].end + BETWEEN
        return {metric: start + i * (BAR + 6) for i, metric in enumerate(METRICS)}


def lay_out_drawing(diagram: Diagram, titled: bool = True) -> SvgDrawing:
    """Lay out the columns, boxes and lines of a diagram; without ``titled`` the lines of text above it are left out.

    Raises:
        MissingExtraError: if the layout library is not installed.
    """
    columns = _make_columns(diagram)
    width = columns[-1].end + BETWEEN + len(METRICS) * (BAR + 6) + 2
    layout = lay_out(diagram, width)
    names = max((text_width(band.name) for band in diagram.bands), default=0) * CELL
    left = MARGIN + names + GUTTER + layout.left + GUTTER
    total = max(left + width + layout.right + GUTTER + MARGIN, 560)
    letters = int((total - 2 * MARGIN) / CELL)
    head = tuple(line for words in (diagram.totals, diagram.facts, LEGEND) for line in _wrap(words, letters))
    head = head if titled else ()
    return SvgDrawing(diagram, columns, layout, total, left, head)


def _make_columns(diagram: Diagram) -> tuple[Column, ...]:
    columns, x = [], 8.0
    for key, heading in COLUMNS.items():
        if key == "number":
            longest = max(len(str(node.index)) for node in diagram.nodes)
        else:
            longest = min(max(text_width(getattr(node, key)) for node in diagram.nodes), MAX_LETTERS[key])
        if longest:
            columns.append(Column(key, heading, x, max(longest, len(heading)), key == "number"))
            x = columns[-1].end + BETWEEN
    return tuple(columns)


def _wrap(line: str, letters: int) -> tuple[str, ...]:
    lines = [""]
    for word in line.split(" "):
        if lines[-1] and text_width(lines[-1]) + 1 + text_width(word) > letters:
            lines.append("")
        lines[-1] = truncate(f"{lines[-1]} {word}".strip(), letters)
    return tuple(lines)


# -- SVG --------------------------------------------------------------------------------------------------------------


def to_svg(summary: Report) -> str:
    """Return the picture of a summary as the text of an SVG file.

    Raises:
        MissingExtraError: if the layout library is not installed.
    """
    drawing = lay_out_drawing(make_diagram(summary))
    title = f"{drawing.diagram.title}: {drawing.diagram.totals}"
    colours = f"<style>{_literal_rules('light')}@media (prefers-color-scheme:dark){{{_literal_rules('dark')}}}</style>"
    head = [opening_tag(drawing, "img", title), f"<title>{escape(title)}</title>", colours]
    return "\n".join([*head, *elements(drawing), "</svg>", ""])


def opening_tag(drawing: SvgDrawing, role: str, label: str) -> str:
    """Return the opening tag of the picture."""
    width, height = px(drawing.width), px(drawing.height)
    sides = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {sides} class="net" role="{role}" aria-label="{escape(label)}">'


def elements(drawing: SvgDrawing) -> Iterator[str]:
    """Yield the elements of the picture, from the background to the front."""
    yield f'<rect class="ground" width="{px(drawing.width)}" height="{px(drawing.height)}"/>'
    yield from _head_elements(drawing)
    yield from _band_elements(drawing)
    for route in drawing.layout.routes:
        yield _edge_element(drawing, route)
    for node in drawing.diagram.nodes:
        yield _node_element(drawing, node)


def _head_elements(drawing: SvgDrawing) -> Iterator[str]:
    if drawing.head:
        title = truncate(drawing.diagram.title, int((drawing.width - 2 * MARGIN) / 13))
        yield f'<text class="title" x="{MARGIN}" y="32">{escape(title)}</text>'
    for i, line in enumerate(drawing.head):
        yield f'<text class="dim" x="{MARGIN}" y="{52 + 16 * i}">{escape(line)}</text>'
    y = drawing.legend
    x: float = MARGIN
    for metric, name in METRICS.items():
        yield f'<rect class="{metric}" x="{px(x)}" y="{px(y - 9)}" width="10" height="10" rx="2" fill-opacity=".6"/>'
        yield f'<text class="dim" x="{px(x + 15)}" y="{px(y)}">{name}</text>'
        x += 15 + (len(name) + 2) * CELL
    if not drawing.head:
        yield f'<text class="dim" x="{px(x)}" y="{px(y)}">full bar: the largest row</text>'
    for column in drawing.columns:
        yield _text_element(column, drawing.left, drawing.top - 12, column.heading, "dim")
    for metric, bar in drawing.bars.items():
        end = drawing.left + bar + BAR - 4
        yield f'<text class="dim" x="{px(end)}" y="{px(drawing.top - 12)}" text-anchor="end">{HEADINGS[metric]}</text>'


def _band_elements(drawing: SvgDrawing) -> Iterator[str]:
    for i, (band, top, bottom) in enumerate(drawing.layout.bands):
        y = drawing.top + top
        yield (
            f'<g class="band band{i % 2}"><rect x="{px(MARGIN / 2)}" y="{px(y)}" width="{px(drawing.width - MARGIN)}" '
            f'height="{px(bottom - top)}" rx="6"/><text x="{MARGIN}" y="{px(y + 23)}">{escape(band.name)}</text></g>'
        )


def _node_element(drawing: SvgDrawing, node: Node) -> str:
    box = drawing.layout.boxes[node.index]
    x, y = drawing.left, drawing.top + box.y
    kind = "node input" if node.is_input else "node"
    parts = [f'<g class="{kind}" id="n{node.index}"><title>{escape(_tooltip(drawing.diagram, node))}</title>']
    edge = (
        f'x="{px(x)}" y="{px(y)}" width="{px(box.width)}" height="{px(box.height)}" rx="{13 if node.is_input else 5}"'
    )
    parts.append(f'<rect class="box" {edge}/>')
    line = y + box.height / 2 + 4
    if not node.is_input:
        tint = 0.5 * drawing.diagram.height(node, "params")
        parts.append(f'<rect class="tint params" {edge} fill-opacity="{tint:.3g}"/>')
        for metric, bar in drawing.bars.items():
            parts.append(_bar_elements(drawing.diagram, node, metric, x + bar, y, box.height))
    texts = [(column, column.cell_text(node)) for column in drawing.columns]
    parts += [_text_element(column, x, line, words, column.key) for column, words in texts if words]
    return "".join([*parts, "</g>"])


def _text_element(column: Column, left: float, line: float, words: str, kind: str) -> str:
    x = left + (column.end if column.right else column.x)
    anchor = ' text-anchor="end"' if column.right else ""
    return f'<text class="{kind}" x="{px(x)}" y="{px(line)}"{anchor}>{escape(words)}</text>'


def _bar_elements(diagram: Diagram, node: Node, metric: str, x: float, y: float, height: float) -> str:
    value = node.values[metric]
    share = diagram.height(node, metric)
    bar = ""
    if value:
        where = f'x="{px(x)}" y="{px(y + 4)}" width="{max(share * BAR, 1.5):.4g}" height="{px(height - 8)}"'
        bar = f'<rect class="{metric}" {where} rx="2" fill-opacity="{0.25 + 0.45 * share:.3g}"/>'
    words = short(value) + ("B" if metric == "memory" else "")
    return (
        f'{bar}<text class="value" x="{px(x + BAR - 4)}" y="{px(y + height / 2 + 4)}" text-anchor="end">{words}</text>'
    )


def _tooltip(diagram: Diagram, node: Node) -> str:
    lines = [f"{'input' if node.is_input else node.index} {node.module if not node.is_input else node.name}"]
    lines += [f"{label}: {words}" for label, words in node.facts]
    if not node.is_input:
        shares = (f"{diagram.share(node, metric):.1%} of all {name}" for metric, name in METRICS.items())
        lines += [", ".join(shares), node.place]
    return "\n".join(lines)


def _edge_element(drawing: SvgDrawing, route: Route) -> str:
    points = [(x + drawing.left, y + drawing.top) for x, y in route.points]
    first = route.edges[0]
    selections = ", ".join(edge.selection for edge in route.edges if edge.selection)
    # Inputs are the first nodes and are numbered -1, -2, ...
    source = str(first.source) if first.source >= 0 else drawing.diagram.nodes[-1 - first.source].name
    title = f"{source} → {first.target}" + (f" (output {selections})" if selections else "")
    kind = "next" if route.lane is None else f"skip lane{route.lane}"
    dot = ""
    if route.branch:
        dot = f'<circle cx="{px(route.branch[0] + drawing.left)}" cy="{px(route.branch[1] + drawing.top)}" r="2"/>'
    return (
        f'<g class="edge {kind}" data-from="{first.source}" data-to="{first.target}"><title>{escape(title)}</title>'
        f'<path class="line" d="{path_data(points)}"/>{dot}<path class="tip" d="{_arrow_path(points)}"/></g>'
    )


def path_data(points: Sequence[Point]) -> str:
    """Return the SVG path of a line with rounded corners, which ends before the last point: there its tip begins."""
    parts = [f"M{px(points[0][0])} {px(points[0][1])}"]
    *_, before, end = points
    last = _move_toward(end, before, 3)
    for a, corner, b in zip(points, points[1:], points[2:]):
        radius = min(8.0, _distance(a, corner) / 2, _distance(corner, b) / 2)
        p, q = _move_toward(corner, a, radius), _move_toward(corner, b, radius)
        parts.append(f"L{px(p[0])} {px(p[1])}Q{px(corner[0])} {px(corner[1])} {px(q[0])} {px(q[1])}")
    return "".join([*parts, f"L{px(last[0])} {px(last[1])}"])


def _distance(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])  # all lines are horizontal or vertical


def _move_toward(a: Point, b: Point, distance: float) -> Point:
    length = _distance(a, b) or 1
    return a[0] + (b[0] - a[0]) / length * distance, a[1] + (b[1] - a[1]) / length * distance


def _arrow_path(points: Sequence[Point]) -> str:
    end, base = points[-1], _move_toward(points[-1], points[-2], 6)
    dx, dy = (end[1] - base[1]) * 0.45, (end[0] - base[0]) * 0.45
    corners = [end, (base[0] + dx, base[1] + dy), (base[0] - dx, base[1] - dy)]
    return "M" + "L".join(f"{px(x)} {px(y)}" for x, y in corners) + "z"


# -- colours ----------------------------------------------------------------------------------------------------------

PALETTE = {  # light, dark; the lanes' colours are by Okabe and Ito, distinct with any kind of colour vision
    "ground": ("#ffffff", "#15181d"), "box": ("#ffffff", "#1d2127"), "rim": ("#8a94a3", "#5b6675"),
    "ink": ("#1b1f24", "#e6e9ee"), "dim": ("#59636e", "#9aa4b1"), "line": ("#6b7683", "#8b96a4"),
    "band0": ("#f2f5f9", "#1a1e25"), "band1": ("#eaf0f7", "#20262f"),
    "params": ("#3b82c4", "#4a94d8"), "flops": ("#d9822b", "#d58936"), "memory": ("#3f9a6b", "#46a878"),
    "lane0": ("#0072b2", "#56b4e9"), "lane1": ("#b34a00", "#e69f00"), "lane2": ("#00785a", "#2fc498"),
    "lane3": ("#a8457f", "#e08dbb"), "lane4": ("#7a5cc0", "#ab94ea"), "lane5": ("#7d6a00", "#d3c33d"),
}  # fmt: skip


@cache
def style_rules() -> str:
    """Return the CSS rules of the picture, with colours as variables."""
    return re.sub(r"\s*\n\s*", "", files("netbuild.report.diagram").joinpath("svg.css").read_text(encoding="utf-8"))


def variables(theme: str) -> str:
    """Return the CSS declarations of a theme's colour variables; the theme is ``light`` or ``dark``."""
    return "".join(f"--{name}:{pair[theme == 'dark']};" for name, pair in PALETTE.items())


def _literal_rules(theme: str) -> str:
    """Return the CSS rules with a theme's colours instead of variables, which many SVG viewers do not support."""
    return re.sub(r"var\(--(\w+)\)", lambda m: PALETTE[m[1]][theme == "dark"], style_rules())
