"""Names of networks and texts of shapes in ejected files."""

import re

from netbuild.costs.outputs import Shape
from netbuild.graph.layers import Graph


def is_tensor(shape: Shape) -> bool:
    """Return whether a shape is that of a single tensor."""
    return isinstance(shape, list) and all(isinstance(side, int) for side in shape)


def describe_shape(shape: Shape) -> str:
    """Format a shape for a comment; nested shapes are formatted as the first tensor's "and more"."""
    if is_tensor(shape):
        return f"({', '.join(map(str, ['B', *shape[1:]]))})" if shape else "a number"
    while shape and not is_tensor(shape):
        shape = next(iter(shape.values())) if isinstance(shape, dict) else shape[0]
    return f"{describe_shape(shape)} and more" if shape else "nothing"


def display_name(graph: Graph) -> str:
    """Return the network's name with YOLO in capitals."""
    return _capitalise(graph.name)


def _capitalise(name: str) -> str:
    return f"YOLO{name[4:]}" if name.startswith("yolo") else name


def to_class_name(name: str) -> str:
    """Convert a name to a class name, as in YOLO11nSeg for yolo11n-seg."""
    parts = re.split(r"[^0-9A-Za-z]+", _capitalise(name))
    joined = "".join(part[:1].upper() + part[1:] for part in parts)
    return joined if joined[:1].isalpha() else f"Net{joined}"
