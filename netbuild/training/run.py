"""A training or validation run put together: network, data, task and settings; and the folder that it leaves."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from netbuild import settings as settings_of
from netbuild.data import open_data, scan
from netbuild.data.dataset import Dataset
from netbuild.data.scanning import Report
from netbuild.drawing import charts
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.boxes import DetectSamples, FixedSamples, NarrowSamples, detect_batch
from netbuild.feed.labels import ClassifySamples, classify_batch
from netbuild.feed.loader import Collate, Feed, Kept, Samples
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.prediction.onnx_network import OnnxNetwork, RunNetwork, is_exported, open_exported
from netbuild.settings import Settings
from netbuild.system.devices import pick_device
from netbuild.system.processes import agreed, is_first, join, rank, shared, world
from netbuild.tasks import find as find_task
from netbuild.tasks.base import Task, class_weights
from netbuild.tasks.box_task import stride_of
from netbuild.training import parallel
from netbuild.training.loop import Trainer, inputs_of, merged, moved, overfit
from netbuild.training.recorder import SHOWN, Recorder, prepare, show
from netbuild.weights import checkpoint
from netbuild.weights.building import build_graph, transfer

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
SCAN = "data.json"  # what was found in the data before a run
START = "start.safetensors"  # the network as a run began: what resuming builds


class Onlooker:
    """Who is told of the look at the data before anything is done with it, and of validation; by default nobody."""

    def picture(self, split: str, done: int, total: int) -> None:
        """A picture of a split that was looked at."""

    def report(self, report: Report) -> None:
        """What was found, where the data is good enough."""

    def batch(self, done: int, total: int) -> None:
        """A batch that was measured."""


def start(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    folder: Path,
    *,
    onlooker: Onlooker | None = None,
    weights: str | Path | None = None,
    download: bool = False,
    **options: Any,
) -> Trainer:
    """A run that begins, with its folder made.

    Args:
        file: the network's file, or a checkpoint.
        data: a data set, see `netbuild.data.open_data`; without one, embedded data of the network's task.
        settings: of the run.
        folder: where it goes; it must be new or empty.
        onlooker: who is told of the data.
        weights: tensors for the rows of the same structure.
        download: whether rows may download published weights.
        options: for the network's file, as for `netbuild.graph.opening.open_graph`.

    Raises:
        NetbuildError: for whatever is wrong with network, data, settings or folder, before anything is trained.
    """
    join()
    with agreed():
        network, dataset = opened(file, data, settings, weights, download, **options)
        parts, report = _parts(network, dataset, settings, folder, onlooker or Onlooker())
    with agreed():
        trainer = _trainer(parts, report)
        if is_first():
            _begin(trainer, report, data)
    return trainer


def opened(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    weights: str | Path | None = None,
    download: bool = False,
    **options: Any,
) -> tuple[Network, Dataset]:
    """A network for a data set, with as many classes, and the data set; the arguments are those of `start`.

    Raises:
        NetbuildError: for whatever is wrong with them.
    """
    if settings.imgsz is not None:  # rows that do not fit it say so, and later it is the network's own
        options = {**options, "imgsz": (settings.imgsz, settings.imgsz)}
    graph = open_graph(file, **options)
    dataset = open_data(data or EMBEDDED[task_name(graph.task)])
    check_task(task_name(graph.task), dataset)
    if graph.nc != dataset.nc and task_name(graph.task) != "autoencode":
        graph = open_graph(file, **{**options, "nc": dataset.nc})
    torch.manual_seed(settings.seed)
    network = build_graph(graph, download)
    if weights is not None:
        transfer(network, weights)
    return network, dataset


def overfit_batch(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    *,
    onlooker: Onlooker | None = None,
    **options: Any,
) -> list[float]:
    """The self-test of network, loss and data: the first batch, unchanged, learnt by heart; the loss of every step.

    Args:
        file, data, options: as for `start`.
        settings: ``epochs`` are the steps; ``batch``, ``imgsz``, ``seed``, ``lr`` and ``device`` count besides.

    Raises:
        NetbuildError: for whatever is wrong with network, data or settings.
    """
    network, dataset = opened(file, data, settings, **options)
    settings = replace(settings.completed(_is_script(dataset), dataset.task), rect=False)
    report = _scanned(dataset, ["train"], settings, onlooker or Onlooker())
    device = pick_device(settings.device)
    task = _learner(network.to(device), list(dataset.names), report, settings)
    samples, collate = _samples(network, report.samples("train"), settings, settings.batch, False)
    feed = Feed(samples, settings.batch, collate, settings.seed, True)
    batch = moved(next(feed.epoch(0)), device)
    return overfit(network, task, batch, settings.epochs, settings.lr or 0.003)


def resume(
    folder: Path, flags: Mapping[str, Any] | None = None, *, onlooker: Onlooker | None = None, **options: Any
) -> Trainer:
    """A run that goes on from its folder.

    Args:
        folder: of the run.
        flags: settings that go over those it began with.
        onlooker: who is told of the data.
        options: ``modules`` and ``trusted``, for a network with own modules.

    Raises:
        NetbuildError: if there is no run to go on with.
    """
    join()
    with agreed():
        parts = _resumed(folder, flags, onlooker or Onlooker(), options)
    with agreed():
        trainer = _trainer(*parts)
    with agreed():
        if trainer.state_path.is_file():
            trainer.resume()
    return trainer


def _resumed(
    folder: Path, flags: Mapping[str, Any] | None, onlooker: Onlooker, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Report]:
    """What a run that goes on is made of."""
    if not (folder / "run.json").is_file():
        raise NetbuildError(f"{folder}: there is no run to resume")
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    settings = settings_of.load(folder / "args.yaml", flags)
    network = build_graph(open_graph(folder / START, **options))
    return _parts(network, open_data(facts["data"]), settings, folder, onlooker)


def look(file: str | Path | None, resume: Path | None, **options: Any) -> None:
    """Look at a run's network before processes are started for it: once, and where a person can be asked.

    Raises:
        NetbuildError: for whatever is wrong with it.
    """
    if resume is not None and not (resume / "run.json").is_file():
        raise NetbuildError(f"{resume}: there is no run to resume")
    if resume is not None or file is not None:
        task_name(open_graph(resume / START if resume else str(file), **options).task)


def _is_script(dataset: Dataset) -> bool:
    """Whether a data set shows digits or letters, as the embedded ones and MNIST's kind do."""
    return dataset.form in ("array", "idx") or "digits-detect" in str(dataset.root)


