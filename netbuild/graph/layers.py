"""The result of resolving a network file: a `Layer` for each row, with its shapes and costs, and the `Graph` of all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from netbuild.costs.observer import Tally
from netbuild.costs.outputs import Shape, parameter_count
from netbuild.costs.receptive_field import Field
from netbuild.grammar.locate import scaled_name
from netbuild.grammar.rows import Row
from netbuild.graph.bind import BoundCall
from netbuild.graph.card import make_card
from netbuild.graph.network import Network, Plan, Rows, SharedModule, Step
from netbuild.graph.options import NetworkConfig
from netbuild.graph.row_errors import add_location
from netbuild.layers.activation import using_activation
from netbuild.layers.initial import INITIAL
from netbuild.modules.factory import Factory
from netbuild.roles import Role


@dataclass(frozen=True)
class Layer:
    """A resolved row: its bound call, its module on the ``meta`` device, its shapes and its costs."""

    row: Row
    n: int  # repeats after scaling
    factory: Factory
    arguments: list[Any]  # as tables show them
    module: nn.Module  # on ``meta``, without storage
    make: Callable[[], nn.Module]  # builds it with weights
    step: Step
    in_shapes: list[Shape]
    out_shape: Shape
    out_bytes: int
    field: Field | None
    source_strides: tuple[float | None, ...]
    tally: Tally
    bounds: tuple[BoundCall, ...]  # the constructor call of each module that runs in sequence
    result_names: tuple[str, ...] = ()  # names of the rows that a block returns, where it returns several
    block_copies: tuple["BlockCopy", ...] = ()  # one for each repeat, where the module is a block of the file

    def make_module(self) -> nn.Module:
        """Build the module with weights."""
        return self.make()

    @property
    def bound(self) -> BoundCall:
        """The constructor call of the first module."""
        return self.bounds[0]

    @property
    def copies(self) -> int:
        """The number of modules that run in sequence for the row."""
        return len(self.bounds)

    @property
    def params(self) -> int:
        """The number of parameters."""
        return parameter_count(self.module)

    @property
    def uses_init(self) -> bool:
        """Whether the file's ``init`` applies: heads set their own biases, and published weights must stay."""
        return self.factory.task is None and not self.row.module.lower().startswith(("timm.", "torchvision"))

    @property
    def strides(self) -> list[float | None] | None:
        """The strides of its sources, for a module such as a head that is given them; None for any other."""
        return list(self.source_strides) if self.factory.takes(Role.STRIDE) else None


@dataclass(frozen=True)
class BlockCopy:
    """One copy of a block of the file, resolved for the row that uses it: its inner layers and their wiring."""

    layers: tuple[Layer, ...]
    keys: tuple[str, ...]  # names of the layers in the state dict
    plan: Plan
    inputs: tuple[str, ...]  # names of its inputs, where the block names them
    names: Mapping[str, Any]  # values of its parameters, and c1

    def skeleton(self, title: str) -> Rows:
        """Return the inner rows on ``meta``."""
        return Rows({key: layer.module for key, layer in zip(self.keys, self.layers, strict=True)}, self.plan, title)

    def make(self, title: str) -> Rows:
        """Build the inner rows with weights."""
        modules = make_modules(self.layers, Layer.make_module)
        return Rows(dict(zip(self.keys, modules, strict=True)), self.plan, title)


@dataclass(frozen=True)
class Graph(NetworkConfig):
    """A resolved network: its layers without weights, and the configuration that they were resolved with."""

    activation: str  # class name of the default activation
    uses_activation: bool  # whether a module takes the default activation
    layers: tuple[Layer, ...]
    plan: Plan
    peak_bytes: int  # largest total size of the outputs that are alive at one time
    custom_modules: tuple[Factory, ...] = ()  # those that the rows use

    @property
    def name(self) -> str:
        """The file's stem with its scale, as in yolo11n-seg; without the scale where the file has only one."""
        if self.spec.checkpoint_info:
            return self.spec.checkpoint_info.name
        return scaled_name(self.spec.stem, self.scale.name if len(self.spec.scales) > 1 else "")

    @property
    def out_shape(self) -> Any:
        """The shape of the network's output; of several heads a list of theirs."""
        shapes = [self.layers[row].out_shape for row in self.plan.result]
        return shapes if self.plan.listed else shapes[0]

    def skeleton(self) -> Rows:
        """Return the rows on ``meta``: modules with shapes and no storage."""
        return Rows({str(i): layer.module for i, layer in enumerate(self.layers)}, self.plan)

    def build(self) -> Network:
        """Build the network with weights on torch's default device.

        Weights are initialised by the modules themselves, and then by the file's ``init`` where it has one.
        """
        with using_activation(self.make_activation()):
            modules = dict(zip(map(str, range(len(self.layers))), make_modules(self.layers, _build_layer), strict=True))
        if init := self.spec.settings.get("init"):
            for layer, module in zip(self.layers, modules.values(), strict=True):
                if layer.uses_init:
                    INITIAL[init](module)
        card = make_card(self.name, self, self.stride, self.custom_modules, self.map_step)
        return Network(Rows(modules, self.plan), replace(card, output=self._map_shape()))

    def _map_shape(self) -> tuple[int, int, int] | None:
        """Return channels, height and width of the output if it is one map; None otherwise."""
        shape = self.out_shape
        if not isinstance(shape, list) or len(shape) != 4 or not all(isinstance(side, int) for side in shape):
            return None
        return shape[1], shape[2], shape[3]

    @property
    def stride(self) -> int:
        """The largest known stride of a row in pixels, at least 1."""
        fields = [layer.field for layer in self.layers if layer.field and layer.field.known]
        # Pooling to a fixed size can give fractional strides, which no image size must be a multiple of.
        known = [max(f.stride) for f in fields if all(float(s).is_integer() for s in f.stride)]
        return int(max(known, default=1))

    @property
    def map_step(self) -> int:
        """Pixels per cell of the map that the network returns, see `NetworkCard.map_step`; 0 for several heads."""
        layer = self.layers[self.plan.result[0]]
        shape, field = layer.out_shape, layer.field
        is_map = isinstance(shape, list) and len(shape) == 4 and all(isinstance(side, int) for side in shape)
        if self.plan.listed or not is_map or field is None or not field.known:
            return 0
        (step, other), (height, width) = field.stride, shape[2:]
        if step != other or not float(step).is_integer():
            return 0
        if self.imgsz[0] == self.imgsz[1] and height != width:  # training takes square images and a square middle
            return 0
        # Rounding alone leaves out less than a cell.
        borders = [(side - step * count) // 2 for side, count in zip(self.imgsz, (height, width), strict=True)]
        return int(step) if min(borders) >= step else 0


def make_modules(layers: Sequence[Layer], make: Callable[[Layer], nn.Module]) -> list[nn.Module]:
    """Make the modules of layers in order; a row that shares a module refers to that of the other row."""
    modules: list[nn.Module] = []
    for layer in layers:
        shares = layer.row.shares
        modules.append(make(layer) if shares is None else SharedModule(modules[shares], shares))
    return modules


def _build_layer(layer: Layer) -> nn.Module:
    with add_location(layer.row):
        return layer.make()
