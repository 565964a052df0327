"""A network as one file of PyTorch: the classes that it uses, its blocks, itself, and a small check at the end."""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from netbuild import __version__, compat
from netbuild.ejecting.blocks import BlockClass, Blocks, unique
from netbuild.ejecting.calls import NN, Calls, Made, in_sequence, written
from netbuild.ejecting.forward import Forward, forward
from netbuild.ejecting.layout import WIDTH, Doc, Group, flat, lay, prefixed, statement_of_imports
from netbuild.ejecting.sources import BUILDERS, LAYERS, Gathered, Import, Key, Sources, renamed
from netbuild.expr import parse_call
from netbuild.graph import Graph, Layer
from netbuild.network import Plan
from netbuild.prepare import Facts
from netbuild.roles import Role
from netbuild.shapes import Shape, parameter_count

TORCH = Import("torch", "import torch{}", "torch", "torch")
ANY = Import("typing.Any", "from typing import Any{}", "Any", "Any")
FUSE, HE, ACTIVATION = f"{LAYERS}.fuse", f"{LAYERS}.initial", f"{LAYERS}.activation"

_DEFAULT = '''
# One object for all layers: it has no state, and a network's module count holds it once.
DEFAULT_ACTIVATION = {}


def default_activation() -> nn.Module:
    """The activation object of all layers that ask for the default."""
    return DEFAULT_ACTIVATION
'''
# Where no activation is given by its name the table of names is left out.
_WITHOUT_NAMES = '''
Act = bool | nn.Module | None


def resolve_activation(act: Act, default: nn.Module | None = None) -> nn.Module:
    """What an `act` argument means: True the default, a module itself, anything else none."""
    if act is True:
        return DEFAULT_ACTIVATION if default is None else default
    return act if isinstance(act, nn.Module) else nn.Identity()
'''
_TORCHVISION = '''
from torchvision.models import get_model


def _whole(model: str, weights: str | None) -> nn.Module:
    """The network of torchvision, its weights random."""
    return get_model(model, weights=None)
'''
_SHAPES = '''def shapes(value: Any) -> Any:
    """The shapes of an output's tensors."""
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shapes(item) for item in value]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value
'''


@dataclass(frozen=True)
class Written:
    """The file's text, the network's class in it, packages that it needs beside torch, own files it has text of."""

    text: str
    name: str
    packages: tuple[str, ...]
    own: tuple[str, ...]


def write(graph: Graph, shared: bool = False) -> Written:
    """The file of a network.

    Args:
        graph: resolved.
        shared: whether the network has tensors under several names.

    Raises:
        NetbuildError: for own modules that cannot go without netbuild.
    """
    return _File(graph, shared).write()


