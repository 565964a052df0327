"""Trainees (a network with its optimiser and EMA) and learners (forward, loss, backward and step of a batch)."""

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
        network: the network, on the CPU.
        settings: the settings of the run.
        device: the device to train it on.
        batches: number of batches per epoch.
        task: the task, if this is the run's own network: it makes the inputs and may set a default learning rate.
        betas: the decays of Adam's moments, for a further network.

    Attributes:
        model: the module to call in training: the network itself, compiled, or wrapped by DDP or FSDP.
        plan: the optimiser with its learning rate and number of steps.
        average: the averaged weights (EMA), which are validated and saved.
        frozen: indices of the rows that are not trained.
        sharded: whether the network's parameters are sharded (FSDP).
        skeleton: with FSDP an unsharded copy on the CPU, to gather weights into; otherwise None.
        format: the memory format of the images.
        scaler: the gradient scaler, which does nothing unless the precision is fp16.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        device: torch.device,
        batches: int,
        task: Task | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.network, self.settings = network.to(device), settings
        if settings.sync_bn and world_size() > 1:
            parallel.convert_sync_bn(network)
        self.frozen = optimisers.freeze(network, settings.freeze)
        self.sharded = settings.parallel == "fsdp"
        self.skeleton = parallel.cpu_copy(network) if self.sharded else None
        precision = mixed_precision(settings.amp, device)
        is_half = precision is not None
        self.format = torch.contiguous_format if self.sharded else fastest_memory_format(network, task, is_half)
        self.model = parallel.wrap_model(network, settings, device)
        # FSDP replaces the parameters, so the optimiser is made after it.
        default_rate = task.default_rate(network.card.nc or 0) if task else None
        betas = task.adam_betas if task else betas
        self.plan = optimisers.make_plan(network, settings, batches, default_rate, betas)
        self.average = optimisers.EMA(network, settings.ema, self.plan.steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)

    def train(self) -> None:
        """Set training mode, but eval mode in frozen rows, so that their batch norms keep their statistics.

        A frozen head itself stays in training mode, in which it gives what its loss reads; its parts do not.
        """
        self.model.train()
        for row in self.frozen:
            self.network.model[row].eval()
            if self.network.model[row] in self.network.heads:
                self.network.model[row].training = True

    def step(self) -> None:
        """Step the optimiser, with clipped gradients if the setting is on, clear the gradients and update the EMA."""
        self.scaler.unscale_(self.plan.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.scaler.step(self.plan.optimizer)
        self.scaler.update()
        self.plan.optimizer.zero_grad()
        self.average.update(self.network)

    @contextmanager
    def fixed(self) -> Iterator[None]:
        """Context in which the network's parameters get no gradients, as a discriminator's in the generator's step."""
        trainable = [p for p in self.network.parameters() if p.requires_grad]
        for parameter in trainable:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)

    @property
    def final_tensors(self) -> Mapping[str, Tensor]:
        """The tensors to validate and save: the averaged weights, or the current ones of a run without EMA."""
        return self.average.tensors if self.settings.ema else self.network.state_dict()

    @torch.no_grad()
    def set_buffers(self, values: Mapping[str, Tensor]) -> None:
        """Set buffers, by name, of the network that is validated and saved."""
        for name, tensor in self.final_tensors.items():
            if name in values:
                tensor.copy_(values[name])

    def averaged(self) -> Network:
        """Return a copy of the network in eval mode, with the weights to save.

        With FSDP every rank must call this, because gathering is collective; the copy is then on the CPU.
        """
        if self.skeleton is not None:
            tensors = {key: parallel.gather_tensor(tensor).cpu() for key, tensor in self.final_tensors.items()}
            self.skeleton.load_state_dict(tensors)
            return self.skeleton.eval()
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.final_tensors)
        return network.eval()

    @contextmanager
    def validated(self) -> Iterator[Network]:
        """Context that yields the network to validate: a copy with the weights to save.

        With FSDP it is the network itself, which holds these weights until the context ends: a copy would need as
        much memory again.
        """
        if not self.sharded:
            yield self.averaged()
            return
        self.network.eval()
        with parallel.temporary_weights(self.network, self.final_tensors):
            yield self.network


