"""What resolving a file gives: `Layer`, a row with its shapes and cost, and `Graph`, all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from netbuild.costs.observer import Tally
from netbuild.costs.outputs import Shape, parameter_count
from netbuild.costs.receptive_field import Field
from netbuild.grammar.locate import scaled_name
from netbuild.grammar.rows import Row
from netbuild.graph.bind import Bound
from netbuild.graph.blame import placed
from netbuild.graph.card import make_card
from netbuild.graph.network import Network, Plan, Rows, Step
from netbuild.graph.options import Facts
from netbuild.layers.activation import using_activation
from netbuild.layers.initial import INITIAL
from netbuild.modules.factory import Factory
from netbuild.roles import Role


@dataclass(frozen=True)
class Layer:
    """A row resolved: its bound call, its module on ``meta``, shapes, costs, and how to make it with weights."""

    row: Row
    n: int
    factory: Factory
    arguments: list[Any]
    module: nn.Module
    make: Callable[[], nn.Module]
    step: Step
    in_shapes: list[Shape]
    out_shape: Shape
    out_bytes: int
    field: Field | None
    source_strides: tuple[float | None, ...]
    tally: Tally
    bound: Bound
    result_names: tuple[str, ...] = ()  # of a block that returns several rows: their names
    inside: tuple["Inside", ...] = ()  # of a block, once for each copy

    @property
    def copies(self) -> int:
        """How many modules stand in sequence for the row."""
        return 1 if self.bound.takes_repeats else self.n

    @property
    def params(self) -> int:
        """Number of parameters."""
        return parameter_count(self.module)

    @property
    def starts_anew(self) -> bool:
        """Whether `init` is for its weights: heads know their biases, and published weights must stay."""
        return self.factory.task is None and not self.row.module.lower().startswith(("timm.", "torchvision"))

    @property
    def strides(self) -> list[float | None] | None:
        """Of a module that decodes by the strides of its sources, these strides; None of any other."""
        return list(self.source_strides) if self.factory.takes(Role.STRIDE) else None


@dataclass(frozen=True)
class Inside:
    """What a block of the file is at a row: its inner rows, their names in the state dict, and the wiring."""

    layers: tuple[Layer, ...]
    keys: tuple[str, ...]
    plan: Plan
    inputs: tuple[str, ...]  # names, where the block names them
    names: Mapping[str, Any]  # its parameters, and c1

    def skeleton(self, title: str) -> Rows:
        """The inner rows on ``meta``."""
        return Rows({key: layer.module for key, layer in zip(self.keys, self.layers, strict=True)}, self.plan, title)

    def make(self, title: str) -> Rows:
        """The inner rows with weights."""
        return Rows({key: layer.make() for key, layer in zip(self.keys, self.layers, strict=True)}, self.plan, title)


@dataclass(frozen=True)
class Graph(Facts):
    """A resolved network: layers without weights, and the facts they were resolved with."""

    activation: str
    layers: tuple[Layer, ...]
    plan: Plan
    peak_bytes: int
    own: tuple[Factory, ...] = ()  # own modules that the rows use

    @property
    def name(self) -> str:
        """The file's stem with its scale, as in yolo11n-seg; a file of one scale is that scale's."""
        if self.spec.stored:
            return self.spec.stored.name
        return scaled_name(self.spec.stem, self.scale.name if len(self.spec.scales) > 1 else "")

    def skeleton(self) -> Rows:
        """The rows on ``meta``: modules with shapes and no storage."""
        return Rows({str(i): layer.module for i, layer in enumerate(self.layers)}, self.plan)

    def build(self) -> Network:
        """The network with weights, initialised as torch and the layers do or the file says, on the default device."""
        with using_activation(self.make_activation()):
            modules = {str(i): _made(layer) for i, layer in enumerate(self.layers)}
        if init := self.spec.settings.get("init"):
            for layer, module in zip(self.layers, modules.values(), strict=True):
                if layer.starts_anew:
                    INITIAL[init](module)
        return Network(Rows(modules, self.plan), make_card(self.name, self, self.stride, self.own))

    @property
    def stride(self) -> int:
        """The largest stride of a row in whole pixels that is known; pooling to a fixed size gives others."""
        fields = [layer.field for layer in self.layers if layer.field and layer.field.known]
        known = [max(f.stride) for f in fields if all(float(s).is_integer() for s in f.stride)]
        return int(max(known, default=1))


def _made(layer: Layer) -> nn.Module:
    with placed(layer.row):
        return layer.make()
