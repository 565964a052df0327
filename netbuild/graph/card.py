"""A network's card: its name, task, inputs, class names and rows, and the YAML text that builds it again."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from netbuild.grammar.extends import to_yaml
from netbuild.grammar.header import CodeFile
from netbuild.grammar.spec import Spec
from netbuild.graph.options import Facts
from netbuild.modules.factory import Factory
from netbuild.modules.own import carried


@dataclass(frozen=True)
class NetworkCard:
    """What a built network knows of itself: plain data, enough to write a checkpoint that builds it again.

    Attributes:
        name: the file's stem with its scale, such as ``yolo11n-seg``.
        scale: the entry of the file's ``scales`` that was built; empty where there is none.
        task: the name of its task, None where neither the file nor the head states one.
        nc: number of classes, None where the file has none.
        ch: channels of its (first) image.
        imgsz: height and width of its (first) image in pixels.
        names: names of the classes, None where they are not known.
        rows: module and name (or None) of each row.
        inputs: name and shape, without the batch, of each input.
        stride: the largest stride of a row, in pixels; 1 where none is known.
        canvas: height and width that every image must have, None where any size will do.
        lr_factors: factor of the learning rate by row number (as text).
        params: the values of the file's ``params``.
        file: the name of the YAML file.
        yaml: the text of a YAML file that builds this very network.
        modules: the source of the own modules that its rows use.
        requires: packages beside torch that its rows name.
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

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; `json.dumps` takes them, except for ``modules``, which are dataclasses."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def make_card(name: str, facts: Facts, stride: int, own: Iterable[Factory]) -> NetworkCard:
    """The card of a resolved network.

    Args:
        name: of the network.
        facts: the values that its rows were resolved with.
        stride: the largest stride of its rows, in pixels.
        own: the own modules that its rows use.
    """
    spec = facts.spec
    return NetworkCard(
        name, facts.scale.name, facts.task, facts.nc, facts.ch, facts.imgsz,
        names=spec.stored.names if spec.stored else None, rows=tuple((row.module, row.name) for row in spec.rows),
        inputs=facts.inputs, stride=stride, lr_factors={str(row): f for row, f in spec.lr_factors.items()},
        params=dict(spec.params), file=spec.path.name, yaml=yaml_of(facts), modules=carried(own, facts.task),
        requires=_packages(spec),
    )  # fmt: skip


def yaml_of(facts: Facts) -> str:
    """The file that gives this very network: what it extends read in, the options asked for written down."""
    scale = facts.scale
    multiples = [scale.depth, scale.width, *([] if scale.max_channels == math.inf else [scale.max_channels])]
    changes = {
        "nc": facts.nc,
        "ch": facts.ch,
        "imgsz": list(facts.imgsz),
        "params": facts.spec.params,
        "scales": {scale.name: multiples} if scale.name else None,
    }
    return to_yaml(facts.spec.root, {key: value for key, value in changes.items() if value}, without=("imports",))


def _packages(spec: Spec) -> tuple[str, ...]:
    """Packages beside torch that rows name by a dotted path."""
    tops = {row.module.split(".")[0] for row in spec.all_rows() if "." in row.module}
    return tuple(sorted(tops - {"nn", "torch"}))
