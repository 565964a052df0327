"""Rows that call another package's model builder: ``torchvision.models.*``, ``timm.create_model``, and `TorchVision`.

Whatever a file says, nothing is downloaded unless the caller allows it (`pretrained`).
"""

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.modules.factory import Factory, Parameter, from_class
from netbuild.roles import In, Plain
from netbuild.system.packages import package

TIMM = "timm.create_model"
TORCHVISION = "torchvision.models."
REQUIRED = inspect.Parameter.empty

Pretrained = Literal["refuse", "download", "skip"]
_pretrained: ContextVar[Pretrained] = ContextVar("pretrained", default="refuse")

# timm's parameters that name a file or an address: not for a network file to say.
_TIMM_OUTSIDE = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
# Networks whose published weights expect TensorFlow's normalisation, which they can do themselves.
_TF_NORMALISED = ("googlenet", "inception_v3")


@contextmanager
def pretrained(mode: Pretrained) -> Iterator[None]:
    """What becomes of weights that rows ask for while networks are built with weights.

    ``refuse`` them, ``download`` them, or ``skip`` them since others will be loaded. On ``meta`` they are skipped.
    """
    token = _pretrained.set(mode)
    try:
        yield
    finally:
        _pretrained.reset(token)


def find(name: str) -> Factory | None:
    """The factory for a builder's name; None if the name is none of theirs.

    Raises:
        NetbuildError: (without a place) if the package is missing or has no such model.
    """
    if name == "TorchVision":
        return from_class(name, TorchVision, foreign=False)
    if name == TIMM:
        return _timm()
    if name.startswith(TORCHVISION):
        return _torchvision(name.removeprefix(TORCHVISION).split(".")[-1], name)
    return None


def _asked(wanted: bool, what: str) -> bool:
    """Whether published weights are to be loaded now."""
    mode = _pretrained.get()
    if not wanted or mode == "skip" or torch.empty(0).device.type == "meta":
        return False
    if mode == "refuse":
        message = f"{what} asks for pretrained weights, which would be downloaded"
        raise NetbuildError(message, hint="allow it with --download, or write pretrained: false")
    return True


@contextmanager
def _fetching(model: str) -> Iterator[None]:
    """No connection, a broken file, a full disk: whatever fetching weights meets."""
    try:
        yield
    except Exception as error:
        text = shorten(str(error) or type(error).__name__, 300)
        raise NetbuildError(f"the published weights of {model} cannot be had: {text}") from error


# -- timm -------------------------------------------------------------------------------------------------------------


def _timm() -> Factory:
    package("timm")
    parameters = (
        Parameter("model_name", Plain, (str,), REQUIRED, False),
        Parameter("pretrained", Plain, (bool,), False, False),
        Parameter("features_only", Plain, (bool,), False, False),
        Parameter("in_chans", In, (int,), 3, False),
    )
    return Factory(TIMM, timm_model, parameters, path=TIMM, open=True)


def timm_model(
    model_name: str, pretrained: bool = False, features_only: bool = False, in_chans: int = 3, **options: Any
) -> nn.Module:
    """A network of timm; with ``features_only`` its stages, as a list from fine to coarse (``out_indices`` picks).

    Raises:
        NetbuildError: for a name that timm does not have, options that name files or addresses, or weights that may
            not be downloaded.
    """
    timm = package("timm")
    _check_known(model_name, timm.is_model(model_name), timm.list_models, "timm")
    outside = next((name for name in _TIMM_OUTSIDE if name in options), None)
    if outside:
        raise NetbuildError(f"'{outside}' is not for a network file to say: it names a file or an address")
    load = _asked(pretrained, f"timm's {model_name}")
    options |= {"features_only": True} if features_only else {}
    with _fetching(model_name) if load else nullcontext():
        return timm.create_model(model_name, pretrained=load, in_chans=in_chans, **options)


def _check_known(name: str, known: bool, names: Callable[[], Sequence[str]], where: str) -> None:
    if not known:
        hint = did_you_mean(name, names(), 0.7)
        raise NetbuildError(f"{where} has no model '{name}'", hint=hint or f"{where} lists its models")


# -- torchvision ------------------------------------------------------------------------------------------------------


@cache
def _torchvision(model: str, name: str) -> Factory:
    _builder(model)

    def make(features: list[str] | None = None, pretrained: bool = False, **options: Any) -> nn.Module:
        return torchvision_model(model, features, pretrained, **options)

    parameters = (
        Parameter("features", Plain, (list, type(None)), None, False),
        Parameter("pretrained", Plain, (bool,), False, False),
    )
    return Factory(name, make, parameters, path=name, open=True)


