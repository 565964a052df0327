"""Network files made wrong at random, on their text and on their tree. All choices are one ``random.Random``'s."""

from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import yaml

from netbuild.errors import NetbuildError
from netbuild.grammar.blocks import BLOCK_KEYS
from netbuild.grammar.keys import KNOWN_KEYS
from netbuild.grammar.nodes import parse
from netbuild.grammar.rows import ROW_KEYS
from netbuild.modules import registry
from netbuild.roles import Role

ROOT = Path(__file__).parents[2]
FEATURES = """\
nc: 3
params: {k: 3, half: 2, wide: 8 * half, names: [a, b]}
scales: {n: [0.5, 0.5, 64], m: [1.0, 1.0]}
activation: nn.LeakyReLU(0.1)
blocks:
  Unit:
    params: [c2, {k: 3}, {s: 1}]
    rows:
      - [input, 1, nn.Conv2d, [c1, c2, k, s, k // 2], conv]
      - {from: conv, module: nn.BatchNorm2d}
      - [-1, 1, nn.ReLU, [true]]
  Pair:
    params: {c2: null, b1: 8}
    roles: {b1: width}
    inputs: [left, right]
    rows:
      - [left, 1, Unit, [c2], a]
      - [right, half, Unit, [b1, 1], b]
      - [[a, b], 1, Concat, [1], joined]
    result: [a, b, joined]
backbone:
  - &stem [-1, 1, Conv, [16, 3, 2], stem]
  - [-1, 2, C2f, [32, true]]
  - [[stem, -1], 1, Pair, [half * 4, {b1: 16}], pair]
  - [pair.joined, 1, Unit, [wide]]
head:
  - ["pair[0]", 1, nn.Upsample, [None, 1, nearest]]
  - [[-1, pair.b], 1, Concat, [1]]
  - [-1, 1, Conv, ["max(16, nc)", 3, 2, {act: "nn.Hardtanh(-1.0, 2.0)"}]]
  - [[-1], 1, Detect, [nc]]
"""
EXTENDED = """\
extends: alexnet.yaml
nc: 7
inputs: {rgb: [3, 64, 64], depth: [1, 64, 64]}
edits:
  - {remove: [N1]}
  - insert_before: 0
    rows:
      - [[rgb, depth], 1, Concat, [1], both]
      - [-1, 1, nn.Conv2d, {out_channels: 3, kernel_size: 1}, mixed]
  - {replace: C1, row: [mixed, 1, nn.Conv2d, {out_channels: 96, kernel_size: 11, stride: 4, padding: 2}]}
  - {insert_after: F11, row: [-1, 1, nn.Dropout, [0.1]]}
"""
PLAIN = """\
ch: 1
imgsz: [32, 48]
layers:
  - [-1, 1, nn.Conv2d, {out_channels: 6, kernel_size: 5}]
  - [-1, 1, nn.Tanh, []]
  - [-1, 1, nn.AdaptiveAvgPool2d, [[4, 4]]]
  - [-1, 1, nn.Flatten, []]
  - [-1, 1, nn.Linear, {out_features: 10}]
"""


def originals() -> list[str]:
    """The texts that mutants come from: all build at 64 x 64, or at a size of their own."""
    cases = [p for p in (ROOT / "tests" / "cases").glob("*.yaml") if not _is_refused(p)]
    files = [*(ROOT / "architectures").rglob("*.yaml"), *cases]
    return [FEATURES, PLAIN, EXTENDED, *(path.read_text(encoding="utf-8") for path in sorted(files))]


def _is_refused(case: Path) -> bool:
    # Cases with a golden message are wrong already, those with a Python file beside them need it.
    return case.with_suffix(".py").exists() or (ROOT / "tests" / "grammar" / "errors" / f"{case.stem}.txt").exists()


