"""A row is a call with holes: its values, the file's settings and what arrives, bound to a constructor's parameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar import ultralytics as compat
from netbuild.grammar.expressions import Call
from netbuild.grammar.keys import SETTINGS
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_CHANNELS, Row, argument
from netbuild.grammar.spec import Scale
from netbuild.modules import registry
from netbuild.modules.factory import Factory, Parameter
from netbuild.roles import SUPPLIED, Activation, Depth, In, Role, Setting, Size, Stride, Width

MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True)
class Arriving:
    """What a row's sources bring: channels (None where an output is no single map), sizes and strides."""

    channels: tuple[int | None, ...]
    sizes: tuple[tuple[int, int] | None, ...]
    strides: tuple[float | None, ...]


@dataclass(frozen=True)
class Scope:
    """What rows may refer to: names with values, settings of the file, the scale, and the rule for widths."""

    names: Mapping[str, Any]
    settings: Mapping[str, Any]
    scale: Scale
    divisor: int = 1
    ultralytics: bool = False  # whether compat applies: a backbone/head file
    file_names: Mapping[str, Any] = field(default_factory=dict)  # those of the file: what a block sees beside its own


@dataclass(frozen=True)
class Bound:
    """A bound call: the constructor's keyword arguments, and the arguments as a table shows them."""

    factory: Factory
    call: Mapping[str, Any]
    positional: tuple[Any, ...] = ()
    shown: tuple[Any, ...] = ()
    shown_keywords: Mapping[str, Any] = field(default_factory=dict)
    takes_repeats: bool = False
    listed: bool = False  # the module takes a list of inputs

    def make(self) -> nn.Module:
        """A new module of this call."""
        return self.factory.make(*map(_made, self.positional), **{k: _made(v) for k, v in self.call.items()})

    def arguments(self) -> list[Any]:
        """The arguments as a list: keywords, if any, in a mapping at the end."""
        shown = [_plain(value) for value in self.shown]
        if self.shown_keywords:
            shown.append({key: _plain(value) for key, value in self.shown_keywords.items()})
        return shown


def _made(value: Any) -> Any:
    return registry.instantiate(value) if isinstance(value, Call) else value


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def scaled_width(value: int, scope: Scope) -> int:
    """Channels after the scale: capped, multiplied, rounded up to a multiple of the divisor."""
    return math.ceil(min(value, scope.scale.max_channels) * scope.scale.width / scope.divisor) * scope.divisor


def bind(factory: Factory, row: Row, n: int, arriving: Arriving, scope: Scope) -> Bound:
    """Bind a row to a factory.

    Raises:
        NetbuildError: at the value that does not fit, or at the row.
    """
    own_style = not factory.foreign or (scope.ultralytics and factory.name in compat.OWN_STYLE)
    if not own_style and row.args:
        return _bind_full(factory, row, scope)
    supplied = _supplied(factory, row, n, arriving, scope)
    if scope.ultralytics:
        row = compat.without_declared_width(row)
    free = [p for p in factory.parameters if p.role not in SUPPLIED]
    if len(row.args) > len(free) and not factory.variadic:
        raise _too_many(factory, row, free, supplied, scope)
    values = {p.name: _value(p, node, row, scope) for p, node in zip(free, row.args, strict=False)}
    keywords = _keywords(factory, row, values, supplied if own_style else {}, scope)
    if scope.ultralytics:
        compat.adjust(factory.name, values, scope.scale)
    call = {**supplied, **values, **keywords}
    _check_complete(factory, row, call, supplied)
    shown = {k: v for k, v in {**supplied, **values}.items() if k not in keywords}
    return Bound(
        factory,
        call,
        shown=tuple(shown[p.name] for p in factory.parameters if p.name in shown and _is_shown(p)),
        shown_keywords=keywords,
        takes_repeats=factory.takes(Depth),
        listed=any(p.role is In and p.wants_list for p in factory.parameters),
    )


