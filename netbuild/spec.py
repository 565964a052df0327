"""A network file read into rows with positions. No torch: names of modules are not looked up, shapes not known."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netbuild import expr
from netbuild.errors import NetbuildError, Where, did_you_mean, raise_all, shorten
from netbuild.extends import expand
from netbuild.reader import Node, parse, read_text

MAX_ROWS = 20_000
MAX_REPEATS = 1_000
MAX_LEVELS = 32  # of blocks in blocks
MAX_CHANNELS = 65_536
MAX_SIDE = 32_768  # pixels
INPUT = -1  # the index that stands for the image; a block's further inputs are -2, -3, ...

SECTIONS = ("layers", "backbone", "neck", "head")
DATASET_KEYS = {"train", "val", "names", "path", "test"}
ROW_KEYS = ("from", "n", "module", "args", "name")
SHAPE = "[from, repeats, module, args] or [from, repeats, module, args, name]"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Row:
    """One row. ``sources`` are absolute row indices (`INPUT` is the image); ``listed`` tells that they were a list.

    ``picks`` has for each source the one output that is meant of a row with several, by number or name, or None.
    """

    index: int
    section: str
    name: str | None
    written_from: Any
    sources: tuple[int, ...]
    picks: tuple[int | str | None, ...]
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


@dataclass(frozen=True)
class Input:
    """One of several inputs of a network: its name, channels, and size in pixels (None: the image size)."""

    name: str
    channels: int
    size: tuple[int, int] | None
    node: Node


@dataclass(frozen=True)
class Import:
    """An entry of ``imports``: a path beside the file, and the one class wanted from it (None: all)."""

    path: str
    name: str | None
    node: Node


@dataclass(frozen=True)
class Scale:
    """One entry of ``scales``: multiples of depth and width, and the cap on channels before the multiple."""

    name: str
    depth: float = 1.0
    width: float = 1.0
    max_channels: float = float("inf")


@dataclass(frozen=True)
class Spec:
    """A network file as read. ``settings`` are its plain top-level values, ``params`` its own parameters."""

    path: Path
    root: Node
    settings: Mapping[str, Any]
    params: Mapping[str, Any]
    scales: tuple[Scale, ...]
    rows: tuple[Row, ...]
    blocks: Mapping[str, Block]
    width_divisor: int
    imports: tuple[Import, ...] = ()
    inputs: tuple[Input, ...] = ()
    warnings: tuple[NetbuildError, ...] = ()

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.name.removesuffix(".yaml").removesuffix(".yml")

    @property
    def is_plain(self) -> bool:
        """Whether the rows stand in one ``layers:`` list."""
        return "layers" in self.root.value


# -- top-level keys -------------------------------------------------------------------------------------------------


def _whole(low: int, high: int) -> Callable[[Node], int]:
    def read(node: Node) -> int:
        if type(node.value) is not int or not low <= node.value <= high:
            raise node.error(f"must be a whole number from {low} to {high}, not {node.kind()}")
        return node.value

    return read


def _multiple(node: Node) -> float:
    if type(node.value) not in (int, float) or not 0 < node.value <= 100:
        raise node.error(f"must be a number above 0 and at most 100, not {node.kind()}")
    return float(node.value)


def _text(node: Node) -> str:
    if not isinstance(node.value, str):
        raise node.error(f"must be a text, not {node.kind()}")
    return node.value


def _flag(node: Node) -> bool:
    # "None" and "True" in quotes are written so in files that other tools take.
    value = expr.WORDS.get(node.value, node.value) if isinstance(node.value, str) else node.value
    if value is not None and not isinstance(value, bool):
        raise node.error(f"must be true or false, not {node.kind()}")
    return bool(value)


def _image_size(node: Node) -> tuple[int, int]:
    side = _whole(1, MAX_SIDE)
    if isinstance(node.value, list):
        if len(node.value) != 2:
            raise node.error(f"must be one number or [height, width], not {len(node.value)} numbers")
        return side(node.value[0]), side(node.value[1])
    return side(node), side(node)


def _keypoint_shape(node: Node) -> list[int]:
    if not isinstance(node.value, list) or len(node.value) != 2:
        raise node.error("must be [number of keypoints, 2 or 3]")
    return [_whole(1, 10_000)(node.value[0]), _whole(2, 3)(node.value[1])]


SETTINGS: dict[str, Callable[[Node], Any]] = {
    "nc": _whole(1, 1_000_000),
    "ch": _whole(1, MAX_CHANNELS),
    "depth_multiple": _multiple,
    "width_multiple": _multiple,
    "activation": _text,
    "kpt_shape": _keypoint_shape,
    "end2end": _flag,
    "reg_max": _whole(1, 1024),
    "imgsz": _image_size,
    "task": _text,
    "width_divisor": _whole(1, 1024),
}
KNOWN_KEYS = (*SETTINGS, *SECTIONS, "scales", "params", "blocks", "imports", "extends", "edits", "inputs")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a network file; ``overrides`` are texts such as ``reduction=8`` that replace values of its ``params``.

    Raises:
        NetbuildError: with the place of every mistake in it.
    """
    path = Path(path)
    return read(read_text(path), path, overrides)


