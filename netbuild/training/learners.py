"""How a batch is learnt: the networks of a run with an optimiser each, forward, loss, backward and step."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from netbuild.errors import NetbuildError
from netbuild.feed.loader import Batch
from netbuild.graph.network import Network
from netbuild.settings import Settings
from netbuild.system.processes import world_size
from netbuild.tasks.base import Task
from netbuild.training import optimisers, parallel
from netbuild.training.batches import fastest_memory_format, mixed_precision, network_inputs, target_arguments


class NonFiniteLossError(Exception):
    """A loss is NaN or infinite; raised before its backward pass.

    Args:
        parts: the terms of the loss by name.
    """

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        super().__init__("the loss is not finite")
        self.parts = parts


class Trainee:
    """A network in training: moved to the device and wrapped, with its optimiser and its averaged weights.

    Args:
        network: on the CPU.
        settings: of the run.
        device: where it is trained.
        batches: number of batches per epoch.
        task: the task, of the run's own network: it makes the inputs, and may have a learning rate of its own.

    Attributes:
        model: what is called in training: the network itself, compiled or wrapped for several processes.
        plan: optimiser and learning rate.
        average: the averaged weights (EMA), which are validated and saved.
        frozen: numbers of the rows that do not learn.
        skeleton: with FSDP an unsharded copy on the CPU, to gather weights into; otherwise None.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        device: torch.device,
        batches: int,
        task: Task | None = None,
    ) -> None:
        self.network, self.settings = network.to(device), settings
        if settings.sync_bn and world_size() > 1:
            parallel.convert_sync_bn(network)
        self.frozen = optimisers.freeze(network, settings.freeze)
        self.sharded = settings.parallel == "fsdp"
        self.skeleton = parallel.cpu_copy(network) if self.sharded else None
        self.format = torch.contiguous_format if self.sharded else fastest_memory_format(network, task)
        self.model = parallel.wrap_model(network, settings, device)
        # Sharding replaces the parameters, so the optimiser is made after it.
        default_rate = task.default_rate(network.card.nc or 0) if task else None
        self.plan = optimisers.plan(network, settings, batches, default_rate)
        self.average = optimisers.Average(network, settings.ema, self.plan.steps)
        half = mixed_precision(settings.amp, device) is torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)

    def train(self) -> None:
        """Set training mode; batch norms of frozen rows keep their statistics."""
        self.model.train()
        for row in self.frozen:
            self.network.model[row].eval()

    def step(self) -> None:
        """One step of the optimiser and of the averaged weights; gradients are zero afterwards."""
        self.scaler.unscale_(self.plan.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.scaler.step(self.plan.optimizer)
        self.scaler.update()
        self.plan.optimizer.zero_grad()
        self.average.update(self.network)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """A block in which the network's parameters get no gradients, as when it judges what another one makes."""
        learning = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in learning:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)

    @property
    def kept_tensors(self) -> Mapping[str, Tensor]:
        """The averaged weights, or the last ones of a run without EMA."""
        return self.average.tensors if self.settings.ema else self.network.state_dict()

    def averaged(self) -> Network:
        """Return a copy of the network with the weights that are kept.

        With FSDP every rank must call this, since gathering is collective; the copy is then on the CPU.
        """
        if self.skeleton is not None:
            whole = {key: parallel.gather_tensor(tensor).cpu() for key, tensor in self.kept_tensors.items()}
            self.skeleton.load_state_dict(whole)
            return self.skeleton.eval()
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.kept_tensors)
        return network.eval()

    @contextmanager
    def validated(self) -> Iterator[Network]:
        """The network to validate: a copy with the weights that are kept; with FSDP itself, holding them meanwhile."""
        if not self.sharded:
            yield self.averaged()
            return
        self.network.eval()
        with parallel.temporary_weights(self.network, self.kept_tensors):
            yield self.network


class Learner:
    """One network that learns by the loss of its task, and the base class of other ways to learn.

    A task whose networks learn together, such as a generator and a discriminator, names a subclass as `Task.learner`
    and the further networks as `Task.networks`. The subclass overrides `learn`, and `step` if not all networks are
    stepped together.

    Args:
        task: what is learnt.
        network: the run's network, which is validated and saved as ``best`` and ``last``.
        others: the further networks by name.
        settings: of the run.
        device: where the networks are trained.
        batches: number of batches per epoch.

    Attributes:
        main: the run's network in training.
        others: the further ones by name.
    """

    def __init__(
        self,
        task: Task,
        network: Network,
        others: Mapping[str, Network],
        settings: Settings,
        device: torch.device,
        batches: int,
    ) -> None:
        if others and settings.parallel == "fsdp":
            raise NetbuildError("parallel: fsdp trains a single network", hint="leave it out")
        self.task, self.settings, self.device = task, settings, device
        self.precision = mixed_precision(settings.amp, device)
        self.main = Trainee(network, settings, device, batches, task)
        self.others = {name: Trainee(other, settings, device, batches) for name, other in others.items()}

    @property
    def trainees(self) -> dict[str, Trainee]:
        """All networks in training by name; the run's own is ``network``."""
        return {"network": self.main, **self.others}

    def learn(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Forward and backward of a batch.

        Args:
            batch: on the device.
            share: what losses are multiplied by before their backward pass, for accumulated batches and ranks.

        Returns:
            The terms of the loss by name, without gradient.

        Raises:
            NonFiniteLossError: if a loss is NaN or infinite.
        """
        with self.autocast():
            loss, parts = self.task.loss(self.forward(batch), batch)
        self.backward(self.main, loss * share, parts)
        return parts

    def forward(self, batch: Batch) -> Any:
        """Return the outputs in training of the run's network for a batch."""
        given = target_arguments(self.main.network, self.task, batch)
        return self.main.model(*network_inputs(self.task, batch, self.main.format), **given)

    def backward(self, trainee: Trainee, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Backward pass of a loss, scaled if half precision needs it, for the networks that it depends on.

        Args:
            trainee: whose gradient scaler is used.
            loss: a number.
            parts: its terms by name, for the error.

        Raises:
            NonFiniteLossError: if it is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise NonFiniteLossError(parts)
        trainee.scaler.scale(loss).backward()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of all networks; those of further ones begin with their names."""
        own = self.main.network.state_dict()
        others = {name: trainee.network.state_dict() for name, trainee in self.others.items()}
        return {
            **own,
            **{f"{name}: {key}": tensor for name, tensors in others.items() for key, tensor in tensors.items()},
        }

    def step(self) -> None:
        """Step the optimisers of all networks, after the last batch that is accumulated."""
        for trainee in self.trainees.values():
            trainee.step()

    def start_epoch(self) -> None:
        """Set training mode and forget gradients."""
        for trainee in self.trainees.values():
            trainee.train()
            trainee.plan.optimizer.zero_grad()

    def set_rates(self, batch: int, batches: int) -> float:
        """Set the learning rates for a batch of the run, the first being 0; return the schedule's factor."""
        for trainee in self.others.values():
            optimisers.set_rates(trainee.plan, self.settings, batch, batches)
        return optimisers.set_rates(self.main.plan, self.settings, batch, batches)

    def autocast(self) -> AbstractContextManager[Any]:
        """A block in mixed precision, where it is on."""
        return torch.autocast(self.device.type, self.precision) if self.precision else nullcontext()

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """A block without DDP's averaging of gradients, unless this is the last batch of the optimiser's step."""
        with ExitStack() as stack:
            for trainee in self.trainees.values():
                stack.enter_context(parallel.accumulate_locally(trainee.model, last))
            yield
