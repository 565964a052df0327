"""Muon beside SGD: matrices and kernels follow an orthogonal direction and the gradient, other parameters SGD alone.

Muon: K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1, from the publication
STEPS = 5
EPS = 1e-7


class MuSGD(torch.optim.Optimizer):
    """Nesterov's SGD, and for parameters of two or four dimensions a step of Muon besides.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        momentum: of both.
        weight_decay: added to the gradient of SGD.
        muon: learning rate of Muon's step, as a factor of ``lr``; a group may have its own, 0 for none.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        muon: float = 0.2,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "muon": muon})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; gives what the closure gives, which is called first with gradients on."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, lr, momentum = self.state[p], group["lr"], group["momentum"]
        if not state:
            state["sum"] = torch.zeros_like(p)
        matrix = p.ndim in (2, 4) and group["muon"] > 0
        if matrix:
            mean = state.setdefault("mean", torch.zeros_like(p))
            mean.lerp_(grad, 1 - momentum)
            ahead = mean.lerp(grad, 1 - momentum)
        if group["weight_decay"]:
            grad = grad.add(p, alpha=group["weight_decay"])
        if matrix:
            p.add_(direction(ahead), alpha=-group["muon"] * lr)
        state["sum"].mul_(momentum).add_(grad)
        p.add_(grad.add(state["sum"], alpha=momentum), alpha=-lr)


def direction(grad: Tensor) -> Tensor:
    """The orthogonal matrix next to a gradient, kernels flattened to (out, rest); longer where it is tall."""
    out = orthogonal(grad.flatten(1)).view_as(grad).to(grad.dtype)
    return out * max(1.0, grad.shape[-2] / grad.shape[-1]) ** 0.5


def orthogonal(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """A matrix (N, M) with its singular values brought near 1 by Newton and Schulz's iteration, in place of an SVD."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + EPS)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
