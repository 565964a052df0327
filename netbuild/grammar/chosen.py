"""Modules of rows that a parameter chooses: ``[-1, 1, $block, [64]]`` with ``params: {block: C3k2}``."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar.rows import Row, attempt

CHOSEN = "$"  # before the name of a parameter whose value is the row's module


def choose_modules(
    rows: Iterable[Row], params: Mapping[str, Any], errors: list[NetbuildError], later: Collection[str] = ()
) -> tuple[Row, ...]:
    """Choose the modules of all rows by the values of parameters.

    Args:
        rows: the rows of the file or of a block.
        params: values of the file's parameters.
        errors: mistakes are added to it.
        later: parameters of a block, whose values are known only where a row uses the block.
    """
    found = (
        row if row.module.removeprefix(CHOSEN) in later else attempt(errors, choose_module, row, params) or row
        for row in rows
    )
    return tuple(found)


def choose_module(row: Row, names: Mapping[str, Any]) -> Row:
    """Return a row whose module is written as ``$name`` with the module that the name stands for; others as they are.

    Raises:
        NetbuildError: at the module, if there is no such name, or if its value is no text.
    """
    if not row.module.startswith(CHOSEN):
        return row
    name = row.module.removeprefix(CHOSEN)
    if name not in names:
        hint = did_you_mean(name, names) or f"write the parameter into params:, such as {{{name}: C3k2}}"
        raise row.module_node.error(f"row {row.index}: no parameter is named '{name}'", hint)
    if not isinstance(names[name], str) or not names[name].strip() or names[name].startswith(CHOSEN):
        found = shorten(repr(names[name]))
        raise row.module_node.error(f"row {row.index}: the parameter '{name}' is {found}, and no name of a module")
    return replace(row, module=names[name])
