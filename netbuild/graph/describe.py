"""What a checkpoint must know to build a network again, as plain data."""

import math
from collections.abc import Iterable
from typing import Any

from netbuild.grammar.extends import to_yaml
from netbuild.grammar.spec import Spec
from netbuild.graph.options import Facts
from netbuild.modules.factory import Factory
from netbuild.modules.own import carried


def describe(facts: Facts, own: Iterable[Factory]) -> dict[str, Any]:
    """The facts of a network as plain data; ``own`` are the own modules that its rows use."""
    spec = facts.spec
    return {
        "scale": facts.scale.name, "task": facts.task, "nc": facts.nc, "ch": facts.ch, "imgsz": facts.imgsz,
        "params": dict(spec.params), "file": spec.path.name, "yaml": yaml_of(facts), "modules": carried(own),
        "requires": _packages(spec), "names": spec.stored.names if spec.stored else None,
        "rows": [(row.module, row.name) for row in spec.rows],
        "lr_factors": {str(row): factor for row, factor in spec.lr_factors.items()},
    }  # fmt: skip


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
