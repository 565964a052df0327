"""MuSGD: SGD for all parameters, and for matrices and convolution kernels a step of Muon besides.

Muon: K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that drives singular values towards 1, from the publication
STEPS = 5  # of Newton and Schulz's iteration
EPS = 1e-7


class MuSGD(torch.optim.Optimizer):
    """SGD with Nesterov momentum, and for parameters of two or four dimensions a step of Muon besides.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: momentum of SGD and of Muon.
        weight_decay: weight decay of SGD, added to its gradient.
        muon: learning rate of Muon's step as a factor of ``lr``, 0 for none; a group may have its own.
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
        """Step all parameters that have a gradient; return what the closure returns, which is called first."""
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
        has_muon = p.ndim in (2, 4) and group["muon"] > 0
        if has_muon:
            mean = state.setdefault("mean", torch.zeros_like(p))
            mean.lerp_(grad, 1 - momentum)
            nesterov = mean.lerp(grad, 1 - momentum)
        if group["weight_decay"]:
            grad = grad.add(p, alpha=group["weight_decay"])
        if has_muon:
            p.add_(orthogonal_direction(nesterov), alpha=-group["muon"] * lr)
        state["sum"].mul_(momentum).add_(grad)
        p.add_(grad.add(state["sum"], alpha=momentum), alpha=-lr)


def orthogonal_direction(grad: Tensor) -> Tensor:
    """Return the orthogonal matrix nearest to a gradient; kernels are flattened to (out, rest) for it.

    It is longer by sqrt(rows / columns) if the gradient has more rows than columns in its last two dimensions.
    """
    out = orthogonalise(grad.flatten(1)).view_as(grad).to(grad.dtype)
    return out * max(1.0, grad.shape[-2] / grad.shape[-1]) ** 0.5


def orthogonalise(matrix: Tensor, steps: int = STEPS) -> Tensor:
    """Return a matrix (N, M) with its singular values near 1, by Newton and Schulz's iteration: cheaper than an SVD."""
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x  # x @ x.T is then the smaller of the two products
    x = x / (x.norm() + EPS)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x
