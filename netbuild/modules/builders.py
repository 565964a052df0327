"""Model builders of other packages for rows: ``torchvision.models.*``, ``timm.create_model`` and `TorchVision`.

A network file alone never starts a download: the caller must allow it, see `pretrained_mode`.
"""

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from netbuild.errors import NetbuildError, did_you_mean, shorten
from netbuild.modules.factory import Factory, Parameter, from_class
from netbuild.roles import In, Plain
from netbuild.system.packages import package

TIMM = "timm.create_model"
TORCHVISION = "torchvision.models."
REQUIRED = inspect.Parameter.empty

PretrainedMode = Literal["refuse", "download", "skip"]
_mode: ContextVar[PretrainedMode] = ContextVar("pretrained_mode", default="refuse")

# Options of builders that load weights, or name a file or an address, which a network file must not choose: weights,
# weights_backbone, pretrained_backbone, pretrained_cfg, checkpoint_path, cache_dir, ... Swin's pretrained_window_sizes
# are numbers, and use_checkpoint saves memory.
_LOADING_OPTION = re.compile(
    r"^weights|pretrained(?!_window)|(?<!use_)checkpoint|cache_dir|url|hf_|local_dir|(^|_)file(name)?(_|$)"
)
# Python's audit events of a connection.
_CONNECTING = frozenset(
    ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect")
)
_offline: ContextVar[str] = ContextVar("offline_model", default="")  # the model that is built without any download
# Networks whose published weights expect TensorFlow's normalisation, which their own forward can apply.
_TF_NORMALISED = ("googlenet", "inception_v3")


@contextmanager
def pretrained_mode(mode: PretrainedMode) -> Iterator[None]:
    """Decide, for the networks built inside, what happens where a row requests pretrained weights.

    Args:
        mode: ``refuse`` raises an error, ``download`` downloads and loads them, ``skip`` builds without them because
            other weights will be loaded. On the ``meta`` device they are always skipped.
    """
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def find_builder(name: str) -> Factory | None:
    """Find the factory of a model builder's name; None for any other name.

    Raises:
        NetbuildError: (without a place) if the package is missing or has no such model.
    """
    if name == "TorchVision":
        return from_class(name, TorchVision, foreign=False)
    if name == TIMM:
        return _timm_factory()
    if name.startswith(TORCHVISION):
        return _torchvision_factory(name.removeprefix(TORCHVISION).split(".")[-1], name)
    return None


def _should_load(requested: bool, model: str) -> bool:
    """Whether to load published weights now.

    Raises:
        NetbuildError: if they are requested and the mode is ``refuse``.
    """
    mode = _mode.get()
    if not requested or mode == "skip" or torch.empty(0).device.type == "meta":
        return False
    if mode == "refuse":
        message = f"pretrained weights of {model} are requested, which would be downloaded"
        raise NetbuildError(message, hint="allow it with --download, or write pretrained: false")
    return True


@contextmanager
def _building_offline(model: str) -> Iterator[None]:
    """Refuse every connection of a builder, whatever its options make it do.

    Raises:
        NetbuildError: where the builder connects.
    """
    _watch_connections()
    token = _offline.set(model)
    try:
        yield
    finally:
        _offline.reset(token)


@cache
def _watch_connections() -> None:
    """Let Python call a function before each connection; it cannot be taken back, so this is done once."""

    def refuse(event: str, _: Any) -> None:
        if event in _CONNECTING and _offline.get():
            message = f"building {_offline.get()} would download something"
            raise NetbuildError(message, hint="only pretrained: true with --download gets published weights")

    sys.addaudithook(refuse)


