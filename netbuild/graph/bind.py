"""Bind a row to a module's constructor: its arguments, the file's settings and the shapes of its sources fill the call.

Each parameter has a `Role`, which decides where its value comes from.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar import ultralytics
from netbuild.grammar.expressions import Call
from netbuild.grammar.keys import SETTINGS
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_CHANNELS, Row, evaluate_argument
from netbuild.graph.scope import Scope, scale_width
from netbuild.graph.written_channels import drop_written_channels
from netbuild.modules import registry
from netbuild.modules.factory import Factory, Parameter
from netbuild.roles import SUPPLIED, Activation, Depth, In, Role, Setting, Size, Stride, Width

MAX_INTEGER = 2**31 - 1  # of an argument: a larger one must be a mistake


@dataclass(frozen=True)
class SourceShapes:
    """Channels, sizes and strides of the outputs that a row reads; None where an output is not a single feature map."""

    channels: tuple[int | None, ...]
    sizes: tuple[tuple[int, int] | None, ...]  # (height, width)
    strides: tuple[float | None, ...]  # image pixels per step


@dataclass(frozen=True)
class BoundCall:
    """A constructor call with all its arguments, and the arguments that a table shows."""

    factory: Factory
    call: Mapping[str, Any]  # keyword arguments
    positional: tuple[Any, ...] = ()
    shown: tuple[Any, ...] = ()
    shown_keywords: Mapping[str, Any] = field(default_factory=dict)
    takes_repeats: bool = False  # the module repeats its parts itself, so the row is built once
    takes_list: bool = False  # the module's forward takes a list of inputs
    note: str = ""  # a remark for the user on how the row was read

    def make(self) -> nn.Module:
        """Build a new module."""
        keywords = {name: _build_nested(value) for name, value in self.call.items()}
        return self.factory.make(*map(_build_nested, self.positional), **keywords)

    def arguments(self) -> list[Any]:
        """Return the shown arguments as plain values; keyword arguments form a dict at the end of the list."""
        shown = [_to_plain(value) for value in self.shown]
        if self.shown_keywords:
            shown.append({key: _to_plain(value) for key, value in self.shown_keywords.items()})
        return shown


def _build_nested(value: Any) -> Any:
    """Build the module of an argument such as ``nn.ReLU()``; return any other value as it is."""
    return registry.build_call(value) if isinstance(value, Call) else value


def _to_plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def bind(factory: Factory, row: Row, n: int, sources: SourceShapes, scope: Scope) -> BoundCall:
    """Bind a row to a factory.

    Args:
        factory: builds the row's module.
        row: its arguments are bound.
        n: the row's repeats after scaling.
        sources: shapes of the outputs that the row reads.
        scope: the values that its arguments may refer to.

    Raises:
        NetbuildError: at the argument that does not fit, or at the row.
    """
    own_style = not factory.foreign or (scope.ultralytics and factory.name in ultralytics.OWN_STYLE)
    if not own_style and row.args:
        return _bind_full_signature(factory, row, scope)
    supplied = _supply(factory, row, n, sources, scope)
    if scope.ultralytics:
        row = ultralytics.drop_declared_width(row)
    free = [p for p in factory.parameters if p.role not in SUPPLIED]
    if factory.has_varargs:  # values by position reach a parameter after *args only through *args
        names = _positional_names(factory)
        free = [p for p in free if p.name in names]
    row, scope, note = drop_written_channels(factory, row, free, supplied, sources.channels, scope)
    if len(row.args) > len(free) and not factory.has_varargs:
        raise _too_many_error(factory, row, free, supplied, scope)
    values = {p.name: _bind_value(p, node, row, scope) for p, node in zip(free, row.args, strict=False)}
    keywords = _bind_keywords(factory, row, values, supplied if own_style else {}, scope)
    if scope.ultralytics:
        ultralytics.apply_scale(factory.name, values, scope.scale)
    # Keywords come last: they override settings of the file and arguments that the scale decides.
    call = {**supplied, **values, **keywords}
    _check_complete(factory, row, call, supplied)
    shown = {k: v for k, v in {**supplied, **values}.items() if k not in keywords}
    further = tuple(_bind_value(_FURTHER, node, row, scope) for node in row.args[len(free) :])
    positional = _take_positional(factory, call) + further if further else ()
    return BoundCall(
        factory,
        call,
        positional,
        shown=(*(shown[p.name] for p in factory.parameters if p.name in shown and _is_shown(p)), *further),
        shown_keywords=keywords,
        takes_repeats=factory.takes(Depth),
        takes_list=any(p.role is In and p.takes_list for p in factory.parameters),
        note=note,
    )


_FURTHER = Parameter("*args", Role.PLAIN, (), None, False)


def _positional_names(factory: Factory) -> list[str]:
    """The parameters of a constructor that a value by position reaches, in order."""
    parameters = inspect.signature(factory.make).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _take_positional(factory: Factory, call: dict[str, Any]) -> tuple[Any, ...]:
    """Move the arguments before ``*args`` out of a call by keyword; those that it lacks have their default."""
    defaults = {p.name: p.default for p in factory.parameters}
    return tuple(call.pop(name, defaults[name]) for name in _positional_names(factory))


def _is_shown(parameter: Parameter) -> bool:
    return parameter.role not in (Size, Stride, Setting)


def _supply(factory: Factory, row: Row, n: int, sources: SourceShapes, scope: Scope) -> dict[str, Any]:
    """Collect the arguments that a row does not write: shapes of its sources, repeats, settings of the file."""
    values: dict[str, Any] = {}
    for p in factory.parameters:
        if p.role is In:
            if p.types == (int,) and len(sources.channels) > 1:
                message = f"{row.label} takes one source, {len(sources.channels)} are given"
                raise NetbuildError(message, row.where, "join them first, with a Concat or Add row")
            values[p.name] = _one_or_list(p, [_check_channels(c, row) for c in sources.channels])
        elif p.role is Depth and not factory.foreign:  # `n` or `depth` of another package means something else
            values[p.name] = n
        elif p.role is Size:
            values[p.name] = _one_or_list(p, sources.sizes)
        elif p.role is Stride and None not in sources.strides:  # if one is unknown, the default stays
            values[p.name] = _one_or_list(p, sources.strides)
        elif p.role is Setting and scope.settings.get(p.name) is not None:
            values[p.name] = scope.settings[p.name]
    return values


def _one_or_list(parameter: Parameter, values: Sequence[Any]) -> Any:
    """Return the value of the only source, or a list with one value for each source."""
    return list(values) if parameter.takes_list or len(values) > 1 else values[0]


def _check_channels(channels: int | None, row: Row) -> int:
    if channels is None:
        raise NetbuildError(
            f"{row.label} needs input channels, but the output of a source is not a single feature map",
            row.where,
            "read feature maps of earlier rows",
        )
    return channels


def _bind_full_signature(factory: Factory, row: Row, scope: Scope) -> BoundCall:
    """Bind a module of another package whose row has positional arguments: they are its full signature, unscaled."""
    parameters = factory.parameters
    if len(row.args) > len(parameters) and not factory.has_varargs:
        raise _too_many_error(factory, row, list(parameters), {}, scope)
    extra = [Parameter(f"value {i}", Role.PLAIN, (), None, False) for i in range(len(row.args))]  # for *args
    values = [
        _check_value(p, evaluate_argument(node, scope.names), node, row)
        for p, node in zip((*parameters, *extra[len(parameters) :]), row.args, strict=False)
    ]
    by_name = {p.name: v for p, v in zip(parameters, values, strict=False)}
    keywords = _bind_keywords(factory, row, by_name, {}, scope)
    _check_complete(factory, row, {**by_name, **keywords}, {})
    return BoundCall(factory, keywords, tuple(values), tuple(values), keywords)


def _bind_value(parameter: Parameter, node: Node, row: Row, scope: Scope) -> Any:
    """Evaluate an argument of a row, scale it if it is a width, and check that it fits the parameter."""
    value = evaluate_argument(node, scope.names)
    if parameter.role is Activation:
        return _check_activation(value, node, row)
    # Only a literal width is scaled: `nc` and expressions are exact.
    if parameter.role is Width and type(value) is int and value >= 1 and isinstance(node.value, int):
        value = scale_width(min(value, MAX_CHANNELS + 1), scope)
    value = _check_value(parameter, value, node, row)
    if parameter.role is Width and not (type(value) is int and 1 <= value <= MAX_CHANNELS):
        found = "" if type(value) is int else f", not {node.describe()}"
        raise node.error(
            f"{row.label}: {parameter.name} must be a whole number from 1 to {MAX_CHANNELS} channels{found}"
        )
    return value


def _check_activation(value: Any, node: Node, row: Row) -> Any:
    """Return an activation argument as it is, after a try to build it."""
    if value is None or isinstance(value, bool):
        return value
    try:
        registry.make_activation(value)
    except NetbuildError as error:
        raise node.error(f"{row.label}: {error.message}", error.hint) from None
    return value


def _check_value(parameter: Parameter, value: Any, node: Node, row: Row) -> Any:
    """Return a value as it is, or raise an error at its place if the parameter cannot take it."""
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise node.error(f"{row.label}: {parameter.name} is {value}: too large")
    if isinstance(value, Call):
        try:
            registry.build_call(value)
        except NetbuildError as error:
            raise node.error(f"{row.label}: {error.message}", error.hint) from None
    elif not accepts_value(parameter, value):
        raise _type_mismatch(parameter, value, node, row)
    return value


def _type_mismatch(parameter: Parameter, value: Any, node: Node, row: Row) -> NetbuildError:
    numeric = not parameter.types or set(parameter.types) & {int, float}
    if isinstance(value, str):
        found, expected = f"the text {shorten(repr(value))}", "a number" if numeric else ""
    else:
        found, expected = shorten(repr(value)), ""
    expected = expected or " or ".join(dict.fromkeys(map(_type_name, parameter.types)))
    position = f"argument {list(row.args).index(node) + 1}, " if node in row.args else ""
    message = f"{row.label}: {position}{parameter.name}: {found} stands where {expected} is needed"
    return node.error(message, _type_mismatch_hint(value) if isinstance(value, str) else "")


def _type_mismatch_hint(text: str) -> str:
    if text in SETTINGS:
        return f"'{text}' has no value here: set it in the file{f' or by --{text}' if text in ('nc', 'ch') else ''}"
    words = {"none": "None", "nan": ".nan", "inf": ".inf", "on": "true", "yes": "true", "off": "false", "no": "false"}
    return f"write {words[text.lower()]}" if text.lower() in words else ""


def _type_name(t: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", type(None): "None", str: "a text"}.get(
        t, "a list" if t in (list, tuple) else f"a {t.__name__}"
    )


def accepts_value(parameter: Parameter, value: Any) -> bool:
    """Whether a parameter takes a value, by its annotation or else by its default."""
    if not parameter.types:
        # Without an annotation, a numeric default shows that the parameter takes no text.
        return not (isinstance(value, str) and isinstance(parameter.default, (int, float)))
    types = {t for t in parameter.types if not issubclass(t, nn.Module)}  # only a call such as nn.ReLU() is a module
    if not types <= {int, float, bool, str, list, tuple, type(None)}:
        return True  # a type that only the module's constructor can check
    if value is None:
        return type(None) in types or parameter.default is None
    if isinstance(value, bool):
        return bool(types & {bool, int})
    if isinstance(value, int):
        return bool(types & {int, float}) or (bool in types and value in (0, 1))
    if isinstance(value, float):
        return float in types
    if isinstance(value, list):
        return bool(types & {list, tuple})
    return isinstance(value, str) and str in types


def _bind_keywords(
    factory: Factory, row: Row, positional: Mapping[str, Any], supplied: Mapping[str, Any], scope: Scope
) -> dict[str, Any]:
    """Bind the keyword arguments of a row.

    Args:
        factory: builds the row's module.
        row: its keyword arguments are bound.
        positional: arguments already bound by position, by name.
        supplied: arguments that netbuild supplies, which the row may not set; settings of the file excepted.
        scope: the values that arguments may refer to.
    """
    by_name = {p.name: p for p in factory.parameters}
    values = {}
    for name, node in row.kwargs:
        parameter = by_name.get(name)
        if parameter is None and factory.takes_any_keyword:
            parameter = Parameter(name, Role.PLAIN, (), None, False)
        if parameter is None:
            hint = did_you_mean(name, by_name) or f"it takes {factory.signature(supplied)}"
            raise node.error(f"{row.label} has no argument '{name}'", hint)
        if name in positional:
            raise node.error(f"{row.label}: '{name}' is given twice, by position and by keyword")
        if name in supplied and parameter.role is not Setting:
            if scope.ultralytics and parameter.role is In and node.value == supplied[name]:
                continue  # a row of a fork with its full signature in one mapping
            raise node.error(
                f"{row.label}: '{name}' is supplied by netbuild ({supplied[name]} arrives)", "leave it out"
            )
        values[name] = _bind_value(parameter, node, row, scope)
    return values


def _too_many_error(
    factory: Factory, row: Row, free: Sequence[Parameter], supplied: Mapping[str, Any], scope: Scope
) -> NetbuildError:
    values = shorten([evaluate_argument(node, scope.names) for node in row.args])
    count = f"at most {len(free)}" if free else "none"
    message = f"{row.label}: {len(row.args)} values given, {values}, but a row may give {count}"
    message += f": {', '.join(p.name for p in free)}" if free else ""
    inputs = {p.name: supplied[p.name] for p in factory.parameters if p.role is In and p.name in supplied}
    hint = f"it takes {factory.signature(supplied)}"
    for name, value in inputs.items():
        at = f" at scale {scope.scale.name}" if scope.scale.name else ""
        message += f". {name}, the input channels, is supplied: {value} arrive{at}"
        if len(row.args) == len(free) + 1 and isinstance(row.args[0].value, int):
            hint += f"; leave out {row.args[0].value}"
    if factory.input_hint:
        hint += f"; {factory.input_hint}"
    return NetbuildError(message, row.args[len(free)].where if not inputs else row.args[0].where, hint)


def _check_complete(factory: Factory, row: Row, call: Mapping[str, Any], supplied: Mapping[str, Any]) -> None:
    missing = [p.name for p in factory.parameters if p.required and p.name not in call]
    if not missing:
        return
    hint = f"it takes {factory.signature(supplied)}"
    if factory.foreign and factory.takes(In):
        hint += (
            "; by position a module of another package takes its full signature,"
            " by keyword netbuild fills in the input channels"
        )
    if factory.input_hint:
        hint += f"; {factory.input_hint}"
    raise NetbuildError(f"{row.label}: {', '.join(missing)} missing", row.where, hint)