class _File:
    def __init__(self, graph: Graph, shared: bool) -> None:
        self.graph, self.shared, self.calls = graph, shared, Calls()
        rows = [self.calls.of(layer) for layer in graph.layers]
        self.blocks = Blocks(rows)
        self.rows = [self.blocks.calls(row) for row in rows]
        self.default = self._default()
        self.gathered = self._gather()
        self.names: dict[Key, str] = {}
        self.name = self._choose_names()

    def _default(self) -> Made:
        node = self.graph.spec.root.value.get("activation")
        return self.calls.activation("silu" if node is None else parse_call(node.value) or node.value)

    def _gather(self) -> Gathered:
        activation = _default_activation(self.default)
        if not self.graph.own and not any(map(_names_activation, all_layers(self.graph.layers))):
            activation += _WITHOUT_NAMES
        sources = Sources({ACTIVATION: activation, BUILDERS: _TORCHVISION})
        roots = list(self.calls.roots)
        if self.graph.spec.settings.get("init"):
            roots.append((HE, "he"))
        if any(self._pairs()):
            roots += [(FUSE, "fold_bn"), (FUSE, "set_weights")]
        found = sources.gather(roots)
        if self.fuses(found):
            found = sources.gather([*roots, (FUSE, "fuse")])
        for item in (TORCH, NN, *self.calls.imports.values()):
            found.take(item)
        if self._needs_any():
            found.take(ANY)
        return found

    def _pairs(self) -> Iterator[list[tuple[int, int]]]:
        yield fused_pairs(self.graph.layers, self.graph.plan)
        yield from (fused_pairs(b.first.inside.layers, b.first.inside.plan) for b in self.blocks.classes)

    def fuses(self, found: Gathered) -> bool:
        """Whether something in the network can be merged for inference."""
        return any(self._pairs()) or any("    def fuse(self" in d.text for d in found.definitions)

    def _needs_any(self) -> bool:
        layers = [self.graph.layers[-1], *(layer for layer in all_layers(self.graph.layers) if layer.inside)]
        return any(not is_tensor(layer.out_shape) for layer in layers) or any(
            len(layer.in_shapes) > 1 for layer in layers
        )

    # -- names --------------------------------------------------------------------------------------------------------

    def _choose_names(self) -> str:
        """Give every definition, import and class of the file a name of its own; that of the network's class."""
        taken = {"shapes"}
        for key, item in sorted(self.gathered.imports.items()):
            self._take(key, item.binds if item.target != NN.target else "nn", taken)
        for definition in self.gathered.definitions:
            self._take(definition.key, definition.binds, taken)
        for block in self.blocks.classes:
            self._take(block.key, class_name(block.name), taken)
        name = class_name(self.graph.name)
        return name if name not in taken else unique(f"{name}Net", taken)

    def _take(self, key: Key, name: str, taken: set[str]) -> None:
        self.names[key] = unique(name, taken)
        taken.add(self.names[key])

    # -- the file -----------------------------------------------------------------------------------------------------

    def write(self) -> Written:
        body = [
            *self._definitions(),
            *(self._block(block) for block in self.blocks.classes),
            self._network(),
            *([_SHAPES] if not is_tensor(self.graph.layers[-1].out_shape) else []),
            self._check(),
        ]
        own = tuple(dict.fromkeys(Path(d.file).name for d in self.gathered.definitions if d.file))
        imports = list(self.gathered.imports.values())
        packages = {i.top for i in imports if i.top != "torch" and i.top not in sys.stdlib_module_names}
        head = self._head(own, sorted(packages))
        blank = "\n" if _begins_with_block(body[0]) else ""
        text = "\n".join([head, *self._imports(), blank, "\n\n".join(body)])
        return Written(text, self.name, tuple(sorted(packages)), own)

    def _definitions(self) -> Iterator[str]:
        constants: list[str] = []
        for definition in self.gathered.definitions:
            text = renamed(definition, self.names)
            if definition.file:
                text = f"# From {Path(definition.file).name}: not netbuild's, its author's.\n{text}"
            if definition.is_block:
                yield from ["\n".join(constants)] if constants else []
                constants = []
                yield text
            else:
                constants.append(text)
        yield from ["\n".join(constants)] if constants else []

    def _imports(self) -> Iterator[str]:
        if self.gathered.future:
            yield from [*statement_of_imports("__future__", sorted(self.gathered.future)), ""]
        lines = [item.line(self.names[key]) for key, item in self.gathered.imports.items()]
        lines += self.gathered.also
        groups: list[list[str]] = [[], []]
        for line in sorted(set(lines)):
            groups[line.split()[1].split(".")[0] not in sys.stdlib_module_names].append(line)
        yield "\n\n".join("\n".join(_merged(group)) for group in groups if group)

    def _head(self, own: Sequence[str], packages: Sequence[str]) -> str:
        g = self.graph
        facts = [f"scale {g.scale.name}"] if g.scale.name else []
        facts += [f"nc {g.nc}"] if g.nc is not None else []
        origin = g.spec.path.name + (f" ({', '.join(facts)})" if facts else "")
        count = f"{sum(parameter_count(layer.module) for layer in g.layers):,}"
        load = "safetensors.torch.load_model(model, FILE)" if self.shared else _LOAD
        needs = f"\nIt needs {', '.join(packages)} beside torch.\n" if packages else ""
        theirs = f" What is from {', '.join(own)} stays under its author's terms." if own else ""
        return _HEAD.format(
            title=title(g), count=count, version=__version__, origin=origin, name=self.name, load=load, needs=needs,
            licence=_wrapped(f"{_LICENCE}{theirs}"),
        )  # fmt: skip

    def _check(self) -> str:
        shapes = [f"torch.rand({', '.join(map(str, (1, *shape)))})" for _, shape in self.graph.inputs]
        shown = "tuple(y.shape)" if is_tensor(self.graph.layers[-1].out_shape) else "shapes(y)"
        lines = [
            'if __name__ == "__main__":',
            f"    model = {self.name}().eval()",
            "    with torch.no_grad():",
            *lay(_grouped("y = model(", shapes), 8),
            '    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")',
            f"    print({shown})",
        ]
        return "\n".join(lines) + "\n"

    # -- classes ------------------------------------------------------------------------------------------------------

    def _network(self) -> str:
        g = self.graph
        names = [name for name, _ in g.inputs] if g.spec.inputs else []
        body = forward(g.plan, names, lambda i: f"self.model[{i}]")
        called = names or ["image"]
        shapes = [f"{n} (B{''.join(f', {s}' for s in shape)})" for n, (_, shape) in zip(called, g.inputs, strict=True)]
        lines = [
            f"class {self.name}(nn.Module):",
            *_docstring(f"{title(g)}: {', '.join(shapes)} to {shape_words(g.layers[-1].out_shape)}."),
            "",
            "    def __init__(self) -> None:",
            *([f"        global {self._default_name()}"] if self._learns() else []),
            "        super().__init__()",
            *([f"        {self._default_name()} = {flat(written(self.default, self.names))}"] if self._learns() else []),
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

    def _learns(self) -> bool:
        """Whether the default activation has weights, which are the network's own."""
        key = (ACTIVATION, "DEFAULT_ACTIVATION")
        return key in self.names and any(True for _ in self.graph.make_activation().parameters())

    def _default_name(self) -> str:
        return self.names[ACTIVATION, "DEFAULT_ACTIVATION"]

    def _row(self, index: int, row: tuple[Made, ...]) -> list[str]:
        layer = self.graph.layers[index]
        name = f" {layer.row.name}" if layer.row.name else ""
        return commented(in_sequence(row, self.names), f"# {index}{name}: {shape_words(layer.out_shape)}", 16)

    def _afterwards(self) -> Iterator[str]:
        constants = compat.norm_constants(self.graph.task)
        if constants and any(type(m) is nn.BatchNorm2d for layer in self.graph.layers for m in layer.module.modules()):
            yield "        for module in self.modules():"
            yield "            if type(module) is nn.BatchNorm2d:"
            yield f"                module.eps, module.momentum = {constants[0]}, {constants[1]}"
        rows = [i for i, layer in enumerate(self.graph.layers) if starts_anew(layer)]
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
        return [*lay(_grouped("def forward(", ["self", *given], f") -> {result}:"), 4), *body.lines]

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
        yield from lay(_grouped("for conv, norm in (", listed, ",):" if len(pairs) == 1 else "):"), 8)
        conv, norm = at.format("conv"), at.format("norm")
        fold, put = self.names[FUSE, "fold_bn"], self.names[FUSE, "set_weights"]
        yield f"            {put}({conv}, *{fold}({conv}, {norm}))"
        yield f"            {norm} = nn.Identity()"

    def _block(self, block: BlockClass) -> str:
        inside = block.first.inside
        keys = inside.keys
        body = forward(inside.plan, inside.inputs, lambda i: f'self["{keys[i]}"]')
        outs = [inside.layers[i].out_shape if i >= 0 else [1] for i in inside.plan.result]
        given = [f"{name}: {_type(values)}" for name, values in self._parameters(block)]
        arriving = _input_shapes(block)
        lines = [
            f"class {self.names[block.key]}(nn.ModuleDict):",
            *_docstring(f"The block {block.name} of {self.graph.spec.path.name}."),
            "",
            *lay(_grouped("def __init__(", ["self", *given], ") -> None:"), 4),
            "        super().__init__(",
            "            {",
            *(line for i, row in enumerate(block.rows) for line in self._inner_row(block, i, row)),
            "            }",
            "        )",
            "",
            *self._forward(body, len(outs) == 1 and not inside.plan.listed and is_tensor(outs[0]), arriving),
        ]
        pairs = fused_pairs(inside.layers, inside.plan)
        if pairs:
            lines += ["", "    def fuse(self) -> None:"]
            lines += ['        """Merge batch norms into the convolutions before them."""']
            lines += self._merging(pairs, lambda i: f'"{keys[i]}"', "self[{}]")
        return "\n".join(lines) + "\n"

    def _parameters(self, block: BlockClass) -> Iterator[tuple[str, list[Any]]]:
        for i, name in enumerate(block.parameters):
            yield name, [block.given[id(use)][i] for use in block.uses]

    def _inner_row(self, block: BlockClass, index: int, row: tuple[Made, ...]) -> list[str]:
        inside = block.first.inside
        doc = prefixed(f'"{inside.keys[index]}": ', in_sequence(row, self.names))
        alone = len(block.uses) == 1
        return commented(doc, f"# {shape_words(inside.layers[index].out_shape)}" if alone else "", 16)


_LOAD = "model.load_state_dict(safetensors.torch.load_file(FILE))"
_LICENCE = "The layers are netbuild's, under the Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0."
_HEAD = '''"""{title} as one file of PyTorch, {count} parameters.

Made by netbuild {version} from {origin}. The state dict has the keys of netbuild's checkpoints:

    model = {name}()
    {load}
{needs}
{licence}
"""
'''


def _default_activation(call: Made) -> str:
    """The definitions that stand for what a scope's default is in netbuild."""
    home, name = call.key
    text = _DEFAULT.format(flat(written(call, {call.key: name, ("", NN.target): "nn"})))
    return text if call.key == ("", NN.target) else f"from {home} import {name}\n{text}"


def _wrapped(text: str) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > WIDTH:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def _docstring(text: str) -> list[str]:
    words = _wrapped(text).splitlines() if len(text) + 10 > WIDTH else [text]
    return [f'    """{words[0]}"""'] if len(words) == 1 else [f'    """{words[0]}', *(f"    {w}" for w in words[1:]), '    """']


def _grouped(head: str, items: Sequence[str], foot: str = ")") -> Doc:
    return Group(head, tuple(items), foot)


def commented(doc: Doc, comment: str, indent: int) -> list[str]:
    """An item of a list with a comment: at its end if that fits, else above it."""
    line = " " * indent + f"{flat(doc)},"
    if not comment:
        return lay(doc, indent, ",")
    if len(line) + 2 + len(comment) <= WIDTH:
        return [f"{line}  {comment}"]
    return [" " * indent + comment[: WIDTH - indent], *lay(doc, indent, ",")]


def _merged(lines: Sequence[str]) -> Iterator[str]:
    """Imports sorted: plain ones first, those from one module in one statement."""
    yield from (line for line in lines if line.startswith("import "))
    modules: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("from "):
            _, module, _, names = line.split(" ", 3)
            modules.setdefault(module, []).append(names)
    for module, names in sorted(modules.items()):
        yield from statement_of_imports(module, sorted(names, key=_sorting))


def _begins_with_block(text: str) -> bool:
    first = next((line for line in text.splitlines() if not line.startswith("#")), "")
    return first.startswith(("class ", "def ", "async ", "@"))


def _sorting(name: str) -> tuple[int, str]:
    """Constants, classes, then the rest, as ruff sorts what is imported."""
    word = name.split()[0]
    return (0 if word.isupper() and len(word) > 1 else 1 if word[0].isupper() else 2), word


def _type(values: Sequence[Any]) -> str:
    kinds = Counter(type(v).__name__ for v in values)
    plain = [k for k in ("bool", "int", "float", "str", "list") if kinds[k]]
    if plain == ["int", "float"]:
        return "float"
    return plain[0] if len(kinds) == 1 and plain else "object"


def _input_shapes(block: BlockClass) -> list[bool]:
    """Whether each input of a block is one tensor."""
    inside = block.first.inside
    count = len(inside.inputs) or 1
    found = {}
    for layer in inside.layers:
        for source, shape in zip(layer.step.sources, layer.in_shapes, strict=True):
            found[source] = shape
    return [is_tensor(found.get(-1 - i, [1])) for i in range(count)]


def all_layers(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Layers, and those inside of blocks."""
    for layer in layers:
        yield layer
        for inside in layer.inside:
            yield from all_layers(inside.layers)


def _names_activation(layer: Layer) -> bool:
    roles = {p.name for p in layer.factory.parameters if p.role is Role.ACTIVATION}
    return any(name in roles and isinstance(value, str) for name, value in layer.bound.call.items())


def starts_anew(layer: Layer) -> bool:
    """Whether `init` is for the row's weights: heads know their biases, and published weights must stay."""
    return layer.factory.task is None and not layer.row.module.lower().startswith(("timm.", "torchvision"))


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


def is_tensor(shape: Shape) -> bool:
    """Whether a shape is that of one tensor."""
    return isinstance(shape, list) and all(isinstance(side, int) for side in shape)


def shape_words(shape: Shape) -> str:
    """A shape for people; of nested ones the first tensor's, and that there is more."""
    if is_tensor(shape):
        return f"({', '.join(map(str, ['B', *shape[1:]]))})" if shape else "a number"
    while shape and not is_tensor(shape):
        shape = next(iter(shape.values())) if isinstance(shape, dict) else shape[0]
    return f"{shape_words(shape)} and more" if shape else "nothing"


def title(graph: Facts) -> str:
    """The network's name, YOLO in capitals."""
    name = str(getattr(graph, "name", ""))
    return f"YOLO{name[4:]}" if name.startswith("yolo") else name


def class_name(name: str) -> str:
    """A name as a class has it: yolo11n-seg is YOLO11nSeg."""
    name = f"YOLO{name[4:]}" if name.startswith("yolo") else name
    joined = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", name) if part)
    return joined if joined[:1].isalpha() else f"Net{joined}"
