"""Find the factory of a module name in a row: packaged layers, ``torch.nn`` and a few packages; nothing but layers.

Only names on fixed lists are looked up, so that a network file cannot reach any other code.
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import nn

from netbuild import layers
from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.grammar.expressions import Call
from netbuild.layers import pack
from netbuild.layers.activation import ACTIVATIONS, activation_by_name
from netbuild.modules import builders
from netbuild.modules.factory import Factory, from_class
from netbuild.system import packages
from netbuild.system.plugins import Registry

CUSTOM_MODULE_HINT = "for a module of your own, pass --modules FILE.py or list it under imports: in the network's file"
PACKAGES = ("torchvision.ops", "timm.layers")  # rows may name their layers by dotted path

MODULES: Registry[nn.Module] = Registry(
    "module", "torch.nn:Module", {**{name: f"netbuild.layers:{name}" for name in layers.__all__}, **pack.list_paths()}
)

# Containers and base classes of torch.nn, which are not layers.
_CONTAINERS = {
    "Module", "ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict", "Container", "DataParallel",
}  # fmt: skip


def packaged_names() -> list[str]:
    """List the names of netbuild's own layers."""
    return [*layers.__all__, *pack.list_names(), *builders.BUILDER_NAMES]


def torch_names() -> list[str]:
    """List the layers of ``torch.nn`` that a row may use."""
    return [f"nn.{name}" for name in sorted(vars(nn), key=str.lower) if _is_layer(name)]


@cache
def get_factory(name: str) -> Factory:
    """Return the factory of a module name; custom modules are not looked up.

    Raises:
        NetbuildError: (without a place) if the name is unknown or is not a layer.
    """
    prefix, _, rest = name.removeprefix("torch.").partition(".")
    if prefix == "nn" and rest:
        return _torch_layer(name, rest)
    if found := builders.find_builder(name) or _package_layer(name):
        return found
    if "." not in name and (cls := MODULES.find(name)):
        return from_class(name, cls, foreign=False)
    raise NetbuildError(f"unknown module '{name}'")


def is_known_path(name: str) -> bool:
    """Whether a dotted name belongs to torch or to one of the packages that rows may name without trust."""
    home = name.rpartition(".")[0]
    known = home in PACKAGES or name == builders.TIMM or name.startswith(builders.TORCHVISION)
    return known or name.split(".")[0] in ("nn", "torch")


def find_factory(name: str, custom: Mapping[str, Factory]) -> Factory:
    """Find the factory of a module name; custom modules take precedence.

    Raises:
        NetbuildError: (without a place) if the name is unknown or is not a layer.
    """
    if name in custom:
        return custom[name]
    try:
        return get_factory(name)
    except NetbuildError as error:
        if not error.hint:
            hint = did_you_mean(name, [*custom, *MODULES.names(), *builders.BUILDER_NAMES, *torch_names()])
            error.hint = f"{hint}; {CUSTOM_MODULE_HINT}" if hint else CUSTOM_MODULE_HINT
        raise


def _package_layer(name: str) -> Factory | None:
    """The factory of a layer in one of `PACKAGES`, None for any other name."""
    home, _, cls_name = name.rpartition(".")
    if home not in PACKAGES:
        return None
    cls = getattr(packages.package(home), cls_name, None)
    if not inspect.isclass(cls) or not issubclass(cls, nn.Module):
        raise NetbuildError(f"'{name}' is not a layer", hint=f"a row names an nn.Module class of {home}")
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
    hint = did_you_mean(f"nn.{rest}", torch_names(), 0.85)  # among so many names only close ones help
    if rest.startswith("Lazy") and _is_layer(rest[4:]):
        hint = f"write nn.{rest[4:]} with keyword arguments: the input channels are then filled in"
    raise NetbuildError(f"'{name}' is not a layer", hint=hint or "a row names an nn.Module class of torch.nn")


def build_call(call: Call) -> nn.Module:
    """Build the module of an argument such as ``nn.LeakyReLU(0.1)``.

    Raises:
        NetbuildError: (without a place) if the name is not a layer or does not take these arguments.
    """
    factory = get_factory(call.name)
    try:
        return factory.make(*call.args, **dict(call.kwargs))
    except Exception as error:  # a constructor may raise anything
        text = shorten(str(error) or type(error).__name__, 300)
        raise NetbuildError(f"{call}: {text}", hint=f"it takes {factory.signature()}") from None


def make_activation(value: Any) -> nn.Module:
    """Make an activation from its name (relu, Leaky ReLU, ...) or from a call such as ``nn.ReLU()``.

    Raises:
        NetbuildError: (without a place) if it is neither.
    """
    if isinstance(value, Call):
        return build_call(value)
    module = activation_by_name(value) if isinstance(value, str) else None
    if module is None and isinstance(value, str) and value.removeprefix("torch.").startswith("nn."):
        if value.count("(") != value.count(")"):
            raise NetbuildError(
                f"'{value}' is cut off", hint="put a call with a comma in quotes: in a row a comma ends a value"
            )
        return build_call(Call(value))
    if module is None:
        hint = "" if "(" in str(value) else did_you_mean(str(value), ACTIVATIONS)
        hint = hint or f"known: {', '.join(ACTIVATIONS)}, or a call such as nn.ReLU()"
        raise NetbuildError(f"unknown activation {value!r}", hint=hint)
    return module
