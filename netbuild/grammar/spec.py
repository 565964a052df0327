"""Read a network file into a `Spec`: rows with places, settings, scales, blocks.

Module names are not looked up and shapes are not known here, so torch is not needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean, raise_all, shorten
from netbuild.grammar import checkpoint_header
from netbuild.grammar.blocks import read_blocks
from netbuild.grammar.chosen import choose_modules
from netbuild.grammar.degrade import Restoration, read_restoration
from netbuild.grammar.dialects import parse_tree, translate
from netbuild.grammar.extends import expand
from netbuild.grammar.heads import HeadEntry, read_heads
from netbuild.grammar.keys import KNOWN_KEYS, MAX_SIDE, SETTINGS, read_multiple
from netbuild.grammar.locate import refuse_other_kinds, resolve_run_folder
from netbuild.grammar.lr_factors import read_lr_factors
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
    check_text,
    evaluate_argument,
    read_rows,
)

DATASET_KEYS = {"train", "val", "names", "path", "test"}  # of a data set file, which users pass here by mistake


@dataclass(frozen=True)
class Input:
    """An entry of ``inputs``: the name of an input and its shape without the batch.

    ``[channels]`` is an image of the network's image size, ``[channels, height, width]`` an image of its own size,
    ``[count, width]`` is a set of feature vectors such as those of texts, and ``[]`` is a number. The entries are whole
    numbers or expressions.
    """

    name: str
    sides: tuple[Node, ...]
    node: Node

    def shape(self, names: Mapping[str, Any]) -> tuple[int, ...]:
        """Compute the shape; ``names`` are the values for expressions.

        Raises:
            NetbuildError: at an entry that is not a whole number, or is too large.
        """
        limits = (MAX_CHANNELS, MAX_SIDE, MAX_SIDE) if len(self.sides) == 3 else (MAX_CHANNELS, MAX_CHANNELS)
        return tuple(
            _check_size(evaluate_argument(side, names), limit, side)
            for side, limit in zip(self.sides, limits, strict=False)
        )


def _check_size(value: Any, limit: int, node: Node) -> int:
    if type(value) is not int or not 1 <= value <= limit:
        raise node.error(f"must be a whole number from 1 to {limit}, not {node.describe()}")
    return value


@dataclass(frozen=True)
class Import:
    """An entry of ``imports``: a path relative to the file, and the class to import (None: all classes)."""

    path: str
    name: str | None
    node: Node


@dataclass(frozen=True)
class Scale:
    """An entry of ``scales``: the depth and width multiples, and the cap on channels before the width multiple."""

    name: str
    depth: float = 1.0
    width: float = 1.0
    max_channels: float = float("inf")


@dataclass(frozen=True)
class Spec:
    """A network file after reading."""

    path: Path
    root: Node  # the file's tree, with its base merged in
    settings: Mapping[str, Any]  # values of the top-level keys in `netbuild.grammar.keys.SETTINGS`
    params: Mapping[str, Any]  # the file's own parameters
    scales: tuple[Scale, ...]
    rows: tuple[Row, ...]
    blocks: Mapping[str, Block]
    width_divisor: int  # scaled widths are rounded up to a multiple of it
    imports: tuple[Import, ...] = ()
    inputs: tuple[Input, ...] = ()
    heads: tuple[HeadEntry, ...] = ()  # those of a network with several
    lr_factors: Mapping[int, float] = field(default_factory=dict)  # factors of the learning rate by row
    restoration: Restoration = field(default_factory=Restoration)  # what the network is to restore
    warnings: tuple[NetbuildError, ...] = ()
    dialects: tuple[str, ...] = ()  # names of those that the file is written in, see `netbuild.grammar.dialects`
    notes: tuple[str, ...] = ()  # what of these dialects has no effect
    checkpoint: Path | None = None  # the checkpoint that the file was read from, and its metadata
    checkpoint_info: checkpoint_header.CheckpointInfo | None = None

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return self.path.name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".cfg")

    def all_rows(self) -> Iterator[Row]:
        """Yield the rows of the file and those of its blocks."""
        yield from self.rows
        for block in self.blocks.values():
            yield from block.rows

    @property
    def is_plain(self) -> bool:
        """Whether the rows are in a single ``layers:`` list, and not in backbone and head as Ultralytics has them."""
        return "layers" in self.root.value


# -- top-level keys -------------------------------------------------------------------------------------------------


def load(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a network file, or the network file inside a checkpoint.

    Args:
        path: the file, a checkpoint of netbuild or of another program, or the folder of a run.
        overrides: texts such as ``reduction=8`` that replace values of the file's ``params``.

    Raises:
        NetbuildError: with the place of every mistake in the file.
    """
    path = resolve_run_folder(Path(path))
    info = checkpoint_header.read_network(path)
    if info is not None:
        return replace(read_spec(info.yaml, Path(info.file), overrides), checkpoint=path, checkpoint_info=info)
    refuse_other_kinds(path)
    return read_spec(read_text(path), path, overrides)


