"""Resolve rows to layers: bind each row, build it without weights and run it once on ``meta`` for shapes and costs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from netbuild.costs.observer import MAX_OPERATORS, MAX_TOTAL, Observer, Tally, observe_on_meta
from netbuild.costs.outputs import bytes_of, first_tensor, shape_of, tensors_of
from netbuild.costs.receptive_field import field_of
from netbuild.costs.shape_rules import ShapeError, shape_text
from netbuild.errors import NetbuildError, raise_all, shorten
from netbuild.grammar import ultralytics
from netbuild.grammar.chosen import CHOSEN, choose_module
from netbuild.grammar.nodes import Node
from netbuild.grammar.repeats import check_repeats
from netbuild.grammar.rows import INPUT, MAX_LEVELS, SHARE, Block, Row, attempt, evaluate_argument
from netbuild.grammar.spec import Scale, Spec
from netbuild.graph.bind import BoundCall, SourceShapes, bind
from netbuild.graph.block_factory import make_factory
from netbuild.graph.doubts import find_doubts
from netbuild.graph.layers import BlockCopy, Graph, Layer
from netbuild.graph.missing import find_block_rows, hint_at_stub
from netbuild.graph.network import Plan, SharedModule, Step, call_module, last_readers, select_inputs, takes_targets
from netbuild.graph.options import NetworkConfig, Options, make_config
from netbuild.graph.repeats import bind_repeats
from netbuild.graph.row_errors import SourceFailedError, errors_at_row
from netbuild.graph.scope import Scope
from netbuild.graph.sources import FAILED, choose_call_style, measure_sources, select_outputs
from netbuild.graph.written_channels import choose_form
from netbuild.layers.activation import using_activation
from netbuild.modules import registry
from netbuild.modules.factory import Factory

MAX_MODULES = 50_000  # rows times repeats, blocks expanded

_RESERVED = {*vars(nn.Module()), "plan", "title", "target_rows"}  # attributes of `Rows`: no names for its children


def resolve(spec: Spec, options: Options | None = None) -> Graph:
    """Resolve a network file: bind every row, build it on ``meta`` and run it.

    Raises:
        NetbuildError: with the place of every row that does not bind, build or run.
    """
    options = options or Options()
    config = make_config(spec, options)
    resolver = _Resolver(config, options.modules)
    with observe_on_meta(resolver.observer), using_activation(config.make_activation()) as activation:
        inputs = config.make_inputs()
        for x in inputs:  # they count towards the peak of memory
            resolver.observer.live.add(x)
        result = config.result_rows
        layers, _ = resolver.resolve_rows(config.spec.rows, inputs, config.scope_of, result)
    resolver.raise_errors(layers)
    return Graph(
        **{**vars(config), "notes": (*config.notes, *dict.fromkeys(resolver.notes))},
        activation=type(activation).__name__,
        uses_activation=any(module is activation for layer in layers for module in layer.module.modules()),
        layers=tuple(layers),
        plan=Plan(tuple(layer.step for layer in layers), result, listed=bool(config.heads)),
        peak_bytes=resolver.observer.live.peak,
        custom_modules=_used_modules(spec, resolver.used, options.modules),
    )


def _used_modules(spec: Spec, resolved: Iterable[str], custom: Mapping[str, Factory]) -> tuple[Factory, ...]:
    """Return the custom modules that rows name, also those of blocks that no row uses."""
    names = dict.fromkeys([*(row.module for row in spec.all_rows()), *resolved])
    return tuple(custom[name] for name in names if name in custom)


class _Resolver:
    """Walks over the rows of a file and of its blocks; collects errors and limits the work.

    Args:
        config: the network's configuration.
        custom: custom modules, by the name that rows use.
    """

    def __init__(self, config: NetworkConfig, custom: Mapping[str, Factory]) -> None:
        self.blocks, self.task, self.imgsz, self.custom = config.spec.blocks, config.task, config.imgsz, custom
        self.rows = config.spec.rows
        self.file = config.spec.path if config.spec.checkpoint is None else None
        self.norm_eps = config.spec.settings.get("norm_eps")
        self.observer = Observer(counting=False)
        self.observer.limit = MAX_OPERATORS
        self.errors: list[NetbuildError] = []
        self.notes: list[str] = []
        self.unknown: dict[str, tuple[NetbuildError, list[int]]] = {}  # unknown module -> its error and its rows
        self.modules = 0  # modules built so far
        self.levels = 0  # of the blocks that are being resolved
        self.used: dict[str, None] = {}  # names of the modules of all rows, in order

    def raise_errors(self, layers: Sequence[Layer]) -> None:
        """Raise all collected errors, if there are any; that of an unknown module lists all its rows.

        Doubts about rows that did resolve come with them: the cause may lie some rows before the error.
        """
        # The blocks of rows whose source failed were not resolved; what they lack is to be known at once, too.
        for row in find_block_rows(self.rows, self.blocks) if self.unknown else ():
            if not {row.module} & {*self.unknown, *self.blocks} and not row.module.startswith(CHOSEN):
                attempt(self.errors, self._find_factory, row)
        for error, indices in self.unknown.values():
            if len(indices) > 1:
                error.message += f" ({len(indices)} rows: {shorten(', '.join(map(str, indices)))})"
        hint_at_stub({name: error for name, (error, _) in self.unknown.items()}, self.file)
        raise_all([*find_doubts(layers), *self.errors] if self.errors else [])

    def resolve_rows(
        self,
        rows: Sequence[Row],
        inputs: Sequence[Any],
        scope_of: Callable[[int], Scope],
        result: Sequence[int],
        nested: bool = False,
    ) -> tuple[list[Layer], dict[int, Any]]:
        """Resolve rows in order.

        At the top level errors are collected, and rows that read a failed row are skipped; inside a block
        (``nested``) an error is raised, so that the row which uses the block gets it.

        Args:
            rows: the rows of the file or of a block.
            inputs: the network's or the block's inputs.
            scope_of: returns the values that a row may refer to, by the row's number.
            result: rows whose outputs are returned.
            nested: whether the rows are those of a block.

        Returns:
            The layers, and the outputs that are still alive by row number.
        """
        values: dict[int, Any] = {INPUT - i: x for i, x in enumerate(inputs)}
        layers: list[Layer] = []
        frees = last_readers([row.sources for row in rows], result)
        for row, free in zip(rows, frees, strict=True):
            try:
                if not nested:
                    self._start_row(row)
                layer = self._resolve_row(row, values, free, scope_of(row.index), layers)
                layers.append(layer)
            except NetbuildError as error:
                if nested:
                    raise
                self.errors.append(error)
                values[row.index] = FAILED
            except SourceFailedError:
                values[row.index] = FAILED
            for value in free:
                del values[value]
        return layers, values

    def _start_row(self, row: Row) -> None:
        self.observer.limit = self.observer.steps + MAX_OPERATORS
        if self.observer.steps > MAX_TOTAL:
            raise NetbuildError(f"{row.label}: the rows before it run more than {MAX_TOTAL} operators", row.where)

    def _resolve_row(
        self, row: Row, values: dict[int, Any], frees: tuple[int, ...], scope: Scope, above: list[Layer]
    ) -> Layer:
        """Bind, build and run one row; its output is added to ``values``."""
        row = choose_module(row, scope.names)
        if row.shares is not None:
            return self._resolve_sharing_row(row, values, frees, above)
        block = self.blocks.get(row.module)
        factory = make_factory(block, scope) if block else self._find_factory(row)
        n = _scale_repeats(row, scope)
        selections = select_outputs(row, values, above)
        if factory.takes_text and len(row.sources) < 2:
            hint = f"name them in inputs:, and write [[from, text], {row.n}, {row.module}, ...]"
            raise NetbuildError(f"{row.label} takes text features as its last source", row.where, hint)
        inputs = select_inputs(values, row.sources, selections)
        if any(x is FAILED for x in inputs):
            raise SourceFailedError
        shapes = measure_sources(inputs[:-1] if factory.takes_text else inputs, self.imgsz)
        bound = bind(factory, row, n, shapes, scope)
        if bound.note:
            self.notes.append(bound.note)
        call_style = choose_call_style(row, bound, block, len(shapes.channels))
        in_shapes = [shape_of(x) for x in inputs]
        tally = Tally()
        self.observer.tallies.append(tally)
        copies = 1 if bound.takes_repeats else n
        try:
            with errors_at_row(row, inputs, above, factory, self.imgsz):
                block_copies: tuple[BlockCopy, ...] = ()
                bounds = (bound,) * copies
                if block:
                    module, make, block_copies, out = self._build_block(block, row, bound, inputs, copies, scope)
                else:

                    def bind_to(shapes: SourceShapes) -> BoundCall:
                        return bind(factory, row, n, shapes, scope)

                    bounds = bind_repeats(bound, copies, inputs, call_style, bind_to, self.imgsz)
                    module, make = self._build_module(row, bounds)
                    out = self._run(module, inputs, call_style)
        finally:
            self.observer.tallies.pop()
        values[row.index] = out
        step = Step(row.sources, call_style, frees, selections)
        return Layer(
            row, n, factory, bound.arguments(), module, make, step, in_shapes, shape_of(out), bytes_of(out, inputs),
            field_of(first_tensor(out)), shapes.strides, tally, bounds, _result_names(block), block_copies,
        )  # fmt: skip

    def _resolve_sharing_row(
        self, row: Row, values: dict[int, Any], frees: tuple[int, ...], above: list[Layer]
    ) -> Layer:
        """Run the module of another row on this row's sources; its weights are counted there, its operators here."""
        shared = next((layer for layer in above if layer.row.index == row.shares), None)
        selections = select_outputs(row, values, above)
        inputs = select_inputs(values, row.sources, selections)
        if shared is None or any(x is FAILED for x in inputs):
            raise SourceFailedError
        if takes_targets(shared.module):
            raise NetbuildError(f"{row.label} takes targets in training and cannot be shared", row.where)
        shapes = measure_sources(inputs, self.imgsz)
        call_style = choose_call_style(row, shared.bound, self.blocks.get(row.module), len(shapes.channels))
        tally = Tally()
        self.observer.tallies.append(tally)
        try:
            with errors_at_row(row, inputs, above, shared.factory, self.imgsz):
                out = self._run(shared.module, inputs, call_style)
        finally:
            self.observer.tallies.pop()
        values[row.index] = out
        module = SharedModule(shared.module, shared.row.index)
        return replace(
            shared, row=row, arguments=[f"{SHARE}: {shared.row.name or shared.row.index}"], module=module,
            make=lambda: module, step=Step(row.sources, call_style, frees, selections),
            in_shapes=[shape_of(x) for x in inputs], out_shape=shape_of(out), out_bytes=bytes_of(out, inputs),
            field=field_of(first_tensor(out)), source_strides=shapes.strides, tally=tally,
        )  # fmt: skip

    def _find_factory(self, row: Row) -> Factory:
        """Find a row's factory; the error of an unknown module is reported once for all its rows."""
        self.used[row.module] = None
        if row.module in self.unknown:
            self.unknown[row.module][1].append(row.index)
            raise SourceFailedError
        try:
            name = row.module if row.module in self.custom else choose_form(row)
            return registry.find_factory(name, self.custom)
        except NetbuildError as error:
            located = row.module_node.error(f"row {row.index}: {error.message}", error.hint)
            located.exit_code = error.exit_code
            self.unknown[row.module] = located, [row.index]
            raise located from None

    def _build_module(self, row: Row, bounds: tuple[BoundCall, ...]) -> tuple[nn.Module, Callable[[], nn.Module]]:
        """Build a row's module on ``meta``; return it with a function that builds it again, with weights.

        Args:
            row: the row.
            bounds: the constructor call of each repeat.
        """
        self._count_modules(len(bounds), row)

        def make() -> nn.Module:
            modules = [bound.make() for bound in bounds]
            # A single module stays bare: the state-dict keys of existing checkpoints have no further level.
            module = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
            _set_batch_norm_constants(module, self.task, self.norm_eps)
            return module

        # In training mode a batch norm refuses a map with a single value per channel.
        module = make().eval()
        _check_repeats_without_targets(row, module)
        self.observer.live.exempt(module)  # weights are not activations
        return module, make

    def _count_modules(self, copies: int, row: Row) -> None:
        self.modules += copies
        if self.modules > MAX_MODULES:
            raise NetbuildError(
                f"{row.label}: more than {MAX_MODULES} modules once repeats and blocks are expanded", row.where
            )

    def _run(self, module: nn.Module, inputs: list[Any], call_style: str) -> Any:
        """Run a module while the observer counts its operators."""
        self.observer.counting = True
        try:
            for x in tensors_of(inputs):
                _check_not_empty(x, "a source is empty")
            out = call_module(module, inputs, call_style)
            _check_not_empty(first_tensor(out), "its output is empty")
            return out
        finally:
            self.observer.counting = False

    def _build_block(
        self, block: Block, row: Row, bound: BoundCall, inputs: list[Any], copies: int, scope: Scope
    ) -> tuple[nn.Module, Callable[[], nn.Module], tuple[BlockCopy, ...], Any]:
        """Resolve a block as often as its row repeats it, each copy on the output of the one before."""
        values: Any = inputs
        resolved: list[BlockCopy] = []
        for _ in range(copies):
            self._count_modules(1, row)
            copy, values = self._resolve_block(block, row, bound, values, scope)
            resolved.append(copy)
        title = block.name
        if copies == 1:
            return resolved[0].skeleton(title), lambda: resolved[0].make(title), tuple(resolved), values[0]
        skeleton = nn.Sequential(*(copy.skeleton(title) for copy in resolved))
        _check_repeats_without_targets(row, skeleton)
        return skeleton, lambda: nn.Sequential(*(copy.make(title) for copy in resolved)), tuple(resolved), values[0]

    def _resolve_block(
        self, block: Block, row: Row, bound: BoundCall, inputs: list[Any], scope: Scope
    ) -> tuple[BlockCopy, list[Any]]:
        """Resolve the rows of a block; return them with the block's output in a list, the input of the next copy."""
        if self.levels >= MAX_LEVELS:  # a block may be the value of its own parameter
            raise block.node.error(f"blocks nested deeper than {MAX_LEVELS} levels")
        channels = list(measure_sources(inputs, self.imgsz).channels)
        block_inputs = _block_inputs(block, row, inputs)
        defaults = {p.name: p.default for p in bound.factory.parameters if not p.required}
        block_names = {"c1": channels[0] if len(channels) == 1 else channels, **defaults, **bound.call}
        # Numbers inside a block are not scaled, just as those inside a module class are not.
        names = {**scope.file_names, **block_names}
        inner = replace(scope, names=names, scale=Scale(scope.scale.name), divisor=1)
        self.levels += 1
        try:
            layers, values = self.resolve_rows(block.rows, block_inputs, lambda _: inner, block.result, nested=True)
        except NetbuildError as error:
            error.message += f"\n  in block {block.name}, used at line {row.where.line} by {row.label}"
            raise
        finally:
            self.levels -= 1
        plan = Plan(tuple(layer.step for layer in layers), block.result, block.listed_result)
        keys = tuple(_child_name(layer.row) for layer in layers)
        result = [values[i] for i in block.result]
        copy = BlockCopy(tuple(layers), keys, plan, tuple(block.inputs), block_names)
        return copy, [result if block.listed_result else result[0]]


