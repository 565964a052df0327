"""Build a file on another: ``extends`` names the base, ``edits`` change its rows, other keys replace the base's.

This happens on nodes, before rows are read, so that each row keeps its place and is checked like any other.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.locate import is_file, locate
from netbuild.grammar.nodes import Node, parse, read_text
from netbuild.grammar.rows import SECTIONS

MAX_CHAIN = 16  # files that extend one another
EDIT_VERBS = ("insert_before", "insert_after", "replace", "remove")
MERGED = ("params", "blocks", "imports")  # mappings whose entries replace the base's one by one


@dataclass(eq=False)
class _Slot:
    """A row during editing; its sources point to other rows, so that they stay right when rows move."""

    node: Node
    section: str
    name: str | None
    sources: list["_Slot | str | int"]  # a row, a row's name or `input`, or -1 for the row before it


def expand(root: Node, chain: tuple[Path, ...]) -> Node:
    """Read the base of a file and apply the file's edits; a file without ``extends`` is returned unchanged.

    Args:
        root: the file's tree.
        chain: paths of the files that extend one another, from the first to this one.

    Raises:
        NetbuildError: for a cycle, a missing base, an edit of a missing row, or edits that contradict each other.
    """
    if not isinstance(root.value, dict) or "extends" not in root.value:
        if isinstance(root.value, dict) and "edits" in root.value:
            raise root.keys["edits"].error("'edits' need 'extends': they change the rows of the file that it names")
        return root
    base = _read_base(root.value["extends"], chain)
    if not isinstance(base.value, dict):
        raise root.value["extends"].error("the file that it names is not a network file")
    return _merge(root, base)


def _read_base(node: Node, chain: tuple[Path, ...]) -> Node:
    path = _find_base(node, chain[-1])
    if path.resolve() in [p.resolve() for p in chain]:
        raise node.error("a file may not extend itself: " + " extends ".join(p.name for p in (*chain, path)))
    if len(chain) >= MAX_CHAIN:
        raise node.error(f"more than {MAX_CHAIN} files extend one another")
    return expand(parse(read_text(path), str(path)), (*chain, path))


def _find_base(node: Node, file: Path) -> Path:
    if not isinstance(node.value, str):
        raise node.error(f"extends names one file, not {node.describe()}")
    path = file.parent / node.value
    if not is_file(path):
        try:
            path, letter = locate(node.value)
        except NetbuildError as error:
            raise node.error(f"extends: {error.message}", error.hint) from None
        if letter:
            raise node.error(
                f"there is no file '{node.value}'", f"write extends: {path.name}; --scale {letter} picks the scale"
            )
    return path


def find_bases(file: Path) -> list[Path]:
    """Find the chain of files that a file extends, up to the first that cannot be read.

    A base that does not exist is included, by the path where it should be.
    """
    found = [file]
    while len(found) <= MAX_CHAIN:
        node: Node | None = None
        try:
            root = parse(read_text(found[-1]), str(found[-1]))
            node = root.value.get("extends") if isinstance(root.value, dict) else None
            if node is None:
                break
            found.append(_find_base(node, found[-1]))
        except NetbuildError:
            if node is not None and isinstance(node.value, str):
                found.append(found[-1].parent / node.value)
            break
    return found[1:]


def _merge(root: Node, base: Node) -> Node:
    value, keys = dict(base.value), dict(base.keys)
    own = [key for key in root.value if key not in ("extends", "edits")]
    for key in own:
        if key in MERGED and key in value and all(isinstance(n.value, dict) for n in (value[key], root.value[key])):
            value[key] = _merge_entries(value[key], root.value[key])
        else:
            value[key] = root.value[key]
        keys[key] = root.keys[key]
    if "edits" in root.value:
        if set(own) & set(SECTIONS):
            raise root.keys["edits"].error("a file with rows of its own cannot edit those of its base")
        value.update(_apply_edits(value, root.value["edits"]))
    return _copy(root, value, keys)


def _merge_entries(base: Node, own: Node) -> Node:
    return _copy(own, {**base.value, **own.value}, {**base.keys, **own.keys})


def _copy(node: Node, value: object, keys: dict[str, Node] | None = None) -> Node:
    copy = Node(value, node.source, node, node.quoted)
    copy.keys = keys if keys is not None else node.keys
    return copy


# -- edits ------------------------------------------------------------------------------------------------------------


def _apply_edits(value: dict[str, Node], edits: Node) -> dict[str, Node]:
    if not isinstance(edits.value, list):
        raise edits.error("edits must be a list such as [{remove: 3}, {insert_after: p4, row: [-1, 1, Conv, [64]]}]")
    slots = _make_slots(value)
    base = list(slots)
    touched: dict[int, Node] = {}
    for edit in edits.value:
        _apply_edit(edit, slots, base, touched)
    rows: dict[str, list[Node]] = {section: [] for section in SECTIONS if section in value}
    places = {id(slot): place for place, slot in enumerate(slots)}
    for slot in slots:
        rows[slot.section].append(_renumber(slot, places, touched))
    return {section: _copy(value[section], nodes) for section, nodes in rows.items()}


def _make_slots(value: dict[str, Node]) -> list[_Slot]:
    slots: list[_Slot] = []
    for section in SECTIONS:
        node = value.get(section)
        for row in node.value if node is not None and isinstance(node.value, list) else []:
            slots.append(_make_slot(row, section, slots))
    return slots


def _make_slot(row: Node, section: str, before: Sequence[_Slot]) -> _Slot:
    items = _from_items(row)
    name = _field(row, "name", 4)
    sources = [_find_slot(item.value, before) for item in items]
    return _Slot(row, section, str(name.value) if name is not None else None, sources)


def _field(row: Node, key: str, position: int) -> Node | None:
    if isinstance(row.value, dict):
        return row.value.get(key)
    return row.value[position] if isinstance(row.value, list) and len(row.value) > position else None


def _from_items(row: Node) -> list[Node]:
    node = _field(row, "from", 0)
    if node is None:
        return []
    return node.value if isinstance(node.value, list) else [node]


def _find_slot(written: object, before: Sequence[_Slot]) -> "_Slot | str | int":
    """Find the row that a source's number points at; -1 stays as it is and means whatever row comes before."""
    if type(written) is not int or written == -1:
        return written if isinstance(written, (str, int)) else str(written)
    index = written if written >= 0 else len(before) + written
    return before[index] if 0 <= index < len(before) else written


