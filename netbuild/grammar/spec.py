"""A network file read into rows with positions. No torch: names of modules are not looked up, shapes not known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean, raise_all, shorten
from netbuild.grammar import checkpoint_header
from netbuild.grammar.blocks import read_blocks
from netbuild.grammar.extends import expand
from netbuild.grammar.keys import MAX_SIDE, SETTINGS, _multiple
from netbuild.grammar.nodes import Node, parse, read_text
from netbuild.grammar.rows import (
    MAX_CHANNELS,
    NAME_PATTERN,
    SECTIONS,
    Block,
    Context,
    Row,
    attempt,
    check_name,
    evaluate_argument,
    read_rows,
    text_of,
)

DATASET_KEYS = {"train", "val", "names", "path", "test"}


@dataclass(frozen=True)
class Input:
    """One of several inputs of a network, by what it has beside the batch.

    ``[channels]`` is an image of the image size, ``[channels, height, width]`` one of its own, ``[count, width]`` are
    features such as those of texts, and ``[]`` is a number. Entries are whole numbers or expressions.
    """

    name: str
    sides: tuple[Node, ...]
    node: Node

    def shape(self, names: Mapping[str, Any]) -> tuple[int, ...]:
        """The entries as numbers, expressions computed over ``names``.

        Raises:
            NetbuildError: at the entry that is no whole number, or too large.
        """
        limits = (MAX_CHANNELS, MAX_SIDE, MAX_SIDE) if len(self.sides) == 3 else (MAX_CHANNELS, MAX_CHANNELS)
        return tuple(
            _bounded(evaluate_argument(side, names), limit, side)
            for side, limit in zip(self.sides, limits, strict=False)
        )


def _bounded(value: Any, limit: int, node: Node) -> int:
    if type(value) is not int or not 1 <= value <= limit:
        raise node.error(f"must be a whole number from 1 to {limit}, not {node.describe()}")
    return value


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
    lr_factors: Mapping[int, float] = field(default_factory=dict)  # of the learning rate, by row
    warnings: tuple[NetbuildError, ...] = ()
    checkpoint: Path | None = None  # that the file was read from, with its facts
    checkpoint_info: checkpoint_header.CheckpointInfo | None = None

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.name.removesuffix(".yaml").removesuffix(".yml")

    def all_rows(self) -> Iterator[Row]:
        """Its rows, and those of its blocks."""
        yield from self.rows
        for block in self.blocks.values():
            yield from block.rows

    @property
    def is_plain(self) -> bool:
        """Whether the rows stand in one ``layers:`` list."""
        return "layers" in self.root.value


# -- top-level keys -------------------------------------------------------------------------------------------------


KNOWN_KEYS = (*SETTINGS, *SECTIONS, "scales", "params", "blocks", "imports", "extends", "edits", "inputs", "lr_factors")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a network file, or the network of a checkpoint.

    Args:
        path: the file.
        overrides: texts such as ``reduction=8`` that replace values of its ``params``.

    Raises:
        NetbuildError: with the place of every mistake in it.
    """
    path = Path(path)
    if checkpoint_header.is_checkpoint(path):
        facts = checkpoint_header.read_info(path)
        return replace(read_spec(facts.yaml, Path(facts.file), overrides), checkpoint=path, checkpoint_info=facts)
    if path.suffix.lower() == ".onnx":
        hint = "name the checkpoint or the network's file that it was made of; predict, val and inspect take ONNX files"
        raise NetbuildError(
            f"{path}: an ONNX file is what export makes: there are no rows in it to build from", hint=hint
        )
    return read_spec(read_text(path), path, overrides)


