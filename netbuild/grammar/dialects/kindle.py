"""kindle: ``input_size``, ``channel_divisor``, a fifth field of keyword arguments, and module names of its own.

Its depth and width multiples apply to the backbone alone, so that the translated file has exact numbers and one list of
rows. Its default activation is ReLU.
"""

import math
from collections.abc import Mapping
from typing import Any

from netbuild.grammar.dialects import named_values
from netbuild.grammar.dialects.base import Dialect, drop_keys, make_node, rename_key
from netbuild.grammar.dialects.renumbering import RowWriter
from netbuild.grammar.nodes import Node

_KEYS = ("depth_multiple", "width_multiple", "channel_divisor", "custom_module_paths", "backbone", "head")
_WIDTHS = ("Conv", "DWConv", "Focus", "Bottleneck", "C3", "BottleneckCSP", "MV2Block", "SPP", "SPPF")
_MODULES = {
    "Conv": "KindleConv", "DWConv": "KindleDWConv", "Linear": "nn.Linear", "MaxPool": "nn.MaxPool2d",
    "AvgPool": "nn.AvgPool2d", "GlobalAvgPool": "nn.AdaptiveAvgPool2d", "Flatten": "nn.Flatten",
    "Identity": "nn.Identity", "UpSample": "nn.Upsample", "PreTrained": "timm.create_model",
    "PreTrainedFeatureMap": "Index",
}  # fmt: skip
# Of modules that netbuild has under the same name: its name of each keyword, and the arguments before the activation.
_KEYWORDS = {"kernel_size": "k", "stride": "s", "padding": "p", "groups": "g", "expansion": "e", "activation": "act"}
_SHARED = {"Focus": 6, "Bottleneck": 4, "C3": 4, "BottleneckCSP": 4, "SPP": 2, "SPPF": 2}
_STRIDE = {"Conv": 2, "DWConv": 2, "MV2Block": 1}  # place of the stride among the arguments


def _recognise(root: Node) -> bool:
    return "backbone" in root.value and bool({"input_size", "channel_divisor", "custom_module_paths"} & set(root.value))


def _translate(root: Node, notes: list[str]) -> Node:
    root = named_values.translate(root)
    writer = RowWriter()
    for section in ("backbone", "head"):
        rows = root.value[section].value if section in root.value else []
        for row in rows if isinstance(rows, list) else ():
            _translate_row(row, _Scale(root) if section == "backbone" else None, writer, notes)
    if "custom_module_paths" in root.value:
        line = root.keys["custom_module_paths"].where.line
        notes.append(f"line {line}: custom_module_paths has no effect: name the files by imports: or --modules")
    place = root.value["backbone"]
    root = rename_key(root, "input_size", "imgsz") if "input_size" in root.value else root
    root = drop_keys(root, *_KEYS)
    added = {"layers": place.with_value(writer.rows), "activation": make_node("ReLU", place)}
    keys = {key: make_node(key, place) for key in added}
    return root.with_value({**added, **root.value, "layers": added["layers"]}, {**keys, **root.keys})


class _Scale:
    """The multiples of the backbone."""

    def __init__(self, root: Node) -> None:
        self.depth, self.width = (self.read(root, key, 1.0) for key in ("depth_multiple", "width_multiple"))
        self.divisor = self.read(root, "channel_divisor", 8)

    @staticmethod
    def read(root: Node, key: str, default: float) -> float:
        """Read a multiple."""
        node = root.value.get(key)
        if node is None:
            return default
        if type(node.value) not in (int, float) or not 0 < node.value <= 1024:
            raise node.error(f"'{key}' must be a number above 0, not {node.describe()}")
        return node.value

    def scale_width(self, value: int) -> int:
        """Multiply a width and round it up to a multiple of the divisor."""
        return int(math.ceil(value * self.width / self.divisor) * self.divisor)

    def scale_repeats(self, n: int) -> int:
        """Multiply repeats."""
        return max(round(n * self.depth), 1) if n > 1 else n


