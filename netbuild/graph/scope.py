"""The values that rows may refer to, and the rule that scales their widths."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netbuild.grammar.spec import Scale


@dataclass(frozen=True)
class Scope:
    """The values that rows may refer to, and the rule that scales their widths."""

    names: Mapping[str, Any]  # names that expressions may use
    settings: Mapping[str, Any]  # top-level keys of the file
    scale: Scale
    divisor: int = 1  # widths are rounded up to a multiple of it
    ultralytics: bool = False  # a backbone/head file, to which `netbuild.grammar.ultralytics` applies
    file_names: Mapping[str, Any] = field(default_factory=dict)  # the file's names, which a block sees beside its own


def scale_width(value: int, scope: Scope) -> int:
    """Apply the scale to a number of channels: cap it, multiply it, round it up to a multiple of the divisor."""
    return math.ceil(min(value, scope.scale.max_channels) * scope.scale.width / scope.divisor) * scope.divisor
