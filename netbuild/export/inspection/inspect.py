"""Inspect an ONNX file: inputs, outputs, operators, parameters, costs and metadata. The file is parsed, never run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, shorten
from netbuild.export.inspection.costs import CONTROL_FLOW, Costs
from netbuild.export.inspection.model import (
    Node,
    Port,
    all_graphs,
    constant_sizes,
    graph_inputs,
    import_onnx,
    operator_name,
    port_of,
    read_model,
    subgraphs,
    with_fixed_sizes,
)
from netbuild.export.inspection.shapes import Shapes, infer_shapes
from netbuild.graph.opening import expand_size
from netbuild.report.units import giga, size

SHOWN = 8  # nodes that the text lists


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    Attributes:
        path, bytes: the file and its size.
        ir, opset, producer: format versions, and the program that wrote the file.
        inputs, outputs: with the given sizes in place of free axes.
        operators: number of nodes of each operator, with those inside branches and loops.
        params: elements and bytes of the constant tensors, by type.
        nodes: of the main graph, in order.
        uncounted: operators that may have FLOPs but have no rule, with the number of their nodes.
        remarks: how branches and loops were counted.
        peak: largest number of activation bytes alive at once, without parameters, and the node where that happens.
        metadata: the file's key-value metadata.
        external: names of external data files.
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
        """Two per multiply-add of convolutions and matrix products with known shapes (convention ``torch``)."""
        return sum(node.flops or 0 for node in self.nodes)

    @property
    def unknown(self) -> int:
        """Number of nodes whose bytes or FLOPs are unknown because a shape is."""
        return sum(node.bytes is None or (node.flops is None and node.op not in self.uncounted) for node in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """The inspection as JSON data."""
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
        """The inspection as text; ``every`` lists all nodes, not only those with the largest outputs."""
        opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in self.opset.items())
        lines = [f"{self.path}: {size(self.bytes)}, IR {self.ir}, opset {opset}, producer {self.producer or 'unknown'}"]
        lines += [f"input      {port}" for port in self.inputs] + [f"output     {port}" for port in self.outputs]
        calls = ", ".join(f"{n} {op}" for op, n in self.operators.items())
        lines += [f"operators  {sum(self.operators.values())}: {calls}", *self._costs()]
        lines += [f"metadata   {key}: {_shorten_metadata(text)}" for key, text in self.metadata.items()]
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
        open_ = f"; {self.unknown} nodes of unknown shape not included{hint}" if self.unknown else ""
        least = "at least " if self.unknown or self.uncounted else ""
        inner = "; branches and loops not included" if any(n.op in CONTROL_FLOW for n in self.nodes) else ""
        return [
            f"params     {kinds or 'none'}",
            f"FLOPs      {least}{giga(self.flops)} G, two per multiply-add{missing}{open_}",
            *(f"counted    {remark}" for remark in self.remarks),
            f"memory     {least}{size(self.peak[0])} of activations at the peak, node {self.peak[1]}{inner}",
        ]


def inspect(file: str | Path, imgsz: int | tuple[int, int] | None = None, batch: int | None = None) -> Inspection:
    """Inspect an ONNX file of any exporter. It is never run, and external data files need not exist.

    Args:
        file: the ONNX file.
        imgsz: side, or (height, width), in pixels, for inputs (B, C, H, W) with a free size.
        batch: for inputs with a free batch.

    Raises:
        MissingExtraError: if the package onnx is not installed.
        NetbuildError: if it is not an ONNX file, is truncated, or has other fixed sizes than those given.
    """
    path, onnx = Path(file), import_onnx()
    model = read_model(path, onnx)
    sides = expand_size(imgsz)
    try:
        return _inspect_model(path, model, sides, batch, onnx)
    except NetbuildError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        # A damaged graph may break any promise of the format: names that do not exist, missing attributes.
        reason = f"{type(error).__name__}: {shorten(error, 100)}"
        raise NetbuildError(f"{path}: its graph contradicts itself ({reason})", hint="onnx.checker names it") from error


def _inspect_model(path: Path, model: Any, sides: tuple[int, int] | None, batch: int | None, onnx: Any) -> Inspection:
    """Inspect a model that has been read; its free axes get the given sides and batch."""
    params, external = constant_sizes(model, onnx)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    operators = Counter(operator_name(node) for graph in all_graphs(model.graph) for node in graph.node)
    model = with_fixed_sizes(model, path, sides, batch)
    # Shapes that the file declares hold only for its own sizes.
    declared = [] if sides or batch else [*model.graph.value_info, *model.graph.output]
    seen = infer_shapes(model, {value.name: port_of(value, onnx) for value in declared}, onnx)
    ports, costs = seen.ports, Costs(onnx)
    nodes = [_node(node, seen, costs) for node in model.graph.node]
    return Inspection(
        path,
        path.stat().st_size,
        model.ir_version,
        {entry.domain: entry.version for entry in model.opset_import},
        f"{model.producer_name} {model.producer_version}".strip(),
        [ports[value.name] for value in graph_inputs(model.graph)],
        [ports.get(value.name) or port_of(value, onnx) for value in model.graph.output],
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


def _node(node: Any, seen: Shapes, costs: "Costs") -> Node:
    """A node with the bytes of its outputs and its FLOPs."""
    outputs = tuple(seen.ports.get(name, Port(name, "unknown", None)) for name in node.output if name)
    sizes = [port.bytes for port in outputs]
    total = None if None in sizes else sum(b for b in sizes if b is not None)
    name = node.name or (node.output[0] if node.output else "")
    return Node(name, operator_name(node), outputs, total, costs.of(node, seen))


def _peak(graph: Any, nodes: Sequence[Node], ports: Mapping[str, Port]) -> tuple[int, str]:
    """Peak activation bytes, and where: nodes run in order, an output lives until its last reader has run."""
    readers = [[name for inner in _reads(node) for name in inner] for node in graph.node]
    last = {name: i for i, names in enumerate(readers) for name in names}
    last |= {value.name: len(nodes) for value in graph.output}
    alive = {value.name: ports[value.name].bytes or 0 for value in graph_inputs(graph)}
    best = (sum(alive.values()), "the inputs")
    for i, node in enumerate(nodes):
        alive |= {port.name: port.bytes or 0 for port in node.outputs if node.op != "Constant"}
        best = max(best, (sum(alive.values()), f"{node.name} ({node.op})"), key=lambda found: found[0])
        for name in {*readers[i], *(port.name for port in node.outputs)}:
            if last.get(name, -1) <= i:
                alive.pop(name, None)
    return best


def _reads(node: Any) -> Iterator[Iterable[str]]:
    """Yield the names of the tensors that a node and its subgraphs read."""
    yield node.input
    for inner in subgraphs(node).values():
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


def _shorten_metadata(text: str) -> str:
    lines = text.count("\n") + 1
    return f"{lines} lines" if lines > 1 else shorten(text, 100)
