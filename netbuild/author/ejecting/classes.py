"""The classes of a file's blocks and of the network itself: constructor calls, and a ``forward`` in plain lines."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from netbuild.author.ejecting.blocks import BlockClass
from netbuild.author.ejecting.calls import Made, in_sequence, written
from netbuild.author.ejecting.forward import Forward, forward
from netbuild.author.ejecting.layout import commented, docstring, flat, grouped, lay, prefixed
from netbuild.author.ejecting.sources import LAYERS, Key
from netbuild.author.ejecting.words import is_tensor, shape_words, title
from netbuild.grammar import ultralytics
from netbuild.graph.layers import Graph, Layer
from netbuild.graph.network import Plan

FUSE, HE, ACTIVATION = f"{LAYERS}.fuse", f"{LAYERS}.initial", f"{LAYERS}.activation"


@dataclass(frozen=True)
class Classes:
    """Writes classes: of the graph's blocks and of the network.

    Args:
        graph: resolved.
        name: of the network's class.
        names: of whatever else is in the file.
        rows: the calls of the graph's rows.
        default: the call that makes the default activation.
    """

    graph: Graph
    name: str
    names: Mapping[Key, str]
    rows: Sequence[tuple[Made, ...]]
    default: Made

    def network(self) -> str:
        """The network's class."""
        g = self.graph
        names = [name for name, _ in g.inputs] if g.spec.inputs else []
        body = forward(g.plan, names, lambda i: f"self.model[{i}]")
        arriving = [f"{n} ({', '.join(map(str, ('B', *s)))})" for n, (_, s) in zip(names or ["image"], g.inputs)]
        lines = [
            f"class {self.name}(nn.Module):",
            *docstring(f"{title(g)}: {', '.join(arriving)} to {shape_words(g.layers[-1].out_shape)}."),
            "",
            "    def __init__(self) -> None:",
            *self._before(),
            "        self.model = nn.ModuleList(",
            "            [",
            *(line for i, row in enumerate(self.rows) for line in self._row(i, row)),
            "            ]",
            "        )",
            *self._afterwards(),
            "",
            *self._forward(body, is_tensor(g.layers[-1].out_shape), [True] * len(body.inputs)),
            *self._fuse(),
        ]
        return "\n".join(lines) + "\n"

    def _before(self) -> Iterator[str]:
        name = self.names.get((ACTIVATION, "DEFAULT_ACTIVATION"))
        # An activation that learns is each network's own.
        learns = name and next(self.graph.make_activation().parameters(), None) is not None
        yield from [f"        global {name}"] if learns else []
        yield "        super().__init__()"
        yield from [f"        {name} = {flat(written(self.default, self.names))}"] if learns else []

    def _row(self, index: int, row: tuple[Made, ...]) -> list[str]:
        layer = self.graph.layers[index]
        name = f" {layer.row.name}" if layer.row.name else ""
        return commented(in_sequence(row, self.names), f"# {index}{name}: {shape_words(layer.out_shape)}", 16)

    def _afterwards(self) -> Iterator[str]:
        constants = ultralytics.norm_constants(self.graph.task)
        if constants and any(type(m) is nn.BatchNorm2d for layer in self.graph.layers for m in layer.module.modules()):
            yield "        for module in self.modules():"
            yield "            if type(module) is nn.BatchNorm2d:"
            yield f"                module.eps, module.momentum = {constants[0]}, {constants[1]}"
        rows = [i for i, layer in enumerate(self.graph.layers) if layer.uses_init]
        if not self.graph.spec.settings.get("init") or not rows:
            return
        he = self.names[HE, "he"]
        if rows == list(range(len(self.graph.layers))):
            yield f"        {he}(self.model)"
        else:
            last = rows == list(range(len(rows)))
            yield f"        for row in self.model[:{len(rows)}]:" if last else f"        for row in {rows}:"
            yield f"            {he}(row)" if last else f"            {he}(self.model[row])"

    def _forward(self, body: Forward, gives_tensor: bool, takes_tensors: Sequence[bool]) -> list[str]:
        given = [f"{n}: {'torch.Tensor' if t else 'Any'}" for n, t in zip(body.inputs, takes_tensors, strict=True)]
        result = "torch.Tensor" if gives_tensor else "Any"
        return [*lay(grouped("def forward(", ["self", *given], f") -> {result}:"), 4), *body.lines]

    def _fuse(self) -> Iterator[str]:
        if (FUSE, "fuse") not in self.names:
            return
        yield ""
        yield f'    def fuse(self) -> "{self.name}":'
        yield '        """Merge batch norms and parallel branches for inference, in place; returns itself."""'
        yield from self._merging(fused_pairs(self.graph.layers, self.graph.plan), str, "self.model[{}]")
        yield f"        {self.names[FUSE, 'fuse']}(self.model)"
        yield "        return self"

    def _merging(self, pairs: Sequence[tuple[int, int]], key: Any, at: str) -> Iterator[str]:
        """Lines that merge a norm's row into a convolution's."""
        if not pairs:
            return
        listed = [f"({key(conv)}, {key(norm)})" for conv, norm in pairs]
        yield from lay(grouped("for conv, norm in (", listed, ",):" if len(pairs) == 1 else "):"), 8)
        conv, norm = at.format("conv"), at.format("norm")
        fold, put = self.names[FUSE, "fold_bn"], self.names[FUSE, "set_weights"]
        yield f"            {put}({conv}, *{fold}({conv}, {norm}))"
        yield f"            {norm} = nn.Identity()"

    def block(self, block: BlockClass) -> str:
        """The class of a block."""
        inside = block.first.inside
        is_dict = not any(hasattr(nn.ModuleDict, key) for key in inside.keys)
        at = 'self["{}"]' if is_dict else 'self.get_submodule("{}")'
        body = forward(inside.plan, inside.inputs, lambda i: at.format(inside.keys[i]))
        outs = [inside.layers[i].out_shape if i >= 0 else [1] for i in inside.plan.result]
        given = [f"{name}: {_type(values)}" for name, values in self._parameters(block)]
        rows = [line for i, row in enumerate(block.rows) for line in self._inner_row(block, i, row)]
        lines = [
            f"class {self.names[block.key]}(nn.{'ModuleDict' if is_dict else 'Module'}):",
            *docstring(f"The block {block.name} of {self.graph.spec.path.name}."),
            "",
            *lay(grouped("def __init__(", ["self", *given], ") -> None:"), 4),
            *(_of_dict(rows) if is_dict else _of_attributes(rows)),
            "",
            *self._forward(body, len(outs) == 1 and not inside.plan.listed and is_tensor(outs[0]), _arriving(block)),
        ]
        pairs = fused_pairs(inside.layers, inside.plan)
        if pairs:
            lines += ["", "    def fuse(self) -> None:"]
            lines += ['        """Merge batch norms into the convolutions before them."""']
            lines += self._merging(
                pairs, lambda i: f'"{inside.keys[i]}"', "self[{}]" if is_dict else "self._modules[{}]"
            )
        return "\n".join(lines) + "\n"

    def _parameters(self, block: BlockClass) -> Iterator[tuple[str, list[Any]]]:
        for i, name in enumerate(block.parameters):
            yield name, [block.given[id(use)][i] for use in block.uses]

    def _inner_row(self, block: BlockClass, index: int, row: tuple[Made, ...]) -> list[str]:
        inside = block.first.inside
        doc = prefixed(f'"{inside.keys[index]}": ', in_sequence(row, self.names))
        alone = len(block.uses) == 1
        return commented(doc, f"# {shape_words(inside.layers[index].out_shape)}" if alone else "", 16)


