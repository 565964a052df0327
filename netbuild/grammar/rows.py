"""Read the rows of a network file with their places, and evaluate the arguments of rows."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from netbuild.errors import NetbuildError, Where, did_you_mean, shorten
from netbuild.grammar import expressions
from netbuild.grammar.nodes import Node
from netbuild.grammar.repeats import read_repeats

# These limits keep a hostile or mistyped file from running for hours.
MAX_ROWS = 20_000
MAX_LEVELS = 32  # nested blocks
MAX_NAMES = 100  # latest row names among which a hint looks for similar ones
MAX_CHANNELS = 65_536
INPUT = -1  # row number of the first input; further inputs are -2, -3, ...

SECTIONS = ("layers", "backbone", "neck", "head")
ROW_KEYS = ("from", "n", "module", "args", "name")
SHARE = "share"  # instead of n, module and args in a row that is a mapping: the row whose module it runs again
ROW_FORMAT = "[from, repeats, module, args]"
NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Row:
    """A row of the file.

    Attributes:
        index: its number, counted over all sections.
        section: the list that it is in, such as ``backbone``; ``rows`` in a block.
        name: the name that other rows may read it by, or None.
        written_from: its first field as written.
        sources: numbers of the rows that it reads; `INPUT` and below are inputs.
        selections: for each source the number or name of the output to read, None for all of it.
        listed: whether its sources are written as a list.
        n: its repeats before scaling, or the expression for them.
        module: the name of its module.
        args: its positional arguments.
        kwargs: its keyword arguments.
        node: the whole row.
        module_node: the module's name, for its place.
        shares: number of the row whose module, weights included, it runs again; None for a row with its own.
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
    shares: int | None = None

    @property
    def where(self) -> Where:
        """The place of the row."""
        return self.node.where

    @property
    def label(self) -> str:
        """The row's number, name and module, as error messages show them."""
        return f"row {self.index}{f' ({self.name})' if self.name else ''} {self.module}"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a block: its name, its default (None: it is required) and its role, if the file states one."""

    name: str
    default: Node | None
    role: str | None


@dataclass(frozen=True)
class Block:
    """A composite module written in YAML: its parameters, its rows, and the rows whose outputs it returns."""

    name: str
    params: tuple[Parameter, ...]
    inputs: tuple[str, ...]  # names of its inputs; empty where it has a single unnamed one
    rows: tuple[Row, ...]
    result: tuple[int, ...]  # rows whose outputs it returns
    listed_result: bool  # whether it returns a list, even of one output
    node: Node  # its key, for the place


def attempt(errors: list[NetbuildError], function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; if it fails, add its error to ``errors`` and return None, so that reading goes on."""
    try:
        return function(*args)
    except NetbuildError as error:
        errors.append(error)
        return None


def check_name(node: Node, taken: set[str]) -> None:
    """Refuse a node that is not a valid name, or a name that is taken.

    Raises:
        NetbuildError: at the node.
    """
    if not isinstance(node.value, str) or not NAME_PATTERN.fullmatch(node.value):
        raise node.error(f"{node.describe()} is not a valid name: use letters, digits, _ and -, and no digit first")
    if node.value in taken or node.value in expressions.WORDS:
        raise node.error(f"the name '{node.value}' is taken", "choose another")


def check_text(node: Node) -> str:
    """Return the text of a node; control characters are refused, since they could send commands to a terminal.

    Raises:
        NetbuildError: at a node that is not a text.
    """
    if not isinstance(node.value, str):
        raise node.error(f"must be a text, not {node.describe()}")
    if not node.value.isprintable():
        raise node.error(f"must be a text without control characters, not {node.describe()}")
    return node.value


# -- rows -----------------------------------------------------------------------------------------------------------


@dataclass
class Context:
    """The names that the rows of the file or of a block may refer to."""

    names: set[str]  # in expressions
    inputs: tuple[str, ...]
    named: dict[str, int] = field(default_factory=dict)  # numbers of the named rows read so far
    rows: dict[int, Row] = field(default_factory=dict)  # the rows read so far, without those that have errors


