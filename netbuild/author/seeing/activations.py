"""Draws a network's activation functions as curves."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from netbuild.author.seeing.places import View
from netbuild.drawing import charts
from netbuild.graph.network import Network
from netbuild.prediction.predictor import evaluating

MAX_INPUT = 6.0  # curves extend from minus this to this


def draw_activations(network: Network) -> list[View]:
    """Draw the network's activation functions with their derivatives; return an empty list if it has none."""
    found = find_activations(network)
    if not found:
        return []
    figure = draw_curves({f"{name}: {_describe_rows(rows)}": module for name, (module, rows) in found.items()})
    title = f"activation functions: {', '.join(found)}"
    return [View(None, "", "", "curves", title, charts.encode_png(figure))]


def find_activations(network: Network) -> dict[str, tuple[nn.Module, list[int]]]:
    """Return activation functions by their description, each as a module and the rows that contain it.

    They are recognised by running the modules, see `is_activation`, so that custom modules are found, too.
    """
    found: dict[str, tuple[nn.Module, list[int]]] = {}
    tried: dict[int, bool] = {}  # a module that rows share is run once
    for row in range(len(network.model)):
        for module in network.model[row].modules():
            if next(module.children(), None) is None and tried.setdefault(id(module), is_activation(module)):
                rows = found.setdefault(describe_module(module), (module, []))[1]
                if row not in rows:
                    rows.append(row)
    return found


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is an elementwise and nonlinear function, found out by running it.

    It is elementwise if a permutation of its input's values permutes its output's in the same way.
    """
    # One parameter is allowed, as in PReLU; more of them could differ between channels.
    if any(p.numel() > 1 for p in module.parameters()):
        return False
    x = torch.linspace(-3, 3, 32).reshape(1, 2, 4, 4)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), evaluating(module):
            y, z = module(x), module(x.reshape(-1)[order].reshape(x.shape))
            zero = module(torch.zeros_like(x))
            twice, back = module(2 * x) - zero, module(-x) - zero
            # Affine functions are no activations; ReLU is linear on each side, which is why both sides are tried.
            is_linear = torch.allclose(twice, 2 * (y - zero)) and torch.allclose(back, zero - y)
    except Exception:  # the module needs another kind of input
        return False
    keeps_shape = isinstance(y, Tensor) and y.shape == x.shape and y.is_floating_point()
    return bool(keeps_shape and torch.allclose(y.reshape(-1)[order], z.reshape(-1), atol=1e-6) and not is_linear)


def describe_module(module: nn.Module) -> str:
    """Return a module's class and arguments, as in LeakyReLU(negative_slope=0.1)."""
    arguments = ", ".join(part for part in module.extra_repr().split(", ") if part and "inplace" not in part)
    return type(module).__name__ + (f"({arguments})" if arguments else "")


def _describe_rows(rows: Sequence[int]) -> str:
    """Format row numbers with ranges, as in rows 0-3, 5."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(texts)}"


def draw_curves(named: dict[str, nn.Module]) -> charts.Figure:
    """Plot each function, and its derivative dashed, in a panel of its own."""
    columns = min(len(named), 3)
    rows = math.ceil(len(named) / columns)
    figure = charts.new_figure(max(3.6 * columns, 4.5), 3.0 * rows)
    x = torch.linspace(-MAX_INPUT, MAX_INPUT, 1201)
    for i, (title, module) in enumerate(named.items()):
        inputs = x.clone().requires_grad_()
        with torch.enable_grad(), evaluating(module):
            y = module(inputs.reshape(1, 1, 1, -1)).reshape(-1)
            slope = torch.autograd.grad(y.sum(), inputs)[0] if y.requires_grad else torch.zeros_like(x)
        charts.plot_function(
            figure.add_subplot(rows, columns, i + 1), title, x.numpy(), y.detach().numpy(), slope.numpy()
        )
    return figure