def check_task(task: str, dataset: Dataset) -> None:
    """Refuse data of another task than the network's.

    Raises:
        NetbuildError: if it is.
    """
    # Pictures are given back whatever is said of them.
    if dataset.task != task and task != "autoencode":
        raise NetbuildError(f"{dataset.name}: data to {dataset.task}, but the network is to {task}")


def check_classes(network: Network, dataset: Dataset) -> None:
    """Refuse data of another number of classes than the network's.

    Raises:
        NetbuildError: if it is.
    """
    facts = network.facts
    if facts["nc"] != dataset.nc and facts["task"] != "autoencode":
        raise NetbuildError(f"the network tells {facts['nc']} classes apart, {dataset.name} has {dataset.nc}")


def _parts(
    network: Network, dataset: Dataset, settings: Settings, folder: Path, onlooker: Onlooker
) -> tuple[dict[str, Any], Report]:
    """What a trainer is made of, and what was found in its data."""
    parallel.check(settings, pick_device(settings.device))
    settings = settings.completed(_is_script(dataset), dataset.task)
    # All labels and pictures are looked at before the first step.
    held_out = dataset.held_out()
    report = _scanned(dataset, ["train", held_out], settings, onlooker)
    task = _learner(network, list(dataset.names), report, settings)
    train = feed_of(network, report, "train", settings, True)
    val = feed_of(network, report, held_out, settings, False)
    made = {
        "network": network,
        "task": task,
        "train": train,
        "val": val,
        "settings": settings,
        "folder": folder,
        "names": list(dataset.names),
        "options": decode_options(task, settings),
    }
    return made, report


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


