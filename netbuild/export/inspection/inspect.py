"""What is in an ONNX file: its ports, operators, parameters, costs and metadata. The file is read, never run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netbuild.errors import shorten
from netbuild.export.inspection.costs import _HOLDERS, Costs
from netbuild.export.inspection.model import (
    Node,
    Port,
    _bodies,
    _graphs,
    _inputs,
    _of,
    _op,
    _package,
    _parameters,
    _read,
    _sized,
)
from netbuild.export.inspection.shapes import _Seen, _shapes
from netbuild.graph.opening import pair
from netbuild.report.units import giga, size

SHOWN = 8  # nodes that the text lists


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        path, bytes: the file.
        ir, opset, producer: versions, and what wrote it.
        inputs, outputs: its ports, sizes put in where they were given.
        operators: calls by operator, those inside branches and loops too.
        params: of each type the elements and bytes of constant tensors.
        nodes: of the main graph, in order.
        uncounted: calls by operator that may have FLOPs and have no rule, those inside branches and loops too.
        remarks: what was counted of branches and loops.
        peak: the most bytes of inputs and outputs that live at once, and the node's name; parameters are apart.
        metadata: what the file says of itself.
        external: files in which it keeps tensors.
    """

    path: Path
    bytes: int
    ir: int
    opset: dict[str, int]
    producer: str
    inputs: list[Port]
    outputs: list[Port]
    operators: dict[str, int]
    params: dict[str, tuple[int, int]]
    nodes: list[Node] = field(repr=False)
    uncounted: dict[str, int]
    remarks: list[str]
    peak: tuple[int, str]
    metadata: dict[str, str] = field(repr=False)
    external: list[str]

    @property
    def flops(self) -> int:
        """Two per multiply-add of convolutions and matrix products, where shapes are known: netbuild's ``torch``."""
        return sum(node.flops or 0 for node in self.nodes)

    @property
    def unknown(self) -> int:
        """Nodes whose bytes or FLOPs are not known, since their shapes are not."""
        return sum(node.bytes is None or (node.flops is None and node.op not in self.uncounted) for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return {
            "file": str(self.path),
            "bytes": self.bytes,
            "ir": self.ir,
            "opset": self.opset,
            "producer": self.producer,
            "inputs": [_port(port) for port in self.inputs],
            "outputs": [_port(port) for port in self.outputs],
            "operators": self.operators,
            "params": {kind: {"count": n, "bytes": b} for kind, (n, b) in self.params.items()},
            "flops": self.flops,
            "uncounted": self.uncounted,
            "remarks": self.remarks,
            "unknown_nodes": self.unknown,
            "peak": {"bytes": self.peak[0], "node": self.peak[1]},
            "nodes": [{**vars(n), "outputs": [_port(port) for port in n.outputs]} for n in self.nodes],
            "external": self.external,
            "metadata": self.metadata,
        }

    def text(self, every: bool = False) -> str:
        """All of it in lines; of the nodes those with the largest outputs, or every one in order."""
        opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opset.items())
        lines = [f"{self.path}: {size(self.bytes)}, IR {self.ir}, opset {opset}, by {self.producer or 'nobody'}"]
        lines += [f"input      {port}" for port in self.inputs] + [f"output     {port}" for port in self.outputs]
        calls = ", ".join(f"{n} {op}" for op, n in self.operators.items())
        lines += [f"operators  {sum(self.operators.values())}: {calls}", *self._costs()]
        lines += [f"metadata   {key}: {_told(text)}" for key, text in self.metadata.items()]
        lines += [f"external   {name}" for name in self.external]
        found = self.nodes if every else sorted(self.nodes, key=lambda n: -(n.bytes or 0))[:SHOWN]
        lines.append("nodes, in order:" if every else "nodes with the largest outputs (--nodes lists all):")
        return "\n".join([*lines, *map(_row, found)])

    def _costs(self) -> list[str]:
        kinds = ", ".join(f"{n:,} {kind} ({size(b)})" for kind, (n, b) in self.params.items())
        missing = (
            f"; not counted: {', '.join(f'{n} {op}' for op, n in self.uncounted.items())}" if self.uncounted else ""
        )
        free = any(isinstance(n, str) or n is None for port in self.inputs for n in port.shape or (None,))
        hint = ": give --imgsz, --batch" if free else ""
        open_ = f"; {self.unknown} nodes of unknown shape left out{hint}" if self.unknown else ""
        least = "at least " if self.unknown or self.uncounted else ""
        inner = "; without those inside branches and loops" if any(n.op in _HOLDERS for n in self.nodes) else ""
        return [
            f"params     {kinds or 'none'}",
            f"FLOPs      {least}{giga(self.flops)} G, two per multiply-add{missing}{open_}",
            *(f"counted    {remark}" for remark in self.remarks),
            f"memory     {least}{size(self.peak[0])} of activations, most of them at {self.peak[1]}{inner}",
        ]


