"""Formats a network as the table of textbooks: layer, type, maps, size, kernel, stride, padding, activation."""

from collections.abc import Sequence
from typing import Any

from netbuild.report.rows import Report
from netbuild.report.text import first_shape, head_lines, headline
from netbuild.system.tables import Line, Table

_OPERATORS = {
    "convolution": "Convolution", "max_pool2d_with_indices": "Max pooling", "avg_pool2d": "Mean pooling",
    "_adaptive_avg_pool2d": "Mean pooling", "adaptive_max_pool2d": "Max pooling", "mm": "Fully connected",
    "addmm": "Fully connected", "mean": "Mean pooling", "native_batch_norm": "Batch norm",
    "native_layer_norm": "Layer norm", "avg_pool3d": "Local response norm", "upsample_nearest2d": "Upsampling",
    "upsample_bilinear2d": "Upsampling", "cat": "Concatenation", "native_group_norm": "Group norm",
}  # fmt: skip
_ACTIVATIONS = {
    "tanh": "tanh", "relu": "ReLU", "sigmoid": "sigmoid", "leaky_relu": "Leaky ReLU", "elu": "ELU", "silu": "SiLU",
    "_softmax": "Softmax", "gelu": "GELU", "hardtanh": "ReLU6", "hardswish": "Hardswish", "mish": "Mish",
}  # fmt: skip
TEXTBOOK = ("Layer", "Type", "Maps", "Size", "Kernel", "Stride", "Padding", "Activation")
_STEPS = (("Type", 8), ("Layer", 8), ("Activation", 6), ("Padding", 0), ("Stride", 0), ("Activation", 0))
_LETTERS = {"Convolution": "C", "Fully connected": "F", "Max pooling": "S", "Mean pooling": "S"}


def textbook_rows(summary: Report, reverse: bool = False) -> list[list[str]]:
    """Return the textbook table, a list of cells per layer with the columns `TEXTBOOK`; input first unless reversed."""
    g = summary.graph
    lines = [["In", "Input", str(g.ch), f"{g.imgsz[0]}x{g.imgsz[1]}", "-", "-", "-", "-"]]
    named = True
    for layer in g.layers:
        line = _make_cells(layer)
        if line[1] is not None:
            named = layer.row.name is not None
            line[0] = layer.row.name or f"{_LETTERS.get(line[1], 'L')}{len(lines)}"
            lines.append(line)
        elif line[7] != "-" and len(lines) > 1:
            # An activation's row is merged into the layer before it. The network's last row also gives it its name.
            last = layer is g.layers[-1]
            lines[-1][7], lines[-1][0] = line[7], (last and layer.row.name) or lines[-1][0]
    if not named:
        lines[-1][0] = "Out"
    return lines[::-1] if reverse else lines


def _make_cells(layer: Any) -> list[Any]:
    operators = [op for op in layer.tally.operators if not op.func.is_view]
    acts = [_ACTIVATIONS[op.name.rstrip("_")] for op in operators if op.name.rstrip("_") in _ACTIVATIONS]
    main = next((op for op in operators if op.name in _OPERATORS), None)
    stated = getattr(layer.module, "textbook", {})
    kind = stated.get("type") or (_OPERATORS[main.name] if main else None)
    products = sum(op.name in ("convolution", "mm", "addmm") for op in operators)
    if "type" not in stated and (products > 1 or (kind is None and (layer.params or (operators and not acts)))):
        kind = layer.factory.name  # not a single plain layer: the module's name is more informative
    shape = first_shape(layer.out_shape) or []
    maps = str(shape[1]) if len(shape) > 1 else "-"
    sides = f"{shape[2]}x{shape[3]}" if len(shape) == 4 else "-"
    kernel, stride, padding = _describe_window(layer, main, kind)
    return ["", kind, maps, sides, kernel, stride, padding, stated.get("activation") or (acts[-1] if acts else "-")]


def _describe_window(layer: Any, main: Any, kind: str | None) -> tuple[str, str, str]:
    if main is None or kind not in ("Convolution", "Max pooling", "Mean pooling"):
        return "-", "-", "-"
    if main.name == "convolution":
        kernel, (_, stride, padding) = _kernel_size(layer), main.args[1:4]
    elif main.name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, rest = main.args[0], list(main.args[1:])
        stride, padding = (rest[0] if rest and rest[0] else kernel), (rest[1] if len(rest) > 1 else [0])
    else:
        return "global", "-", "-"
    # "same" padding keeps the size up to the stride, rounded up.
    same = layer.out_shape[-1] == -(-layer.in_shapes[0][-1] // list(stride)[-1]) and any(padding)
    words = "same" if same else "valid" if not any(padding) else _format_pair(padding)
    return _format_pair(kernel, both=True), _format_pair(stride), words


def _kernel_size(layer: Any) -> list[int]:
    weights = [p.shape[2:] for p in layer.module.parameters() if p.ndim == 4]
    return list(weights[0]) if weights else [0, 0]


def _format_pair(values: Sequence[int], both: bool = False) -> str:
    values = list(values) * 2 if len(values) == 1 else list(values)
    return f"{values[0]}x{values[1]}" if both or values[0] != values[1] else str(values[0])


def as_textbook(summary: Report, reverse: bool = False) -> Any:
    """Return the textbook table as a rich renderable."""
    from rich.console import Group

    rows = [TEXTBOOK, *textbook_rows(summary, reverse)]
    table = Table(rows, range(len(TEXTBOOK)), [(TEXTBOOK.index(name), least) for name, least in _STEPS])
    return Group(*[Line(line, "dim") for line in head_lines(summary)], table, Line(headline(summary), "bold"))
