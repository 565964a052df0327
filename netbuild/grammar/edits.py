"""Apply the ``edits`` of a file to the rows of the file that it extends."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from netbuild.errors import did_you_mean
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import SECTIONS, SHARE

EDIT_VERBS = ("insert_before", "insert_after", "replace", "remove")


@dataclass(eq=False)
class _Slot:
    """A row during editing; its sources point to other rows, so that they stay right when rows move."""

    node: Node
    section: str
    name: str | None
    sources: list["_Slot | str | int"]  # a row, a row's name or `input`, or -1 for the row before it
    shared: "_Slot | str | int | None" = None  # likewise the row whose module it shares


def apply_edits(values: Mapping[str, Node], edits: Node) -> dict[str, Node]:
    """Apply edits to the rows of a base file.

    Args:
        values: the base's top-level values by key; those of `SECTIONS` hold its rows.
        edits: the value of ``edits``.

    Returns:
        The sections with their rows after all edits, by key; and ``heads`` of the base, whose row numbers are adjusted.

    Raises:
        NetbuildError: for an edit of a missing row, or edits that contradict each other.
    """
    if not isinstance(edits.value, list):
        raise edits.error("edits must be a list such as [{remove: 3}, {insert_after: p4, row: [-1, 1, Conv, [64]]}]")
    editor = _Editor(values)
    for edit in edits.value:
        editor.apply(edit)
    rows = editor.renumbered_rows()
    changed = {section: values[section].with_value(nodes) for section, nodes in rows.items()}
    if "heads" in values:
        changed["heads"] = editor.renumber_heads(values["heads"])
    return changed


class _Editor:
    """The rows of a base file while edits are applied to them.

    Args:
        values: the base's top-level values by key.
    """

    def __init__(self, values: Mapping[str, Node]) -> None:
        self.slots: list[_Slot] = []  # rows in their present order
        self.sections = [section for section in SECTIONS if section in values]
        for section in self.sections:
            node = values[section]
            for row in node.value if isinstance(node.value, list) else []:
                self.slots.append(_make_slot(row, section, self.slots))
        self.base = list(self.slots)  # rows in the base's order: numbers in edits count these
        self.changed: dict[int, Node] = {}  # id of each replaced or removed slot -> the edit's target

    def apply(self, edit: Node) -> None:
        """Apply one edit."""
        verb = _read_verb(edit)
        targets = edit.value[verb]
        for target in targets.value if isinstance(targets.value, list) and verb == "remove" else [targets]:
            slot = self._find_target(target)
            if verb in ("replace", "remove"):
                if id(slot) in self.changed:
                    line = self.changed[id(slot)].line + 1
                    raise target.error(f"two edits change this row: here and at line {line}", "keep one of them")
                self.changed[id(slot)] = target
            self._change_rows(verb, edit, slot)

    def _find_target(self, node: Node) -> _Slot:
        """Find the row that an edit names, by its number in the base or by its name."""
        if type(node.value) is int:
            exists = 0 <= node.value < len(self.base)
            if exists and self.base[node.value] in self.slots:
                return self.base[node.value]
            reason = "was removed" if exists else f"does not exist: the base has rows 0..{len(self.base) - 1}"
            raise node.error(f"row {node.value} {reason}")
        named = {slot.name: slot for slot in self.slots if slot.name}
        if not isinstance(node.value, str) or node.value not in named:
            hint = did_you_mean(str(node.value), named) or f"named: {', '.join(named) or 'none'}"
            raise node.error(f"no row is named {node.describe()}", hint)
        return named[node.value]

    def _change_rows(self, verb: str, edit: Node, slot: _Slot) -> None:
        place = self.slots.index(slot)
        if verb == "remove":
            self.slots.pop(place)
            return
        new = [_make_slot(row, slot.section, self.base) for row in _new_rows(edit)]
        if verb == "insert_before":
            self.slots[place:place] = new
        elif verb == "insert_after":
            self.slots[place + 1 : place + 1] = new
        else:
            # The last new row replaces the old one in its slot, so rows that read the old one read it.
            self.slots[place : place + 1] = [*new[:-1], slot]
            slot.node, slot.sources, slot.shared = new[-1].node, new[-1].sources, new[-1].shared
            slot.name = new[-1].name or slot.name

    def renumbered_rows(self) -> dict[str, list[Node]]:
        """Return the rows of each section in their new order, with source numbers for that order."""
        numbers = {id(slot): number for number, slot in enumerate(self.slots)}
        rows: dict[str, list[Node]] = {section: [] for section in self.sections}
        for slot in self.slots:
            rows[slot.section].append(self._renumber(slot, numbers))
        return rows

    def renumber_heads(self, heads: Node) -> Node:
        """Return the base's ``heads`` with row numbers for the new order; a head may name its row instead."""
        if not isinstance(heads.value, dict):
            return heads
        return heads.with_value({name: self._renumber_head(name, head) for name, head in heads.value.items()})

    def _renumber_head(self, name: str, head: Node) -> Node:
        row = head.value.get("row") if isinstance(head.value, dict) else None
        if row is None or type(row.value) is not int or not 0 <= row.value < len(self.base):
            return head
        slot = self.base[row.value]
        if slot not in self.slots:
            message = f"the base's head '{name}' is row {row.value}, which an edit removes"
            raise self.changed[id(slot)].error(message, "write the heads that remain: heads: {...}")
        return head.with_value({**head.value, "row": row.with_value(self.slots.index(slot))})

    def _renumber(self, slot: _Slot, numbers: Mapping[int, int]) -> Node:
        """Write a row with new source numbers and with the name of its slot."""
        written = _field(slot.node, "from", 0)
        if written is None:
            share = self._renumber_share(slot, numbers)
            return slot.node.with_value({**slot.node.value, **share}) if share else slot.node
        items = [self._renumber_source(item, source, slot, numbers) for item, source in _source_pairs(slot)]
        source = written.with_value(items) if isinstance(written.value, list) else items[0]
        if isinstance(slot.node.value, dict):
            return slot.node.with_value({**slot.node.value, "from": source, **self._renumber_share(slot, numbers)})
        row = [source, *slot.node.value[1:]]
        if slot.name and len(row) == 4:
            row.append(slot.node.with_value(slot.name))
        return slot.node.with_value(row)

    def _renumber_share(self, slot: _Slot, numbers: Mapping[int, int]) -> dict[str, Node]:
        if slot.shared is None:
            return {}
        return {SHARE: self._renumber_source(slot.node.value[SHARE], slot.shared, slot, numbers)}

    def _renumber_source(
        self, item: Node, source: "_Slot | str | int", slot: _Slot, numbers: Mapping[int, int]
    ) -> Node:
        if not isinstance(source, _Slot):
            return item
        if id(source) not in numbers:
            message = f"the row at {slot.node.where} reads row {item.value} of the base, which an edit removes"
            raise self.changed[id(source)].error(message, "replace that row, or edit the one that reads it too")
        return item.with_value(numbers[id(source)])