def read_rows(sections: Sequence[tuple[str, Node]], context: Context, errors: list[NetbuildError]) -> tuple[Row, ...]:
    """Read the rows of all sections, numbered consecutively.

    Args:
        sections: names and values of the sections, in order.
        context: the names that rows may refer to; names of rows are added to it.
        errors: mistakes in rows are added to it, so that reading goes on and finds the others.

    Raises:
        NetbuildError: for too many rows, or none.
    """
    rows: list[Row] = []
    index = 0
    for section, node in sections:
        if not isinstance(node.value, list):
            errors.append(node.error(f"'{section}' must be a list of rows, not {node.describe()}"))
            continue
        for item in node.value:
            row = attempt(errors, _read_row, item, index, section, context)
            index += 1
            if row:
                rows.append(row)
                context.rows[row.index] = row
    if index > MAX_ROWS:
        raise sections[0][1].error(f"{index} rows; the limit is {MAX_ROWS}")
    if not index and not errors:
        raise sections[0][1].error(f"'{sections[0][0]}' has no rows")
    return tuple(rows)


def _read_row(node: Node, index: int, section: str, context: Context) -> Row:
    if isinstance(node.value, dict) and SHARE in node.value:
        return _read_sharing_row(node, index, section, context)
    fields = _split_fields(node, index)
    # The name first: if the row has an error, rows that refer to it by name must not cause further errors.
    name = _read_name(fields["name"], index, context) if "name" in fields else None
    module = fields["module"]
    if not isinstance(module.value, str) or not module.value.strip():
        raise module.error(f"row {index}: the module must be a name such as Conv, not {module.describe()}")
    repeats = read_repeats(fields["n"], index, context.names)
    args, kwargs = _split_arguments(fields["args"], index)
    return Row(
        index=index,
        section=section,
        name=name,
        n=repeats,
        module=module.value,
        args=args,
        kwargs=kwargs,
        node=node,
        module_node=module,
        **_read_from(fields["from"], index, module.value, context),
    )


def _read_from(node: Node, index: int, module: str, context: Context) -> dict[str, Any]:
    """Return the attributes of a `Row` that its field ``from`` states."""
    items = node.value if isinstance(node.value, list) else [node]
    if not items:
        raise node.error(f"row {index} {module}: the list of sources is empty")
    sources, selections = zip(*(_read_source(item, index, module, context) for item in items), strict=True)
    return {
        "written_from": node.plain(),
        "sources": sources,
        "selections": selections,
        "listed": isinstance(node.value, list),
    }


def _read_sharing_row(node: Node, index: int, section: str, context: Context) -> Row:
    """Read a row such as ``{from: p4, share: tower}``: the module of the row that it names, run on other sources."""
    for key in node.value:
        if key not in ("from", SHARE, "name"):
            hint = "a row that shares has from, share and name: all else is as in the row that it names"
            raise node.keys[key].error(f"row {index}: the field '{key}' beside '{SHARE}'", hint)
    name = _read_name(node.value["name"], index, context) if "name" in node.value else None
    wanted = node.value[SHARE]
    shared = context.rows.get(resolve_source(wanted, index, f"row {index}, {SHARE}", context))
    if shared is None:
        raise wanted.error(f"row {index}: {wanted.describe()} is no row whose module could be shared")
    origin = node.value.get("from", Node(-1, node.source, node))
    return replace(
        shared,
        index=index,
        section=section,
        name=name,
        node=node,
        module_node=wanted,
        shares=shared.index if shared.shares is None else shared.shares,
        **_read_from(origin, index, shared.module, context),
    )


def _split_fields(node: Node, index: int) -> dict[str, Node]:
    if isinstance(node.value, dict):
        return _split_mapping(node, index)
    if not isinstance(node.value, list):
        named = f"{ROW_FORMAT[:-1]}, name]"
        raise node.error(f"row {index}: a row is a list {ROW_FORMAT} or {named}, not {node.describe()}")
    items = node.value
    if len(items) not in (4, 5):
        raise node.error(f"row {index}: {len(items)} fields, needs 4 {ROW_FORMAT}{_explain_misplaced(items)}")
    return dict(zip(("from", "n", "module", "args", "name"), items, strict=False))


def _explain_misplaced(items: Sequence[Node]) -> str:
    if len(items) > 5:
        return f", or 5 with a name: {items[5].describe()} is too many"
    if len(items) > 1 and isinstance(items[1].value, str):
        return f"; '{items[1].value}' stands where repeats belongs"
    return ""


