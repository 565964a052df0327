"""The training loop. Loss, predictions and metric come from the task (`netbuild.tasks`), so the loop fits any task.

In a distributed run (`netbuild.system.processes`) each rank trains and validates on its shard of every batch. Torch
averages the gradients (`netbuild.training.parallel`); rank 0 computes the metric and writes all files.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from netbuild.costs.outputs import tensors_of
from netbuild.errors import NetbuildError
from netbuild.feed.loader import Batch, BatchLoader
from netbuild.graph.network import Network
from netbuild.settings import Settings
from netbuild.system import processes
from netbuild.system.devices import pick_device
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
from netbuild.training.folder import write_results
from netbuild.training.learners import Learner, NonFiniteLossError
from netbuild.training.memory import explain_out_of_memory
from netbuild.training.parts import check_best_measure
from netbuild.training.state import Progress
from netbuild.weights import checkpoint

_BATCHES_PER_CHECK = 50  # after so many batches all ranks learn of an exception that a batch hook raised
_NOT_FINITE_HINT = "try a lower lr, or amp: off"


class NotFiniteError(NetbuildError):
    """The loss or a weight is NaN or infinite."""

    exit_code = 1


@dataclass
class Trainer:
    """A training run: trains a network for its task epoch by epoch, validates it, and saves checkpoints and state.

    Args:
        network: the network, on the CPU; it is moved to the device that the settings name.
        task: the task that computes its loss, predictions and metric.
        train, val: the loaders of training and validation batches.
        settings: the settings of the run.
        folder: the run's folder, which must exist.
        names: the names of the classes, which checkpoints state; None if the network has no classes.
        callbacks: the callbacks of the run, which only rank 0 calls.
        decode_options: keyword arguments of `Task.postprocess` in validation.
        networks: the further networks that the task trains, by name.

    Attributes:
        learner: the networks in training with their optimisers.
        progress: how far the run has come.
        metric: the metric of the latest validation.
        calibration: the loader of training pictures for `Task.calibrate`, without augmentation; None for none.
        stop: a callback may set it to True: the run then ends after the epoch.
    """

    network: Network
    task: Task
    train: BatchLoader
    val: BatchLoader
    settings: Settings
    folder: Path
    names: list[str] | None = None
    callbacks: CallbackList = field(default_factory=CallbackList)
    decode_options: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = pick_device(self.settings.device)
        parallel.check_settings(self.settings, self.device)
        check_best_measure(self.settings.best, self.task)
        self.task.normaliser = processes.reduce_normaliser
        make_learner = find_learner(self.task.learner)
        self.learner: Learner = make_learner(
            self.task, self.network, self.networks, self.settings, self.device, len(self.train)
        )
        self.progress = Progress()
        self.stop = False
        self.calibration: BatchLoader | None = None

    @property
    def state_path(self) -> Path:
        """The file of the run's state, from which it is resumed."""
        return self.folder / "state.safetensors"

    @property
    def learning_rate(self) -> float:
        """The current learning rate of the network's first parameter group."""
        return float(self.learner.main.plan.optimizer.param_groups[0]["lr"])

    def resume(self) -> None:
        """Restore networks, optimisers, progress and callbacks from the state in the run's folder.

        Raises:
            NetbuildError: if the state cannot be read or belongs to another network.
        """
        self.progress = state.load(self.state_path, self.learner.trainees)
        self.callbacks.load_state_dict(self.progress.callbacks)
        self.task.epoch_end(self.progress.epoch, self.settings.epochs)

    def run(self) -> Progress:
        """Train until the last epoch, or until patience, time or a callback ends the run; return its progress.

        Raises:
            NotFiniteError: if the loss or a weight is NaN or infinite.
            OutOfMemoryError: if the device has too little memory.
            PeerLostError: if another rank of the run has ended.
            NetbuildError: if a checkpoint or the state cannot be written.
        """
        error: BaseException | None = None
        try:
            self.call_hook("on_run_begin")
            self.run_epochs()
        except BaseException as caught:
            error = caught
            raise
        finally:
            if error is None:
                self.call_hook("on_run_end", None)
            else:  # the other ranks may have ended
                self.callbacks.call("on_run_end", self, error)
            for loader in filter(None, (self.train, self.val, self.calibration)):
                loader.close()
        return self.progress

    def call_hook(self, name: str, *arguments: Any) -> None:
        """Call a hook of the callbacks on rank 0; an exception of a callback ends all ranks (collective)."""
        with processes.fail_together():
            self.callbacks.call(name, self, *arguments)

    def run_epochs(self) -> None:
        """Train and validate epoch by epoch until the run is over."""
        started = time.monotonic() - self.progress.seconds
        with processes.detect_lost_peers(), explain_out_of_memory(self.settings, self.device):
            while self.progress.epoch < self.settings.epochs:
                losses = processes.average_over_ranks(self.train_epoch(self.progress.epoch))
                with processes.fail_together():
                    self.check_weights(self.progress.epoch, losses)
                measures = self.validate()
                self.progress.epoch += 1
                self.task.epoch_end(self.progress.epoch, self.settings.epochs)
                self.progress.seconds = time.monotonic() - started
                self.finish_epoch({**losses, **measures})
                if processes.broadcast(self.is_over()):  # the ranks' clocks differ, so rank 0 decides
                    break

    def is_over(self) -> bool:
        """Whether a callback has stopped the run, its time is up, or it has not improved for `patience` epochs."""
        waited = self.progress.epoch - self.progress.best_epoch
        out_of_time = self.settings.minutes and self.progress.seconds > 60 * self.settings.minutes
        return bool(self.stop or out_of_time or (self.settings.patience and waited >= self.settings.patience))

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch and return the mean of each part of the loss as train/NAME.

        Args:
            epoch: the number of the epoch, from 0.
        """
        # Dropout and the like depend on seed, epoch and rank alone, so a resumed run repeats an epoch exactly.
        torch.manual_seed((self.settings.seed * 1_000_003 + epoch) * 1_009 + processes.rank())
        self.learner.start_epoch()
        sums: dict[str, float] = {}
        batches, done, accumulate = len(self.train), 0, self.learner.main.plan.accumulate
        self.call_hook("on_epoch_begin", epoch)
        for done, batch in enumerate(self.train.epoch(epoch), 1):
            self.callbacks.call_batch_hook("on_batch_begin", self, epoch, done, batch)
            rate = self.learner.set_rates(epoch * batches + done - 1, batches)
            last = done % accumulate == 0 or done == batches
            with self.learner.accumulating(last):
                parts = self.train_batch(batch, epoch, done)
            if last:
                self.learner.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            self.callbacks.call_batch_hook("on_batch_end", self, epoch, done, parts, rate)
            if done % _BATCHES_PER_CHECK == 0 or done == batches:
                self.callbacks.raise_deferred_error()
        return {f"train/{name}": value / max(done, 1) for name, value in sums.items()}

    def train_batch(self, batch: Batch, epoch: int, number: int) -> dict[str, float]:
        """Run forward and backward on batch ``number`` of an epoch and return the parts of its loss.

        Raises:
            NotFiniteError: if the loss is NaN or infinite.
        """
        batch = self.rescale(to_device(batch, self.device), epoch, number)
        # DDP averages gradients over ranks: a loss that is a sum is multiplied by the world size first.
        share = (processes.world_size() if self.task.summed else 1) / self.count_accumulated(number)
        try:
            parts = self.learner.learn(batch, share)
        except NonFiniteLossError as error:
            raise NotFiniteError(self.diagnose_loss(batch, error.parts, epoch, number), hint=_NOT_FINITE_HINT) from None
        return {name: float(value.detach()) for name, value in parts.items()}

    def count_accumulated(self, number: int) -> int:
        """Return how many batches are accumulated in the optimiser step that batch ``number`` belongs to.

        The last step of an epoch may have fewer than the others.
        """
        accumulate = self.learner.main.plan.accumulate
        first = (number - 1) // accumulate * accumulate
        return min(accumulate, len(self.train) - first)

    def rescale(self, batch: Batch, epoch: int, number: int) -> Batch:
        """Resize the images of a batch to a random size, the same on all ranks, if the setting multi_scale is on.

        Boxes are fractions of the image and need no change.
        """
        largest_change = self.settings.multi_scale
        if not largest_change:
            return batch
        rng = np.random.default_rng((self.settings.seed, epoch, number))
        ratio = rng.uniform(1 - largest_change, 1 + largest_change)
        step = self.task.stride
        size = [max(round(side * ratio / step), 1) * step for side in batch["images"].shape[-2:]]
        return resize_batch(batch, size)

    def check_weights(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Refuse to validate and save weights that are not finite.

        Raises:
            NotFiniteError: if a weight is NaN or infinite.
        """
        for name, tensor in self.learner.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(parallel.local_shard(tensor)).all():
                hint = f"{_NOT_FINITE_HINT}; the checkpoints of earlier epochs are kept"
                parts = ", ".join(f"{key.removeprefix('train/')} {value:.4g}" for key, value in losses.items())
                where = f"epoch {epoch + 1}, batch {len(self.train)} (mean losses {parts})"
                raise NotFiniteError(f"{name} is not finite after {where}; {self.describe_rate()}", hint=hint)

    def describe_rate(self) -> str:
        """Describe the current learning rate and precision, for error messages."""
        rate = max(group["lr"] for group in self.learner.main.plan.optimizer.param_groups)
        return f"learning rate {rate:.4g}, {str(self.learner.precision or torch.float32).removeprefix('torch.')}"

    @torch.no_grad()
    def diagnose_loss(self, batch: Batch, parts: Mapping[str, torch.Tensor], epoch: int, number: int) -> str:
        """Describe where a loss that is not finite comes from: its parts, and the first row with such an output."""
        found: list[str] = []

        def make_hook(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, out: Any) -> None:
                tensors = [t for t in tensors_of(out) if t.is_floating_point()]
                if not found and not all(torch.isfinite(t).all() for t in tensors):
                    module, name = self.network.card.rows[index]
                    found.append(f"row {index}{f' ({name})' if name else ''} {module}")

            return hook

        if self.learner.main.sharded:  # a forward needs every rank, and the others have finite losses
            return f"the loss is not finite in epoch {epoch + 1}, batch {number}, in process {processes.rank()}"
        handles = [m.register_forward_hook(make_hook(i)) for i, m in enumerate(self.network.model.children())]
        with self.learner.autocast():
            self.network(*network_inputs(self.task, batch), **target_arguments(self.network, self.task, batch))
        for handle in handles:
            handle.remove()
        where = f"{found[0]} is the first whose output is not finite" if found else "every row's output is finite"
        terms = ", ".join(f"{name} {float(part):.4g}" for name, part in parts.items())
        return f"the loss is not finite in epoch {epoch + 1}, batch {number} ({terms}): {where}; {self.describe_rate()}"

    # -- validation ---------------------------------------------------------------------------------------------------

    def unsharded_network(self) -> Network:
        """Return an unsharded network of the same architecture, to load a checkpoint into; it is not collective."""
        return self.learner.main.skeleton or copy.deepcopy(self.network)

    @torch.no_grad()
    def iterate_predictions(self, network: Network, loader: BatchLoader | None = None) -> Iterator[tuple[Batch, Any]]:
        """Yield each batch of this rank's validation data (or of ``loader``) and the network's predictions for it."""
        loader = loader or self.val
        for batch in loader.epoch(0):
            batch = to_device(batch, self.device)
            with self.learner.autocast():
                outputs = self.task.run(network, network_inputs(self.task, batch))
            yield batch, self.task.postprocess(outputs, batch["images"].shape[-2:], **self.decode_options)
        if self.learner.main.sharded and len(loader) < len(loader.steps(0)):
            self.dummy_forward(network)

    @torch.no_grad()
    def calibrate(self) -> None:
        """Fit the values of the averaged network that no loss teaches, if the task has some."""
        if self.calibration is None or not self.task.calibrates:
            return
        with self.learner.main.validated() as network:
            self.task.calibrate(network.head, self.iterate_predictions(network, self.calibration))
            fitted = {name: buffer.clone() for name, buffer in network.named_buffers()}
        self.learner.main.set_buffers(fitted)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the measures of the averaged weights on the validation data, the same on all ranks."""
        self.call_hook("on_validation_begin")
        metric = self.task.metric()
        for trainee in self.learner.trainees.values():
            parallel.sync_buffers(trainee.network, trainee.average.tensors)
        self.calibrate()
        with self.learner.main.validated() as network:
            for number, (batch, predictions) in enumerate(self.iterate_predictions(network), 1):
                metric.update(predictions, batch)
                self.callbacks.call("on_validation_batch", number, len(self.val))
        self.metric = merge_metric(metric, self.val)
        with processes.fail_together():
            measures = self.metric.result() if processes.is_main_process() else {}
        measures = processes.broadcast(measures)
        self.call_hook("on_validation_end", measures)
        return measures

    def dummy_forward(self, network: nn.Module) -> None:
        """Run a forward on a rank that has no batch left: with FSDP every rank must take part in each forward."""
        with self.learner.autocast():
            network(*network_inputs(self.task, dummy_batch(self.network.card, device=self.device)))

    # -- saving -------------------------------------------------------------------------------------------------------

    def finish_epoch(self, measures: Mapping[str, float]) -> None:
        """Record the epoch's numbers, call the callbacks, and write checkpoints and the run's state."""
        fitness, epoch = measures.get(self.settings.best, 0.0), self.progress.epoch
        best = self.progress.best is None or fitness > self.progress.best
        if best:
            self.progress.best, self.progress.best_epoch = fitness, epoch
        self.progress.history.append({"epoch": epoch, **measures})
        is_main = processes.is_main_process()
        self.call_hook("on_epoch_end", measures, best)
        with processes.fail_together():
            self.progress.callbacks = self.callbacks.state_dict() if is_main else {}
        written: list[Path] = []
        if is_main or self.learner.main.sharded:
            averaged = {name: trainee.averaged() for name, trainee in self.learner.trainees.items()}
            written = self.write_checkpoints(averaged, measures, best) if is_main else []
            state.save(self.state_path, self.learner.trainees, self.progress, is_main)
        self.call_hook("on_save", written)

    def write_checkpoints(
        self, networks: Mapping[str, Network], measures: Mapping[str, float], best: bool
    ) -> list[Path]:
        """Write the epoch's checkpoints and the table of all epochs; return the checkpoints' paths.

        A further network's name becomes part of the file's name: ``best.discriminator.safetensors``.
        """
        epoch = self.progress.epoch
        training = {"epoch": epoch, "measures": dict(measures), "settings": self.settings.to_dict()}
        stems = ["last", *(["best"] if best else [])]
        if self.settings.save_period and epoch % self.settings.save_period == 0:
            stems.append(f"epoch{epoch}")
        paths = []
        for name, network in networks.items():
            suffix = "" if network is networks["network"] else f".{name}"
            for path in (self.folder / f"{stem}{suffix}.safetensors" for stem in stems):
                checkpoint.save(network, path, names=self.names, training=training)
                paths.append(path)
        write_results(self.folder / "results.csv", self.progress.history)
        return paths


def find_learner(learner: type[Learner] | str | None) -> type[Learner]:
    """Return the class of a task's learner, which may be named "module:Class"; the usual one for None."""
    if isinstance(learner, str):
        module, _, name = learner.partition(":")
        found: type[Learner] = getattr(import_module(module), name)
        return found
    return learner or Learner


def merge_metric(metric: Metric, loader: BatchLoader) -> Metric:
    """Merge the metrics of all ranks, each updated on its shard of the loader's samples, into one (collective).

    Raises:
        NetbuildError: if the metric's class does not say how it is merged.
    """
    if processes.world_size() == 1:
        return metric
    if not (metric.lists or metric.counts):
        name = type(metric).__name__
        raise NetbuildError(
            f"the metric {name} cannot be merged from several processes", hint="its class must name lists or counts"
        )
    shards = processes.all_gather((metric.state(), loader.indices(0)))
    metric.merge([state for state, _ in shards], [indices for _, indices in shards])
    return metric
