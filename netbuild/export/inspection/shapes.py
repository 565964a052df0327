"""Shapes of all tensors of an ONNX file, inferred."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from netbuild.export.inspection.model import SMALL, STANDARD, Port, _bodies, _of, _type


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
