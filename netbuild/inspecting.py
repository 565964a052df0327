"""What is in an ONNX file: its ports, operators, parameters, costs and metadata. The file is read, never run."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.errors import MissingExtraError, NetbuildError, shorten
from netbuild.units import giga, size

SMALL = 4096  # bytes of a tensor that may be a shape; larger ones are not needed to know shapes
STANDARD = ("", "ai.onnx", "ai.onnx.ml")
SHOWN = 8  # nodes that the text lists
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Port:
    """A tensor by name: its type, and its shape, of which an axis may be a name or unknown; None if all is."""

    name: str
    type: str
    shape: Dims | None

    @property
    def count(self) -> int | None:
        """Its elements, where they are known."""
        if self.shape is None or not all(isinstance(n, int) for n in self.shape):
            return None
        return prod(n for n in self.shape if isinstance(n, int))

    @property
    def bytes(self) -> int | None:
        """Its bytes, where they are known."""
        bits = _BITS.get(self.type)
        return None if self.count is None or bits is None else (self.count * bits + 7) // 8

    def __str__(self) -> str:
        shape = "?" if self.shape is None else f"[{', '.join('?' if n is None else str(n) for n in self.shape)}]"
        return f"{self.name}  {self.type} {shape}"


@dataclass(frozen=True)
class Node:
    """An operator's call: what it gives, the bytes of that, and its FLOPs; None is not known."""

    name: str
    op: str
    outputs: tuple[Port, ...]
    bytes: int | None
    flops: int | None


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
        uncounted: calls by operator that may have FLOPs and have no rule.
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
        missing = f"; no rule for {', '.join(self.uncounted)}" if self.uncounted else ""
        free = any(isinstance(n, str) or n is None for port in self.inputs for n in port.shape or (None,))
        hint = ": give --imgsz, --batch" if free else ""
        open_ = f"; {self.unknown} nodes of unknown shape left out{hint}" if self.unknown else ""
        least = "at least " if self.unknown else ""
        return [
            f"params     {kinds or 'none'}",
            f"FLOPs      {least}{giga(self.flops)} G, two per multiply-add{missing}{open_}",
            f"memory     {least}{size(self.peak[0])} of activations, most of them at {self.peak[1]}",
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
    sides = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    params, external = _parameters(model, onnx)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    operators = Counter(_op(node) for graph in _graphs(model.graph) for node in graph.node)
    model = _sized(model, path, sides, batch)
    told = [] if sides or batch else [*model.graph.value_info, *model.graph.output]  # else of other sizes
    ports = _shapes(model, {value.name: _of(value, onnx) for value in told}, onnx)
    nodes = [_node(node, ports) for node in model.graph.node]
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
        dict(Counter(n.op for n in nodes if n.flops is None and _has_no_rule(n.op)).most_common()),
        _peak(model.graph, nodes, ports),
        metadata,
        external,
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def _package() -> Any:
    try:
        import onnx
        import onnx.inliner
        import onnx.shape_inference
    except ImportError:
        raise MissingExtraError("looking into ONNX files needs onnx", hint="pip install 'netbuild[export]'") from None
    return onnx


def _read(path: Path, onnx: Any) -> Any:
    """The file as protobuf, without the tensors that it keeps elsewhere."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise NetbuildError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise NetbuildError(f"{path}: the file is empty")
    if data[:4] == b"PK\x03\x04":
        raise NetbuildError(
            f"{path}: a zip archive, as torch writes them, no ONNX file", hint="netbuild export makes one"
        )
    try:
        model = onnx.ModelProto.FromString(data)
        functions = bool(model.functions)
        model = onnx.inliner.inline_local_functions(model) if functions else model
    except Exception as error:  # protobuf's errors have no common base
        raise NetbuildError(f"{path}: no ONNX file, or cut off: {shorten(error)}") from None
    if not model.ir_version or not model.graph.output:
        raise NetbuildError(f"{path}: no ONNX file: there is no graph with outputs in it")
    return model


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


def _op(node: Any) -> str:
    return node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"


def _tensors(graph: Any) -> Iterator[Any]:
    """Constant tensors: initializers, and those of Constant nodes."""
    yield from graph.initializer
    yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (a.t for a in node.attribute if a.HasField("t"))


def _parameters(model: Any, onnx: Any) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Elements and bytes of constant tensors by type, most bytes first, and the files in which some lie."""
    found: dict[str, tuple[int, int]] = {}
    files: dict[str, None] = {}
    for tensor in (tensor for graph in _graphs(model.graph) for tensor in _tensors(graph)):
        kind, count = _type(tensor.data_type, onnx), prod(tensor.dims)
        n, b = found.get(kind, (0, 0))
        found[kind] = n + count, b + (count * _BITS.get(kind, 0) + 7) // 8
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            files |= {entry.value: None for entry in tensor.external_data if entry.key == "location"}
    return dict(sorted(found.items(), key=lambda item: -item[1][1])), list(files)


_BITS = {
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 64),
    **dict.fromkeys(("float32", "int32", "uint32"), 32),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 16),
    **dict.fromkeys(("int8", "uint8", "bool"), 8),
    **dict.fromkeys(("float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0"), 8),
    **dict.fromkeys(("int4", "uint4", "float4e2m1"), 4),
    "complex128": 128,
}