def _type(values: Sequence[Any]) -> str:
    kinds = Counter(type(v).__name__ for v in values)
    plain = [k for k in ("bool", "int", "float", "str", "list") if kinds[k]]
    if plain == ["int", "float"]:
        return "float"
    return plain[0] if len(kinds) == 1 and plain else "object"


def _of_dict(rows: Sequence[str]) -> list[str]:
    return ["        super().__init__(", "            {", *rows, "            }", "        )"]


def _of_attributes(rows: Sequence[str]) -> list[str]:
    """Where a row has the name of a dict's method."""
    head = ["        super().__init__()", "        modules = {"]
    tail = ["        }", "        for name, module in modules.items():", "            self.add_module(name, module)"]
    return [*head, *(row.removeprefix("    ") for row in rows), *tail]


def _arriving(block: BlockClass) -> list[bool]:
    """Whether each input of a block is one tensor."""
    inside = block.first.inside
    count = len(inside.inputs) or 1
    found = {}
    for layer in inside.layers:
        for source, shape in zip(layer.step.sources, layer.in_shapes, strict=True):
            found[source] = shape
    return [is_tensor(found.get(-1 - i, [1])) for i in range(count)]


def fused_pairs(layers: Sequence[Layer], plan: Plan) -> list[tuple[int, int]]:
    """Rows of a convolution and of a batch norm that alone reads it, as `Rows.fuse` merges them."""
    readers = Counter([s for step in plan.steps for s in step.sources] + list(plan.result))
    found = []
    for index, (layer, step) in enumerate(zip(layers, plan.steps, strict=True)):
        norm, source = layer.module, step.sources[0]
        if type(norm) is not nn.BatchNorm2d or source < 0 or readers[source] > 1 or norm.running_var is None:
            continue
        if isinstance(layers[source].module, (nn.Conv2d, nn.ConvTranspose2d)):
            found.append((source, index))
    return found
