"""Writes a network as one Python file: the layers that it uses, its blocks, its own class, and an example."""

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from netbuild import __version__
from netbuild.author.ejecting.blocks import BlockClasses, unique_name
from netbuild.author.ejecting.calls import NN, CallBuilder, ModuleCall, format_value
from netbuild.author.ejecting.classes import ACTIVATION, FUSE, HE, ClassWriter, find_fusable_pairs
from netbuild.author.ejecting.layout import group, import_lines, to_line, to_lines, wrap
from netbuild.author.ejecting.modules import Import
from netbuild.author.ejecting.sources import BUILDERS, Gathered, Key, Sources, rename
from netbuild.author.ejecting.words import display_name, is_tensor, to_class_name
from netbuild.costs.outputs import parameter_count
from netbuild.grammar.expressions import parse_call
from netbuild.graph.layers import Graph, Layer
from netbuild.roles import Role

TORCH = Import("torch", "import torch{}", "torch", "torch")
ANY = Import("typing.Any", "from typing import Any{}", "Any", "Any")

_DEFAULT = '''
# Shared by all layers that use the default activation.
DEFAULT_ACTIVATION = {}


def default_activation() -> nn.Module:
    """Return the activation shared by all layers that use the default."""
    return DEFAULT_ACTIVATION
'''
# Used if no layer gives an activation by name, so that the table of names can be left out.
_WITHOUT_NAMES = '''
Act = bool | nn.Module | None


def resolve_activation(act: Act, default: nn.Module | None = None) -> nn.Module:
    """Return the activation of an `act` argument: the default for True, a module as it is, none for anything else."""
    if act is True:
        return DEFAULT_ACTIVATION if default is None else default
    return act if isinstance(act, nn.Module) else nn.Identity()
'''
_TORCHVISION = '''
from torchvision.models import get_model


def _build_full(model: str, weights: str | None) -> nn.Module:
    """Return torchvision's model with random weights."""
    return get_model(model, weights=None)
'''
_SHAPES = '''def shapes(value: Any) -> Any:
    """Return the shapes of an output's tensors."""
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shapes(item) for item in value]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value
'''


@dataclass(frozen=True)
class EjectedSource:
    """An ejected file: its text, the name of the network's class, packages beside torch, files of custom modules."""

    text: str
    name: str
    packages: tuple[str, ...]
    own: tuple[str, ...]


def write_source(graph: Graph, shared: bool = False) -> EjectedSource:
    """Write the file of a network.

    Args:
        graph: the resolved network.
        shared: whether the network has tensors with several names, see `has_shared_tensors`.

    Raises:
        NetbuildError: for custom modules that need netbuild itself.
    """
    return _FileWriter(graph, shared).write()