def _child_name(row: Row) -> str:
    """The name of a block's row in the state dict: the row's own, or its number where `Rows` has such an attribute."""
    return row.name if row.name and not hasattr(nn.Module, row.name) and row.name not in _RESERVED else str(row.index)


def _scale_repeats(row: Row, scope: Scope) -> int:
    """Evaluate a row's repeats and multiply them by the scale's depth; 1 stays 1."""
    n = row.n
    if isinstance(n, Node):
        n = check_repeats(evaluate_argument(n, scope.names), n, row.index)
    return max(round(n * scope.scale.depth), 1) if n > 1 else n


def _set_batch_norm_constants(module: nn.Module, task: str | None, eps: float | None) -> None:
    """Set eps and momentum of all batch norms: eps to the file's, the rest as Ultralytics does for some tasks."""
    constants = ultralytics.norm_constants(task)
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            if constants:
                child.eps, child.momentum = constants
            child.eps = child.eps if eps is None else eps


def _result_names(block: Block | None) -> tuple[str, ...]:
    if block is None or not block.listed_result:
        return ()
    return tuple(block.rows[i].name or str(i) if i >= 0 else "input" for i in block.result)


def _check_repeats_without_targets(row: Row, module: nn.Module) -> None:
    """Refuse repeats of a module that takes targets in training: copies in sequence could not be given them."""
    if type(module) is nn.Sequential and any(map(takes_targets, module)):
        message = f"{row.label} takes targets in training and cannot be repeated"
        raise NetbuildError(message, row.where, "write a row for each copy")


def _check_not_empty(x: torch.Tensor | None, message: str) -> None:
    if x is not None and x.numel() == 0:
        raise ShapeError(f"{message}: {shape_text(x.shape)}")


def _block_inputs(block: Block, row: Row, inputs: list[Any]) -> list[Any]:
    """The inputs of a block: one for each name in its ``inputs``, or a single value where it has none."""
    if not block.inputs:
        return [inputs[0] if len(inputs) == 1 else inputs]
    if len(block.inputs) != len(inputs):
        names = ", ".join(block.inputs)
        raise NetbuildError(f"{row.label} takes {len(block.inputs)} sources ({names}), not {len(inputs)}", row.where)
    return inputs
