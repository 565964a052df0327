"""The curves of a network's activation functions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netbuild.author.seeing.places import Sight
from netbuild.drawing import charts
from netbuild.graph.network import Network
from netbuild.prediction.predictor import evaluating

SPAN = 6.0  # curves go from minus this to this


def activations(network: Network) -> list[Sight]:
    """The activation functions that the network uses, as curves with their derivatives; none if it has none."""
    found = functions(network)
    if not found:
        return []
    drawn = curves({f"{name}: {_listed(rows)}": module for name, (module, rows) in found.items()})
    title = f"activation functions: {', '.join(found)}"
    return [Sight(None, "", "", "curves", title, charts.encode_png(drawn))]


def functions(network: Network) -> dict[str, tuple[nn.Module, list[int]]]:
    """Activation functions by how they are written, and the rows that have them.

    Whatever gives every number its own, not as a straight line, is one: by trial, so that own modules count too.
    """
    found: dict[str, tuple[nn.Module, list[int]]] = {}
    tried: dict[int, bool] = {}
    for row in range(len(network.model)):
        for module in network.model[row].modules():
            if next(module.children(), None) is None and tried.setdefault(id(module), is_function(module)):
                rows = found.setdefault(written(module), (module, []))[1]
                if row not in rows:
                    rows.append(row)
    return found


def is_function(module: nn.Module) -> bool:
    """Whether a module gives each number its own, whatever is beside it, and bends."""
    if any(p.numel() > 1 for p in module.parameters()):
        return False
    x = torch.linspace(-3, 3, 32).reshape(1, 2, 4, 4)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), evaluating(module):
            y, z = module(x), module(x.reshape(-1)[order].reshape(x.shape))
            zero = module(torch.zeros_like(x))
            twice, back = module(2 * x) - zero, module(-x) - zero
            straight = torch.allclose(twice, 2 * (y - zero)) and torch.allclose(back, zero - y)
    except Exception:  # it wants something else than a picture
        return False
    alike = isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point()
    return bool(alike and torch.allclose(y.reshape(-1)[order], z.reshape(-1), atol=1e-6) and not straight)


def written(module: nn.Module) -> str:
    """A module as its class and what it was given: LeakyReLU(0.1)."""
    given = ", ".join(part for part in module.extra_repr().split(", ") if part and "inplace" not in part)
    return type(module).__name__ + (f"({given})" if given else "")


def _listed(rows: Sequence[int]) -> str:
    """Numbers with runs as 0-3."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(texts)}"


def curves(named: dict[str, nn.Module]) -> charts.Figure:
    """A panel a function: its value, and its derivative dashed."""
    columns = min(len(named), 3)
    rows = math.ceil(len(named) / columns)
    drawn = charts.new_figure(max(3.6 * columns, 4.5), 3.0 * rows)
    x = torch.linspace(-SPAN, SPAN, 1201)
    for i, (title, module) in enumerate(named.items()):
        given = x.clone().requires_grad_()
        with torch.enable_grad(), evaluating(module):
            y = module(given.reshape(1, 1, 1, -1)).reshape(-1)
            slope = torch.autograd.grad(y.sum(), given)[0] if y.requires_grad else torch.zeros_like(x)
        charts.plot_function(
            drawn.add_subplot(rows, columns, i + 1), title, x.numpy(), y.detach().numpy(), slope.numpy()
        )
    return drawn
