"""The training loop. It knows no task's insides: a task gives loss, predictions and score, see `netbuild.tasks`.

Of several processes (`netbuild.system.processes`) each trains on its share of every batch, with gradients averaged by
torch (`netbuild.training.parallel`), and validates its share; the first one scores and writes.
"""

import copy
import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from netbuild.system.devices import peak_bytes, pick_device
from netbuild.system.files import atomic_path
from netbuild.system.processes import agreed, gather, is_first, means, pooled, rank, shared, together, world
from netbuild.tasks.base import Metric, Task
from netbuild.training import optimisers, parallel, state
from netbuild.training.state import Progress
from netbuild.weights import checkpoint


class NotFiniteError(NetbuildError):
    """A loss that is no number: the run's fault, not the file's."""

    exit_code = 1


class OutOfMemoryError(NetbuildError):
    """The device has too little memory for the run."""

    exit_code = 1


@dataclass
class Reporter:
    """Who is told how a run goes. Each is called with keywords; the defaults say nothing."""

    step: Callable[..., None] = lambda **_: None
    epoch: Callable[..., None] = lambda **_: None


class Watch:
    """Who looks at a run as it goes and changes nothing of it, not even chance; by default nobody."""

    def begin(self) -> None:
        """Before the first batch, of a resumed run too."""

    def batch(self, epoch: int, number: int, batch: Batch) -> None:
        """A batch before it is learnt; epochs count from 0, batches from 1."""

    def epoch(self, best: bool) -> None:
        """An epoch that is in the history, before the run's state is kept."""

    def end(self) -> None:
        """After the last epoch."""


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
    reporter: Reporter = field(default_factory=Reporter)
    watch: Watch = field(default_factory=Watch)
    options: Mapping[str, Any] = field(default_factory=dict)  # of the task's predictions

    def __post_init__(self) -> None:
        self.device = pick_device(self.settings.device)
        parallel.check(self.settings, self.device)
        self.network.to(self.device)
        if self.settings.sync_bn and world() > 1:
            parallel.with_sync_bn(self.network)
        self.frozen = optimisers.freeze(self.network, self.settings.freeze)
        self.sharded = self.settings.parallel == "fsdp"
        self.skeleton = parallel.skeleton(self.network) if self.sharded else None
        self.format = torch.contiguous_format if self.sharded else quickest_format(self.network)
        self.model = parallel.spread(self.network, self.settings, self.device)  # its parameters are what is optimised
        self.task.pool = pooled
        default_rate = self.task.default_rate(self.network.card.nc or 0)
        self.plan = optimisers.plan(self.network, self.settings, len(self.train), default_rate)
        _check_measure(self.settings.best, self.task)
        self.average = optimisers.Average(self.network, self.settings.ema, self.plan.steps)
        self.progress = Progress()
        self.precision = mixed_precision(self.settings.amp, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision is torch.float16)

    @property
    def state_path(self) -> Path:
        """Where the run's whole state is."""
        return self.folder / "state.safetensors"

    def resume(self) -> None:
        """Go on from the state in the folder.

        Raises:
            NetbuildError: if there is none that fits.
        """
        self.progress = state.load(self.state_path, self.network, self.average, self.plan.optimizer)
        self.task.epoch_end(self.progress.epoch, self.settings.epochs)

    def run(self) -> Progress:
        """Train to the end, or to what ends it before; gives how far it came.

        Raises:
            NotFiniteError: if the loss is no number.
            OutOfMemoryError: if the device has too little memory.
            LostError: if another process of the run has ended.
            NetbuildError: if nothing can be written.
        """
        self.watch.begin()
        started = time.monotonic() - self.progress.seconds
        with together(), enough_memory(self.settings, self.device):
            while self.progress.epoch < self.settings.epochs:
                losses = means(self.one_epoch(self.progress.epoch))
                with agreed():
                    self.check_weights(self.progress.epoch, losses)
                measures = self.validate()
                self.progress.epoch += 1
                self.task.epoch_end(self.progress.epoch, self.settings.epochs)
                self.progress.seconds = time.monotonic() - started
                self.keep({**losses, **measures})
                if shared(self.is_over()):  # clocks differ
                    break
        self.watch.end()
        return self.progress

    def is_over(self) -> bool:
        """Whether patience or time is at its end."""
        waited = self.progress.epoch - self.progress.best_epoch
        late = self.settings.minutes and self.progress.seconds > 60 * self.settings.minutes
        return bool(late or (self.settings.patience and waited >= self.settings.patience))

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def one_epoch(self, epoch: int) -> dict[str, float]:
        """A pass over the training data: the mean of each part of the loss."""
        # Chance in the network follows from seed and epoch alone, as the feed's does: an epoch begun again is the same.
        torch.manual_seed((self.settings.seed * 1_000_003 + epoch) * 1_009 + rank())
        self.model.train()
        for row in self.frozen:
            self.network.model[row].eval()  # their batch norms keep their statistics
        sums: dict[str, float] = {}
        batches, done = len(self.train), 0
        self.plan.optimizer.zero_grad()
        for done, batch in enumerate(self.train.epoch(epoch), 1):
            self.watch.batch(epoch, done, batch)
            rate = optimisers.set_rates(self.plan, self.settings, epoch * batches + done - 1, batches)
            last = done % self.plan.accumulate == 0 or done == batches
            with parallel.alone(self.model, last):
                parts = self.learn(batch, epoch, done)
            if last:
                self.step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            self.reporter.step(epoch=epoch, batch=done, batches=batches, losses=parts, rate=rate)
        return {f"train/{name}": value / max(done, 1) for name, value in sums.items()}

    def learn(self, batch: Batch, epoch: int, number: int) -> dict[str, float]:
        """Forward and backward of a batch: the parts of its loss."""
        batch = self.rescaled(moved(batch, self.device), epoch, number)
        with self.autocast():
            loss, parts = self.task.loss(self.model(*inputs_of(batch, self.format)), batch)
        if not torch.isfinite(loss):
            raise NotFiniteError(self.blame(batch, parts, epoch, number), hint="a lower lr, or amp off")
        # The processes' gradients are averaged: what they should add up is multiplied before.
        share = (world() if self.task.summed else 1) / self.group(number)
        self.scaler.scale(loss * share).backward()
        return {name: float(value.detach()) for name, value in parts.items()}

    def group(self, number: int) -> int:
        """How many batches make the step that this batch of an epoch belongs to: at its end fewer may be left."""
        first = (number - 1) // self.plan.accumulate * self.plan.accumulate
        return min(self.plan.accumulate, len(self.train) - first)

    def rescaled(self, batch: Batch, epoch: int, number: int) -> Batch:
        """The batch with its images at another size by chance, the same in all processes; boxes are fractions."""
        change = self.settings.multi_scale
        if not change:
            return batch
        chance = np.random.default_rng((self.settings.seed, epoch, number)).uniform(1 - change, 1 + change)
        step, images = int(max(32, *map(int, self.task.head.stride))), batch["images"]  # type: ignore[arg-type]
        size = [max(round(side * chance / step), 1) * step for side in images.shape[-2:]]
        return {**batch, "images": nn.functional.interpolate(images.float() / 255, size, mode="bilinear")}

    def step(self) -> None:
        """One step of the optimiser, and of the average."""
        self.scaler.unscale_(self.plan.optimizer)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.scaler.step(self.plan.optimizer)
        self.scaler.update()
        self.plan.optimizer.zero_grad()
        self.average.update(self.network)

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision, where it is on."""
        return torch.autocast(self.device.type, self.precision) if self.precision else nullcontext()

    def check_weights(self, epoch: int, losses: Mapping[str, float]) -> None:
        """Refuse to validate and keep weights that are no numbers.

        Raises:
            NotFiniteError: if there are.
        """
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(parallel.piece(tensor)).all():
                hint = "a lower lr, or amp off; the checkpoints of earlier epochs are kept"
                parts = ", ".join(f"{key.removeprefix('train/')} {value:.4g}" for key, value in losses.items())
                where = f"epoch {epoch + 1}, batch {len(self.train)} (mean losses {parts})"
                raise NotFiniteError(f"{name} is not finite after {where}; {self.pace()}", hint=hint)

    def pace(self) -> str:
        """Learning rate and precision, in words."""
        rate = max(group["lr"] for group in self.plan.optimizer.param_groups)
        return f"learning rate {rate:.4g}, {str(self.precision or torch.float32).removeprefix('torch.')}"

    @torch.no_grad()
    def blame(self, batch: Batch, parts: Mapping[str, torch.Tensor], epoch: int, number: int) -> str:
        """Where a loss that is no number comes from: its parts, and the first row whose output is not finite."""
        found: list[str] = []

        def watch(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, out: Any) -> None:
                tensors = [t for t in tensors_of(out) if t.is_floating_point()]
                if not found and not all(torch.isfinite(t).all() for t in tensors):
                    module, name = self.network.card.rows[index]
                    found.append(f"row {index}{f' ({name})' if name else ''} {module}")

            return hook

        if self.sharded:  # a pass takes all processes, and they do not know of it
            return f"the loss is no number in epoch {epoch + 1}, batch {number}, in process {rank()}"
        handles = [m.register_forward_hook(watch(i)) for i, m in enumerate(self.network.model.children())]
        with self.autocast():
            self.network(*inputs_of(batch))
        for handle in handles:
            handle.remove()
        where = f"{found[0]} is the first whose output is not finite" if found else "every row's output is finite"
        said = ", ".join(f"{name} {float(part):.4g}" for name, part in parts.items())
        return f"the loss is no number in epoch {epoch + 1}, batch {number} ({said}): {where}; {self.pace()}"

    # -- validation ---------------------------------------------------------------------------------------------------

    def averaged(self) -> Network:
        """The network with the averaged weights, or the last where none are averaged.

        Of a network in pieces all processes take part, and it is on the CPU.
        """
        tensors = self.average.tensors if self.settings.ema else self.network.state_dict()
        if self.skeleton is not None:
            self.skeleton.load_state_dict({key: parallel.whole(tensor).cpu() for key, tensor in tensors.items()})
            return self.skeleton.eval()
        network = copy.deepcopy(self.network)
        network.load_state_dict(tensors)
        return network.eval()

    def blank(self) -> Network:
        """A whole network like the run's, for weights that are yet to come; no other process takes part."""
        return self.skeleton or copy.deepcopy(self.network)

    @contextmanager
    def validated(self) -> Iterator[Network]:
        """The network that is validated: a copy with the averaged weights; in pieces, itself with them for a while."""
        if not self.sharded:
            yield self.averaged()
            return
        self.network.eval()
        with parallel.holding(self.network, self.average.tensors if self.settings.ema else self.network.state_dict()):
            yield self.network

    @torch.no_grad()
    def predictions(self, network: Network, feed: BatchLoader | None = None) -> Iterator[tuple[Batch, Any]]:
        """The batches of validation data, this process's share unless given, and what a network makes of each."""
        for batch in (feed or self.val).epoch(0):
            batch = moved(batch, self.device)
            with self.autocast():
                outputs = network(*inputs_of(batch))
            yield batch, self.task.predictions(outputs, batch["images"].shape[-2:], **self.options)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The measures of the averaged weights on the validation data, the same in all processes."""
        metric = self.task.metric()
        parallel.level(self.network, self.average.tensors)
        with self.validated() as network:
            for batch, predictions in self.predictions(network):
                metric.update(predictions, batch)
            if self.sharded and len(self.val) < len(self.val.steps(0)):
                self.keep_company(network)
        self.metric = merged(metric, self.val)
        with agreed():
            measures = self.metric.result() if is_first() else {}
        return shared(measures)

    def keep_company(self, network: nn.Module) -> None:
        """A pass without samples, where others have some of the last step: a network in pieces runs in all or none."""
        card = self.network.card
        with self.autocast():
            network(torch.zeros(1, card.ch, *card.imgsz, device=self.device))

    # -- what is kept -------------------------------------------------------------------------------------------------

    def keep(self, measures: Mapping[str, float]) -> None:
        """Write the epoch's numbers, its checkpoints and the run's state; tell the reporter."""
        fitness, epoch = measures.get(self.settings.best, 0.0), self.progress.epoch
        best = self.progress.best is None or fitness > self.progress.best
        if best:
            self.progress.best, self.progress.best_epoch = fitness, epoch
        self.progress.history.append({"epoch": epoch, **measures})
        self.reporter.epoch(epoch=epoch, epochs=self.settings.epochs, measures=measures, best=best)
        self.watch.epoch(best)
        if not (is_first() or self.sharded):
            return
        network = self.averaged()
        if is_first():
            self.write(network, measures, best)
        state.save(self.state_path, self.network, self.average, self.plan.optimizer, self.progress, is_first())

    def write(self, network: Network, measures: Mapping[str, float], best: bool) -> None:
        """The epoch's checkpoints, and the table of all epochs."""
        epoch = self.progress.epoch
        training = {"epoch": epoch, "measures": dict(measures), "settings": self.settings.to_dict()}
        wanted = ["last", *(["best"] if best else [])]
        if self.settings.save_period and epoch % self.settings.save_period == 0:
            wanted.append(f"epoch{epoch}")
        for name in wanted:
            checkpoint.save(network, self.folder / f"{name}.safetensors", names=self.names, training=training)
        _add_result(self.folder / "results.csv", self.progress.history)


