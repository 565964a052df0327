"""Arranging a network's outputs for a task."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from netbuild.costs.outputs import first_tensor
from netbuild.errors import NetbuildError


def require_tensor(outputs: Any) -> Tensor:
    """Return the first tensor among a network's outputs.

    Raises:
        NetbuildError: if there is none.
    """
    found = first_tensor(outputs)
    if found is None:
        raise NetbuildError("the network has no tensor among its outputs")
    return found


def read_exported(outputs: Sequence[Tensor]) -> Any:
    """Return the tensor of a file with one output, a tuple for one with several."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