def _check_options(value: Any) -> None:
    """Refuse an option that loads weights, or names a file or an address, at any depth.

    Raises:
        NetbuildError: that names the option.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if _LOADING_OPTION.search(str(name)):
                raise NetbuildError(
                    f"'{name}' is not allowed in a network file: it loads weights, or names a file or an address",
                    hint="pretrained weights are requested by pretrained: true, and permitted by --download",
                )
            _check_options(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_options(inner)


@contextmanager
def _download_errors(model: str) -> Iterator[None]:
    """Convert any exception of a download (no connection, a broken file, a full disk) into a NetbuildError."""
    try:
        yield
    except Exception as error:
        text = shorten(str(error) or type(error).__name__, 300)
        raise NetbuildError(f"the published weights of {model} cannot be loaded: {text}") from error


# -- timm -------------------------------------------------------------------------------------------------------------


def _timm_factory() -> Factory:
    import_without_modes("timm")
    parameters = (
        Parameter("model_name", Plain, (str,), REQUIRED, False),
        Parameter("pretrained", Plain, (bool,), False, False),
        Parameter("features_only", Plain, (bool,), False, False),
        Parameter("in_chans", In, (int,), 3, False),
    )
    return Factory(TIMM, build_timm, parameters, path=TIMM, takes_any_keyword=True)


def build_timm(
    model_name: str, pretrained: bool = False, features_only: bool = False, in_chans: int = 3, **options: Any
) -> nn.Module:
    """Build a network of timm.

    Args:
        model_name: timm's name of the model.
        pretrained: whether to load its published weights.
        features_only: return the feature maps of its stages, as a list from fine to coarse.
        in_chans: input channels.
        options: further arguments of ``timm.create_model``, such as ``out_indices``.

    Raises:
        NetbuildError: for an unknown name, an option that names a file or an address, or a refused download.
    """
    timm = import_without_modes("timm")
    # A colon separates a scheme, such as that of a hub, from the name.
    _check_known(model_name, ":" not in model_name and timm.is_model(model_name), timm.list_models, "timm")
    _check_options(options)
    load = _should_load(pretrained, f"timm's {model_name}")
    options |= {"features_only": True} if features_only else {}
    with _download_errors(model_name) if load else _building_offline(f"timm's {model_name}"):
        return timm.create_model(model_name, pretrained=load, in_chans=in_chans, **options)


def _check_known(name: str, known: bool, names: Callable[[], Sequence[str]], package_name: str) -> None:
    if not known:
        hint = did_you_mean(name, names(), 0.7) or f"see the documentation of {package_name} for its models"
        raise NetbuildError(f"{package_name} has no model '{name}'", hint=hint)


def import_without_modes(name: str) -> Any:
    """Import an optional package in a thread of its own, in which no mode of torch is active.

    Rows are resolved under such modes, as that of the device ``meta``, under which torchvision fails to load with
    torch 2.8, and leaves torch._dynamo half loaded.

    Raises:
        MissingExtraError: see `netbuild.system.packages.package`.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(package, name).result()


# -- torchvision ------------------------------------------------------------------------------------------------------


@cache
def _torchvision_factory(model: str, name: str) -> Factory:
    _get_torchvision_builder(model)  # raises for an unknown model

    def make(features: list[str] | None = None, pretrained: bool = False, **options: Any) -> nn.Module:
        return build_torchvision(model, features, pretrained, **options)

    parameters = (
        Parameter("features", Plain, (list, type(None)), None, False),
        Parameter("pretrained", Plain, (bool,), False, False),
    )
    return Factory(name, make, parameters, path=name, takes_any_keyword=True)


def _get_torchvision_builder(model: str) -> Any:
    models = import_without_modes("torchvision.models")
    known = models.list_models()
    _check_known(model, model in known, lambda: known, "torchvision")
    return models.get_model_builder(model)


