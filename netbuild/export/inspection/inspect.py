"""What is in an ONNX file: its ports, operators, parameters, costs and metadata. The file is read, never run."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from netbuild.errors import MissingExtraError, NetbuildError, shorten
from netbuild.report.units import giga, size

SMALL = 4096  # bytes of a tensor that may be a shape; larger ones are not needed to know shapes
STANDARD = ("", "ai.onnx", "ai.onnx.ml")
SHOWN = 8  # nodes that the text lists
ENDLESS = 2**31  # rounds of a loop that is ended by its condition alone
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
    sides = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
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
        for inner in _bodies(node).values():
            yield from _graphs(inner)


def _bodies(node: Any) -> dict[str, Any]:
    """The graphs inside a node, by the attribute's name."""
    several = {f"{a.name}[{i}]": graph for a in node.attribute for i, graph in enumerate(a.graphs)}
    return {a.name: a.g for a in node.attribute if a.HasField("g")} | several


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


@dataclass(frozen=True)
class _Seen:
    """What is known of the tensors of a graph.

    Args:
        ports: by name.
        values: of small ones that do not depend on what goes in.
        nodes: with inner graphs, by their first output, and with the shapes in those that could be inferred.
    """

    ports: Mapping[str, Port]
    values: Mapping[str, Any]
    nodes: Mapping[str, Any]

    def inside(self, graph: Any, onnx: Any) -> "_Seen":
        """As much of a graph that is inside a node of this one."""
        told = {value.name: _of(value, onnx) for value in (*graph.input, *graph.value_info, *graph.output)}
        told |= {t.name: Port(t.name, _type(t.data_type, onnx), tuple(t.dims)) for t in graph.initializer}
        values = _constants(graph, onnx)
        told |= {name: _port_of(name, value) for name, value in values.items()}
        nodes = {node.output[0]: node for node in graph.node if _bodies(node)}
        return _Seen({**self.ports, **told}, {**self.values, **values}, nodes)


def _shapes(model: Any, kept: Mapping[str, Port], onnx: Any) -> _Seen:
    """The ports of all tensors of the main graph: inferred, else as the file itself tells them."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if prod(tensor.dims) * 8 > SMALL:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)
    seen = _inferred(light, onnx)
    found = {**kept, **seen.ports}
    for tensor in model.graph.initializer:
        found[tensor.name] = Port(tensor.name, _type(tensor.data_type, onnx), tuple(tensor.dims))
    found = {name: kept[name] if port.count is None and name in kept else port for name, port in found.items()}
    return replace(seen, ports=found)


def _inferred(model: Any, onnx: Any) -> _Seen:
    """What shape inference tells, begun again with the shapes that were worked out until there are no more."""
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
            ports |= {name: _port_of(name, value) for name, value in known.items() if name not in ports}
            return _Seen(ports, known, {node.output[0]: node for node in graph.node if _bodies(node)})


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
    "Equal Less LessOrEqual Greater GreaterOrEqual Not And Or Where ConstantOfShape Constant ReduceProd "
    "Transpose".split()
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


def _node(node: Any, seen: _Seen, costs: "Costs") -> Node:
    """A node with the bytes that it gives and its FLOPs."""
    outputs = tuple(seen.ports.get(name, Port(name, "unknown", None)) for name in node.output if name)
    sizes = [port.bytes for port in outputs]
    total = None if None in sizes else sum(b for b in sizes if b is not None)
    return Node(node.name or (node.output[0] if node.output else ""), _op(node), outputs, total, costs.of(node, seen))


@dataclass
class Costs:
    """Counts the FLOPs of nodes, and notes what cannot be counted.

    Args:
        onnx: the package.
    """

    onnx: Any
    uncounted: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def of(self, node: Any, seen: _Seen) -> int | None:
        """FLOPs of a node; None where shapes are unknown, or it cannot be counted, which is noted."""
        op = _op(node)
        if op in _HOLDERS:
            return _HOLDERS[op](self, seen.nodes.get(node.output[0], node), seen)
        rule = _RULES.get(op)
        if rule is None:
            if not _has_no_rule(op):
                return 0
            self.uncounted[op] += 1
            return None
        shapes = [p.shape if (p := seen.ports.get(name)) and p.count is not None else None for name in node.input]
        out = seen.ports.get(node.output[0])
        if out is None or out.count is None:
            return None
        attributes = {a.name: a.s.decode(errors="replace") if a.s else a.i for a in node.attribute}
        try:
            return 2 * rule(shapes, out.count, attributes)
        except (TypeError, ValueError, IndexError, KeyError):  # a shape that is not known
            return None

    def inside(self, graph: Any, seen: _Seen) -> int | None:
        """FLOPs of a graph inside a node, run once; None where a shape in it is unknown."""
        inner, before = seen.inside(graph, self.onnx), self.uncounted.total()
        found = []
        for node in graph.node:
            flops = self.of(node, inner)
            found.append(0 if flops is None and self.uncounted.total() > before else flops)
            before = self.uncounted.total()
        return None if None in found else sum(n for n in found if n is not None)

    def branches(self, node: Any, seen: _Seen) -> int | None:
        """Of If: the branch that is taken, where the condition is known, else the larger."""
        bodies, condition = _bodies(node), seen.values.get(node.input[0])
        if condition is not None and condition.size == 1:
            chosen = "then_branch" if condition.item() else "else_branch"
            self.remarks.append(f"{_called(node)}: its {chosen}, which is always taken")
            return self.inside(bodies[chosen], seen)
        found = {name: self.inside(body, seen) for name, body in bodies.items()}
        if None in found.values():
            return None
        largest = max(found, key=lambda name: found[name] or 0)
        if found[largest]:
            self.remarks.append(f"{_called(node)}: its {largest}, the larger of two")
        return found[largest]

    def rounds(self, node: Any, seen: _Seen) -> int | None:
        """Of Loop: as many rounds as are written down, if any are."""
        limit = seen.values.get(node.input[0]) if node.input and node.input[0] else None
        if limit is None or limit.size != 1 or limit.item() >= ENDLESS:
            self.uncounted["Loop"] += 1
            return None
        count = max(int(limit.item()), 0)
        ends = "" if self._never_ends(node, seen) else " at most"
        self.remarks.append(f"{_called(node)}: {count} rounds{ends}")
        once = self.inside(_bodies(node)["body"], seen)
        return None if once is None else count * once

    def _never_ends(self, node: Any, seen: _Seen) -> bool:
        """Whether a loop's condition is always true: the rounds are all run."""
        body, given = _bodies(node)["body"], node.input[1] if len(node.input) > 1 else ""
        begun = not given or bool(np.all(seen.values.get(given, False)))
        passed, told = {body.input[1].name}, _constants(body, self.onnx)
        for inner in body.node:
            passed |= {inner.output[0]} if inner.op_type == "Identity" and inner.input[0] in passed else set()
        last = body.output[0].name
        return begun and (last in passed or bool(np.all(told.get(last, False))))

    def slices(self, node: Any, seen: _Seen) -> int | None:
        """Of Scan: a round for every slice of what is scanned."""
        known: dict[str, Any] = {a.name: [*a.ints] or a.i for a in node.attribute if a.name != "body"}
        count = known["num_scan_inputs"]
        port = seen.ports.get(node.input[len(node.input) - count])
        if port is None or port.count is None:
            return None
        length = (port.shape or ())[(known.get("scan_input_axes") or [0])[0]]
        self.remarks.append(f"{_called(node)}: {length} rounds")
        once = self.inside(_bodies(node)["body"], seen)
        return None if once is None else int(length or 0) * once


