"""Rows to layers: each row bound, built without weights, and run once on the ``meta`` device for shapes and costs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from netbuild.costs.observer import MAX_OPERATORS, MAX_TOTAL, Observer, Tally, on_meta
from netbuild.costs.outputs import bytes_of, first_tensor, shape_of, tensors_of
from netbuild.costs.receptive_field import Field, field_of
from netbuild.costs.shape_rules import ShapeError, shape_text
from netbuild.errors import NetbuildError, raise_all, shorten
from netbuild.grammar import ultralytics
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import INPUT, Block, Row, argument, check_repeats
from netbuild.grammar.spec import Scale, Spec
from netbuild.graph.bind import Arriving, Bound, Scope, bind
from netbuild.graph.blame import SourceFailedError, blame
from netbuild.graph.layers import Graph, Inside, Layer
from netbuild.graph.network import Plan, Step, call, gather, last_readers
from netbuild.graph.options import Options, prepare
from netbuild.layers.activation import using_activation
from netbuild.modules import registry
from netbuild.modules.factory import Factory, Parameter
from netbuild.roles import NAMES, Plain, Role

MAX_MODULES = 50_000  # rows times repeats, blocks expanded

_FAILED = object()
_TAKEN = {*vars(nn.Module()), "plan", "title"}  # attributes that a Rows module has


def _used(spec: Spec, own: Mapping[str, Factory]) -> tuple[Factory, ...]:
    return tuple(own[name] for name in dict.fromkeys(row.module for row in spec.all_rows()) if name in own)


def resolve(spec: Spec, options: Options | None = None) -> Graph:
    """Resolve a network file: bind, build on ``meta`` and run every row.

    Raises:
        NetbuildError: with the place of every row that does not bind, build or run.
    """
    options = options or Options()
    facts = prepare(spec, options)
    walk = _Walk(facts.spec.blocks, facts.task, facts.imgsz, options.modules)
    walk.observer.limit = MAX_OPERATORS
    with on_meta(walk.observer), using_activation(facts.make_activation()) as default:
        images = facts.images()
        for image in images:
            walk.observer.live.add(image)
        result = (facts.spec.rows[-1].index,)
        layers, _ = walk.rows(facts.spec.rows, images, facts.scope, result)
    for error, indices in walk.unknown.values():
        if len(indices) > 1:
            error.message += f" ({len(indices)} rows: {shorten(', '.join(map(str, indices)))})"
    raise_all(walk.errors)
    plan = Plan(tuple(layer.step for layer in layers), result)
    own = _used(spec, options.modules)
    return Graph(
        **vars(facts),
        activation=type(default).__name__,
        layers=tuple(layers),
        plan=plan,
        peak_bytes=walk.observer.live.peak,
        own=own,
    )


class _Walk:
    """The one walk over rows: keeps the values alive that later rows read, collects errors, bounds the work."""

    def __init__(
        self,
        blocks: Mapping[str, Block],
        task: str | None,
        imgsz: tuple[int, int],
        own: Mapping[str, Factory],
    ) -> None:
        self.blocks, self.task, self.imgsz, self.own = blocks, task, imgsz, own
        self.observer = Observer(counting=False)
        self.errors: list[NetbuildError] = []
        self.unknown: dict[str, tuple[NetbuildError, list[int]]] = {}  # modules that cannot be had, and their rows
        self.modules = 0

    def rows(
        self, rows: Sequence[Row], inputs: Sequence[Any], scope: Scope, result: Sequence[int], nested: bool = False
    ) -> tuple[list[Layer], dict[int, Any]]:
        """Resolve rows in order; errors are collected, and rows that read a failed one are passed over."""
        values: dict[int, Any] = {INPUT - i: x for i, x in enumerate(inputs)}
        layers: list[Layer] = []
        frees = last_readers([row.sources for row in rows], result)
        for row, free in zip(rows, frees, strict=True):
            try:
                if not nested:
                    self._start_row(row)
                layer = self._row(row, values, free, scope, layers)
                layers.append(layer)
            except NetbuildError as error:
                if nested:
                    raise
                self.errors.append(error)
                values[row.index] = _FAILED
            except SourceFailedError:
                values[row.index] = _FAILED
            for value in free:
                del values[value]
        return layers, values

    def _start_row(self, row: Row) -> None:
        self.observer.limit = self.observer.steps + MAX_OPERATORS
        if self.observer.steps > MAX_TOTAL:
            raise NetbuildError(f"{row.label}: the rows before it run more than {MAX_TOTAL} operators", row.where)

    def _row(self, row: Row, values: dict[int, Any], frees: tuple[int, ...], scope: Scope, above: list[Layer]) -> Layer:
        block = self.blocks.get(row.module)
        factory = _block_factory(block, scope) if block else self._factory(row)
        n = _repeats(row, scope)
        picks = _picks(row, values, above)
        if factory.takes_text and len(row.sources) < 2:
            hint = f"name them in inputs:, and write [[from, text], {row.n}, {row.module}, ...]"
            raise NetbuildError(f"{row.label} takes text features as its last source", row.where, hint)
        inputs = gather(values, row.sources, picks)
        if any(x is _FAILED for x in inputs):
            raise SourceFailedError
        arriving = _arriving(inputs[:-1] if factory.takes_text else inputs, self.imgsz)
        bound = bind(factory, row, n, arriving, scope)
        passing = _passing(row, bound, block, len(arriving.channels))
        in_shapes = [shape_of(x) for x in inputs]
        tally = Tally()
        self.observer.tallies.append(tally)
        copies = 1 if bound.takes_repeats else n
        try:
            with blame(row, inputs, above, factory, self.imgsz):
                inside: tuple[Inside, ...] = ()
                if block:
                    module, make, inside, out = self._block(block, row, bound, inputs, copies, scope)
                else:
                    module, make = self._module(row, bound, copies)
                    out = self._run(module, inputs, passing)
        finally:
            self.observer.tallies.pop()
        values[row.index] = out
        step = Step(row.sources, passing, frees, picks)
        return Layer(
            row, n, factory, bound.arguments(), module, make, step, in_shapes, shape_of(out), bytes_of(out, inputs),
            field_of(first_tensor(out)), arriving.strides, tally, bound, _result_names(block), inside,
        )  # fmt: skip

    def _factory(self, row: Row) -> Factory:
        """A row's factory; a name that cannot be had is an error once, which counts its rows."""
        if row.module in self.unknown:
            self.unknown[row.module][1].append(row.index)
            raise SourceFailedError
        try:
            return registry.find(row.module, self.own)
        except NetbuildError as error:
            placed = row.module_node.error(f"row {row.index}: {error.message}", error.hint)
            placed.exit_code = error.exit_code
            self.unknown[row.module] = placed, [row.index]
            raise placed from None

    def _module(self, row: Row, bound: Bound, copies: int) -> tuple[nn.Module, Callable[[], nn.Module]]:
        self._count(copies, row)

        def make() -> nn.Module:
            made = [bound.make() for _ in range(copies)]
            return ultralytics.finish(made[0] if copies == 1 else nn.Sequential(*made), self.task)

        module = make().eval()
        self.observer.live.exempt(module)
        return module, make

    def _count(self, copies: int, row: Row) -> None:
        self.modules += copies
        if self.modules > MAX_MODULES:
            raise NetbuildError(
                f"{row.label}: more than {MAX_MODULES} modules once repeats and blocks are expanded", row.where
            )

    def _run(self, module: nn.Module, inputs: list[Any], passing: str) -> Any:
        self.observer.counting = True
        try:
            for x in tensors_of(inputs):
                _check_filled(x, "a source is empty")
            out = call(module, inputs, passing)
            _check_filled(first_tensor(out), "its output is empty")
            return out
        finally:
            self.observer.counting = False

    def _block(
        self, block: Block, row: Row, bound: Bound, inputs: list[Any], copies: int, scope: Scope
    ) -> tuple[nn.Module, Callable[[], nn.Module], tuple[Inside, ...], Any]:
        values: Any = inputs
        inside: list[Inside] = []
        for _ in range(copies):
            self._count(1, row)
            copy, values = self._block_copy(block, row, bound, values, scope)
            inside.append(copy)
        title = block.name
        if copies == 1:
            return inside[0].skeleton(title), lambda: inside[0].make(title), tuple(inside), values[0]
        skeleton = nn.Sequential(*(copy.skeleton(title) for copy in inside))
        return skeleton, lambda: nn.Sequential(*(copy.make(title) for copy in inside)), tuple(inside), values[0]

    def _block_copy(
        self, block: Block, row: Row, bound: Bound, inputs: list[Any], scope: Scope
    ) -> tuple[Inside, list[Any]]:
        channels = list(_arriving(inputs, self.imgsz).channels)
        given = _block_inputs(block, row, inputs)
        defaults = {p.name: p.default for p in bound.factory.parameters if not p.required}
        own = {"c1": channels[0] if len(channels) == 1 else channels, **defaults, **bound.call}
        # Inside a block numbers are exact, as they are inside a module class.
        names = {**scope.file_names, **own}
        inner = replace(scope, names=names, scale=Scale(scope.scale.name), divisor=1)
        try:
            layers, values = self.rows(block.rows, given, inner, block.result, nested=True)
        except NetbuildError as error:
            error.message += f"\n  in block {block.name}, used at line {row.where.line} by {row.label}"
            raise
        plan = Plan(tuple(layer.step for layer in layers), block.result, block.listed_result)
        keys = tuple(_child_name(layer.row) for layer in layers)
        result = [values[i] for i in block.result]
        inside = Inside(tuple(layers), keys, plan, tuple(block.inputs), own)
        return inside, [result if block.listed_result else result[0]]