def build_torchvision(
    model: str, features: Sequence[str] | None = None, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a network of torchvision.

    Args:
        model: torchvision's name of the model.
        features: names of layers whose outputs to return as a dict, instead of the network's output.
        pretrained: whether to load its published weights.
        options: further arguments of the model's builder.

    Raises:
        NetbuildError: for an unknown model or layer, or a refused download.
    """
    network = _build_without_weights(model, torchvision_options(model, pretrained, options))
    if _should_load(pretrained, f"torchvision's {model}"):
        _load_published(network, model)
    return _extract_features(network, features) if features else network


def _build_without_weights(model: str, options: Mapping[str, Any]) -> nn.Module:
    with _building_offline(f"torchvision's {model}"), _computing_widths_on_cpu(model):
        network: nn.Module = _get_torchvision_builder(model)(weights=None, **options)
    return network


@contextmanager
def _computing_widths_on_cpu(model: str) -> Iterator[None]:
    """Let a RegNet compute its widths, which it does with tensors, on the CPU: on ``meta`` they have no values.

    They are no operators of the network, so no mode that measures it may see them either.
    """
    if not model.startswith("regnet"):
        yield
        return
    params = import_without_modes("torchvision.models.regnet").BlockParams
    compute = params.from_init_params

    def compute_on_cpu(*args: Any, **options: Any) -> Any:
        with _disable_current_modes(), torch.device("cpu"):
            return compute(*args, **options)

    params.from_init_params = compute_on_cpu
    try:
        yield
    finally:
        params.from_init_params = classmethod(compute.__func__)


def torchvision_options(model: str, pretrained: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of torchvision's builder, ``weights`` excepted.

    Raises:
        NetbuildError: for an unknown model, or an option that loads weights.
    """
    _check_options(options)
    defaults: dict[str, Any] = {}
    if model in _TF_NORMALISED:
        # Without a value for init_weights torchvision warns of a changing default.
        defaults |= {"transform_input": pretrained, "init_weights": True}
    if "weights_backbone" in inspect.signature(_get_torchvision_builder(model)).parameters:
        defaults["weights_backbone"] = None  # the builder's own default would download
    return {**defaults, **options}


def _load_published(network: nn.Module, model: str) -> None:
    weights = import_without_modes("torchvision.models").get_model_weights(model).DEFAULT
    with _download_errors(model):
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    fit = network.load_state_dict(state, strict=False)  # published files may hold auxiliary heads that are not built
    if fit.missing_keys:
        raise NetbuildError(f"the published weights of {model} lack {', '.join(fit.missing_keys[:3])}")


def _extract_features(network: nn.Module, features: Sequence[str]) -> nn.Module:
    extraction = import_without_modes("torchvision.models.feature_extraction")
    known, _ = extraction.get_graph_node_names(network)
    for layer in features:
        if not any(name == layer or name.startswith(f"{layer}.") for name in known):
            tops = list(dict.fromkeys(name.split(".")[0] for name in known))
            hint = did_you_mean(str(layer), known) or f"its layers are {', '.join(tops[:24])}"
            raise NetbuildError(f"there is no layer '{layer}'", hint=hint)
    return extraction.create_feature_extractor(network, list(features))


class TorchVision(nn.Module):
    """A torchvision network as rows of Ultralytics files use it, without its last layers: (B, 3, H, W) to a map.

    Args:
        model: torchvision's name of the model, such as ``resnet18``.
        weights: None for random weights; any other value loads the published ones where downloads are allowed.
        unwrap: run the network's children in sequence, so that the last ones can be dropped.
        truncate: number of last children to drop.
        split: return a list of the input and the output of each child.

    Raises:
        NetbuildError: for an unknown model.
    """

    def __init__(
        self, model: str, weights: str | None = "DEFAULT", unwrap: bool = True, truncate: int = 2, split: bool = False
    ):
        super().__init__()
        network = _build_full(model, weights)
        self.split = split and unwrap
        self.m = _unwrap(network, truncate) if unwrap else _remove_head(network)

    def forward(self, x: torch.Tensor) -> Any:
        if not self.split:
            return self.m(x)
        outputs = [x]
        for child in self.m.children():
            outputs.append(child(outputs[-1]))
        return outputs


def _build_full(model: str, weights: str | None) -> nn.Module:
    network = _build_without_weights(model, torchvision_options(model, False, {}))
    if weights is not None and _should_load_or_warn(model):
        _load_published(network, model)
    return network


def _should_load_or_warn(model: str) -> bool:
    # These files leave `weights` at its default, so an error would refuse every one of them: warn instead.
    if _mode.get() == "refuse" and torch.empty(0).device.type != "meta":
        warnings.warn(f"TorchVision {model}: random weights; --download gets the published ones", stacklevel=4)
        return False
    return _should_load(True, model)


def _unwrap(network: nn.Module, truncate: int) -> nn.Sequential:
    """Return the network's children in sequence, without the last ``truncate``.

    Raises:
        ValueError: if none is left, which would silently be the identity. Ejected files have this function too, and
            know no class of netbuild.
    """
    # As Ultralytics counts them: a leading Sequential, such as VGG's features, is taken apart, too.
    layers = list(network.children())
    if isinstance(layers[0], nn.Sequential):
        layers = [*layers[0].children(), *layers[1:]]
    if truncate >= len(layers):
        names = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"truncate {truncate} drops all {len(layers)} parts of the network: {names}; give less")
    return nn.Sequential(*(layers[:-truncate] if truncate else layers))


def _remove_head(network: nn.Module) -> nn.Module:
    for name in ("head", "heads"):
        if hasattr(network, name):
            setattr(network, name, nn.Identity())
    return network


BUILDER_NAMES = ("TorchVision",)  # builders that rows use like a packaged layer