class _FileWriter:
    def __init__(self, graph: Graph, shared: bool) -> None:
        self.graph, self.shared, self.calls = graph, shared, CallBuilder()
        rows = [self.calls.build_row(layer) for layer in graph.layers]
        self.blocks = BlockClasses(rows)
        self.rows = [self.blocks.resolve_row(row) for row in rows]
        node = graph.spec.root.value.get("activation")
        self.default = self.calls.activation("silu" if node is None else parse_call(node.value) or node.value)
        self.gathered = self._gather()
        self.names: dict[Key, str] = {}
        self.name = self._choose_names()

    def _gather(self) -> Gathered:
        activation = _activation_source(self.default)
        if not self.graph.custom_modules and not any(map(_has_named_activation, _all_layers(self.graph.layers))):
            activation += _WITHOUT_NAMES
        sources = Sources({ACTIVATION: activation, BUILDERS: _TORCHVISION})
        roots = [*self.calls.roots, *([(HE, "init_he")] if self.graph.spec.settings.get("init") else [])]
        pairs = any(self._pairs())
        roots += [(FUSE, "fold_bn"), (FUSE, "set_weights")] if pairs else []
        found = sources.gather(roots)
        # The network needs a fuse method if any of its modules has one, or if it merges rows itself.
        if pairs or any("    def fuse(self" in d.text for d in found.definitions):
            found = sources.gather([*roots, (FUSE, "fuse")])
        for item in (TORCH, NN, *self.calls.imports.values()):
            found.take(item)
        return found

    def _pairs(self) -> Iterator[list[tuple[int, int]]]:
        yield find_fusable_pairs(self.graph.layers, self.graph.plan)
        yield from (find_fusable_pairs(b.first.inside.layers, b.first.inside.plan) for b in self.blocks.classes)

    def _choose_names(self) -> str:
        """Choose unique names for all imports, definitions and blocks; return the name of the network's class."""
        taken = {"shapes"}

        def take(key: Key, name: str) -> None:
            self.names[key] = unique_name(name, taken)
            taken.add(self.names[key])

        for item in (TORCH, NN, ANY):
            take(("", item.target), item.binds)
        for key, item in sorted(self.gathered.imports.items()):
            if key not in self.names:
                take(key, item.binds)
        for definition in self.gathered.definitions:
            take(definition.key, definition.binds)
        for block in self.blocks.classes:
            take(block.key, to_class_name(block.name))
        name = to_class_name(self.graph.name)
        return name if name not in taken else unique_name(f"{name}Net", taken)

    def write(self) -> EjectedSource:
        classes = ClassWriter(self.graph, self.name, self.names, self.rows, self.default)
        written = [*map(classes.write_block, self.blocks.classes), classes.write_network()]
        written += [] if is_tensor(self.graph.out_shape) else [_SHAPES]
        if any(re.search(r"\bAny\b", text) for text in written):
            self.gathered.take(ANY)
        body = [*self._definitions(), *written, self._check()]
        own = tuple(dict.fromkeys(Path(d.file).name for d in self.gathered.definitions if d.file))
        tops = {item.top for item in self.gathered.imports.values()}
        packages = tuple(sorted(tops - {"torch"} - sys.stdlib_module_names))
        blank = "\n" if _begins_with_block(body[0]) else ""
        text = "\n".join([self._head(own, packages), *self._imports(), blank, "\n\n".join(body)])
        return EjectedSource(text, self.name, packages, own)

    def _definitions(self) -> Iterator[str]:
        constants: list[str] = []
        before = ""
        for definition in self.gathered.definitions:
            text = rename(definition, self.names)
            if definition.file and definition.file != before:
                text = f"# The following code is from {Path(definition.file).name}, by its author.\n{text}"
            elif before and not definition.file:
                text = f"# The following code is from netbuild.\n{text}"
            before = definition.file
            if not definition.is_block:
                constants.append(text)
                continue
            yield from ["\n".join(constants)] if constants else []
            constants = []
            yield text
        yield from ["\n".join(constants)] if constants else []

    def _imports(self) -> Iterator[str]:
        if self.gathered.future:
            yield from [*import_lines("__future__", sorted(self.gathered.future)), ""]
        lines = {item.line(self.names[key]) for key, item in self.gathered.imports.items()} | self.gathered.also
        groups: list[list[str]] = [[], []]
        for line in sorted(lines):
            groups[line.split()[1].split(".")[0] not in sys.stdlib_module_names].append(line)
        yield "\n\n".join("\n".join(_merge_imports(group)) for group in groups if group)

    def _head(self, own: Sequence[str], packages: Sequence[str]) -> str:
        g = self.graph
        facts = [f"scale {g.scale.name}"] if g.scale.name else []
        facts += [f"nc {g.nc}"] if g.nc is not None else []
        origin = g.spec.path.name + (f" ({', '.join(facts)})" if facts else "")
        own_terms = f" The code from {', '.join(own)} is under its author's terms." if own else ""
        return _HEAD.format(
            title=display_name(g),
            count=f"{parameter_count(g.skeleton()):,}",
            made=wrap(f"Made by netbuild {__version__} from {origin}. {_KEYS}"),
            name=self.name,
            load="safetensors.torch.load_model(model, FILE)" if self.shared else _LOAD,
            needs=f"\nIt needs {', '.join(packages)} beside torch.\n" if packages else "",
            licence=wrap(f"{_LICENCE}{own_terms}"),
        )

    def _check(self) -> str:
        inputs = [f"torch.rand({', '.join(map(str, (1, *shape)))})" for _, shape in self.graph.inputs]
        shown = "tuple(y.shape)" if is_tensor(self.graph.out_shape) else "shapes(y)"
        lines = [
            'if __name__ == "__main__":',
            f"    model = {self.name}().eval()",
            "    with torch.no_grad():",
            *to_lines(group("y = model(", inputs), 8),
            '    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")',
            f"    print({shown})",
        ]
        return "\n".join(lines) + "\n"


_LOAD = "model.load_state_dict(safetensors.torch.load_file(FILE))"
_KEYS = "The state dict has the keys of netbuild's checkpoints:"
_LICENCE = "The layers are from netbuild, under the Apache License 2.0: https://www.apache.org/licenses/LICENSE-2.0."
_HEAD = '''"""{title} in PyTorch, {count} parameters.

{made}

    model = {name}()
    {load}
{needs}
{licence}
"""
'''


def _activation_source(call: ModuleCall) -> str:
    """Return the definitions that replace those of netbuild's scoped default activation."""
    home, name = call.key
    text = _DEFAULT.format(to_line(format_value(call, {call.key: name, ("", NN.target): "nn"})))
    return text if call.key == ("", NN.target) else f"from {home} import {name}\n{text}"


def _merge_imports(lines: Sequence[str]) -> Iterator[str]:
    """Yield import statements: plain ones first, then one per module with all its names."""
    yield from (line for line in lines if line.startswith("import "))
    modules: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("from "):
            _, module, _, names = line.split(" ", 3)
            modules.setdefault(module, []).append(names)
    for module, found in sorted(modules.items()):
        yield from import_lines(module, sorted(found, key=_sort_key))


def _begins_with_block(text: str) -> bool:
    first = next((line for line in text.splitlines() if not line.startswith("#")), "")
    return first.startswith(("class ", "def ", "async ", "@"))


def _sort_key(name: str) -> tuple[int, str]:
    """Return the key by which ruff sorts imported names: constants, then classes, then the rest."""
    word = name.split()[0]
    return (0 if word.isupper() and len(word) > 1 else 1 if word[0].isupper() else 2), word


def _has_named_activation(layer: Layer) -> bool:
    roles = {p.name for p in layer.factory.parameters if p.role is Role.ACTIVATION}
    return any(name in roles and isinstance(value, str) for name, value in layer.bound.call.items())


def _all_layers(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Yield all layers, and those inside blocks."""
    for layer in layers:
        yield layer
        for inside in layer.block_copies:
            yield from _all_layers(inside.layers)