def _is_shown(parameter: Parameter) -> bool:
    return parameter.role not in (Size, Stride, Setting)


def _supplied(factory: Factory, row: Row, n: int, arriving: Arriving, scope: Scope) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for p in factory.parameters:
        if p.role is In:
            if p.types == (int,) and len(arriving.channels) > 1:
                message = f"{row.label} takes one source, {len(arriving.channels)} are given"
                raise NetbuildError(message, row.where, "join them first, with a Concat or Add row")
            values[p.name] = _pick(p, [_channels(c, row) for c in arriving.channels])
        elif p.role is Depth and not factory.foreign:
            values[p.name] = n
        elif p.role is Size:
            values[p.name] = _pick(p, arriving.sizes)
        elif p.role is Stride and None not in arriving.strides:
            values[p.name] = _pick(p, arriving.strides)
        elif p.role is Setting and scope.settings.get(p.name) is not None:
            values[p.name] = scope.settings[p.name]
    return values


def _pick(parameter: Parameter, values: Sequence[Any]) -> Any:
    return list(values) if parameter.wants_list or len(values) > 1 else values[0]


def _channels(channels: int | None, row: Row) -> int:
    if channels is None:
        raise NetbuildError(
            f"{row.label} needs input channels, but a source gives no single map",
            row.where,
            "take its maps from earlier rows",
        )
    return channels


def _bind_full(factory: Factory, row: Row, scope: Scope) -> Bound:
    parameters = factory.parameters
    if len(row.args) > len(parameters) and not factory.variadic:
        raise _too_many(factory, row, list(parameters), {}, scope)
    extra = [Parameter(f"value {i}", Role.PLAIN, (), None, False) for i in range(len(row.args))]
    # Positional values of torch's own modules are their full signature, and exact.
    values = [
        _checked(p, argument(node, scope.names), node, row)
        for p, node in zip((*parameters, *extra[len(parameters) :]), row.args, strict=False)
    ]
    given = {p.name: v for p, v in zip(parameters, values, strict=False)}
    keywords = _keywords(factory, row, given, {}, scope)
    _check_complete(factory, row, {**given, **keywords}, {})
    return Bound(factory, keywords, tuple(values), tuple(values), keywords)


def _value(parameter: Parameter, node: Node, row: Row, scope: Scope) -> Any:
    value = argument(node, scope.names)
    if parameter.role is Activation:
        return _activation(value, node, row)
    if parameter.role is Width and type(value) is int and value >= 1 and isinstance(node.value, int):
        value = scaled_width(min(value, MAX_CHANNELS + 1), scope)
    value = _checked(parameter, value, node, row)
    if parameter.role is Width and not (type(value) is int and 1 <= value <= MAX_CHANNELS):
        what = "a whole number" if type(value) is int else node.kind() + " where a whole number"
        raise node.error(f"{row.label}: {parameter.name} must be {what} from 1 to {MAX_CHANNELS} channels")
    return value


def _activation(value: Any, node: Node, row: Row) -> Any:
    if value is None or isinstance(value, bool):
        return value
    try:
        registry.activation(value)
    except NetbuildError as error:
        raise node.error(f"{row.label}: {error.message}", error.hint) from None
    return value


def _checked(parameter: Parameter, value: Any, node: Node, row: Row) -> Any:
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise node.error(f"{row.label}: {parameter.name} is {value}: too large")
    if isinstance(value, Call):
        try:
            registry.instantiate(value)
        except NetbuildError as error:
            raise node.error(f"{row.label}: {error.message}", error.hint) from None
    elif not _fits(value, parameter):
        raise _misfit(parameter, value, node, row)
    return value