def _type(number: int, onnx: Any) -> str:
    """A tensor's type in numpy's words."""
    try:
        name: str = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        return f"type {number}"
    return {"float": "float32", "double": "float64"}.get(name, name)


# -- shapes -----------------------------------------------------------------------------------------------------------


def _inputs(graph: Any) -> list[Any]:
    """Inputs that are not constants with a name, as old files list them too."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def _sized(model: Any, path: Path, sides: tuple[int, int] | None, batch: int | None) -> Any:
    """A model with the given sizes in place of free axes, ready for shape inference: without its large tensors."""
    wanted = {0: batch, **({2: sides[0], 3: sides[1]} if sides else {})}
    named: dict[str, int] = {}
    used: set[int] = set()
    for value in _inputs(model.graph):
        dims = value.type.tensor_type.shape.dim
        for axis, length in wanted.items():
            if length is None or axis >= len(dims) or (axis and len(dims) != 4):
                continue
            if dims[axis].HasField("dim_value") and dims[axis].dim_value != length:
                said = f"{value.name} has {dims[axis].dim_value} on axis {axis}, not {length}"
                raise NetbuildError(f"{path}: {said}: the file fixes it", hint="leave out --imgsz, --batch")
            named |= {dims[axis].dim_param: length} if dims[axis].dim_param else {}
            dims[axis].dim_value = length
            used.add(axis)
    if any(length is not None and axis not in used for axis, length in wanted.items()):
        raise NetbuildError(f"{path}: it has no input (B, C, H, W) that could take --imgsz or --batch")
    for value in _inputs(model.graph):  # the same name elsewhere is the same length
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
    return model


def _shapes(model: Any, kept: Mapping[str, Port], onnx: Any) -> dict[str, Port]:
    """The ports of all tensors of the main graph: inferred, else as the file itself tells them."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if prod(tensor.dims) * 8 > SMALL:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)
    found = {**kept, **_inferred(light, onnx)}
    for tensor in model.graph.initializer:
        found[tensor.name] = Port(tensor.name, _type(tensor.data_type, onnx), tuple(tensor.dims))
    return {name: kept[name] if port.count is None and name in kept else port for name, port in found.items()}


def _inferred(model: Any, onnx: Any) -> dict[str, Port]:
    """Ports by shape inference, begun again with the shapes that were worked out until there are no more."""
    graph, known = model.graph, _constants(model.graph, onnx)
    while True:
        del graph.value_info[:]  # of other sizes, perhaps
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        # Operators that it does not know and shapes that contradict one another leave what is known.
        with suppress(Exception):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        ports = {value.name: _of(value, onnx) for value in (*graph.input, *graph.value_info, *graph.output)}
        if not _fold(model, ports, known, onnx):
            return ports | {name: _port_of(name, value) for name, value in known.items() if name not in ports}


def _port_of(name: str, value: Any) -> Port:
    return Port(name, str(value.dtype), tuple(value.shape))


def _constants(graph: Any, onnx: Any) -> dict[str, Any]:
    """The values of small constant tensors that are in the file itself."""
    small = [t for t in graph.initializer if prod(t.dims) * 8 <= SMALL and t.data_location == 0]
    found = {}
    for tensor in small:
        with suppress(Exception):  # a tensor that contradicts itself is not needed
            found[tensor.name] = onnx.numpy_helper.to_array(tensor)
    return found


def _fold(model: Any, ports: Mapping[str, Port], known: dict[str, Any], onnx: Any) -> bool:
    """Work out the sizes that a graph computes from sizes, as constants of the graph; whether there were new ones."""
    new = []
    for node in model.graph.node:
        if node.op_type in _OF_SIZES and node.domain in STANDARD and not known.keys() & set(node.output):
            value = _worked_out(node, ports, known, model, onnx)
            if value is not None:
                known[node.output[0]] = value
                new.append(node)
    for node in new:
        model.graph.initializer.append(onnx.numpy_helper.from_array(known[node.output[0]], node.output[0]))
        model.graph.node.remove(node)
    return bool(new)


