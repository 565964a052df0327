"""What rows are resolved with: a file's facts and the user's options, before any row is looked at."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from netbuild.costs.receptive_field import image_field
from netbuild.errors import NetbuildError
from netbuild.grammar import ultralytics
from netbuild.grammar.expressions import parse_call
from netbuild.grammar.spec import Scale, Spec, choose_scale
from netbuild.graph.bind import Scope
from netbuild.layers.activation import default_activation
from netbuild.modules import registry
from netbuild.modules.factory import Factory

DEFAULT_SIZE = 640
CLASSIFY_SIZE = 224


@dataclass(frozen=True)
class Options:
    """What the user asks for beside the file: None leaves the file's own value, or the default."""

    scale: str | None = None
    letter: str | None = None  # of the name by which the file was found
    nc: int | None = None
    ch: int | None = None
    imgsz: tuple[int, int] | None = None
    modules: Mapping[str, Factory] = field(default_factory=dict)  # own modules, by the name that rows use


@dataclass(frozen=True)
class Facts:
    """What a network is resolved with. ``inputs`` are names with shapes beside the batch."""

    spec: Spec
    scale: Scale
    scale_from: str | None
    task: str | None
    nc: int | None
    ch: int
    imgsz: tuple[int, int]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    scope: Scope
    notes: tuple[str, ...]
    make_activation: Callable[[], nn.Module] = field(repr=False)

    def images(self, batch: int = 1, imgsz: tuple[int, int] | None = None) -> list[torch.Tensor]:
        """Empty inputs on torch's default device, images with their receptive field; of one size if it is given."""
        tensors = []
        for _, shape in self.inputs:
            is_image = len(shape) == 3
            tensors.append(torch.empty((batch, shape[0], *imgsz) if is_image and imgsz else (batch, *shape)))
            if is_image:
                image_field(tensors[-1])
        return tensors


def prepare(spec: Spec, options: Options) -> Facts:
    """The facts that a file's rows are resolved with.

    Raises:
        NetbuildError: for a scale, an input or an option that the file does not take.
    """
    scale, scale_from = choose_scale(spec, options.scale, options.letter)
    spec = ultralytics.translate(spec)
    spec = ultralytics.with_text(spec, lambda name: _takes_text(name, options.modules))
    settings, notes = _settings(spec, options)
    task = settings.get("task") or _head_task(spec, options.modules)
    imgsz = options.imgsz or settings.get("imgsz") or ((CLASSIFY_SIZE if task == "classify" else DEFAULT_SIZE),) * 2
    inputs = _inputs(spec, _names(spec, settings, scale), imgsz, options.imgsz is not None)
    ch, height, width = next((shape for _, shape in inputs if len(shape) == 3), (settings["ch"], *imgsz))
    settings["ch"] = ch
    names = _names(spec, settings, scale)
    scope = Scope(names, settings, scale, spec.width_divisor, not spec.is_plain, names)
    size = (height, width)
    return Facts(spec, scale, scale_from, task, settings.get("nc"), ch, size, inputs, scope, notes, _activation(spec))


def _takes_text(name: str, own: Mapping[str, Factory]) -> bool:
    try:
        return registry.find(name, own).takes_text
    except NetbuildError:
        return False  # said at its row


def _inputs(
    spec: Spec, names: Mapping[str, Any], imgsz: tuple[int, int], asked: bool
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The network's inputs; a size that is asked for goes for all images."""
    if not spec.inputs:
        return (("input", (names["ch"], *imgsz)),)
    shapes = [(item.name, item.shape(names)) for item in spec.inputs]
    return tuple(
        (name, (shape[0], *imgsz) if len(shape) == 1 or (len(shape) == 3 and asked) else shape)
        for name, shape in shapes
    )


def _settings(spec: Spec, options: Options) -> tuple[dict[str, Any], tuple[str, ...]]:
    notes = []
    settings = {"ch": 3, **spec.settings}
    if (
        options.ch is not None
        and spec.inputs
        and not any(_names_ch(side.value) for i in spec.inputs for side in i.sides)
    ):
        where = spec.root.keys["inputs"].where
        raise NetbuildError("--ch goes with a file of one image: this one names its inputs", where, "edit them there")
    for key in ("nc", "ch"):
        asked = getattr(options, key)
        if asked is None:
            continue
        if key == "ch" and key in spec.settings and spec.settings[key] != asked:
            notes.append(f"the file says ch: {spec.settings[key]}, --ch {asked} was asked for and is used")
        settings[key] = asked
    settings["legacy"] = ultralytics.legacy(row.module for row in spec.rows)
    return settings, tuple(notes)


def _names_ch(side: Any) -> bool:
    return isinstance(side, str) and "ch" in re.findall(r"\w+", side)


def _names(spec: Spec, settings: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """What arguments may refer to."""
    names = {key: value for key, value in settings.items() if key not in ("legacy", "activation", "task")}
    names.update(scale=scale.name, depth=scale.depth, width=scale.width, max_channels=scale.max_channels)
    names.update(spec.params)  # a parameter of the file may take one of these names
    return names


def _head_task(spec: Spec, own: Mapping[str, Factory]) -> str | None:
    for row in reversed(spec.rows):
        try:
            task = (own.get(row.module) or registry.factory(row.module)).task
        except NetbuildError:
            continue
        if task:
            return task
    return None


def _activation(spec: Spec) -> Callable[[], nn.Module]:
    node = spec.root.value.get("activation")
    if node is None:
        return default_activation
    value = parse_call(node.value) or node.value

    def make() -> nn.Module:
        try:
            return registry.activation(value)
        except NetbuildError as error:
            raise node.error(error.message, error.hint) from None

    return make