def merged(metric: Metric, feed: BatchLoader) -> Metric:
    """A score with what all processes found, each in its share of the feed's samples; in the first process.

    Raises:
        NetbuildError: if the score cannot be merged.
    """
    if world() == 1:
        return metric
    if not (metric.lists or metric.counts):
        name = type(metric).__name__
        raise NetbuildError(f"{name} is no score of several processes", hint="it must name its lists or counts")
    found = gather((metric.state(), feed.indices(0)))
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


@contextmanager
def enough_memory(settings: Settings, device: torch.device) -> Iterator[None]:
    """A stretch in which a device may run out of memory.

    Raises:
        OutOfMemoryError: if it does.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        least = [f"--batch {max(settings.batch // 2, 1)} (-O accumulate=N keeps the images of a step)", "--imgsz"]
        more = [*([] if settings.amp in ("bf16", "fp16") else ["--amp bf16"]), "-O parallel=fsdp over several devices"]
        message = f"{device} has too little memory at --batch {settings.batch}: {peak_memory(device)}"
        raise OutOfMemoryError(message, hint=f"less of it: {', '.join([*least, *more])}") from error


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use so far, in words."""
    if device.type == "cuda":
        used, there = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        return f"{used / 2**30:.1f} of {there / 2**30:.1f} GiB were in use"
    return f"{peak_bytes() / 2**30:.1f} GiB were in use"


