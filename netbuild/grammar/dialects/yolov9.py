"""The yolov9 repository: ``Silence`` as row 0, heads with auxiliary branches, other widths of Detect and Segment."""

from netbuild.grammar.dialects.anchors import has_anchors
from netbuild.grammar.dialects.base import Dialect, list_rows, map_rows, read_arguments, read_module, replace_module
from netbuild.grammar.nodes import Node

HEADS = {
    "DDetect",
    "DualDetect",
    "DualDDetect",
    "TripleDetect",
    "TripleDDetect",
    "DSegment",
    "DualDSegment",
    "Panoptic",
}
_BLOCKS = {"RepNCSPELAN4", "ELAN1", "SPPELAN"}
_RENAMED = {"Silence": "nn.Identity", "Detect": "v9Detect", "Segment": "v9Segment"}


def _recognise(root: Node) -> bool:
    modules = {read_module(row) for row in list_rows(root)}
    anchors = root.value.get("anchors")
    has_number = anchors is not None and type(anchors.value) is int  # which its heads without anchors do not use
    return bool(modules & HEADS) or "Silence" in modules or (has_number and bool(modules & _BLOCKS))


def _translate(root: Node, notes: list[str]) -> Node:
    modules = {read_module(row) for row in list_rows(root)}
    # Other repositories write Silence too: their heads stay what they are.
    renamed = _RENAMED if modules & _BLOCKS else {"Silence": "nn.Identity"}

    def change(row: Node) -> Node:
        module = read_module(row)
        if module not in renamed or has_anchors(row) or (module != "Silence" and not read_arguments(row)):
            return row
        return replace_module(row, renamed[module])

    return map_rows(root, change)


DIALECT = Dialect("yolov9 repository", _recognise, _translate)
