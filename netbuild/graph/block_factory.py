"""Factories of blocks, with their parameters, to bind rows to."""

import inspect
from typing import Any

from torch import nn

from netbuild.grammar.rows import Block, evaluate_argument
from netbuild.grammar.spec import Spec
from netbuild.graph.options import Options, make_config
from netbuild.graph.scope import Scope
from netbuild.modules.factory import Factory, Parameter
from netbuild.roles import ROLE_BY_NAME, Plain, Role


def make_block_factory(block: Block, spec: Spec) -> Factory:
    """Return a factory with a block's parameters, whose defaults are evaluated at the file's first scale.

    Raises:
        NetbuildError: for a wrong role or default.
    """
    return make_factory(block, make_config(spec, Options()).scope)


def make_factory(block: Block, scope: Scope) -> Factory:
    """A factory with a block's parameters, to bind rows to; the block itself is built from its rows."""
    parameters = []
    for p in block.params:
        role = ROLE_BY_NAME.get(p.name, Plain)
        if p.role is not None:
            try:
                role = Role(p.role)
            except ValueError:
                known = ", ".join(r.value for r in Role)
                raise block.node.error(f"block '{block.name}': unknown role {p.role!r}", f"roles: {known}") from None
        default = inspect.Parameter.empty if p.default is None else evaluate_argument(p.default, scope.file_names)
        parameters.append(Parameter(p.name, role, (), default, False))
    return Factory(block.name, _refuse_call, tuple(parameters), path=f"blocks.{block.name}")


def _refuse_call(*_: Any, **__: Any) -> nn.Module:
    raise TypeError("a block of the file is built from its rows")
