"""A training or validation run put together: network, data, task and settings; and the folder that it leaves."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from netbuild import settings as settings_of
from netbuild.data import open_data
from netbuild.data.dataset import Dataset
from netbuild.data.scanning import Report
from netbuild.errors import NetbuildError, did_you_mean
from netbuild.feed.loader import BatchLoader
from netbuild.graph.network import Network
from netbuild.graph.opening import open_graph
from netbuild.settings import Settings
from netbuild.system.devices import pick_device
from netbuild.system.files import make_folder, writing
from netbuild.system.processes import fail_together, init_process_group, is_main_process
from netbuild.tasks.base import Task
from netbuild.training import parallel
from netbuild.training.batches import to_device
from netbuild.training.callback_list import CallbackList
from netbuild.training.callbacks import Callback, installed_callbacks
from netbuild.training.loop import Trainer
from netbuild.training.overfitting import overfit
from netbuild.training.parts import (
    embedded_data,
    feed_of,
    inputs_of,
    make_task,
    print_note,
    samples_of,
    scan_splits,
    task_class,
)
from netbuild.training.recorder import own_callbacks
from netbuild.training.validation import check_task
from netbuild.weights import checkpoint
from netbuild.weights.building import build_graph, transfer

SCAN = "data.json"  # what was found in the data before a run
START = "start.safetensors"  # the network as a run began: what resuming builds


def start(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    folder: Path,
    *,
    callbacks: Sequence[Callback] = (),
    weights: str | Path | None = None,
    networks: Mapping[str, str | Path] | None = None,
    **options: Any,
) -> Trainer:
    """A run that begins, with its folder made.

    Args:
        file: the network's file, or a checkpoint.
        data: a data set, see `netbuild.data.open_data`; without one, embedded data of the network's task.
        settings: of the run.
        folder: where it goes; it must be new or empty.
        callbacks: called as the data is scanned and the run goes, see `netbuild.training.callbacks`.
        weights: tensors for the rows of the same structure.
        networks: files of the further networks that the task trains, by name.
        options: for the network's file, as for `netbuild.graph.opening.open_graph`, and ``download``: whether rows may
            download published weights.

    Raises:
        NetbuildError: for whatever is wrong with network, data, settings or folder, before anything is trained.
    """
    init_process_group()
    with fail_together():
        network, dataset = opened(file, data, settings, weights, **options)
        others = open_others(task_class(network.card.task), networks or {}, **options)
        hooks = CallbackList([*installed_callbacks(), *callbacks])
        parts, report = _parts(network, dataset, settings, folder, hooks)
        parts["networks"] = others
    with fail_together():
        trainer = _trainer(parts, report)
        if is_main_process():
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
    task = task_class(graph.task)
    dataset = open_data(data or embedded_data(task))
    check_task(task, dataset)
    if graph.nc != dataset.nc and task.counts_classes:
        graph = open_graph(file, **{**options, "nc": dataset.nc})
    torch.manual_seed(settings.seed)
    network = build_graph(graph, download)
    if weights is not None:
        transfer(network, weights)
    return network, dataset


def open_others(task: type[Task], files: Mapping[str, str | Path], **options: Any) -> dict[str, Network]:
    """Build the further networks that a task trains beside the run's own, in the order in which the task names them.

    Args:
        task: the task, whose ``networks`` are their names.
        files: file of each by name.
        options: ``modules`` and ``trusted``, for networks with custom modules; other options are the run's network's.

    Raises:
        NetbuildError: if one is missing, or the task has no network of a name; see also `open_graph`.
    """
    for name in files:
        if name not in task.networks:
            known = f"it has {', '.join(task.networks)}" if task.networks else "leave it out"
            hint = did_you_mean(name, task.networks) or known
            raise NetbuildError(f"--with {name}: the task '{task.name}' trains no such network", hint=hint)
    for name in task.networks:
        if name not in files:
            hint = f"--with {name}=FILE.yaml"
            raise NetbuildError(f"the task '{task.name}' trains a second network, '{name}'", hint=hint)
    code = {key: value for key, value in options.items() if key in ("modules", "trusted")}
    return {name: build_graph(open_graph(files[name], **code)) for name in task.networks}


def overfit_batch(
    file: str | Path,
    data: str | Path | None,
    settings: Settings,
    *,
    callbacks: Sequence[Callback] = (),
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
    if others := task_class(network.card.task).networks:
        message = f"one batch cannot be overfitted: the task '{network.card.task}' trains {', '.join(others)}, too"
        raise NetbuildError(message, hint="train for a few epochs instead")
    settings = replace(settings.with_augmentation_defaults(dataset.augmentation, dataset.task), rect=False)
    report = scan_splits(dataset, ["train"], settings, CallbackList(callbacks))
    device = pick_device(settings.device)
    task = make_task(network.to(device), list(dataset.names), report, settings)
    print_note(inputs_of(network, task, dataset, settings).note)
    samples, collate = samples_of(network, task, report, "train", settings, False)
    feed = BatchLoader(samples, settings.batch, collate, settings.seed, True)
    batch = to_device(next(feed.epoch(0)), device)
    return overfit(network, task, batch, settings.epochs, settings.lr or 0.003)


def resume(
    folder: Path, flags: Mapping[str, Any] | None = None, *, callbacks: Sequence[Callback] = (), **options: Any
) -> Trainer:
    """A run that goes on from its folder.

    Args:
        folder: of the run.
        flags: settings that go over those it began with.
        callbacks: called as the data is scanned and the run goes, see `netbuild.training.callbacks`.
        options: ``modules`` and ``trusted``, for a network with custom modules.

    Raises:
        NetbuildError: if there is no run to go on with.
    """
    init_process_group()
    with fail_together():
        parts = _resumed(folder, flags, CallbackList([*installed_callbacks(), *callbacks]), options)
    with fail_together():
        trainer = _trainer(*parts)
    with fail_together():
        if trainer.state_path.is_file():
            trainer.resume()
    return trainer


def _resumed(
    folder: Path, flags: Mapping[str, Any] | None, callbacks: CallbackList, options: Mapping[str, Any]
) -> tuple[dict[str, Any], Report]:
    """What a run that goes on is made of."""
    if not (folder / "run.json").is_file():
        raise NetbuildError(f"{folder}: there is no run to resume")
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    settings = settings_of.load(folder / "args.yaml", flags)
    network = build_graph(open_graph(folder / START, **options))
    names = task_class(network.card.task).networks
    parts, report = _parts(network, open_data(facts["data"]), settings, folder, callbacks)
    parts["networks"] = {name: build_graph(open_graph(folder / _start_of(name), **options)) for name in names}
    return parts, report


def _start_of(name: str) -> str:
    """The file of a further network as the run began."""
    return START.replace(".", f".{name}.", 1)


def look(file: str | Path | None, resume: Path | None, **options: Any) -> None:
    """Look at a run's network before processes are started for it: once, and where a person can be asked.

    Raises:
        NetbuildError: for whatever is wrong with it.
    """
    if resume is not None and not (resume / "run.json").is_file():
        raise NetbuildError(f"{resume}: there is no run to resume")
    if resume is not None or file is not None:
        task_class(open_graph(resume / START if resume else str(file), **options).task)


def _parts(
    network: Network, dataset: Dataset, settings: Settings, folder: Path, callbacks: CallbackList
) -> tuple[dict[str, Any], Report]:
    """What a trainer is made of, and what was found in its data."""
    parallel.check_settings(settings, pick_device(settings.device))
    settings = settings.with_augmentation_defaults(dataset.augmentation, dataset.task)
    if settings.class_embeddings:  # a run may be resumed, or validated, from another folder
        settings = replace(settings, class_embeddings=str(Path(settings.class_embeddings).absolute()))
    # All labels and pictures are looked at before the first step.
    held_out = dataset.held_out()
    report = scan_splits(dataset, ["train", held_out], settings, callbacks)
    task = make_task(network, list(dataset.names), report, settings)
    print_note(inputs_of(network, task, dataset, settings).note)
    train = feed_of(network, task, report, "train", settings, True)
    val = feed_of(network, task, report, held_out, settings, False)
    made = {
        "network": network,
        "task": task,
        "train": train,
        "val": val,
        "settings": settings,
        "folder": folder,
        "names": list(dataset.names),
        "decode_options": task.decode_options(settings),
        "callbacks": callbacks,
    }
    return made, report


def _trainer(parts: dict[str, Any], report: Report) -> Trainer:
    trainer = Trainer(**parts)
    if is_main_process():
        trainer.callbacks[:0] = own_callbacks(trainer.settings, report.samples("train"))
    return trainer


def _begin(trainer: Trainer, report: Report, data: str | Path | None) -> None:
    """Make the run's folder: settings, network, data, all known before the first step."""
    folder = trainer.folder
    make_folder(folder)
    with writing(folder):
        if any(folder.iterdir()):
            raise NetbuildError(f"{folder}: there is something in it", hint="name a new folder, or --resume it")
        _check_room(folder, trainer)
        (folder / "args.yaml").write_text(trainer.settings.to_yaml(comments=True) + "\n", encoding="utf-8")
        (folder / "model.yaml").write_text(trainer.network.card.yaml + "\n", encoding="utf-8")
        (folder / SCAN).write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
        place = str(Path(data).absolute()) if data and Path(data).exists() else report.dataset.name
        (folder / "run.json").write_text(json.dumps({"data": place}), encoding="utf-8")
    checkpoint.save(trainer.unsharded_network(), folder / START, names=trainer.names)
    for name, network in trainer.networks.items():
        checkpoint.save(network, folder / _start_of(name), names=trainer.names)


def _check_room(folder: Path, trainer: Trainer) -> None:
    """Refuse to begin where the disk has no room for the run's checkpoints.

    Raises:
        NetbuildError: if it has not.
    """
    one = sum(tensor.numel() * tensor.element_size() for tensor in trainer.learner.state_dict().values())
    # First, last and best; the state of network, average and optimiser, and its next one before it is renamed.
    period = trainer.settings.save_period
    need = one * (3 + 2 * 4 + (trainer.settings.epochs // period if period else 0))
    free = shutil.disk_usage(folder).free
    if free < need:
        message = f"{folder}: {free / 1e6:.0f} MB of the disk are free, the run's checkpoints need {need / 1e6:.0f} MB"
        raise NetbuildError(message, hint="make room, or name a folder elsewhere by --out")