def _split_mapping(node: Node, index: int) -> dict[str, Node]:
    for key in node.value:
        if key not in ROW_KEYS:
            known = (*ROW_KEYS, SHARE)
            hint = did_you_mean(key, known) or f"known: {', '.join(known)}"
            raise node.keys[key].error(f"row {index}: unknown field '{key}'", hint)
    if "module" not in node.value:
        raise node.error(f"row {index}: the field 'module' is missing")
    defaults = {"from": -1, "n": 1, "args": []}
    missing = {key: Node(value, node.source, node) for key, value in defaults.items() if key not in node.value}
    return {**missing, **node.value}


def _split_arguments(node: Node, index: int) -> tuple[tuple[Node, ...], tuple[tuple[str, Node], ...]]:
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


def _read_name(node: Node, index: int, context: Context) -> str:
    if not isinstance(node.value, str) or not NAME_PATTERN.fullmatch(node.value):
        raise node.error(
            f"row {index}: the fifth field must be the row's name, and {node.describe()} is not a valid name"
        )
    if node.value in context.named:
        raise node.error(f"row {index}: the name '{node.value}' is already used by row {context.named[node.value]}")
    if node.value in ("input", *context.inputs):
        raise node.error(f"row {index}: the name '{node.value}' means the network's input", "choose another")
    context.named[node.value] = index
    return node.value


# A row's name or number, followed by [number] or .name.
_SELECTION = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6})(?:\[([0-9]{1,4})\]|\.([A-Za-z_][A-Za-z0-9_]*))")


def _read_source(node: Node, index: int, module: str, context: Context) -> tuple[int, int | str | None]:
    """Read a source and its selection: the 2 of ``backbone[2]``, the p4 of ``backbone.p4``, or None."""
    match = _SELECTION.fullmatch(node.value) if isinstance(node.value, str) else None
    label = f"row {index} {module}"
    if not match:
        return resolve_source(node, index, label, context), None
    row, number, name = match.groups()
    source = Node(int(row) if row.isdigit() else row, node.source, node)
    return resolve_source(source, index, label, context), int(number) if number else name


def resolve_source(node: Node, index: int, label: str, context: Context) -> int:
    """Find the row number of a source, which may be a number, counted from the end if negative, or a name.

    Args:
        node: the source.
        index: the number of rows before the reader.
        label: the reader, for error messages.
        context: the names of rows and inputs.

    Raises:
        NetbuildError: at the source, if there is no such row before the reader.
    """
    value = node.value
    if isinstance(value, str):
        return _resolve_name(node, index, label, context)
    if type(value) is not int:
        raise node.error(f"{label}: a source is a row number or a row's name, not {node.describe()}")
    before = f"only rows 0..{index - 1} exist before it" if index else "no row exists before it"
    if value >= index:
        target = "the row itself" if value == index else f"row {value}"
        raise node.error(f"{label}: source {value} is {target}, but {before}", "write 'input' for the image")
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


def _resolve_name(node: Node, index: int, label: str, context: Context) -> int:
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
    """Evaluate an argument: a name, a word (None, True), a module call, an expression; other text stays as it is.

    Args:
        node: the argument; lists and mappings are evaluated item by item.
        names: values of the names that it may use.

    Raises:
        NetbuildError: if an expression uses an unknown name or has no value.
    """
    value = node.value
    if isinstance(value, list):
        return [evaluate_argument(item, names) for item in value]
    if isinstance(value, dict):
        return {key: evaluate_argument(item, names) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if value in names and not isinstance(names[value], expressions.ExpressionOnly):
        return names[value]
    if value in expressions.WORDS:
        return expressions.WORDS[value]
    # Only a dotted name is a module: a call such as max(8, nc) is arithmetic.
    call = expressions.parse_call(value)
    if call and "." in call.name:
        return call
    if expressions.looks_arithmetic(value, names):
        try:
            return expressions.evaluate(value, names)
        except expressions.ExpressionError as error:
            meant = {name for name, found in names.items() if not isinstance(found, expressions.ExpressionOnly)}
            if not expressions.looks_arithmetic(value, dict.fromkeys(meant)):
                return value  # a text such as depth-wise
            raise node.error(f"'{shorten(value)}': {error}", f"names here: {', '.join(sorted(names))}") from None
    return value
