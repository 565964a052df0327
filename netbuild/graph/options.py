"""The configuration of a network: a file's values after the user's options, fixed before any row is resolved."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from netbuild.costs.receptive_field import mark_image
from netbuild.errors import NetbuildError
from netbuild.grammar import ultralytics
from netbuild.grammar.expressions import ExpressionOnly, parse_call
from netbuild.grammar.spec import Scale, Spec, choose_scale
from netbuild.graph.final_row import add_final_row
from netbuild.graph.heads import SEVERAL, HeadCard, describe_heads, task_of_row
from netbuild.graph.scope import Scope
from netbuild.layers.activation import default_activation
from netbuild.layers.heads.labels import FINAL_HEADS
from netbuild.modules import registry
from netbuild.modules.factory import Factory

DEFAULT_SIZE = 640
CLASSIFY_SIZE = 224
CLASSIFYING = ("classify", *FINAL_HEADS)  # tasks of networks that give numbers for the whole picture


@dataclass(frozen=True)
class Options:
    """The user's choices for a network file; None keeps the file's value, or the default where the file has none."""

    scale: str | None = None
    letter: str | None = None  # scale letter in the requested file name: n of yolo11n.yaml, found as yolo11.yaml
    nc: int | None = None
    ch: int | None = None
    imgsz: tuple[int, int] | None = None
    modules: Mapping[str, Factory] = field(default_factory=dict)  # custom modules, by the name that rows use
    kpt_shape: tuple[int, int] | None = None  # for a file with the key kpt_shape
    task: str | None = None
    head_nc: Mapping[str, int] = field(default_factory=dict)  # numbers of classes of heads, by name


@dataclass(frozen=True)
class NetworkConfig:
    """The values that a network's rows are resolved with.

    Attributes:
        spec: the network file.
        scale: the chosen scale; its name is empty where the file has none.
        scale_from: origin of the scale: ``flag``, ``name`` or ``default``; None where the file has none.
        task: the file's task, else that of its head, else None; ``several`` for a file with several heads.
        heads: the descriptions of several heads; empty for a file with one.
        nc: number of classes, None where the file has none.
        kpt_shape: number of keypoints of an object and of values of each, None where the file has no such key.
        ch: channels of the first image.
        imgsz: height and width of the first image in pixels.
        inputs: name and shape, without the batch, of each input.
        scope: the names and settings that rows may refer to.
        notes: remarks for the user, such as an option that overrides a value of the file.
        make_activation: makes the default activation of the network's layers.
    """

    spec: Spec
    scale: Scale
    scale_from: str | None
    task: str | None
    heads: tuple[HeadCard, ...]
    nc: int | None
    kpt_shape: tuple[int, int] | None
    ch: int
    imgsz: tuple[int, int]
    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    scope: Scope
    notes: tuple[str, ...]
    make_activation: Callable[[], nn.Module] = field(repr=False)

    @property
    def head_nc(self) -> dict[str, int]:
        """The numbers of classes of the heads whose number is not the network's, by name."""
        return {head.name: head.nc for head in self.heads if head.nc is not None}

    @property
    def result_rows(self) -> tuple[int, ...]:
        """The rows whose outputs the network returns: the heads, else the last row."""
        return tuple(head.row for head in self.heads) or (self.spec.rows[-1].index,)

    def scope_of(self, row: int) -> Scope:
        """The values that a row of the file may refer to: of a head with its own number of classes, ``nc`` is that."""
        nc = next((head.nc for head in self.heads if head.row == row), None)
        if nc is None:
            return self.scope
        names, settings = ({**known, "nc": nc} for known in (self.scope.names, self.scope.settings))
        return replace(self.scope, names=names, settings=settings, file_names=names)

    def make_inputs(self, batch: int = 1, imgsz: tuple[int, int] | None = None) -> list[torch.Tensor]:
        """Uninitialised input tensors on torch's default device; images carry the start of their receptive field.

        Args:
            batch: size of the first dimension.
            imgsz: height and width of all images, instead of the configured ones.
        """
        tensors = []
        for _, shape in self.inputs:
            is_image = len(shape) == 3
            tensors.append(torch.empty((batch, shape[0], *imgsz) if is_image and imgsz else (batch, *shape)))
            if is_image:
                mark_image(tensors[-1])
        return tensors


