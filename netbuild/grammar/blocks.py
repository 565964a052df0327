"""Read the `blocks:` of a file: groups of rows with parameters, which rows use like modules."""

from collections.abc import Mapping
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.chosen import choose_modules
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_LEVELS, Block, Context, Parameter, attempt, check_name, read_rows, resolve_source

BLOCK_KEYS = ("params", "inputs", "rows", "result", "roles")


def read_blocks(
    node: Node | None, names: set[str], params: Mapping[str, Any], errors: list[NetbuildError]
) -> dict[str, Block]:
    """Read the blocks of a file by name.

    Args:
        node: the value of ``blocks``, if the file has it.
        names: names that expressions inside blocks may use.
        params: values of the file's parameters, which rows may name as their module.
        errors: mistakes are added to it, so that reading goes on and finds the others.
    """
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        errors.append(node.error(f"blocks must be a mapping from names to blocks, not {node.describe()}"))
        return {}
    blocks = {
        name: attempt(errors, _read_block, name, item, node.keys[name], names, params, errors)
        for name, item in node.value.items()
    }
    found = {name: block for name, block in blocks.items() if block}
    levels: dict[str, int] = {}
    for block in found.values():
        attempt(errors, _count_levels, block, found, (), levels)
    return found


def _read_block(
    name: str, node: Node, key: Node, names: set[str], file_params: Mapping[str, Any], errors: list[NetbuildError]
) -> Block:
    check_name(key, taken=set())
    if not isinstance(node.value, dict) or "rows" not in node.value:
        raise node.error(f"block '{name}' must be a mapping with rows (and params, inputs, result, roles)")
    for field_name in node.value:
        if field_name not in BLOCK_KEYS:
            hint = did_you_mean(field_name, BLOCK_KEYS) or f"known: {', '.join(BLOCK_KEYS)}"
            raise node.keys[field_name].error(f"block '{name}': unknown field '{field_name}'", hint)
    params = _read_params(node)
    inputs = _read_inputs(node.value.get("inputs"))
    # c1 is the number of channels that arrive at the block.
    context = Context({*names, "c1", *(p.name for p in params)}, inputs)
    rows = read_rows([("rows", node.value["rows"])], context, errors)
    rows = choose_modules(rows, file_params, errors, later={p.name for p in params})
    result, is_list = _read_result(node.value.get("result"), len(rows), name, context)
    return Block(name, params, inputs, rows, result, is_list, key)


def _read_inputs(node: Node | None) -> tuple[str, ...]:
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        raise node.error(f"inputs must be a list of names such as [left, right], not {node.describe()}")
    names: list[str] = []
    for item in node.value:
        check_name(item, taken={"input", *names})
        names.append(item.value)
    return tuple(names)


def _read_params(node: Node) -> tuple[Parameter, ...]:
    entry = node.value.get("params")
    roles = node.value["roles"].plain() if "roles" in node.value else {}
    if not isinstance(roles, dict):
        raise node.value["roles"].error("roles must be a mapping such as {b1: width}")
    if entry is None or entry.value is None:
        return ()
    if isinstance(entry.value, dict):
        pairs = [(entry.keys[name], item) for name, item in entry.value.items()]
    elif isinstance(entry.value, list):
        pairs = [pair for item in entry.value for pair in _split_list_entry(item)]
    else:
        raise entry.error("params must be a list such as [c2, {k: 3}] or a mapping from names to defaults")
    params: list[Parameter] = []
    for key, default in pairs:
        check_name(key, taken={"input", *(p.name for p in params)})
        params.append(Parameter(key.value, default, roles.get(key.value)))
    unknown = set(roles) - {p.name for p in params}
    if unknown:
        raise node.value["roles"].error(f"'{min(unknown)}' in roles is not a parameter of this block")
    return tuple(params)


def _split_list_entry(item: Node) -> list[tuple[Node, Node | None]]:
    """Split an entry of a ``params`` list, ``c2`` or ``{k: 3}``, into names and defaults."""
    if isinstance(item.value, dict):
        return [(item.keys[name], default) for name, default in item.value.items()]
    return [(item, None)]


def _read_result(node: Node | None, count: int, name: str, context: Context) -> tuple[tuple[int, ...], bool]:
    """Read the rows whose outputs a block returns, and whether it returns a list; by default its last row.

    Args:
        node: the value of ``result``, if the block has it.
        count: number of rows of the block.
        name: name of the block.
        context: the names of its rows and inputs.
    """
    if node is None:
        return (count - 1,), False
    items = node.value if isinstance(node.value, list) else [node]
    if not items:
        raise node.error(f"block '{name}': the result is empty")
    rows = tuple(resolve_source(item, count, f"the result of block '{name}'", context) for item in items)
    return rows, isinstance(node.value, list)


def _count_levels(block: Block, blocks: Mapping[str, Block], above: tuple[str, ...], known: dict[str, int]) -> int:
    """Count how many levels of blocks a block nests, itself included.

    Args:
        block: the block.
        blocks: all blocks of the file by name.
        above: names of the blocks that contain this one.
        known: results by name, so that a block which many others use is walked only once.

    Raises:
        NetbuildError: if the block contains itself, or nests too deep below those above it.
    """
    if block.name in above:
        chain = " uses ".join((*above[above.index(block.name) :], block.name))
        raise block.node.error(f"a block may not contain itself: {chain}")
    if len(above) + known.get(block.name, 1) > MAX_LEVELS:
        raise block.node.error(f"blocks nested deeper than {MAX_LEVELS} levels")
    if block.name not in known:
        inner = [blocks[name] for name in dict.fromkeys(row.module for row in block.rows) if name in blocks]
        below = [_count_levels(b, blocks, (*above, block.name), known) for b in inner]
        known[block.name] = 1 + max(below, default=0)
    return known[block.name]
