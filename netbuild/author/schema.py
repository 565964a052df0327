"""A JSON Schema (draft-07) of network files, for editors: keys, rows, module names and their keyword arguments.

It is generated from the constants of the reader and from the index of signatures, without torch. A schema sees the text
of one file only: `netbuild check` finds out whether sources exist, names are known and shapes fit.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from netbuild.author import index
from netbuild.grammar.blocks import BLOCK_KEYS
from netbuild.grammar.degrade import FIELDS, METHODS, SPACES
from netbuild.grammar.edits import EDIT_VERBS
from netbuild.grammar.expressions import WORDS
from netbuild.grammar.heads import HEAD_KEYS, MAX_WEIGHT
from netbuild.grammar.keys import INITIAL, KNOWN_KEYS, MAX_SIDE, SETTINGS
from netbuild.grammar.repeats import MAX_REPEATS
from netbuild.grammar.rows import MAX_CHANNELS, NAME_PATTERN, ROW_KEYS, SECTIONS, SHARE
from netbuild.system.files import write_text

DRAFT = "http://json-schema.org/draft-07/schema#"
TORCH_PAGE = "https://docs.pytorch.org/docs/stable/generated/torch.{}.html"

KEYS = {
    "nc": "Number of classes; rows may use the name.",
    "ch": "Channels of the image, 3 unless given.",
    "imgsz": "Side of the image in pixels, or [height, width]; 640 unless given, 224 for classifiers.",
    "scales": "Sizes of the network: {n: [depth multiple, width multiple, max channels]}. The first is the default.",
    "depth_multiple": "Factor of repeats above 1, in a file without scales.",
    "width_multiple": "Factor of widths, in a file without scales.",
    "width_divisor": "Widths are rounded up to a multiple of this: 8 unless given, 1 in a layers file without scales.",
    "activation": "Default activation of the layers: a name such as relu, or a call such as nn.LeakyReLU(0.1).",
    "norm_eps": "Constant that batch norms add to the variance: 1.0e-3 unless given, 1.0e-5 in classifiers.",
    "init": "Initial weights: he for the method of He et al. (2015); torch's defaults unless given.",
    "kpt_shape": "Keypoints: [number, 2 for x, y or 3 with visibility].",
    "reg_max": "For detection heads: bins of the distribution of a box side.",
    "end2end": "For detection heads: add a second branch, which needs no non-maximum suppression.",
    "anchors": "For older heads: number of anchor boxes per level, or their widths and heights level by level.",
    "task": "The network's task, if its head does not state one.",
    "params": "Your own names with values, for use in arguments; --set NAME=VALUE replaces them.",
    "blocks": "Modules written in YAML: a name with params, inputs, rows, result.",
    "imports": "Python files or folders with custom modules, relative to this file. Their code runs with --trust only.",
    "inputs": "Several inputs by name: [channels], [channels, height, width], [count, width] of features, [] a number.",
    "extends": "The base file: a path, or a packaged network.",
    "edits": "Changes of the base file's rows: insert_before, insert_after, replace, remove.",
    "heads": "Several heads by name: {boxes: {row: detect, weight: 1.0}}, each with a task and data of its own.",
    "lr_factors": "Factors of the learning rate by a row's or head's name, a number, range such as 0-9, or section.",
    "degrade": "For task restore: what is done to pictures, in order, to make those that the network restores.",
    "space": "For task restore: the colours that the network restores: y (luminance), rgb or grey.",
    "layers": "The rows of a plain network, instead of backbone and head.",
    "backbone": "The first rows, which read the image.",
    "neck": "Rows between backbone and head.",
    "head": "The last rows; the last one's output is the network's.",
}  # fmt: skip
ROW_DOCS = {
    "from": "The row's sources: a row's number, an offset such as -1, a row's name, input, or a list of these; "
    "name.output or 'name[1]' for one of several outputs.",
    "n": "Repeats, scaled by the depth multiple: an integer, a name, or an expression.",
    SHARE: "Instead of n, module and args: the row, by number or name, whose module it runs again, weights included.",
    "module": "A packaged layer, nn.* of torch, a block, a custom module, or a dotted path.",
    "args": "The module's arguments without its input channels: a list, whose last item may be a mapping of keyword "
    "arguments, or one mapping.",
    "name": "The row's name, for use as a source.",
}
BLOCK_DOCS = {
    "params": "Parameters: a list such as [c2, {k: 3}], or names with defaults. c1, the input channels, is predefined.",
    "inputs": "Names of several sources, for use in from.",
    "rows": "The block's rows; they read its source as input.",
    "result": "The row whose output is the block's, the last unless given; a list for several outputs.",
    "roles": "The roles of parameters whose names do not imply one: {b1: width}.",
}  # fmt: skip
VERB_DOCS = {
    "insert_before": "Insert rows before this one, given by its number in the base file or its name.",
    "insert_after": "Insert rows after this one, given by its number in the base file or its name.",
    "replace": "Replace this row by others; its readers read the last of these.",
    "remove": "Remove this row, or the rows of a list.",
}
ROLES = {
    "in": "input channels", "width": "output channels, scaled by the width multiple", "depth": "repeats",
    "setting": "value of the file's key of this name", "activation": "an activation: a name, a call, true or false",
}  # fmt: skip
_NAME = f"^{NAME_PATTERN.pattern}$"
_PICKED = r"^([A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6})(\[[0-9]{1,4}\]|\.[A-Za-z_][A-Za-z0-9_]*)$"
_OWN = r"^[^\s0-9()\[\]{},:'\"][^\s()\[\]{},:'\"]*$"  # names of blocks, custom modules and dotted paths


def make_schema(custom: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the schema.

    Args:
        custom: entries of custom modules by name, as made by `netbuild.author.index.make_entry`.
    """
    modules = {**index.load_entries(), **(custom or {})}
    return {
        "$schema": DRAFT,
        "title": "netbuild network",
        "type": "object",
        "properties": {key: {"description": KEYS[key], **value} for key, value in _properties().items()},
        "additionalProperties": False,
        "anyOf": [{"required": [key]} for key in ("layers", "backbone", "extends")],
        "dependencies": {
            "edits": {"required": ["extends"], "properties": dict.fromkeys(SECTIONS, False)},
            "layers": {"properties": dict.fromkeys(("backbone", "neck", "head"), False)},
        },
        **_keyword_checks(modules),
        "definitions": {**_definitions(modules), **_keyword_definitions(modules)},
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/definitions/{name}"}


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _list(items: Any, low: int = 0, high: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": low, **({} if high is None else {"maxItems": high})}


def _mapping(values: Any, keys: Any = None, low: int = 0) -> dict[str, Any]:
    """Return the schema of a mapping with at least ``low`` entries; the key may also have no value in the file."""
    names = {"propertyNames": keys} if keys else {}
    return {"type": ["object", "null"], "additionalProperties": values, "minProperties": low, **names}


_TEXT = {"type": "string"}
_CHANNELS = _integer(1, MAX_CHANNELS)
_PIXELS = _integer(1, MAX_SIDE)
_MULTIPLE = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}


def _head() -> dict[str, Any]:
    """Return the schema of an entry of ``heads``."""
    found = {
        "row": {"type": ["string", "integer"], "description": "The name or number of its row."},
        "task": {"type": ["string", "null"], "description": "Its task, if the row's module does not state one."},
        "weight": {
            **{"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": MAX_WEIGHT},
            "description": "Weight of its loss and of its fitness, 1.0 unless given.",
        },
        "data": {
            "type": ["string", "null"],
            "description": "What it learns from: a data set among the datasets of the data file, or an extra.",
        },
        "nc": {"type": ["integer", "null"], "minimum": 1, "description": "Number of its classes, if not the file's."},
    }
    properties = {key: found[key] for key in HEAD_KEYS}
    return {"type": "object", "properties": properties, "required": ["row"], "additionalProperties": False}


def _degradation() -> dict[str, Any]:
    """Return the schema of an entry of ``degrade``; numbers may be expressions, ranges or tables."""
    kinds = {
        kind: {"anyOf": [{"type": ["number", "string", "array"]}, _fields(fields)]} for kind, fields in FIELDS.items()
    }
    return {
        "type": "object",
        "properties": kinds,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _fields(names: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: {"type": ["number", "string", "array"]} for name in names}
    if "method" in values:
        values["method"] = {"enum": [*METHODS]}
    return {"type": "object", "properties": values, "additionalProperties": False}


def _properties() -> dict[str, Any]:
    """Return the schemas of the top-level keys, in the order of `KNOWN_KEYS`."""
    boxes = _list({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SIDE}, 2)
    name = {"pattern": _NAME}
    found = {
        "nc": _integer(1, 1_000_000),
        "ch": _CHANNELS,
        "depth_multiple": _MULTIPLE,
        "width_multiple": _MULTIPLE,
        "activation": _TEXT,
        "norm_eps": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "kpt_shape": {"type": "array", "items": [_integer(1, 10_000), _integer(2, 3)], "minItems": 2, "maxItems": 2},
        "end2end": {"anyOf": [{"type": ["boolean", "null"]}, {"enum": sorted(WORDS)}]},
        "reg_max": _integer(1, 1024),
        "imgsz": {"anyOf": [_PIXELS, _list(_PIXELS, 2, 2)]},
        "task": _TEXT,
        "width_divisor": _integer(1, 1024),
        "init": {"enum": [*INITIAL]},
        "anchors": {"anyOf": [_integer(1, 100), _list(boxes, 1)]},
        **dict.fromkeys(SECTIONS, _ref("rows")),
        "scales": _mapping(_scale(), low=1),
        "params": _mapping({"not": {"type": "object"}}, {**name, "not": {"enum": [*SETTINGS, "input"]}}),
        "blocks": _mapping(_ref("block"), name),
        "imports": {"anyOf": [_TEXT, _list(_TEXT), _mapping(_TEXT)]},
        "extends": _TEXT,
        "edits": _list(_ref("edit")),
        "inputs": _mapping(_list({"type": ["integer", "string"]}, 0, 3), {**name, "not": {"const": "input"}}, 1),
        "heads": _mapping(_head(), {**name, "not": {"const": "input"}}, 1),
        "lr_factors": _mapping({"type": "number", "minimum": 0, "maximum": 100}),
        "degrade": _list(_degradation()),
        "space": {"enum": [*SPACES]},
    }
    return {key: found[key] for key in KNOWN_KEYS}


def _scale() -> dict[str, Any]:
    cap = {"type": "number", "minimum": 1, "description": "Maximum number of channels, before the multiple."}
    multiples = [{**_MULTIPLE, "description": f"{what} multiple."} for what in ("Depth", "Width")]
    return {"type": "array", "items": [*multiples, cap], "minItems": 2, "maxItems": 3}


# -- rows, blocks, edits ----------------------------------------------------------------------------------------------


def _definitions(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    fields = {key: {"description": ROW_DOCS[key], **_described_ref(key)} for key in ROW_KEYS}
    return {
        "rows": _list(_ref("row")),
        "row": {
            "type": ["array", "object"],
            "description": "[from, repeats, module, args], with an optional name; or a mapping with these keys.",
            "items": [fields[key] for key in ROW_KEYS],
            "minItems": len(ROW_KEYS) - 1,
            "maxItems": len(ROW_KEYS),
            "properties": {**fields, SHARE: {"description": ROW_DOCS[SHARE], **_described_ref("source")}},
            "anyOf": [{"required": ["module"]}, {"required": [SHARE]}, {"type": "array"}],
            "additionalProperties": False,
        },
        "source": {
            "anyOf": [{"type": "integer"}, {"type": "string", "pattern": _NAME}, {"type": "string", "pattern": _PICKED}]
        },
        "from": {"anyOf": [_ref("source"), _list(_ref("source"), 1)]},
        "n": {"anyOf": [_integer(1, MAX_REPEATS), _TEXT]},
        "module": {"anyOf": [_module_names(modules), {"type": "string", "pattern": _OWN}]},
        "args": {"type": ["array", "object"]},
        "name": {"type": "string", "pattern": _NAME, "not": {"const": "input"}},
        "block": _block(),
        "edit": _edit(),
    }


def _described_ref(name: str) -> dict[str, Any]:
    # draft-07 ignores keywords beside $ref, a description among them; inside allOf it does not.
    return {"allOf": [_ref(name)]}


def _module_names(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "type": "string",
        "enum": [*modules],
        "enumDescriptions": [f"{m['signature']}\n\n{m['doc']}".strip() for m in modules.values()],
        "markdownEnumDescriptions": [_markdown(name, m) for name, m in modules.items()],
    }


def _markdown(name: str, module: Mapping[str, Any]) -> str:
    page = f"[torch's page]({TORCH_PAGE.format(name)})" if name.startswith("nn.") else ""
    return f"`{module['signature']}`\n\n{module['doc'] or page}".strip()


def _block() -> dict[str, Any]:
    name = {"type": "string", "pattern": _NAME}
    default = {"type": "object", "propertyNames": name}
    fields: dict[str, Any] = {
        "params": {"anyOf": [{"type": "null"}, _list({"anyOf": [name, default]}), default]},
        "inputs": {"anyOf": [{"type": "null"}, _list(name)]},
        "rows": {"allOf": [_ref("rows")], "minItems": 1},
        "result": {"anyOf": [_ref("source"), _list(_ref("source"), 1)]},
        "roles": {"type": "object", "propertyNames": name},
    }
    return {
        "type": "object",
        "properties": {key: {"description": BLOCK_DOCS[key], **fields[key]} for key in BLOCK_KEYS},
        "required": ["rows"],
        "additionalProperties": False,
    }


def _edit() -> dict[str, Any]:
    target: dict[str, Any] = {"anyOf": [{"type": "integer", "minimum": 0}, _TEXT]}
    fields: dict[str, Any] = {verb: {"description": VERB_DOCS[verb], **target} for verb in EDIT_VERBS}
    fields["remove"] = {"description": VERB_DOCS["remove"], "anyOf": [*target["anyOf"], _list(target)]}
    rows = {"anyOf": [{"required": ["row"]}, {"required": ["rows"]}]}
    return {
        "type": "object",
        "properties": {
            **fields,
            "row": {"description": "The new row.", "allOf": [_ref("row")]},
            "rows": {"description": "The new rows.", "allOf": [_ref("rows")], "minItems": 1},
        },
        "additionalProperties": False,
        "oneOf": [{"required": [verb]} for verb in EDIT_VERBS],
        "dependencies": {verb: rows for verb in EDIT_VERBS if verb != "remove"},
    }


# -- keyword arguments ------------------------------------------------------------------------------------------------


def _keyword_checks(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the check of keyword arguments' names.

    It applies only if no block or import of the file has the name of a module in the index: such a module has other
    arguments.
    """
    other = {"propertyNames": {"not": {"enum": [*modules]}}}
    lists = {"items": _ref("known row")}
    block = {"properties": {"rows": lists}}
    edit = {"properties": {"row": _ref("known row"), "rows": lists}}
    return {
        "if": {"properties": {"blocks": other, "imports": other}},
        "then": {
            "properties": {
                **dict.fromkeys(SECTIONS, lists),
                "blocks": {"additionalProperties": block},
                "edits": {"items": edit},
            }
        },
    }


def _keyword_definitions(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the definitions of rows with a known module, and of the keywords of each module.

    A row's module is looked up by its first letter, then by its name. This saves most comparisons, which matters
    because editors check a file at every keystroke.
    """
    known = {name: m["parameters"] for name, m in modules.items() if not any(p[0] == "*" for p in m["parameters"])}
    groups: dict[str, list[str]] = {}
    for name in known:
        groups.setdefault(re.match(r"(nn\.)?.", name)[0], []).append(name)  # type: ignore[index]
    starts = [{"if": _row_of({"pattern": f"^{re.escape(start)}"}), "then": _ref(f"known {start}")} for start in groups]
    return {
        "known row": {"allOf": starts},
        **{f"known {start}": {"allOf": [_keywords_of(name) for name in names]} for start, names in groups.items()},
        **{f"keywords of {name}": _keywords(parameters, name) for name, parameters in known.items()},
    }


def _row_of(module: dict[str, str]) -> dict[str, Any]:
    """Return the schema of a complete row whose module fits ``module``."""
    of_list = {"items": [{}, {}, module], "minItems": len(ROW_KEYS) - 1}
    return {**of_list, "properties": {"module": module}, "required": ["module"]}


def _keywords_of(name: str) -> dict[str, Any]:
    """Return the check of the keywords in a row with this module: in a list's mapping, or as the only argument."""
    args = {"allOf": [_ref(f"keywords of {name}")], "items": _ref(f"keywords of {name}")}
    return {"if": _row_of({"const": name}), "then": {"items": [{}, {}, {}, args], "properties": {"args": args}}}


def _keywords(parameters: Sequence[Sequence[Any]], name: str) -> dict[str, Any]:
    # Rows of torch's modules may have every argument, rows of other modules none that netbuild supplies. A stride is
    # supplied only if it is left out.
    supplied = () if name.startswith("nn.") else ("in", "depth", "size")
    return {
        "properties": {p[0]: _describe_role(p[1]) for p in parameters if p[1] not in supplied},
        "additionalProperties": False,
    }


def _describe_role(role: str) -> dict[str, Any]:
    return {"description": ROLES[role]} if role in ROLES else {}


# -- the file ---------------------------------------------------------------------------------------------------------


def to_json(custom: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return the schema as JSON, one line per key or definition."""
    data = make_schema(custom)
    definitions = data.pop("definitions")
    lines = [f" {json.dumps(key)}: {_compact_json(value)}" for key, value in data.items()]
    inner = ",\n".join(f"  {json.dumps(key)}: {_compact_json(value)}" for key, value in definitions.items())
    return "{\n" + ",\n".join([*lines, f' "definitions": {{\n{inner}\n }}']) + "\n}\n"


def _compact_json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def save(path: Path, custom: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the schema to a file.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_text(path, to_json(custom))