def read(text: str, path: Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a network from a text; ``path`` is the name that errors and titles use.

    Raises:
        NetbuildError: with the place of every mistake in it.
    """
    root = expand(parse(text, str(path)), (path,))
    errors: list[NetbuildError] = []
    warnings = _check_keys(root, errors)
    settings = {key: _try(errors, _setting, key, root.value[key]) for key in SETTINGS if key in root.value}
    params = _try(errors, _params, root.value.get("params"), _overrides(overrides)) or {}
    scales = _try(errors, _scales, root) or ()
    imports = _try(errors, _imports, root.value.get("imports")) or ()
    names = {*SETTINGS, *params, "scale", "depth", "width", "max_channels"}
    blocks = _read_blocks(root.value.get("blocks"), names, errors)
    inputs = _try(errors, _inputs, root.value.get("inputs")) or ()
    inputs_named = tuple(item.name for item in inputs)
    rows = _read_rows([(s, root.value[s]) for s in SECTIONS if s in root.value], _Context(names, inputs_named), errors)
    raise_all(errors)
    plain = "layers" in root.value and not scales
    divisor = settings.get("width_divisor") or (1 if plain else 8)
    return Spec(path, root, settings, params, scales, rows, blocks, divisor, imports, inputs, tuple(warnings))


def _setting(key: str, node: Node) -> Any:
    try:
        return SETTINGS[key](node)
    except NetbuildError as error:
        error.message = f"'{key}' {error.message}"
        raise


def _try(errors: list[NetbuildError], function: Callable[..., Any], *args: Any) -> Any:
    try:
        return function(*args)
    except NetbuildError as error:
        errors.append(error)
        return None


def _check_keys(root: Node, errors: list[NetbuildError]) -> list[NetbuildError]:
    if not isinstance(root.value, dict):
        raise root.error(f"a network file is a mapping with backbone and head (or layers), this is {root.kind()}")
    keys = set(root.value)
    if not keys & set(SECTIONS) and len(keys & DATASET_KEYS) >= 2:
        found = ", ".join(key for key in root.value if key in DATASET_KEYS)
        raise root.error(
            f"this looks like a data set file (keys {found}); a model file needs backbone and head (or layers)",
            "give the network's YAML here and the data set with --data",
        )
    if "layers" not in keys and "backbone" not in keys:
        raise root.error("a model file needs backbone and head, or one layers list", did_you_mean("backbone", keys))
    if "layers" in keys and keys & {"backbone", "neck", "head"}:
        errors.append(root.keys["layers"].error("'layers' stands alone: it replaces backbone, neck and head"))
    return _unknown_keys(root, errors)


def _unknown_keys(root: Node, errors: list[NetbuildError]) -> list[NetbuildError]:
    warnings: list[NetbuildError] = []
    for key in root.value:
        if key in KNOWN_KEYS:
            continue
        hint = did_you_mean(key, KNOWN_KEYS)
        error = root.keys[key].error(f"unknown key '{key}'", hint or "it has no effect")
        (errors if hint else warnings).append(error)
    return warnings


def _overrides(texts: Sequence[str]) -> dict[str, Node]:
    """``name=value`` texts of the command line; values are read as YAML has them."""
    nodes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name.strip()):
            raise NetbuildError(f"--set {text}: must be NAME=VALUE")
        nodes[name.strip()] = parse(value or "''", f"--set {name.strip()}")
    return nodes


def _override(name: str, default: Any, node: Node, values: Mapping[str, Any]) -> Any:
    value = argument(node, values)
    wanted = type(default)
    if wanted is float and type(value) is int:
        return float(value)
    if default is not None and type(value) is not wanted:
        raise NetbuildError(
            f"--set {name}={node.value}: {name} is {default!r} in the file, so {_kind_of(wanted)} is needed"
        )
    return value


def _kind_of(wanted: type) -> str:
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list: "a list"}
    return kinds.get(wanted, wanted.__name__)


def _params(node: Node | None, overrides: Mapping[str, Node]) -> dict[str, Any]:
    known = node.value if node is not None and isinstance(node.value, dict) else {}
    for name in overrides:
        if name not in known:
            hint = did_you_mean(name, known) or (f"it has {', '.join(known)}" if known else "it has no params section")
            raise NetbuildError(f"--set {name}: the file has no parameter of this name", hint=hint)
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise node.error(f"params must be a mapping from names to values, not {node.kind()}")
    values: dict[str, Any] = {}
    for name, item in node.value.items():
        _check_name(node.keys[name], taken={*SETTINGS, "input"})
        if isinstance(item.value, dict):
            raise item.error("a parameter is a number, a text, a truth value or a list of them")
        values[name] = argument(item, values)
        if name in overrides:
            values[name] = _override(name, values[name], overrides[name], values)
    return values


def _imports(node: Node | None) -> tuple[Import, ...]:
    if node is None or node.value is None:
        return ()
    if isinstance(node.value, str):
        return (Import(node.value, None, node),)
    if isinstance(node.value, list):
        return tuple(Import(_text(item), None, item) for item in node.value)
    if isinstance(node.value, dict):
        return tuple(Import(_text(item), name, item) for name, item in node.value.items())
    raise node.error("imports must be a list of paths, or a mapping such as {Gate: ./blocks.py}")


def _inputs(node: Node | None) -> tuple[Input, ...]:
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        raise node.error("inputs must be a mapping such as {rgb: [3, 640, 640], ir: [1, 640, 640]}")
    inputs = []
    for name, item in node.value.items():
        _check_name(node.keys[name], taken={"input"})
        sides = item.value
        if not isinstance(sides, list) or len(sides) not in (1, 3):
            raise item.error(f"input '{name}' must be [channels] or [channels, height, width]")
        channels = _whole(1, MAX_CHANNELS)(sides[0])
        size = (_whole(1, MAX_SIDE)(sides[1]), _whole(1, MAX_SIDE)(sides[2])) if len(sides) == 3 else None
        inputs.append(Input(name, channels, size, item))
    return tuple(inputs)


def _check_name(node: Node, taken: set[str]) -> None:
    if not isinstance(node.value, str) or not _NAME.fullmatch(node.value):
        raise node.error(f"{node.kind()} is no name: letters, digits, _ and -, not beginning with a digit")
    if node.value in taken or node.value in expr.WORDS:
        raise node.error(f"the name '{node.value}' is taken", "choose another")


def _scales(root: Node) -> tuple[Scale, ...]:
    node = root.value.get("scales")
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        raise node.error("scales must be a mapping such as {n: [0.5, 0.25, 1024]}")
    return tuple(_scale(name, item) for name, item in node.value.items())


def _scale(name: str, node: Node) -> Scale:
    if not isinstance(node.value, list) or not 2 <= len(node.value) <= 3:
        raise node.error(
            f"scale '{name}' must be [depth multiple, width multiple, max channels], not {shorten(node.plain())}"
        )
    depth, width = _multiple(node.value[0]), _multiple(node.value[1])
    if len(node.value) == 2:
        return Scale(name, depth, width)
    cap = node.value[2]
    if type(cap.value) not in (int, float) or not cap.value >= 1:
        raise cap.error(f"max channels must be a number of at least 1, not {cap.kind()}")
    return Scale(name, depth, width, cap.value)


def choose_scale(spec: Spec, asked: str | None, letter: str | None) -> tuple[Scale, str | None]:
    """The scale in force and where it came from: ``flag``, ``name`` (of the file asked for), ``default``, or None.

    Raises:
        NetbuildError: if the scale asked for is not in the file.
    """
    names = [scale.name for scale in spec.scales]
    wanted = asked or letter
    if wanted is None:
        if spec.scales:
            return spec.scales[0], "default"
        depth, width = spec.settings.get("depth_multiple", 1.0), spec.settings.get("width_multiple", 1.0)
        return Scale("", depth, width), None
    for scale in spec.scales:
        if scale.name == wanted:
            return scale, "flag" if asked else "name"
    where = spec.root.keys["scales"].where if "scales" in spec.root.keys else None
    listed = f"it has {', '.join(names)}" if names else "it has no scales section"
    raise NetbuildError(f"{spec.path.name} has no scale '{wanted}': {listed}", where, did_you_mean(wanted, names))


# -- rows -----------------------------------------------------------------------------------------------------------


@dataclass
class _Context:
    """What the rows of one list may refer to."""

    names: set[str]
    inputs: tuple[str, ...]
    named: dict[str, int] = field(default_factory=dict)


def _read_rows(sections: Sequence[tuple[str, Node]], context: _Context, errors: list[NetbuildError]) -> tuple[Row, ...]:
    rows: list[Row] = []
    index = 0
    for section, node in sections:
        if not isinstance(node.value, list):
            errors.append(node.error(f"'{section}' must be a list of rows, not {node.kind()}"))
            continue
        for item in node.value:
            row = _try(errors, _row, item, index, section, context)
            index += 1
            if row:
                rows.append(row)
    if index > MAX_ROWS:
        raise sections[0][1].error(f"{index} rows; the limit is {MAX_ROWS}")
    if not index and not errors:
        raise sections[0][1].error(f"'{sections[0][0]}' has no rows")
    return tuple(rows)


def _row(node: Node, index: int, section: str, context: _Context) -> Row:
    fields = _fields(node, index)
    # The name first: rows that refer to it need no second error when this row has one.
    name = _row_name(fields["name"], index, context) if "name" in fields else None
    module = fields["module"]
    if not isinstance(module.value, str) or not module.value.strip():
        raise module.error(f"row {index}: the module must be a name such as Conv, not {module.kind()}")
    repeats = _repeats(fields["n"], index, context.names)
    args, kwargs = _arguments(fields["args"], index)
    written = fields["from"]
    items = written.value if isinstance(written.value, list) else [written]
    if not items:
        raise written.error(f"row {index} {module.value}: the list of sources is empty")
    sources, picks = zip(*(_picked(item, index, module.value, context) for item in items), strict=True)
    listed = isinstance(written.value, list)
    return Row(
        index, section, name, written.plain(), sources, picks, listed, repeats, module.value, args, kwargs, node, module
    )


def _fields(node: Node, index: int) -> dict[str, Node]:
    if isinstance(node.value, dict):
        return _mapping_fields(node, index)
    if not isinstance(node.value, list):
        raise node.error(f"row {index}: a row is a list {SHAPE}, not {node.kind()}")
    items = node.value
    if len(items) not in (4, 5):
        raise node.error(f"row {index}: {len(items)} fields, needs 4 {SHAPE[: SHAPE.index(' or')]}{_misplaced(items)}")
    return dict(zip(("from", "n", "module", "args", "name"), items, strict=False))


def _misplaced(items: Sequence[Node]) -> str:
    if len(items) > 5:
        return f", or 5 with a name: {items[5].kind()} is too many"
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
    if isinstance(node.value, str) and (node.value in names or expr.looks_arithmetic(node.value, dict.fromkeys(names))):
        return node
    return check_repeats(node.value, node, index)


def check_repeats(value: Any, node: Node, index: int) -> int:
    """A row's repeat count as a whole number from 1 to `MAX_REPEATS`.

    Raises:
        NetbuildError: at ``node`` for anything else.
    """
    if type(value) is not int or value < 1:
        hint = "the order is [from, repeats, module, args]" if isinstance(value, str) else ""
        raise node.error(f"row {index}: repeats must be a whole number of at least 1, not {node.kind()}", hint)
    if value > MAX_REPEATS:
        raise node.error(f"row {index}: {value} repeats; the limit is {MAX_REPEATS}")
    return value


def _arguments(node: Node, index: int) -> tuple[tuple[Node, ...], tuple[tuple[str, Node], ...]]:
    if isinstance(node.value, dict):
        return (), tuple(node.value.items())
    if not isinstance(node.value, list):
        hint = "write [] for a module without arguments" if node.value is None else f"write [{shorten(node.plain())}]"
        raise node.error(f"row {index}: the arguments must be a list, not {node.kind()}", hint)
    positional = node.value
    keywords: tuple[tuple[str, Node], ...] = ()
    if positional and isinstance(positional[-1].value, dict):
        keywords, positional = tuple(positional[-1].value.items()), positional[:-1]
    for item in positional:
        if isinstance(item.value, dict):
            raise item.error(f"row {index}: keyword arguments come last, in one mapping")
    return tuple(positional), keywords


def _row_name(node: Node, index: int, context: _Context) -> str:
    if not isinstance(node.value, str) or not _NAME.fullmatch(node.value):
        raise node.error(f"row {index}: the fifth field is the row's name, and {node.kind()} is no name")
    if node.value in context.named:
        raise node.error(f"row {index}: the name '{node.value}' is row {context.named[node.value]}'s already")
    if node.value in ("input", *context.inputs):
        raise node.error(f"row {index}: the name '{node.value}' means the network's input", "choose another")
    context.named[node.value] = index
    return node.value


_PICK = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6})(?:\[([0-9]{1,4})\]|\.([A-Za-z_][A-Za-z0-9_]*))")


def _picked(node: Node, index: int, module: str, context: _Context) -> tuple[int, int | str | None]:
    """A source and, of ``backbone[2]`` or ``backbone.p4``, which of the row's outputs is meant."""
    match = _PICK.fullmatch(node.value) if isinstance(node.value, str) else None
    if not match:
        return _source(node, index, module, context), None
    row, number, name = match.groups()
    whole = Node(int(row) if row.isdigit() else row, node.source, node)
    return _source(whole, index, module, context), int(number) if number else name


def _source(node: Node, index: int, module: str, context: _Context) -> int:
    value, label = node.value, f"row {index} {module}"
    if isinstance(value, str):
        return _named_source(node, index, label, context)
    if type(value) is not int:
        raise node.error(f"{label}: a source is a row number or a row's name, not {node.kind()}")
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


def _named_source(node: Node, index: int, label: str, context: _Context) -> int:
    if context.named.get(node.value, index) < index:
        return context.named[node.value]
    if node.value == "input":
        return INPUT
    if node.value in context.inputs:
        return INPUT - context.inputs.index(node.value)
    known = [*(name for name, row in context.named.items() if row < index), "input", *context.inputs]
    hint = did_you_mean(node.value, known) or f"named so far: {', '.join(known)}"
    raise node.error(f"{label}: no row before it is named '{node.value}'", hint)


# -- blocks ---------------------------------------------------------------------------------------------------------

BLOCK_KEYS = ("params", "inputs", "rows", "result", "roles")


def _read_blocks(node: Node | None, names: set[str], errors: list[NetbuildError]) -> dict[str, Block]:
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        errors.append(node.error(f"blocks must be a mapping from names to blocks, not {node.kind()}"))
        return {}
    blocks = {
        name: _try(errors, _block, name, item, node.keys[name], names, errors) for name, item in node.value.items()
    }
    found = {name: block for name, block in blocks.items() if block}
    heights: dict[str, int] = {}
    for block in found.values():
        _try(errors, _height, block, found, (), heights)
    return found


def _block(name: str, node: Node, key: Node, names: set[str], errors: list[NetbuildError]) -> Block:
    _check_name(key, taken=set())
    if not isinstance(node.value, dict) or "rows" not in node.value:
        raise node.error(f"block '{name}' must be a mapping with rows (and params, inputs, result, roles)")
    for field_name in node.value:
        if field_name not in BLOCK_KEYS:
            hint = did_you_mean(field_name, BLOCK_KEYS) or f"known: {', '.join(BLOCK_KEYS)}"
            raise node.keys[field_name].error(f"block '{name}': unknown field '{field_name}'", hint)
    params = _block_params(node)
    inputs = _block_inputs(node.value.get("inputs"))
    context = _Context({*names, "c1", *(p.name for p in params)}, inputs)
    rows = _read_rows([("rows", node.value["rows"])], context, errors)
    result, listed = _result(node.value.get("result"), len(rows), name, context)
    return Block(name, params, inputs, rows, result, listed, key)


def _block_inputs(node: Node | None) -> tuple[str, ...]:
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        raise node.error(f"inputs must be a list of names such as [left, right], not {node.kind()}")
    names: list[str] = []
    for item in node.value:
        _check_name(item, taken={"input", *names})
        names.append(item.value)
    return tuple(names)


def _block_params(node: Node) -> tuple[Parameter, ...]:
    given = node.value.get("params")
    roles = node.value["roles"].plain() if "roles" in node.value else {}
    if not isinstance(roles, dict):
        raise node.value["roles"].error("roles must be a mapping such as {b1: width}")
    if given is None or given.value is None:
        return ()
    if isinstance(given.value, dict):
        pairs = [(given.keys[name], item) for name, item in given.value.items()]
    elif isinstance(given.value, list):
        pairs = [pair for item in given.value for pair in _listed_param(item)]
    else:
        raise given.error("params must be a list such as [c2, {k: 3}] or a mapping from names to defaults")
    params: list[Parameter] = []
    for key, default in pairs:
        _check_name(key, taken={"input", *(p.name for p in params)})
        params.append(Parameter(key.value, default, roles.get(key.value)))
    unknown = set(roles) - {p.name for p in params}
    if unknown:
        raise node.value["roles"].error(f"roles names '{min(unknown)}', which is no parameter of this block")
    return tuple(params)


def _listed_param(item: Node) -> list[tuple[Node, Node | None]]:
    if isinstance(item.value, dict):
        return [(item.keys[name], default) for name, default in item.value.items()]
    return [(item, None)]


def _result(node: Node | None, count: int, name: str, context: _Context) -> tuple[tuple[int, ...], bool]:
    if node is None:
        return (count - 1,), False
    items = node.value if isinstance(node.value, list) else [node]
    if not items:
        raise node.error(f"block '{name}': the result is empty")
    return tuple(_source(item, count, f"the result of block '{name}'", context) for item in items), isinstance(
        node.value, list
    )


def _height(block: Block, blocks: Mapping[str, Block], above: tuple[str, ...], known: dict[str, int]) -> int:
    """Levels of blocks in a block, itself included; each block is walked once, however many use it.

    Raises:
        NetbuildError: if it contains itself, or is too deep below those above it.
    """
    if block.name in above:
        chain = " uses ".join((*above[above.index(block.name) :], block.name))
        raise block.node.error(f"a block may not contain itself: {chain}")
    if len(above) + known.get(block.name, 1) > MAX_LEVELS:
        raise block.node.error(f"blocks nested deeper than {MAX_LEVELS} levels")
    if block.name not in known:
        inner = [blocks[name] for name in dict.fromkeys(row.module for row in block.rows) if name in blocks]
        below = [_height(b, blocks, (*above, block.name), known) for b in inner]
        known[block.name] = 1 + max(below, default=0)
    return known[block.name]


# -- arguments ------------------------------------------------------------------------------------------------------


def argument(node: Node, names: Mapping[str, Any]) -> Any:
    """The value of an argument: a name of the file, a word (None, True), a module call, arithmetic, or the text itself.

    Raises:
        NetbuildError: if an expression uses an unknown name or does not compute.
    """
    value = node.value
    if isinstance(value, list):
        return [argument(item, names) for item in value]
    if isinstance(value, dict):
        return {key: argument(item, names) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    if value in expr.WORDS:
        return expr.WORDS[value]
    call = expr.parse_call(value)
    if call and "." in call.name:
        return call
    if expr.looks_arithmetic(value, names):
        try:
            return expr.evaluate(value, names)
        except expr.ExpressionError as error:
            raise node.error(f"'{shorten(value)}': {error}", f"names here: {', '.join(sorted(names))}") from None
    return value