def _child_name(row: Row) -> str:
    """A row of a block is called by its name in the state dict, unless a module has an attribute of that name."""
    return row.name if row.name and not hasattr(nn.Module, row.name) and row.name not in _TAKEN else str(row.index)


def _picks(row: Row, values: Mapping[int, Any], above: Sequence[Layer]) -> tuple[int | str | None, ...]:
    """Which output of each source is meant, as a number or a dict's key; names of a block's results become numbers."""
    keys: list[int | str | None] = []
    for source, pick in zip(row.sources, row.picks, strict=True):
        value = values[source]
        if pick is None or value is _FAILED:
            keys.append(None)
            continue
        names = next((layer.result_names for layer in above if layer.row.index == source), ())
        key = names.index(pick) if pick in names else pick
        if isinstance(value, dict) and isinstance(key, int) and key < len(value):
            key = list(value)[key]
        known = isinstance(value, dict) and key in value
        if not known and not (isinstance(value, (list, tuple)) and isinstance(key, int) and key < len(value)):
            raise NetbuildError(f"{row.label}: its source has no output '{pick}'", row.where, _outputs(value, names))
        keys.append(key)
    return tuple(keys)


def _outputs(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, dict):
        return f"its outputs are named {', '.join(map(str, value))}"
    if isinstance(value, (list, tuple)):
        named = f", named {', '.join(names)}" if names else ""
        return f"it gives {len(value)} outputs, 0..{len(value) - 1}{named}"
    return "it gives one output: leave the selection out"