def _apply_edit(edit: Node, slots: list[_Slot], base: Sequence[_Slot], touched: dict[int, Node]) -> None:
    verb = _read_verb(edit)
    targets = edit.value[verb]
    for target in targets.value if isinstance(targets.value, list) and verb == "remove" else [targets]:
        slot = _find_target(target, slots, base)
        if verb in ("replace", "remove"):
            if id(slot) in touched:
                line = touched[id(slot)].line + 1
                raise target.error(f"two edits change this row: here and at line {line}", "keep one of them")
            touched[id(slot)] = target
        _change_rows(verb, edit, slot, slots, base)


def _read_verb(edit: Node) -> str:
    if not isinstance(edit.value, dict):
        raise edit.error(f"an edit is a mapping such as {{remove: 3}}, not {edit.describe()}")
    verbs = [key for key in edit.value if key in EDIT_VERBS]
    if len(verbs) != 1:
        raise edit.error(f"an edit has one of {', '.join(EDIT_VERBS)}; this has {', '.join(verbs) or 'none'}")
    for key in edit.value:
        if key not in (*EDIT_VERBS, "row", "rows"):
            raise edit.keys[key].error(f"unknown field '{key}'", did_you_mean(key, (*EDIT_VERBS, "row", "rows")))
    return verbs[0]