def _misfit(parameter: Parameter, value: Any, node: Node, row: Row) -> NetbuildError:
    numeric = not parameter.types or set(parameter.types) & {int, float}
    if isinstance(value, str):
        found, wanted = f"the text {shorten(repr(value))}", "a number is needed" if numeric else ""
    else:
        found, wanted = shorten(repr(value)), ""
    wanted = wanted or f"{' or '.join(dict.fromkeys(map(_type_name, parameter.types)))} is needed"
    position = f"argument {list(row.args).index(node) + 1}, " if node in row.args else ""
    message = f"{row.label}: {position}{parameter.name}: {found} stands where {wanted}"
    return node.error(message, _misfit_hint(value) if isinstance(value, str) else "")


def _misfit_hint(text: str) -> str:
    if text in SETTINGS:
        return f"'{text}' has no value here: set it in the file{f' or by --{text}' if text in ('nc', 'ch') else ''}"
    words = {"none": "None", "nan": ".nan", "inf": ".inf", "on": "true", "yes": "true", "off": "false", "no": "false"}
    return f"write {words[text.lower()]}" if text.lower() in words else ""


def _type_name(t: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", type(None): "None", str: "a text"}.get(
        t, "a list" if t in (list, tuple) else f"a {t.__name__}"
    )


def _fits(value: Any, parameter: Parameter) -> bool:
    if not parameter.types:
        # Without an annotation the default tells whether a text can be meant.
        return not (isinstance(value, str) and isinstance(parameter.default, (int, float)))
    types = {t for t in parameter.types if not issubclass(t, nn.Module)}  # only a call stands for a module
    if not types <= {int, float, bool, str, list, tuple, type(None)}:
        return True  # a type of the module's own: its constructor knows
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


def _keywords(
    factory: Factory, row: Row, given: Mapping[str, Any], supplied: Mapping[str, Any], scope: Scope
) -> dict[str, Any]:
    by_name = {p.name: p for p in factory.parameters}
    values = {}
    for name, node in row.kwargs:
        parameter = by_name.get(name)
        if parameter is None and factory.open:
            parameter = Parameter(name, Role.PLAIN, (), None, False)
        if parameter is None:
            hint = did_you_mean(name, by_name) or f"it takes {factory.signature(supplied)}"
            raise node.error(f"{row.label} has no argument '{name}'", hint)
        if name in given:
            raise node.error(f"{row.label}: '{name}' is given twice, by position and by keyword")
        if name in supplied and parameter.role is not Setting:
            raise node.error(
                f"{row.label}: '{name}' is supplied by netbuild ({supplied[name]} arrives)", "leave it out"
            )
        values[name] = _value(parameter, node, row, scope)
    return values


def _too_many(
    factory: Factory, row: Row, free: Sequence[Parameter], supplied: Mapping[str, Any], scope: Scope
) -> NetbuildError:
    given = shorten([argument(node, scope.names) for node in row.args])
    count = f"at most {len(free)}" if free else "none"
    message = f"{row.label}: {len(row.args)} values given, {given}, but a row gives it {count}"
    message += f": {', '.join(p.name for p in free)}" if free else ""
    inputs = {
        name: value
        for name, value in supplied.items()
        if any(p.name == name and p.role is In for p in factory.parameters)
    }
    hint = f"it takes {factory.signature(supplied)}"
    for name, value in inputs.items():
        at = f" at scale {scope.scale.name}" if scope.scale.name else ""
        message += f". {name}, the input channels, is supplied: {value} arrive{at}"
        if len(row.args) == len(free) + 1 and isinstance(row.args[0].value, int):
            hint += f"; leave out {row.args[0].value}"
    return NetbuildError(message, row.args[len(free)].where if not inputs else row.args[0].where, hint)


def _check_complete(factory: Factory, row: Row, call: Mapping[str, Any], supplied: Mapping[str, Any]) -> None:
    missing = [p.name for p in factory.parameters if p.required and p.name not in call]
    if not missing:
        return
    hint = f"it takes {factory.signature(supplied)}"
    if factory.foreign and factory.takes(In):
        hint += (
            "; positional values of torch's modules are the full signature, keywords get the input channels filled in"
        )
    raise NetbuildError(f"{row.label}: {', '.join(missing)} missing", row.where, hint)
