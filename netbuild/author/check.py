"""Reports every error and warning of a network file at once, each with its place."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from netbuild.author.findings import Finding, convert_errors, find_hiding_blocks, find_text_warnings, sort_findings
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar import ultralytics
from netbuild.grammar.locate import locate
from netbuild.grammar.spec import Spec, load
from netbuild.graph.doubts import find_doubts
from netbuild.graph.layers import Graph, Layer
from netbuild.graph.options import Options
from netbuild.graph.resolver import resolve
from netbuild.modules import registry
from netbuild.modules.loading import load_custom_modules
from netbuild.tasks import TASKS


def check(
    file: str,
    options: Options | None = None,
    modules: Sequence[str | Path] = (),
    trusted: Callable[[Path], bool] = lambda _: False,
    set: Sequence[str] = (),
) -> list[Finding]:
    """Return all findings of one file, errors first, each kind in the order of the file.

    A file with scales is resolved at every scale, unless ``options`` name one; findings that scales share are
    returned once.

    Args:
        file: a path or the name of a packaged network.
        options: scale, classes, channels and size, as for `netbuild.build`.
        modules: Python files or folders with custom modules.
        trusted: whether the code of a file that the network imports may run.
        set: values of the file's ``params``, such as ``reduction=8``.
    """
    try:
        path, letter = locate(file)
        spec = load(path, set)
        custom = load_custom_modules(spec, modules, trusted)
    except NetbuildError as error:
        return convert_errors([error])
    base = options or Options()
    chosen = base.scale or letter
    return sort_findings(
        finding
        for scale in ([chosen] if chosen else _scale_names(spec))
        for finding in _check_scale(spec, Options(scale, None, base.nc, base.ch, base.imgsz, custom))
    )


def _scale_names(spec: Spec) -> Sequence[str | None]:
    return [scale.name for scale in spec.scales] or [None]


def _check_scale(spec: Spec, options: Options) -> Iterator[Finding]:
    yield from find_text_warnings(spec)
    yield from find_hiding_blocks(spec, set(registry.packaged_names()))
    yield from _find_hiding_modules(spec, options)
    yield from _find_unknown_tasks(spec)
    try:
        graph = resolve(spec, options)
    except NetbuildError as error:
        yield from convert_errors([error])
        return
    yield from _find_unread_rows(graph)
    yield from _find_unordered_sources(graph)
    yield from _find_fixed_widths(graph)
    yield from (Finding("warning", layer.bound.note, layer.row.where) for layer in graph.layers if layer.bound.note)
    yield from (Finding("warning", doubt.message, doubt.where, doubt.hint) for doubt in find_doubts(graph.layers))


def _find_hiding_modules(spec: Spec, options: Options) -> Iterator[Finding]:
    packaged = set(registry.packaged_names())
    for row in spec.rows:
        if row.module in options.modules and row.module in packaged:
            message = f"{row.label}: the custom module in {options.modules[row.module].file} hides the packaged one"
            yield Finding("warning", message, row.module_node.where)


def _find_unknown_tasks(spec: Spec) -> Iterator[Finding]:
    """Warn of tasks that are not installed: the network can be built, and nothing can be done with it."""
    nodes = [spec.root, *(head.node for head in spec.heads)]
    for node in [node.value["task"] for node in nodes if "task" in node.value]:
        if node.value is not None and node.value not in TASKS.names():
            hint = did_you_mean(str(node.value), TASKS.names())
            yield Finding("warning", f"there is no task '{shorten(node.value, 40)}' here", node.where, hint)


def _find_unread_rows(graph: Graph) -> Iterator[Finding]:
    read = {s for layer in graph.layers for s in layer.step.sources} | set(graph.plan.result)
    for layer in graph.layers:
        if layer.row.index not in read:
            cost = f" ({layer.params:,} parameters)" if layer.params else ""
            hint = "remove it, or read it by its number or name"
            yield Finding("warning", f"{layer.row.label}: no row reads its output{cost}", layer.row.where, hint)


def _find_unordered_sources(graph: Graph) -> Iterator[Finding]:
    for layer in graph.layers:
        known = [s for s in layer.strides or () if s is not None]
        if known != sorted(known):
            strides = ", ".join(f"{s:g}" for s in known)
            message = f"{layer.row.label}: its sources have strides [{strides}], not from fine to coarse"
            yield Finding("warning", message, layer.row.where, "order them by stride")


def _find_fixed_widths(graph: Graph) -> Iterator[Finding]:
    """Warn of literal channel counts in rows of torch's own modules: the width multiple does not scale these."""
    if graph.scale.width == 1:
        return
    for layer in graph.layers:
        channels = [node for name, node in _pair_arguments(layer) if name in ("out_channels", "in_channels")]
        for node in [node for node in channels if type(node.value) is int][:1]:
            message = f"{layer.row.label}: {node.value} channels stay as written at every scale"
            yield Finding(
                "warning", message, node.where, "a packaged Conv, or a block with c2, follows the width multiple"
            )


def _pair_arguments(layer: Layer) -> list[tuple[str, Any]]:
    if not layer.factory.foreign or layer.factory.name in ultralytics.OWN_STYLE:
        return []
    names = [p.name for p in layer.factory.parameters]
    return list(zip(names, layer.row.args, strict=False))