ORIGINALS = originals()
MODULES = [*registry.packaged_names(), *registry.torch_names()]
ODD_MODULES = [
    *("Unit", "Pair", "conv", "nn", "nn.", "torch.nn.ReLU", "nn.Module", "nn.LazyLinear", "nn.init.os.getcwd", "nn.L1Loss"),
    *("torchvision.ops.DropBlock2d", "torchvision.ops.Conv2dNormActivation", "torchvision.ops.nms", "timm.layers.X"),
    *("__import__", "Conv ", "", " ", "Cönv", "nn.ReLU()", "True", "input"),
]  # fmt: skip
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 64, 100, 255, 1000, 1024, 4097, 65_536, 65_537, 10**6 + 3]
HUGE = [2**31 - 1, 2**31, 2**53, 10**9 + 7, 10**12, 10**17, 10**18, 10**30]
FLOATS = [0.0, -0.0, 0.25, 0.5, 0.999, 1.0, 1.5, 2.0, 1e-9, 1e-320, 1e9, 1e19, 1e308, float("inf"), float("nan")]
WORDS = [
    *("nc", "ch", "c1", "c2", "k", "half", "wide", "names", "imgsz", "kpt_shape", "scale", "depth", "max_channels"),
    *("input", "stem", "pair", "pair.b", "pair[0]", "pair[9]", "0[1]", "3[0]", "a", "left", "-1", "1.0", "0x10", "1e3"),
    *("nearest", "bilinear", "same", "zeros", "reflect", "relu", "Leaky ReLU", "detect", "classify", "None", "~", "no"),
    *("training", "forward", "plan", "title", "_modules", "weight", "0", "", " ", "ä", "\u2028", "\x85", "é" * 300),
]  # fmt: skip
FILES = ["lenet5.yaml", "alexnet.yaml", "yolo11n.yaml", "nothere.yaml", ".", "/", "\0", "x" * 5000, "net.yaml"]
CALLS = [
    *("nn.ReLU()", "nn.ReLU", "nn.PReLU(3)", "nn.LeakyReLU(-1e30)", "nn.Softmax(dim=9)", "nn.Hardtanh(2, 1)", "nn.GLU()"),
    *("nn.Linear(-1, 4)", "nn.Linear(100000, 100000)", "nn.Conv2d(3, 3, 3, groups=0)", "nn.MultiheadAttention(4, 0)"),
    *("nn.Softshrink(-1)", "nn.LSTM(3, 3, 1000000)", "nn.Unflatten(1, 'x')", "nn.BatchNorm2d(-3)", "nn.Upsample((1, 2, 3))"),
    *("nn.Transformer(8, 3)", "nn.ReLU(*[1])", "nn.ReLU(**{})", "nn.Fold(1, 1)", "nn.MaxPool2d(0)", "nn.X(1)", "os.system('ls')"),
    *("nn.ReLU(", "nn.ReLU(inplace=", "nn.Identity(1j, b'x', {1, 2}, ...)", "timm.layers.X()", "nn.init.os.getcwd()"),
]  # fmt: skip
OPERANDS = [
    *"0 1 2 -1 64 1000000007 9007199254740993 0.5 1e308 1e999 nc ch k half wide c1 width max_channels scale".split()
]
OPERATORS = [*"+ - * / // % **".split(), " and ", " if ", ",", "<<", "@"]


def number(rng: Random) -> Any:
    """A size: mostly small, at times absurd."""
    draw = rng.random()
    if draw < 0.6:
        return rng.choice(SIZES)
    if draw < 0.7:
        return -rng.choice(SIZES)
    return rng.choice(FLOATS) * rng.choice([1, -1]) if draw < 0.85 else rng.choice(HUGE) * rng.choice([1, 1, -1])


def expression(rng: Random, depth: int = 2) -> str:
    """Arithmetic, or nearly."""
    if depth == 0 or rng.random() < 0.2:
        return rng.choice(OPERANDS)
    if rng.random() < 0.3:
        parts = ", ".join(expression(rng, depth - 1) for _ in range(rng.randrange(4)))
        return f"{rng.choice(['min', 'max', 'int', 'round', 'abs', 'pow', 'eval'])}({parts})"
    left, right = expression(rng, depth - 1), expression(rng, depth - 1)
    return rng.choice(["{} {} {}", "({}) {} ({})"]).format(left, rng.choice(OPERATORS), right)


