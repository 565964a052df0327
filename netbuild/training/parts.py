"""The parts of a run, made from settings: task, samples, batches."""

from typing import Any

import torch

from netbuild.data import scan
from netbuild.data.dataset import Dataset
from netbuild.data.scanning import Report
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.boxes import DetectSamples, FixedSamples, NarrowSamples, detect_batch
from netbuild.feed.labels import ClassifySamples, classify_batch
from netbuild.feed.loader import Collate, Feed, Kept, Samples
from netbuild.graph.network import Network
from netbuild.settings import Settings
from netbuild.system.processes import is_first, rank, world
from netbuild.tasks import find as find_task
from netbuild.tasks.base import Task, class_weights
from netbuild.tasks.box_task import stride_of

EMBEDDED = {
    "classify": "digits",
    "detect": "digits-detect",
    "autoencode": "digits",
}  # what is learnt where no data is named
# Settings that another task has no use for: said, not passed over.
UNUSED = {
    "detect": ("label_smoothing",),
    "classify": ("multi_scale", "copy_paste"),
    "autoencode": ("multi_scale", "copy_paste", "mixup", "cutmix", "label_smoothing", "class_weights"),
}


class Onlooker:
    """Who is told of the look at the data before anything is done with it, and of validation; by default nobody."""

    def picture(self, split: str, done: int, total: int) -> None:
        """A picture of a split that was looked at."""

    def report(self, report: Report) -> None:
        """What was found, where the data is good enough."""

    def batch(self, done: int, total: int) -> None:
        """A batch that was measured."""


def _is_script(dataset: Dataset) -> bool:
    """Whether a data set shows digits or letters, as the embedded ones and MNIST's kind do."""
    return dataset.form in ("array", "idx") or "digits-detect" in str(dataset.root)


def _scanned(dataset: Dataset, splits: list[str], settings: Settings, onlooker: Onlooker, **allowed: bool) -> Report:
    """What was found in splits of a data set, where they may be used.

    Raises:
        NetbuildError: where they may not.
    """
    allowed = {"allow_empty": settings.allow_background, **allowed}
    report = scan(dataset, splits=splits, progress=onlooker.picture)
    report.demand(lenient=settings.lenient, strict=settings.strict, **allowed)
    if is_first():
        onlooker.report(report)
    return report


def task_name(task: str | None) -> str:
    """The task of a network, which must be one that is learnt.

    Raises:
        NetbuildError: if there is none, or none of ours.
    """
    if task is None:
        raise NetbuildError("the network has no task", hint="say it in its file: task: classify, or task: detect")
    if task not in EMBEDDED:
        hint = did_you_mean(task, EMBEDDED) or f"there is {', '.join(EMBEDDED)}"
        raise NetbuildError(f"the task '{task}' cannot be trained yet", hint=hint)
    return task


def task_of(network: Network, names: list[str], **options: Any) -> Task:
    """What a network learns, or is measured by."""
    return find_task(task_name(network.card.task))(network.model[-1], names, **options)


def _task_options(network: Network, report: Report, s: Settings) -> dict[str, Any]:
    """What a task's loss takes of the settings.

    Raises:
        NetbuildError: for a setting that the task or the data has no use for.
    """
    task, samples = network.card.task, report.samples("train")
    unused = {name: getattr(s, name) for name in UNUSED.get(task or "", ()) if getattr(s, name)}
    if unused:
        raise NetbuildError(f"{', '.join(unused)}: of no use to a network that is to {task}")
    if s.copy_paste and not any(outline for sample in samples for outline in sample.outlines):
        raise NetbuildError("copy_paste needs outlines, and the labels have boxes alone", hint="give polygons, or 0")
    options: dict[str, Any] = {}
    if s.class_weights:
        options["class_weights"] = class_weights(_counts(samples, network.card.nc or 0), s.class_weights)
    if task == "classify":
        options["smoothing"] = s.label_smoothing
    return options


def _counts(samples: list[Any], nc: int) -> torch.Tensor:
    """(nc,) objects or pictures of each class."""
    found = [sample.boxes[:, 0] if sample.boxes is not None else [sample.label or 0] for sample in samples]
    return torch.bincount(torch.tensor([int(c) for classes in found for c in classes]), minlength=nc)


def decode_options(task: Task, settings: Settings) -> dict[str, Any]:
    """How predictions are read in validation."""
    if task.name != "detect":
        return {}
    return {"conf": settings.conf, "iou": settings.iou, "max_det": settings.max_det, "multi_label": True}


def feed_of(network: Network, report: Report, split: str, settings: Settings, learning: bool) -> Feed:
    """The batches of a split that was looked at."""
    batch = settings.batch if learning else 2 * settings.batch
    made, collate = _samples(network, report.samples(split), settings, batch, learning)
    return Feed(made, batch, collate, settings.seed, learning, settings.workers, rank(), world())


def _samples(
    network: Network, samples: list[Any], settings: Settings, batch: int, learning: bool
) -> tuple[Samples, Collate]:
    height, width = network.card.imgsz if settings.imgsz is None else (settings.imgsz,) * 2
    channels, chosen = network.card.ch, settings if learning else None
    # A half each for what is learnt and what is validated, in each of the workers.
    kept = Kept(settings.memory * 1e9 / 2 / max(settings.workers, 1))
    if network.card.task != "detect":
        classes = network.card.nc or 0
        return ClassifySamples(samples, (height, width), channels, chosen, classes, kept), classify_batch
    if canvas := network.card.canvas:
        return FixedSamples(samples, canvas, channels, kept), detect_batch
    if learning or settings.rect is False:
        return DetectSamples(samples, max(height, width), channels, chosen, kept), detect_batch
    stride = stride_of(network.model[-1])
    return NarrowSamples(samples, max(height, width), channels, batch, stride, kept), detect_batch


def _learner(network: Network, names: list[str], report: Report, settings: Settings) -> Task:
    """What a network learns, from this data by these settings.

    Raises:
        NetbuildError: if nothing is known of how, or for a setting that has no use.
    """
    task = task_of(network, names, **_task_options(network, report, settings))
    task.check_loss()
    return task
