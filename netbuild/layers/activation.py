"""Activations by name, and the default activation, which a context manager sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Annotated

from torch import nn

from netbuild.roles import Activation

Act = Annotated[bool | str | nn.Module | None, Activation]

# Names are normalised: lower case, without blanks, "_" and "-". The factories take no arguments.
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

# All layers share one object: it has no state, and is then counted as one module of the network.
_SILU = nn.SiLU()
_default: ContextVar[nn.Module] = ContextVar("default_activation", default=_SILU)


def default_activation() -> nn.Module:
    """Return the object that all layers with ``act=True`` share: SiLU, or that of an enclosing `using_activation`."""
    return _default.get()


@contextmanager
def using_activation(module: nn.Module) -> Iterator[nn.Module]:
    """Make a module the default activation of layers built inside the ``with`` block.

    Other threads and asyncio tasks are not affected.
    """
    token = _default.set(module)
    try:
        yield module
    finally:
        _default.reset(token)


def activation_by_name(text: str) -> nn.Module | None:
    """Create the activation for a name such as "Leaky ReLU" or "hard_swish"; None if the name is not known."""
    factory = ACTIVATIONS.get("".join(c for c in text.lower() if c not in " _-"))
    return factory() if factory else None


def resolve_activation(act: Act, default: nn.Module | None = None) -> nn.Module:
    """Return the module for an `act` argument.

    Args:
        act: True for the default activation, a module for itself, a name for a new activation of that name; anything
            else (False, None) for none, an `nn.Identity`.
        default: used for True instead of `default_activation`.

    Raises:
        ValueError: for a name that is not known.
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
