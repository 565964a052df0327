"""Errors of the modules that a file calls and that are unknown: each once, with a hint that says how to supply them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from netbuild.errors import NetbuildError, shorten
from netbuild.grammar.rows import Block, Row
from netbuild.modules.registry import CUSTOM_MODULE_HINT


def hint_at_stub(unknown: Mapping[str, NetbuildError], file: Path | None) -> None:
    """Say at the first unknown module, instead of at each, which names are unknown and how to supply them.

    Args:
        unknown: the error of each unknown module, in the order in which they are shown; their hints are changed.
        file: the network's file, for the command that writes stubs; None for a network of a checkpoint.
    """
    missing = {name: error for name, error in unknown.items() if error.hint.endswith(CUSTOM_MODULE_HINT)}
    if not missing:
        return
    first, *others = missing.values()
    for error in others:
        error.hint = error.hint.removesuffix(CUSTOM_MODULE_HINT).removesuffix("; ")
    if others:
        names = shorten(", ".join(missing), 300)
        similar = first.hint.removesuffix(CUSTOM_MODULE_HINT)
        first.hint = f"{similar}{len(missing)} modules are unknown: {names}; {CUSTOM_MODULE_HINT}"
    if file is not None and any(name.isidentifier() for name in missing):
        first.hint += f"; netbuild stub {file} -o missing.py writes a start of the missing classes"


def find_block_rows(rows: Iterable[Row], blocks: Mapping[str, Block]) -> Iterator[Row]:
    """Yield the rows of all blocks that rows use, and of the blocks that these use, each once."""
    waiting, seen = [row.module for row in rows], set()
    while waiting:
        name = waiting.pop(0)
        if name in blocks and name not in seen:
            seen.add(name)
            yield from blocks[name].rows
            waiting += [row.module for row in blocks[name].rows]