def _called(node: Any) -> str:
    return f"{node.op_type} {shorten(node.name or node.output[0], 60)}"


# Operators that hold graphs.
_HOLDERS: dict[str, Callable[[Costs, Any, _Seen], int | None]] = {
    "If": Costs.branches,
    "Loop": Costs.rounds,
    "Scan": Costs.slices,
}


Rule = Callable[[Sequence[Any], int, Mapping[str, Any]], int]


def _convolution(weight: int) -> Rule:
    return lambda shapes, count, _: count * prod(shapes[weight][1:])


def _product(other: int = 0) -> Rule:
    def count_of(shapes: Sequence[Any], count: int, attributes: Mapping[str, Any]) -> int:
        return count * shapes[other][0 if attributes.get("transA") and len(shapes[other]) == 2 else -1]

    return count_of


def _transposed(shapes: Sequence[Any], count: int, attributes: Mapping[str, Any]) -> int:
    return prod(shapes[0][2:]) * shapes[0][0] * prod(shapes[1])


def _einsum(shapes: Sequence[Any], count: int, attributes: Mapping[str, Any]) -> int:
    """Of operands taken in one after another: each pair's product has all letters of the two."""
    left, arrow, right = attributes["equation"].replace(" ", "").partition("->")
    terms = [_letters(term, len(shape)) for term, shape in zip(left.split(","), shapes, strict=True)]
    lengths: dict[Any, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for letter, length in zip(term, shape, strict=True):
            lengths[letter] = max(lengths.get(letter, 1), length)  # what is 1 is stretched
    every = [letter for term in terms for letter in term]
    once = [letter for letter in every if isinstance(letter, int) or every.count(letter) == 1]
    wanted = (
        {letter for letter in every if ("..." if isinstance(letter, int) else letter) in right} if arrow else {*once}
    )
    total, held = 0, {*terms[0]}
    for i, term in enumerate(terms[1:], 1):
        both = held | {*term}
        total += prod(lengths[letter] for letter in both)
        held = both & {*wanted, *(letter for later in terms[i + 1 :] for letter in later)}
    return total


def _letters(term: str, axes: int) -> list[Any]:
    """The letters of an operand's axes, numbers from -1 backwards for those that dots stand for."""
    before, dots, after = term.partition("...")
    return [*before, *(range(len(before) + len(after) - axes, 0) if dots else ()), *after]


_RULES: dict[str, Rule] = {  # multiply-adds
    **dict.fromkeys(("Conv", "ConvInteger", "com.microsoft.FusedConv"), _convolution(1)),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "Einsum": _einsum,
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _product()),
    **dict.fromkeys(("com.microsoft.FusedMatMul", "com.microsoft.FusedGemm", "com.microsoft.QGemm"), _product()),
}
# Of the standard ones that multiply matrices.
_WITHOUT = {"LSTM", "GRU", "RNN", "Attention", "DeformConv", "DFT", "SequenceMap"}


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
