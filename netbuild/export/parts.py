"""Prepare a module for an exporter: convert it to float16, decompose operators that the exporter lacks."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.export.tracing import quiet

aten = torch.ops.aten
Rules = Mapping[Any, Callable[..., Any]]


class Half(nn.Module):
    """A float16 copy of a module whose inputs and outputs stay float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.float() for x in self.module(*(x.half() for x in inputs)))


def decompose(program: torch.export.ExportedProgram, rules: Rules | None = None) -> torch.export.ExportedProgram:
    """Decompose the operators that an exporter lacks; return the same program if it has none.

    Args:
        program: the traced network.
        rules: operator to its decomposition; ONNX's by default.
    """
    rules = DECOMPOSITIONS if rules is None else rules
    calls = [node for node in program.graph.nodes if node.op == "call_function" and node.target in rules]
    needed = {node.target for node in calls if _is_needed(node)}
    if not needed:
        return program
    with quiet():
        return program.run_decompositions({operator: rules[operator] for operator in needed})


def _is_needed(node: torch.fx.Node) -> bool:
    if node.target is aten.scaled_dot_product_attention.default:
        return node.args[0].meta["val"].ndim != 4  # type: ignore[union-attr]
    return True


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention in eval mode with any number of batch axes; float masks only."""
    if is_causal or enable_gqa or (mask is not None and mask.dtype == torch.bool):
        return NotImplemented  # type: ignore[no-any-return]  # torch then keeps the operator
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def adaptive_max(x: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling (..., H, W) to (..., *size) by slices; the indices are zeros."""
    for axis, count in zip((-2, -1), size, strict=True):
        length = x.shape[axis]
        starts = [i * length // count for i in range(count)]
        # Ceiling division without negative numbers, which ONNX divides differently.
        ends = [((i + 1) * length + count - 1) // count for i in range(count)]
        parts = [x.narrow(axis, a, b - a).amax(axis) for a, b in zip(starts, ends, strict=True)]
        x = torch.stack(parts, axis)
    return x, torch.zeros_like(x, dtype=torch.long)


def average(
    x: Tensor,
    kernel_size: list[int],
    stride: list[int] | None = None,
    padding: tuple[int, ...] = (0, 0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """3-d average pooling over channels alone, as in local response normalisation, by 2-d pooling."""
    deep = len(kernel_size) == 3 and kernel_size[1:] == [1, 1]
    if not deep or any(s != 1 for s in stride or kernel_size) or any(padding) or divisor_override is not None:
        return NotImplemented  # type: ignore[no-any-return]  # torch then keeps the operator
    return nn.functional.avg_pool2d(x.flatten(-2), (kernel_size[0], 1), 1).unflatten(-1, x.shape[-2:])


def pad(x: Tensor, sides: list[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Constant padding whose negative sides, which crop, become slices; ``sides``: two an axis, last axis first."""
    if mode != "constant":
        return NotImplemented  # type: ignore[no-any-return]
    for i, (before, after) in enumerate(zip(sides[::2], sides[1::2], strict=True)):
        if min(before, after) < 0:
            axis = x.ndim - 1 - i
            x = x.narrow(axis, max(-before, 0), x.shape[axis] - max(-before, 0) - max(-after, 0))
    added = [max(side, 0) for side in sides]
    return torch.constant_pad_nd(x, added, value or 0.0) if any(added) else x


DECOMPOSITIONS: Rules = {
    aten.scaled_dot_product_attention.default: attention,
    aten.adaptive_max_pool2d.default: adaptive_max,
}
