"""A backbone of timm by its name, ``[-1, 1, vovnet39a, [False]]`` as row 0, whose five stages count as rows 0 to 4."""

import re

from netbuild.grammar.dialects.base import Dialect, list_rows, make_node, read_arguments, read_field, read_module
from netbuild.grammar.dialects.renumbering import RowWriter
from netbuild.grammar.nodes import Node

STAGES = 5  # of a network with fewer, the missing ones are the first
_TIMM_NAME = re.compile(r"[a-z][a-z0-9]*[0-9_][a-z0-9_.]*")


def _recognise(root: Node) -> bool:
    first = next(list_rows(root), None) if "backbone" in root.value and "imports" not in root.value else None
    if first is None or not isinstance(first.value, list) or not _TIMM_NAME.fullmatch(read_module(first)):
        return False
    arguments = read_arguments(first)
    return len(arguments) == 1 and isinstance(arguments[0].value, bool)  # whether its weights are pretrained


def _translate(root: Node, notes: list[str]) -> Node:
    rows = list(list_rows(root))
    writer, first = RowWriter(), rows[0]
    place = read_field(first, 2, "module")
    assert place is not None
    call = {"model_name": place, "pretrained": read_arguments(first)[0], "features_only": True}
    writer.add(first, make_node(-1, first), 1, make_node("timm.create_model", place), [make_node(call, place)])
    for stage in _find_stages(rows):
        if stage is None:
            writer.skip_row()
            continue
        index = make_node({"index": stage - STAGES}, first)
        writer.add(first, make_node(0, first), 1, make_node("Index", place), [index])
        writer.end_row()
    value = dict(root.value)
    for section in ("backbone", "neck", "head"):
        start = len(writer.rows) if section != "backbone" else 0
        items = value[section].value if section in value else []
        for row in items if isinstance(items, list) else ():
            if row is first:
                continue
            if not isinstance(row.value, list) or len(row.value) != 4 or not isinstance(row.value[3].value, list):
                raise row.error("below a backbone of timm by its name a row is a list [from, repeats, module, args]")
            source, repeats, module, arguments = row.value[:4]
            writer.add(row, writer.find_sources(source), repeats, module, arguments.value)
            writer.end_row()
        if section in value:
            value[section] = value[section].with_value(writer.rows[start:])
    return root.with_value(value)


def _find_stages(rows: list[Node]) -> list[int | None]:
    """List the numbers of the five stages; None for those that no row reads, which the network may lack."""
    read = set()
    for i, row in enumerate(rows[1:]):
        source = read_field(row, 0, "from")
        items = source.value if source is not None and isinstance(source.value, list) else [source]
        for item in items:
            if item is not None and type(item.value) is int:
                read.add(item.value if item.value >= 0 else STAGES + i + item.value)
    return [stage if stage in read else None for stage in range(STAGES)]


DIALECT = Dialect("timm backbone by name", _recognise, _translate)
