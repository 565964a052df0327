"""Channels of the source that rows of forks write, although netbuild supplies them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from netbuild.errors import NetbuildError
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_CHANNELS, Row
from netbuild.graph.scope import Scope, scale_width
from netbuild.layers.pack import TWO_WIDTH_FORMS, WIDTH_FORMS
from netbuild.modules.factory import Factory, Parameter
from netbuild.roles import In, Width

# An integer below this may be an option, such as a reduction or a kernel size; widths of public files are larger.
LEAST_WIDTH = 64


def choose_form(row: Row) -> str:
    """Return the name of the row's module, or that of its other form, which the widths that the row writes tell."""
    is_width = [type(argument.value) is int and argument.value >= LEAST_WIDTH for argument in row.args[:2]]
    name = WIDTH_FORMS.get(row.module, row.module) if is_width[:1] == [True] else row.module
    return TWO_WIDTH_FORMS.get(row.module, name) if is_width == [True, True] else name


def drop_written_channels(
    factory: Factory,
    row: Row,
    free: Sequence[Parameter],
    supplied: Mapping[str, Any],
    arriving: Sequence[int | None],
    scope: Scope,
) -> tuple[Row, Scope, str]:
    """Drop the channels of the source that a row of a fork writes before the module's other arguments.

    Only rows of a backbone/head file are changed, and only where the number is the one that arrives: as it is written,
    or as the scale makes it. Rows of custom modules write such a number where they have one value too many. Rows of the
    pack write it too before a further width, or as the width of a module that keeps the channels of its source.

    Args:
        factory: builds the row's module.
        row: its first argument may be dropped.
        free: the parameters that the row's positional arguments are for.
        supplied: arguments that netbuild supplies.
        arriving: channels of the sources.
        scope: scales widths.

    Returns:
        The row, the scope for its other widths, and a note on the dropped value; an empty note for a row that stays.
        Widths after channels that are written as they arrive, although the file has a scale, are not scaled either.

    Raises:
        NetbuildError: at a row of the pack that writes a width other than the channels of its source.
    """
    value = row.args[0].value if row.args else None
    channels = _find_channels(factory, supplied, arriving)
    if not scope.ultralytics or type(value) is not int or value < 1 or channels is None:
        return row, scope, ""
    scaled = scale_width(min(value, MAX_CHANNELS), scope)
    is_channels = channels in (value, scaled)
    keywords = {name for name, _ in row.kwargs} & {p.name for p in free}
    is_one_too_many = len(row.args) + len(keywords) == len(free) + 1
    if factory.is_pack:
        writes = is_one_too_many or _writes_channels(row, free, is_channels)
        if writes and not is_channels and value >= LEAST_WIDTH and not _has_width(free):
            raise _mismatch_error(row, free, value, scaled, channels)
    else:
        writes = factory.is_custom and is_one_too_many
    if not writes or not is_channels:  # too many values are an error of their own
        return row, scope, ""
    at = f" ({channels} at scale {scope.scale.name})" if channels != value else ""
    note = f"{row.label}: {value}{at} are the input channels, which netbuild supplies: leave {value} out"
    if factory.is_pack and channels == value != scaled:
        scope = replace(scope, scale=replace(scope.scale, width=1.0, max_channels=float("inf")), divisor=1)
    return replace(row, args=row.args[1:]), scope, note


def _find_channels(factory: Factory, supplied: Mapping[str, Any], arriving: Sequence[int | None]) -> int | None:
    """Find the channels that the module is built for; of several sources the most, as forks count them."""
    inputs = [supplied[p.name] for p in factory.parameters if p.role is In and p.name in supplied]
    if factory.is_custom:
        return inputs[0] if len(inputs) == 1 and isinstance(inputs[0], int) else None
    if len(arriving) > 1 and not inputs:
        return None
    return max((c for c in arriving if c is not None), default=None)


def _has_width(free: Sequence[Parameter]) -> bool:
    return any(p.role is Width for p in free)


def _writes_channels(row: Row, free: Sequence[Parameter], is_channels: bool) -> bool:
    """Whether the first value of a row of the pack can only be channels of its source."""
    if _has_width(free):  # then a second value that is a width must be the output channels
        return is_channels and len(row.args) > 1 and len(free) > 1 and _is_width(row.args[1], free[1])
    if free and _needs_integer(free[0]):  # the number is for this parameter
        return False
    return is_channels or not free or _is_width(row.args[0], free[0])


def _needs_integer(parameter: Parameter) -> bool:
    return parameter.required and int in parameter.types


def _is_width(node: Node, parameter: Parameter) -> bool:
    """Whether a value is clearly a width, and no value for an option whose default is far smaller."""
    value, default = node.value, parameter.default
    if parameter.role is Width or _needs_integer(parameter):
        return False
    if type(value) is not int or value < LEAST_WIDTH or value % 8:
        return False
    return not isinstance(default, int | float) or value > 2 * default


def _mismatch_error(row: Row, free: Sequence[Parameter], value: int, scaled: int, channels: int) -> NetbuildError:
    at = f" ({scaled} after scaling)" if scaled != value else ""
    message = f"{row.label} keeps the channels of its source: {value}{at} are written, {channels} arrive"
    hint = f"leave {value} out"
    if free:
        hint += f"; if it is {free[0].name}, write {{{free[0].name}: {value}}}"
    return row.args[0].error(message, hint)