# Operators of which sizes are made, and grids of places.
_OF_SIZES = frozenset(
    "Shape Size Gather Concat Slice Unsqueeze Squeeze Range Cast Add Sub Mul Div Floor Ceil Expand Reshape Max Min Mod "
    "Equal Where ConstantOfShape Constant ReduceProd Transpose".split()
)


def _worked_out(node: Any, ports: Mapping[str, Port], known: Mapping[str, Any], model: Any, onnx: Any) -> Any:
    """What a node of sizes gives, an array of a few numbers; None if its inputs are not known."""
    if node.op_type == "Shape" and (port := ports.get(node.input[0])) and port.count is not None:
        ends: dict[str, int] = {a.name: int(a.i) for a in node.attribute}
        return np.array([*(port.shape or ())][slice(ends.get("start"), ends.get("end"))], np.int64)
    if not all(name in known for name in node.input if name):
        return None
    try:
        from onnx.reference import ReferenceEvaluator

        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 18)
        found: Any = ReferenceEvaluator(node, opsets={"": opset}).run(None, {n: known[n] for n in node.input if n})
        value = found[0]
    except Exception:  # what cannot be worked out stays unknown
        return None
    return value if isinstance(value, np.ndarray) and value.nbytes <= 8 * SMALL else None


def _of(value: Any, onnx: Any) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    dims: Dims | None = None
    if tensor.HasField("shape"):
        dims = tuple(_length(dim) for dim in tensor.shape.dim)
    return Port(value.name, _type(tensor.elem_type, onnx), dims)


def _length(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return None if dim.dim_param.startswith("unk__") else dim.dim_param or None  # inference makes up such names


# -- costs ------------------------------------------------------------------------------------------------------------


def _node(node: Any, ports: Mapping[str, Port]) -> Node:
    """A node with the bytes that it gives and its FLOPs."""
    outputs = tuple(ports.get(name, Port(name, "unknown", None)) for name in node.output if name)
    sizes = [port.bytes for port in outputs]
    total = None if None in sizes else sum(b for b in sizes if b is not None)
    return Node(node.name or (node.output[0] if node.output else ""), _op(node), outputs, total, _flops(node, ports))


def _flops(node: Any, ports: Mapping[str, Port]) -> int | None:
    """FLOPs of a node; None where shapes are unknown, or there is no rule for an operator that may have some."""
    op = _op(node)
    rule = _RULES.get(op)
    if rule is None:
        return None if _has_no_rule(op) else 0
    shapes = [p.shape if (p := ports.get(name)) and p.count is not None else None for name in node.input]
    out = ports.get(node.output[0])
    if out is None or out.count is None:
        return None
    attributes = {a.name: a.i for a in node.attribute}
    try:
        return 2 * rule(shapes, out.count, attributes)
    except (TypeError, IndexError):  # a shape that is not known
        return None


Rule = Callable[[Sequence[Any], int, Mapping[str, int]], int]


def _convolution(weight: int) -> Rule:
    return lambda shapes, count, _: count * prod(shapes[weight][1:])


def _product(other: int = 0) -> Rule:
    def count_of(shapes: Sequence[Any], count: int, attributes: Mapping[str, int]) -> int:
        return count * shapes[other][0 if attributes.get("transA") and len(shapes[other]) == 2 else -1]

    return count_of


def _transposed(shapes: Sequence[Any], count: int, attributes: Mapping[str, int]) -> int:
    return prod(shapes[0][2:]) * shapes[0][0] * prod(shapes[1])


_RULES: dict[str, Rule] = {  # multiply-adds
    **dict.fromkeys(("Conv", "ConvInteger", "com.microsoft.FusedConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _product()),
    **dict.fromkeys(("com.microsoft.FusedMatMul", "com.microsoft.FusedGemm", "com.microsoft.QGemm"), _product()),
}
# Of the standard ones that multiply matrices, or hold graphs that may.
_WITHOUT = {"Einsum", "LSTM", "GRU", "RNN", "Attention", "DeformConv", "If", "Loop", "Scan", "DFT"}


def _has_no_rule(op: str) -> bool:
    return op in _WITHOUT or ("." in op and op not in _RULES)


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
    for attribute in node.attribute:
        for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
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
