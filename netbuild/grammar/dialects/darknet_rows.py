"""The rows and outputs of a Darknet file while it is translated."""

from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from netbuild.grammar.dialects.base import make_node
from netbuild.grammar.dialects.darknet_sections import Section
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import INPUT

_ACTIVATIONS = {
    "leaky": "nn.LeakyReLU(0.1)",
    "mish": "nn.Mish()",
    "relu": "nn.ReLU()",
    "relu6": "nn.ReLU6()",
    "logistic": "nn.Sigmoid()",
    "swish": "nn.SiLU()",
    "tanh": "nn.Tanh()",
    "elu": "nn.ELU()",
}


@dataclass(frozen=True)
class Weighted:
    """A section with weights, in the order of a ``.weights`` file.

    Attributes:
        key: the state key of its module in the network, such as ``model.3`` or ``model.20.m.1``.
        normalised: whether it is a `Conv` with a batch norm, rather than a module with weight and bias.
        section: where it is written.
    """

    key: str
    normalised: bool
    section: Section


@dataclass(frozen=True)
class Output:
    """The output of a layer: the row that makes it, its channels, the pixels per cell, and whether it is (B, C)."""

    row: int
    channels: int
    stride: Fraction
    is_flat: bool = False


@dataclass
class DarknetRow:
    """A row to write: numbers of the rows that it reads, module, arguments, section, and a name if it needs one."""

    sources: list[int]
    module: str
    args: list[Any]
    section: Section
    name: str = ""


@dataclass(frozen=True)
class Level:
    """A level of the head: the section ``[yolo]``, the convolution before it, and its source."""

    yolo: Section
    convolution: Section
    source: Output
    anchors: list[float]


@dataclass
class Translation:
    """The rows so far, and what each section so far gives; None for ``[yolo]`` and the convolution before it."""

    sections: list[Section]
    image: Output
    rows: list[DarknetRow] = field(default_factory=list)
    outputs: list[Output | None] = field(default_factory=list)
    weighted: list[tuple[int | Section, bool, Section]] = field(default_factory=list)  # row, or section of the head
    levels: list[Level] = field(default_factory=list)

    def add(self, section: Section, sources: list[int], module: str, *args: Any) -> int:
        """Add a row; return its number."""
        self.rows.append(DarknetRow(sources, module, list(args), section))
        return len(self.rows) - 1

    def before(self, section: Section) -> Output:
        """Return the output that a section reads: that of the section before it, or the image."""
        return self.find(section, section.number - 1, section.node) if section.number else self.image

    def find(self, section: Section, number: int, place: Node) -> Output:
        """Return the output of a layer by its number.

        Raises:
            NetbuildError: if it is no layer before the section, or one of the head.
        """
        if not 0 <= number < section.number:
            raise place.error(
                f"[{section.kind}] is layer {section.number}, and layer {number} is none before it",
                "count from 0 without [net], or back from this layer: -1 is the layer before it",
            )
        output = self.outputs[number]
        if output is None:
            message = f"[{section.kind}] reads layer {number}, [{self.sections[number].kind}], which predicts boxes"
            raise place.error(message, "boxes are made by the head only: read a layer before it")
        return output

    def find_listed(self, section: Section, key: str) -> list[Output]:
        """Return the outputs of the layers that an option lists: absolute numbers, or negative relative ones."""
        numbers = section.read_integers(key)
        if not numbers:
            raise section.node.error(f"[{section.kind}] has no {key}", f"add {key}=-1, or the number of a layer")
        place = section.find(key)
        return [self.find(section, n if n >= 0 else section.number + n, place) for n in numbers]

    def activate(self, section: Section, output: Output, default: str) -> Output:
        """Add the activation of a section as a row, unless it is linear."""
        call = read_activation(section, default)
        if call is None:
            return output
        name, _, value = call.rstrip(")").partition("(")
        row = self.add(section, [output.row], name, *([float(value)] if value else []))
        return replace(output, row=row)


def read_activation(section: Section, default: str) -> str | None:
    """Return the call of a section's activation, such as ``nn.Mish()``; None for a linear one.

    Raises:
        NetbuildError: at an activation that is not supported.
    """
    name = section.read_text("activation", default)
    if name != "linear" and name not in _ACTIVATIONS:
        hint = f"supported: linear, {', '.join(_ACTIVATIONS)}"
        raise section.find("activation").error(f"[{section.kind}] activation={name} is not supported", hint)
    return _ACTIVATIONS.get(name)


def name_rows(rows: list[DarknetRow]) -> None:
    """Name the rows that others than the next one read, by the kind and number of their layer in Darknet."""
    taken: set[str] = set()
    for number, row in enumerate(rows):
        for source in row.sources:
            if source not in (INPUT, number - 1) and not rows[source].name:
                section = rows[source].section
                kind = {"convolutional": "conv", "maxpool": "pool", "upsample": "up"}.get(section.kind, section.kind)
                name = f"{kind}_{section.number}"
                while name in taken:
                    name += "b"
                rows[source].name = name
                taken.add(name)


def share_activation(rows: list[DarknetRow]) -> dict[str, str]:
    """Take the commonest activation of convolutions out of their rows; return the setting that has it instead."""
    convolutions = [row for row in rows if row.module == "Conv"]
    calls = Counter(row.args[-1]["act"] for row in convolutions if row.args[-1]["act"])
    common = calls.most_common(1)[0][0] if calls else None
    for row in convolutions:
        if row.args[-1]["act"] == common:
            del row.args[-1]["act"]
            row.args = row.args if row.args[-1] else row.args[:-1]
    return {"activation": common} if common else {}


def make_row(number: int, row: DarknetRow) -> Node:
    """Make the node of a row at the place of its section; a head has a list of sources, even of one."""
    sources = [-1 if source == number - 1 else "input" if source == INPUT else source for source in row.sources]
    several = len(sources) > 1 or row.module in ("DarknetDetect", "AnchorDetect")
    fields = [sources if several else sources[0], 1, row.module, row.args, *([row.name] if row.name else [])]
    return make_node(fields, row.section.node)
