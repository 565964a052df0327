"""Name the rows of a network file that others read, in place of their numbers."""

import re

from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import INPUT, SECTIONS, SHARE, Row
from netbuild.grammar.spec import Spec


def name_rows(spec: Spec) -> Node:
    """Return the tree of a network file with names for rows that others than the next one read.

    A name is the row's module and number, such as ``c3k2_6``; names of the file stay. Sources are written as these
    names, and as -1 where they are the row before. Rows of blocks stay as they are.
    """
    names = _choose_names(spec.rows)
    rows = {row.index: _rewrite_row(row, names) for row in spec.rows}
    value, number = dict(spec.root.value), 0
    for section in SECTIONS:
        if section in value:
            node = value[section]
            value[section] = node.with_value([rows[number + i] for i in range(len(node.value))])
            number += len(node.value)
    return spec.root.with_value(value)


def _choose_names(rows: tuple[Row, ...]) -> dict[int, str]:
    """Return the names of the rows that have one, or need one, by their numbers."""
    names = {row.index: row.name for row in rows if row.name}
    taken = {*names.values(), "input"}
    wanted = {
        source
        for row in rows
        for source, selection in zip(row.sources, row.selections, strict=True)
        if source >= 0 and (source != row.index - 1 or selection is not None)
    }
    wanted |= {row.shares for row in rows if row.shares is not None}
    for row in rows:
        if row.index in wanted - names.keys():
            kind = re.sub(r"[^a-z0-9]+", "_", row.module.lower().removeprefix("nn.")).strip("_") or "row"
            name = f"{kind if kind[0].isalpha() else f'row_{kind}'}_{row.index}"
            while name in taken:
                name += "_"
            names[row.index] = name
            taken.add(name)
    return names


def _rewrite_row(row: Row, names: dict[int, str]) -> Node:
    """Return a row's node with its name, and its sources by name."""
    node, place = row.node, row.module_node
    sources = [_write_source(*source, row, names) for source in zip(row.sources, row.selections, strict=True)]
    origin = place.with_value([place.with_value(source, {}) for source in sources] if row.listed else sources[0], {})
    name = place.with_value(names[row.index], {}) if row.index in names else None
    if isinstance(node.value, list):
        return node.with_value([origin, *node.value[1:4], *([name] if name else [])])
    value = {**node.value, "from": origin, **({"name": name} if name else {})}
    if row.shares is not None:
        value[SHARE] = place.with_value(names[row.shares], {})
    return node.with_value(value, {key: node.keys.get(key, place.with_value(key, {})) for key in value})


def _write_source(source: int, selection: int | str | None, row: Row, names: dict[int, str]) -> int | str:
    if source <= INPUT:
        written = row.written_from if isinstance(row.written_from, list) else [row.written_from]
        return "input" if source == INPUT else written[row.sources.index(source)]
    if selection is None:
        return -1 if source == row.index - 1 else names[source]
    return f"{names[source]}{f'[{selection}]' if isinstance(selection, int) else f'.{selection}'}"