def _trainer(parts: dict[str, Any], report: Report) -> Trainer:
    trainer = Trainer(**parts)
    if is_first():
        trainer.watch = Recorder(trainer, report.samples("train"))
    return trainer


def _begin(trainer: Trainer, report: Report, data: str | Path | None) -> None:
    """Make the run's folder: settings, network, data, all known before the first step."""
    folder = trainer.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise NetbuildError(f"{folder}: there is something in it", hint="name a new folder, or --resume it")
        _check_room(folder, trainer)
        (folder / "args.yaml").write_text(trainer.settings.to_yaml(explained=True) + "\n", encoding="utf-8")
        (folder / "model.yaml").write_text(trainer.network.facts["yaml"] + "\n", encoding="utf-8")
        (folder / SCAN).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
        place = str(Path(data).absolute()) if data and Path(data).exists() else report.dataset.name
        (folder / "run.json").write_text(json.dumps({"data": place}), encoding="utf-8")
    except OSError as error:
        raise NetbuildError(f"{folder}: cannot be written: {error.strerror or error}") from None
    checkpoint.save(trainer.skeleton or trainer.network, folder / START, names=trainer.names)


def _check_room(folder: Path, trainer: Trainer) -> None:
    """Refuse to begin where the disk has no room for the run's checkpoints.

    Raises:
        NetbuildError: if it has not.
    """
    one = sum(tensor.numel() * tensor.element_size() for tensor in trainer.network.state_dict().values())
    # First, last and best; the state of network, average and optimiser, and its next one before it is renamed.
    period = trainer.settings.save_period
    need = one * (3 + 2 * 4 + (trainer.settings.epochs // period if period else 0))
    free = shutil.disk_usage(folder).free
    if free < need:
        message = f"{folder}: {free / 1e6:.0f} MB of the disk are free, the run's checkpoints need {need / 1e6:.0f} MB"
        raise NetbuildError(message, hint="make room, or name a folder elsewhere by --out")


# -- parts ------------------------------------------------------------------------------------------------------------


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
    return find_task(task_name(network.facts["task"]))(network.model[-1], names, **options)


def _learner(network: Network, names: list[str], report: Report, settings: Settings) -> Task:
    """What a network learns, from this data by these settings.

    Raises:
        NetbuildError: if nothing is known of how, or for a setting that has no use.
    """
    task = task_of(network, names, **_task_options(network, report, settings))
    task.check_loss()
    return task


def _task_options(network: Network, report: Report, s: Settings) -> dict[str, Any]:
    """What a task's loss takes of the settings.

    Raises:
        NetbuildError: for a setting that the task or the data has no use for.
    """
    task, samples = network.facts["task"], report.samples("train")
    unused = {name: getattr(s, name) for name in UNUSED.get(task, ()) if getattr(s, name)}
    if unused:
        raise NetbuildError(f"{', '.join(unused)}: of no use to a network that is to {task}")
    if s.copy_paste and not any(outline for sample in samples for outline in sample.outlines):
        raise NetbuildError("copy_paste needs outlines, and the labels have boxes alone", hint="give polygons, or 0")
    options: dict[str, Any] = {}
    if s.class_weights:
        options["class_weights"] = class_weights(_counts(samples, network.facts["nc"]), s.class_weights)
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
    height, width = network.facts["imgsz"] if settings.imgsz is None else (settings.imgsz,) * 2
    channels, chosen = network.facts["ch"], settings if learning else None
    # A half each for what is learnt and what is validated, in each of the workers.
    kept = Kept(settings.memory * 1e9 / 2 / max(settings.workers, 1))
    if network.facts["task"] != "detect":
        classes = network.facts["nc"] or 0
        return ClassifySamples(samples, (height, width), channels, chosen, classes, kept), classify_batch
    if canvas := network.facts.get("canvas"):
        return FixedSamples(samples, canvas, channels, kept), detect_batch
    if learning or settings.rect is False:
        return DetectSamples(samples, max(height, width), channels, chosen, kept), detect_batch
    stride = stride_of(network.model[-1])
    return NarrowSamples(samples, max(height, width), channels, batch, stride, kept), detect_batch


def validate(
    file: str | Path | Network,
    data: str | Path,
    split: str | None = None,
    settings: Settings | None = None,
    out: Path | None = None,
    *,
    onlooker: Onlooker | None = None,
    **options: Any,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The measures of a checkpoint on a data set, and those of each class.

    Args:
        file: a checkpoint, or an exported ONNX file; one of a fixed size sees pictures on that canvas. Or a network
            on the CPU, as it is.
        data: a data set.
        split: of it; ``val``, else ``test``, unless given.
        settings: of validation.
        out: a folder for curves, confusion matrix and pictures of the first batches; none are drawn unless given.
        onlooker: who is told of the data.
        options: ``modules`` and ``trusted``, for a network with own modules.

    Raises:
        NetbuildError: for whatever is wrong with the two.
    """
    settings, onlooker = settings or Settings(), onlooker or Onlooker()
    join()
    with agreed():
        if out is not None and is_first():
            prepare(out)
        network, task, feed, device = _to_validate(file, data, split, settings, onlooker, options)
    metric = task.metric()
    with torch.no_grad():
        for number, batch in enumerate(feed.epoch(0)):
            batch = moved(batch, device)
            canvas = batch["images"].shape[-2:]
            predictions = task.predictions(network(*inputs_of(batch)), canvas, **decode_options(task, settings))
            metric.update(predictions, batch)
            onlooker.batch(number + 1, len(feed))
            if out is not None and is_first() and number < SHOWN:
                show(task, batch, predictions, out / f"val_batch{number}.png")
    metric = merged(metric, feed)
    with agreed():
        if out is not None and is_first():
            list(charts.draw(metric.plots(), out))
        found = (metric.result(), metric.classes()) if is_first() else ({}, [])
    return shared(found)


def _to_validate(
    file: str | Path | Network,
    data: str | Path,
    split: str | None,
    settings: Settings,
    onlooker: Onlooker,
    options: Mapping[str, Any],
) -> tuple[Network, Task, Feed, torch.device]:
    """A checkpoint's network, its task, its samples, and where it runs."""
    network, device = _measured(file, settings, options)
    task_name(network.facts["task"])  # before anything is said of classes
    dataset = open_data(data)
    check_classes(network, dataset)
    task = task_of(network.to(device).eval(), list(dataset.names))
    check_task(task.name, dataset)
    split = split or dataset.held_out()
    report = _scanned(dataset, [split], settings, onlooker, allow_empty=True)
    if isinstance(network, OnnxNetwork | RunNetwork):  # a runtime has threads, beside which forked workers may hang
        settings = replace(settings, workers=0)
    return network, task, feed_of(network, report, split, settings, False), device


def _measured(
    file: str | Path | Network, settings: Settings, options: Mapping[str, Any]
) -> tuple[Network, torch.device]:
    """The network that a file is, or stands for, and the device on which its images are made."""
    if isinstance(file, Network):
        return file, torch.device("cpu")
    if not is_exported(file):
        return build_graph(open_graph(file, **options)), pick_device(settings.device)
    network: OnnxNetwork = open_exported(file, settings.device)
    network.settle(settings.imgsz, settings.rect)
    if network.facts["task"] == "detect":
        network.check({"conf": settings.conf, "max_det": settings.max_det})
    return network, torch.device("cpu")
