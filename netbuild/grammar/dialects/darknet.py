"""Darknet's ``.cfg`` files, translated section by section: YOLOv3, arXiv 1804.02767, YOLOv4, arXiv 2004.10934.

A section becomes one or several rows; a route to a single layer becomes none. The sections ``[yolo]`` with the
convolutions before them become one head on all levels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from netbuild.grammar.dialects.base import make_node
from netbuild.grammar.dialects.darknet_rows import (
    Level,
    Output,
    Translation,
    Weighted,
    make_row,
    name_rows,
    read_activation,
    share_activation,
)
from netbuild.grammar.dialects.darknet_sections import Section, parse_sections, read_image, refuse_unknown
from netbuild.grammar.nodes import Node
from netbuild.grammar.rows import INPUT, MAX_CHANNELS

NORM_EPS = 1e-5  # that Darknet adds to the variance in its batch norms
# Options that change what a section computes, and that netbuild has not.
_UNSUPPORTED = {
    "convolutional": (
        "xnor", "binary", "antialiasing", "share_index", "sway", "rotate", "stretch", "stretch_sway", "stride_x",
        "stride_y", "deform", "assisted_excitation", "coordconv",
    ),
    "shortcut": ("weights_type",),
    "maxpool": ("maxpool_depth", "antialiasing", "stride_x", "stride_y"),
    "connected": ("batch_normalize",),
    "scale_channels": ("scale_wh",),
    "upsample": ("reverse",),
}  # fmt: skip


@dataclass(frozen=True)
class DarknetFile:
    """A translated file: its tree in netbuild's own grammar, and its sections with weights in their order."""

    root: Node
    weighted: tuple[Weighted, ...]


def translate_darknet(text: str, name: str) -> DarknetFile:
    """Translate the text of a ``.cfg`` file.

    Args:
        text: the text.
        name: the file's name for error messages.

    Raises:
        NetbuildError: at the line of what is wrong or not supported.
    """
    net, sections = parse_sections(text, name)
    settings: dict[str, Any] = dict(read_image(net))
    translation = Translation(sections, Output(INPUT, int(settings.get("ch", 3)), Fraction(1)))
    for section in sections:
        if section.kind not in _SECTIONS:
            refuse_unknown(section, tuple(_SECTIONS))
        section.refuse_options(_UNSUPPORTED.get(section.kind, ()))
        translation.outputs.append(_SECTIONS[section.kind](translation, section))
    head_keys = _add_head(translation, settings) if translation.levels else {}
    name_rows(translation.rows)
    settings |= {"norm_eps": NORM_EPS, **share_activation(translation.rows)}
    rows = [make_row(number, row) for number, row in enumerate(translation.rows)]
    root = make_node({**settings, "layers": rows}, net.node)
    weighted = [
        Weighted(f"model.{item}" if isinstance(item, int) else head_keys[item.number], normalised, section)
        for item, normalised, section in translation.weighted
    ]
    return DarknetFile(root, tuple(weighted))


# -- sections ---------------------------------------------------------------------------------------------------------


