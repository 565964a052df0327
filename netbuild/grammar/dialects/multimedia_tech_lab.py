"""MultimediaTechLab's YAML of YOLOv7 and YOLOv9: ``model`` with sections of rows ``Name: {args, source, tags}``.

A row names its sources by number (the image is 0), relative number or tag. Heads of several sections are the branches
of one head, whose main branch comes last.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from netbuild.grammar.dialects.base import Dialect, drop_keys, make_node
from netbuild.grammar.dialects.renumbering import RowWriter
from netbuild.grammar.nodes import Node

_KEYS = ("model", "anchor", "name")
_HEADS = {1: "DDetect", 2: "DualDDetect", 3: "TripleDDetect"}
# Netbuild's module and its names of the keyword arguments.
_MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "Conv": ("Conv", {"out_channels": "c2", "kernel_size": "k", "stride": "s", "padding": "p", "groups": "g"}),
    "RepNCSPELAN": ("RepNCSPELAN4", {"out_channels": "c2", "part_channels": "c3", "process_channels": "c4"}),
    "ELAN": ("ELAN1", {"out_channels": "c2", "part_channels": "c3", "process_channels": "c4"}),
    "AConv": ("AConv", {"out_channels": "c2"}),
    "ADown": ("ADown", {"out_channels": "c2"}),
    "SPPELAN": ("SPPELAN", {"out_channels": "c2", "neck_channels": "c3"}),
    "CBLinear": ("CBLinear", {"out_channels": "c2s"}),
    "CBFuse": ("CBFuse", {"index": "idx"}),
    "UpSample": ("nn.Upsample", {}),
    "Concat": ("Concat", {}),
    "Pool": ("nn.MaxPool2d", {"kernel_size": "kernel_size", "padding": "padding"}),
}


@dataclass(frozen=True)
class _Row:
    """A row of the file: its module, its arguments by name, and its further fields."""

    module: Node
    args: dict[str, Node]
    fields: dict[str, Node]

    @property
    def tag(self) -> str | None:
        """The name that other rows read it by."""
        node = self.fields.get("tags")
        return node.value if node is not None and isinstance(node.value, str) else None


def _recognise(root: Node) -> bool:
    model = root.value.get("model")
    sections = model.value if model is not None and isinstance(model.value, dict) else {}
    return "backbone" in sections and "backbone" not in root.value


def _translate(root: Node, notes: list[str]) -> Node:
    writer, heads = RowWriter(), []
    for row in _list_rows(root):
        source = row.fields.get("source") or make_node(-1, row.module)
        sources = writer.find_sources(source, first=1)
        if row.module.value == "MultiheadDetection":
            heads.append((row, sources))
            writer.skip_row()
            continue
        n = row.fields["repeat"].value if "repeat" in row.fields else 1
        name, arguments = _translate_module(row)
        place = row.module
        writer.add(place, sources, n, place.with_value(name), [make_node(arguments, place)] if arguments else [])
        writer.end_row(row.tag)
    if heads:
        _add_head(writer, heads)
    place = root.value["model"]
    added = {"nc": make_node(80, place), "layers": place.with_value(writer.rows, {})}
    root = drop_keys(root, *_KEYS)
    keys = {key: make_node(key, place) for key in added}
    return root.with_value({**added, **root.value, "layers": added["layers"]}, {**keys, **root.keys})


def _list_rows(root: Node) -> Iterator[_Row]:
    for section in root.value["model"].value.values():
        for node in section.value if isinstance(section.value, list) else ():
            if not isinstance(node.value, dict) or len(node.value) != 1:
                raise node.error("a row of such a file is a mapping Name: {args, source, tags}")
            ((name, body),) = node.value.items()
            fields = dict(body.value) if isinstance(body.value, dict) else {}
            args = fields.pop("args").value if "args" in fields else {}
            yield _Row(node.keys[name], dict(args) if isinstance(args, dict) else {}, fields)


def _translate_module(row: _Row) -> tuple[str, dict[str, Any]]:
    """Translate a row's module and its arguments by name."""
    name, names = _MODULES.get(row.module.value, (row.module.value, {}))
    found: dict[str, Any] = {names.get(key, key): node for key, node in row.args.items()}
    if name in ("RepNCSPELAN4", "ELAN1") and "c3" in found and type(found["c3"].value) is int:
        found.setdefault("c4", found["c3"].value // 2)
    if name == "RepNCSPELAN4" and "csp_args" in found:
        inner = found.pop("csp_args").value
        found["n"] = inner.get("repeat_num") if isinstance(inner, dict) else None
    if name == "SPPELAN" and "c2" in found and type(found["c2"].value) is int:
        found.setdefault("c3", found["c2"].value // 2)
    return name, {key: value for key, value in found.items() if value is not None}


def _add_head(writer: RowWriter, heads: list[tuple[_Row, Node]]) -> None:
    """Add one head of all branches; that with the tag Main, else the first, is the main one and comes last."""
    main = next((head for head in heads if head[0].tag == "Main"), heads[0])
    ordered = [*(head for head in heads if head is not main), main]
    place = main[0].module
    if len(ordered) not in _HEADS:
        raise place.error(f"{len(ordered)} heads: at most two auxiliary ones besides the main one are known")
    sources = [item for _, node in ordered for item in (node.value if isinstance(node.value, list) else [node])]
    module = place.with_value(_HEADS[len(ordered)])
    writer.add(place, place.with_value(sources, {}), 1, module, [make_node("nc", place)])
    writer.end_row()


DIALECT = Dialect("MultimediaTechLab", _recognise, _translate)
