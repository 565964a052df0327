"""Resolve the rows of a file to a `Graph` of `Layer`s, and build the `Network`."""

from typing import TYPE_CHECKING

from netbuild.system.plugins import lazy_attributes

if TYPE_CHECKING:
    from netbuild.graph.layers import Graph as Graph
    from netbuild.graph.layers import Layer as Layer
    from netbuild.graph.resolver import resolve as resolve

__getattr__, __dir__ = lazy_attributes(
    __name__, {"resolve": "graph.resolver", "Graph": "graph.layers", "Layer": "graph.layers"}
)
