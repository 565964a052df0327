"""An ONNX file as plain data: its inputs, outputs, nodes and tensors."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from netbuild.errors import MissingExtraError, NetbuildError, shorten
from netbuild.runtime import MAX_BYTES
from netbuild.system.packages import install_hint

SMALL = 4096  # bytes: tensors up to this size may hold a shape; larger ones never matter for shape inference
STANDARD = ("", "ai.onnx", "ai.onnx.ml")
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Port:
    """A tensor's name, type and shape; a side is a number, a symbolic name or None, the shape None if unknown."""

    name: str
    type: str
    shape: Dims | None

    @property
    def count(self) -> int | None:
        """Number of elements; None if a side is unknown."""
        if self.shape is None or not all(isinstance(n, int) for n in self.shape):
            return None
        return prod(n for n in self.shape if isinstance(n, int))

    @property
    def bytes(self) -> int | None:
        """Size in bytes; None if a side or the type is unknown."""
        bits = _BITS.get(self.type)
        return None if self.count is None or bits is None else (self.count * bits + 7) // 8

    def __str__(self) -> str:
        shape = "?" if self.shape is None else f"[{', '.join('?' if n is None else str(n) for n in self.shape)}]"
        return f"{self.name}  {self.type} {shape}"


@dataclass(frozen=True)
class Node:
    """A node: its outputs, their bytes and its FLOPs; None where a number is unknown."""

    name: str
    op: str
    outputs: tuple[Port, ...]
    bytes: int | None
    flops: int | None


def import_onnx() -> Any:
    """Import onnx, or raise `MissingExtraError`."""
    try:
        import onnx
        import onnx.inliner
        import onnx.shape_inference
    except ImportError:
        raise MissingExtraError("inspecting ONNX files needs onnx", hint=install_hint("export")) from None
    return onnx


def read_model(path: Path, onnx: Any) -> Any:
    """Parse the file as protobuf; tensors stored in other files are not loaded."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # reading a FIFO would wait for ever
            raise NetbuildError(f"{path}: cannot be read: {'a folder' if path.is_dir() else 'not a regular file'}")
        if facts.st_size > MAX_BYTES:
            raise NetbuildError(f"{path}: {facts.st_size:,} bytes, more than an ONNX file can have")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise NetbuildError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise NetbuildError(f"{path}: the file is empty")
    if data[:4] == b"PK\x03\x04":
        raise NetbuildError(
            f"{path}: this is a zip archive, as torch writes them, not an ONNX file", hint="netbuild export makes one"
        )
    try:
        model = onnx.ModelProto.FromString(data)
        functions = bool(model.functions)
        model = onnx.inliner.inline_local_functions(model) if functions else model
    except Exception as error:  # protobuf's errors have no common base
        raise NetbuildError(f"{path}: not an ONNX file, or it is truncated: {shorten(error)}") from None
    if not model.ir_version or not model.graph.output:
        raise NetbuildError(f"{path}: not an ONNX file: it contains no graph with outputs")
    return model


def all_graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph, then all subgraphs of its branches and loops."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node).values():
            yield from all_graphs(inner)


def subgraphs(node: Any) -> dict[str, Any]:
    """The subgraphs of a node, by attribute name."""
    several = {f"{a.name}[{i}]": graph for a in node.attribute for i, graph in enumerate(a.graphs)}
    return {a.name: a.g for a in node.attribute if a.HasField("g")} | several


def operator_name(node: Any) -> str:
    """A node's operator, with its domain unless that is a standard one."""
    return node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield the constant tensors: initializers and the values of Constant nodes."""
    yield from graph.initializer
    yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (a.t for a in node.attribute if a.HasField("t"))


def constant_sizes(model: Any, onnx: Any) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Elements and bytes of the constant tensors by type, largest first, and the names of external data files."""
    found: dict[str, tuple[int, int]] = {}
    files: dict[str, None] = {}
    for tensor in (tensor for graph in all_graphs(model.graph) for tensor in _tensors(graph)):
        kind, count = type_name(tensor.data_type, onnx), prod(tensor.dims)
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


def type_name(number: int, onnx: Any) -> str:
    """The numpy name of an ONNX tensor type."""
    try:
        name: str = onnx.TensorProto.DataType.Name(number).lower()
    except ValueError:
        return f"type {number}"
    return {"float": "float32", "double": "float64"}.get(name, name)


def graph_inputs(graph: Any) -> list[Any]:
    """The graph's real inputs: old files list their initializers as inputs too."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def with_fixed_sizes(model: Any, path: Path, sides: tuple[int, int] | None, batch: int | None) -> Any:
    """Set the free axes of the model's inputs, in place, to the given height, width and batch."""
    wanted = {0: batch, **({2: sides[0], 3: sides[1]} if sides else {})}
    named: dict[str, int] = {}
    used: set[int] = set()
    for value in graph_inputs(model.graph):
        dims = value.type.tensor_type.shape.dim
        for axis, length in wanted.items():
            if length is None or axis >= len(dims) or (axis and len(dims) != 4):
                continue
            if dims[axis].HasField("dim_value") and dims[axis].dim_value != length:
                message = f"{value.name} has {dims[axis].dim_value} on axis {axis}, not {length}"
                raise NetbuildError(f"{path}: {message}: the file fixes it", hint="leave out --imgsz, --batch")
            named |= {dims[axis].dim_param: length} if dims[axis].dim_param else {}
            dims[axis].dim_value = length
            used.add(axis)
    if any(length is not None and axis not in used for axis, length in wanted.items()):
        raise NetbuildError(f"{path}: no input (B, C, H, W) has an axis that --imgsz or --batch could set")
    for value in graph_inputs(model.graph):  # axes with the same symbolic name have the same length
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in named:
                dim.dim_value = named[dim.dim_param]
    return model


def port_of(value: Any, onnx: Any) -> Port:
    """The `Port` of an ONNX ValueInfo."""
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(value.name, (kind or "unknown").removesuffix("type_name"), None)
    tensor = value.type.tensor_type
    dims: Dims | None = None
    if tensor.HasField("shape"):
        dims = tuple(_length(dim) for dim in tensor.shape.dim)
    return Port(value.name, type_name(tensor.elem_type, onnx), dims)


def _length(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return None if dim.dim_param.startswith("unk__") else dim.dim_param or None  # shape inference invents such names