def read_spec(text: str, path: Path, overrides: Sequence[str] = ()) -> Spec:
    """Read the text of a network file.

    Args:
        text: the text.
        path: the file's path, for error messages, titles, and relative paths inside the text.
        overrides: texts such as ``reduction=8`` that replace values of the file's ``params``.

    Raises:
        NetbuildError: with the place of every mistake in the text.
    """
    tree, language = parse_tree(text, str(path))
    root, dialects, notes = translate(expand(tree, (path,)))
    errors: list[NetbuildError] = []
    warnings = _check_keys(root, errors)
    settings = {key: attempt(errors, _read_setting, key, root.value[key]) for key in SETTINGS if key in root.value}
    params = attempt(errors, _read_params, root.value.get("params"), _parse_overrides(overrides)) or {}
    scales = attempt(errors, _read_scales, root) or ()
    imports = attempt(errors, _read_imports, root.value.get("imports")) or ()
    names = {*SETTINGS, *params, "scale", "depth", "width", "max_channels"}  # that expressions may use
    blocks = read_blocks(root.value.get("blocks"), names, params, errors)
    inputs = attempt(errors, _read_inputs, root.value.get("inputs")) or ()
    inputs_named = tuple(item.name for item in inputs)
    rows = read_rows([(s, root.value[s]) for s in SECTIONS if s in root.value], Context(names, inputs_named), errors)
    rows = choose_modules(rows, params, errors)
    heads = attempt(errors, read_heads, root.value.get("heads"), rows) or ()
    if heads and "task" in root.value:
        hint = "leave it out; an entry of heads may have a task"
        errors.append(root.keys["task"].error("'task' has no effect: each of the heads has its own", hint))
    factors = attempt(errors, read_lr_factors, root.value.get("lr_factors"), rows, heads) or {}
    restoration = attempt(errors, read_restoration, root, params, path.parent)
    raise_all(errors)  # every mistake of the file at once
    root = _select_known_keys(root)
    # Ultralytics' files expect scaled widths to be multiples of 8; in a plain file numbers are exact.
    divisor = settings.get("width_divisor") or (1 if "layers" in root.value and not scales else 8)
    return Spec(
        path, root, settings, params, scales, rows, blocks, divisor, imports, inputs, heads, factors, restoration,
        tuple(warnings), dialects=language + dialects, notes=notes,
    )  # fmt: skip


def _read_setting(key: str, node: Node) -> Any:
    try:
        return SETTINGS[key](node)
    except NetbuildError as error:
        error.message = f"'{key}' {error.message}"
        raise


def _check_keys(root: Node, errors: list[NetbuildError]) -> list[NetbuildError]:
    """Check the top-level keys of a file; return warnings, add errors to ``errors``.

    Raises:
        NetbuildError: if it is not a network file at all.
    """
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
        errors.append(
            root.keys["layers"].error("'layers' replaces backbone, neck and head and cannot be combined with them")
        )
    return _find_unknown_keys(root, errors)


def _find_unknown_keys(root: Node, errors: list[NetbuildError]) -> list[NetbuildError]:
    """Find unknown keys: one that resembles a known key is an error, any other a warning."""
    warnings: list[NetbuildError] = []
    # Files for other tools have keys that netbuild ignores; only a likely typo must stop it.
    for key in root.value:
        if key in KNOWN_KEYS:
            continue
        hint = did_you_mean(key, KNOWN_KEYS)
        error = root.keys[key].error(f"unknown key '{key}'", hint or "it has no effect")
        (errors if hint else warnings).append(error)
    return warnings


def _select_known_keys(root: Node) -> Node:
    """Return the tree without keys that have no effect: whatever they hold must not get into a checkpoint."""
    return root.with_value({key: node for key, node in root.value.items() if key in KNOWN_KEYS})


