"""What a file calls networks and shapes."""

import re

from netbuild.costs.outputs import Shape
from netbuild.graph.layers import Graph


def is_tensor(shape: Shape) -> bool:
    """Whether a shape is that of one tensor."""
    return isinstance(shape, list) and all(isinstance(side, int) for side in shape)


def shape_words(shape: Shape) -> str:
    """A shape for people; of nested ones the first tensor's, and that there is more."""
    if is_tensor(shape):
        return f"({', '.join(map(str, ['B', *shape[1:]]))})" if shape else "a number"
    while shape and not is_tensor(shape):
        shape = next(iter(shape.values())) if isinstance(shape, dict) else shape[0]
    return f"{shape_words(shape)} and more" if shape else "nothing"


def title(graph: Graph) -> str:
    """The network's name, YOLO in capitals."""
    return _capital(graph.name)


def _capital(name: str) -> str:
    return f"YOLO{name[4:]}" if name.startswith("yolo") else name


def class_name(name: str) -> str:
    """A name as a class has it: yolo11n-seg is YOLO11nSeg."""
    parts = re.split(r"[^0-9A-Za-z]+", _capital(name))
    joined = "".join(part[:1].upper() + part[1:] for part in parts)
    return joined if joined[:1].isalpha() else f"Net{joined}"
