"""Activations by name, and the default activation as a scope rather than a global."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Annotated

from torch import nn

from netbuild.roles import Activation

Act = Annotated[bool | str | nn.Module | None, Activation]

# Keys are normalised: lower case, no blanks, "_" or "-". Values take no argument.
ACTIVATIONS = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leakyrelu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "softmax": partial(nn.Softmax, dim=1),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "identity": nn.Identity,
    "linear": nn.Identity,
    "none": nn.Identity,
}

# One object for all layers: it has no state, and a network's module count holds it once.
_SILU = nn.SiLU()
_default: ContextVar[nn.Module] = ContextVar("default_activation", default=_SILU)


def default_activation() -> nn.Module:
    """The activation object shared by all layers that ask for the default: SiLU, or that of the open scope."""
    return _default.get()


@contextmanager
def using_activation(module: nn.Module) -> Iterator[nn.Module]:
    """Make `module` the default activation of the layers built inside the `with` block, in this context only."""
    token = _default.set(module)
    try:
        yield module
    finally:
        _default.reset(token)


def activation_by_name(text: str) -> nn.Module | None:
    """A new activation for a name such as "Leaky ReLU" or "hard_swish"; None if the name is not known."""
    factory = ACTIVATIONS.get("".join(c for c in text.lower() if c not in " _-"))
    return factory() if factory else None


def resolve_activation(act: Act, default: nn.Module | None = None) -> nn.Module:
    """What an `act` argument means: True the default, a module itself, a name its activation, anything else none.

    Raises ValueError for a name that is not known.
    """
    if act is True:
        return default_activation() if default is None else default
    if isinstance(act, nn.Module):
        return act
    if isinstance(act, str):
        module = activation_by_name(act)
        if module is None:
            raise ValueError(f"unknown activation {act!r}; known: {', '.join(sorted(ACTIVATIONS))}")
        return module
    return nn.Identity()