def value(rng: Random, depth: int = 2) -> Any:
    """Anything that YAML can hold."""
    draw = rng.random()
    if draw < 0.35:
        return number(rng)
    if draw < 0.5:
        return rng.choice([None, True, False])
    if draw < 0.85 or depth == 0:
        return rng.choice([rng.choice(WORDS), rng.choice(CALLS), expression(rng), str(number(rng))])
    items = [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return items if rng.random() < 0.7 else {key(rng): item for item in items}


def key(rng: Random) -> Any:
    """Anything that may stand before a colon."""
    known = rng.choice([KNOWN_KEYS, ROW_KEYS, BLOCK_KEYS, ("k", "c2", "act", "bias", "kernel_size", "out_channels")])
    return rng.choice(known) if rng.random() < 0.7 else rng.choice([*WORDS, None, True, 3, 1.5, "<<", "x" * 2000])


# -- rows -------------------------------------------------------------------------------------------------------------


def module(rng: Random) -> Any:
    """A module's name, or nearly."""
    draw = rng.random()
    return rng.choice(MODULES) if draw < 0.85 else rng.choice(ODD_MODULES) if draw < 0.97 else value(rng)


def arguments(rng: Random, name: Any) -> Any:
    """Arguments of a module that are often right."""
    try:
        parameters = [p for p in registry.find_factory(name, {}).parameters if p.role not in (Role.DEPTH, Role.STRIDE)]
    except (NetbuildError, TypeError, AttributeError):
        return [value(rng) for _ in range(rng.randrange(4))]
    if not name.startswith("nn.") or rng.random() < 0.3:
        parameters = [p for p in parameters if p.role not in (Role.IN, Role.SETTING, Role.SIZE)]
    needed = sum(p.required for p in parameters)
    count = needed if rng.random() < 0.5 else rng.randrange(len(parameters) + 1)
    values = {p.name: _fitting(rng, p) for p in parameters[:count]}
    if rng.random() < 0.2:
        return values
    split = count if rng.random() < 0.7 else rng.randrange(count + 1)
    items: list[Any] = list(values.values())[:split]
    rest = dict(list(values.items())[split:])
    return [*items, rest] if rest else items


def _fitting(rng: Random, parameter: Any) -> Any:
    if rng.random() < 0.06:
        return value(rng)
    if parameter.role in (Role.IN, Role.WIDTH):
        return rng.choice([1, 3, 6, 8, 16, 16, 32, 64, 96])
    kinds = set(parameter.types)
    if bool in kinds or isinstance(parameter.default, bool):
        return rng.choice([True, False])
    if float in kinds or isinstance(parameter.default, float):
        return rng.choice([0.1, 0.5, 1.0, 2.0, 3])
    if kinds & {list, tuple} and rng.random() < 0.5:
        return [rng.choice([1, 2, 3, 5]) for _ in range(rng.choice([1, 2, 2, 3]))]
    return rng.choice([1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5, 7, 8, 16, number(rng)])


def row(rng: Random) -> Any:
    """A row that is often right."""
    name = module(rng)
    source = rng.choice([-1, -1, -1, -2, 0, "input", [-1], [-1, -2], ["input", -1]])
    return [source, rng.choice([1, 1, 1, 2, 3]), name, arguments(rng, name)]


def _is_row(item: Any) -> bool:
    return isinstance(item, list) and len(item) in (4, 5) and isinstance(item[2], str)


def _rows(rng: Random, tree: Any) -> list[Any] | None:
    lists = [node[k] for node, k in slots(tree) if isinstance(node[k], list) and any(map(_is_row, node[k]))]
    return rng.choice(lists) if lists else None


def _row_source(rng: Random) -> Any:
    draw = rng.random()
    if draw < 0.5:
        return rng.randrange(-6, 12)
    if draw < 0.7:
        return [rng.choice([rng.randrange(-6, 12), rng.choice(WORDS)]) for _ in range(rng.randrange(5))]
    return rng.choice([rng.choice(WORDS), value(rng)])


def change_row(rng: Random, tree: Any) -> None:
    """One field of a row, or the row's form."""
    rows = _rows(rng, tree)
    found = [i for i, item in enumerate(rows or []) if _is_row(item)]
    if not found:
        return
    at = rng.choice(found)
    item = rows[at] = list(rows[at])
    what = rng.choice(["from", "n", "module", "args", "args", "arg", "arg", "name", "mapping", "arity", "keyword"])
    if what == "from":
        item[0] = _row_source(rng)
    elif what == "n":
        item[1] = rng.choice([1, 2, 3, 10, 100, 1000, 1001, expression(rng), value(rng)])
    elif what == "module":
        item[2] = module(rng)
    elif what == "args":
        item[3] = arguments(rng, item[2])
    elif what == "arg" and isinstance(item[3], list) and item[3]:
        item[3] = list(item[3])
        item[3][rng.randrange(len(item[3]))] = rng.choice([number(rng), expression(rng), rng.choice(CALLS), value(rng)])
    elif what == "keyword" and isinstance(item[3], list):
        item[3] = [*item[3], {key(rng): value(rng)}]
    elif what == "name":
        item[4:] = [rng.choice([*WORDS, value(rng)])]
    elif what == "mapping":
        rows[at] = dict(zip(ROW_KEYS, item, strict=False))
    elif what == "arity":
        rows[at] = [value(rng), *item] if rng.random() < 0.5 else item[: rng.randrange(4)]


def insert_row(rng: Random, tree: Any) -> None:
    """One more row; those after it may count on."""
    rows = _rows(rng, tree)
    if rows is not None:
        rows.insert(rng.randrange(len(rows) + 1), row(rng))


def move_rows(rng: Random, tree: Any) -> None:
    """Rows in another order, or one of them many times, by an alias or without."""
    rows = _rows(rng, tree)
    if not rows:
        return
    if rng.random() < 0.5:
        i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
        rows[i], rows[j] = rows[j], rows[i]
        return
    item, times = rng.choice(rows), rng.choice([1, 2, 10, 100])
    rows.extend(item if rng.random() < 0.5 else deepcopy(item) for _ in range(times))


# -- the file's other parts -------------------------------------------------------------------------------------------


def set_key(rng: Random, tree: Any) -> None:
    """A top-level key, often one that is known."""
    if not isinstance(tree, dict):
        return
    good: dict[str, Any] = {
        "nc": number(rng), "ch": number(rng), "depth_multiple": number(rng), "width_multiple": number(rng),
        "activation": rng.choice([*CALLS, *WORDS]), "kpt_shape": [17, number(rng)], "imgsz": [number(rng), number(rng)],
        "reg_max": number(rng), "width_divisor": number(rng), "task": rng.choice(WORDS), "end2end": rng.random() < 0.5,
        "scales": {key(rng): [number(rng), number(rng), number(rng)], "n": [0.5, number(rng), number(rng)]},
        "params": {rng.choice(WORDS): value(rng), "k": value(rng)}, "imports": rng.choice([["./x.py"], value(rng)]),
        "inputs": {"a": [3], rng.choice(WORDS): [number(rng), 64, 64]}, "extends": rng.choice(FILES),
        "edits": [edit(rng) for _ in range(rng.randrange(4))],
    }  # fmt: skip
    name = rng.choice([*good, key(rng)])
    tree[name] = good[name] if name in good and rng.random() < 0.8 else value(rng)


def edit(rng: Random) -> Any:
    """An edit of the rows of a file that is extended."""
    target = rng.choice([rng.randrange(-2, 14), rng.choice(WORDS), "C1", "S2", "N1", [0, 1], value(rng)])
    change = rng.choice(["insert_before", "insert_after", "replace", "remove"])
    rows = {} if change == "remove" else rng.choice([{"row": row(rng)}, {"rows": [row(rng), row(rng)]}])
    return {change: target, **rows} if rng.random() < 0.9 else {change: target, key(rng): value(rng)}


def add_block(rng: Random, tree: Any) -> None:
    """A block, and a row that uses it."""
    if not isinstance(tree, dict):
        return
    inner = [row(rng) for _ in range(rng.choice([1, 1, 2, 3, 0]))]
    block: dict[Any, Any] = {"rows": inner}
    if inner and rng.random() < 0.5:
        block["params"] = rng.choice([["c2", {"k": 3}], {"c2": 8, "k": None}, ["c2", "n"], value(rng)])
        inner[0] = ["input", 1, "Conv", ["c2", rng.choice(["k", expression(rng)])]]
    if rng.random() < 0.3:
        block["inputs"] = rng.choice([["a", "b"], ["a", "a"], ["input"], [], value(rng)])
    if rng.random() < 0.3:
        block["result"] = rng.choice([0, [0], [0, -1], "input", ["input", 0], [[0]], value(rng)])
    if rng.random() < 0.3:
        block["roles"] = rng.choice([{"k": rng.choice([r.value for r in Role])}, {"c2": value(rng)}, value(rng)])
    if rng.random() < 0.2:
        block[key(rng)] = value(rng)
    name = rng.choice(["Mine", "Mine", "Conv", *WORDS])
    if rng.random() < 0.1:
        inner.append([-1, 1, name, []])
    blocks = tree.setdefault("blocks", {})
    if isinstance(blocks, dict):
        blocks[name] = block
    rows = _rows(rng, {k: v for k, v in tree.items() if k != "blocks"})
    if rows is not None:
        use = [
            rng.choice([-1, [-1], [-1, 0]]),
            rng.choice([1, 1, 2, 5]),
            name,
            rng.choice([[], [8], [8, 3], [value(rng)]]),
        ]
        rows.insert(rng.randrange(len(rows) + 1), use)


# -- any part of the tree ---------------------------------------------------------------------------------------------


def slots(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree as (collection, index or key)."""
    found: list[tuple[Any, Any]] = []
    waiting, seen = [tree], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, (list, dict)):
            continue
        seen.add(id(node))
        for k in list(node) if isinstance(node, dict) else range(len(node)):
            found.append((node, k))
            waiting.append(node[k])
    return found


def change_slot(rng: Random, tree: Any) -> None:
    """Something at a place: replaced, removed, doubled, wrapped, nested, renamed, exchanged, aliased."""
    places = slots(tree)
    if not places:
        return
    node, k = rng.choice(places)
    other, j = rng.choice(places)
    what = rng.choice(["set", "set", "remove", "double", "wrap", "nest", "rename", "swap", "alias", "text", "cycle"])
    if what == "set":
        node[k] = value(rng)
    elif what == "remove":
        del node[k]
    elif what == "double" and isinstance(node, list):
        node.insert(k, deepcopy(node[k]))
    elif what == "wrap":
        node[k] = [node[k]] if rng.random() < 0.5 else {key(rng): node[k]}
    elif what == "nest":
        for _ in range(rng.choice([1, 2, 10, 70, 200])):
            node[k] = [node[k]]
    elif what == "rename" and isinstance(node, dict):
        node[key(rng)] = node.pop(k)
    elif what == "swap":
        node[k], other[j] = other[j], node[k]
    elif what == "alias":
        node[k] = other[j]
    elif what == "text":
        node[k] = str(node[k])
    elif what == "cycle" and rng.random() < 0.3:
        node[k] = rng.choice([node, tree])


# -- the text ---------------------------------------------------------------------------------------------------------

TOKENS = [
    *("[", "]", "{", "}", ",", ":", ": ", "- ", "? ", "| ", "> ", "# ", "'", '"', "\n", "\t", " ", "  ", "\r", "\r\n", "\x85"),
    *("\u2028", "\ufeff", "\x00", "\x07", "\x1b[2J", "\x7f", "\ud800", "\U0001f600", "*stem", "&a ", "*a", "!!python/x ", "!x "),
    *("---\n", "...\n", "%YAML 1.2\n", "\\", '"\\q"', '"\\u12"', "<<: ", "@", "`", "~", "null", ".inf", "0x", "1e", "%", "!!int "),
    *("!!float 3", "!!seq ", "!!map ", "|2\n", "\u200b", "ß", "\x0b", "\x0c"),
]  # fmt: skip


def _cut(rng: Random, text: str) -> tuple[int, int]:
    start = rng.randrange(len(text) + 1)
    return start, min(len(text), start + rng.choice([0, 1, 1, 2, 5, 20, 200]))


def change_text(rng: Random, text: str) -> str:
    """Characters, words, numbers and lines of a text."""
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    start, end = _cut(rng, text)
    what = rng.choice(
        ["insert", "insert", "remove", "truncate", "double", "swap", "drop", "indent", "breaks", "replace"]
    )
    if what == "insert":
        return text[:start] + rng.choice(TOKENS) + text[start:]
    if what == "remove":
        return text[:start] + text[end:]
    if what == "truncate":
        return text[:start]
    if what == "replace":
        return text[:start] + rng.choice([rng.choice(TOKENS), str(value(rng))]) + text[end:]
    if what == "breaks":
        return text.replace("\n", rng.choice(["\r\n", "\r", "\x85", "\u2028", "\n\n", " "]))
    other = rng.randrange(len(lines))
    if what == "double":
        lines.insert(other, lines[at])
    elif what == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif what == "drop":
        del lines[at]
    elif what == "indent":
        lines[at] = rng.choice(["", " ", "    ", "\t"]) + lines[at].lstrip(" ")
    return "".join(lines)


def change_bytes(rng: Random, text: str) -> bytes:
    """A text in another encoding, or with foreign bytes."""
    what = rng.choice(["utf-8-sig", "utf-16", "utf-32", "latin-1", "flip", "flip", "insert"])
    if what not in ("flip", "insert"):
        return text.encode(what, "replace")
    data = bytearray(text.encode("utf-8", "replace"))
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(data) + 1)
        data[at : at + (what == "flip")] = bytes([rng.choice([0, 9, 10, 13, 0x1B, 0x7F, 0x80, 0xC3, 0xED, 0xFE, 0xFF])])
    return bytes(data)


# -- all together -----------------------------------------------------------------------------------------------------

CHANGES = [change_row, change_row, change_row, insert_row, insert_row, move_rows, set_key, add_block, change_slot]


def mutant(rng: Random) -> str | bytes:
    """A file made wrong in one to four places; bytes where its encoding suffers too."""
    text = rng.choice(ORIGINALS)
    if rng.random() < 0.75:
        text = _replanted(rng, text)
    if rng.random() < 0.25:
        for _ in range(rng.choice([1, 1, 2, 3])):
            text = change_text(rng, text)
    return change_bytes(rng, text) if rng.random() < 0.05 else text


def _replanted(rng: Random, text: str) -> str:
    try:
        tree = parse(text, "original").plain()
    except NetbuildError:
        return change_text(rng, text)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(CHANGES)(rng, tree)
    flow = rng.choice([None, None, False, True])
    try:
        return _dumped(rng, tree, flow)
    except RecursionError:  # nested deeper than the dumper goes
        return "[" * 2000


def _dumped(rng: Random, tree, flow) -> str:
    return yaml.dump(
        tree,
        Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper),
        default_flow_style=flow,
        sort_keys=False,
        allow_unicode=rng.random() < 0.5,
        width=120,
    )