def inputs_of(batch: Batch, form: torch.memory_format = torch.contiguous_format) -> list[torch.Tensor]:
    """What a network takes of a batch: images as numbers from 0 to 1, and whatever further inputs there are.

    Args:
        batch: with "images" (B, C, H, W), and perhaps "inputs".
        form: how the images lie in memory.
    """
    images = batch["images"].contiguous(memory_format=form)
    return [images.float() / 255 if images.dtype is torch.uint8 else images, *batch.get("inputs", ())]


def quickest_format(network: Network) -> torch.memory_format:
    """Channels last, in which convolutions learn a fifth faster on a CPU; as usual where a module cannot take it.

    A module that takes a map apart by ``view`` cannot. Only a real pass tells: on meta, maps lie otherwise.
    """
    form, card = torch.channels_last, network.card
    if card.ch == 1:  # nothing is last
        return torch.contiguous_format
    try:
        with torch.random.fork_rng(), torch.no_grad():
            device = next(network.parameters()).device
            image = torch.zeros(2, card.ch, *card.imgsz, device=device).contiguous(memory_format=form)
            copy.deepcopy(network).train()(image)
    except Exception:  # whatever an own module does there, it is trained as it was written
        return torch.contiguous_format
    return form


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch with its tensors on a device."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def mixed_precision(wanted: str, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for none."""
    if wanted == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


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


def learnt(losses: Sequence[float]) -> bool:
    """Whether a batch was learnt by heart: the loss fell by 90 % from its highest, and by half from its first.

    A detector's first loss is small: it is weighed by how well cells fit to objects, and at first none does.
    """
    last = min(losses[-5:])
    return last <= 0.1 * max(losses) and last <= 0.5 * losses[0]


def overfit(network: Network, task: Task, batch: Batch, steps: int = 100, rate: float = 0.01) -> list[float]:
    """Learn one batch by heart, the self-test of a loss and a network: the loss of every step, above its least."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # what it takes away by chance is not learnt by heart
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], rate, weight_decay=0)
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        outputs = network(*inputs_of(batch))
        loss, _ = task.loss(outputs, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        losses.append(float(loss.detach()) - task.least(outputs, batch))
    return losses
