"""Special cases of Ultralytics network files that a constructor's signature cannot express; they stand only here."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from netbuild.grammar.nodes import parse
from netbuild.grammar.rows import INPUT, Row
from netbuild.grammar.spec import Input, Scale, Spec

# A row of one of these modules gives every head of the file the newer, light class branch.
_NON_LEGACY = {"C3k2", "A2C2f", "C2fCIB"}

# Rows of these torch modules are written like ours: [c2, kernel, stride, padding], with c1 supplied and c2 scaled.
OWN_STYLE = {"nn.ConvTranspose2d"}

# module -> (scales, arguments): at these scales the arguments replace those of the row.
_BY_SCALE: dict[str, tuple[str, dict[str, Any]]] = {
    "C3k2": ("mlx", {"c3k": True}),
    "A2C2f": ("lx", {"residual": True, "mlp_ratio": 1.2}),
}

# Rows of these modules begin with their output channels, which only Ultralytics' parser needs.
_DECLARES_WIDTH = {"Index", "TorchVision"}


def drop_declared_width(row: Row) -> Row:
    """Drop the first argument, a number of channels, of a row whose module does not take its output channels."""
    declares = row.module in _DECLARES_WIDTH and row.args and type(row.args[0].value) is int
    return replace(row, args=row.args[1:]) if declares else row


# Modules whose output is text features: later rows read them instead of the network's text input.
_GIVES_TEXT = {"ImagePoolingAttn"}
_TEXT_HEADS = "Detect", "Segment"  # in the names of heads, which always read the text input itself
_TEXT_WIDTH = 512  # features per text of the CLIP encoder that these files are made for


def add_text_input(spec: Spec, takes_text: Callable[[str], bool]) -> Spec:
    """Add a text input to a file whose rows take text features, and name it among these rows' sources.

    Ultralytics' files leave the text out: their model class passes it to such modules beside the graph.

    Args:
        spec: the file; returned unchanged if it lists its inputs or no row takes text.
        takes_text: whether the module of this name takes text.
    """
    if spec.inputs or spec.is_plain or not any(takes_text(row.module) for row in spec.rows):
        return spec
    image, features = (parse(text, str(spec.path)) for text in ("[ch]", f"[nc, {_TEXT_WIDTH}]"))
    inputs = (Input("input", tuple(image.value), image), Input("text", tuple(features.value), features))
    text_source, rows = INPUT - 1, []
    replaced: dict[int, int] = {}  # rows that return text -> the row that readers of feature maps read instead
    for row in spec.rows:
        sources = tuple(replaced.get(source, source) for source in row.sources)
        if takes_text(row.module):
            source = INPUT - 1 if any(part in row.module for part in _TEXT_HEADS) else text_source
            row = replace(row, sources=(*sources, source), selections=(*row.selections, None))
        else:
            row = replace(row, sources=sources)
        if row.module in _GIVES_TEXT:
            text_source, replaced[row.index] = row.index, replaced.get(row.index - 1, row.index - 1)
        rows.append(row)
    return replace(spec, rows=tuple(rows), inputs=inputs)


# Tasks whose networks have other batch-norm constants than torch's defaults.
_DETECTION_LIKE = {"detect", "segment", "pose", "obb", "depth", "semantic", "several"}


def apply_scale(module: str, values: dict[str, Any], scale: Scale) -> None:
    """Set, in place, the arguments of a module that depend on the scale."""
    letters, changes = _BY_SCALE.get(_strip_block(module), ("", {}))
    if len(scale.name) == 1 and scale.name in letters:
        values.update(changes)
    if module == "C2fAttn":
        _scale_guided_block(values, scale)
    if module in OWN_STYLE and isinstance(values.get("groups"), int) and values["groups"] > values["out_channels"]:
        values["groups"] = values["out_channels"]  # a depthwise convolution, whose groups are written as its width is


def _scale_guided_block(values: dict[str, Any], scale: Scale) -> None:
    """Make the embedding of a text-guided block as wide as its hidden channels, and scale its attention heads."""
    if isinstance(values.get("c2"), int):
        values["ec"] = int(values["c2"] * values.get("e", 0.5))
    heads = values.get("nh", 1)
    if isinstance(heads, int) and heads > 1:
        most = heads if scale.max_channels == float("inf") else min(heads, int(scale.max_channels // 2 // 32))
        values["nh"] = int(max(most * scale.width, 1))


def is_legacy(modules: Iterable[str]) -> bool:
    """Whether the detection heads of a file with these modules have the older class branch of full convolutions."""
    return _NON_LEGACY.isdisjoint(map(_strip_block, modules))


def _strip_block(module: str) -> str:
    """Return C3k2 for the name of a C3k2 with another block, such as C3k2_Faster, and other names as they are."""
    return "C3k2" if module.startswith("C3k2_") else module


def norm_constants(task: str | None) -> tuple[float, float] | None:
    """Return eps and momentum of the batch norms in networks of a task; None for torch's defaults (classifiers)."""
    return (1e-3, 0.03) if task in _DETECTION_LIKE else None
