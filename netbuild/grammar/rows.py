"""Rows and blocks of a network file, with their places, and what a row's argument may be. No torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netbuild.errors import NetbuildError, Where, did_you_mean, shorten
from netbuild.grammar import expressions
from netbuild.grammar.nodes import Node

MAX_ROWS = 20_000
MAX_REPEATS = 1_000
MAX_LEVELS = 32  # of blocks in blocks
MAX_NAMES = 100  # that a hint chooses from, the nearest
MAX_CHANNELS = 65_536
INPUT = -1  # the index that stands for the image; a block's further inputs are -2, -3, ...

SECTIONS = ("layers", "backbone", "neck", "head")
ROW_KEYS = ("from", "n", "module", "args", "name")
SHAPE = "[from, repeats, module, args] or [from, repeats, module, args, name]"
NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Row:
    """One row. ``sources`` are absolute row indices (`INPUT` is the image); ``listed`` tells that they were a list.

    ``selections`` has for each source the one output that is meant of a row with several, by number or name, or None.
    """

    index: int
    section: str
    name: str | None
    written_from: Any
    sources: tuple[int, ...]
    selections: tuple[int | str | None, ...]
    listed: bool
    n: int | Node
    module: str
    args: tuple[Node, ...]
    kwargs: tuple[tuple[str, Node], ...]
    node: Node
    module_node: Node

    @property
    def where(self) -> Where:
        """The place of the row."""
        return self.node.where

    @property
    def label(self) -> str:
        """How messages call the row: its number, name and module."""
        return f"row {self.index}{f' ({self.name})' if self.name else ''} {self.module}"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a block: its name, its default node (None: must be given) and a stated role, if any."""

    name: str
    default: Node | None
    role: str | None


@dataclass(frozen=True)
class Block:
    """A composite module written in YAML: parameters, rows, and the rows whose outputs it returns."""

    name: str
    params: tuple[Parameter, ...]
    inputs: tuple[str, ...]
    rows: tuple[Row, ...]
    result: tuple[int, ...]
    listed_result: bool
    node: Node


