"""Construct the parts of a run from its settings: scanned data, task, samples and batch loaders."""

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from netbuild.data import open_data, scan
from netbuild.data.dataset import Dataset, Sample
from netbuild.data.scanning import Report
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.inputs import FurtherInputs, find_inputs
from netbuild.feed.loader import Batch, BatchLoader, Collate, FeedOptions, SampleSource
from netbuild.grammar.nodes import parse
from netbuild.grammar.writing import to_yaml
from netbuild.graph.card import NetworkCard
from netbuild.graph.network import Network
from netbuild.layers.heads.base import traits
from netbuild.prediction.contract import check_size, find_window
from netbuild.settings import Settings
from netbuild.system.processes import is_main_process, rank, world_size
from netbuild.tasks import TASKS, TaskDescription, class_for
from netbuild.tasks import find as find_task
from netbuild.tasks.base import Task
from netbuild.training.callback_list import CallbackList
from netbuild.weights.transfer import Transfer

CALIBRATION_PICTURES = 64  # at most, spread evenly over the training pictures


def scan_splits(
    task: type[Task], dataset: Dataset, splits: list[str], settings: Settings, callbacks: CallbackList, **allowed: bool
) -> Report:
    """Scan splits of a data set and return the report.

    Args:
        task: the task, which may learn from pictures that have a part of the labels.
        dataset: the data set.
        splits: the names of the splits.
        settings: its ``lenient``, ``strict`` and ``allow_background`` say which faults are tolerated.
        callbacks: their scan hooks are called.
        allowed: keyword arguments of `Report.demand`, which override the settings.

    Raises:
        NetbuildError: if the data has faults that the settings do not tolerate.
    """
    allowed = {"allow_empty": settings.allow_background, **allowed}
    progress = partial(callbacks.call, "on_scan_picture")
    report = scan(dataset, splits=splits, progress=progress, partial=task.partial_labels)
    report.raise_for_faults(lenient=settings.lenient, strict=settings.strict, **allowed)
    callbacks.call("on_scan_end", report)
    return report


def scan_for_training(
    network: Network, dataset: Dataset, splits: list[str], settings: Settings, callbacks: CallbackList
) -> Report:
    """Scan splits as `scan_splits` does; training pictures need no objects if the task learns from extras alone.

    Raises:
        NetbuildError: if the data has faults that the settings do not tolerate.
    """
    task = task_class(network.card)
    kinds = task.target_kinds
    only_extras = bool(kinds) and all(kind.needs_extra and name in dataset.extras for name, kind in kinds.items())
    allowed = {"allow_empty": True} if only_extras or not task.needs_labels else {}
    return scan_splits(task, dataset, splits, settings, callbacks, **allowed)


def task_class(network: TaskDescription) -> type[Task]:
    """Return the class of a network's task, which must be one that can be trained.

    Args:
        network: the network's card, or its graph.

    Raises:
        NetbuildError: if the network has no task, or one that is unknown or cannot be trained.
    """
    if network.task is None:
        raise NetbuildError("the network has no task", hint="write it into its file: task: classify, or task: detect")
    found = class_for(network)
    if not found.trainable:
        raise NetbuildError(f"the task '{found.name}' cannot be trained yet", hint=_trainable_tasks())
    return found


def _trainable_tasks() -> str:
    return f"trainable tasks: {', '.join(name for name in TASKS.names() if find_task(name).trainable)}"


def find_class_difference(card: NetworkCard, dataset: Dataset) -> tuple[str, Any] | None:
    """Return how many classes the network, or one of its heads, has, and the number of the data; None if they agree.

    The first is a text such as "network 80", the second is the number of the data.
    """
    task = task_class(card)
    if not task.counts_classes:
        return None
    wanted = task.network_options(dataset)
    own = wanted.get("head_nc", {})
    for head in card.heads:
        if head.name in own and own[head.name] != (head.nc or card.nc):
            return f"head '{head.name}' {head.nc or card.nc}", own[head.name]
    nc = wanted.get("nc", card.nc)
    return None if nc == card.nc else (f"network {card.nc}", nc)


def make_task(network: Network, names: list[str], **options: Any) -> Task:
    """Construct the task of a network for classes of these names.

    Its keywords are those that the network's card states, replaced by ``options``.
    """
    cls = task_class(network.card)
    return cls(network.head, names, **{**cls.card_options(network.card), **options})


def open_for_task(task: type[Task], data: str | Path) -> Dataset:
    """Open a data set as a task sees it, see `Task.prepare_dataset`; what the task adds to it is printed.

    Raises:
        NetbuildError: if the data set has an error.
    """
    dataset, note = task.prepare_dataset(open_data(data))
    print_note(note)
    return dataset


