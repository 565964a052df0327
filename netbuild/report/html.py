"""HTML tables for notebooks, without styles and scripts."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any


def html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as an HTML table; the columns are the keys in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in columns)
    body = "".join(_row([row.get(name) for name in columns]) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(values: Sequence[Any]) -> str:
    cells = (f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value) for value in values)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
