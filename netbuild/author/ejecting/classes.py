"""Writes the classes of blocks and of the network: constructor calls, and a ``forward`` of plain statements."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from netbuild.author.ejecting.blocks import BlockClass
from netbuild.author.ejecting.calls import ModuleCall, format_row, format_value
from netbuild.author.ejecting.forward import ForwardBody, write_forward
from netbuild.author.ejecting.layout import add_comment, add_prefix, group, to_docstring, to_line, to_lines
from netbuild.author.ejecting.sources import LAYERS, Key
from netbuild.author.ejecting.words import describe_shape, display_name, is_tensor
from netbuild.grammar import ultralytics
from netbuild.graph.layers import Graph, Layer
from netbuild.graph.network import Plan

FUSE, HE, ACTIVATION = f"{LAYERS}.fuse", f"{LAYERS}.initial", f"{LAYERS}.activation"


@dataclass(frozen=True)
class ClassWriter:
    """Writes the classes of the graph's blocks and of the network.

    Args:
        graph: the resolved network.
        name: the name of the network's class.
        names: the names of everything else in the file.
        rows: the calls of the graph's rows.
        default: the call that creates the default activation.
    """

    graph: Graph
    name: str
    names: Mapping[Key, str]
    rows: Sequence[tuple[ModuleCall, ...]]
    default: ModuleCall

    def write_network(self) -> str:
        """Return the source of the network's class."""
        g = self.graph
        names = [name for name, _ in g.inputs] if g.spec.inputs else []
        body = write_forward(g.plan, names, lambda i: f"self.model[{_owner(g.layers, i)}]")
        arriving = [f"{n} ({', '.join(map(str, ('B', *s)))})" for n, (_, s) in zip(names or ["image"], g.inputs)]
        lines = [
            f"class {self.name}(nn.Module):",
            *to_docstring(f"{display_name(g)}: {', '.join(arriving)} to {describe_shape(g.out_shape)}."),
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
            *self._forward(body, is_tensor(g.out_shape), [True] * len(body.inputs)),
            *self._fuse(),
        ]
        return "\n".join(lines) + "\n"

    def _before(self) -> Iterator[str]:
        name = self.names.get((ACTIVATION, "DEFAULT_ACTIVATION"))
        # A default activation with parameters, such as PReLU, belongs to one network: each gets a new one.
        learns = name and next(self.graph.make_activation().parameters(), None) is not None
        yield from [f"        global {name}"] if learns else []
        yield "        super().__init__()"
        yield from [f"        {name} = {to_line(format_value(self.default, self.names))}"] if learns else []

    def _row(self, index: int, row: tuple[ModuleCall, ...]) -> list[str]:
        layer = self.graph.layers[index]
        name = f" {layer.row.name}" if layer.row.name else ""
        return add_comment(format_row(row, self.names), f"# {index}{name}: {describe_shape(layer.out_shape)}", 16)

    def _afterwards(self) -> Iterator[str]:
        yield from self._set_norms()
        rows = [i for i, layer in enumerate(self.graph.layers) if layer.uses_init]
        if not self.graph.spec.settings.get("init") or not rows:
            return
        init = self.names[HE, "init_he"]
        if rows == list(range(len(self.graph.layers))):
            yield f"        {init}(self.model)"
        else:
            last = rows == list(range(len(rows)))
            yield f"        for row in self.model[:{len(rows)}]:" if last else f"        for row in {rows}:"
            yield f"            {init}(row)" if last else f"            {init}(self.model[row])"

    def _set_norms(self) -> Iterator[str]:
        """Yield the lines that set the constants of batch norms: those of the task, and the file's ``norm_eps``."""
        constants = ultralytics.norm_constants(self.graph.task)
        eps = self.graph.spec.settings.get("norm_eps", constants[0] if constants else None)
        if eps is None or all(type(m) is not nn.BatchNorm2d for row in self.graph.layers for m in row.module.modules()):
            return
        yield "        for module in self.modules():"
        yield "            if type(module) is nn.BatchNorm2d:"
        yield (
            f"                module.eps, module.momentum = {eps}, {constants[1]}"
            if constants
            else f"                module.eps = {eps}"
        )

    def _forward(self, body: ForwardBody, gives_tensor: bool, takes_tensors: Sequence[bool]) -> list[str]:
        parameters = [f"{n}: {'torch.Tensor' if t else 'Any'}" for n, t in zip(body.inputs, takes_tensors, strict=True)]
        result = "torch.Tensor" if gives_tensor else "Any"
        return [*to_lines(group("def forward(", ["self", *parameters], f") -> {result}:"), 4), *body.lines]

    def _fuse(self) -> Iterator[str]:
        if (FUSE, "fuse") not in self.names:
            return
        yield ""
        yield f'    def fuse(self) -> "{self.name}":'
        yield '        """Merge batch norms and parallel branches for inference, in place; returns itself."""'
        yield from self._merging(find_fusable_pairs(self.graph.layers, self.graph.plan), str, "self.model[{}]")
        yield f"        {self.names[FUSE, 'fuse']}(self.model)"
        yield "        return self"

    def _merging(self, pairs: Sequence[tuple[int, int]], key: Any, at: str) -> Iterator[str]:
        """Yield the lines that merge rows of batch norms into rows of convolutions.

        Args:
            pairs: the numbers of the rows: convolution, batch norm.
            key: formats a row's number as the index of its module.
            at: the expression of the module at an index, with {} for the index.
        """
        if not pairs:
            return
        listed = [f"({key(conv)}, {key(norm)})" for conv, norm in pairs]
        yield from to_lines(group("for conv, norm in (", listed, ",):" if len(pairs) == 1 else "):"), 8)
        conv, norm = at.format("conv"), at.format("norm")
        fold, put = self.names[FUSE, "fold_bn"], self.names[FUSE, "set_weights"]
        yield f"            {put}({conv}, *{fold}({conv}, {norm}))"
        yield f"            {norm} = nn.Identity()"

    def write_block(self, block: BlockClass) -> str:
        """Return the source of a block's class."""
        inside = block.first.inside
        is_dict = not any(hasattr(nn.ModuleDict, key) for key in inside.keys)
        at = 'self["{}"]' if is_dict else 'self.get_submodule("{}")'
        body = write_forward(inside.plan, inside.inputs, lambda i: at.format(inside.keys[_owner(inside.layers, i)]))
        outs = [inside.layers[i].out_shape if i >= 0 else [1] for i in inside.plan.result]
        parameters = [f"{name}: {_annotation_of(values)}" for name, values in self._parameters(block)]
        rows = [line for i, row in enumerate(block.rows) for line in self._inner_row(block, i, row)]
        lines = [
            f"class {self.names[block.key]}(nn.{'ModuleDict' if is_dict else 'Module'}):",
            *to_docstring(f"The block {block.name} of {self.graph.spec.path.name}."),
            "",
            *to_lines(group("def __init__(", ["self", *parameters], ") -> None:"), 4),
            *(_dict_lines(rows) if is_dict else _attribute_lines(rows)),
            "",
            *self._forward(
                body, len(outs) == 1 and not inside.plan.listed and is_tensor(outs[0]), _takes_tensors(block)
            ),
        ]
        pairs = find_fusable_pairs(inside.layers, inside.plan)
        if pairs:
            lines += ["", "    def fuse(self) -> None:"]
            lines += ['        """Merge batch norms into the convolutions before them."""']
            lines += self._merging(
                pairs, lambda i: f'"{inside.keys[i]}"', "self[{}]" if is_dict else "self._modules[{}]"
            )
        return "\n".join(lines) + "\n"

    def _parameters(self, block: BlockClass) -> Iterator[tuple[str, list[Any]]]:
        for i, name in enumerate(block.parameters):
            yield name, [block.arguments[id(use)][i] for use in block.uses]

    def _inner_row(self, block: BlockClass, index: int, row: tuple[ModuleCall, ...]) -> list[str]:
        inside = block.first.inside
        doc = add_prefix(f'"{inside.keys[index]}": ', format_row(row, self.names))
        alone = len(block.uses) == 1
        return add_comment(doc, f"# {describe_shape(inside.layers[index].out_shape)}" if alone else "", 16)


