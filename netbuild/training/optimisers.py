"""Optimisers, their groups of parameters, and how learning rate and momentum go over a run."""

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

NOMINAL = 64  # images that a step is made of, where batches are smaller
SHORT = 16  # the same in short runs, which need every step
MANY_STEPS = 10_000  # beyond which a run is not short, and SGD is taken
RATES = {"sgd": 0.01, "musgd": 0.01, "adam": 0.001, "adamw": 0.001}
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Plan:
    """An optimiser and the numbers of its run: the rate before its schedule, batches a step, steps in all."""

    optimizer: torch.optim.Optimizer
    name: str
    rate: float
    accumulate: int
    steps: int


def plan(network: Network, settings: Settings, batches: int, default_rate: float | None = None) -> Plan:
    """The optimiser of a run over so many batches an epoch.

    Args:
        network: whose parameters learn.
        settings: of the run.
        batches: of an epoch.
        default_rate: the task's own learning rate for short runs by AdamW, if it has one.

    Raises:
        NetbuildError: if nothing is left that learns.
    """
    accumulate, steps = _steps(settings, batches)
    name, rate = _choice(settings, steps, default_rate)
    decay = settings.weight_decay * settings.batch * accumulate / NOMINAL
    groups = list(_groups(network, rate, decay))
    if not groups:
        raise NetbuildError("no parameter of the network learns", hint="freeze fewer rows")
    return Plan(_optimizer(name, groups, settings, rate), name, rate, accumulate, steps)


def _steps(settings: Settings, batches: int) -> tuple[int, int]:
    """Batches a step, and steps of the run."""

    def of(images: int) -> tuple[int, int]:
        count = min(settings.accumulate or max(round(images / settings.batch), 1), batches)
        return count, math.ceil(batches / count) * settings.epochs

    # Measured on 205 images: a step of 64 leaves a run of 40 epochs too few steps to get anywhere.
    return of(NOMINAL) if of(NOMINAL)[1] > MANY_STEPS else of(SHORT)


def _choice(settings: Settings, steps: int, default_rate: float | None) -> tuple[str, float]:
    """The optimiser's name and rate: short runs take AdamW, at the task's own rate if it has one."""
    name = settings.optimizer
    if name == "auto":
        name = "sgd" if steps > MANY_STEPS else "adamw"
        if name == "adamw" and settings.lr is None and default_rate is not None:
            return name, default_rate
    return name, RATES[name] if settings.lr is None else settings.lr


def _groups(network: Network, rate: float, decay: float) -> Iterator[dict[str, Any]]:
    """Parameters that learn, by rate and decay: norms and biases do not decay."""
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


def _optimizer(name: str, groups: list[dict[str, Any]], settings: Settings, rate: float) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(groups, rate, settings.momentum, nesterov=settings.momentum > 0)
    if name == "musgd":
        return MuSGD(groups, rate, settings.momentum)
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(groups, rate, betas=(0.9, 0.999))


# -- over the run -----------------------------------------------------------------------------------------------------


def factor(settings: Settings, epoch: float) -> float:
    """What the rate is multiplied by in an epoch, the first being 0."""
    end, done = settings.lr_end, min(epoch / max(settings.epochs, 1), 1.0)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "cosine":
        return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2
    return end + (1 - end) * (1 - done)


def set_rates(plan: Plan, settings: Settings, batch: int, batches: int) -> float:
    """Set the rates for a batch of the run, the first being 0; gives the factor that is in force."""
    epoch, ahead = batch // batches, min(settings.warmup, max(settings.epochs - 1, 0)) * batches
    now = factor(settings, epoch)
    if batch < ahead:
        now *= (batch + 1) / ahead
    for group in plan.optimizer.param_groups:
        group["lr"] = plan.rate * group["factor"] * now
    return now


class Average:
    """Weights averaged over the steps, floating buffers as well: what is validated and kept.

    The decay rises from 0, so that the first steps do not hold the average back: d * (1 - exp(-step / rise)). The rise
    takes 2,000 steps, in short runs a quarter of them: at their end the last tenth or so is averaged.
    """

    def __init__(self, network: nn.Module, decay: float, steps: int = 8_000) -> None:
        self.decay, self.steps, self.rise = decay, 0, min(2_000, max(steps / 4, 1))
        self.tensors = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take a step's weights in."""
        self.steps += 1
        decay = self.decay * (1 - math.exp(-self.steps / self.rise))
        for key, tensor in network.state_dict().items():
            kept = self.tensors[key]
            if kept.is_floating_point():
                kept.lerp_(tensor.detach(), 1 - decay)
            else:
                kept.copy_(tensor)


# -- frozen rows ------------------------------------------------------------------------------------------------------


def freeze(network: Network, wanted: str) -> list[int]:
    """Stop rows from learning; gives their numbers. Their batch norms keep their statistics: see `Trainer`.

    Raises:
        NetbuildError: for a row that there is not.
    """
    names = {name: i for i, (_, name) in enumerate(network.card.rows) if name}
    rows = sorted(
        {row for part in wanted.split(",") if part.strip() for row in _rows(part.strip(), names, len(network.model))}
    )
    for row in rows:
        network.model[row].requires_grad_(False)
    return rows


def _rows(part: str, names: dict[str, int], count: int) -> range:
    if part in names:
        return range(names[part], names[part] + 1)
    first, dash, last = part.partition("-")
    if first.isdigit() and (last.isdigit() or not dash):
        found = range(int(first), int(last or first) + 1)
        if len(found) and found[-1] < count:
            return found
        raise NetbuildError(f"--freeze {part}: the network has rows 0 to {count - 1}")
    raise NetbuildError(f"--freeze {part}: no row has this name", hint=did_you_mean(part, names))