def _find_target(node: Node, slots: Sequence[_Slot], base: Sequence[_Slot]) -> _Slot:
    """Find the row that an edit names, by its number in the base or by its name."""
    if type(node.value) is int:
        if 0 <= node.value < len(base) and base[node.value] in slots:
            return base[node.value]
        exists = 0 <= node.value < len(base)
        reason = "was removed" if exists else f"does not exist: the base has rows 0..{len(base) - 1}"
        raise node.error(f"row {node.value} {reason}")
    named = {slot.name: slot for slot in slots if slot.name}
    if not isinstance(node.value, str) or node.value not in named:
        hint = did_you_mean(str(node.value), named) or f"named: {', '.join(named) or 'none'}"
        raise node.error(f"no row is named {node.describe()}", hint)
    return named[node.value]


def _change_rows(verb: str, edit: Node, slot: _Slot, slots: list[_Slot], base: Sequence[_Slot]) -> None:
    place = slots.index(slot)
    if verb == "remove":
        slots.pop(place)
        return
    new = [_make_slot(row, slot.section, base) for row in _new_rows(edit)]
    if verb == "insert_before":
        slots[place:place] = new
    elif verb == "insert_after":
        slots[place + 1 : place + 1] = new
    else:
        # The last new row replaces the old one in its slot, so rows that read the old one read it.
        slots[place : place + 1] = new[:-1] + [slot]
        slot.node, slot.sources = new[-1].node, new[-1].sources
        slot.name = new[-1].name or slot.name


def _new_rows(edit: Node) -> list[Node]:
    if "row" in edit.value:
        return [edit.value["row"]]
    rows = edit.value.get("rows")
    if rows is None or not isinstance(rows.value, list) or not rows.value:
        raise edit.error("this edit needs a row, or a list of rows")
    return list(rows.value)


def _renumber(slot: _Slot, places: dict[int, int], touched: dict[int, Node]) -> Node:
    """Write a row with source numbers for the new order of rows, and with its name."""
    written = _field(slot.node, "from", 0)
    if written is None:
        return slot.node
    items = [_rewrite_source(item, source, slot, places, touched) for item, source in _source_pairs(slot)]
    source = _copy(written, items) if isinstance(written.value, list) else items[0]
    if isinstance(slot.node.value, dict):
        return _copy(slot.node, {**slot.node.value, "from": source})
    row = [source, *slot.node.value[1:]]
    if slot.name and len(row) == 4:
        row.append(_copy(slot.node, slot.name))
    return _copy(slot.node, row)


def _source_pairs(slot: _Slot) -> Iterator[tuple[Node, "_Slot | str | int"]]:
    return zip(_from_items(slot.node), slot.sources, strict=True)


def _rewrite_source(
    item: Node, source: "_Slot | str | int", slot: _Slot, places: dict[int, int], touched: dict[int, Node]
) -> Node:
    if not isinstance(source, _Slot):
        return item
    if id(source) not in places:
        message = f"the row at {slot.node.where} reads row {item.value} of the base, which an edit removes"
        raise touched[id(source)].error(message, "replace that row, or edit the one that reads it too")
    return _copy(item, places[id(source)])


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
                lines.append(f"  - {_format_flow(row)}  # {number}")
                number += 1
        elif isinstance(node.value, dict) and node.value:
            lines += [
                f"{_format_text(key)}:",
                *(f"  {_format_text(name)}: {_format_flow(item)}" for name, item in node.value.items()),
            ]
        else:
            lines.append(f"{_format_text(key)}: {_format_flow(node)}")
    return "\n".join(lines)


def _format_flow(node: Node) -> str:
    if isinstance(node.value, list):
        return f"[{', '.join(_format_flow(item) for item in node.value)}]"
    if isinstance(node.value, dict):
        return "{" + ", ".join(f"{_format_text(key)}: {_format_flow(item)}" for key, item in node.value.items()) + "}"
    if node.value is None:
        return "null"
    if isinstance(node.value, bool):
        return str(node.value).lower()
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(node.value), ".nan")
    return _format_text(node.value, node.quoted) if isinstance(node.value, str) else str(node.value)


def _format_text(text: str, quoted: bool = False) -> str:
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