def _builder(model: str) -> Any:
    models = package("torchvision.models")
    known = models.list_models()
    _check_known(model, model in known, lambda: known, "torchvision")
    return models.get_model_builder(model)


def torchvision_model(
    model: str, features: Sequence[str] | None = None, pretrained: bool = False, **options: Any
) -> nn.Module:
    """A network of torchvision; with ``features`` the outputs of these of its layers, as a dict by their names.

    Raises:
        NetbuildError: for a model or a layer that there is not, or weights that may not be downloaded.
    """
    network: nn.Module = _builder(model)(weights=None, **torchvision_options(model, pretrained, options))
    if _asked(pretrained, f"torchvision's {model}"):
        _load_published(network, model)
    return _stages(network, features) if features else network


def torchvision_options(model: str, pretrained: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that torchvision's builder gets beside ``weights``.

    Raises:
        NetbuildError: for a model that there is not, or weights among the options.
    """
    if {"weights", "weights_backbone"} & options.keys():
        raise NetbuildError("weights are asked for by pretrained: true", hint="leave the weights arguments out")
    set_here: dict[str, Any] = {}
    if model in _TF_NORMALISED:
        set_here |= {"transform_input": pretrained, "init_weights": True}
    if "weights_backbone" in inspect.signature(_builder(model)).parameters:
        set_here["weights_backbone"] = None  # its default would download
    return {**set_here, **options}


def _load_published(network: nn.Module, model: str) -> None:
    weights = package("torchvision.models").get_model_weights(model).DEFAULT
    with _fetching(model):
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    fit = network.load_state_dict(state, strict=False)
    if fit.missing_keys:
        raise NetbuildError(f"the published weights of {model} lack {', '.join(fit.missing_keys[:3])}")


def _stages(network: nn.Module, features: Sequence[str]) -> nn.Module:
    extraction = package("torchvision.models.feature_extraction")
    known, _ = extraction.get_graph_node_names(network)
    for wanted in features:
        if not any(name == wanted or name.startswith(f"{wanted}.") for name in known):
            tops = list(dict.fromkeys(name.split(".")[0] for name in known))
            raise NetbuildError(
                f"it has no layer '{wanted}'", hint=did_you_mean(str(wanted), known) or f"it has {', '.join(tops[:24])}"
            )
    return extraction.create_feature_extractor(network, list(features))


class TorchVision(nn.Module):
    """A torchvision network as Ultralytics files name it, its last layers dropped: (B, c1, H, W) to a map.

    Args:
        model: the network's name, such as ``resnet18``.
        weights: the published weights wanted, None for random ones; they are loaded where downloading is allowed.
        unwrap: take the network apart into its children.
        truncate: how many of the last children are left out.
        split: give a list: the input and what each child gives.

    Raises:
        NetbuildError: for a model that there is not.
    """

    def __init__(
        self, model: str, weights: str | None = "DEFAULT", unwrap: bool = True, truncate: int = 2, split: bool = False
    ):
        super().__init__()
        network = _whole(model, weights)
        self.split = split and unwrap
        self.m = _unwrapped(network, truncate) if unwrap else _without_head(network)

    def forward(self, x: torch.Tensor) -> Any:
        if not self.split:
            return self.m(x)
        outputs = [x]
        for child in self.m.children():
            outputs.append(child(outputs[-1]))
        return outputs


def _whole(model: str, weights: str | None) -> nn.Module:
    network: nn.Module = _builder(model)(weights=None)
    if weights is not None and _may_load(model):
        _load_published(network, model)
    return network


def _may_load(model: str) -> bool:
    # Such files leave weights at their default: refusing them would refuse the file.
    if _pretrained.get() == "refuse" and torch.empty(0).device.type != "meta":
        warnings.warn(f"TorchVision {model}: random weights; --download gets the published ones", stacklevel=4)
        return False
    return _asked(True, model)


def _unwrapped(network: nn.Module, truncate: int) -> nn.Sequential:
    layers = list(network.children())
    if isinstance(layers[0], nn.Sequential):
        layers = [*layers[0].children(), *layers[1:]]
    return nn.Sequential(*(layers[:-truncate] if truncate else layers))


def _without_head(network: nn.Module) -> nn.Module:
    for name in ("head", "heads"):
        if hasattr(network, name):
            setattr(network, name, nn.Identity())
    return network


NAMES = ("TorchVision",)
