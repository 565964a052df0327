"""Python written as ruff would format it: calls and lists broken into lines where one line is too long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 120  # characters of a line


@dataclass(frozen=True)
class Group:
    """What may be broken into lines: an opening, items between commas, a closing."""

    open: str
    items: tuple["Doc", ...]
    close: str


Doc = str | Group


def flat(doc: Doc) -> str:
    """In one line."""
    return doc if isinstance(doc, str) else doc.open + ", ".join(map(flat, doc.items)) + doc.close


def prefixed(text: str, doc: Doc) -> Doc:
    """With a text before it, such as ``name=``."""
    return text + doc if isinstance(doc, str) else Group(text + doc.open, doc.items, doc.close)


def lay(doc: Doc, indent: int, after: str = "", always: bool = False) -> list[str]:
    """As lines.

    Args:
        doc: what is written.
        indent: blanks before it.
        after: a text that follows it, such as a comma.
        always: an item a line, even where one line would do.
    """
    blanks = " " * indent
    if isinstance(doc, str) or (not always and _fits(indent, flat(doc) + after)):
        return [blanks + flat(doc) + after]
    head, foot = blanks + doc.open, blanks + doc.close + after
    inner = ", ".join(map(flat, doc.items))
    if not always and _fits(indent + 4, inner):
        return [head, " " * (indent + 4) + inner, foot]
    comma = "," if len(doc.items) > 1 or always else ""
    return [head, *(line for item in doc.items for line in lay(item, indent + 4, comma)), foot]


def _fits(indent: int, text: str) -> bool:
    return indent + len(text) <= WIDTH


def literal(value: Any) -> Doc:
    """A number, text, list, tuple or None as Python has it."""
    if isinstance(value, (list, tuple)):
        items = tuple(map(literal, value))
        if isinstance(value, tuple):
            return Group("(", items, ",)" if len(items) == 1 else ")")
        return Group("[", items, "]")
    if isinstance(value, str):
        text = repr(value)
        return text if '"' in value else '"' + text[1:-1].replace("\\'", "'") + '"'
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def statement_of_imports(module: str, names: Sequence[str]) -> list[str]:
    """``from module import names``, sorted."""
    line = f"from {module} import {', '.join(names)}"
    return [line] if len(line) <= WIDTH else lay(Group(f"from {module} import (", tuple(names), ")"), 0, always=True)


def grouped(head: str, items: Sequence[str], foot: str = ")") -> Doc:
    """Texts between an opening and a closing."""
    return Group(head, tuple(items), foot)


def commented(doc: Doc, comment: str, indent: int) -> list[str]:
    """An item of a list with a comment: at its end if that fits, else above it."""
    line = " " * indent + f"{flat(doc)},"
    if not comment:
        return lay(doc, indent, ",")
    if len(line) + 2 + len(comment) <= WIDTH:
        return [f"{line}  {comment}"]
    return [" " * indent + comment[: WIDTH - indent], *lay(doc, indent, ",")]


def docstring(text: str) -> list[str]:
    """The docstring of a class."""
    if len(text) + 10 <= WIDTH:
        return [f'    """{text}"""']
    first, *more = wrapped(text).splitlines()
    return [f'    """{first}', *(f"    {line}" for line in more), '    """']


def wrapped(text: str) -> str:
    """A text in lines."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 8 > WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)