def _annotation_of(values: Sequence[Any]) -> str:
    kinds = Counter(type(v).__name__ for v in values)
    plain = [k for k in ("bool", "int", "float", "str", "list") if kinds[k]]
    if plain == ["int", "float"]:
        return "float"
    return plain[0] if len(kinds) == 1 and plain else "object"


def _dict_lines(rows: Sequence[str]) -> list[str]:
    return ["        super().__init__(", "            {", *rows, "            }", "        )"]


def _attribute_lines(rows: Sequence[str]) -> list[str]:
    """Return the lines for a block of which a row has the name of a dict's method: ModuleDict refuses these."""
    head = ["        super().__init__()", "        modules = {"]
    tail = ["        }", "        for name, module in modules.items():", "            self.add_module(name, module)"]
    return [*head, *(row.removeprefix("    ") for row in rows), *tail]


def _takes_tensors(block: BlockClass) -> list[bool]:
    """Return for each input of a block whether it is a single tensor."""
    inside = block.first.inside
    count = len(inside.inputs) or 1
    found = {}
    for layer in inside.layers:
        for source, shape in zip(layer.step.sources, layer.in_shapes, strict=True):
            found[source] = shape
    return [is_tensor(found.get(-1 - i, [1])) for i in range(count)]


def _owner(layers: Sequence[Layer], index: int) -> int:
    """Return the number of the row whose module a row runs."""
    shares = layers[index].row.shares
    return index if shares is None else shares


def find_fusable_pairs(layers: Sequence[Layer], plan: Plan) -> list[tuple[int, int]]:
    """Return the rows that `netbuild.graph.network.Rows.fuse` merges: convolution, batch norm as only reader."""
    readers = Counter([s for step in plan.steps for s in step.sources] + list(plan.result))
    shared = {layer.row.shares for layer in layers}
    found = []
    for index, (layer, step) in enumerate(zip(layers, plan.steps, strict=True)):
        norm, source = layer.module, step.sources[0]
        if type(norm) is not nn.BatchNorm2d or source < 0 or readers[source] > 1 or norm.running_var is None:
            continue
        if isinstance(layers[source].module, (nn.Conv2d, nn.ConvTranspose2d)) and not shared & {source, index}:
            found.append((source, index))
    return found