def inspect(file: str | Path, imgsz: int | tuple[int, int] | None = None, batch: int | None = None) -> Inspection:
    """Look into an ONNX file, of netbuild or of others. Nothing of it is run; tensors in other files are not needed.

    Args:
        file: the file.
        imgsz: side, or height and width, of the images of inputs (B, C, H, W) that leave them free.
        batch: of inputs that leave it free.

    Raises:
        MissingExtraError: without the package onnx.
        NetbuildError: if it is no ONNX file or cut off, or the sizes given are fixed otherwise.
    """
    path, onnx = Path(file), _package()
    model = _read(path, onnx)
    sides = pair(imgsz)
    params, external = _parameters(model, onnx)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    operators = Counter(_op(node) for graph in _graphs(model.graph) for node in graph.node)
    model = _sized(model, path, sides, batch)
    told = [] if sides or batch else [*model.graph.value_info, *model.graph.output]  # else of other sizes
    seen = _shapes(model, {value.name: _of(value, onnx) for value in told}, onnx)
    ports, costs = seen.ports, Costs(onnx)
    nodes = [_node(node, seen, costs) for node in model.graph.node]
    return Inspection(
        path,
        path.stat().st_size,
        model.ir_version,
        {entry.domain: entry.version for entry in model.opset_import},
        f"{model.producer_name} {model.producer_version}".strip(),
        [ports[value.name] for value in _inputs(model.graph)],
        [ports.get(value.name) or _of(value, onnx) for value in model.graph.output],
        dict(operators.most_common()),
        params,
        nodes,
        dict(costs.uncounted.most_common()),
        costs.remarks,
        _peak(model.graph, nodes, ports),
        metadata,
        external,
    )


# -- costs ------------------------------------------------------------------------------------------------------------


def _node(node: Any, seen: _Seen, costs: "Costs") -> Node:
    """A node with the bytes that it gives and its FLOPs."""
    outputs = tuple(seen.ports.get(name, Port(name, "unknown", None)) for name in node.output if name)
    sizes = [port.bytes for port in outputs]
    total = None if None in sizes else sum(b for b in sizes if b is not None)
    return Node(node.name or (node.output[0] if node.output else ""), _op(node), outputs, total, costs.of(node, seen))


def _peak(graph: Any, nodes: Sequence[Node], ports: Mapping[str, Port]) -> tuple[int, str]:
    """The most bytes that live at once while nodes run in order, each output kept until its last reader has run."""
    readers = [[name for inner in _reads(node) for name in inner] for node in graph.node]
    last = {name: i for i, names in enumerate(readers) for name in names}
    last |= {value.name: len(nodes) for value in graph.output}
    alive = {value.name: ports[value.name].bytes or 0 for value in _inputs(graph)}
    best = (sum(alive.values()), "the inputs")
    for i, node in enumerate(nodes):
        alive |= {port.name: port.bytes or 0 for port in node.outputs if node.op != "Constant"}
        best = max(best, (sum(alive.values()), f"{node.name} ({node.op})"), key=lambda found: found[0])
        for name in {*readers[i], *(port.name for port in node.outputs)}:
            if last.get(name, -1) <= i:
                alive.pop(name, None)
    return best


def _reads(node: Any) -> Iterator[Iterable[str]]:
    """What a node reads, and what the graphs inside it do."""
    yield node.input
    for inner in _bodies(node).values():
        yield [value.name for value in inner.output]
        for below in inner.node:
            yield from _reads(below)


# -- as text ----------------------------------------------------------------------------------------------------------


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "type": port.type, "shape": None if port.shape is None else list(port.shape)}


def _row(node: Node) -> str:
    shape = str(node.outputs[0]).removeprefix(node.outputs[0].name).strip() if node.outputs else ""
    flops = "" if not node.flops else f"  {giga(node.flops)} GFLOPs"
    return f"  {size(node.bytes):>9}  {node.op:<12} {shape}  {shorten(node.name, 60)}{flops}"


def _told(text: str) -> str:
    lines = text.count("\n") + 1
    return f"{lines} lines" if lines > 1 else shorten(text, 100)
