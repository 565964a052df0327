"""Formats Python code as ruff does: breaks calls and lists into lines if one line is too long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 120  # largest number of characters in a line


@dataclass(frozen=True)
class Group:
    """Code that can be broken into lines: an opening bracket, items, which commas separate, a closing bracket."""

    open: str
    items: tuple["Doc", ...]
    close: str


Doc = str | Group


def to_line(doc: Doc) -> str:
    """Return the code as one line."""
    return doc if isinstance(doc, str) else doc.open + ", ".join(map(to_line, doc.items)) + doc.close


def add_prefix(text: str, doc: Doc) -> Doc:
    """Add a text before the code, such as ``name=``."""
    return text + doc if isinstance(doc, str) else Group(text + doc.open, doc.items, doc.close)


def to_lines(doc: Doc, indent: int, after: str = "", always: bool = False) -> list[str]:
    """Return the code as lines.

    Args:
        doc: the code.
        indent: the number of blanks before each line.
        after: a text that follows the code, such as a comma.
        always: write one item per line even if all fit into one line.
    """
    blanks = " " * indent
    if isinstance(doc, str) or (not always and _fits(indent, to_line(doc) + after)):
        return [blanks + to_line(doc) + after]
    head, foot = blanks + doc.open, blanks + doc.close + after
    inner = ", ".join(map(to_line, doc.items))
    if not always and _fits(indent + 4, inner):
        return [head, " " * (indent + 4) + inner, foot]
    comma = "," if len(doc.items) > 1 or always else ""
    return [head, *(line for item in doc.items for line in to_lines(item, indent + 4, comma)), foot]


def _fits(indent: int, text: str) -> bool:
    return indent + len(text) <= WIDTH


def to_literal(value: Any) -> Doc:
    """Format a number, text, list, tuple or None as a Python literal."""
    if isinstance(value, (list, tuple)):
        items = tuple(map(to_literal, value))
        if isinstance(value, tuple):
            return Group("(", items, ",)" if len(items) == 1 else ")")
        return Group("[", items, "]")
    if isinstance(value, str):
        text = repr(value)
        return text if '"' in value else '"' + text[1:-1].replace("\\'", "'") + '"'
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def import_lines(module: str, names: Sequence[str]) -> list[str]:
    """Return the lines of ``from module import names``; the names must be sorted."""
    line = f"from {module} import {', '.join(names)}"
    return (
        [line] if len(line) <= WIDTH else to_lines(Group(f"from {module} import (", tuple(names), ")"), 0, always=True)
    )


def group(head: str, items: Sequence[str], foot: str = ")") -> Doc:
    """Return texts between an opening and a closing bracket."""
    return Group(head, tuple(items), foot)


def add_comment(doc: Doc, comment: str, indent: int) -> list[str]:
    """Return an item of a list with a comment: at the end of the line if it fits, else above it."""
    line = " " * indent + f"{to_line(doc)},"
    if not comment:
        return to_lines(doc, indent, ",")
    if len(line) + 2 + len(comment) <= WIDTH:
        return [f"{line}  {comment}"]
    return [" " * indent + comment[: WIDTH - indent], *to_lines(doc, indent, ",")]


def to_docstring(text: str) -> list[str]:
    """Return the lines of a class's docstring."""
    if len(text) + 10 <= WIDTH:
        return [f'    """{text}"""']
    first, *more = wrap(text).splitlines()
    return [f'    """{first}', *(f"    {line}" for line in more), '    """']


def wrap(text: str) -> str:
    """Wrap a text into lines."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 8 > WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
