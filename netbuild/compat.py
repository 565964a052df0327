"""What files of the Ultralytics kind mean that a constructor's signature cannot say: all of it, and only here."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from netbuild.rows import Row
from netbuild.spec import Scale

# A row of one of these modules moves every head of the file to the light class branch.
_NON_LEGACY = {"C3k2", "A2C2f", "C2fCIB"}

# Rows of these torch modules are written like own ones: [c2, kernel, stride, padding], c1 supplied, c2 scaled.
OWN_STYLE = {"nn.ConvTranspose2d"}

# (module, scales) -> arguments that the scale sets, whatever the row says.
_BY_SCALE: dict[str, tuple[str, dict[str, Any]]] = {
    "C3k2": ("mlx", {"c3k": True}),
    "A2C2f": ("lx", {"residual": True, "mlp_ratio": 1.2}),
}


# Rows of these begin with the channels that they give, which only that parser needs.
_DECLARES_WIDTH = {"Index", "TorchVision"}


def without_declared_width(row: Row) -> Row:
    """The row without a first value that its module does not take."""
    return replace(row, args=row.args[1:]) if row.module in _DECLARES_WIDTH else row


def adjust(module: str, values: dict[str, Any], scale: Scale) -> None:
    """Set the arguments that the scale's letter decides."""
    letters, changes = _BY_SCALE.get(module, ("", {}))
    if len(scale.name) == 1 and scale.name in letters:
        values.update(changes)


def legacy(modules: Iterable[str]) -> bool:
    """Whether detection heads of a file with these modules have the older, dense class branch."""
    return _NON_LEGACY.isdisjoint(modules)


def finish(module: nn.Module, task: str | None) -> nn.Module:
    """Give batch norms the constants of detection-like networks; classifiers and plain nets keep torch's."""
    if task not in (None, "classify"):
        for child in module.modules():
            if type(child) is nn.BatchNorm2d:
                child.eps, child.momentum = 1e-3, 0.03
    return module
