"""The packaged networks, each resolved once for all tests that only look at it."""

from functools import cache

from netbuild.grammar.locate import packaged_architectures
from netbuild.grammar.spec import load
from netbuild.graph.layers import Graph
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve


@cache
def resolve_packaged(stem: str, scale: str | None = None, **options: object) -> Graph:
    """Resolve a packaged file by its name without ``.yaml``; the graph is shared and must not be changed."""
    return resolve(load(packaged_architectures()[f"{stem}.yaml"]), Options(scale=scale, **options))