def embedded_data(task: type[Task]) -> str:
    """Return the name of a task's embedded data set.

    Raises:
        NetbuildError: if the task has none.
    """
    if not task.embedded:
        raise NetbuildError(f"the task '{task.name}' has no embedded data set", hint="name a data set by --data")
    return task.embedded


def complete_settings(task: type[Task], report: Report, settings: Settings) -> Settings:
    """Return settings that suit the task's data, none of augmentation null."""
    settings = task.adapt_settings(settings, report.dataset)
    return settings.with_augmentation_defaults(report.dataset.augmentation, report.dataset.task)


def check_settings(task: Task, settings: Settings, defaults: Settings, names: Collection[str] | None = None) -> None:
    """Refuse settings without effect for a task that differ from their defaults.

    Args:
        task: the task.
        settings: the settings of a run or a validation.
        defaults: what they would be if the user had set nothing.
        names: of the settings to check; None for all.

    Raises:
        NetbuildError: for the first such setting.
    """
    for name, reason in task.find_unused_settings(settings).items():
        if getattr(settings, name) != getattr(defaults, name) and (names is None or name in names):
            raise NetbuildError(f"{name} has no effect {reason}", hint="leave it out")


def check_copy_paste(samples: Sequence[Sample], settings: Settings) -> None:
    """Refuse copy-paste of objects that have no outlines.

    Raises:
        NetbuildError: if the setting is on and no sample has outlines.
    """
    if settings.copy_paste and not any(outline for sample in samples for outline in sample.outlines):
        raise NetbuildError(
            "copy_paste needs outlines, the labels are only boxes", hint="label polygons, or leave it out"
        )


def make_loader(
    network: Network, task: Task, report: Report, split: str, settings: Settings, learning: bool
) -> BatchLoader:
    """Construct the batch loader of a scanned split, for this rank.

    Validation has batches of twice the size, or one picture of its own size for each process.
    """
    batch = settings.batch if learning else world_size() if task.whole_pictures else 2 * settings.batch
    samples, collate = make_samples(network, task, report, split, replace(settings, batch=batch), learning)
    return BatchLoader(samples, batch, collate, settings.seed, learning, settings.workers, rank(), world_size())