def attempt(errors: list[NetbuildError], function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives, or None with its error noted: reading goes on and finds the next one."""
    try:
        return function(*args)
    except NetbuildError as error:
        errors.append(error)
        return None


def check_name(node: Node, taken: set[str]) -> None:
    """Refuse a node that is no name, or a name that is taken."""
    if not isinstance(node.value, str) or not NAME_PATTERN.fullmatch(node.value):
        raise node.error(f"{node.describe()} is no name: letters, digits, _ and -, not beginning with a digit")
    if node.value in taken or node.value in expressions.WORDS:
        raise node.error(f"the name '{node.value}' is taken", "choose another")


def text_of(node: Node) -> str:
    """A node that must be a text; control characters could steer the terminal that it is shown on."""
    if not isinstance(node.value, str):
        raise node.error(f"must be a text, not {node.describe()}")
    if not node.value.isprintable():
        raise node.error(f"must be a text without control characters, not {node.describe()}")
    return node.value


# -- rows -----------------------------------------------------------------------------------------------------------


@dataclass
class Context:
    """What the rows of one list may refer to."""

    names: set[str]
    inputs: tuple[str, ...]
    named: dict[str, int] = field(default_factory=dict)


def read_rows(sections: Sequence[tuple[str, Node]], context: Context, errors: list[NetbuildError]) -> tuple[Row, ...]:
    """The rows of the sections in order, numbered through; their errors are noted."""
    rows: list[Row] = []
    index = 0
    for section, node in sections:
        if not isinstance(node.value, list):
            errors.append(node.error(f"'{section}' must be a list of rows, not {node.describe()}"))
            continue
        for item in node.value:
            row = attempt(errors, _row, item, index, section, context)
            index += 1
            if row:
                rows.append(row)
    if index > MAX_ROWS:
        raise sections[0][1].error(f"{index} rows; the limit is {MAX_ROWS}")
    if not index and not errors:
        raise sections[0][1].error(f"'{sections[0][0]}' has no rows")
    return tuple(rows)


def _row(node: Node, index: int, section: str, context: Context) -> Row:
    fields = _fields(node, index)
    # The name first: rows that refer to it need no second error when this row has one.
    name = _row_name(fields["name"], index, context) if "name" in fields else None
    module = fields["module"]
    if not isinstance(module.value, str) or not module.value.strip():
        raise module.error(f"row {index}: the module must be a name such as Conv, not {module.describe()}")
    repeats = _repeats(fields["n"], index, context.names)
    args, kwargs = _arguments(fields["args"], index)
    written = fields["from"]
    items = written.value if isinstance(written.value, list) else [written]
    if not items:
        raise written.error(f"row {index} {module.value}: the list of sources is empty")
    sources, selections = zip(*(_picked(item, index, module.value, context) for item in items), strict=True)
    listed = isinstance(written.value, list)
    return Row(
        index,
        section,
        name,
        written.plain(),
        sources,
        selections,
        listed,
        repeats,
        module.value,
        args,
        kwargs,
        node,
        module,
    )


def _fields(node: Node, index: int) -> dict[str, Node]:
    if isinstance(node.value, dict):
        return _mapping_fields(node, index)
    if not isinstance(node.value, list):
        raise node.error(f"row {index}: a row is a list {SHAPE}, not {node.describe()}")
    items = node.value
    if len(items) not in (4, 5):
        raise node.error(f"row {index}: {len(items)} fields, needs 4 {SHAPE[: SHAPE.index(' or')]}{_misplaced(items)}")
    return dict(zip(("from", "n", "module", "args", "name"), items, strict=False))


def _misplaced(items: Sequence[Node]) -> str:
    if len(items) > 5:
        return f", or 5 with a name: {items[5].describe()} is too many"
    if len(items) > 1 and isinstance(items[1].value, str):
        return f"; '{items[1].value}' stands where repeats belongs"
    return ""


def _mapping_fields(node: Node, index: int) -> dict[str, Node]:
    for key in node.value:
        if key not in ROW_KEYS:
            hint = did_you_mean(key, ROW_KEYS) or f"known: {', '.join(ROW_KEYS)}"
            raise node.keys[key].error(f"row {index}: unknown field '{key}'", hint)
    if "module" not in node.value:
        raise node.error(f"row {index}: the field 'module' is missing")
    defaults = {"from": -1, "n": 1, "args": []}
    missing = {key: Node(value, node.source, node) for key, value in defaults.items() if key not in node.value}
    return {**missing, **node.value}


def _repeats(node: Node, index: int, names: set[str]) -> int | Node:
    if isinstance(node.value, str) and (
        node.value in names or expressions.looks_arithmetic(node.value, dict.fromkeys(names))
    ):
        return node
    return check_repeats(node.value, node, index)


def check_repeats(value: Any, node: Node, index: int) -> int:
    """A row's repeat count as a whole number from 1 to `MAX_REPEATS`.

    Raises:
        NetbuildError: at ``node`` for anything else.
    """
    if type(value) is not int or value < 1:
        hint = "the order is [from, repeats, module, args]" if isinstance(value, str) else ""
        raise node.error(f"row {index}: repeats must be a whole number of at least 1, not {node.describe()}", hint)
    if value > MAX_REPEATS:
        raise node.error(f"row {index}: {value} repeats; the limit is {MAX_REPEATS}")
    return value


def _arguments(node: Node, index: int) -> tuple[tuple[Node, ...], tuple[tuple[str, Node], ...]]:
    if isinstance(node.value, dict):
        return (), tuple(node.value.items())
    if not isinstance(node.value, list):
        hint = "write [] for a module without arguments" if node.value is None else f"write [{shorten(node.plain())}]"
        raise node.error(f"row {index}: the arguments must be a list, not {node.describe()}", hint)
    positional = node.value
    keywords: tuple[tuple[str, Node], ...] = ()
    if positional and isinstance(positional[-1].value, dict):
        keywords, positional = tuple(positional[-1].value.items()), positional[:-1]
    for item in positional:
        if isinstance(item.value, dict):
            raise item.error(f"row {index}: keyword arguments come last, in one mapping")
    return tuple(positional), keywords


def _row_name(node: Node, index: int, context: Context) -> str:
    if not isinstance(node.value, str) or not NAME_PATTERN.fullmatch(node.value):
        raise node.error(f"row {index}: the fifth field is the row's name, and {node.describe()} is no name")
    if node.value in context.named:
        raise node.error(f"row {index}: the name '{node.value}' is row {context.named[node.value]}'s already")
    if node.value in ("input", *context.inputs):
        raise node.error(f"row {index}: the name '{node.value}' means the network's input", "choose another")
    context.named[node.value] = index
    return node.value


_PICK = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6})(?:\[([0-9]{1,4})\]|\.([A-Za-z_][A-Za-z0-9_]*))")


def _picked(node: Node, index: int, module: str, context: Context) -> tuple[int, int | str | None]:
    """A source and, of ``backbone[2]`` or ``backbone.p4``, which of the row's outputs is meant."""
    match = _PICK.fullmatch(node.value) if isinstance(node.value, str) else None
    if not match:
        return _source(node, index, module, context), None
    row, number, name = match.groups()
    whole = Node(int(row) if row.isdigit() else row, node.source, node)
    return _source(whole, index, module, context), int(number) if number else name


def _source(node: Node, index: int, module: str, context: Context) -> int:
    value, label = node.value, f"row {index} {module}"
    if isinstance(value, str):
        return _named_source(node, index, label, context)
    if type(value) is not int:
        raise node.error(f"{label}: a source is a row number or a row's name, not {node.describe()}")
    before = f"only rows 0..{index - 1} exist before it" if index else "no row exists before it"
    if value >= index:
        what = "the row itself" if value == index else f"row {value}"
        raise node.error(f"{label}: source {value} is {what}, but {before}", "write 'input' for the image")
    if value >= 0:
        return value
    if value == -1 and index == 0:
        return INPUT
    if index + value < 0:
        raise node.error(
            f"{label}: source {value} reaches before row 0; only {index} row{'s' * (index != 1)} precede it",
            "write 'input' to take the input image",
        )
    return index + value


def _named_source(node: Node, index: int, label: str, context: Context) -> int:
    if context.named.get(node.value, index) < index:
        return context.named[node.value]
    if node.value == "input":
        return INPUT
    if node.value in context.inputs:
        return INPUT - context.inputs.index(node.value)
    named = [name for name, row in context.named.items() if row < index]
    known = [*named[-MAX_NAMES:], "input", *context.inputs]
    hint = did_you_mean(node.value, known) or f"named so far: {', '.join(known)}"
    raise node.error(f"{label}: no row before it is named '{node.value}'", hint)


# -- arguments ------------------------------------------------------------------------------------------------------


def evaluate_argument(node: Node, names: Mapping[str, Any]) -> Any:
    """The value of an argument: a name of the file, a word (None, True), a module call, arithmetic, or the text itself.

    Raises:
        NetbuildError: if an expression uses an unknown name or does not compute.
    """
    value = node.value
    if isinstance(value, list):
        return [evaluate_argument(item, names) for item in value]
    if isinstance(value, dict):
        return {key: evaluate_argument(item, names) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    if value in expressions.WORDS:
        return expressions.WORDS[value]
    call = expressions.parse_call(value)
    if call and "." in call.name:
        return call
    if expressions.looks_arithmetic(value, names):
        try:
            return expressions.evaluate(value, names)
        except expressions.ExpressionError as error:
            raise node.error(f"'{shorten(value)}': {error}", f"names here: {', '.join(sorted(names))}") from None
    return value
