"""Reports every error and warning of a network file at once, each with its place."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from netbuild.author.findings import Finding, in_order, of_errors, of_names, of_text
from netbuild.errors import NetbuildError
from netbuild.grammar import ultralytics
from netbuild.grammar.locate import locate
from netbuild.grammar.spec import Spec, load
from netbuild.graph.layers import Graph, Layer
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import registry
from netbuild.modules.factory import Parameter
from netbuild.modules.gather import load_own_modules
from netbuild.roles import SUPPLIED, Role

LEAST_WIDTH = 8  # a smaller number is a kernel, a stride, a ratio


def check(
    file: str,
    options: Options | None = None,
    modules: Sequence[str | Path] = (),
    trusted: Callable[[Path], bool] = lambda _: False,
) -> list[Finding]:
    """Return all findings of one file, errors first, each kind in the order of the file.

    A file with scales is resolved at every scale, unless ``options`` name one; what scales share is given once.
    """
    try:
        path, letter = locate(file)
        spec = load(path)
        own = load_own_modules(spec, modules, trusted)
    except NetbuildError as error:
        return of_errors([error])
    base = options or Options()
    asked = base.scale or letter
    return in_order(
        finding
        for scale in ([asked] if asked else _scales(spec))
        for finding in _resolved(spec, Options(scale, None, base.nc, base.ch, base.imgsz, own))
    )


def _scales(spec: Spec) -> Sequence[str | None]:
    return [scale.name for scale in spec.scales] or [None]


def _resolved(spec: Spec, options: Options) -> Iterator[Finding]:
    yield from of_text(spec)
    yield from of_names(spec, set(registry.names()))
    yield from _shadowed(spec, options)
    try:
        graph = resolve(spec, options)
    except NetbuildError as error:
        yield from of_errors([error])
        return
    yield from _unread(graph)
    yield from _odd_heads(graph)
    yield from _wrong_widths(graph)
    yield from _written_inputs(graph)


def _shadowed(spec: Spec, options: Options) -> Iterator[Finding]:
    packaged = set(registry.names())
    for row in spec.rows:
        if row.module in options.modules and row.module in packaged:
            message = f"{row.label}: the own module in {options.modules[row.module].file} hides the packaged one"
            yield Finding("warning", message, row.module_node.where)


def _unread(graph: Graph) -> Iterator[Finding]:
    read = {s for layer in graph.layers for s in layer.step.sources} | set(graph.plan.result)
    for layer in graph.layers:
        if layer.row.index not in read:
            cost = f" ({layer.params:,} parameters)" if layer.params else ""
            hint = "remove it, or read it by its number or name"
            yield Finding("warning", f"{layer.row.label}: nobody reads its output{cost}", layer.row.where, hint)


def _odd_heads(graph: Graph) -> Iterator[Finding]:
    for layer in graph.layers:
        known = [s for s in layer.strides or () if s is not None]
        if known != sorted(known):
            strides = ", ".join(f"{s:g}" for s in known)
            message = f"{layer.row.label}: its sources have strides [{strides}], not from fine to coarse"
            yield Finding("warning", message, layer.row.where, "order them by stride")


def _wrong_widths(graph: Graph) -> Iterator[Finding]:
    """A channel count written out in a row of torch's own modules is exact: the width multiple passes it by."""
    if graph.scale.width == 1:
        return
    for layer in graph.layers:
        written = [
            node for name, node in _by_parameter(layer) if name in ("out_channels", "in_channels") and _literal(node)
        ]
        for node in written[:1]:
            message = f"{layer.row.label}: {node.value} channels stay as written at every scale"
            yield Finding(
                "warning", message, node.where, "a packaged Conv, or a block with c2, follows the width multiple"
            )


def _written_inputs(graph: Graph) -> Iterator[Finding]:
    """A first value that is the channels that arrive, where the call would make more sense without it."""
    for layer in graph.layers:
        free = [p for p in layer.factory.parameters if p.role not in SUPPLIED]
        values = [node.value for node in layer.row.args]
        if layer.factory.foreign or not layer.factory.takes(Role.IN) or not values or len(layer.row.sources) > 1:
            continue
        arriving = _arriving_channels(layer)
        if arriving is None or type(values[0]) is not int or values[0] not in arriving:
            continue
        if _is_shifted(free, values):
            message = f"{layer.row.label}: {values[0]} looks like the input channels, which are supplied already"
            hint = f"leave it out, if so: here {free[0].name} is {values[0]}"
            yield Finding("warning", message, layer.row.args[0].where, hint)


def _arriving_channels(layer: Layer) -> set[int] | None:
    shape = layer.in_shapes[0]
    if not isinstance(shape, list) or len(shape) < 2 or not all(isinstance(side, int) for side in shape):
        return None
    return {shape[1]}


def _is_shifted(free: Sequence[Parameter], values: Sequence[Any]) -> bool:
    """Whether the second value fits a width better than the parameter that gets it, or the first gets no width."""
    if free[0].role is not Role.WIDTH:
        return values[0] >= LEAST_WIDTH and type(free[0].default) is int and free[0].default < values[0]
    second = values[1] if len(values) > 1 else None
    takes_width = len(free) > 1 and (free[1].role is Role.WIDTH or "c" in free[1].name)
    return type(second) is int and second >= LEAST_WIDTH and not takes_width


def _by_parameter(layer: Layer) -> list[tuple[str, Any]]:
    if not layer.factory.foreign or layer.factory.name in ultralytics.OWN_STYLE:
        return []
    names = [p.name for p in layer.factory.parameters]
    return list(zip(names, layer.row.args, strict=False))


def _literal(node: Any) -> bool:
    return type(node.value) is int