def make_calibration_loader(network: Network, task: Task, report: Report, settings: Settings) -> BatchLoader | None:
    """Construct the loader of the training pictures for `Task.calibrate`; None for a task that calibrates nothing."""
    if not task.calibrates:
        return None
    samples = report.samples("train")
    chosen = samples[:: -(-len(samples) // CALIBRATION_PICTURES)]
    print_note(f"note: the head is calibrated with {len(chosen)} training pictures before each validation")
    part = replace(report, splits={"train": replace(report.splits["train"], samples=chosen)})
    return make_loader(network, task, part, "train", replace(settings, workers=0), False)


def make_samples(
    network: Network, task: Task, report: Report, split: str, settings: Settings, learning: bool
) -> tuple[SampleSource, Collate]:
    """Return the samples of a split as the task gives them to the network, and the function that batches them.

    Raises:
        NetbuildError: if there is no value for one of the network's inputs, or the samples do not suit the task.
    """
    card, further = network.card, find_further_inputs(network, task, report.dataset, settings)
    channels, imgsz = task.picture_shape(card)
    check_channels(report, split, channels)
    imgsz = imgsz if settings.imgsz is None else (settings.imgsz, settings.imgsz)
    size = card.canvas or (max(imgsz), max(imgsz))
    window = find_window(network, task, size)
    if window:
        settings = adapt_to_window(settings)
    options = FeedOptions(
        window or imgsz,
        channels,
        card.nc or 0,
        window if window and card.canvas else card.canvas,
        settings,
        learning,
        settings.batch,
        further.pictures,
        task.fitting,
        card.resizing,
        card.inputs,
    )
    print_note(task.check_samples(report.dataset, report.samples(split)) or "")
    samples, collate = task.feed(report.samples(split), options)
    collate = further.wrap(collate)
    return samples, partial(collate_with_size, collate, size) if window else collate


def adapt_to_window(settings: Settings) -> Settings:
    """Return settings for a network whose map covers only the middle of a square image.

    Raises:
        NetbuildError: for a setting that asks for images of other shapes.
    """
    reason = "on a network whose map leaves out a border of the image, which has one size"
    for name in ("rect", "multi_scale"):
        if getattr(settings, name):
            raise NetbuildError(f"{name} has no effect {reason}", hint="leave it out")
    return replace(settings, rect=False)


def collate_with_size(collate: Collate, size: tuple[int, int], items: Any) -> Batch:
    """Return a batch of another collate function with "image_size", to which `Task.inputs` mirrors its images."""
    return {**collate(items), "image_size": size}


def check_channels(report: Report, split: str, count: int) -> None:
    """Refuse pictures that have not the network's channels, before anything is trained on them.

    Raises:
        NetbuildError: if one of the split has not, with the number of them; or if the data set states another number.
    """
    stated = report.dataset.channels
    if stated is not None and stated != count and not {stated, count} <= {1, 3}:
        message = f"{report.dataset.name} states {stated} channels, the network takes {count}"
        raise NetbuildError(message, hint=f"write ch: {stated} into the network's file")
    samples = report.samples(split)
    wrong = [sample for sample in samples if not sample.has_channels(count)]
    if wrong:
        found = Counter(sample.bands for sample in wrong if sample.bands)
        listed = ", ".join(
            f"{number} with {channels}" + (f" and {pages} pages" if pages > 1 else "")
            for (channels, pages), number in found.most_common(5)
        )
        share = f"{len(wrong)} of {len(samples)} pictures of '{split}' have not: {listed}"
        message = f"the network takes {count} channels, {share}, such as {wrong[0].path}"
        raise NetbuildError(message, hint="write ch: with their number into the network's file")


def find_further_inputs(network: Network, task: Task, dataset: Dataset, settings: Settings) -> FurtherInputs:
    """Return where the network's inputs after the image come from; nothing if the task makes all inputs itself.

    Raises:
        NetbuildError: if there is no value for one of them.
    """
    if type(task).inputs is not Task.inputs:
        if settings.class_embeddings:
            raise NetbuildError(f"class_embeddings has no effect for the task '{task.name}'", hint="leave it out")
        return FurtherInputs()
    return find_inputs(network.card, dataset.names, settings.class_embeddings)


def describe_size_fault(network: Network, settings: Settings) -> str:
    """Return a note if the image size is one that export and prediction will refuse; empty if it is not."""
    imgsz = network.card.imgsz if settings.imgsz is None else (settings.imgsz, settings.imgsz)
    try:
        check_size(network, imgsz)
    except NetbuildError as error:
        return f"{error.message}: export and prediction refuse it ({error.hint})"
    return ""


def print_note(note: str) -> None:
    """Print a note on stderr, in the first process only."""
    if note and is_main_process():
        print(note, file=sys.stderr, flush=True)


def print_transfer(weights: str | Path, report: Transfer) -> None:
    """Print on stderr what was loaded from a file, and what makes it doubtful."""
    print_note(f"{weights}: {report.brief()}")
    for text in report.warnings():
        print_note(f"warning: {weights}: {text}")


def make_training_task(network: Network, report: Report, settings: Settings) -> Task:
    """Construct the task of a network for training on scanned data, and check that its loss fits the head.

    Raises:
        NetbuildError: if the task or its head cannot be trained, or a setting has no effect.
    """
    cls, samples = task_class(network.card), report.samples("train")
    network.card = cls.adapt_card(network.card, report.dataset, settings)
    options = {**cls.data_options(report.dataset), **cls.options_of(settings, samples, network.card.nc or 0)}
    task = make_task(network, list(report.dataset.names), **options)
    check_settings(task, settings, complete_settings(cls, report, Settings()))
    check_copy_paste(samples, settings)
    task.check_loss()
    network.card = task.complete_card(network.card)
    return task


def fit_head(network: Network, task: Task, report: Report, settings: Settings) -> None:
    """Fit values of the network's head, such as anchor boxes, to the training samples, and print a note on that.

    The text of the network's file, which checkpoints carry, gets the new values.

    Raises:
        NetbuildError: see `Task.fit_head`.
    """
    size = network.card.imgsz if settings.imgsz is None else (settings.imgsz, settings.imgsz)
    print_note(task.fit_head(report.samples("train"), size, settings))
    root = parse(network.card.yaml, network.card.file)
    values = {key: value for key, value in traits(network.head).file_values.items() if key in root.value}
    if values:
        network.card = replace(network.card, yaml=to_yaml(root, values))


def check_best_measure(name: str, task: Task) -> None:
    """Refuse a setting ``best`` that names no measure of the task's metric, or one of which a smaller value is better.

    Raises:
        NetbuildError: if it does.
    """
    if name == "fitness":  # every metric has it
        return
    metric = task.metric()
    known = [key for key in metric.result() if not key.endswith("confidence") and key not in metric.lower_is_better]
    if name not in known:
        is_error = name in metric.lower_is_better
        fault = f"a smaller '{name}' is better" if is_error else f"the task '{task.name}' has no measure '{name}'"
        raise NetbuildError(f"best: {fault}", hint=did_you_mean(name, known) or f"known: {', '.join(known)}")
