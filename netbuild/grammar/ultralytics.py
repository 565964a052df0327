"""What files of the Ultralytics kind mean that a constructor's signature cannot say: all of it, and only here."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from netbuild.grammar.nodes import Node, parse
from netbuild.grammar.rows import INPUT, Row
from netbuild.grammar.spec import Input, Scale, Spec

# A row of one of these modules moves every head of the file to the light class branch.
_NON_LEGACY = {"C3k2", "A2C2f", "C2fCIB"}

# Rows of these torch modules are written like own ones: [c2, kernel, stride, padding], c1 supplied, c2 scaled.
OWN_STYLE = {"nn.ConvTranspose2d"}

# (module, scales) -> arguments that the scale sets, whatever the row says.
_BY_SCALE: dict[str, tuple[str, dict[str, Any]]] = {
    "C3k2": ("mlx", {"c3k": True}),
    "A2C2f": ("lx", {"residual": True, "mlp_ratio": 1.2}),
}


# Names of other repositories for what has one here.
_ALIASES = {"Silence": "nn.Identity"}


def translate(spec: Spec) -> Spec:
    """The rows of older repositories in today's names.

    A file with ``anchors`` means by Detect a head of anchor boxes where it hands them over. YOLOv7's convolutions have
    no dilation: what stands in its place and is no number is the activation.
    """
    if spec.is_plain:
        return spec
    return replace(spec, rows=tuple(map(_translated, spec.rows)))


def _translated(row: Row) -> Row:
    if row.module in _ALIASES:
        return replace(row, module=_ALIASES[row.module])
    if row.module == "Detect" and len(row.args) == 2 and _is_anchors(row.args[1]):
        return replace(row, module="AnchorDetect")
    if row.module == "Conv" and len(row.args) == 6 and not isinstance(row.args[5].value, (int, float)):
        dilation = Node(1, row.args[5].source, row.args[5])
        return replace(row, args=(*row.args[:5], dilation, row.args[5]))
    return row


def _is_anchors(node: Node) -> bool:
    return node.value == "anchors" or isinstance(node.value, list)


# Rows of these begin with the channels that they give, which only that parser needs.
_DECLARES_WIDTH = {"Index", "TorchVision"}


def without_declared_width(row: Row) -> Row:
    """The row without a first value that its module does not take."""
    return replace(row, args=row.args[1:]) if row.module in _DECLARES_WIDTH else row


# Modules whose output is text features: later rows read it in place of the network's text.
_GIVES_TEXT = {"ImagePoolingAttn"}
_TEXT_HEADS = "Detect", "Segment"  # how the names of heads end or go on: they read the text as it came in
_TEXT_WIDTH = 512  # of the text encoder that such files are made for


def with_text(spec: Spec, takes_text: Callable[[str], bool]) -> Spec:
    """A file whose rows take text features although no source says so, with a second input and the sources written.

    Args:
        spec: the file; one that names its inputs is taken as it stands.
        takes_text: tells whether a row's module takes text.
    """
    if spec.inputs or spec.is_plain or not any(takes_text(row.module) for row in spec.rows):
        return spec
    image, features = (parse(text, str(spec.path)) for text in ("[ch]", f"[nc, {_TEXT_WIDTH}]"))
    inputs = (Input("input", tuple(image.value), image), Input("text", tuple(features.value), features))
    text, rows = INPUT - 1, []
    image_of: dict[int, int] = {}
    for row in spec.rows:
        # A row that gives text leaves the stream of maps as it was.
        sources = tuple(image_of.get(source, source) for source in row.sources)
        if takes_text(row.module):
            given = INPUT - 1 if any(part in row.module for part in _TEXT_HEADS) else text
            row = replace(row, sources=(*sources, given), picks=(*row.picks, None))
        else:
            row = replace(row, sources=sources)
        if row.module in _GIVES_TEXT:
            text, image_of[row.index] = row.index, image_of.get(row.index - 1, row.index - 1)
        rows.append(row)
    return replace(spec, rows=tuple(rows), inputs=inputs)


# Tasks whose networks have batch norms with constants of their own.
_DETECTION_LIKE = {"detect", "segment", "pose", "obb", "depth", "semantic"}


def adjust(module: str, values: dict[str, Any], scale: Scale) -> None:
    """Set the arguments that the scale decides."""
    letters, changes = _BY_SCALE.get(module, ("", {}))
    if len(scale.name) == 1 and scale.name in letters:
        values.update(changes)
    if module == "C2fAttn":
        _guide(values, scale)


def _guide(values: dict[str, Any], scale: Scale) -> None:
    """The embedding of a guided block is as wide as its hidden channels, and its heads are scaled."""
    if isinstance(values.get("c2"), int):
        values["ec"] = int(values["c2"] * values.get("e", 0.5))
    heads = values.get("nh", 1)
    if isinstance(heads, int) and heads > 1:
        most = heads if scale.max_channels == float("inf") else min(heads, int(scale.max_channels // 2 // 32))
        values["nh"] = int(max(most * scale.width, 1))


def legacy(modules: Iterable[str]) -> bool:
    """Whether detection heads of a file with these modules have the older, dense class branch."""
    return _NON_LEGACY.isdisjoint(modules)


def norm_constants(task: str | None) -> tuple[float, float] | None:
    """eps and momentum of batch norms in networks of a task; None where torch's stay, as in classifiers."""
    return (1e-3, 0.03) if task in _DETECTION_LIKE else None


def finish(module: nn.Module, task: str | None) -> nn.Module:
    """Give batch norms the constants of detection-like networks; classifiers and nets of other kinds keep torch's."""
    constants = norm_constants(task)
    if constants:
        for child in module.modules():
            if type(child) is nn.BatchNorm2d:
                child.eps, child.momentum = constants
    return module