def _translate_row(row: Node, scale: _Scale | None, writer: RowWriter, notes: list[str]) -> None:
    fields = row.value
    if not isinstance(fields, list) or not 4 <= len(fields) <= 5 or not isinstance(fields[3].value, list):
        raise row.error("a row of a kindle file is a list [from, repeats, module, args, {keywords}]")
    source, repeats, module, arguments = fields[:4]
    if not isinstance(module.value, str):
        raise module.error(f"the module must be a name such as Conv, not {module.describe()}")
    if module.value == "YamlModule":
        raise module.error("kindle's YamlModule, a file as a module, has no translation", "write its rows as a block")
    args = list(arguments.value)
    keywords = dict(fields[4].value) if len(fields) == 5 and isinstance(fields[4].value, dict) else {}
    n = repeats.value
    if scale and type(n) is int:
        n = scale.scale_repeats(n)
    if scale and module.value in _WIDTHS and args and type(args[0].value) is int:
        args[0] = args[0].with_value(scale.scale_width(args[0].value))
    sources = writer.find_sources(source)
    for count, values, words in _split_repeats(module.value, n, args, keywords, row):
        name, values, words = _translate_module(module, values, words, notes)
        writer.add(row, sources, count, module.with_value(name), [*values, make_node(words, row)] if words else values)
        sources = make_node(-1, source)
    activation = keywords.get("activation", args[1] if len(args) > 1 else None)
    if module.value == "Linear" and activation is not None and activation.value not in (None, "None"):
        writer.add(row, sources, 1, module.with_value(f"nn.{activation.value}"), [])
    writer.end_row()


def _split_repeats(
    module: Any, n: Any, args: list[Node], keywords: dict[str, Node], row: Node
) -> list[tuple[Any, list[Node], dict[str, Node]]]:
    """Split a repeated row with a stride: it is that of the last Conv, of the first MV2Block, the others have 1."""
    position = _STRIDE.get(module, 0)
    stride = keywords.get("stride") or (args[position] if position and len(args) > position else None)
    if type(n) is not int or n < 2 or stride is None or stride.value == 1:
        return [(n, args, keywords)]
    if "stride" in keywords:
        plain, words = args, {**keywords, "stride": make_node(1, row)}
    else:
        plain, words = [*args[:position], make_node(1, row), *args[position + 1 :]], keywords
    with_stride, without = (1, args, keywords), (n - 1, plain, words)
    return [with_stride, without] if module == "MV2Block" else [without, with_stride]


def _translate_module(
    module: Node, args: list[Node], keywords: Mapping[str, Node], notes: list[str]
) -> tuple[str, list[Node], dict[str, Node]]:
    """Translate a module's name and arguments."""
    name = module.value
    if name in _SHARED:
        words = {_KEYWORDS.get(key, key): node for key, node in keywords.items()}
        if name != "Focus" and (len(args) > _SHARED[name] or words.pop("act", None)):
            notes.append(f"line {module.where.line}: the activation of {name} has no effect: it is that of the file")
        return name, args[: _SHARED[name] + (name == "Focus")], words
    words = dict(keywords)
    if name == "Linear":  # by keyword, so that netbuild supplies the features that arrive
        args, words = [], dict(zip(("out_features",), args, strict=False))
    elif name == "GlobalAvgPool":
        args = [make_node(1, module)]
    elif name == "UpSample" and not args and not words:
        args = [make_node(None, module), make_node(2, module)]
    elif name == "PreTrained":
        maps = args[1].value if len(args) > 1 else True
        chosen = {"features_only": True} if maps else {"num_classes": 0}
        args, words = args[:1], {**words, **{key: make_node(value, module) for key, value in chosen.items()}}
    return _MODULES.get(name, name), args, words


DIALECT = Dialect("kindle", _recognise, _translate)
