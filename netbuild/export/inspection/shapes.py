"""Infer the shape of every tensor of an ONNX file."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from netbuild.export.inspection.model import SMALL, STANDARD, Port, port_of, subgraphs, type_name


@dataclass(frozen=True)
class Shapes:
    """The known types, shapes and values of a graph's tensors.

    Args:
        ports: type and shape of each tensor, by its name.
        values: of small tensors that do not depend on the graph's inputs.
        nodes: the nodes that hold subgraphs, by the name of their first output; shapes in the subgraphs are inferred.
    """

    ports: Mapping[str, Port]
    values: Mapping[str, Any]
    nodes: Mapping[str, Any]

    def inside(self, graph: Any, onnx: Any) -> "Shapes":
        """The same for a subgraph of one of the nodes, which also sees the tensors of this graph."""
        declared = {value.name: port_of(value, onnx) for value in (*graph.input, *graph.value_info, *graph.output)}
        declared |= {t.name: Port(t.name, type_name(t.data_type, onnx), tuple(t.dims)) for t in graph.initializer}
        values = small_constants(graph, onnx)
        declared |= {name: _array_port(name, value) for name, value in values.items()}
        nodes = {node.output[0]: node for node in graph.node if subgraphs(node)}
        return Shapes({**self.ports, **declared}, {**self.values, **values}, nodes)


def infer_shapes(model: Any, declared: Mapping[str, Port], onnx: Any) -> Shapes:
    """Infer the shapes of all tensors of the main graph; where that fails, use the declared ones (`declared`)."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        if prod(tensor.dims) * 8 > SMALL:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)
    seen = _infer(light, onnx)
    found = {**declared, **seen.ports}
    for tensor in model.graph.initializer:
        found[tensor.name] = Port(tensor.name, type_name(tensor.data_type, onnx), tuple(tensor.dims))
    found = {name: declared[name] if port.count is None and name in declared else port for name, port in found.items()}
    return replace(seen, ports=found)


def _infer(model: Any, onnx: Any) -> Shapes:
    """Run ONNX's shape inference and constant folding in turn until folding finds no new value."""
    graph, known = model.graph, small_constants(model.graph, onnx)
    while True:
        del graph.value_info[:]  # the file may declare shapes for other input sizes
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
        # Inference raises for unknown operators and contradictory shapes; the shapes found so far still count.
        with suppress(Exception):
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        graph = model.graph
        ports = {value.name: port_of(value, onnx) for value in (*graph.input, *graph.value_info, *graph.output)}
        if not _fold(model, ports, known, onnx):
            ports |= {name: _array_port(name, value) for name, value in known.items() if name not in ports}
            return Shapes(ports, known, {node.output[0]: node for node in graph.node if subgraphs(node)})


def _array_port(name: str, value: Any) -> Port:
    return Port(name, str(value.dtype), tuple(value.shape))


def small_constants(graph: Any, onnx: Any) -> dict[str, Any]:
    """The values of small constant tensors that are stored in the file itself, by name."""
    small = [t for t in graph.initializer if prod(t.dims) * 8 <= SMALL and t.data_location == 0]
    found = {}
    for tensor in small:
        with suppress(Exception):  # a malformed tensor only leaves some shapes unknown
            found[tensor.name] = onnx.numpy_helper.to_array(tensor)
    return found


def _fold(model: Any, ports: Mapping[str, Port], known: dict[str, Any], onnx: Any) -> bool:
    """Replace nodes that compute sizes from known sizes by constants; return whether any was replaced."""
    new = []
    for node in model.graph.node:
        if node.op_type in SIZE_OPERATORS and node.domain in STANDARD and not known.keys() & set(node.output):
            value = _evaluate(node, ports, known, model, onnx)
            if value is not None:
                known[node.output[0]] = value
                new.append(node)
    for node in new:
        model.graph.initializer.append(onnx.numpy_helper.from_array(known[node.output[0]], node.output[0]))
        model.graph.node.remove(node)
    return bool(new)


# Operators with which exporters compute shapes, and the coordinate grids of heads.
SIZE_OPERATORS = frozenset(
    "Shape Size Gather Concat Slice Unsqueeze Squeeze Range Cast Add Sub Mul Div Floor Ceil Expand Reshape Max Min Mod "
    "Equal Less LessOrEqual Greater GreaterOrEqual Not And Or Where ConstantOfShape Constant ReduceProd "
    "Transpose".split()
)


def _evaluate(node: Any, ports: Mapping[str, Port], known: Mapping[str, Any], model: Any, onnx: Any) -> Any:
    """The output of a node that computes sizes, a small array; None if an input is unknown."""
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
    except Exception:  # a node that the reference evaluator refuses stays unknown
        return None
    return value if isinstance(value, np.ndarray) and value.nbytes <= 8 * SMALL else None