class Learner:
    """Trains one network by the loss of its task; the base class of learners that train several networks.

    A task whose networks learn together, such as a generator and a discriminator, names a subclass as `Task.learner`
    and the further networks as `Task.networks`. The subclass overrides `learn`, and `step` if not all networks are
    stepped together.

    Args:
        task: the task.
        network: the run's network, which is validated and saved as ``best`` and ``last``.
        others: the further networks by name.
        settings: the settings of the run.
        device: the device to train on.
        batches: number of batches per epoch.

    Attributes:
        main: the run's network in training.
        others: the further networks in training, by name.
        precision: the dtype of mixed precision, None if it is off.

    Raises:
        NetbuildError: if several networks are to be trained with FSDP.
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
            raise NetbuildError("parallel: fsdp can train only a single network", hint="leave parallel out")
        self.task, self.settings, self.device = task, settings, device
        self.precision = mixed_precision(settings.amp, device)
        self.main = Trainee(network, settings, device, batches, task)
        betas = task.adam_betas
        self.others = {name: Trainee(other, settings, device, batches, None, betas) for name, other in others.items()}

    @property
    def trainees(self) -> dict[str, Trainee]:
        """All networks in training by name; the run's own is named ``network``."""
        return {"network": self.main, **self.others}

    def learn(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Run forward and backward on a batch.

        Args:
            batch: the batch, on the device.
            share: factor of the loss before its backward pass, which accounts for accumulated batches and ranks.

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
        """Return the outputs of the run's network for a batch, in training mode."""
        keywords = target_arguments(self.main.network, self.task, batch)
        return self.main.model(*network_inputs(self.task, batch, self.main.format), **keywords)

    def backward(self, trainee: Trainee, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Run the backward pass of a loss, scaled if the precision is fp16.

        Args:
            trainee: the network whose gradient scaler is used.
            loss: the loss, a scalar tensor.
            parts: its terms by name, for the error message.

        Raises:
            NonFiniteLossError: if the loss is NaN or infinite.
        """
        if not torch.isfinite(loss):
            raise NonFiniteLossError(parts)
        trainee.scaler.scale(loss).backward()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of all networks; the keys of a further network begin with its name."""
        main = self.main.network.state_dict()
        others = {name: trainee.network.state_dict() for name, trainee in self.others.items()}
        return {
            **main,
            **{f"{name}: {key}": tensor for name, tensors in others.items() for key, tensor in tensors.items()},
        }

    def step(self) -> None:
        """Step the optimisers of all networks; called after the last accumulated batch."""
        for trainee in self.trainees.values():
            trainee.step()

    def start_epoch(self) -> None:
        """Set training mode and clear the gradients."""
        for trainee in self.trainees.values():
            trainee.train()
            trainee.plan.optimizer.zero_grad()

    def set_rates(self, batch: int, batches: int) -> float:
        """Set the learning rates by the schedule and return its factor.

        Args:
            batch: index of the batch in the run, from 0.
            batches: number of batches per epoch.
        """
        for trainee in self.others.values():
            optimisers.set_rates(trainee.plan, self.settings, batch, batches)
        return optimisers.set_rates(self.main.plan, self.settings, batch, batches)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of mixed precision; it does nothing if that is off."""
        return torch.autocast(self.device.type, self.precision) if self.precision else nullcontext()

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Context without DDP's averaging of gradients, unless this is the last batch of the optimiser's step."""
        with ExitStack() as stack:
            for trainee in self.trainees.values():
                stack.enter_context(parallel.accumulate_locally(trainee.model, last))
            yield