def _add_convolution(t: Translation, section: Section) -> Output | None:
    following = t.sections[section.number + 1 : section.number + 2]
    if following and following[0].kind == "yolo":
        t.weighted.append((section, False, section))
        return None
    source = t.before(section)
    filters = section.read_integer("filters", 1, 1, MAX_CHANNELS)
    k, s = section.read_integer("size", 1, 1), section.read_integer("stride", 1, 1)
    groups, d = section.read_integer("groups", 1, 1, MAX_CHANNELS), section.read_integer("dilation", 1, 1)
    p = (k // 2 if section.read_integer("pad", 0) else section.read_integer("padding", 0)) * d
    if section.read_integer("batch_normalize", 0):
        options = {"p": p} if p != (d * (k - 1) + 1) // 2 else {}
        options |= {key: value for key, value in (("g", groups), ("d", d)) if value != 1}
        act = {"act": read_activation(section, "logistic") or False}
        row = t.add(section, [source.row], "Conv", filters, k, s, options | act)
        t.weighted.append((row, True, section))
        return Output(row, filters, source.stride * s)
    values = {"kernel_size": k, "stride": s, "padding": p, "groups": groups, "dilation": d}
    defaults = {"stride": 1, "padding": 0, "groups": 1, "dilation": 1}
    shown = {key: value for key, value in values.items() if value != defaults.get(key)}
    row = t.add(section, [source.row], "nn.Conv2d", {"out_channels": filters, **shown})
    t.weighted.append((row, False, section))
    return t.activate(section, Output(row, filters, source.stride * s), "logistic")


def _add_shortcut(t: Translation, section: Section) -> Output:
    outputs = [t.before(section), *t.find_listed(section, "from")]
    for output in outputs[1:]:
        if output.channels != outputs[0].channels:
            message = f"[shortcut] adds {outputs[0].channels} channels and {output.channels}"
            raise section.find("from").error(message, "both must be equal")
    row = t.add(section, [output.row for output in outputs], "Add")
    return t.activate(section, Output(row, outputs[0].channels, outputs[0].stride), "linear")


def _add_product(t: Translation, section: Section) -> Output:
    """Translate a product with one other layer; its gate may have a single cell."""
    gate, (other, *_) = t.before(section), t.find_listed(section, "from")
    row = t.add(section, [other.row, gate.row], "Multiply")
    return t.activate(section, Output(row, other.channels, other.stride), "linear")


def _add_route(t: Translation, section: Section) -> Output:
    outputs = t.find_listed(section, "layers")
    groups = section.read_integer("groups", 1, 1, MAX_CHANNELS)
    group = section.read_integer("group_id", 0, 0, groups - 1)
    if groups > 1:
        outputs = [_take_group(t, section, output, groups, group) for output in outputs]
    if len(outputs) == 1:
        return outputs[0]
    row = t.add(section, [output.row for output in outputs], "Concat")
    return Output(row, sum(output.channels for output in outputs), outputs[0].stride)


def _take_group(t: Translation, section: Section, output: Output, groups: int, group: int) -> Output:
    if output.channels % groups:
        raise section.find("groups").error(f"[route] {output.channels} channels cannot be split into {groups} groups")
    count = output.channels // groups
    row = t.add(section, [output.row], "Slice", group * count, (group + 1) * count)
    return Output(row, count, output.stride)


def _add_max_pooling(t: Translation, section: Section) -> Output:
    """Translate a pooling, whose padding is size-1 in all: less of it before the map, cells outside are ignored."""
    source = t.before(section)
    s = section.read_integer("stride", 1, 1)
    k = section.read_integer("size", s, 1)
    padding = section.read_integer("padding", k - 1, 0, k - 1)
    first, last = padding // 2, padding - padding // 2
    row = source.row
    if (k, s, padding) == (2, 2, 1):
        options: dict[str, Any] = {"kernel_size": k, "stride": s, "ceil_mode": True}
    else:
        options = {"kernel_size": k, "stride": s} | ({"padding": first} if first == last != 0 else {})
        if first != last:  # repeated cells do not change a maximum that has the cell itself
            row = t.add(section, [row], "nn.ReplicationPad2d", [first, last, first, last])
    row = t.add(section, [row], "nn.MaxPool2d", options)
    return Output(row, source.channels, source.stride * s)


def _add_upsampling(t: Translation, section: Section) -> Output:
    source = t.before(section)
    scale = section.read_integer("stride", 2, 1)
    row = t.add(section, [source.row], "nn.Upsample", {"scale_factor": scale, "mode": "nearest"})
    return Output(row, source.channels, source.stride / scale)


def _add_average(t: Translation, section: Section) -> Output:
    source = t.before(section)
    return replace(source, row=t.add(section, [source.row], "nn.AdaptiveAvgPool2d", 1))


def _add_connected(t: Translation, section: Section) -> Output:
    source = t.before(section)
    count = section.read_integer("output", 1, 1, MAX_CHANNELS)
    row = t.add(section, [_flatten(t, section, source)], "nn.Linear", {"out_features": count})
    t.weighted.append((row, False, section))
    return t.activate(section, Output(row, count, source.stride, is_flat=True), "logistic")


def _flatten(t: Translation, section: Section, source: Output) -> int:
    """Return the row of the source, flattened if it is a map."""
    return source.row if source.is_flat else t.add(section, [source.row], "nn.Flatten")


def _add_dropout(t: Translation, section: Section) -> Output:
    source = t.before(section)
    p = (section.read_numbers("probability") or [0.5])[0]
    return replace(source, row=t.add(section, [source.row], "nn.Dropout", p))


def _add_softmax(t: Translation, section: Section) -> Output:
    section.refuse_options(("tree", "spatial"))
    source = t.before(section)
    row = t.add(section, [_flatten(t, section, source)], "nn.Softmax", 1)
    return Output(row, source.channels, source.stride, is_flat=True)


def _skip(t: Translation, section: Section) -> Output:
    """Leave out a section that only training has."""
    return t.before(section)


def _add_level(t: Translation, section: Section) -> None:
    if not section.number or t.sections[section.number - 1].kind != "convolutional":
        raise section.node.error("[yolo] must follow a [convolutional] section, which makes its values")
    convolution = t.sections[section.number - 1]
    total = section.read_integer("num", 1, 1, 1000)
    mask = section.read_integers("mask") or list(range(total))
    sizes = section.read_numbers("anchors")
    if any(not 0 <= i < len(sizes) // 2 for i in mask) or len(sizes) % 2:
        message = f"[yolo] mask: {mask} are not all among the {len(sizes) / 2:g} anchors"
        raise section.find("mask").error(message, "anchors are pairs width,height, counted from 0")
    nc = section.read_integer("classes", 20, 1, 1_000_000)
    expected = {
        "filters": (1, len(mask) * (5 + nc)), "size": (1, 1), "stride": (1, 1), "groups": (1, 1),
        "batch_normalize": (0, 0),
    }  # fmt: skip
    for key, (default, value) in expected.items():
        if convolution.read_integer(key, default, 0, 10_000_000) != value:
            message = f"[convolutional] {key} must be {value} before [yolo] with {len(mask)} anchors and {nc} classes"
            raise convolution.find(key).error(message, f"write {key}={value}")
    anchors = [sizes[2 * i + side] for i in mask for side in (0, 1)]
    t.levels.append(Level(section, convolution, t.before(convolution), anchors))


_SECTIONS: dict[str, Callable[[Translation, Section], Output | None]] = {
    "convolutional": _add_convolution,
    "shortcut": _add_shortcut,
    "route": _add_route,
    "maxpool": _add_max_pooling,
    "upsample": _add_upsampling,
    "yolo": _add_level,
    "avgpool": _add_average,
    "connected": _add_connected,
    "dropout": _add_dropout,
    "softmax": _add_softmax,
    "scale_channels": _add_product,
    "sam": _add_product,
    "cost": _skip,
}


# -- the head ---------------------------------------------------------------------------------------------------------


def _add_head(t: Translation, settings: dict[str, Any]) -> dict[int, str]:
    """Add the head, its finest level first; return the state keys of its convolutions by their layers' numbers."""
    levels = sorted(t.levels, key=lambda level: level.source.stride)
    first = levels[0]
    nc = first.yolo.read_integer("classes", 20)
    for level in levels:
        if level.yolo.read_integer("classes", 20) != nc or len(level.anchors) != len(first.anchors):
            message = "[yolo] sections with different numbers of classes or anchors are not supported"
            raise level.yolo.node.error(message, "give all of them the same classes and as many entries of mask")
    module, more = _choose_head(levels)
    anchors = [[int(side) if side == int(side) else side for side in level.anchors] for level in levels]
    row = t.add(first.yolo, [level.source.row for level in levels], module, "nc", anchors, *more)
    settings |= {"nc": nc, "task": "detect"}
    return {level.convolution.number: f"model.{row}.m.{i}" for i, level in enumerate(levels)}


def _choose_head(levels: list[Level]) -> tuple[str, list[Any]]:
    """Return the module of the head and its further arguments: boxes with ``new_coords`` are those of YOLOv5."""
    scales = [(level.yolo.read_numbers("scale_x_y") or [1.0])[0] for level in levels]
    new = {level.yolo.read_integer("new_coords", 0) for level in levels}
    for level, scale in zip(levels, scales, strict=True):
        wanted = "logistic" if 1 in new else "linear"
        if level.convolution.read_text("activation", "logistic") != wanted:
            message = f"[convolutional] activation must be {wanted} before such a [yolo]"
            raise level.convolution.find("activation").error(message, f"write activation={wanted}")
        if 1 in new and (len(new) > 1 or scale != 2.0):
            message = "[yolo] new_coords=1 needs scale_x_y=2.0, and must be in all sections or none"
            raise level.yolo.find("scale_x_y").error(message, "write both in each [yolo]")
    if 1 in new:
        return "AnchorDetect", []
    return "DarknetDetect", [] if set(scales) == {1.0} else [scales]