def _parse_overrides(texts: Sequence[str]) -> dict[str, Node]:
    """Parse ``name=value`` texts of the command line; the values are YAML."""
    nodes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not NAME_PATTERN.fullmatch(name.strip()):
            raise NetbuildError(f"--set {text}: must be NAME=VALUE")
        # Without a value the parameter is an empty text: an empty document would be an error.
        nodes[name.strip()] = parse(value or "''", f"--set {name.strip()}")
    return nodes


def _check_override(name: str, default: Any, node: Node, values: Mapping[str, Any]) -> Any:
    """Evaluate the new value of a parameter, which must have the type of its value in the file."""
    value = evaluate_argument(node, values)
    expected = type(default)
    if expected is float and type(value) is int:
        return float(value)
    if default is not None and type(value) is not expected:
        raise NetbuildError(
            f"--set {name}={node.value}: {name} is {default!r} in the file, so {_describe_type(expected)} is needed"
        )
    return value


def _describe_type(cls: type) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list: "a list"}
    return names.get(cls, cls.__name__)


def _read_params(node: Node | None, overrides: Mapping[str, Node]) -> dict[str, Any]:
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
        values[name] = evaluate_argument(item, values)  # it may refer to the parameters before it
        if name in overrides:
            values[name] = _check_override(name, values[name], overrides[name], values)
    return values


def _read_imports(node: Node | None) -> tuple[Import, ...]:
    if node is None or node.value is None:
        return ()
    if isinstance(node.value, str):
        return (Import(node.value, None, node),)
    if isinstance(node.value, list):
        return tuple(Import(check_text(item), None, item) for item in node.value)
    if isinstance(node.value, dict):
        return tuple(Import(check_text(item), name, item) for name, item in node.value.items())
    raise node.error("imports must be a list of paths, or a mapping such as {Gate: ./blocks.py}")


def _read_inputs(node: Node | None) -> tuple[Input, ...]:
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
        # Numbers can be checked now, expressions only once the settings are known.
        if all(type(side.value) is not str for side in item.value):
            inputs[-1].shape({})
    return tuple(inputs)


def _read_scales(root: Node) -> tuple[Scale, ...]:
    node = root.value.get("scales")
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, dict) or not node.value:
        raise node.error("scales must be a mapping such as {n: [0.5, 0.25, 1024]}")
    return tuple(_read_scale(check_text(node.keys[name]), item) for name, item in node.value.items())


def _read_scale(name: str, node: Node) -> Scale:
    if not isinstance(node.value, list) or not 2 <= len(node.value) <= 3:
        raise node.error(
            f"scale '{name}' must be [depth multiple, width multiple, max channels], not {shorten(node.plain())}"
        )
    depth, width = read_multiple(node.value[0]), read_multiple(node.value[1])
    if len(node.value) == 2:
        return Scale(name, depth, width)
    cap = node.value[2]
    if type(cap.value) not in (int, float) or not cap.value >= 1:
        raise cap.error(f"max channels must be a number of at least 1, not {cap.describe()}")
    return Scale(name, depth, width, cap.value)


def choose_scale(spec: Spec, flag: str | None, letter: str | None) -> tuple[Scale, str | None]:
    """Choose the scale of a network.

    Args:
        spec: the network file.
        flag: the scale that the user chose, if any.
        letter: the scale letter in the requested file name, if any.

    Returns:
        The scale and its origin: ``flag``, ``name``, ``default`` for the file's first one, None if it has no scales.

    Raises:
        NetbuildError: if the file has no such scale.
    """
    names = [scale.name for scale in spec.scales]
    requested = flag or letter
    if requested is None:
        if spec.scales:
            return spec.scales[0], "default"
        # Files from before there were scales have their multiples as top-level keys.
        depth, width = spec.settings.get("depth_multiple", 1.0), spec.settings.get("width_multiple", 1.0)
        return Scale("", depth, width), None
    for scale in spec.scales:
        if scale.name == requested:
            return scale, "flag" if flag else "name"
    where = spec.root.keys["scales"].where if "scales" in spec.root.keys else None
    listed = f"it has {', '.join(names)}" if names else "it has no scales section"
    raise NetbuildError(f"{spec.path.name} has no scale '{requested}': {listed}", where, did_you_mean(requested, names))
