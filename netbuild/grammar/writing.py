"""Write the tree of a network file as YAML text."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.rows import SECTIONS


def to_yaml(root: Node, changes: Mapping[str, Any] | None = None, without: Collection[str] = ()) -> str:
    """Format the tree of a network file as YAML text, with each row on its own numbered line; comments are lost.

    Args:
        root: the tree.
        changes: plain values of top-level keys that replace the tree's.
        without: top-level keys to leave out.
    """
    lines: list[str] = []
    number = 0
    new = {key: parse(json.dumps(value), key) for key, value in (changes or {}).items()}
    added = {key: node for key, node in new.items() if key not in root.value}
    for key, node in {**added, **root.value, **new}.items():
        if key in ("extends", "edits", *without):
            continue
        if key in SECTIONS and isinstance(node.value, list) and node.value:
            lines.append(f"{key}:")
            for row in node.value:
                lines.append(f"  - {format_flow(row)}  # {number}")
                number += 1
        elif isinstance(node.value, dict) and node.value:
            lines += [
                f"{format_text(key)}:",
                *(f"  {format_text(name)}: {format_flow(item)}" for name, item in node.value.items()),
            ]
        else:
            lines.append(f"{format_text(key)}: {format_flow(node)}")
    return "\n".join(lines)


def format_flow(node: Node) -> str:
    """Format a value on one line, as YAML in flow style."""
    if isinstance(node.value, list):
        return f"[{', '.join(format_flow(item) for item in node.value)}]"
    if isinstance(node.value, dict):
        return "{" + ", ".join(f"{format_text(key)}: {format_flow(item)}" for key, item in node.value.items()) + "}"
    if node.value is None:
        return "null"
    if isinstance(node.value, bool):
        return str(node.value).lower()
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(node.value), ".nan")
    return format_text(node.value, node.quoted) if isinstance(node.value, str) else str(node.value)


def format_text(text: str, quoted: bool = False) -> str:
    """Format a text as a YAML scalar: without quotes where it then reads back as the same text."""
    if not text.isprintable():
        return '"' + "".join(c if c.isprintable() and c not in '\\"' else f"\\U{ord(c):08x}" for c in text) + '"'
    if quoted or any(c in text for c in ",[]{}#:&*!|>'\"%@`") or not _reads_back(text):
        return "'" + text.replace("'", "''") + "'"
    return text


def _reads_back(text: str) -> bool:
    try:
        items = parse(f"[{text}]", "").value
    except NetbuildError:
        return False
    return len(items) == 1 and items[0].value == text
