"""An ONNX file as plain data: its inputs, outputs, nodes and tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from netbuild.errors import MissingExtraError, NetbuildError, shorten

SMALL = 4096  # bytes of a tensor that may be a shape; larger ones are not needed to know shapes
STANDARD = ("", "ai.onnx", "ai.onnx.ml")
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
