"""The training loop. It knows no task's insides: a task gives loss, predictions and score, see `netbuild.tasks`.

Of several processes (`netbuild.system.processes`) each trains on its share of every batch, with gradients averaged by
torch (`netbuild.training.parallel`), and validates its share; the first one scores and writes.
"""

import copy
import csv
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netbuild.costs.outputs import tensors_of
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.loader import Batch, BatchLoader
from netbuild.graph.network import Network
from netbuild.settings import Settings
from netbuild.system import processes
from netbuild.system.devices import pick_device
from netbuild.system.files import atomic_path
from netbuild.tasks.base import Metric, Task
from netbuild.training import parallel, state
from netbuild.training.batches import (
    dummy_batch,
    network_inputs,
    resize_batch,
    target_arguments,
    to_device,
)
from netbuild.training.callback_list import CallbackList
from netbuild.training.learners import Learner, NonFiniteLossError
from netbuild.training.memory import enough_memory
from netbuild.training.state import Progress
from netbuild.weights import checkpoint


class NotFiniteError(NetbuildError):
    """The loss or a weight is NaN or infinite."""

    exit_code = 1


@dataclass
class Trainer:
    """A run: a network, what it learns, from what, and where to.

    Args:
        network: on the CPU; it is moved.
        task: what is learnt.
        train, val: the batches.
        settings: of the run.
        folder: of the run, which is there.
        names: of the classes.
    """

    network: Network
    task: Task
    train: BatchLoader
    val: BatchLoader
    settings: Settings
    folder: Path
    names: list[str] | None = None
    callbacks: CallbackList = field(default_factory=CallbackList)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the task's predictions
    networks: Mapping[str, Network] = field(default_factory=dict)  # that learn beside it, by name

    def __post_init__(self) -> None:
        self.device = pick_device(self.settings.device)
        parallel.check(self.settings, self.device)
        _check_measure(self.settings.best, self.task)
        self.task.normaliser = processes.reduce_normaliser
        make_learner = self.task.learner or Learner
        self.learner: Learner = make_learner(
            self.task, self.network, self.networks, self.settings, self.device, len(self.train)
        )
        self.progress = Progress()
        self.stop = False  # a callback may set it: the run ends after the epoch

    @property
    def state_path(self) -> Path:
        """Where the run's whole state is."""
        return self.folder / "state.safetensors"

    @property
    def learning_rate(self) -> float:
        """The current learning rate of the network's first parameter group."""
        return float(self.learner.main.plan.optimizer.param_groups[0]["lr"])

    def resume(self) -> None:
        """Go on from the state in the folder.

        Raises:
            NetbuildError: if there is none that fits.
        """
        self.progress = state.load(self.state_path, self.learner.trainees)
        self.callbacks.load_state_dict(self.progress.callbacks)
        self.task.epoch_end(self.progress.epoch, self.settings.epochs)

    def run(self) -> Progress:
        """Train to the end, or to what ends it before; gives how far it came.

        Raises:
            NotFiniteError: if the loss is no number.
            OutOfMemoryError: if the device has too little memory.
            PeerLostError: if another process of the run has ended.
            NetbuildError: if nothing can be written.
        """
        error: BaseException | None = None
        try:
            self.callbacks.call("on_run_begin", self)
            self.run_epochs()
        except BaseException as caught:
            error = caught
            raise
        finally:
            self.callbacks.call("on_run_end", self, error)
        return self.progress

    def run_epochs(self) -> None:
        """Train and validate epoch by epoch until the run is over."""
        started = time.monotonic() - self.progress.seconds
        with processes.detect_lost_peers(), enough_memory(self.settings, self.device):
            while self.progress.epoch < self.settings.epochs:
                losses = processes.average_over_ranks(self.one_epoch(self.progress.epoch))
                with processes.fail_together():
                    self.check_weights(self.progress.epoch, losses)
                measures = self.validate()
                self.progress.epoch += 1
                self.task.epoch_end(self.progress.epoch, self.settings.epochs)
                self.progress.seconds = time.monotonic() - started
                self.keep({**losses, **measures})
                if processes.broadcast(self.is_over()):  # clocks differ
                    break

    def is_over(self) -> bool:
        """Whether patience or time is at its end."""
        waited = self.progress.epoch - self.progress.best_epoch
        late = self.settings.minutes and self.progress.seconds > 60 * self.settings.minutes
        return bool(self.stop or late or (self.settings.patience and waited >= self.settings.patience))

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def one_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch: the mean of each part of the loss."""
        # The network's randomness follows from seed, epoch and rank alone: a repeated epoch is the same.
        torch.manual_seed((self.settings.seed * 1_000_003 + epoch) * 1_009 + processes.rank())
        self.learner.start_epoch()
        sums: dict[str, float] = {}
        batches, done, accumulate = len(self.train), 0, self.learner.main.plan.accumulate
        self.callbacks.call("on_epoch_begin", self, epoch)
        for done, batch in enumerate(self.train.epoch(epoch), 1):
            self.callbacks.call("on_batch_begin", self, epoch, done, batch)
            rate = self.learner.set_rates(epoch * batches + done - 1, batches)
            last = done % accumulate == 0 or done == batches
            with self.learner.accumulating(last):
                parts = self.learn(batch, epoch, done)
            if last:
                self.learner.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            self.callbacks.call("on_batch_end", self, epoch, done, parts, rate)
        return {f"train/{name}": value / max(done, 1) for name, value in sums.items()}

    def learn(self, batch: Batch, epoch: int, number: int) -> dict[str, float]:
        """Forward and backward of a batch; return the parts of its loss."""
        batch = self.rescaled(to_device(batch, self.device), epoch, number)
        # DDP averages gradients over ranks: a loss that is a sum is multiplied by the world size first.
        share = (processes.world_size() if self.task.summed else 1) / self.group(number)
        try:
            parts = self.learner.learn(batch, share)
        except NonFiniteLossError as error:
            raise NotFiniteError(self.blame(batch, error.parts, epoch, number), hint="a lower lr, or amp off") from None
        return {name: float(value.detach()) for name, value in parts.items()}

    def group(self, number: int) -> int:
        """The number of batches accumulated in this batch's optimiser step; the epoch's last step may have fewer."""
        accumulate = self.learner.main.plan.accumulate
        first = (number - 1) // accumulate * accumulate
        return min(accumulate, len(self.train) - first)

    def rescaled(self, batch: Batch, epoch: int, number: int) -> Batch:
        """The batch with its images at a random size, the same on all ranks; boxes are fractions and stay."""
        change = self.settings.multi_scale
        if not change:
            return batch
        chance = np.random.default_rng((self.settings.seed, epoch, number)).uniform(1 - change, 1 + change)
        step, images = int(max(32, *map(int, self.task.head.stride))), batch["images"]  # type: ignore[arg-type]
        size = [max(round(side * chance / step), 1) * step for side in images.shape[-2:]]
        return resize_batch(batch, size)

    def check_weights(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Refuse to validate and save weights that are not finite.

        Raises:
            NotFiniteError: if a weight is NaN or infinite.
        """
        for name, tensor in self.learner.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(parallel.local_shard(tensor)).all():
                hint = "a lower lr, or amp off; the checkpoints of earlier epochs are kept"
                parts = ", ".join(f"{key.removeprefix('train/')} {value:.4g}" for key, value in losses.items())
                where = f"epoch {epoch + 1}, batch {len(self.train)} (mean losses {parts})"
                raise NotFiniteError(f"{name} is not finite after {where}; {self.pace()}", hint=hint)

    def pace(self) -> str:
        """Learning rate and precision, in words."""
        rate = max(group["lr"] for group in self.learner.main.plan.optimizer.param_groups)
        return f"learning rate {rate:.4g}, {str(self.learner.precision or torch.float32).removeprefix('torch.')}"

    @torch.no_grad()
    def blame(self, batch: Batch, parts: Mapping[str, torch.Tensor], epoch: int, number: int) -> str:
        """Say where a loss that is not finite comes from: its parts, and the first row whose output is not finite."""
        found: list[str] = []

        def watch(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, out: Any) -> None:
                tensors = [t for t in tensors_of(out) if t.is_floating_point()]
                if not found and not all(torch.isfinite(t).all() for t in tensors):
                    module, name = self.network.card.rows[index]
                    found.append(f"row {index}{f' ({name})' if name else ''} {module}")

            return hook

        if self.learner.main.sharded:  # a forward needs every rank, and the others do not know of this one's loss
            return f"the loss is not finite in epoch {epoch + 1}, batch {number}, in process {processes.rank()}"
        handles = [m.register_forward_hook(watch(i)) for i, m in enumerate(self.network.model.children())]
        with self.learner.autocast():
            self.network(*network_inputs(self.task, batch), **target_arguments(self.network, self.task, batch))
        for handle in handles:
            handle.remove()
        where = f"{found[0]} is the first whose output is not finite" if found else "every row's output is finite"
        said = ", ".join(f"{name} {float(part):.4g}" for name, part in parts.items())
        return f"the loss is not finite in epoch {epoch + 1}, batch {number} ({said}): {where}; {self.pace()}"

    # -- validation ---------------------------------------------------------------------------------------------------

    def averaged(self) -> Network:
        """Return a copy of the network with the averaged weights, see `Trainee.averaged`."""
        return self.learner.main.averaged()

    def blank(self) -> Network:
        """Return an unsharded network of the same architecture, to load weights into; not collective."""
        return self.learner.main.skeleton or copy.deepcopy(self.network)

    @torch.no_grad()
    def predictions(self, network: Network, feed: BatchLoader | None = None) -> Iterator[tuple[Batch, Any]]:
        """Each validation batch of this rank's share (or of ``feed``) and the network's predictions for it."""
        for batch in (feed or self.val).epoch(0):
            batch = to_device(batch, self.device)
            with self.learner.autocast():
                outputs = network(*network_inputs(self.task, batch))
            yield batch, self.task.postprocess(outputs, batch["images"].shape[-2:], **self.options)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The measures of the averaged weights on the validation data, the same in all processes."""
        self.callbacks.call("on_validation_begin", self)
        metric = self.task.metric()
        for trainee in self.learner.trainees.values():
            parallel.sync_buffers(trainee.network, trainee.average.tensors)
        with self.learner.main.validated() as network:
            for batch, predictions in self.predictions(network):
                metric.update(predictions, batch)
            if self.learner.main.sharded and len(self.val) < len(self.val.steps(0)):
                self.dummy_forward(network)
        self.metric = merged(metric, self.val)
        with processes.fail_together():
            measures = self.metric.result() if processes.is_main_process() else {}
        measures = processes.broadcast(measures)
        self.callbacks.call("on_validation_end", self, measures)
        return measures

    def dummy_forward(self, network: nn.Module) -> None:
        """A forward on a rank that has no batch left: with FSDP every rank must take part in each forward."""
        with self.learner.autocast():
            network(*network_inputs(self.task, dummy_batch(self.network.card, device=self.device)))

    # -- what is kept -------------------------------------------------------------------------------------------------

    def keep(self, measures: Mapping[str, float]) -> None:
        """Write the epoch's numbers, its checkpoints and the run's state, and call the callbacks."""
        fitness, epoch = measures.get(self.settings.best, 0.0), self.progress.epoch
        best = self.progress.best is None or fitness > self.progress.best
        if best:
            self.progress.best, self.progress.best_epoch = fitness, epoch
        self.progress.history.append({"epoch": epoch, **measures})
        self.callbacks.call("on_epoch_end", self, measures, best)
        if not (processes.is_main_process() or self.learner.main.sharded):
            return
        averaged = {name: trainee.averaged() for name, trainee in self.learner.trainees.items()}
        written = self.write(averaged, measures, best) if processes.is_main_process() else []
        self.progress.callbacks = self.callbacks.state_dict() if processes.is_main_process() else {}
        state.save(self.state_path, self.learner.trainees, self.progress, processes.is_main_process())
        self.callbacks.call("on_save", self, written)

    def write(self, networks: Mapping[str, Network], measures: Mapping[str, float], best: bool) -> list[Path]:
        """Write the epoch's checkpoints and the table of all epochs; return the checkpoints' paths.

        A further network's checkpoint has its name in the file's: ``best.discriminator.safetensors``.
        """
        epoch = self.progress.epoch
        training = {"epoch": epoch, "measures": dict(measures), "settings": self.settings.to_dict()}
        wanted = ["last", *(["best"] if best else [])]
        if self.settings.save_period and epoch % self.settings.save_period == 0:
            wanted.append(f"epoch{epoch}")
        paths = []
        for name, network in networks.items():
            suffix = "" if network is networks["network"] else f".{name}"
            for path in (self.folder / f"{stem}{suffix}.safetensors" for stem in wanted):
                checkpoint.save(network, path, names=self.names, training=training)
                paths.append(path)
        _add_result(self.folder / "results.csv", self.progress.history)
        return paths


def merged(metric: Metric, feed: BatchLoader) -> Metric:
    """A score with what all processes found, each in its share of the feed's samples; in the first process.

    Raises:
        NetbuildError: if the score cannot be merged.
    """
    if processes.world_size() == 1:
        return metric
    if not (metric.lists or metric.counts):
        name = type(metric).__name__
        raise NetbuildError(f"{name} is no score of several processes", hint="it must name its lists or counts")
    found = processes.all_gather((metric.state(), feed.indices(0)))
    metric.merge([state for state, _ in found], [places for _, places in found])
    return metric


def _check_measure(name: str, task: Task) -> None:
    """Refuse a name by which no best epoch would ever be known."""
    if name == "fitness":  # what every score has
        return
    known = [key for key in task.metric().result() if key != "confidence"]
    if name not in known:
        hint = did_you_mean(name, known) or f"there is {', '.join(known)}"
        raise NetbuildError(f"best: the task '{task.name}' has no measure '{name}'", hint=hint)


def _add_result(path: Path, history: list[dict[str, float]]) -> None:
    """The numbers of all epochs as a table, whole at every moment.

    Raises:
        NetbuildError: if it cannot be written.
    """
    columns = list(dict.fromkeys(key for row in history for key in row))
    rows = [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in history]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
