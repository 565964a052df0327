"""The page: the picture, a panel with the details of each row, and the table, in one HTML file without external parts.

No text of a network's file can become code: texts are escaped, data is JSON in a script element of a type that does not
run, and the content security policy allows only the page's own style and script, by their hashes.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from netbuild.report.diagram import svg
from netbuild.report.diagram.model import METRICS, Diagram, Node, make_diagram, submodule_rows
from netbuild.report.diagram.svg import SvgDrawing, escape
from netbuild.report.rows import Report
from netbuild.report.text import COLUMNS, DEFAULT_COLUMNS


@dataclass(frozen=True)
class Picture:
    """A picture for the page: its title, and the bytes of a PNG file."""

    title: str
    png: bytes

    @property
    def url(self) -> str:
        """The picture as a data URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """Pictures of the whole network, at the end of the page."""

    title: str
    pictures: Sequence[Picture]


def page(
    summary: Report,
    *,
    columns: Sequence[str] = DEFAULT_COLUMNS,
    depth: int = 1,
    pictures: Mapping[int, Sequence[Picture]] | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """Return a summary as an HTML page.

    Args:
        summary: the picture shows its rows, the panel of a row its submodules, if the summary has any.
        columns: the table's columns, by their keys in `netbuild.report.text.COLUMNS`.
        depth: levels of submodules in the table.
        pictures: pictures for the panels, by the number of the row.
        sections: further pictures for the end of the page.

    Raises:
        MissingExtraError: if the layout library is not installed.
    """
    drawing = svg.lay_out_drawing(make_diagram(summary), titled=False)
    style = "".join([_theme_rules(), svg.style_rules(), _read_asset("page.css")])
    script = _read_asset("page.js")
    data = _panel_data(summary, drawing.diagram, pictures or {})
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_content_policy(style, script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
        f"<title>{escape(drawing.diagram.title)}</title><style>{style}</style></head><body>",
        *_head_html(drawing.diagram),
        *_picture_html(drawing),
        *_table_html(summary, columns, depth),
        *_sections_html(drawing.diagram, sections),
        f'<script type="application/json" id="data">{_embed_json(data)}</script>',
        f"<script>{script}</script></body></html>",
    ]
    return "\n".join([*parts, ""])


def _read_asset(name: str) -> str:
    return files("netbuild.report.diagram").joinpath(name).read_text(encoding="utf-8")


def _theme_rules() -> str:
    light, dark = svg.variables("light"), svg.variables("dark")
    return (
        f":root{{color-scheme:light;{light}}}:root[data-theme=dark]{{color-scheme:dark;{dark}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f"@media print{{:root:root:root{{color-scheme:light;{light}}}}}\n"
    )


def _content_policy(style: str, script: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in (style, script)]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _embed_json(data: Any) -> str:
    # Without "<" no text can close the script element.
    return json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


# -- HTML, readable without the script --------------------------------------------------------------------------------


def _head_html(diagram: Diagram) -> Iterator[str]:
    yield f"<header><h1>{escape(diagram.title)}</h1>"
    yield f"<p><strong>{escape(diagram.totals)}</strong><br>{escape(diagram.facts)}</p>"
    yield '<div class="tools" role="toolbar" aria-label="Picture">'
    yield '<label>Search <input type="search" id="search" placeholder="number, name, module" aria-describedby="found"'
    yield ' autocomplete="off" spellcheck="false"></label> <output id="found" aria-live="polite"></output>'
    choices = "".join(f'<option value="{metric}">{name}</option>' for metric, name in METRICS.items())
    yield f'<label>Colour <select id="metric">{choices}</select></label>'
    for key, sign, label in (
        ("smaller", "−", "Zoom out"), ("larger", "+", "Zoom in"), ("real", "1:1", "Actual size"),
        ("fit", "Fit", "Fit the whole picture"), ("theme", "◐", "Switch between light and dark"),
    ):  # fmt: skip
        yield f'<button type="button" id="{key}" title="{label}" aria-label="{label}">{sign}</button>'
    yield "</div></header>"


def _picture_html(drawing: SvgDrawing) -> Iterator[str]:
    label = f"{drawing.diagram.title}: rows from top to bottom"
    yield '<main><div id="stage" role="region" aria-label="Architecture" tabindex="-1">'
    yield svg.opening_tag(drawing, "group", label)
    yield from svg.elements(drawing)
    yield '</svg></div><aside id="panel" aria-label="The selected row" tabindex="-1" hidden></aside></main>'


def _table_html(summary: Report, columns: Sequence[str], depth: int) -> Iterator[str]:
    extra = list(summary.totals.get("flops_all", {}))[1:]
    heads = [COLUMNS[name][:2] for name in columns] + [(f"GFLOPs {convention}", True) for convention in extra]
    cells = "".join(f'<th scope="col"{_alignment(right)}>{escape(name)}</th>' for name, right in heads)
    yield f'<section class="table" aria-label="Table"><h2>Table</h2><table><thead><tr>{cells}</tr></thead><tbody>'
    for row in summary.rows:
        if row.depth > depth:
            continue
        words = [COLUMNS[name][2](row, summary.convention) for name in columns]
        words += [COLUMNS["flops"][2](row, convention) for convention in extra]
        cells = ""
        for name, word, (_, right) in zip([*columns, *extra], words, heads, strict=True):
            inside = f'<a href="#n{row.i}">{row.i}</a>' if name == "i" and row.depth == 1 else escape(word)
            cells += f"<td{_alignment(right)}>{inside}</td>"
        yield f"<tr{'' if row.depth == 1 else ' class=inner'}>{cells}</tr>"
    yield "</tbody></table></section>"


def _alignment(right: bool) -> str:
    return ' class="right"' if right else ""


def _sections_html(diagram: Diagram, sections: Sequence[Section]) -> Iterator[str]:
    notes = "".join(f"<li>{escape(line.strip())}</li>" for line in diagram.notes)
    yield f"<section><h2>Notes on the numbers</h2><ul>{notes}</ul></section>"
    for section in sections:
        figures = "".join(
            f'<figure><img src="{p.url}" alt="{escape(p.title)}"><figcaption>{escape(p.title)}</figcaption></figure>'
            for p in section.pictures
        )
        yield f'<section class="figures"><h2>{escape(section.title)}</h2>{figures}</section>'


# -- data for the script ----------------------------------------------------------------------------------------------


def _panel_data(summary: Report, diagram: Diagram, pictures: Mapping[int, Sequence[Picture]]) -> dict[str, Any]:
    trees = submodule_rows(summary)
    nodes = [
        _node_data(diagram, node, trees.get(node.index, []), pictures.get(node.index, ())) for node in diagram.nodes
    ]
    return {"metrics": METRICS, "nodes": nodes}


def _node_data(diagram: Diagram, node: Node, tree: list[list[Any]], pictures: Sequence[Picture]) -> dict[str, Any]:
    shares = {} if node.is_input else {metric: diagram.share(node, metric) for metric in METRICS}
    return {
        "index": node.index, "module": node.module, "name": node.name, "label": node.label, "facts": node.facts,
        "shares": [[METRICS[metric], f"{share:.1%}", round(share, 4)] for metric, share in shares.items()],
        "tint": {metric: round(0.5 * diagram.height(node, metric), 3) for metric in shares},
        "place": node.place, "rowText": node.row_text, "inner": tree,
        "pictures": [[picture.title, picture.url] for picture in pictures],
    }  # fmt: skip
