"""Optimisers, parameter groups, the schedule of the learning rate, the EMA of the weights, and frozen rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from netbuild.errors import NetbuildError, did_you_mean
from netbuild.graph.network import Network
from netbuild.settings import Settings
from netbuild.training.musgd import MuSGD

NOMINAL_BATCH = 64  # images per optimiser step; smaller batches are accumulated
SHORT_RUN_BATCH = 16  # the same in short runs, which need more steps
LONG_RUN_STEPS = 10_000  # a run of more steps is long: it takes SGD instead of AdamW
DEFAULT_RATES = {"sgd": 0.01, "musgd": 0.01, "adam": 0.001, "adamw": 0.001}
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Plan:
    """The optimiser of a network, with the numbers that its run is planned by.

    Attributes:
        optimizer: the optimiser.
        name: its name, as in the setting ``optimizer``.
        rate: the learning rate, which the schedule multiplies.
        accumulate: number of batches per optimiser step.
        steps: number of optimiser steps of the whole run.
    """

    optimizer: torch.optim.Optimizer
    name: str
    rate: float
    accumulate: int
    steps: int


def make_plan(
    network: Network,
    settings: Settings,
    batches: int,
    default_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Plan:
    """Construct the optimiser of a network and choose its learning rate and batches per step.

    Args:
        network: the network to train.
        settings: the settings of the run.
        batches: number of batches per epoch.
        default_rate: the task's default learning rate in short runs with AdamW, if it has one.
        betas: the decays of the moments of Adam and AdamW.

    Raises:
        NetbuildError: if all parameters are frozen.
    """
    accumulate, steps = _count_steps(settings, batches)
    name, rate = _choose_optimizer(settings, steps, default_rate)
    # Decay is per step: scaled by the images per step, it is the same per epoch whatever the batch is.
    decay = settings.weight_decay * settings.batch * accumulate / NOMINAL_BATCH
    groups = list(_make_groups(network, rate, decay))
    if not groups:
        raise NetbuildError("all parameters of the network are frozen", hint="freeze fewer rows")
    return Plan(_make_optimizer(name, groups, settings, rate, betas), name, rate, accumulate, steps)


def _count_steps(settings: Settings, batches: int) -> tuple[int, int]:
    """Return the number of batches per optimiser step and the number of steps of the run."""

    def count(images: int) -> tuple[int, int]:
        accumulate = min(settings.accumulate or max(round(images / settings.batch), 1), batches)
        return accumulate, math.ceil(batches / accumulate) * settings.epochs

    # Measured on 205 images: with 64 images per step, 40 epochs have too few steps to converge.
    nominal = count(NOMINAL_BATCH)
    return nominal if nominal[1] > LONG_RUN_STEPS else count(SHORT_RUN_BATCH)


def _choose_optimizer(settings: Settings, steps: int, default_rate: float | None) -> tuple[str, float]:
    """Return the optimiser's name and learning rate; ``auto`` is AdamW in short runs and SGD in long ones."""
    name = settings.optimizer
    if name == "auto":
        name = "sgd" if steps > LONG_RUN_STEPS else "adamw"
        if name == "adamw" and settings.lr is None and default_rate is not None:
            return name, default_rate
    return name, DEFAULT_RATES[name] if settings.lr is None else settings.lr


def _make_groups(network: Network, rate: float, decay: float) -> Iterator[dict[str, Any]]:
    """Yield parameter groups of the same learning rate and decay; norms, biases and logit scales have no decay."""
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    factors = network.card.lr_factors
    for path, module in network.named_modules():
        row = path.split(".")[1] if path.count(".") else ""
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                decays = not (name == "bias" or isinstance(module, _NORMS) or "logit_scale" in name)
                found.setdefault((factors.get(row, 1.0), decays), []).append(parameter)
    for (factor, decays), parameters in found.items():
        yield {"params": parameters, "lr": rate * factor, "weight_decay": decay if decays else 0.0, "factor": factor}