def read_spec(text: str, path: Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a network from a text; ``path`` is the name that errors and titles use.

    Raises:
        NetbuildError: with the place of every mistake in it.
    """
    root = expand(parse(text, str(path)), (path,))
    errors: list[NetbuildError] = []
    warnings = _check_keys(root, errors)
    settings = {key: attempt(errors, _setting, key, root.value[key]) for key in SETTINGS if key in root.value}
    params = attempt(errors, _params, root.value.get("params"), _overrides(overrides)) or {}
    scales = attempt(errors, _scales, root) or ()
    imports = attempt(errors, _imports, root.value.get("imports")) or ()
    names = {*SETTINGS, *params, "scale", "depth", "width", "max_channels"}
    blocks = read_blocks(root.value.get("blocks"), names, errors)
    inputs = attempt(errors, _inputs, root.value.get("inputs")) or ()
    inputs_named = tuple(item.name for item in inputs)
    rows = read_rows([(s, root.value[s]) for s in SECTIONS if s in root.value], Context(names, inputs_named), errors)
    factors = attempt(errors, _lr_factors, root.value.get("lr_factors"), rows) or {}
    raise_all(errors)
    plain = "layers" in root.value and not scales
    divisor = settings.get("width_divisor") or (1 if plain else 8)
    return Spec(path, root, settings, params, scales, rows, blocks, divisor, imports, inputs, factors, tuple(warnings))


def _lr_factors(node: Node | None, rows: Sequence[Row]) -> dict[int, float]:
    """Factors by row from a mapping whose keys are names, numbers, ranges such as 0-9, or sections; later ones win."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        raise node.error(f"'lr_factors' is a mapping such as backbone: 0.1, this is {node.describe()}")
    found: dict[int, float] = {}
    for key, value in node.value.items():
        if type(value.value) not in (int, float) or not 0 <= value.value <= 100:
            raise value.error(f"'lr_factors' of {key} must be a number from 0 to 100, not {value.describe()}")
        found |= dict.fromkeys(_rows_of(str(key), rows, node.keys[key]), float(value.value))
    return found


def _rows_of(key: str, rows: Sequence[Row], node: Node) -> list[int]:
    """The numbers of the rows that a name, a number, a range or a section means."""
    first, dash, last = key.partition("-")
    if first.isdecimal() and (last.isdecimal() or not dash):
        found = [row.index for row in rows if int(first) <= row.index <= int(last or first)]
        if int(last or first) >= len(rows):
            raise node.error(f"'lr_factors': rows are 0 to {len(rows) - 1}, this is {key}")
    else:
        found = [row.index for row in rows if key in (row.name, row.section)]
    if not found:
        known = {name for row in rows for name in (row.name, row.section) if name}
        raise node.error(f"'lr_factors': no row or section '{key}'", did_you_mean(key, known))
    return found


def _setting(key: str, node: Node) -> Any:
    try:
        return SETTINGS[key](node)
    except NetbuildError as error:
        error.message = f"'{key}' {error.message}"
        raise


def _check_keys(root: Node, errors: list[NetbuildError]) -> list[NetbuildError]:
    if not isinstance(root.value, dict):
        raise root.error(f"a network file is a mapping with backbone and head (or layers), this is {root.describe()}")
    keys = set(root.value)
    if not keys & set(SECTIONS) and len(keys & DATASET_KEYS) >= 2:
        found = ", ".join(key for key in root.value if key in DATASET_KEYS)
        raise root.error(
            f"this looks like a data set file (keys {found}); a model file needs backbone and head (or layers)",
            "give the network's YAML here",
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
        if not equals or not NAME_PATTERN.fullmatch(name.strip()):
            raise NetbuildError(f"--set {text}: must be NAME=VALUE")
        nodes[name.strip()] = parse(value or "''", f"--set {name.strip()}")
    return nodes


def _override(name: str, default: Any, node: Node, values: Mapping[str, Any]) -> Any:
    value = evaluate_argument(node, values)
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
        raise node.error(f"params must be a mapping from names to values, not {node.describe()}")
    values: dict[str, Any] = {}
    for name, item in node.value.items():
        check_name(node.keys[name], taken={*SETTINGS, "input"})
        if isinstance(item.value, dict):
            raise item.error("a parameter is a number, a text, a truth value or a list of them")
        values[name] = evaluate_argument(item, values)
        if name in overrides:
            values[name] = _override(name, values[name], overrides[name], values)
    return values


def _imports(node: Node | None) -> tuple[Import, ...]:
    if node is None or node.value is None:
        return ()
    if isinstance(node.value, str):
        return (Import(node.value, None, node),)
    if isinstance(node.value, list):
        return tuple(Import(text_of(item), None, item) for item in node.value)
    if isinstance(node.value, dict):
        return tuple(Import(text_of(item), name, item) for name, item in node.value.items())
    raise node.error("imports must be a list of paths, or a mapping such as {Gate: ./blocks.py}")


def _inputs(node: Node | None) -> tuple[Input, ...]:
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        raise node.error("inputs must be a mapping such as {rgb: [3, 640, 640], ir: [1, 640, 640]}")
    inputs = []
    for name, item in node.value.items():
        check_name(node.keys[name], taken={"input"})
        if not isinstance(item.value, list) or len(item.value) > 3:
            hint = "or [count, width] for features, [] for a number"
            raise item.error(f"input '{name}' must be [channels] or [channels, height, width]", hint)
        inputs.append(Input(name, tuple(item.value), item))
        if all(type(side.value) is not str for side in item.value):
            inputs[-1].shape({})
    return tuple(inputs)


def _scales(root: Node) -> tuple[Scale, ...]:
    node = root.value.get("scales")
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        raise node.error("scales must be a mapping such as {n: [0.5, 0.25, 1024]}")
    return tuple(_scale(text_of(node.keys[name]), item) for name, item in node.value.items())


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
        raise cap.error(f"max channels must be a number of at least 1, not {cap.describe()}")
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
