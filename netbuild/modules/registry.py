"""The name in a row to the factory that builds it: packaged layers and ``nn.*``, and nothing but layers."""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from netbuild import layers
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar.expressions import Call
from netbuild.layers.activation import ACTIVATIONS, activation_by_name
from netbuild.modules import builders
from netbuild.modules.factory import Factory, from_class
from netbuild.system import packages
from netbuild.system.plugins import Registry

OWN_MODULE_HINT = "an own module is made known by --modules FILE.py, or by imports: in the network's file"
PACKAGES = ("torchvision.ops", "timm.layers")  # whose layers rows may name by dotted path

MODULES: Registry[nn.Module] = Registry(
    "module", "torch.nn:Module", {name: f"netbuild.layers:{name}" for name in layers.__all__}
)

# nn.Module classes that hold or compare others: no layer of a network.
_CONTAINERS = {
    "Module", "ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict", "Container", "DataParallel",
}  # fmt: skip


def names() -> list[str]:
    """The packaged layers' names."""
    return [*layers.__all__, *builders.NAMES]


def torch_names() -> list[str]:
    """The layers of ``torch.nn`` that may stand in a row."""
    return [f"nn.{name}" for name in sorted(vars(nn), key=str.lower) if _is_layer(name)]


@cache
def factory(name: str) -> Factory:
    """The factory for a module's name.

    Raises:
        NetbuildError: (without a place) if the name is unknown or is no layer.
    """
    prefix, _, rest = name.removeprefix("torch.").partition(".")
    if prefix == "nn" and rest:
        return _torch_layer(name, rest)
    if found := builders.find(name) or _of_package(name):
        return found
    if "." not in name and (cls := MODULES.find(name)):
        return from_class(name, cls, foreign=False)
    raise NetbuildError(f"unknown module '{name}'")


def is_known_path(name: str) -> bool:
    """Whether a dotted name is of torch, or of the few packages whose code rows may name without being trusted."""
    home = name.rpartition(".")[0]
    known = home in PACKAGES or name == builders.TIMM or name.startswith(builders.TORCHVISION)
    return known or name.split(".")[0] in ("nn", "torch")


def find(name: str, own: Mapping[str, Factory]) -> Factory:
    """The factory for a module's name, own modules first.

    Raises:
        NetbuildError: (without a place) if the name is unknown or is no layer.
    """
    if name in own:
        return own[name]
    try:
        return factory(name)
    except NetbuildError as error:
        if not error.hint:
            hint = did_you_mean(name, [*own, *MODULES.names(), *builders.NAMES, *torch_names()])
            error.hint = f"{hint}; otherwise {OWN_MODULE_HINT}" if hint else OWN_MODULE_HINT
        raise


def _of_package(name: str) -> Factory | None:
    """A layer of the few packages that rows may name by their dotted path."""
    home, _, cls_name = name.rpartition(".")
    if home not in PACKAGES:
        return None
    cls = getattr(packages.package(home), cls_name, None)
    if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
        raise NetbuildError(f"'{name}' is not a layer", hint=f"a row holds an nn.Module class of {home}")
    return from_class(name, cls, foreign=True)


def _is_layer(name: str) -> bool:
    cls = getattr(nn, name, None)
    return (
        inspect.isclass(cls)
        and issubclass(cls, nn.Module)
        and name not in _CONTAINERS
        and not name.startswith("Lazy")
        and not issubclass(cls, nn.modules.loss._Loss)
    )


def _torch_layer(name: str, rest: str) -> Factory:
    if _is_layer(rest):
        return from_class(f"nn.{rest}", getattr(nn, rest), foreign=True)
    hint = did_you_mean(f"nn.{rest}", torch_names(), 0.85)
    if rest.startswith("Lazy") and _is_layer(rest[4:]):
        hint = f"write nn.{rest[4:]} with keyword arguments: the input channels are then filled in"
    raise NetbuildError(f"'{name}' is not a layer", hint=hint or "a row holds an nn.Module class of torch.nn")


def instantiate(call: Call) -> nn.Module:
    """The module that an argument such as ``nn.LeakyReLU(0.1)`` stands for.

    Raises:
        NetbuildError: (without a place) if the name is no layer or does not take these arguments.
    """
    made = factory(call.name)
    try:
        return made.make(*call.args, **dict(call.kwargs))
    except Exception as error:  # whatever a constructor raises
        text = shorten(str(error) or type(error).__name__, 300)
        raise NetbuildError(f"{call}: {text}", hint=f"it takes {made.signature()}") from None


def activation(value: Any) -> nn.Module:
    """An activation from its name (relu, Leaky ReLU, ...) or a call such as ``nn.ReLU()``.

    Raises:
        NetbuildError: (without a place) if it is neither.
    """
    if isinstance(value, Call):
        return instantiate(value)
    module = activation_by_name(value) if isinstance(value, str) else None
    if module is None and isinstance(value, str) and value.removeprefix("torch.").startswith("nn."):
        if value.count("(") != value.count(")"):
            raise NetbuildError(
                f"'{value}' is cut off", hint="put a call with a comma in quotes: in a row a comma ends a value"
            )
        return instantiate(Call(value))
    if module is None:
        hint = "" if "(" in str(value) else did_you_mean(str(value), ACTIVATIONS)
        hint = hint or f"known: {', '.join(ACTIVATIONS)}, or a call such as nn.ReLU()"
        raise NetbuildError(f"unknown activation {value!r}", hint=hint)
    return module
