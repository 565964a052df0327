"""Build a file on another: ``extends`` names the base, ``edits`` change its rows, other keys replace the base's.

This happens on nodes, before rows are read, so that each row keeps its place and is checked like any other.
"""

from pathlib import Path

from netbuild.errors import NetbuildError, did_you_mean, raise_all
from netbuild.grammar.dialects import parse_tree, translate
from netbuild.grammar.edits import apply_edits
from netbuild.grammar.keys import KNOWN_KEYS
from netbuild.grammar.locate import find_checkpoint, is_file, locate
from netbuild.grammar.nodes import Node, parse, read_text
from netbuild.grammar.rows import SECTIONS

MAX_CHAIN = 16  # files that extend one another
MERGED = ("params", "blocks", "imports")  # mappings whose entries replace the base's one by one


def expand(root: Node, chain: tuple[Path, ...]) -> Node:
    """Read the base of a file and apply the file's edits; a file without ``extends`` is returned unchanged.

    Args:
        root: the file's tree.
        chain: paths of the files that extend one another, from the first to this one.

    Raises:
        NetbuildError: for a cycle, a missing base, an edit of a missing row, or edits that contradict each other.
    """
    if not isinstance(root.value, dict) or "extends" not in root.value:
        if isinstance(root.value, dict) and "edits" in root.value:
            raise root.keys["edits"].error("'edits' need 'extends': they change the rows of the file that it names")
        return root
    base = _read_base(root.value["extends"], chain)
    if not isinstance(base.value, dict):
        raise root.value["extends"].error("the file that it names is not a network file")
    return _merge(root, base)


def _read_base(node: Node, chain: tuple[Path, ...]) -> Node:
    path = _find_base(node, chain[-1])
    if path.resolve() in [p.resolve() for p in chain]:
        raise node.error("a file may not extend itself: " + " extends ".join(p.name for p in (*chain, path)))
    if len(chain) >= MAX_CHAIN:
        raise node.error(f"more than {MAX_CHAIN} files extend one another")
    root, *_ = translate(parse_tree(read_text(path), str(path))[0])
    _check_keys(root)
    return expand(root, (*chain, path))


def _check_keys(base: Node) -> None:
    """Refuse a base with keys that no network file has.

    Its keys become those of the file that names it, and so of checkpoints. A path of the wrong file must not carry
    off what that file holds.

    Raises:
        NetbuildError: at every such key.
    """
    unknown = [key for key in base.value if key not in KNOWN_KEYS] if isinstance(base.value, dict) else []
    hint = "a file that another extends has keys of network files only"
    raise_all([base.keys[k].error(f"unknown key '{k}'", did_you_mean(k, KNOWN_KEYS) or hint) for k in unknown])


def _find_base(node: Node, file: Path) -> Path:
    if not isinstance(node.value, str):
        raise node.error(f"extends names one file, not {node.describe()}")
    path = file.parent / node.value
    if find_checkpoint(path):
        raise node.error("extends names a YAML file, this is a checkpoint", f"write its file: netbuild show {path}")
    if not is_file(path):  # the name of a packaged architecture
        try:
            path, letter = locate(node.value)
        except NetbuildError as error:
            raise node.error(f"extends: {error.message}", error.hint) from None
        # A base is taken with all its scales, so a scale letter in its name would have no effect.
        if letter:
            raise node.error(
                f"there is no file '{node.value}'", f"write extends: {path.name}; --scale {letter} picks the scale"
            )
    return path


def find_bases(file: Path) -> list[Path]:
    """Find the chain of files that a file extends, up to the first that cannot be read.

    A base that does not exist is included, by the path where it should be.
    """
    found = [file]
    while len(found) <= MAX_CHAIN:
        node: Node | None = None
        try:
            root = parse(read_text(found[-1]), str(found[-1]))
            node = root.value.get("extends") if isinstance(root.value, dict) else None
            if node is None:
                break
            found.append(_find_base(node, found[-1]))
        except NetbuildError:
            if node is not None and isinstance(node.value, str):
                found.append(found[-1].parent / node.value)
            break
    return found[1:]


def _merge(root: Node, base: Node) -> Node:
    """Merge a file into its base: its keys replace the base's, entries of `MERGED` one by one, edits change rows."""
    value, keys = dict(base.value), dict(base.keys)
    own = [key for key in root.value if key not in ("extends", "edits")]
    # A network has one task, or several heads with a task each: what the file states replaces the other of its base.
    for stated, replaced in (("heads", "task"), ("task", "heads")):
        if stated in own:
            value.pop(replaced, None)
            keys.pop(replaced, None)
    for key in own:
        if key in MERGED and key in value and all(isinstance(n.value, dict) for n in (value[key], root.value[key])):
            value[key] = _merge_entries(value[key], root.value[key])
        else:
            value[key] = root.value[key]
        keys[key] = root.keys[key]
    if "edits" in root.value:
        if set(own) & set(SECTIONS):
            raise root.keys["edits"].error("a file with rows of its own cannot edit those of its base")
        # Row numbers of the base's heads are adjusted; those of the file's own count the rows after the edits.
        values = {key: node for key, node in value.items() if key != "heads" or "heads" not in own}
        value.update(apply_edits(values, root.value["edits"]))
    return root.with_value(value, keys)


def _merge_entries(base: Node, own: Node) -> Node:
    return own.with_value({**base.value, **own.value}, {**base.keys, **own.keys})