def _repeats(row: Row, scope: Scope) -> int:
    n = row.n
    if isinstance(n, Node):
        n = check_repeats(argument(n, scope.names), n, row.index)
    return max(round(n * scope.scale.depth), 1) if n > 1 else n


def _block_factory(block: Block, scope: Scope) -> Factory:
    parameters = []
    for p in block.params:
        role = NAMES.get(p.name, Plain)
        if p.role is not None:
            try:
                role = Role(p.role)
            except ValueError:
                known = ", ".join(r.value for r in Role)
                raise block.node.error(f"block '{block.name}': unknown role {p.role!r}", f"roles: {known}") from None
        default = inspect.Parameter.empty if p.default is None else argument(p.default, scope.file_names)
        parameters.append(Parameter(p.name, role, (), default, False))
    return Factory(block.name, _no_class, tuple(parameters), path=f"blocks.{block.name}")


def _result_names(block: Block | None) -> tuple[str, ...]:
    if block is None or not block.listed_result:
        return ()
    return tuple(block.rows[i].name or str(i) if i >= 0 else "input" for i in block.result)


def _check_filled(x: torch.Tensor | None, what: str) -> None:
    if x is not None and x.numel() == 0:
        raise ShapeError(f"{what}: {shape_text(x.shape)}")


def _no_class(*_: Any, **__: Any) -> nn.Module:
    raise TypeError("a block of the file is built from its rows")


def _block_inputs(block: Block, row: Row, inputs: list[Any]) -> list[Any]:
    if not block.inputs:
        return [inputs[0] if len(inputs) == 1 else inputs]
    if len(block.inputs) != len(inputs):
        names = ", ".join(block.inputs)
        raise NetbuildError(
            f"{row.label} takes {len(block.inputs)} sources ({names}), {len(inputs)} are given", row.where
        )
    return inputs


def _passing(row: Row, bound: Bound, block: Block | None, count: int) -> str:
    """How ``count`` values, text features left out, are handed to the row's module."""
    if block:
        # Rows takes its inputs one by one where the block names them, else as one value.
        return "spread" if block.inputs or count == 1 else "list"
    text = "+text" if bound.factory.takes_text else ""
    if bound.listed:
        return "list" + text
    # With text a list of sources says nothing: there are always two.
    if count == 1 and (text or not row.listed or bound.factory.takes(Role.IN)):
        return "one" + text
    return ("spread" if count > 1 and _spreads(bound.factory.make) else "list") + text


def _spreads(cls: Any) -> bool:
    """Whether a module's forward takes several inputs as several arguments."""
    forward = getattr(cls, "forward", None)
    if forward is None:
        return False
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(required) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _arriving(inputs: Sequence[Any], imgsz: tuple[int, int]) -> Arriving:
    maps = [x if isinstance(x, torch.Tensor) and x.ndim >= 2 else None for x in inputs]
    fields = [field_of(x) for x in maps]
    return Arriving(
        tuple(None if x is None else x.shape[1] for x in maps),
        tuple(None if x is None or x.ndim < 4 else (x.shape[-2], x.shape[-1]) for x in maps),
        tuple(_stride(x, f, imgsz) for x, f in zip(maps, fields, strict=True)),
    )


def _stride(x: torch.Tensor | None, field: Field | None, imgsz: tuple[int, int]) -> float | None:
    """Image pixels to a step of a map; where an operator hides it, as many as go into the image without remainder."""
    if field and field.known:
        return field.stride[0]
    if x is None or x.ndim < 4 or imgsz[0] % x.shape[-2] or imgsz[0] * x.shape[-1] != imgsz[1] * x.shape[-2]:
        return None
    return imgsz[0] // x.shape[-2]
