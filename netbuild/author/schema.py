"""A JSON Schema (draft-07) of network files, for editors: keys, rows, module names and their keyword arguments.

Made from the constants that the reader checks by and from the index of signatures: no torch is imported. A schema knows
one file's text only: whether sources exist, names are known and shapes fit, `netbuild check` says.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netbuild.author import index
from netbuild.grammar.blocks import BLOCK_KEYS
from netbuild.grammar.expressions import WORDS
from netbuild.grammar.extends import VERBS
from netbuild.grammar.keys import INITIAL, MAX_SIDE, SETTINGS
from netbuild.grammar.rows import MAX_CHANNELS, MAX_REPEATS, NAME, ROW_KEYS, SECTIONS
from netbuild.grammar.spec import KNOWN_KEYS
from netbuild.system.files import write_text

DRAFT = "http://json-schema.org/draft-07/schema#"
TORCH_PAGE = "https://docs.pytorch.org/docs/stable/generated/torch.{}.html"

KEYS = {
    "nc": "Number of classes; rows may use the name.",
    "ch": "Channels of the image, 3 unless given.",
    "imgsz": "Side of the image in pixels, or [height, width]; 640, of classifiers 224, unless given.",
    "scales": "Sizes of the network: {n: [depth multiple, width multiple, max channels]}. The first is the default.",
    "depth_multiple": "What repeats above 1 are multiplied by, in a file without scales.",
    "width_multiple": "What widths are multiplied by, in a file without scales.",
    "width_divisor": "Widths are rounded up to a multiple of it: 8, in a layers file without scales 1.",
    "activation": "Activation of layers that do not say another: a name such as relu, or a call, nn.LeakyReLU(0.1).",
    "init": "How weights begin: he as He et al. have it. Without it as torch does.",
    "kpt_shape": "Key points: [how many, 2 for x, y or 3 with visibility].",
    "reg_max": "Of detection heads: bins of a box side's distribution.",
    "end2end": "Of detection heads: a second branch that needs no suppression.",
    "anchors": "Of older heads: number of anchor boxes a level, or their widths and heights level by level.",
    "task": "What the network is for, where the head does not say it.",
    "params": "Your own names with values, usable in arguments; --set NAME=VALUE replaces them.",
    "blocks": "Modules written in YAML: a name with params, inputs, rows, result.",
    "imports": "Python files or folders with own modules, relative to this file. Their code runs with --trust only.",
    "inputs": "Several inputs by name: [channels], [channels, height, width], [count, width] of features, [] a number.",
    "extends": "The file that this one builds on: a path, or a packaged network.",
    "edits": "Changes of the rows of the file that extends names: insert_before, insert_after, replace, remove.",
    "lr_factors": "Factors of the learning rate by a row's name, number, range such as 0-9, or section.",
    "layers": "The rows of a plain network, instead of backbone and head.",
    "backbone": "The first rows: what sees the image.",
    "neck": "Rows between backbone and head.",
    "head": "The last rows; the last one's output is the network's.",
}  # fmt: skip
ROW_DOCS = {
    "from": "What the row reads: a row's number, an offset such as -1, a row's name, input, or a list of them; "
    "name.output or 'name[1]' for one of several outputs.",
    "n": "Repeats, scaled by the depth multiple: a whole number, a name, or arithmetic.",
    "module": "A packaged layer, nn.* of torch, a block, an own module, or a dotted path.",
    "args": "The module's arguments without its input channels; keywords in a mapping at the end, or all in one.",
    "name": "The row's name, by which others read it.",
}
BLOCK_DOCS = {
    "params": "Parameters: a list such as [c2, {k: 3}], or names with defaults. c1, the input channels, is there.",
    "inputs": "Names of several sources, for from.",
    "rows": "The block's rows; input is its source.",
    "result": "The row whose output it gives, the last unless said; a list gives several.",
    "roles": "What fills parameters whose names do not say it: {b1: width}.",
}  # fmt: skip
VERB_DOCS = {
    "insert_before": "Put rows before this one, by the base's number or its name.",
    "insert_after": "Put rows after this one, by the base's number or its name.",
    "replace": "Put rows in the place of this one; who read it reads the last of them.",
    "remove": "Take out this row, or those of a list.",
}
ROLES = {
    "in": "input channels", "width": "output channels, scaled by the width multiple", "depth": "repeats",
    "setting": "the file's key of this name", "activation": "an activation: a name, a call, true or false",
}  # fmt: skip
_NAME = f"^{NAME.pattern}$"
_PICKED = r"^([A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6})(\[[0-9]{1,4}\]|\.[A-Za-z_][A-Za-z0-9_]*)$"
_OWN = r"^[^\s0-9()\[\]{},:'\"][^\s()\[\]{},:'\"]*$"  # of a module that only the file, or Python, knows


def schema(own: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """The schema.

    Args:
        own: own modules beside the packaged ones, by name, as `netbuild.author.index.entry` has them.
    """
    modules = {**index.entries(), **(own or {})}
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


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _list(items: Any, low: int = 0, high: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": low, **({} if high is None else {"maxItems": high})}


def _mapping(values: Any, keys: Any = None, low: int = 0) -> dict[str, Any]:
    """Of any keys; the file may leave its value empty."""
    names = {"propertyNames": keys} if keys else {}
    return {"type": ["object", "null"], "additionalProperties": values, "minProperties": low, **names}


_TEXT = {"type": "string"}
_CHANNELS = _whole(1, MAX_CHANNELS)
_PIXELS = _whole(1, MAX_SIDE)
_MULTIPLE = {"type": "number", "exclusiveMinimum": 0, "maximum": 100}


def _properties() -> dict[str, Any]:
    """The top-level keys, in the order of `KNOWN_KEYS`."""
    boxes = _list({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SIDE}, 2)
    name = {"pattern": _NAME}
    found = {
        "nc": _whole(1, 1_000_000),
        "ch": _CHANNELS,
        "depth_multiple": _MULTIPLE,
        "width_multiple": _MULTIPLE,
        "activation": _TEXT,
        "kpt_shape": {"type": "array", "items": [_whole(1, 10_000), _whole(2, 3)], "minItems": 2, "maxItems": 2},
        "end2end": {"anyOf": [{"type": ["boolean", "null"]}, {"enum": sorted(WORDS)}]},
        "reg_max": _whole(1, 1024),
        "imgsz": {"anyOf": [_PIXELS, _list(_PIXELS, 2, 2)]},
        "task": _TEXT,
        "width_divisor": _whole(1, 1024),
        "init": {"enum": [*INITIAL]},
        "anchors": {"anyOf": [_whole(1, 100), _list(boxes, 1)]},
        **dict.fromkeys(SECTIONS, _ref("rows")),
        "scales": _mapping(_scale(), low=1),
        "params": _mapping({"not": {"type": "object"}}, {**name, "not": {"enum": [*SETTINGS, "input"]}}),
        "blocks": _mapping(_ref("block"), name),
        "imports": {"anyOf": [_TEXT, _list(_TEXT), _mapping(_TEXT)]},
        "extends": _TEXT,
        "edits": _list(_ref("edit")),
        "inputs": _mapping(_list({"type": ["integer", "string"]}, 0, 3), {**name, "not": {"const": "input"}}, 1),
        "lr_factors": _mapping({"type": "number", "minimum": 0, "maximum": 100}),
    }
    return {key: found[key] for key in KNOWN_KEYS}


def _scale() -> dict[str, Any]:
    cap = {"type": "number", "minimum": 1, "description": "Most channels, before the multiple."}
    multiples = [{**_MULTIPLE, "description": f"{what} multiple."} for what in ("Depth", "Width")]
    return {"type": "array", "items": [*multiples, cap], "minItems": 2, "maxItems": 3}


# -- rows, blocks, edits ----------------------------------------------------------------------------------------------


def _definitions(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    fields = {key: {"description": ROW_DOCS[key], **_ref_in(key)} for key in ROW_KEYS}
    return {
        "rows": _list(_ref("row")),
        "row": {
            "type": ["array", "object"],
            "description": "[from, repeats, module, args], a fifth field names the row; or a mapping with these keys.",
            "items": [fields[key] for key in ROW_KEYS],
            "minItems": len(ROW_KEYS) - 1,
            "maxItems": len(ROW_KEYS),
            "properties": fields,
            "required": ["module"],
            "additionalProperties": False,
        },
        "source": {
            "anyOf": [{"type": "integer"}, {"type": "string", "pattern": _NAME}, {"type": "string", "pattern": _PICKED}]
        },
        "from": {"anyOf": [_ref("source"), _list(_ref("source"), 1)]},
        "n": {"anyOf": [_whole(1, MAX_REPEATS), _TEXT]},
        "module": {"anyOf": [_names(modules), {"type": "string", "pattern": _OWN}]},
        "args": {"type": ["array", "object"]},
        "name": {"type": "string", "pattern": _NAME, "not": {"const": "input"}},
        "block": _block(),
        "edit": _edit(),
    }


def _ref_in(name: str) -> dict[str, Any]:
    # Keywords beside $ref are passed over in draft-07.
    return {"allOf": [_ref(name)]}


def _names(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
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
    fields: dict[str, Any] = {verb: {"description": VERB_DOCS[verb], **target} for verb in VERBS}
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
        "oneOf": [{"required": [verb]} for verb in VERBS],
        "dependencies": {verb: rows for verb in VERBS if verb != "remove"},
    }


# -- keyword arguments ------------------------------------------------------------------------------------------------


def _keyword_checks(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Names of keyword arguments are checked unless the file has a module of its own by a name in the index."""
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
    """The rows of modules whose signature is known, and for each signature its keywords.

    Modules are told apart by how they begin, then by name: editors check a file anew at every keystroke.
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
    """A whole row whose module is like this."""
    of_list = {"items": [{}, {}, module], "minItems": len(ROW_KEYS) - 1}
    return {**of_list, "properties": {"module": module}, "required": ["module"]}


def _keywords_of(name: str) -> dict[str, Any]:
    """Of a row with this module: the keywords, in a list or alone."""
    args = {"allOf": [_ref(f"keywords of {name}")], "items": _ref(f"keywords of {name}")}
    return {"if": _row_of({"const": name}), "then": {"items": [{}, {}, {}, args], "properties": {"args": args}}}


def _keywords(parameters: Sequence[Sequence[Any]], name: str) -> dict[str, Any]:
    # Of torch's modules everything may be given, of others not what netbuild supplies; a stride may be missing.
    supplied = () if name.startswith("nn.") else ("in", "depth", "size")
    return {
        "properties": {p[0]: _described(p[1]) for p in parameters if p[1] not in supplied},
        "additionalProperties": False,
    }


def _described(role: str) -> dict[str, Any]:
    return {"description": ROLES[role]} if role in ROLES else {}


# -- the file ---------------------------------------------------------------------------------------------------------


def text(own: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The schema as JSON, a key or a definition a line."""
    data = schema(own)
    definitions = data.pop("definitions")
    lines = [f" {json.dumps(key)}: {_short(value)}" for key, value in data.items()]
    inner = ",\n".join(f"  {json.dumps(key)}: {_short(value)}" for key, value in definitions.items())
    return "{\n" + ",\n".join([*lines, f' "definitions": {{\n{inner}\n }}']) + "\n}\n"


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def save(path: Path, own: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write the schema.

    Raises:
        NetbuildError: if it cannot be written.
    """
    write_text(path, text(own))
