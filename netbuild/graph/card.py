"""The card of a network: its name, task, inputs, class names and rows, and a YAML text that rebuilds it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from netbuild.grammar.checkpoint_header import CodeFile
from netbuild.grammar.degrade import Degradation
from netbuild.grammar.spec import Spec
from netbuild.grammar.writing import to_yaml
from netbuild.graph.heads import HeadCard
from netbuild.graph.options import NetworkConfig
from netbuild.layers.heads.labels import FINAL_HEADS
from netbuild.modules.custom import collect_sources
from netbuild.modules.factory import Factory


@dataclass(frozen=True)
class NetworkCard:
    """The description of a built network as plain data, complete enough that a checkpoint can rebuild it.

    Attributes:
        name: the file's stem with its scale, such as ``yolo11n-seg``.
        scale: the entry of the file's ``scales`` that was built; empty where the file has none.
        task: the name of the network's task, None where neither the file nor the head states one; ``several`` for a
            network with several heads.
        nc: number of classes, None where the file has none.
        ch: channels of the (first) image.
        imgsz: height and width of the (first) image in pixels.
        names: class names, None where they are unknown.
        rows: module and name (or None) of each row.
        inputs: name and shape, without the batch, of each input.
        stride: the largest known stride of a row in pixels, at least 1.
        canvas: height and width that every image must have, None where any size fits.
        lr_factors: learning-rate factors by row number (as text).
        params: the values of the file's ``params``.
        file: the name of the YAML file.
        yaml: the text of a YAML file that builds exactly this network.
        modules: the source files of the custom modules that the rows use.
        requires: top-level packages, torch excepted, that the rows name.
        skeleton: pairs of keypoints, by number, that drawings join with a line.
        heads: the descriptions of several heads; empty for a network with one.
        resizing: how the pictures are resized that it was trained on, see `netbuild.runtime.ModelInfo`.
        map_step: pixels per cell of the map that it returns, where the map covers only the middle of the image, since
            convolutions without padding cut off a border; 0 where it covers the whole image or there is no map.
        output: channels, height and width of the map that it returns for an image of ``imgsz``; None for other outputs.
        degrade: what is done to pictures, in order, to make those that it restores, see `netbuild.grammar.degrade`.
        space: the colours that it restores: ``y`` (luminance), ``rgb`` or ``grey``; None where the file has none.
        sampling: how pictures are made with the network, such as the schedule of its noise; empty if it makes none.
    """

    name: str
    scale: str = ""
    task: str | None = None
    nc: int | None = None
    ch: int = 3
    imgsz: tuple[int, int] = (640, 640)
    names: list[str] | None = None
    rows: tuple[tuple[str, str | None], ...] = ()
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    stride: int = 1
    canvas: tuple[int, int] | None = None
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    yaml: str = ""
    modules: tuple[tuple[CodeFile, ...], ...] = ()
    requires: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    heads: tuple[HeadCard, ...] = ()
    resizing: str = "area"
    map_step: int = 0
    output: tuple[int, int, int] | None = None
    degrade: tuple[Degradation, ...] = ()
    space: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name; all but ``modules``, whose entries are dataclasses, can be written as JSON."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**known, "heads": {head.name: head.to_dict() for head in self.heads}}


def make_card(
    name: str, config: NetworkConfig, stride: int, custom_modules: Iterable[Factory], map_step: int = 0
) -> NetworkCard:
    """Make the card of a resolved network.

    Args:
        name: the network's name.
        config: the values that its rows were resolved with.
        stride: the largest stride of its rows in pixels.
        custom_modules: factories of the custom modules that its rows use.
        map_step: see `NetworkCard`.
    """
    spec = config.spec
    rows = tuple((row.module, row.name) for row in spec.rows)
    return NetworkCard(
        name, config.scale.name, config.task, config.nc, config.ch, config.imgsz,
        names=spec.checkpoint_info.names if spec.checkpoint_info else None, rows=rows,
        inputs=config.inputs, stride=stride, lr_factors={str(row): f for row, f in spec.lr_factors.items()},
        params=dict(spec.params), file=spec.path.name, yaml=resolved_yaml(config),
        modules=collect_sources(custom_modules, config.task), requires=_required_packages(spec), heads=config.heads,
        skeleton=spec.checkpoint_info.skeleton if spec.checkpoint_info else (), resizing=_find_resizing(spec),
        map_step=map_step,
        degrade=spec.restoration.degrade, space=spec.restoration.space,
        sampling=spec.checkpoint_info.sampling if spec.checkpoint_info else {},
    )  # fmt: skip


def _find_resizing(spec: Spec) -> str:
    """Find how the pictures are resized that a network was trained on: for imported checkpoints it is recorded."""
    imported = spec.checkpoint_info.training.get("imported") if spec.checkpoint_info else None
    return "linear" if isinstance(imported, dict) and imported.get("resizing") == "linear" else "area"


def resolved_yaml(config: NetworkConfig) -> str:
    """Return a YAML file that builds exactly this network: without ``extends``, and with the user's options set."""
    scale = config.scale
    multiples = [scale.depth, scale.width, *([] if scale.max_channels == math.inf else [scale.max_channels])]
    changes = {
        "nc": config.nc,
        "ch": config.ch,
        "imgsz": list(config.imgsz),
        "kpt_shape": list(config.kpt_shape or ()),
        "params": config.spec.params,
        "scales": {scale.name: multiples} if scale.name else None,
        "task": config.task if "task" in config.spec.root.value or config.task in FINAL_HEADS else None,
        "heads": {head.name: head.to_entry() for head in config.heads},
        "degrade": list(config.spec.restoration.degrade),
    }
    return to_yaml(config.spec.root, {key: value for key, value in changes.items() if value}, without=("imports",))


def _required_packages(spec: Spec) -> tuple[str, ...]:
    """Find the top-level packages, torch excepted, of modules that rows name by a dotted path."""
    tops = {row.module.split(".")[0] for row in spec.all_rows() if "." in row.module}
    return tuple(sorted(tops - {"nn", "torch"}))