def _make_slot(row: Node, section: str, before: Sequence[_Slot]) -> _Slot:
    name = _field(row, "name", 4)
    sources = [_find_source(item.value, before) for item in _source_items(row)]
    share = row.value.get(SHARE) if isinstance(row.value, dict) else None
    shared = (
        None if share is None else before[-1] if share.value == -1 and before else _find_source(share.value, before)
    )
    return _Slot(row, section, str(name.value) if name is not None else None, sources, shared)


def _field(row: Node, key: str, position: int) -> Node | None:
    """Return a field of a row that may be a list or a mapping, None if it is missing."""
    if isinstance(row.value, dict):
        return row.value.get(key)
    return row.value[position] if isinstance(row.value, list) and len(row.value) > position else None


def _source_items(row: Node) -> list[Node]:
    node = _field(row, "from", 0)
    if node is None:
        return []
    return node.value if isinstance(node.value, list) else [node]


def _source_pairs(slot: _Slot) -> Iterator[tuple[Node, "_Slot | str | int"]]:
    return zip(_source_items(slot.node), slot.sources, strict=True)


def _find_source(written: object, before: Sequence[_Slot]) -> "_Slot | str | int":
    """Find the row that a source's number points at; -1 stays as it is and means whatever row comes before."""
    if type(written) is not int or written == -1:
        return written if isinstance(written, (str, int)) else str(written)
    index = written if written >= 0 else len(before) + written
    return before[index] if 0 <= index < len(before) else written


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


def _new_rows(edit: Node) -> list[Node]:
    if "row" in edit.value:
        return [edit.value["row"]]
    rows = edit.value.get("rows")
    if rows is None or not isinstance(rows.value, list) or not rows.value:
        raise edit.error("this edit needs a row, or a list of rows")
    return list(rows.value)