def _make_optimizer(
    name: str, groups: list[dict[str, Any]], settings: Settings, rate: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, rate, settings.momentum, nesterov=settings.momentum > 0)
    if name == "musgd":
        return MuSGD(groups, rate, settings.momentum)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, rate, betas=betas)


# -- over the run -----------------------------------------------------------------------------------------------------


def schedule_factor(settings: Settings, epoch: float) -> float:
    """Return the schedule's factor of the learning rate in an epoch, counted from 0."""
    end, done = settings.lr_end, min(epoch / max(settings.epochs, 1), 1.0)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "cosine":
        return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2
    return end + (1 - end) * (1 - done)


def set_rates(plan: Plan, settings: Settings, batch: int, batches: int) -> float:
    """Set the learning rates of an optimiser by schedule and warm-up; return the factor, relative to ``plan.rate``.

    Args:
        plan: the optimiser.
        settings: the settings of the run.
        batch: index of the batch in the run, from 0.
        batches: number of batches per epoch.
    """
    # At least one epoch must be left after the warm-up.
    warmup_batches = min(settings.warmup, max(settings.epochs - 1, 0)) * batches
    factor = schedule_factor(settings, batch // batches)
    if batch < warmup_batches:
        factor *= (batch + 1) / warmup_batches
    for group in plan.optimizer.param_groups:
        group["lr"] = plan.rate * group["factor"] * factor
    return factor


class EMA:
    """Exponential moving average of a network's weights and floating buffers, which is validated and saved.

    The decay rises from 0 as d * (1 - exp(-step / rise)), so that the random initial weights are soon forgotten. The
    rise takes 2,000 steps, or a quarter of a short run: at its end about the last tenth of the run is averaged.

    Args:
        network: the network; its tensors are copied.
        decay: the final decay d per step.
        steps: number of steps of the run.
    """

    def __init__(self, network: nn.Module, decay: float, steps: int = 8_000) -> None:
        self.decay, self.steps, self.rise = decay, 0, min(2_000, max(steps / 4, 1))
        self.tensors = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update the average after a step of the optimiser."""
        self.steps += 1
        decay = self.decay * (1 - math.exp(-self.steps / self.rise))
        for key, tensor in network.state_dict().items():
            average = self.tensors[key]
            if average.is_floating_point():
                average.lerp_(tensor.detach(), 1 - decay)
            else:
                average.copy_(tensor)


# -- frozen rows ------------------------------------------------------------------------------------------------------


def freeze(network: Network, rows_text: str) -> list[int]:
    """Freeze rows of a network and return their indices; `Trainee.train` keeps the statistics of their batch norms.

    Args:
        network: the network.
        rows_text: the setting ``freeze``: indices, ranges such as 0-9, and names of rows or heads, separated by commas.

    Raises:
        NetbuildError: if the network has no such row.
    """
    names = {name: i for i, (_, name) in enumerate(network.card.rows) if name}
    names |= {head.name: head.row for head in network.card.heads}
    parts = [part.strip() for part in rows_text.split(",") if part.strip()]
    rows = sorted({row for part in parts for row in _parse_rows(part, names, len(network.model))})
    for row in rows:
        network.model[row].requires_grad_(False)
    return rows


def _parse_rows(part: str, names: dict[str, int], count: int) -> range:
    """Return the rows that a name, an index or a range of indices stands for."""
    if part in names:
        return range(names[part], names[part] + 1)
    first, dash, last = part.partition("-")
    if first.isdigit() and (last.isdigit() or not dash):
        found = range(int(first), int(last or first) + 1)
        if len(found) and found[-1] < count:
            return found
        raise NetbuildError(f"--freeze {part}: the network has rows 0 to {count - 1}")
    raise NetbuildError(f"--freeze {part}: no row has this name", hint=did_you_mean(part, names))
