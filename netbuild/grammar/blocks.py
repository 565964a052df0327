"""The `blocks:` of a file: groups of rows with parameters, used like modules."""

from collections.abc import Mapping

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import MAX_LEVELS, Block, Context, Parameter, _source, attempt, check_name, read_rows

BLOCK_KEYS = ("params", "inputs", "rows", "result", "roles")


def read_blocks(node: Node | None, names: set[str], errors: list[NetbuildError]) -> dict[str, Block]:
    """The blocks of a file by name; their errors are noted."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        errors.append(node.error(f"blocks must be a mapping from names to blocks, not {node.describe()}"))
        return {}
    blocks = {
        name: attempt(errors, _block, name, item, node.keys[name], names, errors) for name, item in node.value.items()
    }
    found = {name: block for name, block in blocks.items() if block}
    heights: dict[str, int] = {}
    for block in found.values():
        attempt(errors, _height, block, found, (), heights)
    return found


def _block(name: str, node: Node, key: Node, names: set[str], errors: list[NetbuildError]) -> Block:
    check_name(key, taken=set())
    if not isinstance(node.value, dict) or "rows" not in node.value:
        raise node.error(f"block '{name}' must be a mapping with rows (and params, inputs, result, roles)")
    for field_name in node.value:
        if field_name not in BLOCK_KEYS:
            hint = did_you_mean(field_name, BLOCK_KEYS) or f"known: {', '.join(BLOCK_KEYS)}"
            raise node.keys[field_name].error(f"block '{name}': unknown field '{field_name}'", hint)
    params = _block_params(node)
    inputs = _block_inputs(node.value.get("inputs"))
    context = Context({*names, "c1", *(p.name for p in params)}, inputs)
    rows = read_rows([("rows", node.value["rows"])], context, errors)
    result, listed = _result(node.value.get("result"), len(rows), name, context)
    return Block(name, params, inputs, rows, result, listed, key)


def _block_inputs(node: Node | None) -> tuple[str, ...]:
    if node is None or node.value is None:
        return ()
    if not isinstance(node.value, list):
        raise node.error(f"inputs must be a list of names such as [left, right], not {node.describe()}")
    names: list[str] = []
    for item in node.value:
        check_name(item, taken={"input", *names})
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
        check_name(key, taken={"input", *(p.name for p in params)})
        params.append(Parameter(key.value, default, roles.get(key.value)))
    unknown = set(roles) - {p.name for p in params}
    if unknown:
        raise node.value["roles"].error(f"roles names '{min(unknown)}', which is no parameter of this block")
    return tuple(params)


def _listed_param(item: Node) -> list[tuple[Node, Node | None]]:
    if isinstance(item.value, dict):
        return [(item.keys[name], default) for name, default in item.value.items()]
    return [(item, None)]


def _result(node: Node | None, count: int, name: str, context: Context) -> tuple[tuple[int, ...], bool]:
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