def make_config(spec: Spec, options: Options) -> NetworkConfig:
    """Combine a network file with the user's options.

    Raises:
        NetbuildError: for a scale, an input or an option that does not fit the file.
    """
    scale, scale_from = choose_scale(spec, options.scale, options.letter)
    spec = ultralytics.add_text_input(spec, lambda name: _takes_text(name, options.modules))
    settings, notes = _merge_settings(spec, options)
    heads = describe_heads(spec, options.modules, options.head_nc)
    if heads and options.task:
        hint = "a head's task is stated by its row, or in its entry of heads"
        raise NetbuildError("another task has no effect on a network with several heads", hint=hint)
    task = SEVERAL if heads else options.task or settings.get("task") or _task_of_head(spec, options.modules)
    spec = add_final_row(spec, task)
    imgsz = options.imgsz or settings.get("imgsz") or ((CLASSIFY_SIZE if task in CLASSIFYING else DEFAULT_SIZE),) * 2
    inputs = _input_shapes(spec, _expression_names(spec, settings, scale), imgsz, options.imgsz is not None)
    ch, height, width = next((shape for _, shape in inputs if len(shape) == 3), (settings["ch"], *imgsz))
    # The first image of `inputs:` decides `ch` for the rows, so the names are made anew.
    settings["ch"] = ch
    names = _expression_names(spec, settings, scale)
    scope = Scope(names, settings, scale, spec.width_divisor, not spec.is_plain, names)
    size, make_activation = (height, width), _activation_maker(spec)
    shape = tuple(settings["kpt_shape"]) if "kpt_shape" in settings else None
    return NetworkConfig(
        spec, scale, scale_from, task, heads, settings.get("nc"), shape, ch, size, inputs, scope, (*spec.notes, *notes),
        make_activation,
    )  # fmt: skip


def _takes_text(name: str, custom: Mapping[str, Factory]) -> bool:
    try:
        return registry.find_factory(name, custom).takes_text
    except NetbuildError:
        return False  # resolving the row reports the unknown module


def _input_shapes(
    spec: Spec, names: Mapping[str, Any], imgsz: tuple[int, int], is_override: bool
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The network's inputs by name; an image size of the user's (``is_override``) replaces those of all images."""
    if not spec.inputs:
        return (("input", (names["ch"], *imgsz)),)
    shapes = [(item.name, item.shape(names)) for item in spec.inputs]
    return tuple(
        (name, (shape[0], *imgsz) if len(shape) == 1 or (len(shape) == 3 and is_override) else shape)
        for name, shape in shapes
    )


def _merge_settings(spec: Spec, options: Options) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The file's settings with the user's ``nc``, ``ch`` and ``kpt_shape``, and remarks on what these override."""
    notes = []
    settings = {"ch": 3, **spec.settings}
    uses_ch = any(_mentions_ch(side.value) for item in spec.inputs for side in item.sides)
    if options.ch is not None and spec.inputs and not uses_ch:
        where = spec.root.keys["inputs"].where
        raise NetbuildError("--ch has no effect on a file that lists its inputs", where, "edit them there")
    for key in ("nc", "ch"):
        value = getattr(options, key)
        if value is None:
            continue
        if key == "ch" and key in spec.settings and spec.settings[key] != value:
            notes.append(f"--ch {value} overrides ch: {spec.settings[key]} of the file")
        settings[key] = value
    if options.kpt_shape is not None:
        if "kpt_shape" not in spec.settings:
            hint = f"write kpt_shape: {list(options.kpt_shape)} into the file, and kpt_shape into the row of its head"
            raise NetbuildError("kpt_shape has no effect on a file without the key kpt_shape", hint=hint)
        settings["kpt_shape"] = list(options.kpt_shape)
    settings["legacy"] = ultralytics.is_legacy(row.module for row in spec.rows)
    return settings, tuple(notes)


def _mentions_ch(side: Any) -> bool:
    return isinstance(side, str) and "ch" in re.findall(r"\w+", side)


def _expression_names(spec: Spec, settings: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """The names that expressions in rows may use, with their values."""
    names = {key: value for key, value in settings.items() if key not in ("legacy", "activation", "task")}
    # Undocumented, so a text argument may happen to be one of these words.
    scaling = {"scale": scale.name, "depth": scale.depth, "width": scale.width, "max_channels": scale.max_channels}
    names.update({name: ExpressionOnly(value) for name, value in scaling.items()})
    names.update(spec.params)  # last: a parameter of the file may reuse one of the names above
    return names


def _task_of_head(spec: Spec, custom: Mapping[str, Factory]) -> str | None:
    """The task of the last row whose module has one."""
    return next((task for row in reversed(spec.rows) if (task := task_of_row(row.module, custom))), None)


def _activation_maker(spec: Spec) -> Callable[[], nn.Module]:
    """A function that makes the activation of the file's ``activation:``, or the default one."""
    node = spec.root.value.get("activation")
    if node is None:
        return default_activation
    value = parse_call(node.value) or node.value

    def make() -> nn.Module:
        try:
            return registry.make_activation(value)
        except NetbuildError as error:
            raise node.error(error.message, error.hint) from None

    return make
